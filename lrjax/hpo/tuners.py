"""What a tuner is, and three plain ones: random search, a grid, ASHA.

A tuner asks in stages: trials that may be trained together, because nothing is known of
one before the others are asked. The loop trains a stage, tells it, and asks again.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from lrjax.core import Range, Space


@dataclasses.dataclass(frozen=True)
class Trial:
    """One evaluation that a tuner asks for.

    Attributes:
      config_id: number of the configuration, the same whenever it comes again.
      hparams: tuned hyperparameter -> value.
      budget: how long to train, in the unit of `Problem`; may be no whole number.
    """

    config_id: int
    hparams: Mapping[str, float]
    budget: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
      cost: to be minimised; finite.
      crashed: whether the run diverged; `cost` is then a penalty.
      seconds: that training took.
    """

    cost: float
    crashed: bool = False
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Stage:
    """A line of a plan: so many trials at a budget.

    Attributes:
      trials: how many.
      budget: of each.
      trained: of it, where each trial goes on from an earlier stage's state.
    """

    trials: int
    budget: float
    trained: float


@dataclasses.dataclass(frozen=True)
class Problem:
    """What to tune, and how much may be spent.

    Attributes:
      space: hyperparameters and their ranges.
      default: a value for each, to be tried first; None for tuners left alone.
      trials: how many evaluations.
      min_budget, max_budget: whole numbers of epochs or steps.
      eta: of so many configurations one is promoted.
      seed: of the tuner.
    """

    space: Space
    default: Mapping[str, float] | None
    trials: int
    min_budget: int
    max_budget: int
    eta: int
    seed: int


class Tuner(Protocol):
    """Proposes trials, stage by stage."""

    def ask(self) -> list[Trial]:
        """The next stage; empty once the trials are spent."""
        ...

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Reports on all trials of the stage asked last, in the order asked."""
        ...

    def plan(self, first: int) -> list[Stage]:
        """The stages to come, as far as they can be known.

        Args:
          first: trials of the stage that was asked first.
        """
        ...


def place(found: Range, fraction: float) -> float:
    """The value at a fraction of a range, in its own scale."""
    low, high = found.low, found.high
    if found.log:
        low, high = math.log(low), math.log(high)
    value = low + fraction * (high - low)
    value = math.exp(value) if found.log else value
    value = min(max(value, found.low), found.high)
    return float(round(value)) if found.integer else value


class _OneStage:
    """All trials at once at the full budget: one population."""

    def __init__(self, problem: Problem, points: Sequence[Mapping[str, float]]):
        self._trials = [
            Trial(number, point, problem.max_budget)
            for number, point in enumerate(points, 1)
        ]
        self._asked = False

    def ask(self) -> list[Trial]:
        asked, self._asked = self._asked, True
        return [] if asked else self._trials

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        del outcomes  # nothing to learn from them

    def plan(self, first: int) -> list[Stage]:
        budget = self._trials[0].budget
        return [Stage(first, budget, budget)]


class Random(_OneStage):
    """Random search: independent draws, all at the full budget."""

    def __init__(self, problem: Problem):
        draws = _draws(problem)
        super().__init__(problem, list(itertools.islice(draws, problem.trials)))


class Grid(_OneStage):
    """A full grid of evenly spaced values, both ends of each range among them.

    Each hyperparameter gets as many values as leave the product within `trials`.
    """

    def __init__(self, problem: Problem):
        ranges = problem.space.ranges
        # Room for rounding: 27 ** (1 / 3) is below 3.
        count = int(problem.trials ** (1 / len(ranges)) + 1e-9)
        fractions = np.linspace(0, 1, count) if count > 1 else [0.5]
        axes = [sorted({place(r, f) for f in fractions}) for r in ranges.values()]
        products = itertools.product(*axes)
        points = [dict(zip(ranges, values, strict=True)) for values in products]
        super().__init__(problem, points)


def _draws(problem: Problem):
    """Independent draws from the space; the default comes first where there is one."""
    rng = np.random.default_rng(problem.seed)
    if problem.default is not None:
        yield dict(problem.default)
    while True:
        yield {n: place(r, rng.random()) for n, r in problem.space.ranges.items()}


class Asha:
    """Asynchronous successive halving (Li et al. 2020), some trials at a time.

    Each of the trials asked at once is a promotion where one is due, from the highest
    rung down: a configuration among the best 1 / eta of its rung that has not been
    promoted yet. Else it is a new configuration in the lowest rung.
    """

    at_once = 8

    def __init__(self, problem: Problem):
        self._problem, self._draws = problem, _draws(problem)
        top, budgets = float(problem.max_budget), []
        while top >= problem.min_budget:
            budgets.insert(0, top)
            top /= problem.eta
        self._budgets = budgets
        self._points: list[Mapping[str, float]] = []
        self._costs: list[dict[int, float]] = [{} for _ in budgets]
        self._promoted: list[set[int]] = [set() for _ in budgets]
        self._asked: list[tuple[int, int]] = []  # configuration and rung
        self._left = problem.trials

    def ask(self) -> list[Trial]:
        self._asked = [self._next() for _ in range(min(self.at_once, self._left))]
        self._left -= len(self._asked)
        return [
            Trial(config_id, self._points[config_id - 1], self._budgets[rung])
            for config_id, rung in self._asked
        ]

    def _next(self) -> tuple[int, int]:
        for rung in reversed(range(len(self._budgets) - 1)):
            costs = self._costs[rung]
            best = sorted(costs, key=costs.__getitem__)
            for config_id in best[: len(costs) // self._problem.eta]:
                if config_id not in self._promoted[rung]:
                    self._promoted[rung].add(config_id)
                    return config_id, rung + 1
        self._points.append(next(self._draws))
        return len(self._points), 0

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        for (config_id, rung), outcome in zip(self._asked, outcomes, strict=True):
            self._costs[rung][config_id] = outcome.cost

    def plan(self, first: int) -> list[Stage]:
        # As many as can be promoted; which ones depends on the costs.
        counts = [self._problem.trials]
        eta = self._problem.eta
        for _ in self._budgets[1:]:
            counts.append(counts[-1] // eta)
        scale = self._problem.trials / sum(counts)
        before = [0.0, *self._budgets]
        return [
            Stage(round(count * scale), budget, budget - was)
            for count, budget, was in zip(counts, self._budgets, before, strict=False)
        ]


# Tuners by name for `config.tune.tuner`; SMAC, which needs a folder too, is apart.
PLAIN: dict[str, Callable[[Problem], Tuner]] = {
    "random": Random,
    "grid": Grid,
    "asha": Asha,
}
