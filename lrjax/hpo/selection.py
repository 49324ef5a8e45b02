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
from lrjax.hpo import method_code, posterior, proposals
from lrjax.hpo.lineup import Lineup, weighed
from lrjax.hpo.proposals import Wanted
from lrjax.identity import finite
from lrjax.reports.selected import ANSWER as ANSWER
from lrjax.reports.selected import FIGURES as FIGURES

TABLE = "selection.csv"
_SHOWN = 5  # contenders in the table that is printed


@dataclasses.dataclass(frozen=True)
class Judged:
    """What is believed of a contender, before and after the runs.

    Beliefs are in points (docs/selection.md) behind the best there is.

    Attributes:
      label: method, and learning rate where it needs one.
      method, rate: its name and learning rate; NaN for methods that need none.
      expected, expected_sd: what known tasks say of it, and the standard deviation.
      values: the metric on the validation part, one per run; not finite where a run
        diverged or the metric is undefined; empty if it was not trained.
      behind: points of each run behind the best run on the same validation rows.
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
        lines += ["", *self._table(), ""]
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

    def _table(self) -> list[str]:
        """What was expected, measured and is believed now of the leading contenders."""
        title = "points behind the best"
        width = max(len(title), *(len(each.label) for each in self.judged[:_SHOWN]))
        row = f"  {{:{width}}}  {{:>15}}  {{:>20}}  {{:>13}}".format
        lines = [row(title, "known tasks say", "measured", "now")]
        for each in self.judged[:_SHOWN]:
            values = ", ".join(self.scale.shown(value) for value in each.values[:3])
            lines.append(
                row(
                    each.label,
                    f"{0.0 - each.expected:.1f} +- {each.expected_sd:.1f}",
                    values + (", ..." if len(each.values) > 3 else "") or "-",
                    f"{0.0 - each.now:.1f} +- {each.now_sd:.1f}",
                )
            )
        return lines


def _shown(hparams: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in hparams.items())


def conclude(
    lineup: Lineup,
    answer: proposals.Answer,
    measured: Mapping[Wanted, float],
    reached: Mapping[Wanted, float],
    surprised: bool,
) -> Selection:
    """The answer of a selection that has ended.

    Args:
      lineup: who could be trained, on what plan.
      answer: who won.
      measured: the metric of each run, in the order in which they were asked for.
      reached: the same in points.
      surprised: whether the first runs contradicted the prior.
    """
    metric, winner = lineup.task.metric, answer.winner
    contender = lineup.contenders[winner]
    best: dict[int, float] = {}  # points, by run
    for wanted, point in reached.items():
        best[wanted.run] = max(point, best.get(wanted.run, -math.inf))
    values: dict[int, list[float]] = {}
    behind: dict[int, list[float]] = {}
    for wanted, point in reached.items():
        values.setdefault(wanted.who, []).append(measured[wanted])
        off = point - best[wanted.run] if math.isfinite(point) else math.nan
        behind.setdefault(wanted.who, []).append(off)
    own = values.get(winner, [])
    chance = answer.best
    others = sorted((i for i in chance if i != winner), key=lambda i: -chance[i])
    runner_up, better = "", math.nan
    if others:
        pair = answer.belief.only([winner, others[0]])
        runner_up = lineup.contenders[others[0]].label
        better = float(posterior.chances(pair).best[1])
    tried = {lineup.contenders[i].method.name for i in values} or {
        contender.method.name
    }
    prior = lineup.judge.prior
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
        surprised=surprised,
        cost=float(len(measured)),
        budget=lineup.budget,
        probed=lineup.probed,
        seeds=tuple(lineup.seed(run) for run in range(len(own))),
        horizon=lineup.horizon,
        snippet=method_code.snippet(
            contender.method, dict(contender.hparams), lineup.horizon
        ),
        judged=_judged(lineup, answer, values, behind),
        left_out=tuple(m.name for m in lineup.chosen if m.name not in tried),
    )


def _judged(
    lineup: Lineup,
    answer: proposals.Answer,
    values: Mapping[int, Sequence[float]],
    behind: Mapping[int, Sequence[float]],
) -> tuple[Judged, ...]:
    """All contenders, those in the running first, by what is believed of them."""
    before, after, chance = lineup.judge.prior.belief, answer.belief, answer.best

    def place(i: int) -> tuple[bool, bool, bool, float]:
        """Sort key: the winner, those trained, others, lost ones; then by belief."""
        lost = i in values and i not in chance
        return i != answer.winner, lost, i not in values, -float(after.mean[i])

    def spread(belief: posterior.Belief, i: int) -> float:
        return math.sqrt(max(0.0, float(belief.covariance[i, i])))

    # Behind the best that is expected, as the best itself is not known.
    best, best_now = float(before.mean.max()), float(after.mean.max())
    return tuple(
        Judged(
            label=lineup.contenders[i].label,
            method=lineup.contenders[i].method.name,
            rate=lineup.contenders[i].rate,
            expected=float(before.mean[i]) - best,
            expected_sd=spread(before, i),
            values=tuple(values.get(i, ())),
            behind=tuple(behind.get(i, ())),
            now=float(after.mean[i]) - best_now,
            now_sd=spread(after, i),
            best=chance.get(i, 0.0),
        )
        for i in sorted(range(len(lineup.contenders)), key=place)
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
