"""A short decay to zero around any transformation, to judge it before its end."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class CooldownState(NamedTuple):
    """State of `cooldown`.

    Attributes:
      count: number of updates made.
      inner: of the transformation inside.
    """

    count: jax.Array
    inner: Any


@base.any_leaves
def cooldown(
    inner: optax.GradientTransformationExtraArgs,
    start: base.Scalar,
    steps: base.Scalar,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales updates by a factor that falls from 1 to 0 along a line.

    Update t, counted from 0, is multiplied by

    .. math::
      \min\left(1, \max\left(0, \frac{start + steps - t}{steps}\right)\right)

    Whatever the transformation inside does, its moves come to rest, as they would at
    the end of a schedule. Both numbers may be traced: with an infinite `start` nothing
    is changed, so that one compiled program serves a run and its cooldown. Weight
    decay inside is scaled too. Not for transformations that are judged at an average
    of their iterates, as schedule-free ones: the average does what a decay does, and
    their state would no longer fit the parameters.

    Args:
      inner: any transformation.
      start: updates before the decay begins.
      steps: updates that it lasts.

    Returns:
      The transformation.

    References:
      Haegele et al., `Scaling laws and compute-optimal training beyond fixed training
      durations <https://arxiv.org/abs/2405.18392>`_, 2024, on judging a run by a
      short decay from a copy of its state.
    """
    bounds.check(bounds.NONNEGATIVE, steps=steps)

    def init(params):
        return CooldownState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        updates, new = inner.update(updates, state.inner, params, **extra_args)
        left = start + steps - state.count
        factor = jnp.clip(left / jnp.maximum(steps, 1), 0, 1)
        updates = jax.tree.map(lambda u: (factor * u).astype(u.dtype), updates)
        return updates, CooldownState(state.count + 1, new)

    return optax.GradientTransformationExtraArgs(init, update)
