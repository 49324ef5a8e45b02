"""Units trained by the workers of a Dask cluster.

The client knows the blocks of a config by their names alone: it reads no data and
starts no JAX. What workers do is in `lrjax.worker`. Names follow from all that changes
a run's numbers, the data included, so where the data differ there is no such block. A
worker trains a block whole, in tables and checkpoints of its own, and returns the rows,
which the client alone appends to the tables. Dask gives the block of a worker that died
to another one.

Tunings and races load the data here, lay out trials and write the tables. A worker gets
a block without its data, which it has itself, and the states to train on from; it
returns measurements and the states that are wanted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from lrjax import blocks as blocks_lib
from lrjax import console, results, worker
from lrjax.blocks import Block
from lrjax.config import Cluster, Settings
from lrjax.core import NUMERICS_VERSION, UsageError, counted
from lrjax.session import Session
from lrjax.units import Outcome, Unit

_POLL = 0.02  # seconds between two looks at what has come
_TOLD = 30.0  # seconds between two words on waiting for workers
_DEATHS = 20  # of workers that train the same block; a walltime that ends is one


@contextlib.contextmanager
def launch(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Iterator[OnCluster]:
    """The launcher that trains on the cluster which the settings name.

    Raises:
      UsageError: if there is none, or its workers are of no use.
    """
    data_dir = data_dir and os.path.abspath(data_dir)
    with (
        Session(settings, workdir, data_dir, overrides) as session,
        _connected(settings.cluster) as client,
    ):
        session.tables  # noqa: B018  # refused before anybody is waited for
        yield OnCluster(session, client)


class OnCluster:
    """Trains by the workers of a cluster; a `Launcher`."""

    def __init__(self, session: Session, client: Any):
        """Waits for a worker.

        Args:
          session: for which.
          client: Dask's.
        """
        self.session, self._client = session, client
        self._expected = _agreed(client, session.settings, session.signalled)

    @property
    def where(self) -> str:
        """The workers."""
        count = len(_workers(self._client))
        return f"{counted(count, 'worker')} ({self._expected['backend']})"

    def blocks(self, settings: Settings) -> list[worker.Ticket]:
        """All blocks, in the order of the settings, as a worker plans them."""
        asked = {
            task: self._client.submit(
                worker.describe, settings, task, self.session.data_dir, pure=False
            )
            for task in settings.tasks
        }
        tickets: list[worker.Ticket] = []
        reasons: dict[str, str] = {}
        for task, future in asked.items():
            while not future.done():
                console.stop_if(self.session.signalled)
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

    def train(
        self,
        units: Sequence[Unit],
        progress: Callable[[Unit, int], Any],
        ready: Callable[[], Any] = lambda: None,
    ) -> Iterator[Outcome]:
        """Trains units, one at a time on each worker."""
        if any(isinstance(unit.block, Block) for unit in units):
            self._check_like_here()
        ready()
        for unit, back in self._returned(units):
            tables = self.session.tables
            tables.append(results.CURVES, map(json.loads, back.curves.splitlines()))
            tables.append(results.RUNS, map(json.loads, back.runs.splitlines()))
            progress(unit, unit.updates)
            yield Outcome(unit, back.seconds, back.trials, back.summary)

    def _check_like_here(self) -> None:
        """Refuses workers that are not what this machine is.

        Blocks are laid out here, and a block's shape, of which last bits depend, is
        chosen by what it trains on.
        """
        for name, here in worker.facts(self.session.settings).items():
            if here != self._expected[name]:
                raise UsageError(
                    f"{name} is {here} here, and {self._expected[name]} on the "
                    "cluster: trials are laid out here; start it on a machine like the "
                    "workers'"
                )

    def _returned(
        self, units: Sequence[Unit]
    ) -> Iterator[tuple[Unit, worker.Returned]]:
        """Units and what workers return for them, as it comes."""
        import distributed

        came, sent = distributed.as_completed(), dict[str, Unit]()
        session = self.session
        for unit in units:
            future = self._client.submit(
                worker.train,
                _sent(unit),
                session.settings,
                session.data_dir,
                str(session.workdir.absolute()),
                self._expected,
                key=f"{unit.block.title} {unit.block.name} {uuid.uuid4().hex}",
                pure=False,
            )
            sent[future.key] = unit
            came.add(future)
        while not came.is_empty():
            ready = came.next_batch(block=False)
            console.stop_if(session.signalled)
            if not ready:
                time.sleep(_POLL)
            for future in ready:
                unit = sent[future.key]
                yield unit, _result(future.result, unit.block.title)

    def forget(self, names: Sequence[str]) -> None:
        """Drops what workers kept of blocks."""
        for name in names:
            worker.drop(self.session.workdir, name)

    def spent(self, seconds: float) -> str:
        """A line on what training took."""
        return f"blocks trained in {seconds:.1f} s, summed over workers"


def _sent(unit: Unit) -> worker.Sent:
    block = unit.block
    parcel = worker.wrap(block) if isinstance(block, Block) else None
    return worker.Sent(block.name, block.task_name, parcel, unit.begin, unit.is_trial)


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
