"""The parts of the page, drawn with the figures of the report.

A part has a name and is HTML. Those that change with every measurement are drawn one
after the other, as `lrjax.watch.pace` has time for them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrjax.analysis import scores, stats
from lrjax.core import LOSS, Metric, counted
from lrjax.reports import analyses, drawing, figures, findings, page, searches, selected
from lrjax.reports.page import Section, text
from lrjax.reports.palette import Palette, method_of
from lrjax.reports.writer import ReportWriter
from lrjax.watch import clock, follow, thinned
from lrjax.watch.follow import Study

_MOST_ENTRIES = 16  # in a figure; of more, the best setting of each method so far
_DRAWS = 500  # of the bootstrap
_NAMED = 6  # pairs of entry and task that the line on diverged runs names
_HOW_RUNS = (
    "Mean rank within each task and seed, averaged over seeds and then over tasks, and "
    "mean of the middle half of the normalised scores, of the runs that have ended. "
    "Bars are 95 % intervals, bootstrapped over seeds; with fewer than three runs of "
    "each there are none. Entries without an ended run are not ranked yet."
)
_HOW_TASK = (
    "Lines are medians over the runs that have got that far, bands the middle half; a "
    "cross where half of the runs have diverged. Curves are thinned to 64 points. On "
    "the right a dot is a run that has ended, the bar the mean with its 95 % interval. "
    "In the table: the latest median, after how much of the training, and the mean "
    "of the ended runs with its interval."
)


class Parts:
    """Draws the parts of a page that shows a study.

    Attributes:
      study: what is shown.
      due: names of parts to be drawn again, those that wait longest first.
      generation: how often all parts became others.
    """

    def __init__(self, study: Study):
        self.study = study
        self.generation = 0
        self._renew()

    def _renew(self) -> None:
        """Begin anew, for a study that was read anew or whose tasks got other names."""
        self.generation += 1
        self._of = self.study.generation
        self._clock = clock.Clock()
        self._entries: list[str] = []  # ever shown; their places are their numbers
        self._tasks: list[str] = []
        self.due: dict[str, None] = {}

    def refresh(self) -> None:
        """Find out which parts have to be drawn again."""
        study, runs = self.study, self.study.runs()
        changed, study.changed = study.changed, set()
        tasks, study.changed_tasks = study.changed_tasks, set()
        if study.generation != self._of or set(self._tasks) - set(runs["task"]):
            self._renew()
            changed = {follow.RUNS, follow.SELECTION, follow.TUNING}
            tasks = set(runs.get("raw_task", ()))
        if study.progress:
            self._clock.note(study.progress)
        if follow.RUNS in changed and len(runs):
            self.due.setdefault(follow.RUNS)
        for task in runs["task"].unique():
            if task not in self._tasks:
                self._tasks.append(task)
        if tasks:
            touched = runs.loc[runs["raw_task"].isin(tasks), "task"].unique()
            for task in touched:
                self.due.setdefault(self._name(task))
        for name, there in (
            (follow.SELECTION, study.answers or study.races),
            (follow.TUNING, study.trials),
        ):
            if name in changed and there:
                self.due.setdefault(name)

    def quick(self) -> dict[str, str]:
        """The parts that take no time: how far it is, links, buttons, faults."""
        shown = [e for e in self._entries if e in set(self.study.runs()["entry"])]
        return {
            "progress": self._progress(),
            "said": text(clock.announced(self.study.progress))
            if self.study.progress
            else "",
            "faults": self._faults(),
            "report": self._report(),
            "nav": self._nav(),
            "chips": page.chips(Palette(tuple(self._entries)), shown) if shown else "",
        }

    def fault(self, error: Exception) -> str:
        """Message in place of the faults where reading itself fails."""
        words = f"{self.study.workdir} cannot be shown: {type(error).__name__}: {error}"
        return f"<ul><li>{text(words)}</li></ul>"

    def draw(self, name: str) -> str:
        """Draw a part that is due; what fails becomes a line."""
        self.due.pop(name, None)
        try:
            # The names of contenders take the room of their plot, which stays narrow.
            with drawing.style(laid_out=name == follow.SELECTION) as plt:
                return self._draw(name, plt)
        except Exception as error:  # tables may hold anything
            title = self._title(name)
            why = f"It cannot be drawn: {type(error).__name__}: {error}"
            return page.section(Section(name, title, "", why))

    def _draw(self, name: str, plt: Any) -> str:
        writer = ReportWriter(plt, kinds=("svg",))
        if name == follow.RUNS:
            return _shown(self._ranking(writer))
        if name == follow.TUNING:
            return _shown(self._tuning(writer))
        if name == follow.SELECTION:
            return "".join(map(_shown, self._selection(writer)))
        return _shown(self._task(self._tasks[int(name.removeprefix("task-"))], writer))

    def _name(self, task: str) -> str:
        """The name of a task's part."""
        return f"task-{self._tasks.index(task)}"

    def _title(self, name: str) -> str:
        """The heading of a part."""
        titles = {
            follow.RUNS: "Runs that have ended",
            follow.TUNING: "Tuning",
            follow.SELECTION: "Selection",
        }
        if name in titles:
            return titles[name]
        return self._tasks[int(name.removeprefix("task-"))]

    def _palette(self, entries: Sequence[str]) -> Palette:
        """Appearances of entries, whose numbers never change."""
        self._entries += [e for e in entries if e not in self._entries]
        return Palette(tuple(self._entries), tasks=tuple(self._tasks))

    # Parts that take no time.

    def _progress(self) -> str:
        """The section on progress."""
        study, runs = self.study, self.study.runs()
        if progress := study.progress:
            left = self._clock.left(progress)
            words = clock.sentence(progress, left, time.time())
            bar = (
                f'<progress max="1" value="{clock.share(progress):.4f}" '
                'aria-label="part of all updates that is done"></progress>'
            )
            return f"<p>{text(words)}</p>{bar}"
        if not study.workdir.exists():
            words = f"Waiting for {study.workdir}, which does not exist yet"
        elif len(runs):
            ended = int((runs["status"] != follow.TRAINING).sum())
            words = f"{counted(ended, 'run')} ended"
            if len(runs) > ended:
                words += f", {counted(len(runs) - ended, 'other')} begun"
            words += "; nothing says how many are planned"
        else:
            words = "Nothing was measured yet"
        return f"<p>{text(words)}</p>"

    def _faults(self) -> str:
        """The section on what could not be read."""
        lines = list(self.study.faults)
        if count := self.study.nameless:
            lines.append(
                f"{counted(count, 'run')} with curves, of which no table says yet what "
                "they are"
            )
        items = "".join(f"<li>{text(line)}</li>" for line in lines)
        return f"<ul>{items}</ul>" if items else ""

    def _report(self) -> str:
        """The button that leads to the report, once a run has ended."""
        study, runs = self.study, self.study.runs()
        ended = runs["status"].isin(("done", "diverged")).any()
        if not ended and not study.answers:
            return ""
        is_over = study.progress and study.progress["state"] == "ended"
        words = "Open the report" if is_over else "Report of the runs that have ended"
        return f"<button>{words}</button>"

    def _nav(self) -> str:
        """Links to the parts."""
        study, runs = self.study, self.study.runs()
        there = {
            follow.SELECTION: study.answers or study.races,
            follow.RUNS: len(runs),
            follow.TUNING: study.trials,
        }
        names = [name for name, shown in there.items() if shown]
        names += map(self._name, self._tasks)
        links = [f'<a href="#{n}">{text(self._title(n))}</a>' for n in names]
        return "".join(links)

    # Parts with figures.

    def _judged(self, runs: pd.DataFrame) -> pd.DataFrame:
        """The runs that have ended, as returned by `scores.judge`."""
        ended = runs[runs["status"].isin(("done", "diverged"))]
        return scores.judge(ended, (), self.study.known)

    def _ranking(self, writer: ReportWriter) -> Section:
        """Mean ranks of the runs that have ended, with intervals."""
        runs = self.study.runs()
        judged, name, title = self._judged(runs), follow.RUNS, self._title(follow.RUNS)
        table = _counts(runs, ["entry"])
        if not len(judged):
            finding = "No run has ended yet."
            return writer.section(name, title, finding, _HOW_RUNS, table)
        compared = stats.complete(judged)
        overall = stats.overall(compared, _DRAWS)
        best, leaders = overall.iloc[0], stats.leaders(overall)
        span = page.interval(best["rank_low"], best["rank_high"])
        basis = stats.basis(compared, judged)
        finding = (
            f"{findings.named(leaders)} {'has' if len(leaders) == 1 else 'have'} the "
            f"best mean rank so far, {best['rank']:.2f}{span} of {len(overall)}"
            f"{f', by {basis}' if basis else ''}. Diverged: {_diverged(runs)}."
        )
        shown = overall.head(_MOST_ENTRIES)
        palette = self._palette(list(shown.index))
        drawn = figures.overview(writer.plt, palette, shown)
        columns = [c for c in overall if not c.startswith(("mean", "diverged"))]
        table = overall[columns].reset_index().merge(table, on="entry", how="right")
        table = table.sort_values(["rank", "entry"], ignore_index=True)
        return writer.section(name, title, finding, _HOW_RUNS, table, drawn)

    def _task(self, task: str, writer: ReportWriter) -> Section:
        """A task: curves and rates as they grow, and the runs that have ended."""
        runs = self.study.runs()
        runs = runs[runs["task"] == task]
        column, bands, latest = self._measured(runs)
        judged = self._judged(runs)
        known = self.study.known
        if len(judged):
            column = str(judged["metric"].iloc[0])
        table = _counts(runs, ["entry"]).merge(latest, on="entry", how="left")
        means = pd.DataFrame(columns=["iqm", "iqm_low", "iqm_high"])
        if len(judged):
            means = _means(judged, scores.metric_of(column, known, task))
            named = dict(zip(means, ("mean", "mean_low", "mean_high"), strict=True))
            ended = means.rename(columns=named).rename_axis("entry").reset_index()
            table = table.merge(ended, on="entry", how="left")
        entries = _best(table, self.study.known.get(_bare(column), LOSS))
        palette = self._palette(entries)
        bands = {
            name: band[band["entry"].isin(entries)] for name, band in bands.items()
        }
        means = means[means.index.isin(entries)]
        bands = {name: band for name, band in bands.items() if len(band)}
        judged = judged[judged["entry"].isin(means.index)]
        drawn = None
        if bands or len(judged):
            drawn = figures.so_far(writer.plt, palette, bands, judged, means, known)
        name = self._name(task)
        finding = "" if drawn else "Nothing was measured yet: programs compile first."
        if len(entries) < len(table):
            finding = (
                f"{len(entries)} of {counted(len(table), 'setting')} are drawn: the "
                "best of each method so far."
            )
        return writer.section(name, task, finding, _HOW_TASK, table, drawn)

    def _measured(
        self, runs: pd.DataFrame
    ) -> tuple[str, dict[str, pd.DataFrame], pd.DataFrame]:
        """Curves of a task's runs.

        Args:
          runs: rows of one task.

        Returns:
          the column that ranks; column -> bands with `entry`, for it and the rate;
          entry -> `latest`, median of the last values, and `after`, the part of the
          training that is done.
        """
        study = self.study
        has = runs[runs["run_id"].map(study.has_curve)]
        bands: dict[str, list[pd.DataFrame]] = {}
        latest = pd.DataFrame(columns=["entry", "latest", "after"])
        column = runs["curve"].iloc[0]
        if not len(has):
            return column or f"valid_{LOSS}", {}, latest
        groups = [(str(e), of_entry) for e, of_entry in has.groupby("entry")]
        points = {e: study.points(rows["run_id"].tolist()) for e, rows in groups}
        columns = next(iter(points.values()))[2]
        if column is None or column not in columns:
            column = _first_measured(points, columns)
        rows = []
        for entry, of_entry in groups:
            steps, values, _ = points[entry]
            dead = (of_entry["status"] == "diverged").to_numpy() | _lost(values, steps)
            for name in (column, follow.RATE):
                places = [columns.index(follow.EPOCH), columns.index(name)]
                band = thinned.bands(steps, values[..., places], dead)
                if len(band):
                    bands.setdefault(name, []).append(band.assign(entry=entry))
            after = float(np.median(steps.max(1) / of_entry["steps"].to_numpy(float)))
            of_band = bands.get(column, [])
            is_last = bool(of_band) and of_band[-1]["entry"].iloc[0] == entry
            last = of_band[-1]["median"].iloc[-1] if is_last else np.nan
            rows.append({"entry": entry, "latest": last, "after": min(after, 1.0)})
        found = {name: pd.concat(tables) for name, tables in bands.items()}
        return column, found, pd.DataFrame(rows)

    def _tuning(self, writer: ReportWriter) -> Section:
        """Trials of tunings, as in the report."""
        rows = searches.trials_table(self.study.trials, self.study.metrics)
        table = searches.trajectories(rows)
        names = sorted(set(table["method"]))
        return analyses.tuning(table, self._palette(names), writer)

    def _selection(self, writer: ReportWriter) -> list[Section]:
        """Contenders that were trained, and what is believed of them."""
        found = []
        if self.study.answers:
            found.append(selected.section(self.study.answers, writer))
        if self.study.races:
            table = _contenders(self.study.races, self.study.metrics)
            finding = (
                f"{counted(len(table), 'contender')} trained so far, in "
                f"{counted(len(self.study.races), 'run')}."
            )
            how = (
                "Each row a contender: its runs, how many of them diverged, and the "
                "mean of the others on the validation part."
            )
            name = "contenders" if found else follow.SELECTION
            title = "What was measured" if found else self._title(follow.SELECTION)
            found.append(writer.section(name, title, finding, how, table))
        return found


def _shown(section: Section) -> str:
    """A section as HTML, without links to files that were not written."""
    return page.section(dataclasses.replace(section, files=()))


def _bare(column: str) -> str:
    """The metric of a column."""
    return column.partition("_")[2]


def _counts(runs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Numbers of runs that have begun, ended and diverged, by the keys."""
    groups = runs.groupby(keys)["status"]
    table = pd.DataFrame(
        {
            "begun": groups.size(),
            "ended": groups.agg(lambda s: int((s != follow.TRAINING).sum())),
            "diverged": groups.agg(lambda s: int((s == "diverged").sum())),
        }
    )
    return table.reset_index()


def _diverged(runs: pd.DataFrame) -> str:
    """The runs that diverged, in words."""
    table = _counts(runs, ["entry", "task"])
    table = table[table["diverged"] > 0].sort_values("diverged", ascending=False)
    parts = [
        f"{row.entry} on {row.task} ({row.diverged} of {row.begun})"
        for row in table.itertuples()
    ]
    more = f" and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return f"{', '.join(parts[:_NAMED])}{more}" if parts else "none"


def _means(judged: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Entry -> mean of its ended runs with its interval, best first.

    The columns are named as those of interquartile means, which figures draw.
    """
    lost = judged.groupby("entry")["value"].transform(stats.mostly_lost)
    groups = judged["value"].mask(lost).groupby(judged["entry"])
    means = groups.mean()
    ends = {e: stats.interval(v.to_numpy(float), metric) for e, v in groups}
    low, high = zip(*(ends[e] for e in means.index), strict=True)
    table = pd.DataFrame({"iqm": means, "iqm_low": low, "iqm_high": high})
    return table.sort_values("iqm", ascending=not metric.higher_is_better)


def _best(table: pd.DataFrame, metric: Metric) -> list[str]:
    """The entries to draw: all, or if they are many, the best of each method so far."""
    if len(table) <= _MOST_ENTRIES:
        return table["entry"].tolist()
    value = table["latest"]
    if "mean" in table:
        value = table["mean"].fillna(value)
    ordered = table.assign(
        method=table["entry"].map(method_of), value=-metric.sign * value
    )
    ordered = ordered.sort_values("value", kind="stable")
    return ordered.drop_duplicates("method")["entry"].head(_MOST_ENTRIES).tolist()


def _first_measured(points: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The first column of those that rank which holds a number."""
    for name in scores.PREFERRED:
        place = columns.index(name)
        if any(np.isfinite(v[..., place]).any() for _, v, _ in points.values()):
            return name
    return f"valid_{LOSS}"


def _lost(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Mask of diverged runs: nothing but the epoch is a number at their last point."""
    last = steps.argmax(1)
    at_last = values[np.arange(len(values)), last, 1:]
    return np.logical_not(np.isfinite(at_last).any(1))


def _contenders(
    rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Sequence[Metric]]
) -> pd.DataFrame:
    """Contenders of selections with their runs, best first on each task."""
    columns = {task: f"valid_{of_task[0]}" for task, of_task in metrics.items()}
    table = pd.DataFrame(
        {
            "task": row["task"],
            "contender": _contender(row),
            "value": row.get(columns.get(row["task"], f"valid_{LOSS}")),
            "lost": row["status"] != "done",
        }
        for row in rows
    )
    table["value"] = pd.to_numeric(table["value"], errors="coerce")
    groups = table.groupby(["task", "contender"])
    found = pd.DataFrame(
        {
            "runs": groups.size(),
            "diverged": groups["lost"].sum(),
            "mean": groups["value"].mean(),
        }
    ).reset_index()
    ranked = [
        metrics[task][0].sign if task in metrics else -1.0 for task in found["task"]
    ]
    order = found.assign(score=-np.array(ranked) * found["mean"])
    order = order.sort_values(["task", "score"], kind="stable")
    return order.drop(columns="score").reset_index(drop=True)


def _contender(row: Mapping[str, Any]) -> str:
    """A contender's name: its method, and its learning rate if it has one."""
    rate = row["hparams"].get("learning_rate")
    named = f" (learning_rate={rate:g})" if isinstance(rate, int | float) else ""
    return f"{row['method']}{named}"
