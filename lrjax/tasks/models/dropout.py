"""Dropout whose mask is cheap to draw, and is drawn once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend.random import threefry2x32_p

_LEVELS = 2**16  # of the random numbers; rates are multiples of 1 / _LEVELS


class Dropout(nn.Dropout):
    """Flax's Dropout with other random numbers, for `rate` and `deterministic`.

    Rates are rounded to multiples of 1/65,536, and what is kept is divided by the share
    that is really kept, in float32 at least.
    """

    def __call__(
        self,
        inputs: jax.Array,
        deterministic: bool | None = None,
        rng: jax.Array | None = None,
    ) -> jax.Array:
        """Set a random share of the inputs to 0.

        Args:
          inputs: of any shape but a scalar's.
          deterministic: whether to change nothing; the attribute if None.
          rng: the key; from the RNG stream if None.
        """
        if nn.merge_param("deterministic", self.deterministic, deterministic):
            return inputs
        kept = round((1 - self.rate) * _LEVELS)
        if kept == _LEVELS:
            return inputs
        if kept == 0:
            return jnp.zeros_like(inputs)
        key = self.make_rng(self.rng_collection) if rng is None else rng
        mask = draw(key, kept, inputs.shape)
        wide = inputs.astype(np.promote_types(inputs.dtype, np.float32))
        return jnp.where(mask, wide / (kept / _LEVELS), 0).astype(inputs.dtype)


def draw(key: jax.Array, kept: int, shape: tuple[int, ...]) -> jax.Array:
    """Draw a mask: bool of a shape, true with probability kept / 65,536.

    A block of Threefry gives two words of 32 bits, which make four numbers of 16. The
    counter of a block is its row (the first axis) and its place in the row, so that
    numbers depend neither on the backend and JAX's settings nor on how many rows there
    are, and parts of an array can be drawn by different devices.

    Args:
      key: of Threefry.
      kept: from 0 to 65,536.
      shape: of the mask, with one axis at least.

    Raises:
      ValueError: if it is the key of another generator.
    """
    words = jax.random.key_data(key)
    if words.shape != (2,):
        raise ValueError(f"a key of Threefry has 2 words, this has {words.shape}")
    *outer, last = shape
    blocks = (*outer, -(-last // 4))
    place = jnp.zeros(blocks, jnp.uint32)
    for axis in range(1, len(blocks)):
        along = jax.lax.broadcasted_iota(jnp.uint32, blocks, axis)
        place = place * np.uint32(blocks[axis]) + along
    row = jax.lax.broadcasted_iota(jnp.uint32, blocks, 0)
    first, second = (jnp.broadcast_to(word, blocks) for word in words)
    drawn = threefry2x32_p.bind(first, second, row, place)
    half, low = np.uint32(16), np.uint32(_LEVELS - 1)
    numbers = [part for word in drawn for part in (word & low, word >> half)]
    mask = jnp.concatenate([n < np.uint32(kept) for n in numbers], axis=-1)
    # Without a barrier XLA draws the numbers again wherever the mask is used.
    return jax.lax.optimization_barrier(mask[..., :last])
