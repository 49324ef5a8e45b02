"""The answer of a selection: the winner, how certain it is, and code to train with."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrjax import reports, results
from lrjax.analysis import stats
from lrjax.common import sheets
from lrjax.core import Metric, counted, printable
from lrjax.hpo import judged as judged_lib
from lrjax.hpo import method_code, posterior, proposals
from lrjax.hpo.course import Course
from lrjax.hpo.judged import Judged
from lrjax.hpo.lineup import Lineup, weighed
from lrjax.identity import finite
from lrjax.reports.selected import ANSWER as ANSWER
from lrjax.reports.selected import FIGURES as FIGURES

TABLE = "selection.csv"


@dataclasses.dataclass(frozen=True)
class Selection:
    """The answer of a selection; print it.

    Attributes:
      task: name of the task.
      method, hparams: the winner, with every hyperparameter.
      label: the winner as in `judged`: method, and learning rate where it needs one.
      how: which way was taken: 'prior', 'race' or 'bakeoff'.
      why: why that way.
      metric: name of the metric, measured on the validation part.
      scale: the metric itself: its direction, unit, digits and bounds.
      score: the winner's mean over its runs; NaN if it was not trained.
      values: the winner's values, one per run.
      interval: 95 % interval of the mean, as returned by `stats.interval`; NaN with
        fewer than three runs. Slightly optimistic: the winner was chosen by these
        values.
      best: probability that the winner is the best of the contenders that were trained
        (of all, where fewer than two were).
      near: probability that it is at most half a point worse than the best of all
        contenders, trained or not.
      runner_up: the trained contender with the next best chances; '' if none.
      runner_up_better: probability that it is better than the winner.
      described: the task's features; None if it was not looked at.
      similar: families of known tasks that the prior leans on, and their shares.
      unlike: whether nearly all known tasks are more alike to others than this one.
      surprised: whether the first runs contradicted the prior.
      cost: updates of all runs, in full runs.
      budget: the limit of `cost`.
      probed: what looking at the task cost beside, in full runs.
      seeds: seeds of the winner's runs.
      horizon: updates of a full run.
      snippet: Python that trains with the winner outside of lrjax.
      judged: every contender, the best first.
      left_out: names of methods that were not tried.
    """

    task: str
    method: str
    hparams: Mapping[str, Any]
    label: str
    how: str
    why: str
    metric: str
    scale: Metric
    score: float
    values: tuple[float, ...]
    interval: tuple[float, float]
    best: float
    near: float
    runner_up: str
    runner_up_better: float
    described: Mapping[str, float] | None
    similar: tuple[tuple[str, float], ...]
    unlike: bool
    surprised: bool
    cost: float
    budget: float
    probed: float
    seeds: tuple[int, ...]
    horizon: int
    snippet: str
    judged: tuple[Judged, ...]
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        horizon = counted(self.horizon, "update", form="d")
        lines = [
            printable(f"{self.task}: {self.label}"),
            f"  hyperparameters  {_shown(self.hparams)}",
            f"  validation {self.scale.label}  {self._measured()}",
        ]
        trained = sum(bool(each.values) for each in self.judged)
        count = len(self.judged)
        among = f"the {trained} trained" if trained > 1 else f"all {count}"
        lines.append(
            f"  best of {among} with probability {100 * self.best:.0f} %, within half "
            f"a point of the best of all {count} with {100 * self.near:.0f} %"
        )
        if self.runner_up:
            lines.append(
                f"  runner-up  {self.runner_up}; probability that it is better: "
                f"{100 * self.runner_up_better:.0f} %"
            )
        lines += ["", *judged_lib.table(self.judged, self.scale.shown), ""]
        lines.append(textwrap.fill(self._known(), 88, subsequent_indent="    "))
        lines.append(
            f"  cost  {self.cost:.2f} full runs of {horizon} (budget "
            f"{self.budget:g}), and {self.probed:.2f} to look at the task"
        )
        if self.left_out:
            names = f"  not tried  {', '.join(self.left_out)}"
            lines.append(textwrap.fill(names, 88, subsequent_indent="    "))
        code = textwrap.indent(self.snippet, "    ")
        return "\n".join([*lines, "", "  To train with it:", "", code])

    def _measured(self) -> str:
        """The winner's score and its spread, in words."""
        shown, (low, high) = self.scale.shown, self.interval
        if not self.values:
            return "not trained"
        if not math.isnan(low):
            spread = f"95 % interval {shown(low)} to {shown(high)}, "
        else:
            several = len(self.values) > 1
            spread = f"{', '.join(map(shown, self.values))}, " if several else ""
        return f"{shown(self.score)} ({spread}{counted(len(self.values), 'run')})"

    def _known(self) -> str:
        """A line on what known tasks say, and whether the runs agree."""
        expected = max(self.judged, key=lambda each: each.expected)
        families = weighed(self.similar)
        text = f"  known tasks  most like {families}" if families else "  known tasks"
        text += f" expect most of {expected.label}"
        if self.unlike:
            text += "; but this task is unlike all of them, so trust them little"
        if self.surprised:
            text += "; the first runs contradicted them, so they count for less"
        return text


def _shown(hparams: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in hparams.items())


def conclude(lineup: Lineup, course: Course, answer: proposals.Answer) -> Selection:
    """The answer of a selection that has ended.

    Args:
      lineup: who could be trained, those that a bake-off has added, too.
      course: what was trained and measured.
      answer: who won.
    """
    metric, winner = lineup.task.metric, answer.winner
    contender = lineup.contenders[winner]
    measured = course.values()
    own = [value for wanted, value in measured.items() if wanted.who == winner]
    chance = answer.best
    second, runner_up, better = answer.runner_up, "", math.nan
    if second is not None:
        pair = answer.belief.only([winner, second])
        runner_up = lineup.contenders[second].label
        better = float(posterior.chances(pair).best[1])
    trained = {lineup.contenders[wanted.who].method.name for wanted in measured}
    tried = trained or {contender.method.name}
    prior = course.judge.prior
    names = [(each.label, each.method.name, each.rate) for each in lineup.contenders]
    return Selection(
        task=lineup.name,
        method=contender.method.name,
        hparams=dict(contender.hparams),
        label=contender.label,
        how=lineup.plan.how,
        why=lineup.why,
        metric=metric.name,
        scale=metric,
        score=float(np.mean(own)) if own else math.nan,
        values=tuple(own),
        interval=stats.interval(np.array(own), metric) if own else (math.nan, math.nan),
        best=chance[winner],
        near=answer.near,
        runner_up=runner_up,
        runner_up_better=better,
        described=lineup.described,
        similar=tuple((each.family, each.share) for each in prior.similar),
        unlike=prior.unlike,
        surprised=course.surprised,
        cost=float(len(measured)),
        budget=lineup.budget,
        probed=lineup.probed,
        seeds=tuple(lineup.seed(run) for run in range(len(own))),
        horizon=lineup.horizon,
        snippet=method_code.snippet(
            contender.method, dict(contender.hparams), lineup.horizon
        ),
        judged=judged_lib.judged(course, answer, names),
        left_out=tuple(m.name for m in lineup.chosen if m.name not in tried),
    )


def write(answers: Sequence[Selection], tables: results.Tables) -> None:
    """Write the answers as JSON, a table of all contenders, and a figure.

    Raises:
      UsageError: if they cannot be written.
    """
    content = finite([_plain_answer(answer) for answer in answers])
    tables.replace(ANSWER, json.dumps(content, indent=1) + "\n")
    tables.replace(TABLE, _table(answers))
    reports.races(content, tables.workdir)


def _plain_answer(answer: Selection) -> dict[str, Any]:
    """An answer as a dictionary for JSON."""
    (scale,) = results.describe([answer.scale])
    fields = {f.name: getattr(answer, f.name) for f in dataclasses.fields(answer)}
    judged = [dataclasses.asdict(result) for result in answer.judged]
    return {**fields, "scale": scale, "judged": judged}


def _table(answers: Sequence[Selection]) -> str:
    """All contenders as CSV."""
    import pandas as pd

    table = pd.DataFrame(
        {
            "task": answer.task,
            "contender": result.label,
            "known_tasks_say": result.expected,
            "known_tasks_sd": result.expected_sd,
            "runs": len(result.values),
            answer.metric: float(np.mean(result.values or [math.nan])),
            "values": " ".join(f"{value:.6g}" for value in result.values),
            "believed": result.now,
            "believed_sd": result.now_sd,
            "best": result.best,
        }
        for answer in answers
        for result in answer.judged
    )
    return sheets.csv(table, "%.6g").decode()
