"""The analyses of a report, each a figure, a table and a sentence.

An analysis is a function of a `Study` and a `ReportWriter`. It returns a `Section` of
the page, or None if the tables have nothing for it. `ANALYSES` lists them in the order
of the page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pandas as pd

from lrjax import plugins
from lrjax.analysis import curves as curves_lib
from lrjax.analysis import early_order, portfolio, stats
from lrjax.analysis.scores import metric_label
from lrjax.core import LOSS, counted
from lrjax.reports import figures, findings, searches
from lrjax.reports.page import Section, interval
from lrjax.reports.palette import Palette
from lrjax.reports.study import Study
from lrjax.reports.writer import ReportWriter

_ALPHA = 0.05  # level of tests on each task
_MOST_ROWS = 40  # of a heat map; each cell takes a millisecond to draw


def _overview(study: Study, writer: ReportWriter) -> Section:
    """Mean ranks and normalised scores over all tasks."""
    overall, runs = study.overall, study.comparison.runs
    best = overall.iloc[0]
    span = interval(best["rank_low"], best["rank_high"])
    leaders = study.leaders
    finding = (
        f"{findings.named(leaders)} {'has' if len(leaders) == 1 else 'have'} the best "
        f"mean rank, {best['rank']:.2f}{span} of {len(overall)}"
        f"{f', by {study.basis}' if study.basis else ''}."
    )
    by_iqm = str(overall["iqm"].sort_index().idxmax())
    if round(overall.loc[by_iqm, "iqm"] - best["iqm"], 2) > 0:
        iqm = overall.loc[by_iqm, "iqm"]
        finding += f" {by_iqm} has the best normalised score, {iqm:.2f}."
    how_to_read = (
        f"Mean rank: within each task and seed, averaged over seeds and then over "
        f"{counted(len(study.comparison.tasks), 'task')}. Normalised score: mean of "
        f"the middle half of all; on each task 0 is the worst entry's median run and 1 "
        f"the best entry's. Bars are 95 % intervals, bootstrapped over "
        f"{counted(runs, 'run')} of each task: they say how much other seeds could "
        f"change, not other tasks."
    )
    return writer.section(
        "overview",
        "Over all tasks",
        finding,
        how_to_read,
        overall.reset_index(),
        figures.overview(writer.plt, study.palette, overall),
    )


def _gap(study: Study, writer: ReportWriter) -> Section:
    """Gap to the best entry of each task, sorted by mean gap, as in the study."""
    gap = study.gaps
    common = study.common(study.tasks)
    relative = gap / gap.max().replace(0, 1)
    mean = (gap if common else relative).mean(axis=1, skipna=False)
    mean = mean.sort_index().sort_values(kind="stable")
    gap = gap.loc[mean.index]
    unit = common.apart if common else "of the largest gap"
    lost = study.per_task.pivot(index="entry", columns="task", values="diverged")
    lost = lost.reindex_like(gap)
    text = gap.map(_gap_text) + lost.map(lambda n: f" x{n:.0f}" if n > 0 else "")
    absent = lost.map(lambda n: "missing" if np.isnan(n) else "diverged")
    text = text.where(gap.notna(), absent).assign(mean=mean.map(_gap_text))
    shade = relative.loc[mean.index].assign(mean=mean / max(mean.max(), 1e-12))
    least = _gap_text(mean.iloc[0])
    nearest = [str(entry) for entry in mean.index if _gap_text(mean[entry]) == least]
    finding = (
        f"{findings.named(nearest)} {'is' if len(nearest) == 1 else 'are'} nearest to "
        f"the best on average: {least} {unit} behind"
        f"{', by all runs' if study.basis else ''}."
        if np.isfinite(mean.iloc[0])
        else "No entry finished on every task."
    )
    how_to_read = (
        "How far each entry's mean lies behind the best mean of the task (percentages "
        "in points, others in their unit); 0 is the best. Colours are relative "
        "to the largest gap of a column. x2: two runs diverged and are not in that "
        "mean; where half or more did there is none. Rows are sorted by mean gap."
        + _drawn(len(text))
    )
    return writer.section(
        "gap",
        "Gap to the best on each task",
        finding,
        how_to_read,
        gap.assign(mean_gap=mean).reset_index().rename_axis(columns=None),
        figures.cells(
            writer.plt, study.palette, shade[:_MOST_ROWS], text[:_MOST_ROWS], apart=1
        ),
    )


def _drawn(rows: int) -> str:
    """Remark on a heat map some of whose rows are not drawn."""
    return f" The first {_MOST_ROWS} of {rows} are drawn." if rows > _MOST_ROWS else ""


def _gap_text(value: float) -> str:
    """A gap in two digits; '' for NaN."""
    if np.isnan(value):
        return ""
    return f"{value:.2g}" if value < 0.995 else f"{value:.1f}"


def _curves(study: Study, writer: ReportWriter) -> Section | None:
    """Curves of the metric that runs are judged by, or of what else was noted."""
    columns = study.curve_metrics
    columns.update(pd.Series(study.without_curve, dtype=object))
    return _curve_section(study, writer, "curves", "Learning curves", columns)


def _losses(study: Study, writer: ReportWriter) -> Section | None:
    """Curves of the training loss."""
    columns = study.curve_metrics.map(lambda _: f"train_{LOSS}")
    return _curve_section(study, writer, "train_loss", "Training loss", columns)


def _rates(study: Study, writer: ReportWriter) -> Section | None:
    """Curves of the learning rate that was used."""
    columns = study.curve_metrics.map(lambda _: "learning_rate")
    return _curve_section(
        study, writer, "rates", "Learning rate that was used", columns
    )


def _curve_section(
    study: Study, writer: ReportWriter, name: str, title: str, columns: pd.Series
) -> Section | None:
    """Medians and quartiles of a column of the curves, a panel per task.

    Args:
      study, writer: as for all analyses.
      name, title: file name and title of the section.
      columns: task -> column of the curves.
    """
    bands, tables = {}, []
    rows, alpha = study.curves, study.options.smooth
    for task in study.tasks:
        subset, column = rows[rows["task"] == task], str(columns[task])
        if alpha and column in subset and column != "learning_rate":
            subset = curves_lib.smooth(subset, [column], alpha)
        band = curves_lib.bands(curves_lib.thin(subset), column)
        if len(band):
            bands[task] = band
            tables.append(band.assign(column=column))
    if not bands:
        return None
    how_to_read = (
        "Lines are medians over seeds, bands the middle half. A line ends with a cross "
        "where half of its runs have diverged, at the upper edge if it rose beyond all "
        "that did not, and is not there if that was before the first measurement."
    )
    if alpha and name != "rates":
        how_to_read += (
            f" Smoothed: each point has weight {alpha:g}, what came before the rest."
        )
    finding = ""
    if name == "rates":
        finding = (
            "The picture that explains most results: what each method made of the "
            "learning rate while it trained."
        )
        absent = sorted(set(study.palette.entries) - set(pd.concat(bands)["entry"]))
        how_to_read += " The axis is logarithmic; rates of 0 are not shown."
        if absent:
            how_to_read += f" No single rate describes {', '.join(absent)}."
    labels = {task: str(columns[task]) for task in bands}
    return writer.section(
        name,
        title,
        finding,
        how_to_read,
        pd.concat(tables, ignore_index=True),
        figures.curves(
            writer.plt, study.palette, bands, labels, study.known, study.stepped
        ),
        data=True,
    )


def _scores(study: Study, writer: ReportWriter) -> Section:
    """Every run, with interquartile means."""
    shown = study.per_task[study.per_task["entry"].isin(study.palette.entries)]
    how_to_read = (
        "A dot is a run. The bar is the interquartile mean of the runs that finished "
        "with its 95 % interval; diverged runs are counted at the right."
    )
    return writer.section(
        "scores",
        "Every run",
        "",
        how_to_read,
        study.per_task,
        figures.scores(
            writer.plt, study.palette, study.runs, shown, study.tasks, study.known
        ),
    )


def _pairs(study: Study, writer: ReportWriter) -> Section | None:
    """Probability that a run of one entry beats a run of another."""
    if len(study.overall) < 2:
        return None
    table = stats.improvement(study.comparison, study.options.bootstrap)
    order = list(study.overall.index)
    wide = table.pivot(index="entry", columns="other", values="probability")
    wide = wide.loc[order, order]
    significant = table[table["low"] > 0.5]
    text = wide.map(lambda p: "" if np.isnan(p) else f"{100 * p:.0f}")
    for row in significant.itertuples():
        text.loc[row.entry, row.other] += "*"
    first, second = order[:2]
    top = table.set_index(["entry", "other"]).loc[(first, second)]
    finding = (
        f"A run of {first} beats a run of {second} with probability "
        f"{top['probability']:.2f}{interval(top['low'], top['high'])}."
    )
    how_to_read = (
        "Chance, in percent, that a run of the row is better than a run of the column "
        "on the same task, averaged over tasks; ties count half. A star: the 95 % "
        "interval lies above 50." + _drawn(len(order))
    )
    shown = order[:_MOST_ROWS]
    wide, text = wide.loc[shown, shown], text.loc[shown, shown]
    return writer.section(
        "pairs",
        "Who beats whom",
        finding,
        how_to_read,
        table,
        figures.cells(writer.plt, study.palette, wide, text, two_sided=True),
    )


def _critical(study: Study, writer: ReportWriter) -> Section | None:
    """Nemenyi's critical difference of mean ranks."""
    entries, tasks = len(study.overall), len(study.comparison.tasks)
    difference = stats.critical_difference(entries, tasks)
    if not np.isfinite(difference):
        return None
    p = stats.friedman_p(study.comparison)
    rank = study.overall["rank"]
    worse = [str(e) for e in rank.index if rank[e] - rank.iloc[0] > difference]
    finding = (
        f"Over {counted(tasks, 'task')}, mean ranks must differ by {difference:.2f} to "
        f"be called different; that separates {len(worse)} of {entries - 1} from "
        f"{rank.index[0]}."
    )
    if np.isfinite(p):
        finding += f" Friedman's test that all are equal: p = {p:.2g}."
    how_to_read = (
        "Mean ranks; thick bars join entries that Nemenyi's test at 5 % cannot tell "
        "apart with tasks as the only repetition. With few tasks it cannot tell much."
    )
    table = pd.DataFrame({"entry": rank.index, "rank": rank.to_numpy()})
    table["distinguishable"] = table["rank"] - rank.iloc[0] > difference
    return writer.section(
        "critical_difference",
        "Critical difference",
        finding,
        how_to_read,
        table,
        figures.critical_difference(writer.plt, study.palette, rank, difference),
    )


def _against(study: Study, writer: ReportWriter) -> Section | None:
    """Wins, ties and losses against the baseline."""
    if len(study.overall) < 2:
        return None
    table = stats.against(study.runs, study.baseline, _ALPHA)
    if not len(table):
        return None
    counts = table.pivot_table(
        index="entry", columns="result", values="task", aggfunc="count", fill_value=0
    ).reindex(columns=["win", "tie", "loss"], fill_value=0)
    over = stats.against_over_tasks(study.comparison, study.baseline)
    counts = counts.join(over.rename(columns={"difference": "mean_difference"}))
    order = [e for e in study.palette.entries if e in counts.index]
    counts = counts.loc[order].reset_index()
    by_task = writer.data("against_by_task", table)
    signs = {"win": 1.0, "tie": 0.5, "loss": 0.0}
    wide = table.pivot(index="entry", columns="task", values="result").loc[order]
    shade = wide.apply(lambda column: column.map(signs)).astype(float)
    wins, losses = int(counts["win"].sum()), int(counts["loss"].sum())
    finding = (
        f"Against {study.baseline}: {counted(wins, 'win')}, "
        f"{counted(int(counts['tie'].sum()), 'tie')} and "
        f"{counted(losses, 'loss', 'losses')}."
    )
    pairs = table.groupby("task")["pairs"].max()
    family = table.groupby("task").size()
    # The smallest p-value of n signs, times the comparisons on one task (Holm).
    if (2.0 ** (1 - pairs) * family >= _ALPHA).all():
        finding += (
            f" With {counted(int(pairs.max()), 'seed')} and "
            f"{counted(int(family.max()), 'comparison')} on a task no difference could "
            f"have been called a win or a loss."
        )
    how_to_read = (
        "Per task: Wilcoxon's signed-rank test on runs paired by seed, p corrected "
        "(Holm) over the entries of a task, 5 %. In the table: the same test over "
        "tasks on mean normalised scores, corrected over entries."
    )
    text = wide.fillna("missing")
    section = writer.section(
        "against",
        f"Wins and losses against {study.baseline}",
        finding,
        how_to_read,
        counts,
        figures.cells(writer.plt, study.palette, shade, text, two_sided=True),
    )
    files = (*section.files, by_task)
    return dataclasses.replace(section, files=files)


def _profiles(study: Study, writer: ReportWriter) -> Section | None:
    """Share of runs above each normalised score."""
    if len(study.overall) < 2:
        return None
    table = stats.profiles(study.comparison, study.options.bootstrap)
    how_to_read = (
        "For each normalised score on the axis, the share of an entry's runs above it, "
        "all tasks together; higher is better everywhere. Bands are 95 % intervals."
    )
    return writer.section(
        "profiles",
        "Performance profiles",
        "",
        how_to_read,
        table,
        figures.profiles(writer.plt, study.palette, table),
        data=True,
    )


def _grid(study: Study, writer: ReportWriter) -> Section | None:
    """Final loss over the learning rates of a grid."""
    # A task may have run with none of the settings that are shown.
    runs = study.all_runs[study.all_runs["task"].isin(study.tasks)]
    rates = runs["hparams"].map(lambda h: h.get("learning_rate"))
    rates = pd.to_numeric(rates, errors="coerce").astype(float)
    parts = [(str(task), subset) for task, subset in runs.groupby("task")]
    labels = {task: _loss(subset, study.metrics[task]) for task, subset in parts}
    values = pd.concat([subset[labels[task]].astype(float) for task, subset in parts])
    runs = runs.assign(rate=rates, value=values.where(runs["status"] == "done"))
    swept = runs.groupby(["task", "method"])["rate"].transform("nunique") >= 3
    swept_runs = runs[swept & (rates > 0)]
    if not len(swept_runs):
        return None
    # If runs differ in more than the rate, the best setting at each rate counts.
    keys = ["task", "method", "rate"]
    by_entry = swept_runs.groupby([*keys, "entry"])["score"].median()
    best = by_entry.sort_index().groupby(level=keys).idxmax().map(lambda key: key[-1])
    chosen = swept_runs.set_index([*keys, "entry"]).sort_index()
    chosen = chosen.loc[[(*key, entry) for key, entry in best.items()]].reset_index()
    grouped = chosen.groupby(keys)
    table = pd.DataFrame(
        {
            "median": grouped["value"].median(),
            "low": grouped["value"].quantile(0.25),
            "high": grouped["value"].quantile(0.75),
            "runs": grouped.size(),
            "diverged": grouped["value"].agg(lambda v: float(v.isna().mean())),
        }
    ).reset_index()
    table = table.rename(columns={"rate": "learning_rate"})
    others = runs[~runs["method"].isin(table["method"])]
    others = others[others["entry"].isin(study.palette.entries)]
    settled = curves_lib.settled_rates(study.curves)
    medians = others.groupby(["task", "entry"])["value"].median().reset_index()
    settled = settled.merge(medians, on=["task", "entry"]).dropna()
    settled = settled[settled["learning_rate"] > 0]
    labels = {task: labels[task] for task in sorted(table["task"].unique())}
    sign = table["task"].map(lambda task: study.metric(labels[task], task).sign)
    ordered = table.assign(signed=-sign * table["median"])
    ordered = ordered[ordered["diverged"] < 0.5]  # others are crosses
    tops = ordered.sort_values(["task", "signed"], kind="stable").groupby("task")
    finding = "Best rate of the grid: " + "; ".join(
        f"{row.learning_rate:g} ({row.method}) on {row.task}, by "
        f"{metric_label(labels[row.task])}"
        for row in tops.head(1).itertuples()
    )
    if lost := sorted(set(table["task"]) - set(ordered["task"])):
        none = f"none on {', '.join(lost)}, where half or more diverged at each"
        finding += f"; {none}" if len(ordered) else none
    how_to_read = (
        "Median over seeds and quartiles at each rate of the grid; a cross at the edge "
        "marks rates at which half of the runs or more diverged. Diamonds: methods "
        "without a grid, at the median of the rate that they used."
    )
    return writer.section(
        "grid",
        "Loss against learning rate",
        finding + ".",
        how_to_read,
        table,
        figures.grid(writer.plt, study.palette, table, settled, labels, study.known),
    )


def _loss(runs: pd.DataFrame, metric: str) -> str:
    """The column of the loss on the same part as a metric, else the metric itself."""
    loss = f"{metric.split('_')[0]}_{LOSS}"
    return loss if loss in runs and runs[loss].notna().any() else metric


def _portfolio(study: Study, writer: ReportWriter) -> Section | None:
    """Portfolios of entries, and the contribution of each entry."""
    if len(study.overall) < 2:
        return None
    means = study.means
    single = portfolio.single_best(means)
    best = portfolio.best_portfolios(means)
    oracle = portfolio.virtual_best(means)
    raw = _raw_means(study)
    parts = portfolio.contributions(means)
    unit = stats.normalise(study.comparison.scores)
    fair_single, fair_virtual = portfolio.held_out(unit)
    low, high = float(best["score"].iloc[0]), float(best["score"].iloc[-1])
    finding = (
        f"{single} alone reaches a mean normalised score of {low:.3f}, the best entry "
        f"of each task {high:.3f}: a gap of {high - low:.3f} for a perfect selector."
    )
    if np.isfinite(fair_virtual):
        finding += (
            f" Chosen on other seeds than they are judged by, they reach "
            f"{fair_single:.3f} and {fair_virtual:.3f}."
        )
    enough = best[best["score"] >= low + 0.95 * (high - low)]
    if high > low and len(enough):
        row = enough.iloc[0]
        finding += (
            f" {row['k']} of {counted(len(parts), 'entry', 'entries')} "
            f"{'closes' if row['k'] == 1 else 'close'} 95 % of that gap: "
            f"{', '.join(row['members'])}."
        )
    how_to_read = (
        "Best portfolio: mean over tasks of its best member. Share: what the virtual "
        "best loses without an entry (diamond), and the entry's Shapley value, its "
        "mean contribution over all orders in which a portfolio can grow; Shapley "
        "values sum to the virtual best. Mean with less mean without: what the study "
        "computes, the mean of all entries minus the mean of the others, which says "
        "how good an entry is but not what it adds to others."
    )
    more = (
        writer.data("portfolios", best),
        writer.data("virtual_best", oracle.reset_index()),
    )
    table = parts.assign(share_of_mean_raw=raw)
    table = table.sort_values("shapley", ascending=False, kind="stable").reset_index()
    section = writer.section(
        "contributions",
        "Portfolio",
        finding,
        how_to_read,
        table,
        figures.portfolio(writer.plt, study.palette, best, parts, single),
    )
    return dataclasses.replace(section, files=(*section.files, *more))


def _raw_means(study: Study) -> pd.Series:
    """The study's marginal contributions, in the metric's unit; NaN if units differ."""
    common = study.common(study.comparison.tasks)
    scores = study.comparison.scores.replace(-np.inf, np.nan)
    means = scores.groupby(level="task").mean()
    if common is None or means.isna().any(axis=None):
        return pd.Series(np.nan, index=means.columns)
    return common.factor * portfolio.contributions(means)["share_of_mean"]


_LONGER = 1.05  # times as long as the fastest, from which on it is said


def _cost(study: Study, writer: ReportWriter) -> Section | None:
    """Score over the cost of training and tuning."""
    runs = study.runs[study.runs["task"].isin(study.comparison.tasks)]
    span = stats.ends(stats.complete(study.on_curves).scores)
    metrics = study.curve_metrics[study.comparison.tasks]
    anytime = curves_lib.anytime(
        study.curves, metrics, span, study.runs, known=study.known
    )
    grouped = runs.groupby("entry")
    table = pd.DataFrame(
        {
            "runs": grouped.size(),
            "examples": grouped["examples"].sum(min_count=1),
            "seconds": grouped["seconds"].sum(min_count=1),
            "tuning_full_runs": study.tuning.reindex(grouped.groups),
        }
    )
    fastest = runs.groupby(["task", "entry"])["seconds"].median().unstack("entry")
    relative = fastest.div(fastest.min(axis=1), axis=0)
    table["relative_time"] = np.exp(np.log(relative).mean())
    table = table.join(study.overall[["iqm", "rank"]])
    table = table.loc[[e for e in study.palette.entries if e in table.index]]
    whose = "All runs shown"
    if left_out := study.comparison.tasks_left_out:
        whose += f" but those on {', '.join(left_out)}"
    finding = f"{whose} took {findings.spent(runs)}."
    times = table["relative_time"].dropna()
    if len(times) and times.max() >= _LONGER:
        finding += (
            f" A run of {times.idxmax()} takes {times.max():.2g} "
            "times as long as the fastest."
        )
    tuned = study.tuning[study.tuning > 0]
    if len(tuned):
        finding += " Choosing settings cost " + ", ".join(
            f"{counted(value, 'full run', form='.3g')} for {entry}"
            for entry, value in tuned.items()
        )
        finding += "."
    over_cost = (
        "Mean normalised score after a part of the training, as if it had been stopped "
        "there, over all tasks. Tuning and unused settings of a grid are paid first, "
        "each trial in full. "
    )
    how_to_read = (
        "relative_time is the geometric mean over tasks of a run's "
        "time over the fastest entry's; methods that trained in one block share its "
        "time equally."
    )
    drawn = None
    if len(anytime):
        writer.data("anytime", anytime.reset_index())
        spent = _counted_in(study)
        drawn = figures.cost(writer.plt, study.palette, anytime, study.tuning, spent)
    title = "Cost"
    if drawn:
        title, how_to_read = "Cost against score", over_cost + how_to_read
    table = table.reset_index()
    return writer.section("cost", title, finding, how_to_read, table, drawn)


def _counted_in(study: Study) -> str:
    """Unit of how far runs have trained, for the label of an axis."""
    if study.runs["examples"].notna().all():
        return "examples processed"
    return "steps" if {*study.tasks} <= study.stepped else "training"


def _targets(study: Study, writer: ReportWriter) -> Section | None:
    """Steps, examples and seconds to a target."""
    columns = study.curve_metrics.drop(list(study.without_curve))
    if not len(columns):
        return None
    medians = study.on_curves.groupby(["task", "entry"])["value"].median()
    targets = medians.groupby("task").median()
    if study.options.target is not None:
        targets[:] = study.options.target
    runs = study.runs.reset_index(drop=True)
    table = curves_lib.to_target(study.curves, runs, columns, targets, study.known)
    table = table[table["task"].isin(columns.index)].reset_index(drop=True)
    # Steps of different methods may have different numbers of examples.
    by = "steps" if runs["examples"].isna().any() else "examples"
    quick = table[np.isfinite(table[by])].sort_values(
        ["task", by, "entry"], kind="stable"
    )
    first = quick[quick[by] == quick.groupby("task")[by].transform("min")]
    finding = "First to the target: " + "; ".join(
        f"{findings.named(list(level['entry']))} on {task} "
        f"({counted(level['steps'].min(), 'step', form=',.0f')})"
        for task, level in first.groupby("task")
    )
    if not len(first):
        finding = "No entry reaches the target"
    names = ("steps", "examples", "seconds")
    known = [name for name in names if runs[name].notna().any()]
    text = " and ".join(filter(None, (", ".join(known[:-1]), known[-1])))
    rule = (
        "The target of a task is the median over entries of their median result"
        if study.options.target is None
        else f"The target is {study.options.target:g}"
    )
    how_to_read = (
        f"{rule}. {text[:1].upper()}{text[1:]} until a run's curve first reaches it, "
        f"median over all runs; those that never do count as infinite."
    )
    return writer.section(
        "targets", "Time to a target", finding + ".", how_to_read, table
    )


def _fidelity(study: Study, writer: ReportWriter) -> Section | None:
    """Agreement of an early order of entries with the final one."""
    seen = early_order.early_scores(study.all_runs, study.all_curves, study.known)
    if not any(scores.part < 1 for scores in seen):
        return None
    tasks, families = early_order.measure(seen, study.options.bootstrap)
    finding = "; ".join(
        _trust(row, families, set(study.tasks))
        for row in early_order.trusted(families).itertuples()
        if row.group == early_order.ALL
    )
    kinds = set(tasks["how"])
    how_to_read = (
        "What one seed says of the order of entries after a part of the budget, "
        "against the order at full length over the others (its own, if it is alone): "
        "Kendall's tau, and what is lost by taking the entry that looked best. Heavy: "
        "mean over the tasks of a kind of model, with 95 % intervals over tasks, "
        "entries and seeds; faint: each task. At 100 % only noise between seeds is "
        "left. An order is trustworthy where the interval of tau lies above the dotted "
        f"line at {early_order.TRUSTED}, there and at all larger budgets."
    )
    if "cut" in kinds:
        how_to_read += (
            " Curves are cut: schedules that fall with the horizon have not ended at "
            "the parts before."
        )
    if "short" in kinds:
        how_to_read += " Dashed: shorter runs, whose schedules have ended."
    section = writer.section(
        "fidelity",
        "How early the order shows",
        f"{finding[:1].upper()}{finding[1:]}.",
        how_to_read,
        families,
        figures.fidelity(writer.plt, study.palette, tasks, families),
    )
    by_task = writer.data("fidelity_by_task", tasks)
    return dataclasses.replace(section, files=(*section.files, by_task))


def _trust(row: Any, families: pd.DataFrame, names: Collection[str]) -> str:
    """Sentence on the smallest budget whose order can be trusted, for a family.

    Args:
      row: a row of `early_order.trusted`.
      families: as returned by `early_order.measure`.
      names: of tasks; one that says nothing of a model is a family of its own.
    """
    models = f"on {row.family}" if row.family in names else f"{row.family} models"
    models += ", shorter runs" if row.how == "short" else ""
    if np.isnan(row.part) or row.part == 1:
        below = families[(families["family"] == row.family) & (families["part"] < 1)]
        below = below[(below["group"] == row.group) & (below["how"] == row.how)]
        if not len(below):
            return f"{models}: measured at full length alone"
        last = below.sort_values("part").iloc[-1]
        span = interval(last["tau_low"], last["tau_high"])
        return (
            f"{models}: no budget below the full one is trustworthy (tau "
            f"{last['tau']:.2f}{span} at {last['part']:.0%})"
        )
    text = f"{models}: trustworthy from {row.part:.0%} of the budget on"
    if np.isfinite(row.regret_below):
        text += (
            f"; choosing there loses {row.regret:.3g} at full length, at the budget "
            f"below {row.regret_below:.3g}"
        )
    return text


def _tuning(study: Study, writer: ReportWriter) -> Section | None:
    """Best value so far over the cost of tuning."""
    if not len(study.trials):
        return None
    return tuning(study.trials, study.palette, writer)


def tuning(table: pd.DataFrame, palette: Palette, writer: ReportWriter) -> Section:
    """Best value so far over the cost of tuning.

    Args:
      table: as returned by `searches.trajectories`.
      palette: appearances of entries; methods that it lacks are added.
      writer: writes the section's files.
    """
    absent = set(table["method"]) - set(palette.aliases) - set(palette.entries)
    entries = palette.entries + tuple(sorted(absent))
    palette = dataclasses.replace(palette, entries=entries)
    last = table.groupby("tuning").tail(1).dropna(subset=["best"])
    finding = "; ".join(
        f"{row.method} on {row.task}: best {searches.cost_label(row.tuned_by)} "
        f"{row.best:.4g} after {counted(row.spent, 'full run', form='.3g')}"
        for row in last.itertuples()
    )
    how_to_read = (
        "A dot is a trial, whatever its budget, a cross at the upper edge one that "
        "diverged; the line is the best so far at the full budget, a star the best "
        "trial there. A trial counts as what it trained over the full budget: one that "
        "resumed, as the part beyond its state."
    )
    return writer.section(
        "tuning",
        "Tuning",
        f"{finding}." if finding else "No trial had the full budget yet.",
        how_to_read,
        table[["task", "method", "tuning", "tuned_by", "spent", "value", "best"]],
        searches.incumbents(writer.plt, palette, table),
        data=True,
    )


ANALYSES: list[Callable[[Study, ReportWriter], Section | None]] = [
    _overview,
    _gap,
    _curves,
    _rates,
    _scores,
    _pairs,
    _critical,
    _against,
    _profiles,
    _grid,
    _portfolio,
    _cost,
    _targets,
    _fidelity,
    _tuning,
    _losses,
]


def find_all() -> list[Callable[[Study, ReportWriter], Section | None]]:
    """Return all analyses: lrjax's own, registered ones, and those of packages.

    Raises:
      UsageError: if one that a package offers cannot be imported.
    """
    own: dict[str, Callable[[Study, ReportWriter], Section | None]] = {}
    for name in plugins.offered("analysis"):
        plugins.find("analysis", name, own, lambda name, found: found)
    return [*ANALYSES, *own.values()]
