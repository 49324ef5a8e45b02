"""Lion: steps by the sign of an average of gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class LionState(NamedTuple):
    """State of `lion`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the last update; before it, of the first.
      exp_avg: average of gradients.
    """

    count: jax.Array
    learning_rate: jax.Array
    exp_avg: Any


@base.any_leaves
def lion(
    learning_rate: base.ScalarOrSchedule = 1e-4,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.99,
    weight_decay: base.Scalar = 0.0,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Sign descent with two averages of one momentum, found by program search.

    .. math::
      u_t &= \mathrm{sign}(\beta_1 m_{t-1} + (1-\beta_1) g_t) \\
      m_t &= \beta_2 m_{t-1} + (1-\beta_2) g_t \\
      x_{t+1} &= x_t - \gamma_t (u_t + w x_t)

    Args:
      learning_rate: :math:`\gamma`, a number, traced or not, or a schedule of the
        update count; "typically 3-10x smaller than that for AdamW".
      b1: weight of the momentum in the step.
      b2: decay of the momentum.
      weight_decay: coefficient w of weight decay, times the learning rate; "3-10x
        larger than that for AdamW".
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes, with the official defaults.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.lion(1e-3)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(2 * params, state, params)
      >>> [round(float(u), 5) for u in updates]
      [-0.001, 0.001]

    References:
      Chen et al., `Symbolic Discovery of Optimization Algorithms
      <https://arxiv.org/abs/2302.06675>`_, 2023. Official implementation: ``Lion`` of
      google/automl. The direction is ``optax.scale_by_lion``.
    """
    bounds.check(
        bounds.NONNEGATIVE, learning_rate=learning_rate, weight_decay=weight_decay
    )
    bounds.check(bounds.FRACTION, b1=b1, b2=b2)

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return LionState(
            count=count,
            learning_rate=base.rate_at(learning_rate, count, base.scalar_dtype(params)),
            exp_avg=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        beta1, beta2 = base.scalars(dtype, b1, b2)
        signs, kept = optax.scale_by_lion(beta1, beta2).update(
            updates, optax.ScaleByLionState(state.count, state.exp_avg)
        )
        changes = jax.tree.map(
            lambda sign, p, has_decay: (
                -rate * base.add_decay(sign, p, weight_decay, dtype, has_decay)
            ).astype(p.dtype),
            signs,
            params,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        return changes, LionState(
            state.count + 1, rate, base.cast_like(kept.mu, state.exp_avg)
        )

    return optax.GradientTransformationExtraArgs(init, update)
