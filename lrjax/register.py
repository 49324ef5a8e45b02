"""Decorators that register parts of one's own under a name.

What is registered is known to the process that imports the module. `--config.methods=`
and the like import it by path ('my_package.methods:own'), also on workers of a cluster;
an installed package can offer it by an entry point (docs/own.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from lrjax import plugins
from lrjax.core import METRICS, Metric, Range, UsageError

F = TypeVar("F", bound=Callable[..., Any])


def register_method(
    name: str = "",
    space: Mapping[str, Range | Sequence[Any]] | None = None,
    **fields: Any,
) -> Callable[[F], F]:
    """Register a function of hyperparameters as a method.

    Args:
      name: the method's name; that of the function if it is empty.
      space: hyperparameter -> what to tune it over: (low, high), (low, high, 'log') or
        a `lrjax.core.Range`.
      fields: `family`, `source`, `advice`, `static`, `domains` or `needs_rate` of
        `lrjax.core.Method`.

    Raises:
      UsageError: if the function cannot be a method, or the name is lrjax's own.

    Example:
      >>> import optax
      >>> @register_method("lion_parabola", space={"learning_rate": (1e-5, 1e-2)})
      ... def lion(horizon, learning_rate=1e-3, b1=0.9):
      ...     rate = lambda step: learning_rate * (1 - step / horizon) ** 2
      ...     return optax.lion(rate, b1=b1)

    From then on 'lion_parabola' is a method, as in
    `lrjax.compare(task, ["lion_parabola", "adamw_cosine"])`.
    """
    from lrjax import methods, own

    _check_called("register_method", name)

    def decorate(function: F) -> F:
        method = own.method_of(function, name, space, **fields)
        plugins.register(
            "method", method.name, method, methods.METHODS, methods.SHIPPED
        )
        own.remember(function, method)
        return function

    return decorate


def register_task(name: str) -> Callable[[F], F]:
    """Register a function that returns a `lrjax.Task`; it may take `TaskOptions`.

    Example:
      >>> import numpy as np
      >>> from flax import linen as nn
      >>> from lrjax.core import Task
      >>> x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
      >>> @register_task("mine/small")
      ... def make():
      ...     return Task.from_flax(nn.Dense(1), "huber", train=(x, x[:, 0]))
    """
    from lrjax import tasks

    _check_called("register_task", name)

    def decorate(make: F) -> F:
        factory = tasks.factory_of(name, make)
        plugins.register("task", name, factory, tasks.TASKS, tasks.SHIPPED)
        return make

    return decorate


def register_metric(metric: Metric) -> Metric:
    """Register a metric, so that tasks and reports find it by its name.

    Example:
      >>> hits = Metric("hits", lambda sums: sums["hits"] / sums["count"], True)
      >>> register_metric(hits).name
      'hits'
    """
    plugins.register("metric", metric.name, metric, METRICS, _METRICS)
    return metric


def register_tuner(name: str) -> Callable[[F], F]:
    """Register a class of tuners, `Tuner(problem)` of `lrjax.hpo.tuners`.

    Example:
      >>> from lrjax.hpo import tuners
      >>> @register_tuner("more_random")
      ... class MoreRandom(tuners.Random):
      ...     pass
    """
    import lrjax.hpo.tuners as tuners

    _check_called("register_tuner", name)

    def decorate(tuner: F) -> F:
        plugins.register("tuner", name, tuner, tuners.PLAIN, tuners.SHIPPED)
        return tuner

    return decorate


def register_launcher(
    name: str, trains: str = "", remote: bool = False
) -> Callable[[F], F]:
    """Register a `lrjax.launch.session.Launch`.

    Args:
      name: for `launcher=` and `--launcher`.
      trains: what trains, for `--help`.
      remote: whether this process needs no JAX to train runs.

    Example:
      >>> import os
      >>> from lrjax.launch import local
      >>> @register_launcher("polite", trains="this process, at a low priority")
      ... def polite(settings, workdir, data_dir=None, overrides=None):
      ...     os.nice(5)
      ...     return local.launch(settings, workdir, data_dir, overrides)
    """
    from lrjax import launch

    _check_called("register_launcher", name)

    def decorate(function: F) -> F:
        known = launch.registered(function, trains, remote)
        plugins.register("launcher", name, known, launch.LAUNCHERS, launch.SHIPPED)
        return function

    return decorate


def register_analysis(function: F) -> F:
    """Register a section of reports: `function(study, writer) -> Section | None`.

    Example:
      >>> @register_analysis
      ... def times(study, writer):
      ...     table = study.runs.groupby("method", as_index=False)["seconds"].mean()
      ...     said = f"{table['method'][table['seconds'].idxmax()]} takes longest."
      ...     return writer.section("times", "Seconds of a run", said, "", table)
    """
    from lrjax.reports import analyses

    named = [own.__qualname__ for own in analyses.ANALYSES]
    if function.__qualname__ in named:  # defined anew, as in a notebook
        analyses.ANALYSES[named.index(function.__qualname__)] = function
    else:
        analyses.ANALYSES.append(function)
    return function


def _check_called(decorator: str, name: object) -> None:
    """Refuse a decorator that stands without its brackets.

    Raises:
      UsageError: if it got what it decorates in place of a name.
    """
    if callable(name):
        given = getattr(name, "__name__", "name")
        raise UsageError(
            f'write @lrjax.{decorator}("{given}"), with a name in brackets'
        )


_METRICS = frozenset(METRICS)
