"""Trains trials: runs that are given up, gone on with, or branched from.

A job is a run up to some update, from the start or from where another job ended. Jobs
that share a program are laid out in packs, each of which trains as a block, several at
once on each device; states that are gone on from come back to the host.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import checkpoint, crew, experiment, programs, results, strategy, train
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
        return Begin(
            first.steps if first else 0,
            [[job.state.state for job in lane if job.state] for lane in self.lanes]
            if first
            else [],
            frozenset(
                results.run_id(job.run)
                for lane in self.lanes
                for job in lane
                if job.keep
            ),
        )


class Begin(NamedTuple):
    """Where a block of trials starts, and what it is to leave.

    Attributes:
      steps: updates done.
      states: [lanes][seeds], leaves [1, ...], without the lanes that fill a block up;
        empty at the start.
      keep: identities of the runs whose states are wanted.
    """

    steps: int
    states: Sequence[Sequence[PyTree]]
    keep: frozenset[str]


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
      progress: told how many updates more all lanes have done.
      stopping: whether to end.

    Returns:
      the result of each trial by its run_id.
    """
    start, state, facts = begin.steps, None, {}
    if begin.states:
        # A lane's seeds one below the other, then the lanes beside each other.
        lanes = [
            jax.tree.map(lambda *leaves: np.concatenate(leaves), *each)
            for each in begin.states
        ]
        lanes += lanes[-1:] * (block.program.num_hparams - len(lanes))
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves, 1), *lanes)
        state = jax.device_put(stacked, device)
    saved = checkpoint.restore(folder, compiled.state)
    if saved and saved[0] > start:
        start, state, facts = saved
        state = jax.device_put(state, device)
    seconds, written = facts.get("seconds", 0.0), time.monotonic()

    def pause() -> bool:
        due = 60 * settings.checkpoint_minutes
        return time.monotonic() - written >= due or stopping() != 0

    last: dict[str, np.ndarray] = {}
    steps = block.example.steps
    for measured in programs.train(
        compiled, block.program, *block.inputs(), steps, start, state, pause
    ):
        seconds += measured.seconds
        last = {k: v[-1] for k, v in measured.values.items()}
        step, state = int(measured.steps[-1]), measured.state
        progress(step - start)
        start = step
        if state is not None and step < steps and pause():
            experiment.save(folder, step, state, seconds)
            written = time.monotonic()
            experiment.stop_if(stopping)
    progress(steps - start)
    found = block.lanes_of
    host = jax.device_get(state) if begin.keep else None
    return {
        run_id: Trained(
            {k: float(f"{float(v[s, h]):.9g}") for k, v in last.items()},
            round(seconds / len(found), 6),
            State(steps, jax.tree.map(lambda x, s=s, h=h: x[s : s + 1, h], host))
            if run_id in begin.keep
            else None,
        )
        for (s, h), run_id in found.items()
    }


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
        on_cpu = self._devices[0].platform == "cpu"
        self._workers = crew.usable_cores() if on_cpu else 1
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

        def stopping() -> int:
            return self._signalled() or (-1 if failed.is_set() else 0)

        def work(pack: Pack, device: int) -> tuple[()]:
            with jax.default_device(self._devices[device]):
                found = self._train(pack, device, stopping)
            with self._lock:
                trained.update(found)
            return ()

        count = len(self._devices)
        shares = [packs[i::count] for i in range(min(count, len(packs)))]
        crew.train_all(shares, self._workers, work, stopping, failed)
        experiment.stop_if(self._signalled)
        return trained

    def forget(self) -> None:
        """Drops checkpoints of what is in the table by now."""
        for name in self._trained:
            checkpoint.discard(self._folder / name)
        self._trained.clear()

    def _train(
        self, pack: Pack, device: int, stopping: Callable[[], int]
    ) -> dict[str, Trained]:
        target = pack.first.target
        block = block_of(pack, self._placed(target, pack.first.run.task, device))

        def progress(updates: int) -> None:
            with self._lock:
                self._progress(updates * pack.count / target.full_steps)

        trained = train_block(
            block,
            self._compiled(block, device),
            pack.begin,
            self._folder / block.name,
            self._settings,
            self._devices[device],
            progress,
            stopping,
        )
        with self._lock:
            self._trained.append(block.name)
        return trained

    def _placed(self, target: Trainable, name: str, device: int) -> Task:
        """The target's task with its data on a device."""
        key = (name, device)
        with self._lock:
            if key not in self._tasks:
                self._tasks[key] = experiment.moved_to(
                    target.task, self._devices[device]
                )
            return self._tasks[key]

    def _compiled(self, block: Block, device: int) -> programs.Compiled:
        """The block's programs, compiled once for all that share them."""

        def compile_it() -> programs.Compiled:
            with jax.default_device(self._devices[device]):
                shapes = jax.eval_shape(block.inputs)
                return programs.compile_program(block.program, *shapes)

        with self._lock:
            key = (block.key, device)
            if key not in self._programs:
                self._programs[key] = self._pool.submit(compile_it)
            future = self._programs[key]
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
