"""Which runs a selection asks for next, and what it answers; trains nothing.

There are three ways. `prior` believes what is known of similar tasks. `race` trains
some contenders, half of them those that the prior expects most of and half from a list
that works on most tasks, the best of them again on other validation rows. `bakeoff`
trains all, then rates between those of the leading methods. Every way ends with what is
believed after the runs (`lrjax.hpo.posterior`), not with the highest number measured.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lrjax.hpo import points
from lrjax.hpo.posterior import Belief, Chances, Runs, chances, update
from lrjax.hpo.prior import Candidate, Known, Prior

PRIOR, RACE, BAKEOFF = WAYS = ("prior", "race", "bakeoff")
FURTHER = 12  # runs of a bake-off beyond one of each contender
_LEADING = 3  # methods of which a bake-off fits the rate
_WIDER = 4.0  # factor of the prior's variance where all contenders are trained
_WIDEST = 2.0**10  # factor of the prior's variance where runs contradict it
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
    """What a selection may do; it follows from the config, the task and the prior.

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


def greedy(table: Known, count: int) -> list[int]:
    """A list that works on most known tasks: each adds most to those before it.

    Args:
      table: what is known.
      count: its length.

    Returns:
      Numbers of the table's contenders.
    """
    reached = np.full(len(table.regret), -points.CLIP)
    chosen: list[int] = []
    for _ in range(min(count, table.regret.shape[1])):
        gains = np.maximum(table.regret, reached[:, None]).mean(0)
        gains[chosen] = -np.inf
        chosen.append(int(gains.argmax()))
        reached = np.maximum(reached, table.regret[:, chosen[-1]])
    return chosen


def plan(
    how: str,
    prior: Prior,
    robust: Sequence[int],
    first: Sequence[int],
    runs: int,
    each: int = 0,
) -> Plan:
    """Choose who is trained first.

    Args:
      how: one of `WAYS`.
      prior: what is believed of the contenders.
      robust: numbers of contenders that work on most tasks, the first best.
      first: numbers of those that always enter if there is room: a user's own methods,
        and the best of each method that the user named.
      runs: most full runs.
      each: runs of every contender that enters; 0 for as the way has it.
    """
    expected = [int(i) for i in np.argsort(-prior.belief.mean, kind="stable")]
    if how == PRIOR:
        return Plan(how, runs, each, tuple(expected[:1]) if runs else ())
    if how == BAKEOFF:
        return Plan(how, runs, each, tuple(range(len(expected))))
    most = runs // each if each else runs if runs < 8 else runs // 2
    entries = list(dict.fromkeys(first))[:most]
    sources = [iter(expected), iter(robust)]
    while len(entries) < min(most, len(expected)):
        source = sources[len(entries) % 2]
        found = next((i for i in source if i not in entries), None)
        if found is None:
            found = next(i for i in expected if i not in entries)
        entries.append(found)
    return Plan(how, runs, each, tuple(entries))


Measured = Mapping[Wanted, float]
"""Points of the runs so far; -inf of those that were lost."""


class Judge(NamedTuple):
    """What is needed to judge runs.

    Attributes:
      prior: what is believed before them.
      folds: how many choices of validation rows there are.
      noise: variance of a run's points, as in `prior.Known.noise`.
      rows: of the validation part.
    """

    prior: Prior
    folds: int
    noise: tuple[float, float]
    rows: int

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
        found = first = update(belief, runs, noise)
        widened = 1.0
        while how == RACE and found.surprise > _SURPRISE and widened < _WIDEST:
            # Whoever is so far off must not be believed as before.
            widened *= 2
            wider = belief._replace(covariance=widened * belief.covariance)
            found = update(wider, runs, noise)
        return found.belief, first.surprise if len(order) > 1 else 0.0


def surprising(judge: Judge, plan: Plan, measured: Measured) -> bool:
    """Whether a race's first runs contradict what the prior expects of them."""
    if plan.how != RACE or len(measured) < 3:
        return False
    return judge.believe(RACE, measured)[1] > _SURPRISE


def further(
    judge: Judge, plan: Plan, robust: Sequence[int], measured: Measured
) -> list[Wanted]:
    """The next runs; none once the selection is over.

    Args:
      judge: prior, folds and noise.
      plan: of the selection.
      robust: as for `plan`.
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
    trained = sorted({wanted.who for wanted in measured})
    begun = {wanted: measured[wanted] for wanted in opening}
    if plan.how == RACE and surprising(judge, plan, begun):
        # The prior is wrong here: others are more use than the same once more.
        new = [i for i in robust if i not in trained]
        new += [
            i for i in range(len(judge.prior.belief.mean)) if i not in [*trained, *new]
        ]
        if new:
            return [Wanted(i, 0) for i in new[:left]]
    belief, _ = judge.believe(plan.how, measured)
    count = {i: sum(wanted.who == i for wanted in measured) for i in trained}
    best = chances(belief.only(trained)).best
    leading = [trained[i] for i in np.argsort(-best, kind="stable")]
    if plan.how == BAKEOFF:
        if max(count.values()) > 1:
            return []
        new = [Wanted(i, run) for i in plan.fitted for run in range(2)]
        return [*new, *(Wanted(i, 1) for i in leading)][:left]
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
    leading = list(dict.fromkeys(candidates[i].method for i in order))[:_LEADING]
    found = []
    for name in leading:
        lanes = [
            i
            for i in trained
            if candidates[i].method == name and candidates[i].rate > 0
        ]
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
    """What a selection answers.

    Attributes:
      winner: number of the contender.
      belief: on all contenders.
      pool: numbers of those that `chances` are of, in their order: all, trained or
        not, but those of which a run was lost.
      chances: their probabilities.
    """

    winner: int
    belief: Belief
    pool: tuple[int, ...]
    chances: Chances


def answer(judge: Judge, plan: Plan, measured: Measured) -> Answer | None:
    """The contender that is believed to be best of those trained; None if none was.

    Without runs, the best of all by the prior.
    """
    belief, _ = judge.believe(plan.how, measured)
    lost = {wanted.who for wanted in measured if not np.isfinite(measured[wanted])}
    pool = [i for i in range(len(belief.mean)) if i not in lost]
    among = sorted({wanted.who for wanted in measured} - lost) if measured else pool
    if not among:
        return None
    winner = among[int(belief.mean[among].argmax())]
    return Answer(winner, belief, tuple(pool), chances(belief.only(pool)))
