"""Writes the files of `lrjax.tables.live`: which runs train, how far a command is."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrjax import results
from lrjax.common import files
from lrjax.core import UsageError
from lrjax.tables import live


class Hints:
    """The two files of a working directory; one that cannot be written is let be."""

    def __init__(self, folder: Path):
        """Take the working directory; nothing is opened yet."""
        self._folder = folder
        self._started: set[str] | None = None  # run_ids in the file
        self._lost: set[str] = set()  # names of files that cannot be written

    def started(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append the rows that started.jsonl does not have yet."""
        if self._started is None:
            self._started = set(live.started(self._folder))
        known = self._started
        new = {row["run_id"]: row for row in rows if row["run_id"] not in known}
        known |= set(new)
        if new:
            with self._writing(live.STARTED) as path:
                _append(path, "".join(map(results.line, new.values())))

    def progress(self, content: Mapping[str, Any]) -> None:
        """Replace progress.json."""
        with self._writing(live.PROGRESS) as path:
            files.replace(path, json.dumps(content) + "\n")

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """Yield the path of a file; what fails is one warning."""
        path = self._folder / name
        try:
            with files.writing(path):
                yield path
        except UsageError as error:
            if name not in self._lost:
                with contextlib.suppress(Warning):  # of filters that make it an error
                    warnings.warn(f"{error}; training goes on", stacklevel=2)
            self._lost.add(name)


def _append(path: Path, lines: str) -> None:
    """Append lines to a file, after a new line if its last one is torn."""
    with files.open_own(path, os.O_RDWR | os.O_APPEND | os.O_CREAT) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = file.read(1) not in (b"", b"\n")
        files.write_all(file, ("\n" * torn + lines).encode(), sync=False)
