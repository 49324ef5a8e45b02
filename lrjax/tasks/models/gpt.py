"""GPT: a causal transformer that normalises first, with rotary positions.

As GPT-NeoX in Hugging Face (`GPTNeoXForCausalLM`, without parallel residuals): layer
norms before attention and perceptron and once more at the end, exact GELU, queries and
keys rotated as in RoFormer (Su et al., 2021, arXiv 2104.09864). The output is the token
embedding, without a bias, and weights start as GPT-2's. Layer norms are LayerNorm, as
in GPT-2 and GPT-NeoX, not RMSNorm: so official code of the whole model can be compared
with, and the masked language model has the same.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lrjax.tasks.models.attention import attention
from lrjax.tasks.models.dropout import Dropout
from lrjax.tasks.models.gelu import gelu
from lrjax.tasks.models.layer_norm import LayerNorm
from lrjax.tasks.models.transformer import INIT, dense, logits, scanned

_BASE = 10_000.0  # of the rotations' wavelengths
_DEVIATION = 0.02  # of initial weights


class GPT(nn.Module):
    """Causal transformer with tied embeddings; returns logits over the next token.

    Weights are initialised from a normal distribution with standard deviation 0.02;
    those whose results are added to the residual stream, of which there are two in a
    layer, from one that is sqrt(2 layers) times as narrow.

    Attributes:
      vocab_size: number of tokens.
      hidden_size: features per token.
      num_layers: number of blocks.
      num_heads: attention heads of an even number of features.
      intermediate_size: hidden units of a block's MLP.
      dropout: dropout rate after embeddings, attention and MLP.
      fused: use the device's attention kernel; `attention.can_fuse` says where one
        works.
      layer_norm_eps: epsilon of LayerNorm.
      dtype: dtype of the computation; that of the parameters if None.
      param_dtype: dtype of the parameters.
      remat: whether to recompute activations inside blocks in the backward pass
        instead of storing them.
      scan_layers: whether blocks are a loop over their stacked weights, which is
        compiled once for all. Parameters, initial values and dropout are the same.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    dropout: float = 0.0
    fused: bool = False
    layer_norm_eps: float = 1e-5
    dtype: Any = None
    param_dtype: Any = "float32"
    remat: bool = False
    scan_layers: bool = False

    @nn.compact
    def __call__(
        self, input_ids: jax.Array, train: bool, segments: jax.Array | None = None
    ) -> jax.Array:
        """Compute logits over the token after each one.

        Args:
          input_ids: int [rows, tokens].
          train: whether to apply dropout; needs the RNG stream 'dropout'.
          segments: int [rows, tokens]; tokens attend only to their own segment. None: a
            row is one segment. Positions are relative, so they need no new start.

        Returns:
          [rows, tokens, vocab_size], float32 or wider.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # Embeddings keep the parameters' precision, see `models.Roberta`.
        words = nn.Embed(
            self.vocab_size,
            self.hidden_size,
            embedding_init=INIT,
            param_dtype=self.param_dtype,
            name="words",
        )
        x = words(input_ids)
        x = x if self.dtype is None else x.astype(self.dtype)
        x = Dropout(self.dropout, deterministic=not train)(x)
        mask = causal_mask(input_ids.shape[1], segments)
        settings = (
            *(self.num_heads, self.intermediate_size, self.num_layers, self.dropout),
            *(self.fused, self.layer_norm_eps, types),
        )
        if self.scan_layers and not self.is_initializing():
            block = _Block(*settings, parent=None)
            x = scanned(self, block, x, mask, train, self.num_layers, 2, self.remat)
        else:
            make_block = nn.remat(_Block, static_argnums=3) if self.remat else _Block
            for layer in range(self.num_layers):
                x = make_block(*settings, name=f"layer{layer}")(x, mask, train)
        x = LayerNorm(self.layer_norm_eps, **types, name="final_norm")(x)
        return logits(x, words.embedding)


class _Block(nn.Module):
    """Attention and an MLP, each after a norm and with a residual connection."""

    heads: int
    intermediate_size: int
    layers: int
    dropout: float
    fused: bool
    eps: float
    types: Any

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        train: bool,
        keys: tuple[jax.Array, ...] = (),
    ) -> jax.Array:
        """Compute [rows, tokens, size].

        Args:
          x: [rows, tokens, size].
          mask: as in `attention`.
          train: whether to apply dropout.
          keys: for its dropout layers, in the order of their use; (): Flax's.
        """
        left = iter(keys)
        narrow = nn.initializers.normal(_DEVIATION / math.sqrt(2 * self.layers))

        def norm(x: jax.Array, name: str) -> jax.Array:
            return LayerNorm(self.eps, **self.types, name=name)(x)

        def added(x: jax.Array, change: jax.Array) -> jax.Array:
            layer = Dropout(self.dropout, deterministic=not train)
            return x + layer(change, rng=next(left, None))

        rows, tokens, size = x.shape
        out = dense(norm(x, "attention_norm"), 3 * size, self.types, "qkv")
        out = out.reshape(rows, tokens, 3, self.heads, size // self.heads)
        query, key, value = jnp.moveaxis(out, 2, 0)
        out = attention(rotated(query), rotated(key), value, mask, self.fused)
        out = dense(out.reshape(x.shape), size, self.types, "projection", narrow)
        x = added(x, out)
        out = dense(norm(x, "mlp_norm"), self.intermediate_size, self.types, "fc1")
        return added(x, dense(gelu(out), size, self.types, "fc2", narrow))


def causal_mask(tokens: int, segments: jax.Array | None = None) -> jax.Array:
    """Mask of attention: each token sees itself and earlier ones of its segment.

    Args:
      tokens: of a row.
      segments: int [rows, tokens]; None: a row is one segment.

    Returns:
      bool [rows or 1, 1, tokens, tokens].
    """
    places = jnp.arange(tokens)
    mask = (places[:, None] >= places)[None, None]
    if segments is None:
        return mask
    return mask & (segments[:, None, :, None] == segments[:, None, None, :])


def rotated(x: jax.Array) -> jax.Array:
    """Rotate pairs of features by angles that grow with the position.

    Features i and size/2 + i are a pair, as in GPT-NeoX and Llama; at position p they
    turn by p / 10,000^(2i/size). So products of queries and keys depend on how far the
    tokens are apart, and not on where they are.

    Args:
      x: [rows, tokens, heads, size], of an even size.

    Returns:
      the same shape and type; computed in float32 at least.
    """
    tokens, size = x.shape[1], x.shape[-1]
    rates = _BASE ** (-np.arange(0, size, 2) / size)
    angles = np.arange(tokens)[:, None, None] * rates  # in float64, as constants
    wide = np.promote_types(x.dtype, np.float32)
    cos, sin = (jnp.asarray(f(angles), wide) for f in (np.cos, np.sin))
    first, second = jnp.split(x.astype(wide), 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
