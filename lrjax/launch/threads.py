"""Threads that train blocks: how many, on which devices, within what memory.

Blocks are independent, so each device trains several at once. On a CPU one block alone
has operations too small to keep all cores busy, while one thread per core with a block
each does. The best number of threads is measured once per kind of model and machine and
cached for the user. It never changes a result.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from lrjax import machine
from lrjax.common import files
from lrjax.core import UsageError

_PROBE_SECONDS = 0.1  # of training, for each number of threads
_PROBE_TURNS = 3
_WORTH = 1.05  # required speed-up from more threads
_QUIET = 0.5  # load per core below which measurements are reliable
_LARGEST = 2**20  # bytes of the file of measurements
_MOST_ELSEWHERE = 4  # most threads on a GPU or TPU


class DeviceLimits:
    """Limits of one device on the blocks that train at the same time.

    Attributes:
      max_blocks: number of blocks.
      memory: bytes for all of them together.
      strict: whether a block that needs more memory is an error; else it is tried
        alone, for devices where a failed allocation does no harm.
    """

    def __init__(self, max_blocks: int, memory: float, strict: bool = True):
        self.max_blocks, self.memory, self.strict = max_blocks, memory, strict
        self._needs: list[float] = []
        self._changed = threading.Condition()

    def check(self, name: str, need: float) -> None:
        """Raise UsageError if a block of `need` bytes will never fit."""
        if self.strict and need > self.memory:
            raise UsageError(
                f"{name}: one block needs {machine.size(need)} of memory, and "
                f"{machine.size(self.memory)} can be used; use fewer seeds or a "
                "smaller grid"
            )

    @contextlib.contextmanager
    def admit(self, name: str, need: float) -> Iterator[None]:
        """Wait until one more block of `need` bytes fits, and hold its place.

        Raises:
          UsageError: if it will never fit.
        """
        self.check(name, need)
        need = min(need, self.memory)
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    len(self._needs) < self.max_blocks
                    and sum(self._needs) + need <= self.memory
                )
            )
            self._needs.append(need)
        try:
            yield
        finally:
            with self._changed:
                self._needs.remove(need)
                self._changed.notify_all()

    def shrink(self) -> bool:
        """Lower the limit on blocks; return False if it is one already."""
        with self._changed:
            if self.max_blocks == 1:
                return False
            self.max_blocks = max(1, min(self.max_blocks, len(self._needs)) - 1)
            return True


def train_all(
    jobs: Sequence[Sequence[Any]],
    workers: int,
    work: Callable[[Any, int], tuple[Any, Sequence[Any]]],
    stopping: Callable[[], int],
    failed: threading.Event,
) -> Iterator[Any]:
    """Run each device's jobs in threads of its own; the first error stops all.

    Args:
      jobs: for each device, its jobs.
      workers: threads per device.
      work: `work(job, device number)` returns a result, or None, and jobs to do
        instead. It should call `stopping` from time to time and raise.
      stopping: whether to stop.
      failed: set after the first error, so that `stopping` can tell other threads.

    Yields:
      results as they come.

    Raises:
      the first error of a job, once all threads have ended.
    """
    queues = [collections.deque(of_device) for of_device in jobs]
    errors: list[BaseException] = []
    results = queue.SimpleQueue[Any]()  # None when a thread ends

    def loop(device: int) -> None:
        """Take a device's jobs until none is left."""
        while not stopping():
            try:
                job = queues[device].popleft()
            except IndexError:
                break
            try:
                result, instead = work(job, device)
                queues[device].extendleft(instead)
                if result is not None:
                    results.put(result)
            except BaseException as error:
                errors.append(error)
                failed.set()
        results.put(None)

    threads = [
        threading.Thread(target=loop, args=(device,), daemon=True)
        for device, waiting in enumerate(queues)
        for _ in range(min(workers, len(waiting)))
    ]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            with contextlib.suppress(queue.Empty):
                result = results.get(timeout=0.2)  # signals are seen in between
                if result is None:
                    running -= 1
                else:
                    yield result
    except BaseException:  # the caller stops early
        failed.set()
        raise
    finally:
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def measured_workers(
    kind: str,
    device: machine.Device,
    cache: Path,
    advances: Callable[[int], list[Callable[[int], Any]]],
    steps: int,
) -> int:
    """The number of parallel blocks that trains fastest on a device (cached).

    Without a measurement on a quiet machine: as many as a CPU has cores, else one.

    Args:
      kind: kind of the model.
      device: to measure.
      cache: file of earlier measurements.
      advances: called with a count; returns that many functions to call at the same
        time, or fewer if memory cannot hold them all. Each trains a block for a given
        number of updates and waits for the result.
      steps: largest number of updates to train.
    """
    cores = machine.usable_cores()
    most = cores if device.platform == "cpu" else _MOST_ELSEWHERE
    if most == 1:
        return 1
    key = f"{kind} {device.platform} {device.device_kind} x{most} jax {jax.__version__}"
    cached = _read_cache(cache).get(key)
    if isinstance(cached, int) and 1 <= cached <= most:
        return cached
    if os.getloadavg()[0] > _QUIET * cores:
        # A measurement beside other work is not worth caching.
        return most if device.platform == "cpu" else 1
    jobs = advances(most)
    if len(jobs) < 2:
        return 1
    fitting = len(jobs)
    counts = [1 << i for i in range(fitting.bit_length()) if 1 << i < fitting]
    counts.append(fitting)
    jobs[0](1)
    updates = 1
    while updates < steps and seconds(jobs[:1], updates) < _PROBE_SECONDS:
        updates = min(2 * updates, steps)
    # Counts take turns, so that other load disturbs all alike.
    times = [
        {count: seconds(jobs[:count], updates) / count for count in counts}
        for _ in range(_PROBE_TURNS)
    ]
    best = 1
    for count in counts[1:]:
        if min(t[best] for t in times) > _WORTH * min(t[count] for t in times):
            best = count
    if fitting == most:  # else more memory may be free another time
        with contextlib.suppress(UsageError):  # without a cache measure again next time
            _write_cache(cache, key, best)
    return best


def seconds(jobs: Sequence[Callable[[int], Any]], steps: int) -> float:
    """Time to run all jobs in parallel, each for `steps` updates, in seconds."""
    threads = [threading.Thread(target=job, args=(steps,)) for job in jobs]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def _read_cache(cache: Path) -> dict[str, int]:
    """Earlier measurements; empty if the file is damaged."""
    try:
        content = json.loads(files.read_own(cache, _LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    pairs = content.items() if isinstance(content, dict) else ()
    return {key: value for key, value in pairs if isinstance(value, int)}


def _write_cache(cache: Path, key: str, value: int) -> None:
    """Add a measurement to the cache file."""
    content = json.dumps(_read_cache(cache) | {key: value}, indent=1) + "\n"
    files.make_folder(cache.parent, cache.parent)
    files.replace(cache, content)
