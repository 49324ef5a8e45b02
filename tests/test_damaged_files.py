"""Every reader of files, on files with bytes changed: the right type, or one line.

A new reader gets an entry in `READERS`: what makes a sound file, and what reads it. The
readers in `GIVEN` read files that users bring; these may be anything.
"""

import bz2
import functools
import gzip
import io
import json
import lzma
import os
import pickle
import random
import stat
import tarfile
import warnings

import fabricated
import numpy as np
import pandas as pd
import pytest

from lrjax import results
from lrjax.analysis import curves as curves_lib
from lrjax.analysis import scores
from lrjax.core import NUMERICS_VERSION, UsageError
from lrjax.launch import threads
from lrjax.optim.learned import SHIPPED, load
from lrjax.reports import (
    published,
    selected,
    study,
    terminal,
)
from lrjax.tasks import corpus as corpus_lib
from lrjax.tasks import data, image_data, pickled, table
from lrjax.tasks import tokens as tokens_lib

Image = pytest.importorskip("PIL.Image")

CASES, MANY = 12, 1012  # of each reader
PIXELS = np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8)
PACKERS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}
READERS = {}  # name -> (write(folder) -> file to damage, read(that file))
GIVEN = []


def reader(name, write, read):
    READERS[name] = write, read
    GIVEN.append(name)


def own_reader(name, write, read):
    READERS[name] = write, read


def writes(name, content):
    """Write a file of given or made bytes."""

    def write(folder):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content() if callable(content) else content)
        return path

    return write


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def npz(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def archive(mode, form):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=form) as tar:
        for name in ("one", "two"):
            info = tarfile.TarInfo(
                f"{'long' * 40 * (form != tarfile.USTAR_FORMAT)}/{name}"
            )
            info.size = 600
            tar.addfile(info, io.BytesIO(bytes(range(200)) * 3))
    return file.getvalue()


# Data

SVM = b"".join(b"%d 1:%.3f 3:-1e-3 # c\n" % (i % 3, i / 7) for i in range(30))
STORY = "A small \u2603 boat.\r\n\r\nThen rain.\fA third one.\rAnd more.\n".encode() * 9
for ending, pack in PACKERS.items():
    reader(f"svmlight{ending}", writes(f"a{ending}", pack(SVM)), data.read_svmlight)
    reader(
        f"text{ending}",
        writes(f"a.txt{ending}", pack(STORY)),
        lambda path: list(corpus_lib.paragraphs(corpus_lib.read_lines(path))),
    )
PRICES = pd.DataFrame({"a": [1.5, 2, 3] * 9, "b": ["x", "\u2603", "z"] * 9})
for ending, content in (
    (".csv", PRICES.to_csv().encode()),
    (".parquet", PRICES.to_parquet()),
    (".npz", npz(a=np.arange(9.0), b=np.ones((9, 2)))),
):
    reader(
        f"table{ending}",
        writes(f"a{ending}", content),
        lambda path: table.read(str(path)),
    )
IDX = b"\0\0\x08\3\0\0\0\2\0\0\0\4\0\0\0\4" + PIXELS.tobytes()[:32]
reader("idx", writes("a", IDX), image_data.read_idx)
reader("idx.gz", writes("a.gz", gzip.compress(IDX)), image_data.read_idx)
for kind, form in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
    for mode in ("w", "w:gz", "w:xz"):
        reader(
            f"tar {kind} {mode}",
            writes("a.tar", archive(mode, form)),
            lambda path: image_data._members(path, ["one", "two"]),
        )
BATCH = {b"data": PIXELS.reshape(1, -1), b"labels": [3] * 20, b"names": [b"a.png"]}
for protocol in (2, 3):
    reader(
        f"pickle {protocol}",
        writes("a", pickle.dumps(BATCH, protocol)),
        lambda path: pickled.read_pickled(data.read_bytes(path), path),
    )
FILES = [saved(Image.fromarray(PIXELS), "PNG")] * 2
ARRAYS = {"image": PIXELS[None], "label": np.array([1])}
JPEG = {"jpeg": np.frombuffer(b"".join(FILES), np.uint8), "labels": np.array([0, 1])}
JPEG["offsets"] = np.array([0, len(FILES[0]), 2 * len(FILES[0])])
for how in (np.savez, np.savez_compressed):
    for kind, arrays in (("npz", ARRAYS), ("jpeg", JPEG)):
        reader(
            f"{kind} {how.__name__}",
            writes("a", npz(how, **arrays)),
            lambda path: image_data._read_npz(path, SET),
        )
SET = image_data.ImageSet(3, None, {"train": 1})
TURNED = Image.Exif()
TURNED[274] = 6
DEEP = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)
PICTURES = {
    **{f: saved(Image.fromarray(PIXELS), f) for f in ("PNG", "JPEG", "BMP", "PPM")},
    **{f: saved(Image.fromarray(PIXELS), f) for f in ("GIF", "TIFF")},
    "PNG of 16 bits": saved(DEEP, "PNG"),
    "TIFF of 16 bits": saved(DEEP, "TIFF", compression="tiff_lzw"),
    "PNG with a palette": saved(Image.fromarray(PIXELS).quantize(), "PNG"),
    "JPEG of a camera": saved(
        Image.fromarray(PIXELS), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\b"
    ),
}
for name, content in PICTURES.items():
    reader(
        name, writes("a", content), lambda path: image_data._picture(path, str(path))
    )


@functools.cache
def vocabulary():
    corpus = corpus_lib.Corpus("made", "", lambda: iter(["a small boat"] * 9))
    return tokens_lib.train_vocabulary(corpus, 270)


def token_folder(name):
    def write(folder):
        corpus = corpus_lib.Corpus("made", "", lambda: iter(["a small boat"] * 9))
        tokens_lib.write_tokens(corpus, vocabulary(), folder / "tokens")
        return folder / "tokens" / name

    return write


for name in ("tokens.uint16", "ends.int64", "meta.json", "tokenizer.json"):
    reader(name, token_folder(name), lambda path: tokens_lib.read_tokens(path.parent))


def pair(name):
    def write(folder):
        vocabulary().tokenizer.model.save(str(folder))
        numbers = {t: i for i, t in enumerate(("<s>", "<pad>", "</s>", "<unk>"))}
        known = json.loads((folder / "vocab.json").read_text()) | numbers
        (folder / "vocab.json").write_text(json.dumps(known))
        return folder / name

    return write


for name in ("vocab.json", "merges.txt"):
    reader(name, pair(name), lambda path: tokens_lib.read_vocabulary(path.parent))


def noted(folder):
    path = folder / "a"
    path.write_bytes(SVM)
    data.record_sha256(path)
    return folder / "a.sha256"


reader("sha256", noted, lambda path: data.check_sha256(path.with_suffix("")))


# Weights

reader("learned.npz", writes("a", SHIPPED.read_bytes), load)


def tensors():
    """Weights of a model of one layer, all sizes 4, nine tokens and positions."""
    from safetensors.numpy import save

    below = "roberta.encoder.layer.0"
    embeddings = "roberta.embeddings"
    shapes = {
        f"{embeddings}.word_embeddings.weight": (9, 4),
        f"{embeddings}.position_embeddings.weight": (9, 4),
        f"{embeddings}.token_type_embeddings.weight": (1, 4),
        "lm_head.bias": (9,),
    }
    dense = ["lm_head.dense", f"{below}.intermediate.dense", f"{below}.output.dense"]
    dense += [f"{below}.attention.self.{name}" for name in ("query", "key", "value")]
    dense += [f"{below}.attention.output.dense"]
    norms = [f"{embeddings}.LayerNorm", f"{below}.output.LayerNorm"]
    norms += [f"{below}.attention.output.LayerNorm", "lm_head.layer_norm"]
    for names, shape in ((dense, (4, 4)), (norms, (4,))):
        shapes |= {f"{name}.weight": shape for name in names}
        shapes |= {f"{name}.bias": (4,) for name in names}
    return save({name: np.zeros(shape, np.float16) for name, shape in shapes.items()})


def weights(path):
    from lrjax.tasks import models
    from lrjax.tasks.models import roberta

    return roberta.load_weights(path, models.Roberta(9, 4, 1, 1, 4, 9))


reader("safetensors", writes("a", tensors), weights)


# Tables and reports

ANSWER = fabricated.answer()


def workdir(name):
    def write(folder):
        config = {"numerics_version": NUMERICS_VERSION, "versions": {"jax": "1"}}
        fabricated.write(
            folder,
            ("t", "u"),
            ("adam", "sgd"),
            2,
            3,
            trials=fabricated.trials(("t",), "adam", 5) if "trials" in name else (),
            config=config | {"config": {"tasks": ["t"]}, "git_revision": "a" * 40},
        )
        return folder / name

    return write


def read_workdir(path):
    """All that looks at the tables but for drawing."""
    runs, curves = study.read([path.parent])
    joined = curves_lib.join(scores.judge(runs), curves)
    terminal.ranking(results.load(path.parent)[0])
    with results.Tables(path.parent):
        return joined


for name in (results.RUNS, results.CURVES, "config.json"):
    own_reader(name, workdir(name), read_workdir)
own_reader(
    results.TRIALS,
    workdir(results.TRIALS),
    lambda path: study._read_trials([path.parent], {"adam"}),
)
RACE = {"race": "a", "contender": 1, "run": 0, "seed": 0, "fold": 0, "task": "t"}
RACE |= {"protocol": "sound", "method": "sgd", "seconds": 0.25}
RACE |= {"hparams": {"b": 1.0}, "steps": 9, "status": "done", "valid_loss": 0.5}
RACES = "".join(json.dumps(RACE | {"run": i}) + "\n" for i in range(4)).encode()
own_reader(
    results.RACES,
    writes(results.RACES, RACES),
    lambda path: results.read_rows(path.parent, results.RACES),
)
own_reader(
    "selection.json",
    writes("selection.json", json.dumps([ANSWER], indent=1).encode()),
    lambda path: selected.read([path.parent]),
)
CSV = b"task,method,metric,mean,std_error\nt,adam,valid_loss,0.5,0.1\nt,sgd,m,1,\n"
for ending in ("", ".gz", ".bz2", ".xz", ".zip"):

    def compressed(folder, ending=ending):
        path = folder / f"a.csv{ending}"
        pd.read_csv(io.BytesIO(CSV)).to_csv(path, index=False)
        return path

    reader(f"csv{ending}", compressed, lambda path: published.read(str(path)))
own_reader(
    "blocks_at_once.json", writes("a", b'{"a b c": 3, "b": 4}'), threads._read_cache
)


# Damage


def damaged(content, draw):
    """Bytes with one to three changes of the kinds that disks, nets and people make."""
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.randrange(len(content) + 1)
        length = min(draw.choice((1, 1, 2, 4, 16, 200)), len(content) - at)
        change = draw.randrange(7)
        if change == 0 and length:
            content[at] ^= 1 << draw.randrange(8)
        elif change == 1:
            del content[at:]
        elif change == 2:
            content[at:at] = draw.randbytes(draw.choice((1, 4, 64)))
        elif change == 3:
            del content[at : at + length]
        elif change == 4:
            content[at : at + length] = draw.choice((b"\0", b"\xff")) * length
        elif change == 5:
            content[at:at] = content[at : at + length]
        else:
            words = (b"[" * 9999, b"NaN", b"-1", b"1e999", b"null", b'"x"', b"9" * 5000)
            content[at : at + length] = draw.choice(words)
    return bytes(content)


def is_one_line(error):
    text = str(error)
    return text.isprintable() and 10 < len(text) < 600


def try_cases(name, folder, cases):
    """Damage a reader's file again and again; give how many were read and refused."""
    write, read = READERS[name]
    path = write(folder)
    sound = path.read_bytes()
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(path)
        for case in cases:
            path.write_bytes(damaged(sound, random.Random(f"{name} {case}")))
            try:
                read(path)
            except Exception as error:
                promised = ValueError if name == "learned.npz" else UsageError
                if not isinstance(error, promised) or not is_one_line(error):
                    raise AssertionError(f"{name}, case {case}: {error}") from error
                refused += 1
    print(f"{name}: {len(cases) - refused} read, {refused} refused")
    return len(cases) - refused, refused


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name, tmp_path):
    _, refused = try_cases(name, tmp_path, range(CASES))
    assert refused or name in ("blocks_at_once.json", "config.json")


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_damaged_files(name, tmp_path):
    read, refused = try_cases(name, tmp_path, range(CASES, MANY))
    assert refused or name == "blocks_at_once.json"
    assert read  # at least where the damage happens to change nothing


# Things that are no files


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket", "no one's"])
@pytest.mark.parametrize("name", GIVEN)
def test_what_is_not_a_regular_file_is_refused_at_once(name, kind, tmp_path):
    write, read = READERS[name]
    path = write(tmp_path)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    else:
        path.symlink_to("nowhere")
    promised = ValueError if name == "learned.npz" else UsageError
    with pytest.raises(promised) as refused:
        read(path)
    assert is_one_line(refused.value)


@pytest.mark.parametrize("name", GIVEN)
def test_users_files_may_be_links(name, tmp_path):
    write, read = READERS[name]
    path = write(tmp_path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about the camera's tags
        read(path)


SECRET = b"root:$6$x$Secret:1:0:9:7:::\n1 Secret:2\n\xffSecret\n"


@pytest.mark.parametrize("secret", [SECRET, b'{"Secret": "Secret"}', b'"Secret"'])
@pytest.mark.parametrize("name", GIVEN)
def test_the_content_of_any_other_file_is_not_shown(name, secret, tmp_path):
    write, read = READERS[name]
    path = write(tmp_path)
    path.write_bytes(secret)
    promised = ValueError if name == "learned.npz" else UsageError
    if name == "text" and secret != SECRET:  # it is text
        return
    with pytest.raises(promised) as refused:
        read(path)
    assert "ecret" not in str(refused.value)
    assert "$6" not in str(refused.value)
