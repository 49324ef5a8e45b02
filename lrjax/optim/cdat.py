"""CDAT: a rate that keeps any optimiser near the edge of stability."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class CdatState(NamedTuple):
    """State of `cdat`.

    Attributes:
      count: number of updates made.
      slope: average of the losses' slopes along the base optimiser's steps.
      curvature: average of their curvatures.
      learning_rate: the factor of the last step; -inf before it.
      inner: state of the base optimiser.
    """

    count: jax.Array
    slope: jax.Array
    curvature: jax.Array
    learning_rate: jax.Array
    inner: Any


@base.any_leaves
def cdat(
    base_optimizer: optax.GradientTransformation,
    learning_rate: base.ScalarOrSchedule = 2.0,
    beta: base.Scalar = 0.9,
    eps: base.Scalar = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Scale an optimiser's steps by slope over curvature.

    With :math:`u_t` the step of the base optimiser, whose own rate is 1:

    .. math::
      n_t &= \beta n_{t-1} + (1-\beta) \max(-\langle g_t, u_t \rangle, 0) \\
      d_t &= \beta d_{t-1} + (1-\beta)
        (|\langle u_t, \nabla^2 f_t(x_t) u_t \rangle| + \epsilon) \\
      x_{t+1} &= x_t + \gamma_t \frac{n_t}{d_t} u_t

    `update` needs the extra argument `grad_fn`, the function from parameters to their
    gradient on the same batch: its derivative along the step is the product with the
    Hessian, for about the cost of two gradients. If the curvature is 0, so is the step.
    A slope or curvature that overflows is left out of the averages.

    Args:
      base_optimizer: the optimiser that chooses the direction, at a rate of 1.
      learning_rate: factor :math:`\gamma`: 1 minimises the quadratic model, 2 is the
        edge of stability, where the authors find values a little above or below best.
      beta: decay of the averages; 0 for none, with full batches.
      eps: term added to the curvature.

    Returns:
      The transformation, for parameters of any shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> def gradient(params):
      ...     return 4 * params
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.cdat(optim.sgd(1.0), 1.0)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(
      ...     gradient(params), state, params, grad_fn=gradient
      ... )
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.25

    References:
      Roulet et al., `Stepping on the Edge: Curvature Aware Learning Rate Tuners
      <https://arxiv.org/abs/2407.06183>`_, 2024. There is no official implementation.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate, eps=eps)
    bounds.check(bounds.FRACTION, beta=beta)
    base_optimizer = optax.with_extra_args_support(base_optimizer)

    def init(params):
        dtype = base.scalar_dtype(params)
        return CdatState(
            count=jnp.zeros((), jnp.int32),
            slope=jnp.zeros((), dtype),
            curvature=jnp.zeros((), dtype),
            learning_rate=base.none_yet(dtype),
            inner=base_optimizer.init(params),
        )

    def update(updates, state, params=None, *, grad_fn=None, **extra_args):
        params = base.require_params(params)
        grad_fn = base.require_value("grad_fn", grad_fn)
        dtype = state.slope.dtype
        factor = base.rate_at(learning_rate, state.count, dtype)
        keep, epsilon = base.scalars(dtype, beta, eps)
        steps, inner = base_optimizer.update(
            updates, state.inner, params, grad_fn=grad_fn, **extra_args
        )
        steps = base.cast_like(steps, params)
        _, turned = jax.jvp(grad_fn, (params,), (steps,))
        slope = jnp.maximum(-base.sum_leaves(operator.mul, dtype, updates, steps), 0)
        curvature = base.sum_leaves(operator.mul, dtype, steps, turned)
        curvature = jnp.abs(curvature) + epsilon
        seen = jnp.isfinite(slope) & jnp.isfinite(curvature)

        def averaged(old, new):
            return jnp.where(seen, keep * old + (1 - keep) * new, old)

        slope = averaged(state.slope, slope)
        curvature = averaged(state.curvature, curvature)
        rate = factor * base.safe_divide(slope, curvature)
        # The quotient of a tiny curvature may overflow; take no step then.
        rate = jnp.where(jnp.isfinite(rate), rate, 0)
        changes = jax.tree.map(lambda u: (rate * u).astype(u.dtype), steps)
        return changes, CdatState(state.count + 1, slope, curvature, rate, inner)

    return optax.GradientTransformationExtraArgs(init, update)
