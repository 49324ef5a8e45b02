"""RoBERTa for masked language modelling (Liu et al., 2019), as in Hugging Face.

Same numbers as `RobertaForMaskedLM` for the same weights: positions are counted from
the padding token on, blocks normalise after the residual, and the decoder is the
embedding of tokens. `load_weights` reads such a model's safetensors file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lrjax.common import numerics
from lrjax.common.reading import reading
from lrjax.core import UsageError, cut
from lrjax.tasks.models.attention import attention, attention_with_dropout
from lrjax.tasks.models.layer_norm import LayerNorm

PAD = 1  # the padding token, and the position of padding
SPECIAL_POSITIONS = 2  # positions that no token has: the first is PAD + 1

_INIT = nn.initializers.normal(0.02)


class Roberta(nn.Module):
    """Bidirectional transformer with tied embeddings; gives logits over tokens.

    Weights start from a normal distribution with deviation 0.02, biases and the
    embeddings of padding from zero.

    Attributes:
      vocab_size: tokens.
      hidden_size: numbers per token.
      num_layers: blocks.
      num_heads: of the attention; they divide `hidden_size`.
      intermediate_size: width inside of a block's perceptron.
      max_positions: rows of the table of positions; sequences have up to two fewer
        tokens.
      dropout: rate after embeddings, attention and perceptron.
      attention_dropout: rate of attention weights; the fused kernel has none, so above
        0 training does without it.
      fused: attention by cuDNN's kernel; `attention.can_fuse` says where it works.
      pre_norm: normalise before attention and perceptron instead of after the sum,
        and once more at the end.
      layer_norm_eps: added to variances; 1e-5 in the published roberta-base, 1e-12 in
        Hugging Face's `RobertaConfig()`.
      dtype: in which to compute; that of the parameters if None.
      param_dtype: of the parameters.
      remat: whether activations inside of blocks are computed again for gradients
        instead of kept.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int
    dropout: float = 0.1
    attention_dropout: float = 0.0
    fused: bool = False
    pre_norm: bool = False
    layer_norm_eps: float = 1e-5
    dtype: Any = None
    param_dtype: Any = "float32"
    remat: bool = False

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        train: bool,
        segments: jax.Array | None = None,
        at: jax.Array | None = None,
    ) -> jax.Array:
        """Logits of tokens.

        Args:
          input_ids: int [rows, tokens].
          attention_mask: [rows, tokens], 0 for what is not attended to (padding).
          train: whether to drop out; needs the stream 'dropout'.
          segments: int [rows, tokens]; tokens attend to those of their own segment,
            and positions start anew in each. None: a row is one segment.
          at: int [rows, slots], the positions whose logits are wanted. None: all.

        Returns:
          [rows, slots or tokens, vocab_size], float32 or wider.

        Raises:
          ValueError: if rows are longer than there are positions.
        """
        if input_ids.shape[1] > self.max_positions - SPECIAL_POSITIONS:
            raise ValueError(
                f"{input_ids.shape[1]} tokens in a row; {self.max_positions} positions "
                f"are enough for {self.max_positions - SPECIAL_POSITIONS}"
            )
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def norm(name: str) -> LayerNorm:
            return LayerNorm(self.layer_norm_eps, **types, name=name)

        # Looked up and added in the parameters' precision: sums of gradients, over all
        # tokens of a batch, would stand still in bfloat16.
        def embed(rows: int, name: str) -> nn.Embed:
            return nn.Embed(
                rows,
                self.hidden_size,
                embedding_init=_without_padding,
                param_dtype=self.param_dtype,
                name=name,
            )

        words = embed(self.vocab_size, "words")
        places = embed(self.max_positions, "positions")
        # One type of token; a parameter of its own in the original, too.
        kind = self.param("kind", _INIT, (1, self.hidden_size), self.param_dtype)
        x = words(input_ids) + places(positions(input_ids, segments)) + kind
        x = norm("embedding_norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        mask = _may_attend(attention_mask, segments)
        make_block = nn.remat(_Block, static_argnums=3) if self.remat else _Block
        for layer in range(self.num_layers):
            x = make_block(
                self.num_heads,
                self.intermediate_size,
                self.dropout,
                self.attention_dropout,
                self.fused,
                self.pre_norm,
                self.layer_norm_eps,
                types,
                name=f"layer{layer}",
            )(x, mask, train)
        if self.pre_norm:
            x = norm("final_norm")(x)
        if at is not None:
            x = jnp.take_along_axis(x, at[:, :, None], axis=1)
        x = _dense(x, self.hidden_size, types, "head")
        x = norm("head_norm")(nn.gelu(x, approximate=False))
        bias = self.param(
            "bias", nn.initializers.zeros_init(), (self.vocab_size,), self.param_dtype
        )
        return _logits(x, words.embedding, bias)


class _Block(nn.Module):
    """Attention and a perceptron, each added to its input."""

    heads: int
    intermediate_size: int
    dropout: float
    attention_dropout: float
    fused: bool
    pre_norm: bool
    eps: float
    types: Any

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        def added(x: jax.Array, change: Any, name: str) -> jax.Array:
            norm = LayerNorm(self.eps, **self.types, name=name)
            out = change(norm(x) if self.pre_norm else x)
            out = x + nn.Dropout(self.dropout, deterministic=not train)(out)
            return out if self.pre_norm else norm(out)

        def attended(x: jax.Array) -> jax.Array:
            rows, tokens, size = x.shape
            out = _dense(x, 3 * size, self.types, "qkv")
            out = out.reshape(rows, tokens, 3, self.heads, size // self.heads)
            query, key, value = jnp.moveaxis(out, 2, 0)
            if train and self.attention_dropout:
                dropout = nn.Dropout(self.attention_dropout, deterministic=False)
                out = attention_with_dropout(query, key, value, mask, dropout)
            else:
                out = attention(query, key, value, mask, self.fused)
            return _dense(out.reshape(x.shape), size, self.types, "projection")

        def transformed(x: jax.Array) -> jax.Array:
            out = _dense(x, self.intermediate_size, self.types, "fc1")
            out = nn.gelu(out, approximate=False)
            return _dense(out, x.shape[-1], self.types, "fc2")

        x = added(x, attended, "attention_norm")
        return added(x, transformed, "output_norm")


def _may_attend(attention_mask: jax.Array, segments: jax.Array | None) -> jax.Array:
    """Which tokens attend to which, [rows, 1, tokens or 1, tokens]."""
    mask = attention_mask.astype(bool)[:, None, None, :]
    if segments is None:
        return mask
    same = segments[:, :, None] == segments[:, None, :]
    return mask & same[:, None]


def _logits(x: jax.Array, words: jax.Array, bias: jax.Array) -> jax.Array:
    """Products with the embeddings of all words, float32 or wider.

    Args:
      x: [rows, tokens, size].
      words: [vocab_size, size].
      bias: [vocab_size].

    Returns:
      [rows, tokens, vocab_size].
    """
    wide = np.promote_types(x.dtype, np.float32)
    table = words.astype(x.dtype)
    # Rows and tokens as one axis, as in `_dense`.
    flat = x.reshape(-1, x.shape[-1])
    logits = jnp.einsum("nh,vh->nv", flat, table, preferred_element_type=wide)
    return logits.reshape(*x.shape[:-1], len(words)) + bias.astype(wide)


def _dense(x: jax.Array, features: int, types: Any, name: str) -> jax.Array:
    """A linear layer: [..., size] -> [..., features].

    Rows and tokens are one axis inside: XLA for CPUs copies what is contracted over two
    axes at once, as the gradient of the weights is.
    """
    layer = nn.Dense(features, kernel_init=_INIT, **types, name=name)
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], features)


def _without_padding(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    return _INIT(key, shape, dtype).at[PAD].set(0)


def positions(input_ids: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """Rows of the table of positions: int [rows, tokens].

    Counted from PAD + 1 over the tokens that are no padding, from the start of each
    segment; padding has PAD.
    """
    real = (input_ids != PAD).astype(jnp.int32)
    count = jnp.cumsum(real, axis=1)
    if segments is not None:
        # What was counted before the segment's first token.
        new = segments != jnp.pad(segments, ((0, 0), (1, 0)))[:, :-1]
        new = new.at[:, 0].set(True)
        before = jnp.where(new, count - real, 0)
        count = count - jax.lax.cummax(before, axis=1)
    return count * real + PAD


# Weights of Hugging Face models

_LAYER = {
    "attention.output.dense": "projection",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "output_norm",
}
_OUTSIDE = {
    "roberta.embeddings.LayerNorm": "embedding_norm",
    "lm_head.dense": "head",
    "lm_head.layer_norm": "head_norm",
}
# Copies of other tensors, tables that are computed here, and what no logits need.
_IGNORED = (
    "roberta.embeddings.position_ids",
    "roberta.embeddings.token_type_ids",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    "roberta.pooler.",
)


def load_weights(path: str | os.PathLike[str], model: Roberta) -> dict[str, Any]:
    """Parameters from the safetensors file of a Hugging Face `RobertaForMaskedLM`.

    Args:
      path: the file.
      model: for the shapes; normalises after the residual. Where a config.json lies
        beside the file, it must have the same `layer_norm_eps`.

    Returns:
      What `model.init` gives as 'params', in the model's `param_dtype`.

    Raises:
      UsageError: if the file cannot be read, or its tensors are not the model's.
    """
    from safetensors import safe_open

    if model.pre_norm:
        raise UsageError(f"{path}: holds no model that normalises first (pre_norm)")
    with (
        reading(path, "cannot be read as safetensors"),
        safe_open(os.fspath(path), framework="numpy") as file,
    ):
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _check_eps(Path(path).parent / "config.json", model.layer_norm_eps)
    with reading(path, "its tensors are not the model's"):
        params, used = _renamed(found, model.num_layers, os.fspath(path))
    for name in found:
        if name not in used and not name.startswith(_IGNORED):
            raise UsageError(f"{path}: tensor {name} has no place in the model")
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    wanted = jax.eval_shape(
        lambda ids: model.init(numerics.key(0), ids, ids, train=False), tokens
    )["params"]
    for where, expected in jax.tree.leaves_with_path(wanted):
        value: Any = params
        for key in where:
            value = value[key.key]
        if value.shape != expected.shape:
            name = jax.tree_util.keystr(where, simple=True, separator=".")
            raise UsageError(
                f"{path}: {name} has shape {value.shape}, the model's is "
                f"{expected.shape}"
            )
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), params, wanted)


def _check_eps(config: Path, eps: float) -> None:
    """Refuses a model whose epsilon is not the one that weights were trained with."""
    try:
        wanted = json.loads(config.read_text("utf-8"))["layer_norm_eps"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return  # there is none, or it does not say
    if wanted != eps:
        raise UsageError(
            f"{config}: layer_norm_eps is {cut(str(wanted))}, the model's is {eps}; "
            "make it with that of the weights"
        )


def _renamed(
    found: Mapping[str, np.ndarray], num_layers: int, path: str
) -> tuple[dict[str, Any], set[str]]:
    """Tensors by our names, and the names that were used."""
    used: set[str] = set()

    def take(name: str) -> np.ndarray:
        if name not in found:
            raise UsageError(f"{path}: there is no tensor {name}")
        used.add(name)
        return found[name]

    def dense(name: str) -> dict[str, np.ndarray]:
        return {"kernel": take(f"{name}.weight").T, "bias": take(f"{name}.bias")}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": take(f"{name}.weight"), "bias": take(f"{name}.bias")}

    def either(name: str) -> dict[str, np.ndarray]:
        return (norm if name.lower().endswith("norm") else dense)(name)

    embeddings = "roberta.embeddings"
    params: dict[str, Any] = {
        "words": {"embedding": take(f"{embeddings}.word_embeddings.weight")},
        "positions": {"embedding": take(f"{embeddings}.position_embeddings.weight")},
        "kind": take(f"{embeddings}.token_type_embeddings.weight"),
        "bias": take("lm_head.bias"),
    }
    params |= {ours: either(theirs) for theirs, ours in _OUTSIDE.items()}
    for layer in range(num_layers):
        prefix = f"roberta.encoder.layer.{layer}"
        three = [
            dense(f"{prefix}.attention.self.{name}")
            for name in ("query", "key", "value")
        ]
        block = {ours: either(f"{prefix}.{theirs}") for theirs, ours in _LAYER.items()}
        block["qkv"] = {
            "kernel": np.concatenate([each["kernel"] for each in three], axis=1),
            "bias": np.concatenate([each["bias"] for each in three]),
        }
        params[f"layer{layer}"] = block
    return params, used
