"""Published results beside ours."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lrjax.core import UsageError
from lrjax.report import figures
from lrjax.report.desk import Desk
from lrjax.report.page import Section
from lrjax.report.study import Study


def read(path: str) -> pd.DataFrame:
    """Reads `task,method,metric,mean` and, where it has them, `std_error`."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"report.compare={path}: {reason}") from error
    for name in ("task", "method", "metric", "mean"):
        if name not in table:
            raise UsageError(
                f"report.compare={path}: has no column '{name}'; it needs task, "
                f"method, metric and mean, and may have std_error"
            )
    for name in ("mean", "std_error"):
        values = table.get(name, pd.Series(np.nan, index=table.index))
        table[name] = pd.to_numeric(values, errors="coerce")
    wrong = table.index[table["mean"].isna()]
    if len(wrong):
        raise UsageError(f"report.compare={path}: line {wrong[0] + 2} has no mean")
    return table


def section(study: Study, desk: Desk, published: pd.DataFrame) -> Section:
    """Our means beside published ones."""
    rows = []
    for row in published.itertuples(index=False):
        mine = study.all_runs[
            (study.all_runs["task"] == row.task)
            & study.all_runs[["entry", "method"]].eq(row.method).any(axis=1)
        ]
        if not len(mine):
            continue
        if row.metric not in mine or mine["entry"].nunique() > 1:
            raise UsageError(
                f"report.compare: {row.method} on {row.task} has no single "
                f"'{row.metric}' in the tables"
            )
        values = mine.loc[mine["status"] == "done", row.metric].astype(float)
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        both = np.hypot(error, row.std_error)
        difference = values.mean() - row.mean
        rows.append(
            {
                "task": row.task,
                "metric": row.metric,
                "entry": mine["entry"].iloc[0],
                "runs": len(values),
                "ours": values.mean(),
                "ours_error": error,
                "published": row.mean,
                "published_error": row.std_error,
                "difference": difference,
                "errors_apart": difference / both if both > 0 else np.nan,
            }
        )
    if not rows:
        raise UsageError(
            f"report.compare={study.options.compare}: none of its tasks and methods "
            f"are in the tables"
        )
    table = pd.DataFrame(rows)
    far = table[table["errors_apart"].abs() > 2]
    known = int(table["errors_apart"].notna().sum())
    says = (
        f"{len(table)} of {len(published)} published values have a counterpart here; "
        f"of {known} with known errors {len(far)} lie more than two standard errors "
        f"apart."
    )
    reads = (
        "Each point a method: published mean against ours, with standard errors; on "
        "the line they agree. errors_apart is the difference over both errors together."
    )
    return desk.section(
        "compared",
        "Beside published results",
        says,
        reads,
        table,
        figures.compared(desk.plt, study.look, table.dropna(subset=["ours"])),
    )
