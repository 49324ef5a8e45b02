"""Multinomial logistic regression: the model of the LIBSVM and digits tasks.

Parameters are those of `torch.nn.Linear`, `{'weight': [classes, features], 'bias':
[classes]}`; Flax's `Dense` has the kernel `weight.T`. A batch holds `features` [rows,
features], `labels` [rows] (int32) and `mask` [rows], which is 1 for real rows and 0 for
padding; padding rows are ignored but must be finite.

Classes are the first axis everywhere: operations after the matrix product then run
along many rows instead of few classes, and gradients have the layout of the optimiser's
state. With [features, classes] a population took 1.4 to 1.5 times as long on a CPU.

`squash` passes the linear layer's output through a sigmoid before the softmax, as the
study does. `compute` is the data type of the matrix product, by default that of the
parameters; everything after it is computed in the parameters' own type.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lrjax.tasks.models.products import product

# Up to this many classes a pass over all scores is cheaper on a CPU than a gather.
_FEW_CLASSES = 16

Params = Mapping[str, jax.Array]
Batch = Mapping[str, jax.Array]


def init(
    key: jax.Array,
    num_features: int,
    num_classes: int,
    dtype: DTypeLike = jnp.float32,
) -> tuple[dict[str, jax.Array], tuple[()]]:
    """Draw weight and bias uniformly from +-1/sqrt(num_features).

    This is the distribution of `torch.nn.Linear`.

    Args:
      key: random key.
      num_features, num_classes: sizes of the weight [classes, features].
      dtype: dtype of the parameters.

    Returns:
      parameters and the empty state.
    """
    bound = num_features**-0.5
    weight_key, bias_key = jax.random.split(key)
    shape = (num_classes, num_features)
    params = {
        "weight": jax.random.uniform(weight_key, shape, dtype, -bound, bound),
        "bias": jax.random.uniform(bias_key, (num_classes,), dtype, -bound, bound),
    }
    return params, ()


def logits(
    params: Params, features: jax.Array, compute: DTypeLike | None = None
) -> jax.Array:
    """The linear layer, classes first: [rows, features] -> [classes, rows].

    The bias is the weight of a feature that is 1 everywhere, which saves a pass over
    the logits and one over their gradient.
    """
    bias = params["bias"][:, None]
    weight = jnp.concatenate([params["weight"], bias], axis=1)
    ones = jnp.ones((len(features), 1), features.dtype)
    features = jnp.concatenate([features, ones], axis=1)
    return product(
        "rf,cf->cr",
        features.astype(compute or features.dtype),
        weight.astype(compute or weight.dtype),
        weight.dtype,
    )


def _is_label(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """One-hot labels, bool [classes, rows]."""
    classes = jnp.arange(len(scores))[:, None]
    return classes == labels.astype(classes.dtype)


def _summary(
    scores: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Largest score, sum of exp(score - largest), and loss: three [rows]."""
    largest = scores.max(axis=0)
    total = jnp.exp(scores - largest).sum(axis=0)
    if len(scores) <= _FEW_CLASSES:
        own = jnp.where(_is_label(scores, labels), scores, 0).sum(axis=0)
    else:
        own = jnp.take_along_axis(scores, labels[None], axis=0, mode="clip")[0]
    return largest, total, jnp.log(total) - (own - largest)


@jax.custom_jvp
def _losses(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Negative log-likelihood of each row: [classes, rows], [rows] -> [rows]."""
    return _summary(scores, labels)[2]


@_losses.defjvp
def _losses_jvp(primals, tangents):
    """Losses and their tangents, two [rows]; the slope is softmax minus one-hot.

    JAX's own derivative scatters into an array of zeros, which takes longer than the
    exponentials.

    Args:
      primals: scores [classes, rows] and labels [rows].
      tangents: those of the scores [classes, rows]; labels have none.
    """
    scores, labels = primals
    largest, total, losses = _summary(scores, labels)
    own = _is_label(scores, labels).astype(scores.dtype)
    slopes = jnp.exp(scores - largest) / total - own
    return losses, (slopes * tangents[0]).sum(axis=0)


def loss(
    params: Params,
    state: tuple[()],
    key: jax.Array,
    batch: Batch,
    *,
    squash: bool,
    compute: DTypeLike | None = None,
) -> tuple[jax.Array, tuple[tuple[()], dict[str, jax.Array]]]:
    """Mean negative log-likelihood over the rows with mask 1; 0 if there are none.

    Returns:
      the scalar loss, and the unchanged state with an empty dictionary of metrics.
    """
    del key  # nothing here is random
    scores = logits(params, batch["features"], compute)
    if squash:
        scores = jax.nn.sigmoid(scores)
    mask = batch["mask"]
    total = jnp.sum(_losses(scores, batch["labels"]) * mask)
    return total / jnp.maximum(mask.sum(), 1), (state, {})


def evaluate(
    params: Params,
    state: tuple[()],
    batch: Batch,
    *,
    squash: bool,
    compute: DTypeLike | None = None,
) -> dict[str, jax.Array]:
    """Sum over the rows with mask 1.

    The prediction is the first class with the largest score, as in `argmax`. A row
    whose softmax is not finite counts as wrong.

    Returns:
      scalars 'loss', 'accuracy' (right rows) and 'count' (rows).
    """
    del state
    scores = logits(params, batch["features"], compute)
    if squash:
        scores = jax.nn.sigmoid(scores)
    labels, mask = batch["labels"], batch["mask"]
    largest, total, losses = _summary(scores, labels)
    # Same as argmax, which XLA does not vectorise on a CPU.
    classes = jnp.arange(len(scores))[:, None]
    first = jnp.where(scores == largest, classes, len(scores)).min(axis=0)
    right = (first == labels.astype(first.dtype)) & jnp.isfinite(total)
    return {
        "loss": jnp.sum(losses * mask),
        "accuracy": jnp.sum(right.astype(mask.dtype) * mask),
        "count": mask.sum(),
    }
