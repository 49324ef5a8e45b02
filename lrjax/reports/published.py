"""Compares our results with published ones."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pandas as pd

from lrjax.analysis import stats
from lrjax.common import packed
from lrjax.common.reading import reading
from lrjax.core import UsageError, cut, shown
from lrjax.reports import figures
from lrjax.reports.page import Section
from lrjax.reports.study import Study
from lrjax.reports.writer import ReportWriter

_MAX_BYTES = 2**20  # of a file, decompressed: twenty thousand results
_MAX_COLUMNS = 1000  # pandas takes a kilobyte for each
_NAMES = ("task", "method", "metric")


def read(path: str) -> pd.DataFrame:
    """Read a CSV file with columns task, method, metric, mean and maybe std_error.

    Raises:
      UsageError: if the file cannot be read, a column is missing or comes twice, there
        is no row, or a row lacks a name or has a bad number.
    """
    where = f"report.compare={path}"
    if "://" in path:
        raise UsageError(
            f"report.compare={shown(path)}: an address; download it and name the file"
        )
    with reading(where, ""):
        text = _content(path).decode("utf-8-sig")
        first = next((row for row in csv.reader(io.StringIO(text)) if row), [])
        if len(first) > _MAX_COLUMNS:
            raise UsageError(f"{where}: has {len(first):,} columns")
        # With `header`, pandas would take a surplus column for the index.
        options: Any = {"dtype": str, "header": None, "skipinitialspace": True}
        lines = pd.read_csv(io.StringIO(text), **options)
        # In names NA is a text.
        options |= {"keep_default_na": False, "na_values": [""]}
        texts = pd.read_csv(io.StringIO(text), **options)
    header = [str(name).strip() for name in lines.iloc[0]]
    table = lines[1:].set_axis(header, axis=1).reset_index(drop=True)
    for name in (*_NAMES, "mean"):
        if name not in header:
            raise UsageError(
                f"{where}: has no column '{name}'; it needs task, "
                f"method, metric and mean, and may have std_error"
            )
    for name in (*_NAMES, "mean", "std_error"):
        if header.count(name) > 1:
            raise UsageError(f"{where}: has the column '{name}' twice")
    if not len(table):
        raise UsageError(f"{where}: holds no row")
    errors = table.get("std_error", pd.Series(np.nan, index=table.index))
    names = {name: texts[header.index(name)][1:].to_numpy() for name in _NAMES}
    table = table.assign(std_error=errors, **names)[[*_NAMES, "mean", "std_error"]]
    for name in ("mean", "std_error"):
        values = pd.to_numeric(table[name], errors="coerce").astype(float)
        valid = np.isfinite(values) & ((values >= 0) | (name == "mean"))
        wrong = table.index[table[name].notna() & ~valid]
        if len(wrong):
            text = shown(table.at[wrong[0], name])
            raise UsageError(f"{where}: row {wrong[0] + 1}: {text} is no {name}")
        table[name] = values.where(valid)
    for name in (*_NAMES, "mean"):
        wrong = table.index[table[name].isna()]
        if len(wrong):
            raise UsageError(f"{where}: row {wrong[0] + 1} has no {name}")
    return table


def _content(path: str) -> bytes:
    """Read a file of at most `_MAX_BYTES`, decompressing .bz2, .gz, .xz and .zip."""
    if not path.endswith(".zip"):
        with packed.open_given(path, _MAX_BYTES) as file:
            return file.read()
    with packed.open_zip(path) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} files instead of one")
        with packed.open_member(archive, names[0], _MAX_BYTES) as file:
            return file.read(_MAX_BYTES)


def match(study: Study, published: pd.DataFrame) -> pd.DataFrame:
    """Our means beside published ones; rows without a counterpart here are dropped.

    Returns:
      task, metric, entry, runs, ours, ours_error, published, published_error (standard
      errors), difference, errors_apart (the difference in joint standard errors).

    Raises:
      UsageError: if no row has a counterpart, or a row has several.
    """
    runs, rows = study.all_runs, []
    for row in published.itertuples(index=False):
        named = runs[["entry", "method"]].eq(row.method).any(axis=1)
        ours = runs[(runs["task"] == row.task) & named]
        if not len(ours) or row.metric not in ours:
            continue
        if not pd.api.types.is_numeric_dtype(ours[row.metric]):
            continue  # a column of names, such as `task`
        entries = list(ours["entry"].unique())
        if len(entries) > 1:
            raise UsageError(
                f"report.compare={study.options.compare}: '{cut(row.method)}' has "
                f"several settings on {cut(row.task)}; name one, such as '{entries[0]}'"
            )
        values = ours.loc[ours["status"] == "done", row.metric].astype(float).dropna()
        if stats.mostly_lost(ours["status"].where(ours["status"] == "done")):
            values = values[:0]
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        joint = np.hypot(error, row.std_error)
        difference = values.mean() - row.mean
        rows.append(
            {
                "task": row.task,
                "metric": row.metric,
                "entry": entries[0],
                "runs": len(values),
                "ours": values.mean(),
                "ours_error": error,
                "published": row.mean,
                "published_error": row.std_error,
                "difference": difference,
                "errors_apart": difference / joint if joint > 0 else np.nan,
            }
        )
    if not rows:
        metric, method, task = (
            cut(published.iloc[0][name]) for name in ("metric", "method", "task")
        )
        raise UsageError(
            f"report.compare={study.options.compare}: none of its rows fits the "
            f"tables, which have no {metric} of {method} on {task}; they have the "
            f"tasks {', '.join(study.tasks)} and the "
            f"methods {', '.join(sorted(runs['method'].unique()))}"
        )
    return pd.DataFrame(rows)


def section(
    study: Study, writer: ReportWriter, table: pd.DataFrame, count: int
) -> Section:
    """The section on published results.

    Args:
      study, writer: as for all analyses.
      table: as returned by `match`.
      count: number of published values.
    """
    far = table[table["errors_apart"].abs() > 2]
    known = int(table["errors_apart"].notna().sum())
    finding = (
        f"{len(table)} of {count} published values have a counterpart here; "
        f"of {known} with known errors {len(far)} lie more than two standard errors "
        f"apart."
    )
    how_to_read = (
        "Each point a method: published mean against ours, with standard errors; on "
        "the line they agree. errors_apart is the difference over both errors together."
    )
    return writer.section(
        "compared",
        "Beside published results",
        finding,
        how_to_read,
        table,
        figures.compared(writer.plt, study.palette, table.dropna(subset=["ours"])),
    )
