"""Decays along a curve: from the first step, without stages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lrjax.optim import bounds
from lrjax.optim.arguments import checked
from lrjax.optim.schedules import parts
from lrjax.optim.schedules.parts import Schedule


@checked("schedules")
def constant(learning_rate: ArrayLike) -> Schedule:
    """The same learning rate at every step.

    Args:
      learning_rate: the value.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.constant(0.1)
      >>> [round(float(rate(step)), 4) for step in (0, 100)]
      [0.1, 0.1]

    Source: optax.constant_schedule.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate)
    return lambda step: parts.real(learning_rate) * jnp.ones_like(parts.real(step))


@checked("schedules")
def linear(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    final_learning_rate: ArrayLike = 0.0,
) -> Schedule:
    """A straight line from `learning_rate` to `final_learning_rate`.

    lr(t) = lr + (final - lr) min(t / horizon, 1)

    Args:
      learning_rate: value at step 0.
      horizon: steps until the final value.
      final_learning_rate: value from step `horizon` on.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.linear(0.1, horizon=100)
      >>> [round(float(rate(step)), 4) for step in (0, 50, 100)]
      [0.1, 0.05, 0.0]

    Source: PyTorch's LinearLR with start_factor 1.
    """
    return polynomial(learning_rate, horizon, 1.0, final_learning_rate)


@checked("schedules")
def polynomial(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    power: ArrayLike = 1.0,
    final_learning_rate: ArrayLike = 0.0,
) -> Schedule:
    """A power of the steps that are left.

    lr(t) = final + (lr - final) (1 - min(t / horizon, 1))^power

    Args:
      learning_rate: value at step 0.
      horizon: steps until the final value.
      power: positive; 1 is a straight line.
      final_learning_rate: value from step `horizon` on.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.polynomial(0.1, horizon=100, power=2)
      >>> [round(float(rate(step)), 4) for step in (0, 50, 100)]
      [0.1, 0.025, 0.0]

    Source: PyTorch's PolynomialLR.
    """
    parts.check_ends(learning_rate, final_learning_rate)
    bounds.check(bounds.NONNEGATIVE, horizon=horizon)
    bounds.check(bounds.POSITIVE, power=power)

    def schedule(step: ArrayLike) -> jax.Array:
        left = 1.0 - parts.progress(step, horizon)
        # A Python integer is multiplied out.
        exponent = power if isinstance(power, int) else parts.real(power)
        # The inner `where` keeps the gradient of 0^power out.
        rest = jnp.where(left > 0, jnp.where(left > 0, left, 1.0) ** exponent, 0.0)
        return parts.mix(learning_rate, final_learning_rate, rest)

    return schedule


@checked("schedules")
def rex(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    beta: ArrayLike = 0.5,
    final_learning_rate: ArrayLike = 0.0,
) -> Schedule:
    """Reflected exponential: above the straight line, steepest at the end.

    lr(t) = final + (lr - final) z / (1 - beta + beta z),  z = 1 - min(t / horizon, 1)

    Args:
      learning_rate: value at step 0.
      horizon: steps until the final value.
      beta: bend, from 0 (a straight line) to below 1.
      final_learning_rate: value from step `horizon` on.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.rex(0.1, horizon=100)
      >>> [round(float(rate(step)), 4) for step in (0, 50, 100)]
      [0.1, 0.0667, 0.0]

    Source: Chen, Wolfe and Kyrillidis, "REX: Revisiting budgeted training with an
    improved schedule" (2022), where beta is 1/2.
    """
    parts.check_ends(learning_rate, final_learning_rate)
    bounds.check(bounds.NONNEGATIVE, horizon=horizon)
    bounds.check(bounds.FRACTION, beta=beta)

    def schedule(step: ArrayLike) -> jax.Array:
        left = 1.0 - parts.progress(step, horizon)
        bend = parts.real(beta)
        bent = left / (1.0 - bend + bend * left)
        return parts.mix(learning_rate, final_learning_rate, bent)

    return schedule


@checked("schedules")
def step(
    learning_rate: ArrayLike, step_size: ArrayLike, gamma: ArrayLike = 0.1
) -> Schedule:
    """A staircase: times `gamma` after every `step_size` steps.

    lr(t) = lr gamma^floor(t / step_size)

    Args:
      learning_rate: value at step 0.
      step_size: steps between two changes.
      gamma: factor of each change.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.step(0.1, step_size=30)
      >>> [round(float(rate(step)), 4) for step in (0, 29, 30, 60)]
      [0.1, 0.1, 0.01, 0.001]

    Source: PyTorch's StepLR.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate)
    bounds.check(bounds.NONNEGATIVE, step_size=step_size, gamma=gamma)

    def schedule(step: ArrayLike) -> jax.Array:
        step, size = parts.real(step), parts.length(step_size)
        # Compilers may divide by multiplying with 1 / step_size, which can fall
        # short of a whole number: take the nearest stair, go back if too early.
        stair = jnp.round(step / size)
        stair -= (step < stair * size).astype(stair.dtype)
        return parts.real(learning_rate) * parts.real(gamma) ** stair

    return schedule


@checked("schedules")
def exponential(
    learning_rate: ArrayLike, gamma: ArrayLike, step_size: ArrayLike = 1
) -> Schedule:
    """Smooth exponential decay: times `gamma` over every `step_size` steps.

    lr(t) = lr gamma^(t / step_size)

    Args:
      learning_rate: value at step 0.
      gamma: factor over `step_size` steps, positive.
      step_size: steps. Prefer a long one: in float32 a factor per step is off by
        up to 6e-8 of itself, and the t-th power by t times that.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.exponential(0.1, gamma=0.5, step_size=10)
      >>> [round(float(rate(step)), 4) for step in (0, 10, 20)]
      [0.1, 0.05, 0.025]

    Source: PyTorch's ExponentialLR (step_size 1).
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate)
    bounds.check(bounds.POSITIVE, gamma=gamma)
    bounds.check(bounds.NONNEGATIVE, step_size=step_size)

    def schedule(step: ArrayLike) -> jax.Array:
        return parts.real(learning_rate) * parts.real(gamma) ** (
            parts.real(step) / parts.length(step_size)
        )

    return schedule


@checked("schedules")
def inverse_sqrt(learning_rate: ArrayLike, timescale: ArrayLike) -> Schedule:
    """Decay with the inverse square root of the step.

    lr(t) = lr sqrt(timescale / (timescale + t))

    `warmup(inverse_sqrt(lr, w), w)` is the schedule of the Transformer, with the
    value lr sqrt(w / t) after w steps of warm-up.

    Args:
      learning_rate: value at step 0.
      timescale: steps after which the value has fallen by a factor sqrt(2).

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.inverse_sqrt(0.1, timescale=100)
      >>> [round(float(rate(step)), 4) for step in (0, 300)]
      [0.1, 0.05]

    Source: Vaswani et al., "Attention is all you need" (2017), section 5.3.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate)
    bounds.check(bounds.NONNEGATIVE, timescale=timescale)

    def schedule(step: ArrayLike) -> jax.Array:
        scale = parts.length(timescale)
        return parts.real(learning_rate) * jnp.sqrt(scale / (scale + parts.real(step)))

    return schedule


@checked("schedules")
def inverse_power(
    learning_rate: ArrayLike, timescale: ArrayLike, power: ArrayLike = 1.0
) -> Schedule:
    """Decay with a power of the step.

    lr(t) = lr (1 + t / timescale)^(-power)

    Args:
      learning_rate: value at step 0.
      timescale: steps after which the value has fallen by a factor 2^power.
      power: positive; 1/2 is `inverse_sqrt`.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.inverse_power(0.1, timescale=100)
      >>> [round(float(rate(step)), 4) for step in (0, 100, 300)]
      [0.1, 0.05, 0.025]

    Source: Robbins and Monro, "A stochastic approximation method" (1951), for power
    1; Caffe's policy "inv", whose gamma is 1 / timescale.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate)
    bounds.check(bounds.NONNEGATIVE, timescale=timescale)
    bounds.check(bounds.POSITIVE, power=power)

    def schedule(step: ArrayLike) -> jax.Array:
        scale = parts.length(timescale)
        return parts.real(learning_rate) * (
            scale / (scale + parts.real(step))
        ) ** parts.real(power)

    return schedule
