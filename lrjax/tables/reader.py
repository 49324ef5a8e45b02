"""Read the tables of a working directory: files with a row of JSON on each line.

`read_frame` reads a table into pandas, `read_rows` into dictionaries; both refuse the
same damage with the same words.
"""

from __future__ import annotations

import functools
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrjax.common import files
from lrjax.common.reading import reason
from lrjax.core import UsageError, counted, encodable, shown

if TYPE_CHECKING:
    import pandas as pd

RUNS, CURVES, TRIALS = "runs.jsonl", "curves.jsonl", "trials.jsonl"
RACES = "races.jsonl"
PIECE = 2**20  # bytes read at once; more does not fit in a core's cache
# Columns whose values identify a row of a table.
KEYS = {
    RUNS: ("run_id",),
    CURVES: ("run_id", "step"),
    TRIALS: ("tuning", "trial"),
    RACES: ("race", "contender", "run"),
}
# Other columns that every row of a table has.
_ALWAYS = {
    TRIALS: (
        *("task", "method", "hparams", "budget", "cost", "status", "incumbent", "unit"),
        *("tuner", "seed"),
    ),
    RACES: ("task", "method", "hparams", "steps", "status", "valid_loss"),
}
# Required columns: if some rows have one and a row lacks it, that row is damaged.
_TEXTS = ("task", "protocol", "method", "status")
_NEEDED = (*_TEXTS, "hparams", "seed", "steps")
_NUMBERS = ("learning_rate", "steps", "horizon", "diverged_at", "seconds", "examples")
_NUMBERS += ("epoch", "last_batch_loss", "mean_batch_loss", "budget", "cost")
_NUMBERS += ("max_budget", "trained")
_NUMBER, _SCALAR = {int, float, type(None)}, {str, bool, int, float, type(None)}
_NAMES = (*_TEXTS, "run_id", "tuning", "race", "tuner", "unit", "block", "source")
_NAMES += ("tuned_by",)
_COUNTS = ("seed", "step", "trial", "run", "contender")
# Types of columns; other columns are not checked.
_TYPES: dict[str, set[type]] = {
    **{name: {str} for name in _NAMES},
    **dict.fromkeys(_NUMBERS, _NUMBER),
    **{name: {int} for name in _COUNTS},
    "hparams": {dict},
    "incumbent": {bool},
}
_LARGEST = 2**63  # bound of whole numbers, that of pandas
_PARTS = ("train_", "valid_", "test_")  # starts of the columns of metrics


def read_rows(workdir: str | os.PathLike[str], table: str) -> list[dict[str, Any]]:
    """Read the rows of a table in the order of its lines; [] if there is no table.

    Args:
      workdir: directory of the tables.
      table: a name of `KEYS`, such as `TRIALS`.

    Raises:
      UsageError: if a line is damaged or contradicts another. A torn last line is
        dropped with a warning.
    """
    path = Path(workdir) / table
    return _rows(path, whole_lines(path)) if os.path.lexists(path) else []


def read_frame(path: Path) -> pd.DataFrame:
    """Read a table into a frame.

    Raises:
      UsageError: if it cannot be read, or a line is damaged or contradicts another.
    """
    import pandas as pd

    lines = whole_lines(path)
    if not lines:
        return pd.DataFrame(columns=list(KEYS[path.name]))
    frame = numbers(lines) if path.name == CURVES else None
    return _frame(_rows(path, lines)) if frame is None else frame


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """A frame of rows; pandas 3 refuses strings that UTF-8 lacks, which are escaped."""
    import pandas as pd

    try:
        return pd.DataFrame(rows)
    except UnicodeEncodeError:
        return pd.DataFrame(
            {k: encodable(v) if isinstance(v, str) else v for k, v in row.items()}
            for row in rows
        )


def read_keys(path: Path) -> tuple[set[Any], int]:
    """Read the keys of a table's rows: values, or tuples of them.

    Returns:
      the keys, and the size of the whole lines in bytes, each with its newline.

    Raises:
      UsageError: as `read_frame`.
    """
    lines = whole_lines(path)
    keys = {key for key, _ in _distinct(path, lines)}
    return {key[0] if len(key) == 1 else key for key in keys}, len(lines)


def whole_lines(path: Path) -> bytes:
    """Read a table's whole lines; drop a torn last line with a warning.

    A last line that is whole but for its newline gets one: editors leave it out.

    Raises:
      UsageError: if it cannot be read.
    """
    try:
        text = files.read_own(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {files.words(error)}") from error
    whole = text.rfind(b"\n") + 1
    if whole == len(text):
        return text
    return text[:whole] + last_line(path, text[whole:])


def pieces(path: Path, start: int = 0) -> Iterator[bytes]:
    """Read a table as pieces of whole lines; the last one may lack its newline.

    Args:
      path: the table.
      start: where a line begins, in bytes.

    Raises:
      OSError: if it cannot be read.
    """
    with files.open_own(path) as file:
        file.seek(start)
        rest = b""
        while read := file.read(PIECE):
            whole, newline, tail = read.rpartition(b"\n")
            if newline:
                yield rest + whole + newline
                rest = tail
            else:
                rest += read
        if rest:
            yield rest


def last_line(path: Path, text: bytes) -> bytes:
    """Return what follows a table's last newline as a line; b"" if it is torn."""
    if not text:
        return b""
    try:
        row = _parse(text)
        if set(row).issuperset(KEYS[path.name]):
            return text + b"\n"
    except ValueError:
        pass
    warnings.warn(
        f"{path}: dropped a torn last line of {counted(len(text), 'byte')}",
        stacklevel=2,
    )
    return b""


def _rows(path: Path, lines: bytes) -> list[dict[str, Any]]:
    """Parse a table's whole lines; raise UsageError as `_distinct`."""
    return [row for _, row in _distinct(path, lines)]


def _distinct(
    path: Path, lines: bytes
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Parse a table's whole lines one after the other.

    Yields:
      key and row of each line, but for those that repeat an earlier one.

    Raises:
      UsageError: if a line is damaged or contradicts another.
    """
    begins: dict[tuple[Any, ...], int] = {}
    lacking = dict.fromkeys(_NEEDED, 0)
    begin, number = 0, 0
    while begin < len(lines):
        end, number = lines.index(b"\n", begin), number + 1
        key, row = row_of(path, number, lines[begin:end])
        first = begins.setdefault(key, begin)
        if first == begin:
            for name in _NEEDED:
                lacking[name] += name not in row
            yield key, row
        else:
            earlier = _parse(lines[first : lines.index(b"\n", first)])
            check_equal(path, number, row, earlier)
        begin = end + 1
    for name, count in lacking.items():
        if 0 < count < len(begins):
            texts = enumerate(lines.split(b"\n"), 1)
            number = next(n for n, text in texts if name not in _parse(text))
            raise UsageError(f"{path}: line {number} is damaged: it has no '{name}'")


def row_of(
    path: Path, number: int, text: bytes
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Parse a line of a table; return the row's key and the row.

    Args:
      path: the table.
      number: the line's number, for messages.
      text: the line, without its newline.

    Raises:
      UsageError: if the line is damaged.
    """
    try:
        row = _parse(text)
        for name in _ALWAYS.get(path.name, ()):
            row[name]
        return tuple(row[name] for name in KEYS[path.name]), row
    except KeyError as error:
        raise UsageError(
            f"{path}: line {number} is damaged: it has no {error}"
        ) from error
    except ValueError as error:
        raise UsageError(f"{path}: line {number} is damaged: {error}") from error


def check_equal(
    path: Path, number: int, row: Mapping[str, Any], earlier: Mapping[str, Any]
) -> None:
    """Check that a row equals an earlier one with the same key.

    Raises:
      UsageError: if they differ in more than the time taken.
    """
    if _results(earlier) != _results(row):
        raise UsageError(
            f"{path}: line {number} repeats an earlier row with other values"
        )


def _results(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without the time it took, the only value that may differ."""
    return {name: value for name, value in row.items() if name != "seconds"}


def _parse(line: bytes) -> dict[str, Any]:
    """Parse a line of any table.

    Raises:
      ValueError: if it is not a JSON object, or a field has an invalid type or value;
        the message is a few words.
    """
    try:
        row = _JSON.decode(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(reason(error)) from error
    if type(row) is not dict:
        raise ValueError(f"{shown(row)} is not an object")
    for (name, value), kinds in zip(row.items(), _types(tuple(row)), strict=True):
        if not _is_sound(value, kinds or {type(value)}) or (
            value == "" and kinds == {str}
        ):
            raise ValueError(f"{shown(name)} is {shown(value)}")
    hparams: dict[str, Any] = row.get("hparams", {})
    if not all(_is_sound(value, _SCALAR) for value in hparams.values()):
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


@functools.lru_cache(256)  # rows of a table have the same columns
def _types(names: tuple[str, ...]) -> list[set[type] | None]:
    """Types of columns; None for one of any type."""
    return [_NUMBER if n.startswith(_PARTS) else _TYPES.get(n) for n in names]


def _is_sound(value: Any, kinds: set[type]) -> bool:
    """Whether a value has one of the types, and a number is finite and fits int64."""
    if type(value) is int and not -_LARGEST <= value < _LARGEST:
        return False
    if type(value) is float and not math.isfinite(value):
        return False
    return type(value) in kinds


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not valid JSON")


_JSON = json.JSONDecoder(parse_constant=_no_number)


def numbers(lines: bytes) -> pd.DataFrame | None:
    """Parse a table of numbers with Arrow; None if it is damaged or has other values.

    Takes a fifth of the time and a third of the memory of `_rows`.

    Args:
      lines: whole lines of curves.jsonl.
    """
    import pyarrow
    from pyarrow import json as columnar

    if b"NaN" in lines or b"Infinity" in lines:
        return None  # not JSON, but Arrow would accept them
    key = {"run_id": pyarrow.string(), "step": pyarrow.int64()}
    try:
        table = columnar.read_json(pyarrow.BufferReader(pyarrow.py_buffer(lines)))
        sound = all(table.schema.field(name).type == key[name] for name in key)
        sound = sound and not any(table[name].null_count for name in key)
        # Arrow skips empty lines.
        sound = sound and table.num_rows == lines.count(b"\n")
        frame = table.to_pandas()
        if frame.duplicated(list(key)).any():
            frame = frame.drop_duplicates(ignore_index=True)  # equal rows: no conflict
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
