"""Write the tables of a working directory, by appending whole lines.

`lrjax.tables` reads them. `config.json` has the config, the versions and the metrics of
each task; `runs.jsonl` a line per finished run; `curves.jsonl` a line per run and
evaluation.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
import os
import platform
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from lrjax.common import files, versions
from lrjax.core import NUMERICS_VERSION, UsageError, shown
from lrjax.identity import finite
from lrjax.tables import lock, parts, reader, record, scan
from lrjax.tables.frames import Hparams, load
from lrjax.tables.reader import (
    CURVES,
    KEYS,
    RACES,
    RUNS,
    TRIALS,
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

_T = TypeVar("_T")
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


@dataclasses.dataclass
class _File:
    """A table's file, kept open so that no other file can get its inode.

    Attributes:
      path: where it is.
      file: the open file; None if there is none.
      size: its size in bytes, as far as this process knows.
    """

    path: Path
    file: io.FileIO | None = None
    size: int = 0

    def open(self, flags: int = 0) -> io.FileIO:
        """Open the file, unless it is open."""
        if self.file is None:
            self.file = files.open_own(self.path, os.O_RDWR | os.O_APPEND | flags)
        return self.file

    def note_size(self) -> None:
        """Take the file's present size as known."""
        self.size = os.fstat(self.open().fileno()).st_size

    def check(self) -> None:
        """Raise UsageError if another program removed, replaced or changed the file."""
        try:
            now = os.lstat(self.path)
        except FileNotFoundError:
            now = None
        except OSError as error:
            words = files.words(error)
            raise UsageError(f"cannot read {self.path}: {words}") from error
        if self.file is None:
            what = now and "made"
        elif now is None:
            what = "removed"
        elif not os.path.samestat(now, os.fstat(self.file.fileno())):
            what = "replaced"
        else:
            what = now.st_size != self.size and "changed"
        if what:
            raise UsageError(
                f"{self.path} was {what} by another program while lrjax was running; "
                "nothing more is written. Run the same command again to go on with "
                "what is there"
            )


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
      runs: the `run_id`s of the finished runs.
      heard: called with each table and the rows that it got.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        publish_in: str | os.PathLike[str] | None = None,
    ):
        """Take the directory, and the one that gets curves in parts.

        Args:
          workdir: directory of the tables.
          publish_in: directory in which curves of finished blocks are published
            (`lrjax.tables.parts`); None: curves are rows of CURVES.
        """
        self.workdir = Path(workdir)
        self._in_parts = publish_in is not None
        self._home = Path(workdir if publish_in is None else publish_in)
        self.runs: set[str] = set()
        self.heard: Callable[[str, Sequence[Mapping[str, Any]]], Any] = lambda *_: None
        self._present: dict[str, set[Any]] = {TRIALS: set(), RACES: set()}
        self._steps: dict[str, set[int]] = {}  # of runs whose curve is not complete
        self._files: dict[Path, _File] = {}
        self._appending = threading.Lock()

    def __enter__(self) -> Self:
        self._lock = lock.take(self.workdir)
        try:
            self.check_version()
            files.remove_unfinished(self.workdir)
            path = self.workdir
            for table in (TRIALS, RACES):
                keys = self._recover(path / table, reader.read_keys)
                self._present[table] = keys or set()
            self.runs = self._recover(path / RUNS, reader.read_keys) or set()
            steps = self._recover(
                path / CURVES, lambda path: scan.unfinished(path, self.runs)
            )
            self._steps = steps or {}
            for path in parts.unfinished(self.workdir):
                self._recover_part(path)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for known in self._files.values():
            if known.file:
                known.file.close()
        self._lock.close()

    def append(
        self, table: str, rows: Iterable[Mapping[str, Any]], block: str = ""
    ) -> None:
        """Append the rows that a table does not have yet.

        A run's curve is complete once it has curve rows and a row of RUNS; more curve
        rows of it are left out.

        Args:
          table: RUNS, CURVES, TRIALS or RACES.
          rows: rows as `read_rows` returns them.
          block: name of the block that the rows belong to, which has finished with
            rows of RUNS; '' for rows of no block or of several.

        Raises:
          UsageError: if they cannot be written, or another program has changed the
            files since; the table is then unchanged.
        """
        with self._appending:
            fresh: dict[Any, Mapping[str, Any]] = {}
            for row in rows:
                if not self._has(table, key := _key(table, row)):
                    fresh.setdefault(key, row)
            part, path = parts.table_of(self.workdir, block), self.workdir / table
            if table == CURVES and block and self._in_parts:
                files.make_folder(part.parent, below=self.workdir)
                path = part
            is_end = table == RUNS and part in self._files
            if is_end:
                self._files[part].check()
                parts.publish(part, self._home)
            self._append(path, list(fresh.values()))
            if is_end:
                self._remove_part(part)
            for key in fresh:
                self._note(table, key)
            self.heard(table, list(fresh.values()))

    def _has(self, table: str, key: Any) -> bool:
        """Whether a table has a row, or needs none."""
        if table == CURVES:
            run_id, step = key
            steps = self._steps.get(run_id)
            return run_id in self.runs if steps is None else step in steps
        return key in (self.runs if table == RUNS else self._present[table])

    def _note(self, table: str, key: Any) -> None:
        """Note that a table has a row."""
        if table == CURVES:
            run_id, step = key
            self._steps.setdefault(run_id, set()).add(step)
        elif table == RUNS:
            self.runs.add(key)
            if not self._steps.pop(key, None):
                self._steps[key] = set()  # its curve may follow
        else:
            self._present[table].add(key)

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
        found = versions.installed(_PACKAGES)
        record = {
            "config": config,
            "overrides": overrides,
            "numerics_version": NUMERICS_VERSION,
            "versions": found | {"python": platform.python_version()},
            "git_revision": _git_revision(),
            "metrics": {**described(self.workdir), **(metrics or {})},
        }
        self.replace("config.json", json.dumps(record, indent=2) + "\n")

    def check_version(self) -> None:
        """Raise UsageError if the directory has results of another numerics version."""
        path = self.workdir / "config.json"
        if not os.path.lexists(path):
            if any(os.path.lexists(self.workdir / name) for name in KEYS):
                raise UsageError(f"{self.workdir} holds tables but no config.json")
            return
        try:
            content = files.read_own(path, record.LARGEST)
            version = json.loads(content)["numerics_version"]
        except OSError as error:
            raise UsageError(f"cannot read {path}: {files.words(error)}") from error
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise UsageError(f"{path} is not a config.json that lrjax wrote") from error
        if version != NUMERICS_VERSION:
            raise UsageError(
                f"{self.workdir} holds results of another version (numerics version "
                f"{shown(version)}, not {NUMERICS_VERSION}); choose another --workdir"
            )

    def check(self) -> None:
        """Check that the tables are still those that this object writes.

        Raises:
          UsageError: if another program has removed, replaced or changed one.
        """
        lock.check(self._lock, self.workdir)
        for file in self._files.values():
            file.check()

    def _recover_part(self, path: Path) -> None:
        """Read a block's own curve rows; publish them if all its runs are finished."""
        steps = self._recover(path, lambda path: scan.unfinished(path, self.runs))
        for run_id, found in (steps or {}).items():
            self._steps.setdefault(run_id, set()).update(found)
        if not steps:
            parts.publish(path, self._home)
            self._remove_part(path)

    def _remove_part(self, path: Path) -> None:
        """Remove a block's own table, whose rows are published."""
        known = self._files.pop(path)
        if known.file:
            known.file.close()
        files.remove_folder(path.parent)

    def _recover(self, path: Path, read: Callable[[Path], tuple[_T, int]]) -> _T | None:
        """Read a table, and end its file with a whole line.

        Args:
          path: the table.
          read: returns what is read, and the size of the whole lines in bytes.

        Returns:
          what is read; None if there is no such table.
        """
        known = self._files.setdefault(path, _File(path))
        if not os.path.lexists(path):
            return None
        content, whole_bytes = read(path)
        with files.writing(path):
            file = known.open()
            size = file.seek(0, os.SEEK_END)
            if whole_bytes < size:
                file.truncate(whole_bytes)
                os.fsync(file.fileno())
            elif whole_bytes > size:
                files.write_all(file, b"\n")
            known.note_size()
        return content

    def _append(self, path: Path, rows: list[Mapping[str, Any]]) -> None:
        """Append rows to a table's file, all or none of them."""
        known = self._files.setdefault(path, _File(path))
        lock.check(self._lock, self.workdir)
        known.check()
        if not rows:
            return
        text = "".join(line(row) for row in rows).encode()
        with files.writing(path):
            file = known.open(os.O_CREAT | os.O_EXCL)
            try:
                files.write_all(file, text)
            except OSError:
                file.truncate(known.size)
                raise
            if not known.size:
                files.sync_folder(path.parent)
            known.note_size()

    def replace(self, name: str, text: str) -> None:
        """Write a file of the working directory atomically."""
        lock.check(self._lock, self.workdir)
        files.replace(self.workdir / name, text)


def finished(workdir: str | os.PathLike[str]) -> set[str]:
    """Read each `run_id` of a directory's finished runs; empty if there are none.

    Raises:
      UsageError: if the tables are of another numerics version, or damaged.
    """
    tables = Tables(workdir)
    tables.check_version()
    path = tables.workdir / RUNS
    return reader.read_keys(path)[0] if os.path.lexists(path) else set()


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
