"""Runs of a CSV file: a row for each run, or for each run and step."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lrjax.common import files, packed
from lrjax.common.reading import reading
from lrjax.core import UsageError, counted, cut, listed, shown, unknown
from lrjax.elsewhere import configs, names
from lrjax.elsewhere.columns import Choices
from lrjax.elsewhere.records import Record

_MAX_BYTES = 2**28  # of a file, decompressed
_MAX_COLUMNS = 10_000
_FOLDERS = 3  # above a file, whose names count: TASK/METHOD/version_0/metrics.csv
_LAST_STEP = 1e15  # above it, floats are no longer all whole numbers
_EMPTY = {"", "none", "null", "na", "n/a"}
_NOT_FINITE = {"nan", "inf", "+inf", "-inf", "infinity", "-infinity"}
_UNNAMED = re.compile(r"(Unnamed: \d+)?")  # numbers of rows, as pandas writes them


def read(place: str, choices: Choices) -> tuple[list[Record], Choices]:
    """Read the runs of a CSV file, which may be compressed (.gz, .xz, .bz2).

    Raises:
      UsageError: if it cannot be read, or a row is damaged or contradicts another.
    """
    rows = table(place)
    if any(" - " in name and name.endswith("__MIN") for name in rows):
        raise UsageError(
            f"{place} is a chart of Weights & Biases: read it with wandb:{place}"
        )
    return records(place, rows, choices), choices


def table(place: str) -> pd.DataFrame:
    """Read a CSV file as texts, '' for empty cells.

    Raises:
      UsageError: if it cannot be read, has no row or a column twice, or a row is short.
    """
    path = files.expanded(place)
    with reading(place, ""), packed.open_given(path, _MAX_BYTES) as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise UsageError(f"{place} is written as UTF-16; save it as UTF-8")
        file.seek(0)
        text = io.TextIOWrapper(file, "utf-8-sig", newline="")
        reader = csv.reader(text, strict=True)
        lines = [[cell.strip() for cell in row] for row in reader if row]
    if not lines:
        raise UsageError(f"{place} is empty")
    header = lines[0]
    signs = {";": "semicolons", "\t": "tabs", "|": "bars"}
    sign = next((sign for sign in signs if sign in header[0]), "")
    if sign and len(header) == 1:
        raise UsageError(f"{place} has {signs[sign]} between its columns, not commas")
    if header[0].startswith("#") and any(len(row) != len(header) for row in lines):
        raise UsageError(f"{place} begins with a comment, not with names of columns")
    if len(header) > _MAX_COLUMNS:
        raise UsageError(f"{place} has {len(header):,} columns")
    if twice := [name for name in header if header.count(name) > 1]:
        raise UsageError(f"{place} has the column '{cut(twice[0])}' twice")
    if not lines[1:]:
        raise UsageError(f"{place} holds no row below its header")
    for number, row in enumerate(lines[1:], 1):
        if len(row) != len(header):
            raise UsageError(
                f"{place}: row {number} has {counted(len(row), 'value')} for "
                f"{counted(len(header), 'column')}; is the file whole?"
            )
    return pd.DataFrame(lines[1:], columns=header, dtype=object)


def records(
    place: str, rows: pd.DataFrame, choices: Choices, each_row: bool = False
) -> list[Record]:
    """Make the runs of a table.

    Args:
      place: where it is from.
      rows: as returned by `table`.
      choices: what the user said.
      each_row: whether each row is a run, whatever its name.

    Raises:
      UsageError: if a column is missing, a cell that must be a number is none, or two
        rows contradict each other.
    """
    ignored = [name for name in choices.ignore if name in rows]
    rows = rows.drop(columns=ignored)
    rows = rows.drop(columns=[name for name in rows if _UNNAMED.fullmatch(name)])
    for column in choices.roles.values():
        if column not in rows:
            raise unknown(f"column of {place}", column, rows)
    run, step, epoch = (choices.column(r, rows) for r in ("run", "step", "epoch"))
    numbers = _numbers(place, rows, choices)
    holes = _holes(numbers, choices)
    clock = step if step in numbers else epoch if epoch in numbers else None
    if each_row or clock is None:
        at, owner = pd.Series(0, rows.index), pd.Series(rows.index, rows.index)
        if not each_row:
            _check_once(place, rows, run, choices)
    else:
        at = _steps(place, numbers[clock])
        owner = _owners(place, rows, numbers, holes, at, run, choices)
    named = run and any(names.number(text) is None for text in rows[run])
    of_path = _guessed(place, bool(named or choices.column("method", rows)))
    rows = rows.mask(rows.apply(lambda cells: cells.str.lower().isin(_EMPTY)))
    runs = []
    for _, cells in rows.groupby(owner, sort=False):
        name = str(cells[run].fillna("").iloc[0]) if run else ""
        guessed = {**of_path}
        if named and name:
            guessed |= names.guess(name.split("/"))
        others = cells.drop(columns=[c for c in (run, clock) if c])
        fields, series = _contents(others, numbers, holes, at, choices)
        if clock and clock == epoch:
            steps = at[cells.index].drop_duplicates().sort_values()
            series[clock] = pd.Series(steps.to_numpy(), steps.to_numpy())
        name = name if name and not each_row else f"row {cells.index[0] + 1} {name}"
        fields |= dict.fromkeys(ignored)  # so that they are known to be there
        runs.append(Record(name, fields, series, guessed))
    return runs


def _guessed(place: str, method_known: bool) -> Mapping[str, Any]:
    """Settings of runs that the names of a file and its folders give.

    The name is the task if the runs say their methods, else the method, and the task is
    the folder.
    """
    *folders, file = files.expanded(place).absolute().parts[-_FOLDERS - 1 :]
    stem = file.partition(".")[0]
    found = {"method": stem, **names.guess([*folders, stem])}
    folder = found.get("task", found["method"]).rpartition("/")[2]
    return {**found, "task": found["method"] if method_known else folder}


def _contents(
    cells: pd.DataFrame,
    numbers: Mapping[str, pd.Series],
    holes: pd.DataFrame,
    at: pd.Series,
    choices: Choices,
) -> tuple[dict[str, Any], dict[str, pd.Series]]:
    """Constant and changing columns of a run's rows; NaN for empty cells."""
    fields: dict[str, Any] = {}
    series: dict[str, pd.Series] = {}
    rate = choices.column("learning_rate", cells)
    for column in cells:
        present = cells[column].dropna()
        metric = column in numbers and choices.metric(column)
        if metric:
            present = _filled(present, numbers[column], holes[column], at)
        elif column in numbers:
            present = present[present.str.lower() != "nan"]
        if not len(present):
            continue
        stays = present.nunique() == 1
        if column in numbers and (metric or not stays or column == rate):
            steps = at[present.index].to_numpy()
            values = pd.Series(numbers[column][present.index].to_numpy(), steps)
            values = values.sort_index(kind="stable")
            series[column] = values[~values.index.duplicated(keep="last")]
        if stays and not metric:
            fields |= _field(column, present.iloc[0])
    return fields, series


def _holes(numbers: Mapping[str, pd.Series], choices: Choices) -> pd.DataFrame:
    """Mask of NaN that may mean that a metric was not measured.

    That is in rows with metrics of another part of the data alone: a model that
    diverged is NaN on all data.
    """
    found = {column: choices.metric(column) for column in numbers}
    parts = {column: metric[0] for column, metric in found.items() if metric}
    measured = pd.DataFrame({c: numbers[c].notna() for c in parts})
    of_part = {}
    for part in {*parts.values()}:
        same = [column for column in parts if parts[column] == part]
        others = measured.drop(columns=same).any(axis=1)
        of_part[part] = others & ~measured[same].any(axis=1)
    return pd.DataFrame({column: of_part[part] for column, part in parts.items()})


def _filled(
    present: pd.Series, numbers: pd.Series, holes: pd.Series, at: pd.Series
) -> pd.Series:
    """The cells of a metric in a run, without its holes if it has values after one."""
    hole = holes[present.index]
    last = at[present.index][numbers[present.index].notna()].max()
    return present[~hole] if (at[present.index][hole] <= last).any() else present


def _steps(place: str, clock: pd.Series) -> pd.Series:
    """The step of each row, whole if all are.

    Raises:
      UsageError: if a row has none, or a negative or enormous one.
    """
    valid = (clock >= 0) & (clock <= _LAST_STEP)
    if not valid.all():
        row = int(np.argmin(valid)) + 1
        raise UsageError(
            f"{place}: row {row} has no {cut(str(clock.name))} from 0 to {_LAST_STEP:g}"
        )
    return clock.astype(int) if (clock % 1 == 0).all() else clock


def _check_once(
    place: str, rows: pd.DataFrame, run: str | None, choices: Choices
) -> None:
    """Check that rows without steps are runs of their own.

    Raises:
      UsageError: if one repeats the name, or settings and seed, of another.
    """
    aside = {choices.column(r, rows) for r in ("seconds", "examples", "status")}
    keys = [c for c in rows if not choices.metric(c) and c not in aside]
    if not run and not choices.column("seed", rows):
        return
    again = rows.index[rows.duplicated([run] if run else keys)]
    if len(again):
        whose = f"of run '{cut(str(rows[run][again[0]]))}'" if run else "of a run"
        raise UsageError(
            f"{place}: row {again[0] + 1} is a second one {whose}, and there is no "
            f"column for the step ({', '.join(names.ROLES['step'][2:])} or epoch) "
            f"among {listed(rows)}; name it: ?step=COLUMN"
        )


def _numbers(
    place: str, rows: pd.DataFrame, choices: Choices
) -> Mapping[str, pd.Series]:
    """The columns that are numbers, as floats; NaN where a cell is empty.

    Raises:
      UsageError: if a metric or the step has numbers, and in a row another text.
    """
    needed = {choices.column(role, rows) for role in ("step", "epoch")}
    numbers = {}
    for column in rows:
        text = rows[column].str.lower()
        values = text.map(names.number).astype(float)
        odd = values.isna() & ~text.isin(_EMPTY | _NOT_FINITE)
        amount = text[odd].str.match(r"[-+]?[.]?\d").any()  # such as 1,234 or 10 s
        asked = {column, names.split(column)[1]} & {*choices.higher, *choices.lower}
        if odd.any() and (values.notna().any() or amount or asked):
            if column in needed or choices.metric(column):
                row = int(np.argmax(odd))
                raise UsageError(
                    f"{place}: row {row + 1}: {shown(rows[column][row])} is no "
                    f"{cut(str(column))}"
                )
        elif not odd.any() and not text.isin(_EMPTY).all():
            if choices.metric(column):
                _check_percent(place, column, rows[column], values)
            numbers[column] = values
    return numbers


def _check_percent(
    place: str, column: str, texts: pd.Series, values: pd.Series
) -> None:
    """Check that numbers beside some with '%' are shares, as these become.

    Raises:
      UsageError: if one is not: it may be in percent, without the sign.
    """
    signed = texts.str.endswith("%")
    beyond = ~signed & (values.abs() > 1) & np.isfinite(values)
    if signed.any() and beyond.any():
        row = int(np.argmax(beyond))
        raise UsageError(
            f"{place}: row {row + 1}: {shown(texts[row])} is {cut(column)} without "
            "the sign % that others have; write all in one way"
        )


def _owners(
    place: str,
    rows: pd.DataFrame,
    numbers: Mapping[str, pd.Series],
    holes: pd.DataFrame,
    at: pd.Series,
    run: str | None,
    choices: Choices,
) -> pd.Series:
    """Number the run of each row.

    Without a column for it, runs differ in task, method, seed and texts; else in the
    learning rate, too, in other numbers that are no metric, or in both.

    Raises:
      UsageError: if two rows of a run have the same step.
    """
    aside = {run, at.name} | {c for c in rows if choices.metric(c) or names.is_time(c)}
    others = [c for c in rows if c not in aside]
    roles = [choices.column(role, rows) for role in ("task", "method", "seed")]
    names_of = [c for c in others if c not in numbers or c in roles]
    rate = choices.column("learning_rate", rows)
    clocks = {choices.column(r, rows) for r in ("step", "epoch", "seconds", "examples")}
    every = [c for c in others if c not in clocks]
    but_rate = [c for c in every if c != rate]
    own = [names_of, [*names_of, *([rate] if rate else [])], but_rate, every]
    first = 0
    for keys in [[run]] if run else own:
        owner = rows.groupby(keys, sort=False).ngroup() if keys else 0 * at.astype(int)
        twice = [
            pd.DataFrame({"run": owner, "step": at})[
                ~(rows[column].str.lower().isin(_EMPTY) | holes[column])
            ]
            for column in holes
        ]
        again = [index[0] for t in twice if len(index := t.index[t.duplicated()])]
        # A number that always changes would make each row a run.
        told = run or keys is own[0] or owner.nunique() < len(rows) or at.nunique() == 1
        if told and not again:
            return owner
        first = min(again, default=first)
    where = f"row {first + 1} is a second one for step {at[first]:g}"
    if run:
        raise UsageError(f"{place}: {where} of run '{cut(str(rows[run][first]))}'")
    raise UsageError(
        f"{place}: {where}, and nothing tells runs apart; add a column 'run', or name "
        "one: ?run=COLUMN"
    )


def _field(column: str, text: str) -> Mapping[str, Any]:
    """Setting of a run in a cell, or all of them as JSON."""
    if names.plain(column) in configs.WHOLE and text.startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(text)
    return {column: text}
