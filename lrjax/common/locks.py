"""Lock open files between processes; the system releases what a dead process held."""

from __future__ import annotations

import io
import sys

if sys.platform == "win32":
    import msvcrt

    def _lock(file: io.FileIO) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

    def unlock(file: io.FileIO) -> None:
        """Give a lock back, also for processes that have inherited the file."""
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(file: io.FileIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def unlock(file: io.FileIO) -> None:
        """Give a lock back, also for processes that have inherited the file."""
        fcntl.flock(file, fcntl.LOCK_UN)


def lock(file: io.FileIO) -> None:
    """Lock a file for this process alone, at once or not at all.

    Raises:
      BlockingIOError: if another process, or another open file of this one, has it.
      OSError: if the file system has no locks.
    """
    try:
        _lock(file)
    except PermissionError as error:  # so Windows says that another has it
        raise BlockingIOError(*error.args) from error
