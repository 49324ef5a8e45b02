"""The answer of a race: the winner, how certain it is, and code to train with it."""

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
from lrjax.hpo import method_code
from lrjax.hpo.halving import Rung
from lrjax.hpo.lineup import Lineup
from lrjax.hpo.verdicts import chance_worse
from lrjax.identity import finite
from lrjax.reports.selected import ANSWER as ANSWER
from lrjax.reports.selected import FIGURES as FIGURES

TABLE = "selection.csv"


@dataclasses.dataclass(frozen=True)
class Judged:
    """A contender's result on a rung.

    Attributes:
      rung: number of the rung, from 0.
      steps: updates after which contenders were compared.
      label: method, and learning rate where it needs one.
      cooled: whether it was judged by a branch with a cooldown.
      values: the metric on the validation part, one per seed; not finite where the
        run diverged or the metric is undefined.
      verdict: 'goes on', or why it was dropped.
    """

    rung: int
    steps: int
    label: str
    cooled: bool
    values: tuple[float, ...]
    verdict: str


@dataclasses.dataclass(frozen=True)
class Selection:
    """The answer of a race; print it.

    Attributes:
      task: name of the task.
      method, hparams: the winner, with every hyperparameter.
      label: the winner as in `judged`: method, and learning rate where it needs one.
      metric: name of the metric, measured on the validation part.
      scale: the metric itself: its direction, unit, digits and bounds.
      score: the winner's mean over seeds at `judged_at`.
      values: the winner's values there, one per seed.
      interval: 95 % interval of the mean, as returned by `stats.interval`; NaN with
        fewer than three seeds. Slightly optimistic: the winner was chosen by these
        values.
      runner_up: the best other contender on the last rung that had one; '' if none.
      runner_up_better: probability that it is better than the winner, from paired
        differences over seeds on that rung; NaN with fewer than two seeds.
      cost: updates spent, in full runs.
      budget: the limit of `cost`.
      seeds: seeds of every contender.
      horizon: updates of a full run.
      judged_at: updates after which the winner was judged for the last time.
      snippet: Python that trains with the winner outside of lrjax.
      judged: every contender on every rung, the best first.
      left_out: names of methods that were not tried.
    """

    task: str
    method: str
    hparams: Mapping[str, Any]
    label: str
    metric: str
    scale: Metric
    score: float
    values: tuple[float, ...]
    interval: tuple[float, float]
    runner_up: str
    runner_up_better: float
    cost: float
    budget: float
    seeds: tuple[int, ...]
    horizon: int
    judged_at: int
    snippet: str
    judged: tuple[Judged, ...]
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown, (low, high) = self.scale.shown, self.interval
        spread = f"95 % interval {shown(low)} to {shown(high)}, "
        if math.isnan(low):
            several = len(self.values) > 1
            spread = f"{', '.join(map(shown, self.values))}, " if several else ""
        horizon = counted(self.horizon, "update", form="d")
        at = "at the end of training"
        if self.judged_at < self.horizon:
            at = f"after {self.judged_at} of {horizon}, brought to rest"
        lines = [
            printable(f"{self.task}: {self.label}"),
            f"  hyperparameters  {_shown(self.hparams)}",
            f"  validation {self.scale.label}  {shown(self.score)} ({spread}"
            f"{counted(len(self.seeds), 'seed')}, {at})",
        ]
        if self.runner_up:
            chance = "unknown with so few seeds"
            if not math.isnan(self.runner_up_better):
                chance = f"{100 * self.runner_up_better:.0f} %"
            lines.append(
                f"  runner-up  {self.runner_up}; probability that it is better: "
                f"{chance}"
            )
        lines.append(
            f"  cost  {self.cost:.2f} full runs of {horizon} (budget {self.budget:g})"
        )
        if self.left_out:
            names = f"  not tried  {', '.join(self.left_out)}"
            lines.append(textwrap.fill(names, 88, subsequent_indent="    "))
        code = textwrap.indent(self.snippet, "    ")
        return "\n".join([*lines, "", "  To train with it:", "", code])


def _shown(hparams: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in hparams.items())


def conclude(lineup: Lineup, history: Sequence[Rung]) -> Selection:
    """The answer of a race that has ended.

    Args:
      lineup: who raced, on what plan.
      history: all rungs in order; the last one keeps the winner alone.
    """
    plan, winner = lineup.plan, history[-1].verdict.kept[0]
    contender, metric = lineup.entries[winner], lineup.task.metric
    final = history[-1].scores[winner].values
    runner_up, better = _runner_up(lineup, history, winner)
    return Selection(
        task=lineup.name,
        method=contender.method.name,
        hparams=dict(contender.hparams),
        label=contender.label,
        metric=metric.name,
        scale=metric,
        score=float(metric.sign * final.mean()),
        values=tuple((metric.sign * final).tolist()),
        interval=stats.interval(metric.sign * final, metric),
        runner_up=runner_up,
        runner_up_better=better,
        cost=history[-1].spent / plan.horizon,
        budget=plan.budget / plan.horizon,
        seeds=plan.seeds,
        horizon=plan.horizon,
        judged_at=plan.rungs[-1],
        snippet=method_code.snippet(
            contender.method, dict(contender.hparams), plan.horizon
        ),
        judged=tuple(
            Judged(
                rung=rung,
                steps=plan.rungs[rung],
                label=lineup.entries[i].label,
                cooled=plan.start(rung, lineup.entries[i].needs_cooldown)
                < plan.rungs[rung],
                values=tuple((metric.sign * scores[i].values).tolist()),
                verdict=verdict.reasons.get(i, "goes on"),
            )
            for rung, scores, verdict, _ in history
            for i in verdict.order
        ),
        left_out=lineup.left_out,
    )


def _runner_up(
    lineup: Lineup, history: Sequence[Rung], winner: int
) -> tuple[str, float]:
    """Label of the best other contender, and probability that it beats the winner.

    Both from the last rung on which another contender was left; ('', NaN) if none.

    Args:
      lineup: who raced, on what plan.
      history: all rungs in order.
      winner: the winner's number.
    """
    for number, scores, verdict, _ in reversed(history):
        others = [i for i in verdict.order if i != winner]
        if others and np.isfinite(scores[others[0]].values).all():
            early = lineup.plan.rungs[number] < lineup.plan.horizon
            best, other = scores[winner].judged(early), scores[others[0]].judged(early)
            return lineup.entries[others[0]].label, chance_worse(best, other)
    return "", math.nan


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
    """All contenders on all rungs as CSV."""
    import pandas as pd

    table = pd.DataFrame(
        {
            "task": answer.task,
            "rung": result.rung + 1,
            "updates": result.steps,
            "contender": result.label,
            "brought_to_rest": result.cooled,
            answer.metric: float(np.mean(result.values)),
            "low": ends[0],
            "high": ends[1],
            "values": " ".join(f"{value:.6g}" for value in result.values),
            "verdict": result.verdict,
        }
        for answer in answers
        for result in answer.judged
        for ends in [stats.interval(np.array(result.values), answer.scale)]
    )
    return sheets.csv(table, "%.6g").decode()
