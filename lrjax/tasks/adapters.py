"""Tasks of a user's own model, loss and data: `lrjax.Task.from_flax` and its like."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.common import numerics
from lrjax.core import (
    ACCURACY,
    LOSS,
    NONNEGATIVE_LOSS,
    Batch,
    Metric,
    PyTree,
    Task,
    UsageError,
    cut,
    raised,
    shown,
    unknown,
)
from lrjax.metrics import metrics_of
from lrjax.tasks import batches, given, libraries, losses, target_values
from lrjax.tasks import sums as sums_lib
from lrjax.tasks.libraries import Model
from lrjax.tasks.losses import Loss

T = TypeVar("T")

BATCH_SIZE = 64
_FEW, _MORE = 3, 5  # numbers of rows that models and losses are traced for
_CALLER = 5  # frames from a warning to the user's call of `Task.from_flax`


def from_flax(model: Any, loss: Any, data: Any, options: Mapping[str, Any]) -> Task:
    """Make a task of a Flax linen module; see `Task.from_flax`."""
    make = functools.partial(libraries.linen, model, options.get("lengths"))
    return _task("from_flax", make, loss, data, options)


def from_nnx(model: Any, loss: Any, data: Any, options: Mapping[str, Any]) -> Task:
    """Make a task of an NNX module; see `Task.from_nnx`."""
    make = functools.partial(libraries.nnx, model, options.get("lengths"))
    return _task("from_nnx", make, loss, data, options)


def from_equinox(
    model: Any, loss: Any, data: Any, batched: bool | None, options: Mapping[str, Any]
) -> Task:
    """Make a task of an Equinox module; see `Task.from_equinox`."""
    lengths = options.get("lengths")
    make = functools.partial(libraries.equinox, model, lengths, batched=batched)
    return _task("from_equinox", make, loss, data, options)


def from_functions(
    init: Any, apply: Any, loss: Any, data: Any, options: Mapping[str, Any]
) -> Task:
    """Make a task of plain functions; see `Task.from_functions`."""

    def make(example: Any) -> Model:
        del example
        return libraries.functions(init, apply, options.get("lengths"))

    return _task("from_functions", make, loss, data, options)


@dataclasses.dataclass(frozen=True)
class _Options:
    """The options of `lrjax.core.TaskSettings` that are not fields of a task."""

    sums: Mapping[str, Any] | None = None
    targets: str | None = None
    inputs: str | Sequence[str] | None = None
    lengths: str | None = None
    streamed: bool | None = None
    max_bytes: int = batches.MOST


_OWN = tuple(field.name for field in dataclasses.fields(_Options))
_FIELDS = (
    *("name", "batch_size", "metrics", "metric"),
    *("max_norm", "measured_rows", "micro_batches"),
)


def _task(
    caller: str,
    make: Callable[[Any], Model],
    loss: Any,
    data: tuple[Any, Any, Any],
    options: Mapping[str, Any],
) -> Task:
    """Make a task; errors begin with the function that the user called.

    Args:
      caller: the function that the user called.
      make: makes the model, from the inputs of one row.
      loss: the user's loss.
      data: training, validation and test data.
      options: those of `lrjax.core.TaskSettings`.
    """
    try:
        for name in options:
            if name not in (*_OWN, *_FIELDS):
                raise unknown("option", name, (*_OWN, *_FIELDS))
        own = _Options(**{k: v for k, v in options.items() if k in _OWN})
        if not isinstance(own.max_bytes, int | float | np.number):
            raise UsageError(
                f"max_bytes {shown(own.max_bytes)} must be a number, such as 2**34"
            )
        fields = {k: v for k, v in options.items() if k in _FIELDS}
        return _made(caller, make, loss, data, own, fields)
    except UsageError as error:
        raise UsageError(f"{caller}: {error}") from error.__cause__


def _made(
    caller: str,
    make: Callable[[Any], Model],
    loss: Any,
    data: tuple[Any, Any, Any],
    options: _Options,
    fields: dict[str, Any],
) -> Task:
    """Make the task of `_task` with options that are known."""
    function = losses.find(loss)
    parts = given.parts(
        *data,
        targets=options.targets,
        inputs=options.inputs,
        streamed=options.streamed,
        most=options.max_bytes,
    )
    train = parts.train
    _check_lengths(options.lengths, train)
    first = {k: np.asarray(v[:1]) for k, v in train.items()}
    example = given.tree(first, "inputs")
    model = _tried(f"the model with inputs {losses.brief(example)}",
                   lambda: make(example))  # fmt: skip
    if model.begun:
        such = {"from_nnx": "rngs: MLP(rngs=rngs)"}.get(caller, "key: MLP(key=key)")
        warnings.warn(
            f"{caller}: the model is initialised already, so that all seeds begin at "
            "its parameters and differ in the order of the data and in noise only; "
            f"for other parameters per seed give a function, such as lambda {such}",
            stacklevel=_CALLER,
        )
    few, more = (_shapes(model, train, rows) for rows in (_FEW, _MORE))
    found = _tried(
        f"loss(outputs, targets) with outputs {losses.brief(few[0])} and targets "
        f"{losses.brief(few[1])} per row",
        lambda: losses.examined(function, few, more),
    )
    if found.alone:
        warnings.warn(
            f"{caller}: loss(outputs, targets) returns one number for all rows, so it "
            "is applied to each row alone: that is exact for a mean over rows, and "
            "wrong for a loss that compares rows. Return a value per row instead",
            stacklevel=_CALLER,
        )
    classes = _classes(found, few)
    labels = classes and "targets" in train and _are_numbers(train["targets"])
    metrics = _metrics(fields.pop("metrics", ()), found, classes)
    centre = _mean(train) if any(m.name == "r2" for m in metrics) else 0.0
    shared = found.softmax or target_values.are_shares(train, few)
    available = {**sums_lib.known(centre, shared), **_users(options.sums)}
    functions = Functions(model, found.values, options.lengths)
    weight = functions.weight_shape(train, found, few)
    needed = sums_lib.needed(metrics, available, (*few, weight))
    for name in ("train", "valid", "test"):
        part = getattr(parts, name)
        try:
            target_values.check(part, found, few, needed, shared, options.lengths)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None
    functions = dataclasses.replace(
        functions, sums={name: available[name] for name in sorted(needed)}
    )
    rows = len(next(iter(train.values())))
    fields = {k: v for k, v in fields.items() if v is not None}
    fields = {"name": model.name, "batch_size": min(BATCH_SIZE, rows), **fields}
    train, valid, test = (
        _with_labels(part) if labels else part
        for part in (train, parts.valid, parts.test)
    )
    return Task(
        train=train,
        valid=valid,
        test=valid if parts.test is parts.valid else test,
        init=functions.init,
        loss=functions.loss,
        evaluate=functions.evaluate,
        num_classes=classes,
        metrics=metrics,
        streamed=parts.streamed,
        exchangeable=parts.drawn,
        **fields,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Functions:
    """The functions `init`, `loss` and `evaluate` of a task.

    Attributes:
      model: the model.
      values: its loss, a value per row or item.
      lengths: name of the input that says which items of a row count.
      sums: further sums that the metrics need.
    """

    model: Model
    values: losses.LossFunction
    lengths: str | None = None
    sums: Mapping[str, sums_lib.Sum] = dataclasses.field(default_factory=dict)

    def init(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Parameters and state."""
        return self.model.init(key)

    def loss(
        self, params: PyTree, state: PyTree, key: jax.Array, batch: Batch
    ) -> tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]:
        """The mean over the rows with mask 1, or over their items."""
        if jax.tree.leaves(state):
            batch = _without_padding(batch)
        inputs, targets = _sides(batch)
        outputs, state = self.model.apply(params, state, inputs, key)
        values = self.values(outputs, targets)
        weight = self._weight(batch, values)
        count = weight.sum()
        mean = sums_lib.total(values, weight) / jnp.where(count > 0, count, 1)
        return mean, (state, {"count": count} if self.lengths else {})

    def evaluate(
        self, params: PyTree, state: PyTree, batch: Batch
    ) -> dict[str, jax.Array]:
        """Sums over the rows with mask 1, or over their items."""
        inputs, targets = _sides(batch)
        outputs, _ = self.model.apply(params, state, inputs, None)
        values = self.values(outputs, targets)
        weight = self._weight(batch, values)
        found = {"loss": sums_lib.total(values, weight), "count": weight.sum()}
        for name, function in self.sums.items():
            found[name] = function(outputs, targets, weight)
        return found

    def _weight(self, batch: Batch, values: jax.Array) -> jax.Array:
        """1 for each row, or item, that counts."""
        mask = batch["mask"]
        if self.lengths is None:
            return mask
        own = batch[f"inputs/{self.lengths}"]
        if values.ndim < 2 or own.shape not in (values.shape[:1], values.shape[:2]):
            raise UsageError(
                f"lengths: '{cut(self.lengths)}' must be the length of each row or 1 "
                "and 0 for each item, and the loss a value per item [rows, items], not "
                f"{list(values.shape[1:])} per row"
            )
        if own.ndim == 1:
            own = jnp.arange(values.shape[1]) < own[:, None].astype(jnp.int32)
        return mask[:, None] * own.astype(mask.dtype)

    def weight_shape(self, train: Batch, loss: Loss, few: Any) -> Any:
        """Shape of the weights of a few rows."""
        batch = _batch_shapes(train, _FEW)
        batch["mask"] = jax.ShapeDtypeStruct((_FEW,), jnp.float32)
        values = jax.eval_shape(loss.values, *few)
        return jax.eval_shape(self._weight, batch, values)


def _sides(batch: Batch) -> tuple[Any, Any]:
    """Inputs and targets of a batch, as the user gave them."""
    if "labels" in batch:
        batch = {**batch, "targets": batch["labels"]}
    return given.tree(batch, "inputs"), given.tree(batch, "targets")


def _are_numbers(targets: Any) -> bool:
    """Whether targets of classes are one number each, and no shares."""
    return targets.ndim == 1 and not jnp.issubdtype(targets.dtype, jnp.inexact)


def _with_labels(part: Batch) -> dict[str, Any]:
    """Call class numbers 'labels', by which `check_task` knows them."""
    labels = part["targets"]
    if labels.dtype == bool:
        labels = labels.astype(np.int32)
    rest = {k: v for k, v in part.items() if k != "targets"}
    return {**rest, "labels": labels}


def _without_padding(batch: Batch) -> dict[str, jax.Array]:
    """Replace padding by real rows in turn, for statistics over a batch."""
    real = batch["mask"] > 0
    at = jnp.arange(len(real))
    rows = jnp.nonzero(real, size=len(real), fill_value=0)[0]
    at = jnp.where(real, at, rows[at % jnp.maximum(real.sum(), 1)])
    return {k: v if k == "mask" else v[at] for k, v in batch.items()}


def _batch_shapes(part: Batch, rows: int) -> dict[str, Any]:
    """Shapes and types of a batch of a part."""
    return {
        name: jax.ShapeDtypeStruct(
            (rows, *array.shape[1:]), jax.dtypes.canonicalize_dtype(array.dtype)
        )
        for name, array in part.items()
    }


def _shapes(model: Model, part: Batch, rows: int) -> tuple[Any, Any]:
    """Shapes of a model's outputs and of the targets, for a number of rows.

    Raises:
      UsageError: if the model fails.
    """

    def both(params: PyTree, state: PyTree, inputs: Any) -> tuple[Any, Any]:
        trained = model.apply(params, state, inputs, numerics.key(0))[0]
        return model.apply(params, state, inputs, None)[0], trained

    inputs, targets = _sides(_batch_shapes(part, rows))
    at = f"with inputs {losses.brief(inputs)} per row"
    params, state = _tried(
        f"init {at}", lambda: jax.eval_shape(model.init, numerics.key(0))
    )
    outputs, trained = _tried(
        f"the model {at}", lambda: jax.eval_shape(both, params, state, inputs)
    )
    if losses.brief(outputs) != losses.brief(trained):
        raise UsageError(
            f"the model returns {losses.brief(outputs)} when evaluated and "
            f"{losses.brief(trained)} in training"
        )
    return outputs, targets


def _tried(what: str, call: Callable[[], T]) -> T:
    """Call a function; turn an exception of the user's code into one line."""
    try:
        return call()
    except UsageError:
        raise
    except Exception as error:  # the user's code may raise anything
        raise UsageError(f"{what} fails: {raised(error, 200)}") from error


def _check_lengths(lengths: str | None, train: Batch) -> None:
    """Check that the input that says which items count exists."""
    known = [n.partition("/")[2] for n in train if n.startswith("inputs/")]
    if lengths is not None and lengths not in known:
        raise UsageError(
            f"lengths: there is no input {shown(lengths)} among "
            f"{', '.join(known) or 'the inputs, which are one array'}"
        )


def _classes(found: Loss, shapes: tuple[Any, Any]) -> int:
    """Number of classes; 0 if the task has none."""
    outputs, targets = shapes
    if not hasattr(outputs, "dtype") or not hasattr(targets, "dtype"):
        return 0
    return losses.classes(outputs, targets) or (2 if found.binary else 0)


def _metrics(chosen: Any, found: Loss, classes: int) -> tuple[Metric, ...]:
    """The metrics, by default the accuracy of classifiers and the loss."""
    if isinstance(chosen, Sequence) and not len(chosen):
        chosen = (ACCURACY, LOSS) if classes else (LOSS,)
    metrics = metrics_of(chosen)
    if found.nonnegative:
        metrics = tuple(NONNEGATIVE_LOSS if m == LOSS else m for m in metrics)
    return metrics


def _users(sums: Any) -> dict[str, sums_lib.Sum]:
    """Check the sums that the user gives."""
    if sums is None:
        return {}
    if not isinstance(sums, Mapping) or not all(map(callable, sums.values())):
        raise UsageError(
            "sums must be a dictionary of functions of outputs, targets and mask, such "
            "as {'hits': lambda outputs, targets, mask: ...}"
        )
    for name in sums_lib.OWN:
        if name in sums:
            raise UsageError(f"sums: '{name}' is that of the loss")
    return dict(sums)


def _mean(train: Batch) -> float:
    """The mean of the targets, of the first million rows at most."""
    targets = train.get("targets")
    return 0.0 if targets is None else float(np.mean(targets[: 2**20], dtype=float))
