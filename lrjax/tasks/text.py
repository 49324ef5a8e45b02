"""Tasks that pre-train RoBERTa as a masked language model.

Rows of tokens are on the device as uint16. The compiled step draws the masked tokens,
anew for every batch. There are two protocols: `sound` packs several documents into a
row and keeps attention within each document; `study` gives every document a padded row
of its own, as the study did. Details: docs/text.md and docs/protocol.md.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import machine
from lrjax.common import numerics
from lrjax.core import (
    NONNEGATIVE_LOSS,
    PERPLEXITY,
    Batch,
    PyTree,
    Task,
    counted,
)
from lrjax.tasks import data, packing
from lrjax.tasks.data import DataError
from lrjax.tasks.options import Factory, TaskOptions, Text
from lrjax.tasks.tokens import (
    PAD,
    START,
    UNKNOWN,
    Tokens,
    load_tokens,
)

MASKED = 0.15  # share of the tokens
# Shares of the masked tokens that become the mask token, and that become any token.
_TOKEN, _OTHER = 0.8, 0.1
_MAX_NORM = 1.0
# LayerNorm's epsilon. `sound` has that of the published roberta-base, so that its
# weights can be loaded; the study builds its model from `RobertaConfig()`.
_EPS, _STUDY_EPS = 1e-5, 1e-12
_EVALUATION_SEED = 0  # decides which tokens are masked in evaluations


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Model and data sizes of a task.

    Attributes:
      hidden_size, num_layers, num_heads, intermediate_size: as in `models.Roberta`.
      vocab_size: rows of the model's token embedding; a tokenizer may have fewer.
      length: tokens per row.
      batch_size: rows per batch.
      dropout: dropout rate; under `study` also that of the attention weights.
      pre_norm: as in `models.Roberta`.
      own_tokenizer: whether to train a tokenizer on the corpus if none is named.
      embedded: whether to use Python's bundled documentation if there is no other text.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    vocab_size: int = 50265
    length: int = 512
    batch_size: int = 256
    dropout: float = 0.1
    pre_norm: bool = False
    own_tokenizer: bool = False
    embedded: bool = False


_BASE = Recipe(768, 12, 12, 3072)
_SMALL = Recipe(512, 6, 8, 2048)
_TINY = Recipe(
    128,
    4,
    2,
    512,
    vocab_size=4096,
    length=128,
    batch_size=16,
    dropout=0.0,
    own_tokenizer=True,
    embedded=True,
)

RECIPES = {
    f"bookwiki/roberta_{size}{'_pre_ln' * pre_norm}": dataclasses.replace(
        recipe, pre_norm=pre_norm
    )
    for size, recipe in (("base", _BASE), ("small", _SMALL), ("tiny", _TINY))
    for pre_norm in (False, True)
}


def make(name: str, options: TaskOptions) -> Task:
    """Make a task of `RECIPES`; see `tasks.make_task`."""
    recipe, text = RECIPES[name], options.text
    study = options.protocol == "study"
    length = row_length(name, text, recipe.length)
    corpus = load_tokens(
        text, options.data_dir, recipe.vocab_size, recipe.own_tokenizer, recipe.embedded
    )
    rows = rows_of(name, corpus, length, study)
    vocabulary = corpus.vocabulary
    return recipe_task(name, rows, vocabulary.size, vocabulary.mask, options)


def row_length(name: str, text: Text, most: int) -> int:
    """Tokens per row: the options', or as many as the task `name` allows, `most`.

    Raises:
      DataError: if the options ask for fewer than 3, or for more.
    """
    length = most if text.length is None else text.length
    if not 3 <= length <= most:
        raise DataError(
            f"config.text.length={length}: {name} has positions for rows of 3 to "
            f"{most} tokens"
        )
    return length


def rows_of(
    name: str, corpus: Tokens, length: int, study: bool = False
) -> dict[str, np.ndarray]:
    """Split a corpus, and make rows of the documents of each part.

    Args:
      name: the task's name, for errors.
      corpus: the tokens.
      length: tokens per row.
      study: split as the study does, with a row for each document, cut at the end;
        otherwise documents are packed, long ones in pieces.

    Returns:
      name of the part -> uint16 [rows, length].

    Raises:
      DataError: if a part gets no document.
    """
    rows = {}
    for part, documents in packing.split(len(corpus.ends), study).items():
        cut = packing.pieces(corpus.ends, documents, length - 2, whole=not study)
        rows[part] = packing.make_rows(corpus.tokens, cut, length, packed=not study)
        if not len(rows[part]):
            raise DataError(
                f"{name}: the {part} part gets none of "
                f"{counted(len(corpus.ends), 'document')}"
            )
    return rows


def recipe_task(
    name: str,
    rows: Mapping[str, np.ndarray],
    vocab_size: int,
    mask_token: int,
    options: TaskOptions,
) -> Task:
    """Make a task of `RECIPES` from rows of tokens; see `text_task`.

    Args:
      name: name of the recipe.
      rows: name of the part -> tokens [rows, length].
      vocab_size: number of tokens in the vocabulary.
      mask_token: the token that stands for a masked one.
      options: those of the task.
    """
    model = make_model(name, options)
    batch_size = options.batch_size or RECIPES[name].batch_size
    options = dataclasses.replace(options, batch_size=batch_size)
    return text_task(name, rows, model, vocab_size, mask_token, options)


def make_model(name: str, options: TaskOptions) -> Any:
    """Make the `models.Roberta` of a task of `RECIPES`."""
    from lrjax.tasks import models
    from lrjax.tasks.models import attention, roberta

    recipe, study = RECIPES[name], options.protocol == "study"
    dtype = jnp.bfloat16 if options.precision == "bfloat16" else None
    head_size = recipe.hidden_size // recipe.num_heads
    return models.Roberta(
        recipe.vocab_size,
        recipe.hidden_size,
        recipe.num_layers,
        recipe.num_heads,
        recipe.intermediate_size,
        recipe.length + roberta.SPECIAL_POSITIONS,
        dropout=recipe.dropout,
        attention_dropout=recipe.dropout if study else 0.0,
        fused=attention.can_fuse(recipe.length, recipe.num_heads, head_size, dtype),
        pre_norm=recipe.pre_norm,
        layer_norm_eps=_STUDY_EPS if study else _EPS,
        dtype=dtype,
        param_dtype="float64" if options.precision == "float64" else "float32",
        remat=options.remat,
        scan_layers=options.scan_layers,
    )


def text_task(
    name: str,
    rows: Mapping[str, np.ndarray],
    model: Any,
    vocab_size: int,
    mask_token: int,
    options: TaskOptions,
) -> Task:
    """Make a task from rows of tokens.

    Args:
      name: the task's name.
      rows: 'train', 'valid' and optionally 'test', uint16 [rows, length]; documents
        start with START and end with END, rows are filled up with PAD. Without 'test'
        the validation part is used for testing too.
      model: a `models.Roberta`, or a module with the same call.
      vocab_size: random replacements are drawn from tokens 0 to vocab_size - 1.
      mask_token: number of the mask token.
      options: `protocol` (under 'study' a row holds one document, otherwise several),
        `batch_size` and `stream` are used.

    Raises:
      ValueError: if the options have no batch size.
    """
    # Above 60 lines: init, loss and evaluate share the model and the options.
    if options.batch_size is None:
        raise ValueError("the options have no batch size")
    packed = options.protocol != "study"
    parts = {key: _part(value) for key, value in rows.items()}
    streamed = data.stays_on_host(parts["train"].values(), options.stream)
    corrupt = functools.partial(corrupted, vocab_size=vocab_size, mask_token=mask_token)

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        ids = jnp.full((1, 3), START, jnp.int32)
        return model.init(key, ids, ids, train=False)["params"], ()

    def losses(params: PyTree, keys: jax.Array, batch: Batch, **options: Any):
        """Loss of each masked token, and 1 where it counts: two [rows, slots]."""
        tokens = batch["tokens"].astype(jnp.int32)
        shown, at, labels, live = jax.vmap(corrupt)(keys, tokens)
        segments = jnp.cumsum(tokens == START, axis=1) if packed else None
        logits = model.apply(
            {"params": params},
            shown,
            tokens != PAD,
            segments=segments,
            at=at,
            **options,
        )
        counted = live.astype(batch["mask"].dtype) * batch["mask"][:, None]
        return cross_entropy(logits, labels) * counted, counted

    def loss(params: PyTree, state: PyTree, key: jax.Array, batch: Batch):
        corruption, dropout = jax.random.split(key)
        keys = jax.random.split(corruption, len(batch["tokens"]))
        values, counted = losses(
            params, keys, batch, train=True, rngs={"dropout": dropout}
        )
        count = jnp.sum(counted)
        return jnp.sum(values) / jnp.maximum(count, 1), (state, {"count": count})

    def evaluate(params: PyTree, state: PyTree, batch: Batch):
        del state
        key = numerics.key(_EVALUATION_SEED)
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(batch["number"])
        values, counted = losses(params, keys, batch, train=False)
        return {"loss": jnp.sum(values), "count": jnp.sum(counted)}

    return Task(
        name=name,
        train=parts["train"] if streamed else jax.device_put(parts["train"]),
        valid=(valid := jax.device_put(parts["valid"])),
        test=jax.device_put(parts["test"]) if "test" in parts else valid,
        init=init,
        loss=loss,
        evaluate=evaluate,
        batch_size=options.batch_size,
        metrics=(PERPLEXITY, NONNEGATIVE_LOSS),
        max_norm=_MAX_NORM,
        measured_rows=len(rows["valid"]),
        streamed=streamed,
    )


def _part(rows: np.ndarray) -> dict[str, np.ndarray]:
    """A part's arrays: rows, and row numbers, which seed the masks of evaluations."""
    return {"tokens": rows, "number": np.arange(len(rows), dtype=np.uint32)}


def slots(length: int) -> int:
    """Places for the masked tokens of a row: as many as there can be.

    On GPUs and TPUs a multiple of 8, since they lay out arrays in such tiles. No token
    is in the additional ones, and the others are the same.

    Args:
      length: tokens of the row.
    """
    most = math.ceil(MASKED * length)
    return most if machine.kind() == "cpu" else min(-(-most // 8) * 8, length)


def corrupted(
    key: jax.Array, tokens: jax.Array, vocab_size: int, mask_token: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Mask 15 % of a row's tokens, special tokens excluded.

    80 % of these become the mask token, 10 % a random token, and 10 % stay. Their
    number is rounded up or down at random, so that it is 15 % on average in short rows
    too.

    Args:
      key: random key of this row and step.
      tokens: int [length].
      vocab_size, mask_token: as in `text_task`.

    Returns:
      The model's input [length], and for each slot [slots(length)] its position, the
      original token there, and whether the slot is used.
    """
    count, which, kinds, others = jax.random.split(key, 4)
    eligible = (tokens > UNKNOWN) & (tokens != mask_token)
    room, number = slots(len(tokens)), eligible.sum().astype(float)
    wanted = jnp.floor(MASKED * number + jax.random.uniform(count))
    lots = jnp.where(eligible, jax.random.uniform(which, tokens.shape), -1.0)
    at = jax.lax.top_k(lots, room)[1]
    live = jnp.arange(room).astype(float) < jnp.minimum(wanted, number)
    labels = tokens[at]
    kind = jax.random.uniform(kinds, (room,))
    other = jax.random.randint(others, (room,), 0, vocab_size).astype(labels.dtype)
    new = jnp.where(
        kind < _TOKEN, mask_token, jnp.where(kind < _TOKEN + _OTHER, other, labels)
    )
    shown = tokens.at[at].set(jnp.where(live, new, labels))
    return shown, at, labels, live


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Negative log-likelihood: logits [..., tokens], labels [...] -> [...]."""
    if machine.kind() == "cpu":
        own = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - own
    # A comparison instead of a gather, whose derivative scatters into as many zeros.
    tokens = jnp.arange(logits.shape[-1], dtype=labels.dtype)
    own = jnp.where(labels[..., None] == tokens, logits, 0).sum(axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - own


_SUPPORTS = frozenset({"remat", "scan_layers", "stream"})
FACTORIES = {
    name: Factory(functools.partial(make, name), _SUPPORTS, network=True)
    for name in RECIPES
}
