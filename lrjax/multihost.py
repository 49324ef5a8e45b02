"""Training on several hosts: each trains its share of blocks, host 0 has the tables.

Every host keeps the rows and checkpoints of its share in a directory of its own,
`WORKDIR/hosts/NUMBER`, which is a working directory like any other: what it has after
a kill is not trained again. The rows are gathered over the network when the hosts
start and when all have ended, and host 0 appends what its tables lack. So hosts need
no common file system.
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

from lrjax import console, local, results
from lrjax.blocks import Block
from lrjax.config import Settings
from lrjax.core import NUMERICS_VERSION, Interrupted, UsageError, cut
from lrjax.units import Outcome, Unit

_PLACE = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_HOSTS = "hosts"
_WAIT = 120.0  # seconds that hosts wait for the first one to listen
_PATIENCE = 90 * 24 * 3600  # seconds that the fastest host waits for the slowest
_FAREWELL = 30  # seconds that an interrupted host waits for the others to save
_MEETINGS = itertools.count()


def start() -> None:
    """Has JAX find the other hosts; before it does anything else.

    On TPU pods, under SLURM, Open MPI and the like it knows them by itself, elsewhere
    by JAX_COORDINATOR_ADDRESS (host:port of host 0), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID.

    Raises:
      UsageError: if it does not.
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
    """Waits for host 0 to listen: JAX would abort the process in the end."""
    host, _, port = address.rpartition(":")
    until = time.monotonic() + float(os.environ.get("LRJAX_HOSTS_WAIT", _WAIT))
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until:
                raise OSError(f"{address}: {error.strerror or error}") from error
            time.sleep(0.5)


def is_first() -> bool:
    """Whether this host has the tables."""
    return jax.process_index() == 0


@contextlib.contextmanager
def launch(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Iterator[Hosts]:
    """The launcher of one host among several, all of which call this.

    Raises:
      UsageError: if one of them fails; the others train their share to its end first.
      Interrupted: on SIGINT and SIGTERM, once all hosts have saved what is at hand.
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
        except UsageError as error:  # of a full disk, say; others train to their end
            if not hosts.agreed:
                raise
            problem = str(error)
        hosts.collect([own])
        if problem:
            raise UsageError(problem)
        hosts.clear()


class Hosts:
    """Trains this host's share of blocks; a `Launcher`.

    The n-th block belongs to host n modulo the number of hosts, done or not: so a host
    finds what it began itself. Numbers are those of one process.

    Attributes:
      session: of this host's tables.
      agreed: whether all hosts are to train the same.
    """

    def __init__(self, here: local.Local, workdir: Path, stack: contextlib.ExitStack):
        """Wraps what trains on this host.

        Args:
          here: trains the share.
          workdir: of all hosts together.
          stack: closes what is opened.
        """
        self.session, self.agreed = here.session, False
        self._here, self._workdir, self._stack = here, workdir, stack
        self._tables: results.Tables | None = None  # of all hosts; host 0 has them
        self._left: list[Path] = []

    @property
    def where(self) -> str:
        """The devices of this host."""
        return self._here.where

    def blocks(self, settings: Settings) -> list[Block]:
        """The share of this host; gathers what all hosts have trained."""
        number, count = jax.process_index(), jax.process_count()
        blocks, problem = [], ""
        try:
            blocks = self._here.blocks(settings)
            if is_first():
                tables = results.Tables(self._workdir)
                self._tables = self._stack.enter_context(tables)
            part = self.session.tables
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
        self.session.tables.runs.update(self.collect([part.workdir, *self._left]))
        console.say(f"host {number} of {count}:")
        return blocks[number::count]

    def train(
        self,
        units: Sequence[Unit],
        progress: Callable[[Unit, int], Any],
        ready: Callable[[], Any] = lambda: None,
    ) -> Iterator[Outcome]:
        """Trains units, all on this host."""
        return self._here.train(units, progress, ready)

    def forget(self, names: Sequence[str]) -> None:
        """Drops checkpoints of blocks."""
        self._here.forget(names)

    def spent(self, seconds: float) -> str:
        """A line on what compiling and training took on this host."""
        return self._here.spent(seconds)

    def collect(self, folders: Sequence[Path]) -> set[str]:
        """Gathers all hosts' rows in host 0's tables.

        Args:
          folders: with rows of this host.

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
                # A run's curve before its row, so that no kill leaves it without.
                self._tables.append(results.CURVES, part[results.CURVES])
                self._tables.append(results.RUNS, part[results.RUNS])
            done = sorted(self._tables.runs)
        return set(json.loads(_exchange(json.dumps(done).encode(), signalled)[0]))

    def clear(self) -> None:
        """Drops this host's directories, as host 0 has the rows."""
        own = self.session.workdir
        for folder in (own, *self._left):
            _keep_params(folder, self._workdir)
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            own.parent.rmdir()


def _check_alike(
    problem: str, names: Sequence[str], signalled: Callable[[], int]
) -> None:
    """Ends all hosts if one has a problem, or if their blocks differ.

    Raises:
      UsageError: on all of them the same.
    """
    own = results.digest([names, NUMERICS_VERSION, jax.__version__])
    found = _exchange(json.dumps([problem, own]).encode(), signalled)
    problems, digests = zip(*map(json.loads, found), strict=True)
    for host, each in enumerate(problems):
        if each:
            raise UsageError(f"host {host}: {each}")
    for host, each in enumerate(digests):
        if each != digests[0]:
            raise UsageError(
                f"--multihost: host {host} would train other blocks than host 0; all "
                "need the same config, data and versions of lrjax and JAX"
            )


def _left_by_others(workdir: Path, number: int, count: int) -> list[Path]:
    """Directories that hosts left which are no more, where this host sees them."""
    folders = (workdir / _HOSTS).glob("*")
    numbers = sorted(int(f.name) for f in folders if f.name.isdecimal())
    mine = [n for n in numbers if n >= count and n % count == number]
    return [workdir / _HOSTS / str(n) for n in mine]


def _exchange(content: bytes, signalled: Callable[[], int]) -> list[bytes]:
    """Every host's bytes, in the order of hosts; waits for all."""
    _wait_for_all(signalled)
    packed = np.frombuffer(zlib.compress(content), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray([len(packed)], np.int32))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(packed)] = packed
    found = multihost_utils.process_allgather(padded)
    found = np.asarray(found).reshape(len(sizes.ravel()), -1)
    return [
        zlib.decompress(each[:size].tobytes())
        for each, size in zip(found, sizes.ravel().tolist(), strict=True)
    ]


def _wait_for_all(signalled: Callable[[], int]) -> None:
    """Waits until all hosts are here, for days if need be, and hears signals.

    An operation over the devices would give up after a while.
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
    """Once interrupted, waits for the others, who were so too.

    One that just ends is a failure to the others, which JAX aborts while they save.
    """
    try:
        yield
    except Interrupted:
        with contextlib.suppress(Exception):  # some may have left or never come
            _meet("farewell", _FAREWELL)
            jax.distributed.shutdown()
        raise


def _meet(name: str, timeout: int) -> None:
    """Waits for all hosts to come to the meeting of a name, so many seconds at most."""
    hosts = set(range(jax.process_count()))
    if len(hosts) > 1:
        ocp.multihost.sync_global_processes(
            f"lrjax {name}", timeout=timeout, processes=hosts
        )


def _keep_params(folder: Path, workdir: Path) -> None:
    """Moves parameters of finished runs to where one process would have put them."""
    for file in (folder / "params").glob("*.safetensors"):
        (workdir / "params").mkdir(exist_ok=True)
        os.replace(file, workdir / "params" / file.name)
