"""Tasks that fine-tune a RoBERTa to classify texts.

`finetune:PATH?text=COLUMN&target=COLUMN&checkpoint=FOLDER` is a file of a user's own;
without a checkpoint it is the small one that comes with lrjax. `finetune/roberta_tiny`
tells apart what modules of Python's library are for, by their docstrings;
`finetune/roberta_base` takes file and checkpoint from the data directory.

Every seed begins at the checkpoint's weights, with a classification head of its own.
Rows are split 60/20/20 by class, the same way for every run and protocol.
"""

from __future__ import annotations

import functools
import urllib.parse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.common import files, naming
from lrjax.core import ACCURACY, NONNEGATIVE_LOSS, Batch, PyTree, Task, cut, unknown
from lrjax.tasks import checkpoints, data, docstrings, labelled_text, libsvm, text
from lrjax.tasks.checkpoints import Checkpoint
from lrjax.tasks.data import DataError
from lrjax.tasks.options import Factory, TaskOptions
from lrjax.tasks.tokens import PAD

PREFIX = "finetune:"
BATCH_SIZE = 16
_LENGTH = 128  # most tokens of a row, unless `config.text.length` says otherwise
_TINY_LENGTH = 48  # the same of finetune/roberta_tiny
_MAX_NORM = 1.0
_SETTINGS = ("text", "target", "checkpoint")
_FOLDER = "finetune"  # in the data directory
_BASE = "roberta-base"


class Query(NamedTuple):
    """A task's name, taken apart.

    Attributes:
      path: the file.
      text, target: its columns; '' if they are not named.
      checkpoint: folder of the checkpoint; '' for the embedded one.
    """

    path: str
    text: str = ""
    target: str = ""
    checkpoint: str = ""


def parse(name: str) -> Query:
    """Read the name of a task.

    Raises:
      DataError: for unknown settings, and those given twice.

    Example:
      >>> parse("finetune:mails.csv?text=body&target=folder").target
      'folder'
    """
    path, settings = naming.settings_of(name.removeprefix(PREFIX), _SETTINGS)
    found: dict[str, str] = {}
    for setting in filter(None, settings.split("&")):
        key, _, value = setting.partition("=")
        if key not in _SETTINGS:
            raise DataError(str(unknown("setting of fine-tuning", key, _SETTINGS)))
        if key in found:
            raise DataError(f"{cut(name)}: {key} is given twice")
        found[key] = urllib.parse.unquote(value)
    return Query(path, **found)


def make_file(name: str, options: TaskOptions) -> Task:
    """Make `finetune:PATH?...`.

    Raises:
      DataError: if file or checkpoint is missing, damaged or does not fit.
    """
    query = parse(name)
    path = str(files.expanded(query.path))
    texts, labels = labelled_text.read(path, query.text, query.target)
    folder = checkpoints.EMBEDDED
    if query.checkpoint:
        folder = files.expanded(query.checkpoint)
    return _task(name, texts, labels, checkpoints.read(folder), _LENGTH, options)


def make_tiny(options: TaskOptions) -> Task:
    """Make `finetune/roberta_tiny`."""
    texts, topics = docstrings.labelled()
    labels = np.unique(topics, return_inverse=True)[1]
    checkpoint = checkpoints.read(checkpoints.EMBEDDED)
    name = "finetune/roberta_tiny"
    return _task(name, texts, labels, checkpoint, _TINY_LENGTH, options)


def make_base(options: TaskOptions) -> Task:
    """Make `finetune/roberta_base`.

    Raises:
      DataError: if the data directory lacks the file or the checkpoint.
    """
    name = "finetune/roberta_base"
    root = data.root(options.data_dir)
    if root is None:
        raise DataError(
            f"{name}: give --data_dir, a directory with {_FOLDER}/train.csv (columns "
            f"text and label) and a checkpoint in {_BASE}/"
        )
    named = [root / _FOLDER / f"train{ending}" for ending in labelled_text.ENDINGS]
    found = [path for path in named if files.is_there(path)]
    if len(found) != 1:
        fault = "there are" if found else "there is none of"
        paths = ", ".join(map(str, found or named))
        raise DataError(f"{name}: {fault} {paths}; one is needed, with text and label")
    texts, labels = labelled_text.read(str(found[0]), "text", "label")
    folders = [root / _FOLDER / _BASE, root / _BASE]
    folder = next((each for each in folders if each.is_dir()), None)
    if folder is None:
        places = " nor ".join(map(str, folders))
        raise DataError(f"{name}: there is no checkpoint: neither {places} is a folder")
    return _task(name, texts, labels, checkpoints.read(folder), _LENGTH, options)


def make_model(
    checkpoint: Checkpoint, length: int, num_classes: int, options: TaskOptions
) -> Any:
    """Make the `models.Roberta` of a checkpoint, for rows of `length` tokens.

    Dropout is the checkpoint's, that of attention weights is left out, as in
    pre-training under `sound`.
    """
    from lrjax.tasks import models
    from lrjax.tasks.models import attention

    config = checkpoint.config
    heads = config.num_attention_heads
    dtype = jnp.bfloat16 if options.precision == "bfloat16" else None
    return models.Roberta(
        config.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
        heads,
        config.intermediate_size,
        config.max_position_embeddings,
        dropout=config.hidden_dropout_prob,
        fused=attention.can_fuse(length, heads, config.hidden_size // heads, dtype),
        layer_norm_eps=config.layer_norm_eps,
        dtype=dtype,
        param_dtype="float64" if options.precision == "float64" else "float32",
        remat=options.remat,
        scan_layers=options.scan_layers,
        num_classes=num_classes,
    )


def _task(
    name: str,
    texts: list[str],
    labels: np.ndarray,
    checkpoint: Checkpoint,
    length: int,
    options: TaskOptions,
) -> Task:
    """Tokenise and split texts, load the weights, and make the task.

    Args:
      name: the task's name.
      texts: one per row.
      labels: class numbers [rows], from 0 without gaps.
      checkpoint: the model to fine-tune.
      length: most tokens of a row, unless the options have another.
      options: those of the task.
    """
    from lrjax.tasks.models import roberta

    room = checkpoint.config.max_position_embeddings - roberta.SPECIAL_POSITIONS
    length = min(length, room) if options.text.length is None else options.text.length
    if not 3 <= length <= room:
        raise DataError(
            f"config.text.length={length}: {name} has positions for rows of 3 to "
            f"{room} tokens"
        )
    tokens = checkpoints.encode(checkpoint, texts, length)
    labels = labels.astype(np.int32)
    split = libsvm.split(labels)
    if not len(split.valid):
        raise DataError(f"{name}: no class has the 3 rows that a split needs")
    parts = {
        part: {"tokens": tokens[rows], "labels": labels[rows]}
        for part, rows in split._asdict().items()
    }
    num_classes = int(labels.max()) + 1
    model = make_model(checkpoint, tokens.shape[1], num_classes, options)
    weights = roberta.load_weights(checkpoint.weights, model)
    return classification_task(
        name, parts, model, weights, options, checkpoint.fingerprint
    )


def classification_task(
    name: str,
    parts: dict[str, dict[str, np.ndarray]],
    model: Any,
    weights: PyTree,
    options: TaskOptions,
    fingerprint: str,
) -> Task:
    """Make a task that fine-tunes a model.

    Args:
      name: the task's name.
      parts: 'train', 'valid' and 'test', each with `tokens`, uint16 [rows, length], and
        `labels`, int32 [rows].
      model: a `models.Roberta` with classes.
      weights: its parameters without those of the head.
      options: `batch_size` and `stream` are used.
      fingerprint: of the weights; part of the identity of runs.
    """
    streamed = data.stays_on_host(parts["train"].values(), options.stream)

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        ids = jnp.full((1, 3), PAD, jnp.int32)
        params = model.init(key, ids, ids, train=False)["params"]
        return {**params, **weights}, ()

    def logits(params: PyTree, batch: Batch, **options: Any) -> jax.Array:
        tokens = batch["tokens"].astype(jnp.int32)
        return model.apply({"params": params}, tokens, tokens != PAD, **options)

    def loss(params: PyTree, state: PyTree, key: jax.Array, batch: Batch):
        outputs = logits(params, batch, train=True, rngs={"dropout": key})
        values = text.cross_entropy(outputs, batch["labels"])
        mask = batch["mask"].astype(values.dtype)
        return values @ mask / jnp.maximum(jnp.sum(mask), 1), (state, {})

    def evaluate(params: PyTree, state: PyTree, batch: Batch):
        del state
        outputs, mask = logits(params, batch, train=False), batch["mask"]
        chosen = jnp.argmax(outputs, axis=-1).astype(batch["labels"].dtype)
        values = text.cross_entropy(outputs, batch["labels"])
        return {
            "loss": values @ mask.astype(values.dtype),
            "accuracy": jnp.sum(mask, where=chosen == batch["labels"]),
            "count": jnp.sum(mask),
        }

    return Task(
        name=name,
        train=parts["train"] if streamed else jax.device_put(parts["train"]),
        valid=jax.device_put(parts["valid"]),
        test=jax.device_put(parts["test"]),
        init=init,
        loss=loss,
        evaluate=evaluate,
        batch_size=options.batch_size or BATCH_SIZE,
        num_classes=model.num_classes,
        metrics=(ACCURACY, NONNEGATIVE_LOSS),
        max_norm=_MAX_NORM,
        streamed=streamed,
        exchangeable=True,
        options=(("checkpoint", fingerprint),),
    )


_SUPPORTS = frozenset({"remat", "scan_layers", "stream"})


def factory(name: str) -> Factory:
    """The factory of `finetune:PATH?...`."""
    return Factory(functools.partial(make_file, name), _SUPPORTS, network=True)


FACTORIES = {
    "finetune/roberta_tiny": Factory(make_tiny, _SUPPORTS, network=True),
    "finetune/roberta_base": Factory(make_base, _SUPPORTS, network=True),
}
