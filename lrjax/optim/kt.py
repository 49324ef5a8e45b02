"""Coin betting with the estimator of Krichevsky and Trofimov: KT."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class KtState(NamedTuple):
    """State of `kt`.

    Attributes:
      count: number of updates made.
      learning_rate: by what the last update's gradient was multiplied; -inf before it.
      wealth: what the bets have won so far, and what they began with.
      start: the initial parameters.
      theta: minus the sum of gradients.
    """

    count: jax.Array
    learning_rate: jax.Array
    wealth: jax.Array
    start: Any
    theta: Any


@base.any_leaves
def kt(
    learning_rate: base.ScalarOrSchedule = 1.0,
    wealth: base.Scalar = 1e-4,
    weight_decay: base.Scalar = 0.0,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""KT: coin betting on all parameters together.

    With the wealth :math:`W_0` and :math:`\theta_0 = 0`:

    .. math::
      W_{t+1} &= W_t + \gamma_t \langle x_0 - x_t, g_t \rangle \\
      \theta_{t+1} &= \theta_t - \gamma_t (g_t + w x_t) \\
      x_{t+1} &= x_0 + \frac{W_{t+1}}{t + 2} \theta_{t+1}

    Its theory is for gradients of norms up to 1: with larger ones the wealth may be
    lost, and the parameters then move along the gradient.

    Args:
      learning_rate: factor :math:`\gamma` of the gradients, 1 in the official code.
      wealth: :math:`W_0`, what the bets begin with.
      weight_decay: coefficient w of weight decay, which wins and loses nothing.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.kt(0.1)
      >>> state = transformation.init(params)
      >>> for _ in range(100):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(jnp.abs(params).max() < 1.0)
      True

    References:
      Orabona and Pál, `Coin Betting and Parameter-Free Online Learning
      <https://arxiv.org/abs/1602.04128>`_, 2016. Official implementation: ``KT`` of
      parameterfree 0.0.1.
    """
    bounds.check(
        bounds.NONNEGATIVE, learning_rate=learning_rate, weight_decay=weight_decay
    )
    bounds.check(bounds.POSITIVE, wealth=wealth)

    def init(params):
        dtype = base.scalar_dtype(params)
        return KtState(
            count=jnp.zeros((), jnp.int32),
            learning_rate=base.none_yet(dtype),
            wealth=base.fresh(dtype, wealth),
            start=base.copy(params),
            theta=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.wealth.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        # Not `start - param`, which the update has: XLA would store it for both uses.
        loss = base.sum_leaves(
            lambda grad, param, start: (param - start) * grad,
            dtype,
            updates,
            params,
            state.start,
        )
        wealth = state.wealth - rate * loss
        bet = wealth / (state.count + 2).astype(dtype)

        def update_leaf(grad, param, start, theta, has_decay):
            grad = base.add_decay(grad, param, weight_decay, dtype, has_decay)
            theta_new = theta - rate * grad
            change = bet * theta_new + (start - param)
            return change.astype(param.dtype), theta_new.astype(theta.dtype)

        changes, theta = base.map_leaves(
            update_leaf,
            2,
            updates,
            params,
            state.start,
            state.theta,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        return changes, KtState(
            count=state.count + 1,
            learning_rate=bet * rate,
            wealth=wealth,
            start=state.start,
            theta=theta,
        )

    return optax.GradientTransformationExtraArgs(init, update)
