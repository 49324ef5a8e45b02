"""RoBERTa for masked language modelling (Liu et al., 2019), as in Hugging Face.

Gives the same results as `RobertaForMaskedLM` for the same weights: positions are
counted from PAD + 1, blocks normalise after the residual, and the decoder is the token
embedding. `load_weights` reads the safetensors file of such a model.
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

from lrjax import machine
from lrjax.common import files, numerics
from lrjax.common.reading import reading
from lrjax.core import UsageError, cut
from lrjax.tasks.models.attention import attention, attention_with_dropout
from lrjax.tasks.models.dropout import Dropout
from lrjax.tasks.models.gelu import gelu
from lrjax.tasks.models.layer_norm import LayerNorm
from lrjax.tasks.models.products import product

PAD = 1  # the padding token, and the position of padding
_MAX_CONFIG = 2**20  # bytes of a config.json; the published ones have one kB
_TILE = 128  # columns of a matrix that tensor cores like
SPECIAL_POSITIONS = 2  # rows that no token uses: the first position is PAD + 1

_INIT = nn.initializers.normal(0.02)


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

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        train: bool,
        segments: jax.Array | None = None,
        at: jax.Array | None = None,
    ) -> jax.Array:
        """Compute logits over tokens.

        Args:
          input_ids: int [rows, tokens].
          attention_mask: [rows, tokens], 0 for tokens not attended to (padding).
          train: whether to apply dropout; needs the RNG stream 'dropout'.
          segments: int [rows, tokens]; tokens attend only to their own segment, and
            positions restart in every segment. None: a row is one segment.
          at: int [rows, slots], positions to return logits for. None: all.

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
        kind = self.param("kind", _INIT, (1, self.hidden_size), self.param_dtype)
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
            x = self._scanned(_Block(*settings, parent=None), x, mask, train)
        else:
            make_block = nn.remat(_Block, static_argnums=3) if self.remat else _Block
            for layer in range(self.num_layers):
                x = make_block(*settings, name=f"layer{layer}")(x, mask, train)
        if self.pre_norm:
            x = norm("final_norm")(x)
        if at is not None:
            x = jnp.take_along_axis(x, at[:, :, None], axis=1)
        x = _dense(x, self.hidden_size, types, "head")
        x = norm("head_norm")(gelu(x))
        bias = self.param(
            "bias", nn.initializers.zeros_init(), (self.vocab_size,), self.param_dtype
        )
        return _logits(x, words.embedding, bias)

    def _scanned(
        self, block: _Block, x: jax.Array, mask: jax.Array, train: bool
    ) -> jax.Array:
        """Apply all blocks in a loop.

        Args:
          block: any of them.
          x, mask, train: as for a block.
        """
        names = [f"layer{layer}" for layer in range(self.num_layers)]
        params = [self.variables["params"][name] for name in names]
        keys = [self._dropout_keys(name) if train else () for name in names]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)

        def step(x: Any, layer: Any) -> tuple[Any, None]:
            params, keys = layer
            return block.apply({"params": params}, x, mask, train, keys), None

        step = jax.checkpoint(step) if self.remat else step
        together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *keys)
        return jax.lax.scan(step, x, (stacked, together))[0]

    def _dropout_keys(self, name: str) -> tuple[jax.Array, ...]:
        """The keys that the dropout layers of a block get from Flax."""
        assert self.scope is not None
        scope, count = self.scope.push(name, reuse=True), 2
        if self.attention_dropout:
            count += 1
        places = [scope.push(f"Dropout_{i}", reuse=True) for i in range(count)]
        return tuple(place.make_rng("dropout") for place in places)


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
            out = _dense(x, 3 * size, self.types, "qkv")
            out = out.reshape(rows, tokens, 3, self.heads, size // self.heads)
            query, key, value = jnp.moveaxis(out, 2, 0)
            if train and self.attention_dropout:
                dropout = functools.partial(dropped, rate=self.attention_dropout)
                out = attention_with_dropout(query, key, value, mask, dropout)
            else:
                out = attention(query, key, value, mask, self.fused)
            return _dense(out.reshape(x.shape), size, self.types, "projection")

        def transformed(x: jax.Array) -> jax.Array:
            out = _dense(x, self.intermediate_size, self.types, "fc1")
            out = gelu(out)
            return _dense(out, x.shape[-1], self.types, "fc2")

        x = added(x, attended, "attention_norm")
        return added(x, transformed, "output_norm")


def _may_attend(attention_mask: jax.Array, segments: jax.Array | None) -> jax.Array:
    """Mask of the attention, bool [rows, 1, tokens or 1, tokens]."""
    mask = attention_mask.astype(bool)[:, None, None, :]
    if segments is None:
        return mask
    same = segments[:, :, None] == segments[:, None, :]
    return mask & same[:, None]


def _logits(x: jax.Array, words: jax.Array, bias: jax.Array) -> jax.Array:
    """Multiply by the embeddings of all tokens; float32 or wider.

    Args:
      x: [rows, tokens, size].
      words: [vocab_size, size].
      bias: [vocab_size].

    Returns:
      [rows, tokens, vocab_size].
    """
    wide = np.promote_types(x.dtype, np.float32)
    table = words.astype(x.dtype)
    # Rows and tokens are one axis here, as in `_dense`.
    flat = x.reshape(-1, x.shape[-1])
    shape, bias = (*x.shape[:-1], len(words)), bias.astype(wide)
    if machine.kind() != "gpu":  # XLA fills up tiles of TPUs itself
        return product("nh,vh->nv", flat, table, wide).reshape(shape) + bias
    # Whole tiles. The additional columns are cut off again, which costs nothing: what
    # follows reads and writes the others alone.
    more = -len(words) % _TILE
    table, bias = jnp.pad(table, ((0, more), (0, 0))), jnp.pad(bias, (0, more))
    scores = product("nh,vh->nv", flat, table, wide) + bias
    return scores[:, : len(words)].reshape(shape)


def _dense(x: jax.Array, features: int, types: Any, name: str) -> jax.Array:
    """A linear layer: [..., size] -> [..., features].

    Merges rows and tokens into one axis: the weights' gradient contracts over both, and
    XLA's CPU backend copies operands that are contracted over two axes.
    """
    layer = nn.Dense(features, kernel_init=_INIT, **types, name=name)
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], features)


def _without_padding(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    """Initialise an embedding, with zeros for padding."""
    return _INIT(key, shape, dtype).at[PAD].set(0)


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
_OUTSIDE = {
    "roberta.embeddings.LayerNorm": "embedding_norm",
    "lm_head.dense": "head",
    "lm_head.layer_norm": "head_norm",
}
# Copies of other tensors, computed tables, and tensors that logits do not need.
_IGNORED = (
    "roberta.embeddings.position_ids",
    "roberta.embeddings.token_type_ids",
    "lm_head.decoder.weight",
    "lm_head.decoder.bias",
    "roberta.pooler.",
)


def load_weights(path: str | os.PathLike[str], model: Roberta) -> dict[str, Any]:
    """Load parameters from the safetensors file of a `RobertaForMaskedLM`.

    Args:
      path: the file, saved by Hugging Face Transformers.
      model: the model for these parameters, without `pre_norm`. If there is a
        config.json beside the file, it must have the model's `layer_norm_eps`.

    Returns:
      The tree 'params' of `model.init`, in the model's `param_dtype`.

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
    size = sum(leaf.size for leaf in jax.tree.leaves(wanted))
    with (
        reading(path, "cannot be read as safetensors"),
        files.open_given(path),  # the library would wait for a pipe
        safe_open(os.fspath(path), framework="numpy") as file,
    ):
        names = [n for n in file.keys() if not n.startswith(_IGNORED)]  # noqa: SIM118
        held = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
        if held > 2 * size:  # refused below if it is less
            raise UsageError(
                f"{path}: its tensors have {held:,} numbers, the model {size:,}"
            )
        tensors = {name: file.get_tensor(name) for name in names}
    _check_eps(Path(path).parent / "config.json", model.layer_norm_eps)
    with reading(path, "its tensors are not the model's"):
        params, used = _renamed(tensors, model.num_layers, os.fspath(path))
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
    tensors: Mapping[str, np.ndarray], num_layers: int, path: str
) -> tuple[dict[str, Any], set[str]]:
    """Convert tensors to our tree of parameters; also returns the names used.

    Args:
      tensors: those of the file, by name.
      num_layers: layers of our model.
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
            "kernel": np.concatenate([part["kernel"] for part in three], axis=1),
            "bias": np.concatenate([part["bias"] for part in three]),
        }
        params[f"layer{layer}"] = block
    return params, used
