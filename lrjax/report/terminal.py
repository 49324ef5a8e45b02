"""What is shown after training: the ranking as text and the learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lrjax import curves as curves_lib
from lrjax import stats
from lrjax.core import LOSS, Metric
from lrjax.report import drawing, figures
from lrjax.report.drawing import Look

_TASKS_PER_TABLE = 3
_WIDTH = 120  # columns of a table, if more than one task is in it


def ranking(
    runs: pd.DataFrame, metrics: Mapping[str, Sequence[Metric]] | None = None
) -> str:
    """The methods from best to worst, as text.

    Args:
      runs: as from `results.load`.
      metrics: as from `results.load_metrics`.
    """
    order = list(runs["task"].unique())
    metrics = metrics or {}
    known = stats.known_metrics([metrics])
    runs = stats.judge(stats.arrange(stats.ranked_by(runs, metrics)), (), known)
    tasks = sorted(runs["task"].unique(), key=lambda t: order.index(t.split(" (")[0]))
    columns = _columns(runs)
    table = stats.summary(runs, columns, known).set_index(["task", "entry"])
    ranks = stats.mean_ranks(runs)
    # What is too incomplete to be ranked comes last.
    entries = [*ranks.index, *sorted(set(runs["entry"]) - set(ranks.index))]
    width = max(len("method"), *(len(entry) for entry in entries))
    shown = [stats.metric_of(column, known) for column in columns]
    cells = {
        (metric.name, *key): _cell(table.loc[key], metric)
        for metric in shown
        for key in table.index
    }
    widths = {
        metric.name: max(
            len(metric.name), *(len(v) for k, v in cells.items() if k[0] == metric.name)
        )
        for metric in shown
    }
    head = " ".join(f"{name:^{widths[name]}}" for name in widths)
    lines = [
        f"Validation {' and '.join(metric.label for metric in shown)}, mean [95 % "
        f"interval] over seeds, of fewer than {stats.FEWEST} seeds each value; best "
        "mean rank first"
    ]
    room = max(1, (_WIDTH - width - len("  rank ")) // (len(head) + 2))
    at_once = min(_TASKS_PER_TABLE, room)
    for start in range(0, len(tasks), at_once):
        beside = tasks[start : start + at_once]
        titles = "".join(f"  {task:^{len(head)}.{len(head)}}" for task in beside)
        lines += [
            "",
            " " * width + "  rank" + titles,
            f"{'method':<{width}}      " + f"  {head}" * len(beside),
        ]
        for entry in entries:
            rank = f"{ranks[entry]:4.1f}" if entry in ranks else "   -"
            texts = (
                " ".join(
                    f"{cells.get((name, task, entry), '-'):>{widths[name]}}"
                    for name in widths
                )
                for task in beside
            )
            lines.append(f"{entry:<{width}}  {rank}" + "".join(f"  {t}" for t in texts))
    diverged = table[table["diverged"] > 0]
    if len(diverged):
        lines += ["", "diverged (left out of means, ranked last):"]
        lines += [
            f"  {entry} on {task}: {row['diverged']:.0f} of {row['runs']:.0f} runs"
            for (task, entry), row in diverged.iterrows()
        ]
    return "\n".join(line.rstrip() for line in lines)


def _columns(runs: pd.DataFrame) -> list[str]:
    """What is shown: the metrics that runs are judged by, and the loss."""
    judged = sorted(runs["metric"].unique(), key=_place)
    columns = dict.fromkeys([*judged, f"valid_{LOSS}"])
    return [name for name in columns if name in runs and runs[name].notna().any()]


def _place(column: str) -> int:
    """Accuracy before the others, as before the loss."""
    preferred = stats.PREFERRED
    return preferred.index(column) if column in preferred else -1


def _cell(row: pd.Series, metric: Metric) -> str:
    """A mean with its interval, or each value where there are too few for one."""
    values, low, high = (row[f"{metric}_{n}"] for n in ("values", "low", "high"))
    if np.isnan(low):
        return ", ".join(map(metric.shown, values)) or "-"
    mean = metric.shown(row[metric.name])
    return f"{mean} [{metric.shown(low)}, {metric.shown(high)}]"


def learning_curves(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    path: str | Path,
    metrics: Mapping[str, Sequence[Metric]] | None = None,
) -> None:
    """Draws validation loss and the learning rate used, by epoch, for every task.

    Lines are medians over seeds, bands span the middle half.

    Args:
      runs, curves: as from `results.load`.
      path: of the PNG to write.
      metrics: as from `results.load_metrics`.
    """
    metrics = metrics or {}
    known = stats.known_metrics([metrics])
    judged = stats.judge(stats.arrange(stats.ranked_by(runs, metrics)), (), known)
    rows = curves_lib.thin(curves_lib.join(judged, curves))
    ranks = stats.mean_ranks(judged)
    others = sorted(set(judged["entry"]) - set(ranks.index))
    look = Look((*map(str, ranks.index), *others))
    bands = {
        task: {
            column: curves_lib.bands(rows[rows["task"] == task], column)
            for column in ("valid_loss", "learning_rate")
        }
        for task in judged["task"].unique()
    }
    with drawing.style() as plt:
        figure = figures.losses_and_rates(plt, look, bands, known)
        figure.savefig(path, dpi=120, metadata={"Software": None})
