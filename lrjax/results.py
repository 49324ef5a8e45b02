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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from lrjax.core import NUMERICS_VERSION, UsageError, shown
from lrjax.identity import canonical, digest, finite, run_fields, run_id, tuned_name
from lrjax.record import describe, load_metrics, metric_from
from lrjax.record import described as _described
from lrjax.tables import CURVES, RACES, RUNS, TRIALS, Hparams, load, read_rows
from lrjax.tables import KEYS as _KEYS
from lrjax.tables import content as _content
from lrjax.tables import read_frame as _read

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


class Tables:
    """The tables of one working directory, open for appending by one process.

    Use as a context manager. Entering makes the directory, takes its lock, cuts off
    lines torn by a kill, and reads which rows are there; leaving gives the lock back.

    Attributes:
      runs: identities of the finished runs.
      curves: (run_id, step) of the curve rows present.
      trials: (tuning, trial) of the trials present.
      races: (race, rung, contender, seed) of the rows of races present.
    """

    def __init__(self, workdir: str | os.PathLike[str]):
        self.workdir = Path(workdir)
        self.runs: set[str] = set()
        self.curves: set[tuple[str, int]] = set()
        self.trials: set[tuple[str, int]] = set()
        self.races: set[tuple[str, int, int, int]] = set()

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
            self.runs = {run_id for (run_id,) in self._recover(RUNS)}
            self.curves = self._recover(CURVES)
            self.trials = self._recover(TRIALS)
            self.races = self._recover(RACES)
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def append_runs(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends the rows of runs that are not there yet."""
        rows = [r for r in rows if r["run_id"] not in self.runs]
        self._append(RUNS, rows)
        self.runs |= {r["run_id"] for r in rows}

    def append_curves(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends the curve rows that are not there yet."""
        rows = [r for r in rows if (r["run_id"], r["step"]) not in self.curves]
        self._append(CURVES, rows)
        self.curves |= {(r["run_id"], r["step"]) for r in rows}

    def append_trials(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends the trials that are not there yet."""
        rows = [r for r in rows if (r["tuning"], r["trial"]) not in self.trials]
        self._append(TRIALS, rows)
        self.trials |= {(r["tuning"], r["trial"]) for r in rows}

    def append_races(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends the rows of races that are not there yet."""

        def key(row: Mapping[str, Any]) -> tuple[str, int, int, int]:
            return row["race"], row["rung"], row["contender"], row["seed"]

        rows = [r for r in rows if key(r) not in self.races]
        self._append(RACES, rows)
        self.races |= {key(r) for r in rows}

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
        content = {
            "config": config,
            "overrides": overrides,
            "numerics_version": NUMERICS_VERSION,
            "versions": versions | {"python": platform.python_version()},
            "git_revision": _git_revision(),
            "metrics": {**_described(self.workdir), **(metrics or {})},
        }
        self.replace("config.json", json.dumps(content, indent=2) + "\n")

    def check_version(self) -> None:
        """Raises UsageError if what is there is not of this version."""
        path = self.workdir / "config.json"
        if not path.exists():
            if any((self.workdir / name).exists() for name in _KEYS):
                raise UsageError(f"{self.workdir} holds tables but no config.json")
            return
        try:
            found = json.loads(_content(path))["numerics_version"]
        except (ValueError, LookupError, TypeError, RecursionError, OSError) as error:
            raise UsageError(f"{path} is not a config.json that lrjax wrote") from error
        if found != NUMERICS_VERSION:
            raise UsageError(
                f"{self.workdir} holds results of another version (numerics version "
                f"{shown(found)}, this is {NUMERICS_VERSION}); choose another --workdir"
            )

    def _recover(self, name: str) -> set[tuple[Any, ...]]:
        """What tells a table's rows apart; cuts a torn last line off the file."""
        path = self.workdir / name
        if not os.path.lexists(path):
            return set()
        table, whole = _read(path)
        try:
            if whole < path.stat().st_size:
                with open(path, "r+b") as file:
                    file.truncate(whole)
                    os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        return set(zip(*(table[key].tolist() for key in _KEYS[name]), strict=True))

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
    return set(_read(path)[0]["run_id"]) if os.path.lexists(path) else set()


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
