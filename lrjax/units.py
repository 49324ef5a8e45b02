"""Trains units on this process's devices: the one engine for runs and for trials.

A unit is a block, where it begins, and what is kept of it. Runs begin at their first
update and leave rows in the tables; trials may begin at a state, and what they end with
comes back. Each device trains several units at once, in the memory that there is, from
the last checkpoint of each.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lrjax import blocks as blocks_lib
from lrjax import checkpoint, crew, programs, strategy, train
from lrjax.blocks import Block
from lrjax.config import Settings
from lrjax.console import say, stop_if
from lrjax.core import Interrupted, PyTree, UsageError
from lrjax.layout import Layout
from lrjax.program_pool import ProgramPool
from lrjax.tasks import data

_PROGRAM_BYTES = 8 * 2**20  # of host memory for each further program, about
_EXHAUSTED = "RESOURCE_EXHAUSTED"  # in the text of JAX's errors when memory gives out


class Begin(NamedTuple):
    """Where a block starts, and what it is to leave.

    Attributes:
      steps: updates done.
      states: of each run by its identity, leaves [1, ...]; empty at the start.
      keep: identities of the runs whose states are wanted.
      judge: whether trials are measured on the test part, as runs always are.
    """

    steps: int = 0
    states: Mapping[str, PyTree] = {}
    keep: frozenset[str] = frozenset()
    judge: bool = False

    def state(self, block: Block) -> PyTree | None:
        """The state of a block of these runs, or of a part of them."""
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


class Unit(NamedTuple):
    """What one thread trains at a time.

    Attributes:
      block: the runs.
      begin: where they start, and whose states are kept.
      is_trial: whether what they end with comes back, instead of rows in the tables.
    """

    block: Block
    begin: Begin = Begin()
    is_trial: bool = False

    @property
    def updates(self) -> int:
        """Those that are to be done, of all runs together."""
        return self.block.updates - self.begin.steps * len(self.block.run_ids)


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
      values: measurements at its end; those of the test part if they were asked for.
      seconds: what it cost.
      state: to train on from, where it was to be kept.
    """

    values: Mapping[str, float]
    seconds: float
    state: State | None


class Outcome(NamedTuple):
    """What training a unit gave.

    Attributes:
      unit: what was trained; a part of what was asked for where memory gave out.
      seconds: of training.
      trials: results by run_id; none for runs, whose rows are in the tables.
      summary: a line for people; empty for trials.
    """

    unit: Unit
    seconds: float
    trials: Mapping[str, Trained] = {}
    summary: str = ""


class Place(NamedTuple):
    """Where a unit trains, and with what.

    Attributes:
      compiled: its programs.
      device: of the unit, unless its block has a layout.
      stopping: whether to end.
    """

    compiled: programs.Compiled
    device: crew.Device
    stopping: Callable[[], int]


class Engine:
    """Trains units on this process's devices, several at once on each.

    Use as a context manager, or as long as the process lives.

    Attributes:
      devices: in use.
      pool: compiled programs.
    """

    def __init__(
        self,
        devices: Sequence[crew.Device],
        signalled: Callable[[], int],
        layout: Layout | None = None,
    ):
        """Devices to train on; with a layout each block is on all of them."""
        self.devices = devices[:1] if layout else devices  # the first stands for all
        self.pool = ProgramPool(self.devices, layout)
        self._signalled, self._layout = signalled, layout
        self._most = sys.maxsize  # units at once, once memory has given out

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends its threads."""
        self.pool.close()

    def train(
        self,
        jobs: Sequence[Sequence[Unit]],
        train_it: Callable[[Unit, Place], Outcome],
        ready: Callable[[int, int, float], Any] = lambda *_: None,
    ) -> Iterator[Outcome]:
        """Trains units; those that memory does not hold in parts.

        Args:
          jobs: the units of each device, at least one; no more jobs than devices.
          train_it: trains a unit at a place. Called in threads; its exceptions end
            all training, but for those of memory that gives out.
          ready: called once it is clear that training can start, with the number of
            programs, how many units at once on each device, and the bytes of host
            memory that all of them take together.

        Yields:
          what `train_it` returns, as it comes.

        Raises:
          UsageError: if there never will be room for a unit.
          Interrupted: on a signal, once all units at hand have ended.
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
        rooms = make_rooms(devices, at_once, sharing)
        count = self.pool.announce([[u.block for u in job] for job in jobs])
        need = self._need(units[0].block, stopping)
        # Nothing is trained or written where there never will be room.
        rooms[0].check(blocks[0].title, need)
        check_least(rooms[0], blocks)
        ready(count, at_once, at_once * sharing * need)

        def work(unit: Unit, number: int) -> tuple[Outcome | None, list[Unit]]:
            def train_at(compiled: programs.Compiled) -> Outcome:
                program = self.pool.placed(unit.block.program, number)
                block = dataclasses.replace(unit.block, program=program)
                place = Place(compiled, devices[number], stopping)
                return train_it(unit._replace(block=block), place)

            def compiled() -> programs.Compiled:
                return self.pool.get(unit.block, number, stopping)

            with jax.default_device(devices[number]):
                outcome, smaller = _within(
                    rooms[number], unit.block, compiled, train_at
                )
            return outcome, [unit._replace(block=block) for block in smaller]

        yield from crew.train_all(jobs, at_once, work, stopping, failed)
        if (left := min(room.most for room in rooms)) < at_once:
            self._most = left
        stop_if(self._signalled)

    def _need(self, block: Block, stopping: Callable[[], int]) -> float:
        """Bytes of the first block; 0 if there is too little even to compile it."""
        try:
            return self.pool.peek(block, 0, stopping).need
        except Exception as error:
            if _EXHAUSTED in str(error):
                return 0.0  # smaller blocks are tried
            raise


def checkpointed(
    unit: Unit,
    place: Place,
    folder: Path,
    settings: Settings,
    progress: Callable[[int], Any],
) -> Iterator[tuple[programs.Measurements, float]]:
    """Trains a unit, from its last good checkpoint if it has a later one.

    Leaves a checkpoint from time to time, and when it is to stop.

    Args:
      unit: what to train.
      place: where.
      folder: of its checkpoints.
      settings: how often to save.
      progress: called with the number of updates done since the last call, of all
        runs together; if training fails, with a negative one that takes them back.

    Yields:
      what each segment measured, and the seconds of training up to there; the last
      one has the state that the block ends in.

    Raises:
      Interrupted: if it is to end, once a checkpoint is saved.
    """
    block, start, stopping = unit.block, unit.begin.steps, place.stopping
    steps, lanes = block.example.steps, len(block.lanes_of)
    reported, seconds, saved = start, 0.0, time.monotonic()

    def report(step: int) -> None:
        nonlocal reported
        progress((step - reported) * lanes)
        reported = step

    def pause() -> bool:
        due = time.monotonic() - saved >= 60 * settings.checkpoint_minutes
        return due or stopping() != 0

    step = start
    found = checkpoint.restore(folder, place.compiled.state)
    if found and found[0] > start:
        step, state, facts = found
        seconds = facts.get("seconds", 0.0)
    else:
        state = unit.begin.state(block)
    if block.program.layout is None:
        state = jax.device_put(state, place.device)
    try:
        report(step)
        for measured in programs.train(
            place.compiled, block.program, *block.inputs(), steps, step, state, pause
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
        report(start)  # it may be trained again
        raise


def save(folder: Path, step: int, state: train.RunState, seconds: float) -> None:
    """Saves a checkpoint; without one a run only takes longer, so training goes on."""
    try:
        checkpoint.save(folder, step, state, {"seconds": seconds})
    except (OSError, ValueError) as error:
        warnings.warn(f"cannot save checkpoint {folder}: {error}", stacklevel=2)


def resident_memory() -> float:
    """The most bytes of host memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) * (1 if sys.platform == "darwin" else 1024)


def expected_memory(programs: int, blocks: float) -> float:
    """Bytes that the process will take on the host, about.

    Args:
      programs: to be compiled.
      blocks: bytes of all blocks at once that are on the host.
    """
    return resident_memory() + _PROGRAM_BYTES * (programs - 1) + blocks


def blocks_at_once(todo: Sequence[Block], device: crew.Device) -> int:
    """How many blocks at once on each device; measured when it is not known yet."""
    if len(todo) == 1:
        return 1
    block = todo[0]

    def advances(count: int) -> list[Callable[[int], Any]]:
        say("measuring how many blocks at once are fastest here; kept for next time")
        inputs = block.inputs()
        compiled = programs.compile_program(block.program, *inputs)
        room = crew.free_memory(device) // max(compiled.need, 1)
        step = programs.stepper(compiled, block.program, *inputs)
        return [step] * int(min(count, room))

    kind, steps = strategy.kind_of(block.program.task), block.example.steps
    cache = data.cache_dir() / "blocks_at_once.json"
    return crew.measured_workers(kind, device, cache, advances, steps)


def make_rooms(
    devices: Sequence[crew.Device], at_once: int, sharing: int
) -> list[crew.Room]:
    """What each device has room for.

    Args:
      devices: of one kind.
      at_once: most blocks on each.
      sharing: devices that share what memory is free, on CPUs.
    """
    on_cpu = devices[0].platform == "cpu"
    free = crew.free_memory(devices[0])
    memory = free / sharing if on_cpu else free
    # On a CPU the system kills the process when memory runs out, so what does not fit
    # is refused; elsewhere an allocation fails, and smaller blocks are tried.
    return [crew.Room(at_once, memory, refuses=on_cpu) for _ in devices]


def check_least(room: crew.Room, blocks: Iterable[Block]) -> None:
    """Refuses blocks whose states alone are too large; compiles nothing.

    Raises:
      UsageError: if there is one.
    """
    for block in {block.key: block for block in blocks}.values():
        room.check(block.title, programs.least_need(block.program, block.lanes))


def _within(
    room: crew.Room,
    block: Block,
    compiled: Callable[[], programs.Compiled],
    train_it: Callable[[programs.Compiled], Outcome],
) -> tuple[Outcome | None, list[Block]]:
    """Trains a block once there is room for it.

    Args:
      room: of the device.
      block: what is trained.
      compiled: gives its programs.
      train_it: trains the block with them.

    Returns:
      what `train_it` returns, and no blocks; where memory gave out, None and what is to
      be trained in the block's place.

    Raises:
      UsageError: if there never will be room.
    """
    try:
        programs_of_it = compiled()
        with room.enter(block.title, programs_of_it.need):
            return train_it(programs_of_it), []
    except Exception as error:
        again = _with_less_memory(block, error, room, block.title)
        if again is None:
            raise
        return None, again


def _with_less_memory(
    block: Block, error: Exception, room: crew.Room, name: str
) -> list[Block] | None:
    """What to train instead after an error, None if it was not for want of memory.

    First fewer blocks at once, then smaller ones, each from its last checkpoint.

    Raises:
      UsageError: if a block of a single run was too large.
    """
    if _EXHAUSTED not in str(error):
        return None
    if room.shrink():
        say(f"warning: {name}: out of memory, going on with {room.most} at once")
        return [block]
    smaller = blocks_lib.halves(block)
    if not smaller:
        raise UsageError(
            f"{name}: one run alone needs more memory than the device has; take "
            "smaller batches"
        ) from error
    p = smaller[0].program
    say(
        f"warning: {name}: out of memory, going on with blocks of "
        f"{p.num_seeds} x {p.num_hparams} runs"
    )
    return smaller
