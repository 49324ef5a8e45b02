"""Training of units on a worker of a Dask cluster, for `lrjax.launch.dask_client`.

A worker loads a task by name and plans the blocks of the settings, where it looks a
block up by name. Blocks that do not follow from the settings alone, such as those of
trials, arrive as a `BlockMessage` without the data, which the worker loads itself.

A block's own tables are in `parts/BLOCK` below the working directory if the worker can
reach it, and its checkpoints are where all launchers have them, so that another worker
can resume from the last one. Otherwise they are temporary.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lrjax import (
    identity,
    machine,
    methods,
    results,
    tasks,
)
from lrjax.common import files
from lrjax.config import Settings
from lrjax.core import (
    NUMERICS_VERSION,
    Run,
    Task,
    UsageError,
    counted,
)
from lrjax.engine import train as train_lib
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import leftovers, local, startup
from lrjax.launch.blocks import Block
from lrjax.launch.units import (
    Begin,
    Engine,
    Outcome,
    Place,
    Trained,
    Unit,
)
from lrjax.tasks import folds
from lrjax.tasks.data import DataError

_LOCK = threading.RLock()  # a worker may have several threads
_TASKS: dict[str, Task] = {}
_DATA: dict[int, str] = {}  # id of a task -> fingerprint of its data
_BLOCKS: dict[str, dict[str, Block]] = {}


class BlockMessage(NamedTuple):
    """A block as sent to a worker: without the task and the method's functions.

    Attributes:
      groups: for each group of lanes, the name of its method, the compiled-in
        hyperparameters, and the number of lanes.
      program: the other fields of the block's program.
      runs, lanes, spare: the block's.
    """

    groups: tuple[tuple[str, tuple[tuple[str, Any], ...], int], ...]
    program: Mapping[str, Any]
    runs: tuple[tuple[Run, ...], ...]
    lanes: tuple[Mapping[str, float], ...]
    spare: frozenset[int]


def block_message(block: Block) -> BlockMessage:
    """Convert a block of registered methods to what is sent to a worker."""
    program = {
        field.name: getattr(block.program, field.name)
        for field in dataclasses.fields(block.program)
        if field.name not in ("task", "groups")
    }
    groups = tuple(
        (method.name, static, count) for method, static, count in block.program.groups
    )
    return BlockMessage(groups, program, block.runs, block.lanes, block.spare)


class PlannedBlock(NamedTuple):
    """The client's view of a block planned by a worker; see `session.Planned`."""

    name: str
    title: str
    task_name: str
    run_ids: tuple[str, ...]
    heads: Sequence[Mapping[str, Any]]
    updates: int
    metrics: Sequence[Mapping[str, Any]]


def planned_block(block: Block) -> PlannedBlock:
    """Describe a block for the client."""
    return PlannedBlock(
        name=block.name,
        title=block.title,
        task_name=block.task_name,
        run_ids=block.run_ids,
        heads=block.heads,
        updates=block.updates,
        metrics=block.metrics,
    )


class UnitMessage(NamedTuple):
    """A unit as sent to a worker.

    Attributes:
      name: name of its block.
      task: name of its task.
      block: the block itself; None if it follows from the settings.
      begin, is_trial: the unit's.
    """

    name: str
    task: str
    block: BlockMessage | None
    begin: Begin
    is_trial: bool


class WorkerResult(NamedTuple):
    """Result of a worker for a unit.

    Attributes:
      seconds, trials, summary: as in `units.Outcome`.
      runs, curves: lines of the tables.
    """

    seconds: float
    trials: Mapping[str, Trained]
    summary: Sequence[str]
    runs: bytes = b""
    curves: bytes = b""


def check_alike(own: Mapping[str, Any], others: Mapping[str, Any], worker: str) -> None:
    """Refuse a worker whose facts differ from those of other workers.

    Args:
      own: facts of the worker.
      others: facts of the others.
      worker: its address.

    Raises:
      UsageError: if a fact differs.
    """
    for name, value in others.items():
        if own[name] != value:
            raise UsageError(
                f"worker {worker} has {name} {own[name]}, others have {value}: all "
                "workers must be alike"
            )


def facts(settings: Settings) -> dict[str, Any]:
    """Start JAX and return what must agree on all workers for equal results."""
    with _LOCK:
        startup.prepare(settings)
    device = jax.local_devices()[0]
    return {
        "numerics": NUMERICS_VERSION,
        "jax": jax.__version__,
        "backend": machine.kind(),
        "device": device.device_kind,
    }


def plan_task(
    settings: Settings, task: str, data_dir: str | None
) -> list[PlannedBlock] | str:
    """Plan the blocks of a task; return the reason as text if it is left out."""
    facts(settings)
    try:
        blocks = _blocks(settings, task, data_dir)
    except DataError as error:
        if not settings.skip_missing:
            raise
        return str(error)
    return [planned_block(block) for block in blocks.values()]


def _task(settings: Settings, name: str, data_dir: str | None) -> Task:
    """Load a task (cached)."""
    alone = dataclasses.replace(settings, tasks=(name,), methods=())
    key = identity.digest([dataclasses.asdict(alone), data_dir])
    with _LOCK:
        if key not in _TASKS:
            (_TASKS[key],) = blocks_lib.make_tasks(alone, data_dir)
        return _TASKS[key]


def _blocks(settings: Settings, task: str, data_dir: str | None) -> dict[str, Block]:
    """Plan the blocks of a task, by name (cached)."""
    alone = dataclasses.replace(settings, tasks=(task,))
    key = identity.digest([dataclasses.asdict(alone), data_dir])
    with _LOCK:
        if key not in _BLOCKS:
            loaded = _task(settings, task, data_dir)
            blocks = blocks_lib.plan(alone, [loaded])
            _BLOCKS[key] = {block.name: block for block in blocks}
        return _BLOCKS[key]


def block_of(message: BlockMessage, settings: Settings, data_dir: str | None) -> Block:
    """Rebuild a block that was sent, with this worker's data.

    Raises:
      UsageError: if the data differs from the client's.
    """
    run = message.runs[0][0]
    task = _task(settings, run.task, data_dir)
    with _LOCK:
        if id(task) not in _DATA:
            _DATA[id(task)] = tasks.fingerprint(task)
    if _DATA[id(task)] != run.data:
        raise _other_data(run.task)
    task = folds.wanted(task, run.options)
    groups = [
        train_lib.Group(methods.find(name), static, count)
        for name, static, count in message.groups
    ]
    program = train_lib.Program(task=task, groups=tuple(groups), **message.program)
    return Block(program, message.runs, message.lanes, message.spare)


def _other_data(task: str) -> UsageError:
    """The error for a worker whose data differs from the client's."""
    return UsageError(f"worker {_address()} has other data for {task}")


def _address() -> str:
    """The address of this worker."""
    import distributed

    return distributed.get_worker().address


def train(
    sent: UnitMessage,
    settings: Settings,
    data_dir: str | None,
    workdir: str,
    expected: Mapping[str, Any],
) -> WorkerResult:
    """Train a unit, or the rest of it, on this worker.

    Args:
      sent: the unit.
      settings: what the client trains.
      data_dir: directory searched first for data files.
      workdir: the client's working directory.
      expected: facts of all workers, as returned by `facts`.

    Raises:
      UsageError: if the worker or its data differs from the others, or training fails.
    """
    check_alike(facts(settings), expected, _address())
    if sent.block:
        block = block_of(sent.block, settings, data_dir)
    else:
        block = _blocks(settings, sent.task, data_dir).get(sent.name)
    if block is None:
        raise _other_data(sent.task)
    unit = Unit(block, sent.begin, sent.is_trial)
    with block_tables(workdir, sent.name, settings) as (tables, home):
        trained = _train(unit, tables, settings, home)
        if sent.is_trial:
            return trained
        runs = files.read_own(tables.workdir / results.RUNS)
        curves = tables.workdir / results.CURVES
        written = files.read_own(curves) if curves.exists() else b""  # else published
    return trained._replace(runs=runs, curves=written)


@contextlib.contextmanager
def block_tables(
    workdir: str, name: str, settings: Settings
) -> Iterator[tuple[results.Tables, Path]]:
    """Open tables for one block: below the working directory if it is reachable here.

    Yields the tables, and the directory of checkpoints and parameters.

    Args:
      workdir: the client's working directory.
      name: name of the block.
      settings: what is trained.

    Raises:
      UsageError: if parameters are to be saved but the directory is not reachable.
    """
    home, tables = Path(workdir), None
    reachable = os.path.exists(home / ".lock")
    if settings.save_params and not reachable:
        raise UsageError(
            "config.save_params needs a --workdir that all workers can reach: "
            f"{workdir} does not exist there"
        )
    with contextlib.ExitStack() as stack:
        if reachable:
            part = files.make_folder(home / leftovers.PARTS / name, below=home)
            # A worker that Dask gave up on may still hold them.
            with contextlib.suppress(UsageError):
                publish_in = home if settings.curve_parts else None
                tables = stack.enter_context(results.Tables(part, publish_in))
        if tables is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lrjax-"))
            tables = stack.enter_context(results.Tables(folder))
        tables.write_config(dataclasses.asdict(settings), {})
        yield tables, home if reachable else tables.workdir


def _train(
    unit: Unit, tables: results.Tables, settings: Settings, home: Path
) -> WorkerResult:
    """Train a unit in its own tables; do nothing if its rows are there."""
    block = unit.block
    if not unit.is_trial and tables.runs.issuperset(block.run_ids):
        done = f"{block.title}: {counted(len(block.run_ids), 'run')}, already done"
        return WorkerResult(0.0, {}, [done])

    def train_here(unit: Unit, place: Place) -> Outcome:
        return local.train_unit(unit, place, tables, settings, home, lambda _: None)

    outcomes = list(engine().train([[unit]], train_here))
    return WorkerResult(
        sum(outcome.seconds for outcome in outcomes),
        {k: v for outcome in outcomes for k, v in outcome.trials.items()},
        [line for outcome in outcomes for line in outcome.summary],
    )


@functools.cache
def engine() -> Engine:
    """The engine of this worker; Dask stops it by killing the process."""
    return Engine(jax.local_devices()[:1], lambda: 0)


def remove_part(workdir: Path, name: str) -> None:
    """Remove a block's own tables once the client has its rows."""
    files.remove_at_once(workdir / leftovers.PARTS / name)
