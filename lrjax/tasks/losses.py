"""Losses of outputs and targets, a value per row: by name, or the user's function.

Named losses take outputs [rows, 1] for targets [rows] and the other way round;
functions get outputs and targets as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.core import UsageError, shown, unknown

LossFunction = Callable[[Any, Any], Any]


class Loss(NamedTuple):
    """A loss: the distance of outputs from targets.

    Attributes:
      values: `values(outputs, targets) -> [rows, ...]`.
      binary: whether outputs of the targets' shape are logits of class 1.
      softmax: whether outputs are logits of classes of which one is right.
      estimates: whether outputs are estimates of the targets.
      nonnegative: whether no value is below 0.
      alone: whether the user's function was applied to one row at a time.
    """

    values: LossFunction
    binary: bool = False
    softmax: bool = False
    estimates: bool = False
    nonnegative: bool = False
    alone: bool = False


def fitted(outputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Drop a last axis of length 1 that only one of them has.

    Returns:
      both of one shape and of the outputs' type, at least float32.

    Raises:
      UsageError: if the shapes differ otherwise.
    """
    if outputs.shape == (*targets.shape, 1):
        outputs = outputs[..., 0]
    elif targets.shape == (*outputs.shape, 1):
        targets = targets[..., 0]
    if outputs.shape != targets.shape:
        raise UsageError(
            f"outputs have shape {_row(outputs)} per row and targets {_row(targets)}"
        )
    outputs = _wide(outputs)
    return outputs, targets.astype(outputs.dtype)


def classes(outputs: jax.Array, targets: jax.Array) -> int:
    """Number of classes that outputs are logits of; 0 if there are none.

    Targets are then class numbers [...] for outputs [..., classes].
    """
    if not jnp.issubdtype(outputs.dtype, jnp.floating) or outputs.ndim < 2:
        return 0
    whole = not jnp.issubdtype(targets.dtype, jnp.inexact)
    numbers = whole and outputs.shape[:-1] == targets.shape
    return outputs.shape[-1] if numbers and outputs.shape[-1] > 1 else 0


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Negative log-likelihood of a softmax over the last axis.

    Targets are class numbers, or shares of the classes in the outputs' shape.
    """
    if classes(outputs, targets):
        return optax.softmax_cross_entropy_with_integer_labels(
            _wide(outputs), targets.astype(jnp.int32)
        )
    if outputs.shape != targets.shape or outputs.shape[-1] < 2:
        raise UsageError(
            "cross_entropy needs outputs [rows, classes] for class numbers [rows], and "
            f"the model returns {brief(outputs)} for targets {brief(targets)} per row"
            f"{_remedy(outputs, targets)}"
        )
    outputs = _wide(outputs)
    return optax.softmax_cross_entropy(outputs, targets.astype(outputs.dtype))


def _remedy(outputs: jax.Array, targets: jax.Array) -> str:
    """What is likely meant where outputs and targets do not fit a cross-entropy."""
    if outputs.ndim < 2 or outputs.shape[-1] < 2:
        return "; one logit for two classes is for binary_cross_entropy"
    if targets.shape == outputs.shape[:-1]:
        return ": make these whole numbers, such as y.astype(int)"
    if targets.shape == (*outputs.shape[:-1], 1):
        return ": leave out the last axis, such as y[:, 0]"
    return ""


def binary_cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Negative log-likelihood of logits of class 1, for targets from 0 to 1."""
    return optax.sigmoid_binary_cross_entropy(*fitted(outputs, targets))


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Squared difference, without Optax's factor of a half."""
    outputs, targets = fitted(outputs, targets)
    return jnp.square(outputs - targets)


def absolute_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Absolute difference."""
    outputs, targets = fitted(outputs, targets)
    return jnp.abs(outputs - targets)


def huber(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Half the squared difference up to 1, linear above."""
    return optax.huber_loss(*fitted(outputs, targets))


NAMED: Mapping[str, LossFunction] = {
    function.__name__: function
    for function in (
        cross_entropy,
        binary_cross_entropy,
        squared_error,
        absolute_error,
        huber,
    )
}
_BINARY = (binary_cross_entropy, optax.sigmoid_binary_cross_entropy)
_SOFTMAX = (
    cross_entropy,
    optax.softmax_cross_entropy_with_integer_labels,
    optax.softmax_cross_entropy,
)
_ESTIMATES = (
    *(squared_error, absolute_error, huber),
    *(optax.l2_loss, optax.squared_error, optax.huber_loss, optax.log_cosh),
)
_NONNEGATIVE = (*_BINARY, *_SOFTMAX, *_ESTIMATES)


def find(loss: Any) -> LossFunction:
    """Look up a loss by name; return functions as they are.

    Raises:
      UsageError: for anything else.
    """
    if isinstance(loss, str):
        if loss not in NAMED:
            raise unknown("loss", loss, NAMED)
        return NAMED[loss]
    if callable(loss):
        return loss
    if isinstance(loss, list | tuple | Mapping):
        raise UsageError(
            "a task has one loss: give a function that adds several up, such as "
            "lambda outputs, targets: first(outputs, targets) + second(outputs, ...)"
        )
    raise UsageError(
        f"loss must be a function of outputs and targets or one of {', '.join(NAMED)}, "
        f"not {shown(loss)}"
    )


def examined(function: LossFunction, few: Any, more: Any) -> Loss:
    """Find out how a loss treats rows, from shapes alone.

    Args:
      function: the loss.
      few, more: shapes of (outputs, targets) for two numbers of rows.

    Raises:
      UsageError: if the loss fails or returns something else than numbers.
    """
    result = _shape(function, few)
    kinds = (_BINARY, _SOFTMAX, _ESTIMATES, _NONNEGATIVE)
    kind = [function in each for each in kinds]
    if not result.shape:

        def alone(outputs: Any, targets: Any) -> jax.Array:
            return function(*jax.tree.map(lambda x: x[None], (outputs, targets)))

        return Loss(jax.vmap(alone), *kind, alone=True)
    again = _shape(function, more)
    rows = [jax.tree.leaves(each)[0].shape[0] for each in (few, more)]
    if (result.shape[0], again.shape[0]) != tuple(rows):
        raise UsageError(
            f"loss(outputs, targets) has shape {list(result.shape)} for {rows[0]} "
            "rows: it must be a value per row, [rows] or [rows, ...]"
        )
    if result.shape[1:] != again.shape[1:]:
        outputs, targets = few
        raise UsageError(
            f"loss(outputs, targets) compares each row with all others, for outputs "
            f"{brief(outputs)} and targets {brief(targets)} per row: give both the "
            "same shape, such as y[:, None] for targets"
        )
    return Loss(function, *kind)


def _shape(function: LossFunction, arguments: Any) -> Any:
    """Shape and type of a loss.

    Raises:
      UsageError: if it is not an array of floating-point numbers.
    """
    result = jax.eval_shape(function, *arguments)
    if isinstance(result, Mapping):
        names = ", ".join(str(name) for name in result)
        raise UsageError(
            f"loss(outputs, targets) returns a dictionary ({names}): return the value "
            "to minimise alone, and give the others as sums= for metrics"
        )
    if isinstance(result, tuple | list):
        raise UsageError(
            f"loss(outputs, targets) returns {len(result)} values: return the one to "
            "minimise alone"
        )
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise UsageError(
            f"loss(outputs, targets) returns {result.dtype}, not floating-point numbers"
        )
    return result


def brief(tree: Any) -> str:
    """Format types and shapes per row: 'float32[10]', '(float32[10], int32[])'."""
    if isinstance(tree, Mapping):
        return f"{{{', '.join(f'{k}: {brief(v)}' for k, v in tree.items())}}}"
    if isinstance(tree, tuple | list):
        return f"({', '.join(brief(each) for each in tree)})"
    if not hasattr(tree, "dtype"):
        return type(tree).__name__
    return f"{tree.dtype}{_row(tree)}"


def _row(array: Any) -> str:
    """The shape of one row."""
    return str(list(array.shape[1:]))


def _wide(array: jax.Array) -> jax.Array:
    """Widen half precision to float32."""
    wide = array.dtype in (jnp.float32, jnp.float64)
    return array if wide else array.astype(jnp.float32)
