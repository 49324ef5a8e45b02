"""Prodigy: D-Adaptation with a faster growing estimate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class ProdigyState(NamedTuple):
    """State of `prodigy`.

    Attributes:
      count: number of updates made.
      step: how many of them had a nonzero learning rate and gradient.
      d: estimate of the distance to the solution.
      d_max: the largest estimate so far; above `d` only under a growth rate.
      numerator: weighted sum of <gradient, x_0 - x>.
      learning_rate: d times the learning rate (times the bias correction) of the last
        update, with d as before that update; before it, of the first.
      s: weighted sum of gradients, at the entries that are looked at.
      start: the initial parameters there.
      exp_avg: average of gradients times d, with b1.
      exp_avg_sq: average of squared gradients times d squared, with b2.
    """

    count: jax.Array
    step: jax.Array
    d: jax.Array
    d_max: jax.Array
    numerator: jax.Array
    learning_rate: jax.Array
    s: Any
    start: Any
    exp_avg: Any
    exp_avg_sq: Any


def check(
    learning_rate: base.ScalarOrSchedule,
    b2: base.Scalar,
    b3: base.Scalar | None,
    eps: base.Scalar,
    weight_decay: base.Scalar,
    d0: base.Scalar,
    d_coef: base.Scalar,
    growth_rate: base.Scalar,
) -> None:
    """Check the hyperparameters that Prodigy and its Schedule-Free form share."""
    bounds.check(
        bounds.NONNEGATIVE, learning_rate=learning_rate, weight_decay=weight_decay
    )
    bounds.check(bounds.POSITIVE, eps=eps, d0=d0, d_coef=d_coef)
    bounds.check(bounds.FRACTION, b2=b2, b3=b3)
    bounds.check(bounds.GROWTH, growth_rate=growth_rate)


def every(slice_p: int) -> Callable[[jax.Array], jax.Array]:
    """Return a function that takes every `slice_p`-th entry of a leaf, or all for 1."""
    step = bounds.size("slice_p", slice_p)
    if step == 1:
        return lambda leaf: leaf
    return lambda leaf: jnp.ravel(leaf)[::step]


def next_estimate(
    d: jax.Array,
    d_max: jax.Array,
    numerator: jax.Array,
    norm: jax.Array,
    d0: base.Scalar,
    d_coef: base.Scalar,
    growth_rate: base.Scalar,
    moved: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return the next `d` and `d_max`, unchanged if the update moved nothing.

    Args:
      d, d_max: scalars, the estimate and the largest one so far.
      numerator: scalar, weighted sum of <gradient, start - x>.
      norm: scalar, L1 norm of the weighted sum of gradients.
      d0, d_coef, growth_rate: as for `prodigy`.
      moved: scalar boolean, whether the update moved the parameters.
    """
    start, coefficient, growth = base.scalars(d.dtype, d0, d_coef, growth_rate)
    d_hat = base.safe_divide(coefficient * numerator, norm)
    first = jnp.where(d == start, jnp.maximum(d, d_hat), d)
    new_max = jnp.maximum(d_max, d_hat)
    new_d = base.at_most(new_max, first, growth)
    return jnp.where(moved, new_d, d), jnp.where(moved, new_max, d_max)


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def prodigy(
    learning_rate: base.ScalarOrSchedule = 1.0,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    b3: base.Scalar | None = None,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    d0: base.Scalar = 1e-6,
    d_coef: base.Scalar = 1.0,
    growth_rate: base.Scalar = float("inf"),
    decouple: bool = True,
    use_bias_correction: bool = False,
    safeguard_warmup: bool | jax.Array = False,
    learning_rate_factors: base.PerLeaf = None,
    weight_decay_mask: base.PerLeaf = None,
    slice_p: int = 1,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with Prodigy's step sizes.

    With :math:`\lambda_k = d_k \gamma_k`, times Adam's bias correction if asked for:

    .. math::
      r_{k+1} &= \beta_3 r_k + \tfrac{d_k}{d_0} \lambda_k
        \langle g_k, x_0 - x_k \rangle \\
      s_{k+1} &= \beta_3 s_k + \tfrac{d_k}{d_0} \lambda_k g_k \\
      m_{k+1} &= \beta_1 m_k + (1-\beta_1) d_k g_k \\
      v_{k+1} &= \beta_2 v_k + (1-\beta_2) d_k^2 g_k^2 \\
      d_{k+1} &= \min\left(\rho d_k, \max\left(d_k,
        c \frac{r_{k+1}}{\|s_{k+1}\|_1}\right)\right) \\
      x_{k+1} &= x_k - \lambda_k m_{k+1} / (\sqrt{v_{k+1}} + d_{k+1} \epsilon)

    With :math:`\beta_1 = 0` the numerator of the last line is
    :math:`\lambda_k d_{k+1} g_k`, with the new d, as in the official implementation.

    Args:
      learning_rate: factor :math:`\gamma`, "leave set to 1 unless you encounter
        instability"; the authors recommend cosine annealing without restarts.
      b1: decay of the first moment.
      b2: decay of the second moment.
      b3: decay of the averages that estimate d; the root of `b2` if None.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient of weight decay.
      d0: initial estimate of d; "rarely needs changing".
      d_coef: coefficient c of the estimate, "the preferred way to tune the method";
        "values such as 0.5 and 2.0 typically work as well".
      growth_rate: bound :math:`\rho` on the growth of d in one step; "values like 1.02
        give a kind of learning rate warmup effect".
      decouple: decay as in AdamW instead of adding to the gradient. Static.
      use_bias_correction: whether to use Adam's bias correction. Static. The authors
        turn it on for diffusion models.
      safeguard_warmup: leave the learning rate out of `s`; turn it on with a warm-up.
      learning_rate_factors: factors of the leaves' learning rates, with the same d for
        all: a tree of numbers, which may be traced, with the structure of the
        parameters, or a prefix of it, or a function from the parameters to such a tree.
        They do not apply to decoupled decay. A leaf with factor 0 moves by decay alone
        and does not contribute to d, like a parameter group with a learning rate of 0;
        the official implementation refuses factors other than 0 and 1.
      weight_decay_mask: the leaves that decay, as in `adamw`.
      slice_p: estimate d from every `slice_p`-th entry of a leaf alone, which saves
        memory; the authors find 11 "reasonable". Static.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.prodigy()
      >>> state = transformation.init(params)
      >>> for _ in range(50):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(state.d > 100 * 1e-6)
      True

    References:
      Mishchenko and Defazio, `Prodigy: An Expeditiously Adaptive Parameter-Free
      Learner <https://arxiv.org/abs/2306.06101>`_, 2023. Official implementation:
      ``Prodigy`` of konstmish/prodigy 1.1.2.
    """
    check(learning_rate, b2, b3, eps, weight_decay, d0, d_coef, growth_rate)
    bounds.check(bounds.FRACTION, b1=b1)
    part = every(slice_p)

    def rate_factor(count, step, dtype):
        """The learning rate over d, with the bias correction if it is used."""
        rate = base.rate_at(learning_rate, count, dtype)
        if use_bias_correction:
            beta1, beta2 = base.scalars(dtype, b1, b2)
            rate *= jnp.sqrt(base.bias_correction(beta2, step + 1))
            rate /= base.bias_correction(beta1, step + 1)
        return rate

    def init(params):
        dtype = base.scalar_dtype(params)
        count = jnp.zeros((), jnp.int32)
        d = base.fresh(dtype, d0)
        return ProdigyState(
            count=count,
            step=jnp.zeros((), jnp.int32),
            d=d,
            d_max=base.fresh(dtype, d0),
            numerator=jnp.zeros((), dtype),
            learning_rate=d * rate_factor(count, count, dtype),
            s=base.zeros_like(jax.tree.map(part, params)),
            start=base.copy(jax.tree.map(part, params)),
            exp_avg=base.zeros_like(params),
            exp_avg_sq=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.d.dtype
        beta1, beta2, epsilon = base.scalars(dtype, b1, b2, eps)
        beta3 = jnp.sqrt(beta2) if b3 is None else jnp.asarray(b3, dtype)
        dlr = state.d * rate_factor(state.count, state.step, dtype)
        # If the learning rate is 0 the official code changes no state. Coefficients of
        # 1 and 0 have this effect without another pass over the state.
        active = dlr > 0  # a rate of 0 leaves the state as it is
        keep1, keep2, keep3 = (jnp.where(active, b, 1) for b in (beta1, beta2, beta3))
        relative = jnp.where(active, state.d / jnp.asarray(d0, dtype), 0)
        weight = relative * jnp.where(safeguard_warmup, state.d, dlr)

        factors = base.rate_factors(learning_rate_factors, params, dtype)
        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)

        def gradient(grad, param, has_decay):
            coupled = 0 if decouple else weight_decay
            return base.add_decay(grad, param, coupled, dtype, has_decay)

        def average(grad, param, s, start, m, v, has_decay, factor):
            """The leaf's <gradient, x_0 - x> and L1 norm of s; the new averages."""
            grad = gradient(grad, param, has_decay)
            new_s = keep3 * s + base.times(factor, weight) * part(grad)
            new_m = keep1 * m + (1 - keep1) * state.d * grad
            new_v = keep2 * v + (1 - keep2) * jnp.square(state.d) * (grad * grad)
            product = jnp.sum(part(grad) * (start - part(param)), dtype=dtype)
            return (
                base.times(factor, product),
                jnp.sum(jnp.abs(new_s), dtype=dtype),
                new_s.astype(s.dtype),
                new_m.astype(m.dtype),
                new_v.astype(v.dtype),
            )

        products, norms, s, m, v = base.map_leaves(
            average,
            5,
            updates,
            params,
            state.s,
            state.start,
            state.exp_avg,
            state.exp_avg_sq,
            decay_flags,
            factors,
        )
        norm = base.total(norms, dtype)
        moved = active & (norm > 0)
        numerator = beta3 * state.numerator + relative * dlr * base.total(
            products, dtype
        )
        d, d_max = next_estimate(
            state.d, state.d_max, numerator, norm, d0, d_coef, growth_rate, moved
        )
        floor = d * epsilon

        def step(grad, param, m, v, has_decay, factor):
            """The change of a leaf."""
            if base.is_positive(b1):
                direction = m
            else:
                direction = jnp.where(
                    beta1 > 0, m, d * gradient(grad, param, has_decay)
                )
            change = -base.times(factor, dlr) * direction / (base.root(v) + floor)
            if decouple and has_decay:
                (decay,) = base.scalars(dtype, weight_decay)
                change -= jnp.where(moved, decay * dlr, 0) * param
            return change.astype(param.dtype)

        changes = jax.tree.map(step, updates, params, m, v, decay_flags, factors)
        return changes, ProdigyState(
            count=state.count + 1,
            step=state.step + moved.astype(jnp.int32),
            d=d,
            d_max=d_max,
            numerator=jnp.where(moved, numerator, state.numerator),
            learning_rate=dlr,
            s=s,
            start=state.start,
            exp_avg=m,
            exp_avg_sq=v,
        )

    return optax.GradientTransformationExtraArgs(init, update)
