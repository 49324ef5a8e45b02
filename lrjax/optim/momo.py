"""MoMo: momentum with step sizes from a model of the loss."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds, passes


class MomoState(NamedTuple):
    """State of `momo` and `momo_adam`.

    Attributes:
      count: number of updates made.
      learning_rate: the step size tau of the last update; with a mask that of the
        leaves with weight decay; -inf before the first update.
      lower_bound: lower bound, or its estimate, of the loss.
      loss_avg: average of losses.
      product_avg: average of <gradient, x>.
      exp_avg: average of gradients.
      exp_avg_sq: average of squared gradients; None for `momo`.
    """

    count: jax.Array
    learning_rate: jax.Array
    lower_bound: jax.Array
    loss_avg: jax.Array
    product_avg: jax.Array
    exp_avg: Any
    exp_avg_sq: Any


def _init(params: base.PyTree, lower_bound: base.Scalar, exp_avg_sq: Any) -> MomoState:
    """The initial state of `momo` and `momo_adam`.

    Args:
      params: the parameters.
      lower_bound: of the loss.
      exp_avg_sq: Adam's second average; None for SGD.
    """
    dtype = base.scalar_dtype(params)
    return MomoState(
        count=jnp.zeros((), jnp.int32),
        learning_rate=base.none_yet(dtype),
        lower_bound=base.fresh(dtype, lower_bound),
        loss_avg=jnp.zeros((), dtype),
        product_avg=jnp.zeros((), dtype),
        exp_avg=base.zeros_like(params),
        exp_avg_sq=exp_avg_sq,
    )


def _step_sizes(
    decay_flags: base.PyTree,
    decay: jax.Array,
    bound: jax.Array,
    step_size: Callable[..., tuple[jax.Array, jax.Array]],
) -> tuple[dict[bool, jax.Array], dict[bool, jax.Array], jax.Array]:
    """Weight decay coefficients and step sizes of leaves with and without weight decay.

    As in the official code for two parameter groups in this order: each group has its
    own step size, computed with the lower bound that the previous group has updated.

    Args:
      decay_flags: tree of booleans, whether a leaf has weight decay.
      decay: coefficient of weight decay.
      bound: lower bound of the loss.
      step_size: `_step_size` with all arguments but `decay` and `bound` bound.

    Returns:
      coefficients and step sizes, keyed by whether a leaf has decay, and the next lower
      bound.
    """
    (zero,) = base.scalars(decay.dtype, 0)
    flags = sorted(set(jax.tree.leaves(decay_flags)) or {True}, reverse=True)
    coefficients = {has_decay: decay if has_decay else zero for has_decay in flags}
    taus = {}
    for has_decay, coefficient in coefficients.items():
        taus[has_decay], bound = step_size(decay=coefficient, bound=bound)
    return coefficients, taus, bound


def _step_size(
    rate: jax.Array,
    decay: jax.Array,
    rho: jax.Array,
    loss: jax.Array,
    inner: jax.Array,
    product: jax.Array,
    square_norm: jax.Array,
    bound: jax.Array,
    initial_bound: jax.Array,
    adapt_lower_bound: bool,
) -> tuple[jax.Array, jax.Array]:
    """The step size tau and the next lower bound.

    Args:
      rate: the learning rate, the largest step size.
      decay: coefficient of weight decay.
      rho: total weight of the averages.
      loss: average of losses.
      inner: <average of gradients, x>.
      product: average of <gradient, x>.
      square_norm: squared norm of the average of gradients, in the metric.
      bound: lower bound of the loss.
      initial_bound: lower limit of an adapted bound.
      adapt_lower_bound: whether to adapt the bound.
    """
    growth = 1 + rate * decay
    model = growth * (loss - product) + inner
    if adapt_lower_bound:
        low = model < growth * rho * bound
        reset = jnp.maximum(model / (2 * growth * rho), initial_bound)
        bound = jnp.where(low, reset, bound)
    gap = jnp.maximum(model - growth * rho * bound, 0)
    # With a zero norm take the largest step; the direction is zero.
    tau = jnp.where(
        square_norm > 0, gap / jnp.where(square_norm > 0, square_norm, 1), jnp.inf
    )
    tau = jnp.minimum(rate / rho, tau)
    if adapt_lower_bound:
        # tau * square_norm; if the norm overflows, tau is 0 and this is the gap.
        fall = jnp.where(jnp.isinf(square_norm), gap, tau * square_norm)
        estimate = (loss + inner - product - 0.5 * fall) / rho
        bound = jnp.maximum(estimate, initial_bound)
    return tau, bound


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def momo(
    learning_rate: base.ScalarOrSchedule = 1.0,
    beta: base.Scalar = 0.9,
    lower_bound: base.Scalar = 0.0,
    weight_decay: base.Scalar = 0.0,
    adapt_lower_bound: bool = False,
    bias_correction: bool = False,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with momentum and the adaptive step size MoMo.

    With averages :math:`\bar f, d, \gamma` of the losses, gradients and products
    :math:`\langle g_t, x_t \rangle` (decay :math:`\beta`, total weight :math:`\rho`):

    .. math::
      \tau_t &= \min\left(\frac{\alpha_t}{\rho}, \frac{\left(
        (1+\alpha_t w)(\bar f_t - \rho f_* - \gamma_t) + \langle d_t, x_t \rangle
        \right)_+}{\|d_t\|^2}\right) \\
      x_{t+1} &= (x_t - \tau_t d_t) / (1+\alpha_t w)

    `update` needs the loss of the batch as the extra argument `value`.

    Args:
      learning_rate: the largest step size :math:`\alpha`; MoMo is robust to values that
        are too large, and takes any schedule.
      beta: decay of the averages.
      lower_bound: lower bound :math:`f_*` of the loss; "zero is often a good guess".
      weight_decay: coefficient w of weight decay (proximal).
      adapt_lower_bound: estimate the lower bound; "can be used if no good estimate is
        available" (``use_fstar`` officially). Static.
      bias_correction: start the averages from 0 and correct them, instead of from the
        first loss and gradient. Static.
      weight_decay_mask: the leaves that decay, as in `adamw`. The others have their
        own step size, computed without decay, like a separate parameter group.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.momo(learning_rate=10.0)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(
      ...     2 * params, state, params, value=jnp.sum(params**2)
      ... )
      >>> [round(float(u), 3) for u in updates]
      [-0.5, 1.0]

    References:
      Schaipp, Ohana, Eickenberg, Defazio and Gower, `MoMo: Momentum Models for Adaptive
      Learning Rates <https://arxiv.org/abs/2305.07583>`_, 2024. Official
      implementation: ``Momo`` of fabian-sp/MoMo.
    """
    bounds.check(
        bounds.NONNEGATIVE, learning_rate=learning_rate, weight_decay=weight_decay
    )
    bounds.check(bounds.FRACTION, beta=beta)
    bounds.check(bounds.FINITE, lower_bound=lower_bound)

    def init(params):
        return _init(params, lower_bound, None)

    def update(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.lower_bound.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        factor, decay, initial_bound, loss = base.scalars(
            dtype, beta, weight_decay, lower_bound, base.require_value("value", value)
        )
        if bias_correction:
            keep, rho = factor, base.bias_correction(factor, state.count + 1)
        else:
            keep, rho = jnp.where(state.count == 0, 0, factor), jnp.ones((), dtype)

        exp_avg = jax.tree.map(
            lambda g, m: (keep * m + (1 - keep) * g).astype(m.dtype),
            updates,
            state.exp_avg,
        )
        # <gradient, x>, <average of gradients, x>, and the average's squared norm.
        product, inner, square_norm = passes.sums(
            lambda g, p, m: (g * p, m * p, m * m), 3, dtype, updates, params, exp_avg
        )
        told = base.if_finite(loss, loss, state.loss_avg)
        loss_avg = keep * state.loss_avg + (1 - keep) * told
        product_avg = keep * state.product_avg + (1 - keep) * product

        step_size = functools.partial(
            _step_size,
            rate=rate,
            rho=rho,
            loss=loss_avg,
            inner=inner,
            product=product_avg,
            square_norm=square_norm,
            initial_bound=initial_bound,
            adapt_lower_bound=adapt_lower_bound,
        )
        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)
        coefficients, taus, bound = _step_sizes(
            decay_flags, decay, state.lower_bound, step_size
        )
        taus = {flag: base.if_finite(loss, tau) for flag, tau in taus.items()}
        bound = base.if_finite(loss, bound, state.lower_bound)
        # Proximal weight decay divides the whole step.
        divisors = {flag: 1 + rate * w for flag, w in coefficients.items()}

        def step(p, m, has_decay):
            return ((p - taus[has_decay] * m) / divisors[has_decay] - p).astype(p.dtype)

        changes = jax.tree.map(step, params, exp_avg, decay_flags)
        tau = next(iter(taus.values()))
        return changes, MomoState(
            state.count + 1, tau, bound, loss_avg, product_avg, exp_avg, None
        )

    return optax.GradientTransformationExtraArgs(init, update)


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def momo_adam(
    learning_rate: base.ScalarOrSchedule = 1e-2,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    eps: base.Scalar = 1e-8,
    lower_bound: base.Scalar = 0.0,
    weight_decay: base.Scalar = 0.0,
    adapt_lower_bound: bool = False,
    divide: bool = True,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with the adaptive step size MoMo.

    As `momo` (with bias correction) in the metric of Adam,
    :math:`D_t = \sqrt{v_t / (1-\beta_2^t)} + \epsilon`:

    .. math::
      \tau_t &= \min\left(\frac{\alpha_t}{1-\beta_1^t}, \frac{\left(
        (1+\alpha_t w)(\bar f_t - (1-\beta_1^t) f_* - \gamma_t)
        + \langle d_t, x_t \rangle \right)_+}{\langle d_t, d_t / D_t \rangle}\right) \\
      x_{t+1} &= (x_t - \tau_t d_t / D_t) / (1+\alpha_t w)

    `update` needs the loss of the batch as the extra argument `value`.

    Args:
      learning_rate: the largest step size :math:`\alpha`; MoMo is robust to values that
        are too large, and takes any schedule.
      b1: decay of the averages of losses, gradients and products.
      b2: decay of the second moment.
      eps: term outside of the root in the metric.
      lower_bound: lower bound :math:`f_*` of the loss; "zero is often a good guess".
      weight_decay: coefficient w of weight decay.
      adapt_lower_bound: estimate the lower bound; "can be used if no good estimate is
        available" (``use_fstar`` officially). Static.
      divide: proximal weight decay; without, the approximation of AdamW. Static.
      weight_decay_mask: the leaves that decay, as in `adamw`. The others have their
        own step size, computed without decay, like a separate parameter group.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.momo_adam(learning_rate=10.0)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(
      ...     2 * params, state, params, value=jnp.sum(params**2)
      ... )
      >>> [round(float(u), 3) for u in updates]
      [-0.833, 0.833]

    References:
      Schaipp, Ohana, Eickenberg, Defazio and Gower, `MoMo: Momentum Models for Adaptive
      Learning Rates <https://arxiv.org/abs/2305.07583>`_, 2024. Official
      implementation: ``MomoAdam`` of fabian-sp/MoMo.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        eps=eps,
        weight_decay=weight_decay,
    )
    bounds.check(bounds.FRACTION, b1=b1, b2=b2)
    bounds.check(bounds.FINITE, lower_bound=lower_bound)

    def init(params):
        return _init(params, lower_bound, base.zeros_like(params))

    def update(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.lower_bound.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        beta1, beta2, epsilon, decay, initial_bound, loss = base.scalars(
            dtype,
            b1,
            b2,
            eps,
            weight_decay,
            lower_bound,
            base.require_value("value", value),
        )
        rho = base.bias_correction(beta1, state.count + 1)
        scale = 1 / base.bias_correction(beta2, state.count + 1)

        def direction(m, v, scale):
            return m / (jnp.sqrt(scale * v) + epsilon)

        def update_leaf(grad, m, v):
            new_m = beta1 * m + (1 - beta1) * grad
            new_v = beta2 * v + (1 - beta2) * (grad * grad)
            return new_m.astype(m.dtype), new_v.astype(v.dtype)

        exp_avg, exp_avg_sq = base.map_leaves(
            update_leaf, 2, updates, state.exp_avg, state.exp_avg_sq
        )
        # <gradient, x>, <average of gradients, x>, and the average's squared norm in
        # Adam's metric.
        product, inner, square_norm = passes.sums(
            lambda g, p, m, v: (g * p, m * p, m * direction(m, v, scale)),
            3,
            dtype,
            updates,
            params,
            exp_avg,
            exp_avg_sq,
        )
        told = base.if_finite(loss, loss, state.loss_avg)
        loss_avg = beta1 * state.loss_avg + (1 - beta1) * told
        product_avg = beta1 * state.product_avg + (1 - beta1) * product

        step_size = functools.partial(
            _step_size,
            rate=rate,
            rho=rho,
            loss=loss_avg,
            inner=inner,
            product=product_avg,
            square_norm=square_norm,
            initial_bound=initial_bound,
            adapt_lower_bound=adapt_lower_bound,
        )
        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)
        coefficients, taus, bound = _step_sizes(
            decay_flags, decay, state.lower_bound, step_size
        )
        taus = {flag: base.if_finite(loss, tau) for flag, tau in taus.items()}
        bound = base.if_finite(loss, bound, state.lower_bound)
        # Proximal decay divides the whole step, AdamW's only shrinks the parameters.
        factors = {
            flag: (1, 1 + rate * w) if divide else (1 - rate * w, 1)
            for flag, w in coefficients.items()
        }
        tau = next(iter(taus.values()))
        # With a factor from after the sums XLA recomputes the direction, not stores it.
        (scale_again,) = passes.after(tau, scale)

        def step(p, m, v, has_decay):
            shrink, divisor = factors[has_decay]
            moved = taus[has_decay] * direction(m, v, scale_again)
            return ((shrink * p - moved) / divisor - p).astype(p.dtype)

        changes = jax.tree.map(step, params, exp_avg, exp_avg_sq, decay_flags)
        return changes, MomoState(
            state.count + 1, tau, bound, loss_avg, product_avg, exp_avg, exp_avg_sq
        )

    return optax.GradientTransformationExtraArgs(init, update)
