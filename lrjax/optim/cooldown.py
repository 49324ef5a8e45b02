"""A short decay to zero around any transformation, to judge a run before its end."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds
from lrjax.optim.leaves import joint_type
from lrjax.optim.readings import effective_learning_rate


class CooldownState(NamedTuple):
    """State of `cooldown`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the wrapped transformation times the factor of the last
        update; before it, of the first. NaN where there is no such rate.
      inner: state of the wrapped transformation.
    """

    count: jax.Array
    learning_rate: Any
    inner: Any


@base.any_leaves
def cooldown(
    inner: optax.GradientTransformation,
    start: base.Scalar,
    steps: base.Scalar,
    power: base.Scalar = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Scale updates by a factor that falls from 1 to 0.

    Update t, counted from 0, is multiplied by

    .. math::
      1 - \min\left(1, \max\left(0, \frac{t - start}{steps}\right)\right)^{power}

    So the updates of any transformation come to rest, as at the end of a schedule. Both
    numbers may be traced; an infinite `start` changes nothing, so that one compiled
    program serves a run and its cooldown. Weight decay inside is scaled too. Not for
    transformations that are evaluated at an average of their iterates, such as
    schedule-free ones: the average already acts as a decay, and their state would no
    longer fit the parameters.

    Args:
      inner: any transformation.
      start: number of updates before the decay.
      steps: number of updates of the decay.
      power: shape of the decay, positive: 1 is a straight line, 1/2 the "1-sqrt" that
        falls fast at first.

    Returns:
      The transformation, for parameters of any shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.ones(2)
      >>> transformation = optim.cooldown(optim.sgd(1.0), start=1, steps=2)
      >>> state = transformation.init(params)
      >>> factors = []
      >>> for _ in range(4):
      ...     updates, state = transformation.update(params, state, params)
      ...     factors.append(float(-updates[0]))
      >>> factors
      [1.0, 1.0, 0.5, 0.0]

    References:
      Haegele et al., `Scaling laws and compute-optimal training beyond fixed training
      durations <https://arxiv.org/abs/2405.18392>`_, 2024, on judging a run by a
      short decay from a copy of its state. There is no official implementation as a
      transformation.
    """
    bounds.check(bounds.ANY, start=start)
    bounds.check(bounds.NONNEGATIVE, steps=steps)
    bounds.check(bounds.POSITIVE, power=power)
    inner = optax.with_extra_args_support(inner)

    def factor_at(count):
        dtype = joint_type(start, steps, float)  # Python's numbers take an array's type
        left = start + steps - count.astype(dtype)
        factor = jnp.clip(left / jnp.maximum(steps, 1), 0, 1)
        return base.falling(factor, power)

    def times(factor, tree):
        return jax.tree.map(lambda x: factor.astype(x.dtype) * x, tree)

    def init(params):
        count, inside = jnp.zeros((), jnp.int32), inner.init(params)
        rate = effective_learning_rate(inside)
        return CooldownState(count, times(factor_at(count), rate), inside)

    def update(updates, state, params=None, **extra_args):
        updates, new = inner.update(updates, state.inner, params, **extra_args)
        factor = factor_at(state.count)
        rate = times(factor, effective_learning_rate(new))
        return times(factor, updates), CooldownState(state.count + 1, rate, new)

    return optax.GradientTransformationExtraArgs(init, update)
