"""Successive halving: rung after rung, with any function that trains contenders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from lrjax.hpo.rungs import Plan
from lrjax.hpo.verdicts import Score, Verdict, judge


class Rung(NamedTuple):
    """A rung that was judged.

    Attributes:
      number: from 0.
      scores: number of a contender -> its score.
      verdict: which contenders are kept and which are dropped.
      spent: updates so far, those of this rung included.
    """

    number: int
    scores: Mapping[int, Score]
    verdict: Verdict
    spent: int


def halve(
    layout: Plan,
    bound: Sequence[bool],
    climb: Callable[[int, Sequence[int]], Mapping[int, Score]],
) -> Iterator[Rung]:
    """Run successive halving until at most one contender is left.

    Args:
      layout: rungs, seeds and budget.
      bound: for each contender that enters, whether a branch with a cooldown is
        trained to judge it, which costs updates (see `lrjax.hpo.entrants`).
      climb: trains contenders to the end of a rung; takes the number of the rung and
        the numbers of the contenders, returns contender number -> score.

    Yields:
      Each rung once it is judged; the last one keeps only the winner, or nobody if all
      diverged.
    """
    alive, spent = list(range(len(bound))), 0
    for number, end in enumerate(layout.rungs):
        scores = climb(number, alive)
        spent += sum(layout.cost(number, bound[i]) for i in alive)
        final = number == len(layout.rungs) - 1
        quota = 1 if final else layout.quota(len(alive), number, spent)
        verdict = judge(scores, quota, early=end < layout.horizon)
        yield Rung(number, scores, verdict, spent)
        alive = verdict.kept
        if not alive:
            return
