"""What a race trains: a contender's run up to a rung, or the branch at its end.

A contender whose schedule falls towards the horizon is not judged at its high rate but
by a branch: a copy of its state comes to rest over the rung's last updates
(`optim.cooldown`), and the contender itself resumes from where the copy was taken.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lrjax import identity, machine, methods
from lrjax.config import Settings
from lrjax.core import Method, Run, Task
from lrjax.engine import strategy
from lrjax.hpo import trials
from lrjax.hpo.contenders import Contender
from lrjax.hpo.lineup import Lineup
from lrjax.launch import blocks as blocks_lib
from lrjax.launch.units import State

_MOST_ROWS = 2**20  # in a round: its order is held in memory
# Lanes of a block. The same on every rung, so that a contender's numbers do not depend
# on what happens to others; on CPUs a padding lane would cost as much as a run.
_WIDTH = {"cpu": 1}
_WIDTH_ELSEWHERE = 32


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A contender as a target of the trainer: the run itself, or its branch.

    Attributes:
      task: the task, with its data.
      method: with a cooldown around it where the contender is judged by a branch.
      full_steps: updates of a full run.
      extra: traced values of the cooldown.
      num_contenders: contenders that share the program.
      num_seeds: seeds of each.
    """

    task: Task
    method: Method
    full_steps: int
    extra: Mapping[str, float]
    num_contenders: int
    num_seeds: int

    def split(
        self, run: Run
    ) -> tuple[tuple[tuple[str, Any], ...], Mapping[str, float]]:
        """Static and traced hyperparameters of a run, those of the cooldown added."""
        static, traced = methods.split(self.method, dict(run.hparams))
        return static, {**traced, **self.extra}

    @property
    def most_updates(self) -> int:
        """Updates of all contenders that share the program, if none is dropped."""
        return self.full_steps * self.num_contenders * self.num_seeds

    def width(self, count: int) -> int:
        """Lanes of a block; the same whatever is left on a rung."""
        del count
        if strategy.one_by_one(self.task):
            return 1
        most = blocks_lib.most_runs(self.task, self.method)
        widest = _WIDTH.get(machine.kind(), _WIDTH_ELSEWHERE)
        return max(1, min(widest, self.num_contenders, most))


@dataclasses.dataclass(frozen=True)
class Jobs:
    """Makes the jobs of a race.

    Attributes:
      lineup: contenders and plan.
      settings: the config.
      data: fingerprint of the task's data.
    """

    lineup: Lineup
    settings: Settings
    data: str

    def make(
        self, key: tuple[int, int], rung: int, state: State | None, branch: bool
    ) -> trials.Job:
        """A contender's run to a rung with one seed, or the branch at its end.

        Args:
          key: number of the contender, and seed.
          rung: number of the rung.
          state: where to resume; None for the start.
          branch: whether to make the branch.
        """
        (number, seed), plan = key, self.lineup.plan
        contender = self.lineup.entries[number]
        end, start = plan.rungs[rung], plan.start(rung, contender.needs_cooldown)
        extra: dict[str, float] = {}
        if contender.needs_cooldown:  # outside of the branch the cooldown never begins
            extra = {
                "cooldown_start": float(start) if branch else math.inf,
                "cooldown_steps": float(end - start) if branch else 1.0,
            }
        entrant = Entrant(
            task=self.lineup.task,
            method=methods.cooled(contender.method)
            if contender.needs_cooldown
            else contender.method,
            full_steps=plan.horizon,
            extra=extra,
            num_contenders=sum(
                other.method.name == contender.method.name
                for other in self.lineup.entries
            ),
            num_seeds=len(plan.seeds),
        )
        run = self._run(contender, seed, end if branch else start)
        whole = run.steps == plan.horizon
        keep = not (branch or whole)  # else nothing resumes from its state
        return trials.Job(entrant, run, state, keep=keep, on_test=whole)

    def _run(self, contender: Contender, seed: int, steps: int) -> Run:
        """The run of a contender that ends after `steps` updates."""
        task, horizon = self.lineup.task, self.lineup.plan.horizon
        every = task.steps_per_epoch
        if strategy.kind_of(task) == strategy.LINEAR:
            # Only a rung's end counts, and a measurement costs as much as some epochs.
            every = min(horizon, max(1, _MOST_ROWS // task.batch_size))
        return blocks_lib.run_of(
            self.settings,
            self.lineup.name,
            task,
            self.data,
            contender.method,
            dict(contender.hparams),
            seed=seed,
            steps=steps,
            horizon=horizon,
            eval_every=every,
            label=identity.tuned_name("race", 0, contender.method.name),
        )
