"""Trains what a config asks for: what is done is skipped, what was cut goes on.

Blocks whose runs are all in the tables are skipped; others are trained whole, and only
missing rows written.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from lrjax import blocks as blocks_lib
from lrjax import checkpoint, crew, numerics, programs, results, rows, strategy, train
from lrjax import layout as layouts
from lrjax.blocks import Block
from lrjax.config import Settings
from lrjax.core import Interrupted, Task, UsageError, counted
from lrjax.tasks import data

_PROGRAM_BYTES = 8 * 2**20  # that each further program takes on the host, about


@numerics.settled
def run(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    announce: Callable[..., Iterable[str]] | None = None,
) -> None:
    """Trains every run of the settings that the tables do not have yet.

    Blocks are dealt out to all devices, and each device trains several at once.

    Args:
      settings: what to train.
      workdir: where the tables are.
      data_dir: where data files are looked for first.
      overrides: what the command line changed of the config; for the record.
      announce: gives lines to say before training, as `plan.announce` does.

    Raises:
      UsageError: if data or workdir are of no use; before any training.
      Interrupted: on SIGINT and SIGTERM, once the blocks at hand are saved.
    """
    blocks = blocks_lib.plan(*blocks_lib.load(settings, data_dir))
    with results.Tables(workdir) as tables, signals() as signalled:

        def record() -> None:
            tables.write_config(
                dataclasses.asdict(settings),
                dict(overrides or {}),
                blocks_lib.metrics_of(blocks),
            )

        if announce:
            for line in announce(settings, blocks, tables.runs):
                say(line)
        train_missing(blocks, tables, settings, signalled, record)


def train_missing(
    blocks: Sequence[Block],
    tables: results.Tables,
    settings: Settings,
    signalled: Callable[[], int],
    record: Callable[[], Any],
) -> None:
    """Trains the blocks that have runs which are not in the tables.

    Args:
      blocks: what is wanted.
      tables: to append to.
      settings: how to save.
      signalled: as from `signals`.
      record: called once it is clear that training can start.
    """
    wanted = {i for block in blocks for row in block.ids for i in row}
    missing = wanted - tables.runs
    todo: list[Block] = []
    for block in blocks:
        if is_done(block, tables.runs):
            # Killed between its last row and this, it may have left some.
            checkpoint.discard(_checkpoints(tables, block))
        else:
            todo.append(block)
    devices = jax.local_devices()
    say(
        f"{counted(len(missing), 'run')} to train in {counted(len(todo), 'block')} on "
        f"{counted(len(devices), 'device')} ({devices[0].device_kind}); "
        f"{len(wanted) - len(missing)} of {len(wanted)} are done"
    )
    if todo:
        _train(todo, devices, tables, settings, signalled, record)
    else:
        record()
    say(f"results are in {tables.workdir}")


def is_done(block: Block, runs: set[str]) -> bool:
    """Whether all runs of a block are among those with these identities."""
    return runs.issuperset(block.lanes_of.values())


def say(text: str) -> None:
    """Prints a line to stderr, above any progress bar."""
    try:
        tqdm.write(text, file=sys.stderr)
    except BrokenPipeError:
        raise
    except OSError:
        pass  # a log on a full disk; what the tables lack is said by them


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], int]]:
    """Notes SIGINT and SIGTERM instead of dying of them; the second one kills.

    Gives a function that returns the signal that came, 0 if none did.
    """
    came = [0]
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # only the main thread may handle signals
        return

    def note(signum: int, frame: Any) -> None:
        came[0] = signum
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    # What a shell had ignored, as scripts' background jobs have Ctrl-C, stays so.
    before = {k: v for k, v in before.items() if v is not signal.SIG_IGN}
    for each in before:
        signal.signal(each, note)
    try:
        yield lambda: came[0]
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _train(
    todo: Sequence[Block],
    devices: Sequence[crew.Device],
    tables: results.Tables,
    settings: Settings,
    signalled: Callable[[], int],
    record: Callable[[], Any],
) -> None:
    """Trains blocks on devices; calls `record` once it is clear that it can."""
    layout = layouts.choose(settings.shard, devices)
    if layout:
        for block in todo:
            layouts.check(layout, block.program.task)
        devices = devices[:1]  # which stands for all
    # Dealt out like this a device's blocks are the same however fast it is, and a
    # program is compiled for as few devices as possible.
    share = -(-len(todo) // len(devices))
    jobs = [todo[i : i + share] for i in range(0, len(todo), share)]
    devices = devices[: len(jobs)]
    failed = threading.Event()
    lock = threading.Lock()
    updates = sum(b.example.steps * len(b.lanes_of) for b in todo)
    bar = tqdm(
        total=updates, unit=" updates", unit_scale=True, disable=None, leave=False
    )
    ended, trained = 0, collections.defaultdict[str, float](float)

    def progress(count: int) -> None:
        with lock:
            bar.update(count)

    def stopping() -> int:
        return signalled() or (-1 if failed.is_set() else 0)

    # What devices do together they must begin in the same order.
    workers = 1 if layout else blocks_at_once(todo, devices[0])
    with bar, _Compiling(jobs, devices, layout) as compiling:
        need = compiling.peek(todo[0], stopping).need
        on_cpu = devices[0].platform == "cpu"
        sharing = len(layout.devices) if layout else len(devices)
        rooms = make_rooms(devices, workers, sharing)
        expected = expected_memory(
            compiling.programs, workers * sharing * need if on_cpu else 0
        )
        at_once = f"{counted(workers, 'block')} at once on each device"
        if layout:
            at_once = f"each block on all {sharing} devices"
        say(f"{at_once}; about {_mib(expected)} MiB of memory")
        # Nothing is trained or written where there never will be room.
        rooms[0].check(title(todo[0]), need)
        check_least(rooms[0], todo)
        record()

        def work(block: Block, device: int) -> Sequence[Block]:
            def train_it(compiled: programs.Compiled) -> None:
                nonlocal ended
                program = compiling.placed(block.program, device)
                summary, spent = train_block(
                    dataclasses.replace(block, program=program),
                    compiled,
                    tables,
                    settings,
                    progress,
                    stopping,
                    lock,
                    devices[device],
                )
                with lock:
                    ended += 1
                    trained[block.example.task] += spent
                    bar.set_description(title(block))
                    if bar.disable:
                        say(f"[{ended}/{len(todo)}] {summary}")

            def compiled() -> programs.Compiled:
                return compiling.program(block, device, stopping)

            with jax.default_device(devices[device]):
                return within(rooms[device], block, compiled, train_it)

        crew.train_all(jobs, workers, work, stopping, failed)
    stop_if(signalled)
    say(
        f"{counted(compiling.programs, 'program')} traced and compiled (or found "
        f"compiled) in {compiling.seconds:.1f} s, blocks trained in "
        f"{sum(trained.values()):.1f} s, each summed over threads; at most "
        f"{_mib(_resident())} MiB of memory"
    )
    if len(trained) > 1:
        each = (f"{task} {spent:.1f}" for task, spent in trained.items())
        say(f"seconds of training: {', '.join(each)}")


def title(block: Block) -> str:
    """What a block is, for people."""
    return f"{block.example.task} {block.example.method}"


def expected_memory(programs: int, blocks: float) -> float:
    """Bytes that the process will take on the host, about.

    Args:
      programs: to be compiled.
      blocks: bytes of all blocks at once that are on the host.
    """
    return _resident() + _PROGRAM_BYTES * (programs - 1) + blocks


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
    return crew.measured_workers(kind, device, _pace_file(), advances, steps)


def _pace_file() -> Path:
    return data.cache_dir() / "blocks_at_once.json"


def _resident() -> float:
    """Bytes of this process so far, at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) * (1 if sys.platform == "darwin" else 1024)


def _mib(count: float) -> str:
    return f"{count / 2**20:,.0f}"


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
    # A CPU's system would kill the process; elsewhere an allocation fails.
    return [crew.Room(at_once, memory, refuses=on_cpu) for _ in devices]


def check_least(room: crew.Room, blocks: Sequence[Block]) -> None:
    """Refuses blocks whose states alone are too large; compiles nothing.

    Raises:
      UsageError: if there is one.
    """
    for block in {block.key: block for block in blocks}.values():
        room.check(title(block), programs.least_need(block.program, block.lanes))


def within(
    room: crew.Room,
    block: Block,
    compiled: Callable[[], programs.Compiled],
    train_it: Callable[[programs.Compiled], Any],
) -> list[Block]:
    """Trains a block once there is room for it.

    Args:
      room: of the device.
      block: what is trained.
      compiled: gives its programs.
      train_it: trains the block with them.

    Returns:
      what is to be trained in its place, where memory gave out; else nothing.

    Raises:
      UsageError: if there never will be room.
    """
    name = title(block)
    try:
        programs_of_it = compiled()
        with room.enter(name, programs_of_it.need):
            train_it(programs_of_it)
    except Exception as error:
        again = with_less_memory(block, error, room, name)
        if again is None:
            raise
        return again
    return []


def with_less_memory(
    block: Block, error: Exception, room: crew.Room, name: str
) -> list[Block] | None:
    """What to train instead after an error, None if it was not for want of memory.

    First fewer blocks at once, then smaller ones, each from its last checkpoint.

    Raises:
      UsageError: if a block of a single run was too large.
    """
    if "RESOURCE_EXHAUSTED" not in str(error):
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


class _Compiling:
    """Compiles ahead of training, in threads, once for blocks that share a program.

    Use as a context manager.

    Attributes:
      programs: how many in all.
      seconds: spent on them so far, summed over threads.
    """

    def __init__(
        self,
        jobs: Sequence[Sequence[Block]],
        devices: Sequence[crew.Device],
        layout: layouts.Layout | None,
    ):
        self._devices, self._layout = devices, layout
        self._tasks: dict[tuple[int, int], Task] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(crew.usable_cores())
        self._futures: dict[Any, concurrent.futures.Future[programs.Compiled]] = {}
        self._left = collections.Counter(
            (block.key, device) for device, each in enumerate(jobs) for block in each
        )
        self._lock = threading.Lock()
        self.programs, self.seconds = len(self._left), 0.0
        # In the order in which the programs will be needed.
        for turn in range(max(len(each) for each in jobs)):
            for device, each in enumerate(jobs):
                if turn < len(each):
                    self._future(each[turn], device)

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _future(self, block: Block, device: int):
        with self._lock:
            key = (block.key, device)
            if key not in self._futures:
                self._futures[key] = self._pool.submit(self._compile, block, device)
            return self._futures[key]

    def _compile(self, block: Block, device: int) -> programs.Compiled:
        began = time.perf_counter()
        with jax.default_device(self._devices[device]):
            shapes = jax.eval_shape(block.inputs)
            program = self.placed(block.program, device)
            compiled = programs.compile_program(program, *shapes)
        with self._lock:
            self.seconds += time.perf_counter() - began
        return compiled

    def placed(self, program: train.Program, device: int) -> train.Program:
        """The program with its task's data on a device, or on all that share it."""
        task = program.task
        with self._lock:
            key = (id(task), device)
            if key not in self._tasks:
                self._tasks[key] = moved_to(
                    task, self._layout.whole if self._layout else self._devices[device]
                )
            there = self._tasks[key]
        if there is task:
            return program
        return dataclasses.replace(program, task=there, layout=self._layout)

    def peek(self, block: Block, stopping: Callable[[], int]) -> programs.Compiled:
        """The compiled programs of a block for the first device."""
        future = self._future(block, 0)
        wait_for(future, stopping)
        return future.result()

    def program(
        self, block: Block, device: int, stopping: Callable[[], int]
    ) -> programs.Compiled:
        """The compiled programs of a block, which asks once; waits for them."""
        future = self._future(block, device)
        wait_for(future, stopping)
        with self._lock:
            key = (block.key, device)
            self._left[key] -= 1
            if self._left[key] <= 0 or future.exception():
                # So that its memory can go, or it is compiled again.
                self._futures.pop(key, None)
        return future.result()


def wait_for(
    future: concurrent.futures.Future[Any], stopping: Callable[[], int]
) -> None:
    """Waits for a future; raises Interrupted once it is time to."""
    while not concurrent.futures.wait([future], timeout=0.2).done:
        stop_if(stopping)
    stop_if(stopping)


def moved_to(task: Task, place: crew.Device | jax.sharding.Sharding) -> Task:
    """The task with its data on a device, or on several; itself if it is there.

    Parts that were one stay one, and what is streamed stays on the host.
    """
    if jax.tree.leaves(task.valid)[0].devices() == {place}:
        return task
    moved: dict[int, Any] = {id(task.train): task.train} if task.streamed else {}
    for part in (task.train, task.valid, task.test):
        if id(part) not in moved:
            moved[id(part)] = jax.device_put(part, place)
    return dataclasses.replace(
        task,
        train=moved[id(task.train)],
        valid=moved[id(task.valid)],
        test=moved[id(task.test)],
    )


def stop_if(stopping: Callable[[], int]) -> None:
    """Raises Interrupted if it is time to."""
    if stopping():
        raise Interrupted(stopping())


def train_block(
    block: Block,
    compiled: programs.Compiled,
    tables: results.Tables,
    settings: Settings,
    progress: Callable[[int], Any],
    stopping: Callable[[], int],
    lock: threading.Lock,
    device: crew.Device,
) -> tuple[str, float]:
    """Trains a block and writes its rows.

    Returns a line that sums it up, and the seconds that training took in all.

    Goes on from the block's last good checkpoint, and leaves one from time to time
    and when a signal comes.
    """
    program, lanes, folder = block.program, block.lanes_of, _checkpoints(tables, block)
    last: dict[str, np.ndarray] = {}
    state, seconds = None, 0.0
    for measured, spent in checkpointed(
        block, compiled, folder, settings, device, progress, stopping
    ):
        curves = rows.curve_rows(program, lanes, measured)
        with lock:
            tables.append_curves(curves)
        last = {k: v[-1] for k, v in measured.values.items()}
        state, seconds = measured.state, spent
    assert state is not None
    task = program.task
    if task.test is task.train:
        test = {k.removeprefix("train_"): v for k, v in last.items()}
    else:
        test = programs.judge(program, state, task.test)
    if settings.save_params:
        model = programs.final_model(program, state)
        checkpoint.save_params(tables.workdir / "params", *model, lanes)
    ended = [
        rows.run_row(
            block.runs[s][h],
            run_id,
            program,
            (s, h),
            last,
            test,
            seconds / len(lanes),
        )
        for (s, h), run_id in lanes.items()
    ]
    with lock:
        tables.append_runs(ended)
    checkpoint.discard(folder)
    diverged = sum(row["status"] == "diverged" for row in ended)
    metric = task.metric
    scores = [row[f"valid_{metric}"] for row in ended if row["status"] == "done"]
    score = f", validation {metric} {np.mean(scores):.5g}" if scores else ""
    dead = f", {diverged} diverged" if diverged else ""
    return f"{title(block)}: {counted(len(ended), 'run')}{score}{dead}", seconds


def _checkpoints(tables: results.Tables, block: Block) -> Path:
    """Where a block's checkpoints are."""
    return tables.workdir / "checkpoints" / block.name


def checkpointed(
    block: Block,
    compiled: programs.Compiled,
    folder: Path,
    settings: Settings,
    device: crew.Device,
    progress: Callable[[int], Any],
    stopping: Callable[[], int],
    start: int = 0,
    state: train.RunState | None = None,
) -> Iterator[tuple[programs.Measurements, float]]:
    """Trains a block, from its last good checkpoint if it has a later one.

    Leaves a checkpoint from time to time, and when it is to stop.

    Args:
      block: what to train.
      compiled: its programs.
      folder: of its checkpoints.
      settings: how often to save.
      device: where, unless the block has a layout.
      progress: told how many updates more its runs have done, all together; if
        training fails, that these are undone.
      stopping: whether to end.
      start, state: where to begin, instead of the initial state.

    Yields:
      what each segment measured, and the seconds of training up to there; the last
      one has the state that the block ends in.

    Raises:
      Interrupted: if it is to end, once a checkpoint is saved.
    """
    steps, lanes = block.example.steps, len(block.lanes_of)
    reported, seconds, saved = start, 0.0, time.monotonic()

    def report(step: int) -> None:
        nonlocal reported
        progress((step - reported) * lanes)
        reported = step

    def pause() -> bool:
        due = time.monotonic() - saved >= 60 * settings.checkpoint_minutes
        return due or stopping() != 0

    begun, step = start, start
    found = checkpoint.restore(folder, compiled.state)
    if found and found[0] > start:
        step, state, facts = found
        seconds = facts.get("seconds", 0.0)
    if block.program.layout is None:
        state = jax.device_put(state, device)
    try:
        report(step)
        for measured in programs.train(
            compiled, block.program, *block.inputs(), steps, step, state, pause
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
        report(begun)  # it may be trained again
        raise


def save(folder: Path, step: int, state: train.RunState, seconds: float) -> None:
    """Saves a checkpoint; without one a run only takes longer, so training goes on."""
    try:
        checkpoint.save(folder, step, state, {"seconds": seconds})
    except (OSError, ValueError) as error:
        warnings.warn(f"cannot save checkpoint {folder}: {error}", stacklevel=2)
