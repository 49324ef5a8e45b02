"""Advises on expensive tasks: short runs at several rates, then three recipes.

Which methods are considered follows from known tasks; the short runs only say at which
rate. All of them are trained beside each other; they are rows of `runs.jsonl`, from
which an interrupted command resumes.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrjax import console, identity, methods, results, tasks
from lrjax.common import numerics
from lrjax.config import Settings
from lrjax.core import Method, Task, UsageError, counted
from lrjax.hpo import (
    advice,
    contenders,
    entrants,
    history,
    ladders,
    lengths,
    points,
    prior,
    probes,
    race,
    recipes,
    trials,
)
from lrjax.hpo.advice import Advice, Ladder
from lrjax.hpo.contenders import Contender
from lrjax.hpo.ladders import Ladders
from lrjax.hpo.lengths import Peak
from lrjax.hpo.lineup import in_order, look
from lrjax.hpo.recipes import Entry
from lrjax.launch import local
from lrjax.launch.live import Listener
from lrjax.launch.session import Launch, Launcher
from lrjax.reports.study import SHORT

_ASKER = SHORT.removesuffix(":")
_PRESENT = 0.5  # share of the known contenders that tasks of full length have


class Rung(NamedTuple):
    """A short run.

    Attributes:
      entry: number of its method.
      contender: the method at the rate.
    """

    entry: int
    contender: Contender


@dataclasses.dataclass(frozen=True)
class Case:
    """A task to advise on, before any training.

    Attributes:
      name: the task's name in the tables.
      task: the task, with its data.
      entries: methods that may be advised.
      contenders: of each, one at its default.
      left: numbers of the entries that are considered.
      reached: draws of what each reaches [draws, methods].
      peaks: number of each entry that needs a rate -> its best rate in full runs.
      prior: what known tasks say.
      horizon: updates of a full run.
      spend: share of a full run that may be trained.
      described: the task's features; None if it was not looked at.
      probed: updates that looking has cost.
      ladders: of the short runs; None if there are none.
      rungs: the short runs.
    """

    name: str
    task: Task
    entries: tuple[Entry, ...]
    contenders: tuple[Contender, ...]
    left: tuple[int, ...]
    reached: np.ndarray
    peaks: Mapping[int, Peak]
    prior: prior.Prior
    horizon: int
    spend: float
    described: Mapping[str, float] | None
    probed: int
    ladders: Ladders | None
    rungs: tuple[Rung, ...]

    @property
    def scale(self) -> points.Scale:
        """The scale of the metric that methods are ranked by."""
        return points.Scale.of(self.task.metric)

    def move(self, entry: int) -> Peak:
        """By how much a method's best rate moves from the short runs to full ones."""
        assert self.ladders is not None
        ratio = self.horizon / self.ladders.updates
        return lengths.known().move(self.entries[entry].method, ratio)


@numerics.settled
def run(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    launch: Launch = local.launch,
    listeners: Iterable[Listener] = (),
) -> list[Advice]:
    """Advise on every task of the settings; the arguments are those of `race.run`.

    Raises:
      UsageError: if the settings, data or workdir cannot be used.
      Interrupted: on a signal that stops.
    """
    overrides = dict(overrides or {})
    chosen = [methods.find(each) for each in race.named_methods(settings, overrides)]
    race.refuse_grid(settings, "advise")
    with launch(settings, workdir, data_dir, overrides) as launcher:
        launcher.session.live.listen(listeners)
        named = race.are_named(settings, overrides)
        return advise_all(race.load(launcher), chosen, named, launcher, console.say)


def advise_all(
    loaded: Mapping[str, Task],
    chosen: Sequence[Method],
    named: bool,
    launcher: Launcher,
    log: Callable[[str], Any],
) -> list[Advice]:
    """Advise on one task after the other, and write the answers.

    Args:
      loaded: tasks by name.
      chosen: methods that may be advised.
      named: whether the user named them.
      launcher: trains.
      log: called with each line of progress.
    """
    settings, tables = launcher.session.settings, launcher.session.tables
    past = history.known(launcher.session, loaded, log)
    cases = [  # all of them before any training, so that errors come first
        lay_out(name, task, chosen, settings, named, log, past)
        for name, task in loaded.items()
    ]
    launcher.session.record(
        {name: results.describe(task.metrics) for name, task in loaded.items()}
    )
    live = launcher.session.live
    live.mode = "advise"
    laid = [case.ladders for case in cases if case.ladders]
    live.expect(
        "race",
        sum(len(case.rungs) for case in cases),
        sum(each.cost for each in laid),
    )
    answers = []
    for case in cases:
        live.note(case.name)
        log(opening(case))
        with console.bar(
            total=max(1, len(case.rungs)),
            bar_format="{desc}{bar}| {n:.0f} of {total:.0f} short runs [{elapsed}]",
            desc=f"{case.name} ",
        ) as bar:
            trainer = trials.Trainer(launcher, bar.update)
            values = train(case, settings, tables, trainer)
        answers.append(conclude(case, values, tables.workdir))
    tables.check()
    advice.write(answers, tables)
    return answers


def lay_out(
    name: str,
    task: Task,
    chosen: Sequence[Method],
    settings: Settings,
    named: bool,
    log: Callable[[str], Any],
    past: Sequence[prior.Past] = (),
) -> Case:
    """Choose methods and short runs; looks at the task with a few gradients.

    Args:
      name: the task's name in the tables.
      task: the task, with its data.
      chosen: methods that may be advised.
      settings: length of a full run, and the share that may be trained.
      named: whether the user named the methods: then those of which nothing is known
        count, too.
      log: called with a line before the gradients.
      past: the user's own tasks.

    Raises:
      UsageError: if no method can run on the task.
    """
    table = prior.known(points.Scale.of(task.metric).kind)
    table = prior.extend(table, lengths.past(), _PRESENT)
    table = prior.extend(table, past)
    known = set(map(str, table.methods))
    found = [
        each
        for each in contenders.contenders(in_order(chosen), name, settings)
        if named or each.own or each.method.name in known
    ]
    horizon = settings.updates(name, task.steps_per_epoch)
    left = math.floor(settings.advise.spend * horizon)
    described, probed = None, 0
    if left >= probes.COST:
        described, probed = look(name, task, horizon, log)
    candidates = [contenders.candidate(each, settings) for each in found]
    believed = prior.believe(table, candidates, described)
    entries = recipes.entries(candidates, known)
    reached = recipes.scores(table, entries, described)
    beyond = horizon / _longest(table)  # no known task has runs that are so long
    peaks = {
        i: peak.moved(lengths.known().move(entries[i].method, beyond))
        for i, peak in recipes.expected_peaks(believed.belief, entries).items()
    }
    among = recipes.considered(entries, believed.unlike)
    if believed.unlike:
        peaks = {i: peak.wider() for i, peak in peaks.items()}
    order = [i for i in recipes.laddered(reached, entries) if i in among]
    shape = ladders.affordable(left - probed, len(order), horizon)
    firsts = tuple(found[entry.who[0]] for entry in entries)
    case = Case(
        name=name,
        task=task,
        entries=tuple(entries),
        contenders=firsts,
        left=tuple(among),
        reached=reached,
        peaks=peaks,
        prior=believed,
        horizon=horizon,
        spend=settings.advise.spend,
        described=described,
        probed=probed,
        ladders=shape,
        rungs=(),
    )
    if shape is None:
        return case
    rungs = [
        Rung(i, firsts[i].at(rate))
        for i in order[: shape.methods]
        for rate in ladders.rungs(
            peaks[i].before(case.move(i)), shape.rates, entries[i].log_rates
        )
    ]
    return dataclasses.replace(case, rungs=tuple(rungs))


def _longest(table: prior.Known) -> float:
    """Updates of the longest full run on known tasks."""
    return math.exp(table.described[:, table.features.index("log_updates")].max())


def opening(case: Case) -> str:
    """A line for the log: which methods are considered, and what is trained."""
    shape, horizon = case.ladders, counted(case.horizon, "update", form="d")
    text = f"advising on {case.name}: full runs of {horizon}; "
    if case.prior.unlike:
        text += "it is unlike all known tasks; "
    if not any(case.entries[i].log_rates for i in case.left):
        return text + "no method here needs a rate, so there are no short runs"
    if not shape:
        return text + (
            f"{100 * case.spend:g} % of one pays for no short runs of "
            f"{min(ladders.LEAST, case.horizon)} updates, so known tasks alone say "
            "what to advise"
        )
    names = dict.fromkeys(rung.contender.method.name for rung in case.rungs)
    return text + (
        f"short runs of {counted(shape.updates, 'update', form='d')} at "
        f"{shape.rates} rates of {' and '.join(names)}"
    )


def train(
    case: Case, settings: Settings, tables: results.Tables, trainer: trials.Trainer
) -> list[float]:
    """Train the short runs that are not in the table; return the metric of each.

    Args:
      case: the short runs.
      settings: the config.
      tables: where runs are kept.
      trainer: trains.

    Returns:
      Values in the order of the runs, NaN of those that were lost.
    """
    if case.ladders is None:
        return []
    rows = {
        row["run_id"]: row for row in results.read_rows(tables.workdir, results.RUNS)
    }
    data, metric = tasks.fingerprint(case.task), f"valid_{case.task.metric}"
    jobs = []
    for rung in case.rungs:
        job = entrants.job(
            settings,
            rung.contender,
            case.name,
            case.task,
            data,
            case.ladders.updates,
            0,
            _ASKER,
        )
        jobs.append(job._replace(known=identity.run_id(job.run) in rows))
    trained = trainer.train_whole(jobs, settings)
    ended = [
        (job.run, trained[identity.run_id(job.run)]) for job in jobs if not job.known
    ]
    entrants.record(tables, case.task, ended)
    trainer.forget()
    values = []
    for job in jobs:
        run_id = identity.run_id(job.run)
        if job.known:
            row = rows[run_id]
            lost, value = row["status"] == "diverged", row[metric]
        else:
            measured = trained[run_id].values
            lost, value = measured["diverged_at"] > 0, measured[metric]
        values.append(math.nan if lost or value is None else float(value))
    return values


def conclude(case: Case, values: Sequence[float], workdir: Path) -> Advice:
    """Three recipes from what the short runs measured.

    Args:
      case: what is known before them.
      values: of `train`.
      workdir: directory of the tables.

    Raises:
      UsageError: if all runs of all methods were lost.
    """
    reached = points.points(values, case.scale) if len(values) else np.array([])
    peaks, lost = dict(case.peaks), set()
    found = []
    for i in dict.fromkeys(rung.entry for rung in case.rungs):
        own = [k for k, rung in enumerate(case.rungs) if rung.entry == i]
        rates = [case.rungs[k].contender.rate for k in own]
        here = lengths.peak([math.log10(rate) for rate in rates], reached[own].tolist())
        if here is None:
            lost.add(i)
        else:
            peaks[i] = peaks[i].joined(here.moved(case.move(i)))
        found.append(
            Ladder(
                method=case.contenders[i].method.name,
                rates=tuple(rates),
                values=tuple(values[k] for k in own),
                best=math.nan if here is None else 10**here.log_rate,
                full=math.nan if here is None else 10 ** peaks[i].log_rate,
                decades=math.nan if here is None else math.sqrt(peaks[i].variance),
            )
        )
    left = [i for i in case.left if i not in lost]
    if not left:
        raise UsageError(
            f"advise: all of {counted(len(values), 'short run')} diverged on "
            f"{case.name}: lrjax.check_task(task) says what is wrong with a task; else "
            "scale its inputs, or name methods that take smaller steps"
        )
    kind = case.scale.kind
    given = recipes.advise(
        case.reached, case.entries, peaks, left, lengths.known(), kind
    )
    if case.prior.unlike or kind not in recipes.RIGHT:
        given = [each._replace(best=math.nan, near=math.nan) for each in given]
    spent = case.probed + (case.ladders.cost if case.ladders else 0)
    return advice.conclude(case, found, given, spent, workdir)
