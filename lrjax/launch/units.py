"""Trains units on this process's devices: the one engine for runs and for trials.

A unit is a block, where it begins, and what is kept of it. Runs begin at their first
update and leave rows in the tables. Trials may begin at a saved state, and their
results are returned. Each device trains several units in parallel, as memory allows,
each from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lrjax import machine
from lrjax.config import Settings
from lrjax.console import say, stop_if
from lrjax.core import Interrupted, PyTree, UsageError
from lrjax.engine import programs, strategy, train
from lrjax.engine.sharding import Layout
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import checkpoint, threads
from lrjax.launch.blocks import Block
from lrjax.launch.program_pool import ProgramPool
from lrjax.tasks import data

_PROGRAM_BYTES = 8 * 2**20  # approximate host memory of each further program
_WORTH_MEASURING = 2**36  # cost of all blocks, as in `blocks.cost`: about 15 seconds
_EXHAUSTED = "RESOURCE_EXHAUSTED"  # text of JAX's out-of-memory errors
# Bytes for each number that a block trains with, much more than it takes.
_WORTH_COUNTING = 64


class Begin(NamedTuple):
    """Start of a block, and what to return of it.

    Attributes:
      steps: updates done.
      states: identity of each run -> its state, leaves [1, ...]; empty at step 0.
      keep: identities of the runs whose final states are returned.
      on_test: whether trials are measured on the test part, as runs always are.
    """

    steps: int = 0
    states: Mapping[str, PyTree] = {}
    keep: frozenset[str] = frozenset()
    on_test: bool = False

    def state(self, block: Block) -> PyTree | None:
        """Stack the states of a block of these runs, or of a part of them."""
        # A run that ended at update 0 has no state yet.
        if all(state is None for state in self.states.values()):
            return None
        # Concatenate each lane's seeds along axis 0, then stack lanes along axis 1.
        lanes = (
            jax.tree.map(
                lambda *leaves: np.concatenate(leaves),
                *(self.states[run_id] for run_id in lane),
            )
            for lane in zip(*block.ids, strict=True)
        )
        return tuple(
            jax.tree.map(
                lambda *leaves: np.stack(leaves, 1),
                *itertools.islice(lanes, group.num_hparams),
            )
            for group in block.program.groups
        )


class Unit(NamedTuple):
    """The work of one thread at a time: a block to train.

    Attributes:
      block: the runs.
      begin: where they start, and whose states are kept.
      is_trial: whether results are returned instead of written to the tables.
    """

    block: Block
    begin: Begin = Begin()
    is_trial: bool = False

    @property
    def updates(self) -> int:
        """Number of updates to do, of all runs together."""
        return self.block.updates - self.begin.steps * len(self.block.run_ids)


class State(NamedTuple):
    """The state in which a trial ended.

    Attributes:
      steps: updates done.
      state: leaves [1, ...], on the host.
    """

    steps: int
    state: PyTree


class Trained(NamedTuple):
    """The result of a trial.

    Attributes:
      values: measurements at its end; those of the test part if requested.
      seconds: training time.
      state: to resume from, if it was to be kept.
    """

    values: Mapping[str, float]
    seconds: float
    state: State | None


class Outcome(NamedTuple):
    """The result of a unit.

    Attributes:
      unit: what was trained; a part of the original unit if memory ran out.
      seconds: training time.
      trials: results by run_id; empty for runs, whose rows are in the tables.
      summary: lines to print, one per method; empty for trials.
    """

    unit: Unit
    seconds: float
    trials: Mapping[str, Trained] = {}
    summary: Sequence[str] = ()


class Place(NamedTuple):
    """Device that a unit trains on, and the programs for it.

    Attributes:
      compiled: its programs.
      device: device of the unit, unless its block has a layout.
      stopping: whether to stop.
    """

    compiled: programs.Compiled
    device: machine.Device
    stopping: Callable[[], int]


class Engine:
    """Trains units on this process's devices, several in parallel on each.

    Attributes:
      devices: in use.
      pool: compiled programs.
    """

    def __init__(
        self,
        devices: Sequence[machine.Device],
        signalled: Callable[[], int],
        layout: Layout | None = None,
    ):
        """Create an engine.

        Args:
          devices: to train on.
          signalled: returns the signal that came, 0 if none did.
          layout: sharding of blocks over all devices; None if they are not sharded.
        """
        self.devices = devices[:1] if layout else devices  # the first represents all
        self.pool = ProgramPool(self.devices, layout)
        self._signalled, self._layout = signalled, layout
        self._most = sys.maxsize  # limit of parallel units; lower once memory ran out

    def close(self) -> None:
        """End the threads."""
        self.pool.close()

    def train(
        self,
        jobs: Sequence[Sequence[Unit]],
        train_unit: Callable[[Unit, Place], Outcome],
        ready: Callable[[int, int, float], Any] = lambda *_: None,
    ) -> Iterator[Outcome]:
        """Train units; split those that do not fit in memory.

        Args:
          jobs: the units of each device, at least one; no more jobs than devices.
          train_unit: trains a unit at a place. Called in threads; its exceptions stop
            all training, except out-of-memory errors.
          ready: called once training can start, with the number of programs, the number
            of parallel units on each device, and the bytes of host memory that all of
            them take together.

        Yields:
          what `train_unit` returns, as it comes.

        Raises:
          UsageError: if a unit will never fit in memory.
          Interrupted: on a signal, once running units have stopped.
        """
        units = [unit for job in jobs for unit in job]
        devices, failed = self.devices[: len(jobs)], threading.Event()

        def stopping() -> int:
            return self._signalled() or (-1 if failed.is_set() else 0)

        # A sharded block uses collectives, which all devices must start in the same
        # order: one block at a time.
        blocks = [unit.block for unit in units]
        at_once = 1 if self._layout else blocks_at_once(blocks, devices[0])
        at_once = min(at_once, self._most)
        sharing = len(self._layout.devices) if self._layout else len(devices)
        limits = limits_of(devices, at_once, sharing)
        judged = any(not unit.is_trial or unit.begin.on_test for unit in units)
        count = self.pool.announce([[u.block for u in job] for job in jobs], judged)
        need = self._need(units[0].block, stopping)
        # Refuse blocks that will never fit before anything is trained or written.
        limits[0].check(blocks[0].title, need)
        check_least(limits[0], [b for b in blocks if b.key != blocks[0].key])
        ready(count, at_once, at_once * sharing * need)

        def work(unit: Unit, number: int) -> tuple[Outcome | None, list[Unit]]:
            """Train a unit on device `number`; return its outcome, or smaller units."""

            def train_at(compiled: programs.Compiled) -> Outcome:
                """Train the unit with its compiled programs."""
                program = self.pool.placed(unit.block.program, number)
                block = dataclasses.replace(unit.block, program=program)
                place = Place(compiled, devices[number], stopping)
                return train_unit(unit._replace(block=block), place)

            def compiled() -> programs.Compiled:
                return self.pool.get(unit.block, number, stopping)

            with jax.default_device(devices[number]):
                outcome, smaller = _within(
                    limits[number], unit.block, compiled, train_at
                )
            return outcome, [unit._replace(block=block) for block in smaller]

        yield from threads.train_all(jobs, at_once, work, stopping, failed)
        if (left := min(limit.max_blocks for limit in limits)) < at_once:
            self._most = left
        stop_if(self._signalled)

    def _need(self, block: Block, stopping: Callable[[], int]) -> float:
        """Bytes of a block; 0 if memory is too small even to compile it."""
        try:
            return self.pool.peek(block, 0, stopping).need
        except Exception as error:
            if _EXHAUSTED in str(error):
                return 0.0  # training will try smaller blocks
            raise


def checkpointed(
    unit: Unit,
    place: Place,
    folder: Path,
    settings: Settings,
    progress: Callable[[int], Any],
) -> Iterator[tuple[programs.Measurements, float]]:
    """Train a unit, from its last valid checkpoint if that is later than its start.

    Saves a checkpoint from time to time, and before it stops.

    Args:
      unit: what to train.
      place: where to train it.
      folder: directory of its checkpoints.
      settings: how often to save.
      progress: called with the number of updates done since the last call, of all
        runs together; if training fails, with a negative one that takes them back.

    Yields:
      the measurements of each segment, and the seconds of training so far; the last
      measurements have the block's final state.

    Raises:
      Interrupted: on a signal, once a checkpoint is saved.
    """
    block, start, stopping = unit.block, unit.begin.steps, place.stopping
    steps, num_runs = block.example.steps, len(block.ids_by_position)
    reported, seconds, saved = start, 0.0, time.monotonic()

    def report(step: int) -> None:
        nonlocal reported
        progress((step - reported) * num_runs)
        reported = step

    def pause() -> bool:
        due = time.monotonic() - saved >= 60 * settings.checkpoint_minutes
        return due or stopping() != 0

    step = start
    restored = checkpoint.restore(folder, place.compiled.state)
    if restored and restored[0] > start:
        step, state, facts = restored
        seconds = facts.get("seconds", 0.0)
    else:
        state = unit.begin.state(block)
    if block.program.layout is None:
        state = jax.device_put(state, place.device)
    try:
        report(step)
        seeds, inputs = block.inputs()
        for measured in programs.train(
            place.compiled, block.program, seeds, inputs, steps, step, state, pause
        ):
            seconds += measured.seconds
            step, state = int(measured.steps[-1]), measured.state
            report(step)
            yield measured, seconds
            if state is not None and step < steps and pause():
                save(folder, step, state, seconds)
                saved = time.monotonic()
                stop_if(stopping)
        report(steps)
    except Interrupted:
        raise
    except Exception:
        report(start)  # the unit may be trained again
        raise


def save(folder: Path, step: int, state: train.BlockState, seconds: float) -> None:
    """Save a checkpoint; a failure is only a warning, since training can continue."""
    try:
        checkpoint.save(folder, step, state, {"seconds": seconds})
    except (OSError, ValueError) as error:
        warnings.warn(f"cannot save checkpoint {folder}: {error}", stacklevel=2)


def expected_memory(programs: int, blocks: float) -> float:
    """Estimated host memory of the process, in bytes.

    Args:
      programs: number of programs to compile.
      blocks: bytes of all parallel blocks on the host.
    """
    return machine.resident_memory() + _PROGRAM_BYTES * (programs - 1) + blocks


def blocks_at_once(todo: Sequence[Block], device: machine.Device) -> int:
    """The number of parallel blocks on each device; measured if not cached.

    Where a CPU trains for less time than measuring takes: as many as it has cores.
    """
    if len(todo) == 1:
        return 1
    block = todo[0]
    if device.platform == "cpu" and sum(map(blocks_lib.cost, todo)) < _WORTH_MEASURING:
        return min(machine.usable_cores(), len(todo))

    def advances(count: int) -> list[Callable[[int], Any]]:
        """Functions that train a copy of the block each, as many as fit in memory."""
        say("measuring how many blocks to train in parallel on this machine (cached)")
        seeds, inputs = block.inputs()
        compiled = programs.compile_program(block.program, seeds, inputs)
        fitting = machine.free_memory(device) // max(compiled.need, 1)
        step = programs.stepper(compiled, block.program, seeds, inputs)
        return [step] * int(min(count, fitting))

    kind, steps = strategy.kind_of(block.program.task), block.example.steps
    cache = data.cache_dir() / "blocks_at_once.json"
    return threads.measured_workers(kind, device, cache, advances, steps)


def limits_of(
    devices: Sequence[machine.Device], at_once: int, sharing: int
) -> list[threads.DeviceLimits]:
    """Create the limits of each device.

    Args:
      devices: devices of one kind.
      at_once: largest number of parallel blocks on each.
      sharing: number of devices that share free memory, on CPUs.
    """
    on_cpu = devices[0].platform == "cpu"
    free = machine.free_memory(devices[0])
    memory = free / sharing if on_cpu else free
    # On a CPU the system kills the process when memory runs out, so blocks that do not
    # fit are refused; elsewhere an allocation fails, and smaller blocks are tried.
    return [threads.DeviceLimits(at_once, memory, strict=on_cpu) for _ in devices]


def check_least(limit: threads.DeviceLimits, blocks: Iterable[Block]) -> None:
    """Refuse blocks whose states alone are too large; compile nothing.

    Those that need far less are not counted exactly, for which methods are traced.

    Raises:
      UsageError: if there is such a block.
    """
    for block in {block.key: block for block in blocks}.values():
        if limit.memory < _WORTH_COUNTING * blocks_lib.floats_of(block):
            limit.check(block.title, programs.least_need(block.program, block.lanes))


def _within(
    limit: threads.DeviceLimits,
    block: Block,
    compiled: Callable[[], programs.Compiled],
    train_block: Callable[[programs.Compiled], Outcome],
) -> tuple[Outcome | None, list[Block]]:
    """Train a block once it fits in memory.

    Args:
      limit: limits of the device.
      block: to train.
      compiled: returns its programs.
      train_block: trains the block with them.

    Returns:
      the result of `train_block` and no blocks; if memory ran out, None and the blocks
      to train instead.

    Raises:
      UsageError: if the block will never fit.
    """
    try:
        its_programs = compiled()
        with limit.admit(block.title, its_programs.need):
            return train_block(its_programs), []
    except Exception as error:
        instead = _with_less_memory(block, error, limit, block.title)
        if instead is None:
            raise
        return None, instead


def _with_less_memory(
    block: Block, error: Exception, limit: threads.DeviceLimits, name: str
) -> list[Block] | None:
    """Blocks to train instead after an out-of-memory error; None for other errors.

    First fewer blocks in parallel, then smaller ones, each from its last checkpoint.

    Raises:
      UsageError: if a block of a single run is too large.
    """
    if _EXHAUSTED not in str(error):
        return None
    if limit.shrink():
        say(
            f"warning: {name}: out of memory, "
            f"continuing with {limit.max_blocks} at once"
        )
        return [block]
    smaller = blocks_lib.halves(block)
    if not smaller:
        raise UsageError(
            f"{name}: one run alone needs more memory than the device has; use "
            "smaller batches"
        ) from error
    program = smaller[0].program
    say(
        f"warning: {name}: out of memory, continuing with blocks of "
        f"{program.num_seeds} x {program.num_hparams} runs"
    )
    return smaller
