"""Observations for controllers of the learning rate.

An observation is a few numbers of moderate size for any task: common logarithms limited
to +-6, and fractions. Those here can be computed by any Optax transformation; the
environment in `lrjax.control` adds some that need validation data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.optim import base

OBSERVED = (
    "fraction",
    "train_loss",
    "train_change",
    "gradient_norm",
    "update_norm",
    "learning_rate",
    "noise",
)
_LIMIT = 6.0  # of logarithms
MEMORY = 0.9  # decay of the averages of gradients that measure the noise


class Window(NamedTuple):
    """Sums over the batches and updates since the last action.

    Attributes:
      losses, squares: sums of the batches' losses and of gradients' squared norms.
      batches: number of them.
      moves: sum of the updates' squared norms.
      updates: number of them.
    """

    losses: jax.Array
    squares: jax.Array
    batches: jax.Array
    moves: jax.Array
    updates: jax.Array

    def add_batch(self, loss: jax.Array, square: jax.Array) -> Window:
        """Add a batch.

        Args:
          loss: scalar, the batch's loss.
          square: scalar, its gradient's squared norm.
        """
        return self._replace(
            losses=self.losses + loss,
            squares=self.squares + square,
            batches=self.batches + 1,
        )

    def add_update(self, square: jax.Array) -> Window:
        """Add an update, given the squared norm of its step."""
        return self._replace(moves=self.moves + square, updates=self.updates + 1)

    @property
    def loss(self) -> jax.Array:
        """Mean of the batches' losses."""
        return self.losses / jnp.maximum(self.batches, 1)


def empty_window(dtype: Any) -> Window:
    """Return a window without batches and updates."""
    return Window(
        losses=jnp.zeros((), dtype),
        squares=jnp.zeros((), dtype),
        batches=jnp.zeros((), dtype),
        moves=jnp.zeros((), dtype),
        updates=jnp.zeros((), dtype),
    )


def logarithm(value: jax.Array) -> jax.Array:
    """The common logarithm, limited to +-6; 6 for infinity and NaN."""
    floor = jnp.asarray(10.0**-_LIMIT, value.dtype)
    log = jnp.log10(jnp.clip(value, floor, 10.0**_LIMIT))
    return jnp.where(jnp.isfinite(value), log, _LIMIT)


def noise_share(average_square: jax.Array, square_average: jax.Array) -> jax.Array:
    """The fraction of the gradients that is noise, in [0, 1].

    1 - |average of gradients|^2 / average of |gradients|^2, with the same weights in
    both averages: 0 if all gradients are equal.

    Args:
      average_square: average of the squared norms.
      square_average: squared norm of the average.
    """
    share = 1 - base.safe_divide(square_average, average_square)
    return jnp.where(jnp.isfinite(share), jnp.clip(share, 0, 1), 1)


def observe(
    fraction: jax.Array,
    window: Window,
    last_loss: jax.Array,
    rate: jax.Array,
    noise: jax.Array,
) -> jax.Array:
    """Compute the observation, the entries of `OBSERVED`; always finite.

    Args:
      fraction: elapsed fraction of the horizon.
      window: sums since the last action, including the batch of the next update.
      last_loss: mean loss of the previous window; NaN or -inf if there was none.
      rate: learning rate of the last update; 0 before the first.
      noise: result of `noise_share`.

    Returns:
      An array [7].
    """
    loss = logarithm(window.loss)
    known = last_loss > -jnp.inf  # which NaN is not
    change = jnp.where(known, loss - logarithm(last_loss), 0)
    batches, updates = jnp.maximum(window.batches, 1), jnp.maximum(window.updates, 1)
    return jnp.stack(
        [
            fraction.astype(loss.dtype),
            loss,
            change,
            logarithm(base.root(window.squares / batches)),
            logarithm(base.root(window.moves / updates)),
            logarithm(rate),
            noise,
        ]
    )
