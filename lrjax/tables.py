"""What the tables of a working directory hold, and how they are read.

A table is a file with a row of JSON on each line. `load` reads the runs and their
curves into pandas, `read_rows` any table into dictionaries; both refuse the same damage
with the same words.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrjax.core import UsageError, counted, shown
from lrjax.identity import canonical
from lrjax.reading import reason

RUNS, CURVES, TRIALS = "runs.jsonl", "curves.jsonl", "trials.jsonl"
RACES = "races.jsonl"
# What tells the rows of a table apart.
KEYS = {
    RUNS: ("run_id",),
    CURVES: ("run_id", "step"),
    TRIALS: ("tuning", "trial"),
    RACES: ("race", "rung", "contender", "seed"),
}
# What else every row of a table has.
_ALWAYS = {
    TRIALS: (
        *("task", "method", "hparams", "budget", "cost", "status", "incumbent", "unit"),
        *("tuner", "seed"),
    ),
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
    runs, curves = (read_frame(Path(workdir) / name)[0] for name in (RUNS, CURVES))
    if "hparams" in runs:
        runs["hparams"] = runs["hparams"].map(Hparams)
    return runs, curves


def read_rows(workdir: str | os.PathLike[str], table: str) -> list[dict[str, Any]]:
    """Reads the rows of a table as they were appended; none where there is no table.

    Args:
      workdir: where the tables are.
      table: a name of `KEYS`, such as `TRIALS`.

    Raises:
      UsageError: if a line but the last is damaged or comes twice.
    """
    path = Path(workdir) / table
    return _rows(path, _whole_lines(path)) if path.exists() else []


def read_frame(path: Path) -> tuple[pd.DataFrame, int]:
    """Reads a table into a frame; also gives the bytes of its whole lines.

    Raises:
      UsageError: if it cannot be read, or a line but the last is damaged or comes
        twice.
    """
    lines = _whole_lines(path)
    if not lines:
        return pd.DataFrame(columns=list(KEYS[path.name])), 0
    frame = _numbers(lines) if path.name == CURVES else None
    if frame is None:
        frame = pd.DataFrame(_rows(path, lines))  # or says what is damaged
    return frame, len(lines)


def content(path: Path) -> bytes:
    """A file's bytes; of a pipe they might never come.

    Raises:
      OSError: if it is no regular file, or cannot be read.
    """
    if not path.is_file():
        raise OSError(0, "it is no regular file")
    return path.read_bytes()


def _whole_lines(path: Path) -> bytes:
    """A table without what follows its last line break, of which it warns."""
    try:
        found = content(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    whole = found.rfind(b"\n") + 1
    if whole < len(found):
        warnings.warn(
            f"{path}: dropped a torn last line of "
            f"{counted(len(found) - whole, 'byte')}",
            stacklevel=4,
        )
    return found[:whole]


def _rows(path: Path, lines: bytes) -> list[dict[str, Any]]:
    """Rows of a table's whole lines, each of which must be sound and there once."""
    key = KEYS[path.name]
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number, text in enumerate(lines.split(b"\n")[:-1], 1):
        try:
            row = _parse(text)
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


def _parse(line: bytes) -> dict[str, Any]:
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
    budget = row.get("budget", 1)
    if budget is None or budget <= 0:
        raise ValueError(f"'budget' is {budget}")
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


def _numbers(lines: bytes) -> pd.DataFrame | None:
    """A table of numbers by columns: a fifth of the time and a third of the memory.

    None if it is damaged, or has other things than numbers.
    """
    import pyarrow
    from pyarrow import json as columnar

    if b"NaN" in lines or b"Infinity" in lines:
        return None  # which it reads, though they are not JSON
    key = {"run_id": pyarrow.string(), "step": pyarrow.int64()}
    try:
        table = columnar.read_json(pyarrow.BufferReader(pyarrow.py_buffer(lines)))
        sound = all(table.schema.field(name).type == key[name] for name in key)
        sound = sound and not any(table[name].null_count for name in key)
        # It reads over empty lines.
        sound = sound and table.num_rows == lines.count(b"\n")
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
