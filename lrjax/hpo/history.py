"""What a user's own finished bake-offs add to what is known of tasks.

A bake-off has trained every contender on a task, so its `selection.json` says of that
task what `priors.npz` says of its tasks.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrjax import results
from lrjax.common import files
from lrjax.core import UsageError
from lrjax.hpo import points, prior
from lrjax.hpo.prior import Past, key_of
from lrjax.reports import selected

_OWN = "your "  # begins the names of families of these tasks


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
        key_of(str(each["method"]), each["rate"]): float(each["now"])
        for each in answer["judged"]
        if each["values"]
    }
    if not np.isfinite([*described.values(), *scores.values()]).all():
        raise ValueError("a number is not finite")
    return Past(f"{_OWN}{answer['task']}", kind, described, scores)


def added(table: prior.Known) -> np.ndarray:
    """The regrets of the user's own tasks [added, contenders]."""
    return table.regret[np.char.startswith(table.families, _OWN)]
