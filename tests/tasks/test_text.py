"""Language tasks: text to rows of tokens, what is masked, and what is measured."""

import dataclasses
import functools
import hashlib
import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrjax import config as config_lib
from lrjax import (
    machine,
    methods,
    optim,
    protocol,
    results,
    tasks,
)
from lrjax.engine import programs, train
from lrjax.launch import experiment
from lrjax.tasks import corpus as corpus_lib
from lrjax.tasks import (
    data,
    models,
    packing,
    text,
)
from lrjax.tasks import tokens as tokens_lib
from lrjax.tasks.data import DataError
from lrjax.tasks.options import Text
from lrjax.tasks.tokens import END, PAD, START

SOURCE = Path(__file__).parents[2]
SHARED = SOURCE.parent / "shared" / "data"
NAME = "bookwiki/roberta_tiny"
WORDS = ("one", "two", "three", "vier", "fünf", "six", "<mask>", "seven", "acht")


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """A model of a few thousand numbers, and a cache of its own."""
    monkeypatch.setenv("LRJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LRJAX_DATA_DIR", raising=False)
    recipe = dataclasses.replace(
        text.RECIPES[NAME],
        hidden_size=8,
        num_layers=1,
        intermediate_size=16,
        vocab_size=300,
        length=16,
        batch_size=8,
    )
    monkeypatch.setitem(text.RECIPES, NAME, recipe)


def write(folder, documents=200, seed=0, name="a.txt"):
    """A file of text with a document per paragraph."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(documents):
        words = random.choice(WORDS, int(random.integers(1, 40)))
        lines += [" ".join(words[:10]), " ".join(words[10:]), ""]
    (folder / name).write_text("\n".join(lines), "utf-8")
    return folder


# Documents and rows


def test_paragraphs_are_documents():
    lines = ["a b", "c ", " \n", "", "d", "e\ff", "\f", "g"]
    assert list(corpus_lib.paragraphs(lines)) == ["a b c", "d e", "f", "g"]
    assert list(corpus_lib.paragraphs([])) == []
    long = ["x" * 10**5] * 25
    cut = list(corpus_lib.paragraphs(long))
    assert "".join(cut).replace(" ", "") == "".join(long)
    assert max(map(len, cut)) < 1.3 * 10**6


SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=80)


@settings(max_examples=60)
@given(sizes=SIZES, length=st.integers(3, 40))
def test_every_token_is_packed_once(sizes, length):
    ends = np.cumsum(sizes)
    tokens = np.arange(5, 5 + ends[-1]).astype(np.uint16)
    cut = packing.pieces(ends, np.arange(len(sizes)), length - 2, whole=True)
    rows = packing.make_rows(tokens, cut, length, packed=True)
    flat = rows[(rows != PAD) & (rows != START) & (rows != END)]
    assert sorted(flat) == tokens.tolist()
    document = np.repeat(np.arange(len(sizes)), sizes)
    for row in rows:
        real = row[row != PAD]
        assert (row[len(real) :] == PAD).all()
        starts, stops = np.flatnonzero(real == START), np.flatnonzero(real == END)
        assert len(starts) == len(stops) > 0
        assert starts.tolist() == [0, *(stops[:-1] + 1)]
        assert stops[-1] == len(real) - 1
        for start, stop in zip(starts, stops, strict=True):
            piece = real[start + 1 : stop].astype(int)
            assert (np.diff(piece) == 1).all()
            assert len(set(document[piece - 5])) == 1


@settings(max_examples=60)
@given(sizes=SIZES)
def test_packing_leaves_less_room_than_a_row_for_each_piece_could(sizes):
    sizes = np.asarray(sizes)
    rows, offsets = packing.pack(sizes, 60)
    filled = np.bincount(rows, sizes)
    assert filled.max() <= 60
    assert (offsets + sizes <= 60).all()
    # Best fit, the longest first, needs at most 11/9 of the best and one row more.
    assert len(filled) <= 11 / 9 * np.ceil(sizes.sum() / 60) + 1 + (sizes > 20).sum()
    # No two rows would fit into one.
    least = np.sort(filled)[:2]
    assert len(filled) == 1 or least.sum() > 60


def test_padded_rows_have_one_document_each_and_cut_it():
    ends = np.asarray([3, 20, 21])
    tokens = np.arange(100, 121).astype(np.uint16)
    cut = packing.pieces(ends, np.arange(3), 6, whole=False)
    rows = packing.make_rows(tokens, cut, 8, packed=False)
    expected = [
        [START, 100, 101, 102, END, PAD, PAD, PAD],
        [START, 103, 104, 105, 106, 107, 108, END],
        [START, 120, END, PAD, PAD, PAD, PAD, PAD],
    ]
    assert sorted(rows.tolist()) == expected


@pytest.mark.parametrize("study", [False, True])
@pytest.mark.parametrize("documents", [3, 200, 10**4, 5 * 10**5])
def test_documents_are_split(documents, study):
    parts = packing.split(documents, study)
    every = np.concatenate(list(parts.values()))
    assert sorted(every) == list(range(documents))
    if documents == 5 * 10**5:
        assert len(parts["valid"]) == 2500


@pytest.mark.parametrize(
    ("documents", "valid"), [(2, 1), (200, 1), (201, 2), (999, 5), (804_628, 4024)]
)
def test_the_studys_part_to_validate_is_rounded_up(documents, valid):
    # ceil(0.005 n), as `train_test_split` of Hugging Face's datasets has it.
    assert len(packing.split(documents, study=True)["valid"]) == valid


# Tokenizers and the cache


@pytest.mark.skipif(not SHARED.exists(), reason="needs RoBERTa's vocabulary")
def test_tokens_are_those_of_hugging_face():
    from transformers import RobertaTokenizer

    folder = SHARED / "tokenizer_roberta_base"
    vocabulary = tokens_lib.read_vocabulary(folder)
    assert (vocabulary.size, vocabulary.mask) == (50265, 50264)
    theirs = RobertaTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt")
    )
    path = SHARED / "text" / "wikitext2_valid.txt.xz"
    with lzma.open(path, "rt") as file:
        lines = file.read().replace("<unk>", "it").split("\n")[:300]
    for document in corpus_lib.paragraphs([*lines, "naïve  café \u4e2d\u6587 ☃"]):
        ours = vocabulary.tokenizer.encode(document, add_special_tokens=False).ids
        assert ours == theirs(document, add_special_tokens=False)["input_ids"]


def test_a_trained_tokenizer_gives_back_the_text(tmp_path):
    write(tmp_path / "text")
    source = Text(corpus=str(tmp_path / "text"))
    found = tokens_lib.load_tokens(source, None, 300, own=True, embedded=False)
    corpus = corpus_lib.find_corpus(source, None, embedded=False)
    documents = list(corpus.documents())
    decoded = [
        found.vocabulary.tokenizer.decode(part.tolist())
        for part in np.split(found.tokens, found.ends[:-1])
    ]
    assert [each.strip() for each in decoded] == documents
    # What looks like a special token in a text is none.
    assert (found.tokens > 4).all()
    assert found.vocabulary.size <= 300


def test_a_corpus_is_tokenised_once(tmp_path, monkeypatch, capsys):
    folder = write(tmp_path / "text")

    def made(**source):
        options = tasks.TaskOptions(data_dir=str(tmp_path), text=Text(**source))
        return tasks.make_task(NAME, options)

    def fingerprint(**source):
        return tasks.fingerprint(made(**source))

    first = fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr(tokens_lib, "write_tokens", None)
        patch.setattr(tokens_lib, "train_vocabulary", None)
        assert fingerprint() == first
    # A torn file is noticed, and made anew.
    (kept,) = (tmp_path / "cache" / "text").iterdir()
    for name in ("tokens.uint16", "ends.int64", "meta.json", "tokenizer.json"):
        path = kept / name
        path.write_bytes(path.read_bytes()[:-8])
        capsys.readouterr()
        assert fingerprint() == first
        assert "tokenising anew" in capsys.readouterr().err
    flipped = bytearray((kept / "tokens.uint16").read_bytes())
    flipped[5] ^= 1
    (kept / "tokens.uint16").write_bytes(flipped)
    assert fingerprint() == first
    # Other text has other tokens; so has a part of it, or another length.
    assert fingerprint(fraction=0.5) != first
    assert made(length=10).train["tokens"].shape[1] == 10
    write(folder, seed=1)
    assert fingerprint() != first


def test_corpora_are_files_globs_and_folders(tmp_path):
    folder = write(tmp_path / "text", name="a.txt")
    content = (folder / "a.txt").read_bytes()
    (folder / "b.txt.xz").write_bytes(lzma.compress(content))
    (folder / "c.md").write_bytes(content)
    one = len(list(find(folder / "a.txt").documents()))
    assert one > 100
    for corpus, times in (
        (folder, 2),
        (f"{folder}/*", 3),
        (f"{folder}/b.*", 1),
        (f"{folder}/a.txt, {folder}/c.md", 2),
    ):
        assert len(list(find(corpus).documents())) == times * one
    many = ", ".join([f"{folder}/a.txt"] * 99)  # no name of a file can be so long
    assert len(list(find(many).documents())) == 99 * one
    half = corpus_lib.subset(find(folder), 0.5)
    assert list(half.documents()) == list(half.documents())
    assert 0.35 * 2 * one < len(list(half.documents())) < 0.65 * 2 * one
    assert half.count is None
    assert corpus_lib.subset(half._replace(count=9), 0.34).count == 3


def test_documents_of_any_length_are_tokenised_in_small_batches(tmp_path):
    lengths = [10**6 * 10 + 3, 5, *([10**6] * 7)]
    batches = list(tokens_lib._batched("x" * length for length in lengths))
    assert sum(len(each) for batch in batches for each in batch) == sum(lengths)
    assert max(len(each) for batch in batches for each in batch) == 10**6
    assert max(sum(map(len, batch)) for batch in batches) < 5 * 10**6
    assert list(tokens_lib._batched(iter([]))) == []


def find(corpus):
    return corpus_lib.find_corpus(Text(corpus=str(corpus)), None, embedded=False)


def test_the_text_that_comes_with_python():
    task = tasks.make_task(NAME)
    assert task.num_examples > 1000
    real = np.asarray(task.train["tokens"]) != PAD
    assert real.mean() > 0.95
    padded = tasks.make_task(NAME, tasks.TaskOptions(protocol="study"))
    assert (np.asarray(padded.train["tokens"]) == START).sum(axis=1).max() == 1
    assert padded.test is padded.valid


def test_tokens_of_a_folder_are_used_as_they_are(tmp_path):
    data_dir = str(write(tmp_path / "text"))
    first = tasks.make_task(NAME, tasks.TaskOptions(data_dir=data_dir))
    (kept,) = (tmp_path / "cache" / "text").iterdir()
    kept.rename(tmp_path / "tokens")
    again = tasks.make_task(
        NAME, tasks.TaskOptions(text=Text(corpus=str(tmp_path / "tokens")))
    )
    assert tasks.fingerprint(again) == tasks.fingerprint(first)


def test_a_folder_of_tokens_that_came_first_stays(tmp_path):
    corpus = find(write(tmp_path / "text"))
    vocabulary = tokens_lib.train_vocabulary(corpus, 300)
    tokens_lib.write_tokens(corpus, vocabulary, tmp_path / "tokens")
    before = (tmp_path / "tokens" / "meta.json").stat().st_ino
    tokens_lib.write_tokens(corpus, vocabulary, tmp_path / "tokens")
    assert (tmp_path / "tokens" / "meta.json").stat().st_ino == before
    (tmp_path / "tokens" / "ends.int64").write_bytes(b"")
    tokens_lib.write_tokens(corpus, vocabulary, tmp_path / "tokens")
    assert len(tokens_lib.read_tokens(tmp_path / "tokens").ends)


def test_where_a_tokenizer_comes_from(tmp_path, monkeypatch):
    import huggingface_hub

    def unreachable(*args, revision):
        assert len(revision) == 40  # a commit, not a branch
        raise OSError("no net")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    folder = write(tmp_path / "text")
    beside = Text(corpus=f"{folder}/*.txt")
    for source, data_dir in ((Text(), str(tmp_path)), (beside, None)):
        assert tokens_lib.find_vocabulary(source, data_dir) is None
    trained = tokens_lib.train_vocabulary(find(folder), 300)
    trained.tokenizer.save(str(folder / "tokenizer.json"))
    monkeypatch.chdir(tmp_path)
    near = Text(corpus="text"), Text(corpus="text/"), Text(corpus="pydoc, text/*.txt")
    for source, data_dir in (
        *((Text(), str(tmp_path)), (beside, None)),
        *((each, None) for each in near),
    ):
        found = tokens_lib.find_vocabulary(source, data_dir)
        assert found is not None
        assert found.fingerprint == trained.fingerprint


def test_another_tokenizer_from_the_hub_is_refused(tmp_path, monkeypatch):
    import huggingface_hub

    folder = write(tmp_path / "text")
    trained = tokens_lib.train_vocabulary(find(folder), 300)
    path = tmp_path / "hub.json"
    trained.tokenizer.save(str(path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: str(path))
    with pytest.raises(DataError, match="its sha256 is another"):
        tokens_lib.find_vocabulary(Text(), str(tmp_path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(tokens_lib, "_HUB_SHA256", digest)
    found = tokens_lib.find_vocabulary(Text(), str(tmp_path))
    assert found is not None
    assert found.fingerprint == trained.fingerprint


# Bad input


def test_bad_input_is_one_line(tmp_path):
    good = write(tmp_path / "good")
    kept = tasks.make_task(NAME, tasks.TaskOptions(text=Text(corpus=str(good))))
    assert kept.num_examples
    (tokens,) = (tmp_path / "cache" / "text").iterdir()
    tokens = tokens.rename(tmp_path / "tokens")
    tokens_lib.write_tokens(
        find(write(tmp_path / "other", seed=5)),
        tokens_lib.train_vocabulary(find(tmp_path / "other"), 280),
        tmp_path / "others",
    )
    shutil.copytree(tokens, tmp_path / "twisted")
    meta = json.loads((tokens / "meta.json").read_text()) | {"checksums": [1]}
    (tmp_path / "twisted" / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "empty.txt").write_text("\n \n\n")
    (tmp_path / "latin.txt").write_bytes(b"good\n\ncaf\xe9 bad\n")
    (tmp_path / "torn.txt.xz").write_bytes(lzma.compress(b"a b c" * 999)[:-9])
    (tmp_path / "few.txt").write_text("only one document")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.json").write_text('{"[PAD]": 0, "a": 1}')
    (tmp_path / "bert" / "merges.txt").write_text("#version: 0.2\n")
    cases = [
        ({"corpus": "empty.txt"}, "empty.txt: holds no text"),
        ({"corpus": "latin.txt"}, "latin.txt: line 3: byte 0xe9 at 3 is not UTF-8"),
        ({"corpus": "torn.txt.xz"}, "torn.txt.xz: cannot be read"),
        ({"corpus": "few.txt"}, "part gets none of 1 document"),
        ({"corpus": "absent*"}, "absent*: no text files there"),
        ({"corpus": "good", "length": 17}, "length=17: bookwiki/roberta_tiny has pos"),
        ({"corpus": "good", "tokenizer": "absent"}, "absent: no such tokenizer"),
        ({"corpus": "good", "tokenizer": "good"}, "good: there is no tokenizer.json"),
        ({"corpus": "good", "tokenizer": "bad.json"}, "bad.json: not a tokenizer"),
        ({"corpus": "good", "tokenizer": "bert"}, "not RoBERTa's: <s> has number None"),
        ({"corpus": "tokens", "fraction": 0.5}, "holds tokens, which are taken as a"),
        ({"corpus": "twisted"}, "twisted: no sound folder of tokens"),
        (
            {"corpus": "tokens", "tokenizer": "others/tokenizer.json"},
            "tokens: holds tokens of another tokenizer than",
        ),
    ]
    for options, message in cases:
        given = {
            k: str(tmp_path / v) if isinstance(v, str) else v
            for k, v in options.items()
        }
        with pytest.raises(DataError) as caught:
            tasks.make_task(NAME, tasks.TaskOptions(text=Text(**given)))
        said = str(caught.value)
        assert message in said
        assert "\n" not in said
    with pytest.raises(DataError, match="~nobody-at-all/x: no text files there"):
        tasks.make_task(NAME, tasks.TaskOptions(text=Text(corpus="~nobody-at-all/x")))


def test_bytes_that_are_no_text_end_it_before_the_long_work(tmp_path, monkeypatch):
    (tmp_path / "late.txt").write_bytes(b"good\n\n" * 10**5 + b"caf\xe9 bad\n")
    monkeypatch.setattr(tokens_lib, "train_vocabulary", None)
    with pytest.raises(DataError, match=r"late\.txt: line 200001: byte 0xe9"):
        tasks.make_task(
            NAME, tasks.TaskOptions(text=Text(corpus=str(tmp_path / "late.txt")))
        )


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    corpus = str(write(tmp_path / "good"))
    task_source = Text(corpus=corpus)
    tasks.make_task(NAME, tasks.TaskOptions(text=task_source))
    (tokens,) = (tmp_path / "cache" / "text").iterdir()
    smaller = dataclasses.replace(text.RECIPES[NAME], vocab_size=270)
    monkeypatch.setitem(text.RECIPES, NAME, smaller)
    for source in (
        Text(corpus=corpus, tokenizer=str(tokens / "tokenizer.json")),
        Text(corpus=str(tokens)),
    ):
        with pytest.raises(DataError, match=r"tokens; the model has room for 270$"):
            tasks.make_task(NAME, tasks.TaskOptions(text=source))


def test_large_models_need_a_corpus(tmp_path):
    with pytest.raises(DataError, match=r"no text files .* give --data_dir"):
        tasks.make_task(
            "bookwiki/roberta_base", tasks.TaskOptions(data_dir=str(tmp_path))
        )
    with pytest.raises(DataError, match="needs the package datasets"):
        find("hf:bookcorpus")
    with pytest.raises(DataError, match="tfds:absent"):
        find("tfds:absent")


def test_the_program_ends_with_code_2(tmp_path):
    arguments = (
        "--config=configs/bookwiki.py:roberta_tiny",
        f"--workdir={tmp_path}/out",
        f"--config.text.corpus={tmp_path}/*.txt",
    )
    done = subprocess.run(
        [sys.executable, "main.py", *arguments],
        cwd=SOURCE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: {tmp_path}/*.txt: no text files there"
    assert not (tmp_path / "out").exists()


# Corpora of other libraries


def test_what_tfds_prepared(tmp_path):
    import tensorflow_datasets as tfds

    class Wikipedia(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for row, words in enumerate(("café", "two words", "three")):
                yield row, {"text": words}

    Wikipedia(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = Text(corpus="tfds:wikipedia")
    corpus = corpus_lib.find_corpus(source, str(tmp_path), embedded=False)
    assert sorted(corpus.documents()) == ["café", "three", "two words"]
    assert corpus.count == 3


@pytest.mark.parametrize("version", ["3.6.0", "4.0.0"])
def test_what_the_library_datasets_has(monkeypatch, version):
    class Rows(list):
        _fingerprint = "f"

    found = Rows({"title": "t", "text": f"row {i}"} for i in range(3))

    def load_dataset(path, config, split, **options):
        assert (path, config, split) == ("wikipedia", "20220301.en", "train")
        # Version 4 runs no code of data sets, and complains of the option.
        assert options == ({"trust_remote_code": False} if version < "4" else {})
        return found

    library = SimpleNamespace(load_dataset=load_dataset, __version__=version)
    monkeypatch.setitem(sys.modules, "datasets", library)
    corpus = find("hf:wikipedia:20220301.en, pydoc")
    assert list(corpus.documents())[:3] == ["row 0", "row 1", "row 2"]
    assert corpus.count is None
    found[1] = {"text": None}
    rows = find("hf:wikipedia:20220301.en")
    assert list(rows.documents()) == ["row 0", "row 2"]
    found[1] = {"words": "x"}
    with pytest.raises(DataError, match="its rows have no 'text', but words"):
        list(rows.documents())

    def damaged():
        yield {"text": "fine"}
        raise OSError("torn\nfile")

    with pytest.raises(DataError, match=r"^hf:x: row 1: torn file$"):
        list(corpus_lib._texts(damaged(), "hf:x"))


# What is masked


def test_fifteen_percent_are_masked():
    random = np.random.default_rng(0)
    tokens = random.integers(5, 300, (4000, 30)).astype(np.int32)
    lengths = random.integers(3, 31, 4000)
    for row, length in zip(tokens, lengths, strict=True):
        row[0], row[length - 1], row[length:] = START, END, PAD
    keys = jax.random.split(jax.random.key(0), len(tokens))
    mask = functools.partial(text.corrupted, vocab_size=300, mask_token=4)
    shown, at, labels, live = map(np.asarray, jax.jit(jax.vmap(mask))(keys, tokens))
    rows = np.arange(len(tokens))[:, None]
    np.testing.assert_array_equal(labels, tokens[rows, at])
    chosen = np.zeros(tokens.shape, bool)
    for row in range(len(tokens)):
        where = at[row, live[row]]
        assert len(set(where)) == len(where)
        chosen[row, where] = True
    real = tokens > 4
    assert not (chosen & ~real).any()
    np.testing.assert_array_equal(shown[~chosen], tokens[~chosen])
    # Also among rows of the same length, and at each place of a row.
    for few in (lengths < 8, lengths > 25):
        part = chosen[few].sum() / real[few].sum()
        assert abs(part - 0.15) < 4 * (0.13 / real[few].sum()) ** 0.5
    first, later = chosen[:, 1].mean(), chosen[lengths > 20, 15].mean()
    assert abs(first - 0.15) < 0.03
    assert abs(later - 0.15) < 0.03
    before, after = tokens[chosen], shown[chosen]
    count = len(before)
    masked, kept = (after == 4).mean(), (after == before).mean()
    assert abs(masked - 0.8) < 4 * (0.16 / count) ** 0.5
    assert abs(kept - 0.1) < 4 * (0.09 / count) ** 0.5 + 1 / 300
    other = after[(after != 4) & (after != before)]
    assert len(np.unique(other)) > 200


# What is measured


@pytest.fixture
def task(tmp_path):
    return tasks.make_task(
        NAME, tasks.TaskOptions(data_dir=str(write(tmp_path / "text")))
    )


def test_the_loss_is_over_masked_tokens_alone(task):
    """Against the whole projection, by hand."""
    params, _ = task.init(jax.random.key(0))
    params = jax.tree.map(lambda x: 4 * x, params)
    n = len(task.valid["tokens"])
    batch = task.valid | {"mask": (jnp.arange(n) < n - 1).astype(float)}
    sums = jax.jit(task.evaluate)(params, (), batch)
    model = models.Roberta(300, 8, 1, 2, 16, 18, dropout=0.0)
    size = tokens_lib.read_tokens(cached()).vocabulary.size
    key = jax.random.key(text._EVALUATION_SEED)

    @jax.jit
    def whole(number, tokens):
        own = jax.random.fold_in(key, number)
        shown, at, labels, live = text.corrupted(own, tokens, size, 4)
        segments = jnp.cumsum(tokens == START)[None]
        args = {"params": params}, shown[None], (tokens != PAD)[None]
        logits = model.apply(*args, train=False, segments=segments)
        assert logits.shape == (1, 16, 300)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits[0, at], labels)
        return jnp.sum(losses, where=live), live.sum()

    rows = [
        whole(number, tokens.astype(jnp.int32))
        for number, tokens in zip(batch["number"], batch["tokens"], strict=True)
    ][:-1]
    total, count = np.sum(rows, axis=0)
    assert sums["count"] == count > 10
    np.testing.assert_allclose(sums["loss"], total, rtol=1e-5)


@pytest.mark.slow
def test_accelerators_fill_up_tiles_and_have_the_same_loss(task, monkeypatch):
    params, _ = task.init(jax.random.key(0))
    params = jax.tree.map(lambda x: 4 * x, params)
    batch = {k: v[:8] for k, v in task.train.items()}
    batch |= {"mask": (jnp.arange(8) < 7).astype(float)}

    def results():
        def loss(params):
            return task.loss(params, (), jax.random.key(2), batch)[0]

        sums = jax.jit(lambda: task.evaluate(params, (), batch))()
        return jax.jit(jax.value_and_grad(loss))(params), sums

    expected, shapes = results(), []
    plain = text.cross_entropy

    def seen(logits, labels):
        shapes.append(logits.shape)
        return plain(logits, labels)

    monkeypatch.setattr(machine, "kind", lambda: "gpu")
    monkeypatch.setattr(text, "cross_entropy", seen)
    found = results()
    assert set(shapes) == {(8, 8, 300)}  # 3 of 16 tokens are masked at most
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        scale = max(1e-3, np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * scale)
    assert (text.slots(512), text.slots(128), text.slots(5)) == (80, 24, 5)


def cached():
    return next(iter((data.cache_dir() / "text").iterdir()))


def test_losses_of_training_are_keyed(task):
    params, _ = task.init(jax.random.key(0))
    batch = {k: v[:8] for k, v in task.train.items()} | {"mask": jnp.ones(8)}
    loss = jax.jit(lambda key: task.loss(params, (), key, batch)[0])
    first = loss(jax.random.key(0))
    assert first == loss(jax.random.key(0))
    assert first != loss(jax.random.key(1))
    np.testing.assert_allclose(first, np.log(300), rtol=0.01)  # knows nothing yet


def test_gradients_are_clipped(task):
    grads = {"a": jnp.asarray([3.0, 4.0]), "b": jnp.asarray(12.0)}  # of norm 13
    clip = optax.clip_by_global_norm(1.0)
    for scale in (1.0, 0.01):
        scaled = jax.tree.map(lambda g, scale=scale: scale * g, grads)
        expected, _ = clip.update(scaled, clip.init(grads))
        found = train._clipped(task, scaled)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected
        )
    free = dataclasses.replace(task, max_norm=None)
    assert train._clipped(free, grads) is grads


@pytest.mark.slow
def test_a_run_writes_its_perplexity(tmp_path):
    write(tmp_path / "text")
    config = config_lib.base()
    config.tasks, config.methods = (NAME,), ("adamw_cosine",)
    config.seeds, config.steps, config.eval_every = 1, 60, 30
    config.hparams.adamw_cosine.learning_rate = 0.02
    found = config_lib.check(config)
    experiment.run(found, tmp_path / "out", str(tmp_path))
    runs, curves = results.load(tmp_path / "out")
    for table in (runs, curves):
        assert "valid_accuracy" not in table
        np.testing.assert_allclose(
            table["valid_perplexity"], np.exp(table["valid_loss"]), rtol=1e-5
        )
    assert curves["valid_perplexity"].iloc[-1] < curves["valid_perplexity"].iloc[0]
    assert runs["valid_perplexity"].iloc[0] < 150  # 300 where nothing is learnt
    assert runs["test_loss"].notna().all()


@pytest.mark.slow
def test_runs_of_a_population_are_those_trained_alone(task):
    method = methods.find("adamw_cosine")
    static, traced = methods.split(method, method.defaults)
    lanes = [dict(traced) | {"learning_rate": rate} for rate in (1e-3, 1e-2)]
    seeds = train.seed_runs(task.init, np.arange(2, dtype=np.uint32))

    def trained(seeds, lanes, one_by_one):
        program = train.single(
            task,
            method,
            static,
            eval_every=10,
            num_seeds=len(seeds.order),
            num_hparams=len(lanes),
            one_by_one=one_by_one,
        )
        inputs = train.inputs(program, seeds, lanes, 20)
        compiled = programs.compile_program(program, seeds, inputs)
        measured = list(programs.train(compiled, program, seeds, inputs, 20))
        return measured[-1].values["valid_loss"][-1]

    together = trained(seeds, lanes, False)
    assert together.shape == (2, 2)
    for s in range(2):
        alone = jax.tree.map(lambda x, s=s: x[s : s + 1], seeds)
        for h in range(2):
            found = trained(alone, lanes[h : h + 1], True)
            np.testing.assert_allclose(found, together[s, h], rtol=1e-4)


# The study's schedules


def test_rates_of_the_study():
    steps, warmup = 23_000, 10_000

    def rate(method, step):
        hparams = dict(methods.find(method).defaults)
        hparams |= protocol.STUDY.overrides(method, "bookwiki/roberta_base")
        assert hparams.get("b2", 0.98) == 0.98
        tx = methods.find(method).build(float(steps), **hparams)
        state = tx.init({"w": jnp.zeros(1)})
        state = optax.tree.set(state, count=jnp.int32(step))
        moved = tx.update({"w": jnp.ones(1)}, state, {"w": jnp.zeros(1)})[1]
        return float(optim.effective_learning_rate(moved))

    for method, peak in (("adam", 1e-3), ("smac", 0.004424)):
        assert rate(method, warmup // 2) == pytest.approx(peak / 2, rel=1e-3)
        assert rate(method, warmup) == pytest.approx(peak, rel=1e-3)
        assert rate(method, 16_500) == pytest.approx(peak / 2, rel=1e-3)
        assert rate(method, steps) == pytest.approx(0, abs=1e-9)
    # Its last cycle is cut off at 83 % of the peak; tuned at 98 %.
    assert rate("cawr", warmup // 2) == pytest.approx(5e-3 / 2, rel=1e-3)
    assert rate("cawr", steps) / 5e-3 == pytest.approx(0.83, abs=0.01)
    assert rate("cawr_tuned", steps) / 0.014229 == pytest.approx(0.98, abs=0.01)
