"""The Python function `lrjax.select`: checks its arguments and selects on one task."""

from __future__ import annotations

import contextlib
import numbers
import operator
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from lrjax import config as config_lib
from lrjax import console, own, plugins, protocol, tasks
from lrjax import methods as methods_lib
from lrjax.common import files, numerics
from lrjax.config import Settings
from lrjax.core import Method, Task, UsageError, cut
from lrjax.hpo.race import race_all
from lrjax.hpo.selection import Selection
from lrjax.launch import local
from lrjax.tasks.checks import check_task
from lrjax.track.listeners import OnRows, of_function


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
    history: Iterable[str] = (),
    on_rows: OnRows | None = None,
) -> Selection:
    """Find the method and hyperparameters that are best for a task.

    Args:
      task: a `lrjax.core.Task`, or the name of one.
      methods: names, or your own methods or functions, as in `lrjax.compare`; None
        for all registered ones.
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
      history: working directories, or globs such as 'runs/*', whose bake-offs add to
        what is known of tasks.
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
    if not isinstance(task, Task | str):
        raise UsageError(
            f"select: task must be a lrjax.Task or the name of one, not {_brief(task)}"
        )
    for name, folder in (("workdir", workdir), ("data_dir", data_dir)):
        if folder is not None and not isinstance(folder, str | os.PathLike):
            raise UsageError(f"select: {name} must be a path, not {_brief(folder)}")
    data_dir = None if data_dir is None else str(files.expanded(data_dir))
    if not callable(log):
        raise UsageError(f"select: log must be a function, not {_brief(log)}")
    listeners = of_function(on_rows)
    chosen = _chosen(methods)
    config = config_lib.base()
    config.tasks = (task if isinstance(task, str) else str(task.name),)
    config.methods = ("adam",)  # a placeholder; `chosen` goes to the race directly
    config.epochs = None if epochs is None else _whole("epochs", epochs)
    config.steps = None if steps is None else _whole("steps", steps)
    config.select.budget = None if budget is None else _number("budget", budget)
    config.select.seeds = _seeds(seeds)
    config.select.history = _folders(history)
    config.select.how, config.select.seconds = how, _number("seconds", seconds)
    # Users who compute in double precision want it here, too.
    config.precision = "float64" if jax.config.values["jax_enable_x64"] else "auto"
    settings = config_lib.check(config)
    with numerics.fixed(settings.precision), contextlib.ExitStack() as stack:
        loaded = _load(task, settings, data_dir)
        if workdir is None:
            temporary = tempfile.TemporaryDirectory(prefix="lrjax-select-")
            workdir = stack.enter_context(temporary)
        launcher = stack.enter_context(local.launch(settings, workdir, data_dir))
        launcher.session.live.listen(listeners)
        named = methods is not None
        return race_all({loaded.name: loaded}, chosen, named, launcher, log)[0]


def _load(task: Task | str, settings: Settings, data_dir: str | None) -> Task:
    """The task of a name, or the user's own once it is checked."""
    if isinstance(task, str):
        options = tasks.TaskOptions(
            protocol=protocol.find(settings.protocol).data,
            data_dir=data_dir,
            precision=tasks.precision_of(task, settings.precision),
        )
        return tasks.make_task(task, options)
    check_task(task)
    return tasks.with_model(task)


def _chosen(methods: Any) -> list[Method]:
    """Methods from the argument `methods`: names, methods, one of these, or None.

    Raises:
      UsageError: if something else is among them, one comes twice, or none is given.
    """
    if methods is None:
        return list(methods_lib.METHODS.values())
    return [
        _checked(method) if isinstance(method, Method) else methods_lib.find(method)
        for method in own.methods_of(methods, "select: ")
    ]


def _checked(method: Method) -> Method:
    """A method, after a trial build if it is the user's own.

    Raises:
      UsageError: if it cannot be built.
    """
    if methods_lib.METHODS.get(method.name) is method:
        return method
    plugins.check_free("select: method", method.name, methods_lib.SHIPPED)
    try:
        built = method.build(100, **method.defaults)
    except Exception as error:  # the user's code may raise anything
        reason = f"{type(error).__name__}: {cut(str(error), 200)}"
        raise UsageError(
            f"select: method '{method.name}': build(100, **defaults) fails: {reason}"
        ) from error
    if not (hasattr(built, "init") and hasattr(built, "update")):
        raise UsageError(
            f"select: method '{method.name}': build returns {_brief(built)}, which is "
            "not a transformation of Optax"
        )
    return method


def _whole(name: str, value: Any) -> int:
    """A whole number, of Python or NumPy."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise UsageError(f"select: {name} must be a whole number, not {_brief(value)}")


def _number(name: str, value: Any) -> float:
    """A number, of Python or NumPy."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    raise UsageError(f"select: {name} must be a number, not {_brief(value)}")


def _folders(value: Any) -> tuple[Any, ...]:
    """Directories, or one."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)


def _seeds(value: Any) -> int | tuple[int, ...] | None:
    """How many seeds, or which: a number, a sequence, a range or a NumPy array."""
    if value is None:
        return None
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        return _whole("seeds", value)
    return tuple(_whole("each of seeds", seed) for seed in value)


def _brief(value: object) -> str:
    """A value of the wrong kind in at most some 40 characters, for messages."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:37]}... ({type(value).__name__})"
