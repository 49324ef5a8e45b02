"""Locks between processes, which the system releases when their holders have died."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path

from lrjax.common import files, locks

_PAUSE = 0.01  # seconds between attempts


def try_take(path: Path) -> io.FileIO | None:
    """Take a lock; None if another holds it, in this process or elsewhere.

    Raises:
      UsageError: if its file cannot be made.
    """
    with files.writing(path):
        file = files.open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            locks.lock(file)
        except BlockingIOError:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        return file


def release(file: io.FileIO) -> None:
    """Give a lock back, also for processes that have inherited its file."""
    if not file.closed:
        locks.unlock(file)
        file.close()


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Wait for a lock that others hold for a moment only, and hold it."""
    while (file := try_take(path)) is None:
        time.sleep(_PAUSE)
    try:
        yield
    finally:
        release(file)
