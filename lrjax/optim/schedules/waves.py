"""Cosine waves: one, several with restarts, and two halves with a peak."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lrjax.optim import bounds
from lrjax.optim.arguments import checked
from lrjax.optim.schedules import parts
from lrjax.optim.schedules.parts import Schedule


@checked("schedules")
def cosine(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    final_learning_rate: ArrayLike = 0.0,
) -> Schedule:
    """Half a cosine wave from `learning_rate` to `final_learning_rate`.

    lr(t) = final + (lr - final) (1 + cos(pi min(t / horizon, 1))) / 2

    Args:
      learning_rate: value at step 0.
      horizon: steps until the final value.
      final_learning_rate: value from step `horizon` on; may exceed
        `learning_rate`, the wave then runs upward.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.cosine(0.1, horizon=100)
      >>> [round(float(rate(step)), 4) for step in (0, 50, 100)]
      [0.1, 0.05, 0.0]

    Source: Loshchilov and Hutter, "SGDR" (2017), one cycle; the closed form of
    PyTorch's CosineAnnealingLR, which however rises again after its end.
    """
    parts.check_ends(learning_rate, final_learning_rate)
    bounds.check(bounds.NONNEGATIVE, horizon=horizon)

    def schedule(step: ArrayLike) -> jax.Array:
        return parts.anneal(
            learning_rate, final_learning_rate, parts.progress(step, horizon)
        )

    return schedule


@checked("schedules")
def cosine_warm_restarts(
    learning_rate: ArrayLike,
    T_0: ArrayLike,
    t_mult: ArrayLike = 1,
    eta_min: ArrayLike = 0.0,
) -> Schedule:
    """Cosine waves from `learning_rate` to `eta_min`, each `t_mult` times longer.

    Cycle i has T_i = T_0 t_mult^i steps and starts at s_i = T_0 (1 + ... +
    t_mult^(i-1)); within it
    lr(t) = eta_min + (lr - eta_min) (1 + cos(pi (t - s_i) / T_i)) / 2.
    The next cycle starts, at `learning_rate`, where the wave would reach `eta_min`.

    The cycle follows in closed form from the geometric series, and is exact in
    float32 where T_0 and t_mult are whole. Restarts have no end; `fit_first_cycle`
    makes a cycle end where training ends.

    Args:
      learning_rate: value at each restart.
      T_0: steps of the first cycle.
      t_mult: growth of the cycles, at least 1 (smaller values count as 1), whole
        or not.
      eta_min: lower end of the waves.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.cosine_warm_restarts(0.1, T_0=10, t_mult=2)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 20, 30)]
      [0.1, 0.05, 0.1, 0.05, 0.1]

    Source: Loshchilov and Hutter, "SGDR" (2017); PyTorch's
    CosineAnnealingWarmRestarts.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate, eta_min=eta_min)
    bounds.check(bounds.NONNEGATIVE, T_0=T_0, t_mult=t_mult)

    def schedule(step: ArrayLike) -> jax.Array:
        step, first, growth = parts.real(step), parts.length(T_0), parts.real(t_mult)
        whole = (first == jnp.round(first)) & (growth == jnp.round(growth))

        def start(cycle: jax.Array) -> jax.Array:
            steps = first * _series(growth, cycle)
            return jnp.where(whole, jnp.round(steps), steps)

        # The logarithm's rounding cannot be trusted at a boundary, so take the
        # nearest cycle and step back if that one has not started yet.
        cycle = jnp.round(_cycles(growth, step / first))
        cycle -= (step < start(cycle)).astype(cycle.dtype)
        length = first * jnp.maximum(growth, 1.0) ** cycle
        return parts.anneal(
            learning_rate, eta_min, parts.progress(step - start(cycle), length)
        )

    return schedule


@checked("schedules")
def fit_first_cycle(T_0: ArrayLike, t_mult: ArrayLike, horizon: ArrayLike) -> jax.Array:
    """The length of the first cycle, near `T_0`, for which a cycle ends at `horizon`.

    The number of cycles is the whole number, at least 1, nearest to
    c = log(1 + (t_mult - 1) horizon / T_0) / log(t_mult), for which cycles grown
    from `T_0` would take `horizon` steps (c = horizon / T_0 if t_mult is 1).

    Args:
      T_0: desired steps of the first cycle.
      t_mult: growth of the cycles, at least 1.
      horizon: steps after which a cycle ends.

    Returns:
      `T_0` for `cosine_warm_restarts`, in steps, not whole in general; scalar.

    Example:
      >>> from lrjax.optim import schedules
      >>> round(float(schedules.fit_first_cycle(10, 2, horizon=140)), 2)
      9.33

    Source: none; it inverts the geometric series of `cosine_warm_restarts`.
    """
    bounds.check(bounds.NONNEGATIVE, T_0=T_0, t_mult=t_mult, horizon=horizon)
    growth, horizon = parts.real(t_mult), parts.length(horizon)
    cycles = jnp.maximum(jnp.round(_cycles(growth, horizon / parts.length(T_0))), 1.0)
    return horizon / _series(growth, cycles)


@checked("schedules")
def one_cycle(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    pct_start: ArrayLike = 0.3,
    div_factor: ArrayLike = 25.0,
    final_div_factor: ArrayLike = 1e4,
) -> Schedule:
    """Half a cosine wave up to `learning_rate`, and one far down.

    From lr / div_factor at step 0 to lr at step pct_start horizon - 1, then to
    lr / (div_factor final_div_factor) at step horizon - 1.

    Args:
      learning_rate: the peak.
      horizon: steps in all.
      pct_start: fraction of the horizon (not percent) spent on the way up.
      div_factor: peak over value at step 0.
      final_div_factor: value at step 0 over last value.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.one_cycle(0.1, horizon=100)
      >>> [round(float(rate(step)), 7) for step in (0, 29, 99)]
      [0.004, 0.1, 4e-07]

    Source: Smith and Topin, "Super-convergence" (2018); PyTorch's OneCycleLR with
    its defaults, and without its cycled momentum.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate)
    bounds.check(bounds.NONNEGATIVE, horizon=horizon)
    bounds.check(bounds.SHARE, pct_start=pct_start)
    bounds.check(
        bounds.POSITIVE, div_factor=div_factor, final_div_factor=final_div_factor
    )

    def schedule(step: ArrayLike) -> jax.Array:
        step, steps = parts.real(step), parts.real(horizon)
        top = parts.real(pct_start) * steps - 1.0
        low = parts.real(learning_rate) / parts.real(div_factor)
        up = parts.anneal(low, learning_rate, parts.progress(step, top))
        down = parts.progress(step - top, steps - 1.0 - top)
        down = parts.anneal(learning_rate, low / parts.real(final_div_factor), down)
        return jnp.where(step <= top, up, down)

    return schedule


def _series(growth: jax.Array, cycles: jax.Array) -> jax.Array:
    """1 + growth + ... + growth^(cycles-1), the length of `cycles` cycles."""
    # (growth^cycles - 1) / excess, in the form that keeps more digits.
    excess = _excess(growth)
    near_one = jnp.expm1(cycles * jnp.log1p(excess))
    return jnp.where(excess < 0.1, near_one, growth**cycles - 1.0) / excess


def _cycles(growth: jax.Array, length: jax.Array) -> jax.Array:
    """The number of cycles, not whole in general, whose `_series` is `length`."""
    excess = _excess(growth)
    return jnp.log1p(excess * length) / jnp.log1p(excess)


def _excess(growth: jax.Array) -> jax.Array:
    """`growth` - 1, at least 1e-12, so that equal cycles are not a special case."""
    return jnp.maximum(growth - 1.0, 1e-12)
