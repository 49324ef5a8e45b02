"""Known tasks from a user's own finished trainings.

A bake-off has trained every contender on a task, so its `selection.json` says of that
task what `priors.npz` says of its tasks. Other runs have trained some contenders
(`lrjax.hpo.finished`).
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrjax import results
from lrjax.common import files
from lrjax.core import Task, UsageError, counted
from lrjax.hpo import finished, points, prior
from lrjax.hpo.prior import Past, key_of
from lrjax.launch.session import Session
from lrjax.reports import selected


def known(
    session: Session, loaded: Mapping[str, Task], log: Callable[[str], Any]
) -> list[Past]:
    """The tasks of `select.history`, with a line for the log on what was found.

    The working directory of the session is not among them: its own answer must not
    change what the same command does next.

    Args:
      session: settings, working directory and data directory.
      loaded: the tasks that are selected on, by name.
      log: called with each line.

    Raises:
      UsageError: if a pattern matches nothing, or a file is damaged.
    """
    settings = session.settings
    found: list[Past] = []
    for folder in folders(settings.select.history):
        if os.path.realpath(folder) == os.path.realpath(session.workdir):
            continue
        past = bakeoffs(folder)
        names = {each.family for each in past}
        runs = finished.pasts(folder, settings, session.data_dir, loaded, log)
        found += past + [each for each in runs if each.family not in names]
    if not settings.select.history:
        return []
    said = (
        "nothing: no bake-off has finished there, nor runs of two contenders that "
        "known tasks were trained with"
    )
    if found:
        names = sorted({each.family for each in found})
        said = f"{counted(len(found), 'task')}: {', '.join(names)}"
    log(f"select.history adds {said}")
    return found


def folders(patterns: Sequence[str]) -> list[Path]:
    """The directories that patterns name, such as 'runs/*'.

    Raises:
      UsageError: if a pattern matches nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        matching = sorted(glob.glob(str(files.expanded(pattern))))
        if not matching:
            raise UsageError(f"config.select.history: no directory is {pattern}")
        found += map(Path, matching)
    return list(dict.fromkeys(found))


def bakeoffs(folder: Path) -> list[Past]:
    """The bake-offs in a directory; other answers in it are not used.

    Raises:
      UsageError: if the file is damaged.
    """
    return selected.read(
        [folder], lambda content: [_past(each) for each in content if _usable(each)]
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
    return Past(f"{prior.OWN}{answer['task']}", kind, described, scores)


def added(table: prior.Known) -> np.ndarray:
    """The regrets of the user's own tasks [added, contenders]."""
    return table.regret[np.char.startswith(table.families, prior.OWN)]
