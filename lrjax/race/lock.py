"""Locks between processes, which the system releases when their holder dies."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrjax.common import files

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    _msvcrt: Any = msvcrt

    def _try(file: io.FileIO) -> bool:
        file.seek(0)
        with contextlib.suppress(OSError):
            _msvcrt.locking(file.fileno(), _msvcrt.LK_NBLCK, 1)
            return True
        return False

else:

    def _try(file: io.FileIO) -> bool:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False


_PAUSE = 0.01  # seconds between attempts


def try_take(path: Path) -> io.FileIO | None:
    """Take a lock, which closing the file releases; None if another holds it.

    Raises:
      UsageError: if its file cannot be made.
    """
    with files.writing(path):
        file = files.open_own(path, os.O_RDWR | os.O_CREAT)
        if _try(file):
            return file
        file.close()
        return None


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Wait for a lock that others hold for a moment only, and hold it."""
    while (file := try_take(path)) is None:
        time.sleep(_PAUSE)
    with file:
        yield
