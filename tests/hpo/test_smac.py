"""SMAC asked by stages is SMAC asked and told one trial at a time."""

import itertools
import math
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from ConfigSpace import ConfigurationSpace, Float
from smac import MultiFidelityFacade, Scenario
from smac.intensifier.hyperband import Hyperband
from smac.runhistory import StatusType, TrialValue

from lrjax.core import Range, Space
from lrjax.hpo.smac import (
    Smac,
    full_length,
    make_maximizer,
    plan,
)
from lrjax.hpo.tuners import Asha, Outcome, Problem

COSTS = {
    "small rates": lambda x, budget: x,
    "large rates": lambda x, budget: 1 - x + 1 / budget,
    "crossing": lambda x, budget: abs(x - 0.2 - 10 / budget),
    # The largest rates diverge, with a penalty in place of a cost.
    "diverging": lambda x, budget: 2.0 if x > 0.6 else 1 - x,
}


def problem_of(low=5, high=300, eta=3, trials=50, **changes):
    space = Space({"learning_rate": Range(0.0, 1.0, log=False)})
    fields = {"space": space, "default": None, "seed": 0} | changes
    return Problem(trials=trials, min_budget=low, max_budget=high, eta=eta, **fields)


def outcome(cost, trial):
    value = cost(trial.hparams["learning_rate"], trial.budget)
    return Outcome(value, crashed=value == 2.0)


def by_stages(problem, cost, folder):
    """Stages of (budget, rate)."""
    tuner, stages = Smac(problem, folder), []
    while trials := tuner.ask():
        tuner.tell([outcome(cost, trial) for trial in trials])
        stages.append([(t.budget, t.hparams["learning_rate"]) for t in trials])
    return stages


def one_by_one(problem, cost, folder, **options):
    """(budget, rate) of each trial, by SMAC's own facade alone.

    Args:
      options: scenario -> what the facade is given beside it.
    """
    space = ConfigurationSpace(seed=problem.seed)
    space.add(Float("learning_rate", (0.0, 1.0)))
    scenario = Scenario(
        space,
        n_trials=problem.trials,
        min_budget=problem.min_budget,
        max_budget=problem.max_budget,
        deterministic=True,
        seed=problem.seed,
        output_directory=folder,
    )
    facade = MultiFidelityFacade(
        scenario,
        lambda config, seed, budget: 0.0,
        intensifier=Hyperband(scenario, eta=problem.eta),
        overwrite=True,
        logging_level=50,
        **{name: make(scenario) for name, make in options.items()},
    )
    found = []
    for _ in range(problem.trials):
        trial = facade.ask()
        value = cost(trial.config["learning_rate"], trial.budget)
        status = StatusType.CRASHED if value == 2.0 else StatusType.SUCCESS
        facade.tell(trial, TrialValue(value, status=status))
        found.append((trial.budget, trial.config["learning_rate"]))
    return found


CASES = [
    (5, 300, 3, 41, "crossing"),
    (5, 300, 3, 50, "small rates"),
    (20, 100, 3, 15, "large rates"),
    (20, 100, 2, 13, "diverging"),
    (5, 300, 4, 23, "diverging"),
]
SLOW = [
    (low, high, eta, trials, cost)
    for (low, high), eta, trials, cost in itertools.product(
        ((5, 300), (20, 100), (1, 81)), (2, 3, 4), (50, 67), COSTS
    )
]


@pytest.mark.parametrize(
    ("low", "high", "eta", "trials", "cost"),
    CASES[:1]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in CASES[1:] + SLOW],
)
def test_stages_are_those_of_smac_asked_one_by_one(
    low, high, eta, trials, cost, tmp_path
):
    problem = problem_of(low, high, eta, trials)
    stages = by_stages(problem, COSTS[cost], tmp_path / "ours")
    flat = list(itertools.chain.from_iterable(stages))
    in_order = {"acquisition_maximizer": make_maximizer}
    assert flat == one_by_one(problem, COSTS[cost], tmp_path / "smac", **in_order)
    # What SMAC's model proposes as it is depends on the process; brackets do not.
    bare = one_by_one(problem, COSTS[cost], tmp_path / "bare")
    assert [budget for budget, _ in flat] == [budget for budget, _ in bare]
    for stage in stages:
        assert len({budget for budget, _ in stage}) == 1


def test_the_best_of_each_stage_are_promoted(tmp_path):
    cost = COSTS["small rates"]
    stages = by_stages(problem_of(), cost, tmp_path)
    # SMAC draws two of 27 configurations twice; where one of these is among the best
    # nine it has two places of the next stage.
    assert [(len(s), round(s[0][0])) for s in stages] == [
        *((25, 11), (9, 33), (3, 100), (1, 300), (12, 33)),
    ]
    for before, after in itertools.pairwise(stages[:4]):
        ranked = sorted((cost(rate, budget), rate) for budget, rate in before)
        best = {rate for _, rate in ranked[: len(after)]}
        assert {rate for _, rate in after} == best


def test_the_plan_is_hyperbands_formula():
    stages = plan(problem_of(trials=50))
    # 27 = 3 ** 3; SMAC draws two of them twice and leaves them out.
    assert [s.trials for s in stages] == [27, 9, 3, 1, 10]
    assert [round(s.trained, 1) for s in stages] == [11.1, 22.2, 66.7, 200.0, 33.3]
    assert [s.trials for s in plan(problem_of(trials=50), first=25)] == [
        *(25, 9, 3, 1, 12),
    ]
    assert full_length(problem_of(11, 100)) == 10
    assert full_length(problem_of(5, 5, trials=7)) == 7


POWERS = [
    (low, low * eta**count, eta)
    for eta in (2, 3, 4, 5, 10)
    for low in (1, 2, 5, 27)
    for count in range(13)
    if low * eta**count <= 10**6
]


@pytest.mark.parametrize(("low", "high", "eta"), POWERS)
def test_every_bracket_has_all_its_stages(low, high, eta):
    """Li et al. 2018, in whole numbers: the logarithm of 243 to base 3 is 5."""
    budgets = [low]
    while budgets[-1] < high:
        budgets.append(budgets[-1] * eta)
    assert budgets[-1] == high
    brackets = []
    for first in range(len(budgets)):
        size = math.ceil(
            Fraction(len(budgets) * high // budgets[first], 1) / (len(budgets) - first)
        )
        brackets += [
            (size // eta**stage, budget) for stage, budget in enumerate(budgets[first:])
        ]
    problem = problem_of(low, high, eta, sum(size for size, _ in brackets))
    found = [(stage.trials, round(stage.budget)) for stage in plan(problem)]
    assert found == brackets
    assert Asha(problem)._budgets == budgets


@pytest.mark.parametrize(
    ("high", "eta", "promoted"), [(243, 3, 5), (729, 3, 6), (64, 2, 6), (1000, 10, 3)]
)
def test_smac_trains_the_stages_of_the_plan(high, eta, promoted, tmp_path):
    tuner = Smac(problem_of(1, high, eta, trials=20), tmp_path)
    assert {trial.budget for trial in tuner.ask()} == {high * float(eta) ** -promoted}
    hyperband = tuner._smac._intensifier
    sizes, budgets = hyperband._n_configs_in_stage, hyperband._budgets_in_stage
    stages = zip(
        itertools.chain(*sizes.values()),
        itertools.chain(*budgets.values()),
        strict=True,
    )
    planned = plan(problem_of(1, high, eta, trials=sum(map(sum, sizes.values()))))
    assert list(stages) == [(stage.trials, stage.budget) for stage in planned]


def test_the_default_comes_first_and_full_length_trials_are_made_up(tmp_path):
    problem = problem_of(1, 9, trials=13, default={"learning_rate": 0.25})
    tuner = Smac(problem, tmp_path / "a", full_length=6)
    asked = []
    while trials := tuner.ask():
        asked += trials
        tuner.tell([outcome(COSTS["small rates"], trial) for trial in trials])
    assert asked[0].hparams == {"learning_rate": 0.25}
    assert sum(trial.budget == 9 for trial in asked) >= 6
    assert len(asked) > 13


def test_a_space_that_is_used_up_ends_the_tuning(tmp_path):
    space = Space({"T_0": Range(1, 3, integer=True)})
    tuner = Smac(problem_of(1, 9, trials=40, space=space), tmp_path / "a")
    asked = []
    while trials := tuner.ask():
        asked += trials
        tuner.tell([Outcome(trial.hparams["T_0"]) for trial in trials])
    assert {trial.hparams["T_0"] for trial in asked} <= {1.0, 2.0, 3.0}
    assert 0 < len(asked) <= 40


def proposals(folder):
    """(budget, values) of all trials of a tuning whose costs are a formula."""
    ranges = {"learning_rate": Range(1e-4, 1.0), "T_0": Range(1, 50, integer=True)}
    tuner = Smac(problem_of(20, 100, space=Space(ranges), trials=40), Path(folder))
    asked = []
    while trials := tuner.ask():
        asked += trials
        costs = [abs(t.hparams["learning_rate"] - 0.1) + 1 / t.budget for t in trials]
        tuner.tell([Outcome(cost) for cost in costs])
    return [(trial.budget, trial.hparams) for trial in asked]


@pytest.mark.slow
def test_every_process_proposes_the_same(tmp_path):
    """Whatever the seed of Python's hashes."""
    script = "import test_smac; print(test_smac.proposals({!r}))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script.format(str(tmp_path / seed))],
            cwd=Path(__file__).parent,
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    first, other = [process.communicate(timeout=300)[0] for process in processes]
    assert first.count("learning_rate") == 40
    assert other == first
