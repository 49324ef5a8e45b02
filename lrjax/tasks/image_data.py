"""Reads image data sets from local copies as uint8 arrays.

The data directory, and the folder there that has the data set's name, are searched for
NumPy archives, CIFAR's original files, idx files, folders of images, and data sets
prepared by TFDS. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import itertools
import math
import os
import tarfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from lrjax.common import files, packed
from lrjax.core import counted, cut
from lrjax.tasks import data, npz, pickled
from lrjax.tasks.data import DataError

SPLITS = ("train", "valid", "test")
# Limits, each of which bounds the memory that a file can take.
_MAX_BYTES = 2**33  # per array; all of DTD, padded to its largest picture, has 6.5 GiB
_MAX_PIXELS = (
    2**26
)  # of a picture: 8192 x 8192; its decoder takes up to 8 bytes for each
_MAX_FILE = 2**28  # bytes of a file of CIFAR or MNIST; the largest has 155 MB
_MAX_LIST = 2**20  # bytes of a list of pictures; DTD's have 60 kB
# Upper limit of a class's size, in means; the largest here is 1.124 (MNIST's digit 1).
_LARGEST_CLASS = 1.2
_WORDS = {
    "train": ("train",),
    "valid": ("valid", "val", "validation"),
    "test": ("test",),
}
_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm"}
# What Pillow may take a picture for. It goes by content, and would run Ghostscript on
# PostScript. A camera's JPEG with previews, MPO, comes with JPEG.
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "GIF")
# Pillow's modes with at most 8 bits per channel, and with more.
_SHALLOW = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"}
_DEEP = {"I;16", "I;16L", "I;16B", "I;16N", "I"}


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Expected content of a data set.

    Attributes:
      classes: number of classes.
      shape: height, width and channels; None for colour images of any size.
      rows: number of images in each split.
    """

    classes: int
    shape: tuple[int, int, int] | None
    rows: Mapping[str, int]


SETS = {
    "digits": ImageSet(10, (8, 8, 1), {"train": 1079, "valid": 359, "test": 359}),
    "mnist": ImageSet(10, (28, 28, 1), {"train": 60000, "test": 10000}),
    "fashion_mnist": ImageSet(10, (28, 28, 1), {"train": 60000, "test": 10000}),
    "cifar10": ImageSet(10, (32, 32, 3), {"train": 50000, "test": 10000}),
    "cifar100": ImageSet(100, (32, 32, 3), {"train": 50000, "test": 10000}),
    "dtd": ImageSet(47, None, {"train": 1880, "valid": 1880, "test": 1880}),
}


class Part(NamedTuple):
    """Images of one split.

    Attributes:
      images: uint8 [rows, height, width, channels]; smaller images are padded with
        zeros below and to the right.
      labels: integers [rows], class numbers from 0.
      sizes: int32 [rows, 2], height and width of each image; None if all are equal.
    """

    images: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray | None = None


def load(name: str, data_dir: str | None) -> dict[str, Part]:
    """Read a data set from the data directory or the cache.

    Args:
      name: a key of `SETS`.
      data_dir: directory searched first; $LRJAX_DATA_DIR if None.

    Returns:
      'train', 'test' and, if the set has it, 'valid'; or 'all' if there is no split.

    Raises:
      DataError: if there is no copy, or it is damaged or another data set.
    """
    entry = SETS[name]
    root = data.root(data_dir)
    if root and not os.path.isdir(root):
        raise DataError(f"{name}: there is no data directory {root}")
    cache = data.cache_dir() / "images"
    roots = [root] if root else []
    folders = [path for base in [*roots, cache] for path in (base / name, base)]
    for folder in folders:
        if not folder.is_dir():
            continue
        for reader in (_from_npz, _from_cifar, _from_idx, _from_pictures):
            parts = reader(name, entry, folder)
            if parts:
                return _checked(name, entry, folder, parts)
    for base in [*roots, cache / "tfds"]:
        if any((base / name).glob("*/dataset_info.json")):
            return _checked(name, entry, base, _from_tfds(name, base))
    searched = ", ".join(map(str, folders))
    raise DataError(
        f"{name}: no copy is in {searched}; docs/vision.md says which forms are read"
    )


def _checked(
    name: str, entry: ImageSet, where: Path, parts: Mapping[str, Part]
) -> dict[str, Part]:
    """Refuse parts that do not belong to the data set; warn if images are missing."""
    for split, part in parts.items():
        images, labels, _ = part
        place = f"{where}: {split} part of {name}"
        _check_images(images.shape, images.dtype, entry, place)
        _check_labels(labels.shape, images.shape, place)
        if labels.min() < 0 or labels.max() >= entry.classes:
            row = int(np.argmax((labels < 0) | (labels >= entry.classes)))
            raise DataError(
                f"{place}: label {labels[row]} of image {row} is not between 0 and "
                f"{entry.classes - 1}"
            )
    if "all" not in parts:
        missing = [split for split in entry.rows if split not in parts]
        if missing:
            raise DataError(f"{where}: {name} has no {missing[0]} part")
    count = sum(len(part.images) for part in parts.values())
    whole = sum(entry.rows.values())
    classes = _classes(name, entry, where, parts)
    lacking = f"{count:,} of the {whole:,} images" if count != whole else ""
    if classes != entry.classes:
        of_classes = f"{classes} of the {entry.classes} classes"
        lacking = f"{of_classes} and {lacking}" if lacking else of_classes
    if lacking:
        warnings.warn(
            f"{where}: {lacking} of {name}; results do not compare with those on the "
            "whole set",
            stacklevel=2,
        )
    return dict(parts)


def _check_images(
    shape: tuple[int, ...], dtype: np.dtype, entry: ImageSet, where: object
) -> None:
    """Refuse arrays that are not the images of a set; grey ones may lack an axis."""
    if len(shape) == 3:
        shape = (*shape, 1)
    if dtype != np.uint8 or len(shape) != 4 or not shape[0]:
        raise DataError(
            f"{where}: images are {dtype} {shape} instead of uint8 "
            "[rows, height, width, channels]"
        )
    expected = entry.shape or (*shape[1:3], 3)
    if shape[1:] != expected:
        raise DataError(
            f"{where}: images of {_size(shape[1:])} instead of {_size(expected)}"
        )


def _check_labels(
    shape: tuple[int, ...], images: tuple[int, ...], where: object
) -> None:
    """Refuse labels that are not one for each image."""
    if shape not in ((images[0],), (images[0], 1)):
        raise DataError(
            f"{where}: {counted(images[0], 'image')}, but labels of shape {shape}"
        )


def _classes(name: str, entry: ImageSet, where: Path, parts: Mapping[str, Part]) -> int:
    """Count the classes of the training part.

    Raises:
      DataError: if classes are missing and the others are larger than in this set, so
        that the images or labels must belong to another one.
    """
    split = "all" if "all" in parts else "train"
    images_of = np.bincount(parts[split].labels, minlength=entry.classes)
    classes = int(np.count_nonzero(images_of))
    if classes == entry.classes:
        return classes
    place = f"{where}: {split} part of {name}"
    if classes == 1:
        raise DataError(f"{place}: all images are of class {images_of.argmax()}")
    rows = sum(entry.rows.values()) if split == "all" else entry.rows[split]
    mean = rows / entry.classes
    if images_of.max() > math.ceil(_LARGEST_CLASS * mean):
        raise DataError(
            f"{place}: {classes} of {entry.classes} classes, and "
            f"{counted(images_of.max(), 'image')} of class {images_of.argmax()}, "
            f"where {name} has about {mean:,.0f} "
            "of each; images or labels are of another set"
        )
    return classes


def _size(shape: Sequence[int]) -> str:
    """A shape for messages: '32 x 32 x 3'."""
    return " x ".join(map(str, shape))


def _part(images: np.ndarray, labels: np.ndarray, where: object) -> Part:
    """Make a part: add a missing channel axis and convert labels to int64."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu":
        raise DataError(f"{where}: labels are {labels.dtype} instead of integers")
    if images.ndim == 3:
        images = images[..., None]
    return Part(images, labels.astype(np.int64))


# NumPy archives


def _from_npz(name: str, entry: ImageSet, folder: Path) -> dict[str, Part] | None:
    """Read .npz files: one per split, one with both (x_train, ...), or one of all."""
    own = folder.name == name
    paths = [
        path
        for path in sorted(folder.glob("*.npz"))
        if not data.is_hidden(path.name)
        # cifar10_train is of cifar10, cifar100_train is not
        and (own or path.stem == name or path.stem.startswith((f"{name}_", f"{name}-")))
    ]
    by_split = {
        split: [p for p in paths if set(_parts_of(p.stem)) & set(words)]
        for split, words in _WORDS.items()
    }
    if any(by_split.values()):
        return {
            split: _read_npz(found[0], entry)
            for split, found in by_split.items()
            if found
        }
    both = ("x_train", "y_train", "x_test", "y_test")
    for path in paths:
        if npz.names(path).issuperset(both):
            arrays = _npz(path, both, entry)
            return {
                split: _part(arrays[f"x_{split}"], arrays[f"y_{split}"], path)
                for split in ("train", "test")
            }
        return {"all": _read_npz(path, entry)}
    return None


def _parts_of(stem: str) -> list[str]:
    """Words of a file name: 'mnist-train' -> ['mnist', 'train']."""
    return stem.lower().replace("-", "_").replace(".", "_").split("_")


def _npz(
    path: Path, wanted: Sequence[str], entry: ImageSet | None
) -> dict[str, np.ndarray]:
    """Read arrays of a .npz file, images before labels.

    Args:
      path: the file.
      wanted: names of the arrays.
      entry: the data set, if the arrays are pixels and labels: their headers are
        compared with it first.
    """
    if entry is not None:
        found = npz.headers(path, wanted, _MAX_BYTES)
        for images, labels in zip(wanted[::2], wanted[1::2], strict=True):
            _check_images(found[images].shape, found[images].dtype, entry, path)
            _check_labels(found[labels].shape, found[images].shape, path)
    return npz.read(path, wanted, _MAX_BYTES)


def _read_npz(path: Path, entry: ImageSet) -> Part:
    """Read one part from a .npz file of pixels, or of encoded JPEG images."""
    names = npz.names(path)
    for pair in (("image", "label"), ("images", "labels"), ("x", "y")):
        if names.issuperset(pair):
            arrays = _npz(path, pair, entry)
            return _part(arrays[pair[0]], arrays[pair[1]], path)
    encoded = ("jpeg", "offsets", "labels")
    if not names.issuperset(encoded):
        held = ", ".join(sorted(names)) or "nothing"
        raise DataError(f"{path}: holds {cut(held)} instead of image and label")
    arrays = _npz(path, encoded, None)
    ends = arrays["offsets"]
    stored = arrays["jpeg"]
    if ends.dtype.kind not in "iu" or stored.dtype != np.uint8 or stored.ndim != 1:
        raise DataError(
            f"{path}: offsets are {ends.dtype} and jpeg {stored.dtype} with "
            f"{stored.ndim} dimensions, instead of integers and a row of uint8"
        )
    ends = ends.astype(np.int64)  # unsigned differences would never be negative
    rising = ends.ndim == 1 and len(ends) > 1 and (np.diff(ends) > 0).all()
    if not rising or ends[0] < 0 or ends[-1] > len(stored):
        raise DataError(f"{path}: offsets do not lead to images")
    room = _Room(len(ends) - 1, path)
    images = [
        _picture(stored[start:stop].tobytes(), f"{path}: image {row}", 3, room)
        for row, (start, stop) in enumerate(itertools.pairwise(ends))
    ]
    return _stack(images, arrays["labels"], path)


# Encoded images


class _Room:
    """Room for the pictures of a part, which are padded to the largest.

    Attributes:
      count: number of pictures.
      where: for messages.
    """

    def __init__(self, count: int, where: object) -> None:
        self.count, self.where = count, where
        self._height = self._width = 0

    def take(self, height: int, width: int, channels: int) -> None:
        """Note the size of the next picture.

        Raises:
          DataError: if the pictures together would be too large.
        """
        self._height = max(self._height, height)
        self._width = max(self._width, width)
        if self.count * self._height * self._width * channels > _MAX_BYTES:
            raise DataError(
                f"{self.where}: {counted(self.count, 'image')} of up to "
                f"{self._height} x {self._width} are more than {_MAX_BYTES:,} bytes"
            )


def _picture(
    source: bytes | Path, where: str, channels: int = 3, room: _Room | None = None
) -> np.ndarray:
    """Decode an image, after a look at the size that its header says.

    Args:
      source: the file, or its content.
      where: for messages.
      channels: 1 or 3.
      room: where there must be room for it.

    Returns:
      uint8 [height, width, channels].

    Raises:
      DataError: if it cannot be decoded, is too large, or its meaning is ambiguous.
    """
    from PIL import Image

    with (
        data.reading(where, "cannot be decoded"),
        _opened(source) as file,
        Image.open(file, formats=_FORMATS) as image,
    ):
        width, height = image.size
        if width * height > _MAX_PIXELS:
            raise DataError(
                f"{where}: {height} x {width} pixels are more than {_MAX_PIXELS:,}"
            )
        if room is not None:
            room.take(height, width, channels)
        pixels = _pixels(image, "RGB" if channels == 3 else "L", where)
    return pixels.reshape(*pixels.shape[:2], channels)


def _opened(source: bytes | Path) -> BinaryIO:
    """A file to read, of its content or from the disk."""
    return io.BytesIO(source) if isinstance(source, bytes) else files.open_given(source)


def _pixels(image: Any, mode: str, where: str) -> np.ndarray:
    """Convert a Pillow image to 8 bits per channel, rotated as its EXIF data says.

    Of 16-bit numbers the high byte is kept, as Pillow does for colour images.

    Args:
      image: the Pillow image.
      mode: 'L' or 'RGB'.
      where: for messages.

    Returns:
      uint8 [height, width], or [height, width, 3] for 'RGB'.

    Raises:
      DataError: if the result would be ambiguous: several frames, transparent pixels,
        or numbers of an unknown range.
    """
    from PIL import Image, ImageOps

    kind = f"{where}: a {image.format} picture of mode {image.mode}"
    # MPO is a camera's JPEG with previews. `n_frames` would look for all pictures.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise DataError(f"{kind} that holds several pictures instead of one")
    fills = _fills_16_bits(image)
    image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP:
        if not fills:
            raise DataError(f"{kind}: the range of its numbers is not known")
        pixels = np.asarray(image)
        clear = image.info.get("transparency")
        if clear is not None and (pixels == clear).any():
            raise DataError(f"{kind} with transparent pixels: lay it on a background")
        # Pillow reads some 16-bit files as 32-bit integers.
        if pixels.min() < 0 or pixels.max() > 2**16 - 1:
            raise DataError(f"{kind}: its numbers are not of 16 bits")
        return np.asarray(Image.fromarray((pixels >> 8).astype(np.uint8)).convert(mode))
    if image.mode not in _SHALLOW:
        raise DataError(f"{kind}: not a kind that is read")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise DataError(f"{kind} with transparent pixels: lay it on a background")
    return np.asarray(image.convert(mode))


def _fills_16_bits(image: Any) -> bool:
    """Whether the image's format implies numbers from 0 to 65,535."""
    if image.format == "TIFF":
        return image.mode != "I" and set(image.tag_v2.get(258, ())) == {16}
    return image.format in ("PNG", "PPM")


def _stack(images: Sequence[np.ndarray], labels: Any, where: object) -> Part:
    """Stack images, of equal or different sizes, into a part."""
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    height, width = map(int, sizes.max(axis=0))
    channels = images[0].shape[2]
    _Room(len(images), where).take(height, width, channels)
    stacked = np.zeros((len(images), height, width, channels), np.uint8)
    for row, image in enumerate(images):
        stacked[row, : image.shape[0], : image.shape[1]] = image
    part = _part(stacked, np.asarray(labels), where)
    equal = (sizes == sizes[0]).all()
    return part if equal else part._replace(sizes=sizes)


# CIFAR in its authors' archives


class _Packing(NamedTuple):
    """A distribution of CIFAR.

    Attributes:
      files: split -> names of its files.
      folder: name of the folder with the files.
      archive: name of the archive, without .tar or .tar.gz.
      read: function (name, split, content, where) -> pixels and labels of a file.
    """

    files: Mapping[str, Sequence[str]]
    folder: str
    archive: str
    read: Callable[[str, str, bytes, str], tuple[np.ndarray, np.ndarray]]


def _packings(name: str) -> list[_Packing]:
    """The binary and the Python distribution of CIFAR; none for other sets."""
    if name == "cifar10":
        batches = [f"data_batch_{i}" for i in range(1, 6)]
        files = {"train": batches, "test": ["test_batch"]}
        stem, folder = "cifar-10", "cifar-10-batches-bin"
        python = "cifar-10-batches-py"
    elif name == "cifar100":
        files = {"train": ["train"], "test": ["test"]}
        stem, folder = "cifar-100", "cifar-100-binary"
        python = "cifar-100-python"
    else:
        return []
    binary = {
        split: [f"{file}.bin" for file in group] for split, group in files.items()
    }
    return [
        _Packing(binary, folder, f"{stem}-binary", _binary_cifar),
        _Packing(files, python, f"{stem}-python", _pickled_cifar),
    ]


def _from_cifar(name: str, entry: ImageSet, folder: Path) -> dict[str, Part] | None:
    """Read CIFAR's original files, unpacked or in an archive."""
    for packing in _packings(name):
        wanted = [file for group in packing.files.values() for file in group]
        for place in (folder / packing.folder, folder):
            present = [file for file in wanted if files.is_there(place / file)]
            if present:
                missing = [file for file in wanted if file not in present]
                if missing:
                    raise DataError(f"{place}: {missing[0]} of {name} is missing")
                read = {f: data.read_bytes(place / f, _MAX_FILE) for f in wanted}
                return _cifar_parts(name, packing, read, place)
        for ending in (".tar.gz", ".tar"):
            path = folder / (packing.archive + ending)
            if files.is_there(path):
                return _cifar_parts(name, packing, _members(path, wanted), path)
    return None


def _members(path: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """Read the wanted files of a tar archive, plain or compressed: name -> content."""
    contents = {}
    with (
        data.reading(path),
        packed.open_given(path, data.MAX_BYTES, guess=True) as file,
        tarfile.open(fileobj=file, mode="r:") as archive,
    ):
        for member in archive:
            name = os.path.basename(member.name)
            if name in wanted and member.isfile():
                if member.size > _MAX_FILE:
                    raise DataError(f"{path}: {name} is too large")
                stream = archive.extractfile(member)
                assert stream is not None  # it is a file
                # In pieces, of which `file` gives no more than one at once.
                pieces = iter(functools.partial(stream.read, packed.PIECE // 16), b"")
                contents[name] = b"".join(pieces)
    for name in wanted:
        if name not in contents:
            raise DataError(f"{path}: {name} is missing")
    return contents


def _cifar_parts(
    name: str, packing: _Packing, read: Mapping[str, bytes], where: Path
) -> dict[str, Part]:
    """Make parts from the contents of CIFAR's files."""
    parts = {}
    for split, group in packing.files.items():
        place = f"{where}: {split} part of {name}"
        batches = [
            packing.read(name, split, read[file], f"{where}: {file}") for file in group
        ]
        planes, labels = map(np.concatenate, zip(*batches, strict=True))
        # Every row stores the red, then the green, then the blue plane.
        images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts[split] = _part(np.ascontiguousarray(images), labels, place)
    return parts


def _binary_cifar(
    name: str, split: str, content: bytes, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [rows, 3072] and labels of a file of the binary version."""
    # A record: the label (CIFAR-100: the coarse, then the fine one), then the pixels.
    before = 1 if name == "cifar10" else 2
    rows = SETS[name].rows[split] // (5 if (name, split) == ("cifar10", "train") else 1)
    size = rows * (before + 3072)
    if len(content) != size:
        raise DataError(
            f"{where} has {counted(len(content), 'byte')} instead of {size:,}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, before + 3072)
    return records[:, before:], records[:, before - 1]


def _pickled_cifar(
    name: str, split: str, content: bytes, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [rows, 3072] and labels of a file of the Python version."""
    del split
    fields = pickled.read_pickled(content, where)
    key = "labels" if name == "cifar10" else "fine_labels"
    pixels, labels = fields.get("data"), fields.get(key)
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list):
        held = ", ".join(map(ascii, fields)) or "nothing"
        raise DataError(f"{where} holds {cut(held)} instead of 'data' and '{key}'")
    if pixels.ndim != 2 or pixels.shape[1] != 3072 or len(labels) != len(pixels):
        raise DataError(
            f"{where}: pixels of shape {pixels.shape} and {len(labels)} labels instead "
            "of 3072 pixels for each label"
        )
    if not all(type(label) is int for label in labels):
        raise DataError(f"{where}: labels are not all integers")
    return pixels, np.asarray(labels, np.int64)


# idx files


def _from_idx(name: str, entry: ImageSet, folder: Path) -> dict[str, Part] | None:
    """Read MNIST's or Fashion-MNIST's idx files."""
    if name not in ("mnist", "fashion_mnist"):
        return None
    if folder.name != name and (folder / name).is_dir():
        return None  # other sets have files of the same names
    wanted = [
        f"{split}-{content}"
        for split in ("train", "t10k")
        for content in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    paths = {file: data.find_file([file], [folder]) for file in wanted}
    if not any(paths.values()):
        return None
    arrays = {}
    for file, path in paths.items():
        if path is None:
            raise DataError(f"{folder}: {file} of {name} is missing")
        arrays[file] = read_idx(path)
    return {
        split: _part(
            arrays[f"{prefix}-images-idx3-ubyte"],
            arrays[f"{prefix}-labels-idx1-ubyte"],
            folder,
        )
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of bytes, plain or compressed: uint8, up to 3 dimensions.

    Raises:
      DataError: if it is damaged or holds numbers other than bytes.
    """
    content = data.read_bytes(path, _MAX_FILE)
    dims = content[3] if len(content) > 3 else 0
    if content[:3] != b"\0\0\x08" or not dims or len(content) < 4 + 4 * dims:
        raise DataError(f"{path}: not an idx file of bytes")
    if dims > 3:  # damaged; NumPy has a limit too
        raise DataError(f"{path}: {dims} dimensions are more than 3")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dims, 4))
    if len(content) != 4 + 4 * dims + math.prod(shape):
        raise DataError(
            f"{path}: {counted(len(content) - 4 - 4 * dims, 'byte')} of {_size(shape)}"
        )
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)


# Folders of images


def _from_pictures(name: str, entry: ImageSet, folder: Path) -> dict[str, Part] | None:
    """Read images in folders SPLIT/CLASS/, or in the layout of DTD's authors."""
    if name == "dtd" and (folder / "images").is_dir() and (folder / "labels").is_dir():
        return _dtd(entry, folder)
    if folder.name != name:
        return None
    roots = {}
    for split, words in _WORDS.items():
        present = [folder / word for word in words if (folder / word).is_dir()]
        if present:
            roots[split] = present[0]
    if "train" not in roots:
        return None
    names = _folders(roots["train"])
    channels = entry.shape[2] if entry.shape else 3
    parts = {}
    for split, root in roots.items():
        classes = _folders(root)
        if len(classes) != entry.classes or classes != names:
            raise DataError(
                f"{root}: {len(classes)} folders of classes instead of {entry.classes}"
                if len(classes) != entry.classes
                else f"{root}: its folders of classes are not those of {roots['train']}"
            )
        listed = [
            (file, number)
            for number, label in enumerate(classes)
            for file in _entries(root / label)
            if file.suffix.lower() in _PICTURES
        ]
        parts[split] = _read_pictures(listed, root, channels)
    return parts


def _entries(folder: Path) -> list[Path]:
    """List a folder in order, without hidden files."""
    with data.reading(folder):
        paths = sorted(folder.iterdir())
    return [path for path in paths if not data.is_hidden(path.name)]


def _folders(root: Path) -> list[str]:
    """Names of the subfolders, one per class, in order."""
    return [path.name for path in _entries(root) if path.is_dir()]


def _dtd(entry: ImageSet, folder: Path) -> dict[str, Part]:
    """Read DTD in its authors' layout: images/ and the lists of split 1."""
    names = _folders(folder / "images")
    if len(names) != entry.classes:
        raise DataError(
            f"{folder / 'images'}: {len(names)} folders of classes instead of "
            f"{entry.classes}"
        )
    parts = {}
    for split, word in (("train", "train"), ("valid", "val"), ("test", "test")):
        list_file = folder / "labels" / f"{word}1.txt"
        lines = data.read_bytes(list_file, _MAX_LIST).decode("utf-8", "replace")
        listed = []
        for number, line in enumerate(lines.split(), 1):
            label = line.split("/")[0]
            if label not in names or line.count("/") != 1 or ".." in line:
                raise DataError(f"{list_file}: entry {number} is not class/file")
            listed.append((folder / "images" / line, names.index(label)))
        parts[split] = _read_pictures(listed, list_file, 3)
    return parts


def _read_pictures(
    listed: Sequence[tuple[Path, int]], where: Path, channels: int
) -> Part:
    """Read image files with their class numbers."""
    if not listed:
        raise DataError(f"{where}: no images")
    room = _Room(len(listed), where)
    images = [_picture(path, str(path), channels, room) for path, _ in listed]
    return _stack(images, [label for _, label in listed], where)


# TFDS


def _from_tfds(name: str, folder: Path) -> dict[str, Part]:
    """Read a data set that TFDS prepared as array_record files; no TensorFlow needed.

    Preparing one does need TensorFlow, so that is left to TFDS's own command.

    Raises:
      DataError: if reading fails.
    """
    import tensorflow_datasets as tfds

    data.check_regular(folder / name)
    with data.reading(folder, "TFDS"):
        sources: Any = tfds.data_source(
            name,
            data_dir=str(folder),
            download=False,
            builder_kwargs={"file_format": "array_record"},
        )
        parts = {}
        for split in sources:
            word = "valid" if split == "validation" else str(split)
            if word in SPLITS:
                images, labels = [], []
                room = _Room(len(sources[split]), folder)
                for number in range(len(sources[split])):
                    row = sources[split][number]
                    image = np.asarray(row["image"])
                    if image.dtype != np.uint8 or image.ndim != 3:
                        raise DataError(
                            f"{folder}: {split} image {number} is {image.dtype} "
                            f"{image.shape} instead of uint8 [height, width, channels]"
                        )
                    room.take(*image.shape)
                    images.append(image)
                    labels.append(row["label"])
                parts[word] = _stack(images, np.asarray(labels, np.int64), folder)
    return parts
