"""What a selection trains: full runs of contenders, on a choice of validation rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lrjax import identity, methods
from lrjax.config import Settings
from lrjax.core import Method, Run, Task
from lrjax.engine import strategy
from lrjax.hpo import trials
from lrjax.hpo.contenders import Contender
from lrjax.launch import blocks as blocks_lib

_MOST_ROWS = 2**20  # in a round: its order is held in memory


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A contender as a target of the trainer.

    Attributes:
      task: the task, with the rows divided as this run has them.
      method: the contender's.
      full_steps: updates of a full run.
    """

    task: Task
    method: Method
    full_steps: int

    def split(
        self, run: Run
    ) -> tuple[tuple[tuple[str, Any], ...], Mapping[str, float]]:
        """Static and traced hyperparameters of a run."""
        return methods.split(self.method, dict(run.hparams))

    @property
    def most_updates(self) -> int:
        """Updates of a run."""
        return self.full_steps

    def width(self, count: int) -> int:
        """Lanes of a block: all that are asked for at once, as far as there is room."""
        if strategy.one_by_one(self.task):
            return 1
        return blocks_lib.most_lanes(self.task, self.method, count)


def job(
    settings: Settings,
    contender: Contender,
    name: str,
    task: Task,
    data: str,
    horizon: int,
    seed: int,
) -> trials.Job:
    """A full run of a contender.

    Args:
      settings: the config.
      contender: who trains.
      name: the task's name in the tables.
      task: the task, with its rows divided as this run has them.
      data: fingerprint of the task's data, in its own division.
      horizon: updates.
      seed: of the run.
    """
    every = task.steps_per_epoch
    if strategy.kind_of(task) == strategy.LINEAR:
        # Only the end counts, and a measurement costs as much as some epochs.
        every = min(horizon, max(1, _MOST_ROWS // task.batch_size))
    run = blocks_lib.run_of(
        settings,
        name,
        task,
        data,
        contender.method,
        dict(contender.hparams),
        seed=seed,
        steps=horizon,
        horizon=horizon,
        eval_every=every,
        label=identity.tuned_name("race", 0, contender.method.name),
    )
    entrant = Entrant(task, contender.method, horizon)
    return trials.Job(entrant, run, keep=False, on_test=True)
