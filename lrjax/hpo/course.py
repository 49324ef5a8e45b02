"""A selection under way: asks for runs, takes what they measured, and answers.

It trains nothing, so whoever can train full runs can follow it: `lrjax.hpo.race` with
populations, `lrjax.Race` with any trainer.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from lrjax.hpo import points, proposals
from lrjax.hpo.points import Scale
from lrjax.hpo.prior import Candidate, Prior
from lrjax.hpo.proposals import Answer, Fitted, Judge, Plan, Wanted


class Course:
    """Course of a selection: its requests, the measurements, the belief that follows.

    Attributes:
      candidates: the contenders; those that a bake-off adds come last.
      plan, judge: which way, and how runs are judged.
      asked: the runs that were asked for and told, in order.
      fitted: how each contender was made that a bake-off has added.
      surprised: whether the first runs contradicted the prior.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        plan: Plan,
        judge: Judge,
        scale: Scale,
        believe: Callable[[Sequence[Candidate]], Prior],
    ):
        """Begin.

        Args:
          candidates: the contenders.
          plan: which way, and who is trained first.
          judge: what is believed of the contenders, and how runs are judged.
          scale: of the metric.
          believe: the prior for a list of contenders that begins with these.
        """
        self.candidates, self.plan, self.judge = tuple(candidates), plan, judge
        self.asked: list[Wanted] = []
        self.fitted: tuple[Fitted, ...] = ()
        self.surprised = False
        self._scale, self._believe = scale, believe
        self._values: dict[Wanted, float] = {}

    def wanted(self) -> list[Wanted]:
        """The next runs; none once the selection is over."""
        return proposals.further(self.judge, self.plan, self.points())

    def tell(self, values: Mapping[Wanted, float]) -> None:
        """Take the metric of all runs that `wanted` asked for; NaN of lost ones."""
        first = not self.asked
        self.asked += values
        self._values.update(values)
        if first:
            measured = self.points()
            self.surprised = proposals.surprising(self.judge, self.plan, measured)
            if self.plan.how == proposals.BAKEOFF and not self.plan.each:
                self._fit(measured)

    def with_some(self, values: Mapping[Wanted, float]) -> Course:
        """The selection as if no more had been asked for, to answer on the way.

        Args:
          values: the metric of those runs that are over, as for `tell`.
        """
        found = copy.copy(self)
        found.asked = [*self.asked, *values]
        found._values = {**self._values, **values}
        return found

    def _fit(self, measured: proposals.Measured) -> None:
        """Add contenders at rates between those that lead a bake-off."""
        belief, _ = self.judge.believe(self.plan.how, measured)
        self.fitted = tuple(proposals.fits(self.candidates, belief, measured))
        known = len(self.candidates)
        self.candidates += tuple(
            self.candidates[each.like]._replace(rate=each.rate) for each in self.fitted
        )
        self.judge = self.judge._replace(prior=self._believe(self.candidates))
        added = tuple(range(known, len(self.candidates)))
        self.plan = dataclasses.replace(self.plan, fitted=added)

    def values(self) -> dict[Wanted, float]:
        """The metric of the runs so far, in the order in which they were asked for."""
        return dict(self._values)

    def points(self) -> dict[Wanted, float]:
        """Points of the runs so far; -inf of those that were lost."""
        found = points.points(list(self._values.values()), self._scale)
        return dict(zip(self._values, found.tolist(), strict=True))

    def answer(self) -> Answer | None:
        """The answer after the runs so far; None if all were lost."""
        return proposals.answer(self.judge, self.plan, self.points())

    def behind(self) -> dict[int, list[float]]:
        """Points of each contender's runs behind the best run of the same number."""
        best: dict[int, float] = {}
        reached = self.points()
        for wanted, point in reached.items():
            best[wanted.run] = max(point, best.get(wanted.run, -math.inf))
        found: dict[int, list[float]] = {}
        for wanted, point in reached.items():
            off = point - best[wanted.run] if math.isfinite(point) else math.nan
            found.setdefault(wanted.who, []).append(off)
        return found
