"""AdamG: Adam whose steps scale with a power of the squared gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class AdamGState(NamedTuple):
    """State of `adamg`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the last update, at most 1 over the root of its number;
        before it, of the first.
      exp_avg: average of gradients times `scale`, with b1.
      exp_avg_sq: average of squared gradients, with b2.
      scale: average of the scaling of gradients, with b3.
    """

    count: jax.Array
    learning_rate: jax.Array
    exp_avg: Any
    exp_avg_sq: Any
    scale: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def adamg(
    learning_rate: base.ScalarOrSchedule = 1.0,
    b1: base.Scalar = 0.95,
    b2: base.Scalar = 0.999,
    b3: base.Scalar = 0.95,
    p: base.Scalar = 0.2,
    q: base.Scalar = 0.24,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    decouple: bool = False,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with the golden step size (AdamG), which needs no learning rate.

    .. math::
      v_t &= \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
      r_t &= \beta_3 r_{t-1} + (1-\beta_3) p v_t^q \\
      m_t &= \beta_1 m_{t-1} + (1-\beta_1) r_t g_t \\
      x_{t+1} &= x_t - \min(\gamma_t, 1/\sqrt t) \,
        \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    Args:
      learning_rate: largest factor :math:`\gamma` of a step.
      b1: decay of the first moment.
      b2: decay of the second moment.
      b3: decay of the average of scalings.
      p: factor of the scaling.
      q: power of the scaling, near to but below 1/4.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient of weight decay, added to the gradient.
      decouple: decay as in AdamW, by :math:`\gamma_t w`, instead. Static.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the paper.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.adamg()
      >>> state = transformation.init(params)
      >>> for _ in range(4):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.5

    References:
      Pang et al., `Towards Stability of Parameter-free Optimization
      <https://arxiv.org/abs/2405.04376>`_, 2024. Implementation: ``AdamG`` of
      pytorch_optimizer 4.1.0.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        p=p,
        q=q,
        weight_decay=weight_decay,
    )
    bounds.check(bounds.FRACTION, b1=b1, b2=b2, b3=b3)
    bounds.check(bounds.POSITIVE, eps=eps)

    def rates(count, dtype):
        """The learning rate and the factor of the step."""
        rate = base.rate_at(learning_rate, count, dtype)
        return rate, jnp.minimum(rate, 1 / jnp.sqrt((count + 1).astype(dtype)))

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return AdamGState(
            count=count,
            learning_rate=rates(count, base.scalar_dtype(params))[1],
            exp_avg=base.zeros_like(params),
            exp_avg_sq=base.zeros_like(params),
            scale=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        beta1, beta2, beta3, epsilon = base.scalars(dtype, b1, b2, b3, eps)
        factor, power = base.scalars(dtype, p, q)
        rate, size = rates(state.count, dtype)
        count = state.count + 1
        first = base.bias_correction(beta1, count)
        second = base.bias_correction(beta2, count)
        coupled = 0 if decouple else weight_decay

        def update_leaf(grad, param, m, v, r, has_decay):
            grad = base.add_decay(grad, param, coupled, dtype, has_decay)
            new_v = beta2 * v + (1 - beta2) * (grad * grad)
            scaling = factor * new_v**power
            # An overflow of v makes the step 0, which an infinite scaling would not.
            scaling = jnp.where(jnp.isinf(new_v), 0, scaling)
            new_r = beta3 * r + (1 - beta3) * scaling
            new_m = beta1 * m + (1 - beta1) * new_r * grad
            change = -size / first * new_m / (jnp.sqrt(new_v / second) + epsilon)
            if decouple and has_decay:
                (decay,) = base.scalars(dtype, weight_decay)
                change -= rate * decay * param
            return (
                change.astype(param.dtype),
                new_m.astype(m.dtype),
                new_v.astype(v.dtype),
                new_r.astype(r.dtype),
            )

        changes, m, v, r = base.map_leaves(
            update_leaf,
            4,
            updates,
            params,
            state.exp_avg,
            state.exp_avg_sq,
            state.scale,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        return changes, AdamGState(count, size, m, v, r)

    return optax.GradientTransformationExtraArgs(init, update)
