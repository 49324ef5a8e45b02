"""Adan: adaptive Nesterov momentum."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class AdanState(NamedTuple):
    """State of `adan`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the last update; before it, of the first.
      exp_avg: average of gradients.
      exp_avg_diff: average of differences of gradients.
      exp_avg_sq: average of squared gradients, looked ahead.
      previous: the last gradient.
    """

    count: jax.Array
    learning_rate: jax.Array
    exp_avg: Any
    exp_avg_diff: Any
    exp_avg_sq: Any
    previous: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def adan(
    learning_rate: base.ScalarOrSchedule = 1e-3,
    b1: base.Scalar = 0.98,
    b2: base.Scalar = 0.92,
    b3: base.Scalar = 0.99,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    proximal: bool = True,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with Nesterov momentum from differences of gradients.

    With :math:`d_t = g_t - g_{t-1}`, 0 at first,

    .. math::
      m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad
      u_t = \beta_2 u_{t-1} + (1-\beta_2) d_t \\
      n_t &= \beta_3 n_{t-1} + (1-\beta_3) (g_t + \beta_2 d_t)^2 \\
      x_{t+1} &= \frac{1}{1 + \gamma_t w} \left(x_t - \gamma_t
        \frac{m_t / (1-\beta_1^t) + \beta_2 u_t / (1-\beta_2^t)}
        {\sqrt{n_t / (1-\beta_3^t)} + \epsilon}\right)

    Args:
      learning_rate: :math:`\gamma`, a number, traced or not, or a schedule of the
        update count; "5-10x larger than that of Adam".
      b1: decay of the average of gradients.
      b2: decay of the average of differences.
      b3: decay of the average of squares; the most sensitive of the three.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient w of weight decay.
      proximal: divide by :math:`1 + \gamma w` as above; False: multiply
        :math:`x_t` by :math:`1 - \gamma w` as AdamW does. Static.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes, with the official defaults.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.adan()
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(2 * params, state, params)
      >>> [round(float(u), 5) for u in updates]
      [-0.001, 0.001]

    References:
      Xie et al., `Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep
      Models <https://arxiv.org/abs/2208.06677>`_, 2022. Official implementation:
      ``Adan`` of sail-sg/Adan; its `max_grad_norm` is
      ``optax.clip_by_global_norm`` before this.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        eps=eps,
        weight_decay=weight_decay,
    )
    bounds.check(bounds.FRACTION, b1=b1, b2=b2, b3=b3)

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return AdanState(
            count=count,
            learning_rate=base.rate_at(learning_rate, count, base.scalar_dtype(params)),
            exp_avg=base.zeros_like(params),
            exp_avg_diff=base.zeros_like(params),
            exp_avg_sq=base.zeros_like(params),
            previous=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        beta1, beta2, beta3, epsilon, decay = base.scalars(
            dtype, b1, b2, b3, eps, weight_decay
        )
        count = state.count + 1
        scale1, scale2, scale3 = (
            1 / base.bias_correction(beta, count) for beta in (beta1, beta2, beta3)
        )
        known = state.count > 0

        def update_leaf(grad, param, m, u, n, previous, has_decay):
            change = jnp.where(known, grad - previous, 0)
            new_m = beta1 * m + (1 - beta1) * grad
            new_u = beta2 * u + (1 - beta2) * change
            ahead = grad + beta2 * change
            new_n = beta3 * n + (1 - beta3) * (ahead * ahead)
            direction = scale1 * new_m + beta2 * scale2 * new_u
            step = -rate * direction / (jnp.sqrt(scale3 * new_n) + epsilon)
            if has_decay and proximal:
                step = (step - rate * decay * param) / (1 + rate * decay)
            elif has_decay:
                step = step - rate * decay * param
            return (
                step.astype(param.dtype),
                new_m.astype(m.dtype),
                new_u.astype(u.dtype),
                new_n.astype(n.dtype),
                grad.astype(previous.dtype),
            )

        changes, *kept = base.map_leaves(
            update_leaf,
            5,
            updates,
            params,
            state.exp_avg,
            state.exp_avg_diff,
            state.exp_avg_sq,
            state.previous,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        return changes, AdanState(count, rate, *kept)

    return optax.GradientTransformationExtraArgs(init, update)
