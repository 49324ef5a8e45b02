"""What is believed of contenders, and what their runs change of it.

A contender's score on a task is its regret in points (`lrjax.hpo.points`): 0 for the
best there is, negative for others. Beliefs are normal: a mean and a covariance, so that
a run of one contender says something of all that behave like it on known tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lrjax.hpo.points import clipped

_LEVEL = 1e4  # variance of what all contenders have in common, points^2: unknown
# Of what they have in common on one choice of validation rows. It cancels where all
# were measured on the same rows.
_FOLD = 2.4**2
_DRAWS = 2000
NEAR = 0.5  # points: as good as the best


class Belief(NamedTuple):
    """A normal distribution over the scores of contenders.

    Attributes:
      mean: [contenders], points.
      covariance: [contenders, contenders], points^2.
    """

    mean: np.ndarray
    covariance: np.ndarray

    def only(self, which: Sequence[int]) -> Belief:
        """The belief on some of the contenders."""
        which = list(which)
        return Belief(self.mean[which], self.covariance[np.ix_(which, which)])


class Runs(NamedTuple):
    """What runs have measured; arrays [runs].

    Attributes:
      who: number of the contender.
      fold: number of the choice of validation rows.
      points: from `points.points`; -inf of a run that was lost.
    """

    who: np.ndarray
    fold: np.ndarray
    points: np.ndarray


class Updated(NamedTuple):
    """A belief after runs.

    Attributes:
      belief: on all contenders, those without runs, too.
      surprise: squared length of the runs' deviations from what was believed, in units
        of what was believed of them, per run beyond the first.
    """

    belief: Belief
    surprise: float


def update(belief: Belief, runs: Runs, noise: float) -> Updated:
    """Condition a belief on runs.

    A run's points are the contender's score, plus a level that all runs share, plus one
    that all on the same validation rows share, plus noise; the levels are unknown.

    Args:
      belief: before the runs.
      runs: at least one.
      noise: variance of a run's points, those of seeds and of validation rows.

    Returns:
      The belief after them, by Gaussian conditioning.

    Example: two contenders of which nothing is known, and a run of each.
      >>> prior = Belief(np.zeros(2), 4 * np.eye(2))
      >>> runs = Runs(np.array([0, 1]), np.array([0, 0]), np.array([72.0, 70.0]))
      >>> after = update(prior, runs, noise=1.0).belief
      >>> round(float(after.mean[0] - after.mean[1]), 2)
      1.6
    """
    who, folds = np.asarray(runs.who, int), np.asarray(runs.fold, int)
    count = len(belief.mean)
    used = np.unique(folds)
    # Beside the scores: the level, and that of each choice of rows.
    size = count + 1 + len(used)
    joint = np.zeros((size, size))
    joint[:count, :count] = belief.covariance
    beyond = [_LEVEL, *[_FOLD] * len(used)]
    joint[range(count, size), range(count, size)] = beyond
    seen = np.zeros((len(who), size))
    rows = np.arange(len(who))
    seen[rows, who] = 1
    seen[:, count] = 1
    seen[rows, count + 1 + np.searchsorted(used, folds)] = 1
    expected = belief.mean[who]
    off = clipped(runs.points) - expected
    off = off - np.median(off)  # the level's own prior is wide around this
    together = joint @ seen.T
    spread = seen @ together + noise * np.eye(len(who))
    solved = np.linalg.solve(spread, np.column_stack([off, together.T]))
    mean = belief.mean + (together @ solved[:, 0])[:count]
    covariance = belief.covariance - (together @ solved[:, 1:])[:count, :count]
    length = float(off @ solved[:, 0])
    return Updated(Belief(mean, covariance), length / max(1, len(who) - 1))


class Chances(NamedTuple):
    """Probabilities of each contender.

    Attributes:
      best: that it is the best of them, [contenders].
      near: that it is at most `NEAR` points worse than the best of them.
    """

    best: np.ndarray
    near: np.ndarray


def chances(belief: Belief) -> Chances:
    """Probabilities by draws from a belief, the same draws each time.

    Example:
      >>> sure = chances(Belief(np.array([0.0, -9.0]), 0.01 * np.eye(2)))
      >>> sure.best.tolist(), sure.near.tolist()
      ([1.0, 0.0], [1.0, 0.0])
    """
    count = len(belief.mean)
    # A little more variance than there is, since rounding may have left less than none.
    little = 1e-9 * max(float(np.trace(belief.covariance)), 1e-9)
    root = np.linalg.cholesky(belief.covariance + little * np.eye(count))
    normal = np.random.RandomState(0).normal(size=(_DRAWS, count))
    draws = belief.mean + normal @ root.T
    most = draws.max(1)
    best = np.bincount(draws.argmax(1), minlength=len(belief.mean)) / _DRAWS
    return Chances(best, (draws >= most[:, None] - NEAR).mean(0))
