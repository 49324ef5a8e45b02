"""Barzilai-Borwein step sizes for SGD, from averages over periods."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds, passes


class BarzilaiBorweinState(NamedTuple):
    """State of `barzilai_borwein`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the last update; before it, the initial rate.
      log_sum: sum of the logarithms of smoothed rates times their period's number.
      log_count: number of these rates.
      start: the parameters at the start of the period.
      average: average of gradients.
      last_average: the average at the start of the period.
    """

    count: jax.Array
    learning_rate: jax.Array
    log_sum: jax.Array
    log_count: jax.Array
    start: Any
    average: Any
    last_average: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def barzilai_borwein(
    learning_rate: base.Scalar = 0.1,
    period_steps: base.Scalar = 100,
    weight: base.Scalar = 10.0,
    smoothing: bool | jax.Array = False,
    max_learning_rate: base.Scalar = float("inf"),
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with Barzilai-Borwein step sizes (SGD-BB).

    Updates are divided into periods of m. The rate of period k is, for :math:`k \ge 2`,

    .. math::
      \gamma_k = \frac{1}{m} \frac{\|\tilde x_k - \tilde x_{k-1}\|^2}
        {|\langle \tilde x_k - \tilde x_{k-1}, \hat g_k - \hat g_{k-1} \rangle|}

    with :math:`\tilde x_k` the parameters where period k starts and :math:`\hat g_k`
    the average of gradients there, from 0 by
    :math:`\hat g \leftarrow \beta g_t + (1-\beta) \hat g` with
    :math:`\beta = \mathrm{weight} / m`. Where the quotient is not a positive number,
    the rate stays. With smoothing the rate is

    .. math::
      \frac{1}{k} \left(\prod_{j=2}^k j \gamma_j\right)^{1/(k-1)}

    Args:
      learning_rate: the rate of the first two periods, a number or a traced number.
      period_steps: m, the updates of a period, rounded; an epoch in the paper.
      weight: the weight of a gradient in the average, times m; 10 in the paper. The
        average takes at most the last gradient alone.
      smoothing: whether to smooth the rates, which then fall as 1 / k.
      max_learning_rate: bound of the rate, not in the paper.

    Returns:
      The transformation, for parameters of any shapes. Where the official
      implementation and the paper differ, it follows the implementation: the average
      of gradients is kept across periods, and smoothing divides by k, not k + 1.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.barzilai_borwein(0.1, period_steps=1)
      >>> state = transformation.init(params)
      >>> for _ in range(3):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.4

    References:
      Tan, Ma, Dai and Qian, `Barzilai-Borwein Step Size for Stochastic Gradient Descent
      <https://arxiv.org/abs/1605.04131>`_, 2016. Official implementation: ``sgd_bb`` of
      tanconghui/Stochastic_BB.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate)
    bounds.check(bounds.COUNT, period_steps=period_steps)
    bounds.check(bounds.POSITIVE, weight=weight)
    bounds.check(bounds.CAP, max_learning_rate=max_learning_rate)

    def init(params):
        dtype = base.scalar_dtype(params)
        return BarzilaiBorweinState(
            count=jnp.zeros((), jnp.int32),
            learning_rate=base.fresh(dtype, learning_rate),
            log_sum=jnp.zeros((), dtype),
            log_count=jnp.zeros((), dtype),
            start=base.copy(params),
            average=base.zeros_like(params),
            last_average=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        initial, steps, scale, highest = base.scalars(
            dtype, learning_rate, period_steps, weight, max_learning_rate
        )
        steps = jnp.maximum(jnp.round(steps), 1)
        share = jnp.minimum(scale / steps, 1)
        period = state.count // steps.astype(jnp.int32)
        starts = period * steps.astype(jnp.int32) == state.count
        number = jnp.maximum(period, 1).astype(dtype)

        def products(param, start, average, last_average):
            """Summands of the squared distance and the change of slope along it."""
            moved = param - start
            return moved * moved, moved * (average - last_average)

        square, slope = passes.sums(
            products,
            2,
            dtype,
            params,
            state.start,
            state.average,
            state.last_average,
        )
        found = base.safe_divide(square, steps * jnp.abs(slope))
        usable = starts & (period > 1) & (found > 0) & jnp.isfinite(found)
        # Overwrite the old state only after the sums over it, else XLA copies it first.
        share, new = passes.after(slope, share, starts.astype(dtype))
        found = jnp.where(usable, found, 1)
        log_sum = state.log_sum + jnp.where(usable, jnp.log(found * number), 0)
        log_count = state.log_count + usable.astype(dtype)
        smooth = jnp.exp(log_sum / jnp.maximum(log_count, 1)) / number
        found = jnp.where(smoothing, smooth, found)
        rate = jnp.where(usable, found, state.learning_rate)
        rate = jnp.minimum(jnp.where(period < 2, initial, rate), highest)

        def update_leaf(grad, param, start, average, last_average):
            new_average = share * grad + (1 - share) * average
            return (
                (-rate * grad).astype(param.dtype),
                jnp.where(new > 0, param, start),
                new_average.astype(average.dtype),
                jnp.where(new > 0, average, last_average),
            )

        changes, start, average, last_average = base.map_leaves(
            update_leaf,
            4,
            updates,
            params,
            state.start,
            state.average,
            state.last_average,
        )
        return changes, BarzilaiBorweinState(
            count=state.count + 1,
            learning_rate=rate,
            log_sum=log_sum,
            log_count=log_count,
            start=start,
            average=average,
            last_average=last_average,
        )

    return optax.GradientTransformationExtraArgs(init, update)
