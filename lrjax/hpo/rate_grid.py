"""The learning rates at which a method enters a selection."""

from __future__ import annotations

import math

import numpy as np

_SAME = 0.1  # decades: closer to the default a rate of the grid is left out


def rates(default: float, low: float, high: float) -> list[float]:
    """The default, then a rate per decade of the method's space.

    Args:
      default: the method's own rate.
      low, high: ends of its space, both included.

    Example:
      >>> rates(0.005, 1e-3, 1.0)
      [0.005, 0.001, 0.01, 0.1, 1.0]
    """
    grid = np.geomspace(low, high, round(math.log10(high / low)) + 1).tolist()
    found = [float(f"{rate:.6g}") for rate in grid]
    return [
        default,
        *(r for r in found if default <= 0 or abs(math.log10(r / default)) > _SAME),
    ]
