"""Step sizes from the value of the loss: Polyak's rule and a stochastic line search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class PolyakState(NamedTuple):
    """State of `polyak_sgd`.

    Attributes:
      count: number of updates made.
      learning_rate: the step size of the last update; -inf before it.
    """

    count: jax.Array
    learning_rate: jax.Array


@base.any_leaves
def polyak_sgd(
    learning_rate: base.ScalarOrSchedule = 1.0,
    c: base.Scalar = 0.5,
    lower_bound: base.Scalar = 0.0,
    eps: base.Scalar = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with the stochastic Polyak step size, bounded (SPS_max).

    .. math::
      x_{t+1} = x_t - \min\left(\gamma_t,
        \frac{(f_t(x_t) - f_*)_+}{c \|g_t\|^2 + \epsilon}\right) g_t

    `update` needs the loss of the batch as the extra argument `value`. If the gradient
    is zero, the step size is 0.

    Args:
      learning_rate: the largest step size :math:`\gamma`.
      c: factor of the squared norm; the authors' theory takes 1/2 for convex losses,
        their experiments 0.2.
      lower_bound: the smallest value :math:`f_*` that the loss of a batch can take.
      eps: term in the denominator.

    Returns:
      The transformation, for parameters of any shapes. With c = 1 it equals
      ``optax.polyak_sgd``.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.polyak_sgd(c=0.5)
      >>> state = transformation.init(params)
      >>> loss = jnp.sum(params**2)
      >>> updates, state = transformation.update(2 * params, state, params, value=loss)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.5

    References:
      Loizou, Vaswani, Laradji and Lacoste-Julien, `Stochastic Polyak Step-size for SGD:
      An Adaptive Learning Rate for Fast Convergence
      <https://arxiv.org/abs/2002.10542>`_, 2021. Official implementation: ``Sps`` of
      IssamLaradji/sps, which has other defaults.
    """
    bounds.check(bounds.CAP, learning_rate=learning_rate)
    bounds.check(bounds.POSITIVE, c=c)
    bounds.check(bounds.NONNEGATIVE, eps=eps)
    bounds.check(bounds.FINITE, lower_bound=lower_bound)

    def init(params):
        return PolyakState(
            count=jnp.zeros((), jnp.int32),
            learning_rate=base.none_yet(base.scalar_dtype(params)),
        )

    def update(updates, state, params=None, *, value=None, **extra_args):
        del params, extra_args
        dtype = state.learning_rate.dtype
        highest = base.rate_at(learning_rate, state.count, dtype)
        factor, bound, epsilon, loss = base.scalars(
            dtype, c, lower_bound, eps, base.require_value("value", value)
        )
        gap = jnp.maximum(loss - bound, 0)
        denominator = factor * base.sum_squares(updates, dtype) + epsilon
        rate = jnp.minimum(highest, base.safe_divide(gap, denominator))
        rate = base.if_finite(loss, rate)
        updates = jax.tree.map(lambda g: (-rate * g).astype(g.dtype), updates)
        return updates, PolyakState(state.count + 1, rate)

    return optax.GradientTransformationExtraArgs(init, update)


class ArmijoState(NamedTuple):
    """State of `armijo_sgd`.

    Attributes:
      count: number of updates made.
      learning_rate: the step size of the last update; before it, the first guess.
    """

    count: jax.Array
    learning_rate: jax.Array


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def armijo_sgd(
    learning_rate: base.ScalarOrSchedule = 10.0,
    c: base.Scalar = 0.1,
    initial_step: base.Scalar = 1.0,
    decrease_factor: base.Scalar = 0.9,
    increase_factor: base.Scalar = 2 ** (1 / 500),
    max_backtracks: base.Scalar = 100,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with a stochastic line search that satisfies Armijo's condition.

    The step size :math:`\eta` starts from that of the last update, increased, and is
    decreased until, on the same batch,

    .. math::
      f_t(x_t - \eta g_t) \le f_t(x_t) - c \eta \|g_t\|^2

    `update` needs the extra arguments `value`, the loss of the batch, and `value_fn`,
    the function from parameters to the loss of the same batch. It must be the whole
    optimiser.

    Args:
      learning_rate: the largest step size.
      c: required decrease of the loss, relative to the slope.
      initial_step: step size that the first search starts from.
      decrease_factor: factor of the step size in a search.
      increase_factor: factor of the step size between searches; the default doubles it
        in 500 steps, which is an epoch in the authors' default.
      max_backtracks: largest number of decreases in a search.

    Returns:
      The transformation, for parameters of any shapes, built on
      ``optax.scale_by_backtracking_linesearch``. Defaults are those of the official
      implementation.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> def loss(params):
      ...     return jnp.sum(params**2)
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.armijo_sgd(decrease_factor=0.5)
      >>> state = transformation.init(params)
      >>> value, grads = jax.value_and_grad(loss)(params)
      >>> updates, state = transformation.update(
      ...     grads, state, params, value=value, value_fn=loss
      ... )
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.501

    References:
      Vaswani et al., `Painless Stochastic Gradient: Interpolation, Line-Search, and
      Convergence Rates <https://arxiv.org/abs/1905.09997>`_, 2019, Algorithm 1.
      Official implementation: ``Sls`` of IssamLaradji/sls.
    """
    bounds.check(bounds.CAP, learning_rate=learning_rate)
    bounds.check(bounds.INSIDE, c=c, decrease_factor=decrease_factor)
    bounds.check(bounds.POSITIVE, initial_step=initial_step)
    bounds.check(bounds.SCALE, increase_factor=increase_factor)
    bounds.check(bounds.COUNT, max_backtracks=max_backtracks)

    def search(highest, most):
        """The line search, with the largest step size and number of decreases."""
        return optax.scale_by_backtracking_linesearch(
            most,
            slope_rtol=c,
            decrease_factor=decrease_factor,
            increase_factor=increase_factor,
            max_learning_rate=highest,
        )

    def init(params):
        step = base.fresh(base.scalar_dtype(params), initial_step)
        return ArmijoState(jnp.zeros((), jnp.int32), step)

    def update(
        updates,
        state,
        params=None,
        *,
        value=None,
        value_fn: Callable[[Any], jax.Array] | None = None,
        **extra_args,
    ):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        (loss,) = base.scalars(dtype, base.require_value("value", value))
        # Where NaN is to be undercut, one trial ends the search without a step.
        trials = jnp.where(jnp.isfinite(loss), max_backtracks, 0)
        loss = base.if_finite(loss, loss, jnp.nan)
        value_fn = base.require_value("value_fn", value_fn)
        if not jax.tree.leaves(params):  # Optax's search needs a leaf
            return updates, state._replace(count=state.count + 1)
        highest = base.rate_at(learning_rate, state.count, dtype)
        transformation = search(highest, trials)
        # After a failed search the step size is 0, which no factor can increase.
        (start,) = base.scalars(dtype, initial_step)
        start = jnp.where(state.learning_rate > 0, state.learning_rate, start)
        # Optax mixes the dtypes of hyperparameters, losses and parameters.
        with jax.numpy_dtype_promotion("standard"):
            changes, result = transformation.update(
                jax.tree.map(jnp.negative, updates),
                transformation.init(params)._replace(learning_rate=start),
                params,
                value=loss,
                grad=updates,
                value_fn=value_fn,
            )
        return base.cast_like(changes, params), ArmijoState(
            state.count + 1, result.learning_rate
        )

    return optax.GradientTransformationExtraArgs(init, update)
