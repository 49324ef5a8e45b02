"""Parts that the language models share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lrjax import machine
from lrjax.tasks.models.products import product

_TILE = 128  # columns of a matrix that tensor cores like

INIT = nn.initializers.normal(0.02)


def dense(
    x: jax.Array, features: int, types: Any, name: str, init: Any = INIT
) -> jax.Array:
    """A linear layer, inside of a compact module: [..., size] -> [..., features].

    Merges rows and tokens into one axis: the weights' gradient contracts over both, and
    XLA's CPU backend copies operands that are contracted over two axes.

    Args:
      x: [..., size].
      features: how many the layer returns.
      types: `dtype` and `param_dtype` of `nn.Dense`.
      name: of the layer.
      init: initialiser of the weights.
    """
    layer = nn.Dense(features, kernel_init=init, **types, name=name)
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], features)


def logits(x: jax.Array, words: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Multiply by the embeddings of all tokens; float32 or wider.

    Args:
      x: [rows, tokens, size].
      words: [vocab_size, size].
      bias: [vocab_size]; None for none.

    Returns:
      [rows, tokens, vocab_size].
    """
    wide = np.promote_types(x.dtype, np.float32)
    table = words.astype(x.dtype)
    # Rows and tokens are one axis here, as in `dense`.
    flat = x.reshape(-1, x.shape[-1])
    shape = (*x.shape[:-1], len(words))
    bias = None if bias is None else bias.astype(wide)
    if machine.kind() != "gpu":  # XLA fills up tiles of TPUs itself
        scores = product("nh,vh->nv", flat, table, wide).reshape(shape)
        return scores if bias is None else scores + bias
    # Whole tiles. The additional columns are cut off again, which costs nothing: what
    # follows reads and writes the others alone.
    more = -len(words) % _TILE
    table = jnp.pad(table, ((0, more), (0, 0)))
    scores = product("nh,vh->nv", flat, table, wide)
    if bias is not None:
        scores = scores + jnp.pad(bias, (0, more))
    return scores[:, : len(words)].reshape(shape)


def scanned(
    module: nn.Module,
    block: nn.Module,
    x: jax.Array,
    mask: jax.Array,
    train: bool,
    layers: int,
    dropouts: int,
    remat: bool,
) -> jax.Array:
    """Apply equal blocks in a loop over their stacked weights.

    Args:
      module: that has the blocks' parameters, as 'layer0', 'layer1', ...
      block: any of them, unbound; called with x, mask, train and keys.
      x, mask, train: as for a block.
      layers: how many there are.
      dropouts: dropout layers of a block.
      remat: whether to recompute activations in the backward pass.
    """
    names = [f"layer{layer}" for layer in range(layers)]
    params = [module.variables["params"][name] for name in names]
    keys = [_dropout_keys(module, name, dropouts) if train else () for name in names]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)

    def step(x: Any, layer: Any) -> tuple[Any, None]:
        params, keys = layer
        out: Any = block.apply({"params": params}, x, mask, train, keys)
        return out, None

    step = jax.checkpoint(step) if remat else step
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *keys)
    return jax.lax.scan(step, x, (stacked, together))[0]


def _dropout_keys(module: nn.Module, name: str, count: int) -> tuple[jax.Array, ...]:
    """The keys that the dropout layers of a block get from Flax."""
    assert module.scope is not None
    scope = module.scope.push(name, reuse=True)
    places = [scope.push(f"Dropout_{i}", reuse=True) for i in range(count)]
    return tuple(place.make_rng("dropout") for place in places)
