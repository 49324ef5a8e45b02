"""Blocks of runs trained by the workers of a Dask cluster.

The client knows blocks by their names alone: it reads no data and starts no JAX. A
worker loads a task by its name, makes the plan of the settings and looks for the block
in it; names follow from all that changes a run's numbers, the data included, so where
the data differ there is no such block. It trains the block whole, in tables and
checkpoints of its own, and returns the rows, which the client alone appends to the
tables. Dask gives the block of a worker that died to another one.

A block's own tables are below the working directory, `parts/BLOCK`, where the worker
sees it: the next worker goes on from the last checkpoint. Else they are temporary.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from lrjax import backend, checkpoint, crew, experiment, programs, results
from lrjax import blocks as blocks_lib
from lrjax.blocks import Block
from lrjax.config import Cluster, Settings
from lrjax.core import NUMERICS_VERSION, Task, UsageError
from lrjax.tasks.data import DataError

_POLL = 0.02  # seconds between two looks at what has come
_TOLD = 30.0  # seconds between two words on waiting for workers
_DEATHS = 20  # of workers that train the same block; a walltime that ends is one
_PROGRAMS = 16  # compiled ones that a worker keeps
_PARTS = "parts"


class Ticket(NamedTuple):
    """What the client knows of a block: its task and name, and what it comes to."""

    task: str
    name: str
    title: str
    runs: tuple[str, ...]
    updates: int


class Trained(NamedTuple):
    """What a worker returns: lines of both tables, a summary, seconds of training."""

    runs: bytes
    curves: bytes
    summary: str
    seconds: float


def run(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """Trains every run of the settings that the tables do not have yet, on a cluster.

    Args:
      settings: what to train, and where.
      workdir: where the tables are.
      data_dir: where workers look for data files first.
      overrides: what the command line changed of the config; for the record.

    Raises:
      UsageError: if scheduler, workers, data or workdir are of no use.
      Interrupted: on SIGINT and SIGTERM.
    """
    data_dir = data_dir and os.path.abspath(data_dir)
    with (
        results.Tables(workdir) as tables,
        experiment.signals() as signalled,
        _connected(settings.cluster) as client,
    ):
        expected = _agreed(client, settings, signalled)
        tickets = _tickets(client, settings, data_dir, signalled)
        wanted = {run for ticket in tickets for run in ticket.runs}
        todo = [t for t in tickets if not tables.runs.issuperset(t.runs)]
        experiment.say(
            f"{len(wanted - tables.runs)} runs to train in {len(todo)} blocks on "
            f"{len(_workers(client))} workers ({expected['backend']}); "
            f"{len(wanted & tables.runs)} of {len(wanted)} are done"
        )
        tables.write_config(dataclasses.asdict(settings), dict(overrides or {}))
        _train_all(client, todo, tables, settings, data_dir, expected, signalled)
        experiment.say(f"results are in {tables.workdir}")


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    """A client of the cluster; one that was started here ends with it."""
    try:
        import distributed
        from dask import config as dask_config
    except ImportError as error:
        raise UsageError(
            f"--launcher=dask needs Dask: pip install 'lrjax[cluster]' ({error})"
        ) from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    dask_config.set({"distributed.scheduler.allowed-failures": _DEATHS})
    with contextlib.ExitStack() as stack:
        try:
            if cluster.address == "local":
                made = distributed.LocalCluster(
                    n_workers=cluster.workers,
                    threads_per_worker=1,
                    memory_limit=0,  # what a block needs is known beforehand
                    dashboard_address=":0",
                    silence_logs=50,
                )
                address = stack.enter_context(made)
            elif cluster.address == "slurm":
                address = stack.enter_context(_slurm(cluster))
            else:
                address = cluster.address
            client = distributed.Client(address, timeout=cluster.timeout)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(
                f"no Dask scheduler at config.cluster.address={cluster.address}: "
                f"{reason}"
            ) from error
        stack.enter_context(client)
        yield client


def _slurm(cluster: Cluster) -> Any:
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise UsageError(
            "config.cluster.address=slurm needs dask-jobqueue: "
            f"pip install 'lrjax[cluster]' ({error})"
        ) from error
    if not shutil.which("sbatch"):
        raise UsageError("config.cluster.address=slurm: there is no sbatch here")
    made = SLURMCluster(**slurm_options(cluster))
    # Jobs whose walltime has ended are replaced.
    made.adapt(minimum_jobs=cluster.workers, maximum_jobs=cluster.workers)
    return made


def slurm_options(cluster: Cluster) -> dict[str, Any]:
    """What dask-jobqueue is asked for: a job is a worker with one block at a time."""
    extra = [f"--gres=gpu:{cluster.gpus}"] if cluster.gpus else []
    return {
        "cores": 1,  # threads of the worker
        "processes": 1,
        "job_cpu": cluster.cores,
        "memory": cluster.memory,
        "walltime": cluster.walltime,
        "queue": cluster.queue or None,
        "account": cluster.account or None,
        "job_extra_directives": [*extra, *cluster.extra],
        "job_script_prologue": [
            f"export PYTHONPATH={Path(__file__).parent.parent}:$PYTHONPATH"
        ],
    }


def _workers(client: Any) -> dict[str, Any]:
    return client.scheduler_info(n_workers=-1)["workers"]


def _agreed(
    client: Any, settings: Settings, signalled: Callable[[], int]
) -> dict[str, Any]:
    """What all workers are, once there is one.

    Raises:
      UsageError: if one cannot be used, or they differ.
    """
    told = 0.0
    while not _workers(client):
        if time.monotonic() - told > _TOLD:
            experiment.say("waiting for a worker")
            told = time.monotonic()
        experiment.stop_if(signalled)
        time.sleep(_POLL)
    found = _result(lambda: client.run(facts, settings))
    address, first = next(iter(found.items()))
    for name, value in (("numerics", NUMERICS_VERSION), ("jax", jax.__version__)):
        if first[name] != value:
            raise UsageError(
                f"worker {address} has {name} {first[name]}, this is {value}"
            )
    for other, its in found.items():
        _compare(its, first, other)
    return first


def _compare(found: Mapping[str, Any], wanted: Mapping[str, Any], worker: str) -> None:
    for name, value in wanted.items():
        if found[name] != value:
            raise UsageError(
                f"worker {worker} has {name} {found[name]}, others have {value}: all "
                "must be alike"
            )


def _tickets(
    client: Any,
    settings: Settings,
    data_dir: str | None,
    signalled: Callable[[], int],
) -> list[Ticket]:
    """All blocks, in the order of the settings, as a worker knows them."""
    asked = {
        task: client.submit(describe, settings, task, data_dir, pure=False)
        for task in settings.tasks
    }
    tickets, left_out = [], []
    for future in asked.values():
        while not future.done():
            experiment.stop_if(signalled)
            time.sleep(_POLL)
        found = _result(future.result)
        if isinstance(found, str):
            left_out.append(found)
        else:
            tickets += found
    if not tickets:
        raise UsageError(left_out[0])
    for each in left_out:
        warnings.warn(f"left out: {each}", stacklevel=2)
    return tickets


def _train_all(
    client: Any,
    todo: list[Ticket],
    tables: results.Tables,
    settings: Settings,
    data_dir: str | None,
    expected: Mapping[str, Any],
    signalled: Callable[[], int],
) -> None:
    import distributed

    workdir = str(tables.workdir.absolute())
    came = distributed.as_completed()
    tickets: dict[str, Ticket] = {}
    for ticket in todo:
        future = client.submit(
            train_block,
            *(ticket, settings, data_dir, workdir, expected),
            key=f"{ticket.title} {ticket.name} {uuid.uuid4().hex}",
            pure=False,
        )
        tickets[future.key] = ticket
        came.add(future)
    total, ended, spent = sum(t.updates for t in todo), 0, 0.0
    bar = tqdm(total=total, unit=" updates", unit_scale=True, disable=None, leave=False)
    with bar:
        while not came.is_empty():
            ready = came.next_batch(block=False)
            experiment.stop_if(signalled)
            if not ready:
                time.sleep(_POLL)
            for future in ready:
                ticket = tickets[future.key]
                trained = _result(future.result, ticket.title)
                tables.append_curves(map(json.loads, trained.curves.splitlines()))
                tables.append_runs(map(json.loads, trained.runs.splitlines()))
                _drop(tables.workdir, ticket)
                ended, spent = ended + 1, spent + trained.seconds
                bar.update(ticket.updates)
                bar.set_description(ticket.title)
                if bar.disable:
                    experiment.say(f"[{ended}/{len(todo)}] {trained.summary}")
    experiment.say(f"blocks trained in {spent:.1f} s, summed over workers")


def _result(get: Callable[[], Any], title: str = "") -> Any:
    """What a future holds; what went wrong on the cluster, in one line."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError

    try:
        return get()
    except KilledWorker as error:
        raise UsageError(
            f"{title or 'a task'}: {_DEATHS} workers died of it; do they have enough "
            "memory and walltime?"
        ) from error
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a worker cannot import {error.name}: install the same lrjax there"
        ) from error
    except (CancelledError, FutureCancelledError, CommClosedError) as error:
        raise UsageError(
            "the connection to the Dask scheduler is lost; the same command goes on "
            "from what is done"
        ) from error


def _drop(workdir: Path, ticket: Ticket) -> None:
    """Removes a part whose rows are in the tables; its parameters move up."""
    part = workdir / _PARTS / ticket.name
    if (part / "params").is_dir():
        (workdir / "params").mkdir(exist_ok=True)
        for file in (part / "params").iterdir():
            os.replace(file, workdir / "params" / file.name)
    shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(OSError):
        part.parent.rmdir()


# What follows runs on workers.

_LOCK = threading.RLock()  # a worker may have several threads
_BLOCKS: dict[str, dict[str, Block]] = {}
_COMPILED: collections.OrderedDict[Any, programs.Compiled] = collections.OrderedDict()


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
    return [
        Ticket(
            task,
            block.name,
            experiment.title(block),
            tuple(block.lanes_of.values()),
            block.example.steps * len(block.lanes_of),
        )
        for block in found.values()
    ]


def _blocks(settings: Settings, task: str, data_dir: str | None) -> dict[str, Block]:
    alone = dataclasses.replace(settings, tasks=(task,))
    key = results.digest([dataclasses.asdict(alone), data_dir])
    with _LOCK:
        if key not in _BLOCKS:
            loaded: list[Task] = blocks_lib.make_tasks(alone, data_dir)
            found = {block.name: block for block in blocks_lib.plan(alone, loaded)}
            _BLOCKS[key] = found
        return _BLOCKS[key]


def _compiled(block: Block) -> programs.Compiled:
    """A block's programs; those of the last few kinds are kept."""
    key = (id(block.program.task), block.key)
    with _LOCK:
        if key not in _COMPILED:
            shapes = jax.eval_shape(block.inputs)
            _COMPILED[key] = programs.compile_program(block.program, *shapes)
        _COMPILED.move_to_end(key)
        while len(_COMPILED) > _PROGRAMS:
            _COMPILED.popitem(last=False)
        return _COMPILED[key]


def train_block(
    ticket: Ticket,
    settings: Settings,
    data_dir: str | None,
    workdir: str,
    expected: Mapping[str, Any],
) -> Trained:
    """Trains a block, or what is left of it."""
    import distributed

    worker = distributed.get_worker().address
    _compare(facts(settings), expected, worker)
    found = _blocks(settings, ticket.task, data_dir)
    if ticket.name not in found:
        raise UsageError(f"worker {worker} has other data for {ticket.task}")
    with _part(workdir, ticket, settings) as tables:
        summary, seconds = _train(found[ticket.name], tables, settings)
        lines = {
            name: (tables.workdir / name).read_bytes()
            for name in (results.RUNS, results.CURVES)
        }
    return Trained(lines[results.RUNS], lines[results.CURVES], summary, seconds)


@contextlib.contextmanager
def _part(workdir: str, ticket: Ticket, settings: Settings) -> Iterator[results.Tables]:
    """Tables of one block: in the working directory if it is seen here."""
    config = dataclasses.asdict(settings)
    with contextlib.ExitStack() as stack:
        tables = None
        if os.path.exists(os.path.join(workdir, ".lock")):
            part = results.Tables(os.path.join(workdir, _PARTS, ticket.name))
            # A worker that was given up may be at it still.
            with contextlib.suppress(UsageError):
                tables = stack.enter_context(part)
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


def _train(
    block: Block, tables: results.Tables, settings: Settings
) -> tuple[str, float]:
    """A line that sums up what was trained, and how many seconds it took."""
    if experiment.is_done(block, tables.runs):
        return f"{experiment.title(block)}: {len(block.lanes_of)} runs, were done", 0.0
    device = jax.local_devices()[0]
    name, lock = experiment.title(block), threading.Lock()
    todo, ended = [block], ("", 0.0)
    while todo:
        each = todo.pop(0)
        room = crew.Room(1, crew.free_memory(device), refuses=device.platform == "cpu")
        try:
            compiled = _compiled(each)
            with room.enter(name, compiled.need):
                ended = experiment.train_block(
                    each,
                    compiled,
                    tables,
                    settings,
                    lambda count: None,
                    lambda: 0,
                    lock,
                    device,
                )
        except Exception as error:
            again = experiment.with_less_memory(each, error, room, name)
            if again is None:
                raise
            todo = again + todo
    checkpoint.discard(tables.workdir / "checkpoints" / block.name)
    return ended
