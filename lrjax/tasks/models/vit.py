"""Vision Transformer (Dosovitskiy et al., 2021, arXiv 2010.11929), as in timm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lrjax.tasks.models.attention import attention
from lrjax.tasks.models.convolution import Conv
from lrjax.tasks.models.gelu import gelu
from lrjax.tasks.models.layer_norm import LayerNorm

_normal = nn.initializers.normal(0.02)  # timm truncates at +-100 deviations
_LAYER_NORM_EPS = 1e-6


class VisionTransformer(nn.Module):
    """Pre-norm transformer over patches; classifies the class token.

    Linear layers and position embeddings are initialised from a normal distribution
    with standard deviation 0.02, the patch embedding as PyTorch's convolution.

    Attributes:
      patch: height and width of a patch in pixels.
      dim: features per token.
      depth: number of blocks.
      heads: attention heads; must divide `dim`.
      num_classes: number of outputs.
      dtype: dtype of the computation; that of the parameters if None.
      param_dtype: dtype of the parameters.
      remat: whether to recompute activations inside blocks in the backward pass
        instead of storing them.
      fused: use the device's attention kernel, for which tokens are filled up to a
        multiple of 16; `attention.can_fuse` says where one works.
    """

    patch: int
    dim: int
    depth: int
    heads: int
    num_classes: int
    dtype: Any = None
    param_dtype: Any = "float32"
    remat: bool = False
    fused: bool = False

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        """Compute logits of images.

        Args:
          images: [rows, height, width, channels]; height and width are multiples of
            `patch`.
          train, mask: ignored.

        Returns:
          [rows, num_classes].

        Raises:
          ValueError: if the images are not whole patches.
        """
        del train, mask
        rows, height, width, _ = images.shape
        if height % self.patch or width % self.patch:
            raise ValueError(f"{height} x {width} is not whole patches of {self.patch}")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        embed = Conv(
            self.dim, self.patch, self.patch, use_bias=True, **types, name="patches"
        )
        x = embed(images).reshape(rows, -1, self.dim)
        shape = (1, 1, self.dim)
        start = nn.initializers.normal(1e-6)
        token = self.param("token", start, shape, self.param_dtype)
        shape = (1, x.shape[1] + 1, self.dim)
        position = self.param("position", _normal, shape, self.param_dtype)
        token = jnp.broadcast_to(token, (rows, 1, self.dim)).astype(x.dtype)
        x = jnp.concatenate([token, x], axis=1) + position.astype(x.dtype)
        mask = None
        if self.fused:
            tokens = x.shape[1]
            x = jnp.pad(x, ((0, 0), (0, filled(tokens) - tokens), (0, 0)))
            mask = (jnp.arange(x.shape[1]) < tokens)[None, None, None]
        make_block = nn.remat(_Block) if self.remat else _Block
        for block in range(1, self.depth + 1):
            x = make_block(self.heads, types, name=f"block{block}")(x, mask)
        x = LayerNorm(_LAYER_NORM_EPS, **types, name="norm")(x[:, 0])
        return _dense(self.num_classes, types, "classifier")(x)


class _Block(nn.Module):
    """Attention and an MLP of four times the width, each with a residual connection."""

    heads: int
    types: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Compute [rows, tokens, dim].

        Args:
          x: [rows, tokens, dim].
          mask: as in `attention`, which then uses the fused kernel; None: all tokens.
        """
        rows, tokens, dim = x.shape
        out = LayerNorm(_LAYER_NORM_EPS, **self.types, name="norm1")(x)
        out = _dense(3 * dim, self.types, "qkv")(out)
        out = out.reshape(rows, tokens, 3, self.heads, dim // self.heads)
        query, key, value = jnp.moveaxis(out, 2, 0)
        out = attention(query, key, value, mask, fused=mask is not None)
        x = x + _dense(dim, self.types, "projection")(out.reshape(x.shape))
        out = LayerNorm(_LAYER_NORM_EPS, **self.types, name="norm2")(x)
        out = gelu(_dense(4 * dim, self.types, "fc1")(out))
        return x + _dense(dim, self.types, "fc2")(out)


def filled(tokens: int) -> int:
    """The number of tokens that the fused kernel gets."""
    return -(-tokens // 16) * 16


def _dense(features: int, types: Any, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=_normal, **types, name=name)
