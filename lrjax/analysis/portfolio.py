"""The value of methods to each other: portfolios and contributions.

All functions take one table: index task, columns entry, values at least 0 where higher
is better, such as means over runs of `stats.normalise`.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

_EXHAUSTIVE = 15  # most entries for a search of all subsets


def _check(table: pd.DataFrame) -> None:
    """Check the names of a table's axes.

    Raises:
      ValueError: if they are not task and entry.
    """
    names = (table.index.name, table.columns.name)
    if names != ("task", "entry"):
        raise ValueError(f"axes must be named task and entry, not {names}")


def single_best(table: pd.DataFrame) -> str:
    """The entry with the best mean over tasks; ties go to the first by name.

    Args:
      table: scores with index task and columns entry; higher is better.
    """
    _check(table)
    return str(table.mean().sort_index().idxmax())


def virtual_best(table: pd.DataFrame) -> pd.DataFrame:
    """The best entry on each task, an oracle's choice; ties go to the first by name.

    Args:
      table: scores with index task and columns entry; higher is better.

    Returns:
      index task; columns entry and score.
    """
    _check(table)
    table = table.sort_index(axis=1)
    return pd.DataFrame({"entry": table.idxmax(axis=1), "score": table.max(axis=1)})


def held_out(scores: pd.DataFrame) -> tuple[float, float]:
    """Cross-validated scores of single and virtual best, leaving one run out.

    The best of many means overestimates its true value; these two scores do not.

    Args:
      scores: index (task, run), columns entry, as returned by `stats.normalise`.

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
    """Contribution of each entry by three measures.

    Args:
      table: scores with index task and columns entry; higher is better.

    Returns:
      index entry:
      share_of_mean: mean over all entries minus the mean without this one; the
        study's marginal contribution.
      marginal: the virtual best minus the virtual best without the entry.
      shapley: the entry's mean marginal contribution to the virtual best over all
        orders in which a portfolio can grow (Frechette et al. 2016). They sum to the
        virtual best; the empty portfolio has value 0.
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
    added = pd.DataFrame.from_dict(rows, orient="index").rename_axis("entry")
    # On one task the game of the maximum is an airport game (Littlechild and Owen
    # 1973): each step between consecutive scores is shared by all who reach it.
    values = table.to_numpy(float)
    order = np.argsort(values, axis=1, kind="stable")
    ascending = np.take_along_axis(values, order, axis=1)
    steps = np.diff(ascending, axis=1, prepend=0.0) / np.arange(count, 0, -1)
    shapley = np.empty_like(values)
    np.put_along_axis(shapley, order, steps.cumsum(axis=1), axis=1)
    added["shapley"] = shapley.mean(axis=0)
    return added


def best_portfolios(table: pd.DataFrame) -> pd.DataFrame:
    """The best portfolio of k entries for each k.

    Searches all subsets of up to 15 entries. With more entries the portfolio grows
    greedily by one entry at a time, which reaches at least 1 - 1/e of the optimum
    (Nemhauser, Wolsey and Fisher 1978).

    Args:
      table: scores with index task and columns entry; higher is better.

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
    """The best subset of columns of each size.

    Args:
      values: scores [tasks, entries]; higher is better.

    Returns:
      The numbers of the columns, for each size from 1 to the number of entries.
    """
    count = values.shape[1]
    best = []
    for k in range(1, count + 1):
        subsets = np.array(list(itertools.combinations(range(count), k)))
        scores = values[:, subsets].max(axis=2).mean(axis=0)
        best.append(tuple(subsets[int(scores.argmax())].tolist()))
    return best


def _greedy(values: np.ndarray) -> list[tuple[int, ...]]:
    """Greedily grown subsets of columns, one of each size.

    Args:
      values: scores [tasks, entries]; higher is better.

    Returns:
      as `_all_subsets`.
    """
    members: list[int] = []
    best, reached = [], np.zeros(len(values))
    while len(members) < values.shape[1]:
        scores = np.maximum(values, reached[:, None]).mean(axis=0)
        scores[members] = -np.inf
        members.append(int(scores.argmax()))
        reached = np.maximum(reached, values[:, members[-1]])
        best.append(tuple(sorted(members)))
    return best
