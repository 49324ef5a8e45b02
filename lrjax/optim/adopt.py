"""ADOPT: Adam whose second moment leaves out the present gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class AdoptState(NamedTuple):
    """State of `adopt`.

    Attributes:
      count: number of updates made, with the first, which does not move.
      learning_rate: the rate of the last update; before it, of the first.
      exp_avg: average of gradients over the root of the second moment.
      exp_avg_sq: average of squared gradients.
    """

    count: jax.Array
    learning_rate: jax.Array
    exp_avg: Any
    exp_avg_sq: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def adopt(
    learning_rate: base.ScalarOrSchedule = 1e-3,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.9999,
    eps: base.Scalar = 1e-6,
    weight_decay: base.Scalar = 0.0,
    decouple: bool = False,
    clip_power: base.Scalar | None = 0.25,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam that converges at the best rate with any `b2`.

    The first update only sets :math:`v_0 = g_0^2`; then, with t from 1,

    .. math::
      m_t &= \beta_1 m_{t-1} + (1-\beta_1)
        \mathrm{clip}(g_t / \max(\sqrt{v_{t-1}}, \epsilon), t^{p}) \\
      x_{t+1} &= x_t - \gamma_t m_t, \quad
      v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2

    Args:
      learning_rate: :math:`\gamma`, a number, traced or not, or a schedule of the
        update count.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: the least denominator.
      weight_decay: coefficient of weight decay.
      decouple: decay as in AdamW instead of adding to the gradient. Static.
      clip_power: the power p of t that entries are clipped to; None for no clipping.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes, with the official defaults.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.adopt()
      >>> state = transformation.init(params)
      >>> for _ in range(2):
      ...     updates, state = transformation.update(2 * params, state, params)
      >>> [round(float(u), 6) for u in updates]
      [-0.0001, 0.0001]

    References:
      Taniguchi et al., `ADOPT: Modified Adam Can Converge with Any beta_2 with the
      Optimal Rate <https://arxiv.org/abs/2411.02853>`_, 2024. Official implementation:
      ``ADOPT`` of iShohei220/adopt.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        clip_power=clip_power,
    )
    bounds.check(bounds.POSITIVE, eps=eps)
    bounds.check(bounds.FRACTION, b1=b1, b2=b2)

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return AdoptState(
            count=count,
            learning_rate=base.rate_at(learning_rate, count, base.scalar_dtype(params)),
            exp_avg=base.zeros_like(params),
            exp_avg_sq=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        beta1, beta2, epsilon = base.scalars(dtype, b1, b2, eps)
        moves = state.count > 0
        keep2 = jnp.where(moves, beta2, 0)
        step_size = jnp.where(moves, rate, 0)

        def update_leaf(grad, param, m, v, has_decay):
            coupled = 0 if decouple else weight_decay
            grad = base.add_decay(grad, param, coupled, dtype, has_decay)
            ratio = grad / jnp.maximum(jnp.sqrt(v), epsilon)
            if clip_power is not None:
                (power,) = base.scalars(dtype, clip_power)
                most = state.count.astype(dtype) ** power
                ratio = jnp.clip(ratio, -most, most)
            new_m = jnp.where(moves, beta1 * m + (1 - beta1) * ratio, m)
            new_v = keep2 * v + (1 - keep2) * (grad * grad)
            change = -step_size * base.add_decay(
                new_m, param, weight_decay, dtype, has_decay and decouple
            )
            return (
                change.astype(param.dtype),
                new_m.astype(m.dtype),
                new_v.astype(v.dtype),
            )

        changes, exp_avg, exp_avg_sq = base.map_leaves(
            update_leaf,
            3,
            updates,
            params,
            state.exp_avg,
            state.exp_avg_sq,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        return changes, AdoptState(state.count + 1, rate, exp_avg, exp_avg_sq)

    return optax.GradientTransformationExtraArgs(init, update)
