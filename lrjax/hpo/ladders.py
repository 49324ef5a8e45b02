"""Which short runs a share of one full run pays for: rates of a few methods."""

from __future__ import annotations

import math
from typing import NamedTuple

from lrjax.hpo.lengths import Peak

LEAST = 40  # updates of a run that says something of the best rate (docs/advise.md)
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
      >>> affordable(250, 2, 10_000)
      Ladders(methods=2, rates=3, updates=41)
      >>> affordable(100, 2, 10_000) is None
      True
    """
    for count, rates in _SIZES:
        each = min(full, updates // (count * rates))
        if count <= methods and each >= min(LEAST, full):
            return Ladders(count, rates, each)
    return None


def rungs(expected: Peak, count: int) -> list[float]:
    """Learning rates of a ladder, around the one that is expected to be best.

    They are powers of the root of ten, so that ladders of different lengths have rates
    in common.

    Args:
      expected: the best rate of runs of this length.
      count: of rates, odd.

    Example:
      >>> rungs(Peak(-2.1, 0.1), 3)
      [0.00316, 0.01, 0.0316]
    """
    step = _STEP if math.sqrt(expected.variance) < _WIDE else 2 * _STEP
    middle = _STEP * round(expected.log_rate / _STEP)
    places = range(-(count // 2), count // 2 + 1)
    return [float(f"{10 ** (middle + step * place):.3g}") for place in places]
