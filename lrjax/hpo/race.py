"""Finds the best method and rate for a task: successive halving over contenders.

Every contender, a method with its hyperparameters, trains with the same seeds. On each
rung all that are left train from their states to the same number of updates and are
compared there; some of them stop. The measurements of a rung are in `races.jsonl`; an
interrupted race resumes from there.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lrjax import console, identity, methods, results, tasks
from lrjax.common import numerics
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
)
from lrjax.engine import programs
from lrjax.hpo import entrants, selection, trials
from lrjax.hpo.halving import Rung, halve
from lrjax.hpo.lineup import Lineup, line_up
from lrjax.hpo.selection import Selection
from lrjax.hpo.verdicts import Score
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import local, rows
from lrjax.launch.session import Launch, Launcher
from lrjax.launch.units import State, Trained


@numerics.settled
def run(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    launch: Launch = local.launch,
) -> list[Selection]:
    """Race on every task of the settings.

    Args:
      settings: tasks and options of the race; its methods are those of
        `named_methods`.
      workdir: directory of the tables and the answers.
      data_dir: directory searched first for data files.
      overrides: name -> value of the fields set on the command line; recorded.
      launch: called with the other arguments; makes the launcher that trains.

    Returns:
      The answer for each task.

    Raises:
      UsageError: if the settings, data or workdir cannot be used.
      Interrupted: on a signal that stops.
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
        available, loaded = blocks_lib.load(settings, launcher.session.data_dir)
        by_name = dict(zip(available.tasks, loaded, strict=True))
        return race_all(by_name, chosen, named, launcher, console.say)


def named_methods(settings: Settings, overrides: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the methods that race: `select.methods`, else `methods`, else all.

    `methods` is used only if `overrides` has it: a config file sets it for training.
    """
    if settings.select.methods:
        return settings.select.methods
    return settings.methods if "methods" in overrides else tuple(methods.METHODS)


def _who_races(
    settings: Settings, names: Sequence[str], overrides: Mapping[str, Any]
) -> str:
    """A line for the log: which methods race, and which field chose them.

    Args:
      settings: the config.
      names: the methods that race.
      overrides: the fields set on the command line.
    """
    if settings.select.methods or "methods" in overrides:
        field = "config.select.methods" if settings.select.methods else "config.methods"
        return f"{counted(len(names), 'method')} may race, by {field}"
    return (
        f"all {len(names)} registered methods may race: those of a config file are for "
        "--mode=train and tune; to choose set config.select.methods, or give "
        "--config.methods as a flag"
    )


def race_all(
    loaded: Mapping[str, Task],
    chosen: Sequence[Method],
    named: bool,
    launcher: Launcher,
    log: Callable[[str], Any],
) -> list[Selection]:
    """Race on one task after the other, and write the answers.

    Args:
      loaded: tasks by name.
      chosen: methods that may race.
      named: whether the user named them.
      launcher: trains.
      log: called with each line of progress.
    """
    settings, tables = launcher.session.settings, launcher.session.tables
    lineups = [  # all of them before any training, so that errors come first
        line_up(name, task, chosen, settings, named) for name, task in loaded.items()
    ]
    launcher.session.record(
        {name: results.describe(task.metrics) for name, task in loaded.items()}
    )
    answers = []
    for lineup in lineups:
        race = Race(lineup, settings, tables, log)
        with console.bar(
            total=lineup.plan.budget / lineup.plan.horizon,
            bar_format="{desc}{bar}| {n:.1f} of {total:.1f} full runs [{elapsed}]",
            desc=f"{lineup.name} ",
        ) as bar:
            answers.append(race.run(trials.Trainer(launcher, bar.update)))
    tables.check()
    selection.write(answers, tables)
    return answers


class Race:
    """A race under way on one task."""

    def __init__(
        self,
        lineup: Lineup,
        settings: Settings,
        tables: results.Tables,
        log: Callable[[str], Any],
    ):
        """Begin a race, or resume it from the rows in the table.

        Args:
          lineup: contenders and plan.
          settings: the config.
          tables: where measurements are kept.
          log: called with each line of progress.

        Raises:
          UsageError: if a row of this race lacks its measurement.
        """
        self._lineup, self._settings = lineup, settings
        self._tables, self._log = tables, log
        self._task, self._plan = lineup.task, lineup.plan
        data = tasks.fingerprint(lineup.task)
        self._jobs = entrants.Jobs(lineup, settings, data)
        # By (contender's number, seed).
        self._states: dict[tuple[int, int], State] = {}
        self._identity = _identity(lineup, settings, data)
        # Rows of the table, by (rung, contender's number, seed).
        self._known: dict[tuple[int, int, int], Mapping[str, Any]] = {}
        metric = self._task.metric
        for row in results.read_rows(tables.workdir, results.RACES):
            if row["race"] == self._identity:
                if f"valid_{metric}" not in row:
                    raise UsageError(
                        f"{tables.workdir / results.RACES}: rung {row['rung']} of "
                        f"contender {row['contender']} has no valid_{metric}; "
                        "remove its line"
                    )
                self._known[row["rung"], row["contender"], row["seed"]] = row

    def run(self, trainer: trials.Trainer) -> Selection:
        """Race to the end.

        Raises:
          UsageError: if every contender diverges, or the metric is defined for none.
        """
        self._log(self._lineup.opening())
        history: list[Rung] = []
        needs_cooldown = [
            contender.needs_cooldown for contender in self._lineup.entries
        ]
        for rung in halve(
            self._plan, needs_cooldown, functools.partial(self._train_rung, trainer)
        ):
            kept = rung.verdict.kept
            if not kept:
                raise self._nobody_left(rung)
            for line in self._closing(rung):
                self._log(line)
            history.append(rung)
            self._states = {k: v for k, v in self._states.items() if k[0] in kept}
        return selection.conclude(self._lineup, history)

    def _nobody_left(self, rung: Rung) -> UsageError:
        """The error for a rung after which no contender is left."""
        name = self._lineup.name
        if any(np.isfinite(score.losses).all() for score in rung.scores.values()):
            return UsageError(
                f"select: {self._task.metric} is not defined on the validation "
                f"part of {name} for any contender; rank by another metric"
            )
        return UsageError(
            f"select: all of {counted(len(rung.scores), 'contender')} diverged "
            f"on {name} within "
            f"{counted(self._plan.rungs[rung.number], 'update')}: "
            "lrjax.check_task(task) says what is wrong with a task; else scale "
            "its inputs, or name methods that take smaller steps in "
            "select.methods"
        )

    def _train_rung(
        self, trainer: trials.Trainer, rung: int, alive: Sequence[int]
    ) -> dict[int, Score]:
        """Train contenders to the end of a rung; return the score of each.

        Args:
          trainer: trains the jobs.
          rung: number of the rung, from 0.
          alive: numbers of the contenders.
        """
        plan, end = self._plan, self._plan.rungs[rung]
        keys = [(i, seed) for i in alive for seed in plan.seeds]
        missing = [  # all seeds of a contender if one is not in the table
            (i, seed)
            for i, seed in keys
            if any((rung, i, other) not in self._known for other in plan.seeds)
        ]
        known = [key for key in keys if key not in missing]
        trainer.note(
            [self._job(key, rung, branch=False) for key in known]
            + list(self._branches(known, rung).values())
        )
        jobs = {key: self._job(key, rung, branch=False) for key in missing}
        trained = self._train(trainer, jobs)
        branches = self._branches(missing, rung)
        judged = {**trained, **self._train(trainer, branches)}
        if end == plan.horizon:
            self._record_runs({key: (jobs[key].run, judged[key]) for key in missing})
        new_rows = [self._row(rung, key, judged[key]) for key in missing]
        self._tables.append(results.RACES, new_rows)
        trainer.forget()
        for row in new_rows:
            self._known[rung, row["contender"], row["seed"]] = row
        return {
            i: _score([self._known[rung, i, seed] for seed in plan.seeds], self._task)
            for i in alive
        }

    def _branches(
        self, keys: Sequence[tuple[int, int]], rung: int
    ) -> dict[tuple[int, int], trials.Job]:
        """The jobs that cool down at the end of a rung, of contenders that do."""
        start, end = self._plan.start, self._plan.rungs[rung]
        return {
            key: self._job(key, rung, branch=True)
            for key in keys
            if start(rung, self._lineup.entries[key[0]].needs_cooldown) < end
        }

    def _job(self, key: tuple[int, int], rung: int, branch: bool) -> trials.Job:
        """A job that begins at the contender's last state."""
        return self._jobs.make(key, rung, self._states.get(key), branch)

    def _train(
        self, trainer: trials.Trainer, jobs: Mapping[tuple[int, int], trials.Job]
    ) -> dict[tuple[int, int], Trained]:
        """Train jobs and keep the states that later rungs resume from."""
        by_run_id = trainer.train(list(jobs.values()))
        trained = {}
        for key, job in jobs.items():
            trained[key] = by_run_id[identity.run_id(job.run)]
            if state := trained[key].state:
                self._states[key] = state
        return trained

    def _row(self, rung: int, key: tuple[int, int], trained: Trained) -> dict[str, Any]:
        """The row of a contender's measurement on a rung with one seed.

        Args:
          rung: number of the rung, from 0.
          key: contender's number, and seed.
          trained: the result.
        """
        contender = self._lineup.entries[key[0]]
        start, end = (
            self._plan.start(rung, contender.needs_cooldown),
            self._plan.rungs[rung],
        )
        diverged = trained.values["diverged_at"] > 0
        scores = {
            f"valid_{metric}": (
                math.nan if diverged else trained.values[f"valid_{metric}"]
            )
            for metric in self._task.metrics
        }
        return {
            "race": self._identity,
            "rung": rung,
            "contender": key[0],
            "seed": key[1],
            "task": self._lineup.name,
            "protocol": self._settings.protocol,
            "method": contender.method.name,
            "hparams": dict(contender.hparams),
            "steps": end,
            "cooldown": end - start,
            "status": "diverged" if diverged else "done",
            **scores,
            "seconds": trained.seconds,
        }

    def _record_runs(
        self, ended: Mapping[tuple[int, int], tuple[Run, Trained]]
    ) -> None:
        """Write full-length runs to the tables of all runs."""
        runs, curves = [], []
        for run, trained in ended.values():
            # Any method: the names of the measurements do not depend on it.
            method = methods.METHODS["adam"]
            program = blocks_lib.program_of(run, self._task, method, (), 1, 1)
            last = {k: np.array([[v]]) for k, v in trained.values.items()}
            start = "test_"
            test = {k[len(start) :]: v for k, v in last.items() if k.startswith(start)}
            run_id, seconds = identity.run_id(run), trained.seconds
            row = rows.run_row(run, run_id, program, (0, 0), last, test, seconds)
            runs.append(row)
            measured = programs.Measurements(
                np.array([run.steps]), {k: v[None] for k, v in last.items()}, 0.0, None
            )
            curves += rows.curve_rows(program, {(0, 0): run_id}, measured)
        self._tables.append(results.CURVES, curves)
        self._tables.append(results.RUNS, runs)

    def _closing(self, rung: Rung) -> list[str]:
        """Lines for the log: who leads, who is dropped and why."""
        number, scores, verdict, spent = rung
        leader, last = verdict.order[0], len(self._plan.rungs)
        early = self._plan.rungs[number] < self._plan.horizon
        metric = LOSS if early else self._task.metric
        reached = metric.text(metric.sign * scores[leader].judged(early).mean())
        entries = self._lineup.entries
        lines = [
            f"rung {number + 1} of {last}, "
            f"{counted(self._plan.rungs[number], 'update')}: "
            f"{metric} {reached} of {entries[leader].label} leads, "
            f"{len(verdict.kept)} of {len(scores)} "
            f"{'won' if number == last - 1 else 'go on'}, "
            f"{spent / self._plan.horizon:.2f} full runs so far"
        ]
        for i, reason in verdict.reasons.items():
            lines.append(f"  dropped {entries[i].label}: {reason}")
        return lines


def _identity(lineup: Lineup, settings: Settings, data: str) -> str:
    """16 hexadecimal digits that follow from all that changes a race.

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
            "contenders": [(c.method.name, c.hparams) for c in lineup.entries],
            "numerics_version": NUMERICS_VERSION,
        }
    )


def _score(measured: Sequence[Mapping[str, Any]], task: Task) -> Score:
    """A contender's score from its rows on a rung, one per seed.

    Args:
      measured: rows of the table of races, one per seed.
      task: gives the metric.
    """

    def column(metric: Metric) -> np.ndarray:
        """A metric [seeds], higher is better; -inf where it is undefined."""
        values = [row[f"valid_{metric}"] for row in measured]
        return np.array(
            [
                -math.inf if x is None or math.isnan(x) else metric.sign * x
                for x in values
            ]
        )

    return Score(column(task.metric), column(LOSS))
