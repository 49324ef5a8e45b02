"""Lock a working directory, so that one process at a time writes to it."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

from lrjax.common import files, locks
from lrjax.core import UsageError

_NAME = ".lock"


def take(workdir: Path) -> io.FileIO:
    """Make a working directory and take its lock, which closing the file releases.

    Raises:
      UsageError: if the directory cannot be written, another process has the lock, or
        the file system has no locks.
    """
    path = workdir / _NAME
    while True:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            file = files.open_own(path, os.O_RDWR | os.O_CREAT)
        except (OSError, RecursionError, ValueError) as error:
            linked = getattr(error, "errno", None) == errno.ELOOP and path.is_symlink()
            where = f"{workdir}: {_NAME}" if linked else workdir
            raise UsageError(
                f"cannot write to workdir {where}: {files.words(error)}"
            ) from error
        try:
            locks.lock(file)
        except OSError as error:
            file.close()
            raise UsageError(_refusal(workdir, error)) from error
        if _is_at(file, path):  # and was not removed before it was locked
            return file
        file.close()


def check(file: io.FileIO, workdir: Path) -> None:
    """Check that the lock that was taken is still the directory's lock.

    Raises:
      UsageError: if it was removed or replaced: another process may have taken a new
        one.
    """
    if not _is_at(file, workdir / _NAME):
        raise UsageError(
            f"{workdir / _NAME} was removed or replaced while lrjax was running, so "
            "that another process may write there, too; nothing more is written. Run "
            "the same command again to resume"
        )


def _is_at(file: io.FileIO, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except OSError:
        return False


def _refusal(workdir: Path, error: OSError) -> str:
    """Say why a lock was not given."""
    if isinstance(error, BlockingIOError):
        return f"workdir {workdir} is in use by another process"
    return (
        f"cannot lock workdir {workdir}: {files.words(error)}; its file system may "
        "have no locks (some network disks have them only if mounted so): choose a "
        "--workdir on another one"
    )
