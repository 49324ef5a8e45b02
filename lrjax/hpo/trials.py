"""Trains trials: runs that are given up, gone on with, or branched from.

A job is a run up to some update, from the start or from where another job ended. Jobs
that share a program are laid out in packs, each of which trains as a block, several at
once on each device; states that are gone on from come back to the host.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import (
    checkpoint,
    experiment,
    protocol,
    results,
    rows,
    strategy,
    train,
    units,
)
from lrjax.blocks import Block
from lrjax.config import Settings
from lrjax.core import Method, PyTree, Run, Task
from lrjax.units import Begin, Engine, Place, Unit


class State(NamedTuple):
    """Where a trial ended.

    Attributes:
      steps: updates done.
      state: leaves [1, ...], on the host.
    """

    steps: int
    state: PyTree


class Trained(NamedTuple):
    """What training a trial gave.

    Attributes:
      values: measurements at its end.
      seconds: what it cost.
      state: to go on from, where the job asked for it.
    """

    values: Mapping[str, float]
    seconds: float
    state: State | None


class Trainable(Protocol):
    """What the trainer must know of that which is tuned or selected from."""

    @property
    def task(self) -> Task:
        """With its data."""
        ...

    @property
    def method(self) -> Method:
        """How the learning rate is controlled."""
        ...

    @property
    def full_steps(self) -> int:
        """Updates of a full run, the unit of progress."""
        ...

    def split(
        self, run: Run
    ) -> tuple[tuple[tuple[str, Any], ...], Mapping[str, float]]:
        """The static and the traced hyperparameters of a run, as `methods.split`."""
        ...

    def width(self, count: int) -> int:
        """Lanes of the blocks for so many settings that are alike but for values."""
        ...


class Job(NamedTuple):
    """A trial to train.

    Attributes:
      target: whose.
      run: what.
      state: where to go on from; None for the start.
      known: whether its result is in the table, so that it is not to be trained.
      keep: whether the state that it ends in is wanted.
    """

    target: Trainable
    run: Run
    state: State | None = None
    known: bool = False
    keep: bool = True


class Pack(NamedTuple):
    """Jobs that train as one block.

    Attributes:
      lanes: a setting each, with a job per seed.
      width: of the block.
    """

    lanes: Sequence[Sequence[Job]]
    width: int

    @property
    def first(self) -> Job:
        """One of the jobs; all share task, method, steps and where they start."""
        return self.lanes[0][0]

    @property
    def count(self) -> int:
        """How many jobs there are."""
        return sum(map(len, self.lanes))

    @property
    def begin(self) -> Begin:
        """Where its block starts, and whose states are kept."""
        first = self.first.state
        jobs = {results.run_id(job.run): job for lane in self.lanes for job in lane}
        return Begin(
            first.steps if first else 0,
            {run_id: job.state.state for run_id, job in jobs.items() if job.state},
            frozenset(run_id for run_id, job in jobs.items() if job.keep),
        )


class Trains(Protocol):
    """What trains trials; `Trainer` does it in this process."""

    def train(self, jobs: Sequence[Job]) -> dict[str, Trained]:
        """Trains what is not known; the result of each by its run_id."""
        ...

    def forget(self) -> None:
        """Drops checkpoints of what is in the table by now."""
        ...


class Launcher(Protocol):
    """Who trains: this process, or the workers of a cluster."""

    def trainer(
        self,
        tables: results.Tables,
        settings: Settings,
        signalled: Callable[[], int],
        progress: Callable[[float], Any],
    ) -> AbstractContextManager[Trains]:
        """What trains trials; takes the arguments of `Trainer`."""
        ...

    def train_missing(
        self,
        blocks: Sequence[Block],
        tables: results.Tables,
        settings: Settings,
        signalled: Callable[[], int],
        record: Callable[[], Any],
    ) -> None:
        """Trains whole runs, as `experiment.train_missing`."""
        ...


def lay_out(jobs: Sequence[Job]) -> list[Pack]:
    """Packs of all jobs that are not known, the longest first.

    Known ones count towards the width of blocks: it must not depend on what is done
    already.
    """
    groups: dict[Any, dict[str, Job]] = {}
    for job in jobs:
        static, traced = job.target.split(job.run)
        key = (job.run.task, job.run.method, static, tuple(traced))
        key += (job.run.steps, job.run.horizon)
        group, run_id = groups.setdefault(key, {}), results.run_id(job.run)
        # Two tunings may ask for the same.
        if run_id not in group or group[run_id].known:
            group[run_id] = job
    packs = []
    for group in groups.values():
        lanes: dict[Any, list[Job]] = {}  # one setting each, a job per seed
        for job in group.values():
            alone = strategy.one_by_one(job.target.task)
            seed = job.run.seed if alone else None
            lanes.setdefault((job.run.hparams, seed), []).append(job)
        width = next(iter(group.values())).target.width(len(lanes))
        # From the same update on, with the same seeds.
        started: dict[Any, list[list[Job]]] = {}
        for lane in lanes.values():
            lane = [job for job in lane if not job.known]
            if lane:
                at = lane[0].state.steps if lane[0].state else 0
                seeds = tuple(job.run.seed for job in lane)
                started.setdefault((at, seeds), []).append(lane)
        for alike in started.values():
            for i in range(0, len(alike), width):
                packs.append(Pack(alike[i : i + width], width))
    # So that no device waits for one of them in the end.
    return sorted(packs, key=lambda pack: -pack.first.run.steps)


def unit_of(pack: Pack) -> Unit:
    """A pack as it is trained, its last lane repeated up to the width of the block."""
    target, run = pack.first.target, pack.first.run
    filled = [*pack.lanes, *[pack.lanes[-1]] * (pack.width - len(pack.lanes))]
    split = [target.split(lane[0].run) for lane in filled]
    program = train.Program(
        task=target.task,
        method=target.method,
        static=split[0][0],
        eval_every=run.eval_every,
        num_seeds=len(pack.lanes[0]),
        num_hparams=pack.width,
        fresh_batches=run.fresh_batches,
        dtype=jnp.float64 if run.precision == "float64" else jnp.float32,
        one_by_one=strategy.one_by_one(target.task),
        sums_losses=protocol.find(run.protocol).sums_losses(run.task),
    )
    runs = zip(*([job.run for job in lane] for lane in filled), strict=True)
    block = Block(program, tuple(runs), tuple(traced for _, traced in split))
    return Unit(block, pack.begin)


def train_block(
    unit: Unit,
    place: Place,
    folder: Path,
    settings: Settings,
    progress: Callable[[int], Any],
) -> dict[str, Trained]:
    """Trains a block of trials, from its last good checkpoint if it has one.

    Args:
      unit: the trials.
      place: where.
      folder: of its checkpoints.
      settings: how to save.
      progress: as in `units.checkpointed`.

    Returns:
      the result of each trial by its run_id.
    """
    last: dict[str, np.ndarray] = {}
    block, keep = unit.block, unit.begin.keep
    state, seconds, ended = None, 0.0, unit.begin.steps
    for measured, spent in units.checkpointed(unit, place, folder, settings, progress):
        last = {k: v[-1] for k, v in measured.values.items()}
        state, seconds, ended = measured.state, spent, int(measured.steps[-1])
    steps, found = block.example.steps, block.lanes_of
    if "mean_batch_loss" in last:  # of a block that ended early, as all had diverged
        last["mean_batch_loss"] = last["mean_batch_loss"] * (ended / steps)
    host = jax.device_get(state) if keep else None
    return {
        run_id: Trained(
            {k: rows.number(v[s, h]) for k, v in last.items()},
            round(seconds / len(found), 6),
            State(steps, jax.tree.map(lambda x, s=s, h=h: x[s : s + 1, h], host))
            if run_id in keep
            else None,
        )
        for (s, h), run_id in found.items()
    }


class Trainer:
    """Trains trials in blocks, several at once on each device of this process.

    Use as a context manager.
    """

    def __init__(
        self,
        tables: results.Tables,
        settings: Settings,
        signalled: Callable[[], int],
        progress: Callable[[float], Any],
    ):
        self._folder = tables.workdir / "checkpoints"
        self._settings, self._progress = settings, progress
        self._engine = Engine(jax.local_devices(), signalled)
        self._trained: list[str] = []  # names of blocks
        self._lock = threading.Lock()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def train(self, jobs: Sequence[Job]) -> dict[str, Trained]:
        """Trains what is not known; the result of each by its run_id."""
        packs = lay_out(jobs)
        trained: dict[str, Trained] = {}
        if not packs:
            return trained
        todo = [unit_of(pack) for pack in packs]
        full_steps = {
            run_id: pack.first.target.full_steps
            for pack, unit in zip(packs, todo, strict=True)
            for run_id in unit.block.lanes_of.values()
        }

        def train_it(unit: Unit, place: Place) -> None:
            folder = self._folder / unit.block.name
            of_full_run = full_steps[unit.block.ids[0][0]]

            def progress(updates: int) -> None:
                with self._lock:
                    self._progress(updates / of_full_run)

            with self._lock:
                self._trained.append(unit.block.name)
            found = train_block(unit, place, folder, self._settings, progress)
            with self._lock:
                trained.update(found)

        count = min(len(self._engine.devices), len(todo))
        self._engine.train([todo[i::count] for i in range(count)], train_it)
        return trained

    def forget(self) -> None:
        """Drops checkpoints of what is in the table by now."""
        for name in self._trained:
            checkpoint.discard(self._folder / name)
        self._trained.clear()


class Launch(Protocol):
    """Gets hold of a launcher, once settings and data are known to be of use."""

    def __call__(
        self, settings: Settings, data_dir: str | None, signalled: Callable[[], int]
    ) -> AbstractContextManager[Launcher]:
        """Takes what the runs are made of, and whether to end."""
        ...


class Here:
    """Training in this process."""

    trainer = Trainer
    train_missing = staticmethod(experiment.train_missing)


@contextlib.contextmanager
def here(
    settings: Settings, data_dir: str | None, signalled: Callable[[], int]
) -> Iterator[Launcher]:
    """The launcher that there is without a cluster."""
    del settings, data_dir, signalled
    yield Here()
