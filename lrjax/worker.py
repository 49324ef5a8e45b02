"""What the workers of a Dask cluster do: train units for `lrjax.cluster`.

A worker loads a task by its name and makes the plan of the settings, where it finds a
block by its name. A block that does not follow from the settings alone, as of trials,
comes as a parcel: without the data, which the worker has itself.

A block's own tables are below the working directory, `parts/BLOCK`, where the worker
sees it: the next worker goes on from the last checkpoint. Else they are temporary.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lrjax import (
    backend,
    checkpoint,
    local,
    methods,
    results,
    tasks,
)
from lrjax import blocks as blocks_lib
from lrjax import train as train_lib
from lrjax.blocks import Block
from lrjax.config import Settings
from lrjax.core import NUMERICS_VERSION, Run, Task, UsageError, counted
from lrjax.tasks.data import DataError
from lrjax.units import Begin, Engine, Outcome, Place, Trained, Unit

_PARTS = "parts"

_LOCK = threading.RLock()  # a worker may have several threads
_TASKS: dict[str, Task] = {}
_DATA: dict[int, str] = {}  # a task's fingerprint by its id
_BLOCKS: dict[str, dict[str, Block]] = {}


class Parcel(NamedTuple):
    """A block on its way to a worker: without the task and the method's functions.

    Attributes:
      method: name of the method.
      cooled: whether it is the method with a cooldown around it.
      program: the other fields of the block's program.
      runs, lanes: the block's.
    """

    method: str
    cooled: bool
    program: Mapping[str, Any]
    runs: tuple[tuple[Run, ...], ...]
    lanes: tuple[Mapping[str, float], ...]


def wrap(block: Block) -> Parcel:
    """A block of a registered method as it is sent."""
    program = {
        field.name: getattr(block.program, field.name)
        for field in dataclasses.fields(block.program)
        if field.name not in ("task", "method")
    }
    method = block.program.method
    cooled = "cooldown_start" in method.defaults
    return Parcel(method.name, cooled, program, block.runs, block.lanes)


class Ticket(NamedTuple):
    """What the client knows of a block that a worker planned; see `session.Planned`."""

    name: str
    title: str
    task_name: str
    run_ids: tuple[str, ...]
    updates: int
    metrics: Sequence[Mapping[str, Any]]


def ticket_of(block: Block) -> Ticket:
    """The ticket of a block."""
    return Ticket(*(getattr(block, field) for field in Ticket._fields))


class Sent(NamedTuple):
    """A unit on its way to a worker.

    Attributes:
      name: of its block.
      task: its task's name.
      parcel: the block itself; None if it follows from the settings.
      begin, is_trial: the unit's.
    """

    name: str
    task: str
    parcel: Parcel | None
    begin: Begin
    is_trial: bool


class Returned(NamedTuple):
    """What a worker returns: an outcome without the unit, and lines of both tables."""

    seconds: float
    trials: Mapping[str, Trained]
    summary: str
    runs: bytes = b""
    curves: bytes = b""


def compare(found: Mapping[str, Any], wanted: Mapping[str, Any], worker: str) -> None:
    """Refuses a worker whose facts are not those of the others."""
    for name, value in wanted.items():
        if found[name] != value:
            raise UsageError(
                f"worker {worker} has {name} {found[name]}, others have {value}: all "
                "must be alike"
            )


def facts(settings: Settings) -> dict[str, Any]:
    """What must be the same on all workers, lest numbers differ."""
    with _LOCK:
        backend.prepare(settings)
    device = jax.local_devices()[0]
    return {
        "numerics": NUMERICS_VERSION,
        "jax": jax.__version__,
        "backend": jax.default_backend(),
        "device": device.device_kind,
    }


def describe(settings: Settings, task: str, data_dir: str | None) -> list[Ticket] | str:
    """The blocks of a task; or why it is left out."""
    facts(settings)
    try:
        found = _blocks(settings, task, data_dir)
    except DataError as error:
        if not settings.skip_missing:
            raise
        return str(error)
    return [ticket_of(block) for block in found.values()]


def _task(settings: Settings, name: str, data_dir: str | None) -> Task:
    alone = dataclasses.replace(settings, tasks=(name,), methods=())
    key = results.digest([dataclasses.asdict(alone), data_dir])
    with _LOCK:
        if key not in _TASKS:
            (_TASKS[key],) = blocks_lib.make_tasks(alone, data_dir)
        return _TASKS[key]


def _blocks(settings: Settings, task: str, data_dir: str | None) -> dict[str, Block]:
    alone = dataclasses.replace(settings, tasks=(task,))
    key = results.digest([dataclasses.asdict(alone), data_dir])
    with _LOCK:
        if key not in _BLOCKS:
            loaded = _task(settings, task, data_dir)
            found = {block.name: block for block in blocks_lib.plan(alone, [loaded])}
            _BLOCKS[key] = found
        return _BLOCKS[key]


def unwrap(parcel: Parcel, settings: Settings, data_dir: str | None) -> Block:
    """A block that was sent, with the worker's own data.

    Raises:
      UsageError: if it is not the data that the client has.
    """
    run = parcel.runs[0][0]
    task = _task(settings, run.task, data_dir)
    with _LOCK:
        if id(task) not in _DATA:
            _DATA[id(task)] = tasks.fingerprint(task)
    if _DATA[id(task)] != run.data:
        raise _other_data(run.task)
    method = methods.find(parcel.method)
    if parcel.cooled:
        method = methods.cooled(method)
    program = train_lib.Program(task=task, method=method, **parcel.program)
    return Block(program, parcel.runs, parcel.lanes)


def _other_data(task: str) -> UsageError:
    return UsageError(f"worker {_address()} has other data for {task}")


def _address() -> str:
    import distributed

    return distributed.get_worker().address


def train(
    sent: Sent,
    settings: Settings,
    data_dir: str | None,
    workdir: str,
    expected: Mapping[str, Any],
) -> Returned:
    """Trains a unit, or what is left of it."""
    compare(facts(settings), expected, _address())
    if sent.parcel:
        block = unwrap(sent.parcel, settings, data_dir)
    else:
        block = _blocks(settings, sent.task, data_dir).get(sent.name)
    if block is None:
        raise _other_data(sent.task)
    unit = Unit(block, sent.begin, sent.is_trial)
    with part(workdir, sent.name, settings) as tables:
        trained = _train(unit, tables, settings)
        if sent.is_trial:
            return trained
        runs, curves = (
            (tables.workdir / table).read_bytes()
            for table in (results.RUNS, results.CURVES)
        )
    return trained._replace(runs=runs, curves=curves)


@contextlib.contextmanager
def part(workdir: str, name: str, settings: Settings) -> Iterator[results.Tables]:
    """Tables of one block by its name: in the working directory if it is seen here."""
    config = dataclasses.asdict(settings)
    with contextlib.ExitStack() as stack:
        tables = None
        if os.path.exists(os.path.join(workdir, ".lock")):
            shared = results.Tables(os.path.join(workdir, _PARTS, name))
            # A worker that was given up may be at it still.
            with contextlib.suppress(UsageError):
                tables = stack.enter_context(shared)
        if tables is None:
            if settings.save_params:
                raise UsageError(
                    "config.save_params needs a --workdir that all workers see: "
                    f"{workdir} is not there"
                )
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lrjax-"))
            tables = stack.enter_context(results.Tables(folder))
        tables.write_config(config, {})
        yield tables


def _train(unit: Unit, tables: results.Tables, settings: Settings) -> Returned:
    """Trains a unit in tables of its own; does nothing if its rows are there."""
    block = unit.block
    if not unit.is_trial and tables.runs.issuperset(block.run_ids):
        done = f"{block.title}: {counted(len(block.run_ids), 'run')}, done before"
        return Returned(0.0, {}, done)

    def train_it(unit: Unit, place: Place) -> Outcome:
        return local.train_unit(unit, place, tables, settings, lambda updates: None)

    outcomes = list(engine().train([[unit]], train_it))
    if not unit.is_trial:
        checkpoint.discard(tables.workdir / "checkpoints" / block.name)
    return Returned(
        sum(outcome.seconds for outcome in outcomes),
        {k: v for outcome in outcomes for k, v in outcome.trials.items()},
        "; ".join(outcome.summary for outcome in outcomes),
    )


@functools.cache
def engine() -> Engine:
    """What trains on this worker, which Dask stops by killing it."""
    return Engine(jax.local_devices()[:1], lambda: 0)


def drop(workdir: Path, name: str) -> None:
    """Removes a block's part, as its rows are in the tables; parameters move up."""
    part = workdir / _PARTS / name
    if (part / "params").is_dir():
        (workdir / "params").mkdir(exist_ok=True)
        for file in (part / "params").iterdir():
            os.replace(file, workdir / "params" / file.name)
    shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(OSError):
        part.parent.rmdir()
