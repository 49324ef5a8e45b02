"""Trains trials: runs that are given up, gone on with, or branched from.

A job is a run up to some update, from the start or from where another job ended. Jobs
that share a program are laid out in packs, each of which trains as a block, several at
once on each device; states that are gone on from come back to the host.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import sys
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
    crew,
    experiment,
    programs,
    protocol,
    results,
    rows,
    strategy,
    train,
)
from lrjax.blocks import Block
from lrjax.config import Settings
from lrjax.core import Method, PyTree, Run, Task


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
        """What its block starts from."""
        first = self.first.state
        jobs = {results.run_id(job.run): job for lane in self.lanes for job in lane}
        return Begin(
            first.steps if first else 0,
            {run_id: job.state.state for run_id, job in jobs.items() if job.state},
            frozenset(run_id for run_id, job in jobs.items() if job.keep),
        )


class Begin(NamedTuple):
    """Where a block of trials starts, and what it is to leave.

    Attributes:
      steps: updates done.
      states: of each run by its identity, leaves [1, ...]; empty at the start.
      keep: identities of the runs whose states are wanted.
    """

    steps: int
    states: Mapping[str, PyTree]
    keep: frozenset[str]

    def state(self, block: Block) -> PyTree | None:
        """The state of a block of these trials, or of a part of them."""
        if not self.states:
            return None
        # A lane's seeds one below the other, then the lanes beside each other.
        lanes = [
            jax.tree.map(
                lambda *leaves: np.concatenate(leaves),
                *(self.states[run_id] for run_id in lane),
            )
            for lane in zip(*block.ids, strict=True)
        ]
        return jax.tree.map(lambda *leaves: np.stack(leaves, 1), *lanes)


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


def block_of(pack: Pack, task: Task) -> Block:
    """A pack's block, the last lane repeated up to its width.

    Args:
      pack: what to train.
      task: the target's, with its data where the block trains.
    """
    target, run = pack.first.target, pack.first.run
    filled = [*pack.lanes, *[pack.lanes[-1]] * (pack.width - len(pack.lanes))]
    split = [target.split(lane[0].run) for lane in filled]
    program = train.Program(
        task=task,
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
    return Block(program, tuple(runs), tuple(t for _, t in split))


def train_block(
    block: Block,
    compiled: programs.Compiled,
    begin: Begin,
    folder: Path,
    settings: Settings,
    device: crew.Device,
    progress: Callable[[int], Any],
    stopping: Callable[[], int],
) -> dict[str, Trained]:
    """Trains a block of trials, from its last good checkpoint if it has one.

    Args:
      block: the trials.
      compiled: its programs.
      begin: from where.
      folder: of its checkpoints.
      settings: how to save.
      device: where.
      progress: told how many updates more the trials have done, all together.
      stopping: whether to end.

    Returns:
      the result of each trial by its run_id.
    """
    last: dict[str, np.ndarray] = {}
    state, seconds, ended = None, 0.0, begin.steps
    for measured, spent in experiment.checkpointed(
        block,
        compiled,
        folder,
        settings,
        device,
        progress,
        stopping,
        begin.steps,
        begin.state(block),
    ):
        last = {k: v[-1] for k, v in measured.values.items()}
        state, seconds, ended = measured.state, spent, int(measured.steps[-1])
    steps, found = block.example.steps, block.lanes_of
    if "mean_batch_loss" in last:  # of a block that ended early, as all had diverged
        last["mean_batch_loss"] = last["mean_batch_loss"] * (ended / steps)
    host = jax.device_get(state) if begin.keep else None
    return {
        run_id: Trained(
            {k: rows.number(v[s, h]) for k, v in last.items()},
            round(seconds / len(found), 6),
            State(steps, jax.tree.map(lambda x, s=s, h=h: x[s : s + 1, h], host))
            if run_id in begin.keep
            else None,
        )
        for (s, h), run_id in found.items()
    }


class _Share(NamedTuple):
    """A block of trials, where it begins, and whose they are."""

    block: Block
    begin: Begin
    target: Trainable


class Trainer:
    """Trains trials in blocks, several at once on each device.

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
        self._settings, self._signalled = settings, signalled
        self._progress = progress
        self._devices = jax.local_devices()
        self._most = sys.maxsize  # blocks at once, once memory has given out
        self._pool = concurrent.futures.ThreadPoolExecutor(crew.usable_cores())
        self._programs: dict[Any, concurrent.futures.Future[programs.Compiled]] = {}
        self._tasks: dict[tuple[str, int], Task] = {}
        self._trained: list[str] = []  # names of blocks
        self._lock = threading.Lock()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def train(self, jobs: Sequence[Job]) -> dict[str, Trained]:
        """Trains what is not known; the result of each by its run_id."""
        packs = lay_out(jobs)
        trained: dict[str, Trained] = {}
        failed = threading.Event()
        if not packs:
            return trained

        def stopping() -> int:
            return self._signalled() or (-1 if failed.is_set() else 0)

        todo = [
            _Share(block_of(pack, target.task), pack.begin, target)
            for pack in packs
            for target in [pack.first.target]
        ]
        count = min(len(self._devices), len(todo))
        devices, blocks = self._devices[:count], [share.block for share in todo]
        at_once = min(experiment.blocks_at_once(blocks, devices[0]), self._most)
        rooms = experiment.make_rooms(devices, at_once, count)
        experiment.check_least(rooms[0], blocks)

        def work(share: _Share, device: int) -> list[_Share]:
            def train_it(compiled: programs.Compiled) -> None:
                found = self._train(share, compiled, device, stopping)
                with self._lock:
                    trained.update(found)

            def compiled() -> programs.Compiled:
                return self._compiled(share, device, stopping)

            with self._lock:
                self._trained.append(share.block.name)
            with jax.default_device(devices[device]):
                again = experiment.within(
                    rooms[device], share.block, compiled, train_it
                )
            return [share._replace(block=block) for block in again]

        shares = [todo[i::count] for i in range(count)]
        crew.train_all(shares, at_once, work, stopping, failed)
        if (left := min(room.most for room in rooms)) < at_once:
            self._most = left
        experiment.stop_if(self._signalled)
        return trained

    def forget(self) -> None:
        """Drops checkpoints of what is in the table by now."""
        for name in self._trained:
            checkpoint.discard(self._folder / name)
        self._trained.clear()

    def _train(
        self,
        share: _Share,
        compiled: programs.Compiled,
        device: int,
        stopping: Callable[[], int],
    ) -> dict[str, Trained]:
        def progress(updates: int) -> None:
            with self._lock:
                self._progress(updates / share.target.full_steps)

        block = dataclasses.replace(share.block, program=self._placed(share, device))
        return train_block(
            block,
            compiled,
            share.begin,
            self._folder / block.name,
            self._settings,
            self._devices[device],
            progress,
            stopping,
        )

    def _placed(self, share: _Share, device: int) -> train.Program:
        """The block's program with its task's data on a device."""
        program = share.block.program
        key = (share.block.example.task, device)
        with self._lock:
            if key not in self._tasks:
                self._tasks[key] = experiment.moved_to(
                    program.task, self._devices[device]
                )
            return dataclasses.replace(program, task=self._tasks[key])

    def _compiled(
        self, share: _Share, device: int, stopping: Callable[[], int]
    ) -> programs.Compiled:
        """The block's programs, compiled once for all that share them."""

        def compile_it() -> programs.Compiled:
            with jax.default_device(self._devices[device]):
                shapes = jax.eval_shape(share.block.inputs)
                return programs.compile_program(self._placed(share, device), *shapes)

        with self._lock:
            key = (share.block.key, device)
            if key not in self._programs:
                self._programs[key] = self._pool.submit(compile_it)
            future = self._programs[key]
        experiment.wait_for(future, stopping)
        with self._lock:
            if future.exception():
                self._programs.pop(key, None)  # so that it is compiled again
        return future.result()


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
