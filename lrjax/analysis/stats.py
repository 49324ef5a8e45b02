"""Statistics of scores: intervals, ranks, paired comparisons, tests.

One rule for diverged and missing runs, docs/report.md:

- A diverged run has the worst of all scores. It ranks last, has normalised score 0 and
  reaches no target; means of raw values leave it out, with its number given.
- A missing run is never made up. Statistics of one task use all its runs; comparisons
  of entries use the table without holes from `complete`.
- Across tasks each task has the same weight and the same number of runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
from scipy import special

from lrjax.analysis.scores import metric_of
from lrjax.core import METRICS, Metric

FEWEST = 3  # values for an interval
_LEVEL = 0.95
_BOOTSTRAP_SEED = 0
_ENUMERATED = 13  # most pairs for an exact test over all signs


# One task


def mostly_lost(values: pd.Series) -> bool:
    """Whether at least half of the runs diverged: the mean of the others says little.

    Args:
      values: one per run; NaN where it diverged, or the metric is undefined.
    """
    return bool(2 * values.isna().sum() >= len(values))


def interval(
    values: np.ndarray, metric: Metric, level: float = _LEVEL
) -> tuple[float, float]:
    """An interval of a metric's mean over seeds, within the metric's bounds.

    Student's t interval on an unbounded scale, transformed back: the logit where the
    metric has two bounds, the logarithm of the distance where it has one, the values
    themselves where it has none. The standard error is carried to that scale by the
    delta method, so that the mean is always inside. A bound that a value violates is
    ignored.

    Agresti 2013, Categorical Data Analysis, section 3.1.6 (logit); the same as
    `svyciprop(method = "logit")` of R's survey.

    Args:
      values: one per run; non-finite values are left out.
      metric: metric of the values.
      level: confidence level of the interval, from 0 to 1.

    Returns:
      both ends; NaN with fewer than three values, which should be shown individually.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if len(values) < FEWEST:
        return np.nan, np.nan
    mean, error = float(values.mean()), values.std(ddof=1) / np.sqrt(len(values))
    if not error:
        return mean, mean
    half = float(special.stdtrit(len(values) - 1, (1 + level) / 2) * error)
    # Tables keep nine digits, so values may exceed a bound by a rounding error.
    slack = 1e-8 * max(1.0, abs(mean))
    least = metric.least if values.min() >= metric.least - slack else -np.inf
    greatest = metric.greatest if values.max() <= metric.greatest + slack else np.inf
    above, below = mean - least, greatest - mean
    if min(above, below) <= 0:  # all values are on a bound, up to rounding
        return mean, mean
    if np.isfinite(above) and np.isfinite(below):
        span = greatest - least
        centre, half = np.log(above / below), half * span / (above * below)
        low, high = least + span * special.expit(centre + np.array([-half, half]))
    elif np.isfinite(above):
        low, high = least + above * np.exp(np.array([-half, half]) / above)
    elif np.isfinite(below):
        low, high = greatest - below * np.exp(np.array([half, -half]) / below)
    else:
        low, high = mean - half, mean + half
    # Rounding may push an end past the mean or a bound.
    return float(max(min(low, mean), least)), float(min(max(high, mean), greatest))


def summary(
    runs: pd.DataFrame,
    columns: Iterable[str],
    known: Mapping[str, Metric] = METRICS,
) -> pd.DataFrame:
    """Mean and 95 % interval over seeds of each entry's scores.

    Args:
      runs: as returned by `results.load`, with a column `entry`.
      columns: names of the score columns.
      known: as returned by `scores.known_metrics`.

    Returns:
      one row per task and entry: task, entry, runs, diverged, and for each column, such
      as valid_loss, its mean 'valid_loss', its interval 'valid_loss low' and
      'valid_loss high' (as returned by `interval`), and 'valid_loss values'; NaN and
      no values where `mostly_lost`.
    """
    rows = []
    for (task, entry), group in runs.groupby(["task", "entry"], sort=False):
        done = group["status"] == "done"
        row = {
            "task": task,
            "entry": entry,
            "runs": len(group),
            "diverged": int((group["status"] == "diverged").sum()),
        }
        for column in columns:
            metric = metric_of(column, known, str(task))
            finished = group[column].astype(float).where(done)
            values = finished.dropna().to_numpy()
            if mostly_lost(finished):
                values = values[:0]
            ends = interval(values, metric)
            row[column] = values.mean() if len(values) else np.nan
            row[f"{column} low"], row[f"{column} high"] = ends
            row[f"{column} values"] = tuple(values.tolist())
        rows.append(row)
    return pd.DataFrame(rows)


def per_task(
    runs: pd.DataFrame, reps: int = 2000, known: Mapping[str, Metric] = METRICS
) -> pd.DataFrame:
    """Mean, median and interquartile mean of each entry on each task.

    Args:
      runs: as returned by `scores.judge`, with a column `entry`.
      reps: draws of the bootstrap.
      known: as returned by `scores.known_metrics`.

    Returns:
      one row per task and entry: task, entry, metric, runs, diverged, and mean,
      median and iqm of the finished runs' values, each with its 95 % interval
      (`mean_low`, `mean_high`, ...): the mean's from `interval`, the others' from
      rliable's bootstrap, which stays within the values. NaN below three runs; the
      mean is NaN where `mostly_lost`.
    """
    keys = ["task", "entry"]
    grouped = runs.sort_values([*keys, "seed"], kind="stable").groupby(keys)
    table = pd.DataFrame(
        {
            "metric": grouped["metric"].first(),
            "runs": grouped.size(),
            "diverged": grouped["value"].agg(lambda v: int(v.isna().sum())),
        }
    )
    names = ("mean", "median", "iqm")
    columns = [n + end for n in names for end in ("", "_low", "_high")]
    table[columns] = np.nan
    finished = {key: v.dropna().to_numpy() for key, v in grouped["value"]}
    # Cells with equal numbers of runs share one bootstrap, with a column each.
    counts = pd.Series({key: len(values) for key, values in finished.items()})
    for _, cells in counts[counts > 0].groupby(counts):
        matrix = np.stack([finished[key] for key in cells.index], axis=1)
        estimate = _centres(matrix).reshape(3, -1)
        low, high = (x.reshape(3, -1) for x in bootstrap(matrix, _centres, reps))
        for i, name in enumerate(names):
            for end, numbers in (("", estimate), ("_low", low), ("_high", high)):
                table.loc[cells.index, name + end] = numbers[i]
    for key, values in finished.items():
        metric = metric_of(table.loc[key, "metric"], known, str(key[0]))
        table.loc[key, ["mean_low", "mean_high"]] = interval(values, metric)
    lost = grouped["value"].agg(mostly_lost)
    table.loc[lost, ["mean", "mean_low", "mean_high"]] = np.nan
    return table.reset_index()


def _centres(values: np.ndarray) -> np.ndarray:
    """Means, medians and interquartile means of columns, concatenated."""
    from scipy import stats  # here, since it takes long to import

    middle = stats.trim_mean(values, 0.25, axis=0)
    return np.concatenate([values.mean(0), np.median(values, axis=0), middle])


# Entries against each other, over tasks


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Scores without holes: each entry ran on each task with the same seeds.

    Attributes:
      scores: index (task, run), columns entry; higher is better, -inf diverged. Runs
        are numbered in the order of their seeds; a row has one seed.
      entries_left_out: entries with too many missing runs.
      tasks_left_out: tasks on which too few entries ran.
      runs_left_out: number of finished runs of the other entries and tasks that are not
        in `scores`.
    """

    scores: pd.DataFrame
    entries_left_out: tuple[str, ...] = ()
    tasks_left_out: tuple[str, ...] = ()
    runs_left_out: int = 0

    @property
    def entries(self) -> list[str]:
        """Names of the entries."""
        return list(self.scores.columns)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return list(self.scores.index.unique("task"))

    @property
    def runs(self) -> int:
        """Number of runs of each entry on each task."""
        return len(self.scores.index.unique("run"))


def complete(runs: pd.DataFrame) -> Comparison:
    """Find a large table without holes by a greedy rule.

    While a run is missing, the entry or the (task, seed) that lacks the largest share
    of its runs is dropped; on ties a (task, seed), and the last by name. Then each task
    keeps as many seeds as the task with fewest, the smallest ones.

    Args:
      runs: as returned by `scores.judge`, with a column `entry`; at most one run per
        task, entry and seed.
    """
    wide = runs.pivot(index=["task", "seed"], columns="entry", values="score")
    wide = wide.sort_index().sort_index(axis=1)
    holes = wide.isna().to_numpy()
    rows, columns = np.ones(len(wide), bool), np.ones(wide.shape[1], bool)
    while (remaining := holes & rows[:, None] & columns).any():
        by_row = remaining.sum(1) / columns.sum()
        by_column = remaining.sum(0) / rows.sum()
        if by_column.max() > by_row.max():
            columns[np.flatnonzero(by_column == by_column.max())[-1]] = False
        else:
            rows[np.flatnonzero(by_row == by_row.max())[-1]] = False
    kept = wide.loc[rows, columns]
    counts = kept.groupby(level="task").size()
    run = kept.groupby(level="task").cumcount()
    kept = kept.assign(run=run)[run < counts.min()] if len(kept) else kept.assign(run=0)
    kept = kept.droplevel("seed").set_index("run", append=True)
    kept.columns.name = "entry"
    entries = [e for e in wide.columns if e not in kept.columns]
    tasks = [t for t in wide.index.unique("task") if t not in set(counts.index)]
    inside = wide[kept.columns].drop(index=tasks, level="task").notna().to_numpy().sum()
    return Comparison(kept, tuple(entries), tuple(tasks), int(inside - kept.size))


def basis(comparison: Comparison, runs: pd.DataFrame) -> str:
    """The runs of each entry that a comparison uses: 'the first run of each'.

    Args:
      comparison: as returned by `complete`.
      runs: those that it was made of.

    Returns:
      the words; '' if it uses all runs of the entries and tasks that it has.
    """
    if not comparison.runs_left_out:
        return ""
    inside = runs["entry"].isin(comparison.entries)
    runs = runs[inside & runs["task"].isin(comparison.tasks)]
    early = runs.groupby("task")["seed"].rank("dense") <= comparison.runs
    first = "first " if early.sum() == comparison.scores.size else ""
    many = "run" if comparison.runs == 1 else f"{comparison.runs} runs"
    return f"{'the' if first or comparison.runs > 1 else 'one'} {first}{many} of each"


def cube(scores: pd.DataFrame) -> np.ndarray:
    """Scores as an array [run, task, entry], the order that rliable expects.

    Args:
      scores: index (task, run), columns entry.

    Raises:
      ValueError: if the frame's axes are not named (task, run) and entry, so that runs
        and tasks cannot be confused.
    """
    names = (list(scores.index.names), scores.columns.name)
    if names != (["task", "run"], "entry"):
        raise ValueError(f"axes must be named (task, run) and entry, not {names}")
    ordered = scores.sort_index()
    tasks = ordered.index.unique("task")
    return np.stack([ordered.loc[task].to_numpy(float) for task in tasks], axis=1)


def bootstrap(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], reps: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile intervals of rliable's stratified bootstrap.

    Runs are drawn separately for each task (and entry). Equal values give equal
    intervals. rliable draws from NumPy's global generator whatever `random_state` it
    gets, so that generator is seeded meanwhile and then restored. Where rliable fails,
    as beside pandas 3 or arch 8, the same draws are made here.

    Args:
      values: [run, task, ...] without NaN.
      statistic: function of an array like `values`; returns a vector.
      reps: number of draws.

    Returns:
      the lower and the upper ends; NaN with fewer than three runs.
    """
    if len(values) < FEWEST:
        nothing = np.full(len(statistic(values)), np.nan)
        return nothing, nothing
    try:
        from rliable import library

        with _seeded(_BOOTSTRAP_SEED):
            _, intervals = library.get_interval_estimates(
                {"": values}, statistic, reps=reps, confidence_interval_size=_LEVEL
            )
    except Exception:  # beside newer packages it raises this and that
        return _bootstrap(values, statistic, reps)
    low, high = np.asarray(intervals[""])
    return low, high


def _bootstrap(
    values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], reps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what rliable's bootstrap returns, to the bit."""
    generator = np.random.RandomState(_BOOTSTRAP_SEED)
    places = np.ogrid[tuple(map(slice, values.shape))][1:]
    drawn = []
    for _ in range(reps):
        runs = generator.choice(len(values), values.shape, replace=True)
        drawn.append(statistic(values[(runs, *places)]))
    tail = 50 * (1 - _LEVEL)
    low, high = np.percentile(np.array(drawn), [tail, 100 - tail], axis=0)
    return low, high


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator within a context, and restore it."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def ends(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores that normalise to 0 and 1: the worst and the best entry's median by task.

    Entries with at least half of their runs diverged are ignored.

    Args:
      scores: scores of a `Comparison`.

    Returns:
      index task, columns low and high.
    """
    medians = scores.groupby(level="task").median().replace(-np.inf, np.nan)
    return pd.DataFrame({"low": medians.min(axis=1), "high": medians.max(axis=1)})


def normalise(scores: pd.DataFrame) -> pd.DataFrame:
    """Normalise scores to [0, 1], from the worst to the best entry's median.

    Diverged runs get 0. Where all entries are equal, finished runs get 1.

    Args:
      scores: scores of a `Comparison`.
    """
    span = ends(scores)
    task = scores.index.get_level_values("task")
    low = span["low"].reindex(task).to_numpy()[:, None]
    high = span["high"].reindex(task).to_numpy()[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        normalised = np.where(high > low, (scores - low) / (high - low), scores >= high)
    normalised = np.where(np.isneginf(scores.to_numpy()), 0.0, normalised)
    normalised = np.clip(np.nan_to_num(normalised), 0.0, 1.0)
    return pd.DataFrame(normalised, scores.index, scores.columns)


def ranks(scores: pd.DataFrame) -> pd.DataFrame:
    """Rank within each task and seed: 1 is best, ties share the mean rank."""
    return scores.rank(axis=1, ascending=False, method="average")


def mean_ranks(runs: pd.DataFrame) -> pd.Series:
    """Mean rank within each task and seed: over seeds, then over tasks; 1 is best.

    Args:
      runs: as returned by `scores.judge`, with a column `entry`.

    Returns:
      the mean rank of each entry of the table without holes, ascending; ties by name.
    """
    by_task = ranks(complete(runs).scores).groupby(level="task").mean()
    return by_task.mean().sort_index().sort_values(kind="stable")


def overall(comparison: Comparison, reps: int = 2000) -> pd.DataFrame:
    """Ranks and normalised scores of each entry over all tasks, best mean rank first.

    Args:
      comparison: scores to compare.
      reps: draws of the bootstrap.

    Returns:
      index entry; rank (mean), iqm and mean of normalised scores, each with its 95 %
      interval; `diverged`, the share of diverged runs.
    """
    unit, rank = cube(normalise(comparison.scores)), cube(ranks(comparison.scores))
    table = pd.DataFrame(index=pd.Index(comparison.entries, name="entry"))
    for name, values, statistic in (
        ("rank", rank, _mean),
        ("iqm", unit, _iqm),
        ("mean", unit, _mean),
    ):
        table[name] = statistic(values)
        table[f"{name}_low"], table[f"{name}_high"] = bootstrap(values, statistic, reps)
    table["diverged"] = np.isneginf(cube(comparison.scores)).mean((0, 1))
    return table.sort_index().sort_values("rank", kind="stable")


def leaders(overall: pd.DataFrame) -> list[str]:
    """The entries with the best mean rank in two decimals, as it is shown.

    Args:
      overall: as returned by `overall`.
    """
    ranks = overall["rank"].round(2)
    return [str(entry) for entry in ranks.index[ranks == ranks.iloc[0]]]


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over runs, then tasks, of [run, task, entry]."""
    return values.mean(0).mean(0)


def _iqm(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half of all runs of all tasks, of [run, task, entry]."""
    from scipy import stats  # here, since it takes long to import

    return stats.trim_mean(values.reshape(-1, values.shape[-1]), 0.25, axis=0)


def improvement(comparison: Comparison, reps: int = 2000) -> pd.DataFrame:
    """Probability that an entry's run is better than another's, averaged over tasks.

    The Mann-Whitney statistic over the number of pairs; ties count half. Agarwal et al.
    2021, section 4.3.

    Args:
      comparison: scores to compare.
      reps: draws of the bootstrap.

    Returns:
      one row per ordered pair: entry, other, probability, low, high.
    """
    from scipy import stats  # here, since it takes long to import

    scores = cube(comparison.scores)
    _, tasks, count = scores.shape
    # Only the order within a task matters: count each entry's runs at each rank.
    levels = stats.rankdata(
        scores.swapaxes(0, 1).reshape(tasks, -1), method="dense", axis=1
    )
    codes = levels.reshape(tasks, -1, count).swapaxes(0, 1).astype(int) - 1
    bins = int(codes.max()) + 1
    offset = bins * np.arange(tasks * count).reshape(tasks, count)

    def probability(x: np.ndarray) -> np.ndarray:
        """Probabilities [entries²], from numbers of bins [runs, tasks, entries]."""
        counts = np.bincount((x + offset).ravel(), minlength=bins * tasks * count)
        share = counts.reshape(tasks, count, bins) / len(x)
        below = share.cumsum(-1) - 0.5 * share
        return (share @ below.swapaxes(1, 2)).mean(0).ravel()

    low, high = bootstrap(codes, probability, reps)
    names = comparison.entries
    table = pd.DataFrame(
        {
            "entry": np.repeat(names, count),
            "other": np.tile(names, count),
            "probability": probability(codes),
            "low": low,
            "high": high,
        }
    )
    return table[table["entry"] != table["other"]].reset_index(drop=True)


def profiles(
    comparison: Comparison, reps: int = 2000, points: int = 51
) -> pd.DataFrame:
    """Share of runs with a normalised score above tau, for tau from 0 to 1.

    Agarwal et al. 2021, section 4.2.

    Args:
      comparison: scores to compare.
      reps: draws of the bootstrap.
      points: number of values of tau.

    Returns:
      one row per entry and tau: entry, tau, share, low, high.
    """
    unit = cube(normalise(comparison.scores))
    tau = np.linspace(0.0, 1.0, points)

    def share(x: np.ndarray) -> np.ndarray:
        return (x[..., None] > tau).mean((0, 1)).ravel()

    low, high = bootstrap(unit, share, reps)
    names = comparison.entries
    return pd.DataFrame(
        {
            "entry": np.repeat(names, points),
            "tau": np.tile(tau, len(names)),
            "share": share(unit),
            "low": low,
            "high": high,
        }
    )


# Tests


def holm(p: np.ndarray) -> np.ndarray:
    """Correct p-values for their number (Holm 1979).

    Args:
      p: p-values [tests].

    Returns:
      corrected p-values [tests], in the order of `p`.
    """
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def paired_p(difference: np.ndarray) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test; 1 where nothing differs.

    Args:
      difference: as returned by `differences`.
    """
    from scipy import stats  # here, since it takes long to import

    finite = np.abs(difference[np.isfinite(difference)])
    largest = 2 * finite.max(initial=0.0) + 1  # ranks above all finite ones
    difference = np.clip(difference[difference != 0], -largest, largest)
    count = len(difference)
    if count == 0:
        return 1.0
    if count > _ENUMERATED:
        return float(stats.wilcoxon(difference).pvalue)
    # The same as SciPy's exact p-value, which takes 0.1 s per test with ties.
    size = stats.rankdata(np.abs(difference))
    null = (np.arange(2**count)[:, None] >> np.arange(count) & 1) @ size
    positive = size[difference > 0].sum()
    tail = min((null >= positive).mean(), (null <= positive).mean())
    return min(1.0, 2 * float(tail))


def differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Scores minus scores; infinite against a diverged run, 0 between two of them.

    Args:
      ours, theirs: scores [pairs]; -inf where a run diverged.
    """
    with np.errstate(invalid="ignore"):
        difference = ours - theirs
    return np.where(np.isnan(difference), 0.0, difference)


def against(runs: pd.DataFrame, baseline: str, alpha: float = 0.05) -> pd.DataFrame:
    """Test on each task whether each entry wins or loses against the baseline.

    Runs with the same seed are paired; p-values are corrected (Holm) over the entries
    of a task.

    Args:
      runs: as returned by `scores.judge`, with a column `entry`.
      baseline: an entry.
      alpha: level of significance; a larger corrected p-value is a tie.

    Returns:
      one row per task and other entry: task, entry, pairs, better (share of pairs,
      ties count half), difference (median, positive where the entry is better), p,
      p_holm and result (win, tie, loss).
    """
    rows = []
    wide = runs.pivot(index=["task", "seed"], columns="entry", values="score")
    wide = wide.sort_index().sort_index(axis=1)
    for task, subset in wide.groupby(level="task"):
        tested = []
        for entry in wide.columns.drop(baseline):
            pairs = subset[[entry, baseline]].dropna().to_numpy()
            if not len(pairs):
                continue
            difference = differences(ours=pairs[:, 0], theirs=pairs[:, 1])
            tested.append(
                {
                    "task": task,
                    "entry": entry,
                    "pairs": len(pairs),
                    "better": float((np.sign(difference) + 1).mean() / 2),
                    "difference": float(np.median(difference)),
                    "p": paired_p(difference),
                }
            )
        corrected = holm(np.array([row["p"] for row in tested]))
        for row, p in zip(tested, corrected, strict=True):
            sign = np.sign(row["better"] - 0.5) if p < alpha else 0
            result = {1: "win", 0: "tie", -1: "loss"}[int(sign)]
            rows.append(row | {"p_holm": float(p), "result": result})
    columns = ["task", "entry", "pairs", "better", "difference", "p", "p_holm"]
    return pd.DataFrame(rows, columns=[*columns, "result"])


def against_over_tasks(comparison: Comparison, baseline: str) -> pd.DataFrame:
    """Wilcoxon's signed-rank test over tasks of mean normalised scores.

    Demsar 2006, section 3.1.3, with Holm's correction over the entries.

    Args:
      comparison: scores to compare.
      baseline: an entry.

    Returns:
      index entry; difference (mean over tasks, positive where the entry is better), p,
      p_holm.
    """
    means = normalise(comparison.scores).groupby(level="task").mean()
    others = means.columns.drop(baseline)
    difference = means[others].sub(means[baseline], axis=0)
    table = pd.DataFrame({"difference": difference.mean()}, index=others)
    table["p"] = [paired_p(difference[entry].to_numpy()) for entry in others]
    table["p_holm"] = holm(table["p"].to_numpy())
    return table


def critical_difference(entries: int, tasks: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference of mean ranks (Demsar 2006, section 3.2.2).

    Entries whose mean ranks differ by more are significantly different. NaN below two
    entries or two tasks.
    """
    from scipy import stats  # here, since it takes long to import

    if entries < 2 or tasks < 2:
        return np.nan
    quantile = stats.studentized_range.ppf(1 - alpha, entries, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(entries * (entries + 1) / (6 * tasks)))


def friedman_p(comparison: Comparison) -> float:
    """p-value of Friedman's test that all entries are equal, with tasks as blocks.

    NaN below two tasks or three entries.
    """
    from scipy import stats  # here, since it takes long to import

    by_task = ranks(comparison.scores).groupby(level="task").mean()
    if len(by_task) < 2 or by_task.shape[1] < 3:
        return np.nan
    return float(stats.friedmanchisquare(*by_task.to_numpy().T).pvalue)
