"""Units that a selection or an adviser trains: whole runs of contenders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrjax import identity, methods, results
from lrjax.config import Settings
from lrjax.core import Method, Run, Task
from lrjax.engine import programs, strategy
from lrjax.hpo import trials
from lrjax.hpo.contenders import Contender
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import rows
from lrjax.launch.units import Trained

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
    asker: str = "race",
) -> trials.Job:
    """A run of a contender, with its whole schedule in its own length.

    Args:
      settings: the config.
      contender: who trains.
      name: the task's name in the tables.
      task: the task, with its rows divided as this run has them.
      data: fingerprint of the task's data, in its own division.
      horizon: updates.
      seed: of the run.
      asker: begins the method's name in the tables.
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
        label=identity.tuned_name(asker, 0, contender.method.name),
    )
    entrant = Entrant(task, contender.method, horizon)
    return trials.Job(entrant, run, keep=False, on_test=True)


def record(
    tables: results.Tables, task: Task, ended: Sequence[tuple[Run, Trained]]
) -> None:
    """Write runs that have ended to the tables of all runs.

    Args:
      tables: where they are kept.
      task: that they trained on.
      ended: runs, and what was measured.
    """
    runs, curves = [], []
    for run, trained in ended:
        # Any method: the names of the measurements do not depend on it.
        method = methods.METHODS["adam"]
        program = blocks_lib.program_of(run, task, method, (), 1, 1)
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
    tables.append(results.CURVES, curves)
    tables.append(results.RUNS, runs)
