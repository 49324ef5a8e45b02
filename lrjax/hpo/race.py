"""Finds the best method and rate for a task: trains what `proposals` asks for.

A contender is a method with its hyperparameters; what is trained are full runs. Their
measurements are in `races.jsonl`; an interrupted selection resumes from there.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lrjax import console, identity, methods, results, tasks
from lrjax.common import numerics
from lrjax.config import Settings
from lrjax.core import (
    LOSS,
    NUMERICS_VERSION,
    Method,
    Task,
    UsageError,
    counted,
)
from lrjax.hpo import (
    asked,
    entrants,
    history,
    prior,
    proposals,
    selection,
    trials,
)
from lrjax.hpo.lineup import Lineup, line_up
from lrjax.hpo.proposals import Wanted
from lrjax.hpo.selection import Selection
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import local
from lrjax.launch.live import Listener
from lrjax.launch.session import Launch, Launcher
from lrjax.launch.units import Trained
from lrjax.tasks import folds


@numerics.settled
def run(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    launch: Launch = local.launch,
    listeners: Iterable[Listener] = (),
) -> list[Selection]:
    """Select on every task of the settings.

    Args:
      settings: tasks and options of the selection; its methods are those of
        `named_methods`.
      workdir: directory of the tables and the answers.
      data_dir: directory searched first for data files.
      overrides: name -> value of the fields set on the command line; recorded.
      launch: called with the first arguments; makes the launcher that trains.
      listeners: get rows as they are measured.

    Returns:
      The answer for each task.

    Raises:
      UsageError: if the settings, data or workdir cannot be used.
      Interrupted: on a signal that stops.
    """
    overrides = dict(overrides or {})
    names = named_methods(settings, overrides)
    chosen = [methods.find(name) for name in names]
    refuse_grid(settings, "select")
    console.say(_who_races(settings, names, overrides))
    with launch(settings, workdir, data_dir, overrides) as launcher:
        launcher.session.live.listen(listeners)
        named = are_named(settings, overrides)
        return race_all(load(launcher), chosen, named, launcher, console.say)


def refuse_grid(settings: Settings, mode: str) -> None:
    """Refuse a grid in a mode that tries rates of its own.

    Raises:
      UsageError: names the grid's first hyperparameter.
    """
    for name in settings.grid:
        raise UsageError(f"config.grid.{name} is for --mode=train, not for {mode}")


def load(launcher: Launcher) -> dict[str, Task]:
    """Load the tasks of a launcher's session, by name."""
    session = launcher.session
    available, loaded = blocks_lib.load(session.settings, session.data_dir)
    return dict(zip(available.tasks, loaded, strict=True))


def are_named(settings: Settings, overrides: Mapping[str, Any]) -> bool:
    """Whether the user named the methods to select from; see `named_methods`."""
    return bool(settings.select.methods) or "methods" in overrides


def named_methods(settings: Settings, overrides: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the methods to select from.

    `select.methods`, else `methods`, else those of `asked.usual`.
    `methods` is used only if `overrides` has it: a config file sets it for training.
    """
    if settings.select.methods:
        return settings.select.methods
    if "methods" in overrides:
        return settings.methods
    return tuple(method.name for method in asked.usual())


def _who_races(
    settings: Settings, names: Sequence[str], overrides: Mapping[str, Any]
) -> str:
    """A line for the log: which methods race, and which field chose them.

    Args:
      settings: the config.
      names: the methods that race.
      overrides: the fields set on the command line.
    """
    if are_named(settings, overrides):
        field = "config.select.methods" if settings.select.methods else "config.methods"
        return f"{counted(len(names), 'method')} may race, by {field}"
    return (
        f"the {len(names)} methods that known tasks were trained with may race: those "
        "of a config file are for --mode=train and tune; to choose set "
        "config.select.methods, or give --config.methods as a flag"
    )


def race_all(
    loaded: Mapping[str, Task],
    chosen: Sequence[Method],
    named: bool,
    launcher: Launcher,
    log: Callable[[str], Any],
) -> list[Selection]:
    """Select on one task after the other, and write the answers.

    Args:
      loaded: tasks by name.
      chosen: methods to select from.
      named: whether the user named them.
      launcher: trains.
      log: called with each line of progress.
    """
    settings, tables = launcher.session.settings, launcher.session.tables
    past = history.known(launcher.session, loaded, log)
    lineups = [  # all of them before any training, so that errors come first
        line_up(name, task, chosen, settings, named, log, past)
        for name, task in loaded.items()
    ]
    launcher.session.record(
        {name: results.describe(task.metrics) for name, task in loaded.items()}
    )
    live = launcher.session.live
    live.mode = "select"
    live.expect(
        "race",
        sum(lineup.plan.runs for lineup in lineups),
        sum(lineup.plan.runs * lineup.horizon for lineup in lineups),
    )
    answers = []
    for lineup in lineups:
        live.note(lineup.name)
        race = Race(lineup, settings, tables, log)
        with console.bar(
            total=max(1, lineup.plan.runs),
            bar_format="{desc}{bar}| {n:.1f} of {total:.0f} full runs [{elapsed}]",
            desc=f"{lineup.name} ",
        ) as bar:
            answers.append(race.run(trials.Trainer(launcher, bar.update)))
    tables.check()
    selection.write(answers, tables)
    return answers


class Race:
    """A selection under way on one task."""

    def __init__(
        self,
        lineup: Lineup,
        settings: Settings,
        tables: results.Tables,
        log: Callable[[str], Any],
    ):
        """Begin a selection, or resume it from the rows in the table.

        Args:
          lineup: contenders and plan.
          settings: the config.
          tables: where measurements are kept.
          log: called with each line of progress.

        Raises:
          UsageError: if a row of this selection lacks its measurement.
        """
        self._lineup, self._settings = lineup, settings
        self._tables, self._log = tables, log
        self._task = lineup.task
        self._data = tasks.fingerprint(lineup.task)
        self._identity = _identity(lineup, settings, self._data)
        self._divided: dict[int, Task] = {}  # by number of the division
        self._course = lineup.course()
        self._known: dict[Wanted, Mapping[str, Any]] = {}  # rows of the table
        metric = self._task.metric
        for row in results.read_rows(tables.workdir, results.RACES):
            if row["race"] == self._identity:
                if f"valid_{metric}" not in row:
                    raise UsageError(
                        f"{tables.workdir / results.RACES}: run {row['run']} of "
                        f"contender {row['contender']} has no valid_{metric}; "
                        "remove its line"
                    )
                self._known[Wanted(row["contender"], row["run"])] = row

    def run(self, trainer: trials.Trainer) -> Selection:
        """Select to the end.

        Raises:
          UsageError: if every contender diverges, or the metric is defined for none.
        """
        self._log(self._lineup.opening())
        course = self._course
        while wanted := course.wanted():
            first = not course.asked
            self._train(trainer, wanted)
            course.tell({each: self._value(each) for each in wanted})
            if first:
                self._lineup = self._lineup.with_fitted(course.fitted)
            self._log(self._progress(course.answer()))
            if first and course.surprised:
                self._log("what was measured is not what known tasks say")
        answer = course.answer()
        if answer is None:
            raise self._nobody_left()
        return selection.conclude(self._lineup, course, answer)

    def _value(self, wanted: Wanted) -> float:
        """The metric of a run in the table; NaN if it was lost."""
        value = self._known[wanted][f"valid_{self._task.metric}"]
        return math.nan if value is None else value

    def _nobody_left(self) -> UsageError:
        """The error for a selection in which all runs were lost."""
        name = self._lineup.name
        losses = [self._known[wanted][f"valid_{LOSS}"] for wanted in self._course.asked]
        if any(loss is not None and math.isfinite(loss) for loss in losses):
            return UsageError(
                f"select: {self._task.metric} is not defined on the validation "
                f"part of {name} for any contender; rank by another metric"
            )
        trained = {wanted.who for wanted in self._course.asked}
        return UsageError(
            f"select: all of {counted(len(trained), 'contender')} diverged "
            f"on {name} within {counted(self._lineup.horizon, 'update')}: "
            "lrjax.check_task(task) says what is wrong with a task; else scale "
            "its inputs, or name methods that take smaller steps in "
            "select.methods"
        )

    def _train(self, trainer: trials.Trainer, wanted: Sequence[Wanted]) -> None:
        """Train the runs that are not in the table, and write their rows."""
        jobs = {each: self._job(each) for each in wanted}
        found = trainer.train_whole(list(jobs.values()), self._settings)
        trained = {
            each: found[identity.run_id(job.run)]
            for each, job in jobs.items()
            if not job.known
        }
        ended = [(jobs[each].run, result) for each, result in trained.items()]
        entrants.record(self._tables, self._task, ended)
        new_rows = {each: self._row(each, result) for each, result in trained.items()}
        self._tables.append(results.RACES, list(new_rows.values()))
        trainer.forget()
        self._known |= new_rows

    def _job(self, wanted: Wanted) -> trials.Job:
        """The job of a run."""
        lineup = self._lineup
        job = entrants.job(
            self._settings,
            lineup.contenders[wanted.who],
            lineup.name,
            self._division(wanted.run),
            self._data,
            lineup.horizon,
            lineup.seed(wanted.run),
        )
        return job._replace(known=wanted in self._known)

    def _division(self, run: int) -> Task:
        """The task with its rows divided as a run has them."""
        number = run % self._lineup.judge.folds
        if number not in self._divided:
            self._divided[number] = folds.of(self._task, number)
        return self._divided[number]

    def _row(self, wanted: Wanted, trained: Trained) -> dict[str, Any]:
        """The row of a run in the table of selections."""
        contender = self._lineup.contenders[wanted.who]
        diverged = trained.values["diverged_at"] > 0
        scores = {
            f"valid_{metric}": (
                math.nan if diverged else trained.values[f"valid_{metric}"]
            )
            for metric in self._task.metrics
        }
        return {
            "race": self._identity,
            "contender": wanted.who,
            "run": wanted.run,
            "seed": self._lineup.seed(wanted.run),
            "fold": wanted.run % self._lineup.judge.folds,
            "task": self._lineup.name,
            "protocol": self._settings.protocol,
            "method": contender.method.name,
            "hparams": dict(contender.hparams),
            "steps": self._lineup.horizon,
            "status": "diverged" if diverged else "done",
            **scores,
            "seconds": trained.seconds,
        }

    def _progress(self, found: proposals.Answer | None) -> str:
        """A line for the log: who leads after the runs so far."""
        runs = counted(len(self._course.asked), "full run")
        if found is None:
            return f"after {runs} all have diverged"
        return (
            f"after {runs} {self._lineup.contenders[found.winner].label} leads, the "
            f"best with probability {100 * found.best[found.winner]:.0f} %"
        )


def _identity(lineup: Lineup, settings: Settings, data: str) -> str:
    """16 hexadecimal digits that follow from all that changes a selection.

    Args:
      lineup: contenders and plan.
      settings: the config.
      data: fingerprint of the task's data.
    """
    return identity.digest(
        {
            "task": lineup.name,
            "data": data,
            "protocol": settings.protocol,
            "batch_size": lineup.task.batch_size,
            "options": lineup.task.options,
            "precision": tasks.precision_of(lineup.name, settings.precision),
            "metric": lineup.task.metric.name,
            "plan": dataclasses.asdict(lineup.plan),
            "seeds": lineup.seeds,
            "horizon": lineup.horizon,
            "prior": prior.digest(),
            "history": history.added(lineup.known).round(3).tolist(),
            "contenders": [(c.method.name, c.hparams) for c in lineup.contenders],
            "numerics_version": NUMERICS_VERSION,
        }
    )
