"""SMAC3's multi-fidelity facade with Hyperband, asked and told in whole stages.

The only file that imports smac, inside of the functions that need it.
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
    """SMAC's Hyperband as a `Tuner`.

    SMAC uses no cost within a stage, so asking for a whole stage at once gives the same
    trials as asking and telling one by one. Asking beyond its end does not: SMAC would
    open the next bracket instead of promoting. A stage ends when all configurations in
    SMAC's own list of it were asked.
    """

    def __init__(self, problem: Problem, folder: Path, full_length: int = 0):
        """Make the tuner.

        Args:
          problem: what to tune.
          folder: for SMAC's own files; replaced if it exists.
          full_length: trials at the full budget to reach, even beyond
            `problem.trials`: SMAC skips configurations that come twice.
        """
        self._problem, self._full_length = problem, full_length
        self._smac = _facade(problem, folder)
        self._budgets = _brackets(problem)[1]
        self._asked: list[Any] = []
        self._count = self._full = 0

    def ask(self) -> list[Trial]:
        """Return the next stage; empty once trials or configurations are exhausted."""
        self._asked = list(self._stage())
        self._count += len(self._asked)
        self._full += sum(t.budget == self._problem.max_budget for t in self._asked)
        number = self._smac.runhistory.get_config_id
        return [
            Trial(number(t.config), _values(t.config), t.budget) for t in self._asked
        ]

    def _stage(self) -> Iterator[Any]:
        """SMAC's trials of the next stage."""
        left = self._problem.trials - self._count
        if left <= 0 and self._full < self._full_length:
            left = self._problem.trials  # one more whole stage
        for _ in range(left):
            trial = _next(self._smac)
            if trial is None:
                return
            yield trial
            if not self._open():
                return

    def _open(self) -> bool:
        """Whether SMAC's lists of stages hold a trial that was not asked yet."""
        history = self._smac.runhistory
        seen = [
            (_values(history.get_config(key.config_id)), key.budget) for key in history
        ]
        stages = self._smac.intensifier.get_state()["tracker"]
        for name, groups in stages.items():
            bracket, stage = map(int, name.split(","))
            budget = self._budgets[bracket][stage]
            for _, configs in groups:
                if any((_values(config), budget) not in seen for config in configs):
                    return True
        return False

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Take the outcomes of the last stage, in the order of its trials."""
        for trial, outcome in zip(self._asked, outcomes, strict=True):
            # A save rewrites all of SMAC's files, so there is one per stage.
            save = trial is self._asked[-1]
            self._smac.tell(trial, _value(outcome), save=save)

    def plan(self, first: int) -> list[Stage]:
        """Return Hyperband's stages; SMAC skips duplicates, so some may be smaller."""
        return plan(self._problem, first)


def plan(problem: Problem, first: int | None = None) -> list[Stage]:
    """Hyperband's stages up to `problem.trials` trials.

    Args:
      problem: what to tune.
      first: number of trials in the first stage, if known.
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
    """Number of planned trials at the full budget."""
    return sum(s.trials for s in plan(problem) if s.budget == problem.max_budget)


def _brackets(problem: Problem) -> tuple[list[list[int]], list[list[float]]]:
    """Numbers of trials, and budgets, both [bracket][stage] (Li et al. 2018)."""
    last = promotions(problem.min_budget, problem.max_budget, problem.eta)
    counts = range(last, -1, -1)  # promotions of each bracket
    return (
        [stage_sizes(problem.eta, count, last) for count in counts],
        [_budgets(problem, count) for count in counts],
    )


def promotions(least: int, most: int, eta: int) -> int:
    """Count how often `least` can be multiplied by eta without exceeding `most`.

    Args:
      least, most: smallest and largest budget.
      eta: ratio of two successive budgets.
    """
    count = 0
    while least * eta ** (count + 1) <= most:
        count += 1
    return count


def stage_sizes(eta: int, count: int, most: int) -> list[int]:
    """Numbers of trials in each stage of a bracket.

    Args:
      eta: one of `eta` trials is promoted.
      count: promotions in this bracket.
      most: promotions in the first bracket, which has most.
    """
    # Rounded up, in integers: (most + 1) / (count + 1) * eta**count (Li et al. 2018).
    first = -(-(eta**count * (most + 1)) // (count + 1))
    return [first // eta**stage for stage in range(count + 1)]


def _budgets(problem: Problem, count: int) -> list[float]:
    """Budgets of a bracket's stages, equal to SMAC's to the bit."""
    down = -np.linspace(count, 0, count + 1)
    return (problem.max_budget * np.power(problem.eta, down)).tolist()


def _hyperband(scenario: Any, eta: int) -> Any:
    """SMAC's Hyperband with the sizes of its stages computed in integers.

    SMAC 2.4.1 computes log(243) / log(3) as 4.999999999999999 and so skips the smallest
    budget; of 729 configurations it promotes 0.999... to the last stage, that is none.
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
    """SMAC's facade for a problem."""
    # SMAC's own set-up would replace the logging of the whole process.
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
    """SMAC's default maximizer of the acquisition function, made deterministic.

    SMAC's local search collects its starting points in a set and turns that into a
    list. Python salts the hashes of strings in each process, so the order would differ,
    other random numbers would go with each point, and an interrupted tuning could not
    be replayed.
    """
    from smac import MultiFidelityFacade

    maximizer: Any = MultiFidelityFacade.get_acquisition_maximizer(scenario)
    search = maximizer._local_search
    starts = search._get_init_points_from_previous_configs

    def sorted_starts(*arguments: Any) -> list[Any]:
        return sorted(starts(*arguments), key=lambda point: tuple(point.get_array()))

    search._get_init_points_from_previous_configs = sorted_starts
    return maximizer


def _next(facade: Any) -> Any:
    """SMAC's next trial; None once all configurations are exhausted."""
    from smac.main.exceptions import ConfigurationSpaceExhaustedException

    try:
        return facade.ask()
    except (StopIteration, ConfigurationSpaceExhaustedException):
        return None


def _value(outcome: Outcome) -> Any:
    """An outcome as SMAC's TrialValue."""
    from smac.runhistory import StatusType, TrialValue

    status = StatusType.CRASHED if outcome.crashed else StatusType.SUCCESS
    # Without a time: proposals must not depend on the speed of the machine.
    return TrialValue(outcome.cost, status=status)


def _values(config: Any) -> dict[str, float]:
    """SMAC's configuration as name -> number."""
    return {name: float(config[name]) for name in sorted(config)}


def _config_space(problem: Problem) -> Any:
    """The problem's space as ConfigSpace describes it."""
    from ConfigSpace import ConfigurationSpace, Float, Integer

    space = ConfigurationSpace(seed=problem.seed)
    for name, span in problem.space.ranges.items():
        if span.integer:
            bounds = (int(span.low), int(span.high))
            space.add(Integer(name, bounds, log=span.log))
        else:
            space.add(Float(name, (span.low, span.high), log=span.log))
    return space


def _initial_design(scenario: Any, problem: Problem) -> Any:
    """Random configurations after the default; SMAC would put the default last."""
    from ConfigSpace import Configuration
    from smac.initial_design import RandomInitialDesign

    class DefaultFirst(RandomInitialDesign):
        def _select_configurations(self) -> list[Any]:
            """Put the default before the random configurations."""
            configs = super()._select_configurations()
            if problem.default is None:
                return configs
            values = {
                name: int(value) if problem.space.ranges[name].integer else value
                for name, value in problem.default.items()
            }
            return [Configuration(scenario.configspace, values=values), *configs]

    return DefaultFirst(scenario)
