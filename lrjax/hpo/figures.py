"""Figures of tuning: the best cost over what was spent, costs over learning rates."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrjax.core import UsageError

_COLUMNS = 3


def draw(trials: Sequence[Mapping[str, Any]], workdir: Path) -> list[Path]:
    """Draws all tunings of a working directory, a panel each.

    Args:
      trials: rows of trials.jsonl.
      workdir: where to write incumbent.png and costs.png.

    Returns:
      the files.

    Raises:
      UsageError: if they cannot be written.
    """
    if not trials:
        return []
    from matplotlib.figure import Figure

    def title(row: Mapping[str, Any]) -> str:
        return f"{row['tuner']}:{row['method']} on {row['task']}"

    ordered = sorted(trials, key=lambda row: (title(row), row["seed"], row["trial"]))
    panels = [list(rows) for _, rows in itertools.groupby(ordered, title)]
    columns = min(len(panels), _COLUMNS)
    lines = -(-len(panels) // columns)
    files = []
    for name, panel in (("incumbent", _incumbent), ("costs", _costs)):
        figure = Figure((4.5 * columns, 3.4 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False).flat
        for ax, rows in itertools.zip_longest(axes, panels):
            if rows is None:
                ax.remove()
                continue
            ax.set_title(title(rows[0]), fontsize="medium")
            panel(figure, ax, rows)
        path = workdir / f"{name}.png"
        try:
            figure.savefig(path, dpi=120)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        files.append(path)
    return files


def _incumbent(figure: Any, ax: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """The cost of the best trial at the largest budget so far, a step line per seed."""
    del figure
    whole = max(row["budget"] for row in rows)
    for seed, mine in itertools.groupby(rows, lambda row: row["seed"]):
        spent, best, x, y = 0.0, None, [], []
        for row in mine:
            spent += row["budget"] / whole
            if row["incumbent"]:
                if best is not None and row["budget"] > best["budget"]:
                    x, y = [*x, spent], [*y, float("nan")]  # not comparable
                best = row
            if best is not None:
                x, y = [*x, spent], [*y, best["cost"]]
        ax.step(x, y, where="post", label=f"seed {seed}")
    ax.set_xlabel("cost so far (full runs, each trial from its start)")
    ax.set_ylabel("cost of the incumbent")
    ax.legend(fontsize="small")


def _costs(figure: Any, ax: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Every finite cost over the learning rate, coloured by the budget."""
    from matplotlib.colors import LogNorm

    name = _axis(rows)
    done = [row for row in rows if row["status"] == "done"]
    budgets = [row["budget"] for row in rows]
    points = ax.scatter(
        [row["hparams"][name] for row in done],
        [row["cost"] for row in done],
        c=[row["budget"] for row in done],
        norm=LogNorm(min(budgets), max(max(budgets), min(budgets) + 1)),
        s=14,
    )
    for row in rows:
        if row["status"] != "done":
            ax.axvline(row["hparams"][name], color="0.85", lw=0.8, zorder=0)
    figure.colorbar(points, ax=ax, label=f"budget ({rows[0]['unit']})")
    values = [row["hparams"][name] for row in rows]
    if min(values) > 0 and max(values) > 30 * min(values):
        ax.set_xscale("log")
    ax.set_xlabel(name)
    ax.set_ylabel("cost")


def _axis(rows: Sequence[Mapping[str, Any]]) -> str:
    """The hyperparameter to draw over: the learning rate if it was tuned."""
    numbers = [n for n, v in rows[0]["hparams"].items() if isinstance(v, int | float)]
    varied = [n for n in numbers if len({row["hparams"][n] for row in rows}) > 1]
    return "learning_rate" if "learning_rate" in varied else (varied or numbers)[0]
