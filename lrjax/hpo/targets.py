"""The tunings of a config: each a method on a task, with one seed of the tuner."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lrjax import hyperparameters, identity, machine, methods, protocol, tasks
from lrjax.analysis.scores import metric_label
from lrjax.config import Settings
from lrjax.core import (
    NUMERICS_VERSION,
    Domain,
    Method,
    Metric,
    Range,
    Run,
    Space,
    Task,
    UsageError,
    counted,
    unknown,
)
from lrjax.engine import strategy
from lrjax.hpo import tuners
from lrjax.launch import blocks as blocks_lib

# Seed of all trials of all tunings; the seeds of evaluation count up from 0.
TRIAL_SEED = 2**32 - 1
# Lanes of a block of trials. On a CPU wider blocks are hardly faster per lane, and a
# stage of one full-length trial pays for all lanes.
_WIDTH = {"cpu": 4}
_WIDTH_ELSEWHERE = 32
# At most this many trials get one-lane blocks when results do not depend on the width.
_FEW = {"cpu": 2}
_MOST_ROWS = 2**20  # in a round of a linear model: its order is held in memory


@dataclasses.dataclass(frozen=True)
class Target:
    """One tuning: a method on a task, with one seed of the tuner.

    Attributes:
      task: the task, with its data.
      run: a run at full length with the seed of the trials.
      seed: seed of the tuner, from `config.tune.seeds`.
      base: a value for every hyperparameter; a trial overrides the tuned ones.
      tuner: 'smac', or a name for `tuners.find`.
      problem: what to tune.
      unit: unit of budgets, 'epochs' or 'steps'.
      unit_steps: updates in one unit.
      fidelity: 'truncate' or 'rescale'.
      continuing: whether promoted trials resume from their states.
      cost: name of the measurement that trials are compared by.
      diverged: cost of a trial that diverges, as in `protocol.Tuning`.
      full_length: whether smac must reach the planned number of trials at the full
        budget, even if it skips some.
    """

    task: Task
    run: Run
    seed: int
    base: Mapping[str, Any]
    tuner: str
    problem: tuners.Problem
    unit: str
    unit_steps: int
    fidelity: str
    continuing: bool
    cost: str
    diverged: str | float
    full_length: bool

    @property
    def name(self) -> str:
        """Task and method, for messages."""
        return f"{self.run.task} {self.run.method}"

    @property
    def label(self) -> str:
        """Name of the tuned method in the tables; differs between tuner seeds."""
        return identity.tuned_name(self.tuner, self.seed, self.run.method)

    @property
    def full_steps(self) -> int:
        """Updates of a trial at the largest budget."""
        return self.problem.max_budget * self.unit_steps

    @property
    def most_updates(self) -> int:
        """Updates of all trials, if none is stopped early."""
        return self.full_steps * self.problem.trials

    @property
    def method(self) -> Method:
        """The method that is tuned."""
        return methods.find(self.run.method)

    def split(
        self, run: Run
    ) -> tuple[tuple[tuple[str, Any], ...], Mapping[str, float]]:
        """Static and traced hyperparameters of a trial."""
        return methods.split(self.method, dict(run.hparams))

    def width(self, count: int) -> int:
        """Lanes of a block, given how many settings are trained at once."""
        return width_of(self, count)

    def cost_of(self, values: Mapping[str, float]) -> float:
        """Cost of a trial from its measurements; lower is better."""
        value, metric = values[self.cost], self.metric
        return -value if metric and metric.higher_is_better else value

    @property
    def metric(self) -> Metric | None:
        """Metric behind `cost`; None for a mean loss of training batches."""
        return _columns(self.task).get(self.cost)

    def cost_text(self, cost: float) -> str:
        """A cost as the value that was measured: 'validation accuracy 93.3 %'."""
        if metric := self.metric:
            value = -metric.sign * cost
            text = metric.text(value)
            if value and not float(metric.shown(value)):  # a loss of 2e-5 is not 0
                text = f"{metric.factor * value:.1e} {metric.unit}".rstrip()
            return f"{metric_label(self.cost)} {text}"
        return f"{metric_label(self.cost)} {cost:.5g}"

    def identity(self) -> str:
        """16 hexadecimal digits that follow from all that changes a trial."""
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("task", "run", "problem", "continuing")
        }
        fields["run"] = identity.run_fields(self.run)
        fields["problem"] = dataclasses.asdict(self.problem)
        return identity.digest(fields | {"numerics_version": NUMERICS_VERSION})

    def budget(self, trial: tuners.Trial) -> int:
        """A trial's budget in whole units; SMAC's budgets may be fractional."""
        return round(trial.budget)

    def trained(self, budget: float, before: float) -> int:
        """Units of training that a trial costs: what plans and reports count.

        Of trials that resume, the part that their earlier state does not have. So it is
        also where a kill loses the state, and the trial trains from the start.

        Args:
          budget: of the trial.
          before: budget at which its configuration left a state; 0 for none.
        """
        return round(budget) - (round(before) if self.continuing else 0)

    def hparams(self, trial: tuners.Trial) -> dict[str, Any]:
        """Every hyperparameter of a trial."""
        values = {**self.base, **trial.hparams}
        return hyperparameters.proposed(self.method, values, self.run.precision)

    def is_valid(self, trial: tuners.Trial) -> bool:
        """Whether a run may have a trial's hyperparameters."""
        domains, values = self.method.domains, self.hparams(trial)
        return all(
            values[name] in domains.get(name, Domain()) for name in trial.hparams
        )

    def trial_run(self, trial: tuners.Trial) -> Run:
        """The run of a trial."""
        steps = self.budget(trial) * self.unit_steps
        full_steps = max(self.run.steps, self.full_steps)
        return dataclasses.replace(
            self.run,
            hparams=tuple(sorted(self.hparams(trial).items())),
            steps=steps,
            horizon=steps if self.fidelity == "rescale" else full_steps,
        )


def width_of(target: Target, count: int) -> int:
    """Lanes of the blocks that train the trials of a target.

    Where promoted trials may resume from a state the width is the same for all stages,
    so that a trial's bits do not depend on where it was interrupted. Where all trials
    start anew, a few trials get a lane each instead of a block that is mostly padding.

    Args:
      target: target of the trials.
      count: trials asked for at the same time that differ in traced values alone.
    """
    backend = machine.kind()
    if strategy.one_by_one(target.task):
        return 1
    if target.fidelity == "rescale" and count <= _FEW.get(backend, 0):
        return 1
    most = blocks_lib.most_runs(target.task, methods.find(target.run.method))
    return min(_WIDTH.get(backend, _WIDTH_ELSEWHERE), most)


def targets(settings: Settings, loaded: Sequence[Task]) -> list[Target]:
    """All tunings of the settings, in the order of tasks, methods and tuner's seeds.

    Args:
      settings: what to tune.
      loaded: a task for each name of `settings.tasks`.

    Raises:
      UsageError: if a space is empty or budgets do not fit.
    """
    return [
        _target(own, name, task, data, method, seed)
        for name, task in zip(settings.tasks, loaded, strict=True)
        for data, own in [(tasks.fingerprint(task), settings.on(name))]
        for method in own.methods
        for seed in own.tune.seeds
    ]


def _target(
    settings: Settings, name: str, task: Task, data: str, method: str, seed: int
) -> Target:
    """The tuning of a method on a task with one seed of the tuner.

    Args:
      settings: the config.
      name, task: the task and its name in the config.
      data: fingerprint of the task's data.
      method: name of the method.
      seed: seed of the tuner.
    """
    tune = settings.tune
    tuning = protocol.find(settings.protocol).tuning_of(name)
    base = settings.hparams_grid(method, name)[0]
    space = _space(settings, tuning, method)
    # The study's own spaces have values that no run may have: trials of them are lost.
    ours = space != tuning.spaces.get(method)
    _check_corners(methods.find(method), base, space, settings.precision, ours)
    budgets = _budgets(settings, tuning, name, task, method)
    fidelity = tune.fidelity or tuning.fidelity
    # A measurement costs as much as some epochs of a linear model, and only a trial's
    # last one counts.
    every = task.steps_per_epoch
    if strategy.kind_of(task) == strategy.LINEAR:
        most = max(1, _MOST_ROWS // task.batch_size)
        every = min(budgets.least * budgets.unit_steps, most)
    run = blocks_lib.run_of(
        settings,
        name,
        task,
        data,
        methods.find(method),
        base,
        seed=TRIAL_SEED,
        steps=budgets.steps,
        horizon=budgets.steps,
        eval_every=every,
    )
    return Target(
        task=task,
        run=dataclasses.replace(run, hparams=()),  # each trial has its own
        seed=seed,
        base=base,
        tuner=tune.tuner,
        problem=tuners.Problem(
            space=space,
            default=_default(base, space) if tuning.default_first else None,
            trials=tune.trials,
            min_budget=budgets.least,
            max_budget=budgets.most,
            eta=tune.eta,
            # Each tuning draws its own configurations, whatever other tunings there are
            seed=int(identity.digest(f"{name} {method} {seed}")[:8], 16) >> 1,
        ),
        unit=budgets.unit,
        unit_steps=budgets.unit_steps,
        fidelity=fidelity,
        # With 'rescale' the schedule of a longer budget differs from the start on.
        continuing=tune.continuing and fidelity == "truncate",
        cost=_cost(tune.cost, name, task) or tuning.cost,
        diverged=tuning.diverged,
        full_length=tuning.full_length,
    )


class _Budgets(NamedTuple):
    """Lengths of a tuning's trials.

    Attributes:
      unit: 'epochs' or 'steps'.
      unit_steps: updates in one unit.
      least, most: smallest and largest budget, in units.
      steps: updates of a full run.
    """

    unit: str
    unit_steps: int
    least: int
    most: int
    steps: int


def _budgets(
    settings: Settings, tuning: protocol.Tuning, name: str, task: Task, method: str
) -> _Budgets:
    """Budgets from the config, else from the protocol, else from the full length.

    Args:
      settings: budgets of the config.
      tuning: what the protocol says on tuning.
      name, task: the task and its name in the config.
      method: name of the method.

    Raises:
      UsageError: if the largest budget is below one unit or below the smallest.
    """
    tune = settings.tune
    least, unit = tuning.budgets.get(method) or tuning.budgets.get("") or (None, "")
    unit = tune.unit or unit or settings.length(name)[1]
    unit_steps = task.steps_per_epoch if unit == "epochs" else 1
    steps = settings.updates(name, task.steps_per_epoch)
    most = tune.max_budget or steps // unit_steps
    if not most:
        raise UsageError(
            f"{name}: {counted(steps, 'step')} of training, less than an epoch; set "
            "config.tune.unit=steps"
        )
    # By default two promotions lead to the full length.
    least = tune.min_budget or least or max(1, most // tune.eta**2)
    if least > most:
        raise UsageError(
            f"tuning {method} on {name}: the smallest budget, {least} {unit}, is above "
            f"the largest, {most}; set config.tune.min_budget or train for longer"
        )
    return _Budgets(unit, unit_steps, least, most, steps)


def _default(base: Mapping[str, Any], space: Space) -> dict[str, Any] | None:
    """Default of each tuned hyperparameter; None unless all are in their ranges.

    Args:
      base: a value for every hyperparameter.
      space: ranges of the tuned ones.
    """
    values = {name: base[name] for name in space.ranges if base[name] is not None}
    inside = len(values) == len(space.ranges) and all(
        space.ranges[name].low <= value <= space.ranges[name].high
        for name, value in values.items()
    )
    return values if inside else None


def _columns(task: Task) -> dict[str, Metric]:
    """Columns of the tables that a task can be tuned by -> their metrics."""
    return {f"{part}_{m}": m for part in ("valid", "train") for m in task.metrics}


def _cost(column: str, name: str, task: Task) -> str:
    """The column of `config.tune.cost`, checked; '' stays ''.

    Raises:
      UsageError: if the task has no such measurement.
    """
    columns = _columns(task)
    if column and column not in columns:
        raise unknown(f"config.tune.cost of {name}", column, columns)
    return column


def _space(settings: Settings, tuning: protocol.Tuning, method: str) -> Space:
    """Ranges from the config, else from the protocol, else from the method.

    Args:
      settings: ranges of the config.
      tuning: what the protocol says on tuning.
      method: name of the method.
    """
    defaults = methods.find(method).defaults
    ranges: Mapping[str, Range] = {
        name: values for name, values in settings.tune.space.items() if name in defaults
    }
    ranges = ranges or tuning.spaces.get(method, methods.find(method).space).ranges
    if not ranges:
        raise UsageError(
            f"method '{method}' has nothing to tune: its space is empty; set "
            f"config.tune.space.NAME for one of {', '.join(defaults)}"
        )
    return Space(dict(sorted(ranges.items())))


def _check_corners(
    method: Method,
    base: Mapping[str, Any],
    space: Space,
    precision: str,
    valid: bool,
) -> None:
    """Refuse a space if the method cannot have the ends of its ranges.

    Each hyperparameter is checked by itself, so two corners cover all ends.

    Args:
      method: the method.
      base: a value for every hyperparameter.
      space: ranges of the tuned ones.
      precision: precision of the runs.
      valid: whether all values must be those that a run may have; else the method need
        only be built with them.

    Raises:
      UsageError: names the values.
    """
    check = hyperparameters.complete if valid else hyperparameters.check_proposed
    lows = {name: values.low for name, values in space.ranges.items()}
    highs = {name: values.high for name, values in space.ranges.items()}
    for corner in (lows, highs):
        try:
            check(method, {**base, **corner}, precision)
        except UsageError as error:
            where = ", ".join(f"{name}={value:g}" for name, value in corner.items())
            raise UsageError(f"tune.space: at {where}: {error}") from None
