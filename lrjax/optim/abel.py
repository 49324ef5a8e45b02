"""ABEL: decay the rate where the norm of the weights has bounced."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds
from lrjax.optim.readings import scaled_rate


class AbelState(NamedTuple):
    """State of `abel`.

    Attributes:
      scale: factor of the updates.
      turns: how often the norm has turned; each second time is the end of a bounce.
      norm: the last observed squared norm; -inf before the first.
      change: its change from the observation before; 0 before the second.
      sum: of squared norms since the last observation.
      seen: number of these.
      count: number of updates made.
      learning_rate: `scale` times the rate of the wrapped optimiser.
      inner: state of the wrapped optimiser.
    """

    scale: jax.Array
    turns: jax.Array
    norm: jax.Array
    change: jax.Array
    sum: jax.Array
    seen: jax.Array
    count: jax.Array
    learning_rate: jax.Array
    inner: Any


@base.any_leaves
def abel(
    base_optimizer: optax.GradientTransformation,
    factor: base.Scalar = 0.1,
    accumulation_size: base.Scalar = 1,
    last_decay: base.Scalar = float("inf"),
) -> optax.GradientTransformationExtraArgs:
    r"""Scale updates down each time the norm of the weights has bounced (ABEL).

    With weight decay the norm falls at first and later rises again. Observations
    :math:`n_t` are means of :math:`\|x\|^2` over `accumulation_size` updates, in the
    paper over an epoch. Where

    .. math::
      (n_{t+1} - n_t) (n_t - n_{t-1}) < 0

    the norm has turned: the first time is its minimum, and the second, which ends the
    bounce, multiplies the scale of the updates by `factor`; then it begins anew. One
    more decay, near the end of training, reduces the noise.

    Args:
      base_optimizer: any transformation, with weight decay.
      factor: what a decay multiplies the scale by.
      accumulation_size: number of updates whose squared norms are averaged to one
        observation, for example the steps of an epoch.
      last_decay: number of updates before the one more decay; infinite for none.

    Returns:
      The transformation, for parameters of any shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> transformation = optim.abel(optim.sgd(0.1), factor=0.5)
      >>> state = transformation.init(jnp.ones(2))
      >>> for size in (3.0, 2.0, 2.5, 2.4):
      ...     params = size * jnp.ones(2)
      ...     updates, state = transformation.update(params, state, params)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.05

    References:
      Lewkowycz, `How to decay your learning rate <https://arxiv.org/abs/2103.12682>`_,
      2021, Algorithm 1. There is no official implementation.
    """
    bounds.check(bounds.FRACTION, factor=factor)
    bounds.check(bounds.POSITIVE, accumulation_size=accumulation_size)
    bounds.check(bounds.CAP, last_decay=last_decay)
    base_optimizer = optax.with_extra_args_support(base_optimizer)

    def init(params):
        dtype = base.scalar_dtype(params)
        inner = base_optimizer.init(params)
        scale = jnp.ones((), dtype)
        return AbelState(
            scale=scale,
            turns=jnp.zeros((), jnp.int32),
            norm=base.none_yet(dtype),
            change=jnp.zeros((), dtype),
            sum=jnp.zeros((), dtype),
            seen=jnp.zeros((), jnp.int32),
            count=jnp.zeros((), jnp.int32),
            learning_rate=scaled_rate(scale, inner),
            inner=inner,
        )

    def update(updates, state, params=None, **extra_args):
        params = base.require_params(params)
        dtype = state.scale.dtype
        shrink, size, last = base.scalars(dtype, factor, accumulation_size, last_decay)
        total = state.sum + base.sum_squares(params, dtype)
        seen = state.seen + 1
        observed = seen.astype(dtype) >= size
        norm = total / seen.astype(dtype)
        change = jnp.where(state.norm < 0, 0, norm - state.norm)
        turned = observed & (change * state.change < 0)
        ends = state.count.astype(dtype) == jnp.ceil(last)
        bounced = turned & (state.turns % 2 == 1)
        decays = bounced.astype(dtype) + ends.astype(dtype)
        scale = state.scale * shrink**decays
        changes, inner = base_optimizer.update(
            updates, state.inner, params, **extra_args
        )
        changes = jax.tree.map(lambda c: (scale * c).astype(c.dtype), changes)
        return changes, AbelState(
            scale=scale,
            turns=state.turns + turned.astype(jnp.int32),
            norm=jnp.where(observed, norm, state.norm),
            change=jnp.where(observed, change, state.change),
            sum=jnp.where(observed, 0, total),
            seen=jnp.where(observed, 0, seen),
            count=state.count + 1,
            learning_rate=scaled_rate(scale, inner),
            inner=inner,
        )

    return optax.GradientTransformationExtraArgs(init, update)
