"""Adaptive gradient descent: a step size from the local smoothness."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class AdgdState(NamedTuple):
    """State of `adgd`.

    Attributes:
      learning_rate: the rate of the last update; before it, the initial rate.
      growth: the last rate over the one before; 1 at first.
      previous: the parameters before the last update.
    """

    learning_rate: jax.Array
    growth: jax.Array
    previous: Any


@base.any_leaves
def adgd(
    learning_rate: base.Scalar = 0.2,
    amplifier: base.Scalar = 0.02,
    damping: base.Scalar = 1.0,
    eps: base.Scalar = 1e-5,
    weight_decay: base.Scalar = 0.0,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD whose rate follows the local smoothness (AdSGD).

    With :math:`g_t(x)` the gradient at x on batch t and :math:`\theta_0 = 1`:

    .. math::
      \gamma_t &= \min\left(\sqrt{1 + a \theta_t} \, \gamma_{t-1},
        \frac{\|x_t - x_{t-1}\|}{b \|g_t(x_t) - g_t(x_{t-1})\|}\right) + \epsilon, \quad
        \theta_{t+1} = \gamma_t / \gamma_{t-1} \\
      x_{t+1} &= x_t - \gamma_t (g_t(x_t) + w x_t)

    where a norm is 0, as in the first update, the rate is
    :math:`\sqrt{1 + a \theta_t} \, \gamma_{t-1}`. `update` needs the extra argument
    `grad_fn`, the function from parameters to their gradient on the same batch.

    Args:
      learning_rate: the initial rate :math:`\gamma_{-1}`, a number or a traced number.
      amplifier: a, which bounds the growth of the rate.
      damping: factor b of the estimated smoothness.
      eps: term added to the rate; the authors' training script takes 1e-8.
      weight_decay: coefficient w of weight decay, which the norms leave out.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> def gradient(params):
      ...     return 4 * params
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.adgd(0.1, amplifier=10.0)
      >>> state = transformation.init(params)
      >>> for _ in range(2):
      ...     updates, state = transformation.update(
      ...         gradient(params), state, params, grad_fn=gradient
      ...     )
      ...     params = optax.apply_updates(params, updates)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.25

    References:
      Malitsky and Mishchenko, `Adaptive Gradient Descent without Descent
      <https://arxiv.org/abs/1910.09529>`_, 2020. Official implementation: ``Adsgd`` of
      ymalitsky/adaptive_GD.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        amplifier=amplifier,
        eps=eps,
        weight_decay=weight_decay,
    )
    bounds.check(bounds.POSITIVE, damping=damping)

    def init(params):
        dtype = base.scalar_dtype(params)
        return AdgdState(
            learning_rate=base.fresh(dtype, learning_rate),
            growth=jnp.ones((), dtype),
            previous=base.copy(params),
        )

    def update(updates, state, params=None, *, grad_fn=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        grad_fn = base.require_value("grad_fn", grad_fn)
        dtype = state.learning_rate.dtype
        amplify, damp, epsilon = base.scalars(dtype, amplifier, damping, eps)

        def distance(new, old):
            difference = jax.tree.map(operator.sub, new, old)
            return base.root(base.sum_squares(difference, dtype))

        moved = distance(params, state.previous)
        turned = distance(updates, grad_fn(state.previous))
        grown = state.learning_rate * jnp.sqrt(1 + amplify * state.growth)
        local = base.safe_divide(moved, damp * turned)
        # If both norms overflow, their quotient is NaN, which `fmin` leaves out.
        known = (moved > 0) & (turned > 0)
        rate = jnp.where(known, jnp.fmin(grown, local) + epsilon, grown)

        def step(grad, param, has_decay):
            grad = base.add_decay(grad, param, weight_decay, dtype, has_decay)
            return (-rate * grad).astype(param.dtype)

        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)
        changes = jax.tree.map(step, updates, params, decay_flags)
        return changes, AdgdState(
            learning_rate=rate,
            growth=base.safe_divide(rate, state.learning_rate),
            previous=base.copy(params),
        )

    return optax.GradientTransformationExtraArgs(init, update)
