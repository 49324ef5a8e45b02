"""Rows of tokens for a model, made from documents.

Documents are packed into rows anew at each start, which takes seconds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from lrjax.tasks.tokens import END, PAD, START

_SEED = 0  # of the order of documents and rows


class Pieces(NamedTuple):
    """Parts of documents, none longer than a row has room for.

    Attributes:
      starts, sizes: int64, where each lies among a corpus's tokens.
    """

    starts: np.ndarray
    sizes: np.ndarray


def pieces(ends: np.ndarray, documents: np.ndarray, room: int, whole: bool) -> Pieces:
    """Cuts documents into pieces.

    Args:
      ends: of all documents.
      documents: which ones to cut.
      room: the most tokens of a piece.
      whole: keep what is beyond the first piece of a document.
    """
    starts = np.concatenate([[0], ends[:-1]])[documents]
    sizes = ends[documents] - starts
    if not whole:
        return Pieces(starts, np.minimum(sizes, room))
    counts = -(-sizes // room)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return Pieces(
        np.repeat(starts, counts) + room * nth,
        np.minimum(np.repeat(sizes, counts) - room * nth, room),
    )


def pack(sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts pieces into rows: the longest first, each where the least room is left over.

    Args:
      sizes: of the pieces, at most `length`.
      length: of a row.

    Returns:
      The row of each piece, and where in it the piece starts.
    """
    rows, offsets = np.empty(len(sizes), np.int64), np.empty(len(sizes), np.int64)
    by_room: list[list[int]] = [[] for _ in range(length + 1)]
    # Bit r of `rooms` is set where some row has room for r more tokens. The best row
    # for a piece is then found by integer arithmetic instead of a search.
    rooms = 0
    count = 0
    for piece in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[piece])
        fitting = rooms >> size  # bit r: room for r more than the piece takes
        if fitting:
            # x & -x is the lowest set bit of x: the least room left over.
            room = size + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:  # it was the last row with this room
                rooms &= ~(1 << room)
        else:
            row, room = count, length
            count += 1
        rows[piece], offsets[piece] = row, length - room
        left = room - size
        by_room[left].append(row)
        rooms |= 1 << left
    return rows, offsets


def make_rows(tokens: np.ndarray, cut: Pieces, length: int, packed: bool) -> np.ndarray:
    """Rows of tokens: each piece between START and END, then PAD.

    Rows come in a random order, the same every time.

    Args:
      tokens: of the corpus.
      cut: what to put into rows; no piece is longer than `length` - 2.
      length: of a row.
      packed: several pieces in a row, where they fit; else one.

    Returns:
      uint16 [rows, length].
    """
    sizes = cut.sizes + 2
    if packed:
        rows, offsets = pack(sizes, length)
    else:
        rows, offsets = np.arange(len(sizes)), np.zeros(len(sizes), np.int64)
    count = int(rows.max(initial=-1)) + 1
    order = np.random.RandomState(_SEED).permutation(count)
    at = order[rows] * length + offsets
    made = np.full(count * length, PAD, np.uint16)
    for first in range(0, len(at), 10**5):  # in slices, because of the indices
        part = slice(first, first + 10**5)
        size = cut.sizes[part]
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        target = np.repeat(at[part] + 1, size) + within
        made[target] = tokens[np.repeat(cut.starts[part], size) + within]
    made[at] = START
    made[at + sizes - 1] = END
    return made.reshape(count, length)


def split(documents: int, study: bool) -> dict[str, np.ndarray]:
    """Which documents train, validate and test, the same every time.

    Half a percent validates and as much tests; of fewer than 400,000 documents 2,000,
    but no more than a twentieth. With `study` half a percent, rounded up as Hugging
    Face's `train_test_split` does, does both.
    """
    order = np.random.RandomState(_SEED).permutation(documents)
    if study:
        part = math.ceil(0.005 * documents)
        return {"valid": order[:part], "train": order[part:]}
    part = min(max(documents // 200, 2000), documents // 20)
    return {
        "valid": order[:part],
        "test": order[part : 2 * part],
        "train": order[2 * part :],
    }
