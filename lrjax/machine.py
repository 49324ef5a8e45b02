"""What this machine has: cores, and memory that is free."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, TypeAlias

Device: TypeAlias = Any  # a jax.Device, which JAX's stubs do not type

_USABLE = 0.8  # of the memory that is free at the start


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
