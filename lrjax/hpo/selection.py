"""The answer of a race: what won, how sure that is, and how to train with it."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrjax import report, results, stats
from lrjax.core import Metric, counted
from lrjax.identity import finite
from lrjax.method_code import snippet as snippet
from lrjax.report.selected import ANSWER as ANSWER
from lrjax.report.selected import FIGURES as FIGURES

TABLE = "selection.csv"


@dataclasses.dataclass(frozen=True)
class Judged:
    """A contender on a rung.

    Attributes:
      rung: its number, from 0.
      steps: updates after which all were compared.
      label: method, and rate where it needs one.
      cooled: whether it was judged by a branch that came to rest.
      values: the metric on the validation part, one per seed; not finite where the
        run diverged, or it is not defined.
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
    """What a race found; print it.

    Attributes:
      task: name.
      method, hparams: what won, every hyperparameter.
      label: of what won, as in `judged`: method, and rate where it needs one.
      metric: name of what the task is judged by, on its validation part.
      scale: the metric itself: its direction, unit, digits and bounds.
      score: mean of the winner over seeds at `judged_at`.
      values: of the winner there, one per seed.
      interval: 95 % interval of the mean, as from `stats.interval`; NaN with fewer
        than three seeds. The winner was chosen by these very numbers, so they flatter
        it a little.
      runner_up: the best other contender on the last rung that had one; '' if none.
      runner_up_better: probability that it is better than the winner, from paired
        differences over seeds on that rung; NaN where two seeds say nothing.
      cost: spent, in full runs.
      budget: what might have been spent.
      seeds: of every contender.
      horizon: updates of a full run.
      judged_at: updates after which the winner was judged for the last time.
      snippet: Python that trains with the winner without lrjax's runs and tables.
      judged: every contender on every rung, the best first.
      left_out: names of the methods that were not tried.
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
        sure = f"95 % interval {shown(low)} to {shown(high)}, "
        if math.isnan(low):
            each = f"{', '.join(map(shown, self.values))}, "
            sure = each if len(self.values) > 1 else ""
        horizon = counted(self.horizon, "update", form="d")
        at = "at the end of training"
        if self.judged_at < self.horizon:
            at = f"after {self.judged_at} of {horizon}, brought to rest"
        lines = [
            f"{self.task}: {self.label}",
            f"  hyperparameters  {_shown(self.hparams)}",
            f"  validation {self.scale.label}  {shown(self.score)} ({sure}"
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


def write(answers: Sequence[Selection], tables: results.Tables) -> None:
    """Writes answers as JSON, as a table of all contenders, and as a figure.

    Raises:
      UsageError: if they cannot be written.
    """
    content = finite([_plain_answer(answer) for answer in answers])
    tables.replace(ANSWER, json.dumps(content, indent=1) + "\n")
    tables.replace(TABLE, _table(answers))
    report.races(content, tables.workdir)


def _plain_answer(answer: Selection) -> dict[str, Any]:
    """An answer as it stands in JSON."""
    (scale,) = results.describe([answer.scale])
    fields = {f.name: getattr(answer, f.name) for f in dataclasses.fields(answer)}
    judged = [dataclasses.asdict(each) for each in answer.judged]
    return {**fields, "scale": scale, "judged": judged}


def _table(answers: Sequence[Selection]) -> str:
    import pandas as pd

    return pd.DataFrame(
        {
            "task": answer.task,
            "rung": each.rung + 1,
            "updates": each.steps,
            "contender": each.label,
            "brought_to_rest": each.cooled,
            answer.metric: float(np.mean(each.values)),
            "low": ends[0],
            "high": ends[1],
            "values": " ".join(f"{value:.6g}" for value in each.values),
            "verdict": each.verdict,
        }
        for answer in answers
        for each in answer.judged
        for ends in [stats.interval(np.array(each.values), answer.scale)]
    ).to_csv(index=False, float_format="%.6g")
