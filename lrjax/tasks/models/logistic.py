"""Multinomial logistic regression: the model of the LIBSVM and digits tasks.

Parameters are `{'kernel': [features, classes], 'bias': [classes]}`. A batch holds
`features` [rows, features], `labels` [rows] (int32) and `mask` [rows], which is 1 for
real rows and 0 for padding; padding rows count for nothing but must be finite.

`squash` passes the linear layer's output through a sigmoid before the softmax, as the
study does. `compute` is the data type of the matrix product, by default that of the
parameters; everything after it is computed in the parameters' own type.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Params = Mapping[str, jax.Array]
Batch = Mapping[str, jax.Array]


def init(
    key: jax.Array,
    num_features: int,
    num_classes: int,
    dtype: DTypeLike = jnp.float32,
) -> tuple[dict[str, jax.Array], tuple[()]]:
    """Draws kernel and bias uniformly from +-1/sqrt(num_features).

    This is the distribution of `torch.nn.Linear`.

    Returns:
      parameters and the empty state.
    """
    bound = num_features**-0.5
    kernel_key, bias_key = jax.random.split(key)
    kernel_shape = (num_features, num_classes)
    params = {
        "kernel": jax.random.uniform(kernel_key, kernel_shape, dtype, -bound, bound),
        "bias": jax.random.uniform(bias_key, (num_classes,), dtype, -bound, bound),
    }
    return params, ()


def logits(
    params: Params, features: jax.Array, compute: DTypeLike | None = None
) -> jax.Array:
    """The linear layer, classes first: [rows, features] -> [classes, rows].

    With the rows last, XLA vectorises what follows over the many rows instead of the
    few classes: a population trains 1.4 to 2.5 times faster on a CPU.
    """
    kernel, bias = params["kernel"], params["bias"]
    if compute is None:
        product = jnp.einsum("rf,fc->cr", features, kernel)
    else:
        product = jnp.einsum(
            "rf,fc->cr",
            features.astype(compute),
            kernel.astype(compute),
            preferred_element_type=kernel.dtype,
        )
    return product + bias[:, None]


def _scores(outputs: jax.Array, squash: bool) -> jax.Array:
    """What the softmax is taken of, bounded above so that exp cannot overflow."""
    if squash:
        return jax.nn.sigmoid(outputs)
    return outputs - jax.lax.stop_gradient(outputs.max(axis=0))


def _losses(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """Negative log-likelihood of each row: [classes, rows], [rows] -> [rows]."""
    own = jnp.take_along_axis(scores, labels[None], axis=0, mode="clip")[0]
    return jnp.log(jnp.exp(scores).sum(axis=0)) - own


def loss(
    params: Params,
    state: tuple[()],
    key: jax.Array,
    batch: Batch,
    *,
    squash: bool,
    compute: DTypeLike | None = None,
) -> tuple[jax.Array, tuple[tuple[()], dict[str, jax.Array]]]:
    """Mean negative log-likelihood over the rows with mask 1 (0 without such rows).

    Returns:
      the scalar loss, and the unchanged state with an empty dictionary of metrics.
    """
    del key  # nothing here is random
    scores = _scores(logits(params, batch["features"], compute), squash)
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
    """Sums over the rows with mask 1.

    A row is right if its label has the largest score; of equal scores the first
    counts, as in `argmax`. A row with a logit that is not finite is wrong.

    Returns:
      scalars 'loss', 'accuracy' (right rows) and 'count' (rows).
    """
    del state
    outputs = logits(params, batch["features"], compute)
    scores = _scores(outputs, squash)
    labels, mask = batch["labels"], batch["mask"]
    # As argmax, whose reduction of pairs XLA does not vectorise on a CPU.
    classes = jnp.arange(len(scores))[:, None]
    largest = jnp.where(scores == scores.max(axis=0), classes, len(scores))
    right = (largest.min(axis=0) == labels) & jnp.isfinite(outputs).all(axis=0)
    return {
        "loss": jnp.sum(_losses(scores, labels) * mask),
        "accuracy": jnp.sum(right * mask),
        "count": mask.sum(),
    }
