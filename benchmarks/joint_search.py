"""Searchers of hyperparameters on the joint space of methods and rates, from tables.

The space is a method, and below each method that has several rates a logarithmic rate
between its least and its largest; what a searcher proposes is the contender of the
table whose rate is nearest. Both maximise the validation metric that a selection ranks
by, have their libraries' defaults, and answer the contender with the highest value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import priors
from lrjax.hpo import points

_SHARES = (1 / 9, 1 / 3, 1.0)  # of a full run: the tables' rungs


class Space:
    """The joint space of a table's contenders.

    Attributes:
      methods: names, in the order of the table.
      rates: method -> number of each contender by its rate; {nan: number} without one.
    """

    def __init__(self, keys: Sequence[str]):
        """Read the contenders' names, such as 'adam 0.01'."""
        named = [key.split()[0] for key in keys]
        self.methods = list(dict.fromkeys(named))
        self.rates: dict[str, dict[float, int]] = {name: {} for name in self.methods}
        for i, rate in enumerate(priors.rates_of(keys)):
            self.rates[named[i]][float(rate)] = i

    def ends(self, method: str) -> tuple[float, float] | None:
        """The least and the largest rate of a method; None if it has but one."""
        rates = sorted(self.rates[method])
        return (rates[0], rates[-1]) if len(rates) > 1 else None

    def nearest(self, method: str, rate: float | None) -> int:
        """The contender of a method whose rate is nearest in its logarithm."""
        own = self.rates[method]
        if rate is None:
            return next(iter(own.values()))
        return own[min(own, key=lambda known: abs(math.log(known / rate)))]


def values(table: priors.Table, who: int, run: int) -> Iterator[float]:
    """The validation metric of a run at each rung; -inf from where it was lost."""
    metric, sign = ("accuracy", 1) if table.kind == points.SHARE else ("loss", -1)
    rungs = table.content[f"rung_valid_{metric}"][:, run, who]
    for found in (*rungs, table.content[f"valid_{metric}"][run, who]):
        yield sign * float(found) if math.isfinite(found) else -math.inf


def seed_of(table: priors.Table) -> int:
    """Another seed for each task."""
    return sum(map(ord, table.name))


def tpe(table: priors.Table, budget: int, order: Sequence[int]) -> int:
    """Optuna's TPE with its median pruner: the contender with the highest value.

    Args:
      table: a judging task with rungs.
      budget: in full runs; a trial that is pruned costs its share.
      order: rows of the table, a trial after the other.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = Space(table.contenders)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed_of(table)),
        pruner=optuna.pruners.MedianPruner(),
    )
    spent, best = 0.0, (-math.inf, 0)
    while spent + 1 <= budget + 1e-9:
        trial = study.ask()
        method = trial.suggest_categorical("method", space.methods)
        ends = space.ends(method)
        rate = (
            trial.suggest_float(f"rate of {method}", *ends, log=True) if ends else None
        )
        who = space.nearest(method, rate)
        run = order[trial.number % len(order)]
        before = 0.0
        for step, value in enumerate(values(table, who, run)):
            spent, before = spent + _SHARES[step] - before, _SHARES[step]
            trial.report(value, step)
            if before < 1 and (value == -math.inf or trial.should_prune()):
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, value if math.isfinite(value) else -1e9)
            best = max(best, (value, who))
    return best[1]


def smac(table: priors.Table, budget: int, order: Sequence[int]) -> int:
    """SMAC's random forests: the contender with the highest value.

    Args:
      table: a task.
      budget: in full runs, each of which is a trial.
      order: rows of the table, a trial after the other.
    """
    import tempfile

    import ConfigSpace
    from smac import HyperparameterOptimizationFacade, Scenario
    from smac.runhistory import TrialValue

    known = Space(table.contenders)
    space = ConfigSpace.ConfigurationSpace(seed=seed_of(table))
    method = ConfigSpace.Categorical("method", known.methods)
    space.add(method)
    for name in known.methods:
        if ends := known.ends(name):
            rate: Any = ConfigSpace.Float(f"rate_{name}", ends, log=True)
            space.add(rate)
            space.add(ConfigSpace.EqualsCondition(rate, method, name))
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            space, output_directory=folder, n_trials=budget, seed=seed_of(table)
        )
        facade = HyperparameterOptimizationFacade(
            scenario, lambda config, seed=0: 0.0, logging_level=False, overwrite=True
        )
        best, worst = (-math.inf, 0), 0.0
        for trial in range(budget):
            asked = facade.ask()
            name = asked.config["method"]
            who = known.nearest(name, dict(asked.config).get(f"rate_{name}"))
            *_, value = values(table, who, order[trial % len(order)])
            worst = min(worst, value) if math.isfinite(value) else worst
            cost = -value if math.isfinite(value) else 1 - 2 * worst
            facade.tell(asked, TrialValue(cost=float(cost)))
            best = max(best, (value, who))
    return best[1]
