"""Trains trials: runs that are given up, gone on with, or branched from.

A job is a run up to some update, from the start or from where another job ended. Jobs
that share a program train as blocks, several blocks at once on each device; the state
that each ends in comes back to the host.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import blocks as blocks_lib
from lrjax import checkpoint, crew, experiment, programs, results, train
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
      state: to go on from.
    """

    values: Mapping[str, float]
    seconds: float
    state: State


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
    """

    target: Trainable
    run: Run
    state: State | None = None
    known: bool = False


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
        """Trains what is not known; the result of each by its run_id.

        Known ones count towards the width of blocks: it must not depend on what is
        done already.
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
                alone = blocks_lib.trained_one_by_one(job.target.task)
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
                    packs.append((alike[i : i + width], width))
        trained: dict[str, Trained] = {}
        failed = threading.Event()

        def stopping() -> int:
            return self._signalled() or (-1 if failed.is_set() else 0)

        def work(pack: tuple[Sequence[Sequence[Job]], int], device: int) -> tuple[()]:
            with jax.default_device(self._devices[device]):
                found = self._train(*pack, device, stopping)
            with self._lock:
                trained.update(found)
            return ()

        # The longest first, so that no device waits for it in the end.
        packs.sort(key=lambda pack: -pack[0][0][0].run.steps)
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
        self,
        pack: Sequence[Sequence[Job]],
        width: int,
        device: int,
        stopping: Callable[[], int],
    ) -> dict[str, Trained]:
        """Trains a block, from its last good checkpoint if it has one.

        Args:
          pack: lanes, each with a job per seed.
          width: of the block.
          device: number of the device.
          stopping: whether to end.
        """
        block, target = self._block(pack, width, device), pack[0][0].target
        count = sum(map(len, pack))
        compiled = self._compiled(block, device)
        folder = self._folder / block.name
        start, state, facts = 0, None, {}
        states = [[job.state.state for job in lane if job.state] for lane in pack]
        if pack[0][0].state:
            start = pack[0][0].state.steps
            states += states[-1:] * (width - len(states))
            # A lane's seeds one below the other, then the lanes beside each other.
            lanes = [
                jax.tree.map(lambda *leaves: np.concatenate(leaves), *each)
                for each in states
            ]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves, 1), *lanes)
            state = jax.device_put(stacked, self._devices[device])
        saved = checkpoint.restore(folder, compiled.state)
        if saved and saved[0] > start:
            start, state, facts = saved
            state = jax.device_put(state, self._devices[device])
        seconds, written = facts.get("seconds", 0.0), time.monotonic()

        def pause() -> bool:
            due = 60 * self._settings.checkpoint_minutes
            return time.monotonic() - written >= due or stopping() != 0

        last: dict[str, np.ndarray] = {}
        steps = block.example.steps
        for measured in programs.train(
            compiled, block.program, *block.inputs(), steps, start, state, pause
        ):
            seconds += measured.seconds
            last = {k: v[-1] for k, v in measured.values.items()}
            step, state = int(measured.steps[-1]), measured.state
            with self._lock:
                self._progress((step - start) * count / target.full_steps)
            start = step
            if state is not None and step < steps and pause():
                experiment.save(folder, step, state, seconds)
                written = time.monotonic()
                experiment.stop_if(stopping)
        with self._lock:
            self._trained.append(block.name)
            self._progress((steps - start) * count / target.full_steps)
        host = jax.device_get(state)
        return {
            run_id: Trained(
                {k: float(f"{float(v[s, h]):.9g}") for k, v in last.items()},
                round(seconds / count, 6),
                State(
                    steps,
                    jax.tree.map(lambda x, s=s, h=h: x[s : s + 1, h], host),
                ),
            )
            for (s, h), run_id in block.lanes_of.items()
        }

    def _block(self, pack: Sequence[Sequence[Job]], width: int, device: int) -> Block:
        """The trials with the last lane repeated up to the width."""
        target, run = pack[0][0].target, pack[0][0].run
        filled = [*pack, *[pack[-1]] * (width - len(pack))]
        split = [target.split(lane[0].run) for lane in filled]
        program = train.Program(
            task=self._placed(target, run.task, device),
            method=target.method,
            static=split[0][0],
            eval_every=run.eval_every,
            num_seeds=len(pack[0]),
            num_hparams=width,
            fresh_batches=run.fresh_batches,
            dtype=jnp.float64 if run.precision == "float64" else jnp.float32,
            one_by_one=blocks_lib.trained_one_by_one(target.task),
        )
        runs = zip(*([job.run for job in lane] for lane in filled), strict=True)
        return Block(program, tuple(runs), tuple(t for _, t in split))

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
