"""Analyses of learning curves: smoothing, thinning, quantiles, time to a target.

A curve row belongs to a run by its `run_id`. Functions take the rows together with the
run's task, entry and share of steps, as returned by `join`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from lrjax.analysis import scores
from lrjax.core import METRICS, Metric


def join(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Join curve rows with task, entry and share of steps of their runs.

    Args:
      runs: as returned by `scores.judge`, with a column `entry`; and perhaps with
        `length`, the last step of curves that do not count updates.
      curves: as returned by `results.load`; rows of other runs are left out.

    Returns:
      the rows by run and step, with columns `task` and `entry` (categories), `run`
      (position in `runs`), `part` (step as a share of the run's steps, in (0, 1]) and
      `dead` (whether the run diverged).
    """
    position = pd.Series(np.arange(len(runs)), index=runs["run_id"].to_numpy())
    if not len(curves):
        names = ["run_id", "step", "epoch", "task", "entry", "run", "part", "dead"]
        return pd.DataFrame(columns=names)
    run = curves["run_id"].map(position)
    rows = curves.drop(columns="run_id")[run.notna().to_numpy()]
    run = run.dropna().to_numpy(int)
    for name in ("task", "entry"):
        codes = pd.Categorical(runs[name])
        rows[name] = pd.Categorical.from_codes(codes.codes[run], dtype=codes.dtype)
    rows["run"] = run
    ends = runs["length" if "length" in runs else "steps"].to_numpy()
    rows["part"] = rows["step"].to_numpy() / ends[run]
    dead = (runs["status"] == "diverged").to_numpy() if "status" in runs else False
    rows["dead"] = np.broadcast_to(dead, len(runs))[run]
    order = np.lexsort((rows["step"].to_numpy(), run))
    return rows.iloc[order].reset_index(drop=True)


def without_lone(rows: pd.DataFrame) -> pd.DataFrame:
    """Remove the values of a metric on tasks where no run has more than one.

    A last value alone is no curve: all that it says is said by the run.

    Args:
      rows: as returned by `join`.
    """
    names = [str(c) for c in rows if str(c).startswith(("train_", "valid_", "test_"))]
    counts = rows.groupby(["task", "run"], observed=True)[names].count()
    lone = counts.groupby("task", observed=True).max() == 1
    if not lone.any(axis=None):
        return rows
    of_row = lone.loc[rows["task"].to_numpy()].to_numpy()
    return rows.assign(**rows[names].mask(of_row))


def timed(rows: pd.DataFrame) -> tuple[pd.DataFrame, frozenset[str]]:
    """Put steps in the place of epochs, for tasks with curves that have no epochs.

    Args:
      rows: as returned by `join`.

    Returns:
      the rows, and the names of these tasks.
    """
    unknown = rows["epoch"].isna()
    if not unknown.any():
        return rows, frozenset()
    stepped = frozenset(map(str, rows.loc[unknown, "task"].unique()))
    by_step = rows["task"].isin(stepped)
    epoch = rows["epoch"].astype(float).where(~by_step, rows["step"])
    return rows.assign(epoch=epoch), stepped


def smooth(rows: pd.DataFrame, names: list[str], alpha: float) -> pd.DataFrame:
    """Smooth columns exponentially: y[t] = alpha x[t] + (1 - alpha) y[t - 1].

    Args:
      rows: as returned by `join`.
      names: columns to smooth.
      alpha: weight of the new value, in (0, 1].
    """
    smoothed = rows.groupby("run")[names].ewm(alpha=alpha, adjust=False).mean()
    # pandas continues a run's mean past its last value; the curve must end there.
    smoothed = smoothed.droplevel(0).reindex(rows.index).where(rows[names].notna())
    return rows.assign(**{name: smoothed[name] for name in names})


def thin(rows: pd.DataFrame, points: int = 100) -> pd.DataFrame:
    """Keep at most `points` evaluations of each task, evenly spaced, with the last.

    Args:
      rows: as returned by `join`.
      points: most evaluations of a task.
    """
    kept = []
    for _, subset in rows.groupby("task", observed=True, sort=False):
        steps = np.sort(subset["step"].unique())
        if len(steps) > points:
            places = np.linspace(0, len(steps) - 1, points).round().astype(int)
            subset = subset[subset["step"].isin(steps[places])]
        kept.append(subset)
    return pd.concat(kept) if kept else rows


def bands(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Median and quartiles over seeds, while half of an entry's runs are alive.

    Args:
      rows: as returned by `join`.
      column: name of a column of `rows`.

    Returns:
      one row per task, entry and epoch, in this order, with task, entry, epoch, median,
      low and high (quartiles), alive (number of runs with a value) and diverged
      (whether the line ends here because half of the runs diverged, not because they
      are short).
    """
    keys = ["task", "entry", "epoch"]
    columns = [*keys, "median", "low", "high", "alive", "diverged"]
    runs = rows.drop_duplicates("run").groupby(keys[:2], observed=True)["dead"].mean()
    unseen = _lost_unseen(rows, column)
    rows = rows[rows[column].notna()] if column in rows else rows[:0]
    if not len(rows):
        return pd.DataFrame(columns=columns)
    rows = rows.sort_values([*keys, column], kind="stable")
    codes = rows.groupby(keys, observed=True, sort=True).ngroup().to_numpy()
    start = np.flatnonzero(np.diff(codes, prepend=-1))
    alive = np.diff(start, append=len(rows))
    values = rows[column].to_numpy(float)
    table = rows.iloc[start][keys].astype({"task": str, "entry": str})
    for name, share in (("median", 0.5), ("low", 0.25), ("high", 0.75)):
        # Values of a group are in ascending order: interpolate between positions.
        place = start + share * (alive - 1)
        below = np.floor(place).astype(int)
        above = np.ceil(place).astype(int)
        table[name] = values[below] + (place - below) * (values[above] - values[below])
    table["alive"] = alive
    table["part"] = rows["part"].to_numpy()[start]
    most = table.groupby(["task", "entry"])["alive"].transform("max")
    most += [unseen.get(pair, 0) for pair in _pairs(table)]
    table = table[2 * table["alive"] > most].reset_index(drop=True)
    ends = ~table.duplicated(keys[:2], keep="last") & (table["part"] < 1)
    half = np.array([runs[pair] >= 0.5 for pair in _pairs(table)], bool)
    table["diverged"] = ends & half
    return table[columns]


def _lost_unseen(rows: pd.DataFrame, column: str) -> dict[tuple[str, str], int]:
    """(task, entry) -> number of runs that diverged before the first value."""
    if column not in rows:
        return {}
    dead = rows[rows["dead"]]
    by_run = dead[column].notna().groupby(dead["run"]).any()
    unseen = dead[dead["run"].isin(by_run.index[~by_run])].drop_duplicates("run")
    return unseen.groupby(["task", "entry"], observed=True).size().to_dict()


def _pairs(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Task and entry of each row."""
    return zip(table["task"], table["entry"], strict=True)


def settled_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Learning rate of each entry: median over a run's evaluations, then over runs.

    Args:
      rows: as returned by `join`.

    Returns:
      task, entry, learning_rate; without entries that have no learning rate.
    """
    columns = ["task", "entry", "learning_rate"]
    rows = rows[rows["learning_rate"].notna()] if "learning_rate" in rows else rows[:0]
    if not len(rows):
        return pd.DataFrame(columns=columns)
    runs = rows.groupby(["task", "entry", "run"], observed=True)["learning_rate"]
    entries = runs.median().groupby(["task", "entry"], observed=True).median()
    return entries.reset_index().astype({"task": str, "entry": str})


def anytime(
    rows: pd.DataFrame,
    metrics: pd.Series,
    span: pd.DataFrame,
    runs: pd.DataFrame,
    points: int = 50,
    known: Mapping[str, Metric] = METRICS,
) -> pd.DataFrame:
    """Mean normalised score over tasks after each part of training.

    Args:
      rows: as returned by `join`.
      metrics: task -> column of `rows`.
      span: task -> low and high, as returned by `stats.ends`.
      runs: the runs joined to `rows`.
      points: number of parts of training.
      known: as returned by `scores.known_metrics`.

    Returns:
      index part (from 1/points to 1), columns entry: mean over tasks of the mean over
      runs; diverged runs score 0, and runs whose curve lacks the metric do not count.
    """
    parts = np.arange(1, points + 1) / points
    tables = []
    for task, metric in metrics.items():
        subset = rows[rows["task"] == task]
        known_here = metric in subset and subset[metric].notna().any()
        if task not in span.index or not known_here:
            continue
        # Of a run from elsewhere the end may be all that is known.
        measured = subset[metric].notna().groupby(subset["run"]).transform("any")
        subset = subset[measured | subset["dead"]]
        value = subset[metric].astype(float)
        score = scores.metric_of(str(metric), known).sign * value
        low, high = span.loc[task]
        normalised = (score - low) / (high - low) if high > low else (score >= high)
        normalised = normalised.astype(float).clip(0, 1).fillna(0).to_numpy()
        # At each part of training the last evaluation up to it counts; before the
        # first evaluation a run scores 0.
        place = np.ceil(subset["part"].to_numpy() * points - 1e-9).clip(1).astype(int)
        last = pd.DataFrame(
            {"run": subset["run"].to_numpy(), "place": place, "y": normalised}
        )
        last = last.drop_duplicates(["run", "place"], keep="last")
        by_run = last.pivot(index="place", columns="run", values="y")
        by_run = by_run.reindex(range(1, points + 1)).ffill().fillna(0)
        names = runs["entry"].to_numpy()[by_run.columns.to_numpy()]
        tables.append(by_run.T.groupby(names).mean().T)
    if not tables:
        return pd.DataFrame()
    entries = sorted(set.intersection(*(set(t.columns) for t in tables)))
    mean = sum(t[entries].to_numpy() for t in tables) / len(tables)
    index = pd.Index(parts, name="part")
    return pd.DataFrame(mean, index, pd.Index(entries, name="entry"))


def to_target(
    rows: pd.DataFrame,
    runs: pd.DataFrame,
    metrics: pd.Series,
    targets: pd.Series,
    known: Mapping[str, Metric] = METRICS,
) -> pd.DataFrame:
    """Steps, examples and seconds until runs first reach their task's target.

    Args:
      rows: as returned by `join`.
      runs: the runs joined to `rows`.
      metrics: task -> column of `rows`.
      targets: task -> value to reach or pass, in the better direction.
      known: as returned by `scores.known_metrics`.

    Returns:
      one row per task and entry: task, entry, target, runs, reached (number of runs),
        and
      steps, examples and seconds: medians over all runs, infinite for runs that never
        reach
      the target.
    """
    first = pd.Series(np.inf, index=range(len(runs)))
    for task, metric in metrics.items():
        subset = rows[rows["task"] == task]
        if metric not in subset:
            continue
        value = subset[metric].astype(float)
        target = targets[task]
        up = scores.higher_is_better(str(metric), known)
        hit = subset[value >= target if up else value <= target]
        earliest = hit.groupby("run")["part"].min()
        first[earliest.index] = earliest
    table = pd.DataFrame({"task": runs["task"], "entry": runs["entry"]})
    table["part"] = first.to_numpy()
    for name in ("steps", "examples", "seconds"):
        table[name] = runs[name].to_numpy() * table["part"]
    grouped = table.groupby(["task", "entry"])
    medians = grouped[["steps", "examples", "seconds"]].median()
    medians.insert(0, "target", targets.reindex(medians.index, level="task"))
    medians.insert(1, "runs", grouped.size())
    reached = grouped["part"].agg(lambda part: int(np.isfinite(part).sum()))
    medians.insert(2, "reached", reached)
    return medians.reset_index()
