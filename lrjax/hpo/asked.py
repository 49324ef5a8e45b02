"""Checks what `lrjax.select` and `lrjax.advise` are asked with."""

from __future__ import annotations

import numbers
import operator
import os
from collections.abc import Iterable
from typing import Any

import jax
from ml_collections import ConfigDict

from lrjax import config as config_lib
from lrjax import methods as methods_lib
from lrjax import own, plugins, protocol, tasks
from lrjax.common import files
from lrjax.config import Settings
from lrjax.core import Method, Task, UsageError
from lrjax.hpo import prior
from lrjax.tasks.checks import check_task


def check(
    who: str,
    task: Any,
    workdir: Any,
    data_dir: Any,
    log: Any,
) -> str | None:
    """Refuse arguments of the wrong kind; return the directory of data files.

    Args:
      who: the function that was called, for messages.
      task, workdir, data_dir, log: its arguments.

    Raises:
      UsageError: if one is of the wrong kind.
    """
    if not isinstance(task, Task | str):
        raise UsageError(f"{who}: {tasks.no_task(task)}")
    for name, folder in (("workdir", workdir), ("data_dir", data_dir)):
        if folder is not None and not isinstance(folder, str | os.PathLike):
            raise UsageError(f"{who}: {name} must be a path, not {brief(folder)}")
    if not callable(log):
        raise UsageError(f"{who}: log must be a function, not {brief(log)}")
    return None if data_dir is None else str(files.expanded(data_dir))


def config(
    who: str, task: Task | str, epochs: int | None, steps: int | None
) -> ConfigDict:
    """The config of a task's full runs."""
    found = config_lib.base()
    found.tasks = (task if isinstance(task, str) else str(task.name),)
    found.methods = ("adam",)  # a placeholder; the chosen ones are given directly
    found.epochs = None if epochs is None else whole(who, "epochs", epochs)
    found.steps = None if steps is None else whole(who, "steps", steps)
    # Users who compute in double precision want it here, too.
    found.precision = "float64" if jax.config.values["jax_enable_x64"] else "auto"
    return found


def load(task: Task | str, settings: Settings, data_dir: str | None) -> Task:
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


def usual() -> list[Method]:
    """Methods to choose from where none is named.

    Those that known tasks were trained with, those with published values, and what the
    user has registered. Of lrjax's other methods nothing is known yet, and each would
    take a run from those of which something is: they enter where they are named.
    """
    measured = prior.methods()
    return [
        method
        for name, method in methods_lib.METHODS.items()
        if name in measured or method.required or name not in methods_lib.SHIPPED
    ]


def chosen(who: str, methods: Any) -> list[Method]:
    """Methods from the argument `methods`: names, methods, one of these, or None.

    Args:
      who: the function that was called, for messages; also below.
      methods: the argument.

    Raises:
      UsageError: if something else is among them, one comes twice, or none is given.
    """
    if methods is None:
        return usual()
    return [
        _checked(who, method)
        if isinstance(method, Method)
        else methods_lib.find(method)
        for method in own.methods_of(methods, f"{who}: ")
    ]


def _checked(who: str, method: Method) -> Method:
    """A method, after a first step if it is the user's own.

    Raises:
      UsageError: if it fails.
    """
    if methods_lib.METHODS.get(method.name) is method:
        return method
    plugins.check_free(f"{who}: method", method.name, methods_lib.SHIPPED)
    methods_lib.own_options(method)
    return method


def whole(who: str, name: str, value: Any) -> int:
    """A whole number, of Python or NumPy."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise UsageError(f"{who}: {name} must be a whole number, not {brief(value)}")


def number(who: str, name: str, value: Any) -> float:
    """A number, of Python or NumPy."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    raise UsageError(f"{who}: {name} must be a number, not {brief(value)}")


def folders(value: Any) -> tuple[Any, ...]:
    """Directories, or one; paths become text."""
    if isinstance(value, str | os.PathLike) or not isinstance(value, Iterable):
        value = (value,)
    return tuple(os.fspath(v) if isinstance(v, os.PathLike) else v for v in value)


def brief(value: object) -> str:
    """A value of the wrong kind in at most some 40 characters, for messages."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:37]}... ({type(value).__name__})"
