"""Known tasks from a user's own finished runs.

Ordinary runs say of some contenders how well they did on a task. What is known of
similar tasks fills in the others: what is believed of all of them after these runs
stands for what a bake-off would have found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrjax import results
from lrjax.config import Settings
from lrjax.core import Task, UsageError, cut
from lrjax.engine.train import num_rows
from lrjax.hpo import points, prior, proposals
from lrjax.hpo.contenders import Contender, candidate
from lrjax.hpo.lineup import look
from lrjax.launch import blocks
from lrjax.methods import METHODS

_FEWEST = 2  # contenders: of one alone nothing follows, since the best is not known
# Contender -> the rows of its runs.
Rows = dict[prior.Candidate, list[Mapping[str, Any]]]


class Known(NamedTuple):
    """Finished runs of one length on one task.

    Attributes:
      task: its name.
      horizon: updates of each run.
      rows: of each contender that known tasks were trained with, its rows in the table.
    """

    task: str
    horizon: int
    rows: Rows


def read(folder: Path, settings: Settings) -> list[Known]:
    """The finished runs of a directory that say something of a task.

    Of a task with runs of several lengths the longest count.

    Args:
      folder: a working directory; it may hold no runs.
      settings: the config, for the precision.

    Raises:
      UsageError: if a table is damaged.
    """
    by_task: dict[str, dict[int, Rows]] = {}
    for row in results.read_rows(folder, results.RUNS):
        whole = row["steps"] == row["horizon"] or row["status"] == "diverged"
        contender = _candidate(row, settings)
        if whole and contender:
            lengths = by_task.setdefault(str(row["task"]), {})
            rows = lengths.setdefault(int(row["horizon"]), {})
            rows.setdefault(contender, []).append(row)
    return [
        Known(task, horizon, lengths[horizon])
        for task, lengths in by_task.items()
        for horizon in sorted(lengths, reverse=True)[:1]
        if len(lengths[horizon]) >= _FEWEST
    ]


def _candidate(row: Mapping[str, Any], settings: Settings) -> prior.Candidate | None:
    """The contender of a run as a prior knows it; None if it does not."""
    method = METHODS.get(row["method"])
    if method is None or set(row["hparams"]) != set(method.defaults):
        return None
    hparams = tuple(sorted(row["hparams"].items()))
    found = candidate(Contender(method, hparams, method.name), settings)
    known = found.usual and found.method in prior.methods()
    return found if known else None


def pasts(
    folder: Path,
    settings: Settings,
    data_dir: str | None,
    loaded: Mapping[str, Task],
    log: Callable[[str], Any],
) -> Iterator[prior.Past]:
    """Past tasks, from the finished runs of a directory.

    A task is described by a few gradients; one that cannot be made is left out with a
    line that says why.

    Args:
      folder: a working directory.
      settings: the config.
      data_dir: directory searched first for data files.
      loaded: tasks that are at hand, by name.
      log: called with each line of progress.

    Raises:
      UsageError: if a table is damaged.
    """
    metrics = results.load_metrics(folder)
    for known in read(folder, settings):
        if known.task not in metrics:
            continue
        try:
            task = loaded.get(known.task) or _made(known.task, settings, data_dir)
        except UsageError as error:
            reason = cut(str(error), 160)
            log(f"history: {folder}: {known.task} is left out: {reason}")
            continue
        described, _ = look(known.task, task, known.horizon, log)
        yield _past(known, task, metrics[known.task][0], described, settings)


def _made(name: str, settings: Settings, data_dir: str | None) -> Task:
    """Make a task of which only the name is at hand."""
    (task,) = blocks.make_tasks(dataclasses.replace(settings, tasks=(name,)), data_dir)
    return task


def _past(
    known: Known,
    task: Task,
    metric: Any,
    described: Mapping[str, float],
    settings: Settings,
) -> prior.Past:
    """A past task: the belief on all contenders of a table after some runs.

    Args:
      known: the runs.
      task: that they were trained on.
      metric: ranks them.
      described: the task's features.
      settings: the config, for the precision.
    """
    scale = points.Scale.of(metric)
    table = prior.known(scale.kind)
    pairs = zip(table.methods, table.rates.tolist(), strict=True)
    candidates = [prior.Candidate(str(method), rate) for method, rate in pairs]
    count = len(candidates)
    candidates += known.rows
    column = f"valid_{metric.name}"
    runs, values = [], []
    for who, rows in enumerate(known.rows.values(), count):
        for number, row in enumerate(rows):
            runs.append(proposals.Wanted(who, number))
            lost = row["status"] == "diverged"
            values.append(np.nan if lost else float(row[column]))
    measured = dict(zip(runs, points.points(values, scale).tolist(), strict=True))
    judge = proposals.Judge(
        prior.believe(table, candidates, described),
        1,  # all runs were measured on the same validation rows
        table.noise,
        num_rows(task.valid),
    )
    belief, _ = judge.believe(proposals.RACE, measured)
    mean = belief.mean[:count] - belief.mean[:count].max()
    keys = [prior.key_of(each.method, each.rate) for each in candidates[:count]]
    scores = dict(zip(keys, mean.tolist(), strict=True))
    return prior.Past(f"{prior.OWN}{known.task}", scale.kind, described, scores)
