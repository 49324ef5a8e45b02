"""A selection on one task before it trains: who may be trained, by which plan, and why.

Which of the three ways is taken follows from the config and from counted work, never
from a clock, so that the same command answers the same on every machine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lrjax import machine, methods
from lrjax.config import Settings
from lrjax.core import Method, Task, UsageError, counted
from lrjax.engine import strategy
from lrjax.engine.train import num_rows
from lrjax.hpo import points, prior, probes, proposals
from lrjax.hpo.contenders import Contender, candidate, contenders
from lrjax.hpo.course import Course
from lrjax.launch import blocks
from lrjax.tasks import folds

# Measured (docs/selection.md): seconds of a core for a unit of `blocks.cost`, and for
# compiling a program of some methods, by kind of model.
_SECONDS = {"cpu": 0.2 / 2**30}
_SECONDS_ELSEWHERE = 0.2 / 2**36  # not measured
_COMPILING = {strategy.LINEAR: 0.25, strategy.NETWORK: 0.5}  # for each contender's lane
_COMPILING_OTHERS = 10.0
_RACE = 8.0  # full runs of a race where no budget is given
_MOST_PROBED = 0.25  # share of the training that probes may cost


@dataclasses.dataclass(frozen=True)
class Lineup:
    """A selection on one task, before any training.

    Attributes:
      name: the task's name in the tables.
      task: the task, with its data.
      chosen: methods that may be trained.
      contenders: all contenders that they give.
      candidates: the same, as a prior knows them.
      known: what is known of other tasks.
      judge: what is believed of them, and how runs are judged.
      plan: which way, and who is trained first.
      budget: most full runs.
      seeds: of a contender's runs, those of later ones follow; empty: 0, 1, 2, ...
      horizon: updates of a full run.
      described: the task's features, if it was looked at.
      probed: full runs that looking has cost.
      why: why this way was taken, for the log.
    """

    name: str
    task: Task
    chosen: tuple[Method, ...]
    contenders: tuple[Contender, ...]
    candidates: tuple[prior.Candidate, ...]
    known: prior.Known
    judge: proposals.Judge
    plan: proposals.Plan
    budget: float
    seeds: tuple[int, ...]
    horizon: int
    described: Mapping[str, float] | None
    probed: float
    why: str

    @property
    def scale(self) -> points.Scale:
        """The scale of the metric that contenders are ranked by."""
        return points.Scale.of(self.task.metric)

    def seed(self, run: int) -> int:
        """The seed of a contender's run."""
        return self.seeds[run] if run < len(self.seeds) else run

    def course(self) -> Course:
        """The selection, before its first run."""

        def believe(candidates: Sequence[prior.Candidate]) -> prior.Prior:
            return prior.believe(self.known, candidates, self.described)

        return Course(self.candidates, self.plan, self.judge, self.scale, believe)

    def with_fitted(self, fitted: Sequence[proposals.Fitted]) -> Lineup:
        """The line-up with contenders at rates between those that were trained."""
        new = (self.contenders[each.like].at(each.rate) for each in fitted)
        return dataclasses.replace(self, contenders=(*self.contenders, *new))

    def opening(self) -> str:
        """A line for the log: which way, what is known, and who is trained."""
        plan = self.plan
        known = "known tasks on average expect"
        if self.judge.prior.similar:
            known = f"tasks like {weighed(self.judge.prior.similar)} expect"
            if self.judge.prior.unlike:
                known = f"it is unlike all known tasks; {known}"
        best = self.contenders[int(np.argmax(self.judge.prior.belief.mean))]
        text = (
            f"selecting on {self.name}: {plan.how} ({self.why}), "
            f"{counted(len(self.contenders), 'contender')}, full runs of "
            f"{counted(self.horizon, 'update')}; {known} most of {best.label}"
        )
        if plan.how == proposals.RACE:
            text += (
                f"; trains {counted(len(plan.entries), 'contender')} first, at most "
                f"{counted(plan.runs, 'full run', form='g')}"
            )
        no_value = [
            method.name
            for method in self.chosen
            if method.name not in {c.method.name for c in self.contenders}
        ]
        if no_value:
            text += (
                f"; left out, because they need a value that nobody published for this "
                f"task: {', '.join(no_value)}"
            )
        return text


def weighed(similar: Iterable[tuple[str, float]]) -> str:
    """The families of tasks that a prior leans on: 'digits (45 %), letter (20 %)'."""
    return ", ".join(f"{family} ({100 * share:.0f} %)" for family, share in similar)


def line_up(
    name: str,
    task: Task,
    chosen: Sequence[Method],
    settings: Settings,
    named: bool,
    log: Callable[[str], Any],
    past: Sequence[prior.Past] = (),
) -> Lineup:
    """Choose contenders and a plan for a task; looks at the task with a few gradients.

    Args:
      name: the task's name in the tables.
      task: the task, with its data.
      chosen: methods that may be trained.
      settings: budget, seeds and length of a full run.
      named: whether the user named the methods: then each is trained once before any
        comes again, if the budget allows.
      log: called with a line before the gradients.
      past: the user's own bake-offs.

    Raises:
      UsageError: if no method can run on the task, or the budget is too small.
    """
    chosen = in_order(chosen)
    found = tuple(contenders(chosen, name, settings))
    candidates = tuple(candidate(each, settings) for each in found)
    horizon = settings.updates(name, task.steps_per_epoch)
    select = settings.select
    how, budget, why = _way(settings, task, len(found), horizon)
    each, runs = len(select.seeds), math.floor(budget)
    _check_budget(how, budget, len(found), max(each, 1))
    table = prior.extend(prior.known(points.Scale.of(task.metric).kind), past)
    described, probed = None, 0.0
    cost = probes.COST / horizon
    if cost <= _MOST_PROBED * max(1.0, budget):
        described, steps = look(name, task, horizon, log)
        probed = steps / horizon
    believed = prior.believe(table, candidates, described)
    judge = proposals.Judge(
        believed,
        folds.count(task),
        table.noise,
        num_rows(task.valid),
        table.near_odds,
    )
    first = proposals.first(
        [each.method.name for each in found],
        [i for i, each in enumerate(found) if each.own],
        believed,
        named,
    )
    plan = proposals.plan(how, believed, first, runs, each)
    return Lineup(
        name=name,
        task=task,
        chosen=tuple(chosen),
        contenders=found,
        candidates=candidates,
        known=table,
        judge=judge,
        plan=plan,
        budget=budget,
        seeds=tuple(select.seeds),
        horizon=horizon,
        described=described,
        probed=probed,
        why=why,
    )


def in_order(chosen: Sequence[Method]) -> list[Method]:
    """Methods in one order, so that an answer does not depend on how they were named.

    lrjax's own in the order of the registry; a user's, which stand there in the order
    in which they were found, follow by name.
    """
    shipped = [name for name in methods.METHODS if name in methods.SHIPPED]
    places = {name: place for place, name in enumerate(shipped)}
    return sorted(chosen, key=lambda m: (places.get(m.name, len(places)), m.name))


def look(
    name: str, task: Task, horizon: int, log: Callable[[str], Any]
) -> tuple[dict[str, float], int]:
    """Describe a task by a few gradients.

    Args:
      name: the task's name in the tables.
      task: the task, with its data.
      horizon: updates of a full run.
      log: called with a line before the gradients.

    Returns:
      its features, and the updates that the gradients cost.
    """
    log(f"looking at {name}")
    probe = probes.probe(task)
    return prior.describe(probe.features, horizon, task.batch_size), probe.steps


def _check_budget(how: str, budget: float, count: int, each: int) -> None:
    """Refuse a budget that is too small for a way.

    Args:
      how: the way.
      budget: in full runs.
      count: number of contenders.
      each: runs of every contender that is trained.

    Raises:
      UsageError: if it is too small.
    """
    asked = f"a budget of {counted(budget, 'full run', form='g')} is too small"
    if how == proposals.BAKEOFF and budget < count * each:
        raise UsageError(
            f"select: a bake-off trains each of {counted(count, 'contender')}, so "
            f"{asked}: give {count * each} or more, or select.how=race"
        )
    if how == proposals.RACE and budget < 2 * each:
        raise UsageError(
            f"select: a race compares two contenders at least, so {asked}: give "
            f"{2 * each} or more, or select.how=prior"
        )


def _way(
    settings: Settings, task: Task, count: int, horizon: int
) -> tuple[str, float, str]:
    """Choose how to select and the budget in full runs, and say why.

    Args:
      settings: the config.
      task: the task.
      count: number of contenders.
      horizon: updates of a full run.
    """
    select = settings.select
    each = max(1, len(select.seeds))
    most = count * each + (0 if len(select.seeds) else proposals.FURTHER)
    budget = select.budget
    if select.how != "auto":
        usual = {proposals.PRIOR: 1.0, proposals.RACE: _RACE * each}
        return select.how, budget or usual.get(select.how, most), "by select.how"
    if budget:
        asked = f"a budget of {counted(budget, 'full run', form='g')}"
        return proposals.by_budget(budget, count, each), budget, asked
    seconds = predicted_seconds(task, count, most * horizon)
    predicted = f"all contenders would take about {seconds:,.0f} s"
    if seconds <= select.seconds or most <= _RACE:
        return proposals.BAKEOFF, float(most), predicted
    return proposals.RACE, _RACE * each, f"{predicted}, above select.seconds"


def predicted_seconds(task: Task, count: int, updates: int) -> float:
    """Seconds that a bake-off is predicted to take on two cores, or on an accelerator.

    Args:
      task: the task.
      count: number of contenders, whose programs have to be compiled.
      updates: of all runs together.
    """
    kind = strategy.kind_of(task)
    compiling = count * _COMPILING.get(kind, _COMPILING_OTHERS)
    each = _SECONDS.get(machine.kind(), _SECONDS_ELSEWHERE)
    return compiling + blocks.cost_of(task, updates) * each
