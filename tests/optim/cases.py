"""What the common tests run: every method, and each with its flags the other way."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lrjax import optim
from lrjax.core import Method, Range
from lrjax.methods import METHODS, split

# On one batch SOAP's second gradient is that of its basis: diagonal up to rounding
# errors, which alone make the other steps, unless `eps` is above them.
DAMPED = {"soap": {"eps": 1e-2}}
CANDIDATES = 16  # settings of a method that are tried on a test function


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One method.

    Attributes:
      name: for reports; nothing depends on it.
      build: from the horizon and hyperparameters to the transformation; those that are
        not given have the method's defaults.
      hparams: a value, away from the default where possible, for every hyperparameter
        that may be traced.
      candidates: the defaults and draws from the search space.
    """

    name: str
    build: Callable[..., Any]
    hparams: Mapping[str, float]
    candidates: tuple[Mapping[str, float], ...]


def _middle(range_: Range) -> float:
    if range_.log:
        return math.sqrt(range_.low * range_.high)
    return (range_.low + range_.high) / 2


def _away(value: float, range_: Range | None) -> float:
    """Another value for a hyperparameter than its default."""
    if range_ is not None:
        return _middle(range_)
    if value == 0:
        return 0.01
    if math.isinf(value):
        return 1.5
    return 100 * value if value < 1e-3 else 0.75 * value


def _draws(ranges: Mapping[str, Range]) -> list[dict[str, float]]:
    """Points of a search space, the same ones in every process."""
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(CANDIDATES - 1):
        draw = {}
        for name, range_ in sorted(ranges.items()):
            part = rng.uniform()
            if range_.log:
                draw[name] = range_.low ** (1 - part) * range_.high**part
            else:
                draw[name] = range_.low * (1 - part) + range_.high * part
            if range_.integer:
                draw[name] = round(draw[name])
        draws.append(draw)
    return draws


def _case(name: str, method: Method, **changed: Any) -> Case:
    ranges = method.space.ranges
    needed = {key: _middle(ranges[key]) for key in method.required}
    defaults = dict(method.defaults) | needed | changed
    traced = split(method, defaults)[1]

    def build(horizon: Any = 8, **hparams: Any) -> Any:
        return method.build(horizon, **(defaults | hparams))

    return Case(
        name=name,
        build=build,
        hparams={key: _away(value, ranges.get(key)) for key, value in traced.items()}
        | DAMPED.get(method.name, {}),
        candidates=({key: traced[key] for key in ranges}, *_draws(ranges)),
    )


def _flags(method: Method) -> dict[str, bool]:
    return {k: not v for k, v in method.defaults.items() if isinstance(v, bool)}


CASES = tuple(_case(name, method) for name, method in METHODS.items())
FLAGGED = tuple(
    _case(f"{name}-flags", method, **_flags(method))
    for name, method in METHODS.items()
    if _flags(method) and not method.required
)


def _takes_schedule(name: str) -> bool:
    rate = inspect.signature(getattr(optim, name)).parameters.get("learning_rate")
    return rate is not None and rate.annotation == "base.ScalarOrSchedule"


def _complete(name: str) -> Callable[..., Any]:
    """An optimiser that needs no argument; what wraps another one, around SGD."""
    function = getattr(optim, name)
    if "base_optimizer" in inspect.signature(function).parameters:
        return functools.partial(function, optim.sgd(1.0))
    return function


# The optimisers whose learning rate may be a schedule of the update count.
SCHEDULABLE = {name: _complete(name) for name in filter(_takes_schedule, optim.__all__)}
