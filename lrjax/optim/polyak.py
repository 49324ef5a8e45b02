"""Step sizes from the loss of a batch over its squared gradient norm.

The relatives of `polyak_sgd`: ALI-G, smoothed and decreasing stochastic Polyak step
sizes, and NGN.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class AliGState(NamedTuple):
    """State of `ali_g`.

    Attributes:
      count: number of updates made.
      learning_rate: the step size of the last update; -inf before it.
      velocity: decayed sum of steps, or of gradients with `adjusted_momentum`; None
        without momentum.
    """

    count: jax.Array
    learning_rate: jax.Array
    velocity: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def ali_g(
    learning_rate: base.ScalarOrSchedule = float("inf"),
    momentum: base.Scalar | None = None,
    adjusted_momentum: bool = False,
    max_norm: base.Scalar | None = None,
    lower_bound: base.Scalar = 0.0,
    eps: base.Scalar = 1e-5,
) -> optax.GradientTransformationExtraArgs:
    r"""Adaptive learning rates for interpolation with gradients (ALI-G).

    .. math::
      \eta_t &= \min\left(\gamma_t,
        \frac{(f_t(x_t) - f_*)_+}{\|g_t\|^2 + \epsilon}\right) \\
      v_{t+1} &= \mu v_t - \eta_t g_t, \quad
      x_{t+1} = \Pi(x_t - \eta_t g_t + \mu v_{t+1})

    where :math:`\Pi` projects to a ball around zero. With `adjusted_momentum` v sums
    gradients instead, and is multiplied by the step size of the update. `update` needs
    the loss of the batch as the extra argument `value`.

    Args:
      learning_rate: the largest step size :math:`\gamma`, or infinity for none.
      momentum: :math:`\mu`; None for no momentum and no state for it.
      adjusted_momentum: multiply the sum by the step size of the update, as in
        PyTorch's SGD. Static.
      max_norm: radius of the ball, for all parameters together; None for no
        projection.
      lower_bound: the smallest value :math:`f_*` that the loss of a batch can take.
      eps: term in the denominator.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation, which has no `lower_bound`.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.ali_g(0.1, momentum=0.9)
      >>> state = transformation.init(params)
      >>> loss = jnp.sum(params**2)
      >>> updates, state = transformation.update(2 * params, state, params, value=loss)
      >>> [round(float(u), 3) for u in updates]
      [-0.38, 0.76]

    References:
      Berrada, Zisserman and Kumar, `Training Neural Networks for and by Interpolation
      <https://arxiv.org/abs/1906.05661>`_, 2020. Official implementation: ``AliG`` of
      oval-group/ali-g.
    """
    bounds.check(bounds.CAP, learning_rate=learning_rate)
    bounds.check(bounds.NONNEGATIVE, max_norm=max_norm, eps=eps)
    bounds.check(bounds.FRACTION, momentum=momentum)
    bounds.check(bounds.FINITE, lower_bound=lower_bound)

    def init(params):
        return AliGState(
            count=jnp.zeros((), jnp.int32),
            learning_rate=base.none_yet(base.scalar_dtype(params)),
            velocity=None if momentum is None else base.zeros_like(params),
        )

    def update(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        dtype = state.learning_rate.dtype
        cap = base.rate_at(learning_rate, state.count, dtype)
        bound, epsilon, loss = base.scalars(
            dtype, lower_bound, eps, base.require_value("value", value)
        )
        denominator = base.sum_squares(updates, dtype) + epsilon
        gap = jnp.maximum(loss - bound, 0)
        rate = jnp.minimum(cap, base.safe_divide(gap, denominator))
        rate = base.if_finite(loss, rate)
        velocity = state.velocity
        if momentum is None:
            changes = jax.tree.map(lambda g: -rate * g, updates)
        else:
            mu = jnp.asarray(momentum, dtype)
            one, times = (1, rate) if adjusted_momentum else (rate, 1)
            velocity = jax.tree.map(lambda g, v: mu * v - one * g, updates, velocity)
            changes = jax.tree.map(
                lambda g, v: times * mu * v - rate * g, updates, velocity
            )
        if max_norm is not None:
            params = base.require_params(params)
            square = base.sum_leaves(
                lambda p, c: jnp.square(p + c), dtype, params, changes
            )
            radius = jnp.asarray(max_norm, dtype)
            ratio = jnp.minimum(base.safe_divide(radius, jnp.sqrt(square)), 1)
            ratio = jnp.where(square == 0, 1, ratio)
            changes = jax.tree.map(lambda p, c: ratio * (p + c) - p, params, changes)
        return base.cast_like(changes, updates), AliGState(
            state.count + 1, rate, velocity
        )

    return optax.GradientTransformationExtraArgs(init, update)


class CappedState(NamedTuple):
    """State of `sps_smooth` and `dec_sps`.

    Attributes:
      count: number of updates made.
      learning_rate: the step size of the last update; -inf before it.
      cap: the step size that the next one is bounded by.
    """

    count: jax.Array
    learning_rate: jax.Array
    cap: jax.Array


def _capped(params: base.PyTree, cap: base.Scalar) -> CappedState:
    """The state before the first update."""
    dtype = base.scalar_dtype(params)
    return CappedState(
        count=jnp.zeros((), jnp.int32),
        learning_rate=base.none_yet(dtype),
        cap=base.fresh(dtype, cap),
    )


@base.any_leaves
def sps_smooth(
    learning_rate: base.Scalar = 1.0,
    c: base.Scalar = 0.5,
    increase_factor: base.Scalar = 2 ** (1 / 500),
    lower_bound: base.Scalar = 0.0,
    eps: base.Scalar = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with the stochastic Polyak step size, whose growth is bounded.

    .. math::
      \eta_t = \min\left(\tau \eta_{t-1},
        \frac{(f_t(x_t) - f_*)_+}{c \|g_t\|^2 + \epsilon}\right), \quad
      x_{t+1} = x_t - \eta_t g_t

    `update` needs the loss of the batch as the extra argument `value`. If the gradient
    is zero, the step size is 0 and the bound stays.

    Args:
      learning_rate: the step size :math:`\eta_{-1}` that bounds the first one, a number
        or a traced number.
      c: factor of the squared norm.
      increase_factor: :math:`\tau`; the default doubles a step size in 500 steps, which
        is an epoch in the authors' default.
      lower_bound: the smallest value :math:`f_*` that the loss of a batch can take.
      eps: term in the denominator.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.sps_smooth(0.1, increase_factor=1.5)
      >>> state = transformation.init(params)
      >>> loss = jnp.sum(params**2)
      >>> updates, state = transformation.update(2 * params, state, params, value=loss)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.15

    References:
      Loizou, Vaswani, Laradji and Lacoste-Julien, `Stochastic Polyak Step-size for SGD:
      An Adaptive Learning Rate for Fast Convergence
      <https://arxiv.org/abs/2002.10542>`_, 2021, section 4. Official implementation:
      ``Sps`` of IssamLaradji/sps with ``adapt_flag="smooth_iter"``, which never moves
      again after a gradient of zero.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate, eps=eps)
    bounds.check(bounds.POSITIVE, c=c)
    bounds.check(bounds.SCALE, increase_factor=increase_factor)
    bounds.check(bounds.FINITE, lower_bound=lower_bound)

    def init(params):
        return _capped(params, learning_rate)

    def update(updates, state, params=None, *, value=None, **extra_args):
        del params, extra_args
        dtype = state.cap.dtype
        factor, growth, bound, epsilon, loss = base.scalars(
            dtype,
            c,
            increase_factor,
            lower_bound,
            eps,
            base.require_value("value", value),
        )
        square = base.sum_squares(updates, dtype)
        gap = jnp.maximum(loss - bound, 0)
        rate = base.safe_divide(gap, factor * square + epsilon)
        rate = jnp.minimum(growth * state.cap, rate)
        moves = (square > 0) & jnp.isfinite(loss)
        cap = jnp.where(moves, rate, state.cap)
        rate = jnp.where(moves, rate, 0)
        changes = jax.tree.map(lambda g: (-rate * g).astype(g.dtype), updates)
        return changes, CappedState(state.count + 1, rate, cap)

    return optax.GradientTransformationExtraArgs(init, update)


@base.any_leaves
def dec_sps(
    learning_rate: base.Scalar = 10.0,
    c: base.Scalar = 1.0,
    power: base.Scalar = 0.5,
    lower_bound: base.Scalar = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with a stochastic Polyak step size that only decreases (DecSPS).

    With :math:`c_t = c (t+1)^p`, :math:`c_{-1} = c` and :math:`\eta_{-1} = \gamma`:

    .. math::
      \eta_t = \frac{1}{c_t} \min\left(\frac{(f_t(x_t) - f_*)_+}{\|g_t\|^2},
        c_{t-1} \eta_{t-1}\right), \quad x_{t+1} = x_t - \eta_t g_t

    It converges where the loss of a batch does not come near `lower_bound`, too.
    `update` needs the loss of the batch as the extra argument `value`.

    Args:
      learning_rate: :math:`\gamma`, which bounds the first step size; a number or a
        traced number.
      c: the first factor of the squared norm.
      power: p, how fast the factor grows.
      lower_bound: :math:`f_*`, below the loss of any batch; it need not be reached.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      authors' experiments.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.dec_sps()
      >>> state = transformation.init(params)
      >>> loss = jnp.sum(params**2)
      >>> updates, state = transformation.update(2 * params, state, params, value=loss)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.25

    References:
      Orvieto, Lacoste-Julien and Loizou, `Dynamics of SGD with Stochastic Polyak
      Stepsizes: Truly Adaptive Variants and Convergence to Exact Solution
      <https://arxiv.org/abs/2205.04583>`_, 2022. Official implementation:
      ``SPS_decr`` of aorvieto/DecSPS, which adds 1e-4 to every entry of the gradient in
      the norm.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate)
    bounds.check(bounds.POSITIVE, c=c, power=power)
    bounds.check(bounds.FINITE, lower_bound=lower_bound)

    def init(params):
        return _capped(params, learning_rate)

    def update(updates, state, params=None, *, value=None, **extra_args):
        del params, extra_args
        dtype = state.cap.dtype
        first, exponent, bound, loss = base.scalars(
            dtype, c, power, lower_bound, base.require_value("value", value)
        )
        count = state.count.astype(dtype)
        factor = first * (count + 1) ** exponent
        last = first * jnp.maximum(count, 1) ** exponent
        square = base.sum_squares(updates, dtype)
        gap = jnp.maximum(loss - bound, 0)
        # Without a gradient the loss says nothing of the next step size.
        step = jnp.where(square > 0, gap / jnp.where(square > 0, square, 1), jnp.inf)
        step = base.if_finite(loss, step, jnp.inf)
        cap = jnp.minimum(step, last * state.cap) / factor
        rate = base.if_finite(loss, cap)
        changes = jax.tree.map(lambda g: (-rate * g).astype(g.dtype), updates)
        return changes, CappedState(state.count + 1, rate, cap)

    return optax.GradientTransformationExtraArgs(init, update)


class NgnState(NamedTuple):
    """State of `ngn`.

    Attributes:
      count: number of updates made.
      learning_rate: the step size of the last update; -inf before it.
      exp_avg: average of gradients; None without momentum.
    """

    count: jax.Array
    learning_rate: jax.Array
    exp_avg: Any


@base.any_leaves
def ngn(
    learning_rate: base.ScalarOrSchedule = 1.0,
    momentum: base.Scalar | None = None,
    weight_decay: base.Scalar = 0.0,
    lower_bound: base.Scalar = 0.0,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with the non-negative Gauss-Newton step size (NGN).

    .. math::
      \eta_t = \frac{\sigma_t}
        {1 + \frac{\sigma_t}{2 (f_t(x_t) - f_*)} \|m_t\|^2}, \quad
      x_{t+1} = x_t - \eta_t (m_t + w x_t)

    where :math:`m_t` is the gradient or an average of gradients that starts from the
    first. The step size is close to :math:`\sigma` while it is small beside
    :math:`2 (f - f_*) / \|m\|^2`, and never above either. `update` needs the loss of
    the batch as the extra argument `value`.

    Args:
      learning_rate: :math:`\sigma`.
      momentum: decay of the average; None for no average and no state for it.
      weight_decay: coefficient w of weight decay.
      lower_bound: the smallest value :math:`f_*` that the loss of a batch can take.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.ngn(1.0)
      >>> state = transformation.init(params)
      >>> loss = jnp.sum(params**2)
      >>> updates, state = transformation.update(2 * params, state, params, value=loss)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.333

    References:
      Orvieto and Xiao, `An Adaptive Stochastic Gradient Method with Non-negative
      Gauss-Newton Stepsizes <https://arxiv.org/abs/2407.04358>`_, 2024. Official
      implementation: ``train.py`` of aorvieto/NGN, whose weight decay has the opposite
      sign.
    """
    bounds.check(
        bounds.NONNEGATIVE, learning_rate=learning_rate, weight_decay=weight_decay
    )
    bounds.check(bounds.FRACTION, momentum=momentum)
    bounds.check(bounds.FINITE, lower_bound=lower_bound)

    def init(params):
        return NgnState(
            count=jnp.zeros((), jnp.int32),
            learning_rate=base.none_yet(base.scalar_dtype(params)),
            exp_avg=None if momentum is None else base.zeros_like(params),
        )

    def update(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        dtype = state.learning_rate.dtype
        sigma = base.rate_at(learning_rate, state.count, dtype)
        bound, loss = base.scalars(
            dtype, lower_bound, base.require_value("value", value)
        )
        average, exp_avg = updates, None
        if momentum is not None:
            (beta,) = base.scalars(dtype, momentum)
            keep = jnp.where(state.count == 0, 0, beta)
            exp_avg = average = jax.tree.map(
                lambda g, m: keep * m + (1 - keep) * g, updates, state.exp_avg
            )
        square = base.sum_squares(average, dtype)
        twice = 2 * jnp.maximum(loss - bound, 0)
        rate = sigma * base.safe_divide(twice, twice + sigma * square)
        rate = base.if_finite(loss, rate)
        if base.is_zero(weight_decay):
            changes = jax.tree.map(lambda m: -rate * m, average)
        else:
            changes = jax.tree.map(
                lambda m, p, has_decay: (
                    -rate * base.add_decay(m, p, weight_decay, dtype, has_decay)
                ),
                average,
                base.require_params(params),
                base.decay_flags(weight_decay, weight_decay_mask, params),
            )
        return base.cast_like(changes, updates), NgnState(
            state.count + 1, rate, exp_avg
        )

    return optax.GradientTransformationExtraArgs(init, update)
