"""What methods are worth to each other: portfolios and contributions.

All functions take one table: index task, columns entry, a score from 0 up that is
better the higher it is, such as means over runs of `stats.normalise`.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

_EXHAUSTIVE = 15  # entries up to which all subsets are looked at


def _check(table: pd.DataFrame) -> None:
    names = (table.index.name, table.columns.name)
    if names != ("task", "entry"):
        raise ValueError(f"axes must be called task and entry, not {names}")


def single_best(table: pd.DataFrame) -> str:
    """The entry with the best mean over tasks; of equals the first by name."""
    _check(table)
    return str(table.mean().sort_index().idxmax())


def virtual_best(table: pd.DataFrame) -> pd.DataFrame:
    """Which entry an oracle would take on each task; of equals the first by name.

    Returns:
      index task; columns entry and score.
    """
    _check(table)
    table = table.sort_index(axis=1)
    return pd.DataFrame({"entry": table.idxmax(axis=1), "score": table.max(axis=1)})


def held_out(scores: pd.DataFrame) -> tuple[float, float]:
    """Single and virtual best, chosen on all runs but one and judged by that one.

    The best of many means is better than the truth behind it; these two are not.

    Args:
      scores: index (task, run), columns entry, as from `stats.normalise`.

    Returns:
      mean score over tasks and runs of the single best and of the virtual best; NaN
      with one run.
    """
    runs = scores.index.unique("run")
    if len(runs) < 2:
        return np.nan, np.nan
    single, virtual = [], []
    for run in runs:
        judged = scores.xs(run, level="run")
        means = scores.drop(run, level="run").groupby(level="task").mean()
        single.append(judged[single_best(means)].mean())
        chosen = virtual_best(means)["entry"]
        virtual.append(np.mean([judged.loc[t, e] for t, e in chosen.items()]))
    return float(np.mean(single)), float(np.mean(virtual))


def contributions(table: pd.DataFrame) -> pd.DataFrame:
    """What each entry adds, by three measures.

    Returns:
      index entry:
      share_of_mean: mean over all entries minus the mean without this one; the
        study's marginal contribution.
      marginal: the virtual best minus the virtual best without the entry.
      shapley: the entry's mean marginal contribution to the virtual best over all
        orders in which a portfolio can grow (Frechette et al. 2016). They sum to the
        virtual best; the value of no entry is 0.
    """
    _check(table)
    means, count = table.mean(), table.shape[1]
    rows = {}
    for entry in table.columns:
        rest = table.drop(columns=entry)
        rows[entry] = {
            "share_of_mean": means.mean() - means.drop(entry).mean(),
            "marginal": (table.max(axis=1) - rest.max(axis=1).fillna(0)).mean(),
        }
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("entry")
    # On one task the game of the maximum is an airport game (Littlechild and Owen
    # 1973): each step between consecutive scores is shared by all who reach it.
    values = table.to_numpy(float)
    order = np.argsort(values, axis=1, kind="stable")
    ascending = np.take_along_axis(values, order, axis=1)
    steps = np.diff(ascending, axis=1, prepend=0.0) / np.arange(count, 0, -1)
    shapley = np.empty_like(values)
    np.put_along_axis(shapley, order, steps.cumsum(axis=1), axis=1)
    found["shapley"] = shapley.mean(axis=0)
    return found


def best_portfolios(table: pd.DataFrame) -> pd.DataFrame:
    """The best portfolio of k entries for each k.

    All subsets of up to 15 entries are looked at. Of more entries the best is grown
    one entry at a time, which reaches at least 1 - 1/e of the optimum (Nemhauser,
    Wolsey and Fisher 1978).

    Returns:
      one row per k: k, score (mean over tasks of the best member's), members (a
      tuple), search ('all subsets' or 'greedy').
    """
    _check(table)
    table = table.sort_index(axis=1)
    if table.shape[1] <= _EXHAUSTIVE:
        chosen, search = _all_subsets(table.to_numpy(float)), "all subsets"
    else:
        chosen, search = _greedy(table.to_numpy(float)), "greedy"
    return pd.DataFrame(
        {
            "k": len(members),
            "score": table.iloc[:, list(members)].max(axis=1).mean(),
            "members": tuple(table.columns[list(members)]),
            "search": search,
        }
        for members in chosen
    )


def _all_subsets(values: np.ndarray) -> list[tuple[int, ...]]:
    count = values.shape[1]
    best = []
    for k in range(1, count + 1):
        subsets = np.array(list(itertools.combinations(range(count), k)))
        scores = values[:, subsets].max(axis=2).mean(axis=0)
        best.append(tuple(subsets[int(scores.argmax())].tolist()))
    return best


def _greedy(values: np.ndarray) -> list[tuple[int, ...]]:
    members: list[int] = []
    best, reached = [], np.zeros(len(values))
    while len(members) < values.shape[1]:
        scores = np.maximum(values, reached[:, None]).mean(axis=0)
        scores[members] = -np.inf
        members.append(int(scores.argmax()))
        reached = np.maximum(reached, values[:, members[-1]])
        best.append(tuple(sorted(members)))
    return best
