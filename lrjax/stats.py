"""What the tables say: means with intervals, and ranks.

One rule for runs that diverged: they have no score, so they are left out of means (and
counted beside them), and rank behind every run that finished.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from scipy import stats


def label_entries(runs: pd.DataFrame) -> pd.Series:
    """Names what is compared: the method, and the hyperparameters that vary in it.

    Args:
      runs: as from `results.load`.

    Returns:
      a label per row, such as 'adam' or 'adam learning_rate=0.01'.
    """
    labels = pd.Series("", index=runs.index, dtype=object)
    for method, group in runs.groupby("method"):
        # Values that follow from the task's protocol alone are no choice to compare.
        varying = {
            name
            for _, part in group.groupby(["task", "protocol"])
            for name in part["hparams"].iloc[0]
            if len({json.dumps(h.get(name)) for h in part["hparams"]}) > 1
        }
        for index, hparams in group["hparams"].items():
            chosen = [f"{k}={_short(v)}" for k, v in hparams.items() if k in varying]
            labels[index] = " ".join([str(method), *chosen])
    return labels


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The mean and the half width of Student's t interval; NaN below two values."""
    values = np.asarray(values, float)
    if not len(values):
        return np.nan, np.nan
    if len(values) < 2:
        return float(values.mean()), np.nan
    quantile = stats.t.ppf((1 + level) / 2, len(values) - 1)
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(quantile * error)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % interval over seeds of each entry's validation scores.

    Args:
      runs: as from `results.load`, with a column `entry`.

    Returns:
      one row per task and entry: task, entry, runs, diverged, and mean and half width
      of accuracy and loss.
    """
    rows = []
    for (task, entry), group in runs.groupby(["task", "entry"], sort=False):
        done = group[group["status"] == "done"]
        row = {
            "task": task,
            "entry": entry,
            "runs": len(group),
            "diverged": int((group["status"] == "diverged").sum()),
        }
        for name in ("accuracy", "loss"):
            values = done[f"valid_{name}"].to_numpy(float)
            row[name], row[f"{name}_interval"] = mean_interval(values)
        rows.append(row)
    return pd.DataFrame(rows)


def mean_ranks(runs: pd.DataFrame) -> pd.Series:
    """Mean rank by validation accuracy: over seeds, then over tasks; 1 is best.

    Entries are ranked among those that ran with the same seed on the same task; equal
    accuracies share the mean of their ranks.

    Args:
      runs: as from `results.load`, with a column `entry`.

    Returns:
      the mean rank of each entry, ascending.
    """
    scores = runs["valid_accuracy"].astype(float).where(runs["status"] == "done")
    ranks = (
        scores.fillna(-np.inf)
        .groupby([runs["task"], runs["seed"]])
        .rank(ascending=False, method="average")
    )
    per_task = ranks.groupby([runs["task"], runs["entry"]]).mean()
    return per_task.groupby("entry").mean().sort_values(kind="stable")
