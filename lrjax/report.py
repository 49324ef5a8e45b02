"""What people look at: the ranking in the terminal and the learning curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lrjax import stats

# Colours of Tol's 'muted' scheme, told apart by the colour-blind and in print; with
# more entries than colours the line style changes.
_COLOURS = (
    "#332288",
    "#CC6677",
    "#117733",
    "#DDCC77",
    "#88CCEE",
    "#882255",
    "#44AA99",
    "#999933",
    "#AA4499",
    "#777777",
)
_STYLES = ("-", "--", ":", "-.")
_TASKS_PER_TABLE = 3


def ranking(runs: pd.DataFrame) -> str:
    """The methods from best to worst, as text.

    Args:
      runs: as from `results.load`.
    """
    runs = runs.assign(entry=stats.label_entries(runs))
    table = stats.summary(runs).set_index(["task", "entry"])
    ranks = stats.mean_ranks(runs)
    tasks = list(runs["task"].unique())
    width = max(len("method"), *(len(entry) for entry in ranks.index))
    lines = [
        "Validation accuracy (%) and loss, mean ± 95 % interval over seeds; "
        "best mean rank first"
    ]
    for start in range(0, len(tasks), _TASKS_PER_TABLE):
        shown = tasks[start : start + _TASKS_PER_TABLE]
        lines += [
            "",
            " " * width + "  rank" + "".join(f"  {task:^24.24}" for task in shown),
            f"{'method':<{width}}      " + "    accuracy       loss     " * len(shown),
        ]
        for entry, rank in ranks.items():
            cells = [_cell(table, task, str(entry)) for task in shown]
            lines.append(f"{entry:<{width}}  {rank:4.1f}" + "".join(cells))
    diverged = table[table["diverged"] > 0]
    if len(diverged):
        lines += ["", "diverged (left out of means, ranked last):"]
        lines += [
            f"  {entry} on {task}: {row['diverged']:.0f} of {row['runs']:.0f} runs"
            for (task, entry), row in diverged.iterrows()
        ]
    return "\n".join(line.rstrip() for line in lines)


def _cell(table: pd.DataFrame, task: str, entry: str) -> str:
    if (task, entry) not in table.index:
        return f"  {'-':>11} {'-':>12}"
    row = table.loc[(task, entry)]
    accuracy = _plus_minus(100 * row["accuracy"], 100 * row["accuracy_interval"], 1)
    loss = _plus_minus(row["loss"], row["loss_interval"], 3)
    return f"  {accuracy:>11} {loss:>12}"


def _plus_minus(mean: float, half: float, digits: int) -> str:
    if np.isnan(mean):
        return "-"
    text = f"{mean:.{digits}f}"
    return text if np.isnan(half) else f"{text} ±{half:.{digits}f}"


def learning_curves(runs: pd.DataFrame, curves: pd.DataFrame, path: str | Path) -> None:
    """Draws validation loss and the learning rate used, by epoch, for every task.

    Lines are medians over seeds, bands span the middle half.

    Args:
      runs, curves: as from `results.load`.
      path: of the PNG to write.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    runs = runs.assign(entry=stats.label_entries(runs))
    rows = curves.merge(runs[["run_id", "task", "entry"]], on="run_id")
    tasks, entries = list(runs["task"].unique()), list(runs["entry"].unique())
    figure, axes = plt.subplots(
        len(tasks), 2, figsize=(11, 3.2 * len(tasks) + 0.6), squeeze=False
    )
    for row, task in zip(axes, tasks, strict=True):
        for axis, name in zip(row, ("valid_loss", "learning_rate"), strict=True):
            for number, entry in enumerate(entries):
                part = rows[(rows["task"] == task) & (rows["entry"] == entry)]
                _band(axis, part, name, str(entry), number)
            axis.set(xlabel="epoch", yscale="log")
            axis.grid(alpha=0.3)
        row[0].set(ylabel="validation loss", title=task)
        row[1].set(ylabel="learning rate used", title=task)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _band(axis, rows: pd.DataFrame, name: str, label: str, number: int) -> None:
    """One entry's median and middle half over seeds."""
    quantiles = (
        rows.assign(value=rows[name].astype(float))
        .groupby("epoch")["value"]
        .quantile([0.25, 0.5, 0.75])
        .unstack()
    )
    colour = _COLOURS[number % len(_COLOURS)]
    style = _STYLES[number // len(_COLOURS) % len(_STYLES)]
    if not len(quantiles):
        axis.plot([], [], color=colour, linestyle=style, label=label)
        return
    axis.plot(
        quantiles.index, quantiles[0.5], color=colour, linestyle=style, label=label
    )
    axis.fill_between(
        quantiles.index, quantiles[0.25], quantiles[0.75], color=colour, alpha=0.2
    )
