"""The plan of a race: where contenders are compared, and how many stay."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from lrjax.core import UsageError, counted

_FIRST = 1 / 9  # share of the horizon at which the first rung ends; the next: a third
# Share of a rung's contenders that the budget must be able to keep. Early rungs predict
# the end badly, so it pays to let in few contenders and to keep most of them.
_KEPT = 3 / 4
_COOLDOWN = 0.2  # share of a rung's updates over which a branch comes to rest


@dataclasses.dataclass(frozen=True)
class Plan:
    """Rungs, seeds and number of contenders that fit a budget.

    Attributes:
      horizon: updates of a full run.
      budget: updates of all contenders together.
      seeds: seeds that every contender trains with.
      entered: how many contenders start.
      rungs: updates at which contenders are compared, ascending; the last may be
        below the horizon.
    """

    horizon: int
    budget: float
    seeds: tuple[int, ...]
    entered: int
    rungs: tuple[int, ...]

    def start(self, rung: int, needs_cooldown: bool) -> int:
        """Update at which a contender's run ends on a rung and its branch begins.

        Args:
          rung: number of the rung, from 0.
          needs_cooldown: whether the contender is judged by a branch; without one the
            run ends with the rung.
        """
        end = self.rungs[rung]
        if not needs_cooldown or end == self.horizon:
            return end
        return end - max(1, round(_COOLDOWN * end))

    def cost(self, rung: int, needs_cooldown: bool) -> int:
        """Updates of a contender on a rung, all seeds and its branch included.

        Args:
          rung, needs_cooldown: as for `start`.
        """
        before = self.start(rung - 1, needs_cooldown) if rung else 0
        return len(self.seeds) * (self.rungs[rung] - before)

    def quota(self, alive: int, rung: int, spent: float) -> int:
        """How many contenders to keep after a rung.

        The largest number for which sizes that fall geometrically from rung to rung
        fit the rest of the budget.

        Args:
          alive: number of contenders on the rung.
          rung: number of the rung.
          spent: updates so far, those of this rung included.
        """
        costs = [
            self.cost(r, needs_cooldown=True) for r in range(rung + 1, len(self.rungs))
        ]
        # With two on the last rung the answer has a runner-up to compare with.
        least = min(alive, 2 if 2 * sum(costs) <= self.budget - spent else 1)

        def sizes(ratio: float) -> list[int]:
            return [max(least, int(alive * ratio**j)) for j in range(1, len(costs) + 1)]

        low, high = 0.0, 1.0  # ratios that fit and that may not fit: bisect
        for _ in range(50):
            middle = (low + high) / 2
            need = sum(n * cost for n, cost in zip(sizes(middle), costs, strict=True))
            low, high = (middle, high) if need <= self.budget - spent else (low, middle)
        return sizes(low)[0]


def make_plan(
    count: int, budget: float, horizon: int, seeds: Sequence[int], wanted: int = 0
) -> Plan:
    """Choose rungs, seeds and the number of contenders that enter.

    In order of priority: at least `wanted` contenders enter, the last rung is the
    horizon, and there are as many rungs before it as possible.

    Args:
      count: number of contenders.
      budget: in full runs.
      horizon: updates of a full run.
      seeds: seeds of every contender; empty for as many as the budget allows, 1 to 5.
      wanted: contenders that should enter, if the budget allows one rung of them.

    Raises:
      UsageError: if the budget is too small for one rung.
    """
    if not seeds:
        seeds = range(min(5, max(1, round(budget / 5))))
    least = min(count, 2)
    ninth = max(1, round(_FIRST * horizon))
    ends = [*(end for end in (ninth, 3 * ninth) if end < horizon), horizon]
    possible: list[Plan] = []  # by priority
    for last in range(len(ends), 0, -1):
        for first in range(last):
            rungs = tuple(ends[first:last])
            plan = Plan(horizon, budget * horizon, tuple(seeds), count, rungs)
            entered = _entered(plan, count, least)
            if entered >= least:
                possible.append(dataclasses.replace(plan, entered=entered))
    for plan in possible:
        if plan.entered >= min(wanted, count):
            return plan
    if possible:
        return max(possible, key=lambda plan: plan.entered)
    need = math.ceil(100 * least * len(seeds) * ninth / horizon) / 100
    raise UsageError(
        f"select: a budget of {counted(budget, 'full run', form='g')} is too small "
        f"for one rung of {counted(least, 'contender')} (seeds: {len(seeds)}): "
        f"give {need:g} or more, or train for longer, or take fewer seeds"
    )


def _entered(plan: Plan, count: int, least: int) -> int:
    """Most contenders that fit the budget if `_KEPT` of them stay after each rung.

    Args:
      plan: rungs, seeds and budget; its number of contenders is not used.
      count: number of contenders there are.
      least: contenders that stay on every rung, at least.

    Returns:
      The number; 0 if the budget is too small for one contender.
    """
    costs = [plan.cost(rung, needs_cooldown=True) for rung in range(len(plan.rungs))]
    for entered in range(count, 0, -1):
        sizes = [max(least, int(entered * _KEPT**j)) for j in range(len(costs))]
        need = sum(n * cost for n, cost in zip(sizes, costs, strict=True))
        if need <= plan.budget:
            return entered
    return 0
