"""Agreement of scores early in training with the order of entries at its end.

A tuner or a race sees one run of each entry (a method with its settings) after a part
of its training and needs the order at full length. So one seed's scores after that part
are compared with the entries' median final scores over all other seeds, by Kendall's
tau-b. At full length tau measures the agreement between seeds, which is the upper limit
of any budget. With a single seed its own final scores are used.

Early scores are of two kinds, which differ. 'cut': a longer curve up to that part,
where the schedule has hardly decayed. 'short': a run with the smaller horizon from the
start, whose schedule has ended; such runs must be in the tables.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lrjax.analysis import curves as curves_lib
from lrjax.analysis import scores
from lrjax.core import METRICS, Metric

PARTS = (0.01, 0.03, 0.11, 0.33, 1.0)  # of the budget
ALL = "all entries"
TRUSTED = 0.6  # tau with four of five pairs in the right order: 2 * 0.8 - 1
_FEWEST = 4  # entries in an order
_NEAR = 1.02  # tolerance of parts: a third of an odd number of evaluations is 33 %
_LOGISTIC = re.compile(r"^(libsvm/|svmlight:)|/logistic$")


def family(task: str) -> str:
    """The kind of model of a task, by its name.

    'logistic' for LIBSVM data sets, svmlight files and `digits/logistic`; 'table' for
    tables, whose models differ; 'finetune' for checkpoints; for `DATA/MODEL` the model
    without sizes, such as 'wrn' for `cifar10/wrn16_2`; otherwise the whole name, which
    says nothing of a model.
    """
    name = task.split(" (")[0]
    if _LOGISTIC.search(name):
        return "logistic"
    if name.startswith("table:"):
        return "table"
    if name.startswith("finetune"):  # not like pre-training the same model
        return "finetune"
    model = re.search(r"/([A-Za-z]+)[^/\s]*$", name)
    return model[1] if model else re.sub(r" \([a-z]+\)$", "", task)


@dataclasses.dataclass(frozen=True)
class EarlyScores:
    """Early and final scores of a group of entries on a task.

    Attributes:
      task: name.
      metric: column of the scores.
      group: `ALL`, or a method, whose settings are the entries.
      kind: 'cut' or 'short', column `how` of tables.
      part: share of the budget.
      early, final: [entries, seeds]; higher is better, -inf for diverged runs.
    """

    task: str
    metric: str
    group: str
    kind: str
    part: float
    early: np.ndarray
    final: np.ndarray


def early_scores(
    judged: pd.DataFrame,
    curves: pd.DataFrame,
    known: Mapping[str, Metric] = METRICS,
) -> list[EarlyScores]:
    """Collect all early and final scores that the tables contain.

    The early score of a curve is its last evaluation up to a part; parts before the
    first evaluation are left out, and so are groups of fewer than four entries. Runs
    shorter than a task's longest are the 'short' ones.

    Args:
      judged: as returned by `scores.judge`, with a column `entry`.
      curves: as returned by `results.load`.
      known: as returned by `scores.known_metrics`.
    """
    hparams = judged["hparams"].map(lambda h: json.dumps(h, sort_keys=True))
    judged = judged.assign(setting=judged["method"] + " " + hparams)
    rows = curves_lib.join(judged, curves)
    collected = []
    for task, runs in judged.groupby("task"):
        metric = str(runs["metric"].iloc[0])
        most = runs["steps"].max()
        full = runs[runs["steps"] == most]
        final = _wide(full, full["score"])
        cut = _cut(full, rows, metric, known)
        early_tables = {("cut", part): table for part, table in cut.items()}
        for steps, short in runs[runs["steps"] < most].groupby("steps"):
            part = float(f"{float(str(steps)) / float(most):.2g}")
            early_tables["short", part] = _wide(short, short["score"])
        methods = full.groupby("setting")["method"].first()
        groups = {ALL: methods.index}
        if methods.nunique() > 1:
            groups |= {str(m): g.index for m, g in methods.groupby(methods)}
        for (kind, part), early in early_tables.items():
            for group, names in groups.items():
                first, last = _without_holes(early.reindex(names), final.reindex(names))
                if len(first) < _FEWEST:
                    continue
                collected.append(
                    EarlyScores(str(task), metric, group, kind, part, first, last)
                )
    return collected


def _wide(runs: pd.DataFrame, score: pd.Series) -> pd.DataFrame:
    """Scores as a table with a row for each setting and a column for each seed.

    Args:
      runs: runs of one task, one per setting and seed.
      score: their scores, with the index of `runs`; higher is better.
    """
    table = runs[["setting", "seed"]].assign(score=score)
    table = table.drop_duplicates(["setting", "seed"])
    return table.pivot(index="setting", columns="seed", values="score")


def _cut(
    full: pd.DataFrame, rows: pd.DataFrame, metric: str, known: Mapping[str, Metric]
) -> dict[float, pd.DataFrame]:
    """Early scores from the curves of full-length runs, by part.

    Args:
      full: runs of full length, of one task.
      rows: their curves, as returned by `curves.join`.
      metric: column that the runs are judged by.
      known: as returned by `scores.known_metrics`.

    Returns:
      Part of the budget -> scores as returned by `_wide`; parts that no run reached are
      left out.
    """
    column = re.sub("^test_", "valid_", metric)
    rows = rows[rows["run"].isin(full.index)]
    if column not in rows:
        return {}
    # Before its first value a run was not judged; one that was lost has none.
    judged = rows.groupby("run")[column].ffill().notna()
    rows = rows[judged | np.isneginf(rows["run"].map(full["score"]))]
    by_part = {}
    for part in PARTS:
        last = rows[rows["part"] <= _NEAR * part].drop_duplicates("run", keep="last")
        if len(last):
            value = last[column].astype(float).to_numpy()
            score = scores.metric_of(column, known).sign * value
            score = np.where(np.isnan(score), -np.inf, score)
            runs = full.loc[last["run"]]
            by_part[part] = _wide(runs, pd.Series(score, runs.index))
    return by_part


def _without_holes(
    early: pd.DataFrame, final: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Reduce two tables to entries and seeds that are complete in both.

    Drops seeds that fewer than half of the entries have, then entries that lack one of
    the remaining seeds.

    Returns:
      early and final scores, [entries, seeds].
    """
    seeds = early.columns.intersection(final.columns)
    early, final = early[seeds], final[seeds]
    both = early.notna() & final.notna()
    both = both[both.any(axis=1)]
    kept = both.columns[2 * both.sum() >= len(both)]
    entries = both.index[both[kept].all(axis=1)] if len(kept) else both.index[:0]
    return early.loc[entries, kept].to_numpy(), final.loc[entries, kept].to_numpy()


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """Bootstrap of tau and regret: the estimate [2] and the draws [2, draws]."""

    estimate: np.ndarray
    draws: np.ndarray


def measure(
    groups: list[EarlyScores], reps: int = 2000
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure tau, and the regret of choosing by early scores, on tasks and families.

    Regret is what the entry with the best early score loses at full length against the
    best entry, in the metric's unit; entries with equal early scores share. An entry
    whose runs mostly diverge counts as the worst that finishes.

    Intervals are 95 % percentile intervals of a bootstrap over entries (for tau) and
    seeds, for a family also over tasks. With one seed regret has no interval.

    Args:
      groups: as returned by `early_scores`.
      reps: draws.

    Returns:
      one row per task, group, how and part, with family, metric, entries, seeds, tau
      and regret, each with `_low` and `_high`; and one row per family, group, how and
      part, with means over tasks (of regret only if all have the same metric) and the
      number of tasks.
    """
    drawn = [_draw(scored, reps) for scored in groups]
    rows = [
        {
            "family": family(scored.task),
            "task": scored.task,
            "group": scored.group,
            "how": scored.kind,
            "part": scored.part,
            "metric": scored.metric,
            "entries": len(scored.early),
            "seeds": scored.early.shape[1],
            **_numbers(sample),
        }
        for scored, sample in zip(groups, drawn, strict=True)
    ]
    columns = ["family", "task", "group", "how", "part", "metric", "entries", "seeds"]
    numbers = [n + end for n in ("tau", "regret") for end in ("", "_low", "_high")]
    tasks = pd.DataFrame(rows, columns=[*columns, *numbers])
    families = []
    keys = ["family", "group", "how", "part"]
    for key, subset in tasks.groupby(keys, sort=True):
        samples = [drawn[i] for i in subset.index]
        count, generator = len(samples), _generator(key)
        chosen = generator.integers(count, size=(reps, count))
        stack = np.stack([sample.draws for sample in samples])  # [tasks, 2, reps]
        over = stack[chosen.T, :, np.arange(reps)].mean(0).T
        mean = np.mean([sample.estimate for sample in samples], axis=0)
        row = _numbers(_Drawn(mean, over))
        kinds = set(subset["metric"].str.split("_", n=1).str[-1])
        if len(kinds) > 1:
            row |= dict.fromkeys(("regret", "regret_low", "regret_high"), np.nan)
        families.append(dict(zip(keys, key, strict=True)) | {"tasks": count} | row)
    return tasks, pd.DataFrame(families, columns=[*keys, "tasks", *numbers])


def _numbers(sample: _Drawn) -> dict[str, float]:
    """Tau and regret with their intervals, by column name."""
    numbers = {}
    for name, estimate, draws in zip(
        ("tau", "regret"), sample.estimate, sample.draws, strict=True
    ):
        low, high = np.nan, np.nan
        if not np.isnan(draws).any():
            low, high = np.percentile(draws, [2.5, 97.5])
        numbers |= {name: estimate, f"{name}_low": low, f"{name}_high": high}
    return {name: float(value) for name, value in numbers.items()}


def _generator(key: tuple[object, ...]) -> np.random.Generator:
    """A random generator that depends on a key only, not on what else is measured."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def _draw(scored: EarlyScores, reps: int) -> _Drawn:
    """Bootstrap tau and regret of one group of entries."""
    entries, seeds = scored.early.shape
    generator = _generator((scored.task, scored.group, scored.kind, scored.part))
    counts = generator.multinomial(entries, np.full(entries, 1 / entries), reps)
    shares = generator.multinomial(seeds, np.full(seeds, 1 / seeds), reps) / seeds
    taus, regrets = np.empty((seeds, 1 + reps)), np.empty(seeds)
    for seed in range(seeds):
        final = scored.final
        if seeds > 1:
            final = np.delete(final, seed, axis=1)
        end = np.median(final, axis=1)
        weights = np.concatenate([np.ones((1, entries)), counts])
        taus[seed] = weighted_tau(scored.early[:, seed], end, weights)
        regrets[seed] = _regret(scored.early[:, seed], end)
    tau = (taus[:, 1:].T * shares).sum(1)
    regret = shares @ regrets if seeds > 1 else np.full(reps, np.nan)
    estimate = np.array([taus[:, 0].mean(), regrets.mean()])
    return _Drawn(estimate, np.stack([tau, regret]))


def weighted_tau(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of samples in which pairs of values occur several times.

    Equals `scipy.stats.kendalltau` of the repeated values, for thousands of draws in
    three matrix products. 0 where all of x or all of y are equal, since such an order
    carries no information.

    Args:
      x, y: [entries]; -inf is an ordinary value.
      weights: [draws, entries], number of occurrences.

    Returns:
      tau [draws].
    """
    weights = weights.astype(float)
    signs = [np.sign((v[:, None] > v) - 1.0 * (v[:, None] < v)) for v in (x, y)]
    pairs = (signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1]))
    agree, by_x, by_y = (((weights @ pair) * weights).sum(1) for pair in pairs)
    under = np.sqrt(by_x * by_y)
    return np.divide(agree, under, out=np.zeros_like(agree), where=under > 0)


def _regret(early: np.ndarray, end: np.ndarray) -> float:
    """Best final score minus the mean of those with the best early score.

    Args:
      early, end: early and final scores, [entries]; higher is better, and -inf where
        runs diverged.
    """
    finite = end[np.isfinite(end)]
    if not len(finite):
        return 0.0
    end = np.where(np.isfinite(end), end, finite.min())
    return float(end.max() - end[early == early.max()].mean())


def trusted(families: pd.DataFrame, least: float = TRUSTED) -> pd.DataFrame:
    """The smallest part of the budget from which on the order can be trusted.

    From there on the lower end of tau's interval is at least `least` at each measured
    part.

    Args:
      families: as returned by `measure`.
      least: threshold; by default four of five pairs in the right order.

    Returns:
      family, group, how, part (NaN if there is none), tau and regret there, and the
      regret at the next smaller part (NaN if there is none).
    """
    rows = []
    for key, table in families.groupby(["family", "group", "how"]):
        table = table.sort_values("part").reset_index(drop=True)
        good = (table["tau_low"] >= least).to_numpy()
        first = len(good) - int(np.argmin(np.append(good[::-1], False)))
        row = dict(zip(("family", "group", "how"), key, strict=True))
        row |= dict.fromkeys(("part", "tau", "regret", "regret_below"), np.nan)
        if first < len(table):
            row |= table.loc[first, ["part", "tau", "regret"]].to_dict()
        if first > 0:
            row["regret_below"] = table.loc[first - 1, "regret"]
        rows.append(row)
    columns = ["family", "group", "how", "part", "tau", "regret", "regret_below"]
    return pd.DataFrame(rows, columns=columns)
