"""Write the tables of a working directory, by appending whole lines.

`lrjax.tables` reads them. `config.json` has the config, the versions and the metrics of
each task; `runs.jsonl` a line per finished run; `curves.jsonl` a line per run and
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
from lrjax.identity import finite
from lrjax.tables.reader import (
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
from lrjax.tables.record import (
    describe,
    described,
    load_metrics,
    metric_from,
)

__all__ = [  # with the readers of lrjax.tables
    "CURVES",
    "RACES",
    "RUNS",
    "TRIALS",
    "Hparams",
    "Tables",
    "describe",
    "finished",
    "line",
    "load",
    "load_metrics",
    "metric_from",
    "read_rows",
]

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "smac")


def line(row: Mapping[str, Any]) -> str:
    """Format a row as a line of a table; numbers that are not finite become null."""

    def clean(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    cleaned = {k: clean(v) for k, v in row.items()}
    cleaned |= {k: finite(v) for k, v in row.items() if isinstance(v, Mapping)}
    return json.dumps(cleaned, allow_nan=False) + "\n"


def _key(table: str, row: Mapping[str, Any]) -> Any:
    """Return the key that identifies a row in its table: a value, or a tuple."""
    names = KEYS[table]
    return row[names[0]] if len(names) == 1 else tuple(row[name] for name in names)


class Tables:
    """The tables of a working directory, open for appending by one process.

    Use as a context manager. Entering makes the directory, takes its lock, cuts off
    lines torn by a kill, and reads the keys of the rows that exist; leaving releases
    the lock. Several threads may append.

    Attributes:
      workdir: directory of the tables.
    """

    def __init__(self, workdir: str | os.PathLike[str]):
        self.workdir = Path(workdir)
        self._present: dict[str, set[Any]] = {table: set() for table in KEYS}
        self._appending = threading.Lock()

    @property
    def runs(self) -> set[str]:
        """The `run_id`s of the finished runs."""
        return self._present[RUNS]

    def __enter__(self) -> Self:
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.workdir / ".lock", "w")
        except (OSError, RecursionError) as error:
            reason = getattr(error, "strerror", "too many nested folders")
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
        """Append the rows that a table does not have yet.

        Args:
          table: RUNS, CURVES, TRIALS or RACES.
          rows: rows as `read_rows` returns them.

        Raises:
          UsageError: if they cannot be written; the table is then unchanged.
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
        """Write config.json: the resolved config, overrides, versions and metrics.

        Args:
          config: every field of the config.
          overrides: the fields set on the command line.
          metrics: task -> description of its metrics, from `describe`; other tasks
            keep those in the file.
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
        """Raise UsageError if the directory has results of another numerics version."""
        path = self.workdir / "config.json"
        if not path.exists():
            if any((self.workdir / name).exists() for name in KEYS):
                raise UsageError(f"{self.workdir} holds tables but no config.json")
            return
        try:
            version = json.loads(content(path))["numerics_version"]
        except (ValueError, LookupError, TypeError, RecursionError, OSError) as error:
            raise UsageError(f"{path} is not a config.json that lrjax wrote") from error
        if version != NUMERICS_VERSION:
            raise UsageError(
                f"{self.workdir} holds results of another version (numerics version "
                f"{shown(version)}, not {NUMERICS_VERSION}); choose another --workdir"
            )

    def _recover(self, name: str) -> set[Any]:
        """Return the keys of a table's rows, and cut a torn last line off its file."""
        path = self.workdir / name
        if not os.path.lexists(path):
            return set()
        table, whole_bytes = read_frame(path)
        try:
            if whole_bytes < path.stat().st_size:
                with open(path, "r+b") as file:
                    file.truncate(whole_bytes)
                    os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        columns = [table[key].tolist() for key in KEYS[name]]
        return set(columns[0] if len(columns) == 1 else zip(*columns, strict=True))

    def _append(self, name: str, rows: list[Mapping[str, Any]]) -> None:
        """Append rows to a table's file, all or none of them."""
        if not rows:
            return
        text = "".join(line(row) for row in rows).encode()
        path = self.workdir / name
        try:
            # Unbuffered: closing would write what a failed write left in the buffer.
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
        """Write a file atomically."""
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
    """Write all bytes and flush them to the disk."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that new files survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def finished(workdir: str | os.PathLike[str]) -> set[str]:
    """Read the `run_id`s of a directory's finished runs; empty if there are none.

    Raises:
      UsageError: if the tables are of another numerics version, or damaged.
    """
    tables = Tables(workdir)
    tables.check_version()
    path = tables.workdir / RUNS
    return set(read_frame(path)[0]["run_id"]) if os.path.lexists(path) else set()


@functools.cache
def _git_revision() -> str | None:
    """Return the Git revision of this checkout; None outside of a checkout."""
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
