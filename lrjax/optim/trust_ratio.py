"""LARS and LAMB: a rate for each tensor, from its norm over that of its update."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds
from lrjax.optim.baselines import AdamState


class LarsState(NamedTuple):
    """State of `lars`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the last update, without trust ratios; before it, of
        the first.
      velocity: sum of directions, decayed by the momentum; None without momentum.
    """

    count: jax.Array
    learning_rate: jax.Array
    velocity: Any


def _norm(leaf: jax.Array, dtype: Any) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(leaf), dtype=dtype))


def _adapted(
    ratio: jax.Array,
    norms: tuple[jax.Array, jax.Array],
    weight_decay: base.Scalar,
    has_decay: bool,
    always_adapt: bool,
) -> jax.Array:
    """The trust ratio of a tensor, 1 where it has no decay or a norm is 0."""
    ratio = jnp.where((norms[0] > 0) & (norms[1] > 0), ratio, 1)
    if always_adapt:
        return ratio
    return jnp.where(has_decay & (jnp.asarray(weight_decay) != 0), ratio, 1)


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def lars(
    learning_rate: base.ScalarOrSchedule = 1.0,
    momentum: base.Scalar | None = 0.9,
    nesterov: bool = False,
    weight_decay: base.Scalar = 5e-4,
    trust_coefficient: base.Scalar = 1e-3,
    eps: base.Scalar = 1e-8,
    trust_clip: bool = False,
    always_adapt: bool = False,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with a trust ratio for each tensor.

    .. math::
      \lambda &= \eta \frac{\|x_t\|}{\|g_t\| + w \|x_t\| + \epsilon} \\
      v_{t+1} &= \mu v_t + \lambda (g_t + w x_t), \quad
      x_{t+1} = x_t - \gamma_t v_{t+1}

    Args:
      learning_rate: :math:`\gamma`, a number, traced or not, or a schedule of the
        update count; large, as the ratios are small.
      momentum: :math:`\mu`; None for no momentum and no state for it.
      nesterov: whether to use Nesterov's momentum. Static.
      weight_decay: coefficient w of weight decay.
      trust_coefficient: :math:`\eta`.
      eps: term in the denominator.
      trust_clip: no ratio above 1 over the learning rate: LARC's clipping. Static.
      always_adapt: whether leaves without decay, too, have a trust ratio. Static.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Momentum and decay are those of
      the paper, all else as in the implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([3.0, -4.0])
      >>> transformation = optim.lars()
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(2 * params, state, params)
      >>> [round(float(u), 4) for u in updates]
      [-0.003, 0.004]

    References:
      You, Gitman and Ginsburg, `Large Batch Training of Convolutional Networks
      <https://arxiv.org/abs/1708.03888>`_, 2017. Implementation: ``Lars`` of
      huggingface/pytorch-image-models, after NVIDIA's ``LARC``. As in PyTorch's SGD,
      and unlike in the paper, the momentum is without the learning rate.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        trust_coefficient=trust_coefficient,
        eps=eps,
    )
    bounds.check(bounds.FRACTION, momentum=momentum)

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return LarsState(
            count=count,
            learning_rate=base.rate_at(learning_rate, count, base.scalar_dtype(params)),
            velocity=None if momentum is None else base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        decay, coefficient, epsilon = base.scalars(
            dtype, weight_decay, trust_coefficient, eps
        )

        def direction(grad, param, has_decay):
            decayed = base.add_decay(grad, param, weight_decay, dtype, has_decay)
            if not (has_decay or always_adapt):
                return decayed
            norms = _norm(param, dtype), _norm(grad, dtype)
            below = norms[1] + epsilon + (decay * norms[0] if has_decay else 0)
            ratio = coefficient * norms[0] / below
            if trust_clip:  # also at a rate of 0
                ratio = jnp.where(ratio < rate, ratio / rate, 1)
            return decayed * _adapted(
                ratio, norms, weight_decay, has_decay, always_adapt
            )

        directions = jax.tree.map(
            direction,
            updates,
            params,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        velocity = state.velocity
        if momentum is not None:
            (mu,) = base.scalars(dtype, momentum)
            grads = directions
            directions = jax.tree.map(lambda g, v: mu * v + g, grads, velocity)
            velocity = base.cast_like(directions, velocity)
            if nesterov:
                directions = jax.tree.map(lambda g, v: g + mu * v, grads, directions)
        changes = jax.tree.map(lambda d: -rate * d, directions)
        return base.cast_like(changes, params), LarsState(
            state.count + 1, rate, velocity
        )

    return optax.GradientTransformationExtraArgs(init, update)


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def lamb(
    learning_rate: base.ScalarOrSchedule = 1e-3,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    eps: base.Scalar = 1e-6,
    weight_decay: base.Scalar = 1e-2,
    max_grad_norm: base.Scalar | None = 1.0,
    use_bias_correction: bool = True,
    grad_averaging: bool = True,
    trust_clip: bool = False,
    always_adapt: bool = False,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW with a trust ratio for each tensor.

    With Adam's averages m and v of the clipped gradients

    .. math::
      r_t = \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon} + w x_t,
        \quad
      x_{t+1} = x_t - \gamma_t \frac{\|x_t\|}{\|r_t\|} r_t

    Args:
      learning_rate: :math:`\gamma`, a number, traced or not, or a schedule of the
        update count.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient w of weight decay.
      max_grad_norm: norm of all gradients together above which they are scaled down to
        it; None for no clipping.
      use_bias_correction: whether to use Adam's bias correction. Static.
      grad_averaging: whether a gradient enters m with :math:`1-\beta_1`, or with 1.
        Static.
      trust_clip: no ratio above 1. Static.
      always_adapt: whether leaves without decay, too, have a trust ratio. Static.
      weight_decay_mask: the leaves that decay, as in `adamw`; "bias" and the scales
        of norms do not with the authors.

    Returns:
      The transformation, for parameters of any shapes, with the implementation's
      defaults.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([3.0, -4.0])
      >>> transformation = optim.lamb(0.1, weight_decay=1e-6)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(2 * params, state, params)
      >>> [round(float(u), 3) for u in updates]
      [-0.354, 0.354]

    References:
      You et al., `Large Batch Optimization for Deep Learning: Training BERT in 76
      Minutes <https://arxiv.org/abs/1904.00962>`_, 2020. Implementation: ``Lamb`` of
      huggingface/pytorch-image-models, after NVIDIA's ``FusedLAMB``.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        eps=eps,
        weight_decay=weight_decay,
    )
    bounds.check(bounds.SCALE, max_grad_norm=max_grad_norm)
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
        weight = 1 - beta1 if grad_averaging else 1
        scale1 = scale2 = clip = jnp.ones((), dtype)
        if use_bias_correction:
            scale1 = 1 / base.bias_correction(beta1, count)
            scale2 = 1 / base.bias_correction(beta2, count)
        if max_grad_norm is not None:
            (most,) = base.scalars(dtype, max_grad_norm)
            norm = jnp.sqrt(base.sum_squares(updates, dtype))
            clip = 1 / jnp.maximum(norm / most, 1)

        def average(grad, m, v):
            grad = clip * grad
            new_m = beta1 * m + weight * grad
            new_v = beta2 * v + (1 - beta2) * (grad * grad)
            return new_m.astype(m.dtype), new_v.astype(v.dtype)

        exp_avg, exp_avg_sq = base.map_leaves(
            average, 2, updates, state.exp_avg, state.exp_avg_sq
        )

        def step(param, m, v, has_decay):
            direction = scale1 * m / (jnp.sqrt(scale2 * v) + epsilon)
            direction = base.add_decay(direction, param, weight_decay, dtype, has_decay)
            ratio = 1
            if has_decay or always_adapt:
                norms = _norm(param, dtype), _norm(direction, dtype)
                ratio = norms[0] / norms[1]
                if trust_clip:
                    ratio = jnp.minimum(ratio, 1)
                ratio = _adapted(ratio, norms, weight_decay, has_decay, always_adapt)
            return (-rate * ratio * direction).astype(param.dtype)

        changes = jax.tree.map(
            step,
            params,
            exp_avg,
            exp_avg_sq,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        return changes, AdamState(count, rate, exp_avg, exp_avg_sq)

    return optax.GradientTransformationExtraArgs(init, update)
