"""SMAC3's multi-fidelity facade with Hyperband, asked and told by whole stages.

The only file that imports smac, and only once a tuner is made.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrjax.hpo.tuners import (
    Outcome,
    Problem,
    Stage,
    Trial,
)


class Smac:
    """SMAC's Hyperband: all trials of a stage are asked, trained, then told.

    Within a stage SMAC looks at no cost, so asking for all of it at once is the same
    as asking and telling one by one. To ask beyond its end is not: SMAC would open the
    next bracket instead of promoting. A stage has ended when SMAC's own list of its
    configurations has none left that was not asked.
    """

    def __init__(self, problem: Problem, folder: Path, full_length: int = 0):
        """Makes the tuner.

        Args:
          problem: what to tune.
          folder: where SMAC keeps its own files; replaced if it is there.
          full_length: trials at the full budget to reach, beyond `problem.trials` if
            SMAC leaves out so many that come twice.
        """
        self._problem, self._full_length = problem, full_length
        self._smac = _facade(problem, folder)
        self._budgets = _brackets(problem)[1]
        self._asked: list[Any] = []
        self._count = self._full = 0

    def ask(self) -> list[Trial]:
        """The next stage; empty once the trials are spent or the space is exhausted."""
        self._asked = list(self._stage())
        self._count += len(self._asked)
        self._full += sum(t.budget == self._problem.max_budget for t in self._asked)
        number = self._smac.runhistory.get_config_id
        return [
            Trial(number(t.config), _values(t.config), t.budget) for t in self._asked
        ]

    def _stage(self) -> Iterator[Any]:
        left = self._problem.trials - self._count
        if left <= 0 and self._full < self._full_length:
            left = self._problem.trials  # whole stages until there are enough
        for _ in range(left):
            trial = _next(self._smac)
            if trial is None:
                return
            yield trial
            if not self._open():
                return

    def _open(self) -> bool:
        """Whether SMAC's list of stages holds a trial that was not asked yet."""
        history = self._smac.runhistory
        asked = [
            (_values(history.get_config(key.config_id)), key.budget) for key in history
        ]
        stages = self._smac.intensifier.get_state()["tracker"]
        for name, groups in stages.items():
            bracket, stage = map(int, name.split(","))
            budget = self._budgets[bracket][stage]
            for _, configs in groups:
                if any((_values(config), budget) not in asked for config in configs):
                    return True
        return False

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Reports on all trials of the stage asked last, in the order asked."""
        for trial, outcome in zip(self._asked, outcomes, strict=True):
            # SMAC writes all its files anew at each save.
            save = trial is self._asked[-1]
            self._smac.tell(trial, _value(outcome), save=save)

    def plan(self, first: int) -> list[Stage]:
        """Hyperband's stages; SMAC leaves out what comes twice, so some are smaller."""
        return plan(self._problem, first)


def plan(problem: Problem, first: int | None = None) -> list[Stage]:
    """The stages that Hyperband makes of a number of trials.

    Args:
      problem: what to tune.
      first: trials of the first stage, where that is known.
    """
    counts, budgets = _brackets(problem)
    stages: list[Stage] = []
    left = problem.trials
    for bracket in itertools.cycle(range(len(counts))):
        before = 0.0
        for count, budget in zip(counts[bracket], budgets[bracket], strict=True):
            count = min(first or count, left)
            if not count:
                return stages
            stages.append(Stage(count, budget, budget - before))
            left, before, first = left - count, budget, None
    raise AssertionError("a cycle has no end")


def full_length(problem: Problem) -> int:
    """Trials at the full budget among those planned."""
    return sum(s.trials for s in plan(problem) if s.budget == problem.max_budget)


def _brackets(problem: Problem) -> tuple[list[list[int]], list[list[float]]]:
    """Trials and budgets of each stage, [bracket][stage] (Li et al. 2018)."""
    last = promotions(problem.min_budget, problem.max_budget, problem.eta)
    most = range(last, -1, -1)  # promotions, the first bracket has most
    return (
        [stage_sizes(problem.eta, stage, last) for stage in most],
        [_budgets(problem, stage) for stage in most],
    )


def promotions(least: int, most: int, eta: int) -> int:
    """How often a budget can be multiplied by eta from the least to the most one."""
    count = 0
    while least * eta ** (count + 1) <= most:
        count += 1
    return count


def stage_sizes(eta: int, count: int, most: int) -> list[int]:
    """Trials in the stages of a bracket.

    Args:
      eta: of so many one is promoted.
      count: promotions in this bracket.
      most: promotions in the bracket that has most.
    """
    first = -(-(eta**count * (most + 1)) // (count + 1))
    return [first // eta**stage for stage in range(count + 1)]


def _budgets(problem: Problem, count: int) -> list[float]:
    """As SMAC has them, to the bit."""
    down = -np.linspace(count, 0, count + 1)
    return (problem.max_budget * np.power(problem.eta, down)).tolist()


def _hyperband(scenario: Any, eta: int) -> Any:
    """SMAC's Hyperband with its stages counted in whole numbers.

    SMAC 2.4.1 takes log(243) / log(3) for 4.999999999999999 and leaves the smallest
    budget out; of 729 configurations it promotes 0.999... to the last stage, and so
    none.
    """
    from smac import MultiFidelityFacade

    intensifier: Any = MultiFidelityFacade.get_intensifier(scenario, eta=eta)
    rounded = intensifier._compute_configs_and_budgets_for_stages

    def exact(eta: int, budget: float, count: int, most: int | None = None) -> Any:
        sizes = stage_sizes(eta, count, count if most is None else most)
        return rounded(eta, budget, count, most)[0], sizes

    def count(eta: int, most: int, least: int) -> int:
        return promotions(least, most, eta)

    intensifier._get_max_iterations = count
    intensifier._compute_configs_and_budgets_for_stages = exact
    return intensifier


def _facade(problem: Problem, folder: Path) -> Any:
    # SMAC's own set-up of logging would replace everybody's.
    logging.getLogger("smac").setLevel(logging.CRITICAL)
    from smac import MultiFidelityFacade, Scenario

    scenario = Scenario(
        _config_space(problem),
        name=folder.name,
        output_directory=folder.parent,
        deterministic=True,
        n_trials=problem.trials,
        min_budget=problem.min_budget,
        max_budget=problem.max_budget,
        seed=problem.seed,
    )
    return MultiFidelityFacade(
        scenario,
        initial_design=_initial_design(scenario, problem),
        acquisition_maximizer=make_maximizer(scenario),
        intensifier=_hyperband(scenario, problem.eta),
        logging_level=False,
        overwrite=True,
    )


def make_maximizer(scenario: Any) -> Any:
    """What SMAC would take of itself, made the same in every process.

    SMAC's local search makes a set of where it starts from, and a list of that.
    Python's hashes of strings, other ones in each process, would decide which numbers
    are drawn for which start, and a tuning that was cut could not be replayed.
    """
    from smac import MultiFidelityFacade

    maximizer: Any = MultiFidelityFacade.get_acquisition_maximizer(scenario)
    search = maximizer._local_search
    starts = search._get_init_points_from_previous_configs

    def sorted_starts(*arguments: Any) -> list[Any]:
        return sorted(starts(*arguments), key=lambda each: tuple(each.get_array()))

    search._get_init_points_from_previous_configs = sorted_starts
    return maximizer


def _next(facade: Any) -> Any:
    """The next trial; None once SMAC finds no configuration that it has not had."""
    from smac.main.exceptions import ConfigurationSpaceExhaustedException

    try:
        return facade.ask()
    except (StopIteration, ConfigurationSpaceExhaustedException):
        return None


def _value(outcome: Outcome) -> Any:
    from smac.runhistory import StatusType, TrialValue

    status = StatusType.CRASHED if outcome.crashed else StatusType.SUCCESS
    # No time: proposals must follow from the costs alone, however fast a machine is.
    return TrialValue(outcome.cost, status=status)


def _values(config: Any) -> dict[str, float]:
    """A configuration of SMAC as plain numbers."""
    return {name: float(config[name]) for name in sorted(config)}


def _config_space(problem: Problem) -> Any:
    from ConfigSpace import ConfigurationSpace, Float, Integer

    space = ConfigurationSpace(seed=problem.seed)
    for name, found in problem.space.ranges.items():
        if found.integer:
            bounds = (int(found.low), int(found.high))
            space.add(Integer(name, bounds, log=found.log))
        else:
            space.add(Float(name, (found.low, found.high), log=found.log))
    return space


def _initial_design(scenario: Any, problem: Problem) -> Any:
    """Random configurations, the default before them; SMAC would put it last."""
    from ConfigSpace import Configuration
    from smac.initial_design import RandomInitialDesign

    class DefaultFirst(RandomInitialDesign):
        def _select_configurations(self) -> list[Any]:
            configs = super()._select_configurations()
            if problem.default is None:
                return configs
            values = {
                name: int(value) if problem.space.ranges[name].integer else value
                for name, value in problem.default.items()
            }
            return [Configuration(scenario.configspace, values=values), *configs]

    return DefaultFirst(scenario)
