"""COCOB: coin betting, one bettor per parameter."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class CocobState(NamedTuple):
    """State of `cocob`.

    Attributes:
      count: number of updates made.
      start: the initial parameters.
      scale: largest absolute gradient, from eps.
      gradient_sum: sum of negative gradients.
      absolute_sum: sum of absolute gradients.
      reward: reward of the coin betting, never below 0.
    """

    count: jax.Array
    start: Any
    scale: Any
    gradient_sum: Any
    absolute_sum: Any
    reward: Any

    learning_rate = None  # there is no scalar step size


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def cocob(
    learning_rate: base.ScalarOrSchedule = 1.0,
    alpha: base.Scalar = 100.0,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    decay_after_rate: bool = False,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Continuous coin betting (COCOB-Backprop).

    With the gradient :math:`c_t = \gamma_t (g_t + w x_t)`, for every coordinate:

    .. math::
      L_t &= \max(L_{t-1}, |c_t|), \quad L_0 = \epsilon \\
      G_t &= G_{t-1} + |c_t| \\
      \theta_t &= \theta_{t-1} - c_t \\
      R_t &= \max(R_{t-1} - c_t (x_t - x_0), 0) \\
      x_{t+1} &= x_0 + \frac{\theta_t}{L_t \max(G_t + L_t, \alpha L_t)} (L_t + R_t)

    There is no scalar step size: `effective_learning_rate` gives NaN. The rate of a
    coordinate, in the sense of its displacement per summed gradient, is
    :math:`(L_t + R_t) / (L_t \max(G_t + L_t, \alpha L_t))`.

    Args:
      learning_rate: factor :math:`\gamma` of the gradients, not in the official
        implementation. A constant cancels (up to eps), a schedule does not.
      alpha: roughly the number of rounds of warm-up.
      eps: initial scale.
      weight_decay: coefficient w of weight decay, added to the gradient.
      decay_after_rate: use :math:`c_t = \gamma_t g_t + w x_t` instead, as a published
        variant does. Static.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.cocob(alpha=1.0)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(2 * params, state, params)
      >>> [round(float(u), 3) for u in updates]
      [-0.5, 0.5]

    References:
      Orabona and Tommasi, `Training Deep Networks without Learning Rates Through Coin
      Betting <https://arxiv.org/abs/1705.07795>`_, 2017, Algorithm 2. Official
      implementation: ``COCOB`` of bremen79/parameterfree 0.0.1.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        alpha=alpha,
        eps=eps,
        weight_decay=weight_decay,
    )

    def init(params):
        return CocobState(
            count=jnp.zeros((), jnp.int32),
            start=base.copy(params),
            # Copied: `full_like` of a scalar may return the given array itself.
            scale=base.copy(jax.tree.map(lambda p: jnp.full_like(p, eps), params)),
            gradient_sum=base.zeros_like(params),
            absolute_sum=base.zeros_like(params),
            reward=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = base.scalar_dtype(params)
        # The count is never negative, but XLA does not know that, so it cannot drop a
        # rate of 1. Without the multiplication its CPU code is a fifth slower.
        rate = base.rate_at(learning_rate, state.count, dtype)
        rate = jnp.where(state.count < 0, 0, rate)
        (warmup,) = base.scalars(dtype, alpha)

        def update_leaf(
            grad, param, start, scale, gradient_sum, absolute_sum, reward, has_decay
        ):
            if decay_after_rate:
                coin = base.add_decay(
                    rate * grad, param, weight_decay, dtype, has_decay
                )
            else:
                coin = rate * base.add_decay(
                    grad, param, weight_decay, dtype, has_decay
                )
            size = jnp.abs(coin)
            scale = jnp.maximum(scale, size)
            absolute_sum = absolute_sum + size
            gradient_sum = gradient_sum - coin
            loss = coin * (param - start)
            # max(reward - loss, 0), in a form that XLA computes once for both uses.
            reward = jnp.maximum(reward, loss) - loss
            bet = scale * jnp.maximum(absolute_sum + scale, warmup * scale)
            change = start - param + gradient_sum / bet * (scale + reward)
            return tuple(
                array.astype(param.dtype)
                for array in (change, scale, gradient_sum, absolute_sum, reward)
            )

        changes, *state_trees = base.map_leaves(
            update_leaf,
            5,
            updates,
            params,
            state.start,
            state.scale,
            state.gradient_sum,
            state.absolute_sum,
            state.reward,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        return changes, CocobState(state.count + 1, state.start, *state_trees)

    return optax.GradientTransformationExtraArgs(init, update)
