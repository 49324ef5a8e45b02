"""Names of entries, which are compared, and the score of each run.

A diverged run has the worst possible score; a missing run is never made up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrjax.core import (
    METRICS,
    Metric,
    UsageError,
    counted,
    unknown,
)

# Columns that rank a task whose metrics are unknown; the first that it has counts.
PREFERRED = tuple(f"valid_{name}" for name in METRICS)
_PARTS = ("train_", "valid_", "test_", "last_batch_")  # prefixes of metric columns


def label_entries(runs: pd.DataFrame) -> pd.Series:
    """Names entries by method and by the hyperparameters that vary within it.

    Args:
      runs: as returned by `results.load`.

    Returns:
      a label per row, such as 'adam' or 'adam learning_rate=0.01'.
    """
    hparams = runs["hparams"].map(lambda h: json.dumps(h, sort_keys=True))
    # There are many runs but few settings: look at each setting once.
    keys = ["task", "protocol", "method"]
    settings = runs[keys].assign(setting=hparams)
    if "steps" in runs:
        settings["steps"] = runs["steps"]
    distinct = settings.drop_duplicates()
    varying: dict[str, set[str]] = {}
    for _, subset in distinct.groupby(keys):
        # Values that differ only between tasks or protocols do not vary within one.
        choices = [json.loads(setting) for setting in subset["setting"].unique()]
        names = varying.setdefault(str(subset["method"].iloc[0]), set())
        names |= {
            name
            for name in choices[0]
            if len({json.dumps(c.get(name)) for c in choices}) > 1
        }
        if "steps" in subset and subset["steps"].nunique() > 1:
            names.add("steps")
    labels = {}
    for row in distinct.itertuples(index=False):
        values = json.loads(str(row.setting)) | {"steps": getattr(row, "steps", None)}
        varying_names = varying[str(row.method)]
        parts = [f"{k}={_short(v)}" for k, v in values.items() if k in varying_names]
        labels[tuple(row)] = " ".join([str(row.method), *parts])
    rows = settings.itertuples(index=False, name=None)
    return pd.Series([labels[row] for row in rows], index=runs.index, dtype=object)


def arrange(runs: pd.DataFrame) -> pd.DataFrame:
    """Names entries so that task, entry and seed identify each run.

    A task that ran under several protocols becomes one task per protocol, 'iris
    (study)'. Runs that still share a name differ in something that the tables lack,
    such as batch size or precision; they are told apart by directory, 'adam @ runs/b',
    else by numbers of examples and by order of appearance, 'adam #2'.

    Args:
      runs: as returned by `results.load`, perhaps with a column `source` (directory).

    Returns:
      the runs with a column `entry`, sorted by task, entry and seed.
    """
    protocols = runs.groupby("task")["protocol"].transform("nunique")
    both = runs["task"] + " (" + runs["protocol"] + ")"
    runs = runs.assign(
        task=runs["task"].where(protocols == 1, both), entry=label_entries(runs)
    )
    keys = ["task", "entry", "seed"]
    if "source" in runs and runs["source"].nunique() > 1:
        twice = runs.loc[runs.duplicated(keys), "entry"].unique()
        at = runs["entry"] + " @ " + runs["source"]
        runs["entry"] = runs["entry"].where(~runs["entry"].isin(twice), at)
    number = _numbers(runs)
    numbered = runs["entry"] + " #" + number.astype(str)
    runs["entry"] = runs["entry"].where(number == 1, numbered)
    return runs.sort_values(keys, kind="stable", ignore_index=True)


def _numbers(runs: pd.DataFrame) -> pd.Series:
    """Number the runs of one task, entry and seed, from 1.

    Args:
      runs: in the order of the table, with a column `entry`.

    Returns:
      a number per run; where some have others than 1, runs with as many examples have
      one number, as far as seeds allow.
    """
    keys = ["task", "entry", "seed"]
    shared = runs.duplicated(keys).groupby([runs["task"], runs["entry"]])
    examples = runs.get("examples", pd.Series(0, runs.index))
    kind = examples.where(shared.transform("any")).fillna(0)
    turn = runs.assign(kind=kind).groupby([*keys, "kind"]).cumcount()
    pairs = pd.Series(list(zip(kind, turn, strict=True)), runs.index, dtype=object)
    of_entry = pairs.groupby([runs["task"], runs["entry"]])
    return of_entry.transform(lambda pairs: pd.factorize(pairs)[0] + 1)


def namesakes(runs: pd.DataFrame) -> list[str]:
    """List entries that differ from one of their name in what the tables lack.

    Args:
      runs: as returned by `arrange`.

    Returns:
      names such as 'adam #2'.
    """
    entries = set(runs["entry"])
    ends = {entry: re.fullmatch(r"(.+) #\d+", entry) for entry in entries}
    return sorted(entry for entry, end in ends.items() if end and end[1] in entries)


def shorter(runs: pd.DataFrame) -> list[str]:
    """List entries trained for fewer updates than others on the same task.

    Args:
      runs: as returned by `arrange`.

    Returns:
      lines such as 'adam on libsvm/iris: 160 of 360 updates'; none where all runs of a
      task have one length, or the table has no `steps`.
    """
    if "steps" not in runs:
        return []
    lengths = runs[["task", "entry", "steps"]].drop_duplicates()
    lengths = lengths.assign(most=lengths.groupby("task")["steps"].transform("max"))
    return [
        f"{row.entry} on {row.task}: {row.steps:,} of {counted(row.most, 'update')}"
        for row in lengths[lengths["steps"] < lengths["most"]].itertuples()
    ]


def _short(value: object) -> str:
    """A hyperparameter's value as text."""
    return f"{value:g}" if isinstance(value, float) else str(value)


class KnownMetrics(dict[str, Metric]):
    """Metrics by name, and those of tasks.

    Metrics of one name may have other bounds, units and digits on another task.

    Attributes:
      of_tasks: name of a task -> its metrics by name.
    """

    def __init__(self, *named: Any):
        super().__init__(*named)
        self.of_tasks: dict[str, dict[str, Metric]] = {}


def known_metrics(
    tables: Iterable[Mapping[str, Iterable[Metric]]],
) -> KnownMetrics:
    """Metrics by name: those of tables and those built in.

    Args:
      tables: as returned by `results.load_metrics`.

    Raises:
      UsageError: if higher is better for a name on one task and lower on another.
    """
    known = KnownMetrics(METRICS)
    named: dict[str, tuple[bool, str]] = {}
    for by_task in tables:
        for task, metrics in by_task.items():
            for metric in metrics:
                up, first = named.setdefault(
                    metric.name, (metric.higher_is_better, task)
                )
                if up != metric.higher_is_better:
                    raise UsageError(
                        f"metric '{metric}': higher is better on only one of {first} "
                        f"and {task}; report them apart"
                    )
                known[metric.name] = metric
                known.of_tasks.setdefault(task, {})[metric.name] = metric
    return known


def metric_of(
    column: str, known: Mapping[str, Metric] = METRICS, task: str = ""
) -> Metric:
    """The metric of a column, such as accuracy for 'test_accuracy'.

    Args:
      column: name of a column of the tables.
      known: as returned by `known_metrics`.
      task: the task that is measured, perhaps named as by `arrange`; '' where only the
        direction counts.

    Raises:
      UsageError: if the column holds no known metric.
    """
    for part in _PARTS:
        name = column.removeprefix(part)
        if name != column and name in known:
            of_tasks = known.of_tasks if isinstance(known, KnownMetrics) else {}
            of_task = of_tasks.get(task) or of_tasks.get(task.rsplit(" (", 1)[0], {})
            return of_task.get(name, known[name])
    raise UsageError(
        f"metric '{column}' has no known direction: it is neither a metric of the "
        f"tasks in config.json nor one of {', '.join(METRICS)}"
    )


def metric_label(column: str) -> str:
    """A column's name in words; the metric keeps its author's name.

    Example:
      >>> metric_label("valid_balanced_accuracy")
      'validation balanced accuracy'
    """
    words = {"train": "training", "valid": "validation"}
    part, *name = column.split("_")
    return " ".join([words.get(part, part), *name])


def higher_is_better(column: str, known: Mapping[str, Metric] = METRICS) -> bool:
    """Whether higher values of a column are better.

    Raises:
      UsageError: if the column holds no known metric.
    """
    return metric_of(column, known).higher_is_better


def ranked_by(
    runs: pd.DataFrame, metrics: Mapping[str, Sequence[Metric]]
) -> pd.DataFrame:
    """Add a column `ranked_by`: the column whose metric ranks the run's task.

    Args:
      runs: as returned by `results.load`.
      metrics: as returned by `results.load_metrics`.
    """
    columns = {task: f"valid_{of_task[0]}" for task, of_task in metrics.items()}
    return runs.assign(ranked_by=runs["task"].map(columns))


def judge(
    runs: pd.DataFrame,
    metrics: Sequence[str] = (),
    known: Mapping[str, Metric] = METRICS,
) -> pd.DataFrame:
    """Add the score of each run.

    Args:
      runs: as returned by `results.load` or `ranked_by`; stopped runs are left out.
      metrics: columns to judge by; on each task the first that it has counts. () means
        the metric that ranks the task, or `PREFERRED` if that is unknown.
      known: as returned by `known_metrics`.

    Returns:
      the runs with columns `metric`, `value` (as in the table; NaN where the run
      diverged) and `score` (higher is better; -inf where the run diverged).

    Raises:
      UsageError: if there is no such metric, or a task has none of them.
    """
    columns = [str(name) for name in runs if str(name).startswith(_PARTS)]
    any_there = any(name in runs for name in metrics)
    for name in metrics:
        if name not in runs and (name not in PREFERRED or not any_there):
            raise unknown("metric", name, columns)
        metric_of(name, known)
    if "ranked_by" not in runs:
        runs = runs.assign(ranked_by=None)
    judged = []
    for task, subset in runs[runs["status"] != "stopped"].groupby("task", sort=False):
        ranking = subset["ranked_by"].dropna()
        candidates = list(dict.fromkeys(metrics or (*ranking, *PREFERRED)))
        present = [name for name in candidates if name in subset]
        measured = [name for name in present if subset[name].notna().any()]
        if not measured and ((subset["status"] == "done").any() or not present):
            raise UsageError(f"task '{task}' has no {' or '.join(candidates)}")
        metric = (measured or present)[0]
        value = subset[metric].astype(float).where(subset["status"] == "done")
        score = metric_of(metric, known).sign * value
        judged.append(
            subset.drop(columns="ranked_by").assign(
                metric=metric, value=value, score=score.fillna(-np.inf)
            )
        )
    if not judged:
        empty = runs[:0].drop(columns="ranked_by")
        return empty.assign(metric="", value=0.0, score=0.0)
    return pd.concat(judged, ignore_index=True)
