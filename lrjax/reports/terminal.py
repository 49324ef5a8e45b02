"""Output after training, tuning and races: a ranking as text, and figures."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrjax import results
from lrjax.analysis import curves as curves_lib
from lrjax.analysis import scores, stats
from lrjax.core import (
    LOSS,
    Metric,
    counted,
    printable,
)
from lrjax.reports import (
    drawing,
    figures,
    searches,
    selected,
)
from lrjax.reports.palette import Palette, shorten

_TASKS_PER_TABLE = 3
_WIDTH = 120  # characters of a line, if it has more than one task
_LONGEST = 26  # characters of a task's name


def shown(workdir: str) -> Iterator[str]:
    """Yield the ranking; draw `curves.png` and yield its path.

    Args:
      workdir: directory of the tables.
    """
    runs, curves = results.load(workdir)
    metrics = results.load_metrics(workdir)
    yield ranking(runs, metrics)
    path = Path(workdir) / "curves.png"
    learning_curves(runs, curves, path, metrics)
    yield str(path)


def ranking(
    runs: pd.DataFrame, metrics: Mapping[str, Sequence[Metric]] | None = None
) -> str:
    """A table of the methods from best to worst, as text.

    Args:
      runs: as returned by `results.load`.
      metrics: as returned by `results.load_metrics`.
    """
    order = list(runs["task"].unique())
    metrics = metrics or {}
    known = scores.known_metrics([metrics])
    runs = scores.judge(scores.arrange(scores.ranked_by(runs, metrics)), (), known)
    # `arrange` makes 'TASK (PROTOCOL)' of a task that ran under several protocols.
    tasks = sorted(
        runs["task"].unique(),
        key=lambda t: order.index(t if t in order else t.rsplit(" (", 1)[0]),
    )
    columns = _columns(runs)
    table = stats.summary(runs, columns, known).set_index(["task", "entry"])
    ranks = stats.mean_ranks(runs)
    # Entries too incomplete to be ranked come last.
    entries = [*ranks.index, *sorted(set(runs["entry"]) - set(ranks.index))]
    width = max(len("method"), *(len(entry) for entry in entries))
    names = {column: scores.metric_of(column, known).name for column in columns}
    cells = {
        (name, task, entry): _cell(
            table.loc[task, entry], column, scores.metric_of(column, known, task)
        )
        for column, name in names.items()
        for task, entry in table.index
    }
    widths = {
        name: max(len(name), *(len(v) for k, v in cells.items() if k[0] == name))
        for name in names.values()
    }
    head = " ".join(f"{name:^{widths[name]}}" for name in widths)
    lines = [
        f"Validation {' and '.join(_label(runs, c, known) for c in columns)}, "
        f"{_what(table, columns)}; best mean rank first"
    ]
    room = max(len(head), min(_LONGEST, max(map(len, tasks))))
    short = shorten(tasks, room)
    fitting = max(1, (_WIDTH - width - len("  rank ")) // (room + 2))
    at_once = min(_TASKS_PER_TABLE, fitting)
    for start in range(0, len(tasks), at_once):
        beside = tasks[start : start + at_once]
        titles = "".join(f"  {short[task]:^{room}}" for task in beside)
        lines += [
            "",
            " " * width + "  rank" + titles,
            f"{'method':<{width}}      " + f"  {head:^{room}}" * len(beside),
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
            columns_of_tasks = "".join(f"  {text:^{room}}" for text in texts)
            lines.append(f"{entry:<{width}}  {rank}{columns_of_tasks}")
    lines += _footnotes(short, table, runs)
    return "\n".join(printable(line).rstrip() for line in lines)


def _label(runs: pd.DataFrame, column: str, known: Mapping[str, Metric]) -> str:
    """A metric with its unit, or with those that it has on different tasks."""
    tasks = runs.loc[runs[column].notna(), "task"].unique()
    labels = (scores.metric_of(column, known, task).label for task in tasks)
    return " or ".join(dict.fromkeys(labels))


def _what(table: pd.DataFrame, columns: Sequence[str]) -> str:
    """Describe the cells of a ranking: means with intervals, or the values of seeds.

    Args:
      table: as returned by `stats.summary`.
      columns: those that are shown.
    """
    cells = table[[f"{column} values" for column in columns]].map(len).to_numpy()
    few = cells[cells > 0] < stats.FEWEST
    if not few.any():
        return "mean [95 % interval] over seeds"
    if few.all():
        return "the value of each seed"
    return f"mean [95 % interval] over {stats.FEWEST} or more seeds, else each value"


def _footnotes(
    short: Mapping[str, str], table: pd.DataFrame, runs: pd.DataFrame
) -> list[str]:
    """Lines below a ranking: short names, what its ranks lack, and learning rates.

    Args:
      short: name of a task -> its name in the ranking.
      table: as returned by `stats.summary`, with index task and entry.
      runs: as returned by `scores.judge`.
    """
    cut = {task: name for task, name in short.items() if task != name}
    lines: list[str] = []
    if cut:
        lines += ["", "names in short:", *(f"  {s}  {n}" for n, s in cut.items())]
    diverged = table[table["diverged"] > 0]
    if len(diverged):
        lines += [
            "",
            "diverged (ranked last and left out of means; none where half did):",
        ]
        lines += [
            f"  {entry} on {task}: {row['diverged']:.0f} of "
            f"{counted(row['runs'], 'run', form='.0f')}"
            for (task, entry), row in diverged.iterrows()
        ]
    if unused := _unused(runs):
        lines += ["", "not in the mean ranks, for which all need as many runs:"]
        lines += [f"  {text}" for text in unused]
    if namesakes := scores.namesakes(runs):
        words = "trained with another batch size, precision or the like, which tables "
        lines += ["", f"{words}lack, and told apart by order:"]
        lines += [f"  {entry}" for entry in namesakes]
    if short_runs := scores.shorter(runs):
        lines += ["", "trained for less than others they are ranked with:"]
        lines += [f"  {text}" for text in short_runs]
    if rates := _rates(runs):
        words = "; ".join(f"{', '.join(entries)} {r}" for r, entries in rates.items())
        lines += ["", *textwrap.wrap(f"learning_rate: {words}", _WIDTH)]
    return lines


def _unused(runs: pd.DataFrame) -> list[str]:
    """What the mean ranks do not use, since not all entries have as many runs."""
    used = stats.complete(runs)
    basis = stats.basis(used, runs)
    lines = [f"the task {task}" for task in used.tasks_left_out]
    lines += [f"all of {entry}" for entry in used.entries_left_out]
    return [*lines, f"all runs but {basis}"] if basis else lines


def _rates(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Learning rates -> the entries that have them, where no name of an entry says it.

    The rates are hyperparameters: of methods that find their own they are factors.
    """
    rates: dict[str, list[str]] = {}
    for entry, subset in runs.groupby("entry", sort=False):
        found = [
            hparams["learning_rate"]
            for hparams in subset["hparams"]
            if isinstance(hparams, Mapping) and "learning_rate" in hparams
        ]
        if len(found) < len(subset) or "learning_rate=" in str(entry):
            continue
        ends = dict.fromkeys(f"{rate:.3g}" for rate in (min(found), max(found)))
        rates.setdefault(" to ".join(ends), []).append(str(entry))
    return rates


def _columns(runs: pd.DataFrame) -> list[str]:
    """Columns to show: the metrics that runs are judged by, and the loss."""
    judged = sorted(runs["metric"].unique(), key=_place)
    columns = dict.fromkeys([*judged, f"valid_{LOSS}"])
    return [name for name in columns if name in runs and runs[name].notna().any()]


def _place(column: str) -> int:
    """Sort key: metrics that are not preferred, then in the order of preference."""
    preferred = scores.PREFERRED
    return preferred.index(column) if column in preferred else -1


def _cell(row: pd.Series, column: str, metric: Metric) -> str:
    """A mean with its interval, or all values if they are too few for one.

    Args:
      row: row of a table of means, with columns 'COLUMN', 'COLUMN low', 'COLUMN high'
        and 'COLUMN values'.
      column: the measurement, such as `test_accuracy`.
      metric: its metric.
    """
    values, low, high = (row[f"{column} {n}"] for n in ("values", "low", "high"))
    if np.isnan(low):
        return ", ".join(map(metric.shown, values)) or "-"
    mean = metric.shown(row[column])
    return f"{mean} [{metric.shown(low)}, {metric.shown(high)}]"


def learning_curves(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    path: str | Path,
    metrics: Mapping[str, Sequence[Metric]] | None = None,
) -> None:
    """Draw validation loss and learning rate over epochs, a row per task.

    Lines are medians over seeds, bands span the middle half.

    Args:
      runs, curves: as returned by `results.load`.
      path: path of the PNG file.
      metrics: as returned by `results.load_metrics`.
    """
    metrics = metrics or {}
    known = scores.known_metrics([metrics])
    judged = scores.judge(scores.arrange(scores.ranked_by(runs, metrics)), (), known)
    rows = curves_lib.thin(curves_lib.join(judged, curves))
    ranks = stats.mean_ranks(judged)
    others = sorted(set(judged["entry"]) - set(ranks.index))
    tasks = tuple(map(str, judged["task"].unique()))
    palette = Palette((*map(str, ranks.index), *others), tasks=tasks)
    bands = {
        task: {
            column: curves_lib.bands(rows[rows["task"] == task], column)
            for column in (f"valid_{LOSS}", "learning_rate")
        }
        for task in judged["task"].unique()
    }
    path = Path(path)
    with drawing.style() as plt:
        figure = figures.losses_and_rates(plt, palette, bands, known)
        drawing.write(figure, path.parent, path.stem, [path.suffix[1:]])


def tuning(
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    metrics: Mapping[str, Sequence[Metric]] | None = None,
) -> list[Path]:
    """Draw all tunings: the best value over the cost, and every value.

    Args:
      rows: rows of trials.jsonl.
      folder: for incumbent.png and costs.png.
      metrics: as returned by `results.load_metrics`.

    Returns:
      Paths of the files; none without a trial.

    Raises:
      UsageError: if they cannot be written.
    """
    if not rows:
        return []
    table = searches.trajectories(searches.trials_table(rows, metrics))
    named = {name: tuple(sorted(set(table[name]))) for name in ("method", "task")}
    palette = Palette(named["method"], tasks=named["task"])
    drawings = {"incumbent": searches.incumbents, "costs": searches.costs}
    files = []
    with drawing.style() as plt:
        for name, draw in drawings.items():
            figure, _ = draw(plt, palette, table)
            files += drawing.write(figure, folder, name, ["png"])
    return files


def races(answers: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draw what is believed of contenders, a panel per task.

    Args:
      answers: the content of selection.json.
      folder: for selection.png and selection.svg.

    Returns:
      Paths of the files.

    Raises:
      UsageError: if they cannot be written.
    """
    with drawing.style() as plt:
        figure, _ = selected.draw(plt, selected.checked(answers))
        return drawing.write(figure, folder, "selection", selected.FIGURES)
