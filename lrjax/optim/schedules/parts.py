"""Parts of schedules: progress, and ways between two rates."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lrjax.optim import bounds

Schedule = Callable[[ArrayLike], jax.Array]


def check_ends(learning_rate: ArrayLike, final_learning_rate: ArrayLike) -> None:
    """Check both ends of a schedule."""
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        final_learning_rate=final_learning_rate,
    )


def real(number: ArrayLike) -> jax.Array:
    """`number` in JAX's default float type, never weakly typed."""
    return jnp.asarray(number, jnp.result_type(float))


def length(steps: ArrayLike) -> jax.Array:
    """`steps` as a divisor: 1 if it is 0."""
    steps = real(steps)
    return jnp.where(steps > 0, steps, 1.0)


def progress(step: ArrayLike, steps: ArrayLike) -> jax.Array:
    """The fraction of `steps` that is over at `step`, in [0, 1]; 1 if `steps` is 0."""
    step = real(step)
    part = jnp.clip(step / length(steps), 0.0, 1.0)
    # Exactly 1 at the end, however the division rounds.
    return jnp.where(step >= real(steps), 1.0, part)


def mix(a: ArrayLike, b: ArrayLike, weight: jax.Array) -> jax.Array:
    """`a` at weight 1, `b` at weight 0, exactly."""
    return weight * real(a) + (1.0 - weight) * real(b)


def anneal(start: ArrayLike, end: ArrayLike, progress: jax.Array) -> jax.Array:
    """Half a cosine wave from `start` to `end`."""
    return mix(start, end, (1.0 + jnp.cos(jnp.pi * progress)) / 2.0)
