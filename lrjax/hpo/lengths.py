"""Change of a method's best learning rate with the length of a run.

The best rate of a short run, with its whole schedule in its own length, is near that of
a long one, but not the same. `lengths.npz` has what `benchmarks/lengths.py` learned of
tasks on which both were measured: by how many decades the best rate moves, and how much
tasks differ in that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lrjax.hpo.points import RATIO, SHARE
from lrjax.hpo.prior import Past, key_of

FILE = Path(__file__).with_name("lengths.npz")
_SOFT = 1.0  # points: rates that are so near to the best count nearly as much
OUTSIDE = 0.25  # variance, decades^2, where the best rate of a ladder is its last
_UNLIKE = 1.0  # variance, decades^2, that a task unlike all known ones adds
_LOST = 30.0  # points behind the best: of runs that were lost


class Peak(NamedTuple):
    """Belief on a method's best rate: a normal distribution.

    Attributes:
      log_rate: mean of its logarithm to base 10.
      variance: decades^2.
    """

    log_rate: float
    variance: float

    def moved(self, by: Peak) -> Peak:
        """The belief after a move that is itself uncertain."""
        return Peak(self.log_rate + by.log_rate, self.variance + by.variance)

    def before(self, by: Peak) -> Peak:
        """The belief before a move that is itself uncertain."""
        return Peak(self.log_rate - by.log_rate, self.variance + by.variance)

    def wider(self) -> Peak:
        """The same where little is known of tasks like this one."""
        return Peak(self.log_rate, self.variance + _UNLIKE)

    def joined(self, other: Peak) -> Peak:
        """Both together, as two independent measurements of the same.

        Example:
          >>> Peak(-2.0, 1.0).joined(Peak(-3.0, 1.0))
          Peak(log_rate=-2.5, variance=0.5)
        """
        both = 1 / self.variance + 1 / other.variance
        mean = self.log_rate / self.variance + other.log_rate / other.variance
        return Peak(mean / both, 1 / both)


class Lengths(NamedTuple):
    """Known best rates at several lengths.

    Attributes:
      first, slope: method -> decades by which the best rate moves over the first
        decade of length beyond `slope`, and for each decade; '' for other methods.
      variance: decades^2 over the first decade, and for each: how tasks differ, and
        how wrong a ladder is.
      bend: kind of metric (`points`) -> points that are lost a decade below the best
        rate, and above.
    """

    first: Mapping[str, float]
    slope: Mapping[str, float]
    variance: tuple[float, float]
    bend: Mapping[str, tuple[float, float]]

    def move(self, method: str, ratio: float) -> Peak:
        """By how much a method's best rate moves when runs become longer.

        Args:
          method: its name.
          ratio: the longer run's updates over the shorter one's, 1 or more.

        Example:
          >>> known = Lengths({"": 0.1}, {"": -0.3}, (0.04, 0.01), {})
          >>> moved = known.move("adam", 100)
          >>> round(moved.log_rate, 3), round(moved.variance, 3)
          (-0.5, 0.06)
        """
        decades = math.log10(max(1.0, ratio))
        once = min(1.0, decades)
        first = self.first.get(method, self.first[""])
        slope = self.slope.get(method, self.slope[""])
        return Peak(
            first * once + slope * decades,
            self.variance[0] * once + self.variance[1] * decades,
        )

    def lost(self, kind: str, away: np.ndarray) -> np.ndarray:
        """Points lost at rates beside the best one.

        Args:
          kind: of the metric, as in `points`.
          away: decades above the best rate, negative below.
        """
        below, above = self.bend[kind]
        return np.where(away < 0, below, above) * away**2


@functools.cache
def known(path: Path = FILE) -> Lengths:
    """Read what is known."""
    with np.load(path, allow_pickle=False) as file:
        methods = ("", *map(str, file["moving"]))
        first, slope = file["move"].astype(float).tolist()
        return Lengths(
            first=dict(zip(methods, first, strict=True)),
            slope=dict(zip(methods, slope, strict=True)),
            variance=tuple(file["variance"].astype(float).tolist()),
            bend={
                kind: tuple(file[f"{kind}_bend"].astype(float).tolist())
                for kind in (SHARE, RATIO)
            },
        )


@functools.cache
def past(path: Path = FILE) -> tuple[Past, ...]:
    """The tasks that this was learned of: known tasks with runs of full length."""
    found = []
    with np.load(path, allow_pickle=False) as file:
        keys = [
            key_of(str(method), float(rate))
            for method, rate in zip(file["methods"], file["rates"], strict=True)
        ]
        names = [str(name) for name in file["features"]]
        for kind in (SHARE, RATIO):
            described = file[f"{kind}_described"].astype(float).tolist()
            regret = -file[f"{kind}_regret"].astype(float) / 10
            families = map(str, file[f"{kind}_families"])
            for family, values, scores in zip(
                families, described, regret.tolist(), strict=True
            ):
                about = dict(zip(names, values, strict=True))
                reached = dict(zip(keys, scores, strict=True))
                found.append(Past(family, kind, about, reached))
    return tuple(found)


def peak(log_rates: Sequence[float], points: Sequence[float]) -> Peak | None:
    """The best rate of runs that differ in their rate alone.

    Their mean, weighted by how near each comes to the best, and the variance of what is
    so weighted: large where all rates are equally good, and where the last is the best.
    How wrong such a ladder is beyond that is part of `Lengths.variance`.

    Args:
      log_rates: logarithms to base 10, ascending.
      points: what each reached, more is better; not finite where a run was lost.

    Returns:
      None if all were lost.

    Example:
      >>> found = peak([-3.0, -2.5, -2.0], [60.0, 70.0, 60.0])
      >>> round(found.log_rate, 3), round(found.variance, 3)
      (-2.5, 0.0)
      >>> found = peak([-3.0, -2.5, -2.0], [50.0, 60.0, 70.0])
      >>> round(found.log_rate, 3), round(found.variance, 3)
      (-2.0, 0.25)
    """
    reached, logs = np.asarray(points, float), np.asarray(log_rates, float)
    finite = np.isfinite(reached)
    if not finite.any():
        return None
    best = reached[finite].max()
    behind = np.where(finite, reached, best - _LOST) - best
    weights = np.exp(behind / _SOFT)
    weights /= weights.sum()
    mean = float(weights @ logs)
    variance = float(weights @ (logs - mean) ** 2)
    inside = 0 < int(behind.argmax()) < len(behind) - 1
    return Peak(mean, variance if inside else variance + OUTSIDE)
