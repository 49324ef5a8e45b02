"""Finds the right controller for a task: successive halving over methods and rates.

Every contender, a method with its hyperparameters, trains with the same seeds. On each
rung all that are left go on from their states to the same number of updates and are
compared there; part of them stops. A contender whose schedule falls towards the horizon
is not judged at its high rate but by a branch: a copy of its state comes to rest over
the rung's last updates (`optim.cooldown`), and the contender itself goes on without.
What a rung measured is in `races.jsonl`; a race that was cut short goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import numbers
import operator
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from lrjax import blocks as blocks_lib
from lrjax import config as config_lib
from lrjax import (
    console,
    local,
    methods,
    numerics,
    programs,
    protocol,
    results,
    rows,
    stats,
    strategy,
    tasks,
)
from lrjax.config import Settings
from lrjax.core import (
    LOSS,
    NUMERICS_VERSION,
    Method,
    Metric,
    Run,
    Task,
    UsageError,
    counted,
    cut,
)
from lrjax.hpo import selection, trials
from lrjax.hpo.contenders import Contender, contenders
from lrjax.hpo.halving import Rung, halve
from lrjax.hpo.rungs import Plan, plan
from lrjax.hpo.selection import Judged, Selection
from lrjax.hpo.verdicts import Score, chance_worse
from lrjax.session import Launch, Launcher
from lrjax.tasks.checks import check_task
from lrjax.units import State, Trained

_MOST_ROUND = 2**20  # rows of a round: its order is held at once
# Lanes of a block. The same on every rung, so that a contender's numbers depend on
# nothing that happens to others; on CPUs padding would cost as much as a run.
_WIDTH = {"cpu": 1}
_WIDTH_ELSEWHERE = 32


@dataclasses.dataclass(frozen=True)
class _Course:
    """A contender as the trainer sees it: the run itself, or its branch.

    Attributes:
      task: with its data.
      method: with a cooldown around it where the contender is bound.
      full_steps: updates of a full run.
      extra: where the cooldown is.
      lanes: contenders that share its program.
    """

    task: Task
    method: Method
    full_steps: int
    extra: Mapping[str, float]
    lanes: int

    def split(
        self, run: Run
    ) -> tuple[tuple[tuple[str, Any], ...], Mapping[str, float]]:
        static, traced = methods.split(self.method, dict(run.hparams))
        return static, {**traced, **self.extra}

    def width(self, count: int) -> int:
        del count  # of a rung
        if strategy.one_by_one(self.task):
            return 1
        most = blocks_lib.most_runs(self.task, self.method)
        widest = _WIDTH.get(jax.default_backend(), _WIDTH_ELSEWHERE)
        return max(1, min(widest, self.lanes, most))


class Race:
    """A race under way on one task.

    Attributes:
      entries: the contenders that started.
      plan: its layout.
    """

    def __init__(
        self,
        task: Task,
        name: str,
        found: Sequence[Contender],
        layout: Plan,
        settings: Settings,
        tables: results.Tables,
        log: Callable[[str], Any],
        asked: Sequence[Method] = (),
    ):
        self.entries, self.plan = list(found[: layout.entered]), layout
        self._task, self._name, self._settings = task, name, settings
        self._tables, self._log = tables, log
        raced = {each.method.name for each in self.entries}
        self._more = len(found) - layout.entered
        self._left_out = tuple(m.name for m in asked if m.name not in raced)
        open_to = {each.method.name for each in found}
        self._lacking = tuple(n for n in self._left_out if n not in open_to)
        self._data = tasks.fingerprint(task)
        self._states: dict[tuple[int, int], State] = {}
        self._identity = results.digest(
            {
                "task": name,
                "data": self._data,
                "protocol": settings.protocol,
                "batch_size": task.batch_size,
                "options": task.options,
                "precision": tasks.precision_of(name, settings.precision),
                "metric": task.metric.name,
                "plan": dataclasses.asdict(layout),
                "contenders": [(c.method.name, c.hparams) for c in self.entries],
                "numerics_version": NUMERICS_VERSION,
            }
        )
        self._known: dict[tuple[int, int, int], Mapping[str, Any]] = {}
        for row in results.read_rows(tables.workdir, results.RACES):
            if row["race"] == self._identity:
                if f"valid_{self._task.metric}" not in row:
                    raise UsageError(
                        f"{tables.workdir / results.RACES}: rung {row['rung']} of "
                        f"contender {row['contender']} has no valid_{task.metric}; "
                        "remove its line"
                    )
                self._known[row["rung"], row["contender"], row["seed"]] = row

    def run(self, trainer: trials.Trainer) -> Selection:
        """Races to the end.

        Raises:
          UsageError: if every contender diverges.
        """
        self._log(self._opening())
        history: list[Rung] = []
        bound = [entry.bound for entry in self.entries]
        for rung in halve(self.plan, bound, functools.partial(self._climb, trainer)):
            kept = rung.verdict.kept
            alive = any(np.isfinite(s.losses).all() for s in rung.scores.values())
            if not kept and alive:
                raise UsageError(
                    f"select: {self._task.metric} is not defined on the validation "
                    f"part of {self._name} for any contender; rank by another metric"
                )
            if not kept:
                raise UsageError(
                    f"select: all of {counted(len(rung.scores), 'contender')} diverged "
                    f"on {self._name} within "
                    f"{counted(self.plan.rungs[rung.number], 'update')}: "
                    "lrjax.check_task(task) says what is wrong with a task; else scale "
                    "its inputs, or name methods that take smaller steps in "
                    "select.methods"
                )
            for line in self._closing(rung):
                self._log(line)
            history.append(rung)
            self._states = {k: v for k, v in self._states.items() if k[0] in kept}
        return self._answer(history)

    def _climb(
        self, trainer: trials.Trainer, rung: int, alive: Sequence[int]
    ) -> dict[int, Score]:
        """Trains a rung and says what its contenders reached."""
        layout, end = self.plan, self.plan.rungs[rung]
        due = [
            (i, seed)
            for i in alive
            for seed in layout.seeds
            if any((rung, i, each) not in self._known for each in layout.seeds)
        ]
        jobs = {key: self._job(key, rung, branch=False) for key in due}
        trained = self._train(trainer, jobs)
        branches = {
            key: self._job(key, rung, branch=True)
            for key in due
            if layout.start(rung, self.entries[key[0]].bound) < end
        }
        judged = {**trained, **self._train(trainer, branches)}
        if end == layout.horizon:
            self._record_runs({key: (jobs[key].run, judged[key]) for key in due})
        made = [self._row(rung, key, judged[key]) for key in due]
        self._tables.append(results.RACES, made)
        trainer.forget()
        for row in made:
            self._known[rung, row["contender"], row["seed"]] = row
        return {
            i: self._score([self._known[rung, i, seed] for seed in layout.seeds])
            for i in alive
        }

    def _train(
        self, trainer: trials.Trainer, jobs: Mapping[tuple[int, int], trials.Job]
    ) -> dict[tuple[int, int], Trained]:
        """Trains jobs, and keeps the states of those that are no branches."""
        found = trainer.train(list(jobs.values()))
        trained = {}
        for key, job in jobs.items():
            trained[key] = found[results.run_id(job.run)]
            state = trained[key].state
            if state and not _is_branch(job):
                self._states[key] = state
        return trained

    def _job(self, key: tuple[int, int], rung: int, branch: bool) -> trials.Job:
        """A contender's way to a rung with one seed, or the branch at its end."""
        entry, layout = self.entries[key[0]], self.plan
        end, start = layout.rungs[rung], layout.start(rung, entry.bound)
        extra: dict[str, float] = {}
        if entry.bound:
            inside = (float(start), float(end - start))
            beside = (math.inf, 1.0)
            names = ("cooldown_start", "cooldown_steps")
            extra = dict(zip(names, inside if branch else beside, strict=True))
        course = _Course(
            task=self._task,
            method=methods.cooled(entry.method) if entry.bound else entry.method,
            full_steps=layout.horizon,
            extra=extra,
            lanes=sum(e.method.name == entry.method.name for e in self.entries),
        )
        run = self._run(entry, key[1], end if branch else start)
        whole = run.steps == layout.horizon
        keep = not (branch or whole)
        return trials.Job(course, run, self._states.get(key), keep=keep, judge=whole)

    def _run(self, entry: Contender, seed: int, steps: int) -> Run:
        task, settings = self._task, self._settings
        every = task.steps_per_epoch
        if strategy.kind_of(task) == strategy.LINEAR:
            # Only a rung's end counts, and a measurement costs as much as some epochs.
            every = min(self.plan.horizon, max(1, _MOST_ROUND // task.batch_size))
        return blocks_lib.run_of(
            settings,
            self._name,
            task,
            self._data,
            entry.method,
            dict(entry.hparams),
            seed=seed,
            steps=steps,
            horizon=self.plan.horizon,
            eval_every=every,
            label=results.tuned_name("race", 0, entry.method.name),
        )

    def _row(self, rung: int, key: tuple[int, int], trained: Trained) -> dict[str, Any]:
        """What is kept of a contender's measurement on a rung with one seed."""
        entry = self.entries[key[0]]
        start, end = self.plan.start(rung, entry.bound), self.plan.rungs[rung]
        dead = trained.values["diverged_at"] > 0
        scores = {
            f"valid_{metric}": math.nan if dead else trained.values[f"valid_{metric}"]
            for metric in self._task.metrics
        }
        return {
            "race": self._identity,
            "rung": rung,
            "contender": key[0],
            "seed": key[1],
            "task": self._name,
            "protocol": self._settings.protocol,
            "method": entry.method.name,
            "hparams": dict(entry.hparams),
            "steps": end,
            "cooldown": end - start,
            "status": "diverged" if dead else "done",
            **scores,
            "seconds": trained.seconds,
        }

    def _score(self, measured: Sequence[Mapping[str, Any]]) -> Score:
        def column(metric: Metric) -> np.ndarray:
            found = [row[f"valid_{metric}"] for row in measured]
            return np.array(
                [
                    -math.inf if x is None or math.isnan(x) else metric.sign * x
                    for x in found
                ]
            )

        return Score(column(self._task.metric), column(LOSS))

    def _record_runs(
        self, ended: Mapping[tuple[int, int], tuple[Run, Trained]]
    ) -> None:
        """Writes whole runs to the tables of all runs."""
        runs, curves = [], []
        for run, trained in ended.values():
            # What runs are judged by does not depend on the method.
            method = methods.METHODS["adam"]
            program = blocks_lib.program_of(run, self._task, method, (), 1, 1)
            last = {k: np.array([[v]]) for k, v in trained.values.items()}
            start = "test_"
            test = {k[len(start) :]: v for k, v in last.items() if k.startswith(start)}
            run_id, seconds = results.run_id(run), trained.seconds
            row = rows.run_row(run, run_id, program, (0, 0), last, test, seconds)
            runs.append(row)
            measured = programs.Measurements(
                np.array([run.steps]), {k: v[None] for k, v in last.items()}, 0.0, None
            )
            curves += rows.curve_rows(program, {(0, 0): run_id}, measured)
        self._tables.append(results.CURVES, curves)
        self._tables.append(results.RUNS, runs)

    def _opening(self) -> str:
        layout = self.plan
        seeds = counted(len(layout.seeds), "seed")
        most = counted(layout.budget / layout.horizon, "full run", form="g")
        text = (
            f"racing {counted(len(self.entries), 'contender')} with {seeds} on "
            f"{self._name}: at most {most} of "
            f"{counted(layout.horizon, 'update')}, rungs at "
            f"{', '.join(map(str, layout.rungs))}"
        )
        if self._more:
            text += f"; the budget has no room for {self._more} more"
        no_room = [name for name in self._left_out if name not in self._lacking]
        if no_room:
            text += f", among them all settings of {', '.join(no_room)}"
        if self._lacking:
            text += (
                f"; left out, because they need a value that nobody published for this "
                f"task: {', '.join(self._lacking)}"
            )
        return text

    def _closing(self, rung: Rung) -> list[str]:
        """Lines of the log: who leads, who is dropped and why."""
        number, scores, verdict, spent = rung
        leader, last = verdict.order[0], len(self.plan.rungs)
        early = self.plan.rungs[number] < self.plan.horizon
        metric = LOSS if early else self._task.metric
        reached = metric.text(metric.sign * scores[leader].judged(early).mean())
        lines = [
            f"rung {number + 1} of {last}, "
            f"{counted(self.plan.rungs[number], 'update')}: "
            f"{metric} {reached} of {self.entries[leader].label} leads, "
            f"{len(verdict.kept)} of {len(scores)} "
            f"{'won' if number == last - 1 else 'go on'}, "
            f"{spent / self.plan.horizon:.2f} full runs so far"
        ]
        for i, reason in verdict.reasons.items():
            lines.append(f"  dropped {self.entries[i].label}: {reason}")
        return lines

    def _answer(self, history: Sequence[Rung]) -> Selection:
        layout, winner = self.plan, history[-1].verdict.kept[0]
        entry = self.entries[winner]
        final = history[-1].scores[winner].values
        metric = self._task.metric
        sign = metric.sign
        runner_up, better = "", math.nan
        for number, scores, verdict, _ in reversed(history):
            others = [i for i in verdict.order if i != winner]
            if others and np.isfinite(scores[others[0]].values).all():
                runner_up = self.entries[others[0]].label
                early = layout.rungs[number] < layout.horizon
                both = (scores[i].judged(early) for i in (winner, others[0]))
                better = chance_worse(*both)
                break
        judged = [
            Judged(
                rung=rung,
                steps=layout.rungs[rung],
                label=self.entries[i].label,
                cooled=layout.start(rung, self.entries[i].bound) < layout.rungs[rung],
                values=tuple((sign * scores[i].values).tolist()),
                verdict=verdict.reasons.get(i, "goes on"),
            )
            for rung, scores, verdict, _ in history
            for i in verdict.order
        ]
        return Selection(
            task=self._name,
            method=entry.method.name,
            hparams=dict(entry.hparams),
            label=entry.label,
            metric=metric.name,
            scale=metric,
            score=float(sign * final.mean()),
            values=tuple((sign * final).tolist()),
            interval=stats.interval(sign * final, metric),
            runner_up=runner_up,
            runner_up_better=better,
            cost=history[-1].spent / layout.horizon,
            budget=layout.budget / layout.horizon,
            seeds=layout.seeds,
            horizon=layout.horizon,
            judged_at=layout.rungs[-1],
            snippet=selection.snippet(
                entry.method, dict(entry.hparams), layout.horizon
            ),
            judged=tuple(judged),
            left_out=self._left_out,
        )


def _is_branch(job: trials.Job) -> bool:
    start = job.target.split(job.run)[1].get("cooldown_start", math.inf)
    return not math.isinf(start)


@numerics.settled
def run(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    launch: Launch = local.launch,
) -> list[Selection]:
    """Races on every task of the settings.

    Args:
      settings: what to race for; `methods` counts if `overrides` has set it.
      workdir: where the tables and the answer go.
      data_dir: where data files are looked for first.
      overrides: what the command line changed of the config; for the record.
      launch: who trains.

    Returns:
      the answer for each task.

    Raises:
      UsageError: if the settings, data or workdir are of no use.
      Interrupted: on SIGINT and SIGTERM.
    """
    overrides = dict(overrides or {})
    names = named_methods(settings, overrides)
    chosen = [methods.find(name) for name in names]
    if settings.grid:
        name = next(iter(settings.grid))
        raise UsageError(f"config.grid.{name} is for --mode=train, not for select")
    console.say(_who_races(settings, names, overrides))
    named = bool(settings.select.methods) or "methods" in overrides
    with launch(settings, workdir, data_dir, overrides) as launcher:
        found, made = blocks_lib.load(settings, launcher.session.data_dir)
        loaded = dict(zip(found.tasks, made, strict=True))
        return _race_all(loaded, chosen, named, launcher, console.say)


def named_methods(settings: Settings, overrides: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the methods that race; `methods` counts if `overrides` has set it."""
    if settings.select.methods:
        return settings.select.methods
    return settings.methods if "methods" in overrides else tuple(methods.METHODS)


def _who_races(
    settings: Settings, names: Sequence[str], overrides: Mapping[str, Any]
) -> str:
    """A line on the methods that race, and why these."""
    if settings.select.methods or "methods" in overrides:
        field = "config.select.methods" if settings.select.methods else "config.methods"
        return f"{counted(len(names), 'method')} may race, by {field}"
    return (
        f"all {len(names)} registered methods may race: those of a config file are for "
        "--mode=train and tune; to choose set config.select.methods, or give "
        "--config.methods as a flag"
    )


def select(
    task: Task | str,
    methods: Sequence[str | Method] | None = None,
    budget: float = 16.0,
    epochs: int = 100,
    steps: int | None = None,
    seeds: int | Sequence[int] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    data_dir: str | None = None,
    log: Callable[[str], Any] = console.say,
) -> Selection:
    """Finds the method and hyperparameters that are best for a task.

    Args:
      task: a `lrjax.core.Task`, or the name of one.
      methods: names, or methods of one's own; all registered ones if None.
      budget: what may be spent, in full runs.
      epochs: passes over the training part in a full run.
      steps: updates of a full run, in place of `epochs`.
      seeds: of every contender, how many or which; None for what the budget bears.
      workdir: where tables, figure and answer go, and where a race that was cut short
        goes on; a folder that is removed afterwards if None.
      data_dir: where the data files of a task by name are looked for first.
      log: called with each line of progress.

    Returns:
      the answer; print it.

    Raises:
      UsageError: if the task is broken, no method is left, the budget is too small or
        all contenders diverge; one line that says what to change.

    Example:
      >>> print(lrjax.select(task, budget=8, epochs=30))
    """
    if not isinstance(task, Task | str):
        raise UsageError(
            f"select: task must be a lrjax.Task or the name of one, not {_brief(task)}"
        )
    for name, folder in (("workdir", workdir), ("data_dir", data_dir)):
        if folder is not None and not isinstance(folder, str | os.PathLike):
            raise UsageError(f"select: {name} must be a path, not {_brief(folder)}")
    if not callable(log):
        raise UsageError(f"select: log must be a function, not {_brief(log)}")
    chosen = _chosen(methods)
    config = config_lib.base()
    config.tasks = (task if isinstance(task, str) else str(task.name),)
    config.methods = ("adam",)  # what is chosen is told below
    config.epochs = None if epochs is None else _whole("epochs", epochs)
    config.steps = None if steps is None else _whole("steps", steps)
    config.select.budget, config.select.seeds = _budget(budget), _seeds(seeds)
    # Who computes in double precision wants that here, too.
    config.precision = "float64" if jax.config.values["jax_enable_x64"] else "auto"
    settings = config_lib.check(config)
    return _select(settings, task, chosen, methods is not None, workdir, data_dir, log)


@numerics.settled
def _select(
    settings: Settings,
    task: Task | str,
    chosen: Sequence[Method],
    named: bool,
    workdir: str | os.PathLike[str] | None,
    data_dir: str | None,
    log: Callable[[str], Any],
) -> Selection:
    if isinstance(task, str):
        options = tasks.TaskOptions(
            protocol=protocol.find(settings.protocol).data,
            data_dir=data_dir,
            precision=tasks.precision_of(task, settings.precision),
        )
        task = tasks.make_task(task, options)
    else:
        check_task(task)
        task = tasks.with_model(task)
    loaded = {task.name: task}
    with contextlib.ExitStack() as stack:
        if workdir is None:
            temporary = tempfile.TemporaryDirectory(prefix="lrjax-select-")
            workdir = stack.enter_context(temporary)
        launcher = stack.enter_context(local.launch(settings, workdir, data_dir))
        return _race_all(loaded, chosen, named, launcher, log)[0]


def _own(method: Method) -> Method:
    """A method of the user's, once it was built.

    Raises:
      UsageError: if it cannot be.
    """
    if methods.METHODS.get(method.name) is method:
        return method
    try:
        built = method.build(100, **method.defaults)
    except Exception as error:  # the user's code may raise anything
        reason = f"{type(error).__name__}: {cut(str(error), 200)}"
        raise UsageError(
            f"select: method '{method.name}': build(100, **defaults) fails: {reason}"
        ) from error
    if not (hasattr(built, "init") and hasattr(built, "update")):
        raise UsageError(
            f"select: method '{method.name}': build gives {_brief(built)}, which is no "
            "transformation of Optax"
        )
    return method


def _brief(value: object) -> str:
    """Something of the wrong kind, in a few words."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:37]}... ({type(value).__name__})"


def _whole(name: str, value: Any) -> int:
    """A whole number, NumPy's included."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise UsageError(f"select: {name} must be a whole number, not {_brief(value)}")


def _budget(value: Any) -> float:
    """A number, NumPy's included."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    raise UsageError(f"select: budget must be a number, not {_brief(value)}")


def _seeds(value: Any) -> int | tuple[int, ...] | None:
    """How many seeds, or which; ranges and NumPy's arrays included."""
    if value is None:
        return None
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        return _whole("seeds", value)
    return tuple(_whole("each of seeds", each) for each in value)


def _chosen(asked: Any) -> list[Method]:
    if asked is None:
        return list(methods.METHODS.values())
    # A transformation of Optax is a tuple, with names.
    alone = isinstance(asked, str | Method) or hasattr(asked, "_fields")
    if alone or not isinstance(asked, Iterable):
        asked = [asked]
    chosen = []
    for each in asked:
        if not isinstance(each, str | Method):
            raise UsageError(
                f"select: {_brief(each)} is no method: give its name (--mode=methods "
                "lists them) or a lrjax.core.Method, which may be made of any "
                "transformation of Optax"
            )
        chosen.append(_own(each) if isinstance(each, Method) else methods.find(each))
    if not chosen:
        raise UsageError("select: methods is empty: name at least one, or give None")
    names = [method.name for method in chosen]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"select: method '{name}' comes twice")
    return chosen


def _race_all(
    loaded: Mapping[str, Task],
    chosen: Sequence[Method],
    named: bool,
    launcher: Launcher,
    log: Callable[[str], Any],
) -> list[Selection]:
    """Races on some tasks, one after the other, and writes the answers.

    Args:
      loaded: tasks by name.
      chosen: methods that may race.
      named: whether the user named them.
      launcher: who trains.
      log: takes lines on what happens.
    """
    settings, laid = launcher.session.settings, []
    for name, task in loaded.items():  # all is laid out before any training
        found = contenders(chosen, name, settings, named)
        horizon = settings.updates(name, task.steps_per_epoch)
        wanted = len({each.method.name for each in found}) if named else 0
        budget, seeds = settings.select.budget, settings.select.seeds
        chosen_plan = plan(len(found), budget, horizon, seeds, wanted)
        laid.append((name, task, found, chosen_plan))
    tables = launcher.session.tables
    launcher.session.record(
        {name: results.describe(task.metrics) for name, task in loaded.items()}
    )
    answers = []
    for name, task, found, layout in laid:
        race = Race(task, name, found, layout, settings, tables, log, chosen)
        with tqdm(
            total=layout.budget / layout.horizon,
            bar_format="{desc}{bar}| {n:.1f} of {total:.1f} full runs [{elapsed}]",
            disable=None,
            leave=False,
            desc=f"{name} ",
        ) as bar:
            answers.append(race.run(trials.Trainer(launcher, bar.update)))
    selection.write(answers, tables)
    return answers
