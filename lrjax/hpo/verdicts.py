"""Who goes on after a rung, and why the others do not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

_NOISE = 0.05  # one-sided level at which a difference is more than noise


class Score(NamedTuple):
    """What a contender reached on a rung, a number per seed.

    Attributes:
      values: the task's metric, higher is better; -inf where the run diverged.
      ties: minus the validation loss, which decides between equal values.
    """

    values: np.ndarray
    ties: np.ndarray

    @property
    def rank(self) -> tuple[float, float]:
        """To sort by, descending."""
        return float(self.values.mean()), float(self.ties.mean())


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


def judge(scores: Mapping[int, Score], quota: int, late: bool) -> Verdict:
    """Who goes on: the best as many as the quota; not who diverged.

    Who is worse beyond noise than the leader may nevertheless be a slow starter, and
    keeps its place while the race is young.

    Args:
      scores: number of a contender -> what it reached.
      quota: how many may go on.
      late: whether those that are worse beyond noise are dropped inside the quota.
    """
    order = sorted(scores, key=lambda i: (*(-x for x in scores[i].rank), i))
    leader, kept, reasons = scores[order[0]], [], {}
    for i in order:
        if not np.isfinite(scores[i].values).all():
            count = int((~np.isfinite(scores[i].values)).sum())
            reasons[i] = f"diverged with {count} of {len(scores[i].values)} seeds"
            continue
        chance = chance_worse(leader.values, scores[i].values)
        beyond = chance < _NOISE
        if len(kept) < quota and not (beyond and late):
            kept.append(i)
        elif beyond:
            reasons[i] = f"worse beyond noise (p = {chance:.2g})"
        else:
            known = "" if math.isnan(chance) else f"; p = {chance:.2g} is noise"
            reasons[i] = f"the quota of {quota}{known}"
    return Verdict(order, kept, reasons)
