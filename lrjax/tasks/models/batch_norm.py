"""Batch normalisation over the real rows of a batch, as PyTorch has it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


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
            batch_mean, batch_var = _moments(x, mean.value, mask, count, dtype)
            if not self.is_initializing():
                unbiased = batch_var * (count / jnp.maximum(count - 1, 1))
                mean.value += self.momentum * (batch_mean - mean.value)
                var.value += self.momentum * (unbiased - var.value)
        else:
            batch_mean, batch_var = mean.value, var.value
        slope = scale * jax.lax.rsqrt(batch_var + self.eps)
        shifted = x.astype(dtype) * slope + (bias - batch_mean * slope)
        return shifted.astype(self.dtype or dtype)


def _moments(
    x: jax.Array, about: jax.Array, mask: jax.Array | None, count: Any, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of each channel, in one pass over the images.

    Taking the squares about a value near the mean, the running mean, loses no digits
    where the mean is large beside the deviation.
    """
    about = jax.lax.stop_gradient(about)
    x = x.astype(dtype) - about
    axes = tuple(range(x.ndim - 1))
    if mask is None:
        first, second = x.sum(axes), jnp.square(x).sum(axes)
    else:
        weights = mask.astype(dtype).reshape(-1, *[1] * (x.ndim - 1))
        first, second = (x * weights).sum(axes), (jnp.square(x) * weights).sum(axes)
    first, second = first / count, second / count
    return about + first, jnp.maximum(second - jnp.square(first), 0)
