"""The answer of a race: the winner, and how certain it is."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping

from lrjax.hpo import judged as judged_lib
from lrjax.hpo import proposals
from lrjax.hpo.course import Course
from lrjax.hpo.judged import Judged
from lrjax.messages import counted, printable
from lrjax.race.contenders import Contender


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer of a race; print it.

    Attributes:
      method, hyperparameters: the winner.
      label: the winner as in `judged`.
      how: which way was taken: 'prior', 'race' or 'bakeoff'.
      metric: name of the metric that decided.
      score: the winner's mean over its runs; NaN if it was not trained.
      values: the winner's values, one per run.
      best: probability that the winner is the best of the contenders that were trained
        (of all, where fewer than two were).
      near: probability that it is at most half a point (docs/selection.md) worse than
        the best of all contenders, trained or not.
      runner_up: the trained contender with the next best chances; '' if none.
      surprised: whether the first runs contradicted what known tasks say.
      runs: jobs that are over.
      budget: most jobs.
      over: whether the race has ended.
      lost: jobs that failed or diverged -> why.
      who: each of these jobs -> the label of its contender.
      judged: every contender, the best first.
    """

    method: str
    hyperparameters: Mapping[str, object]
    label: str
    how: str
    metric: str
    score: float
    values: tuple[float, ...]
    best: float
    near: float
    runner_up: str
    surprised: bool
    runs: int
    budget: int
    over: bool
    lost: Mapping[int, str]
    who: Mapping[int, str]
    judged: tuple[Judged, ...]

    def __str__(self) -> str:
        count, trained = len(self.judged), sum(bool(e.values) for e in self.judged)
        among = f"the {trained} trained" if trained > 1 else f"all {count}"
        hyperparameters = ", ".join(f"{k} {v}" for k, v in self.hyperparameters.items())
        values = ", ".join(f"{value:.4g}" for value in self.values)
        lines = [
            printable(self.label),
            textwrap.fill(
                printable(f"  hyperparameters  {hyperparameters}"),
                88,
                subsequent_indent="    ",
            ),
            printable(f"  {self.metric}  {values or 'not trained'}"),
            f"  best of {among} with probability {100 * self.best:.0f} %, within half "
            f"a point of the best of all {count} with {100 * self.near:.0f} %",
        ]
        if self.runner_up:
            lines.append(printable(f"  runner-up  {self.runner_up}"))
        lines += ["", *judged_lib.table(self.judged, "{:.4g}".format), ""]
        if self.surprised:
            lines.append("  the first runs contradicted known tasks: they count less")
        runs = counted(self.runs, "full run")
        end = "" if self.over else "; the race is not over"
        lines.append(f"  cost  {runs} (budget {self.budget}){end}")
        if self.lost:
            lost = (f"{self.who[n]}, job {n}: {why}" for n, why in self.lost.items())
            lines += [printable(f"  lost  {each}") for each in lost]
        return "\n".join(lines)


def conclude(
    course: Course,
    answer: proposals.Answer,
    contenders: tuple[Contender, ...],
    metric: str,
    budget: int,
    over: bool,
    lost: Mapping[int, str],
) -> Answer:
    """The answer of a race.

    Args:
      course: what was trained and measured.
      answer: who won.
      contenders: all of them.
      metric: its name.
      budget: most full runs.
      over: whether the race has ended.
      lost: numbers of lost jobs -> why.
    """
    winner, chance = contenders[answer.winner], answer.best
    values = [v for each, v in course.values().items() if each.who == answer.winner]
    second = answer.runner_up
    names = [(each.label, each.method, each.rate) for each in contenders]
    return Answer(
        method=winner.method,
        hyperparameters=dict(winner.hyperparameters),
        label=winner.label,
        how=course.plan.how,
        metric=metric,
        score=math.fsum(values) / len(values) if values else math.nan,
        values=tuple(values),
        best=chance[answer.winner],
        near=answer.near,
        runner_up="" if second is None else contenders[second].label,
        surprised=course.surprised,
        runs=len(course.asked),
        budget=budget,
        over=over,
        lost=dict(lost),
        who={n: contenders[course.asked[n].who].label for n in lost},
        judged=judged_lib.judged(course, answer, names),
    )
