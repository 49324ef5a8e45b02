"""Find the curve rows of unfinished runs without parsing those of finished ones.

A study has millions of curve rows, nearly all of finished runs, and only unfinished
runs get more of them. So a working directory opens in the time that reading the file
takes, in memory that does not grow with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrjax.common import files
from lrjax.core import UsageError
from lrjax.tables import reader

_START = b'{"run_id": "'  # of each line of curves.jsonl, as `results.line` writes it
_REACH = 29  # bytes of a line that hold this, a run_id and a quotation mark


class Unfinished(NamedTuple):
    """Curve rows of unfinished runs.

    Attributes:
      steps: run_id -> the steps that have rows.
      kept: size of the table's whole lines in bytes, each with its newline.
    """

    steps: dict[str, set[int]]
    kept: int


def unfinished(path: Path, finished: Collection[str]) -> Unfinished:
    """Find the rows of runs that are not finished.

    Args:
      path: curves.jsonl.
      finished: `run_id`s of the finished runs.

    Raises:
      UsageError: if the file cannot be read, or a row of an unfinished run is damaged
        or contradicts an earlier row.
    """
    known = _mixtures(finished)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    kept, number = 0, 0
    for lines, starts in _pieces(path):
        for index in np.flatnonzero(~_are_known(lines, starts, known)):
            begin = int(starts[index])
            line = bytes(lines[begin : lines.index(b"\n", begin)])
            place = number + int(index) + 1
            key, row = reader.row_of(path, place, line)
            if key[0] not in finished:
                reader.check_equal(path, place, row, rows.setdefault(key, row))
        number, kept = number + len(starts), kept + len(lines)
    steps: dict[str, set[int]] = {}
    for run_id, step in rows:
        steps.setdefault(run_id, set()).add(step)
    return Unfinished(steps, kept)


def _pieces(path: Path) -> Iterator[tuple[bytes, np.ndarray]]:
    """Read whole lines piece by piece, each piece with the starts of its lines.

    Like `reader.whole_lines`, drops a torn last line with a warning.
    """
    try:
        for lines in reader.pieces(path):
            if not lines.endswith(b"\n"):
                lines = reader.last_line(path, lines)
            ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n"))
            if len(ends):
                yield lines, np.concatenate([[0], ends[:-1] + 1])
    except OSError as error:
        raise UsageError(f"cannot read {path}: {files.words(error)}") from error


def _mixtures(run_ids: Collection[str]) -> np.ndarray:
    """Mix each run_id of 16 characters into a number; sorted."""
    names = [name for name in map(str.encode, run_ids) if len(name) == 16]
    halves = np.frombuffer(b"".join(names), np.uint64).reshape(-1, 2)
    return np.sort(_mixture(halves[:, 0], halves[:, 1]))


def _mixture(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Mix the two halves of run_ids, 8 characters each as a number, into one number.

    Two run_ids with the same mixture are as unlikely as two runs with the same run_id,
    which has 64 bits, too.
    """
    return first * np.uint64(0x9E3779B97F4A7C15) + second * np.uint64(
        0xC2B2AE3D27D4EB4F
    )


def _are_known(lines: bytes, starts: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether each line begins with the run_id of a known run.

    Args:
      lines: whole lines.
      starts: where they start.
      known: from `_mixtures`.
    """
    text = lines + bytes(_REACH)  # what is looked at may reach beyond the last line

    def numbers_at(offset: int, kind: type) -> np.ndarray:
        """The number that begins `offset` bytes after the start of each line."""
        return np.ndarray((len(lines),), kind, text, offset, (1,))[starts]

    mixed = _mixture(numbers_at(12, np.uint64), numbers_at(20, np.uint64))
    distinct = np.unique(mixed)
    places = np.searchsorted(known, distinct)
    is_new = np.append(known, 0)[places] != distinct
    ours = numbers_at(0, np.uint64) == np.frombuffer(_START[:8], np.uint64)
    ours &= numbers_at(4, np.uint64) == np.frombuffer(_START[4:], np.uint64)
    ours &= numbers_at(28, np.uint8) == ord('"')
    if is_new.any():
        ours &= ~np.isin(mixed, distinct[is_new])
    return ours
