"""Successive halving: rung after rung, with any function that trains contenders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.across_tasks.earlier_race.rungs import Plan
from benchmarks.across_tasks.earlier_race.verdicts import Score, Verdict, judge


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
    plan: Plan,
    needs_cooldown: Sequence[bool],
    train_rung: Callable[[int, Sequence[int]], Mapping[int, Score]],
) -> Iterator[Rung]:
    """Run successive halving until at most one contender is left.

    Args:
      plan: rungs, seeds and budget.
      needs_cooldown: a flag per contender that enters: whether it is judged by a
        branch with a cooldown, which costs more updates (see `lrjax.hpo.entrants`).
      train_rung: trains contenders to the end of a rung: (number of the rung, numbers
        of the contenders) -> score by number of the contender.

    Yields:
      Each rung once it is judged; the last one keeps only the winner, or nobody if all
      diverged.
    """
    alive, spent = list(range(len(needs_cooldown))), 0
    for number, end in enumerate(plan.rungs):
        scores = train_rung(number, alive)
        spent += sum(plan.cost(number, needs_cooldown[i]) for i in alive)
        final = number == len(plan.rungs) - 1
        quota = 1 if final else plan.quota(len(alive), number, spent)
        verdict = judge(scores, quota, early=end < plan.horizon)
        yield Rung(number, scores, verdict, spent)
        alive = verdict.kept
        if not alive:
            return
