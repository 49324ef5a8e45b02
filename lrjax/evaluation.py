"""What runs are worth: exact values over a part of the data, at `eval_params`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import numerics, optim, strategy
from lrjax.core import Batch, Method, Metric, PyTree, Task, UsageError
from lrjax.layout import Layout
from lrjax.train import RunState

RECALIBRATION_BATCHES = 50  # as the official code of schedule-free advises
# Rows of a block that are evaluated at once, in all its lanes together. Linear models:
# as many rows as keep the logits in a cache (2**17), at least 64. Networks, whose
# activations take most of the memory: the numbers of rows below. Where one batch keeps
# the device busy: as many rows as a batch has, for which there is room.
_LOGITS, _ROWS = 2**17, 64
_MULTIPLE = 16  # rows are padded to it: whole vectors of any CPU
_ROWS_OF_NETWORKS = {"cpu": 256}
_ROWS_ELSEWHERE = 8192


def rows_at_once(task: Task, lanes: int) -> int:
    """How many rows of a part are evaluated at once, in each of a block's lanes."""
    kind = strategy.kind_of(task)
    if kind == strategy.PRODUCTS:
        return max(task.batch_size // lanes, 1)
    if kind == strategy.LINEAR:
        logits = max(task.num_classes, 1) * lanes
        return max(_LOGITS // logits, _ROWS)
    rows = _ROWS_OF_NETWORKS.get(jax.default_backend(), _ROWS_ELSEWHERE)
    return max(rows // lanes, 1)


# Traced once for all methods that share a task and a block's shape.
@functools.partial(
    jax.jit, static_argnames=("evaluate", "metrics", "at_once", "dtype", "layout")
)
def evaluate_part(
    evaluate: Callable[..., Mapping[str, jax.Array]],
    metrics: tuple[Metric, ...],
    params: PyTree,
    model_state: PyTree,
    part: Batch,
    at_once: int,
    dtype: Any,
    layout: Layout | None = None,
) -> dict[str, jax.Array]:
    """Exact metrics of a whole part, for a block of runs.

    Args:
      evaluate, metrics: of the task.
      params, model_state: leaves [seeds, hparams, ...].
      part: arrays with one row per example.
      at_once: rows that are evaluated together.
      dtype: of the mask.
      layout: devices that share the block.

    Returns:
      name of a metric -> [seeds, hparams].
    """
    n = len(next(iter(part.values())))
    slices = -(-n // at_once)
    rows = -(-n // (slices * _MULTIPLE)) * _MULTIPLE
    padded = slices * rows - n

    def shaped(x: jax.Array) -> jax.Array:
        widths = [(0, padded)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, widths).reshape(slices, rows, *x.shape[1:])

    mask = jnp.arange(slices * rows) < n
    batches = {k: shaped(v) for k, v in part.items()}
    batches["mask"] = mask.reshape(slices, rows).astype(dtype)

    def one(batch: Batch) -> Mapping[str, jax.Array]:
        batch = layout.cut(batch) if layout else batch
        of_runs = jax.vmap(jax.vmap(evaluate, (0, 0, None)), (0, 0, None))
        return of_runs(params, model_state, batch)

    if slices == 1:
        sums = one(jax.tree.map(lambda x: x[0], batches))
    else:
        sums = jax.lax.map(one, batches)
        sums = jax.tree.map(lambda x: x.sum(0), sums)
    return values(metrics, sums)


def values(
    metrics: tuple[Metric, ...], sums: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Metrics of a block, from what `Task.evaluate` summed up over a whole part.

    Args:
      metrics: of the task.
      sums: leaves [seeds, hparams, ...].

    Returns:
      name -> [seeds, hparams].
    """
    # XLA would multiply by a constant's rounded reciprocal: 41 of 41 would not be 1.
    sums = {**sums, "count": jax.lax.optimization_barrier(sums["count"])}

    def one(sums: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {metric.name: _value(metric, sums) for metric in metrics}

    return jax.vmap(jax.vmap(one))(sums)


def _value(metric: Metric, sums: Mapping[str, jax.Array]) -> jax.Array:
    try:
        return metric.value(sums)
    except KeyError as error:
        raise UsageError(
            f"metric '{metric}' needs {error}, which evaluate does not return"
        ) from error


@functools.partial(jax.jit, static_argnames=("evaluate", "rows", "dtype", "layout"))
def slice_sums(evaluate, params, model_state, part, first, rows, dtype, layout=None):
    """`evaluate` of one run, leaves [1, 1, ...], over some rows from `first` on."""
    n = len(next(iter(part.values())))
    at = first + jnp.arange(rows)
    batch = {k: v[jnp.minimum(at, n - 1)] for k, v in part.items()}
    batch["mask"] = (at < n).astype(dtype)
    batch = layout.cut(batch) if layout else batch
    one = evaluate(*jax.tree.map(lambda x: x[0, 0], (params, model_state)), batch)
    return {k: v[None, None] for k, v in one.items()}


def rows_of_a_slice(task: Task, part: Batch) -> int:
    """How many rows of a part `slice_sums` takes at once."""
    return min(rows_at_once(task, 1), len(next(iter(part.values()))))


def evaluate_one_by_one(
    slice_sums: Callable[..., Any],
    task: Task,
    params: PyTree,
    model_state: PyTree,
    part: Batch,
) -> dict[str, jax.Array]:
    """As `evaluate_part`, for one run and with a call of `slice_sums` per slice."""
    n, rows = len(next(iter(part.values()))), rows_of_a_slice(task, part)
    slices = [
        slice_sums(params, model_state, part, first) for first in range(0, n, rows)
    ]
    return values(task.metrics, functools.reduce(add, slices))


def add(a: PyTree, b: PyTree) -> PyTree:
    """The sum of two trees of the same shape."""
    return jax.tree.map(jnp.add, a, b)


@functools.partial(jax.jit, static_argnames=("evaluate", "one_by_one"))
def batch_sums(evaluate, one_by_one, params, model_state, batch):
    """`evaluate` of a block, leaves [seeds, hparams, ...], over one batch of rows."""
    if one_by_one:
        run = jax.tree.map(lambda x: x[0, 0], (params, model_state))
        return {k: v[None, None] for k, v in evaluate(*run, batch).items()}
    one = jax.vmap(jax.vmap(evaluate, (0, 0, None)), (0, 0, None))
    return one(params, model_state, batch)


def parts_to_measure(task: Task, train: Batch, valid: Batch) -> dict[str, Batch]:
    """The parts to measure; once where both are the same."""
    if valid is train:
        return {"train": train}
    if task.measured_rows is not None:
        train = {k: v[: task.measured_rows] for k, v in train.items()}
    return {"train": train, "valid": valid}


def recalibrates(task: Task, method: Method, hparams: Mapping[str, Any]) -> bool:
    """Whether a model's state is made anew for the parameters that are judged.

    Batch-norm statistics are of the parameters that gradients are taken at; a method
    that averages parameters judges others (schedule_free's issue 60).

    Args:
      task: whose model may have a state.
      method: which may judge other parameters.
      hparams: a value for every hyperparameter of it.
    """
    params, model_state = jax.eval_shape(task.init, numerics.key(0))
    if not jax.tree.leaves(model_state):
        return False
    opt_state = jax.eval_shape(method.build(1.0, **hparams).init, params)
    return optim.evaluates_elsewhere(opt_state)


def recalibrates_state(state: RunState) -> bool:
    """As `recalibrates`, of a state of a run or of a block."""
    has_state = bool(jax.tree.leaves(state.model_state))
    return has_state and optim.evaluates_elsewhere(state.opt_state)


def calibration_batch(train: Batch, batch_size: int, number: Any) -> dict[str, Any]:
    """Batch `number` of those that recalibrate: rows from all over the part."""
    n = len(next(iter(train.values())))
    rows = (np.arange(batch_size) * n // batch_size + number) % n
    return {k: v[rows] for k, v in train.items()}


@functools.partial(jax.jit, static_argnames=("loss", "one_by_one", "dtype"))
def one_more_batch(
    loss: Callable[..., Any],
    one_by_one: bool,
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    number: jax.Array | int,
    dtype: Any,
) -> PyTree:
    """A block's model states after one more batch at the parameters to judge.

    What is random draws the same for every run. Leaves [seeds, hparams, ...].
    """
    mask = jnp.ones(len(next(iter(batch.values()))), dtype)
    batch = {**batch, "mask": mask}
    key = jax.random.fold_in(numerics.key(0), number)

    def one(params: PyTree, model_state: PyTree) -> PyTree:
        return loss(params, model_state, key, batch)[1][0]

    if one_by_one:
        run = jax.tree.map(lambda x: x[0, 0], (params, model_state))
        return jax.tree.map(lambda x: x[None, None], one(*run))
    return jax.vmap(jax.vmap(one))(params, model_state)


def recalibrated(
    one_more: Callable[[PyTree, PyTree, Batch, int], PyTree],
    state: RunState,
    params: PyTree,
    train: Batch,
    batch_size: int,
) -> PyTree:
    """A block's model states for `params`, with the loop of the host if there is one.

    Training goes on with its own.
    """
    model_state = state.model_state
    if recalibrates_state(state):
        for number in range(RECALIBRATION_BATCHES):
            batch = calibration_batch(train, batch_size, number)
            model_state = one_more(params, model_state, batch, number)
    return model_state
