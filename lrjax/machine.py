"""Kind and memory of the devices of this machine, and its cores."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import jax

Device: TypeAlias = Any  # jax.Device; typed Any because the stubs lack it

_USABLE = 0.8  # part of the free memory that blocks may use
_instead: list[str] = []  # the kind that `compiling_for` names; empty outside of it


def kind() -> str:
    """The kind of device that programs are made for: 'cpu', 'gpu' or 'tpu'."""
    return _instead[-1] if _instead else jax.default_backend()


def is_here() -> bool:
    """Whether programs run where they are made, and not inside of `compiling_for`."""
    return not _instead


@contextlib.contextmanager
def compiling_for(kind: str) -> Iterator[None]:
    """Make programs for a kind of device that need not be here, to compile them only.

    Args:
      kind: 'cpu', 'gpu' or 'tpu'.
    """
    _instead.append(kind)
    try:
        yield
    finally:
        _instead.pop()


def usable_cores() -> int:
    """Count the cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def free_memory(device: Device) -> float:
    """Return the bytes of a device that blocks may use; infinite if unknown."""
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        limit = stats.get("bytes_limit", float("inf"))
        return _USABLE * (limit - stats.get("bytes_in_use", 0))
    free = [float("inf")]
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        meminfo = dict(line.split(":", 1) for line in lines)
        free.append(1024.0 * int(meminfo["MemAvailable"].split()[0]))
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # 'max' where there is no limit
        limit = int((group / "memory.max").read_text())
        free.append(limit - int((group / "memory.current").read_text()))
    return _USABLE * min(free)


def size(count: float) -> str:
    """Format a number of bytes: '1.5 GiB'."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def resident_memory() -> float:
    """Peak host memory of this process, in bytes; 0 on Windows, which does not say.

    On Linux with its children's, such as that of the process that shows results.
    """
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    own = float(peak) * (1 if sys.platform == "darwin" else 1024)
    return own + sum(map(_peak_of, _children()))


def _children() -> list[str]:
    """Numbers of the processes that the main thread has begun; [] if unknown."""
    number = os.getpid()
    try:
        return Path(f"/proc/{number}/task/{number}/children").read_text().split()
    except OSError:
        return []


def _peak_of(process: str) -> float:
    """Peak memory of another process, in bytes; 0 if it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)
    return 1024.0 * int(found[1]) if found else 0.0
