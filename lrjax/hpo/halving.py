"""The race itself: rung after rung, whoever trains the contenders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from lrjax.hpo.rungs import Plan
from lrjax.hpo.verdicts import Score, Verdict, judge


class Rung(NamedTuple):
    """What happened on a rung.

    Attributes:
      number: from 0.
      scores: number of a contender -> what it reached.
      verdict: who goes on.
      spent: updates so far, this rung's included.
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
    """Runs successive halving, until one is left or none.

    Args:
      layout: rungs, seeds and budget.
      bound: of each contender that enters, whether it is judged by a branch.
      climb: trains contenders, given by their numbers, to the end of a rung.

    Yields:
      each rung once it is judged; the last one keeps the winner alone, or nobody
      where all diverged.
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
