"""How well a part of the training tells the order at its end.

A tuner or a race sees one run of each entry (a method with its settings) after a part
of its training and wants the order at full length. So a seed's scores after that part
are set against the entries' medians at the end over all other seeds, by Kendall's
tau-b. At full length tau then says how far one seed orders like others do: no budget
can do better. Where there is one seed alone, its own end is what it is set against.

Two things can be seen early, and they are not the same. 'cut': a curve that goes on,
whose schedule has hardly begun to fall. 'short': a run that had the smaller horizon
from the start, so that its schedule has ended; these must be in the tables.
"""

from __future__ import annotations

import dataclasses
import json
import re
import zlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lrjax import curves as curves_lib
from lrjax import scores
from lrjax.core import METRICS, Metric

PARTS = (0.01, 0.03, 0.11, 0.33, 1.0)  # of the budget
ALL = "all entries"
TRUSTED = 0.6  # four of five pairs in the right order: tau is 2 * share - 1
_FEWEST = 4  # entries that make an order worth the name
_NEAR = 1.02  # a third of an odd number of evaluations still counts as 33 %
_LOGISTIC = re.compile(r"^(libsvm/|svmlight:)|/logistic$")


def family(task: str) -> str:
    """The kind of model of a task, by its name.

    'logistic' for LIBSVM's sets, for files and for `digits/logistic`; else what follows
    the slash, without sizes: 'wrn' for `cifar10/wrn16_2`.
    """
    name = task.split(" (")[0]
    if _LOGISTIC.search(name):
        return "logistic"
    found = re.match(r"[A-Za-z]+", name.rsplit("/", 1)[-1])
    return found[0] if found else name


@dataclasses.dataclass(frozen=True)
class Sight:
    """What a group of entries on a task looked like early, and at the end.

    Attributes:
      task: its name.
      metric: what scores are made of.
      group: `ALL`, or a method, and the entries are its settings.
      how: 'cut' or 'short'.
      part: of the budget.
      early, final: [entries, seeds]; higher is better, -inf for diverged runs.
    """

    task: str
    metric: str
    group: str
    how: str
    part: float
    early: np.ndarray
    final: np.ndarray


def sights(
    judged: pd.DataFrame,
    curves: pd.DataFrame,
    known: Mapping[str, Metric] = METRICS,
) -> list[Sight]:
    """All that the tables let be seen.

    A part of a curve is its last evaluation by then; parts before the first one are
    left out, and so are groups of fewer than four entries. Runs that are shorter than
    a task's longest are the 'short' ones.

    Args:
      judged: as from `scores.judge`, with a column `entry`.
      curves: as from `results.load`.
      known: as from `scores.known_metrics`.
    """
    lanes = judged["hparams"].map(lambda h: json.dumps(h, sort_keys=True))
    judged = judged.assign(lane=judged["method"] + " " + lanes)
    rows = curves_lib.join(judged, curves)
    found = []
    for task, runs in judged.groupby("task"):
        metric = str(runs["metric"].iloc[0])
        most = runs["steps"].max()
        full = runs[runs["steps"] == most]
        final = _wide(full, full["score"])
        cut = _cut(full, rows, metric, known)
        seen = {("cut", part): table for part, table in cut.items()}
        for steps, short in runs[runs["steps"] < most].groupby("steps"):
            part = float(f"{float(str(steps)) / float(most):.2g}")
            seen["short", part] = _wide(short, short["score"])
        methods = full.groupby("lane")["method"].first()
        groups = {ALL: methods.index}
        if methods.nunique() > 1:
            groups |= {str(m): g.index for m, g in methods.groupby(methods)}
        for (how, part), early in seen.items():
            for group, names in groups.items():
                pair = _without_holes(early.reindex(names), final.reindex(names))
                if len(pair[0]) >= _FEWEST:
                    found.append(Sight(str(task), metric, group, how, part, *pair))
    return found


def _wide(runs: pd.DataFrame, score: pd.Series) -> pd.DataFrame:
    """Scores with a row for each lane and a column for each seed."""
    table = runs[["lane", "seed"]].assign(score=score)
    table = table.drop_duplicates(["lane", "seed"])
    return table.pivot(index="lane", columns="seed", values="score")


def _cut(
    full: pd.DataFrame, rows: pd.DataFrame, metric: str, known: Mapping[str, Metric]
) -> dict[float, pd.DataFrame]:
    """Part -> scores by then."""
    column = re.sub("^test_", "valid_", metric)
    rows = rows[rows["run"].isin(full.index)]
    if column not in rows:
        return {}
    found = {}
    for part in PARTS:
        last = rows[rows["part"] <= _NEAR * part].drop_duplicates("run", keep="last")
        if len(last):
            value = last[column].astype(float).to_numpy()
            score = scores.metric_of(column, known).sign * value
            score = np.where(np.isnan(score), -np.inf, score)
            runs = full.loc[last["run"]]
            found[part] = _wide(runs, pd.Series(score, runs.index))
    return found


def _without_holes(
    early: pd.DataFrame, final: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Entries and seeds that both tables have in full.

    Seeds that fewer than half of the entries have are given up, then entries that lack
    one of the others.
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
    """Tau and regret, as estimated [2] and in each draw [2, draws]."""

    estimate: np.ndarray
    draws: np.ndarray


def measure(seen: list[Sight], reps: int = 2000) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tau, and the regret of a choice by an early look, on tasks and over families.

    The regret of a choice is what the entry that looks best loses at full length
    against the best one, in the metric's unit and with equals sharing; an entry most
    of whose runs diverge there counts as the worst that finishes.

    Intervals are 95 % percentile intervals of a bootstrap: entries (for tau) and seeds
    are drawn anew, and over a family tasks, too. With one seed regret has none.

    Args:
      seen: as from `sights`.
      reps: draws.

    Returns:
      one row per task, group, how and part, with family, metric, entries, seeds, tau
      and regret, each with `_low` and `_high`; and one per family, group, how and part,
      with means over tasks (of regret, where all have the same metric) and the number
      of tasks.
    """
    drawn = [_draw(sight, reps) for sight in seen]
    rows = [
        {
            "family": family(sight.task),
            "task": sight.task,
            "group": sight.group,
            "how": sight.how,
            "part": sight.part,
            "metric": sight.metric,
            "entries": len(sight.early),
            "seeds": sight.early.shape[1],
            **_numbers(one),
        }
        for sight, one in zip(seen, drawn, strict=True)
    ]
    columns = ["family", "task", "group", "how", "part", "metric", "entries", "seeds"]
    numbers = [n + end for n in ("tau", "regret") for end in ("", "_low", "_high")]
    tasks = pd.DataFrame(rows, columns=[*columns, *numbers])
    families = []
    keys = ["family", "group", "how", "part"]
    for key, part in tasks.groupby(keys, sort=True):
        several = [drawn[i] for i in part.index]
        count, generator = len(several), _generator(*key)
        chosen = generator.integers(count, size=(reps, count))
        stack = np.stack([one.draws for one in several])  # [tasks, 2, reps]
        over = stack[chosen.T, :, np.arange(reps)].mean(0).T
        mean = np.mean([one.estimate for one in several], axis=0)
        found = _numbers(_Drawn(mean, over))
        kinds = set(part["metric"].str.rsplit("_", n=1).str[-1])
        if len(kinds) > 1:
            found |= dict.fromkeys(("regret", "regret_low", "regret_high"), np.nan)
        families.append(dict(zip(keys, key, strict=True)) | {"tasks": count} | found)
    return tasks, pd.DataFrame(families, columns=[*keys, "tasks", *numbers])


def _numbers(one: _Drawn) -> dict[str, float]:
    found = {}
    for name, estimate, draws in zip(
        ("tau", "regret"), one.estimate, one.draws, strict=True
    ):
        low, high = np.nan, np.nan
        if not np.isnan(draws).any():
            low, high = np.percentile(draws, [2.5, 97.5])
        found |= {name: estimate, f"{name}_low": low, f"{name}_high": high}
    return {name: float(value) for name, value in found.items()}


def _generator(*key: object) -> np.random.Generator:
    """Random numbers that do not depend on what else is measured."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def _draw(sight: Sight, reps: int) -> _Drawn:
    entries, seeds = sight.early.shape
    generator = _generator(sight.task, sight.group, sight.how, sight.part)
    counts = generator.multinomial(entries, np.full(entries, 1 / entries), reps)
    shares = generator.multinomial(seeds, np.full(seeds, 1 / seeds), reps) / seeds
    taus, regrets = np.empty((seeds, 1 + reps)), np.empty(seeds)
    for seed in range(seeds):
        final = sight.final
        if seeds > 1:
            final = np.delete(final, seed, axis=1)
        end = np.median(final, axis=1)
        weights = np.concatenate([np.ones((1, entries)), counts])
        taus[seed] = weighted_tau(sight.early[:, seed], end, weights)
        regrets[seed] = _regret(sight.early[:, seed], end)
    tau = (taus[:, 1:].T * shares).sum(1)
    regret = shares @ regrets if seeds > 1 else np.full(reps, np.nan)
    estimate = np.array([taus[:, 0].mean(), regrets.mean()])
    return _Drawn(estimate, np.stack([tau, regret]))


def weighted_tau(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of samples in which each pair of values comes several times.

    Equal to `scipy.stats.kendalltau` of the repeated values, thousands of draws in
    three matrix products. 0 where all of x or all of y are equal: such an order says
    nothing.

    Args:
      x, y: [entries]; -inf is a value like others.
      weights: [draws, entries], how often each comes.

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
    finite = end[np.isfinite(end)]
    if not len(finite):
        return 0.0
    end = np.where(np.isfinite(end), end, finite.min())
    return float(end.max() - end[early == early.max()].mean())


def trusted(families: pd.DataFrame, least: float = TRUSTED) -> pd.DataFrame:
    """The cheapest part of the budget from which on an order can be trusted.

    From there on the lower end of tau's interval is at least `least`, at each part
    that was measured.

    Args:
      families: as `measure` gives them.
      least: four of five pairs in the right order by default.

    Returns:
      family, group, how, part (NaN if there is none), tau and regret there, and the
      regret at the next cheaper part (NaN if there is none).
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
