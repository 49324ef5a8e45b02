"""SGD, AdamW and NAdamW, which record their learning rate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class SgdState(NamedTuple):
    """State of `sgd`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the last update; before it, of the first.
      velocity: sum of gradients, decayed by the momentum; None without momentum.
    """

    count: jax.Array
    learning_rate: jax.Array
    velocity: Any


@base.any_leaves
def sgd(
    learning_rate: base.ScalarOrSchedule = 1e-3,
    momentum: base.Scalar | None = None,
    nesterov: bool = False,
    weight_decay: base.Scalar = 0.0,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Stochastic gradient descent.

    .. math::
      v_{t+1} = \mu v_t + g_t + w x_t, \quad x_{t+1} = x_t - \gamma_t v_{t+1}

    Nesterov's momentum steps along :math:`g_t + w x_t + \mu v_{t+1}` instead.

    Args:
      learning_rate: :math:`\gamma`, a number, traced or not, or a schedule of the
        update count.
      momentum: :math:`\mu`; None for no momentum and no state for it.
      nesterov: whether to use Nesterov's momentum. Static.
      weight_decay: coefficient w of weight decay, added to the gradient.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. It equals ``torch.optim.SGD``
      and has its defaults.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.sgd(0.1, momentum=0.9)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(2 * params, state, params)
      >>> [round(float(u), 3) for u in updates]
      [-0.2, 0.4]

    References:
      Robbins and Monro, `A Stochastic Approximation Method
      <https://doi.org/10.1214/aoms/1177729586>`_, 1951; Polyak, `Some Methods of
      Speeding up the Convergence of Iteration Methods
      <https://doi.org/10.1016/0041-5553(64)90137-5>`_, 1964. Implementation:
      ``torch.optim.SGD``.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
    )
    bounds.check(bounds.FRACTION, momentum=momentum)

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return SgdState(
            count=count,
            learning_rate=base.rate_at(learning_rate, count, base.scalar_dtype(params)),
            velocity=None if momentum is None else base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        dtype = state.learning_rate.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        directions, velocity = updates, state.velocity
        if not base.is_zero(weight_decay):
            params = base.require_params(params)
            directions = jax.tree.map(
                lambda g, p, has_decay: base.add_decay(
                    g, p, weight_decay, dtype, has_decay
                ),
                updates,
                params,
                base.decay_flags(weight_decay, weight_decay_mask, params),
            )
        if momentum is not None:
            (mu,) = base.scalars(dtype, momentum)
            grads = directions
            directions = jax.tree.map(lambda g, v: mu * v + g, grads, velocity)
            velocity = base.cast_like(directions, velocity)
            if nesterov:
                directions = jax.tree.map(lambda g, v: g + mu * v, grads, directions)
        changes = jax.tree.map(lambda d: -rate * d, directions)
        return base.cast_like(changes, updates), SgdState(
            count=state.count + 1, learning_rate=rate, velocity=velocity
        )

    return optax.GradientTransformationExtraArgs(init, update)


class AdamState(NamedTuple):
    """State of `adamw` and `nadamw`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the last update; before it, of the first.
      exp_avg: average of gradients.
      exp_avg_sq: average of squared gradients.
    """

    count: jax.Array
    learning_rate: jax.Array
    exp_avg: Any
    exp_avg_sq: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
def _adam(
    learning_rate: base.ScalarOrSchedule,
    b1: base.Scalar,
    b2: base.Scalar,
    eps: base.Scalar,
    weight_decay: base.Scalar,
    weight_decay_mask: base.PerLeaf,
    nesterov: bool,
) -> optax.GradientTransformationExtraArgs:
    """AdamW, or NAdamW with `nesterov`."""
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        eps=eps,
        weight_decay=weight_decay,
    )
    bounds.check(bounds.FRACTION, b1=b1, b2=b2)

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return AdamState(
            count=count,
            learning_rate=base.rate_at(learning_rate, count, base.scalar_dtype(params)),
            exp_avg=base.zeros_like(params),
            exp_avg_sq=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        beta1, beta2, epsilon = base.scalars(dtype, b1, b2, eps)
        count = state.count + 1
        scale1 = 1 / base.bias_correction(beta1, count)
        scale2 = 1 / base.bias_correction(beta2, count)
        ahead = beta1 / base.bias_correction(beta1, count + 1)

        def update_leaf(grad, param, m, v, has_decay):
            new_m = beta1 * m + (1 - beta1) * grad
            new_v = beta2 * v + (1 - beta2) * (grad * grad)
            if nesterov:
                mean = ahead * new_m + (1 - beta1) * scale1 * grad
            else:
                mean = scale1 * new_m
            direction = mean / (jnp.sqrt(scale2 * new_v) + epsilon)
            change = -rate * base.add_decay(
                direction, param, weight_decay, dtype, has_decay
            )
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
        return changes, AdamState(count, rate, exp_avg, exp_avg_sq)

    return optax.GradientTransformationExtraArgs(init, update)


@base.any_leaves
def adamw(
    learning_rate: base.ScalarOrSchedule = 1e-3,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 1e-2,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with decoupled weight decay.

    .. math::
      m_t &= \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad
      v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2 \\
      x_{t+1} &= x_t - \gamma_t \left(\frac{m_t / (1-\beta_1^t)}
        {\sqrt{v_t / (1-\beta_2^t)} + \epsilon} + w x_t\right)

    Args:
      learning_rate: :math:`\gamma`, a number, traced or not, or a schedule of the
        update count.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient w of weight decay, times the learning rate.
      weight_decay_mask: the leaves that decay: a tree of booleans with the structure
        of the parameters, or a prefix of it, or a function from the parameters to such
        a tree, as ``mask`` of ``optax.adamw``. None for all.

    Returns:
      The transformation, for parameters of any shapes. It equals ``torch.optim.AdamW``
      and has its defaults.

    Raises:
      ValueError: in `update`, if the mask does not fit the parameters.

    Example:
      Biases and the scales of norms, which are vectors, have no weight decay:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> def matrices(params):
      ...     return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
      >>> params = {"weight": jnp.ones((2, 2)), "bias": jnp.ones(2)}
      >>> transformation = optim.adamw(1e-3, weight_decay_mask=matrices)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(params, state, params)
      >>> round(float(updates["weight"][0, 0]), 5), round(float(updates["bias"][0]), 5)
      (-0.00101, -0.001)

    References:
      Loshchilov and Hutter, `Decoupled Weight Decay Regularization
      <https://arxiv.org/abs/1711.05101>`_, 2019. Implementation:
      ``torch.optim.AdamW``.
    """
    return _adam(
        learning_rate, b1, b2, eps, weight_decay, weight_decay_mask, nesterov=False
    )


@base.any_leaves
def nadamw(
    learning_rate: base.ScalarOrSchedule = 1e-3,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 1e-4,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with Nesterov momentum and decoupled weight decay.

    As `adamw` with the mean of the gradients

    .. math::
      \hat m_t = \frac{\beta_1 m_t}{1-\beta_1^{t+1}}
        + \frac{(1-\beta_1) g_t}{1-\beta_1^t}

    Args:
      learning_rate: :math:`\gamma`, a number, traced or not, or a schedule of the
        update count.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient w of weight decay, times the learning rate.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. It equals ``optax.nadamw`` and
      has its defaults.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.nadamw(1e-3)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(2 * params, state, params)
      >>> [round(float(u), 5) for u in updates]
      [-0.00147, 0.00147]

    References:
      Dozat, `Incorporating Nesterov Momentum into Adam
      <https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ>`_, 2016. Implementation:
      ``optax.nadamw``.
    """
    return _adam(
        learning_rate, b1, b2, eps, weight_decay, weight_decay_mask, nesterov=True
    )
