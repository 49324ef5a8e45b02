"""The interface of tuners, and three plain ones: random search, a grid, ASHA.

A tuner proposes stages: trials that may train together, because none of them depends on
the result of another. The caller asks for a stage, trains it, tells the costs, and asks
again.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lrjax import plugins
from lrjax.core import Range, Space, UsageError, cut, shown


@dataclasses.dataclass(frozen=True)
class Trial:
    """One evaluation that a tuner proposes.

    Attributes:
      config_id: number of the configuration, the same at each of its budgets.
      hparams: tuned hyperparameter -> value.
      budget: how long to train, in epochs or steps; SMAC's may be fractional.

    Example:
      >>> Trial(config_id=1, hparams={"b1": 0.9}, budget=9).hparams["b1"]
      0.9
    """

    config_id: int
    hparams: Mapping[str, float]
    budget: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a trial.

    Attributes:
      cost: to be minimised; finite.
      crashed: whether the run diverged; `cost` is then a penalty.
      seconds: duration of training.
    """

    cost: float
    crashed: bool = False
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of a plan: some trials at one budget.

    Attributes:
      trials: number of trials.
      budget: budget of each trial, in epochs or steps as in `Problem`.
      trained: the part of the budget that is trained where each trial resumes from its
        state in an earlier stage.

    Example:
      >>> resumed = Stage(trials=3, budget=9, trained=6)  # from their states at 3
      >>> resumed.trials * resumed.trained
      18
    """

    trials: int
    budget: float
    trained: float


@dataclasses.dataclass(frozen=True)
class Problem:
    """The space to tune, and how much may be spent.

    Attributes:
      space: hyperparameters and their ranges.
      default: a value for each, to be tried first; None for no such trial.
      trials: number of evaluations.
      min_budget, max_budget: in epochs or steps, whole numbers.
      eta: one of `eta` configurations is promoted; the budget grows by this factor.
      seed: seed of the tuner.

    Example:
      >>> space = Space({"b1": Range(0.0, 0.8, log=False)})
      >>> problem = Problem(space, None, 3, min_budget=1, max_budget=9, eta=3, seed=0)
      >>> [float(trial.hparams["b1"]) for trial in Grid(problem).ask()]
      [0.0, 0.4, 0.8]
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
        """Return the next stage; empty once all trials are spent."""
        ...

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of the last stage, in the order of its trials."""
        ...

    def plan(self, first: int) -> list[Stage]:
        """Return the stages that can be foreseen.

        Args:
          first: number of trials in the first stage.
        """
        ...


def place(span: Range, fraction: float) -> float:
    """The value at a fraction (0 to 1) of a range, on its linear or log scale.

    Example:
      >>> round(place(Range(1e-4, 1.0), 0.5), 6)
      0.01
    """
    low, high = span.low, span.high
    if span.log:
        low, high = math.log(low), math.log(high)
    value = low + fraction * (high - low)
    value = math.exp(value) if span.log else value
    value = min(max(value, span.low), span.high)
    return float(round(value)) if span.integer else value


class _OneStage:
    """A tuner with all trials in one stage at the full budget."""

    def __init__(self, problem: Problem, points: Sequence[Mapping[str, float]]):
        self._trials = [
            Trial(number, point, problem.max_budget)
            for number, point in enumerate(points, 1)
        ]
        self._asked = False

    def ask(self) -> list[Trial]:
        """Return all trials the first time, none after that."""
        before, self._asked = self._asked, True
        return [] if before else self._trials

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Ignore the outcomes: all trials were fixed beforehand."""
        del outcomes

    def plan(self, first: int) -> list[Stage]:
        """Return the only stage."""
        budget = self._trials[0].budget
        return [Stage(first, budget, budget)]


class Random(_OneStage):
    """Random search: independent draws, all at the full budget."""

    def __init__(self, problem: Problem):
        draws = _draws(problem)
        super().__init__(problem, list(itertools.islice(draws, problem.trials)))


class Grid(_OneStage):
    """Grid search: evenly spaced values from one end of each range to the other.

    Every hyperparameter has the same number of values, the largest for which the whole
    grid has at most `trials` points; with one value it is the middle of the range.
    """

    def __init__(self, problem: Problem):
        ranges = problem.space.ranges
        # 27 ** (1 / 3) is rounded to below 3.
        count = int(problem.trials ** (1 / len(ranges)) + 1e-9)
        fractions = np.linspace(0, 1, count) if count > 1 else [0.5]
        axes = [sorted({place(r, f) for f in fractions}) for r in ranges.values()]
        products = itertools.product(*axes)
        points = [dict(zip(ranges, values, strict=True)) for values in products]
        super().__init__(problem, points)


def _draws(problem: Problem):
    """Yield independent draws from the space, after the default if there is one."""
    rng = np.random.default_rng(problem.seed)
    if problem.default is not None:
        yield dict(problem.default)
    while True:
        yield {n: place(r, rng.random()) for n, r in problem.space.ranges.items()}


class Asha:
    """Asynchronous successive halving (Li et al. 2020), some trials at a time.

    A trial is a promotion if one is due, from the highest rung down: a configuration
    among the best 1 / eta of its rung that was not promoted yet. Otherwise it is a new
    configuration on the lowest rung.
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
        self._asked: list[tuple[int, int]] = []  # config_id and rung of each trial
        self._left = problem.trials

    def ask(self) -> list[Trial]:
        """Return up to `at_once` trials."""
        self._asked = [self._next() for _ in range(min(self.at_once, self._left))]
        self._left -= len(self._asked)
        return [
            Trial(config_id, self._points[config_id - 1], self._budgets[rung])
            for config_id, rung in self._asked
        ]

    def _next(self) -> tuple[int, int]:
        """The next trial's config_id and rung."""
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
        """Take the costs of the last stage."""
        for (config_id, rung), outcome in zip(self._asked, outcomes, strict=True):
            self._costs[rung][config_id] = outcome.cost

    def plan(self, first: int) -> list[Stage]:
        """Return a stage per rung: their sizes are known, their order is not."""
        counts = [self._problem.trials]
        eta = self._problem.eta
        for _ in self._budgets[1:]:
            counts.append(counts[-1] // eta)
        scale = self._problem.trials / sum(counts)
        before = [0.0, *self._budgets]
        return [
            Stage(round(count * scale), budget, budget - lower)
            for count, budget, lower in zip(counts, self._budgets, before, strict=False)
        ]


# Tuners by name for `config.tune.tuner`; SMAC, which needs a folder too, is apart.
PLAIN: dict[str, Callable[[Problem], Tuner]] = {
    "random": Random,
    "grid": Grid,
    "asha": Asha,
}
SHIPPED = ("smac", *PLAIN)


def find(name: str) -> Callable[[Problem], Tuner]:
    """Find a tuner other than SMAC by name, or by its import path 'module:name'.

    Raises:
      UsageError: if the name is unknown, or cannot be imported.
    """
    return plugins.find("tuner", name, PLAIN, _accept, ["smac", *PLAIN])


def _accept(name: str, found: Any) -> Any:
    """Check that what a package offers can be called with a problem."""
    if not callable(found):
        raise UsageError(f"tuner '{cut(name)}' is {shown(found)}, not a class")
    return found
