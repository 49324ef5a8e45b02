"""Read some arrays of a .npz file, after a look at their headers.

What a header claims is compared with the size of its member before memory is taken, and
arrays that nobody asks for are not decompressed.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrjax.common import packed
from lrjax.core import shown
from lrjax.tasks import data
from lrjax.tasks.data import DataError

_ENDING = ".npy"
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Header(NamedTuple):
    """The header of an array.

    Attributes:
      shape: the shape.
      dtype: the type: integers, floats or truth values.
    """

    shape: tuple[int, ...]
    dtype: np.dtype


def names(path: Path) -> set[str]:
    """Names of the arrays in a .npz file.

    Raises:
      DataError: if it is not an archive of files, or is damaged.
    """
    with data.reading(path), packed.open_zip(path) as archive:
        members = archive.namelist()
    return {name.removesuffix(_ENDING) for name in members if name.endswith(_ENDING)}


def headers(path: Path, wanted: Collection[str], most: int) -> dict[str, Header]:
    """Headers of some arrays in a .npz file, by name.

    Args:
      path: the file.
      wanted: names of the arrays.
      most: largest size in bytes of an array.

    Raises:
      DataError: if an array is missing, damaged or larger, or holds other things than
        numbers.
    """
    found = {}
    for name in wanted:
        with data.reading(path), packed.open_zip(path) as archive:
            size = archive.getinfo(name + _ENDING).file_size
            with packed.open_member(archive, name + _ENDING, most) as stream:
                found[name] = _header(stream, size, f"{path}: {shown(name)}")
    return found


def read(path: Path, wanted: Collection[str], most: int) -> dict[str, np.ndarray]:
    """Read some arrays of a .npz file; arguments and errors are those of `headers`."""
    arrays = {}
    for name in headers(path, wanted, most):
        with (
            data.reading(path),
            packed.open_zip(path) as archive,
            packed.open_member(archive, name + _ENDING, most) as stream,
        ):
            arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
            # The checksum is compared at the end.
            if stream.read(1):
                raise DataError(f"{path}: {shown(name)} is longer than its header says")
    return arrays


def _header(stream: Any, size: int, where: str) -> Header:
    """Read the header of an array in a member of `size` bytes."""
    version = np.lib.format.read_magic(stream)
    if version not in _READERS:
        raise DataError(f"{where} is of version {version} of the format")
    shape, _, dtype = _READERS[version](stream)
    if dtype.kind not in "biuf":
        raise DataError(f"{where} holds other things than numbers")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise DataError(f"{where} has a shape that is not of whole numbers")
    if math.prod(shape) * dtype.itemsize != size - stream.tell():
        raise DataError(f"{where} has another size than its header says")
    return Header(shape, dtype)
