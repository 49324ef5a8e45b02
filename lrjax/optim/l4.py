"""L4: steps after which a linear model of the loss has come down by a fraction."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds, passes


class L4State(NamedTuple):
    """State of `l4_adam` and `l4_momentum`.

    Attributes:
      count: number of updates made.
      learning_rate: the step size of the last update; -inf before it.
      min_loss: the smallest loss so far, slowly forgotten.
      exp_avg: average of gradients.
      exp_avg_sq: average of squared gradients; None for `l4_momentum`.
    """

    count: jax.Array
    learning_rate: jax.Array
    min_loss: jax.Array
    exp_avg: Any
    exp_avg_sq: Any


def _init(params: base.PyTree, exp_avg_sq: Any) -> L4State:
    dtype = base.scalar_dtype(params)
    return L4State(
        count=jnp.zeros((), jnp.int32),
        learning_rate=base.none_yet(dtype),
        min_loss=jnp.zeros((), dtype),
        exp_avg=base.zeros_like(params),
        exp_avg_sq=exp_avg_sq,
    )


def _least(state: L4State, loss: jax.Array, init_factor: base.Scalar) -> jax.Array:
    """The smallest loss so far; at first a part of the first loss."""
    loss = base.if_finite(loss, loss, _most(loss))
    start = jnp.asarray(init_factor, loss.dtype) * loss
    return jnp.where(state.count == 0, start, jnp.minimum(state.min_loss, loss))


def _most(loss: jax.Array) -> float:
    """The largest number, for which a loss that is not finite counts."""
    return float(jnp.finfo(loss.dtype).max)


def _forgotten(least: jax.Array, time: jax.Array) -> jax.Array:
    """The smallest loss, forgotten by an update."""
    return jnp.minimum((1 + 1 / time) * least, _most(least))


def _rate(
    fraction: jax.Array,
    loss: jax.Array,
    goal: jax.Array,
    slope: jax.Array,
    eps: jax.Array,
) -> jax.Array:
    """The step size at which a line of this slope has fallen by a fraction of the way.

    Args:
      fraction: the fraction.
      loss, goal: the loss now and the one that is considered reachable.
      slope: <gradient, direction>; where it is 0, the step size is.
      eps: term in the denominator.
    """
    gap = jnp.maximum(loss - goal, 0)
    rate = jnp.where(
        slope > 0, fraction * gap / jnp.where(slope > 0, slope + eps, 1), 0
    )
    return base.if_finite(loss, rate)


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def l4_adam(
    learning_rate: base.ScalarOrSchedule = 0.15,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    adam_eps: base.Scalar = 1e-4,
    minloss_factor: base.Scalar = 0.9,
    init_factor: base.Scalar = 0.75,
    forget_time: base.Scalar = 1000.0,
    eps: base.Scalar = 1e-12,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam's direction with the step size of L4.

    With Adam's averages :math:`\hat m, \hat v` (corrected for their start) and
    :math:`d = \hat m / (\sqrt{\hat v} + \epsilon_A)`:

    .. math::
      L_t &= \min((1 + 1/\tau) L_{t-1}, f_t), \quad L_0 = \gamma_0 f_0 \\
      \eta_t &= \alpha_t \frac{f_t - \gamma L_t}
        {\langle \hat m_t, d_t \rangle + \epsilon}, \quad x_{t+1} = x_t - \eta_t d_t

    `update` needs the loss of the batch as the extra argument `value`. The loss must
    stay above zero.

    Args:
      learning_rate: the fraction :math:`\alpha` of the way to the reachable loss that a
        step goes.
      b1: decay of the average of gradients.
      b2: decay of the average of squared gradients.
      adam_eps: term outside of the root in Adam's denominator.
      minloss_factor: :math:`\gamma`, the part of the smallest loss that is considered
        reachable.
      init_factor: :math:`\gamma_0`, the part of the first loss that is taken as the
        smallest one so far.
      forget_time: :math:`\tau`, updates in which the smallest loss is forgotten.
      eps: term in the denominator of the step size.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.l4_adam()
      >>> state = transformation.init(params)
      >>> loss = jnp.sum(params**2)
      >>> updates, state = transformation.update(2 * params, state, params, value=loss)
      >>> round(float(optim.effective_learning_rate(state)), 4)
      0.0406

    References:
      Rolinek and Martius, `L4: Practical Loss-based Stepsize Adaptation for Deep
      Learning <https://arxiv.org/abs/1802.05074>`_, 2018. Official implementation:
      ``L4Adam`` of martius-lab/l4-optimizer (TensorFlow), where `b1` of the gradient
      in the slope is 0.9 whatever Adam's is.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        adam_eps=adam_eps,
        minloss_factor=minloss_factor,
        init_factor=init_factor,
        eps=eps,
    )
    bounds.check(bounds.FRACTION, b1=b1, b2=b2)
    bounds.check(bounds.SCALE, forget_time=forget_time)

    def init(params):
        return _init(params, base.zeros_like(params))

    def update(updates, state, params=None, *, value=None, **extra_args):
        del params, extra_args
        dtype = state.min_loss.dtype
        fraction = base.rate_at(learning_rate, state.count, dtype)
        beta1, beta2, term, reachable, time, epsilon, loss = base.scalars(
            dtype,
            b1,
            b2,
            adam_eps,
            minloss_factor,
            forget_time,
            eps,
            base.require_value("value", value),
        )
        count = state.count + 1
        scale1 = 1 / base.bias_correction(beta1, count)
        scale2 = 1 / base.bias_correction(beta2, count)

        def direction(m, v, scale1, scale2):
            return scale1 * m / (jnp.sqrt(scale2 * v) + term)

        def update_leaf(grad, m, v):
            new_m = beta1 * m + (1 - beta1) * grad
            new_v = beta2 * v + (1 - beta2) * (grad * grad)
            return new_m.astype(m.dtype), new_v.astype(v.dtype)

        exp_avg, exp_avg_sq = base.map_leaves(
            update_leaf, 2, updates, state.exp_avg, state.exp_avg_sq
        )
        slope = base.sum_leaves(
            lambda m, v: scale1 * m * direction(m, v, scale1, scale2),
            dtype,
            exp_avg,
            exp_avg_sq,
        )
        least = _least(state, loss, init_factor)
        rate = _rate(fraction, loss, reachable * least, slope, epsilon)
        # With factors from after the sum XLA recomputes the direction, not stores it.
        again = passes.after(rate, scale1, scale2)
        changes = jax.tree.map(
            lambda m, v: (-rate * direction(m, v, *again)).astype(m.dtype),
            exp_avg,
            exp_avg_sq,
        )
        return changes, L4State(
            count, rate, _forgotten(least, time), exp_avg, exp_avg_sq
        )

    return optax.GradientTransformationExtraArgs(init, update)


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def l4_momentum(
    learning_rate: base.ScalarOrSchedule = 0.15,
    momentum: base.Scalar = 0.9,
    minloss_factor: base.Scalar = 0.9,
    init_factor: base.Scalar = 0.75,
    forget_time: base.Scalar = 1000.0,
    eps: base.Scalar = 1e-12,
) -> optax.GradientTransformationExtraArgs:
    r"""An average of gradients as direction, with the step size of L4.

    As `l4_adam` with the average :math:`\hat m` (corrected for its start) in both
    places:

    .. math::
      \eta_t = \alpha_t \frac{f_t - \gamma L_t}{\|\hat m_t\|^2 + \epsilon}, \quad
      x_{t+1} = x_t - \eta_t \hat m_t

    `update` needs the loss of the batch as the extra argument `value`. The loss must
    stay above zero.

    Args:
      learning_rate: the fraction :math:`\alpha` of the way to the reachable loss that a
        step goes.
      momentum: decay of the average of gradients.
      minloss_factor, init_factor, forget_time, eps: as for `l4_adam`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.l4_momentum()
      >>> state = transformation.init(params)
      >>> loss = jnp.sum(params**2)
      >>> updates, state = transformation.update(2 * params, state, params, value=loss)
      >>> round(float(optim.effective_learning_rate(state)), 4)
      0.0122

    References:
      Rolinek and Martius, `L4: Practical Loss-based Stepsize Adaptation for Deep
      Learning <https://arxiv.org/abs/1802.05074>`_, 2018. Official implementation:
      ``L4Mom`` of martius-lab/l4-optimizer (TensorFlow).
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        minloss_factor=minloss_factor,
        init_factor=init_factor,
        eps=eps,
    )
    bounds.check(bounds.FRACTION, momentum=momentum)
    bounds.check(bounds.SCALE, forget_time=forget_time)

    def init(params):
        return _init(params, None)

    def update(updates, state, params=None, *, value=None, **extra_args):
        del params, extra_args
        dtype = state.min_loss.dtype
        fraction = base.rate_at(learning_rate, state.count, dtype)
        beta, reachable, time, epsilon, loss = base.scalars(
            dtype,
            momentum,
            minloss_factor,
            forget_time,
            eps,
            base.require_value("value", value),
        )
        count = state.count + 1
        scale = 1 / base.bias_correction(beta, count)
        exp_avg = jax.tree.map(
            lambda g, m: (beta * m + (1 - beta) * g).astype(m.dtype),
            updates,
            state.exp_avg,
        )
        slope = scale * scale * base.sum_squares(exp_avg, dtype)
        least = _least(state, loss, init_factor)
        rate = _rate(fraction, loss, reachable * least, slope, epsilon)
        step = rate * scale
        changes = jax.tree.map(lambda m: (-step * m).astype(m.dtype), exp_avg)
        return changes, L4State(count, rate, _forgotten(least, time), exp_avg, None)

    return optax.GradientTransformationExtraArgs(init, update)
