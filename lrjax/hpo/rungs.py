"""How a race is laid out: where contenders are compared, and how many go on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from lrjax.core import UsageError, counted

_FIRST = 1 / 9  # of the horizon, where the first rung ends; the next one is at a third
# Of a rung's contenders at least so many go on where the budget decides. Early rungs
# say little of the end, so that it pays to let in few and to keep most of them.
_KEPT = 3 / 4
_COOLDOWN = 0.2  # share of a rung's updates over which a branch comes to rest


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a budget allows.

    Attributes:
      horizon: updates of a full run.
      budget: updates in all.
      seeds: of every contender.
      entered: how many contenders start.
      rungs: updates at which contenders are compared, ascending; the last may be
        short of the horizon.
    """

    horizon: int
    budget: float
    seeds: tuple[int, ...]
    entered: int
    rungs: tuple[int, ...]

    def start(self, rung: int, bound: bool) -> int:
        """Where a rung's contender itself ends, and its branch begins."""
        end = self.rungs[rung]
        if not bound or end == self.horizon:
            return end
        return end - max(1, round(_COOLDOWN * end))

    def cost(self, rung: int, bound: bool) -> int:
        """Updates that a contender takes on a rung, all seeds and its branch."""
        before = self.start(rung - 1, bound) if rung else 0
        return len(self.seeds) * (self.rungs[rung] - before)

    def quota(self, alive: int, rung: int, spent: float) -> int:
        """How many may go on after a rung: sizes fall geometrically to the last rung.

        Args:
          alive: contenders on the rung.
          rung: its number.
          spent: updates so far, this rung's included.
        """
        costs = [self.cost(r, bound=True) for r in range(rung + 1, len(self.rungs))]
        # A last rung of one tells how good the winner is, but not better than whom.
        least = min(alive, 2 if 2 * sum(costs) <= self.budget - spent else 1)

        def sizes(ratio: float) -> list[int]:
            return [max(least, int(alive * ratio**j)) for j in range(1, len(costs) + 1)]

        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            need = sum(n * cost for n, cost in zip(sizes(middle), costs, strict=True))
            low, high = (middle, high) if need <= self.budget - spent else (low, middle)
        return sizes(low)[0]


def plan(
    count: int, budget: float, horizon: int, seeds: Sequence[int], wanted: int = 0
) -> Plan:
    """Lays a race out: rungs, seeds, and how many of the contenders may start.

    The last rung is the horizon if that can be; then there are as many before it as can
    be. That so many as are wanted start comes before both.

    Args:
      count: contenders there are.
      budget: in full runs.
      horizon: updates of a full run.
      seeds: of every contender; none for as many as the budget bears, from 1 to 5.
      wanted: contenders that should start, if the budget bears one rung of them.

    Raises:
      UsageError: if the budget is too small for one rung.
    """
    if not seeds:
        seeds = range(min(5, max(1, round(budget / 5))))
    least = min(count, 2)
    ninth = max(1, round(_FIRST * horizon))
    ends = [*(end for end in (ninth, 3 * ninth) if end < horizon), horizon]
    laid: list[Plan] = []
    for last in range(len(ends), 0, -1):
        for first in range(last):
            rungs = tuple(ends[first:last])
            each = Plan(horizon, budget * horizon, tuple(seeds), count, rungs)
            entered = _entered(each, count, least)
            if entered >= least:
                laid.append(dataclasses.replace(each, entered=entered))
    for each in laid:
        if each.entered >= min(wanted, count):
            return each
    if laid:
        return max(laid, key=lambda each: each.entered)
    need = math.ceil(100 * least * len(seeds) * ninth / horizon) / 100
    raise UsageError(
        f"select: a budget of {counted(budget, 'full run', form='g')} is too small "
        f"for one rung of {counted(least, 'contender')} (seeds: {len(seeds)}): "
        f"give {need:g} or more, or train for longer, or take fewer seeds"
    )


def _entered(laid: Plan, count: int, least: int) -> int:
    """The most contenders of which the budget bears to keep `_KEPT` on each rung."""
    costs = [laid.cost(rung, bound=True) for rung in range(len(laid.rungs))]
    for entered in range(count, 0, -1):
        sizes = [max(least, int(entered * _KEPT**j)) for j in range(len(costs))]
        need = sum(n * cost for n, cost in zip(sizes, costs, strict=True))
        if need <= laid.budget:
            return entered
    return 0
