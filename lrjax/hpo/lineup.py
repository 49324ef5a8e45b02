"""The line-up of a race: which contenders enter on a task, and on what plan."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from lrjax.config import Settings
from lrjax.core import Method, Task, counted
from lrjax.hpo.contenders import Contender, contenders
from lrjax.hpo.rungs import Plan, make_plan


@dataclasses.dataclass(frozen=True)
class Lineup:
    """A race on one task, before any training.

    Attributes:
      name: the task's name in the tables.
      task: the task, with its data.
      chosen: methods that may race.
      contenders: all contenders that they give, in the order of entry.
      plan: seeds, rungs, budget, and how many contenders enter.
    """

    name: str
    task: Task
    chosen: tuple[Method, ...]
    contenders: tuple[Contender, ...]
    plan: Plan

    @functools.cached_property
    def entries(self) -> tuple[Contender, ...]:
        """The contenders that enter; the rest is beyond the budget."""
        return self.contenders[: self.plan.entered]

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the chosen methods of which no contender enters."""
        entered = {contender.method.name for contender in self.entries}
        return tuple(m.name for m in self.chosen if m.name not in entered)

    def opening(self) -> str:
        """A line for the log: who races, to which rungs, and who is left out."""
        plan = self.plan
        seeds = counted(len(plan.seeds), "seed")
        most = counted(plan.budget / plan.horizon, "full run", form="g")
        text = (
            f"racing {counted(len(self.entries), 'contender')} with {seeds} on "
            f"{self.name}: at most {most} of "
            f"{counted(plan.horizon, 'update')}, rungs at "
            f"{', '.join(map(str, plan.rungs))}"
        )
        if more := len(self.contenders) - plan.entered:
            text += f"; the budget has no room for {more} more"
        could_enter = {contender.method.name for contender in self.contenders}
        no_room = [name for name in self.left_out if name in could_enter]
        no_value = [name for name in self.left_out if name not in could_enter]
        if no_room:
            text += f", among them all settings of {', '.join(no_room)}"
        if no_value:
            text += (
                f"; left out, because they need a value that nobody published for this "
                f"task: {', '.join(no_value)}"
            )
        return text


def line_up(
    name: str, task: Task, chosen: Sequence[Method], settings: Settings, named: bool
) -> Lineup:
    """Choose contenders, seeds and rungs for a task.

    Args:
      name: the task's name in the tables.
      task: the task, with its data.
      chosen: methods that may race.
      settings: budget, seeds and length of a full run.
      named: whether the user named the methods: then each enters at least once if the
        budget allows.

    Raises:
      UsageError: if no method can run on the task, or the budget is too small.
    """
    found = contenders(chosen, name, settings, named)
    horizon = settings.updates(name, task.steps_per_epoch)
    wanted = len({contender.method.name for contender in found}) if named else 0
    budget, seeds = settings.select.budget, settings.select.seeds
    plan = make_plan(len(found), budget, horizon, seeds, wanted)
    return Lineup(name, task, tuple(chosen), tuple(found), plan)
