"""Selectors that learn across tasks when to take another entry than the single best.

Tasks are described by the probes of `lrjax.hpo.probes`. A selector learns from tables
of results, and is judged on tasks that it has not seen, against always taking the
single best entry.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from lrjax.analysis import portfolio
from lrjax.core import UsageError, counted

_TREES, _NEIGHBOURS = 100, 5
_FOLDS = 5  # of the cross-validation that says whether to believe a prediction
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9)  # of predicted gains, thresholds to try
_RESAMPLES, _LEVEL = 2000, 0.95


@dataclasses.dataclass(frozen=True)
class Report:
    """How good a selector is on tasks that it has not seen.

    Attributes:
      selector: 'forest' or 'nearest'.
      tasks: how many.
      single, selected, virtual: mean scores of always the single best entry (of the
        tasks learned from), of what was selected, and of the best entry of each task.
      closed: share of the gap between single and virtual best that is closed; below
        0 where selecting is worse than not to.
      interval: 95 % bootstrap interval of it over tasks.
      cost: of the probes, in full runs, on a task that is probed.
      probed: share of the tasks that were.
      chosen: task -> entry.
    """

    selector: str
    tasks: int
    single: float
    selected: float
    virtual: float
    closed: float
    interval: tuple[float, float]
    cost: float
    probed: float
    chosen: Mapping[str, str]

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.selector}: {100 * self.closed:.0f} % of the gap closed (95 % "
            f"interval {100 * low:.0f} to {100 * high:.0f} %) on "
            f"{counted(self.tasks, 'task')} that it had not seen; scores "
            f"{self.single:.3f} single best, {self.selected:.3f} selected, "
            f"{self.virtual:.3f} virtual best; probes cost {self.cost:.2f} full runs, "
            f"on {100 * self.probed:.0f} % of the tasks"
        )


class Table(NamedTuple):
    """Tasks to learn from, or to be judged on.

    Attributes:
      scores: index task, columns entry, higher is better, from 0 to 1 on each task
        (means over runs of `stats.normalise`).
      features: index task, columns as from `probe`.
      charged: scores of runs that are shorter by the cost of the probes, which what
        was selected gets; `scores` where that is not known.
    """

    scores: pd.DataFrame
    features: pd.DataFrame
    charged: pd.DataFrame

    def of(self, tasks: Sequence[str]) -> Table:
        """Some of the tasks."""
        return Table(*(each.loc[list(tasks)] for each in self))


class Choice(NamedTuple):
    """What a selector says of a task: the entry, and whether it looked at probes."""

    entry: str
    probed: bool


def learn(known: Table, selector: str) -> Callable[[pd.DataFrame], list[Choice]]:
    """Learns when to deviate from the single best entry, and to what.

    A regression predicts from a task's features how much better than the single best
    each entry is. It is believed only where the largest predicted gain exceeds a
    threshold, and that only if, cross-validated on the known tasks, deviating has
    gained more than one standard error after the probes were paid. Otherwise it is
    always the single best, and no task is probed.

    Args:
      known: tasks to learn from.
      selector: 'forest', a random forest for all entries' gains, or 'nearest', the
        mean gain over the nearest tasks.

    Returns:
      a function of features, a row per task, that chooses.
    """
    predict = _SELECTORS[selector]
    single = portfolio.single_best(known.scores)
    entries = list(known.scores.columns)
    at_home = known.scores[single].to_numpy(float)[:, None]
    gains = known.scores.to_numpy(float) - at_home
    paid = known.charged.to_numpy(float) - at_home
    features, stay = known.features.to_numpy(float), entries.index(single)
    fold = np.random.default_rng(0).permutation(len(gains)) % min(_FOLDS, len(gains))
    guess = np.empty_like(gains)
    for each in np.unique(fold):
        left = fold == each
        guess[left] = predict(features[~left], gains[~left], features[left])
    rows, best = np.arange(len(gains)), guess.argmax(1)
    threshold, sure = math.inf, 0.0
    for candidate in np.quantile(guess.max(1), _QUANTILES):
        taken = np.where(guess.max(1) > candidate, best, stay)
        gained = paid[rows, taken]
        least = gained.mean() - gained.std(ddof=1) / math.sqrt(len(gained))
        if least > sure:
            threshold, sure = float(candidate), float(least)

    def choose(new: pd.DataFrame) -> list[Choice]:
        if math.isinf(threshold):
            return [Choice(single, False)] * len(new)
        found = predict(features, gains, new.to_numpy(float))
        return [
            Choice(entries[row.argmax()] if row.max() > threshold else single, True)
            for row in found
        ]

    return choose


def leave_one_out(
    scores: pd.DataFrame,
    features: pd.DataFrame,
    cost: float,
    selector: str = "forest",
    charged: pd.DataFrame | None = None,
) -> Report:
    """Judge a selector on each task by one that was learned from all others.

    Args:
      scores, features, charged: as in `Table`.
      cost: of the probes, in full runs.
      selector: as for `learn`.

    Raises:
      UsageError: if there are fewer than four tasks, or no such selector.
    """
    _check(len(scores), selector)
    table = Table(scores, features, scores if charged is None else charged)
    table = table.of(scores.index)
    choices, single = {}, {}
    for task in scores.index:
        others = table.of(scores.index.drop(task))
        choices[task] = learn(others, selector)(table.features.loc[[task]])[0]
        single[task] = portfolio.single_best(others.scores)
    return _report(table, choices, single, cost, selector)


def judge(known: Table, new: Table, cost: float, selector: str = "forest") -> Report:
    """Judge a selector that was learned from some tasks on others.

    Args:
      known: tasks to learn from.
      new: tasks to choose for.
      cost: of the probes, in full runs.
      selector: as for `learn`.

    Raises:
      UsageError: if there are fewer than four known tasks, or no such selector.
    """
    _check(len(known.scores), selector)
    tasks = list(new.scores.index)
    choices = learn(known, selector)(new.features.loc[tasks])
    single = dict.fromkeys(tasks, portfolio.single_best(known.scores))
    return _report(new, dict(zip(tasks, choices, strict=True)), single, cost, selector)


def _check(count: int, selector: str) -> None:
    if selector not in _SELECTORS:
        raise UsageError(f"unknown selector '{selector}': forest or nearest")
    if count < 4:
        raise UsageError(f"too few to learn from: {counted(count, 'task')}; give four")


def _report(
    table: Table,
    choices: Mapping[str, Choice],
    single: Mapping[str, str],
    cost: float,
    selector: str,
) -> Report:
    """Scores choices against each task's single best and virtual best."""
    each = pd.DataFrame(
        {
            "single": [table.scores.loc[t, entry] for t, entry in single.items()],
            "selected": [
                (table.charged if choice.probed else table.scores).loc[t, choice.entry]
                for t, choice in choices.items()
            ],
            "virtual": table.scores.loc[list(choices)].max(axis=1).to_numpy(),
        }
    ).to_numpy(float)
    draws = np.random.default_rng(0).integers(len(each), size=(_RESAMPLES, len(each)))
    drawn = [_closed(each[rows].mean(0)) for rows in draws]
    tails = 50 * (1 - _LEVEL), 50 * (1 + _LEVEL)
    low, high = np.nanpercentile(drawn, tails)
    means = each.mean(0)
    return Report(
        selector=selector,
        tasks=len(each),
        single=float(means[0]),
        selected=float(means[1]),
        virtual=float(means[2]),
        closed=_closed(means),
        interval=(float(low), float(high)),
        cost=cost,
        probed=float(np.mean([choice.probed for choice in choices.values()])),
        chosen={task: choice.entry for task, choice in choices.items()},
    )


def _closed(means: np.ndarray) -> float:
    single, selected, virtual = means
    return (
        float((selected - single) / (virtual - single)) if virtual > single else np.nan
    )


def _forest(known: np.ndarray, gains: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Predicted gains [new, entries] from features [known, f] and [new, f]."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(
        _TREES, min_samples_leaf=2, max_features=1 / 3, random_state=0
    )
    return forest.fit(known, gains).predict(new).reshape(len(new), -1)


def _nearest(known: np.ndarray, gains: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Mean gains [new, entries] over the nearest tasks in standardised features."""
    mean, deviation = known.mean(0), known.std(0)
    deviation = np.where(deviation > 0, deviation, 1)
    a, b = (known - mean) / deviation, (new - mean) / deviation
    away = np.square(b[:, None] - a[None]).sum(2)
    return gains[np.argsort(away, axis=1, kind="stable")[:, :_NEIGHBOURS]].mean(1)


_SELECTORS = {"forest": _forest, "nearest": _nearest}
