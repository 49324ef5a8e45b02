"""Rows of the table of methods: from a function of `lrjax.optim` to fields."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any

from lrjax import optim
from lrjax.core import Domain, Method, Range, Space
from lrjax.optim import builders, schedules

FIXED, SCHEDULE, FREE, STATISTICS = (
    "fixed",
    "schedule",
    "learning-rate-free",
    "statistics",
)


def defaults(optimiser: builders.Optimiser) -> dict[str, Any]:
    """Return an optimiser's hyperparameters with their defaults."""
    parameters = inspect.signature(optimiser).parameters.values()
    of_run = ("horizon", "warmup_steps")  # set from the run and the schedule
    per_leaf = ("weight_decay_mask", "learning_rate_factors", "hidden")  # of a model
    left_out = (*of_run, *per_leaf, "slice_p")  # saves memory
    return {p.name: p.default for p in parameters if p.name not in left_out}


def _falls(hparams: Mapping[str, Any]) -> bool:
    """Whether the rate falls towards the horizon; averaging iterates needs no decay."""
    averages = hparams.get("averaging", False)
    return not averages and hparams["schedule"] not in schedules.ANYTIME


# Functions that make optimisers -> their names in a snippet.
_NAMES = {
    function: f"{holder}.{name}"
    for holder, module in (("builders", builders), ("optim", optim))
    for name, function in vars(module).items()
    if callable(function)
}


def scheduled(
    optimiser: builders.Optimiser,
    schedule: str = "constant",
    warmup_fraction: float = 0.0,
    averages: bool = False,
    **changed: Any,
) -> dict[str, Any]:
    """Return fields of a method whose rate follows a schedule.

    Args:
      optimiser: takes a schedule as its `learning_rate`.
      schedule: default schedule.
      warmup_fraction: default warm-up, as a fraction of the horizon.
      averages: whether it is evaluated at an average of its iterates.
      changed: other defaults that differ from the optimiser's own.
    """
    followed = {"schedule": schedule, "warmup_fraction": warmup_fraction}
    return {
        "build": builders.scheduled(optimiser),
        "defaults": defaults(optimiser) | changed | followed,
        "horizon_bound": (lambda hparams: False) if averages else _falls,
        "code": f"builders.scheduled({_NAMES[optimiser]})",
    }


def unscheduled(optimiser: builders.Optimiser, **changed: Any) -> dict[str, Any]:
    """Return fields of a method that takes no schedule."""
    return {
        "build": builders.unscheduled(optimiser),
        "defaults": defaults(optimiser) | changed,
        "code": f"builders.unscheduled({_NAMES[optimiser]})",
    }


def built(build: builders.Optimiser, **changed: Any) -> dict[str, Any]:
    """Return fields of a method with its own builder, `build(horizon, **hparams)`."""
    return {
        "build": build,
        "defaults": defaults(build) | changed,
        "code": _NAMES[build],
    }


def space(**ranges: Range) -> Space:
    """Return a search space of ranges by name."""
    return Space(ranges)


RATE = Range(1e-5, 1.0)
ADAM_RATE = space(learning_rate=RATE)
SGD_RATE = space(learning_rate=Range(1e-4, 10.0))
D0 = Range(1e-8, 1e-2)
FACTOR = Range(0.1, 10.0)  # multiplies a rate that the method estimates itself

_DECAY = Domain(0.0, 1.0)
# Counts are exact in float32 up to here.
_COUNT, _FROM_1 = (Domain(least, 2.0**24, whole=True) for least in (0.0, 1.0))
# Valid values of a hyperparameter in any method; those not listed: 0 or more.
_DOMAINS = {
    **dict.fromkeys(("b1", "b2", "b3", "momentum", "beta", "polyak_beta"), _DECAY),
    **dict.fromkeys(("sf_beta1", "sf_beta1_max"), _DECAY),
    "warmup_fraction": Domain(0.0, 1.0, closed=True),
    "last_fraction": Domain(0.0, 1.0, closed=True),
    "search_fraction": _DECAY,
    "span": Domain(1.0, math.inf),
    "growth_rate": Domain(1.0, math.inf, closed=True),
    "max_learning_rate": Domain(0.0, math.inf, closed=True),
    **dict.fromkeys(
        ("T_0", "t_mult", "observations", "actions", "periods", "stages"), _FROM_1
    ),
    **dict.fromkeys(("patience", "cooldown", "prodigy_steps"), _COUNT),
    **dict.fromkeys(("c_warmup", "sf_beta1_anneal_steps"), _COUNT),
    "shampoo_beta": _DECAY,
    **dict.fromkeys(("ns_steps", "precondition_frequency", "max_precond_dim"), _FROM_1),
    "window_size": Domain(1.0, 1e5, whole=True),  # size of the state
    "candidates": Domain(1.0, 64.0, whole=True),  # size of the state
    "max_backtracks": Domain(1.0, 1e4, whole=True),  # forward passes
}


def registered(method: Method) -> Method:
    """Return the method with the domains of its hyperparameters."""
    domains = {n: _DOMAINS[n] for n in method.defaults if n in _DOMAINS}
    return dataclasses.replace(method, domains=domains)
