"""The next runs of a selection, and its answer; trains nothing.

There are three ways. `prior` believes what is known of similar tasks. `race` trains
some contenders, those of which the best is expected to be best, then others in the
light of these, then the leaders again on other validation rows. `bakeoff` trains all,
then rates between those of the leading methods. Every way ends with what is believed
after the runs (`lrjax.hpo.posterior`), not with the highest number measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lrjax.hpo.posterior import Belief, Runs, chances, promising, scaled, shifted
from lrjax.hpo.prior import Candidate, Prior

PRIOR, RACE, BAKEOFF = WAYS = ("prior", "race", "bakeoff")
FURTHER = 12  # runs of a bake-off beyond one of each contender
_LEADING = 3  # methods of which a bake-off fits the rate
_WIDER = 4.0  # factor of the prior's variance where all contenders are trained
_REPEATING = 8  # full runs from which on a race trains its leaders again
_SURPRISE = 2.5  # squared deviation per run from what the prior expects
_LEAST_SHIFT, _MOST_SHIFT = 0.15, 0.6  # decades of a fitted rate from a known one
_FITTED = 3  # rates of a method that a fit needs


class Wanted(NamedTuple):
    """A run that a selection asks for.

    Attributes:
      who: number of the contender.
      run: number of its run, from 0; each has a seed and a choice of validation rows.
    """

    who: int
    run: int


class Fitted(NamedTuple):
    """A contender that a bake-off adds: another contender's method at another rate.

    Attributes:
      like: number of the contender whose other hyperparameters it has.
      rate: its learning rate.
    """

    like: int
    rate: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """Plan of a selection; it follows from the config, the task and the prior.

    Attributes:
      how: one of `WAYS`.
      runs: most full runs that it may train.
      each: runs of every contender that is trained; 0 for as the way has it.
      entries: numbers of the contenders that are trained first.
      fitted: numbers of those that a bake-off has added.
    """

    how: str
    runs: int
    each: int
    entries: tuple[int, ...]
    fitted: tuple[int, ...] = ()


def by_budget(budget: float, count: int, each: int = 1) -> str:
    """The way that a budget pays for.

    Args:
      budget: in full runs.
      count: number of contenders.
      each: runs of every contender that is trained.

    Example:
      >>> [by_budget(budget, 10) for budget in (1, 2, 10)]
      ['prior', 'race', 'bakeoff']
    """
    if budget < 2 * each:
        return PRIOR
    return BAKEOFF if budget >= count * each else RACE


def first(
    methods: Sequence[str], own: Sequence[int], prior: Prior, named: bool
) -> list[int]:
    """The contender that enters before all others.

    Args:
      methods: of each contender.
      own: numbers of those of a user's own methods.
      prior: what is believed of the contenders.
      named: whether the user named the methods: then the best of each enters, too.
    """
    if not named:
        return [*own]
    order: list[int] = np.argsort(-prior.belief.mean, kind="stable").tolist()
    best: dict[str, int] = {}
    for i in [*own, *order]:
        best.setdefault(methods[i], i)
    return [*dict.fromkeys([*own, *sorted(best.values(), key=order.index)])]


def plan(
    how: str, prior: Prior, first: Sequence[int], runs: int, each: int = 0
) -> Plan:
    """Choose who is trained first.

    Args:
      how: one of `WAYS`.
      prior: what is believed of the contenders.
      first: numbers of those that always enter if there is room: a user's own methods,
        and the best of each method that the user named.
      runs: most full runs.
      each: runs of every contender that enters; 0 for as the way has it.
    """
    if how == PRIOR:
        best = int(prior.belief.mean.argmax())
        return Plan(how, runs, each, (best,) if runs else ())
    if how == BAKEOFF:
        return Plan(how, runs, each, tuple(range(len(prior.belief.mean))))
    most = runs // each if each else runs
    entries = list(dict.fromkeys(first))[:most]
    wanted = most if each else max(2, math.ceil(runs / 2))
    entries += promising(prior.belief, entries, max(0, wanted - len(entries)))
    return Plan(how, runs, each, tuple(entries))


Measured = Mapping[Wanted, float]
"""Points of the runs so far; -inf of those that were lost."""


class Judge(NamedTuple):
    """Everything needed to judge runs.

    Attributes:
      prior: what is believed before them.
      folds: how many choices of validation rows there are.
      noise: variance of a run's points, as in `prior.Known.noise`.
      rows: of the validation part.
      near_odds: what is added to the log odds of being near the best: where at most
        one contender was trained, and after more.
    """

    prior: Prior
    folds: int
    noise: tuple[float, float]
    rows: int
    near_odds: tuple[float, float] = (0.0, 0.0)

    def believe(self, how: str, measured: Measured) -> tuple[Belief, float]:
        """The belief after the runs, and how much they surprise (0 with one run)."""
        belief = self.prior.belief
        if how == BAKEOFF or self.prior.unlike:
            belief = belief._replace(covariance=_WIDER * belief.covariance)
        if not measured:
            return belief, 0.0
        order = sorted(measured)
        reached = np.array([measured[each] for each in order])
        runs = Runs(
            np.array([each.who for each in order]),
            np.array([each.run % self.folds for each in order]),
            reached,
        )
        # Rows disagree most where half of them are right.
        share = float(np.clip(reached.max() / 100, 0.02, 0.98))
        constant, factor = self.noise
        noise = constant + factor * 1e4 * share * (1 - share) / max(self.rows, 1)
        found = scaled(belief, runs, noise)
        return found.belief, found.surprise if len(order) > 1 else 0.0


def surprising(judge: Judge, plan: Plan, measured: Measured) -> bool:
    """Whether a race's first runs contradict what the prior expects of them."""
    if plan.how != RACE or len(measured) < 3:
        return False
    return judge.believe(RACE, measured)[1] > _SURPRISE


def further(judge: Judge, plan: Plan, measured: Measured) -> list[Wanted]:
    """The next runs; none once the selection is over.

    Args:
      judge: prior, folds and noise.
      plan: of the selection.
      measured: what has been, all runs that were asked for before.
    """
    each = plan.each or 1
    opening = [Wanted(i, run) for i in plan.entries for run in range(each)]
    missing = [wanted for wanted in opening if wanted not in measured]
    if missing or plan.how == PRIOR:
        return missing
    left = plan.runs - len(measured)
    if plan.each or left <= 0:
        return []
    count: dict[int, int] = {}
    for wanted in measured:
        count[wanted.who] = count.get(wanted.who, 0) + 1
    trained = sorted(count)
    belief, _ = judge.believe(plan.how, measured)
    again = left
    if plan.how == RACE:
        again = plan.runs // 4 if plan.runs >= _REPEATING else 0
        new = min(left - again, len(belief.mean) - len(trained))
        if new > 0 and len(measured) == len(opening):
            return [Wanted(i, 0) for i in promising(belief, trained, new)]
    best = chances(belief.only(trained)).best
    leading = [trained[i] for i in np.argsort(-best, kind="stable")]
    if plan.how == BAKEOFF:
        if max(count.values()) > 1:
            return []
        fitted = [Wanted(i, run) for i in plan.fitted for run in range(2)]
        return [*fitted, *(Wanted(i, 1) for i in leading)][:left]
    # Half of what is left at a time, so that later runs go where doubt remains.
    return [Wanted(i, count[i]) for i in leading[: max(1, math.ceil(left / 2))]]


def fits(
    candidates: Sequence[Candidate], belief: Belief, measured: Measured
) -> list[Fitted]:
    """Rates between those that were trained, for the methods that lead a bake-off.

    A parabola over the logarithm of the rate goes through the best rate of a method and
    its neighbours, as far as they are believed to reach; its vertex is worth a run
    unless it is next to a rate that was trained.

    Args:
      candidates: the contenders.
      belief: after the runs.
      measured: the runs.
    """
    trained = {wanted.who for wanted in measured}
    lost = {wanted.who for wanted in measured if not np.isfinite(measured[wanted])}
    order = sorted(trained - lost, key=lambda i: (-belief.mean[i], i))
    kinds = [(each.method, each.variant) for each in candidates]
    leading = list(dict.fromkeys(kinds[i] for i in order))[:_LEADING]
    found = []
    for kind in leading:
        lanes = [i for i in trained if kinds[i] == kind and candidates[i].rate > 0]
        lanes.sort(key=lambda i: candidates[i].rate)
        rates = np.log10([candidates[i].rate for i in lanes])
        values = np.where([i in lost for i in lanes], -np.inf, belief.mean[lanes])
        if len(lanes) < _FITTED:
            continue
        top = int(values.argmax())
        if not 0 < top < len(lanes) - 1:
            continue
        near = slice(top - 1, top + 2)
        if not np.isfinite(values[near]).all():
            continue
        bend, slope, _ = np.polyfit(rates[near] - rates[top], values[near], 2)
        if bend >= 0:
            continue
        shift = float(np.clip(-slope / (2 * bend), -_MOST_SHIFT, _MOST_SHIFT))
        vertex = rates[top] + shift
        if np.abs(vertex - rates).min() >= _LEAST_SHIFT:
            found.append(Fitted(lanes[top], float(f"{10**vertex:.3g}")))
    return found


class Answer(NamedTuple):
    """Answer of a selection.

    Attributes:
      winner: number of the contender.
      belief: on all contenders.
      best: number of each contender that was trained -> probability that it is the
        best of them; of all contenders where fewer than two were. Without those of
        which a run was lost.
      near: probability that the winner is at most `posterior.NEAR` points worse than
        the best of all contenders, trained or not.
    """

    winner: int
    belief: Belief
    best: dict[int, float]
    near: float

    @property
    def runner_up(self) -> int | None:
        """The contender with the next best chances; None if there is no other."""
        others = (i for i in self.best if i != self.winner)
        return max(others, key=lambda i: self.best[i], default=None)


def answer(judge: Judge, plan: Plan, measured: Measured) -> Answer | None:
    """The contender that is believed to be best of those trained; None if none was.

    Without runs, the best of all by the prior.
    """
    belief, _ = judge.believe(plan.how, measured)
    lost = {wanted.who for wanted in measured if not np.isfinite(measured[wanted])}
    pool = [i for i in range(len(belief.mean)) if i not in lost]
    trained = sorted({wanted.who for wanted in measured} - lost)
    among = trained if measured else pool
    if not among:
        return None
    winner = among[int(belief.mean[among].argmax())]
    compared = len(trained) > 1
    rivals = trained if compared else pool
    best = chances(belief.only(rivals)).best.tolist()
    near = float(chances(belief.only(pool)).near[pool.index(winner)])
    near = shifted(near, judge.near_odds[compared])
    return Answer(winner, belief, dict(zip(rivals, best, strict=True)), near)
