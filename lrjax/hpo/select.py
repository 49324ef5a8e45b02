"""The Python function `lrjax.select`: checks its arguments and selects on one task."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lrjax import config as config_lib
from lrjax import console, own
from lrjax.common import numerics
from lrjax.core import Task
from lrjax.hpo import asked
from lrjax.hpo.race import race_all
from lrjax.hpo.selection import Selection
from lrjax.launch import local
from lrjax.launch.turns import in_turn
from lrjax.track.listeners import OnRows, of_function


@in_turn
def select(
    task: Task | str,
    methods: own.Methods | None = None,
    budget: float | None = None,
    epochs: int = 100,
    steps: int | None = None,
    seeds: int | Iterable[int] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    data_dir: str | None = None,
    log: Callable[[str], Any] = console.say,
    how: str = "auto",
    seconds: float = 60.0,
    history: Iterable[str | os.PathLike[str]] = (),
    on_rows: OnRows | None = None,
) -> Selection:
    """Find the method and hyperparameters that are best for a task.

    Args:
      task: a `lrjax.core.Task`, or the name of one.
      methods: names, or your own methods or functions, as in `lrjax.compare`; None
        for those that known tasks were trained with, and those you registered.
      budget: what may be spent, in full runs: with less than two nothing is compared,
        with one for each contender all are trained. None: by `seconds`.
      epochs: passes over the training part in a full run.
      steps: updates of a full run, in place of `epochs`.
      seeds: how many seeds, or which, for every contender that is trained; None: more
        for those that lead.
      workdir: directory of the tables, figure and answer, from which an interrupted
        selection resumes; None for a temporary directory.
      data_dir: directory searched first for the data files of a named task.
      log: called with each line of progress.
      how: 'prior', what known tasks say; 'race', train some contenders; 'bakeoff', all;
        'auto', by the budget or by `seconds`.
      seconds: without a budget, all contenders are trained where that is predicted to
        take at most so long, else some.
      history: working directories, or globs such as `runs/*`, whose finished
        bake-offs and runs add to what is known of tasks.
      on_rows: called with lists of rows as they are measured, as in `lrjax.compare`.

    Returns:
      The answer; print it.

    Raises:
      UsageError: if the task is broken, no method can run on it, the budget is too
        small or all contenders diverge; one line that says what to change.

    Example:
      >>> import lrjax
      >>> found = lrjax.select("libsvm/iris", ["adam", "momentum"], budget=4, steps=50)
      >>> found.method in ("adam", "momentum"), found.cost <= 4
      (True, True)
    """
    data_dir = asked.check("select", task, workdir, data_dir, log)
    listeners = of_function(on_rows)
    chosen = asked.chosen("select", methods)
    config = asked.config("select", task, epochs, steps)
    config.select.budget = None
    if budget is not None:
        config.select.budget = asked.number("select", "budget", budget)
    config.select.seeds = _seeds(seeds)
    config.select.history = asked.folders(history)
    config.select.how = how
    config.select.seconds = asked.number("select", "seconds", seconds)
    settings = config_lib.check(config)
    with numerics.fixed(settings.precision), contextlib.ExitStack() as stack:
        loaded = asked.load(task, settings, data_dir)
        if workdir is None:
            temporary = tempfile.TemporaryDirectory(prefix="lrjax-select-")
            workdir = stack.enter_context(temporary)
        launcher = stack.enter_context(local.launch(settings, workdir, data_dir))
        launcher.session.live.listen(listeners)
        named = methods is not None
        return race_all({loaded.name: loaded}, chosen, named, launcher, log)[0]


def _seeds(value: Any) -> int | tuple[int, ...] | None:
    """Read the seeds: their number, a sequence, a range or a NumPy array."""
    if value is None:
        return None
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        return asked.whole("select", "seeds", value)
    return tuple(asked.whole("select", "each of seeds", seed) for seed in value)
