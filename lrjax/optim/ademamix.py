"""AdEMAMix: Adam with a second, much slower average of gradients."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class AdemamixState(NamedTuple):
    """State of `ademamix`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the last update; before it, of the first.
      exp_avg: fast average of gradients.
      exp_avg_slow: slow average of gradients.
      exp_avg_sq: average of squared gradients.
    """

    count: jax.Array
    learning_rate: jax.Array
    exp_avg: Any
    exp_avg_slow: Any
    exp_avg_sq: Any


def _half_life(decay: jax.Array) -> jax.Array:
    """Updates after which a value of an average weighs half, less one."""
    return math.log(0.5) / jnp.log(decay + 1e-8) - 1


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def ademamix(
    learning_rate: base.ScalarOrSchedule = 1e-3,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    b3: base.Scalar = 0.9999,
    alpha: base.Scalar = 2.0,
    b3_warmup: base.Scalar | None = None,
    alpha_warmup: base.Scalar | None = None,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW with a mixture of a fast and a slow average of gradients.

    .. math::
      m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad
      s_t = \beta_3 s_{t-1} + (1-\beta_3) g_t, \quad
      v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
      x_{t+1} &= x_t - \gamma_t \left(\frac{m_t / (1-\beta_1^t) + \alpha s_t}
        {\sqrt{v_t / (1-\beta_2^t)} + \epsilon} + w x_t\right)

    Args:
      learning_rate: :math:`\gamma`, a number, traced or not, or a schedule of the
        update count.
      b1: decay of the fast average.
      b2: decay of the second moment.
      b3: decay of the slow average.
      alpha: weight of the slow average.
      b3_warmup: updates over which the half-life of the slow average grows from that of
        `b1` to that of `b3`; None for none. The authors take the length of training.
      alpha_warmup: updates over which the weight grows from 0 to `alpha`; None for
        none. The authors take the length of training.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient w of weight decay, times the learning rate.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes, with the official defaults.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.ademamix(b3=0.9)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(2 * params, state, params)
      >>> [round(float(u), 5) for u in updates]
      [-0.0012, 0.0012]

    References:
      Pagliardini et al., `The AdEMAMix Optimizer: Better, Faster, Older
      <https://arxiv.org/abs/2409.03137>`_, 2024. Official implementation: ``AdEMAMix``
      of apple/ml-ademamix.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        alpha=alpha,
        b3_warmup=b3_warmup,
        alpha_warmup=alpha_warmup,
        eps=eps,
        weight_decay=weight_decay,
    )
    bounds.check(bounds.FRACTION, b1=b1, b2=b2, b3=b3)

    def part(count, steps, dtype):
        """Share of a warm-up that is over."""
        (steps,) = base.scalars(dtype, steps)
        done = count.astype(dtype)
        return jnp.where(done < steps, done / jnp.maximum(steps, 1), 1)

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return AdemamixState(
            count=count,
            learning_rate=base.rate_at(learning_rate, count, base.scalar_dtype(params)),
            exp_avg=base.zeros_like(params),
            exp_avg_slow=base.zeros_like(params),
            exp_avg_sq=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        beta1, beta2, beta3, mix, epsilon = base.scalars(dtype, b1, b2, b3, alpha, eps)
        count = state.count + 1
        scale1 = 1 / base.bias_correction(beta1, count)
        scale2 = 1 / base.bias_correction(beta2, count)
        if alpha_warmup is not None:
            mix = part(count, alpha_warmup, dtype) * mix
        if b3_warmup is not None:
            over = part(count, b3_warmup, dtype)
            life = (1 - over) * _half_life(beta1) + over * _half_life(beta3)
            beta3 = jnp.where(over < 1, 0.5 ** (1 / (life + 1)), beta3)

        def update_leaf(grad, param, m, slow, v, has_decay):
            new_m = beta1 * m + (1 - beta1) * grad
            new_slow = beta3 * slow + (1 - beta3) * grad
            new_v = beta2 * v + (1 - beta2) * (grad * grad)
            mean = scale1 * new_m + mix * new_slow
            direction = mean / (jnp.sqrt(scale2 * new_v) + epsilon)
            change = -rate * base.add_decay(
                direction, param, weight_decay, dtype, has_decay
            )
            return (
                change.astype(param.dtype),
                new_m.astype(m.dtype),
                new_slow.astype(slow.dtype),
                new_v.astype(v.dtype),
            )

        changes, *kept = base.map_leaves(
            update_leaf,
            4,
            updates,
            params,
            state.exp_avg,
            state.exp_avg_slow,
            state.exp_avg_sq,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        return changes, AdemamixState(count, rate, *kept)

    return optax.GradientTransformationExtraArgs(init, update)
