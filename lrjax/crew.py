"""Threads that train blocks: how many at once, on which devices, in what memory.

Blocks do not know of each other, so each device trains several at once: on a CPU one
thread with one block per core leaves all cores busy where one block alone, whose
operations are small, leaves them waiting for each other. How many is measured once per
kind of model and machine and kept in the user's cache. It never changes a number.
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
from typing import Any, TypeAlias

import jax

from lrjax.core import UsageError

Device: TypeAlias = Any  # of JAX; its own name for it is no type

_PROBE_SECONDS = 0.1  # of training, for each number of threads tried
_PROBE_TURNS = 3
_WORTH = 1.05  # more threads must be this much faster
_QUIET = 0.5  # load per core below which the machine is free to be measured
_MOST_ELSEWHERE = 4  # threads tried on a GPU or TPU
_USABLE = 0.8  # of the memory that is free at the start


class Room:
    """What one device has room for.

    Attributes:
      most: blocks at once.
      memory: bytes for all of them together.
      refuses: what needs more than that; else it is tried alone, for where a failed
        allocation does no harm.
    """

    def __init__(self, most: int, memory: float, refuses: bool = True):
        self.most, self.memory, self.refuses = most, memory, refuses
        self._inside: list[float] = []
        self._changed = threading.Condition()

    def check(self, name: str, need: float) -> None:
        """Raises UsageError if there never will be room for a block of `need` bytes."""
        if self.refuses and need > self.memory:
            raise UsageError(
                f"{name}: one block needs {size(need)} of memory, and "
                f"{size(self.memory)} can be used; take fewer seeds or a smaller grid"
            )

    @contextlib.contextmanager
    def enter(self, name: str, need: float) -> Iterator[None]:
        """Waits until there is room for one more block of `need` bytes.

        Raises:
          UsageError: if there never will be.
        """
        self.check(name, need)
        need = min(need, self.memory)
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    len(self._inside) < self.most
                    and sum(self._inside) + need <= self.memory
                )
            )
            self._inside.append(need)
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(need)
                self._changed.notify_all()

    def shrink(self) -> bool:
        """Lets fewer in from now on; False if it was one at a time already."""
        with self._changed:
            if self.most == 1:
                return False
            self.most = max(1, min(self.most, len(self._inside)) - 1)
            return True


def train_all(
    jobs: Sequence[Sequence[Any]],
    workers: int,
    work: Callable[[Any, int], tuple[Any, Sequence[Any]]],
    stopping: Callable[[], int],
    failed: threading.Event,
) -> Iterator[Any]:
    """Works off each device's jobs in threads of its own; the first error ends all.

    Args:
      jobs: for each device.
      workers: threads per device.
      work: `work(job, device number)` returns a result, None if there is none, and jobs
        to do in its place. It should look at `stopping` from time to time and raise.
      stopping: whether to end; called by `work` too.
      failed: set after the first error, so that `stopping` can tell others.

    Yields:
      results as they come.

    Raises:
      the first error of a job, once all threads have ended.
    """
    queues = [collections.deque(each) for each in jobs]
    errors: list[BaseException] = []
    results = queue.SimpleQueue[Any]()  # None when a thread ends

    def loop(device: int) -> None:
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
    except BaseException:  # the caller wants no more
        failed.set()
        raise
    finally:
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def measured_workers(
    kind: str,
    device: Device,
    cache: Path,
    advances: Callable[[int], list[Callable[[int], Any]]],
    steps: int,
) -> int:
    """How many blocks at once train fastest on a device.

    Without a measurement on a quiet machine, as many as a CPU has cores, else one.

    Args:
      kind: of the model.
      device: where.
      cache: file in which to keep what was measured.
      advances: called with a count; returns that many functions to call at the same
        time, or fewer where memory does not hold them all. Each trains a block for a
        number of updates and waits for the result.
      steps: most updates to ask for.
    """
    cores = usable_cores()
    most = cores if device.platform == "cpu" else _MOST_ELSEWHERE
    if most == 1:
        return 1
    key = f"{kind} {device.platform} {device.device_kind} x{most} jax {jax.__version__}"
    known = _kept(cache).get(key)
    if isinstance(known, int) and 1 <= known <= most:
        return known
    if os.getloadavg()[0] > _QUIET * cores:
        # What is measured beside other work is not worth keeping.
        return most if device.platform == "cpu" else 1
    jobs = advances(most)
    if len(jobs) < 2:
        return 1
    held = len(jobs)
    counts = [1 << i for i in range(held.bit_length()) if 1 << i < held] + [held]
    jobs[0](1)
    asked = 1
    while asked < steps and seconds(jobs[:1], asked) < _PROBE_SECONDS:
        asked = min(2 * asked, steps)
    # In turns, so that what else the machine does disturbs all alike.
    times = [
        {count: seconds(jobs[:count], asked) / count for count in counts}
        for _ in range(_PROBE_TURNS)
    ]
    best = 1
    for count in counts[1:]:
        if min(t[best] for t in times) > _WORTH * min(t[count] for t in times):
            best = count
    if held == most:  # else more memory may be free another time
        with contextlib.suppress(OSError):  # it is measured again next time
            _keep(cache, key, best)
    return best


def seconds(jobs: Sequence[Callable[[int], Any]], steps: int) -> float:
    """How long it takes to call all at the same time, each for so many updates."""
    threads = [threading.Thread(target=job, args=(steps,)) for job in jobs]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def _kept(cache: Path) -> dict[str, int]:
    """What was measured before; nothing where the file is damaged."""
    try:
        content = json.loads(cache.read_text()) if cache.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    pairs = content.items() if isinstance(content, dict) else ()
    return {key: value for key, value in pairs if isinstance(value, int)}


def _keep(cache: Path, key: str, value: int) -> None:
    content = json.dumps(_kept(cache) | {key: value}, indent=1) + "\n"
    cache.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(content)
    os.replace(temporary, cache)


def usable_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def free_memory(device: Device) -> float:
    """Bytes of a device that blocks may take; infinite where it does not say."""
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit", float("inf"))
        return _USABLE * (limit - stats.get("bytes_in_use", 0))
    free = [float("inf")]
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = dict(line.split(":", 1) for line in lines)
        free.append(1024.0 * int(found["MemAvailable"].split()[0]))
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # 'max' where there is no limit
        limit = int((group / "memory.max").read_text())
        free.append(limit - int((group / "memory.current").read_text()))
    return _USABLE * min(free)


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
