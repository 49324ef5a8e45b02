"""STORM+: variance reduction with step sizes and momentum that tune themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class StormPlusState(NamedTuple):
    """State of `storm_plus`.

    Attributes:
      count: number of updates made.
      gradient_sum: sum of squared gradient norms.
      estimator_sum: sum of squared estimator norms over the momentum parameter.
      gradient_norm: squared norm of the last gradient.
      estimator_norm: squared norm of `estimator`.
      learning_rate: the step size of the last update; -inf before it.
      estimator: the direction of the next step.
    """

    count: jax.Array
    gradient_sum: jax.Array
    estimator_sum: jax.Array
    gradient_norm: jax.Array
    estimator_norm: jax.Array
    learning_rate: jax.Array
    estimator: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def storm_plus(
    learning_rate: base.ScalarOrSchedule = 1.0,
    c: base.Scalar = 1.0,
    weight_decay: base.Scalar = 0.0,
    eps: base.Scalar = 1e-8,
    init_accumulator: base.Scalar = 1.0,
    normalized_norm: bool = False,
    double_decay: bool = False,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""STORM+, with two gradients per step on the same batch.

    With :math:`g_t(x)` the gradient at x on batch t, plus :math:`w x`, and
    :math:`d_0 = g_0(x_0)`, :math:`\bar g_0 = d_0`:

    .. math::
      G_t &= G_{t-1} + \|\bar g_t\|^2, \quad a_t = c / G_t^{2/3} \\
      E_t &= E_{t-1} + (\|d_t\|^2 + \epsilon) / a_t, \quad
        \eta_t = \gamma_t / E_t^{1/3} \\
      x_{t+1} &= x_t - \eta_t d_t \\
      \bar g_{t+1} &= g_t(x_{t+1}), \quad
      d_{t+1} = \bar g_{t+1} + (1-a_t) (d_t - g_t(x_t))

    `update` takes the gradient at the parameters and needs the extra argument
    `grad_fn`, the function from parameters to their gradient on the same batch. Nothing
    in a chain may change its updates: the second gradient is taken at the parameters
    that they lead to.

    Args:
      learning_rate: factor :math:`\gamma`.
      c: factor of the momentum parameter.
      weight_decay: coefficient w of weight decay, added to the gradients.
      eps: term added to the squared norm of the estimator.
      init_accumulator: initial value of both sums, :math:`G_{-1} = E_{-1}`.
      normalized_norm: divide squared norms by the number of parameters. Static.
      double_decay: add the decay twice to :math:`g_t(x_t)`, as one published
        implementation does. Static.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> def gradient(params):
      ...     return 2 * params
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.storm_plus()
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(
      ...     gradient(params), state, params, grad_fn=gradient
      ... )
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.187

    References:
      Levy, Kavis and Cevher, `STORM+: Fully Adaptive SGD with Momentum for Nonconvex
      Optimization <https://arxiv.org/abs/2111.01040>`_, 2021, Algorithm 1. There is no
      official implementation.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        eps=eps,
        init_accumulator=init_accumulator,
    )
    bounds.check(bounds.POSITIVE, c=c)

    def init(params):
        dtype = base.scalar_dtype(params)
        return StormPlusState(
            count=jnp.zeros((), jnp.int32),
            gradient_sum=base.fresh(dtype, init_accumulator),
            estimator_sum=base.fresh(dtype, init_accumulator),
            gradient_norm=jnp.zeros((), dtype),
            estimator_norm=jnp.zeros((), dtype),
            learning_rate=base.none_yet(dtype),
            estimator=base.zeros_like(params),
        )

    def update(updates, state, params=None, *, grad_fn=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        grad_fn = base.require_value("grad_fn", grad_fn)
        dtype = state.gradient_sum.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        factor, epsilon = base.scalars(dtype, c, eps)
        size = 1
        if normalized_norm:
            size = base.num_entries(params)
        first = state.count == 0

        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)

        def decayed(grad, param, has_decay, times=1):
            return base.add_decay(grad, param, times * weight_decay, dtype, has_decay)

        def first_norm():
            grads = jax.tree.map(decayed, updates, params, decay_flags)
            return base.sum_squares(grads, dtype) / size

        gradient_norm, estimator_norm = jax.lax.cond(
            first,
            lambda: (first_norm(),) * 2,
            lambda: (state.gradient_norm, state.estimator_norm),
        )
        gradient_sum = state.gradient_sum + gradient_norm
        momentum = factor / gradient_sum ** (2 / 3)
        estimator_sum = state.estimator_sum + (estimator_norm + epsilon) / momentum
        eta = rate / estimator_sum ** (1 / 3)
        times = 2 if double_decay else 1

        def direction(grad, param, estimator, has_decay):
            return jnp.where(first, decayed(grad, param, has_decay), estimator)

        def step(grad, param, estimator, has_decay):
            moved = -eta * direction(grad, param, estimator, has_decay)
            return moved.astype(param.dtype)

        changes = jax.tree.map(step, updates, params, state.estimator, decay_flags)
        new_params = optax.apply_updates(params, changes)

        def estimate(new_grad, new_param, grad, param, estimator, has_decay):
            """Mean squares of the new gradient and estimator; the estimator."""
            new_grad = decayed(new_grad, new_param, has_decay)
            correction = direction(grad, param, estimator, has_decay)
            correction -= decayed(grad, param, has_decay, times)
            new_estimator = new_grad + (1 - momentum) * correction
            return (
                jnp.sum(jnp.square(new_grad)) / size,
                jnp.sum(jnp.square(new_estimator)) / size,
                new_estimator.astype(estimator.dtype),
            )

        gradient_norms, estimator_norms, estimator = base.map_leaves(
            estimate,
            3,
            grad_fn(new_params),
            new_params,
            updates,
            params,
            state.estimator,
            decay_flags,
        )
        return changes, StormPlusState(
            count=state.count + 1,
            gradient_sum=gradient_sum,
            estimator_sum=estimator_sum,
            gradient_norm=base.total(gradient_norms, dtype),
            estimator_norm=base.total(estimator_norms, dtype),
            learning_rate=eta,
            estimator=estimator,
        )

    return optax.GradientTransformationExtraArgs(init, update)
