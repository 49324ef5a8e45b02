"""What a user's own finished bake-offs add to what is known of tasks.

A bake-off has trained every contender on a task, so its `selection.json` says of that
task what `priors.npz` says of its tasks.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lrjax import results
from lrjax.common import files
from lrjax.core import UsageError
from lrjax.hpo import points, prior
from lrjax.reports import selected

_LEAST = 0.9  # share of the known contenders that a bake-off must have trained
_OWN = "your "  # begins the names of families of these tasks


class Past(NamedTuple):
    """A task on which all contenders were trained.

    Attributes:
      task: its name.
      kind: of its metric, as in `points`.
      described: its features.
      scores: (method, rate) of each contender that was trained -> points behind the
        best, as was believed in the end; the rate is -1 for methods without one.
    """

    task: str
    kind: str
    described: Mapping[str, float]
    scores: Mapping[tuple[str, float], float]


def read(patterns: Sequence[str]) -> list[Past]:
    """Read the bake-offs in some directories; others in them are not used.

    Args:
      patterns: working directories, or globs of them such as 'runs/*'.

    Raises:
      UsageError: if a pattern matches nothing, or a file is damaged.
    """
    folders: list[str] = []
    for pattern in patterns:
        matching = sorted(glob.glob(str(files.expanded(pattern))))
        if not matching:
            raise UsageError(f"config.select.history: no directory is {pattern}")
        folders += matching
    return selected.read(
        folders, lambda content: [_past(each) for each in content if _usable(each)]
    )


def _usable(answer: Mapping[str, Any]) -> bool:
    """Whether an answer is of a bake-off on a task that was looked at."""
    return answer["how"] == "bakeoff" and answer["described"] is not None


def _past(answer: Mapping[str, Any]) -> Past:
    kind = points.Scale.of(results.metric_from(answer["scale"])).kind
    described = {str(k): float(v) for k, v in answer["described"].items()}
    scores = {
        _key(str(each["method"]), each["rate"]): float(each["now"])
        for each in answer["judged"]
        if each["values"]
    }
    if not np.isfinite([*described.values(), *scores.values()]).all():
        raise ValueError("a number is not finite")
    return Past(str(answer["task"]), kind, described, scores)


def _key(method: str, rate: float | None) -> tuple[str, float]:
    """A contender as in `Past.scores`."""
    unrated = rate is None or math.isnan(rate)
    return method, -1.0 if unrated else float(f"{rate:.4g}")


def extend(table: prior.Known, past: Sequence[Past]) -> prior.Known:
    """What is known, with tasks of the past.

    Tasks count whose metric is of the table's kind and on which nearly all of its
    contenders were trained; the others are as on average there.

    Args:
      table: what is known.
      past: of `read`.
    """
    keys = [
        _key(str(method), rate)
        for method, rate in zip(table.methods, table.rates.tolist(), strict=True)
    ]
    average = table.regret.mean(0)
    for each in past:
        there = np.array([key in each.scores for key in keys])
        whole = set(table.features) <= set(each.described)
        if not whole or there.mean() < _LEAST or each.kind != table.kind:
            continue
        values = np.array([each.scores.get(key, 0.0) for key in keys])
        values = np.clip(values - values[there].max(), -points.CLIP, 0)
        described = [each.described[name] for name in table.features]
        family = f"{_OWN}{each.task}"
        table = table._replace(
            described=np.vstack([table.described, described]),
            families=np.append(table.families, family),
            regret=np.vstack([table.regret, np.where(there, values, average)]),
            usual=np.append(table.usual, np.median(table.usual)),
        )
    return table


def added(table: prior.Known) -> np.ndarray:
    """The regrets of the tasks that `extend` has added [added, contenders]."""
    return table.regret[np.char.startswith(table.families, _OWN)]
