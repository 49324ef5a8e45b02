"""The record of a race: a file to which lines of JSON are only ever appended.

Its first line has the race's settings; each other one is an event: a job was `begun`,
`reached` or `saved` a step, was `told` or `failed`. Several processes may append.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lrjax.common import files
from lrjax.messages import UsageError
from lrjax.race import lock

NAME = "race.jsonl"
SETTINGS, BEGUN, REACHED, SAVED, TOLD, FAILED = (
    *("settings", "begun", "reached"),
    *("saved", "told", "failed"),
)
_LARGEST = 2**30  # bytes


class Log:
    """The record in a folder.

    Attributes:
      folder: of the race.
    """

    def __init__(self, folder: Path):
        self.folder = files.make_folder(folder, below=folder)
        self._path = folder / NAME
        self._read, self._line = 0, 0  # bytes and lines read so far

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from appending."""
        with lock.held(self.folder / ".lock"):
            yield

    def new(self) -> list[dict[str, Any]]:
        """The events since the last call; a line that a kill has torn is none.

        Raises:
          UsageError: if the file cannot be read, or a line is not one of an event.
        """
        try:
            with files.open_own(self._path) as file:
                file.seek(self._read)
                content = file.read(_LARGEST) or b""
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UsageError(
                f"cannot read {self._path}: {files.words(error)}"
            ) from error
        events = []
        for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            self._read += len(line)
            self._line += 1
            events.append(self._event(line))
        return events

    def _event(self, line: bytes) -> dict[str, Any]:
        """An event from its line."""
        try:
            event = json.loads(line)
            if event["event"] != SETTINGS and type(event["job"]) is not int:
                raise ValueError
            if event["event"] == TOLD:
                event["values"] = {
                    str(k): math.nan if v is None else float(v)
                    for k, v in event["values"].items()
                }
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise UsageError(
                f"{self._path}, line {self._line} is damaged: remove it if it is the "
                "last; else begin the race in another folder"
            ) from None
        return event

    def append(self, event: str, **fields: Any) -> None:
        """Append an event; call it inside `alone`.

        Raises:
          UsageError: if it cannot be written.
        """
        content = json.dumps({"event": event, **plain(fields)}, allow_nan=False)
        with (
            files.writing(self._path),
            files.open_own(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file,
        ):
            self._cut_torn(file)
            files.write_all(file, content.encode() + b"\n")

    def _cut_torn(self, file: Any) -> None:
        """Remove a last line that a killed process has not written to its end."""
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 1))
        if size and file.read(1) != b"\n":
            file.seek(self._read)
            whole = file.read(size).rfind(b"\n") + 1
            os.ftruncate(file.fileno(), self._read + whole)


def plain(value: Any) -> Any:
    """A value as JSON has it: null for NaN, 'inf' for infinity."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "inf" if value == math.inf else None
    return value
