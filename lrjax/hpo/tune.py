"""Tunes methods: a tuner's stages trained as populations, then fresh runs of the best.

All tunings of a config advance in lockstep: each is asked for its next stage, all
these trials are trained together, and each tuner is told. `trials.jsonl` has a line per
trial; a tuning that was cut short is replayed from it, every configuration checked.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from lrjax import (
    console,
    hyperparameters,
    identity,
    methods,
    protocol,
    reports,
    results,
    tasks,
)
from lrjax.analysis.scores import metric_label
from lrjax.common import numerics
from lrjax.common.reading import reading
from lrjax.config import Settings
from lrjax.core import (
    NUMERICS_VERSION,
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
from lrjax.hpo import smac, tuners
from lrjax.hpo.trials import Job, Trainer
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import experiment, local
from lrjax.launch.blocks import Block
from lrjax.launch.session import Launch, Launcher
from lrjax.launch.units import State, Trained

# All trials of all tunings train from this seed: evaluation's count up from 0.
TRIAL_SEED = 2**32 - 1
# Lanes of a block of trials. On a CPU wider ones are hardly faster per lane, and a
# stage of one full-length trial pays for all of them.
_WIDTH = {"cpu": 4}
_WIDTH_ELSEWHERE = 32
# Up to so many trials are trained in blocks of one lane where the width is free.
_FEW = {"cpu": 2}
_MOST_ROWS = 2**20  # of a round of linear models: its order is held at once


@dataclasses.dataclass(frozen=True)
class Target:
    """One tuning: a method on a task, with one seed of the tuner.

    Attributes:
      task: with its data.
      run: a run of it at full length with the tuning's seed.
      seed: of `config.tune.seeds`.
      base: every hyperparameter, to be overridden by the tuned ones.
      tuner: one of `config.TUNERS`.
      problem: what to tune.
      unit: of budgets, 'epochs' or 'steps'.
      unit_steps: updates of one.
      fidelity: 'truncate' or 'rescale'.
      continuing: whether promoted trials go on from their states.
      cost: the measurement that tells how good a trial is.
      diverged: what a trial costs that diverges, as in `protocol.Tuning`.
      full_length: trials at the full budget to reach with smac, whatever it leaves out.
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
        """For people."""
        return f"{self.run.task} {self.run.method}"

    @property
    def label(self) -> str:
        """The method's name in the tables once it is tuned; other seeds' differ."""
        return identity.tuned_name(self.tuner, self.seed, self.run.method)

    @property
    def full_steps(self) -> int:
        """Updates of a trial at the largest budget."""
        return self.problem.max_budget * self.unit_steps

    @property
    def method(self) -> Method:
        """What is tuned."""
        return methods.find(self.run.method)

    def split(
        self, run: Run
    ) -> tuple[tuple[tuple[str, Any], ...], Mapping[str, float]]:
        """The static and the traced hyperparameters of a trial."""
        return methods.split(self.method, dict(run.hparams))

    def width(self, count: int) -> int:
        """Lanes of a block."""
        return width_of(self, count)

    def cost_of(self, values: Mapping[str, float]) -> float:
        """What the tuner is told of a trial's measurements; lower is better."""
        value, metric = values[self.cost], self.metric
        return -value if metric and metric.higher_is_better else value

    @property
    def metric(self) -> Metric | None:
        """What tells how good a trial is; None for a loss of batches."""
        return _columns(self.task).get(self.cost)

    def said(self, cost: float) -> str:
        """A cost for people, as what was measured: 'validation accuracy 93.3 %'."""
        if metric := self.metric:
            value = -metric.sign * cost
            return f"{metric_label(self.cost)} {metric.text(value)}"
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
        """A trial's budget in whole units; SMAC's are no whole numbers."""
        return round(trial.budget)

    def hparams(self, trial: tuners.Trial) -> dict[str, Any]:
        """Every hyperparameter of a trial."""
        asked = {**self.base, **trial.hparams}
        return hyperparameters.proposed(self.method, asked, self.run.precision)

    def trial_run(self, trial: tuners.Trial) -> Run:
        """What a trial trains."""
        steps = self.budget(trial) * self.unit_steps
        whole = max(self.run.steps, self.full_steps)
        return dataclasses.replace(
            self.run,
            hparams=tuple(sorted(self.hparams(trial).items())),
            steps=steps,
            horizon=steps if self.fidelity == "rescale" else whole,
        )


@numerics.settled
def run(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    launch: Launch = local.launch,
) -> list[Path]:
    """Tunes every method of the settings on every task, then trains what was best.

    Args:
      settings: what to tune, and the seeds of the runs with the best setting.
      workdir: where the tables are.
      data_dir: where data files are looked for first.
      overrides: what the command line changed of the config; for the record.
      launch: who trains.

    Returns:
      the figures written.

    Raises:
      UsageError: if the settings, data or workdir are of no use; before any training.
      Interrupted: on SIGINT and SIGTERM.
    """
    check(settings)
    with launch(settings, workdir, data_dir, overrides) as launcher:
        return _run(launcher)


def _run(launcher: Launcher) -> list[Path]:
    """Tunes in the launcher's session, then trains what was best."""
    session = launcher.session
    settings = session.settings
    found = targets(*blocks_lib.load(settings, session.data_dir))
    workdir = session.tables.workdir  # opened: nobody else tunes here
    known = _known(found, results.read_rows(workdir, results.TRIALS), workdir)
    session.record({t.run.task: results.describe(t.task.metrics) for t in found})
    searches = [
        Search(target, make_tuner(target, workdir), rows)
        for target, rows in zip(found, known, strict=True)
    ]
    _advance(searches, launcher)
    # Other tunings' rows, too, which nobody has looked at.
    with reading(workdir / results.TRIALS, "cannot be drawn"):
        rows = results.read_rows(workdir, results.TRIALS)
        drawn = reports.tuning(rows, workdir, results.load_metrics(workdir))
    winners = []
    for search in searches:
        console.say(search.summary())
        winners += _winner_blocks(search, settings)
    experiment.train_missing(launcher, winners)
    return drawn


def check(settings: Settings) -> None:
    """Refuses settings that cannot be tuned.

    Raises:
      UsageError: says which.
    """
    if settings.grid:
        name = next(iter(settings.grid))
        raise UsageError(
            f"config.grid.{name} is for --mode=train; set config.tune.space.{name} to "
            "(low, high), and config.tune.tuner=grid for a grid"
        )
    if TRIAL_SEED in settings.seeds:
        raise UsageError(
            f"config.seeds: {TRIAL_SEED} is the seed of the trials; runs with the best "
            "setting need others"
        )


def targets(settings: Settings, loaded: Sequence[Task]) -> list[Target]:
    """All tunings of the settings, in the order of tasks, methods and tuner's seeds.

    Raises:
      UsageError: if a space is empty or budgets do not fit.
    """
    found = []
    for name, task in zip(settings.tasks, loaded, strict=True):
        data = tasks.fingerprint(task)
        for method in settings.methods:
            for seed in settings.tune.seeds:
                found.append(_target(settings, name, task, data, method, seed))
    return found


def _target(
    settings: Settings, name: str, task: Task, data: str, method: str, seed: int
) -> Target:
    tune = settings.tune
    tuning = protocol.find(settings.protocol).tuning_of(name)
    base = settings.lanes(method, name)[0]
    space = _space(settings, tuning, method)
    _check_corners(methods.find(method), base, space, settings.precision)
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
    # Two promotions to the full length, whatever that is.
    least = tune.min_budget or least or max(1, most // tune.eta**2)
    if least > most:
        raise UsageError(
            f"tuning {method} on {name}: the smallest budget, {least} {unit}, is above "
            f"the largest, {most}; set config.tune.min_budget or train for longer"
        )
    values = {n: base[n] for n in space.ranges if base[n] is not None}
    inside = len(values) == len(space.ranges) and all(
        space.ranges[n].low <= v <= space.ranges[n].high for n, v in values.items()
    )
    problem = tuners.Problem(
        space=space,
        default=values if tuning.default_first and inside else None,
        trials=tune.trials,
        min_budget=least,
        max_budget=most,
        eta=tune.eta,
        # Each tuning draws configurations of its own, whatever others there are.
        seed=int(identity.digest(f"{name} {method} {seed}")[:8], 16) >> 1,
    )
    fidelity = tune.fidelity or tuning.fidelity
    # A measurement costs as much as some epochs of a linear model, and only a trial's
    # last one counts.
    every = task.steps_per_epoch
    if strategy.kind_of(task) == strategy.LINEAR:
        every = min(least * unit_steps, max(1, _MOST_ROWS // task.batch_size))
    run = blocks_lib.run_of(
        settings,
        name,
        task,
        data,
        methods.find(method),
        base,
        seed=TRIAL_SEED,
        steps=steps,
        horizon=steps,
        eval_every=every,
    )
    return Target(
        task=task,
        run=dataclasses.replace(run, hparams=()),  # each trial has its own
        seed=seed,
        base=base,
        tuner=tune.tuner,
        problem=problem,
        unit=unit,
        unit_steps=unit_steps,
        fidelity=fidelity,
        # A schedule laid out for the budget is another one for each budget.
        continuing=tune.continuing and fidelity == "truncate",
        cost=_cost(tune.cost, name, task) or tuning.cost,
        diverged=tuning.diverged,
        full_length=tuning.full_length,
    )


def _columns(task: Task) -> dict[str, Metric]:
    """The columns that a task can be tuned by, with their metrics."""
    return {f"{part}_{m}": m for part in ("valid", "train") for m in task.metrics}


def _cost(asked: str, name: str, task: Task) -> str:
    """The column to tune by that was asked for.

    Raises:
      UsageError: if the task is not measured so.
    """
    columns = _columns(task)
    if asked and asked not in columns:
        raise unknown(f"config.tune.cost of {name}", asked, columns)
    return asked


def _space(settings: Settings, tuning: protocol.Tuning, method: str) -> Space:
    defaults = methods.find(method).defaults
    ranges: Mapping[str, Range] = {
        name: found for name, found in settings.tune.space.items() if name in defaults
    }
    ranges = ranges or tuning.spaces.get(method, methods.find(method).space).ranges
    if not ranges:
        raise UsageError(
            f"method '{method}' has nothing to tune: its space is empty; set "
            f"config.tune.space.NAME for one of {', '.join(defaults)}"
        )
    return Space(dict(sorted(ranges.items())))


def _check_corners(
    method: Method, base: Mapping[str, Any], space: Space, precision: str
) -> None:
    """Refuses a space with values at its ends that the method cannot be built with.

    What optimisers refuse they refuse of each value by itself: two corners show it.

    Raises:
      UsageError: says with which values.
    """
    lows = {name: found.low for name, found in space.ranges.items()}
    highs = {name: found.high for name, found in space.ranges.items()}
    for corner in (lows, highs):
        try:
            hyperparameters.check_proposed(method, {**base, **corner}, precision)
        except UsageError as error:
            where = ", ".join(f"{name}={value:g}" for name, value in corner.items())
            raise UsageError(f"tune.space: at {where}: {error}") from None


def make_tuner(target: Target, workdir: Path) -> tuners.Tuner:
    """The tuner of a target; SMAC keeps its files below `workdir`/smac."""
    if target.tuner == "smac":
        words = (target.run.task, target.run.method, str(target.seed))
        name = re.sub(r"[^\w.-]+", "-", " ".join(words)).strip("-.")
        if target.run.task not in tasks.TASKS:  # others may run into each other
            name = f"{name[:60]}-{identity.digest(words)}"
        wanted = smac.full_length(target.problem) if target.full_length else 0
        return smac.Smac(target.problem, workdir / "smac" / name, wanted)
    return tuners.PLAIN[target.tuner](target.problem)


def _known(
    found: Sequence[Target], rows: Iterable[Mapping[str, Any]], workdir: Path
) -> list[dict[int, Mapping[str, Any]]]:
    """Each target's trials that are in the table already, by their number.

    Raises:
      UsageError: if there are trials of the same tuning with other settings.
    """
    names = ("task", "method", "tuner", "seed")
    places: dict[tuple[Any, ...], int] = {
        (t.run.task, t.run.method, t.tuner, t.seed): i for i, t in enumerate(found)
    }
    known: list[dict[int, Mapping[str, Any]]] = [{} for _ in found]
    for row in rows:
        key = tuple(row.get(name) for name in names)
        if key not in places:
            continue
        i = places[key]
        if row["tuning"] != found[i].identity():
            raise UsageError(
                f"{workdir / results.TRIALS} holds trials of {row['method']} on "
                f"{row['task']} with other settings; choose another --workdir"
            )
        numbers = (row.get("cost"), row.get("seconds"))
        if row.get("status") not in ("done", "crashed") or not all(
            isinstance(x, int | float) and math.isfinite(x) for x in numbers
        ):
            raise UsageError(
                f"{workdir / results.TRIALS}: trial {row['trial']} of {row['method']} "
                f"on {row['task']} is damaged; remove its line"
            )
        known[i][row["trial"]] = row
    return known


class Search:
    """A tuning under way.

    Attributes:
      target: what is tuned.
      rows: of all trials that were told, in order.
      trials: of the stage at hand.
      first: trials of the first stage.
    """

    def __init__(
        self,
        target: Target,
        tuner: tuners.Tuner,
        known: Mapping[int, Mapping[str, Any]] | None = None,
    ):
        self.target, self.tuner = target, tuner
        self.rows: list[Mapping[str, Any]] = []
        self.trials: list[tuners.Trial] = []
        self.first = 0
        self.best: Mapping[str, Any] | None = None
        self._known = known or {}
        self._identity = target.identity()
        self._stage = -1
        self._states: dict[int, State] = {}

    def ask(self) -> bool:
        """Gets the next stage; whether there is one.

        Raises:
          UsageError: if the table has other trials in its place.
        """
        self.trials = self.tuner.ask()
        self._stage += 1
        if not self._stage:
            self.first = len(self.trials)
        for number, trial in enumerate(self.trials, len(self.rows)):
            row, head = self._known.get(number), self._head(number, trial)
            if row and any(
                identity.canonical(row.get(name)) != identity.canonical(value)
                for name, value in head.items()
            ):
                raise UsageError(
                    f"{results.TRIALS}: trial {number} of {self.target.name} is not "
                    f"what {self.target.tuner} asks for now; was it changed, or made "
                    "by another version? Choose another --workdir"
                )
        return bool(self.trials)

    def _head(self, number: int, trial: tuners.Trial) -> dict[str, Any]:
        """What is known of a trial before it is trained."""
        target = self.target
        return {
            "trial": number,
            "config_id": trial.config_id,
            "stage": self._stage,
            "task": target.run.task,
            "method": target.run.method,
            "hparams": target.hparams(trial),
            "budget": target.budget(trial),
        }

    def jobs(self) -> list[Job]:
        """The stage at hand."""
        return [
            Job(
                self.target,
                self.target.trial_run(trial),
                self._states.get(trial.config_id),
                number in self._known,
                self._goes_on(trial),
            )
            for number, trial in enumerate(self.trials, len(self.rows))
        ]

    def _goes_on(self, trial: tuners.Trial) -> bool:
        """Whether a trial may be promoted and go on from where it ended."""
        most = self.target.problem.max_budget
        return self.target.continuing and trial.budget < most

    def tell(self, trained: Mapping[str, Trained]) -> None:
        """Tells the tuner of the stage at hand.

        Args:
          trained: run_id -> result, of all that was not in the table.
        """
        target, raw, states = self.target, [], {}
        for number, trial in enumerate(self.trials, len(self.rows)):
            if row := self._known.get(number):
                raw.append((row["cost"], row["status"] == "crashed", row["seconds"]))
                continue
            result = trained[identity.run_id(target.trial_run(trial))]
            value = target.cost_of(result.values)
            dead = result.values["diverged_at"] > 0 or not math.isfinite(value)
            raw.append((value, dead, result.seconds))
            if result.state and self._goes_on(trial):
                states[trial.config_id] = result.state
        self._states |= states
        finite = [row["cost"] for row in self.rows if row["status"] == "done"]
        finite += [cost for cost, crashed, _ in raw if not crashed]
        outcomes = []
        for number, (trial, (cost, crashed, seconds)) in enumerate(
            zip(self.trials, raw, strict=True), len(self.rows)
        ):
            if crashed:
                cost = _crash_cost(target.diverged, cost, finite)
            outcomes.append(tuners.Outcome(cost, crashed, seconds))
            row = self._head(number, trial) | {
                "cost": outcomes[-1].cost,
                "status": "crashed" if crashed else "done",
                "seconds": seconds,
            }
            row["incumbent"] = self._improves(row)
            row |= {
                "unit": target.unit,
                "max_budget": target.problem.max_budget,
                "tuned_by": target.cost,
                "protocol": target.run.protocol,
                "tuner": target.tuner,
                "seed": target.seed,
                "tuning": self._identity,
            }
            if row["incumbent"]:
                self.best = row
            self.rows.append(row)
        self.tuner.tell(outcomes)

    def _improves(self, row: Mapping[str, Any]) -> bool:
        """Whether a trial is the best at the largest budget so far."""
        if row["status"] != "done":
            return False
        best = self.best
        return not best or (-row["budget"], row["cost"]) < (
            -best["budget"],
            best["cost"],
        )

    def tuned(self, row: Mapping[str, Any]) -> str:
        """A trial's setting for people."""
        return ", ".join(
            f"{name} {row['hparams'][name]:.5g}"
            for name in self.target.problem.space.ranges
        )

    def progress(self) -> str:
        """A line on where the search stands."""
        best = "all diverged"
        if self.best:
            said = self.target.said(self.best["cost"])
            best = f"best {said}, {self.tuned(self.best)}"
        trials = f"trial {len(self.rows)} of {self.target.problem.trials}"
        return f"{self.target.name}: {trials}, {best} "

    def summary(self) -> str:
        """A line that says what was found."""
        if not self.best:
            trials = counted(len(self.rows), "trial")
            return f"{self.target.name}: all of {trials} diverged"
        budget = counted(self.best["budget"], self.target.unit.removesuffix("s"))
        return (
            f"{self.target.label} on {self.target.run.task}: {self.tuned(self.best)} "
            f"({self.target.said(self.best['cost'])} at {budget}), best of "
            f"{counted(len(self.rows), 'trial')}"
        )


def _crash_cost(rule: str | float, measured: float, finite: Sequence[float]) -> float:
    """What a trial costs that diverged, by the rule of `protocol.Tuning.diverged`."""
    if rule == "twice the worst":
        return 2 * max([abs(cost) for cost in finite], default=1.0)
    return measured if rule == "as measured" else float(rule)


def planned(search: Search) -> list[tuple[tuners.Stage, float]]:
    """Stages of a search whose first was asked, each with its cost in full runs."""
    target = search.target
    return [
        (
            stage,
            stage.trials
            * (stage.trained if target.continuing else stage.budget)
            / target.problem.max_budget,
        )
        for stage in search.tuner.plan(search.first)
    ]


def plan_lines(search: Search) -> list[str]:
    """A plan for people: stages, trials, budgets, cost in full runs."""
    target, problem = search.target, search.target.problem
    stages = planned(search)
    budgets = counted(problem.max_budget, target.unit.removesuffix("s"))
    if problem.min_budget < problem.max_budget:
        budgets = f"{problem.min_budget} to {budgets}"
    row = "{:>7}{:>8}{:>8}{:>11}".format
    return [
        f"{target.label} on {target.run.task}: {counted(problem.trials, 'trial')} of "
        f"{budgets}; promoted ones "
        + ("go on from their states" if target.continuing else "start anew"),
        row("stage", "trials", target.unit, "full runs"),
        *(
            row(number, stage.trials, round(stage.budget), f"{cost:.1f}")
            for number, (stage, cost) in enumerate(stages)
        ),
        row(
            "in all",
            sum(stage.trials for stage, _ in stages),
            "",
            f"{sum(cost for _, cost in stages):.1f}",
        ),
    ]


def _advance(searches: Sequence[Search], launcher: Launcher) -> None:
    """Tunes to the end, all searches in lockstep."""
    active = [search for search in searches if search.ask()]
    for search in active:
        for line in plan_lines(search):
            console.say(line)
    bar = tqdm(
        total=sum(cost for search in active for _, cost in planned(search)),
        bar_format="{desc}{bar}| {n:.1f} of {total:.1f} full runs [{elapsed}, "
        "{remaining} left]",
        disable=None,
        leave=False,
    )
    session, trainer = launcher.session, Trainer(launcher, bar.update)
    with bar:
        while active:
            trained = trainer.train([job for s in active for job in s.jobs()])
            for search in active:
                before = len(search.rows)
                search.tell(trained)
                session.tables.append(results.TRIALS, search.rows[before:])
                bar.set_description_str(search.progress())
                if bar.disable:
                    console.say(search.progress())
            trainer.forget()
            console.stop_if(session.signalled)
            active = [search for search in active if search.ask()]


def width_of(target: Target, count: int) -> int:
    """Lanes of the blocks in which some trials are trained.

    Where promoted trials may go on from a state it is the same for all stages, so that
    a trial's bits do not depend on where it was cut. Where all start anew a few trials
    get a lane each instead of a block that is mostly padding.

    Args:
      target: of the trials.
      count: how many were asked for at the same time, alike but for their values.
    """
    backend = jax.default_backend()
    if strategy.one_by_one(target.task):
        return 1
    if target.fidelity == "rescale" and count <= _FEW.get(backend, 0):
        return 1
    most = blocks_lib.most_runs(target.task, methods.find(target.run.method))
    return min(_WIDTH.get(backend, _WIDTH_ELSEWHERE), most)


def _winner_blocks(search: Search, settings: Settings) -> list[Block]:
    """Runs with the best setting and fresh seeds, as of a method of its own."""
    target = search.target
    if not search.best:
        return []
    tuned = {n: search.best["hparams"][n] for n in target.problem.space.ranges}
    name, method = target.run.task, target.run.method
    hparams = {method: {**settings.hparams.get(method, {}), **tuned}}
    alone = dataclasses.replace(
        settings, tasks=(name,), methods=(method,), hparams=hparams
    )
    return [
        Block(
            block.program,
            tuple(
                tuple(dataclasses.replace(run, method=target.label) for run in row)
                for row in block.runs
            ),
            block.lanes,
        )
        for block in blocks_lib.plan(alone, [target.task])
    ]
