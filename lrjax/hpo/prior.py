"""Belief on a new task from runs on known ones, before anything is trained on it.

`priors.npz` has, for each of some hundred small tasks, numbers that describe it
(`lrjax.hpo.probes`) and the regret of every contender, in points and no worse than
`points.CLIP`. A Gaussian process over the descriptions predicts a new task's regrets;
the more a task differs from all known ones, the more it predicts their plain means.
`benchmarks/priors.py` makes the file.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lrjax.hpo.points import CLIP, RATIO, SHARE
from lrjax.hpo.posterior import Belief

OWN = "your "  # begins the names of families of a user's own tasks
FILE = Path(__file__).with_name("priors.npz")
# Squared length over which tasks stop to be alike, per feature, features standardised;
# and the variance of a task's own part of regrets over that of the predictable part.
LENGTH, NOISE = 1.0, 0.5
_FURTHEST = 4.0  # standard deviations: features beyond are as good as there
# Of methods and rates that no table has: points, and standard deviations of points.
_UNKNOWN, _UNKNOWN_SPREAD = -3.0, 5.0
_PER_DECADE, _OTHERWISE = 4.0, 2.0
_UNLIKE = 0.98  # share of the known tasks that must be less novel for a warning
_SIMILAR = 3  # families that are named
# Added to the log odds of being near the best, by the prior alone and after runs, so
# that what is said came true as often on known tasks, each family with a prior of all
# others (benchmarks/selection.py).
_NEAR_ODDS = {SHARE: (0.62, 0.92), RATIO: (0.19, 0.43)}
_LEAST = 0.9  # share of the contenders that must have been trained on a further task


class Known(NamedTuple):
    """Tables of known tasks, for one kind of metric.

    Attributes:
      kind: of the metric, as in `points`.
      methods: of each contender, [contenders].
      rates: its learning rate; NaN for methods without one.
      features: names of the numbers that describe a task.
      described: these numbers [tasks, features].
      families: where each task's rows come from [tasks].
      regret: points [tasks, contenders], from -`points.CLIP` to 0.
      residual: covariance [contenders, contenders] of regrets around what is
        predicted for tasks of a family that is not known.
      noise: variance of a run's points: a constant, and a factor of p (1 - p) / rows.
      usual: how novel each known task is if its family is not known [tasks].
    """

    kind: str
    methods: np.ndarray
    rates: np.ndarray
    features: tuple[str, ...]
    described: np.ndarray
    families: np.ndarray
    regret: np.ndarray
    residual: np.ndarray
    noise: tuple[float, float]
    usual: np.ndarray

    @property
    def near_odds(self) -> tuple[float, float]:
        """Added to the log odds of being near the best, as `proposals.Judge` does."""
        return _NEAR_ODDS[self.kind]


class Candidate(NamedTuple):
    """A contender as far as a prior knows it.

    Attributes:
      method: its name.
      rate: its learning rate; NaN for methods without one.
      usual: whether all other hyperparameters are the method's defaults.
      variant: the same for contenders of a method that differ by the rate alone.
    """

    method: str
    rate: float = math.nan
    usual: bool = True
    variant: str = ""


class Similar(NamedTuple):
    """Known tasks that a prediction leans on.

    Attributes:
      family: where their rows come from.
      share: of the weight of all known tasks, from 0 to 1.
    """

    family: str
    share: float


class Prior(NamedTuple):
    """Belief on contenders before they are trained.

    Attributes:
      belief: on their scores.
      similar: the families of tasks that it leans on most, the first most.
      novelty: from 0 (there are many such tasks) to 1 (nothing like it is known).
      unlike: whether nearly all known tasks are less novel.
    """

    belief: Belief
    similar: tuple[Similar, ...]
    novelty: float
    unlike: bool


class Past(NamedTuple):
    """A task on which contenders were trained.

    Attributes:
      family: where its rows come from.
      kind: of its metric, as in `points`.
      described: its features.
      scores: (method, rate) of each contender that was trained -> points behind the
        best, as was believed in the end; the rate is -1 for methods without one.
    """

    family: str
    kind: str
    described: Mapping[str, float]
    scores: Mapping[tuple[str, float], float]


def key_of(method: str, rate: float | None) -> tuple[str, float]:
    """A contender as in `Past.scores`."""
    unrated = rate is None or math.isnan(rate)
    return method, -1.0 if unrated else float(f"{rate:.4g}")


@functools.cache
def known(kind: str, path: Path = FILE) -> Known:
    """Read what is known for a kind of metric, `points.SHARE` or `points.RATIO`."""
    with np.load(path, allow_pickle=False) as file:
        constant, factor = file[f"{kind}_noise"]
        return Known(
            kind=kind,
            methods=file["methods"],
            rates=file["rates"].astype(float),
            features=tuple(map(str, file["features"])),
            described=file[f"{kind}_described"].astype(float),
            families=file[f"{kind}_families"],
            regret=-file[f"{kind}_regret"].astype(float) / 10,
            residual=file[f"{kind}_residual"].astype(float),
            noise=(float(constant), float(factor)),
            usual=file[f"{kind}_usual"].astype(float),
        )


@functools.cache
def methods(path: Path = FILE) -> frozenset[str]:
    """Names of the methods that the known tasks were trained with."""
    with np.load(path, allow_pickle=False) as file:
        return frozenset(map(str, file["methods"]))


@functools.cache
def digest(path: Path = FILE) -> str:
    """A hash of the file, since answers depend on it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def extend(table: Known, past: Sequence[Past], least: float = _LEAST) -> Known:
    """Add further tasks to what is known.

    Tasks count whose metric is of the table's kind and on which nearly all of its
    contenders were trained; the others are as on average there.

    Args:
      table: what is known.
      past: the tasks.
      least: share of the contenders that must have been trained.
    """
    keys = [
        key_of(str(method), rate)
        for method, rate in zip(table.methods, table.rates.tolist(), strict=True)
    ]
    average = table.regret.mean(0)
    for each in past:
        there = np.array([key in each.scores for key in keys])
        whole = set(table.features) <= set(each.described)
        if not whole or there.mean() < least or each.kind != table.kind:
            continue
        values = np.array([each.scores.get(key, 0.0) for key in keys])
        values = np.clip(values - values[there].max(), -CLIP, 0)
        described = [each.described[name] for name in table.features]
        table = table._replace(
            described=np.vstack([table.described, described]),
            families=np.append(table.families, each.family),
            regret=np.vstack([table.regret, np.where(there, values, average)]),
            usual=np.append(table.usual, np.median(table.usual)),
        )
    return table


def at_best(table: Known) -> Known:
    """The same for methods, each at the best of its rates on each task.

    Args:
      table: what is known of contenders.

    Returns:
      A contender per method, without a rate. The covariance is that of regrets around
      what all other known tasks predict.
    """
    names = [*dict.fromkeys(map(str, table.methods))]
    best = np.stack([table.regret[:, table.methods == n].max(1) for n in names], 1)
    best = np.maximum(best - best.max(1, keepdims=True), -CLIP)
    inverse = np.linalg.inv(
        _alike(table.described, table.described) + NOISE * np.eye(len(best))
    )
    left = inverse @ (best - best.mean(0)) / np.diag(inverse)[:, None]
    return table._replace(
        methods=np.array(names),
        rates=np.full(len(names), math.nan),
        regret=best,
        residual=left.T @ left / len(left),
    )


def believe(
    table: Known,
    candidates: Sequence[Candidate],
    described: Mapping[str, float] | None = None,
) -> Prior:
    """Predict the scores of contenders on a task.

    Args:
      table: what is known.
      candidates: contenders; those that the table lacks get a wide belief.
      described: the task's features by name; None if nobody looked: then all known
        tasks count alike.
    """
    centre = table.regret.mean(0)
    mean, similar, novelty, unlike = centre, (), 1.0, False
    if described is not None:
        new = np.array([[described[name] for name in table.features]])
        weights, left = weigh(table.described, new)
        mean = centre + weights[0] @ (table.regret - centre)
        similar = tuple(_families(table.families, weights[0]))
        novelty = float(left[0])
        unlike = bool(novelty > np.quantile(table.usual, _UNLIKE))
    return Prior(_of(table, mean, candidates), similar, novelty, unlike)


def weigh(known: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of known tasks in predictions for new ones, by a Gaussian process.

    Args:
      known: features [known, features].
      new: features [new, features].

    Returns:
      The weights of deviations from the mean [new, known], and how much of the
      process's variance the known tasks leave [new].
    """
    across = _alike(new, known)
    weights = np.linalg.solve(
        _alike(known, known) + NOISE * np.eye(len(known)), across.T
    ).T
    return weights, 1 - (weights * across).sum(1)


def _alike(new: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Covariance [new, known] of what is predicted for tasks, by their features."""
    middle, spread = known.mean(0), known.std(0)
    spread = np.where(spread > 0, spread, 1)

    def standard(x: np.ndarray) -> np.ndarray:
        return np.clip((x - middle) / spread, -_FURTHEST, _FURTHEST)

    a, b = standard(new), standard(known)
    away = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.exp(-away / (2 * LENGTH * a.shape[1]))


def _families(families: np.ndarray, weights: np.ndarray) -> Iterator[Similar]:
    """The families with the largest weights, most first."""
    positive = np.maximum(weights, 0)
    names, place = np.unique(families, return_inverse=True)
    shares = np.bincount(place, positive) / max(positive.sum(), 1e-12)
    for i in np.argsort(-shares, kind="stable")[:_SIMILAR]:
        yield Similar(str(names[i]), float(shares[i]))


def _of(table: Known, mean: np.ndarray, candidates: Sequence[Candidate]) -> Belief:
    """Beliefs on candidates from those on the table's contenders."""
    places = np.zeros((len(candidates), len(mean)))  # weights of the table's
    extra, offset = np.zeros(len(candidates)), np.zeros(len(candidates))
    for i, candidate in enumerate(candidates):
        same = np.flatnonzero(table.methods == candidate.method)
        if not len(same):
            offset[i], extra[i] = _UNKNOWN, _UNKNOWN_SPREAD**2
            continue
        away = _interpolated(table.rates[same], candidate.rate, places[i], same)
        extra[i] = (_PER_DECADE * away) ** 2 + (not candidate.usual) * _OTHERWISE**2
    covariance = places @ table.residual @ places.T + np.diag(extra)
    return Belief(places @ mean + offset, covariance)


def _interpolated(
    rates: np.ndarray, rate: float, weights: np.ndarray, same: np.ndarray
) -> float:
    """Weigh a method's known rates for another one, linearly in its logarithm.

    Args:
      rates: known ones of the method.
      rate: the one wanted.
      weights: of all contenders; those in `same` are set.
      same: numbers of the method's contenders.

    Returns:
      Decades to the nearest known rate.
    """
    if math.isnan(rate) or np.isnan(rates).any() or rate <= 0:
        weights[same] = 1 / len(same)
        return 0.0
    order = np.argsort(rates)
    logs, log = np.log10(rates[order]), math.log10(rate)
    right = int(np.clip(np.searchsorted(logs, log), 1, max(1, len(logs) - 1)))
    left = right - 1 if len(logs) > 1 else 0
    gap = logs[right] - logs[left] if len(logs) > 1 else 1.0
    share = float(np.clip((log - logs[left]) / gap, 0, 1)) if len(logs) > 1 else 0.0
    weights[same[order[left]]] += 1 - share
    if share:
        weights[same[order[right]]] += share
    away = float(np.abs(logs - log).min())
    return away if away > 1e-6 else 0.0


def describe(
    probed: Mapping[str, float], horizon: int, batch_size: int
) -> dict[str, float]:
    """Features of a task: its probes, and how long it trains.

    Args:
      probed: the features of `lrjax.hpo.probes.probe`.
      horizon: updates of a full run.
      batch_size: rows of a batch.
    """
    updates, rows = math.log(horizon), math.log(batch_size)
    passes = updates + rows - probed["log_rows"]
    return {
        **probed,
        "log_updates": updates,
        "log_batch": rows,
        "log_epochs": passes,
    }
