"""The sums of `Task.evaluate` that a metric reads, made from outputs and targets.

A weight is 1 for a row that counts, or for an item of a row, such as a token. It has
the leading axes of outputs and targets; over all further axes values are averaged, so
that a row with ten targets counts once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lrjax import metrics as metrics_lib
from lrjax.core import Metric, UsageError, cut, raised
from lrjax.tasks import losses

Sum = Callable[[Any, Any, jax.Array], jax.Array]
OWN = ("loss", "count")  # of every task


def total(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Add up values [..., more] with weights [...]; average over the further axes.

    Values of weight 0 may be anything, NaN included.
    """
    values = values.astype(weight.dtype)
    values = values.mean(tuple(range(weight.ndim, values.ndim)))
    return jnp.sum(jnp.where(weight > 0, values, 0) * weight)


def _spread(weight: jax.Array, like: jax.Array) -> jax.Array:
    """The weight of each entry of an array, flat."""
    further = (1,) * (like.ndim - weight.ndim)
    whole = jnp.broadcast_to(weight.reshape(weight.shape + further), like.shape)
    return whole.reshape(-1)


def _numbered(
    shared: bool, outputs: jax.Array, targets: jax.Array
) -> tuple[jax.Array, int]:
    """Targets as class numbers, and of how many classes; 0 if they are yes or no.

    Args:
      shared: whether targets of the outputs' shape are shares of the classes.
      outputs, targets: one array each.
    """
    number = losses.classes(outputs, targets)
    if number or not shared:
        return targets, number
    return targets.argmax(-1), outputs.shape[-1]


def _choices(
    shared: bool, outputs: Any, targets: Any
) -> tuple[jax.Array, jax.Array, int]:
    """Class numbers by target and by output, in one shape, and how many classes."""
    outputs, targets = _single("accuracy and the like", outputs, targets)
    targets, number = _numbered(shared, outputs, targets)
    if number:
        return targets.astype(jnp.int32), outputs.argmax(-1).astype(jnp.int32), number
    outputs, targets = losses.fitted(outputs, targets)
    return (targets > 0.5).astype(jnp.int32), (outputs > 0).astype(jnp.int32), 2


def _accuracy(shared: bool, outputs: Any, targets: Any, weight: jax.Array) -> jax.Array:
    own, taken, _ = _choices(shared, outputs, targets)
    return total(own == taken, weight)


def _confusion(
    shared: bool, outputs: Any, targets: Any, weight: jax.Array
) -> jax.Array:
    own, taken, number = _choices(shared, outputs, targets)
    flat = _spread(weight, own)
    return metrics_lib.confusion(own.reshape(-1), taken.reshape(-1), flat, number)


def _scores(shared: bool, outputs: Any, targets: Any, weight: jax.Array) -> jax.Array:
    outputs, targets = _single("auc", outputs, targets)
    targets, number = _numbered(shared, outputs, targets)
    if number > 2:
        raise UsageError(f"auc needs two classes, and the model has {number}")
    if number:
        # A softmax over two logits is a sigmoid of their difference.
        outputs = outputs[..., 1] - outputs[..., 0]
    outputs, targets = losses.fitted(outputs, targets)
    labels = (targets > 0.5).astype(jnp.int32).reshape(-1)
    scores = jax.nn.sigmoid(outputs).reshape(-1)
    return metrics_lib.score_counts(scores, labels, _spread(weight, outputs))


def _squared_error(outputs: Any, targets: Any, weight: jax.Array) -> jax.Array:
    outputs, targets = _single("rmse", outputs, targets)
    return total(losses.squared_error(outputs, targets), weight)


def _absolute_error(outputs: Any, targets: Any, weight: jax.Array) -> jax.Array:
    outputs, targets = _single("mae", outputs, targets)
    return total(losses.absolute_error(outputs, targets), weight)


def _moments(centre: float) -> Sum:
    """Make the sum for R², of targets minus a constant near their mean."""

    def moments(outputs: Any, targets: Any, weight: jax.Array) -> jax.Array:
        outputs, targets = losses.fitted(*_single("r2", outputs, targets))
        if targets.size != weight.size:
            raise UsageError(
                f"r2 needs one target per row, and there are {losses.brief(targets)}"
            )
        outputs, targets = (x.reshape(weight.shape) for x in (outputs, targets))
        apart = targets - centre
        values = (jnp.square(outputs - targets), apart, jnp.square(apart))
        return jnp.stack([total(value, weight) for value in values])

    return moments


def known(centre: float = 0.0, shared: bool = False) -> dict[str, Sum]:
    """The sums that lrjax makes, by name.

    Args:
      centre: a constant near the mean of the targets, for R².
      shared: whether targets of the outputs' shape are shares of the classes, of which
        the largest is right; else each of them is yes (above a half) or no.
    """
    return {
        "accuracy": functools.partial(_accuracy, shared),
        "confusion": functools.partial(_confusion, shared),
        "scores": functools.partial(_scores, shared),
        "squared_error": _squared_error,
        "absolute_error": _absolute_error,
        "moments": _moments(centre),
    }


def _single(what: str, outputs: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    """Return outputs and targets that are one array each.

    Raises:
      UsageError: if one of them is a tuple or a dictionary.
    """
    for name, value in (("the model returns", outputs), ("targets are", targets)):
        if not hasattr(value, "dtype"):
            raise UsageError(
                f"{what}: {name} {losses.brief(value)}, not one array: give metrics "
                "whose sums you pass as sums="
            )
    return outputs, targets


class _Sums(Mapping[str, Any]):
    """Sums that are made when they are read; notes the names of those that were."""

    def __init__(self, available: Mapping[str, Sum], arguments: Any, read: set[str]):
        self._available, self._arguments, self._read = available, arguments, read

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        if name in OWN:
            return jnp.ones((), self._arguments[2].dtype)
        return self._available[name](*self._arguments)

    def __iter__(self) -> Iterator[str]:
        return iter((*OWN, *self._available))

    def __len__(self) -> int:
        return len(OWN) + len(self._available)


def needed(
    metrics: Iterable[Metric], available: Mapping[str, Sum], arguments: Any
) -> set[str]:
    """Names of the sums that metrics read, those of every task left out.

    Args:
      metrics: the metrics.
      available: sums that can be made, by name.
      arguments: shapes of (outputs, targets, weight).

    Raises:
      UsageError: if a metric reads a sum that cannot be made, or fails.
    """
    read: set[str] = set()
    for metric in metrics:
        read |= _read_by(metric, available, arguments)
    return read - set(OWN)


def _read_by(metric: Metric, available: Mapping[str, Sum], arguments: Any) -> set[str]:
    """Names of the sums that a metric reads."""
    read: set[str] = set()

    def value(arguments: Any) -> Any:
        return metric.value(_Sums(available, arguments, read))

    try:
        jax.eval_shape(value, arguments)
    except UsageError:
        raise
    except Exception as error:  # the user's code may raise anything
        missing = sorted(read - set(OWN) - set(available))
        if not missing or not isinstance(error, KeyError):
            raise UsageError(
                f"metric '{metric}' fails: {raised(error, 200)}"
            ) from error
        name = cut(missing[0])
        raise UsageError(
            f"metric '{metric}' reads the sum '{name}', which is not known: give "
            f"sums={{'{name}': lambda outputs, targets, mask: ...}}, a sum over the "
            "rows with mask 1"
        ) from None
    return read
