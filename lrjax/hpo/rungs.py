"""How a race is laid out: where contenders are compared, and how many go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lrjax.core import UsageError

_RUNG = 3  # each rung is so many times as long as the one before
# Length of the first rung as a share of the horizon; the second one where at the first
# fewer than so many contenders fit in the budget.
_FIRST, _FEW = (1 / 9, 1 / 27), 4
_FIRST_SHARE = 0.3  # of the budget that the first rung may take
_LAST_SHARE = 0.4  # of the budget that one contender's last rung may take
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
        pair = 2 * costs[-1] <= _LAST_SHARE * self.budget
        least = min(alive, 2 if pair and 2 * sum(costs) <= self.budget - spent else 1)

        def sizes(ratio: float) -> list[int]:
            return [max(least, int(alive * ratio**j)) for j in range(1, len(costs) + 1)]

        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            need = sum(n * cost for n, cost in zip(sizes(middle), costs, strict=True))
            low, high = (middle, high) if need <= self.budget - spent else (low, middle)
        return sizes(low)[0]


def plan(count: int, budget: float, horizon: int, seeds: Sequence[int]) -> Plan:
    """Lays a race out: rungs, seeds, and how many of the contenders may start.

    Args:
      count: contenders there are.
      budget: in full runs.
      horizon: updates of a full run.
      seeds: of every contender; none for as many as the budget bears, from 2 to 5.

    Raises:
      UsageError: if the budget is too small for one rung.
    """
    if not seeds:
        seeds = range(min(5, max(2, round(budget / 6))))
    per_seed = budget * horizon / len(seeds)  # updates
    least = min(count, 2)
    for share in _FIRST:
        first = max(1, round(share * horizon))
        entered = min(count, int(_FIRST_SHARE * per_seed / first))
        if entered >= min(count, _FEW):
            break
    if entered < least:
        need = least * first * len(seeds) / (_FIRST_SHARE * horizon)
        raise UsageError(
            f"select: a budget of {budget:g} full runs is too small for one rung of "
            f"{least} contenders with {len(seeds)} seeds: give {need:.2g} or more, or "
            "train for longer, or take fewer seeds"
        )
    rungs = [first]
    while rungs[-1] < horizon:
        following = rungs[-1] * _RUNG
        # Rounding shall not leave a last rung that is hardly longer.
        rungs.append(horizon if 1.5 * following > horizon else following)
    laid = Plan(horizon, budget * horizon, tuple(seeds), entered, tuple(rungs))
    while len(laid.rungs) > 1:
        last = laid.cost(len(laid.rungs) - 1, bound=True)
        ahead = sum(laid.cost(r, bound=True) for r in range(1, len(laid.rungs)))
        spent = entered * laid.cost(0, bound=True)
        if last <= _LAST_SHARE * laid.budget and spent + ahead <= laid.budget:
            break
        laid = dataclasses.replace(laid, rungs=laid.rungs[:-1])
    return laid
