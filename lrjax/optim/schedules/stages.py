"""Stages: a warm-up, a plateau, a decay at the end."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lrjax.optim import base, bounds
from lrjax.optim.arguments import checked
from lrjax.optim.schedules import parts
from lrjax.optim.schedules.parts import Schedule


@checked("schedules")
def warmup_stable_decay(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    warmup_steps: ArrayLike,
    decay_steps: ArrayLike,
    final_learning_rate: ArrayLike = 0.0,
    decay_power: ArrayLike = 1.0,
) -> Schedule:
    """Linear warm-up from zero, a plateau, and a decay at the end.

    lr(t) = min(t / warmup_steps, 1) (final + (lr - final) (1 - over(t)^decay_power)),
    over(t) = 1 - min((horizon - t) / decay_steps, 1), and 1 past the horizon

    A decay can begin at any step: `horizon` and `decay_steps` are where it ends and
    how long it takes. For a decay decided during a run, see `optim.cooldown`.

    Args:
      learning_rate: the plateau.
      horizon: steps in all, warm-up and decay included.
      warmup_steps: steps of the warm-up.
      decay_steps: steps of the decay.
      final_learning_rate: value from step `horizon` on.
      decay_power: shape of the decay, positive: 1 is a straight line, 1/2 the
        "1-sqrt" that falls fast at first.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.warmup_stable_decay(
      ...     0.1, horizon=100, warmup_steps=10, decay_steps=20
      ... )
      >>> [round(float(rate(step)), 4) for step in (0, 5, 50, 90, 100)]
      [0.0, 0.05, 0.1, 0.05, 0.0]

    Source: Hu et al., "MiniCPM" (2024), with the decays of Hägele et al., "Scaling
    laws and compute-optimal training beyond fixed training durations" (2024).
    """
    parts.check_ends(learning_rate, final_learning_rate)
    bounds.check(
        bounds.NONNEGATIVE,
        horizon=horizon,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
    )
    bounds.check(bounds.POSITIVE, decay_power=decay_power)

    def schedule(step: ArrayLike) -> jax.Array:
        step, steps = parts.real(step), parts.real(horizon)
        left = jnp.where(step < steps, parts.progress(steps - step, decay_steps), 0.0)
        left = base.falling(left, decay_power)
        return parts.progress(step, warmup_steps) * parts.mix(
            learning_rate, final_learning_rate, left
        )

    return schedule


@checked("schedules")
def power(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    timescale: ArrayLike,
    exponent: ArrayLike = 0.51,
    decay_steps: ArrayLike = 0,
    final_learning_rate: ArrayLike = 0.0,
) -> Schedule:
    """A plateau, a power law of the steps, and a linear decay at the end.

    lr(t) = final + (lr min(1, (timescale / t)^exponent) - final) left(t),
    left(t) = min((horizon - t) / decay_steps, 1), and 0 past the horizon

    In the paper's terms, with batches of B tokens in S sequences, the rate after n
    tokens is min(lr, S a n^b): exponent is -b, and timescale = (lr / (S a))^(1/b) / B.
    For language models they take a = 4 and b = -0.51. Stages before the decay do not
    depend on the horizon.

    Args:
      learning_rate: the largest value.
      horizon: steps in all.
      timescale: steps after which the power law goes below `learning_rate`.
      exponent: of the power law, positive.
      decay_steps: steps of the decay; 0 for none before the horizon.
      final_learning_rate: value from step `horizon` on.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.power(0.1, 100, timescale=10, exponent=0.5, decay_steps=20)
      >>> [round(float(rate(step)), 4) for step in (0, 10, 40, 90, 100)]
      [0.1, 0.1, 0.05, 0.0167, 0.0]

    Source: Shen et al., "Power scheduler: a batch size and token number agnostic
    learning rate scheduler" (2024); its warm-up is `warmup`, and the shape of the
    decay at the end is that of `warmup_stable_decay`.
    """
    parts.check_ends(learning_rate, final_learning_rate)
    bounds.check(
        bounds.NONNEGATIVE,
        horizon=horizon,
        timescale=timescale,
        decay_steps=decay_steps,
    )
    bounds.check(bounds.POSITIVE, exponent=exponent)

    def schedule(step: ArrayLike) -> jax.Array:
        step, steps, scale = (
            parts.real(step),
            parts.real(horizon),
            parts.length(timescale),
        )
        left = jnp.where(step < steps, parts.progress(steps - step, decay_steps), 0.0)
        law = (scale / jnp.maximum(step, scale)) ** parts.real(exponent)
        return parts.mix(parts.real(learning_rate) * law, final_learning_rate, left)

    return schedule


@checked("schedules")
def warmup(
    schedule: Schedule,
    warmup_steps: ArrayLike,
    initial_learning_rate: ArrayLike = 0.0,
) -> Schedule:
    """A linear warm-up, after which `schedule` starts from its step 0.

    lr(t) = initial + (schedule(0) - initial) t / warmup_steps  for t < warmup_steps
    lr(t) = schedule(t - warmup_steps)  from there on

    To end at `horizon`, lay `schedule` out for `horizon - warmup_steps`.

    Args:
      schedule: the schedule that follows.
      warmup_steps: steps of the warm-up; with 0 the result is `schedule` itself.
      initial_learning_rate: value at step 0. With the default, zero, the first
        update moves nothing (as in Optax and Transformers).

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.warmup(schedules.constant(0.1), warmup_steps=10)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10)]
      [0.0, 0.05, 0.1]

    Source: Goyal et al., "Accurate, large minibatch SGD" (2017); joined in time as
    by PyTorch's SequentialLR and by optax.join_schedules.
    """
    bounds.check(bounds.NONNEGATIVE, warmup_steps=warmup_steps)
    bounds.check(bounds.NONNEGATIVE, initial_learning_rate=initial_learning_rate)

    def warmed(step: ArrayLike) -> jax.Array:
        step = parts.real(step)
        after = schedule(jnp.maximum(step - parts.real(warmup_steps), 0.0))
        return parts.mix(
            after, initial_learning_rate, parts.progress(step, warmup_steps)
        )

    return warmed
