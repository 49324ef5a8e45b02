"""Readers of image data sets: every form, and what is wrong with it in one line."""

import contextlib
import dataclasses
import gzip
import io
import os
import pickle
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from lrjax.core import UsageError
from lrjax.tasks import image_data
from lrjax.tasks.image_data import ImageSet, load
from lrjax.tasks.pickled import read_pickled

Image = pytest.importorskip("PIL.Image")

DTD_PART = Path(__file__).resolve().parents[3] / "shared" / "data" / "dtd"

pytestmark = pytest.mark.filterwarnings("ignore:.*do not compare")


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("LRJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LRJAX_DATA_DIR", raising=False)


def pixels(rows, size=32, channels=3, seed=0):
    shape = (rows, size, size, channels)
    return np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)


def small(monkeypatch, name, **changes):
    """Make a set as small as the test's."""
    entry = dataclasses.replace(image_data.SETS[name], **changes)
    monkeypatch.setitem(image_data.SETS, name, entry)


def refused(name, folder, *words):
    with pytest.raises(UsageError) as caught:
        load(name, str(folder))
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def same(part, images, labels):
    np.testing.assert_array_equal(part.images, images)
    np.testing.assert_array_equal(part.labels, labels)


# NumPy archives


def test_npz_with_image_and_label(tmp_path):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    for split, rows in (("train", 5), ("test", 3)):
        labels = np.arange(rows)
        np.savez(folder / f"{split}.npz", image=pixels(rows), label=labels)
    parts = load("cifar10", str(tmp_path))
    assert set(parts) == {"train", "test"}
    same(parts["train"], pixels(5), range(5))
    same(parts["test"], pixels(3), range(3))


def test_npz_with_both_parts_and_names_that_begin_alike(tmp_path):
    for name, rows in (("cifar100", 4), ("cifar10", 6)):
        image, label = pixels(rows), np.arange(rows)[:, None]
        np.savez(
            tmp_path / f"{name}.npz",
            x_train=image,
            y_train=label,
            x_test=image,
            y_test=label,
        )
    same(load("cifar10", str(tmp_path))["train"], pixels(6), range(6))
    same(load("cifar100", str(tmp_path))["test"], pixels(4), range(4))


def encoded(image, form="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, form)
    return file.getvalue()


def test_npz_of_encoded_images(tmp_path):
    images = [pixels(1, 9, seed=1)[0], pixels(1, 12, seed=2)[0][:, :10]]
    files = [encoded(image) for image in images]
    arrays = {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": np.array([3, 46]),
    }
    np.savez(tmp_path / "dtd_part.npz", **arrays)
    part = load("dtd", str(tmp_path))["all"]
    assert part.images.shape == (2, 12, 10, 3)
    np.testing.assert_array_equal(part.sizes, [[9, 9], [12, 10]])
    np.testing.assert_array_equal(part.images[0, :9, :9], images[0])
    np.testing.assert_array_equal(part.images[1], images[1])
    assert not part.images[0, 9:].any()
    np.savez(tmp_path / "dtd_part.npz", **arrays | {"offsets": np.array([0, 9, 5])})
    refused("dtd", tmp_path, "dtd_part.npz", "offsets")
    torn = arrays["jpeg"].copy()
    torn[:8] = 0
    np.savez(tmp_path / "dtd_part.npz", **arrays | {"jpeg": torn})
    refused("dtd", tmp_path, "image 0", "cannot be decoded")


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": pixels(2, 31), "label": [0, 1]}, ["31 x 31 x 3", "32 x 32 x 3"]),
        ({"image": pixels(2, 32, 1), "label": [0, 1]}, ["32 x 32 x 1"]),
        ({"image": pixels(2) / 255, "label": [0, 1]}, ["float64", "uint8"]),
        ({"image": pixels(2), "label": [0, 10]}, ["label 10", "image 1", "0 and 9"]),
        ({"image": pixels(2), "label": [-1, 1]}, ["label -1", "image 0"]),
        ({"image": pixels(2), "label": [0.0, 1.0]}, ["float64", "integers"]),
        ({"image": pixels(2), "label": [0]}, ["2 images"]),
        ({"image": pixels(0), "label": np.zeros(0, int)}, ["uint8"]),
        ({"pixels": pixels(2), "label": [0, 1]}, ["label, pixels", "image and label"]),
        ({"image": np.array([None]), "label": [0]}, ["'image' holds other things"]),
    ],
)
def test_arrays_that_are_not_of_the_set(tmp_path, arrays, words):
    for split in ("train", "test"):
        np.savez(tmp_path / f"cifar10_{split}.npz", **arrays)
    refused("cifar10", tmp_path, str(tmp_path), *words)


def test_archives_that_are_damaged_or_lack_a_part(tmp_path):
    path = tmp_path / "cifar10_train.npz"
    np.savez_compressed(path, image=pixels(4), label=np.arange(4))
    refused("cifar10", tmp_path, "no test part")
    path.rename(tmp_path / "cifar10_test.npz")
    refused("cifar10", tmp_path, "no train part")
    (tmp_path / "cifar10_test.npz").rename(path)
    content = path.read_bytes()
    for damaged in (
        content[:500],
        b"",
        b"nonsense",
        content.replace(b"label", b"xabel"),
    ):
        path.write_bytes(damaged)
        refused("cifar10", tmp_path, "cifar10_train.npz")


# CIFAR as its authors pack it


def cifar_files(name, rows=2, seed=0):
    """File name -> content of a small set, and its images and labels by split."""
    if name == "cifar10":
        groups = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)]}
        groups["test"] = ["test_batch.bin"]
    else:
        groups = {"train": ["train.bin"], "test": ["test.bin"]}
    random = np.random.RandomState(seed)
    files, parts = {}, {}
    for split, group in groups.items():
        images = pixels(rows * len(group), seed=len(group))
        labels = random.permutation(len(images)).astype(np.uint8) % 10
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        coarse = [labels * 0 + 9] if name == "cifar100" else []
        records = np.column_stack([*coarse, labels, planes]).astype(np.uint8)
        for number, file in enumerate(group):
            content = records[number * rows : (number + 1) * rows].tobytes()
            files[file] = content
        parts[split] = images, labels
    return files, parts


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_binary_files(name, packed, tmp_path, monkeypatch):
    files, expected = cifar_files(name)
    rows = {split: len(labels) for split, (_, labels) in expected.items()}
    small(monkeypatch, name, rows=rows)
    if packed:
        path = tmp_path / f"{name.replace('cifar', 'cifar-')}-binary.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for file, content in files.items():
                info = tarfile.TarInfo(f"somewhere/{file}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    else:
        for file, content in files.items():
            (tmp_path / file).write_bytes(content)
    parts = load(name, str(tmp_path))
    for split, (images, labels) in expected.items():
        same(parts[split], images, labels)
    if packed:
        path.write_bytes(path.read_bytes()[:2000])
        refused(name, tmp_path, path.name, "cannot be read")
    else:
        last = list(files)[-1]
        (tmp_path / last).write_bytes(files[last][:-1])
        refused(name, tmp_path, last, "bytes instead of")
        (tmp_path / last).unlink()
        refused(name, tmp_path, f"{last} of {name} is missing")


def as_python2(value):
    """A pickle of protocol 2 as Python 2 and NumPy wrote it, text being bytes."""
    out = bytearray(b"\x80\x02")

    def put(value):
        if isinstance(value, bytes):
            short = len(value) < 256
            head = b"U" + bytes([len(value)]) if short else b"T"
            out.extend(head if short else head + len(value).to_bytes(4, "little"))
            out.extend(value)
        elif isinstance(value, int):
            out.extend(b"J" + value.to_bytes(4, "little", signed=True))
        elif isinstance(value, np.ndarray):
            out.extend(b"cnumpy.core.multiarray\n_reconstruct\nq\x01(cnumpy\nndarray\n")
            out.extend(b"(K\x00tU\x01btR(K\x01(")
            for n in value.shape:
                put(n)
            out.extend(b"tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR")
            out.extend(b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89")
            put(value.tobytes())
            out.extend(b"tb")
        else:
            out.extend(b"}(" if isinstance(value, dict) else b"](")
            for item in value.items() if isinstance(value, dict) else value:
                for each in item if isinstance(value, dict) else (item,):
                    put(each)
            out.extend(b"u" if isinstance(value, dict) else b"e")

    put(value)
    return bytes(out + b".")


def as_python3(value):
    return pickle.dumps(value, protocol=2)


def cifar_pickles(name, dump):
    """As `cifar_files`, in the layout of the Python version."""
    files, parts = cifar_files(name, rows=20)
    pickles = {}
    for file, content in files.items():
        before = 1 if name == "cifar10" else 2
        records = np.frombuffer(content, np.uint8).reshape(20, -1)
        fine = [int(label) for label in records[:, before - 1]]
        content = {b"batch_label": b"one", b"data": records[:, before:].copy()}
        if name == "cifar10":
            content[b"labels"] = fine
        else:
            content |= {b"fine_labels": fine, b"coarse_labels": [9] * 20}
        content[b"filenames"] = [b"a.png"] * 20
        pickles[file.removesuffix(".bin")] = dump(content)
    return pickles, parts


@pytest.mark.parametrize("dump", [as_python2, as_python3])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_pickled_files(name, dump, tmp_path):
    files, expected = cifar_pickles(name, dump)
    for content in files.values():
        found = pickle.loads(content, encoding="bytes")  # the test made a real pickle
        assert found[b"data"].shape == (20, 3072)
    folder = tmp_path / {"cifar10": "cifar-10-batches-py"}.get(name, "cifar-100-python")
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    for split, (images, labels) in expected.items():
        same(load(name, str(tmp_path))[split], images, labels)
    last = list(files)[-1]
    for length in (0, 1, 40, 1000, len(files[last]) - 1):
        (folder / last).write_bytes(files[last][:length])
        refused(name, tmp_path, last, "not a whole pickle")
    (folder / last).unlink()
    refused(name, tmp_path, f"{last} of {name} is missing")


def test_pickled_files_in_an_archive(tmp_path):
    files, expected = cifar_pickles("cifar100", as_python2)
    path = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file, content in files.items():
            info = tarfile.TarInfo(f"cifar-100-python/{file}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    same(load("cifar100", str(tmp_path))["train"], *expected["train"])


class Call:
    """Pickled, it asks for a call."""

    def __init__(self, function, *arguments):
        self.asked = function, arguments

    def __reduce__(self):
        return self.asked


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("deep", [False, True])
def test_a_pickle_runs_nothing(protocol, deep, tmp_path):
    harm = tmp_path / "harm"
    for call in (Call(open, str(harm), "w"), Call(os.system, f"touch {harm}")):
        content = {b"data": call} if deep else call
        content = pickle.dumps(content, protocol)
        with pytest.raises(
            UsageError, match="file: a pickle that is not read"
        ) as found:
            read_pickled(content, "file")
        assert "\n" not in str(found.value)
        assert not harm.exists()
    pickle.loads(content)
    assert harm.exists()  # it would have


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1], "not hold a dictionary"),
        ({1: b"a"}, "a key is no text"),
        ({"data": np.zeros(3)}, "other numbers than uint8"),
        ({"data": np.zeros((3, 2), np.uint8, "F")}, "by columns"),
        ({"data": 1.5}, "instruction BINFLOAT"),
        ({"data": 2**70}, "instruction LONG1"),
        ({"data": {1, 2}}, "it calls '__builtin__.set'"),
    ],
)
def test_pickles_of_other_things(value, words):
    with pytest.raises(UsageError, match=words):
        read_pickled(as_python3(value), "file")


def test_a_pickle_that_unfolds_is_refused():
    once = as_python3({"a": b"\xff" * 1000})
    assert read_pickled(once, "file") == {"a": b"\xff" * 1000}
    # The same text is turned into bytes again and again.
    again = b"h\x02h\x03h\x04\x86R"
    text = b"X" + (1000).to_bytes(4, "little") + b"a" * 1000
    bomb = b"\x80\x02c_codecs\nencode\nq\x02" + text + b"q\x03X\x06\0\0\0latin1q\x04"
    with pytest.raises(UsageError, match="too often"):
        read_pickled(bomb + 9 * again + b".", "file")


@settings(max_examples=200)
@given(strategies.data())
def test_damaged_pickles_give_one_line(data):
    content = bytearray(
        as_python3({b"data": np.zeros((2, 3), np.uint8), b"labels": [1]})
    )
    for _ in range(data.draw(strategies.integers(1, 4))):
        at = data.draw(strategies.integers(0, len(content) - 1))
        content[at] = data.draw(strategies.integers(0, 255))
    with contextlib.suppress(UsageError):  # and nothing else
        read_pickled(bytes(content), "file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({b"data": np.zeros((2, 3072), np.uint8)}, "instead of 'data' and 'labels'"),
        ({b"data": np.zeros((2, 9), np.uint8), b"labels": [0, 1]}, "3072 pixels"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, "1 labels"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [b"a"]}, "integers"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, "label 10 of"),
    ],
)
def test_pickled_files_of_other_content(content, words, tmp_path):
    for file in cifar_files("cifar10")[0]:
        (tmp_path / file.removesuffix(".bin")).write_bytes(as_python2(content))
    refused("cifar10", tmp_path, words)


# idx files


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def write_idx(folder, rows=4, seed=0):
    folder.mkdir(exist_ok=True)
    for split in ("train", "t10k"):
        images = pixels(rows, 28, 1, seed)[..., 0]
        labels = (np.arange(rows) % 10).astype(np.uint8)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(labels))
        content = gzip.compress(idx(images))
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(content)


def test_idx_files(tmp_path):
    write_idx(tmp_path / "mnist", seed=1)
    write_idx(tmp_path / "fashion_mnist", seed=2)
    for name, seed in (("mnist", 1), ("fashion_mnist", 2)):
        parts = load(name, str(tmp_path))
        same(parts["train"], pixels(4, 28, 1, seed), range(4))
        same(load(name, str(tmp_path / name))["test"], pixels(4, 28, 1, seed), range(4))


def test_idx_files_that_are_damaged_or_missing(tmp_path):
    write_idx(tmp_path / "mnist")
    labels = tmp_path / "mnist" / "train-labels-idx1-ubyte"
    for content in (b"", b"\0\0\x08", idx(np.zeros(3)), labels.read_bytes()[:-1]):
        labels.write_bytes(content)
        refused("mnist", tmp_path, labels.name)
    labels.write_bytes(idx(np.full(4, 11, np.uint8)))
    refused("mnist", tmp_path, "label 11")
    labels.unlink()
    refused("mnist", tmp_path, "train-labels-idx1-ubyte of mnist is missing")
    write_idx(tmp_path / "mnist")
    images = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:100])
    refused("mnist", tmp_path, images.name, "cannot be read")


# Folders of images


def test_folders_of_classes(tmp_path, monkeypatch):
    small(monkeypatch, "cifar10", classes=2, rows={"train": 4, "test": 4})
    images = pixels(4)
    for split in ("train", "test"):
        for row, image in enumerate(images):
            folder = tmp_path / "cifar10" / split / f"class{row % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{row}.png").write_bytes(encoded(image))
    parts = load("cifar10", str(tmp_path))
    same(parts["train"], images[[0, 2, 1, 3]], [0, 0, 1, 1])
    (tmp_path / "cifar10" / "test" / "class2").mkdir()
    refused("cifar10", tmp_path, "3 folders of classes instead of 2")
    (tmp_path / "cifar10" / "test" / "class2").rmdir()
    (tmp_path / "cifar10" / "test" / "class1" / "1.png").write_bytes(b"nonsense")
    refused("cifar10", tmp_path, "1.png", "cannot be decoded")


def test_dtds_own_layout(tmp_path, monkeypatch):
    small(monkeypatch, "dtd", classes=2, rows=dict.fromkeys(image_data.SPLITS, 2))
    folder = tmp_path / "dtd"
    (folder / "labels").mkdir(parents=True)
    for number, word in enumerate(("train", "val", "test")):
        lines = []
        for label in ("banded", "woven"):
            (folder / "images" / label).mkdir(parents=True, exist_ok=True)
            line = f"{label}/{label}_{number}.png"
            image = pixels(1, 8 + number, seed=number)[0]
            (folder / "images" / line).write_bytes(encoded(image))
            lines.append(line)
        (folder / "labels" / f"{word}1.txt").write_text("\n".join(lines) + "\n")
    parts = load("dtd", str(tmp_path))
    assert list(parts) == ["train", "valid", "test"]
    same(parts["valid"], np.repeat(pixels(1, 9, seed=1), 2, 0), [0, 1])
    (folder / "labels" / "val1.txt").write_text("../banded/x.png\n")
    refused("dtd", tmp_path, "val1.txt", "not class/file")
    (folder / "labels" / "val1.txt").write_text("banded/other.png\n")
    refused("dtd", tmp_path, "other.png")
    (folder / "labels" / "val1.txt").unlink()
    refused("dtd", tmp_path, "val1.txt", "no such file")


# TFDS


def test_what_tfds_prepared(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    small(monkeypatch, "cifar10", rows={"train": 6, "test": 3})

    with tfds.core.registered.skip_registration():  # TFDS has one of this name

        class Cifar10(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("3.0.2")

            def _info(self):
                features = {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {
                    "train": self._generate_examples(6),
                    "test": self._generate_examples(3),
                }

            def _generate_examples(self, rows):
                for row, image in enumerate(pixels(rows)):
                    file = io.BytesIO(encoded(image))
                    yield row, {"id": str(row), "image": file, "label": row}

    Cifar10(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    parts = load("cifar10", str(tmp_path))
    for split, rows in (("train", 6), ("test", 3)):
        labels = parts[split].labels
        assert sorted(labels) == list(range(rows))
        np.testing.assert_array_equal(parts[split].images, pixels(rows)[labels])
    with monkeypatch.context() as patch:
        patch.setattr(image_data, "_MAX_BYTES", 6 * 32 * 32 * 3 - 1)
        refused("cifar10", tmp_path, "6 images of up to 32 x 32 are more than 18,431")
    for file in tmp_path.glob("cifar10/3.0.2/cifar10-train*"):
        file.write_bytes(file.read_bytes()[:200])
    refused("cifar10", tmp_path, "TFDS")


# Nothing there


def test_a_set_that_is_not_there(tmp_path):
    refused("cifar100", tmp_path, f"{tmp_path}/cifar100", "docs/vision.md")
    refused("cifar100", tmp_path / "nowhere", "no data directory")


def test_fewer_images_than_the_set_has_are_warned_of(tmp_path):
    for split in ("train", "test"):
        arrays = {"image": pixels(5), "label": np.arange(5)}
        np.savez(tmp_path / f"cifar10_{split}.npz", **arrays)
    few = "5 of the 10 classes and 10 of the 60,000 images of cifar10"
    with pytest.warns(UserWarning, match=few):
        load("cifar10", str(tmp_path))


def test_fewer_classes_than_the_set_has(tmp_path, monkeypatch):
    # 100 classes with two images each for training.
    small(monkeypatch, "cifar100", rows={"train": 200, "test": 100})

    def write(labels):
        labels = np.asarray(labels)
        image = np.zeros((len(labels), 32, 32, 3), np.uint8)
        np.savez(tmp_path / "cifar100_train.npz", image=image, label=labels)
        arrays = {"image": image[:100], "label": labels[:100]}
        np.savez(tmp_path / "cifar100_test.npz", **arrays)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(np.arange(200) % 100)
        load("cifar100", str(tmp_path))
    # Ten of the classes whole, as a part for development may have them.
    write(np.arange(20) % 10)
    with pytest.warns(UserWarning, match="10 of the 100 classes and 40 of the 300"):
        load("cifar100", str(tmp_path))
    # As many images as there should be, but labels of the 20 kinds of classes.
    write(np.arange(200) % 20)
    words = "20 of 100 classes", "10 images of class 0", "about 2 of each"
    refused("cifar100", tmp_path, "train part of cifar100", *words)
    write([7] * 2)
    refused("cifar100", tmp_path, "all images are of class 7")


@pytest.mark.skipif(not DTD_PART.is_dir(), reason="no part of DTD beside the checkout")
def test_a_part_of_dtd_with_ten_classes_can_be_used():
    words = "10 of the 47 classes and 1,200 of the 5,640 images of dtd"
    with pytest.warns(UserWarning, match=words):
        part = load("dtd", str(DTD_PART))["all"]
    assert set(part.labels) == set(range(10))


def test_sets_are_described():
    assert image_data.SETS["cifar100"] == ImageSet(
        100, (32, 32, 3), {"train": 50000, "test": 10000}
    )
