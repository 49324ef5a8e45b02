"""Adan with D-Adaptation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds, dadapt, passes


class DAdaptAdanState(NamedTuple):
    """State of `dadapt_adan`.

    Attributes:
      count: number of updates made.
      step: how many of them came with or after a nonzero rate and gradient.
      d: estimate of the distance to the solution.
      gradient_sum: weighted sum of squared gradient norms in Adan's metric.
      learning_rate: d times the learning rate at the last update; before it, at the
        first.
      s: weighted average of gradients times rates, with b3.
      exp_avg: average of gradients times rates, with b1.
      exp_avg_diff: average of differences of gradients times rates, with b2.
      exp_avg_sq: average of squared extrapolated gradients, with b3.
      gradient: the last gradient.
    """

    count: jax.Array
    step: jax.Array
    d: jax.Array
    gradient_sum: jax.Array
    learning_rate: jax.Array
    s: Any
    exp_avg: Any
    exp_avg_diff: Any
    exp_avg_sq: Any
    gradient: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def dadapt_adan(
    learning_rate: base.ScalarOrSchedule = 1.0,
    b1: base.Scalar = 0.98,
    b2: base.Scalar = 0.92,
    b3: base.Scalar = 0.99,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.02,
    no_prox: bool = False,
    d0: base.Scalar = 1e-6,
    growth_rate: base.Scalar = float("inf"),
    learning_rate_factors: base.PerLeaf = None,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adan with D-Adaptation ("should be considered experimental").

    With :math:`\lambda_k = d_k \gamma_k`, :math:`\delta_k = g_k - g_{k-1}`,
    :math:`\delta_0 = 0` and :math:`A_k = \sqrt{v_k} + \epsilon`:

    .. math::
      m_{k+1} &= \beta_1 m_k + (1-\beta_1) \lambda_k g_k \\
      u_{k+1} &= \beta_2 u_k + (1-\beta_2) \lambda_k \delta_k \\
      v_{k+1} &= \beta_3 v_k + (1-\beta_3) (g_k + \beta_2 \delta_k)^2 \\
      s_{k+1} &= \beta_3 s_k + (1-\beta_3) \lambda_k g_k \\
      q_{k+1} &= \beta_3 q_k
        + (1-\beta_3) \lambda_k^2 \langle g_k, g_k / A_{k+1} \rangle \\
      d_{k+1} &= \max\left(d_k, \min\left(\rho d_k,
        \frac{\langle s_{k+1}, s_{k+1} / A_{k+1} \rangle / (1-\beta_3) - q_{k+1}}
        {\|s_{k+1}\|_1}\right)\right) \\
      x_{k+1} &= \frac{x_k - (m_{k+1} + \beta_2 u_{k+1}) / A_{k+1}}{1 + \lambda_k w}

    Args:
      learning_rate: factor :math:`\gamma`, "leave set to 1 unless you encounter
        instability".
      b1: decay of the average of gradients.
      b2: decay of the average of their differences, and weight of these.
      b3: decay of the second moment and of the averages that estimate d.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient w of decoupled weight decay.
      no_prox: decay as in AdamW, by :math:`1 - \lambda_k w`, instead of the division.
        Static.
      d0: initial estimate of d; "rarely needs changing".
      growth_rate: bound :math:`\rho` on the growth of d in one step; "values like 1.02
        give a kind of learning rate warmup effect".
      learning_rate_factors: factors of the leaves' learning rates, with the same d for
        all, in the forms that `prodigy` takes. They do not apply to decay. A leaf with
        factor 0 moves by decay alone and does not contribute to d. The official
        implementation takes the first parameter group's learning rate for all groups.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.dadapt_adan()
      >>> state = transformation.init(params)
      >>> for _ in range(50):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(state.d > 100 * 1e-6)
      True

    References:
      Defazio and Mishchenko, `Learning-Rate-Free Learning by D-Adaptation
      <https://arxiv.org/abs/2301.07733>`_, 2023; Xie et al., `Adan: Adaptive Nesterov
      Momentum Algorithm for Faster Optimizing Deep Models
      <https://arxiv.org/abs/2208.06677>`_, 2022. Official implementation:
      ``DAdaptAdan`` of facebookresearch/dadaptation 3.2.
    """
    dadapt.check(learning_rate, weight_decay, d0, growth_rate)
    bounds.check(bounds.FRACTION, b1=b1, b2=b2, b3=b3)
    bounds.check(bounds.POSITIVE, eps=eps)

    def init(params):
        dtype = base.scalar_dtype(params)
        count = jnp.zeros((), jnp.int32)
        d = base.fresh(dtype, d0)
        return DAdaptAdanState(
            count=count,
            step=jnp.zeros((), jnp.int32),
            d=d,
            gradient_sum=jnp.zeros((), dtype),
            learning_rate=d * base.rate_at(learning_rate, count, dtype),
            s=base.zeros_like(params),
            exp_avg=base.zeros_like(params),
            exp_avg_diff=base.zeros_like(params),
            exp_avg_sq=base.zeros_like(params),
            gradient=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.d.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        beta1, beta2, beta3, epsilon = base.scalars(dtype, b1, b2, b3, eps)
        dlr = state.d * rate
        # As officially, there are no differences before the first step that moves.
        started = jnp.where(state.step > 0, 1, 0).astype(dtype)
        factors = base.rate_factors(learning_rate_factors, params, dtype)
        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)

        def averages(grad, s, v, last, factor, keep):
            """The new s and v of a leaf, and the difference of its gradients."""
            difference = started * (grad - last)
            new_s = keep * s + (1 - keep) * base.times(factor, dlr) * grad
            new_v = keep * v + (1 - keep) * jnp.square(grad + beta2 * difference)
            return new_s, new_v, difference

        def products(grad, s, v, last, factor):
            """Summands of the squared norms of gradient and s, and of s's L1 norm."""
            s, v, _ = averages(grad, s, v, last, factor, beta3)
            weight = 1 / (base.root(v) + epsilon)
            return (
                base.times(factor * factor, grad * weight * grad),
                s * weight * s,
                jnp.abs(s),
            )

        gradients, square, norm = passes.sums(
            products,
            3,
            dtype,
            updates,
            state.s,
            state.exp_avg_sq,
            state.gradient,
            factors,
        )
        # Overwrite the old state only after the sums over it, else XLA copies it first.
        keep1, keep2, keep3 = passes.after(norm, beta1, beta2, beta3)
        moved = norm > 0

        def update_leaf(grad, param, s, m, u, v, last, has_decay, factor):
            new_s, new_v, difference = averages(grad, s, v, last, factor, keep3)
            step = base.times(factor, dlr)
            new_m = keep1 * m + (1 - keep1) * step * grad
            new_u = keep2 * u + (1 - keep2) * step * difference
            change = -(new_m + beta2 * new_u) / (base.root(new_v) + epsilon)
            if has_decay:
                (decay,) = base.scalars(dtype, weight_decay)
                shrink = jnp.where(moved, decay * dlr, 0)
                change -= shrink * param
                if not no_prox:
                    change /= 1 + shrink
            return (
                change.astype(param.dtype),
                new_s.astype(s.dtype),
                new_m.astype(m.dtype),
                new_u.astype(u.dtype),
                new_v.astype(v.dtype),
                grad.astype(last.dtype),
            )

        changes, s, m, u, v, gradient = base.map_leaves(
            update_leaf,
            6,
            updates,
            params,
            state.s,
            state.exp_avg,
            state.exp_avg_diff,
            state.exp_avg_sq,
            state.gradient,
            decay_flags,
            factors,
        )
        gradient_sum = beta3 * state.gradient_sum + (1 - beta3) * dlr * dlr * gradients
        d_hat = base.safe_divide(square / (1 - beta3) - gradient_sum, norm)
        return changes, DAdaptAdanState(
            count=state.count + 1,
            step=state.step + moved.astype(jnp.int32),
            d=dadapt.grow(state.d, d_hat, growth_rate, moved & (rate > 0)),
            gradient_sum=jnp.where(moved, gradient_sum, state.gradient_sum),
            learning_rate=dlr,
            s=s,
            exp_avg=m,
            exp_avg_diff=u,
            exp_avg_sq=v,
            gradient=gradient,
        )

    return optax.GradientTransformationExtraArgs(init, update)
