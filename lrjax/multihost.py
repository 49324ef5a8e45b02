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
import dataclasses
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

from lrjax import blocks as blocks_lib
from lrjax import console, experiment, results
from lrjax.config import Settings
from lrjax.core import NUMERICS_VERSION, Interrupted, UsageError, cut

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


def run(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> None:
    """As `experiment.run`, with every host on its share; the same numbers.

    The n-th block belongs to host n modulo the number of hosts, done or not: so a host
    finds what it began itself.

    Raises:
      UsageError: if data or workdir are of no use, or hosts were asked for different
        things; before any training.
      Interrupted: on SIGINT and SIGTERM, once the blocks at hand are saved.
    """
    number, count = jax.process_index(), jax.process_count()
    own, asked = Path(workdir) / _HOSTS / str(number), dict(overrides or {})
    tables, problem, names = None, "", []
    with contextlib.ExitStack() as stack:
        signalled = stack.enter_context(console.signals())
        stack.enter_context(_leaving_together())
        try:
            blocks = blocks_lib.plan(*blocks_lib.load(settings, data_dir))
            names = [block.name for block in blocks]
            if is_first():
                tables = stack.enter_context(results.Tables(workdir))
            part = stack.enter_context(results.Tables(own))
            left = _left_by_others(Path(workdir), number, count)
            for folder in left:
                stack.enter_context(results.Tables(folder))
        except UsageError as error:
            problem = str(error)
        _check_alike(problem, names, signalled)

        metrics = blocks_lib.metrics_of(blocks)

        def record() -> None:
            part.write_config(dataclasses.asdict(settings), asked, metrics)

        if tables:
            tables.write_config(dataclasses.asdict(settings), asked, metrics)
        record()
        part.runs |= _collect(tables, [own, *left], signalled)
        console.say(f"host {number} of {count}:")
        try:
            share = blocks[number::count]
            experiment.train_missing(share, part, settings, signalled, record)
        except UsageError as error:  # of a full disk, say; others go on to their end
            problem = str(error)
        _collect(tables, [own], signalled)
        if problem:
            raise UsageError(problem)
        for folder in (own, *left):
            _keep_params(folder, Path(workdir))
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


def _collect(
    tables: results.Tables | None,
    folders: Sequence[Path],
    signalled: Callable[[], int],
) -> set[str]:
    """Gathers all hosts' rows in host 0's tables.

    Args:
      tables: of host 0; None elsewhere.
      folders: with rows of this host.
      signalled: as from `console.signals`.

    Returns:
      identities of the runs in host 0's tables.
    """
    rows = {
        name: [row for f in folders for row in results.read_rows(f, name)]
        for name in (results.CURVES, results.RUNS)
    }
    parts = map(json.loads, _exchange(json.dumps(rows).encode(), signalled))
    done: list[str] = []
    if tables:
        for part in parts:
            # A run's curve before its row, so that no kill leaves it without.
            tables.append_curves(part[results.CURVES])
            tables.append_runs(part[results.RUNS])
        done = sorted(tables.runs)
    return set(json.loads(_exchange(json.dumps(done).encode(), signalled)[0]))


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
