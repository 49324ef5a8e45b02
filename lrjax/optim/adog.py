"""Accelerated distance over gradients: A-DoG."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class AdogState(NamedTuple):
    """State of `adog`.

    Attributes:
      count: number of updates made.
      distance: largest distance of w from the start so far.
      distance_sum: sum of these distances, that of the start and of each update.
      weight_sum: sum of the weights of all iterates in the average.
      gradient_sum: sum of squared gradient norms, weighted.
      learning_rate: the step size of y in the last update; -inf before it.
      start: the initial parameters.
      w: the iterate of the long steps.
      average: weighted average of y.
    """

    count: jax.Array
    distance: jax.Array
    distance_sum: jax.Array
    weight_sum: jax.Array
    gradient_sum: jax.Array
    learning_rate: jax.Array
    start: Any
    w: Any
    average: Any

    def eval_params(self, params: base.PyTree) -> base.PyTree:
        """The average of y."""
        return base.where_kept(lambda average, _: average, self.average, params)


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def adog(
    learning_rate: base.ScalarOrSchedule = 1.0,
    reps_rel: base.Scalar = 1e-6,
    alpha_const: base.Scalar = 0.5,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    decay_to_init: bool = False,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""A-DoG: accelerated `dog`, the practical form of U-DoG.

    With gradients at the parameters x, and :math:`w_0 = x_0`:

    .. math::
      \eta_t &= \gamma_t \frac{\bar r_t}
        {\sqrt{\epsilon + \sum_{i \le t} \alpha_i^2 \|g_i\|^2}} \\
      y_{t+1} &= x_t - \eta_t g_t, \quad w_{t+1} = w_t - \alpha_t \eta_t g_t \\
      \bar r_{t+1} &= \max(\bar r_t, \|w_{t+1} - x_0\|), \quad
        \bar r_0 = \mathrm{reps\_rel} (1 + \|x_0\|) \\
      \alpha_t &= \max\left(1, c \frac{\sum_{i \le t} \bar r_i}{\bar r_t}\right) \\
      x_{t+1} &= \left(1 - \frac{1}{\alpha_{t+1}}\right) y_{t+1}
        + \frac{1}{\alpha_{t+1}} w_{t+1}

    `eval_params` gives the average of the :math:`y_{t+1}` with the weights
    :math:`\alpha_t \bar r_t`. `effective_learning_rate` is :math:`\eta_t`.

    Args:
      learning_rate: factor :math:`\gamma`; "changing it is not recommended".
      reps_rel: initial distance relative to :math:`1 + \|x_0\|`; "suggested value is
        1e-6, unless the model uses batch-normalization, in which case 1e-4".
      alpha_const: the constant c; with 0 the parameters move as those of `dog`.
      eps: initial value of the sum of squared gradient norms.
      weight_decay: coefficient of weight decay, added to the gradient.
      decay_to_init: decay towards the initial parameters instead of 0. Static.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      authors' implementation. Left out of it: other versions of its weights and step
      sizes, decay beside the step, and ``init_eta``, with which it stops in an error.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.adog()
      >>> state = transformation.init(params)
      >>> for _ in range(100):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> averaged = optim.eval_params(state, params)
      >>> bool(jnp.abs(averaged).max() < 0.5)
      True

    References:
      Kreisler, Ivgi, Hinder and Carmon, `Accelerated Parameter-Free Stochastic
      Optimization <https://arxiv.org/abs/2404.00666>`_, 2024. Official implementation:
      ``AcceleDoG`` of ittaikr/open_lm_fork.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        alpha_const=alpha_const,
        eps=eps,
        weight_decay=weight_decay,
    )
    bounds.check(bounds.POSITIVE, reps_rel=reps_rel)

    def init(params):
        dtype = base.scalar_dtype(params)
        (relative,) = base.scalars(dtype, reps_rel)
        distance = relative * (1 + jnp.sqrt(base.sum_squares(params, dtype)))
        return AdogState(
            count=jnp.zeros((), jnp.int32),
            distance=distance,
            distance_sum=jnp.array(distance, copy=True),
            weight_sum=jnp.zeros((), dtype),
            gradient_sum=base.fresh(dtype, eps),
            learning_rate=base.none_yet(dtype),
            start=base.copy(params),
            w=base.copy(params),
            average=base.copy(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.distance.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        (constant,) = base.scalars(dtype, alpha_const)
        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)

        def weight(distance, distance_sum):
            return jnp.maximum(1, constant * distance_sum / distance)

        def gradient(grad, param, start, has_decay):
            away = param - start if decay_to_init else param
            return base.add_decay(grad, away, weight_decay, dtype, has_decay)

        alpha = weight(state.distance, state.distance_sum)
        square_gradient = base.sum_leaves(
            lambda *leaves: jnp.square(gradient(*leaves)),
            dtype,
            updates,
            params,
            state.start,
            decay_flags,
        )
        gradient_sum = state.gradient_sum + jnp.square(alpha) * square_gradient
        # If the sum overflows, take no step, as `dog` does.
        eta = rate * jnp.where(
            jnp.isinf(gradient_sum), 0, state.distance / jnp.sqrt(gradient_sum)
        )
        weight_sum = state.weight_sum + alpha * state.distance
        share = alpha * state.distance / weight_sum

        def next_w(w, *leaves):
            return w - alpha * eta * gradient(*leaves)

        def square_distance(w, grad, param, start, has_decay):
            return jnp.square(next_w(w, grad, param, start, has_decay) - start)

        leaves = state.w, updates, params, state.start, decay_flags
        moved = base.root(base.sum_leaves(square_distance, dtype, *leaves))
        distance = jnp.maximum(state.distance, moved)
        distance_sum = state.distance_sum + distance
        tau = 1 / weight(distance, distance_sum)

        def update_leaf(w, grad, param, start, has_decay, average):
            move = -eta * gradient(grad, param, start, has_decay)
            y, new_w = param + move, next_w(w, grad, param, start, has_decay)
            return (
                (move + tau * (new_w - y)).astype(param.dtype),
                new_w.astype(w.dtype),
                ((1 - share) * average + share * y).astype(average.dtype),
            )

        changes, w, average = base.map_leaves(update_leaf, 3, *leaves, state.average)
        return changes, AdogState(
            count=state.count + 1,
            distance=distance,
            distance_sum=distance_sum,
            weight_sum=weight_sum,
            gradient_sum=gradient_sum,
            learning_rate=eta,
            start=state.start,
            w=w,
            average=average,
        )

    return optax.GradientTransformationExtraArgs(init, update)
