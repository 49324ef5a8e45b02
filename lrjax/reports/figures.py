"""The figures of a report: tables in, Matplotlib figures out.

Every function takes `plt` (from `drawing.style`), the `Palette` of the entries, and
tables of `stats`, `portfolio` and `curves`. It returns the figure and the axes that
show values under the mouse.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrjax.analysis.early_order import TRUSTED
from lrjax.analysis.scores import metric_label, metric_of
from lrjax.core import METRICS, Metric
from lrjax.reports import drawing
from lrjax.reports.drawing import (
    FAINT,
    INK,
    PAPER,
    SOFT,
)
from lrjax.reports.palette import COLOURS, Palette

Drawn = tuple[Any, list[Any]]
_TINT = 0.5  # opacity of the strongest colour of a cell


def overview(plt: Any, palette: Palette, overall: pd.DataFrame) -> Drawn:
    """Mean rank and normalised IQM of each entry, with intervals.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of the entries.
      overall: as returned by `stats.overall`.
    """
    entries = list(overall.index)
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 0.27 * len(entries) + 1.1))
    for i, (axis, name) in enumerate(zip(axes, ("rank", "iqm"), strict=True)):
        for y, entry in enumerate(entries):
            row = overall.loc[entry]
            colour = palette.colour(entry)
            if np.isfinite(row[f"{name}_low"]):
                ends = [row[f"{name}_low"], row[f"{name}_high"]]
                axis.plot(ends, [y, y], color=colour, linewidth=5, alpha=0.35, zorder=2)
            (point,) = axis.plot(row[name], y, "o", color=colour, markersize=5.5)
            drawing.mark(point, i, "point", palette, entry)
        axis.grid(axis="y", visible=False)
    axes[0].set(title="Mean rank", xlabel="mean rank (1 is best)")
    axes[1].set(title="Normalised score", xlabel="IQM of normalised score (1 is best)")
    for axis in axes:  # a page may show them below each other
        axis.set_yticks(range(len(entries)), map(palette.brief, entries))
        axis.tick_params(axis="y", length=0, labelcolor=INK)
        axis.set_ylim(len(entries) - 0.4, -0.6)
    return figure, list(axes)


def cells(
    plt: Any,
    palette: Palette,
    shade: pd.DataFrame,
    text: pd.DataFrame,
    two_sided: bool = False,
    apart: int = 0,
) -> Drawn:
    """A heat map with a text in each cell.

    Args:
      plt: as given by `drawing.style`.
      palette: short names of rows and columns.
      shade: [rows, columns], strength of the colours from 0 to 1; NaN is grey.
      text: [rows, columns], texts of the cells; index and columns are the names.
      two_sided: whether 0.5 is neutral, and lower values have another colour.
      apart: number of columns at the right that a gap sets apart; 0 for no gap.
    """
    from matplotlib.patches import Rectangle

    rows, columns = text.shape
    text = text.rename(index=palette.brief, columns=palette.brief)
    # Sizes in inches, for text of the given numbers of characters.
    longest = max(max(len(name) for name in text.index), 8)
    widest = max(max(len(str(t)) for t in text.to_numpy().ravel()), 5)
    # Names of columns are rotated, rising to the right.
    tallest = max(max(len(name) for name in text.columns), 14)
    cell = max(0.54, 0.075 * widest + 0.12)
    width = columns * cell + 0.075 * longest + 0.8
    names = reversed(list(text.columns))
    overhang = (0.06 * (len(name) - 10) - cell * i for i, name in enumerate(names))
    width += max(0, *overhang)  # of names to the right of the cells
    figure, axis = plt.subplots(figsize=(width, 0.27 * rows + 0.65 + 0.05 * tallest))
    for y in range(rows):
        for x in range(columns):
            left = x + 0.12 * (x >= columns - apart)
            colour, alpha = _tint(shade.iat[y, x], two_sided)
            axis.add_patch(
                Rectangle((left, y), 1, 1, facecolor=colour, alpha=alpha, linewidth=0)
            )
            axis.text(
                left + 0.5,
                y + 0.52,
                text.iat[y, x],
                ha="center",
                va="center",
                fontsize=7.8,
                color=INK,
            )
    axis.set(xlim=(0, columns + 0.12 * bool(apart)), ylim=(rows, 0))
    places = [x + 0.5 + 0.12 * (x >= columns - apart) for x in range(columns)]
    axis.set_xticks(places, list(text.columns), rotation=35, ha="left")
    axis.tick_params(
        axis="x", top=True, labeltop=True, bottom=False, labelbottom=False, pad=1
    )
    axis.set_yticks(np.arange(rows) + 0.5, list(text.index))
    axis.tick_params(length=0, labelcolor=INK)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    return figure, []


def _tint(shade: float, two_sided: bool) -> tuple[str, float]:
    """Colour and opacity of a cell; arguments as for `cells`.

    A tint shows a white or dark background through, so that the text on it can be read
    on both.
    """
    above, below, *_ = COLOURS
    value = float(np.clip(shade, 0, 1))
    if two_sided:
        value = 2 * value - 1
    if not np.isfinite(value):
        return SOFT, 0.12
    return (above, _TINT * value) if value > 0 else (below, -_TINT * value)


def scores(
    plt: Any,
    palette: Palette,
    runs: pd.DataFrame,
    table: pd.DataFrame,
    tasks: Sequence[str],
    known: Mapping[str, Metric] = METRICS,
) -> Drawn:
    """Every run as a dot, the interquartile mean and its interval as a bar.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of the entries.
      runs: as returned by `scores.judge`.
      table: as returned by `stats.per_task`.
      tasks: the tasks, a panel each.
      known: as returned by `scores.known_metrics`.
    """
    entries = list(palette.entries)
    height = 0.17 * len(entries) + 0.9
    names = [palette.brief(entry) for entry in entries]
    width = 2.3 + 0.06 * max(map(len, names))
    columns = max(1, min(3, int(10.4 / width)))
    figure, axes = drawing.panels(plt, len(tasks), width, height, columns)
    for i, (axis, task) in enumerate(zip(axes, tasks, strict=True)):
        subset = runs[runs["task"] == task]
        means = table[table["task"] == task].set_index("entry")
        _score_panel(axis, i, palette, entries, subset, means)
        metric = str(subset["metric"].iloc[0])
        rising = metric_of(metric, known).higher_is_better
        log = drawing.scale_values(axis, "x", subset["value"], rising)
        if subset["value"].isna().any():  # room for the counts at the right
            low, high = axis.get_xlim()
            more = high * (high / low) ** 0.3 if log else high + 0.3 * (high - low)
            axis.set_xlim(low, more)
        axis.set(title=palette.brief(task), xlabel=_measured(metric, known, task))
        _name_rows(axis, names)
    return figure, axes


def _score_panel(
    axis: Any,
    place: int,
    palette: Palette,
    entries: Sequence[str],
    runs: pd.DataFrame,
    means: pd.DataFrame,
) -> None:
    """Draw a panel of `scores`: the runs of a task, and their means by entry.

    Args:
      axis: axes of the panel.
      place: number of the panel, from 0.
      palette: appearances of the entries.
      entries: the rows, from above.
      runs: judged runs of one task.
      means: its rows of `stats.per_task`, with index entry.
    """
    for y, entry in enumerate(entries):
        of_entry = runs[runs["entry"] == entry]
        values = of_entry["value"].dropna().sort_values().to_numpy()
        colour = palette.colour(entry)
        (dots,) = axis.plot(
            values,
            np.full(len(values), y),
            "o",
            color=colour,
            markersize=3.4,
            markeredgewidth=0,
            alpha=0.45,
        )
        drawing.mark(dots, place, "point", palette, entry)
        if entry in means.index and np.isfinite(means.loc[entry, "iqm"]):
            row = means.loc[entry]
            axis.plot(
                [row["iqm_low"], row["iqm_high"]], [y, y], color=colour, linewidth=2
            )
            axis.plot(row["iqm"], y, "|", color=colour, markersize=9, mew=2)
        lost = int(of_entry["value"].isna().sum())
        if lost:
            axis.text(
                0.99,
                y,
                f"{lost} diverged",
                transform=axis.get_yaxis_transform(),
                fontsize=6.8,
                color=SOFT,
                ha="right",
                va="center",
            )


def curves(
    plt: Any,
    palette: Palette,
    bands: dict[str, pd.DataFrame],
    labels: dict[str, str],
    known: Mapping[str, Metric] = METRICS,
    stepped: Collection[str] = (),
) -> Drawn:
    """Medians over epochs, with quartiles, a panel per task.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of the entries.
      bands: task -> table as returned by `curves.bands`.
      labels: task -> column shown in its table.
      known: as returned by `scores.known_metrics`.
      stepped: tasks whose tables have steps in the place of epochs.
    """
    figure, axes = drawing.panels(plt, len(bands))
    for i, (axis, (task, table)) in enumerate(zip(axes, bands.items(), strict=True)):
        _curve_panel(axis, i, palette, table, labels[task], known, task)
        axis.set_title(palette.brief(task))
        if task in stepped:
            axis.set_xlabel("step")
    drawing.legend(figure, palette, palette.entries)
    return figure, axes


def losses_and_rates(
    plt: Any,
    palette: Palette,
    bands: dict[str, Any],
    known: Mapping[str, Metric] = METRICS,
) -> Any:
    """Validation loss and learning rate used, a row per task.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of the entries.
      bands: task -> column -> table as returned by `curves.bands`.
      known: as returned by `scores.known_metrics`.
    """
    figure, axes = drawing.panels(plt, 2 * len(bands), width=4.2, columns=2)
    axes = iter(axes)
    for task, columns in bands.items():
        for column, table in columns.items():
            axis = next(axes)
            _curve_panel(axis, 0, palette, table, column, known, task)
            axis.set_title(palette.brief(task))
    drawing.legend(figure, palette, palette.entries)
    return figure


def so_far(
    plt: Any,
    palette: Palette,
    bands: dict[str, pd.DataFrame],
    runs: pd.DataFrame,
    means: pd.DataFrame,
    known: Mapping[str, Metric] = METRICS,
) -> Drawn:
    """Curves of a task that trains, and its runs that have ended, beside each other.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of the entries.
      bands: column of the curves -> table as returned by `curves.bands`; not empty.
      runs: as returned by `scores.judge`; without a run there is no panel for them.
      means: entry -> iqm, iqm_low and iqm_high; the order of the runs' entries.
      known: as returned by `scores.known_metrics`.
    """
    count = len(bands) + bool(len(runs))
    height = max(2.5, 0.17 * len(means) + 0.9)
    figure, axes = drawing.panels(plt, count, width=3.2, height=height)
    for i, (axis, (column, table)) in enumerate(zip(axes, bands.items(), strict=False)):
        _curve_panel(axis, i, palette, table, column, known)
        axis.set_title(metric_label(column))
    if len(runs):
        axis, entries = axes[-1], list(means.index)
        _score_panel(axis, count - 1, palette, entries, runs, means)
        metric = str(runs["metric"].iloc[0])
        rising = metric_of(metric, known).higher_is_better
        drawing.scale_values(axis, "x", runs["value"], rising)
        _name_rows(axis, [palette.brief(entry) for entry in entries])
        task = str(runs["task"].iloc[0])
        axis.set(title="runs that have ended", xlabel=_measured(metric, known, task))
    shown = {entry for table in bands.values() for entry in table["entry"]}
    drawing.legend(figure, palette, [e for e in palette.entries if e in shown])
    return figure, axes


def _measured(column: str, known: Mapping[str, Metric], task: str) -> str:
    """A column of a metric in words, with the unit in which it is drawn.

    Values that texts show in per cent are drawn as shares.
    """
    unit = metric_of(column, known, task).unit
    return metric_label(column) + (f" ({unit})" if unit not in ("", "%") else "")


def _name_rows(axis: Any, names: Sequence[str]) -> None:
    """Name the rows of a panel, from above."""
    drawing.log_ticks(axis.xaxis)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.grid(axis="y", visible=False)


def _curve_panel(
    axis: Any,
    place: int,
    palette: Palette,
    table: pd.DataFrame,
    column: str,
    known: Mapping[str, Metric] = METRICS,
    task: str = "",
) -> None:
    """Draw a panel of `curves`.

    Args:
      axis: Matplotlib's axes.
      place: index of these axes in the list that `drawing.picture` gets.
      palette: appearances of the entries.
      table: as returned by `curves.bands`.
      column: name of a column of the curves.
      known: as returned by `scores.known_metrics`.
      task: what the curves are of.
    """
    metric = None if column == "learning_rate" else metric_of(column, known)
    bottom, top = -np.inf, np.inf
    if metric:
        drawn = table[["low", "median", "high"]]
        log = drawing.scale_values(axis, "y", drawn, metric.higher_is_better)
        if not metric.higher_is_better:
            bottom, top = _ends(table, log)
    else:
        axis.set_yscale("log")
    for entry in reversed(palette.entries):
        subset = table[table["entry"] == entry]
        if not len(subset):
            continue
        colour = palette.colour(entry)
        epochs = subset["epoch"].to_numpy(float)
        if (subset["high"] > subset["low"]).any():
            band = axis.fill_between(
                epochs, subset["low"], subset["high"], color=colour, alpha=0.1, lw=0
            )
            drawing.mark(band, place, "band", palette, entry)
        drawing.line(axis, place, palette, entry, epochs, subset["median"])
        if subset["diverged"].iloc[-1]:
            last = min(subset["median"].iloc[-1], top)
            axis.plot(epochs[-1], last, "x", color=colour, ms=5, clip_on=False)
    if np.isfinite(top):
        axis.set_ylim(bottom, top)
    if metric and metric.higher_is_better and len(table):
        # The first epochs would stretch the axis and flatten the rest.
        bottom = float(table["median"].quantile(0.03))
        span = float(table["median"].max()) - bottom
        axis.set_ylim(bottom=bottom - (0.05 * span or 0.02))
    axis.set_xlim(0, None)
    label = _measured(column, known, task) if metric else metric_label(column)
    axis.set(xlabel="epoch", ylabel=label)
    drawing.log_ticks(axis.yaxis)


def _ends(table: pd.DataFrame, log: bool) -> tuple[float, float]:
    """Limits of an axis that cut off lines which rise until they end in a cross.

    A loss may rise by thirty powers of ten before it is not finite, which would flatten
    all other lines.

    Args:
      table: as returned by `curves.bands`.
      log: whether the axis has a log scale.

    Returns:
      both limits; infinite where no line rises beyond those that do not end so.
    """
    lost = table.groupby("entry")["diverged"].transform("any").to_numpy()
    lines = table[["low", "median", "high"]].to_numpy(float)
    if log:
        lines = np.log(np.where(lines > 0, lines, np.nan))
    others = lines[~lost]
    if not lost.any() or not np.isfinite(others).any():
        return -np.inf, np.inf
    low, high = np.nanmin(lines), np.nanmax(others)
    margin = 0.05 * (high - low)
    if not 0 < margin < 0.05 * (np.nanmax(lines) - low):
        return -np.inf, np.inf
    ends = np.array([low - margin, high + margin])
    bottom, top = np.exp(ends) if log else ends
    return float(bottom), float(top)


def critical_difference(
    plt: Any, palette: Palette, mean_ranks: pd.Series, difference: float
) -> Drawn:
    """Mean ranks on a line; bars join ranks closer than the critical difference.

    As in figure 1 of Demsar, 2006.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of the entries.
      mean_ranks: entry -> mean rank.
      difference: as returned by `stats.critical_difference`.
    """
    ordered = mean_ranks.sort_values(kind="stable")
    count = len(ordered)
    half = -(-count // 2)
    groups = _groups(ordered.to_numpy(), difference)
    top = 0.5 + 0.28 * len(groups)
    figure, axis = plt.subplots(figsize=(8.2, 0.24 * half + 0.16 * len(groups) + 1.2))
    low, high = 1, count
    side = 0.32 * (high - low) + 0.6
    axis.set(xlim=(low - side, high + side), ylim=(top + half * 0.5 + 0.2, -1.5))
    axis.plot([low, high], [0, 0], color=SOFT, linewidth=1)
    for rank in range(low, high + 1):
        axis.plot([rank, rank], [0, -0.15], color=SOFT, linewidth=1)
        axis.text(rank, -0.3, str(rank), ha="center", fontsize=7.5, color=SOFT)
    for number, (entry, rank) in enumerate(ordered.items()):
        left = number < half
        row = number if left else count - 1 - number
        y = top + 0.5 * row
        x = low - 0.12 * side if left else high + 0.12 * side
        colour, name = palette.colour(str(entry)), palette.brief(entry)
        axis.plot([rank, rank, x], [0, y, y], color=colour, linewidth=1.1)
        axis.plot(rank, 0, "o", color=colour, markersize=4.5, zorder=3)
        axis.text(
            x + (-1 if left else 1) * 0.04 * side,
            y,
            f"{name}  {rank:.2f}" if left else f"{rank:.2f}  {name}",
            ha="right" if left else "left",
            va="center",
        )
    for level, (start, end) in enumerate(groups):
        y = 0.35 + 0.28 * level
        axis.plot(
            [ordered.iloc[start] - 0.05, ordered.iloc[end] + 0.05],
            [y, y],
            color=INK,
            linewidth=3,
            solid_capstyle="butt",
        )
    if difference <= high - low:
        axis.plot([low, low + difference], [-1.0, -1.0], color=INK, linewidth=1.4)
        for x in (low, low + difference):
            axis.plot([x, x], [-1.12, -0.88], color=INK, linewidth=1.4)
    label = f"critical difference {difference:.2f}"
    axis.text(low, -1.25, label, fontsize=7.5, color=SOFT, va="bottom")
    axis.axis("off")
    return figure, []


def _groups(ordered: np.ndarray, difference: float) -> list[tuple[int, int]]:
    """Longest ranges (first, last) of sorted ranks that span at most `difference`.

    Args:
      ordered: mean ranks [entries], ascending.
      difference: largest span of a range.
    """
    groups: list[tuple[int, int]] = []
    for start in range(len(ordered)):
        within = np.flatnonzero(ordered <= ordered[start] + difference)
        end = int(within[-1])
        if end > start and (not groups or end > groups[-1][1]):
            groups.append((start, end))
    return groups


def profiles(plt: Any, palette: Palette, table: pd.DataFrame) -> Drawn:
    """Share of runs above each normalised score, with intervals.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of the entries.
      table: as returned by `stats.profiles`.
    """
    figure, axes = drawing.panels(plt, 1, width=3.8, height=2.7)
    (axis,) = axes
    for entry in reversed(palette.entries):
        subset = table[table["entry"] == entry]
        if not len(subset):
            continue
        colour = palette.colour(entry)
        if subset["low"].notna().all():
            band = axis.fill_between(
                subset["tau"],
                subset["low"],
                subset["high"],
                color=colour,
                alpha=0.08,
                lw=0,
            )
            drawing.mark(band, 0, "band", palette, entry)
        drawing.line(axis, 0, palette, entry, subset["tau"], subset["share"])
    axis.set(xlabel="normalised score", ylabel="share of runs above", xlim=(0, 1))
    axis.set_ylim(0, 1.02)
    drawing.legend(
        figure, palette, [e for e in palette.entries if e in set(table["entry"])]
    )
    return figure, axes


def grid(
    plt: Any,
    palette: Palette,
    table: pd.DataFrame,
    settled: pd.DataFrame,
    labels: dict[str, str],
    known: Mapping[str, Metric] = METRICS,
) -> Drawn:
    """Final loss over the learning rates of a grid, and the rates that others used.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of methods.
      table: task, method, learning_rate, median, low, high, diverged (share).
      settled: task, entry, learning_rate (median used) and value (of the loss) of
        entries without a grid.
      labels: task -> column of the loss.
      known: as returned by `scores.known_metrics`.
    """
    from matplotlib.lines import Line2D

    tasks = list(labels)
    figure, axes = drawing.panels(plt, len(tasks), width=3.6, height=2.8)
    for i, (axis, task) in enumerate(zip(axes, tasks, strict=True)):
        subset = table[table["task"] == task]
        metric = metric_of(labels[task], known)
        of_others = settled.loc[settled["task"] == task, "value"]
        drawn = pd.concat([subset["low"], subset["median"], of_others])
        drawing.scale_values(axis, "y", drawn, metric.higher_is_better)
        axis.set_xscale("log")
        of_task = settled[settled["task"] == task]
        edge = 0.02 if metric.higher_is_better else 0.98
        _grid_panel(axis, i, palette, subset, of_task, edge)
        axis.set(title=palette.brief(task), xlabel="learning rate")
        axis.set_ylabel(_measured(labels[task], known, task))
        drawing.log_ticks(axis.xaxis)
        drawing.log_ticks(axis.yaxis)
    free = sorted(set(settled["entry"]), key=palette.number)
    swept = sorted(set(table["method"]), key=palette.number)
    handles = [drawing.key(palette, entry) for entry in swept]
    handles += [
        Line2D([], [], color=palette.colour(e), lw=0.8, marker="D", ms=5.5)
        for e in free
    ]
    names = [palette.brief(e) for e in swept]
    names += [f"{palette.brief(e)} (settled)" for e in free]
    drawing.below(figure, handles, names)
    return figure, axes


def _grid_panel(
    axis: Any,
    place: int,
    palette: Palette,
    table: pd.DataFrame,
    settled: pd.DataFrame,
    edge: float,
) -> None:
    """Draw a panel of `grid`, with the rows of a task.

    Args:
      axis: axes of the panel.
      place: number of the panel, from 0.
      palette: appearances of the entries.
      table: rows of one task, as for `grid`.
      settled: rows of one task, as for `grid`.
      edge: height at which diverged settings are drawn, from 0 (below) to 1.
    """
    for method, of_method in table.groupby("method"):
        colour = palette.colour(str(method))
        alive = of_method[of_method["diverged"] < 0.5]
        rates = alive["learning_rate"].to_numpy(float)
        band = axis.fill_between(
            rates, alive["low"], alive["high"], color=colour, alpha=0.12, lw=0
        )
        drawing.mark(band, place, "band", palette, str(method))
        drawing.line(axis, place, palette, str(method), rates, alive["median"])
        axis.plot(rates, alive["median"], ".", color=colour, ms=3)
        lost = of_method[of_method["diverged"] >= 0.5]["learning_rate"]
        crosses = {"transform": axis.get_xaxis_transform(), "color": colour, "ms": 5}
        axis.plot(lost, np.full(len(lost), edge), "x", **crosses)
    for row in settled.itertuples():
        colour = palette.colour(str(row.entry))
        axis.axvline(row.learning_rate, color=colour, lw=0.8, alpha=0.45, zorder=1)
        (point,) = axis.plot(
            row.learning_rate,
            row.value,
            "D",
            color=colour,
            markersize=5.5,
            markeredgecolor=PAPER,
            markeredgewidth=0.7,
        )
        drawing.mark(point, place, "point", palette, str(row.entry))


def portfolio(
    plt: Any, palette: Palette, best: pd.DataFrame, parts: pd.DataFrame, single: str
) -> Drawn:
    """Score by the size of the portfolio, and the contribution of each entry.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of the entries.
      best: as returned by `portfolio.best_portfolios`.
      parts: as returned by `portfolio.contributions`.
      single: the single best entry.
    """
    entries = list(parts.sort_values("shapley", kind="stable").index)
    height = max(2.6, 0.2 * len(entries) + 1.0)
    figure, axes = plt.subplots(
        1, 3, figsize=(10.8, height), gridspec_kw={"width_ratios": (1, 1, 1)}
    )
    left, middle, right = axes
    left.plot(best["k"], best["score"], color=INK, marker="o", markersize=4)
    top = best["score"].iloc[-1]
    left.axhline(top, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
    left.annotate(
        "virtual best",
        (best["k"].iloc[-1], top),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        color=SOFT,
    )
    left.annotate(
        f"single best: {palette.brief(single)}",
        (1, best["score"].iloc[0]),
        xytext=(7, -9),
        textcoords="offset points",
        va="center",
        color=palette.colour(single),
    )
    low = best["score"].iloc[0]
    margin = max(0.12 * (top - low), 0.004)
    left.set_ylim(low - margin, top + 1.6 * margin)
    left.set(title="Best portfolio of k", xlabel="k", ylabel="mean normalised score")
    from matplotlib.ticker import MaxNLocator

    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    places = np.arange(len(entries))
    colours = [palette.colour(entry) for entry in entries]
    middle.barh(places, parts.loc[entries, "shapley"], color=colours, height=0.62)
    middle.plot(
        parts.loc[entries, "marginal"],
        places,
        "D",
        color=INK,
        markersize=4.2,
        linestyle="none",
        clip_on=False,
    )
    middle.set_title("Share of the virtual best")
    middle.set_xlabel("Shapley value (bar), marginal (diamond)")
    right.barh(places, parts.loc[entries, "share_of_mean"], color=colours, height=0.62)
    right.axvline(0, color=SOFT, linewidth=0.8)
    right.set(title="Mean with less mean without", xlabel="the study's measure")
    names = [palette.brief(entry) for entry in entries]
    for axis in (middle, right):
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_yticks(places, names)
        axis.tick_params(axis="y", length=0, labelcolor=INK, pad=6)
        axis.grid(axis="y", visible=False)
    return figure, []


def cost(
    plt: Any, palette: Palette, anytime: pd.DataFrame, tuning: pd.Series, spent: str
) -> Drawn:
    """Score over the training spent, in full runs; tuning is spent first.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of the entries.
      anytime: as returned by `curves.anytime`.
      tuning: entry -> cost of choosing its setting, in full runs.
      spent: what a part of a run is counted in, such as 'steps'.
    """
    figure, axes = drawing.panels(plt, 1, width=3.8, height=2.7)
    (axis,) = axes
    axis.set_xscale("log" if (tuning > 0).any() else "linear")
    for entry in [e for e in reversed(palette.entries) if e in anytime]:
        x = anytime.index.to_numpy(float) + float(tuning.get(entry, 0.0))
        drawing.line(axis, 0, palette, entry, x, anytime[entry])
    drawing.log_ticks(axis.xaxis)
    paid = ", tuning included" if (tuning > 0).any() else ""
    axis.set(xlabel=f"{spent} (in full runs){paid}")
    axis.set_ylabel("mean normalised score")
    drawing.legend(figure, palette, [e for e in palette.entries if e in anytime])
    return figure, axes


def fidelity(
    plt: Any, palette: Palette, tasks: pd.DataFrame, families: pd.DataFrame
) -> Drawn:
    """Tau and regret over the part of the budget, a pair of panels per family.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of methods.
      tasks, families: as returned by `early_order.measure`.
    """
    from matplotlib.lines import Line2D

    names = sorted(families["family"].unique())
    figure, axes = drawing.panels(plt, 2 * len(names), width=3.6, columns=2)
    labels = {}
    for i, (axis, (family, value)) in enumerate(
        zip(axes, itertools.product(names, ("tau", "regret")), strict=True)
    ):
        axis.set_xscale("log")
        for (group, how), subset in families[families["family"] == family].groupby(
            ["group", "how"]
        ):
            known = group in palette.aliases or group in palette.entries
            colour = palette.colour(str(group)) if known else INK
            style = "-" if how == "cut" else (0, (4, 2))
            labels[group] = Line2D([], [], color=INK, lw=2.2, marker="o", ms=3)
            if known:
                labels[group] = drawing.key(palette, str(group), linestyle="-")
            x = 100 * subset["part"]
            if not known:
                inside = (tasks["family"] == family) & (tasks["group"] == group)
                inside &= tasks["how"] == how
                for _, single in tasks[inside].groupby("task"):
                    parts = 100 * single["part"]
                    faint = {"color": FAINT, "lw": 0.8, "linestyle": style, "zorder": 1}
                    axis.plot(parts, single[value], **faint)
                low, high = subset[f"{value}_low"], subset[f"{value}_high"]
                axis.fill_between(x, low, high, color=colour, alpha=0.1, lw=0)
            if known:
                drawing.line(
                    axis, i, palette, str(group), x, subset[value], linestyle=style
                )
                continue
            axis.plot(x, subset[value], color=colour, linestyle=style, marker="o", ms=3)
        if value == "tau":
            axis.axhline(TRUSTED, color=SOFT, lw=0.9, linestyle=(0, (1, 2)))
            axis.set_ylim(top=1.03)
        axis.set(title=palette.brief(family), xlabel="budget (% of the full length)")
        metrics = tasks.loc[tasks["family"] == family, "metric"].unique()
        unit = metric_label(metrics[0]) if len(metrics) == 1 else "several metrics"
        axis.set_ylabel("Kendall's tau" if value == "tau" else f"regret, {unit}")
        drawing.log_ticks(axis.xaxis)
    drawing.below(figure, list(labels.values()), list(map(palette.brief, labels)))
    return figure, axes


def compared(plt: Any, palette: Palette, table: pd.DataFrame) -> Drawn:
    """Our means over published ones, a panel per task and metric.

    Args:
      plt: as given by `drawing.style`.
      palette: appearances of entries.
      table: task, metric, entry, ours, ours_error, published, published_error.
    """
    groups = list(table.groupby(["task", "metric"], sort=False))
    figure, axes = drawing.panels(plt, len(groups), width=2.9, height=2.7)
    for i, (axis, ((task, metric), subset)) in enumerate(
        zip(axes, groups, strict=True)
    ):
        both = subset[["ours", "published"]].to_numpy(float)
        low, high = np.nanmin(both), np.nanmax(both)
        margin = 0.08 * (high - low) or 0.05
        axis.plot(
            [low - margin, high + margin],
            [low - margin, high + margin],
            color=FAINT,
            linewidth=0.9,
        )
        for row in subset.itertuples():
            axis.errorbar(
                row.published,
                row.ours,
                xerr=np.nan_to_num(row.published_error),
                yerr=np.nan_to_num(row.ours_error),
                color=palette.colour(str(row.entry)),
                linewidth=1,
            )
            (point,) = axis.plot(
                row.published, row.ours, ms=5, **palette.sign(str(row.entry))
            )
            drawing.mark(point, i, "point", palette, str(row.entry))
        axis.set(
            title=palette.brief(task),
            xlabel=f"published {metric_label(metric)}",
            ylabel="ours",
        )
    shown = {palette.entries[palette.number(entry)] for entry in table["entry"]}
    drawing.legend(figure, palette, [e for e in palette.entries if e in shown])
    return figure, axes
