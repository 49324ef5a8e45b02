"""Blocks of runs trained by the workers of a Dask cluster.

The client knows blocks by their names alone: it reads no data and starts no JAX. What
workers do is in `lrjax.worker`. Names follow from all that changes a run's numbers, the
data included, so where the data differ there is no such block. A worker trains a block
whole, in tables and checkpoints of its own, and returns the rows, which the client
alone appends to the tables. Dask gives the block of a worker that died to another one.

Tunings and races, which do read the data here, send their trials by `each`
(`lrjax/hpo/cluster_trials.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from lrjax import blocks as blocks_lib
from lrjax import console, results, worker
from lrjax.config import Cluster, Settings
from lrjax.core import NUMERICS_VERSION, UsageError, counted

_POLL = 0.02  # seconds between two looks at what has come
_TOLD = 30.0  # seconds between two words on waiting for workers
_DEATHS = 20  # of workers that train the same block; a walltime that ends is one


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
    with (
        results.Tables(workdir) as tables,
        console.signals() as signalled,
        connect(settings, data_dir, signalled) as session,
    ):
        tickets = _tickets(session.client, settings, session.data_dir, signalled)

        def record() -> None:
            tables.write_config(
                dataclasses.asdict(settings),
                dict(overrides or {}),
                {ticket.task: ticket.metrics for ticket in tickets},
            )

        train_missing(session, tickets, tables, record)


class Session(NamedTuple):
    """A cluster that is ready to train.

    Attributes:
      client: Dask's.
      settings: what workers make tasks of.
      data_dir: where they look for data files first.
      expected: what all workers are.
      signalled: whether to end.
    """

    client: Any
    settings: Settings
    data_dir: str | None
    expected: Mapping[str, Any]
    signalled: Callable[[], int]


@contextlib.contextmanager
def connect(
    settings: Settings, data_dir: str | None, signalled: Callable[[], int]
) -> Iterator[Session]:
    """The cluster that the settings name, once it has workers.

    Raises:
      UsageError: if there is none, or its workers are of no use.
    """
    data_dir = data_dir and os.path.abspath(data_dir)
    with _connected(settings.cluster) as client:
        expected = _agreed(client, settings, signalled)
        yield Session(client, settings, data_dir, expected, signalled)


def each(
    session: Session,
    work: Callable[..., Any],
    calls: Sequence[tuple[str, Any]],
    workdir: Path,
) -> Iterator[tuple[int, Any]]:
    """Has workers do some work, and gives each one's number and result as it comes.

    Args:
      session: with whom.
      work: `work(what, settings, data_dir, workdir, expected)`, run on workers.
      calls: a name for people, and `what`.
      workdir: where the tables are.
    """
    import distributed

    came, numbers = distributed.as_completed(), dict[str, int]()
    for number, (title, what) in enumerate(calls):
        future = session.client.submit(
            work,
            *(what, session.settings, session.data_dir, str(workdir.absolute())),
            session.expected,
            key=f"{title} {uuid.uuid4().hex}",
            pure=False,
        )
        numbers[future.key] = number
        came.add(future)
    while not came.is_empty():
        ready = came.next_batch(block=False)
        console.stop_if(session.signalled)
        if not ready:
            time.sleep(_POLL)
        for future in ready:
            number = numbers[future.key]
            yield number, _result(future.result, calls[number][0])


def train_missing(
    session: Session,
    tickets: Sequence[worker.Ticket],
    tables: results.Tables,
    record: Callable[[], Any],
) -> None:
    """Trains the blocks that have runs which are not in the tables."""
    wanted = {run for ticket in tickets for run in ticket.runs}
    todo = [t for t in tickets if not tables.runs.issuperset(t.runs)]
    console.say(
        f"{counted(len(wanted - tables.runs), 'run')} to train in "
        f"{counted(len(todo), 'block')} on "
        f"{counted(len(_workers(session.client)), 'worker')} "
        f"({session.expected['backend']}); "
        f"{len(wanted & tables.runs)} of {len(wanted)} are done"
    )
    record()
    _train_all(session, todo, tables)
    console.say(f"results are in {tables.workdir}")


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
    dask_config.set(
        {
            "distributed.scheduler.allowed-failures": _DEATHS,
            # What trials go on from is as large as it is.
            "distributed.admin.large-graph-warning-threshold": "1TB",
        }
    )
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
            console.say("waiting for a worker")
            told = time.monotonic()
        console.stop_if(signalled)
        time.sleep(_POLL)
    found = _result(lambda: client.run(worker.facts, settings))
    address, first = next(iter(found.items()))
    for name, value in (("numerics", NUMERICS_VERSION), ("jax", jax.__version__)):
        if first[name] != value:
            raise UsageError(
                f"worker {address} has {name} {first[name]}, this is {value}"
            )
    for other, its in found.items():
        worker.compare(its, first, other)
    return first


def _tickets(
    client: Any,
    settings: Settings,
    data_dir: str | None,
    signalled: Callable[[], int],
) -> list[worker.Ticket]:
    """All blocks, in the order of the settings, as a worker knows them."""
    asked = {
        task: client.submit(worker.describe, settings, task, data_dir, pure=False)
        for task in settings.tasks
    }
    tickets: list[worker.Ticket] = []
    reasons: dict[str, str] = {}
    for task, future in asked.items():
        while not future.done():
            console.stop_if(signalled)
            time.sleep(_POLL)
        found = _result(future.result)
        if isinstance(found, str):
            reasons[task] = found
        else:
            tickets += found
    if not tickets:
        raise UsageError(next(iter(reasons.values())))
    if reasons:
        warnings.warn(blocks_lib.left_out(reasons), stacklevel=2)
    return tickets


def _train_all(
    session: Session, todo: Sequence[worker.Ticket], tables: results.Tables
) -> None:
    total, ended, spent = sum(t.updates for t in todo), 0, 0.0
    bar = tqdm(total=total, unit=" updates", unit_scale=True, disable=None, leave=False)
    calls = [(f"{ticket.title} {ticket.name}", ticket) for ticket in todo]
    with bar:
        for number, trained in each(session, worker.train_block, calls, tables.workdir):
            ticket = todo[number]
            tables.append_curves(map(json.loads, trained.curves.splitlines()))
            tables.append_runs(map(json.loads, trained.runs.splitlines()))
            worker.drop(tables.workdir, ticket.name)
            ended, spent = ended + 1, spent + trained.seconds
            bar.update(ticket.updates)
            bar.set_description(ticket.title)
            if bar.disable:
                console.say(f"[{ended}/{len(todo)}] {trained.summary}")
    console.say(f"blocks trained in {spent:.1f} s, summed over workers")


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
