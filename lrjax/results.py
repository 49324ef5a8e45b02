"""The tables of a working directory: appended by whole lines, read into pandas.

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
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from lrjax.core import NUMERICS_VERSION, Metric, UsageError, counted
from lrjax.identity import canonical, digest, finite, run_fields, run_id, tuned_name

__all__ = [  # identities are made in `lrjax.identity`
    "CURVES",
    "RACES",
    "RUNS",
    "TRIALS",
    "Tables",
    "canonical",
    "digest",
    "finished",
    "line",
    "load",
    "load_races",
    "load_rows",
    "load_trials",
    "run_fields",
    "run_id",
    "tuned_name",
]
from lrjax.core import shown
from lrjax.reading import reason

RUNS, CURVES, TRIALS = "runs.jsonl", "curves.jsonl", "trials.jsonl"
RACES = "races.jsonl"
# What tells the rows of a table apart.
_KEYS = {
    RUNS: ("run_id",),
    CURVES: ("run_id", "step"),
    TRIALS: ("tuning", "trial"),
    RACES: ("race", "rung", "contender", "seed"),
}
# What else every row of a table has.
_ALWAYS = {
    TRIALS: ("task", "method", "hparams", "budget", "cost", "status", "incumbent"),
    RACES: ("task", "method", "hparams", "steps", "status", "valid_loss"),
}
# What all readers rely on: a row without them is damaged where others have them.
_TEXTS = ("task", "protocol", "method", "status")
_NEEDED = (*_TEXTS, "hparams", "seed", "steps")
_NUMBERS = ("learning_rate", "steps", "horizon", "diverged_at", "seconds", "examples")
_NUMBERS += ("epoch", "last_batch_loss", "mean_batch_loss", "budget", "cost")
_NUMBERS += ("max_budget",)
_NUMBER, _SCALAR = {int, float, type(None)}, {str, bool, int, float, type(None)}
_NAMES = (*_TEXTS, "run_id", "tuning", "race", "tuner", "unit", "block", "source")
_NAMES += ("tuned_by",)
_COUNTS = ("seed", "step", "trial", "rung", "contender")
# What a field may be; nobody looks at others.
_TYPES: dict[str, set[type]] = {
    **{name: {str} for name in _NAMES},
    **dict.fromkeys(_NUMBERS, _NUMBER),
    **{name: {int} for name in _COUNTS},
    "hparams": {dict},
    "incumbent": {bool},
}
_LARGEST = 2**63  # of whole numbers; pandas has no larger ones
_PARTS = ("train_", "valid_", "test_")  # columns of metrics begin so
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "smac")


class Hparams(dict[str, Any]):
    """Hyperparameters of a run: a dictionary that pandas can group and sort by.

    As any dictionary it is equal to one with the same items and becomes JSON; it cannot
    be changed. `dict(hparams)` and `hparams | {...}` give dictionaries that can.

    Example:
      >>> runs, _ = results.load("runs/quickstart")
      >>> runs.groupby(["method", "hparams"])["valid_loss"].mean()
    """

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(_frozen(self))

    def __lt__(self, other: Mapping[str, Any]) -> bool:
        return _order(self) < _order(other)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hparams, (dict(self),)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("hyperparameters of a run cannot be changed; change a copy")

    __setitem__ = __delitem__ = __ior__ = pop = popitem = clear = _refuse
    update = setdefault = _refuse  # pyright: ignore[reportAssignmentType]


def _frozen(value: Any) -> Any:
    """A value that has a hash; of equal values it is the same."""
    if isinstance(value, Mapping):
        return frozenset((name, _frozen(each)) for name, each in value.items())
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _order(value: Any) -> tuple[Any, ...]:
    """What values of any kind are sorted by: numbers by size, before all others."""
    if isinstance(value, Mapping):
        return 0, sorted((name, _order(each)) for name, each in value.items())
    if isinstance(value, int | float):
        return 1, value
    return 2, canonical(value)


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
    names = _KEYS[table]
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
        self._present: dict[str, set[Any]] = {table: set() for table in _KEYS}
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
            self._present = {table: self._recover(table) for table in _KEYS}
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
          rows: as `load` and `load_rows` return them.

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

    def _recover(self, name: str) -> set[Any]:
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
        columns = [table[key].tolist() for key in _KEYS[name]]
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


def _content(path: Path) -> bytes:
    """A file's bytes; of a pipe they might never come."""
    if not path.is_file():
        raise OSError(0, "it is no regular file")
    return path.read_bytes()


def _read(path: Path) -> tuple[pd.DataFrame, int]:
    """A table, and the length of its whole lines in bytes; warns if there is more."""
    try:
        content = _content(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        warnings.warn(
            f"{path}: dropped a torn last line of "
            f"{counted(len(content) - whole, 'byte')}",
            stacklevel=3,
        )
    if not whole:
        return pd.DataFrame(columns=list(_KEYS[path.name])), 0
    table = _numbers(content, whole) if path.name == CURVES else None
    if table is None:
        table = pd.DataFrame(_rows(path, content[:whole]))  # or says what is damaged
    return table, whole


def _rows(path: Path, lines: bytes) -> list[dict[str, Any]]:
    """Rows of a table's whole lines, each of which must be sound and there once."""
    key = _KEYS[path.name]
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number, text in enumerate(lines.split(b"\n")[:-1], 1):
        try:
            row = parse_row(text)
            found = tuple(row[name] for name in key)
            for name in _ALWAYS.get(path.name, ()):
                row[name]
        except KeyError as error:
            raise UsageError(
                f"{path}: line {number} is damaged: it has no {error}"
            ) from error
        except ValueError as error:
            raise UsageError(f"{path}: line {number} is damaged: {error}") from error
        if found in rows:
            raise UsageError(f"{path}: line {number} repeats an earlier row")
        rows[found] = row
    for name in _NEEDED:
        lacking = [
            number for number, row in enumerate(rows.values(), 1) if name not in row
        ]
        if 0 < len(lacking) < len(rows):
            raise UsageError(
                f"{path}: line {lacking[0]} is damaged: it has no '{name}'"
            )
    return list(rows.values())


def parse_row(line: bytes) -> dict[str, Any]:
    """A row of any table from its line.

    Raises:
      ValueError: if it is no JSON object, or a field has a type or number that rows
        never have; in a few words.
    """
    try:
        row = _JSON.decode(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(reason(error)) from error
    if type(row) is not dict:
        raise ValueError(f"{shown(row)} is no row")
    for name, value in row.items():
        kinds = {type(value)}
        kinds = _NUMBER if name.startswith(_PARTS) else _TYPES.get(name, kinds)
        if not _is_sound(value, kinds) or (value == "" and kinds == {str}):
            raise ValueError(f"{shown(name)} is {shown(value)}")
    hparams: dict[str, Any] = row.get("hparams", {})
    if not all(_is_sound(each, _SCALAR) for each in hparams.values()):
        raise ValueError(f"'hparams' is {shown(hparams)}, which is not flat")
    for name in _COUNTS:
        if row.get(name, 0) < 0:
            raise ValueError(f"'{name}' is {row[name]}")
    steps = row.get("steps")
    if steps is not None and steps < 1:
        raise ValueError(f"'steps' is {steps}")
    return row


def _is_sound(value: Any, kinds: set[type]) -> bool:
    """Whether a value has one of some types, and a number can be reckoned with."""
    if type(value) is int and not -_LARGEST <= value < _LARGEST:
        return False
    if type(value) is float and not math.isfinite(value):
        return False
    return type(value) in kinds


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


_JSON = json.JSONDecoder(parse_constant=_no_number)


def finished(workdir: str | os.PathLike[str]) -> set[str]:
    """Identities of the runs in a directory's tables; it is only read, or not there.

    Raises:
      UsageError: if the tables are of another version, or damaged.
    """
    tables = Tables(workdir)
    tables.check_version()
    path = tables.workdir / RUNS
    return set(_read(path)[0]["run_id"]) if os.path.lexists(path) else set()


def describe(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    """What a reader of tables must know of metrics, the first of which ranks."""
    names = ("name", "higher_is_better", "unit", "digits", "least", "greatest")
    return [
        {name: _bounded(getattr(metric, name)) for name in names} for metric in metrics
    ]


def _bounded(value: Any) -> Any:
    """None for a bound that is not there: JSON has no infinity."""
    return None if isinstance(value, float) and math.isinf(value) else value


def metric_from(described: Any) -> Metric:
    """A metric as `describe` wrote it; it can be shown, and not computed.

    Raises:
      UsageError: if it was not written by `describe`.
    """

    def value(sums: Any) -> Any:
        raise UsageError(f"metric '{described['name']}' was read from a file")

    try:
        fields = dict(described)
        for name, bound in (("least", -math.inf), ("greatest", math.inf)):
            if fields[name] is None:
                fields[name] = bound
        return Metric(value=value, **fields)
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(f"no metric: {shown(described)}") from error


def load_metrics(workdir: str | os.PathLike[str]) -> dict[str, tuple[Metric, ...]]:
    """Task -> its metrics, the first of which ranks, as config.json has them.

    Nothing where it does not say.

    Raises:
      UsageError: if what it says is damaged.
    """
    path = Path(workdir) / "config.json"
    try:
        return {
            task: tuple(map(metric_from, metrics))
            for task, metrics in _described(workdir).items()
            if metrics
        }
    except (TypeError, UsageError) as error:
        raise UsageError(f"{path}: its metrics are damaged: {error}") from error


def _described(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """The metrics in a directory's config.json, as they stand there."""
    try:
        found = json.loads(_content(Path(workdir) / "config.json"))["metrics"]
    except (ValueError, LookupError, TypeError, RecursionError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def load(workdir: str | os.PathLike[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reads runs and curves into tidy frames, a row per line of the tables.

    `hparams` is a dictionary that can be grouped by (`Hparams`); numbers that were not
    finite are NaN.

    Raises:
      UsageError: if there is no table, or a line but the last is damaged or comes
        twice.
    """
    for name in (RUNS, CURVES):
        if not (Path(workdir) / name).exists():
            raise UsageError(f"{workdir} holds no results: there is no {name}")
    runs, curves = _read(Path(workdir) / RUNS)[0], _read(Path(workdir) / CURVES)[0]
    if "hparams" in runs:
        runs["hparams"] = runs["hparams"].map(Hparams)
    return runs, curves


def load_trials(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of trials.jsonl; none where there is no such table.

    Raises:
      UsageError: if a line but the last is damaged or comes twice.
    """
    return load_rows(Path(workdir) / TRIALS)


def load_races(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of races.jsonl; none where there is no such table.

    Raises:
      UsageError: if a line but the last is damaged or comes twice.
    """
    return load_rows(Path(workdir) / RACES)


def load_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table as they were appended; none where there is no such table.

    Raises:
      UsageError: if a line but the last is damaged or comes twice.
    """
    if not path.exists():
        return []
    try:
        content = _content(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return _rows(path, content[: content.rfind(b"\n") + 1])


def _numbers(content: bytes, whole: int) -> pd.DataFrame | None:
    """A table of numbers by columns: a fifth of the time and a third of the memory.

    None if it is damaged, or has other things than numbers.
    """
    import pyarrow
    from pyarrow import json as columnar

    if b"NaN" in content or b"Infinity" in content:
        return None  # which it reads, though they are not JSON
    lines = pyarrow.py_buffer(content).slice(0, whole)
    key = {"run_id": pyarrow.string(), "step": pyarrow.int64()}
    try:
        table = columnar.read_json(pyarrow.BufferReader(lines))
        sound = all(table.schema.field(name).type == key[name] for name in key)
        sound = sound and not any(table[name].null_count for name in key)
        # It reads over empty lines.
        sound = sound and table.num_rows == content.count(b"\n")
        frame = table.to_pandas()
        sound = sound and not frame.duplicated(list(key)).any()
        sound = sound and (frame["run_id"] != "").all() and (frame["step"] >= 0).all()
    except (pyarrow.ArrowException, KeyError, TypeError, UnicodeDecodeError):
        return None
    if not sound:
        return None
    empty = [name for name in frame if frame[name].isna().all()]
    frame = frame.astype(dict.fromkeys(empty, float))
    kinds = {name: kind.kind for name, kind in frame.dtypes.items() if name != "run_id"}
    if not set(kinds.values()) <= {"i", "f"}:
        return None
    endless = any(np.isinf(frame[n]).any() for n, kind in kinds.items() if kind == "f")
    return None if endless else frame


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
