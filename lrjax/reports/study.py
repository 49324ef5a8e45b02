"""Reads the tables of some working directories and makes them comparable."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrjax import results
from lrjax.analysis import curves as curves_lib
from lrjax.analysis import scores as scores_lib
from lrjax.analysis import stats
from lrjax.common.reading import reading
from lrjax.core import (
    LOSS,
    Metric,
    UsageError,
    encodable,
    shown,
    unknown,
)
from lrjax.elsewhere import Source
from lrjax.reports import searches
from lrjax.reports.palette import Palette
from lrjax.tables import frames, record

SHORT = "advise:"  # begins methods of short runs, which say nothing of full ones
FORMATS = ("csv", "parquet", "tensorboard")
# Required columns of runs.
_RUN = ("task", "protocol", "method", "hparams", "seed", "steps", "status")
_RUN += ("seconds", "examples")
_STATUSES = ("done", "diverged", "stopped")
_MOST_ENTRIES = 16  # with more, only the best setting of a method is shown


@dataclasses.dataclass(frozen=True)
class Options:
    """The user's choices for a report.

    Attributes:
      metrics: columns to judge by, of which a task uses the first that it has; () for
        the task's own.
      baseline: the entry that others are tested against; '' for the best one.
      target: value for 'time to target'; None for the median over entries.
      smooth: weight of the newest value in smoothed curves; 0 for no smoothing.
      compare: CSV file with published values; '' for none.
      export: further formats of the tables, from `FORMATS`.
      bootstrap: number of bootstrap draws.
    """

    metrics: tuple[str, ...] = ()
    baseline: str = ""
    target: float | None = None
    smooth: float = 0.0
    compare: str = ""
    export: tuple[str, ...] = ()
    bootstrap: int = 2000

    def __post_init__(self):
        """Check types and bounds.

        Raises:
          UsageError: names the option and the reason.
        """
        kinds = {"baseline": str, "compare": str, "smooth": int | float}
        for name, kind in {**kinds, "bootstrap": int}.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                word = "text" if kind is str else "a number"
                raise UsageError(f"report.{name}={shown(value)}: must be {word}")
        for name in self.export:
            if name not in FORMATS:
                raise unknown("report.export", name, FORMATS)
        if not 0 <= self.smooth <= 1:
            raise UsageError(f"report.smooth={self.smooth}: must be between 0 and 1")
        if not 10 <= self.bootstrap <= 10**6:
            raise UsageError(f"report.bootstrap={self.bootstrap}: must be 10 to 10**6")
        if self.target is not None and not math.isfinite(self.target):
            raise UsageError(f"report.target={self.target}: must be a number")


@dataclasses.dataclass(frozen=True)
class Study:
    """The data of all analyses.

    Attributes:
      options: the user's choices.
      known: name -> metric, as returned by `scores.known_metrics`.
      all_runs: every run, as returned by `scores.judge`, with `entry`.
      all_curves: curves of all runs, as returned by `frames.raw`.
      runs: runs of the entries shown.
      curves: curves of these runs, as returned by `curves.without_lone` and
        `curves.timed`.
      stepped: tasks whose curves are drawn over steps, since epochs are unknown.
      comparison: the entries shown, as a table without holes.
      overall: as returned by `stats.overall`.
      per_task: as returned by `stats.per_task`, for all entries.
      baseline: the entry that others are tested against.
      trials: trials of tuning, as returned by `searches.trajectories`; may be empty.
      tuning: entry -> cost of choosing its setting, in full runs, mean over tasks.
      palette: appearances of the entries shown, best first.
    """

    options: Options
    known: Mapping[str, Metric]
    all_runs: pd.DataFrame
    all_curves: pd.DataFrame
    runs: pd.DataFrame
    curves: pd.DataFrame
    stepped: frozenset[str]
    comparison: stats.Comparison
    overall: pd.DataFrame
    per_task: pd.DataFrame
    baseline: str
    trials: pd.DataFrame
    tuning: pd.Series
    palette: Palette

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks, sorted."""
        return sorted(self.runs["task"].unique())

    @property
    def metrics(self) -> pd.Series:
        """Task -> column that its runs are judged by."""
        return self.runs.groupby("task")["metric"].first()

    @functools.cached_property
    def without_curve(self) -> dict[str, str]:
        """Task whose metric has no curve -> a column to draw instead; '' for none.

        The training loss is drawn anyway.
        """
        found = {}
        for task, column in self.curve_metrics.items():
            rows = self.curves[self.curves["task"] == task]
            known = [str(c) for c in rows if rows[c].notna().any()]
            if column not in known:
                noted = [c for c in known if c.startswith(("valid_", "train_"))]
                noted = [c for c in noted if c != f"train_{LOSS}"]
                noted.sort(key=lambda name: name.startswith("train_"))
                found[str(task)] = noted[0] if noted else ""
        return found

    @property
    def basis(self) -> str:
        """The runs of each entry that comparisons use: 'the first run of each'.

        '' if they use all runs of the entries and tasks that they have.
        """
        return stats.basis(self.comparison, self.runs)

    @property
    def leaders(self) -> list[str]:
        """The entries with the best mean rank in two decimals, as it is shown."""
        return stats.leaders(self.overall)

    def metric(self, column: str, task: str) -> Metric:
        """The metric in a column, as a task has it."""
        return scores_lib.metric_of(column, self.known, task)

    @property
    def scales(self) -> pd.Series:
        """Task -> metric that its runs are judged by."""
        columns = self.metrics
        metrics = {t: self.metric(str(c), str(t)) for t, c in columns.items()}
        return pd.Series(metrics, dtype=object)

    def common(self, tasks: Sequence[str]) -> Metric | None:
        """The metric that tasks are judged by, if all have one in one unit."""
        metrics = list(self.scales[tasks])
        units = {(metric.name, metric.unit) for metric in metrics}
        return metrics[0] if len(units) == 1 else None

    @property
    def curve_metrics(self) -> pd.Series:
        """Task -> column of the curves: as `metrics`, but never of the test part."""
        return self.metrics.str.replace(r"^test_", "valid_", regex=True)

    @functools.cached_property
    def on_curves(self) -> pd.DataFrame:
        """The runs with `value` and `score` in the column that their curves have.

        Others than in `runs` where these are judged by the test part, which has none.
        """
        columns = self.curve_metrics
        tasks = [t for t in columns.index if columns[t] != self.metrics[t]]
        runs = self.runs.copy()
        for task in tasks:
            column, here = str(columns[task]), runs["task"] == task
            if column in runs and runs.loc[here, column].notna().any():
                done = here & (runs["status"] == "done")
                value = runs.loc[here, column].astype(float).where(done[here])
                score = self.metric(column, str(task)).sign * value
                runs.loc[here, "value"] = value
                runs.loc[here, "score"] = score.fillna(-np.inf)
        return runs

    @property
    def gaps(self) -> pd.DataFrame:
        """Distance of each mean to the best of the task, [entries, tasks].

        In the metric's unit; for percentages, in points. NaN where there are no runs,
        or half of them or more diverged, since the mean of the others says little.
        """
        table = self.per_task[self.per_task["entry"].isin(self.palette.entries)]
        means = table.pivot(index="entry", columns="task", values="mean")
        means = means.reindex(index=self.palette.entries, columns=self.tasks)
        scores = means * self.scales.map(lambda m: m.sign * m.factor)
        return scores.max() - scores

    @property
    def means(self) -> pd.DataFrame:
        """Mean normalised scores, [tasks, entries]."""
        unit = stats.normalise(self.comparison.scores)
        return unit.groupby(level="task").mean()


def read(
    workdirs: Sequence[str | Path], others: Sequence[Source] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read runs and curves of some working directories, each run once.

    Args:
      workdirs: directories with tables.
      others: runs from elsewhere, which are added.

    Returns:
      Runs as returned by `scores.arrange` and `scores.ranked_by`, with their directory
      as `source`; curves as returned by `frames.raw`.

    Raises:
      UsageError: if a directory has no runs, damaged runs, or runs of another version.
    """
    runs, curves, known = [], [], set()
    for workdir in workdirs:
        new, rows = frames.raw(workdir)
        if not len(new):
            raise UsageError(f"{workdir} holds no finished run yet")
        for name in _RUN:
            if name not in new or new[name].isna().any():
                raise UsageError(f"{workdir}/runs.jsonl has no {name}")
        odd = new.loc[~new["status"].isin(_STATUSES), "status"]
        if len(odd):  # they would count as diverged
            raise UsageError(
                f"{workdir}/runs.jsonl: status {shown(odd.iloc[0])} is none of "
                f"{', '.join(_STATUSES)}"
            )
        new = new[~new["run_id"].isin(known)].drop_duplicates("run_id")
        new = scores_lib.ranked_by(new, results.load_metrics(workdir))
        runs.append(new.assign(source=str(workdir)))
        if len(rows):
            unseen = rows[~rows["run_id"].isin(known)] if known else rows
            curves.append(unseen.drop_duplicates(["run_id", "step"]))
        known |= set(new["run_id"])
    versions = {v for w in workdirs if (v := config(w).get("numerics_version"))}
    if len(versions) > 1:
        raise UsageError(
            f"{', '.join(map(str, workdirs))}: results of different versions "
            f"(numerics versions {', '.join(map(str, sorted(versions)))}) do not mix"
        )
    runs += [source.runs for source in others]
    curves += [source.curves for source in others if len(source.curves)]
    rows = pd.concat(curves) if curves else pd.DataFrame(columns=["run_id"])
    table = pd.concat(runs, ignore_index=True)
    return scores_lib.arrange(_comparable(table) if others else table), rows


def _comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with protocol and number of steps: those of others, where unknown.

    So runs from elsewhere stand beside those of the only protocol of their task, count
    as being as long as the longest, and are judged by a metric that all sources have.

    Raises:
      UsageError: if sources of a task have no metric in common.
    """
    known: dict[str, set[str]] = {}
    for task, protocol in zip(runs["task"], runs["protocol"], strict=True):
        known.setdefault(task, set()).update({protocol} - {None})
    only = {task: min(p) for task, p in known.items() if len(p) == 1}
    longest = runs.groupby("task")["steps"].transform("max")
    steps = runs["steps"].fillna(longest).fillna(runs["length"]).fillna(1)
    pairs = zip(runs["task"], runs["protocol"], strict=True)
    shared = runs["task"].map(_shared(runs)).astype(object)  # numbers if none is shared
    return runs.assign(
        protocol=[p or only.get(task, "elsewhere") for task, p in pairs],
        steps=steps.astype(int) if (steps % 1 == 0).all() else steps,
        length=runs["length"].fillna(steps),
        ranked_by=shared.where(shared.notna(), runs["ranked_by"]),
    )


def _shared(runs: pd.DataFrame) -> dict[str, str]:
    """Task of several sources -> the column to judge its runs by, which each has."""
    chosen = {}
    for task, subset in runs.groupby("task"):
        if subset["source"].nunique() == 1:
            continue
        done = subset[subset["status"] == "done"]
        own = [c for c in subset["ranked_by"].dropna().unique() if c in runs]
        columns = [str(c) for c in runs if str(c).startswith(("valid_", "test_"))]
        by_source = done.groupby("source")[[*dict.fromkeys([*own, *columns])]].count()
        common = [str(c) for c in by_source if by_source[c].all()]
        if not common:
            which = "; ".join(
                f"{source} has {', '.join(c for c in by_source if counts[c])}"
                for source, counts in by_source.iterrows()
            )
            raise UsageError(f"runs of {task} have no metric in common: {which}")
        chosen[str(task)] = common[0]
    return chosen


def config(workdir: str | Path) -> Mapping[str, Any]:
    """The fields of config.json with the right types; {} if it cannot be read."""
    kinds = {"config": dict, "versions": dict, "git_revision": str}
    kinds["numerics_version"] = int
    fields = record.read(workdir)
    return {k: v for k, v in fields.items() if isinstance(v, kinds.get(k, object))}


def _read_trials(workdirs: Sequence[str | Path], methods: set[str]) -> pd.DataFrame:
    """Trials of tuning, as `searches.trajectories` takes them.

    A tuned method has the name of its runs (smac:adam) if that is in `methods`, else
    its own.
    """
    tables = [pd.DataFrame(columns=["task", "method", "source", "budget", "cost"])]
    for workdir in workdirs:
        rows = results.read_rows(workdir, results.TRIALS)
        if rows:
            with reading(f"{Path(workdir) / results.TRIALS} is damaged", ""):
                table = searches.trials_table(rows, results.load_metrics(workdir))
            plain = [encodable(row["method"]) for row in rows]
            method = table["method"].where(table["method"].isin(methods), plain)
            source = f"{workdir} " + table["source"]
            tables.append(table.assign(source=source, method=method))
    return pd.concat([t for t in tables if len(t)] or tables, ignore_index=True)


def has_full_runs(workdir: Path) -> bool:
    """Whether a directory has runs other than the short ones of advice.

    Raises:
      UsageError: if a line of the table is damaged.
    """
    rows = results.read_rows(workdir, results.RUNS)
    return any(not str(row.get("method")).startswith(SHORT) for row in rows)


def read_study(
    workdirs: Sequence[str | Path], options: Options, others: Sequence[Source] = ()
) -> Study:
    """Read the tables and compute the data of all analyses.

    Args:
      workdirs: directories with tables.
      options: the user's choices.
      others: runs from elsewhere.

    Raises:
      UsageError: as `read`, or if an option does not fit the tables.
    """
    table, rows = read(workdirs, others)
    short = table["method"].str.startswith(SHORT)
    table = table if short.all() else table[~short].reset_index(drop=True)
    described = [*map(results.load_metrics, workdirs), *(s.metrics for s in others)]
    known = scores_lib.known_metrics(described)
    judged = scores_lib.judge(table, options.metrics, known)
    if not len(judged):
        raise UsageError("there is no finished run: all were stopped on the way")
    ranks = stats.mean_ranks(judged)
    shown = _shown(judged, ranks)
    runs = judged[judged["entry"].isin(shown)].reset_index(drop=True)
    comparison = stats.complete(runs)
    overall = stats.overall(comparison, options.bootstrap)
    rest = sorted(set(shown) - set(overall.index))
    entries = (*overall.index, *rest)
    tasks = tuple(sorted(map(str, judged["task"].unique())))
    palette = Palette(entries, _aliases(judged, entries), tasks)
    per_task = stats.per_task(judged, options.bootstrap, known)
    joined = curves_lib.without_lone(curves_lib.join(runs, rows))
    stepped = frozenset()
    if others:
        joined, stepped = curves_lib.timed(joined)
    trials = _read_trials(workdirs, set(judged["method"]))
    trials = searches.trajectories(trials) if len(trials) else trials
    return Study(
        options=options,
        known=known,
        all_runs=judged,
        all_curves=rows,
        runs=runs,
        curves=joined,
        stepped=stepped,
        comparison=comparison,
        overall=overall,
        per_task=per_task,
        baseline=_baseline(options.baseline, overall, runs),
        trials=trials,
        tuning=_tuning_cost(judged, runs, trials),
        palette=palette,
    )


def _shown(runs: pd.DataFrame, ranks: pd.Series) -> list[str]:
    """All entries, or if they are many, the best of each method by mean rank.

    Args:
      runs: as returned by `scores.judge`.
      ranks: entry -> mean rank.
    """
    methods = runs.groupby("entry")["method"].first()
    if len(methods) <= _MOST_ENTRIES:
        return list(methods.index)
    ordered = pd.DataFrame({"method": methods, "rank": ranks.reindex(methods.index)})
    ordered = ordered.sort_index().sort_values("rank", kind="stable")
    return list(ordered.drop_duplicates("method").index)


def _aliases(runs: pd.DataFrame, entries: Sequence[str]) -> dict[str, str]:
    """Method, or entry that is not shown -> the first entry shown of the method.

    Args:
      runs: as returned by `scores.judge`.
      entries: the entries that are shown.
    """
    methods = runs.groupby("entry")["method"].first()
    first = {str(methods[entry]): entry for entry in reversed(entries)}
    hidden = methods.drop(list(entries))
    return first | {str(e): first[m] for e, m in hidden.items() if m in first}


def _baseline(name: str, overall: pd.DataFrame, runs: pd.DataFrame) -> str:
    """The entry of a name, which may be that of a method; the best one for ''.

    Args:
      name: name of an entry or a method, or ''.
      overall: as returned by `stats.overall`.
      runs: as returned by `scores.judge`.

    Raises:
      UsageError: if there is no such entry in the comparison, or are several.
    """
    if not name:
        return str(overall.index[0])
    of_method = [e for e, m in runs.groupby("entry")["method"].first().items()]
    named = [e for e in of_method if e == name]
    named = named or list(runs.loc[runs["method"] == name, "entry"].unique())
    if len(named) != 1 or named[0] not in overall.index:
        raise unknown("baseline", name, map(str, overall.index))
    return str(named[0])


def _tuning_cost(
    judged: pd.DataFrame, runs: pd.DataFrame, trials: pd.DataFrame
) -> pd.Series:
    """Entry -> cost of choosing its setting, in full runs, mean over tasks.

    A trial counts as in `searches.trajectories`. If only the best setting of a method
    is shown, each of the others counts as a full run.

    Args:
      judged: all runs, as returned by `scores.judge`.
      runs: those of the entries that are shown.
      trials: as returned by `searches.trajectories`.
    """
    entries = runs.groupby("entry")["method"].first()
    cost = pd.Series(0.0, index=entries.index)
    num_settings = judged.groupby("method")["entry"].nunique()
    shown = runs.groupby("method")["entry"].nunique()
    for entry, method in entries.items():
        if shown[method] == 1:
            cost[entry] += num_settings[method] - 1
        of_method = trials[trials["method"] == method]
        if len(of_method):
            cost[entry] += of_method.groupby("tuning")["spent"].max().mean()
    return cost
