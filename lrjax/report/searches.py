"""Figures of searches: what tuning has found and paid, and how races went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrjax import results
from lrjax.core import counted
from lrjax.report import drawing
from lrjax.report.drawing import FAINT, INK, PAPER
from lrjax.report.look import STYLES, Look

Drawn = tuple[Any, list[Any]]
_NAMED = 8  # contenders that a figure of a race tells apart
_STAR = {"marker": "*", "markersize": 11, "markeredgecolor": PAPER, "linestyle": "none"}


def trajectories(trials: pd.DataFrame) -> pd.DataFrame:
    """What tunings had paid and found after each trial.

    Args:
      trials: task, method, budget, cost (NaN where a trial diverged) and source, which
        tells tunings apart; in the order in which they were told.

    Returns:
      the rows, tuning by tuning, with the columns `tuning` (a number), `spent` (in full
      runs: each trial counts as its budget over the largest) and `best` (the lowest
      cost at the full budget so far, NaN before there is one).
    """
    tables = []
    groups = trials.groupby(["task", "method", "source"])
    for number, (_, part) in enumerate(groups):
        budget, cost = part["budget"], part["cost"]
        most = budget.max()
        best = cost.where(budget == most).cummin().ffill()
        spent = (budget / most).cumsum()
        tables.append(part.assign(tuning=number, spent=spent, best=best))
    return pd.concat(tables, ignore_index=True)


def told(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of trials.jsonl as `trajectories` takes them, named as what they tune.

    Also has the columns `unit` (of budgets), `varied` (the hyperparameter to draw over)
    and `at` (its value).
    """
    table = pd.DataFrame(
        {
            "task": row["task"],
            "method": results.tuned_name(row["tuner"], row["seed"], row["method"]),
            "source": str(row.get("tuning", "")),
            "budget": float(row["budget"]),
            "cost": float(row["cost"]) if row["status"] == "done" else math.nan,
            "unit": row["unit"],
            "hparams": row["hparams"],
        }
        for row in rows
    )
    found = table.groupby(["task", "method"])["hparams"].transform(_varied)
    at = [h.get(name) for h, name in zip(table["hparams"], found, strict=True)]
    at = pd.to_numeric(pd.Series(at, index=table.index), errors="coerce")
    return table.assign(varied=found, at=at).drop(columns="hparams")


def _varied(settings: pd.Series) -> str:
    """The hyperparameter to draw over: the learning rate if it was tuned."""
    numbers = [n for n, v in settings.iloc[0].items() if isinstance(v, int | float)]
    varied = [n for n in numbers if len({each.get(n) for each in settings}) > 1]
    return "learning_rate" if "learning_rate" in varied else (varied or numbers)[0]


def incumbents(plt: Any, look: Look, table: pd.DataFrame) -> Drawn:
    """Best cost so far against what tuning has cost, a panel per task.

    Args:
      plt: Matplotlib.
      look: of methods.
      table: as from `trajectories`.
    """
    tasks = list(table["task"].unique())
    figure, axes = drawing.panels(plt, len(tasks))
    for i, (axis, task) in enumerate(zip(axes, tasks, strict=True)):
        here = table[table["task"] == task]
        axis.set_yscale("log" if here["cost"].min() > 0 else "linear")
        for (method, _), part in here.groupby(["method", "tuning"]):
            colour = look.colour(str(method))
            axis.plot(part["spent"], part["cost"], ".", color=colour, ms=3, alpha=0.4)
            _crosses(axis, part["spent"], part["cost"], colour)
            drawing.line(
                *(axis, i, look, str(method), part["spent"], part["best"]),
                drawstyle="steps-post",
            )
            _star(axis, i, look, str(method), part, "spent")
        axis.set(title=look.brief(task), xlabel="tuning cost (full runs)")
        axis.set_ylabel("cost told")
        axis.set_xlim(0, 1.03 * here["spent"].max())
        drawing.log_ticks(axis.yaxis)
    entries = sorted(set(table["method"]), key=look.number)
    drawing.legend(figure, look, entries)
    return figure, axes


def costs(plt: Any, look: Look, table: pd.DataFrame) -> Drawn:
    """Every cost over the hyperparameter that was tuned, a panel per task and method.

    Args:
      plt: Matplotlib.
      look: of methods.
      table: as from `trajectories`, with `unit`, `varied` and `at`.
    """
    from matplotlib.lines import Line2D

    groups = list(table.groupby(["task", "method"]))
    budgets = sorted(table["budget"].unique())
    strong = dict(zip(budgets, np.linspace(0.3, 1, len(budgets) + 1)[1:], strict=True))
    figure, axes = drawing.panels(plt, len(groups))
    for i, (axis, ((task, method), part)) in enumerate(zip(axes, groups, strict=True)):
        colour = look.colour(method)
        for budget, trials in part.groupby("budget"):
            shade = strong[budget]
            dots = {"color": colour, "alpha": shade, "ms": 2 + 3 * shade, "mew": 0}
            axis.plot(trials["at"], trials["cost"], "o", **dots)
        _crosses(axis, part["at"], part["cost"], colour)
        for _, tuning in part.groupby("tuning"):
            _star(axis, i, look, method, tuning, "at")
        low, high = part["at"].min(), part["at"].max()
        if low > 0 and high > 30 * low:
            axis.set_xscale("log")
        axis.set(title=look.brief(task), xlabel=f"{part['varied'].iloc[0]} ({method})")
        axis.set_ylabel("cost told")
        axis.set_yscale("log" if part["cost"].min() > 0 else "linear")
        drawing.log_ticks(axis.xaxis)
        drawing.log_ticks(axis.yaxis)
    units = " or ".join(sorted(table["unit"].unique()))
    handles = [
        Line2D([], [], ls="none", marker="o", color=INK, alpha=a, ms=2 + 3 * a, mew=0)
        for a in strong.values()
    ]
    handles.append(Line2D([], [], color=INK, **_STAR))
    names = [
        f"{budget:g} {units.removesuffix('s') if budget == 1 else units}"
        for budget in budgets
    ]
    drawing.below(figure, handles, [*names, "best at the full budget"])
    return figure, axes


def _star(
    axis: Any, place: int, look: Look, method: str, trials: pd.DataFrame, x: str
) -> None:
    """Marks a tuning's best trial at its full budget."""
    full = trials.loc[trials["budget"] == trials["budget"].max(), "cost"].dropna()
    if len(full):
        best = trials.loc[full.idxmin()]
        drawn = {"color": look.colour(method), "zorder": 5, "clip_on": False}
        (star,) = axis.plot(best[x], best["cost"], **_STAR | drawn)
        drawing.mark(star, place, "point", look.number(method))


def _crosses(axis: Any, x: pd.Series, cost: pd.Series, colour: str) -> None:
    """Trials that diverged, at the upper edge."""
    lost = x[cost.isna()]
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
    """Each contender's score over the rungs that it saw, a panel per task.

    Args:
      plt: Matplotlib.
      answers: task, winner, label (of the axis), better (1 where higher is better, -1
        where lower is) and judged, rows of label, steps and value.
    """
    # Contenders are no entries of a page: nothing is shown under the mouse.
    figure, axes = drawing.panels(plt, len(answers), 3.6, 2.6, columns=1)
    labels = {each["label"] for answer in answers for each in answer["judged"]}
    look = Look(tuple(sorted(labels)), tasks=tuple(a["task"] for a in answers))
    for axis, answer in zip(axes, answers, strict=True):
        _race(axis, look, answer)
        axis.set_title(look.brief(answer["task"]))
    figure.set_figwidth(figure.get_figwidth() + 2.6)  # the legends' room
    return figure, []


def _race(axis: Any, look: Look, answer: Mapping[str, Any]) -> None:
    sign, winner = answer["better"], answer["winner"]
    lines: dict[str, list[tuple[int, float]]] = {}
    for each in answer["judged"]:
        if math.isfinite(each["value"]):
            lines.setdefault(each["label"], []).append((each["steps"], each["value"]))

    def place(label: str) -> tuple[bool, int, float]:
        """The winner first, then who came furthest, then who was best there."""
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
        drawn = {"color": look.colour(label), "linestyle": look.style(label)}
        # Dashes over whole lines, signs beside each other: nobody hides another.
        drawn |= {"zorder": 2 + 0.1 * STYLES.index(look.style(label))}
        axis.plot(x, y, linewidth=2.4 if label == winner else 1.4, **drawn)
        places = drawing.signs_at(axis, x, y, (depth + 0.5) / len(named))
        size = 4 + 0.8 * depth * (len(x) == 1)  # on one rung there is no beside
        signs = {"linestyle": "none", "markersize": size, "zorder": 2.9 - 0.01 * depth}
        axis.plot(*places, **signs | look.sign(label))
        if label == winner:
            star = _STAR | {"color": look.colour(label), "zorder": 5, "clip_on": False}
            axis.plot(x[-1], y[-1], **star)
    for label in named:
        won = {"marker": "*", "markersize": 9} if label == winner else {}
        handles.append(drawing.key(look, label, **won))
        names.append(look.brief(label) + (" (winner)" if label == winner else ""))
    if others:
        handles += axis.plot([], [], ".-", color=FAINT, linewidth=0.8)
        names.append(counted(len(others), "other"))
    rungs = sorted({each["steps"] for each in answer["judged"]})
    axis.set_xticks(rungs, [f"{steps:,}" for steps in rungs])
    axis.minorticks_off()
    axis.set(xlabel="updates at which contenders were compared", ylabel=answer["label"])
    if order:
        values = [[value for _, value in lines[label]] for label in order]
        axis.set_ylim(*_limits(values, sign))
        axis.legend(
            *(handles, names),
            loc="upper left",
            bbox_to_anchor=(1, 1.05),
            fontsize=7.5,
            handlelength=2.8,
        )


def _limits(lines: Sequence[Sequence[float]], sign: int) -> tuple[float, float]:
    """Of the axis: all but the worst of the rest, which would press the best together.

    Args:
      lines: values of contenders, those to be seen first.
      sign: -1 where lower is better.
    """
    named = [sign * v for line in lines[:_NAMED] for v in line]
    rest = sorted(sign * v for line in lines[_NAMED:] for v in line)
    low = min([*named, *rest[len(rest) // 3 :]])
    high = max([*named, *rest])
    margin = 0.05 * (high - low) or 0.01
    ends = sorted((sign * (low - margin), sign * (high + margin)))
    return ends[0], ends[1]
