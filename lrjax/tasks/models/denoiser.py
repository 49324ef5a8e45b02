"""Networks that predict the noise in images: a perceptron and a small U-Net.

Both know how much noise there is from an embedding of the time (Ho, Jain and Abbeel,
2020, arXiv 2006.11239) and begin by predicting zeros, as the last layer is zero.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lrjax.tasks.models.convolution import Conv, torch_default
from lrjax.tasks.models.layer_norm import LayerNorm

_LAYER_NORM_EPS = 1e-5
_SLOWEST = 1e-4  # radians per unit of time; the fastest wave has 1


class MLPDenoiser(nn.Module):
    """Residual blocks of two linear layers over all pixels, for tiny images.

    The noisy pixels, times a factor that depends on the time, go around the blocks,
    which may be narrower than an image.

    Attributes:
      width: units between blocks and inside of them.
      depth: number of blocks.
      dtype: dtype of the computation; that of the parameters if None.
      param_dtype: dtype of the parameters.
    """

    width: int
    depth: int
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, images: jax.Array, times: jax.Array) -> jax.Array:
        """Predict the noise.

        Args:
          images: noisy, [rows, height, width, channels].
          times: of each row, from 0 to 1,000: how far it is from data to noise.

        Returns:
          [rows, height, width, channels].
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = functools.partial(nn.Dense, kernel_init=torch_default, **types)
        time = nn.silu(dense(self.width, name="time")(waves(times, self.width)))
        x = dense(self.width, name="first")(images.reshape(len(images), -1))
        for block in range(1, self.depth + 1):
            out = LayerNorm(_LAYER_NORM_EPS, **types, name=f"norm{block}")(x)
            out = dense(self.width, name=f"fc{block}_1")(out)
            out = nn.silu(out + dense(self.width, name=f"time{block}")(time))
            x = x + dense(self.width, name=f"fc{block}_2")(out)
        x = LayerNorm(_LAYER_NORM_EPS, **types, name="norm")(x)
        zero = functools.partial(dense, kernel_init=nn.initializers.zeros)
        x = zero(images[0].size, name="last")(x)
        around = zero(1, name="around")(time)[:, :, None, None]
        x = x.reshape(images.shape).astype(images.dtype)
        return x + around.astype(images.dtype) * images


class UNet(nn.Module):
    """Convolutions at several resolutions, from fine to coarse and back.

    Attributes:
      channels: of each resolution; each is half the one before.
      dtype: dtype of the computation; that of the parameters if None.
      param_dtype: dtype of the parameters.
    """

    channels: Sequence[int]
    dtype: Any = None
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, images: jax.Array, times: jax.Array) -> jax.Array:
        """Predict the noise.

        Args:
          images: noisy, [rows, height, width, channels]; height and width are multiples
            of 2 to the number of resolutions but one.
          times: as for `MLPDenoiser`.

        Returns:
          [rows, height, width, channels].
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(
            Conv, size=3, padding=1, use_bias=True, init=torch_default, **types
        )
        width = 4 * self.channels[0]
        time = nn.Dense(width, kernel_init=torch_default, **types, name="time")
        time = nn.silu(time(waves(times, width)))
        x = conv(self.channels[0], name="first")(images)
        fine = []
        for level, channels in enumerate(self.channels, 1):
            x = _Block(channels, types, name=f"down{level}")(x, time)
            if level < len(self.channels):
                fine.append(x)
                x = conv(channels, stride=2, name=f"halve{level}")(x)
        for level in range(len(self.channels) - 1, 0, -1):
            # Each pixel becomes four equal ones.
            x = x.repeat(2, axis=1).repeat(2, axis=2)
            x = jnp.concatenate([x, fine.pop()], axis=-1)
            x = _Block(self.channels[level - 1], types, name=f"up{level}")(x, time)
        x = nn.silu(LayerNorm(_LAYER_NORM_EPS, **types, name="norm")(x))
        zeros = nn.initializers.zeros
        return conv(images.shape[-1], init=zeros, name="last")(x)


class _Block(nn.Module):
    """Two convolutions, the time added in between, with a residual connection."""

    channels: int
    types: Any

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """Compute [rows, height, width, channels] from x and time [rows, features]."""
        conv = functools.partial(
            Conv, size=3, padding=1, use_bias=True, init=torch_default, **self.types
        )
        norm = functools.partial(LayerNorm, _LAYER_NORM_EPS, **self.types)
        dense = nn.Dense(
            self.channels, kernel_init=torch_default, **self.types, name="time"
        )
        out = conv(self.channels, name="conv1")(nn.silu(norm(name="norm1")(x)))
        out = out + dense(time)[:, None, None]
        out = conv(self.channels, name="conv2")(nn.silu(norm(name="norm2")(out)))
        if x.shape[-1] != self.channels:
            x = conv(self.channels, size=1, padding=0, name="shortcut")(x)
        return x + out


def waves(times: jax.Array, features: int) -> jax.Array:
    """Sines and cosines of times, at frequencies from 1 down to 1e-4: [rows, features].

    Args:
      times: [rows].
      features: an even number.
    """
    powers = jnp.arange(features // 2, dtype=times.dtype) / (features // 2)
    angles = times[:, None] * _SLOWEST**powers
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
