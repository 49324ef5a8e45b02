"""Figures of searches: costs and results of tuning, and scores of races by rung."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrjax import identity
from lrjax.analysis.scores import metric_label
from lrjax.core import METRICS, Metric, counted, encodable
from lrjax.reports import drawing
from lrjax.reports.drawing import FAINT, INK, PAPER
from lrjax.reports.palette import STYLES, Palette

Drawn = tuple[Any, list[Any]]
_PARTS = ("train", "valid")  # parts of the data that a tuning may be judged on
_NAMED = 8  # contenders in the legend of a race
_STAR = {"marker": "*", "markersize": 11, "markeredgecolor": PAPER, "linestyle": "none"}


def trajectories(trials: pd.DataFrame) -> pd.DataFrame:
    """Add what each tuning had spent and found after each trial.

    Args:
      trials: in order of the trials, with columns task, method and source (which
        identify the tuning), budget, cost (lower is better, NaN for diverged trials)
        and the columns of `cost_columns`.

    Returns:
      The rows, tuning by tuning, with more columns: `tuning` (a number), `whole`
      (whether the trial had the full budget), `spent` (so far, in full runs: a trial
      counts as its budget over the full one), `value` (what was measured: the cost, or
      minus the cost if higher is better) and `best` (best value at the full budget so
      far, NaN before the first).
    """
    tables = []
    groups = trials.groupby(["task", "method", "source"])
    for number, (_, subset) in enumerate(groups):
        budget, cost = subset["budget"], subset["cost"]
        # Rows of earlier versions lack the full budget: the largest takes its place.
        most = max(budget.max(), subset["max_budget"].fillna(0).max())
        whole, sign = budget == most, 1 - 2 * subset["rising"]
        best = sign * cost.where(whole).cummin().ffill()
        added = {"tuning": number, "whole": whole, "value": sign * cost, "best": best}
        tables.append(subset.assign(**added, spent=(budget / most).cumsum()))
    return pd.concat(tables, ignore_index=True)


def cost_columns(
    row: Mapping[str, Any], metrics: Mapping[str, Sequence[Metric]]
) -> dict[str, Any]:
    """The columns of `trajectories` on the cost and the full budget of a trial.

    Args:
      row: a row of trials.jsonl, of any version.
      metrics: as returned by `results.load_metrics`.

    Returns:
      max_budget (NaN if the row lacks it), tuned_by (the measurement that was the cost,
      '' if the row lacks it) and rising (whether the cost is minus the measurement).
    """
    column = row.get("tuned_by") or ""
    of_task = [*METRICS.values(), *metrics.get(encodable(row["task"]), ())]
    rising = {f"{part}_{m}": m.higher_is_better for m in of_task for part in _PARTS}
    most = row.get("max_budget")
    return {
        "max_budget": math.nan if most is None else float(most),
        "tuned_by": column,
        "rising": rising.get(column, False),
    }


def trials_table(
    rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Sequence[Metric]] | None = None,
) -> pd.DataFrame:
    """Trials as a table for `trajectories`, under the names of the tuned methods.

    It also has the columns `unit` (of budgets) and `hparams`.

    Args:
      rows: rows of trials.jsonl.
      metrics: as returned by `results.load_metrics`.
    """
    return pd.DataFrame(
        {
            "task": encodable(row["task"]),
            "method": encodable(
                identity.tuned_name(row["tuner"], row["seed"], row["method"])
            ),
            "source": str(row.get("tuning", "")),
            "budget": float(row["budget"]),
            "cost": float(row["cost"]) if row["status"] == "done" else math.nan,
            **cost_columns(row, metrics or {}),
            "unit": row["unit"],
            "hparams": row["hparams"],
        }
        for row in rows
    )


def cost_label(column: str) -> str:
    """The measurement behind a cost, in words: 'validation loss'."""
    return metric_label(column) if column else "cost"


def _settings(table: pd.DataFrame) -> pd.DataFrame:
    """Add `varied`, the hyperparameter to draw over, and `at`, its value.

    Args:
      table: as returned by `trajectories`.
    """
    varied = table.groupby(["task", "method"])["hparams"].transform(_varied)
    at = [h.get(name) for h, name in zip(table["hparams"], varied, strict=True)]
    at = pd.to_numeric(pd.Series(at, index=table.index), errors="coerce")
    return table.assign(varied=varied, at=at)


def _varied(settings: pd.Series) -> str:
    """The hyperparameter to draw over: the learning rate if it varies."""
    numbers = [n for n, v in settings.iloc[0].items() if isinstance(v, int | float)]
    varied = [n for n in numbers if len({setting.get(n) for setting in settings}) > 1]
    return "learning_rate" if "learning_rate" in varied else (varied or numbers)[0]


def incumbents(plt: Any, palette: Palette, table: pd.DataFrame) -> Drawn:
    """Best value so far over the cost of tuning, a panel per task and measurement.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of methods.
      table: as returned by `trajectories`.
    """
    groups = list(table.groupby(["task", "tuned_by"]))
    figure, axes = drawing.panels(plt, len(groups))
    for i, (axis, ((task, column), trials)) in enumerate(
        zip(axes, groups, strict=True)
    ):
        axis.set_yscale(_scale(trials))
        for (method, _), subset in trials.groupby(["method", "tuning"]):
            colour = palette.colour(str(method))
            axis.plot(
                subset["spent"], subset["value"], ".", color=colour, ms=3, alpha=0.4
            )
            _crosses(axis, subset["spent"], subset["value"], colour)
            drawing.line(
                axis,
                i,
                palette,
                str(method),
                subset["spent"],
                subset["best"],
                drawstyle="steps-post",
            )
            _star(axis, i, palette, str(method), subset, "spent")
        axis.set(title=palette.brief(task), xlabel="tuning cost (full runs)")
        axis.set_ylabel(cost_label(column))
        axis.set_xlim(0, 1.03 * trials["spent"].max())
        drawing.log_ticks(axis.yaxis)
    entries = sorted(set(table["method"]), key=palette.number)
    drawing.legend(figure, palette, entries)
    return figure, axes


def costs(plt: Any, palette: Palette, table: pd.DataFrame) -> Drawn:
    """Every value over the tuned hyperparameter.

    A panel per task, method and measurement.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of methods.
      table: as returned by `trajectories`, with `unit` and `hparams`.
    """
    from matplotlib.lines import Line2D

    table = _settings(table)
    groups = list(table.groupby(["task", "method", "tuned_by"]))
    budgets = sorted(table["budget"].unique())
    opacity = dict(zip(budgets, np.linspace(0.3, 1, len(budgets) + 1)[1:], strict=True))
    figure, axes = drawing.panels(plt, len(groups))
    for i, (axis, (key, subset)) in enumerate(zip(axes, groups, strict=True)):
        task, method, column = key
        colour = palette.colour(method)
        for budget, trials in subset.groupby("budget"):
            shade = opacity[budget]
            dots = {"color": colour, "alpha": shade, "ms": 2 + 3 * shade, "mew": 0}
            axis.plot(trials["at"], trials["value"], "o", **dots)
        _crosses(axis, subset["at"], subset["value"], colour)
        for _, tuning in subset.groupby("tuning"):
            _star(axis, i, palette, method, tuning, "at")
        low, high = subset["at"].min(), subset["at"].max()
        if low > 0 and high > 30 * low:
            axis.set_xscale("log")
        axis.set(
            title=palette.brief(task),
            xlabel=f"{subset['varied'].iloc[0]} ({palette.brief(method)})",
        )
        axis.set_ylabel(cost_label(column))
        axis.set_yscale(_scale(subset))
        drawing.log_ticks(axis.xaxis)
        drawing.log_ticks(axis.yaxis)
    units = " or ".join(sorted(table["unit"].unique()))
    handles = [
        Line2D([], [], ls="none", marker="o", color=INK, alpha=a, ms=2 + 3 * a, mew=0)
        for a in opacity.values()
    ]
    handles.append(Line2D([], [], color=INK, **_STAR))
    unit = units.removesuffix("s")
    names = [counted(budget, unit, units, form="g") for budget in budgets]
    drawing.below(figure, handles, [*names, "best at the full budget"])
    return figure, axes


def _scale(trials: pd.DataFrame) -> str:
    """Scale of the axis of values: 'log' if lower is better and all are positive."""
    costs = not trials["rising"].any() and trials["value"].min() > 0
    return "log" if costs else "linear"


def _star(
    axis: Any, place: int, palette: Palette, method: str, trials: pd.DataFrame, x: str
) -> None:
    """Mark a tuning's best trial at its full budget.

    Args:
      axis: axes of the panel.
      place: number of the panel, from 0.
      palette: appearances of the entries.
      method: entry whose colour is used.
      trials: rows of one tuning, as returned by `trajectories`.
      x: column on the horizontal axis.
    """
    full = trials.loc[trials["whole"], "cost"].dropna()
    if len(full):
        best = trials.loc[full.idxmin()]
        drawn = {"color": palette.colour(method), "zorder": 5, "clip_on": False}
        (star,) = axis.plot(best[x], best["value"], **_STAR | drawn)
        drawing.mark(star, place, "point", palette.number(method))


def _crosses(axis: Any, x: pd.Series, value: pd.Series, colour: str) -> None:
    """Draw trials that diverged as crosses at the upper edge.

    Args:
      axis: axes of the panel.
      x: positions, one per trial.
      value: measurements of the trials; NaN where they diverged.
      colour: colour of the crosses.
    """
    lost = x[value.isna()]
    axis.plot(
        lost,
        np.full(len(lost), 0.98),
        "x",
        transform=axis.get_xaxis_transform(),
        color=colour,
        ms=4,
        alpha=0.6,
    )


def races(plt: Any, answers: Sequence[Mapping[str, Any]]) -> Drawn:
    """Each contender's score over the rungs that it reached, a panel per task.

    Args:
      plt: as given by `drawing.style`.
      answers: task, winner, label (of the axis), better (1 if higher is better, else
        -1) and judged, rows of label, steps and value.
    """
    # Contenders are not entries of a page, so nothing is shown under the mouse.
    figure, axes = drawing.panels(plt, len(answers), 3.6, 2.6, columns=1)
    labels = {row["label"] for answer in answers for row in answer["judged"]}
    palette = Palette(tuple(sorted(labels)), tasks=tuple(a["task"] for a in answers))
    for axis, answer in zip(axes, answers, strict=True):
        _race(axis, palette, answer)
        axis.set_title(palette.brief(answer["task"]))
    figure.set_figwidth(figure.get_figwidth() + 2.6)  # room for the legends
    return figure, []


def _race(axis: Any, palette: Palette, answer: Mapping[str, Any]) -> None:
    """Draw the panel of a race.

    Args:
      axis: axes of the panel.
      palette: appearances of the contenders.
      answer: one of the answers that `races` takes.
    """
    sign, winner = answer["better"], answer["winner"]
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in answer["judged"]:
        if math.isfinite(row["value"]):
            lines.setdefault(row["label"], []).append((row["steps"], row["value"]))

    def place(label: str) -> tuple[bool, int, float]:
        """Sort key: the winner, then by the last rung reached, then by score there."""
        steps, value = lines[label][-1]
        return label != winner, -steps, -sign * value

    order = sorted(lines, key=place)
    named, others = order[:_NAMED], order[_NAMED:]
    handles, names = [], []
    axis.set_xscale("log")
    for label in others:
        axis.plot(*zip(*lines[label], strict=True), ".-", color=FAINT, lw=0.8, ms=4)
    for depth, label in enumerate(named):
        x, y = zip(*lines[label], strict=True)
        drawn = {"color": palette.colour(label), "linestyle": palette.style(label)}
        # Dashed lines over solid ones, markers at different places: all stay visible.
        drawn |= {"zorder": 2 + 0.1 * STYLES.index(palette.style(label))}
        axis.plot(x, y, linewidth=2.4 if label == winner else 1.4, **drawn)
        places = drawing.signs_at(axis, x, y, (depth + 0.5) / len(named))
        size = 4 + 0.8 * depth * (len(x) == 1)  # on one rung they coincide
        signs = {"linestyle": "none", "markersize": size, "zorder": 2.9 - 0.01 * depth}
        axis.plot(*places, **signs | palette.sign(label))
        if label == winner:
            star = _STAR | {
                "color": palette.colour(label),
                "zorder": 5,
                "clip_on": False,
            }
            axis.plot(x[-1], y[-1], **star)
    for label in named:
        won = {"marker": "*", "markersize": 9} if label == winner else {}
        handles.append(drawing.key(palette, label, **won))
        names.append(palette.brief(label) + (" (winner)" if label == winner else ""))
    if others:
        handles += axis.plot([], [], ".-", color=FAINT, linewidth=0.8)
        names.append(counted(len(others), "other"))
    rungs = sorted({row["steps"] for row in answer["judged"]})
    axis.set_xticks(rungs, [f"{steps:,}" for steps in rungs])
    axis.minorticks_off()
    axis.set(xlabel="updates at which contenders were compared", ylabel=answer["label"])
    if order:
        values = [[value for _, value in lines[label]] for label in order]
        axis.set_ylim(*_limits(values, sign))
        axis.legend(
            handles,
            names,
            loc="upper left",
            bbox_to_anchor=(1, 1.05),
            fontsize=7.5,
            handlelength=2.8,
        )


def _limits(lines: Sequence[Sequence[float]], sign: int) -> tuple[float, float]:
    """Limits of the axis, without the worst third of the contenders not in the legend.

    The worst would press the best together.

    Args:
      lines: values of contenders, those in the legend first.
      sign: 1 if higher is better, else -1.
    """
    named = [sign * v for line in lines[:_NAMED] for v in line]
    rest = sorted(sign * v for line in lines[_NAMED:] for v in line)
    low = min([*named, *rest[len(rest) // 3 :]])
    high = max([*named, *rest])
    margin = 0.05 * (high - low) or 0.01
    ends = sorted((sign * (low - margin), sign * (high + margin)))
    return ends[0], ends[1]
