"""Prodigy with Schedule-Free averaging and clipped steps, as the community tunes it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds
from lrjax.optim.prodigy import check, every

LARGEST_GROWTH = 2**0.25  # of d in a step, with `d_limiter`


class ProdigyPlusState(NamedTuple):
    """State of `prodigy_plus_schedule_free`.

    Attributes:
      count: number of updates made.
      d: estimate of the distance to the solution.
      numerator: weighted sum of <gradient, z_0 - z>.
      learning_rate: d times the learning rate of the last update, with d as before that
        update; before it, of the first.
      weight_sum: sum of the squares of these rates.
      momentum: the factor b1 of x in y.
      z: the iterate that the steps move.
      s: weighted sum of gradients, at the entries that are looked at.
      start: the initial parameters there.
      exp_avg_sq: average of squared gradients times d squared.
    """

    count: jax.Array
    d: jax.Array
    numerator: jax.Array
    learning_rate: jax.Array
    weight_sum: jax.Array
    momentum: jax.Array
    z: Any
    s: Any
    start: Any
    exp_avg_sq: Any

    def eval_params(self, params: base.PyTree) -> base.PyTree:
        """The average x, from the parameters y."""
        away = 1 - 1 / self.momentum
        return base.where_kept(
            lambda z, y: (y + away * (z - y)).astype(y.dtype), self.z, params
        )


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def prodigy_plus_schedule_free(
    learning_rate: base.ScalarOrSchedule = 1.0,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.99,
    b3: base.Scalar | None = None,
    eps: base.Scalar | None = 1e-8,
    weight_decay: base.Scalar = 0.0,
    d0: base.Scalar = 1e-6,
    d_coef: base.Scalar = 1.0,
    d_limiter: bool | jax.Array = True,
    prodigy_steps: base.Scalar = 0,
    schedulefree_c: base.Scalar = 0.0,
    use_stableadamw: bool = True,
    slice_p: int = 1,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Schedule-Free around Prodigy, with clipped steps and a limited growth of d.

    The parameters are y, where gradients are taken. With
    :math:`\lambda_k = d_k \gamma_k` and :math:`\omega_k = d_k^2 / \sqrt{d_0}`:

    .. math::
      v_{k+1} &= \beta_2 v_k + (1-\beta_2) d_k^2 g_k^2, \quad
      u_k = \frac{d_k g_k}{\sqrt{v_{k+1}} + d_k \epsilon} \\
      u_k &\leftarrow u_k / \sqrt{\max(\mathrm{rms}(u_k), 1)} + w y_k
        \text{, with the root mean square of each tensor} \\
      r_{k+1} &= \beta_3 r_k + \omega_k \langle g_k, z_0 - z_k \rangle, \quad
      s_{k+1} = \beta_3 s_k + \omega_k g_k \\
      d_{k+1} &= \max\left(d_k, c \min\left(2^{1/4} d_k,
        \frac{r_{k+1}}{\|s_{k+1}\|_1}\right)\right) \\
      z_{k+1} &= z_k - \lambda_k u_k, \quad
      x_{k+1} = (1-c_k) x_k + c_k z_{k+1}, \quad
      c_k = \frac{\lambda_k^2}{\sum_{i \le k} \lambda_i^2} \\
      y_{k+1} &= \beta_1 x_{k+1} + (1-\beta_1) z_{k+1}

    As long as d is d0, a negative summand of r is left out. `eval_params` gives x.

    Args:
      learning_rate: factor :math:`\gamma` of the estimate, to be left at 1.
      b1: how y is interpolated between x and z, between 0 and 1 exclusive; the authors
        find 0.95 to 0.98 worth a try.
      b2: decay of the second moment.
      b3: decay of the sums that estimate d; the root of `b2` if None.
      eps: term outside of the root in the denominator; None for
        :math:`u_k = 1.2732395 \arctan(d_k g_k / \sqrt{v_{k+1}})`, without clipping.
      weight_decay: coefficient w of weight decay, taken at y.
      d0: initial estimate of d; 1e-5 or 1e-4 "if the optimiser struggles to converge".
      d_coef: coefficient c of the estimate, "the preferred way to tune the method".
      d_limiter: whether an estimate exceeds d by at most :math:`2^{1/4}`.
      prodigy_steps: number of the update from which on d stays; 0 for never.
      schedulefree_c: if above 0, the share :math:`c_k` is multiplied by this and by
        :math:`1-\beta_1`, to at most 1.
      use_stableadamw: divide steps by the root of their root mean square where that is
        above 1. Static.
      slice_p: estimate d from every `slice_p`-th entry of a leaf alone, which saves
        memory. Static. The official implementation always takes 11.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. With `slice_p` 11 it equals the
      official implementation with ``split_groups=False`` and ``factored=False``, whose
      other options are left out.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.prodigy_plus_schedule_free(d0=1e-3)
      >>> state = transformation.init(params)
      >>> for _ in range(200):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> averaged = optim.eval_params(state, params)
      >>> bool(jnp.abs(averaged).max() < 0.5)
      True

    References:
      Mishchenko and Defazio, `Prodigy: An Expeditiously Adaptive Parameter-Free Learner
      <https://arxiv.org/abs/2306.06101>`_, 2023; Defazio et al., `The Road Less
      Scheduled <https://arxiv.org/abs/2405.15682>`_, 2024. Official implementation:
      ``ProdigyPlusScheduleFree`` of LoganBooker/prodigy-plus-schedule-free 2.0.1.
    """
    floor = 1.0 if eps is None else eps
    check(learning_rate, b2, b3, floor, weight_decay, d0, d_coef, float("inf"))
    bounds.check(bounds.INSIDE, b1=b1)
    bounds.check(bounds.PAUSE, prodigy_steps=prodigy_steps)
    bounds.check(bounds.NONNEGATIVE, schedulefree_c=schedulefree_c)
    part = every(slice_p)

    def init(params):
        dtype = base.scalar_dtype(params)
        d = base.fresh(dtype, d0)
        rate = base.rate_at(learning_rate, jnp.zeros((), jnp.int32), dtype)
        return ProdigyPlusState(
            count=jnp.zeros((), jnp.int32),
            d=d,
            numerator=jnp.zeros((), dtype),
            learning_rate=d * rate,
            weight_sum=jnp.zeros((), dtype),
            momentum=base.fresh(dtype, b1),
            z=base.copy(params),
            s=base.zeros_like(jax.tree.map(part, params)),
            start=base.copy(jax.tree.map(part, params)),
            exp_avg_sq=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        d, dtype = state.d, state.d.dtype
        beta1, beta2, first_d, coefficient, constant, last = base.scalars(
            dtype, b1, b2, d0, d_coef, schedulefree_c, prodigy_steps
        )
        beta3 = jnp.sqrt(beta2) if b3 is None else jnp.asarray(b3, dtype)
        dlr = d * base.rate_at(learning_rate, state.count, dtype)
        adapts = (last <= 0) | ((state.count + 1).astype(dtype) < last)
        keep3 = jnp.where(adapts, beta3, 1)
        weight = jnp.where(adapts, d * d / jnp.sqrt(first_d), 0)

        def direction(grad, v):
            """The step of a leaf before it is clipped."""
            if eps is None:
                return 1.2732395 * jnp.arctan2(d * grad, jnp.sqrt(v))
            (epsilon,) = base.scalars(dtype, eps)
            return d * grad / (jnp.sqrt(v) + d * epsilon)

        def estimate(grad, z, s, start, v):
            """Sums over a leaf: of d's quotient and of the squared step; new sums."""
            new_v = beta2 * v + (1 - beta2) * jnp.square(d * grad)
            new_s = keep3 * s + weight * part(grad)
            return (
                weight * jnp.sum(part(grad) * (start - part(z)), dtype=dtype),
                jnp.sum(jnp.abs(new_s), dtype=dtype),
                jnp.sum(jnp.square(direction(grad, new_v)), dtype=dtype),
                new_s.astype(s.dtype),
                new_v.astype(v.dtype),
            )

        products, norms, squares, s, v = base.map_leaves(
            estimate, 5, updates, state.z, state.s, state.start, state.exp_avg_sq
        )
        product, norm = base.total(products, dtype), base.total(norms, dtype)
        counts = (d > first_d) | (product > 0)
        numerator = beta3 * state.numerator + jnp.where(counts, product, 0)
        numerator = jnp.where(adapts, numerator, state.numerator)
        d_hat = base.safe_divide(numerator, norm)
        highest = jnp.where(d_limiter, d * LARGEST_GROWTH, jnp.inf)
        new_d = jnp.maximum(d, coefficient * jnp.minimum(d_hat, highest))

        weight_sum = state.weight_sum + dlr * dlr
        share = base.safe_divide(dlr * dlr, weight_sum)
        scaled = jnp.minimum(share * (1 - beta1) * constant, 1)
        share = jnp.where(constant > 0, scaled, share)

        def step(grad, y, z, v, square, has_decay):
            """The change of y and the new z of a leaf."""
            move = direction(grad, v)
            if use_stableadamw and eps is not None:
                rms = jnp.sqrt(square / max(grad.size, 1))
                move *= jax.lax.rsqrt(jnp.maximum(rms, 1))
            move = -dlr * base.add_decay(move, y, weight_decay, dtype, has_decay)
            change = share * (z - y) + (1 - beta1 * (1 - share)) * move
            return change.astype(y.dtype), (z + move).astype(z.dtype)

        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)
        changes, z = base.map_leaves(
            step, 2, updates, params, state.z, v, squares, decay_flags
        )
        return changes, ProdigyPlusState(
            count=state.count + 1,
            d=jnp.where(adapts & (norm > 0), new_d, d),
            numerator=numerator,
            learning_rate=dlr,
            weight_sum=weight_sum,
            momentum=state.momentum,
            z=z,
            s=s,
            start=state.start,
            exp_avg_sq=v,
        )

    return optax.GradientTransformationExtraArgs(init, update)
