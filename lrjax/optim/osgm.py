"""Online scaled gradient methods: online learning of a rate for each coordinate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class OsgmState(NamedTuple):
    """State of `osgm`.

    Attributes:
      count: number of updates made.
      learning_rate: mean of the rates of the last update, 0 if it was refused; NaN
        before it.
      rates: the rate of each coordinate.
      sum_squares: of each coordinate, AdaGrad's sum for its rate.
    """

    count: jax.Array
    learning_rate: jax.Array
    rates: Any
    sum_squares: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def osgm(
    learning_rate: base.ScalarOrSchedule = 0.1,
    initial_rate: base.Scalar = 0.0,
    eps: base.Scalar = 1e-20,
    monotone: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent with a rate per coordinate that AdaGrad learns (OSGM-H).

    With the point :math:`x^+ = x_t - p_t \odot g_t` that the rates p lead to, and its
    gradient :math:`g^+` on the same batch:

    .. math::
      h_t &= -\frac{g^+ \odot g_t}{\|g_t\|^2}, \quad S_{t+1} = S_t + h_t^2 \\
      p_{t+1} &= p_t - \alpha_t \frac{h_t}{\sqrt{S_{t+1} + \epsilon}}

    and :math:`x_{t+1} = x^+` if its loss is smaller, else :math:`x_t`. h is the
    gradient, in p, of the progress :math:`(f(x^+) - f(x_t)) / \|g_t\|^2`.

    `update` needs the extra arguments `value`, the loss of the batch, `value_fn` and
    `grad_fn`, functions from parameters to loss and gradient on the same batch. Nothing
    in a chain may change its updates.

    Args:
      learning_rate: AdaGrad's rate :math:`\alpha` for the rates.
      initial_rate: the rate of every coordinate in the first update.
      eps: term below the root.
      monotone: refuse steps that do not lower the loss of the batch. Static.

    Returns:
      The transformation, for parameters of any shapes.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> def loss(params):
      ...     return jnp.sum(params**2)
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.osgm(initial_rate=0.25)
      >>> state = transformation.init(params)
      >>> value, grads = jax.value_and_grad(loss)(params)
      >>> updates, state = transformation.update(
      ...     grads, state, params, value=value, value_fn=loss, grad_fn=jax.grad(loss)
      ... )
      >>> [round(float(u), 3) for u in updates]
      [-0.5, 1.0]
      >>> [round(float(p), 3) for p in state.rates]
      [0.35, 0.35]

    References:
      Gao, Chu, Ye and Udell, `Gradient Methods with Online Scaling
      <https://arxiv.org/abs/2411.01803>`_, 2024. Official implementation: ``osgmhx`` of
      Gwzwpxz/osgm (MATLAB), with the diagonal scaling.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        initial_rate=initial_rate,
        eps=eps,
    )

    def init(params):
        (first,) = base.scalars(base.scalar_dtype(params), initial_rate)
        return OsgmState(
            count=jnp.zeros((), jnp.int32),
            learning_rate=base.none_yet(base.scalar_dtype(params)),
            rates=jax.tree.map(lambda p: jnp.zeros_like(p) + first, params),
            sum_squares=base.zeros_like(params),
        )

    def update(
        updates,
        state,
        params=None,
        *,
        value=None,
        value_fn=None,
        grad_fn=None,
        **extra_args,
    ):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        grad_fn = base.require_value("grad_fn", grad_fn)
        alpha = base.rate_at(learning_rate, state.count, dtype)
        (epsilon,) = base.scalars(dtype, eps)
        changes = jax.tree.map(
            lambda g, p: (-p * g).astype(p.dtype), updates, state.rates
        )
        trial = optax.apply_updates(params, changes)
        norm = jnp.sqrt(base.sum_squares(updates, dtype))

        def learn(grad, ahead, rate, sums):
            # Each over the norm, as its square may overflow.
            slope = -base.safe_divide(ahead, norm) * base.safe_divide(grad, norm)
            new_sums = sums + slope * slope
            step = base.safe_divide(slope, jnp.sqrt(new_sums + epsilon))
            return (rate - alpha * step).astype(rate.dtype), new_sums.astype(sums.dtype)

        rates, sum_squares = base.map_leaves(
            learn, 2, updates, grad_fn(trial), state.rates, state.sum_squares
        )
        size = base.num_entries(params)
        mean = base.sum_leaves(lambda p: p, dtype, state.rates) / size
        if monotone:
            (loss,) = base.scalars(dtype, base.require_value("value", value))
            value_fn = base.require_value("value_fn", value_fn)
            kept = (value_fn(trial).astype(dtype) < loss) & jnp.isfinite(loss)
            changes = jax.tree.map(lambda c: jnp.where(kept, c, 0), changes)
            mean = jnp.where(kept, mean, 0)
        return changes, OsgmState(state.count + 1, mean, rates, sum_squares)

    return optax.GradientTransformationExtraArgs(init, update)
