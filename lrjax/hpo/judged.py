"""Belief on each contender, before and after the runs, and its table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from lrjax.hpo import proposals
from lrjax.hpo.course import Course
from lrjax.hpo.posterior import Belief

_SHOWN = 5  # contenders in the table that is printed


@dataclasses.dataclass(frozen=True)
class Judged:
    """Belief on a contender, before and after the runs.

    Beliefs are in points (docs/selection.md) from the best there is: 0 for the best,
    below 0 for what is behind. Tables and figures show them as distances, from 0 up.

    Attributes:
      label: method, and learning rate where it needs one.
      method, rate: its name and learning rate; NaN for methods that need none.
      expected, expected_sd: what known tasks say of it, and the standard deviation.
      values: the metric on the validation part, one per run; not finite where a run
        diverged or the metric is undefined; empty if it was not trained.
      behind: points of each run from the best run on the same validation rows, 0 or
        below.
      now, now_sd: what is believed after all runs, and the standard deviation.
      best: probability that it is the best of those that were trained (of all, where
        fewer than two were); 0 for others.
    """

    label: str
    method: str
    rate: float
    expected: float
    expected_sd: float
    values: tuple[float, ...]
    behind: tuple[float, ...]
    now: float
    now_sd: float
    best: float


def judged(
    course: Course, answer: proposals.Answer, names: Sequence[tuple[str, str, float]]
) -> tuple[Judged, ...]:
    """All contenders, those in the running first, by what is believed of them.

    Args:
      course: the runs, and what was believed before them.
      answer: what they answer.
      names: label, method and learning rate of each contender.
    """
    before, after, chance = course.judge.prior.belief, answer.belief, answer.best
    behind = course.behind()
    values: dict[int, list[float]] = {}
    for wanted, value in course.values().items():
        values.setdefault(wanted.who, []).append(value)

    def place(i: int) -> tuple[bool, bool, bool, float]:
        """Sort key: the winner, those trained, others, lost ones; then by belief."""
        lost = i in values and i not in chance
        return i != answer.winner, lost, i not in values, -float(after.mean[i])

    def spread(belief: Belief, i: int) -> float:
        return math.sqrt(max(0.0, float(belief.covariance[i, i])))

    # Behind the best that is expected, as the best itself is not known.
    best, best_now = float(before.mean.max()), float(after.mean.max())
    return tuple(
        Judged(
            *names[i],
            expected=float(before.mean[i]) - best,
            expected_sd=spread(before, i),
            values=tuple(values.get(i, ())),
            behind=tuple(behind.get(i, ())),
            now=float(after.mean[i]) - best_now,
            now_sd=spread(after, i),
            best=chance.get(i, 0.0),
        )
        for i in sorted(range(len(names)), key=place)
    )


def table(found: Sequence[Judged], shown: Callable[[float], str]) -> list[str]:
    """Lines on the leading contenders: expected, measured, and believed now.

    Args:
      found: of `judged`.
      shown: formats a value of the metric.
    """
    title = "points behind the best"
    width = max(len(title), *(len(each.label) for each in found[:_SHOWN]))
    row = f"  {{:{width}}}  {{:>15}}  {{:>20}}  {{:>13}}".format
    lines = [row(title, "known tasks say", "measured", "now")]
    for each in found[:_SHOWN]:
        values = ", ".join(shown(value) for value in each.values[:3])
        lines.append(
            row(
                each.label,
                f"{0.0 - each.expected:.1f} +- {each.expected_sd:.1f}",
                values + (", ..." if len(each.values) > 3 else "") or "-",
                f"{0.0 - each.now:.1f} +- {each.now_sd:.1f}",
            )
        )
    if found[_SHOWN:]:
        lines.append(f"  and {len(found) - _SHOWN} more")
    return lines
