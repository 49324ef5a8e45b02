"""RAdam: Adam whose first steps are rectified, so that it needs no warm-up."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds
from lrjax.optim.baselines import AdamState


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def radam(
    learning_rate: base.ScalarOrSchedule = 1e-3,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    decouple: bool = False,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Rectified Adam.

    With Adam's averages :math:`m_t, v_t` of :math:`g_t + w x_t`,
    :math:`\rho_\infty = \frac{2}{1-\beta_2} - 1` and
    :math:`\rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1-\beta_2^t}`:

    .. math::
      r_t &= \sqrt{\frac{(\rho_t-4)(\rho_t-2) \rho_\infty}
        {(\rho_\infty-4)(\rho_\infty-2) \rho_t}} \\
      x_{t+1} &= x_t - \gamma_t r_t \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}
        \frac{m_t}{\sqrt{v_t} + \epsilon}

    where :math:`\rho_t > 5`; in the steps before,
    :math:`x_{t+1} = x_t - \gamma_t m_t / (1-\beta_1^t)`.

    Args:
      learning_rate: :math:`\gamma`, a number, traced or not, or a schedule of the
        update count.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient w of weight decay, added to the gradient.
      decouple: decay as in AdamW instead. Static.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. It equals ``torch.optim.RAdam``
      and has its defaults; ``decouple`` is its ``decoupled_weight_decay``.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.radam(0.1)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(2 * params, state, params)
      >>> [round(float(u), 3) for u in updates]
      [-0.2, 0.4]

    References:
      Liu et al., `On the Variance of the Adaptive Learning Rate and Beyond
      <https://arxiv.org/abs/1908.03265>`_, 2020. Implementation:
      ``torch.optim.RAdam``.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        eps=eps,
        weight_decay=weight_decay,
    )
    bounds.check(bounds.FRACTION, b1=b1, b2=b2)

    def rates(count, dtype):
        """The rates of steps along m and along Adam's direction; one of them is 0."""
        rate = base.rate_at(learning_rate, count, dtype)
        beta1, beta2 = base.scalars(dtype, b1, b2)
        step = (count + 1).astype(dtype)
        first = base.bias_correction(beta1, count + 1)
        second = base.bias_correction(beta2, count + 1)
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * step * beta2**step / second
        adaptive = length > 5
        # In the other branch no number may be negative under the root.
        length = jnp.where(adaptive, length, longest)
        ratio = (length - 4) * (length - 2) * longest
        rectified = jnp.sqrt(ratio / ((longest - 4) * (longest - 2) * length))
        return (
            jnp.where(adaptive, 0, rate / first),
            jnp.where(adaptive, rate / first * rectified * jnp.sqrt(second), 0),
            rate * jnp.where(adaptive, rectified, 1),
            rate,
        )

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return AdamState(
            count=count,
            learning_rate=rates(count, base.scalar_dtype(params))[2],
            exp_avg=base.zeros_like(params),
            exp_avg_sq=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        beta1, beta2, epsilon = base.scalars(dtype, b1, b2, eps)
        plain, adaptive, used, rate = rates(state.count, dtype)
        coupled = 0 if decouple else weight_decay

        def update_leaf(grad, param, m, v, has_decay):
            grad = base.add_decay(grad, param, coupled, dtype, has_decay)
            new_m = beta1 * m + (1 - beta1) * grad
            new_v = beta2 * v + (1 - beta2) * (grad * grad)
            scale = base.safe_divide(adaptive, jnp.sqrt(new_v) + epsilon)
            change = -(plain + scale) * new_m
            if decouple and has_decay:
                (decay,) = base.scalars(dtype, weight_decay)
                change -= rate * decay * param
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
        return changes, AdamState(state.count + 1, used, exp_avg, exp_avg_sq)

    return optax.GradientTransformationExtraArgs(init, update)
