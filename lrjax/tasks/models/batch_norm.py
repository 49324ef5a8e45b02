"""Batch normalisation over the real rows of a batch, as PyTorch has it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

_STRIDE = 4  # down and across, of the pixels that say about where the mean is


class BatchNorm(nn.Module):
    """Normalises each channel by its mean and variance.

    Unlike `flax.linen.BatchNorm` its running variance is the unbiased one, as
    `torch.nn.BatchNorm2d` keeps it; statistics are computed and kept in the
    parameters' type, whatever type the images have.

    Attributes:
      momentum: weight of a new batch in the running statistics.
      eps: added to the variance.
      dtype: of the result; that of the parameters if None.
      param_dtype: of scale, bias and statistics.
    """

    momentum: float = 0.1
    eps: float = 1e-5
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalises [rows, ..., channels].

        Args:
          x: images.
          train: whether by this batch's statistics, which then enter the running
            ones (collection 'batch_stats'), or by the running ones.
          mask: [rows], 1 for the rows that count; all if None.
        """
        shape, dtype = (x.shape[-1],), self.param_dtype
        scale = self.param("scale", nn.initializers.ones, shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, dtype)
        var = self.variable("batch_stats", "var", jnp.ones, shape, dtype)
        if train:
            pixels = x.size // x.shape[-1] // x.shape[0]
            count = x.shape[0] * pixels if mask is None else mask.sum() * pixels
            batch_mean, batch_var = moments(x, mask, count, dtype)
            if not self.is_initializing():
                unbiased = batch_var * (count / jnp.maximum(count - 1, 1))
                mean.value += self.momentum * (batch_mean - mean.value)
                var.value += self.momentum * (unbiased - var.value)
        else:
            batch_mean, batch_var = mean.value, var.value
        slope = scale * jax.lax.rsqrt(batch_var + self.eps)
        # The difference first: of two large products little would be left.
        shifted = (x.astype(dtype) - batch_mean) * slope + bias
        return shifted.astype(self.dtype or dtype)


def moments(
    x: jax.Array, mask: jax.Array | None, count: Any, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of each channel, [channels] each.

    In one pass over the images, as sums about the mean of a sixteenth of the pixels.
    That lies within four deviations of the mean whatever the images are, so the
    difference of squares loses a digit at worst, however large the mean is.

    Args:
      x: [rows, ..., channels].
      mask: [rows], 1 for the rows that count; all if None.
      count: how many pixels they have.
      dtype: in which to compute.
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
    first, second = first / count, second / count
    return about + first, jnp.maximum(second - jnp.square(first), 0)
