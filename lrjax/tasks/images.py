"""Tasks that classify images with convolutional networks and transformers.

Images stay on the device as uint8; they are scaled inside the compiled step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.core import Batch, PyTree, Task
from lrjax.tasks import libsvm


def make_digits(
    protocol: str,
    data_dir: str | None = None,
    batch_size: int | None = None,
    precision: str = "float32",
) -> Task:
    """Makes `digits/wrn`: scikit-learn's 1,797 images of 8 x 8 pixels, WRN-10-1."""
    from sklearn.datasets import load_digits

    from lrjax.tasks.models.wide_resnet import WideResNet

    del data_dir, protocol  # bundled, and in no table of the study's
    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = np.asarray(labels).astype(np.int32)
    rows = libsvm.split(labels)
    return image_task(
        "digits/wrn",
        {part: (images[at], labels[at]) for part, at in rows._asdict().items()},
        WideResNet(depth=10, width=1, num_classes=10, **types(precision)),
        scale=([16 / 2], [16 / 2]),
        batch_size=batch_size or 64,
        precision=precision,
    )


def types(precision: str) -> dict[str, Any]:
    """`dtype` and `param_dtype` of a model."""
    if precision == "bfloat16":
        return {"dtype": jnp.bfloat16, "param_dtype": jnp.float32}
    return {"dtype": None, "param_dtype": jnp.dtype(precision)}


def image_task(
    name: str,
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    model: Any,
    scale: tuple[Any, Any],
    batch_size: int,
    precision: str = "float32",
    family: str = "conv",
) -> Task:
    """Makes a task from images and a linen module.

    Args:
      name: the task's name.
      parts: 'train', 'valid' and 'test': images uint8 [rows, height, width, channels]
        and labels [rows], class numbers from 0.
      model: called as `(images, train=..., mask=...)`, with collections 'params' and
        'batch_stats' and stream 'dropout'.
      scale: mean and deviation of each channel, in units of pixel values.
      batch_size: rows of a batch.
      precision: 'float32', 'float64' or 'bfloat16'.
      family: the kind of model.
    """
    placed = {
        part: {"images": jnp.asarray(images), "labels": jnp.asarray(labels, jnp.int32)}
        for part, (images, labels) in parts.items()
    }
    dtype = types(precision)["param_dtype"]
    mean, deviation = (np.asarray(each, dtype) for each in scale)
    shape = parts["train"][0].shape[1:]

    def scaled(images: jax.Array) -> jax.Array:
        return (images.astype(dtype) - mean) / deviation

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        variables = model.init(key, jnp.zeros((1, *shape), dtype), train=False)
        return variables["params"], variables.get("batch_stats", {})

    def loss(params: PyTree, state: PyTree, key: jax.Array, batch: Batch):
        logits, new = model.apply(
            {"params": params, "batch_stats": state},
            scaled(batch["images"]),
            train=True,
            mask=batch["mask"],
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        mask = batch["mask"]
        losses = cross_entropy(logits.astype(dtype), batch["labels"])
        mean_loss = jnp.sum(losses * mask) / jnp.maximum(mask.sum(), 1)
        return mean_loss, (new.get("batch_stats", state), {})

    def evaluate(params: PyTree, state: PyTree, batch: Batch):
        logits = model.apply(
            {"params": params, "batch_stats": state},
            scaled(batch["images"]),
            train=False,
        ).astype(dtype)
        return sums(logits, batch["labels"], batch["mask"])

    return Task(
        name=name,
        train=placed["train"],
        valid=placed["valid"],
        test=placed["test"],
        init=init,
        loss=loss,
        evaluate=evaluate,
        batch_size=batch_size,
        num_classes=model.num_classes,
        family=family,
    )


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Negative log-likelihood of each row: [rows, classes], [rows] -> [rows]."""
    # Chosen by comparing, because JAX's derivative of a gather scatters into zeros.
    own = labels[:, None] == jnp.arange(logits.shape[-1])
    return -jnp.sum(jnp.where(own, jax.nn.log_softmax(logits), 0), axis=-1)


def sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Mapping[str, Any]:
    """Sums over the rows with mask 1: 'loss', 'accuracy' (right rows) and 'count'.

    Of equal logits the first counts; a row whose logits have no softmax is wrong.
    """
    losses = cross_entropy(logits, labels)
    right = (jnp.argmax(logits, axis=-1) == labels) & jnp.isfinite(losses)
    return {
        "loss": jnp.sum(losses * mask),
        "accuracy": jnp.sum(right * mask),
        "count": mask.sum(),
    }
