"""IAM: Polyak's step size for a method that averages its iterates."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds, passes


class IamState(NamedTuple):
    """State of `iam` and `iam_adam`.

    Attributes:
      count: number of updates made.
      learning_rate: how far the parameters followed the last direction; -inf before.
      z: the iterate that the parameters average.
      exp_avg_sq: average of squared gradients; None for `iam`.
    """

    count: jax.Array
    learning_rate: jax.Array
    z: Any
    exp_avg_sq: Any


def _init(params: base.PyTree, exp_avg_sq: Any) -> IamState:
    return IamState(
        count=jnp.zeros((), jnp.int32),
        learning_rate=base.none_yet(base.scalar_dtype(params)),
        z=base.copy(params),
        exp_avg_sq=exp_avg_sq,
    )


def _check(learning_rate, momentum, weight_decay, lower_bound) -> None:
    bounds.check(
        bounds.NONNEGATIVE, learning_rate=learning_rate, weight_decay=weight_decay
    )
    bounds.check(bounds.FRACTION, momentum=momentum)
    bounds.check(bounds.FINITE, lower_bound=lower_bound)


def _share(momentum: base.Scalar | None, count: jax.Array, dtype: Any) -> jax.Array:
    """Share of the step towards z: 1 - momentum; in the theory 1 / (t + 2)."""
    if momentum is None:
        return 1 / (count.astype(dtype) + 2)
    return 1 - jnp.asarray(momentum, dtype)


def _step_size(
    cap: jax.Array, gap: jax.Array, inner: jax.Array, square_norm: jax.Array
) -> jax.Array:
    """min(cap, (gap + inner)_+ / square_norm); the cap where the norm is zero."""
    model = jnp.maximum(gap + inner, 0)
    known = square_norm > 0
    step = jnp.where(known, model / jnp.where(known, square_norm, 1), jnp.inf)
    return jnp.minimum(cap, step)


@base.any_leaves
def iam(
    learning_rate: base.ScalarOrSchedule = 1.0,
    momentum: base.Scalar | None = 0.9,
    weight_decay: base.Scalar = 0.0,
    lower_bound: base.Scalar = 0.0,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Iterate averaging with an adaptive step size (IAM): Polyak's with momentum.

    .. math::
      \tau_t &= \min\left(\gamma_t, \frac{\left(f_t(x_t) - f_*
        + \langle g_t, z_t - x_t \rangle\right)_+}{\|g_t\|^2}\right) \\
      z_{t+1} &= z_t - \gamma_t w x_t - \tau_t g_t, \quad
      x_{t+1} = \mu x_t + (1 - \mu) z_{t+1}

    which is heavy-ball momentum. `update` needs the loss of the batch as the extra
    argument `value`.

    Args:
      learning_rate: the largest step size :math:`\gamma`.
      momentum: :math:`\mu`, in the authors' terms :math:`\lambda / (1 + \lambda)`; None
        for that of the theory, (t+1)/(t+2), t from 0.
      weight_decay: coefficient w of weight decay.
      lower_bound: the smallest value :math:`f_*` that the loss of a batch can take; for
        distillation the teacher's loss.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      authors' implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.iam()
      >>> state = transformation.init(params)
      >>> loss = jnp.sum(params**2)
      >>> updates, state = transformation.update(2 * params, state, params, value=loss)
      >>> [round(float(u), 3) for u in updates]
      [-0.05, 0.1]

    References:
      Gower, Garrigos, Loizou, Oikonomou, Mishchenko and Schaipp, `Analysis of an
      Idealized Stochastic Polyak Method and its Application to Black-Box Model
      Distillation <https://arxiv.org/abs/2504.01898>`_, 2025. Official implementation:
      ``IAMS`` of the authors.
    """
    _check(learning_rate, momentum, weight_decay, lower_bound)

    def init(params):
        return _init(params, None)

    def update(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        cap = base.rate_at(learning_rate, state.count, dtype)
        decay, bound, loss = base.scalars(
            dtype, weight_decay, lower_bound, base.require_value("value", value)
        )
        inner, square_norm = passes.sums(
            lambda g, p, z: (g * (z - p), g * g), 2, dtype, updates, params, state.z
        )
        tau = _step_size(cap, loss - bound, inner, square_norm)
        tau = base.if_finite(loss, tau)
        share = _share(momentum, state.count, dtype)

        def update_leaf(grad, p, z, has_decay):
            new_z = (z - cap * decay * p if has_decay else z) - tau * grad
            return (share * (new_z - p)).astype(p.dtype), new_z.astype(z.dtype)

        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)
        changes, z = base.map_leaves(
            update_leaf, 2, updates, params, state.z, decay_flags
        )
        return changes, IamState(state.count + 1, share * tau, z, None)

    return optax.GradientTransformationExtraArgs(init, update)


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def iam_adam(
    learning_rate: base.ScalarOrSchedule = 1.0,
    momentum: base.Scalar | None = 0.9,
    b2: base.Scalar = 0.999,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    lower_bound: base.Scalar = 0.0,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""IAM in Adam's metric: Adam with Polyak's step size.

    As `iam` with :math:`D_t = \sqrt{v_t / (1-\beta_2^t)} + \epsilon`:
    :math:`\|g\|^2` becomes :math:`\langle g, g / D \rangle`, and z moves along
    :math:`g / D`. `update` needs the loss of the batch as the extra argument `value`.

    Args:
      learning_rate: the largest step size :math:`\gamma`.
      momentum: as for `iam`.
      b2: decay of the second moment.
      eps: term outside of the root in the metric.
      weight_decay, lower_bound, weight_decay_mask: as for `iam`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      authors' implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.iam_adam()
      >>> state = transformation.init(params)
      >>> loss = jnp.sum(params**2)
      >>> updates, state = transformation.update(2 * params, state, params, value=loss)
      >>> [round(float(u), 3) for u in updates]
      [-0.083, 0.083]

    References:
      Gower, Garrigos, Loizou, Oikonomou, Mishchenko and Schaipp, `Analysis of an
      Idealized Stochastic Polyak Method and its Application to Black-Box Model
      Distillation <https://arxiv.org/abs/2504.01898>`_, 2025. Official implementation:
      ``IAMSAdam`` of the authors, which counts an update once for each tensor and once
      more, so that its correction of v is that of a later update.
    """
    _check(learning_rate, momentum, weight_decay, lower_bound)
    bounds.check(bounds.NONNEGATIVE, eps=eps)
    bounds.check(bounds.FRACTION, b2=b2)

    def init(params):
        return _init(params, base.zeros_like(params))

    def update(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        cap = base.rate_at(learning_rate, state.count, dtype)
        beta2, epsilon, decay, bound, loss = base.scalars(
            dtype,
            b2,
            eps,
            weight_decay,
            lower_bound,
            base.require_value("value", value),
        )
        scale = 1 / base.bias_correction(beta2, state.count + 1)

        def direction(grad, v, scale):
            # Without a gradient there is no direction, even with an eps of 0.
            return base.safe_divide(grad, jnp.sqrt(scale * v) + epsilon)

        exp_avg_sq = jax.tree.map(
            lambda g, v: (beta2 * v + (1 - beta2) * (g * g)).astype(v.dtype),
            updates,
            state.exp_avg_sq,
        )
        inner, square_norm = passes.sums(
            lambda g, p, z, v: (g * (z - p), g * direction(g, v, scale)),
            2,
            dtype,
            updates,
            params,
            state.z,
            exp_avg_sq,
        )
        tau = _step_size(cap, loss - bound, inner, square_norm)
        tau = base.if_finite(loss, tau)
        share = _share(momentum, state.count, dtype)
        # With a factor from after the sums XLA recomputes the direction, not stores it.
        (scale_again,) = passes.after(tau, scale)

        def update_leaf(grad, p, z, v, has_decay):
            new_z = z - cap * decay * p if has_decay else z
            new_z = new_z - tau * direction(grad, v, scale_again)
            return (share * (new_z - p)).astype(p.dtype), new_z.astype(z.dtype)

        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)
        changes, z = base.map_leaves(
            update_leaf, 2, updates, params, state.z, exp_avg_sq, decay_flags
        )
        return changes, IamState(state.count + 1, share * tau, z, exp_avg_sq)

    return optax.GradientTransformationExtraArgs(init, update)
