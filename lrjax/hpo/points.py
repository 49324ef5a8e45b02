"""Measured values as points, so that what is known of one metric helps with another.

A point is a hundredth of a bounded metric's range: of accuracy, one per cent of the
rows. Of a loss, and of other positive metrics of which less is better, two per cent of
its value are a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

SHARE, RATIO = "share", "ratio"  # kinds of metrics, as in the table of known tasks
CLIP = 10.0  # points: contenders that are further behind are all equally bad
_PER_LOG = 50.0  # points for a factor of e
_LEAST = 1e-12  # of a loss: smaller ones are equal


class Scale(NamedTuple):
    """Properties of a metric that points follow from.

    Attributes:
      sign: 1 where more is better, -1 where less is.
      low, high: its bounds; infinite where there are none.
    """

    sign: float
    low: float
    high: float

    @classmethod
    def of(cls, metric: Any) -> Scale:
        """The scale of a `lrjax.Metric`."""
        return cls(metric.sign, metric.least, metric.greatest)

    @property
    def kind(self) -> str:
        """`SHARE` of bounded metrics, else `RATIO`."""
        return SHARE if np.isfinite(self.high - self.low) else RATIO


def points(values: Sequence[float] | np.ndarray, scale: Scale) -> np.ndarray:
    """Values of a metric in points, more is better; -inf where they are not finite.

    Args:
      values: measured, all of one task.
      scale: of the metric.

    Example:
      >>> points([0.5, 0.75], Scale(1, 0.0, 1.0)).tolist()
      [50.0, 75.0]
      >>> near = points([1.0, 0.98], Scale(-1, 0.0, np.inf))
      >>> round(float(near[1] - near[0]), 2)
      1.01
    """
    values = np.asarray(values, float)
    finite = np.isfinite(values)
    known = np.where(finite, values, 1.0)
    if scale.kind == SHARE:
        found = 100 * scale.sign * known / (scale.high - scale.low)
    elif scale.sign < 0 and (known[finite] >= 0).all():
        found = -_PER_LOG * np.log(np.maximum(known, _LEAST))
    else:  # no natural unit: relative to the best there is
        best = (scale.sign * known[finite]).max(initial=-np.inf)
        unit = max(abs(best), _LEAST) if finite.any() else 1.0
        with np.errstate(over="ignore"):  # further behind than numbers go: -inf
            found = _PER_LOG * scale.sign * known / unit
    return np.where(finite, found, -np.inf)


def clipped(values: np.ndarray) -> np.ndarray:
    """Points no further than `CLIP` below the third best, or the best of fewer.

    One contender that is far behind must not move what is believed of all others.
    """
    values = np.asarray(values, float)
    finite = np.sort(values[np.isfinite(values)])[::-1]
    if not len(finite):
        return np.zeros_like(values)
    return np.maximum(values, finite[min(2, len(finite) - 1)] - CLIP)
