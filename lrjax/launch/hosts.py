"""Training on several hosts: each trains a share of the blocks, host 0 has the tables.

Each host keeps the rows of its share in its own directory `WORKDIR/hosts/NUMBER`, an
ordinary working directory: after a kill its content is not trained again. Rows are sent
to host 0 when hosts start and when all have finished, and host 0 appends what is
missing in its tables. So hosts need no shared file system.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lrjax import console, identity, results
from lrjax.common import files
from lrjax.config import Settings
from lrjax.core import (
    NUMERICS_VERSION,
    Interrupted,
    UsageError,
    cut,
)
from lrjax.launch import deal, leftovers, local, post
from lrjax.launch.blocks import Block
from lrjax.launch.live import Live
from lrjax.launch.units import Outcome, Unit
from lrjax.tables import parts

_PLACE = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
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
      Interrupted: on a signal that stops, once all hosts have saved running blocks.
    """
    home = files.expanded(workdir)
    own = home / leftovers.HOSTS / str(jax.process_index())
    with (
        local.launch(settings, own, data_dir, overrides, home) as here,
        _leaving_together(),
        contextlib.ExitStack() as stack,
    ):
        if not is_first():
            here.session.live = Live(None)
        hosts = Hosts(here, home, stack)
        problem = ""
        try:
            yield hosts
        except UsageError as error:  # such as a full disk; others finish their share
            if not hosts.agreed:
                raise
            problem = str(error)
        hosts.collect()
        if problem:
            raise UsageError(problem)
        hosts.clear()


class Hosts:
    """The `Launcher` that trains this host's share of blocks.

    Shares follow from all blocks and the number of hosts (`lrjax.launch.deal`). Results
    are those of one process.

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
        self._folders: list[Path] = []  # with rows of this host, its own first
        self._sent: dict[Path, int] = {}  # table -> bytes that host 0 has
        self._others: list[Block] = []  # on host 0, what other hosts train

    @property
    def where(self) -> str:
        """The devices of this host."""
        return self._here.where

    def blocks(self, settings: Settings) -> list[Block]:
        """Plan this host's share of blocks; host 0 gathers the rows of all hosts."""
        number, count = jax.process_index(), jax.process_count()
        blocks: list[Block] = []
        dealt: list[list[int]] = []
        problem = ""
        try:
            blocks = self._here.blocks(settings)
            dealt = deal.shares(blocks, count)
            if is_first():
                whole = results.Tables(self._workdir)
                self._tables = self._stack.enter_context(whole)
                leftovers.take_over(self._tables, [leftovers.PARTS])
                self._tables.heard = self.session.live.hear
            files.make_folder(self.session.workdir, below=self._workdir)
            tables = self.session.tables
            left = _left_by_others(self._workdir, number, count)
            for folder in left:
                self._stack.enter_context(results.Tables(folder, self._workdir))
            self._folders = [tables.workdir, *left]
        except UsageError as error:
            problem = str(error)
        plan = [[block.name for block in blocks], dealt]
        _check_alike(problem, plan, self.session.signalled)
        self.agreed = True
        metrics = {block.task_name: block.metrics for block in blocks}
        if self._tables:
            self.session.record(metrics, self._tables)
        self.session.record(metrics)
        self.collect()
        tables.runs.update(self._finished([i for b in blocks for i in b.run_ids]))
        no_cache = " (JAX keeps compiled programs of host 0 only)" * bool(number)
        console.say(f"host {number} of {count}{no_cache}:")
        others = itertools.chain(*dealt[1:]) if is_first() else ()
        self._others = [blocks[i] for i in others]
        return [blocks[i] for i in dealt[number]]

    def train(
        self,
        units: Sequence[Unit],
        progress: Callable[[Unit, int], Any],
        ready: Callable[[], Any] = lambda: None,
    ) -> Iterator[Outcome]:
        """Train units, all on this host."""
        for block in self._others:  # their hosts begin as well
            self.session.live.begin(block.heads)
        return self._here.train(units, progress, ready)

    def forget(self, names: Sequence[str]) -> None:
        """Remove the checkpoints of blocks."""
        self._here.forget(names)

    def spent(self, seconds: float) -> str:
        """Describe in one line what compiling and training took on this host."""
        return self._here.spent(seconds)

    def collect(self) -> None:
        """Append all hosts' rows to host 0's tables, once all hosts are here.

        Raises:
          UsageError: on all hosts, if host 0 cannot write them.
        """
        signalled = self.session.signalled
        _wait_for_all(signalled)
        problem = post.to_first(self._rows(), self._take, signalled)
        problem = post.from_first(problem.encode(), signalled).decode()
        if problem:
            raise UsageError(problem)

    def _rows(self) -> Iterator[bytes]:
        """The rows that host 0 does not have yet: lines of a table, after its name."""
        # A run's curve before its row: a kill leaves no row without a curve.
        paths = [path for f in self._folders for path in parts.unfinished(f)]
        for table in (results.CURVES, results.RUNS):
            paths += [folder / table for folder in self._folders]
        for path in paths:
            for piece in leftovers.lines(path, self._sent.get(path, 0)):
                yield path.name.encode() + b"\n" + piece
                self._sent[path] = self._sent.get(path, 0) + len(piece)

    def _take(self, piece: bytes) -> None:
        """Append rows of a host to the tables of host 0."""
        assert self._tables
        table, _, rows = piece.partition(b"\n")
        leftovers.append(self._tables, table.decode(), rows)

    def _finished(self, run_ids: Sequence[str]) -> set[str]:
        """Those of the planned runs that are in host 0's tables: a bit for each."""
        known = self._tables.runs if self._tables else set()
        bits = np.packbits(np.array([i in known for i in run_ids], bool))
        sent = post.from_first(bits.tobytes(), self.session.signalled)
        bits = np.unpackbits(np.frombuffer(sent, np.uint8), count=len(run_ids))
        return {run_ids[i] for i in np.flatnonzero(bits).tolist()}

    def clear(self) -> None:
        """Remove this host's directories, once host 0 has the rows."""
        for folder in self._folders:
            files.remove_at_once(folder)


def _check_alike(problem: str, plan: Any, signalled: Callable[[], int]) -> None:
    """Stop all hosts if one has a problem, or if their plans differ.

    Args:
      problem: what is wrong on this host; empty if nothing is.
      plan: blocks and shares of all hosts, as this host plans them.
      signalled: returns the signal that came, 0 if none did.

    Raises:
      UsageError: the same on all hosts.
    """
    own = identity.digest([plan, NUMERICS_VERSION, jax.__version__])
    answers: list[list[str]] = []
    _wait_for_all(signalled)
    post.to_first(
        [json.dumps([problem, own]).encode()],
        lambda answer: answers.append(json.loads(answer)),
        signalled,
    )
    verdict = post.from_first(_verdict(answers).encode(), signalled).decode()
    if verdict:
        raise UsageError(verdict)


def _verdict(answers: Sequence[Sequence[str]]) -> str:
    """Describe what is wrong with the answers of all hosts; empty if nothing is.

    Args:
      answers: each host's problem, and the digest of its plan.
    """
    for host, (problem, _) in enumerate(answers):
        if problem:
            return f"host {host}: {problem}"
    for host, (_, digest) in enumerate(answers):
        if digest != answers[0][1]:
            return (
                f"--multihost: host {host} would train other blocks than host 0; all "
                "need the same config, data and versions of lrjax and JAX"
            )
    return ""


def _left_by_others(workdir: Path, number: int, count: int) -> list[Path]:
    """Directories of hosts beyond the present count that this host takes over.

    Args:
      workdir: directory of the tables of all hosts together.
      number, count: this host's number and the number of hosts.
    """
    names = [folder.name for folder in leftovers.folders(workdir, leftovers.HOSTS)]
    numbers = sorted(int(name) for name in names if name.isdecimal())
    mine = [n for n in numbers if n >= count and n % count == number]
    return [workdir / leftovers.HOSTS / str(n) for n in mine]


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
        import orbax.checkpoint as ocp

        ocp.multihost.sync_global_processes(
            f"lrjax {name}", timeout=timeout, processes=hosts
        )
