"""The record of a race: a file to which lines of JSON are only ever appended.

Its first line has the race's settings; each other one is an event: a job was `begun`,
`reached` or `saved` a step, was `told` or has `failed`. Several processes may append.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lrjax.common import files
from lrjax.messages import UsageError
from lrjax.race import lock

NAME = "race.jsonl"
SETTINGS, BEGUN, REACHED = "settings", "begun", "reached"
SAVED, TOLD, FAILED = "saved", "told", "failed"
_LARGEST = 2**30  # bytes


class Log:
    """The record in a folder.

    Attributes:
      folder: of the race; an absolute path, since trainers may go elsewhere.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{folder} is a file, not the folder of a race")
        self._path = self.folder / NAME
        self._read, self._line = 0, 0  # bytes and lines read so far

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from appending."""
        files.make_folder(self.folder, below=self.folder)
        with lock.held(self.folder / ".lock"):
            yield

    def new(self) -> list[dict[str, Any]]:
        """The events since the last call; a line that a kill has torn is none.

        Raises:
          UsageError: if the file cannot be read, or a line is not one of an event.
        """
        try:
            with files.open_own(self._path) as file:
                self._check_size(file)
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
            try:
                events.append(_event(line, first=self._line == 1))
            except (LookupError, TypeError, ValueError, RecursionError, OverflowError):
                raise self.damaged(self._line) from None
        return events

    def damaged(self, line: int) -> UsageError:
        """The error for a line that is not what lrjax has written."""
        return UsageError(
            f"{self._path}, line {line} is damaged: remove it if it is the last; else "
            "begin the race in another folder"
        )

    def append(self, event: str, **fields: Any) -> None:
        """Append an event; call it inside `alone`.

        Raises:
          UsageError: if it cannot be written.
        """
        content = json.dumps({"event": event, **encoded(fields)}, allow_nan=False)
        with (
            files.writing(self._path),
            files.open_own(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as file,
        ):
            self._check_size(file)
            self._cut_torn(file)
            # What a job has reached decides nothing, and may come often.
            files.write_all(file, content.encode() + b"\n", sync=event != REACHED)

    def _check_size(self, file: Any) -> None:
        """Refuse a file that is shorter than what was read of it."""
        if os.fstat(file.fileno()).st_size < self._read:
            raise UsageError(f"{self._path} was changed by another program")

    def _cut_torn(self, file: Any) -> None:
        """Remove a last line that a killed process has not written to its end."""
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 1))
        if size and file.read(1) != b"\n":
            file.seek(self._read)
            whole = file.read(size).rfind(b"\n") + 1
            os.ftruncate(file.fileno(), self._read + whole)


def _event(line: bytes, first: bool) -> dict[str, Any]:
    """An event from its line.

    Args:
      line: of the file.
      first: whether it is its first, which has the settings.

    Raises:
      LookupError, TypeError, ValueError, RecursionError, OverflowError: if it is none.
    """
    event = json.loads(line, object_hook=decoded)
    kind = event["event"]
    if first != (kind == SETTINGS):
        raise ValueError
    if first:
        return {"event": kind, "settings": {**event["settings"]}}
    for check in _FIELDS[kind], {"job": _count}:
        event |= {name: read(event[name]) for name, read in check.items()}
    return event


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError
    return value


def _values(value: Mapping[str, Any]) -> dict[str, float]:
    return {k: math.nan if v is None else float(v) for k, v in {**value}.items()}


_FIELDS: dict[str, dict[str, Callable[[Any], Any]]] = {
    BEGUN: {},
    REACHED: {"step": _count, "values": _values},
    SAVED: {"step": _count},
    TOLD: {"values": _values, "seconds": float},
    FAILED: {"reason": str, "seconds": float},
}


def encoded(value: Any) -> Any:
    """A value as JSON has it: null for NaN, {"float": "inf"} for infinity."""
    if isinstance(value, Mapping):
        return {k: encoded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encoded(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else {"float": str(value)}
    return value


def decoded(value: dict[str, Any]) -> Any:
    """An object of JSON, or the infinity that it stands for."""
    infinite = value.keys() == {"float"} and value["float"] in ("inf", "-inf")
    return float(value["float"]) if infinite else value
