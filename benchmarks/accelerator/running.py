"""Runs the sides of a part, each in a process with a limit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from benchmarks.accelerator import store
from benchmarks.accelerator.core import AGAIN, ANEW, CPU, Part

ROOT = Path(__file__).resolve().parents[2]
_PAUSE = 0.05  # seconds between two looks at processes
# These need the device alone, one after the other.
_LATER = (AGAIN, ANEW)


class Process(Protocol):
    """What of `subprocess.Popen` is needed."""

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        ...

    def kill(self) -> None:
        """End it."""
        ...

    def wait(self) -> int:
        """Wait for its end."""
        ...


Start = Callable[[Part, str], Process]


def environment(side: str, folder: Path, env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a side's process.

    Programs are kept on disk, so that a process that goes on need not compile again;
    but not those that are to be compiled anew.
    """
    made = dict(env)
    made["JAX_COMPILATION_CACHE_DIR"] = str(folder / "xla")
    made["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    if side == CPU:
        made["JAX_PLATFORMS"] = "cpu"
    if side == ANEW:
        del made["JAX_COMPILATION_CACHE_DIR"]
    return made


def starter(folder: Path, miniature: bool, env: Mapping[str, str]) -> Start:
    """A function that starts the process of a side."""

    def start(part: Part, side: str) -> Process:
        command = [sys.executable, "-m", "benchmarks.accelerator.child"]
        command += [f"--part={part.name}", f"--side={side}", f"--folder={folder}"]
        command += [f"--parent={os.getpid()}", *["--miniature"] * miniature]
        log = folder / f"{part.name}-{side}.log"
        with log.open("ab") as file:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(side, folder, env),
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    return start


def run_part(part: Part, folder: Path, start: Start, seconds: float) -> None:
    """Compute the open items of a part until its time is over.

    Items that were finished stay. An item that ends its process is given up, and the
    others go on; so is one that takes all the time of a part alone.
    """
    ends = time.monotonic() + seconds
    at_once = [side for side in part.sides if side not in _LATER]
    later = [[side] for side in part.sides if side in _LATER]
    for sides in (at_once, *later):
        _run_sides(part, sides, folder, start, ends, seconds)


def _run_sides(
    part: Part,
    sides: list[str],
    folder: Path,
    start: Start,
    ends: float,
    seconds: float,
) -> None:
    """Compute some sides at the same time."""
    running: dict[str, tuple[Process, int, float]] = {}
    waiting = list(sides)
    try:
        while waiting or running:
            for side in list(waiting):
                waiting.remove(side)
                kept = store.Store(folder, part.name, side)
                count = sum(map(kept.is_open, part.items))
                if count and time.monotonic() < ends:
                    process = start(part, side)
                    running[side] = process, count, time.monotonic()
            for side, (process, count, _) in list(running.items()):
                status = process.poll()
                if status is not None:
                    del running[side]
                    if _ended(part, side, folder, status, count):
                        waiting.append(side)
            if time.monotonic() >= ends:
                return
            if running:
                time.sleep(_PAUSE)
    finally:
        for side, (process, count, began) in running.items():
            process.kill()
            process.wait()
            whole = time.monotonic() - began >= 0.9 * seconds
            _stopped(part, side, folder, count, whole, seconds)


def _ended(part: Part, side: str, folder: Path, status: int, count: int) -> bool:
    """Give up the item that ended its process; whether the others can go on."""
    kept = store.Store(folder, part.name, side)
    left = [item for item in part.items if kept.is_open(item)]
    if not left or not status:
        return False
    words = f"its process ended with {_meaning(status)}"
    begun = [item for item in left if kept.begun(item)]
    if not begun and len(left) == count:  # it did not even begin
        begun = left
    for item in begun:
        kept.give_up(item, store.FAILED, words)
    return len(left) > len(begun)


def _stopped(
    part: Part, side: str, folder: Path, count: int, whole: bool, seconds: float
) -> None:
    """Give up an item that took all the time of a part; else it is begun again."""
    kept = store.Store(folder, part.name, side)
    left = [item for item in part.items if kept.is_open(item)]
    for item in left:
        if kept.begun(item) and whole and len(left) == count:
            kept.give_up(item, store.FAILED, f"took more than {seconds:.0f} s")
        kept.end(item)


def _meaning(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
