"""What is shown after training, tuning and races: a ranking as text, and figures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrjax import curves as curves_lib
from lrjax import stats
from lrjax.core import UsageError
from lrjax.report import drawing, figures, searches, selected
from lrjax.report.look import Look, shorten

_TASKS_PER_TABLE = 3
_LONGEST = 26  # signs of a task's name
# column -> how it is shown: factor, digits, width
_SHOWN = {
    "valid_accuracy": (100, 1, 11),
    "valid_perplexity": (1, 2, 13),
    "valid_loss": (1, 3, 12),
}


def ranking(runs: pd.DataFrame) -> str:
    """The methods from best to worst, as text.

    Args:
      runs: as from `results.load`.
    """
    order = list(runs["task"].unique())
    runs = stats.judge(stats.arrange(runs))
    tasks = sorted(runs["task"].unique(), key=lambda t: order.index(t.split(" (")[0]))
    columns = [c for c in _SHOWN if c in runs and runs[c].notna().any()]
    table = stats.summary(runs, columns).set_index(["task", "entry"])
    ranks = stats.mean_ranks(runs)
    # What is too incomplete to be ranked comes last.
    entries = [*ranks.index, *sorted(set(runs["entry"]) - set(ranks.index))]
    width = max(len("method"), *(len(entry) for entry in entries))
    names = [c.rsplit("_", 1)[-1] for c in columns]
    head = "".join(f"{n:^{_SHOWN[c][2]}} " for n, c in zip(names, columns, strict=True))
    of = {"accuracy": "accuracy (%)"}
    lines = [
        f"Validation {' and '.join(of.get(n, n) for n in names)}, mean ± 95 % interval "
        f"over seeds; best mean rank first"
    ]
    room = max(len(head), min(_LONGEST, max(map(len, tasks))))
    short = shorten(tasks, room)
    head = f"{head:^{room}}"
    for start in range(0, len(tasks), _TASKS_PER_TABLE):
        shown = tasks[start : start + _TASKS_PER_TABLE]
        titles = "".join(f" {short[task]:^{room}}" for task in shown)
        lines += [
            "",
            " " * width + "  rank " + titles,
            f"{'method':<{width}}       " + f" {head}" * len(shown),
        ]
        for entry in entries:
            rank = f"{ranks[entry]:4.1f}" if entry in ranks else "   -"
            cells = [_cells(table, task, entry, columns) for task in shown]
            cells = [f" {cell:^{room}}" for cell in cells]
            lines.append(f"{entry:<{width}}  {rank} " + "".join(cells))
    cut = {task: name for task, name in short.items() if task != name}
    if cut:
        lines += ["", "names in short:", *(f"  {s}  {n}" for n, s in cut.items())]
    diverged = table[table["diverged"] > 0]
    if len(diverged):
        lines += ["", "diverged (left out of means, ranked last):"]
        lines += [
            f"  {entry} on {task}: {row['diverged']:.0f} of {row['runs']:.0f} runs"
            for (task, entry), row in diverged.iterrows()
        ]
    return "\n".join(line.rstrip() for line in lines)


def _cells(table: pd.DataFrame, task: str, entry: str, columns: list[str]) -> str:
    text = ""
    for column in columns:
        factor, digits, width = _SHOWN[column]
        shown, name = "-", column.rsplit("_", 1)[-1]
        if (task, entry) in table.index:
            row = table.loc[(task, entry)]
            mean, half = factor * row[name], factor * row[f"{name}_interval"]
            if not np.isnan(mean):
                shown = f"{mean:.{digits}f}"
            if not np.isnan(half):
                shown += f" ±{half:.{digits}f}"
        text += f"{shown:>{width}} "
    return text


def learning_curves(runs: pd.DataFrame, curves: pd.DataFrame, path: str | Path) -> None:
    """Draws validation loss and the learning rate used, by epoch, for every task.

    Lines are medians over seeds, bands span the middle half.

    Args:
      runs, curves: as from `results.load`.
      path: of the PNG to write.
    """
    judged = stats.judge(stats.arrange(runs))
    rows = curves_lib.thin(curves_lib.join(judged, curves))
    ranks = stats.mean_ranks(judged)
    others = sorted(set(judged["entry"]) - set(ranks.index))
    tasks = tuple(map(str, judged["task"].unique()))
    look = Look((*map(str, ranks.index), *others), tasks=tasks)
    bands = {
        task: {
            column: curves_lib.bands(rows[rows["task"] == task], column)
            for column in ("valid_loss", "learning_rate")
        }
        for task in judged["task"].unique()
    }
    path = Path(path)
    with drawing.style() as plt:
        figure = figures.losses_and_rates(plt, look, bands)
        drawing.write(figure, path.parent, path.stem, [path.suffix[1:]])


def tuning(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draws all tunings: the best cost over what was spent, and every cost.

    Args:
      rows: of trials.jsonl.
      folder: where to write incumbent.png and costs.png.

    Returns:
      the files; none without a trial.

    Raises:
      UsageError: if they cannot be written.
    """
    if not rows:
        return []
    table = searches.trajectories(searches.told(rows))
    named = {name: tuple(sorted(set(table[name]))) for name in ("method", "task")}
    look = Look(named["method"], tasks=named["task"])
    drawings = {"incumbent": searches.incumbents, "costs": searches.costs}
    files = []
    with drawing.style() as plt, _writing(folder):
        for name, draw in drawings.items():
            figure, _ = draw(plt, look, table)
            files += drawing.write(figure, folder, name, ["png"])
    return files


def races(answers: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Draws how races went.

    Args:
      answers: the content of selection.json.
      folder: where to write selection.png and selection.svg.

    Returns:
      the files.

    Raises:
      UsageError: if they cannot be written.
    """
    with drawing.style() as plt, _writing(folder):
        figure, _ = selected.draw(plt, selected.checked(answers))
        return drawing.write(figure, folder, "selection", ["png", "svg"])


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = error.filename or folder
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
