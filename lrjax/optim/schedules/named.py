"""Schedules by name, with lengths that are fractions of the horizon."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from jax.typing import ArrayLike

from lrjax.optim import bounds
from lrjax.optim.arguments import ArgumentError, checked
from lrjax.optim.schedules import parts
from lrjax.optim.schedules.decays import (
    constant,
    exponential,
    inverse_power,
    inverse_sqrt,
    linear,
    polynomial,
    rex,
    step,
)
from lrjax.optim.schedules.parts import Schedule
from lrjax.optim.schedules.stages import power, warmup, warmup_stable_decay
from lrjax.optim.schedules.waves import cosine, cosine_warm_restarts, one_cycle

SCHEDULES: dict[str, Callable[[ArrayLike, ArrayLike], Schedule]] = {
    "constant": lambda learning_rate, horizon: constant(learning_rate),
    "linear": linear,
    "cosine": cosine,
    "cosine_warm_restarts": lambda learning_rate, horizon: cosine_warm_restarts(
        learning_rate, parts.real(horizon) / 15, 2
    ),
    "step": lambda learning_rate, horizon: step(learning_rate, parts.real(horizon) / 3),
    "exponential": lambda learning_rate, horizon: exponential(
        learning_rate, 0.01, horizon
    ),
    "polynomial": lambda learning_rate, horizon: polynomial(learning_rate, horizon, 2),
    "inverse_sqrt": lambda learning_rate, horizon: inverse_sqrt(
        learning_rate, parts.real(horizon) / 10
    ),
    "one_cycle": one_cycle,
    "warmup_stable_decay": lambda learning_rate, horizon: warmup_stable_decay(
        learning_rate, horizon, 0, parts.real(horizon) / 5
    ),
    "rex": rex,
    "warmup_stable_sqrt": lambda learning_rate, horizon: warmup_stable_decay(
        learning_rate, horizon, 0, parts.real(horizon) / 5, decay_power=0.5
    ),
    "power": lambda learning_rate, horizon: power(
        learning_rate, horizon, parts.real(horizon) / 10, 0.51, parts.real(horizon) / 10
    ),
    "inverse_power": lambda learning_rate, horizon: inverse_power(
        learning_rate, parts.real(horizon) / 10, 0.75
    ),
}
# Schedules that do not decay towards the horizon: stopping a run early gives about what
# a shorter run would give. All others are bound to their horizon.
ANYTIME = frozenset({"constant", "inverse_sqrt", "inverse_power"})


@checked("schedules")
def by_name(
    name: str,
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    warmup_steps: ArrayLike = 0,
) -> Schedule:
    """Make the schedule called `name`, with lengths that are fractions of the horizon.

    With h = horizon - warmup_steps:
    - constant, linear, cosine, one_cycle, rex: as defined here, over h steps;
    - cosine_warm_restarts: four cycles of h/15, 2h/15, 4h/15 and 8h/15 steps;
    - step: a tenth after each third of h;
    - exponential: down to a hundredth over h;
    - polynomial: power 2, over h;
    - inverse_sqrt: timescale h/10;
    - warmup_stable_decay: decay over the last h/5; its warm-up is `warmup_steps`;
    - warmup_stable_sqrt: the same with `decay_power` 1/2;
    - power: timescale h/10, exponent 0.51, decay over the last h/10;
    - inverse_power: power 3/4, timescale h/10.

    Args:
      name: a key of `SCHEDULES`.
      learning_rate: the peak.
      horizon: steps in all, warm-up included.
      warmup_steps: steps of linear warm-up from zero, before the schedule.

    Returns:
      f(step) -> learning rate.

    Raises:
      ArgumentError: if there is no such schedule.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.by_name("cosine", 0.1, horizon=110, warmup_steps=10)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 60, 110)]
      [0.0, 0.05, 0.1, 0.05, 0.0]

    Source: as for each schedule.
    """
    if name not in SCHEDULES:
        near = difflib.get_close_matches(name, SCHEDULES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        names = ", ".join(SCHEDULES)
        raise ArgumentError(f"No schedule {name!r}.{hint} Valid names: {names}.")
    bounds.check(bounds.NONNEGATIVE, horizon=horizon, warmup_steps=warmup_steps)
    remaining = parts.real(horizon) - parts.real(warmup_steps)
    return warmup(SCHEDULES[name](learning_rate, remaining), warmup_steps)
