"""Methods and rates to advise, from what is believed of them: trains nothing.

Which method is best follows from full runs on known tasks alone, since the order of
methods after a short race says little of that after full runs. The order of rates
within a method does carry over: short runs say where a method's best rate is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lrjax.hpo import posterior, prior
from lrjax.hpo.lengths import Lengths, Peak
from lrjax.hpo.points import CLIP, SHARE
from lrjax.hpo.posterior import NEAR, Belief
from lrjax.hpo.prior import Candidate, Known

COUNT = 3  # recipes
# Kinds of metrics for which probabilities were right on tasks kept apart
# (docs/advise.md): for others the order alone is given.
RIGHT = (SHARE,)
STEP = 0.5  # decades from the rate believed to be best to those beside it
CALIBRATED = "nadamw_cosine"  # advised where nothing else is known
_COARSE = 1 / 12  # variance of a rate on a grid of one per decade
_UNKNOWN = 1.0  # variance of the best rate of a method around its own default


class Entry(NamedTuple):
    """A method that may be advised.

    Attributes:
      method: its name.
      who: numbers of its contenders in the belief.
      log_rates: of these, to base 10; () if the method needs none.
      known: whether tables have it; else it is a user's own.
    """

    method: str
    who: tuple[int, ...]
    log_rates: tuple[float, ...] = ()
    known: bool = True


class Recipe(NamedTuple):
    """A method at a rate.

    Attributes:
      method: its name.
      log_rate: to base 10; NaN for methods that need none.
      best: probability that it is the best of the recipes that are advised.
      near: probability that it is at most `posterior.NEAR` points worse than the best
        of all methods at their best rates.
    """

    method: str
    log_rate: float
    best: float
    near: float


def scores(
    table: Known, entries: Sequence[Entry], described: Mapping[str, float] | None
) -> np.ndarray:
    """Draws of what each method reaches at the best of its rates [draws, methods].

    Args:
      table: known tasks.
      entries: the methods.
      described: the task's features; None if nobody looked.
    """
    candidates = [Candidate(each.method) for each in entries]
    best = prior.at_best(table)
    return posterior.draws(prior.believe(best, candidates, described).belief)


def entries(
    candidates: Sequence[Candidate], known: Collection[str] | None = None
) -> list[Entry]:
    """The methods of contenders, in their order.

    Args:
      candidates: contenders; a method's first is its default.
      known: names of methods that tables have; None: all.
    """
    groups: dict[str, list[int]] = {}
    for i, each in enumerate(candidates):
        groups.setdefault(each.method, []).append(i)
    return [
        Entry(
            method,
            tuple(who),
            tuple(
                math.log10(candidates[i].rate) for i in who if candidates[i].rate > 0
            ),
            known is None or method in known,
        )
        for method, who in groups.items()
    ]


def expected_peaks(belief: Belief, entries: Sequence[Entry]) -> dict[int, Peak]:
    """The best rate of each method that needs one, as is believed before any run."""
    drawn = posterior.draws(belief)
    found = {}
    for i, entry in enumerate(entries):
        if not entry.log_rates:
            continue
        logs = np.asarray(entry.log_rates)
        if not entry.known:
            found[i] = Peak(float(logs[0]), _UNKNOWN)
            continue
        best = logs[drawn[:, entry.who].argmax(1)]
        found[i] = Peak(float(best.mean()), float(best.var()) + _COARSE)
    return found


def considered(entries: Sequence[Entry], unlike: bool) -> list[int]:
    """Numbers of the methods that may be advised.

    On a task unlike all known ones, those of which nothing is known anyway and the one
    that works on most tasks once its rate is right; else, and where the user has named
    others, all.

    Args:
      entries: the methods.
      unlike: whether the task is unlike all known ones.
    """
    safe = [i for i, each in enumerate(entries) if each.method == CALIBRATED]
    if not unlike or not safe:
        return [*range(len(entries))]
    return [*(i for i, each in enumerate(entries) if not each.known), *safe]


def laddered(reached: np.ndarray, entries: Sequence[Entry]) -> list[int]:
    """Numbers of the methods that need a rate, in the order in which short runs look
    for it: a user's own, the best, the one that works on most tasks, the next best.

    Args:
      reached: of `scores`.
      entries: the methods.
    """
    rated = [i for i, each in enumerate(entries) if each.log_rates]
    mean = reached.mean(0)
    order = sorted(rated, key=lambda i: (entries[i].known, -mean[i], i))
    known = [i for i in order if entries[i].known]
    safe = [i for i in known if entries[i].method == CALIBRATED]
    own = [i for i in order if not entries[i].known]
    return [*dict.fromkeys([*own, *known[:1], *safe, *known])]


def advise(
    reached: np.ndarray,
    entries: Sequence[Entry],
    peaks: Mapping[int, Peak],
    left: Sequence[int],
    lengths: Lengths,
    kind: str,
) -> list[Recipe]:
    """Three recipes, the one of which most is expected first.

    A user's own method is among them, and the one that works on most tasks; each of the
    others adds most to what the best of them is expected to reach.

    Args:
      reached: of `scores`.
      entries: the methods.
      peaks: number of each method that needs a rate -> its best rate.
      left: numbers of the methods that may be advised.
      lengths: what is known of rates beside the best.
      kind: of the metric, as in `points`.
    """
    options: list[tuple[int, float]] = []
    columns: list[np.ndarray] = []
    draw = np.random.RandomState(1)
    for i in left:
        if not entries[i].log_rates:
            options.append((i, math.nan))
            columns.append(reached[:, i])
            continue
        middle, variance = peaks[i]
        low, high = -math.inf, math.inf
        if len(entries[i].log_rates) > 1:
            low, high = min(entries[i].log_rates), max(entries[i].log_rates)
        best = middle + math.sqrt(variance) * draw.normal(size=len(reached))
        for log_rate in (middle, middle - STEP, middle + STEP):
            log_rate = min(max(log_rate, low), high)
            if (i, log_rate) in options:
                continue
            lost = lengths.lost(kind, log_rate - best)
            options.append((i, log_rate))
            columns.append(reached[:, i] - np.minimum(lost, CLIP))
    values = np.stack(columns, 1)
    surely = [
        next(k for k, (i, _) in enumerate(options) if i == each)
        for each in left
        if not entries[each].known or entries[each].method == CALIBRATED
    ]
    chosen = _promising(values, surely[:COUNT], COUNT)
    chosen.sort(key=lambda k: -values[:, k].mean())
    among, most = values[:, chosen], reached[:, left].max(1)
    share = np.bincount(among.argmax(1), minlength=len(chosen)) / len(among)
    near = (among >= most[:, None] - NEAR).mean(0)
    return [
        Recipe(entries[i].method, rate, float(share[n]), float(near[n]))
        for n, (i, rate) in enumerate(options[k] for k in chosen)
    ]


def _promising(values: np.ndarray, have: Sequence[int], count: int) -> list[int]:
    """Options of which the best is expected to be best, one after the other."""
    chosen = list(have)
    reached = values[:, chosen].max(1, initial=-np.inf)
    for _ in range(min(count, values.shape[1]) - len(chosen)):
        expected = np.maximum(values, reached[:, None]).mean(0)
        expected[chosen] = -np.inf
        chosen.append(int(expected.argmax()))
        reached = np.maximum(reached, values[:, chosen[-1]])
    return chosen
