"""Checks a user's task on a few rows, before hours are spent on training it."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.common import jaxprs, numerics
from lrjax.core import (
    Batch,
    Metric,
    Task,
    UsageError,
    counted,
    cut,
    raised,
    shown,
)
from lrjax.tasks import data

# Primitives that draw random numbers; making or splitting a key does not.
_RANDOM = ("random_bits", "threefry2x32", "rng_bit_generator")
_ROWS = 64  # largest number of rows that functions are tried on
_TOLERANCE = 1e-3
_LOOKED_AT = 4096  # rows of a part that doubts are about
_FAR = 1e3  # mean and deviation of inputs from which on training may suffer


def check_task(task: Task) -> None:
    """Try a task's functions on a few rows and report everything that is wrong.

    Warns of what is only odd: parameters without a gradient, numbers far from 1,
    classes that training lacks, rows of validation that training has.

    Checks the parts (shapes, types, finite numbers, labels), the batch size, `init`,
    `loss` (a finite scalar, gradients, padding, its key) and `evaluate` (sums that add
    up over parts of the data, padding, the metric).

    Args:
      task: the task to check.

    Raises:
      UsageError: lists the problems, separated by semicolons.

    Example:
      >>> import dataclasses
      >>> from lrjax import tasks
      >>> task = tasks.make_task("libsvm/iris")
      >>> check_task(dataclasses.replace(task, batch_size=0))  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      lrjax.messages.UsageError: task 'libsvm/iris': batch_size 0 must be...
    """
    if not isinstance(task, Task):
        raise UsageError(f"check_task: {type(task).__name__} is not a lrjax.core.Task")
    task = untraced(task)
    # Later checks need what the earlier ones have verified.
    for check in (_fields, _parts, _init, _loss, _evaluate):
        problems = list(check(task))
        if problems:
            name = cut(str(task.name))
            raise UsageError(f"task '{name}': {'; '.join(problems)}")
    for doubt in _doubts(task):
        warnings.warn(f"task '{cut(str(task.name))}': {doubt}", stacklevel=2)


def untraced(task: Task) -> Task:
    """The same task with functions of which JAX has no trace yet.

    What a user's functions read beside their arguments, such as a number in another
    cell of a notebook, may have changed since they were traced.
    """
    functions = {name: getattr(task, name) for name in ("init", "loss", "evaluate")}
    anew = {k: functools.partial(v) for k, v in functions.items() if callable(v)}
    return dataclasses.replace(task, **anew)


def _fields(task: Task) -> Iterator[str]:
    """Yield problems with the fields other than the data and the batch size."""

    def whole(value: Any, least: int) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            return False
        return bool(value >= least)

    if not isinstance(task.name, str) or not task.name.strip():
        yield f"name must be a text, not {shown(task.name)}"
    elif not task.name.isprintable():
        yield "name must be one line of printable characters"
    if not whole(task.num_classes, 0):
        yield f"num_classes {task.num_classes!r:.40} must be a whole number from 0 up"
    if not whole(task.micro_batches, 1):
        yield f"micro_batches {task.micro_batches!r:.40} must be a whole number above 0"
    if task.measured_rows is not None and not whole(task.measured_rows, 1):
        yield f"measured_rows {task.measured_rows!r:.40} must be a whole number above 0"
    if task.max_norm is not None and not (
        isinstance(task.max_norm, int | float) and task.max_norm > 0
    ):
        yield f"max_norm {task.max_norm!r:.40} must be a number above 0"
    for name in ("init", "loss", "evaluate"):
        if not callable(getattr(task, name)):
            kind = type(getattr(task, name)).__name__
            yield f"{name} must be a function, not {kind}"


def _parts(task: Task) -> Iterator[str]:
    """Yield problems with the arrays of the three parts and with the batch size."""
    shapes: dict[str, Mapping[str, Any]] = {}
    for name in ("train", "valid", "test"):
        part = getattr(task, name)
        if not isinstance(part, Mapping) or not part:
            yield f"{name} must be a dictionary of arrays, not {type(part).__name__}"
            continue
        flat = [k for k, v in part.items() if not getattr(v, "ndim", 0)]
        if flat:
            yield f"{name}['{flat[0]}'] is not an array with a row per example"
            continue
        rows = {k: len(v) for k, v in part.items()}
        if len(set(rows.values())) > 1:
            counts = ", ".join(f"'{k}' {n}" for k, n in rows.items())
            yield f"the arrays of {name} have different numbers of rows: {counts}"
        elif not next(iter(rows.values())):
            yield f"{name} has no rows"
        if "mask" in part:
            yield f"{name}['mask']: batches get this entry by themselves; rename it"
        for key, array in part.items():
            if jnp.issubdtype(array.dtype, jnp.inexact) and not all(
                jnp.isfinite(piece).all() for piece in data.pieces(array)
            ):
                yield f"{name}['{key}'] has numbers that are not finite"
        yield from _labels(task, name, part)
        shapes[name] = {k: (v.shape[1:], str(v.dtype)) for k, v in part.items()}
    for name in ("valid", "test"):
        if {"train", name} <= set(shapes) and shapes[name] != shapes["train"]:
            yield (
                f"{name} differs from train in names, shapes or types of its arrays: "
                f"{_brief(shapes[name])} instead of {_brief(shapes['train'])}"
            )
    size = task.batch_size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        yield f"batch_size {shown(size)} must be a whole number from 1 up"
    elif "train" in shapes and size > task.num_examples:
        yield (
            f"batch_size {size} is larger than train, "
            f"{counted(task.num_examples, 'row')}: "
            "padding would be most of a batch"
        )


def _labels(task: Task, name: str, part: Batch) -> Iterator[str]:
    """Yield problems with the class labels of a part.

    Args:
      task: the task.
      name: name of the part.
      part: its arrays, leaves [rows, ...].
    """
    if not task.num_classes or "labels" not in part:
        return
    labels = np.asarray(part["labels"])
    if not np.issubdtype(labels.dtype, np.integer):
        yield f"{name}['labels'] must be whole numbers (int32), not {labels.dtype}"
    elif labels.size and not 0 <= labels.min() <= labels.max() < task.num_classes:
        yield (
            f"{name}['labels'] go from {labels.min()} to {labels.max()}, and with "
            f"num_classes {task.num_classes} must be from 0 to {task.num_classes - 1}"
        )


def _brief(shapes: Mapping[str, Any]) -> str:
    """Format names, dtypes and row shapes: 'features float32[4], label int32[]'."""
    return ", ".join(f"{k} {kind}{list(dims)}" for k, (dims, kind) in shapes.items())


def _init(task: Task) -> Iterator[str]:
    """Yield problems with `init`."""
    result, problem = _tried("init(key)", lambda: jax.jit(task.init)(_key(0)))
    if problem:
        yield problem
        return
    if not isinstance(result, tuple) or len(result) != 2:
        yield "init(key) must return (params, state); state is () where there is none"
        return
    keys = [
        jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(result)
    ]
    if any(keys):
        # For example the state of nnx.Dropout; a run's noise comes from its seed alone.
        yield (
            "init(key) returns random keys, which are neither parameters nor state: "
            "leave them out; loss gets a key for dropout and such"
        )
        return
    leaves = jax.tree.leaves(result[0])
    if not leaves:
        yield "init(key) returns no parameters"
    if any(not jnp.issubdtype(x.dtype, jnp.floating) for x in leaves):
        yield "init(key) returns parameters that are not floating-point numbers"
    elif not _finite(result[0]):
        yield "init(key) returns parameters that are not finite"
    if not _same(result, jax.jit(lambda key: task.init(key))(_key(0))):
        yield "init(key) is not deterministic: draw parameters from its key alone"
    elif _same(result, jax.jit(task.init)(_key(1))) and _draws(task.init, _key(0)):
        yield (
            "init(key) draws random numbers but does not use its key, so that all "
            "seeds start from the same parameters"
        )


def _loss(task: Task) -> Iterator[str]:
    """Yield problems with `loss`."""
    params, state = jax.jit(task.init)(_key(0))
    batch = _batch(task.train, min(task.batch_size, _ROWS))

    def value(key: jax.Array, batch: Batch) -> Any:
        # A new function each time, so that JAX traces it again. Parameters are given,
        # as in training: XLA sums products with constants wrongly (docs/upstream.md).
        loss = jax.jit(lambda p, s, k, b: task.loss(p, s, k, b))
        return loss(params, state, key, batch)

    call = "loss(params, state, key, batch)"
    result, problem = _tried(call, lambda: value(_key(1), batch))
    if problem:
        yield problem
        return
    pair = isinstance(result, tuple) and len(result) == 2
    if not pair or not isinstance(result[1], tuple) or len(result[1]) != 2:
        yield f"{call} must return (loss, (state, metrics))"
        return
    loss, (after, metrics) = result
    if not isinstance(metrics, Mapping):
        yield f"{call} must return a dictionary as its metrics; {{}} if there are none"
        return
    if isinstance(loss, Mapping | list | tuple):
        yield f"{call} must give one floating-point number, not {type(loss).__name__}"
        return
    if jnp.shape(loss) or not jnp.issubdtype(jnp.asarray(loss).dtype, jnp.floating):
        yield f"{call} must give one floating-point number, not shape {jnp.shape(loss)}"
        return
    if not jnp.isfinite(loss):
        yield f"the loss of the initial parameters is {float(loss)}; it must be finite"
        return
    if jax.tree.map(_kind, after) != jax.tree.map(_kind, state):
        yield "loss returns a state of another structure, shape or type than init's"
    grads = jax.jit(jax.grad(lambda p: task.loss(p, state, _key(1), batch)[0]))(params)
    if not _finite(grads):
        yield "the gradient of the initial parameters is not finite"
    elif all(not bool(jnp.any(g)) for g in jax.tree.leaves(grads)):
        yield "the gradient is zero everywhere: the loss does not depend on params"
    if not _same(loss, value(_key(1), batch)[0]):
        yield "the loss is not deterministic for a key: draw from its key alone"
    elif _same(loss, value(_key(2), batch)[0]) and _draws(
        lambda key: task.loss(params, state, key, batch)[0], _key(1)
    ):
        yield (
            "the loss draws random numbers but does not use its key, so that each step "
            "has the same noise"
        )
    half = _half_masked(batch)
    if half and not _same(value(_key(1), half[0])[0], value(_key(1), half[1])[0]):
        yield (
            "the loss depends on rows with mask 0, which are padding: take the mean "
            "over the rows with mask 1"
        )


def _evaluate(task: Task) -> Iterator[str]:
    """Yield problems with `evaluate` and with the metrics."""
    params, state = jax.jit(task.init)(_key(0))
    size = min(_ROWS, *(len(next(iter(p.values()))) for p in (task.train, task.valid)))
    batch = _batch(task.valid, size)

    def sums(batch: Batch) -> Any:
        evaluate = jax.jit(lambda p, s, b: task.evaluate(p, s, b))
        return evaluate(params, state, batch)

    call = "evaluate(params, state, batch)"
    result, problem = _tried(call, lambda: sums(batch))
    if problem:
        yield problem
        return
    if not isinstance(result, Mapping):
        yield f"{call} must return a dictionary of sums, not {type(result).__name__}"
        return
    nested = [name for name, value in result.items() if not hasattr(value, "dtype")]
    if nested:
        yield f"'{nested[0]}' of evaluate must be a number or an array"
        return
    missing = [name for name in ("loss", "count") if name not in result]
    if missing:
        yield f"{call} does not return '{missing[0]}'"
        return
    arrays = [name for name in ("loss", "count") if jnp.shape(result[name])]
    if arrays:
        yield f"'{arrays[0]}' of evaluate must be one number, a sum over rows"
        return
    if not _counts_itself(task, batch) and float(result["count"]) != size:
        yield (
            f"'count' of evaluate is {float(result['count']):g} for "
            f"{counted(size, 'row')} with "
            "mask 1: return the sum of the mask"
        )
    if not _finite(result):
        yield "evaluate gives numbers that are not finite for the initial parameters"
        return
    if not _same(result, sums(batch)):
        yield "evaluate is not deterministic: it gives other numbers for the same rows"
        return
    if size > 1:
        cut = size // 2
        rows = np.arange(size)
        first, second = (
            {**batch, "mask": jnp.asarray(m, jnp.float32)}
            for m in (rows < cut, rows >= cut)
        )
        added = jax.tree.map(lambda a, b: a + b, dict(sums(first)), dict(sums(second)))
        # A mean over all rows of a batch adds up over masks, but not over batches.
        padded, alone = sums(first), sums(_batch(task.valid, cut))
        for name in result:
            whole = _same(result[name], added[name])
            if not (whole and _same(padded[name], alone[name])):
                yield (
                    f"'{name}' of evaluate does not add up over parts of the data: "
                    "return the sum over the rows with mask 1, not a mean"
                )
        half = _half_masked(batch)
        if half and not _same(sums(half[0]), sums(half[1])):
            yield "evaluate counts rows with mask 0, which are padding"
    for metric in task.metrics:
        yield from _value(metric, result)


def _doubts(task: Task) -> Iterator[str]:
    """Yield what is odd about a task that works."""
    params, state = jax.jit(task.init)(_key(0))
    batch = _batch(task.train, min(task.batch_size, _ROWS))
    grads = jax.jit(jax.grad(lambda p: task.loss(p, state, _key(1), batch)[0]))(params)
    still = [
        jax.tree_util.keystr(path)
        for path, grad in jax.tree_util.tree_leaves_with_path(grads)
        if grad.size and not jnp.any(grad)
    ]
    if still:
        yield (
            f"no gradient reaches the parameters {cut(', '.join(still))} in the first "
            "batch: does the model use them?"
        )
    for name, array in task.train.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            continue
        values = np.asarray(array[:_LOOKED_AT], float)
        far = max(abs(values.mean()), values.std())
        if far > _FAR:
            yield (
                f"the numbers of train['{name}'] are far from 1 (mean "
                f"{values.mean():.3g}, deviation {values.std():.3g}): scaled to mean 0 "
                "and deviation 1 most models train better"
            )
    if task.num_classes and "labels" in task.train and "labels" in task.valid:
        unseen = np.setdiff1d(task.valid["labels"], task.train["labels"])
        if len(unseen):
            yield (
                f"{counted(len(unseen), 'class', 'classes')} of valid, such as "
                f"{unseen[0]}, do not occur in train"
            )
    if task.valid is not task.train:
        shared, looked_at = _shared_rows(task)
        if 2 * shared > looked_at:
            yield (
                f"{shared:,} of {looked_at:,} rows of valid are in train, too, so that "
                "validation does not show how a model does on new rows"
            )


def _shared_rows(task: Task) -> tuple[int, int]:
    """Count the first rows of valid that are among the first of train; and how many."""
    rows = []
    for part in (task.train, task.valid):
        arrays = [np.asarray(part[name][:_LOOKED_AT]) for name in sorted(part)]
        columns = [[row.tobytes() for row in array] for array in arrays]
        rows.append(list(zip(*columns, strict=True)))
    known = set(rows[0])
    return sum(row in known for row in rows[1]), len(rows[1])


def _counts_itself(task: Task, batch: Batch) -> bool:
    """Whether the loss returns its own count, because it is not a mean over rows.

    Args:
      task: the task.
      batch: its arrays [rows, ...] and a mask.
    """
    params, state = task.init(_key(0))
    metrics = jax.eval_shape(task.loss, params, state, _key(1), batch)[1][1]
    return "count" in metrics


def _value(metric: Metric, sums: Mapping[str, Any]) -> Iterator[str]:
    """Yield problems with a metric's value for some sums."""
    call = f"metric '{metric}': value(sums)"
    try:
        value = jax.jit(lambda sums: metric.value(sums))(dict(sums))
    except KeyError as error:
        yield f"{call} needs {error}, which evaluate does not return"
        return
    except Exception as error:  # the user's code may raise anything
        yield f"{call} fails under jit: {raised(error, 200)}"
        return
    if jnp.shape(value) or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        yield f"{call} must give one floating-point number, not {_kind_of(value)}"
    elif not np.isnan(value) and not (
        metric.least - _TOLERANCE <= float(value) <= metric.greatest + _TOLERANCE
    ):
        yield (
            f"{call} is {float(value):g}, and must be from {metric.least:g} to "
            f"{metric.greatest:g}"
        )


def _kind_of(value: Any) -> str:
    """Format dtype and shape for messages: 'float32[3]'."""
    return f"{jnp.result_type(value)}{list(jnp.shape(value))}"


def _key(number: int) -> jax.Array:
    return numerics.key(number)


def _batch(part: Batch, size: int) -> dict[str, jax.Array]:
    """The first rows of a part as a batch without padding."""
    batch = {k: jnp.asarray(v[:size]) for k, v in part.items()}
    return batch | {"mask": jnp.ones(size, jnp.float32)}


def _half_masked(batch: Batch) -> tuple[Batch, Batch] | None:
    """Two batches with the same first half and different padding in the second half.

    None if the batch is too small.

    Args:
      batch: leaves [rows, ...].
    """
    size = len(batch["mask"])
    if size < 4:
        return None
    cut = size // 2
    mask = jnp.asarray(np.arange(size) < cut, jnp.float32)
    at = np.r_[np.arange(cut), np.zeros(size - cut, int)]
    other = {k: v[at] for k, v in batch.items()} | {"mask": mask}
    return {**batch, "mask": mask}, other


def _tried(name: str, call: Callable[[], Any]) -> tuple[Any, str]:
    """Return the result of a call, and a message if it raised an exception."""
    try:
        return call(), ""
    except Exception as error:  # the user's code may raise anything
        return None, f"{name} fails under jit: {raised(error, 200)}"


def _kind(leaf: Any) -> tuple[Any, Any]:
    """Shape and dtype."""
    return jnp.shape(leaf), jnp.asarray(leaf).dtype


def _finite(tree: Any) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


def _same(left: Any, right: Any) -> bool:
    """Whether all leaves of two trees are equal up to rounding."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return all(
        np.allclose(a, b, rtol=_TOLERANCE, atol=1e-5, equal_nan=True) for a, b in pairs
    )


def _draws(function: Callable[[jax.Array], Any], key: jax.Array) -> bool:
    """Whether the result of a function depends on random numbers that it draws.

    Draws whose result is not used do not count: Flax's recurrent cells take a key for a
    state of zeros.

    Args:
      function: function of a random key.
      key: a key.
    """
    steps = jaxprs.live(jax.make_jaxpr(function)(key).jaxpr)
    return any(step.eqn.primitive.name in _RANDOM for step in steps)
