"""RoBERTa for masked language modelling (Liu et al., 2019), as in Hugging Face.

Gives the same results as `RobertaForMaskedLM` for the same weights: positions are
counted from PAD + 1, blocks normalise after the residual, and the decoder is the token
embedding. With classes it is `RobertaForSequenceClassification`. `load_weights` reads
the safetensors file of such a model, `tensors_of` makes what is in one.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lrjax.common import files, numerics
from lrjax.common.reading import reading
from lrjax.core import UsageError, cut
from lrjax.tasks.models.attention import attention, attention_with_dropout
from lrjax.tasks.models.dropout import Dropout
from lrjax.tasks.models.gelu import gelu
from lrjax.tasks.models.layer_norm import LayerNorm
from lrjax.tasks.models.transformer import INIT, dense, logits, scanned

PAD = 1  # the padding token, and the position of padding
_MAX_CONFIG = 2**20  # bytes of a config.json; the published ones have one kB
SPECIAL_POSITIONS = 2  # rows that no token uses: the first position is PAD + 1


class Roberta(nn.Module):
    """Bidirectional transformer with tied embeddings; returns logits over tokens.

    Weights are initialised from a normal distribution with standard deviation 0.02,
    biases and the embeddings of padding with zero.

    Attributes:
      vocab_size: number of tokens.
      hidden_size: features per token.
      num_layers: number of blocks.
      num_heads: attention heads; must divide `hidden_size`.
      intermediate_size: hidden units of a block's MLP.
      max_positions: rows of the position embedding; sequences have at most two tokens
        fewer.
      dropout: dropout rate after embeddings, attention and MLP.
      attention_dropout: dropout rate of attention weights; above 0, training does not
        use the fused kernel, which does not support it.
      fused: use the device's attention kernel; `attention.can_fuse` says where one
        works.
      pre_norm: normalise before attention and MLP instead of after the residual sum,
        and once more at the end.
      layer_norm_eps: epsilon of LayerNorm; 1e-5 in the published roberta-base, 1e-12 in
        Hugging Face's `RobertaConfig()`.
      dtype: dtype of the computation; that of the parameters if None.
      param_dtype: dtype of the parameters.
      remat: whether to recompute activations inside blocks in the backward pass
        instead of storing them.
      scan_layers: whether blocks are a loop over their stacked weights, which is
        compiled once for all. Parameters, initial values and dropout are the same.
      num_classes: classes that a head on the first token tells apart, in place of the
        language model's head; 0: the language model.
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
    scan_layers: bool = False
    num_classes: int = 0

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        train: bool,
        segments: jax.Array | None = None,
        at: jax.Array | None = None,
    ) -> jax.Array:
        """Compute logits over tokens, or over classes.

        Args:
          input_ids: int [rows, tokens].
          attention_mask: [rows, tokens], 0 for tokens not attended to (padding).
          train: whether to apply dropout; needs the RNG stream 'dropout'.
          segments: int [rows, tokens]; tokens attend only to their own segment, and
            positions restart in every segment. None: a row is one segment.
          at: int [rows, slots], positions to return logits for. None: all.

        Returns:
          [rows, slots or tokens, vocab_size], or [rows, num_classes] if there are
          classes; float32 or wider.

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

        # Embeddings keep the parameters' precision: their gradients are sums over all
        # tokens of a batch, which would stagnate in bfloat16.
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
        # The single token type; the original has this parameter too.
        kind = self.param("kind", INIT, (1, self.hidden_size), self.param_dtype)
        x = words(input_ids) + places(positions(input_ids, segments)) + kind
        x = norm("embedding_norm")(x)
        x = Dropout(self.dropout, deterministic=not train)(x)
        mask = _may_attend(attention_mask, segments)
        settings = (
            *(self.num_heads, self.intermediate_size, self.dropout),
            *(self.attention_dropout, self.fused, self.pre_norm, self.layer_norm_eps),
            types,
        )
        if self.scan_layers and not self.is_initializing():
            block = _Block(*settings, parent=None)
            dropouts = 3 if self.attention_dropout else 2
            x = scanned(
                *(self, block, x, mask, train),
                *(self.num_layers, dropouts, self.remat),
            )
        else:
            make_block = nn.remat(_Block, static_argnums=3) if self.remat else _Block
            for layer in range(self.num_layers):
                x = make_block(*settings, name=f"layer{layer}")(x, mask, train)
        if self.pre_norm:
            x = norm("final_norm")(x)
        if self.num_classes:
            return self._classified(x[:, 0], types, train)
        if at is not None:
            x = jnp.take_along_axis(x, at[:, :, None], axis=1)
        x = dense(x, self.hidden_size, types, "head")
        x = norm("head_norm")(gelu(x))
        bias = self.param(
            "bias", nn.initializers.zeros_init(), (self.vocab_size,), self.param_dtype
        )
        return logits(x, words.embedding, bias)

    def _classified(self, x: jax.Array, types: Any, train: bool) -> jax.Array:
        """The classification head: [rows, size] -> [rows, num_classes]."""
        x = Dropout(self.dropout, deterministic=not train)(x)
        x = jnp.tanh(dense(x, self.hidden_size, types, "classifier"))
        x = Dropout(self.dropout, deterministic=not train)(x)
        x = dense(x, self.num_classes, types, "classes")
        return x.astype(np.promote_types(x.dtype, np.float32))


class _Block(nn.Module):
    """Attention and an MLP, each with a residual connection."""

    heads: int
    intermediate_size: int
    dropout: float
    attention_dropout: float
    fused: bool
    pre_norm: bool
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

        def dropped(x: jax.Array, rate: float) -> jax.Array:
            layer = Dropout(rate, deterministic=not train)
            return layer(x, rng=next(left, None))

        def added(x: jax.Array, change: Any, name: str) -> jax.Array:
            norm = LayerNorm(self.eps, **self.types, name=name)
            out = change(norm(x) if self.pre_norm else x)
            out = x + dropped(out, self.dropout)
            return out if self.pre_norm else norm(out)

        def attended(x: jax.Array) -> jax.Array:
            rows, tokens, size = x.shape
            out = dense(x, 3 * size, self.types, "qkv")
            out = out.reshape(rows, tokens, 3, self.heads, size // self.heads)
            query, key, value = jnp.moveaxis(out, 2, 0)
            if train and self.attention_dropout:
                dropout = functools.partial(dropped, rate=self.attention_dropout)
                out = attention_with_dropout(query, key, value, mask, dropout)
            else:
                out = attention(query, key, value, mask, self.fused)
            return dense(out.reshape(x.shape), size, self.types, "projection")

        def transformed(x: jax.Array) -> jax.Array:
            out = dense(x, self.intermediate_size, self.types, "fc1")
            out = gelu(out)
            return dense(out, x.shape[-1], self.types, "fc2")

        x = added(x, attended, "attention_norm")
        return added(x, transformed, "output_norm")


def _may_attend(attention_mask: jax.Array, segments: jax.Array | None) -> jax.Array:
    """Mask of the attention, bool [rows, 1, tokens or 1, tokens]."""
    mask = attention_mask.astype(bool)[:, None, None, :]
    if segments is None:
        return mask
    same = segments[:, :, None] == segments[:, None, :]
    return mask & same[:, None]


def _without_padding(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    """Initialise an embedding, with zeros for padding."""
    return INIT(key, shape, dtype).at[PAD].set(0)


def positions(input_ids: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """Number the positions of tokens: int [rows, tokens].

    Tokens are counted from PAD + 1, anew in every segment; padding has position PAD.
    """
    real = (input_ids != PAD).astype(jnp.int32)
    count = jnp.cumsum(real, axis=1)
    if segments is not None:
        # Subtract the count before the segment's first token.
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
_QKV = ("query", "key", "value")
_OUTSIDE = {"roberta.embeddings.LayerNorm": "embedding_norm"}
_HEAD = {"lm_head.dense": "head", "lm_head.layer_norm": "head_norm"}
_NEW = ("classifier", "classes")  # what a classifier begins anew
# Copies of other tensors, computed tables, and tensors that logits do not need.
_IGNORED = (
    "roberta.embeddings.position_ids",
    "roberta.embeddings.token_type_ids",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    "roberta.pooler.",
    "classifier.",
)


def load_weights(path: str | os.PathLike[str], model: Roberta) -> dict[str, Any]:
    """Load parameters from the safetensors file of a `RobertaForMaskedLM`.

    Args:
      path: the file, saved by Hugging Face Transformers; for a classifier any model of
        the kind will do, whose head is left aside.
      model: the model for these parameters, without `pre_norm`. If there is a
        config.json beside the file, it must have the model's `layer_norm_eps`.

    Returns:
      The tree 'params' of `model.init`, in the model's `param_dtype`; that of a
      classifier without its head, whose weights are new.

    Raises:
      UsageError: if the file cannot be read, or its tensors are not the model's.
    """
    from safetensors import safe_open

    if model.pre_norm:
        raise UsageError(f"{path}: its model does not normalise first (pre_norm)")
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    wanted = jax.eval_shape(
        lambda ids: model.init(numerics.key(0), ids, ids, train=False), tokens
    )["params"]
    wanted = {name: leaf for name, leaf in wanted.items() if name not in _NEW}
    ignored = (*_IGNORED, "lm_head.") if model.num_classes else _IGNORED
    size = sum(leaf.size for leaf in jax.tree.leaves(wanted))
    with (
        reading(path, "cannot be read as safetensors"),
        files.open_given(path),  # the library would wait for a pipe
        safe_open(os.fspath(path), framework="numpy") as file,
    ):
        names = [n for n in file.keys() if not n.startswith(ignored)]  # noqa: SIM118
        held = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
        if held > 2 * size:  # refused below if it is less
            raise UsageError(
                f"{path}: its tensors have {held:,} numbers, the model {size:,}"
            )
        tensors = {name: file.get_tensor(name) for name in names}
    _check_eps(Path(path).parent / "config.json", model.layer_norm_eps)
    with reading(path, "its tensors are not the model's"):
        params, used = _renamed(tensors, model, os.fspath(path))
    for name in names:
        if name not in used:
            raise UsageError(f"{path}: tensor {cut(name)} is not part of the model")
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
    """Refuse an epsilon that differs from the one the weights were trained with."""
    with reading(config):
        try:
            content = files.read_given(config, _MAX_CONFIG)
        except FileNotFoundError:
            return
        fields = json.loads(content.decode())
    wanted = fields.get("layer_norm_eps", eps) if isinstance(fields, dict) else eps
    if wanted != eps:
        raise UsageError(
            f"{config}: layer_norm_eps is {cut(str(wanted))}, the model's is {eps}; "
            "use that of the weights"
        )


def _renamed(
    tensors: Mapping[str, np.ndarray], model: Roberta, path: str
) -> tuple[dict[str, Any], set[str]]:
    """Convert tensors to our tree of parameters; also returns the names used.

    Args:
      tensors: those of the file, by name.
      model: our model.
      path: the file, for messages.
    """
    used: set[str] = set()

    def take(name: str) -> np.ndarray:
        """Return a tensor by its name in the file, and note that it is used."""
        if name not in tensors:
            raise UsageError(f"{path}: there is no tensor {name}")
        used.add(name)
        return tensors[name]

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
    }
    outside = _OUTSIDE
    if not model.num_classes:
        params["bias"] = take("lm_head.bias")
        outside = _OUTSIDE | _HEAD
    params |= {ours: either(theirs) for theirs, ours in outside.items()}
    for layer in range(model.num_layers):
        prefix = f"roberta.encoder.layer.{layer}"
        three = [dense(f"{prefix}.attention.self.{name}") for name in _QKV]
        block = {ours: either(f"{prefix}.{theirs}") for theirs, ours in _LAYER.items()}
        block["qkv"] = {
            "kernel": np.concatenate([part["kernel"] for part in three], axis=1),
            "bias": np.concatenate([part["bias"] for part in three]),
        }
        params[f"layer{layer}"] = block
    return params, used


def tensors_of(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of a `RobertaForMaskedLM`, by name: the inverse of `load_weights`.

    Args:
      params: the tree 'params' of a `Roberta` without classes and `pre_norm`.
    """
    found: dict[str, Any] = {}

    def put(name: str, layer: Mapping[str, Any]) -> None:
        """Store a dense layer or a norm under its name in the file."""
        kernel = layer["kernel"].T if "kernel" in layer else layer["scale"]
        found[f"{name}.weight"], found[f"{name}.bias"] = kernel, layer["bias"]

    embeddings = "roberta.embeddings"
    found[f"{embeddings}.word_embeddings.weight"] = params["words"]["embedding"]
    found[f"{embeddings}.position_embeddings.weight"] = params["positions"]["embedding"]
    found[f"{embeddings}.token_type_embeddings.weight"] = params["kind"]
    found["lm_head.bias"] = params["bias"]
    for theirs, ours in (_OUTSIDE | _HEAD).items():
        put(theirs, params[ours])
    layers = [name for name in params if name.startswith("layer")]
    for layer in range(len(layers)):
        block, prefix = params[f"layer{layer}"], f"roberta.encoder.layer.{layer}"
        for theirs, ours in _LAYER.items():
            put(f"{prefix}.{theirs}", block[ours])
        kernels, biases = (
            jnp.split(block["qkv"][part], 3, axis=-1) for part in ("kernel", "bias")
        )
        for name, kernel, bias in zip(_QKV, kernels, biases, strict=True):
            put(f"{prefix}.attention.self.{name}", {"kernel": kernel, "bias": bias})
    return {name: np.ascontiguousarray(value) for name, value in found.items()}
