"""Batch normalisation as in PyTorch, over the rows of a batch that are not padding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

_STRIDE = 4  # of the pixels that estimate the mean, down and across


class BatchNorm(nn.Module):
    """Normalises each channel by its mean and variance.

    Unlike in `flax.linen.BatchNorm` the running variance is unbiased, as in
    `torch.nn.BatchNorm2d`, and statistics have the parameters' dtype, whatever the
    dtype of the images.

    Attributes:
      momentum: weight of a new batch in the running statistics.
      eps: added to the variance.
      dtype: dtype of the result; that of the parameters if None.
      param_dtype: dtype of scale, bias and statistics.
    """

    momentum: float = 0.1
    eps: float = 1e-5
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        mask: jax.Array | None = None,
        known: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array:
        """Normalise [rows, ..., channels].

        Args:
          x: [rows, ..., channels].
          train: whether to use this batch's statistics and update the running ones
            (collection 'batch_stats'), instead of using the running ones.
          mask: [rows], 1 for the rows that count; all if None.
          known: `moments` of x, if they are known.
        """
        shape, dtype = (x.shape[-1],), self.param_dtype
        scale = self.param("scale", nn.initializers.ones, shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, dtype)
        var = self.variable("batch_stats", "var", jnp.ones, shape, dtype)
        if train:
            batch_mean, batch_var = known or moments(x, mask, dtype)
            count = _count(x, mask, dtype)
            if not self.is_initializing():
                unbiased = batch_var * (count / jnp.maximum(count - 1, 1))
                mean.value += self.momentum * (batch_mean - mean.value)
                var.value += self.momentum * (unbiased - var.value)
        else:
            batch_mean, batch_var = mean.value, var.value
        slope = scale * jax.lax.rsqrt(batch_var + self.eps)
        # Subtract first: a difference of two large products would lose digits.
        shifted = (x.astype(dtype) - batch_mean) * slope + bias
        return shifted.astype(self.dtype or dtype)


def _count(x: jax.Array, mask: jax.Array | None, dtype: Any) -> Any:
    """Number of pixels in the rows that count."""
    pixels = x.size // x.shape[-1] // x.shape[0]
    return (x.shape[0] if mask is None else mask.astype(dtype).sum()) * pixels


def moments(
    x: jax.Array, mask: jax.Array | None, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of each channel: two [channels].

    Takes one pass over the images: sums are relative to the mean of a sixteenth of the
    pixels. That is always within four deviations of the mean, so the difference of
    squares loses at most one digit, however large the mean is.

    Args:
      x: [rows, ..., channels].
      mask: [rows], 1 for the rows that count; all if None.
      dtype: dtype of the computation.
    """
    weights = jnp.ones(len(x), dtype) if mask is None else mask.astype(dtype)
    weights = weights.reshape(-1, *[1] * (x.ndim - 1))
    axes = tuple(range(x.ndim - 1))
    some = x[:, *[slice(None, None, _STRIDE)] * (x.ndim - 2)].astype(dtype)
    seen = weights.sum() * (some.size // some.shape[-1] // len(some))
    about = jax.lax.stop_gradient((some * weights).sum(axes) / jnp.maximum(seen, 1))
    x = x.astype(dtype) - about
    if mask is None:
        first, second = x.sum(axes), jnp.square(x).sum(axes)
    else:
        first, second = (x * weights).sum(axes), (jnp.square(x) * weights).sum(axes)
    count = _count(x, mask, dtype)
    first, second = first / count, second / count
    return about + first, jnp.maximum(second - jnp.square(first), 0)
