"""What a part of the proof is: items that are computed, and how they are judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Numbers = Mapping[str, np.ndarray]
Row = dict[str, Any]

DEVICE, CPU, AGAIN, ANEW = "device", "cpu", "again", "anew"


class NotRunError(Exception):
    """An item cannot be computed here; says what it needs."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the proof; each of its sides is computed by a process of its own.

    Attributes:
      name: in tables and on the command line.
      items: what is computed one after the other, and kept when it is done.
      compute: `compute(item, folder)` returns named arrays; the folder is the item's
        own, for files that help to go on where it was stopped.
      judge: `judge(item, numbers)` makes rows of the numbers of each side.
      sides: where items are computed; `DEVICE` and `CPU` at the same time.
      proves: whether it is about correctness: what dies then proves nothing.
    """

    name: str
    items: tuple[str, ...]
    compute: Callable[[str, Path], Mapping[str, Any]]
    judge: Callable[[str, Mapping[str, Numbers]], list[Row]]
    sides: tuple[str, ...] = (DEVICE,)
    proves: bool = True


def check(name: str, error: float, tolerance: float | None) -> Row:
    """The row of a comparison; without a tolerance it is told, and never fails."""
    row: Row = {"check": name, "error": error, "tolerance": tolerance}
    return row if tolerance is None else row | {"ok": bool(error <= tolerance)}


def under(numbers: Numbers, start: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `start/`, without it."""
    start += "/"
    return {k.removeprefix(start): v for k, v in numbers.items() if k.startswith(start)}
