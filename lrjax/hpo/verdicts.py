"""Who goes on after a rung, and why the others do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from lrjax.core import counted

_NOISE = 0.05  # one-sided level at which a difference is more than noise


class Score(NamedTuple):
    """What a contender reached on a rung, a number per seed, higher is better.

    Attributes:
      values: the task's metric; -inf where the run diverged, or it is not defined.
      losses: minus the validation loss; -inf where the run diverged.
    """

    values: np.ndarray
    losses: np.ndarray

    def judged(self, early: bool) -> np.ndarray:
        """What contenders are compared by.

        Far from the end accuracies are coarse, and tell less of what they will be at
        the end than the loss does.

        Args:
          early: whether the rung ends before training does.
        """
        return self.losses if early else self.values

    def rank(self, early: bool) -> tuple[float, float]:
        """To sort by, descending; the other measure decides between equals."""
        first, second = self.judged(early), self.judged(not early)
        return float(first.mean()), float(second.mean())


def chance_worse(leader: np.ndarray, other: np.ndarray) -> float:
    """One-sided p-value of a paired t-test: that `other` is no worse than `leader`.

    Accuracies come in steps, so that a few differences may be equal by chance, which
    a t-test would take for certainty: then it is a sign test.

    Args:
      leader, other: a score per seed, higher is better.

    Returns:
      NaN with fewer than two seeds.
    """
    apart = leader - other
    if len(apart) < 2 or not np.isfinite(apart).all():
        return math.nan
    mean, spread = float(apart.mean()), float(apart.std(ddof=1))
    if not mean:
        return 0.5
    if spread <= 1e-6 * abs(mean):  # numbers are kept to nine digits
        agreed = 0.5 ** len(apart)
        return agreed if mean > 0 else 1 - agreed
    return float(stats.t.sf(mean / (spread / math.sqrt(len(apart))), len(apart) - 1))


class Verdict(NamedTuple):
    """What becomes of the contenders of a rung.

    Attributes:
      order: numbers of all, the best first.
      kept: numbers of those that go on, the best first.
      reasons: number -> why it is dropped.
    """

    order: list[int]
    kept: list[int]
    reasons: dict[int, str]


def judge(scores: Mapping[int, Score], quota: int, early: bool) -> Verdict:
    """Who goes on: the best as many as the quota; not who diverged.

    Who is worse beyond noise is no exception: noise between seeds is small, and what an
    early rung does not tell of the end is not in it.

    Args:
      scores: number of a contender -> what it reached.
      quota: how many may go on.
      early: whether the rung ends before training does.
    """
    order = sorted(scores, key=lambda i: (*(-x for x in scores[i].rank(early)), i))
    leader, kept, reasons = scores[order[0]], [], {}
    for i in order:
        if not np.isfinite(scores[i].values).all():
            what, lost = "diverged", ~np.isfinite(scores[i].losses)
            if not lost.any():
                what, lost = "not defined", ~np.isfinite(scores[i].values)
            seeds = counted(len(lost), "seed")
            reasons[i] = f"{what} with {int(lost.sum())} of {seeds}"
            continue
        chance = chance_worse(leader.judged(early), scores[i].judged(early))
        if len(kept) < quota:
            kept.append(i)
        elif chance < _NOISE:
            reasons[i] = f"the quota of {quota}; worse beyond noise (p = {chance:.2g})"
        else:
            known = "" if math.isnan(chance) else f"; p = {chance:.2g} is noise"
            reasons[i] = f"the quota of {quota}{known}"
    return Verdict(order, kept, reasons)
