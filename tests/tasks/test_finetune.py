"""Fine-tuning: checkpoints against Hugging Face's own, and files of a user's."""

import functools
import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from lrjax import tasks
from lrjax.common import files
from lrjax.core import UsageError
from lrjax.tasks import checkpoints, docstrings, finetune, labelled_text, models
from lrjax.tasks import tokens as tokens_lib
from lrjax.tasks.models import roberta
from lrjax.tasks.options import Text

GOLDEN = Path(__file__).parent.parent / "golden" / "classifier"
VALUES = load_file(GOLDEN / "values.safetensors")
TEXTS = (
    "Return the first line.",
    "",
    "Ünïcode, <mask>  and\n a text that is longer than the others are by far.",
)
SIZES = {
    "vocab_size": 50,
    "hidden_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 12,
    "max_positions": 10,
}


@pytest.fixture
def folder(tmp_path):
    """A copy of Hugging Face's checkpoint."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "checkpoint"))


def labelled(path, rows=30):
    """A file of texts in two classes, the larger one twice as large."""
    frame = pd.DataFrame(
        {
            "body": [f"{'open' if i % 3 else 'close'} file {i}" for i in range(rows)],
            "kind": ["ab"[i % 3 > 0] for i in range(rows)],
            "other": 1.5,
        }
    )
    name = str(path)
    if ".csv" in name:
        frame.to_csv(path, index=False)
    elif ".tsv" in name:
        frame.to_csv(path, index=False, sep="\t")
    elif name.endswith(".parquet"):
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


def made(path, folder, settings="text=body&target=kind", **options):
    name = f"finetune:{path}?{settings}&checkpoint={folder}"
    return tasks.make_task(name, tasks.TaskOptions(batch_size=4, **options))


# Checkpoints


def test_logits_are_those_of_hugging_face(folder):
    checkpoint = checkpoints.read(folder)
    rows = checkpoints.encode(checkpoint, TEXTS, 18)
    np.testing.assert_array_equal(rows, VALUES["tokens"])
    model = finetune.make_model(checkpoint, 18, 3, tasks.TaskOptions())
    weights = roberta.load_weights(checkpoint.weights, model)
    tensors = load_file(folder / checkpoints.WEIGHTS)
    head = {
        ours: {
            "kernel": tensors[f"classifier.{theirs}.weight"].T,
            "bias": tensors[f"classifier.{theirs}.bias"],
        }
        for ours, theirs in (("classifier", "dense"), ("classes", "out_proj"))
    }
    ids = jnp.asarray(VALUES["tokens"], jnp.int32)
    apply = jax.jit(functools.partial(model.apply, train=False))
    found = apply({"params": {**weights, **head}}, ids, ids != 1)
    np.testing.assert_allclose(found, VALUES["logits"], rtol=0, atol=1e-5)


def test_weights_come_back_as_they_were_written(tmp_path):
    model = models.Roberta(**SIZES)
    ids = jnp.ones((1, 3), jnp.int32)
    made = jax.eval_shape(
        lambda key: model.init(key, ids, ids, False), jax.random.key(0)
    )
    random = np.random.RandomState(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(random.randn(*x.shape), jnp.float32), made["params"]
    )
    vocabulary = tokens_lib.read_vocabulary(checkpoints.EMBEDDED)
    checkpoints.write(tmp_path, model, params, vocabulary)
    back = roberta.load_weights(tmp_path / checkpoints.WEIGHTS, model)
    jax.tree.map(np.testing.assert_array_equal, params, back)
    # And the names: those of Hugging Face, of which this is a file.
    names = load_file(GOLDEN.parent / "roberta.safetensors")
    written = load_file(tmp_path / checkpoints.WEIGHTS)
    assert set(written) == {n for n in names if not n.startswith("lm_head.decoder")}
    assert written["roberta.encoder.layer.1.intermediate.dense.weight"].shape == (12, 8)
    # A classifier leaves the head of the language model aside.
    classifier = model.clone(num_classes=3)
    found = roberta.load_weights(tmp_path / checkpoints.WEIGHTS, classifier)
    assert set(params) - set(found) == {"bias", "head", "head_norm"}


def test_the_embedded_checkpoint_is_small_and_sound():
    held = sum(path.stat().st_size for path in checkpoints.EMBEDDED.iterdir())
    assert held < 1.5e6
    checkpoint = checkpoints.read(checkpoints.EMBEDDED)
    rows = checkpoints.encode(checkpoint, ["Close the file."], 64)
    (row,) = rows.tolist()
    assert row[0] == tokens_lib.START
    assert tokens_lib.END in row
    assert len(row) == 8
    assert (
        checkpoint.tokenizer.decode(row, skip_special_tokens=True) == "Close the file."
    )


def edited(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without(folder, name):
    (folder / name).unlink()


def pickled(folder):
    without(folder, "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def changed(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


WORDS = "roberta.embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: shutil.rmtree(f), "there is no such folder with a checkpoint"),
        (lambda f: without(f, "config.json"), "there is no config.json"),
        (lambda f: without(f, "model.safetensors"), "there is no model.safetensors"),
        (lambda f: without(f, "tokenizer.json"), "there is no tokenizer.json, and no"),
        (
            pickled,
            r"pytorch_model\.bin: a pickle may run anything.*convert it to model",
        ),
        (lambda f: edited(f, model_type="bert"), "model_type is 'bert'; lrjax has R"),
        (lambda f: edited(f, hidden_act="relu"), "hidden_act is 'relu'; lrjax has"),
        (lambda f: edited(f, num_attention_heads=3), "3 heads do not divide"),
        (lambda f: edited(f, vocab_size=2000), "has 2,048 tokens, the model room for"),
        (lambda f: edited(f, hidden_size=10), r"has shape .*, the model's is"),
        (lambda f: edited(f, num_hidden_layers=3), "no tensor roberta.encoder.layer.2"),
        (
            lambda f: changed(f, lambda t: t.pop(WORDS)),
            f"there is no tensor {WORDS}",
        ),
        (
            lambda f: changed(f, lambda t: t.update({"own": np.ones(2)})),
            "tensor own is not part of the model",
        ),
        (lambda f: (f / "config.json").write_text("{"), r"config.json: cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x"), "cannot be read as"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "not a RoBERTa tokenizer"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused_in_one_line(
    spoil, said, folder, tmp_path
):
    path = labelled(tmp_path / "a.csv")
    spoil(folder)
    with pytest.raises(UsageError, match=said) as caught:
        made(path, folder)
    assert "\n" not in str(caught.value)


# Files


@pytest.mark.parametrize(
    "name", ["a.csv", "a.csv.gz", "a.tsv", "a.parquet", "a.jsonl", "a.jsonl.xz"]
)
def test_files_of_all_kinds_are_the_same(name, tmp_path):
    texts, classes = labelled_text.read(str(labelled(tmp_path / name)), "body", "kind")
    assert texts[:2] == ["close file 0", "open file 1"]
    assert classes.tolist() == [int(i % 3 > 0) for i in range(30)]


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        (
            "t,y\na,1\n",
            "target=y",
            r"which column is the text\? Add \?text=COLUMN, one",
        ),
        ("t,y\na,1\n", "text=t", r"which column is the target\? Add \?target=COLUMN"),
        ("t,y\na,1\n", "text=u&target=y", "unknown column 'u'"),
        ("t,y\na,1\n", "text=t&goal=y", "unknown setting of fine-tuning 'goal'"),
        ("t,y\na,1\n", "text=t&text=t&target=y", "text is given twice"),
        ("t,y\na,1\nb,1\nc,1\n", "text=t&target=y", "'y' holds one class only"),
        ("t,y\na,1\nb,2\nc,3\n", "text=t&target=y", "has 3 classes in 3 rows"),
        ("t,y\na,.5\nb,2\n", "text=t&target=y", "has fractions, which are no classes"),
        ("t,y\na,inf\nb,2\n", "text=t&target=y", "infinite numbers, which are no"),
        ("t,y\na,1\nb,2\n", "text=t&target=t", "'t' is both text and target"),
        ("t,y\na,2020-01-02\n", "text=t&target=y", "dates.* numbers or texts$"),
        ("t,y\n1,1\n2,2\n", "text=t&target=y", "'t' is of numbers, not of texts"),
        ("t,y\na,1\na,1\nb,2\nb,2\n", "text=t&target=y", "no class has the 3 rows"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(
    content, settings, said, tmp_path
):
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(UsageError, match=said) as caught:
        made(path, GOLDEN, settings)
    assert "\n" not in str(caught.value)


def test_halves_of_characters_are_read_as_the_sign_for_what_is_none(tmp_path):
    """JSON that was cut within an emoji has one; tokenizers raise an error."""
    path = tmp_path / "a.jsonl"
    rows = [r'{"body": "open \ud83d", "kind": 1}', '{"body": "close", "kind": 0}']
    path.write_text("\n".join(rows * 5))
    assert labelled_text.read(str(path), "body", "kind")[0][:2] == [
        "open \ufffd",
        "close",
    ]
    assert made(path, GOLDEN).num_classes == 2


def test_texts_are_texts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": {"a": 1}, "kind": 1}\n' * 9)
    with pytest.raises(UsageError, match=r"'body' holds \{'a': 1\}, no text"):
        labelled_text.read(str(path), "body", "kind")


def test_lines_that_are_not_json_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    for line, said in (("{", "line 2 is not JSON"), ("[1]", "line 2 is not an object")):
        path.write_text(f'{{"body": "a", "kind": 1}}\n{line}\n')
        with pytest.raises(UsageError, match=said):
            made(path, GOLDEN)


def test_a_file_alone_is_told_what_to_give():
    with pytest.raises(UsageError, match=r"give finetune:a\.jsonl\?text=COLUMN&targ"):
        tasks.make_task("a.jsonl")


def test_rows_without_a_text_or_a_label_are_left_out(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"open {i},{i % 2}\n" for i in range(12)]
    path.write_text("body,kind\n" + "".join(rows) + ",1\nopen,\n")
    with pytest.warns(UserWarning, match="2 rows without a text or a label left out"):
        texts, _ = labelled_text.read(str(path), "body", "kind")
    assert len(texts) == 12


# Tasks


def test_words_for_what_is_missing_are_texts_and_labels(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,kind\n" + "NA,None\nnull,b\nc,\n" * 3)
    with pytest.warns(UserWarning, match="is a class|left out") as said:
        texts, classes = labelled_text.read(str(path), "text", "kind")
    assert texts == ["NA", "null"] * 3
    assert classes.tolist() == [0, 1] * 3
    assert sorted(str(each.message).partition(": ")[2] for each in said) == [
        "'None' in column 'kind' is a class like the others: leave such cells empty if "
        "they are missing",
        "3 rows without a text or a label left out",
    ]


def test_every_seed_begins_at_the_checkpoint_with_a_head_of_its_own(tmp_path):
    task = made(labelled(tmp_path / "a.csv"), GOLDEN)
    assert (task.num_classes, task.metric.name) == (2, "accuracy")
    assert [len(p["labels"]) for p in (task.train, task.valid, task.test)] == [18, 6, 6]
    init = jax.jit(task.init)
    first, second = (init(jax.random.key(seed))[0] for seed in (0, 1))
    tensors = load_file(GOLDEN / "model.safetensors")
    for params in (first, second):
        np.testing.assert_array_equal(params["words"]["embedding"], tensors[WORDS])
    for name in ("classifier", "classes"):
        assert jnp.abs(first[name]["kernel"] - second[name]["kernel"]).max() > 1e-3


def test_the_loss_is_the_mean_over_real_rows(tmp_path):
    task = made(labelled(tmp_path / "a.csv"), GOLDEN)
    params, _ = jax.jit(task.init)(jax.random.key(0))
    batch = {name: values[:4] for name, values in task.valid.items()}
    batch["mask"] = jnp.asarray([1.0, 1, 0, 1])
    checkpoint = checkpoints.read(GOLDEN)
    model = finetune.make_model(checkpoint, 8, 2, tasks.TaskOptions())
    apply = jax.jit(functools.partial(model.apply, train=False))
    total = right = 0
    for row in (0, 1, 3):
        ids = jnp.asarray(batch["tokens"][row : row + 1], jnp.int32)
        ids = ids[:, : int((ids != 1).sum())]  # without padding
        out = apply({"params": params}, ids, ids != 1)[0]
        label = int(batch["labels"][row])
        total -= float(jax.nn.log_softmax(out)[label])
        right += int(out.argmax()) == label
    sums = jax.jit(task.evaluate)(params, (), batch)
    assert float(sums["loss"]) == pytest.approx(total, rel=1e-5)
    assert (float(sums["accuracy"]), float(sums["count"])) == (right, 3)


def test_weights_and_length_are_part_of_the_identity(folder, tmp_path):
    path = labelled(tmp_path / "a.csv")
    task, again = made(path, GOLDEN), made(path, folder)
    assert task.options == again.options
    changed(folder, lambda tensors: tensors[WORDS].__setitem__((7, 0), 3.0))
    assert made(path, folder).options != task.options
    short = made(path, GOLDEN, text=Text(length=4))
    assert short.train["tokens"].shape[1] == 4
    assert tasks.fingerprint(short) != tasks.fingerprint(task)
    with pytest.raises(UsageError, match=r"length=19: .* has positions for rows of 3"):
        made(path, GOLDEN, text=Text(length=19))


def test_no_network_and_no_pytorch_are_needed(tmp_path, monkeypatch):
    import socket

    def refuse(*args, **options):
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    made(labelled(tmp_path / "a.csv"), GOLDEN)
    assert "torch" not in sys.modules


def test_the_base_model_says_what_it_looks_for(tmp_path, monkeypatch):
    monkeypatch.setenv("LRJAX_DATA_DIR", "")
    name = "finetune/roberta_base"

    def make():
        tasks.make_task(name, tasks.TaskOptions(data_dir=str(tmp_path), batch_size=2))

    with pytest.raises(
        UsageError, match="give --data_dir, a directory with finetune/t"
    ):
        tasks.make_task(name)
    with pytest.raises(UsageError, match=r"none of .*train\.csv, .*train\.jsonl; one"):
        make()
    (tmp_path / "finetune").mkdir()
    rows = [f"open {i},{i % 2}\n" for i in range(12)]
    (tmp_path / "finetune" / "train.csv").write_text("text,label\n" + "".join(rows))
    with pytest.raises(
        UsageError, match=r"neither .*roberta-base nor .*roberta-base is"
    ):
        make()
    shutil.copytree(GOLDEN, tmp_path / "roberta-base")
    make()
    shutil.copy(tmp_path / "finetune/train.csv", tmp_path / "finetune/train.tsv")
    with pytest.raises(UsageError, match=r"there are .*csv, .*tsv; one is needed"):
        make()


# Docstrings


def test_docstrings_are_those_that_python_has():
    import statistics

    texts = list(docstrings.of_modules(["statistics"]))
    assert " ".join(statistics.median.__doc__.split()) in texts
    assert list(docstrings.of_modules(["no_such_module"])) == []


def test_a_parser_that_fails_now_and_then_is_asked_again(monkeypatch):
    expected = list(docstrings.of_modules(["fractions"]))
    calls, parse = [], docstrings.ast.parse

    def failing(source):
        calls.append(source)
        if len(calls) % 3:
            raise SystemError("AST constructor recursion depth mismatch")
        return parse(source)

    monkeypatch.setattr(docstrings.ast, "parse", failing)
    assert list(docstrings.of_modules(["fractions"])) == expected != []
    assert len(calls) == 3


def test_nothing_of_the_library_is_imported():
    before = set(sys.modules)
    list(docstrings.of_modules(["mailbox", "imaplib", "turtle"]))
    assert not {"mailbox", "imaplib", "turtle"} & (set(sys.modules) - before)


def test_texts_do_not_name_their_topic():
    texts, topics = docstrings.labelled()
    assert len(set(texts)) == len(texts)
    assert min(map(topics.count, set(topics))) > 200
    for name in ("asyncio", "decimal", "email", "http", "unittest"):
        assert not any(name in text.lower().split() for text in texts)


def test_a_python_without_sources_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(docstrings, "_library", lambda: tmp_path)
    with pytest.raises(UsageError, match="has no docstrings on code: are the source"):
        docstrings.labelled()
    files.replace(tmp_path / "ast.py", "def f(:\n")
    with pytest.raises(UsageError, match=r"ast\.py: cannot be read"):
        docstrings.labelled()
