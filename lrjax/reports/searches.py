"""Figures of searches: costs and results of tuning, and beliefs of selections."""

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
from lrjax.reports.palette import Palette, shorten

Drawn = tuple[Any, list[Any]]
_PARTS = ("train", "valid")  # parts of the data that a tuning may be judged on
_NAMED = 10  # contenders in the figure of a selection
_LONGEST = 44  # characters of their names: methods with a learning rate fit
_FURTHEST = 15.0  # points that are shown
_PHONE, _KEYS = 5.2, 1.25  # inches of names with their plot, and of the legend beside
_DOT = {"marker": ".", "linestyle": "none"}
_STAR = {"marker": "*", "markersize": 11, "markeredgecolor": PAPER, "linestyle": "none"}


def trajectories(trials: pd.DataFrame) -> pd.DataFrame:
    """Add what each tuning had spent and found after each trial.

    Args:
      trials: in order of the trials, with columns task, method and source (which
        identify the tuning), budget, trained (the part of the budget beyond the state
        that the trial resumed from), cost (lower is better, NaN for diverged trials)
        and the columns of `cost_columns`.

    Returns:
      The rows, tuning by tuning, with more columns: `tuning` (a number), `whole`
      (whether the trial had the full budget), `spent` (so far, in full runs: what
      was trained over the full budget), `value` (what was measured: the cost, or
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
        spent = (subset["trained"] / most).cumsum()
        added = {"tuning": number, "whole": whole, "value": sign * cost, "best": best}
        tables.append(subset.assign(**added, spent=spent))
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
            # Rows of earlier versions lack it, and count as trained from the start.
            "trained": float(
                row["budget" if row.get("trained") is None else "trained"]
            ),
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
        drawing.scale_values(axis, "y", trials["value"], trials["rising"].any())
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
    handles, entries = [], sorted(set(table["method"]), key=palette.number)
    for entry in entries:
        lined = table.loc[table["method"] == entry, "best"].notna().any()
        # Where no trial had the full budget there are dots alone.
        handles.append(drawing.key(palette, entry, **{} if lined else _DOT))
    drawing.below(figure, handles, list(map(palette.brief, entries)))
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
        drawing.scale_values(axis, "y", subset["value"], subset["rising"].any())
        drawing.log_ticks(axis.xaxis)
        drawing.log_ticks(axis.yaxis)
    units = " or ".join(sorted(table["unit"].unique()))
    handles = [
        Line2D([], [], ls="none", marker="o", color=INK, alpha=a, ms=2 + 3 * a, mew=0)
        for a in opacity.values()
    ]
    unit = units.removesuffix("s")
    names = [counted(budget, unit, units, form="g") for budget in budgets]
    if table["best"].notna().any():
        handles.append(Line2D([], [], color=INK, **_STAR))
        names.append("best at the full budget")
    drawing.below(figure, handles, names)
    return figure, axes


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
        drawing.mark(star, place, "point", palette, method)


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


def beliefs(plt: Any, answers: Sequence[Mapping[str, Any]]) -> Drawn:
    """Expected, measured and believed points of contenders, a panel per task.

    Args:
      plt: as given by `drawing.style`.
      answers: task, winner, and judged, of each contender label, expected, expected_sd,
        behind (NaN for lost runs), now and now_sd, all in points, the winner first;
        below 0 for those that are behind.
    """
    # Contenders are not entries of a page, so nothing is shown under the mouse.
    figure, axes = drawing.panels(plt, len(answers), 3.6, 2.9, columns=1)
    shown = [answer["judged"][:_NAMED] for answer in answers]
    labels = {row["label"] for rows in shown for row in rows}
    palette = Palette(tuple(sorted(labels)), tasks=tuple(a["task"] for a in answers))
    names = shorten(labels, _LONGEST)
    for axis, answer, rows in zip(axes, answers, shown, strict=True):
        _beliefs(axis, palette, rows, answer["winner"])
        axis.set_yticks(range(len(rows)), [names[row["label"]] for row in rows])
        axis.set_title(palette.brief(answer["task"]))
    columns = {axis.get_subplotspec().colspan.start for axis in axes}
    figure.set_figwidth((_PHONE + _KEYS) * len(columns))
    return figure, []


def _beliefs(
    axis: Any, palette: Palette, rows: Sequence[Mapping[str, Any]], winner: str
) -> None:
    """Draw the panel of a selection.

    Args:
      axis: axes of the panel.
      palette: appearances of the contenders.
      rows: of the contenders, one below the other.
      winner: label of the one that gets a star.
    """
    expected = {"color": FAINT, "marker": "o", "markersize": 4, "linewidth": 1.0}
    now = {"marker": "o", "markersize": 6, "linewidth": 2.4}
    star = now | {"marker": "*", "markersize": 12}
    ticks = {"marker": "|", "markersize": 9, "linestyle": "none", "color": INK}
    crosses = {"marker": "x", "markersize": 5, "linestyle": "none", "color": INK}
    reach, lost = [-1.0, 0.0], False
    for place, row in enumerate(rows):
        won = row["label"] == winner
        own = (star if won else now) | {"color": palette.colour(row["label"])}
        own |= {"label": row["label"]}  # for the text alternative
        # Points behind are distances: the worse, the further from 0 to the right.
        _spread(axis, 0.0 - row["expected"], row["expected_sd"], place + 0.2, expected)
        _spread(axis, 0.0 - row["now"], row["now_sd"], place - 0.1, own)
        behind = [0.0 - value for value in row["behind"] if math.isfinite(value)]
        axis.plot(behind, [place - 0.1] * len(behind), **ticks)
        if len(behind) < len(row["behind"]):
            edge = axis.get_yaxis_transform()
            axis.plot([0.98], [place - 0.1], transform=edge, **crosses)
            lost = True
        reach += behind
        for belief in ("expected", "now"):
            mean, deviation = -row[belief], row[f"{belief}_sd"]
            reach += [mean - deviation, mean + deviation]
    ends = np.clip([x for x in reach if math.isfinite(x)], -_FURTHEST, _FURTHEST)
    axis.set_xlim(ends.min() - 0.5, ends.max() + 0.5)
    axis.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axis.set(xlabel="points behind the best (0: the best there is)")
    keys = {
        "known tasks say": expected,
        "a run": ticks,
        **({"a run that was lost": crosses} if lost else {}),
        "believed now": now | {"color": INK},
        "the winner": star | {"color": INK},
    }
    handles = [axis.plot([], [], **_line(look))[0] for look in keys.values()]
    corner = {"loc": "upper left", "bbox_to_anchor": (1, 1.0)}
    axis.legend(handles, list(keys), fontsize=7.5, **corner)


def _line(look: Mapping[str, Any]) -> dict[str, Any]:
    """The look of a key: its marker is on a line if it has the width of one."""
    return {**look, "linestyle": "-" if "linewidth" in look else "none"}


def _spread(
    axis: Any, mean: float, deviation: float, height: float, look: Mapping[str, Any]
) -> None:
    """Draw a mean, and a line of one standard deviation to either side."""
    line = {"color": look["color"], "linewidth": look["linewidth"]}
    axis.plot([mean - deviation, mean + deviation], [height] * 2, **line)
    axis.plot([mean], [height], **{**look, "linestyle": "none"})
