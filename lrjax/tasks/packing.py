"""Packs documents into rows of tokens.

The rows are not cached: packing takes seconds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from lrjax.tasks.tokens import END, PAD, START

_SEED = 0  # for the order of documents and rows


class Pieces(NamedTuple):
    """Parts of documents that each fit into a row.

    Attributes:
      starts, sizes: int64 [pieces], position in the corpus's tokens and length.
    """

    starts: np.ndarray
    sizes: np.ndarray


def pieces(ends: np.ndarray, documents: np.ndarray, room: int, whole: bool) -> Pieces:
    """Cut documents into pieces.

    Args:
      ends: int64, end of every document of the corpus.
      documents: numbers of the documents to cut.
      room: largest number of tokens in a piece.
      whole: keep all pieces of a document; if False only the first.
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
    """Assign pieces to rows by best fit, the longest pieces first.

    Args:
      sizes: int [pieces], at most `length` each.
      length: tokens per row.

    Returns:
      int64 [pieces] twice: the row of each piece, and its first position there.
    """
    rows, offsets = np.empty(len(sizes), np.int64), np.empty(len(sizes), np.int64)
    by_room: list[list[int]] = [[] for _ in range(length + 1)]
    # Bit r of `rooms` is set if some row has room for exactly r more tokens, so that
    # integer arithmetic finds the best row instead of a search.
    rooms = 0
    count = 0
    for piece in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[piece])
        fitting = rooms >> size  # bit r: some row has r more than is needed
        if fitting:
            # x & -x is the lowest set bit of x: the row with the least room left over.
            room = size + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:  # that was the last row with this room
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
    """Make rows of tokens: every piece between START and END, then PAD.

    The rows are in a random order, the same every time.

    Args:
      tokens: the corpus's tokens.
      cut: the pieces, each of at most `length` - 2 tokens.
      length: tokens per row.
      packed: put several pieces into a row where they fit; if False one per row.

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
    filled = np.full(count * length, PAD, np.uint16)
    for first in range(0, len(at), 10**5):  # in slices: the indices take memory
        part = slice(first, first + 10**5)
        size = cut.sizes[part]
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        target = np.repeat(at[part] + 1, size) + within
        filled[target] = tokens[np.repeat(cut.starts[part], size) + within]
    filled[at] = START
    filled[at + sizes - 1] = END
    return filled.reshape(count, length)


def split(documents: int, study: bool) -> dict[str, np.ndarray]:
    """Split document numbers into 'train', 'valid' and 'test', the same every time.

    Validation and test get half a percent of the documents each, but at least 2,000 and
    at most a twentieth. With `study` there is no 'test', and 'valid' gets half a
    percent, rounded up as in Hugging Face's `train_test_split`.

    Args:
      documents: how many there are.
      study: whether to split as the study does.

    Returns:
      Name of the part -> numbers of its documents, in random order.
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
