"""Tasks that pre-train RoBERTa as a masked language model.

Rows of tokens lie on the device as uint16; which tokens are masked is drawn inside the
compiled step, anew for every batch. Two protocols. `sound` packs documents into rows
and keeps attention inside of each; `study` pads each to a row of its own, as the study
did. docs/text.md and docs/protocol.md have all of it.
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
from lrjax.tasks.options import Factory, TaskOptions
from lrjax.tasks.tokens import (
    PAD,
    START,
    UNKNOWN,
    load_tokens,
)

MASKED = 0.15  # of the tokens
_TOKEN, _OTHER = 0.8, 0.1  # of those: become the mask token, become any token
_MAX_NORM = 1.0
# Added to variances. That of the published roberta-base, so that a model of `sound` is
# the one whose weights one may load; the study builds its own from `RobertaConfig()`.
_EPS, _STUDY_EPS = 1e-5, 1e-12
_EVALUATION_SEED = 0  # of what is masked when a model is judged


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a task is made.

    Attributes:
      hidden_size, num_layers, num_heads, intermediate_size: as in `models.Roberta`.
      vocab_size: tokens that the model has room for.
      length: tokens of a row.
      batch_size: rows of a batch.
      dropout: of the model; under `study` of its attention, too.
      pre_norm: as in `models.Roberta`.
      own_tokenizer: whether one is trained on the corpus unless another is named.
      embedded: whether the text that comes with Python will do where there is no other.
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
    """Makes a task of `RECIPES`; see `make_task`."""
    recipe, text = RECIPES[name], options.text
    study = options.protocol == "study"
    length = recipe.length if text.length is None else text.length
    if not 3 <= length <= recipe.length:
        raise DataError(
            f"config.text.length={length}: {name} has positions for rows of 3 to "
            f"{recipe.length} tokens"
        )
    found = load_tokens(
        text, options.data_dir, recipe.vocab_size, recipe.own_tokenizer, recipe.embedded
    )
    rows = {}
    for part, documents in packing.split(len(found.ends), study).items():
        cut = packing.pieces(found.ends, documents, length - 2, whole=not study)
        rows[part] = packing.make_rows(found.tokens, cut, length, packed=not study)
        if not len(rows[part]):
            raise DataError(
                f"{name}: the {part} part gets none of "
                f"{counted(len(found.ends), 'document')}"
            )
    vocabulary = found.vocabulary
    return recipe_task(name, rows, vocabulary.size, vocabulary.mask, options)


def recipe_task(
    name: str,
    rows: Mapping[str, np.ndarray],
    vocab_size: int,
    mask_token: int,
    options: TaskOptions,
) -> Task:
    """Makes a task of `RECIPES` from rows of tokens; see `text_task`."""
    model = make_model(name, options)
    batch_size = options.batch_size or RECIPES[name].batch_size
    options = dataclasses.replace(options, batch_size=batch_size)
    return text_task(name, rows, model, vocab_size, mask_token, options)


def make_model(name: str, options: TaskOptions) -> Any:
    """The `models.Roberta` of a task of `RECIPES`."""
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
    )


def text_task(
    name: str,
    rows: Mapping[str, np.ndarray],
    model: Any,
    vocab_size: int,
    mask_token: int,
    options: TaskOptions,
) -> Task:
    """Makes a task from rows of tokens.

    Args:
      name: the task's name.
      rows: 'train', 'valid' and perhaps 'test', uint16 [rows, length]; documents
        start with START and end with END, rows end with PAD. Without a part to test,
        validation's serves.
      model: a `models.Roberta`, or what is called like one.
      vocab_size: tokens that one may be replaced by.
      mask_token: what masked tokens are replaced by.
      options: of these `protocol` (under 'study' a row holds one document, else
        several), `batch_size` and `stream` count.

    Raises:
      ValueError: if there is no batch size.
    """
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
        """Each masked token's loss and whether it counts, [rows, slots]."""
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
        each, counted = losses(
            params, keys, batch, train=True, rngs={"dropout": dropout}
        )
        count = jnp.sum(counted)
        return jnp.sum(each) / jnp.maximum(count, 1), (state, {"count": count})

    def evaluate(params: PyTree, state: PyTree, batch: Batch):
        del state
        key = numerics.key(_EVALUATION_SEED)
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(batch["number"])
        each, counted = losses(params, keys, batch, train=False)
        return {"loss": jnp.sum(each), "count": jnp.sum(counted)}

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
    """Rows and their numbers, from which follows what is masked."""
    return {"tokens": rows, "number": np.arange(len(rows), dtype=np.uint32)}


def slots(length: int) -> int:
    """The most tokens of a row that can be masked."""
    return math.ceil(MASKED * length)


def corrupted(
    key: jax.Array, tokens: jax.Array, vocab_size: int, mask_token: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Masks 15 % of a row's tokens that are not special.

    Of these 80 % become the mask token, 10 % any token, and 10 % stay. How many there
    are is rounded at random, so that it is 15 % on average, too, in short rows.

    Args:
      key: of this row and step.
      tokens: int [length].
      vocab_size, mask_token: as in `text_task`.

    Returns:
      The row as the model sees it [length]; and for each slot [slots(length)] a
      position, the token that stood there, and whether the slot is in use.
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
    """Negative log-likelihood: [..., tokens], [...] -> [...]."""
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - own


_SUPPORTS = frozenset({"remat", "stream"})
FACTORIES = {
    name: Factory(functools.partial(make, name), _SUPPORTS, network=True)
    for name in RECIPES
}
