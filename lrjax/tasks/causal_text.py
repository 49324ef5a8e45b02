"""Tasks that train a GPT to predict the next token.

Corpora, tokenizers and packed rows are those of masked language models (docs/text.md);
both protocols pack documents as `sound` does there. The tiny models read bytes: their
tokenizer has a token for each, and five special ones.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.core import NONNEGATIVE_LOSS, PERPLEXITY, Batch, PyTree, Task
from lrjax.tasks import data, text
from lrjax.tasks.options import Factory, TaskOptions
from lrjax.tasks.tokens import PAD, START, load_tokens

_BYTES = 256 + 5  # tokens of a tokenizer that merges nothing
_MAX_NORM = 1.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Model and data sizes of a task.

    Attributes:
      hidden_size, num_layers, num_heads: as in `models.GPT`; the MLP of a block is four
        times as wide.
      vocab_size: rows of the model's token embedding; a tokenizer may have fewer.
      length: tokens per row.
      batch_size: rows per batch.
      dropout: dropout rate.
      own_tokenizer: whether to train a tokenizer on the corpus if none is named.
      embedded: whether to use Python's bundled documentation if there is no other text.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    vocab_size: int = 50265
    length: int = 1024
    batch_size: int = 64
    dropout: float = 0.1
    own_tokenizer: bool = False
    embedded: bool = False


_TINY = Recipe(
    96,
    3,
    2,
    vocab_size=_BYTES,
    length=64,
    batch_size=16,
    dropout=0.0,
    own_tokenizer=True,
    embedded=True,
)

RECIPES = {
    "text/gpt_micro": dataclasses.replace(_TINY, hidden_size=48, num_layers=2),
    "text/gpt_tiny": _TINY,
    "text/gpt_small": Recipe(768, 12, 12),
}


def make(name: str, options: TaskOptions) -> Task:
    """Make a task of `RECIPES`; see `tasks.make_task`."""
    recipe = RECIPES[name]
    length = text.row_length(name, options.text, recipe.length)
    corpus = load_tokens(
        options.text,
        options.data_dir,
        recipe.vocab_size,
        recipe.own_tokenizer,
        recipe.embedded,
    )
    rows = text.rows_of(name, corpus, length)
    return causal_task(name, rows, make_model(name, length, options), options)


def make_model(name: str, length: int, options: TaskOptions) -> Any:
    """Make the `models.GPT` of a task of `RECIPES`, for rows of `length` tokens."""
    from lrjax.tasks import models
    from lrjax.tasks.models import attention

    recipe = RECIPES[name]
    dtype = jnp.bfloat16 if options.precision == "bfloat16" else None
    head_size = recipe.hidden_size // recipe.num_heads
    return models.GPT(
        recipe.vocab_size,
        recipe.hidden_size,
        recipe.num_layers,
        recipe.num_heads,
        4 * recipe.hidden_size,
        dropout=recipe.dropout,
        fused=attention.can_fuse(length, recipe.num_heads, head_size, dtype),
        dtype=dtype,
        param_dtype="float64" if options.precision == "float64" else "float32",
        remat=options.remat,
        scan_layers=options.scan_layers,
    )


def causal_task(
    name: str, rows: Mapping[str, np.ndarray], model: Any, options: TaskOptions
) -> Task:
    """Make a task from rows of tokens.

    Args:
      name: of a recipe, which has the batch size unless the options have one.
      rows: 'train', 'valid' and 'test', uint16 [rows, length]; documents start with
        START and end with END, rows are filled up with PAD.
      model: a `models.GPT`, or a module with the same call.
      options: `batch_size` and `stream` are used.
    """
    parts = {part: {"tokens": tokens} for part, tokens in rows.items()}
    streamed = data.stays_on_host(parts["train"].values(), options.stream)

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        ids = jnp.full((1, 2), START, jnp.int32)
        return model.init(key, ids, train=False)["params"], ()

    def losses(params: PyTree, batch: Batch, **options: Any):
        """Loss of the token after each one, and 1 where it counts: two [rows, all]."""
        tokens = batch["tokens"].astype(jnp.int32)
        segments = jnp.cumsum(tokens == START, axis=1)
        logits = model.apply({"params": params}, tokens, segments=segments, **options)
        # Nothing comes after the last one; a START there does not count either.
        following = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)), constant_values=START)
        counted = (following != START) & (following != PAD)
        counted = counted.astype(batch["mask"].dtype) * batch["mask"][:, None]
        return text.cross_entropy(logits, following) * counted, counted

    def loss(params: PyTree, state: PyTree, key: jax.Array, batch: Batch):
        values, counted = losses(params, batch, train=True, rngs={"dropout": key})
        count = jnp.sum(counted)
        return jnp.sum(values) / jnp.maximum(count, 1), (state, {"count": count})

    def evaluate(params: PyTree, state: PyTree, batch: Batch):
        del state
        values, counted = losses(params, batch, train=False)
        return {"loss": jnp.sum(values), "count": jnp.sum(counted)}

    return Task(
        name=name,
        train=parts["train"] if streamed else jax.device_put(parts["train"]),
        valid=jax.device_put(parts["valid"]),
        test=jax.device_put(parts["test"]),
        init=init,
        loss=loss,
        evaluate=evaluate,
        batch_size=options.batch_size or RECIPES[name].batch_size,
        metrics=(PERPLEXITY, NONNEGATIVE_LOSS),
        max_norm=_MAX_NORM,
        measured_rows=len(rows["valid"]),
        streamed=streamed,
    )


_SUPPORTS = frozenset({"remat", "scan_layers", "stream"})
FACTORIES = {
    name: Factory(functools.partial(make, name), _SUPPORTS, network=True)
    for name in RECIPES
}
