"""Which contenders stay after a rung, and why the others are dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

from lrjax.core import counted

_NOISE = 0.05  # one-sided significance level


class Score(NamedTuple):
    """Measurements of a contender on a rung, [seeds]; higher is better.

    Attributes:
      values: the task's metric; -inf where the run diverged or the metric is undefined.
      losses: minus the validation loss; -inf where the run diverged.
    """

    values: np.ndarray
    losses: np.ndarray

    def judged(self, early: bool) -> np.ndarray:
        """The measurement that contenders are compared by, [seeds].

        Before the end of training it is the loss, which predicts the final accuracy
        better than the accuracy, whose steps are coarse.

        Args:
          early: whether the rung ends before training does.
        """
        return self.losses if early else self.values

    def rank(self, early: bool) -> tuple[float, float]:
        """Sort key, larger is better; the other measurement breaks ties."""
        first, second = self.judged(early), self.judged(not early)
        return float(first.mean()), float(second.mean())


def chance_worse(leader: np.ndarray, other: np.ndarray) -> float:
    """One-sided p-value for `other` being worse than `leader`, by a paired t-test.

    Accuracies come in steps, so a few differences may all be equal by chance; a t-test
    would call that certain, so a sign test takes its place.

    Args:
      leader, other: scores, [seeds]; higher is better.

    Returns:
      The p-value; NaN with fewer than two seeds or where a run diverged.
    """
    gaps = leader - other
    if len(gaps) < 2 or not np.isfinite(gaps).all():
        return math.nan
    mean, spread = float(gaps.mean()), float(gaps.std(ddof=1))
    if not mean:
        return 0.5
    if spread <= 1e-6 * abs(mean):  # equal: the table keeps nine digits
        by_sign = 0.5 ** len(gaps)
        return by_sign if mean > 0 else 1 - by_sign
    statistic = mean / (spread / math.sqrt(len(gaps)))
    return float(special.stdtr(len(gaps) - 1, -statistic))  # Student's t


class Verdict(NamedTuple):
    """The judgement on the contenders of a rung.

    Attributes:
      order: numbers of all contenders, the best first.
      kept: numbers of those that stay, the best first.
      reasons: number of a dropped contender -> why.
    """

    order: list[int]
    kept: list[int]
    reasons: dict[int, str]


def judge(scores: Mapping[int, Score], quota: int, early: bool) -> Verdict:
    """Keep the best contenders up to the quota; drop those that diverged.

    Significantly worse contenders stay if the quota allows: the noise between seeds is
    small, and does not cover how badly an early rung predicts the end.

    Args:
      scores: number of a contender -> its score.
      quota: how many may stay.
      early: whether the rung ends before training does.
    """
    order = sorted(scores, key=lambda i: (*(-x for x in scores[i].rank(early)), i))
    leader, kept, reasons = scores[order[0]], [], {}
    for i in order:
        if not np.isfinite(scores[i].values).all():
            fault, failed = "diverged", ~np.isfinite(scores[i].losses)
            if not failed.any():
                fault, failed = "not defined", ~np.isfinite(scores[i].values)
            seeds = counted(len(failed), "seed")
            reasons[i] = f"{fault} with {int(failed.sum())} of {seeds}"
            continue
        p_value = chance_worse(leader.judged(early), scores[i].judged(early))
        if len(kept) < quota:
            kept.append(i)
            continue
        reasons[i] = f"below the top {quota}"
        if not math.isnan(p_value):
            significance = "significantly" if p_value < _NOISE else "not significantly"
            reasons[i] += f" ({significance} worse, p = {p_value:.2g})"
    return Verdict(order, kept, reasons)
