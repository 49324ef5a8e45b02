"""The Python function `lrjax.advise`: checks its arguments and advises on one task."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lrjax import config as config_lib
from lrjax import console, own
from lrjax.common import files, numerics
from lrjax.common.temporary import Temporary
from lrjax.core import Task
from lrjax.hpo import asked
from lrjax.hpo.advice import Advice
from lrjax.hpo.adviser import advise_all
from lrjax.launch import local
from lrjax.launch.turns import in_turn
from lrjax.track.listeners import OnRows, of_function


@in_turn
def advise(
    task: Task | str,
    spend: float = 0.01,
    methods: own.Methods | None = None,
    epochs: int | None = 100,
    steps: int | None = None,
    workdir: str | os.PathLike[str] | None = None,
    data_dir: str | None = None,
    log: Callable[[str], Any] = console.say,
    history: Iterable[str | os.PathLike[str]] = (),
    on_rows: OnRows | None = None,
) -> Advice:
    """Say which methods and rates to train with where a full run is expensive.

    Methods are those that known tasks say are best in full runs. The share of a full
    run is spent on looking at the task and on short runs of two methods at several
    rates, each with its whole schedule in its own length, to find the rates.

    Args:
      task: a `lrjax.core.Task`, or the name of one.
      spend: share of one full run that may be spent, above 0 and at most 1.
      methods: names, or your own methods or functions, as in `lrjax.compare`; None
        for those that known tasks were trained with, and those you registered.
      epochs: passes over the training part in a full run.
      steps: updates of a full run, in place of `epochs`.
      workdir: directory of the tables and the advice, from which an interrupted call
        resumes; None for a temporary directory.
      data_dir: directory searched first for the data files of a named task.
      log: called with each line of progress.
      history: working directories, or globs such as `runs/*`, whose bake-offs add to
        what is known of tasks, as in `lrjax.select`.
      on_rows: called with lists of rows as they are measured, as in `lrjax.compare`.

    Returns:
      The advice; print it.

    Raises:
      UsageError: if the task is broken, no method can run on it, the share is not
        above 0 and at most 1, or all short runs diverge; one line that says what to
        change.

    Example:
      >>> import lrjax
      >>> methods = ["nadamw_cosine", "schedule_free_adamw"]
      >>> found = lrjax.advise("libsvm/iris", 0.5, methods, steps=1000)
      >>> len(found.recipes), len(found.runs), found.cost <= 0.5
      (3, 10, True)
    """
    data_dir = asked.check("advise", task, workdir, data_dir, log)
    listeners = of_function(on_rows)
    chosen = asked.chosen("advise", methods)
    config = asked.config("advise", task, epochs, steps)
    config.advise.spend = asked.number("advise", "spend", spend)
    config.select.history = asked.folders(history)
    settings = config_lib.check(config)
    kept = None
    if workdir is None:
        kept = Temporary()
        workdir = kept.path
    with numerics.fixed(settings.precision), contextlib.ExitStack() as stack:
        loaded = asked.load(task, settings, data_dir)
        launcher = stack.enter_context(local.launch(settings, workdir, data_dir))
        launcher.session.live.listen(listeners)
        named = methods is not None
        found = advise_all({loaded.name: loaded}, chosen, named, launcher, log)[0]
    return dataclasses.replace(found, workdir=Path(files.expanded(workdir)), _kept=kept)
