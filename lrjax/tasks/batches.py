"""The batches of an iterator as whole arrays, in memory or, if large, on disk.

Arrays on disk are mapped from files without names (`files.nameless`): nothing is left
of them when the last array is gone, even if the process is killed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import jax
import numpy as np

from lrjax.common import files
from lrjax.core import UsageError
from lrjax.tasks import data

MOST = 2**34  # bytes of batches that are collected: 16 GiB
IN_MEMORY = 2**30  # bytes from which on they are written to disk
_AT_ONCE = 2**20  # rows that are moved together


def collect(
    batches: Iterable[Mapping[str, np.ndarray]], where: str, most: int = MOST
) -> dict[str, np.ndarray]:
    """Put together the rows of batches.

    Args:
      batches: name -> array with a row per example.
      where: the part of a task, for messages.
      most: largest size in bytes of all batches.

    Returns:
      name -> array with all rows, in the types that they have on the device; mapped
      from files in lrjax's cache if they have more than `IN_MEMORY` bytes.

    Raises:
      UsageError: if batches differ in names, types or shapes of rows, if there are more
        than `most` bytes or no batches, or if they cannot be written to disk.

    Example:
      >>> batches = ({"x": np.full((2, 3), i)} for i in range(4))
      >>> collect(batches, "train")["x"].shape
      (8, 3)
    """
    first: dict[str, np.ndarray] = {}
    waiting: dict[str, list[np.ndarray]] = {}
    size = rows = 0
    with contextlib.ExitStack() as stack:
        stored: dict[str, BinaryIO] = {}
        for number, batch in enumerate(batches, 1):
            arrays = {name: _as_on_device(array) for name, array in batch.items()}
            first = first or arrays
            _check_alike(first, arrays, f"{where}: batch {number}")
            for name, array in arrays.items():
                waiting.setdefault(name, []).append(array)
            size += sum(array.nbytes for array in arrays.values())
            rows += len(next(iter(arrays.values())))
            if size > most:
                raise UsageError(
                    f"{where}: the batches have more than {most:,} bytes, or never "
                    "end: set max_bytes= if they are that large"
                )
            if stored or size > IN_MEMORY:
                stored = stored or {n: stack.enter_context(_new_file()) for n in first}
                _write(waiting, stored)
        if not first:
            raise UsageError(
                f"{where} yields no batches: it is empty, or has been used up before"
            )
        if not stored:
            return {name: np.concatenate(arrays) for name, arrays in waiting.items()}
        return {
            name: np.memmap(
                stored[name], like.dtype, "r+", shape=(rows, *like.shape[1:])
            )
            for name, like in first.items()
        }


def is_on_disk(array: Any) -> bool:
    """Whether `collect` wrote an array to disk."""
    return isinstance(array, np.memmap) and array.filename is None


def split(
    arrays: Mapping[str, np.ndarray], parts: Sequence[np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """Split rows into parts.

    Args:
      arrays: name -> array; those on disk are overwritten.
      parts: the rows of each part, in ascending order.

    Returns:
      the parts; the first is on disk where the array is, the others are in memory.
    """
    others = [{k: v[at] for k, v in arrays.items()} for at in parts[1:]]
    return [{k: _kept(v, parts[0]) for k, v in arrays.items()}, *others]


def _kept(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Keep some rows of an array; one on disk is overwritten, since it may be large."""
    if not is_on_disk(array):
        return array[rows]
    for start in range(0, len(rows), _AT_ONCE):  # rows move to the front, never back
        at = rows[start : start + _AT_ONCE]
        array[start : start + len(at)] = array[at]
    return array[: len(rows)]


def _as_on_device(array: np.ndarray) -> np.ndarray:
    """Copy an array, as loaders reuse memory, in the type that it has on the device."""
    return np.array(array, jax.dtypes.canonicalize_dtype(array.dtype))


def _check_alike(
    first: Mapping[str, np.ndarray], batch: Mapping[str, np.ndarray], where: str
) -> None:
    """Refuse a batch unlike the first."""
    if set(batch) != set(first):
        raise UsageError(
            f"{where} has the entries {', '.join(batch)}, the first {', '.join(first)}"
        )
    for name, array in batch.items():
        if _row(array) != _row(first[name]):
            raise UsageError(
                f"{where}: {name} has rows of {_row(array)}, those of the first batch "
                f"{_row(first[name])}: give all one type, and pad them to one length"
            )


def _row(array: np.ndarray) -> str:
    """Type and shape of a row, such as 'float32 [3]'."""
    return f"{array.dtype} {list(array.shape[1:])}"


def _new_file() -> BinaryIO:
    """A new file in lrjax's cache."""
    folder = data.cache_dir()
    files.make_folder(folder, folder.parent)
    return files.nameless(folder)


def _write(
    waiting: Mapping[str, list[np.ndarray]], stored: Mapping[str, BinaryIO]
) -> None:
    """Append arrays to files, and forget them."""
    with files.writing(data.cache_dir() / "batches"):
        for name, arrays in waiting.items():
            for array in arrays:
                stored[name].write(array.tobytes())
            stored[name].flush()
            arrays.clear()
