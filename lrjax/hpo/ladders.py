"""Short runs that a share of one full run pays for: rates of a few methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lrjax.hpo.lengths import Peak

LEAST = 20  # updates of a run that says something of the best rate (docs/advise.md)
_SIZES = ((2, 5), (2, 3), (1, 5), (1, 3))  # methods, and rates of each; best first
_STEP = 0.5  # decades between rates
_WIDE = 0.8  # decades: a standard deviation from which rates are further apart


class Ladders(NamedTuple):
    """Short runs of some methods at some rates.

    Attributes:
      methods: how many.
      rates: of each method.
      updates: of each run.
    """

    methods: int
    rates: int
    updates: int

    @property
    def cost(self) -> int:
        """Updates of all runs together."""
        return self.methods * self.rates * self.updates


def affordable(updates: int, methods: int, full: int) -> Ladders | None:
    """The best ladders that a number of updates pays for; None if there are none.

    Args:
      updates: of all runs together, at most.
      methods: how many could have a ladder.
      full: updates of a full run; a short run has no more.

    Example:
      >>> affordable(1000, 2, 10_000)
      Ladders(methods=2, rates=5, updates=100)
      >>> affordable(150, 2, 10_000)
      Ladders(methods=2, rates=3, updates=25)
      >>> affordable(50, 2, 10_000) is None
      True
    """
    for count, rates in _SIZES:
        each = min(full, updates // (count * rates))
        if count <= methods and each >= min(LEAST, full):
            return Ladders(count, rates, each)
    return None


def least(looked: float, full: int) -> float:
    """The least share of a full run that pays for any ladder.

    Args:
      looked: updates that looking at the task costs.
      full: updates of a full run.

    Example:
      >>> least(40, 1000)
      0.1
    """
    methods, rates = _SIZES[-1]
    return (looked + methods * rates * min(LEAST, full)) / full


def rungs(expected: Peak, count: int, within: Sequence[float] = ()) -> list[float]:
    """Learning rates of a ladder, around the one that is expected to be best.

    They are powers of the root of ten, so that ladders of different lengths have rates
    in common.

    Args:
      expected: the best rate of runs of this length.
      count: of rates, odd.
      within: logarithms of rates that make sense, between whose ends the ladder is
        moved; all do if there is but one.

    Example:
      >>> rungs(Peak(-2.1, 0.1), 3)
      [0.00316, 0.01, 0.0316]
      >>> rungs(Peak(0.4, 0.1), 3, [-4.0, 0.0])
      [0.1, 0.316, 1.0]
    """
    step = _STEP if math.sqrt(expected.variance) < _WIDE else 2 * _STEP
    half = count // 2
    middle = expected.log_rate
    if len(within) > 1:
        middle = max(min(middle, max(within) - half * step), min(within) + half * step)
    middle = _STEP * round(middle / _STEP)
    places = range(-half, half + 1)
    return [float(f"{10 ** (middle + step * place):.3g}") for place in places]
