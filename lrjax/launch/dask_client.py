"""Training by the workers of a Dask cluster, seen from the client.

In plain training the client knows the blocks of a config by name only: it reads no data
and starts no JAX. `lrjax.launch.dask_worker` runs on the workers. A block's name
follows from everything that changes its runs' numbers, including the data, so a worker
with other data has no block of that name. A worker trains whole blocks in tables and
checkpoints of its own and returns rows; only the client appends to the tables. Dask
reassigns the block of a worker that died.

Tuning and races load the data on the client, plan trials and write the tables. A worker
gets a block without its data, which it loads itself, and the states to resume from; it
returns measurements and the requested states.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from lrjax import console, results
from lrjax.common import files
from lrjax.config import Cluster, Settings
from lrjax.core import NUMERICS_VERSION, UsageError, counted, printable
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import checkpoint, dask_worker, leftovers, slurm
from lrjax.launch.blocks import Block
from lrjax.launch.session import Session
from lrjax.launch.units import Outcome, Unit

_LOOPBACK = "127.0.0.1"
_POLL = 0.02  # seconds between polls for results
_TOLD = 30.0  # seconds between messages while waiting for workers
_DEATHS = 20  # workers that died while training one block


@contextlib.contextmanager
def launch(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Iterator[OnCluster]:
    """Open a session and make the launcher for the cluster that the settings name.

    Raises:
      UsageError: if there is no such cluster, or its workers cannot be used.
    """
    data_dir = data_dir and os.path.abspath(data_dir)
    with Session(settings, workdir, data_dir, overrides) as session:
        session.tables  # noqa: B018  # opens them: errors come before any waiting
        files.check_folder(session.workdir / leftovers.PARTS)
        with _connected(settings.cluster) as client:
            yield OnCluster(session, client)


class OnCluster:
    """The `Launcher` that trains on the workers of a Dask cluster."""

    def __init__(self, session: Session, client: Any):
        """Wait for the first worker.

        Args:
          session: to train in.
          client: Dask's client.
        """
        self.session, self._client = session, client
        self._expected = _agreed(client, session.settings, session.signalled)

    @property
    def where(self) -> str:
        """Number and backend of the workers."""
        count = len(_workers(self._client))
        return f"{counted(count, 'worker')} ({self._expected['backend']})"

    def blocks(self, settings: Settings) -> list[dask_worker.PlannedBlock]:
        """All blocks in the order of the settings, as planned by workers."""
        futures = {
            task: self._client.submit(
                dask_worker.plan_task,
                settings,
                task,
                self.session.data_dir,
                pure=False,
            )
            for task in settings.tasks
        }
        blocks: list[dask_worker.PlannedBlock] = []
        reasons: dict[str, str] = {}
        for task, future in futures.items():
            while not future.done():
                console.stop_if(self.session.signalled)
                time.sleep(_POLL)
            planned = _result(future.result)
            if isinstance(planned, str):
                reasons[task] = planned
            else:
                blocks += planned
        if not blocks:
            raise UsageError(next(iter(reasons.values())))
        if reasons:
            warnings.warn(blocks_lib.left_out(reasons), stacklevel=2)
        return blocks

    def train(
        self,
        units: Sequence[Unit],
        progress: Callable[[Unit, int], Any],
        ready: Callable[[], Any] = lambda: None,
    ) -> Iterator[Outcome]:
        """Train units, one at a time on each worker."""
        if any(isinstance(unit.block, Block) for unit in units):
            self._check_same_device()
        ready()
        for unit, returned in self._returned(units):
            tables, block = self.session.tables, unit.block.name
            curves, runs = (
                map(json.loads, lines.splitlines())
                for lines in (returned.curves, returned.runs)
            )
            tables.append(results.CURVES, curves, block)
            tables.append(results.RUNS, runs, block)
            progress(unit, unit.updates)
            yield Outcome(unit, returned.seconds, returned.trials, returned.summary)

    def _check_same_device(self) -> None:
        """Check that this machine is like the workers, since trials are planned here.

        The shape of a block, which determines last bits, depends on the device.
        """
        for name, here in dask_worker.facts(self.session.settings).items():
            if here != self._expected[name]:
                raise UsageError(
                    f"{name} is {here} here, and {self._expected[name]} on the "
                    "cluster: trials are planned here, so start the command on a "
                    "machine like the workers'"
                )

    def _returned(
        self, units: Sequence[Unit]
    ) -> Iterator[tuple[Unit, dask_worker.WorkerResult]]:
        """Submit units and yield each with its worker's result, as they come."""
        import distributed

        futures, sent = distributed.as_completed(), dict[str, Unit]()
        session = self.session
        for unit in units:
            session.live.begin(unit.block.heads, unit.is_trial)
            future = self._client.submit(
                dask_worker.train,
                _unit_message(unit),
                session.settings,
                session.data_dir,
                str(session.workdir.absolute()),
                self._expected,
                # A key must be valid UTF-8, which names of files need not be.
                key=f"{printable(unit.block.title)} {uuid.uuid4().hex}",
                pure=False,
            )
            sent[future.key] = unit
            futures.add(future)
        while not futures.is_empty():
            ready = futures.next_batch(block=False)
            console.stop_if(session.signalled)
            if not ready:
                time.sleep(_POLL)
            for future in ready:
                unit = sent[future.key]
                yield unit, _result(future.result, unit.block.title)

    def forget(self, names: Sequence[str]) -> None:
        """Remove the directories that workers used for blocks."""
        for name in names:
            checkpoint.discard(checkpoint.folder_of(self.session.home, name))
            dask_worker.remove_part(self.session.workdir, name)

    def spent(self, seconds: float) -> str:
        """Describe in one line what training took."""
        return f"blocks trained in {seconds:.1f} s, summed over workers"


def _unit_message(unit: Unit) -> dask_worker.UnitMessage:
    """A unit as it is sent to a worker."""
    block = unit.block
    message = dask_worker.block_message(block) if isinstance(block, Block) else None
    return dask_worker.UnitMessage(
        block.name, block.task_name, message, unit.begin, unit.is_trial
    )


@contextlib.contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    """Connect to the cluster; a cluster started here is closed at the end.

    One on this machine listens on the loopback address alone, and has no dashboard.

    Raises:
      UsageError: if Dask is not installed or no scheduler answers.
    """
    try:
        import distributed
        from dask import config as dask_config
    except ImportError as error:
        raise UsageError(
            "--launcher=dask needs Dask: pip install 'lrjax[cluster]'"
        ) from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    options = {
        "distributed.scheduler.allowed-failures": _DEATHS,
        # Trials resume from states, which are large.
        "distributed.admin.large-graph-warning-threshold": "1TB",
    }
    with dask_config.set(options), contextlib.ExitStack() as stack:
        try:
            if cluster.address == "local":
                address = stack.enter_context(_local_cluster(cluster.workers))
            elif cluster.address == "slurm":
                address = stack.enter_context(slurm.start(cluster))
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


def _local_cluster(workers: int) -> Any:
    """Start a cluster on this machine.

    A terminal that closes sends SIGHUP to the workers, too. They outlive it, as Dask's
    outlive a SIGINT, until the client has stopped and ends them: its threads and their
    children inherit that the signal is blocked.
    """
    import distributed

    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        return distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,  # blocks are checked against free memory beforehand
            host=_LOOPBACK,
            dashboard_address=f"{_LOOPBACK}:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=50,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _workers(client: Any) -> dict[str, Any]:
    """Address -> facts of the scheduler's workers."""
    return client.scheduler_info(n_workers=-1)["workers"]


def _agreed(
    client: Any, settings: Settings, signalled: Callable[[], int]
) -> dict[str, Any]:
    """Wait for a worker; return the facts on which all workers agree.

    Raises:
      UsageError: if a worker cannot be used, or if workers differ.
    """
    last_message = 0.0
    while not _workers(client):
        if time.monotonic() - last_message > _TOLD:
            console.say("waiting for a Dask worker")
            last_message = time.monotonic()
        console.stop_if(signalled)
        time.sleep(_POLL)
    facts = _result(lambda: client.run(dask_worker.facts, settings))
    address, first = next(iter(facts.items()))
    for name, value in (("numerics", NUMERICS_VERSION), ("jax", jax.__version__)):
        if first[name] != value:
            raise UsageError(
                f"worker {address} has {name} {first[name]}, the client has {value}"
            )
    for worker, own in facts.items():
        dask_worker.check_alike(own, first, worker)
    return first


def _result(get: Callable[[], Any], title: str = "") -> Any:
    """Get a future's result; raise errors of the cluster in one line.

    Args:
      get: returns the result.
      title: title of the block, for messages.

    Raises:
      UsageError: if workers died or cannot import lrjax, or the connection is lost.
    """
    from concurrent.futures import CancelledError

    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError

    try:
        return get()
    except KilledWorker as error:
        raise UsageError(
            f"{title or 'a task'}: {_DEATHS} workers died while working on it; do they "
            "have enough memory and walltime?"
        ) from error
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a worker cannot import {error.name}: install the same lrjax there"
        ) from error
    except (CancelledError, FutureCancelledError, CommClosedError) as error:
        raise UsageError(
            "the connection to the Dask scheduler was lost; run the same command again "
            "to resume"
        ) from error
