"""Training on several hosts: each trains a share of the blocks, host 0 has the tables.

Each host keeps rows and checkpoints of its share in its own directory
`WORKDIR/hosts/NUMBER`, an ordinary working directory: after a kill its content is not
trained again. Rows are gathered over the network when hosts start and when all have
finished, and host 0 appends what is missing in its tables. So hosts need no shared file
system.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import os
import shutil
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from lrjax import console, identity, results
from lrjax.config import Settings
from lrjax.core import (
    NUMERICS_VERSION,
    Interrupted,
    UsageError,
    cut,
)
from lrjax.launch import checkpoint, local
from lrjax.launch.blocks import Block
from lrjax.launch.units import Outcome, Unit

_PLACE = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_HOSTS = "hosts"
_WAIT = 120.0  # seconds that hosts wait for host 0 to listen
_PATIENCE = 90 * 24 * 3600  # seconds that the fastest host waits for the slowest
_FAREWELL = 30  # seconds that an interrupted host waits for the others to save
_MEETINGS = itertools.count()


def start() -> None:
    """Connect JAX to the other hosts; must be called before any other use of JAX.

    On TPU pods and under SLURM, Open MPI and similar systems JAX finds the hosts by
    itself, elsewhere by JAX_COORDINATOR_ADDRESS (host:port of host 0),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
      UsageError: if it does not find them.
    """
    given = {name: os.environ[name] for name in _PLACE if os.environ.get(name)}
    place: dict[str, Any] = {}
    try:
        if given:
            address, count, number = (given.get(name, "") for name in _PLACE)
            place = {
                "coordinator_address": address,
                "num_processes": int(count),
                "process_id": int(number),
            }
            if place["process_id"]:
                _await(address)
        jax.distributed.initialize(**place)
    except Exception as error:
        raise UsageError(
            "--multihost: JAX does not find the other hosts "
            f"({cut(str(error), 200)}); set {', '.join(_PLACE)} on each"
        ) from error


def _await(address: str) -> None:
    """Wait for host 0 to listen, since JAX would abort the process at its timeout.

    Args:
      address: host:port.

    Raises:
      OSError: if it does not listen after LRJAX_HOSTS_WAIT seconds.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + float(os.environ.get("LRJAX_HOSTS_WAIT", _WAIT))
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise OSError(f"{address}: {error.strerror or error}") from error
            time.sleep(0.5)


def is_first() -> bool:
    """Whether this is host 0, which writes the tables."""
    return jax.process_index() == 0


@contextlib.contextmanager
def launch(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Iterator[Hosts]:
    """Make the launcher of one host among several, all of which call this.

    Raises:
      UsageError: if a host fails; the others first train their share to its end.
      Interrupted: on SIGINT and SIGTERM, once all hosts have saved running blocks.
    """
    own = Path(workdir) / _HOSTS / str(jax.process_index())
    with (
        local.launch(settings, own, data_dir, overrides) as here,
        _leaving_together(),
        contextlib.ExitStack() as stack,
    ):
        hosts = Hosts(here, Path(workdir), stack)
        problem = ""
        try:
            yield hosts
        except UsageError as error:  # such as a full disk; others finish their share
            if not hosts.agreed:
                raise
            problem = str(error)
        hosts.collect([own])
        if problem:
            raise UsageError(problem)
        hosts.clear()


class Hosts:
    """The `Launcher` that trains this host's share of blocks.

    Block n belongs to host n modulo the number of hosts, finished or not, so that a
    host finds the blocks that it began. Results are those of one process.

    Attributes:
      session: session of this host's tables.
      agreed: whether all hosts have confirmed that they train the same blocks.
    """

    def __init__(self, here: local.Local, workdir: Path, stack: contextlib.ExitStack):
        """Wrap the launcher of this host.

        Args:
          here: trains the share.
          workdir: directory of the tables of all hosts together.
          stack: closes the tables at the end.
        """
        self.session, self.agreed = here.session, False
        self._here, self._workdir, self._stack = here, workdir, stack
        self._tables: results.Tables | None = None  # of all hosts; only on host 0
        self._left: list[Path] = []

    @property
    def where(self) -> str:
        """The devices of this host."""
        return self._here.where

    def blocks(self, settings: Settings) -> list[Block]:
        """Plan this host's share of blocks; gather the rows of all hosts."""
        number, count = jax.process_index(), jax.process_count()
        blocks, problem = [], ""
        try:
            blocks = self._here.blocks(settings)
            if is_first():
                whole = results.Tables(self._workdir)
                self._tables = self._stack.enter_context(whole)
            tables = self.session.tables
            self._left = _left_by_others(self._workdir, number, count)
            for folder in self._left:
                self._stack.enter_context(results.Tables(folder))
        except UsageError as error:
            problem = str(error)
        names, signalled = [block.name for block in blocks], self.session.signalled
        _check_alike(problem, names, signalled)
        self.agreed = True
        metrics = {block.task_name: block.metrics for block in blocks}
        if self._tables:
            self.session.record(metrics, self._tables)
        self.session.record(metrics)
        tables.runs.update(self.collect([tables.workdir, *self._left]))
        console.say(f"host {number} of {count}:")
        return blocks[number::count]

    def train(
        self,
        units: Sequence[Unit],
        progress: Callable[[Unit, int], Any],
        ready: Callable[[], Any] = lambda: None,
    ) -> Iterator[Outcome]:
        """Train units, all on this host."""
        return self._here.train(units, progress, ready)

    def forget(self, names: Sequence[str]) -> None:
        """Remove the checkpoints of blocks."""
        self._here.forget(names)

    def spent(self, seconds: float) -> str:
        """Describe in one line what compiling and training took on this host."""
        return self._here.spent(seconds)

    def collect(self, folders: Sequence[Path]) -> set[str]:
        """Gather all hosts' rows in host 0's tables.

        Args:
          folders: working directories with rows of this host.

        Returns:
          identities of the runs in host 0's tables.
        """
        rows = {
            name: [row for f in folders for row in results.read_rows(f, name)]
            for name in (results.CURVES, results.RUNS)
        }
        signalled = self.session.signalled
        parts = map(json.loads, _exchange(json.dumps(rows).encode(), signalled))
        done: list[str] = []
        if self._tables:
            for part in parts:
                # A run's curve before its row: a kill leaves no row without a curve.
                self._tables.append(results.CURVES, part[results.CURVES])
                self._tables.append(results.RUNS, part[results.RUNS])
            done = sorted(self._tables.runs)
        return set(json.loads(_exchange(json.dumps(done).encode(), signalled)[0]))

    def clear(self) -> None:
        """Remove this host's directories, once host 0 has the rows."""
        own = self.session.workdir
        for folder in (own, *self._left):
            checkpoint.move_params(folder, self._workdir)
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            own.parent.rmdir()


def _check_alike(
    problem: str, names: Sequence[str], signalled: Callable[[], int]
) -> None:
    """Stop all hosts if one has a problem, or if their blocks differ.

    Args:
      problem: what is wrong on this host; empty if nothing is.
      names: names of all blocks, as this host plans them.
      signalled: returns the signal that came, 0 if none did.

    Raises:
      UsageError: the same on all hosts.
    """
    own = identity.digest([names, NUMERICS_VERSION, jax.__version__])
    answers = _exchange(json.dumps([problem, own]).encode(), signalled)
    problems, digests = zip(*map(json.loads, answers), strict=True)
    for host, text in enumerate(problems):
        if text:
            raise UsageError(f"host {host}: {text}")
    for host, digest in enumerate(digests):
        if digest != digests[0]:
            raise UsageError(
                f"--multihost: host {host} would train other blocks than host 0; all "
                "need the same config, data and versions of lrjax and JAX"
            )


def _left_by_others(workdir: Path, number: int, count: int) -> list[Path]:
    """Directories of hosts beyond the present count that this host takes over.

    Args:
      workdir: directory of the tables of all hosts together.
      number, count: this host's number and the number of hosts.
    """
    folders = (workdir / _HOSTS).glob("*")
    numbers = sorted(int(f.name) for f in folders if f.name.isdecimal())
    mine = [n for n in numbers if n >= count and n % count == number]
    return [workdir / _HOSTS / str(n) for n in mine]


def _exchange(content: bytes, signalled: Callable[[], int]) -> list[bytes]:
    """Gather every host's bytes, in the order of hosts; wait for all."""
    _wait_for_all(signalled)
    packed = np.frombuffer(zlib.compress(content), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray([len(packed)], np.int32))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(packed)] = packed
    gathered = multihost_utils.process_allgather(padded)
    gathered = np.asarray(gathered).reshape(len(sizes.ravel()), -1)
    return [
        zlib.decompress(row[:size].tobytes())
        for row, size in zip(gathered, sizes.ravel().tolist(), strict=True)
    ]


def _wait_for_all(signalled: Callable[[], int]) -> None:
    """Wait until all hosts are here, for days if necessary, but not past a signal.

    A collective operation over the devices would time out.
    """
    pool = concurrent.futures.ThreadPoolExecutor(1)
    try:
        future = pool.submit(_meet, str(next(_MEETINGS)), _PATIENCE)
        console.wait_for(future, signalled)
        future.result()
    finally:
        pool.shutdown(wait=False)


@contextlib.contextmanager
def _leaving_together() -> Iterator[None]:
    """On an interrupt, waits for the other hosts, which were interrupted too.

    JAX aborts the other hosts when one exits, perhaps while they save.
    """
    try:
        yield
    except Interrupted:
        with contextlib.suppress(Exception):  # some may have left or never come
            _meet("farewell", _FAREWELL)
            jax.distributed.shutdown()
        raise


def _meet(name: str, timeout: int) -> None:
    """Wait until all hosts have called this with a name, at most `timeout` seconds."""
    hosts = set(range(jax.process_count()))
    if len(hosts) > 1:
        ocp.multihost.sync_global_processes(
            f"lrjax {name}", timeout=timeout, processes=hosts
        )
