"""Read what was appended to a file of whole lines since one looked last."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

from lrjax.common import files

_PIECE = 2**20  # bytes read at once, and of the longest line that is read
_KEPT = 64  # bytes before the end by which a file is known again


class Tail:
    """The lines of a table that another process appends to.

    Attributes:
      path: the table.
      skipped: number of lines that were too long to be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self.skipped = 0
        self._seen: tuple[int, ...] | None = None  # of the file, when last looked at
        self._end = 0  # of the whole lines read so far
        self._before = b""  # the last bytes before it
        self._overlong = False  # whether the line that begins there is left out

    def changed(self) -> bool | None:
        """Whether the file has changed; None if it is another one and must be reread.

        Raises:
          OSError: if it cannot be read.
        """
        now = stamp(self.path)
        if now == self._seen:
            return False
        if self._end and (now is None or not self._is_known(now)):
            return None
        return True

    def _is_known(self, now: tuple[int, ...]) -> bool:
        """Whether a file begins with the lines that were read."""
        if self._seen and now[:2] != self._seen[:2]:
            return False
        with files.open_own(self.path) as file:
            file.seek(self._end - len(self._before))
            return file.read(len(self._before)) == self._before

    def pieces(self) -> Iterator[bytes]:
        """Read the whole lines that were appended, as pieces of at most 1 MiB.

        A last line without its newline is left for later.

        Raises:
          OSError: if the file cannot be read.
        """
        now = stamp(self.path)
        if now is not None:
            with files.open_own(self.path) as file:
                yield from self._read(file)
        self._seen = now  # only now: what could not be read is looked at again

    def _read(self, file: io.FileIO) -> Iterator[bytes]:
        """Read the whole lines of an open file that were appended."""
        file.seek(self._end)
        while read := file.read(_PIECE):
            whole = read.rfind(b"\n") + 1
            if not whole:
                if len(read) < _PIECE:
                    return
                self.skipped += not self._overlong
                self._overlong, whole = True, len(read)
            self._end += whole
            self._before = (self._before + read[:whole])[-_KEPT:]
            file.seek(self._end)
            lines = read[:whole]
            if self._overlong and lines.endswith(b"\n"):
                lines, self._overlong = lines[lines.index(b"\n") + 1 :], False
            if lines and not self._overlong:
                yield lines


def stamp(path: Path) -> tuple[int, ...] | None:
    """A file's device, inode, size and time, to see changes; None if it is missing.

    Raises:
      OSError: if it cannot be looked at.
    """
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
