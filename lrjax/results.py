"""The tables of a working directory: appended by whole lines, read by `lrjax.tables`.

`config.json` says what was asked for, with which versions, and what the metrics of each
task are; `runs.jsonl` has a line per finished run, `curves.jsonl` a line per run and
evaluation.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from lrjax.core import NUMERICS_VERSION, UsageError, shown
from lrjax.identity import canonical, digest, finite, run_fields, run_id, tuned_name
from lrjax.record import describe, described, load_metrics, metric_from
from lrjax.tables import (
    CURVES,
    KEYS,
    RACES,
    RUNS,
    TRIALS,
    Hparams,
    content,
    load,
    read_frame,
    read_rows,
)

__all__ = [  # all that others need of tables; identities are made in `lrjax.identity`
    "CURVES",
    "RACES",
    "RUNS",
    "TRIALS",
    "Hparams",
    "Tables",
    "canonical",
    "describe",
    "digest",
    "finished",
    "line",
    "load",
    "load_metrics",
    "metric_from",
    "read_rows",
    "run_fields",
    "run_id",
    "tuned_name",
]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "smac")


def line(row: Mapping[str, Any]) -> str:
    """A table's line: keys in the given order, numbers that are not finite as null."""

    def clean(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    cleaned = {k: clean(v) for k, v in row.items()}
    cleaned |= {k: finite(v) for k, v in row.items() if isinstance(v, Mapping)}
    return json.dumps(cleaned, allow_nan=False) + "\n"


def _key(table: str, row: Mapping[str, Any]) -> Any:
    """What tells a table's rows apart: a value, or a tuple of them."""
    names = KEYS[table]
    return row[names[0]] if len(names) == 1 else tuple(row[name] for name in names)


class Tables:
    """The tables of one working directory, open for appending by one process.

    Use as a context manager. Entering makes the directory, takes its lock, cuts off
    lines torn by a kill, and reads which rows are there; leaving gives the lock back.
    Several threads may append.

    Attributes:
      workdir: the directory.
    """

    def __init__(self, workdir: str | os.PathLike[str]):
        self.workdir = Path(workdir)
        self._present: dict[str, set[Any]] = {table: set() for table in KEYS}
        self._appending = threading.Lock()

    @property
    def runs(self) -> set[str]:
        """Identities of the finished runs."""
        return self._present[RUNS]

    def __enter__(self) -> Self:
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.workdir / ".lock", "w")
        except (OSError, RecursionError) as error:
            reason = getattr(error, "strerror", "too many folders in each other")
            raise UsageError(
                f"cannot write to workdir {self.workdir}: {reason}"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise UsageError(
                f"workdir {self.workdir} is in use by another process"
            ) from error
        try:
            self.check_version()
            self._present = {table: self._recover(table) for table in KEYS}
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def append(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends the rows that a table does not have yet.

        Args:
          table: RUNS, CURVES, TRIALS or RACES.
          rows: as `read_rows` returns them.

        Raises:
          UsageError: if they cannot be written; the table is then as it was.
        """
        with self._appending:
            fresh: dict[Any, Mapping[str, Any]] = {}
            for row in rows:
                if (key := _key(table, row)) not in self._present[table]:
                    fresh.setdefault(key, row)
            self._append(table, list(fresh.values()))
            self._present[table] |= fresh.keys()

    def write_config(
        self,
        config: Mapping[str, Any],
        overrides: Any,
        metrics: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    ) -> None:
        """Writes config.json: the resolved config, overrides, versions, metrics.

        Args:
          config, overrides: for the record.
          metrics: task -> as from `describe`; other tasks keep theirs.
        """
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
        record = {
            "config": config,
            "overrides": overrides,
            "numerics_version": NUMERICS_VERSION,
            "versions": versions | {"python": platform.python_version()},
            "git_revision": _git_revision(),
            "metrics": {**described(self.workdir), **(metrics or {})},
        }
        self.replace("config.json", json.dumps(record, indent=2) + "\n")

    def check_version(self) -> None:
        """Raises UsageError if what is there is not of this version."""
        path = self.workdir / "config.json"
        if not path.exists():
            if any((self.workdir / name).exists() for name in KEYS):
                raise UsageError(f"{self.workdir} holds tables but no config.json")
            return
        try:
            found = json.loads(content(path))["numerics_version"]
        except (ValueError, LookupError, TypeError, RecursionError, OSError) as error:
            raise UsageError(f"{path} is not a config.json that lrjax wrote") from error
        if found != NUMERICS_VERSION:
            raise UsageError(
                f"{self.workdir} holds results of another version (numerics version "
                f"{shown(found)}, this is {NUMERICS_VERSION}); choose another --workdir"
            )

    def _recover(self, name: str) -> set[Any]:
        """What tells a table's rows apart; cuts a torn last line off the file."""
        path = self.workdir / name
        if not os.path.lexists(path):
            return set()
        table, whole = read_frame(path)
        try:
            if whole < path.stat().st_size:
                with open(path, "r+b") as file:
                    file.truncate(whole)
                    os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        columns = [table[key].tolist() for key in KEYS[name]]
        return set(columns[0] if len(columns) == 1 else zip(*columns, strict=True))

    def _append(self, name: str, rows: list[Mapping[str, Any]]) -> None:
        if not rows:
            return
        text = "".join(line(row) for row in rows).encode()
        path = self.workdir / name
        try:
            # Without a buffer: what is left in one is written on closing, after all.
            with open(path, "ab", buffering=0) as file:
                start = file.seek(0, os.SEEK_END)
                try:
                    _write(file, text)
                except OSError:
                    file.truncate(start)
                    raise
            if not start:
                _sync_folder(self.workdir)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error

    def replace(self, name: str, text: str) -> None:
        """Writes a file whole or not at all."""
        path = self.workdir / name
        temporary = path.with_suffix(".tmp")
        try:
            with open(temporary, "wb", buffering=0) as file:
                _write(file, text.encode())
            os.replace(temporary, path)
            _sync_folder(self.workdir)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _write(file: io.FileIO, content: bytes) -> None:
    """Writes all of it, down to the disk."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes the names of new files in a folder outlast a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def finished(workdir: str | os.PathLike[str]) -> set[str]:
    """Identities of the runs in a directory's tables; it is only read, or not there.

    Raises:
      UsageError: if the tables are of another version, or damaged.
    """
    tables = Tables(workdir)
    tables.check_version()
    path = tables.workdir / RUNS
    return set(read_frame(path)[0]["run_id"]) if os.path.lexists(path) else set()


@functools.cache
def _git_revision() -> str | None:
    """The revision of the checkout that this file belongs to, None outside of one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            check=False,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
