"""Belief on contenders, and its change by their runs.

A contender's score on a task is its regret in points (`lrjax.hpo.points`): 0 for the
best there is, negative for others. Beliefs are normal: a mean and a covariance, so that
a run of one contender says something of all that behave like it on known tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lrjax.hpo.points import clipped

_LEVEL = 1e4  # variance of what all contenders have in common, points^2: unknown
# Of what they have in common on one choice of validation rows. It cancels where all
# were measured on the same rows.
_FOLD = 10.0**2
_DRAWS = 2000
_POWERS = range(0, 11)  # of 2, factors of a belief's variance that are tried
_USUAL_POWER = 2.0  # standard deviation of the power that is expected
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
    """Measurements of runs; arrays [runs].

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
      evidence: logarithm of the density of what was measured, but for a constant.
    """

    belief: Belief
    surprise: float
    evidence: float


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
    evidence = -0.5 * (length + np.linalg.slogdet(spread)[1])
    surprise = length / max(1, len(who) - 1)
    return Updated(Belief(mean, covariance), surprise, float(evidence))


def scaled(belief: Belief, runs: Runs, noise: float) -> Updated:
    """Update a belief whose variance is first scaled to what runs show.

    On some tasks all good contenders are much alike, on others far apart, and what is
    known of similar tasks may be wrong. The factor is the one under which what was
    measured is most likely, times a wide prior of its own around 1.
    """
    after = {
        power: update(
            belief._replace(covariance=2.0**power * belief.covariance), runs, noise
        )
        for power in _POWERS
    }

    def likely(power: int) -> float:
        """Logarithm of how likely a factor is after the runs."""
        return after[power].evidence - 0.5 * (power / _USUAL_POWER) ** 2

    return after[max(_POWERS, key=likely)]._replace(surprise=after[0].surprise)


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
    drawn = draws(belief)
    most = drawn.max(1)
    best = np.bincount(drawn.argmax(1), minlength=len(belief.mean)) / _DRAWS
    return Chances(best, (drawn >= most[:, None] - NEAR).mean(0))


def shifted(chance: Any, log_odds: float) -> Any:
    """Probabilities whose log odds are higher by `log_odds`.

    Example: odds of 1 to 3 become twice as high.
      >>> round(shifted(0.25, float(np.log(2))), 3)
      0.4
    """
    higher = chance * math.exp(log_odds)
    return higher / (higher + (1 - chance))


def promising(belief: Belief, have: Sequence[int], count: int) -> list[int]:
    """Contenders of which the best is expected to be best, together with some others.

    One after the other, each that raises most the expected highest score of those that
    are in: who is alike to one that is in adds little, who may be far better adds much.

    Args:
      belief: on all contenders.
      have: numbers of those that are in anyway.
      count: how many to add, at most.

    Example: the second is as the first, the third is worse but another kind.
      >>> alike = np.array([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 4.0]])
      >>> promising(Belief(np.array([0.0, -0.1, -0.5]), alike), [], 2)
      [0, 2]
    """
    drawn = draws(belief)
    chosen = list(have)
    best = drawn[:, chosen].max(1, initial=-np.inf)
    for _ in range(min(count, len(belief.mean) - len(have))):
        expected = np.maximum(drawn, best[:, None]).mean(0)
        expected[chosen] = -np.inf
        chosen.append(int(expected.argmax()))
        best = np.maximum(best, drawn[:, chosen[-1]])
    return chosen[len(have) :]


def draws(belief: Belief) -> np.ndarray:
    """Scores drawn from a belief [draws, contenders], by the same numbers each time."""
    count = len(belief.mean)
    # A little more variance than there is, since rounding may have left less than none.
    little = 1e-9 * max(float(np.trace(belief.covariance)), 1e-9)
    root = np.linalg.cholesky(belief.covariance + little * np.eye(count))
    normal = np.random.RandomState(0).normal(size=(_DRAWS, count))
    return belief.mean + normal @ root.T
