"""Exact metrics of the runs of a block over a part of the data.

`evaluator` chooses between two ways: one program for the whole part, where that is
fast and the data is on the device, or a program per slice of rows, whose sums are
added up.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import machine
from lrjax.core import (
    Batch,
    Metric,
    PyTree,
    Task,
    UsageError,
)
from lrjax.engine import strategy
from lrjax.engine.prefetch import prefetched
from lrjax.engine.sharding import Layout, with_shardings
from lrjax.engine.train import Program, num_rows, over_runs

# Rows evaluated at once, summed over the runs of a block. Linear models: as many as
# keep the logits in the CPU's cache (2**17 numbers), at least 64 per run. Networks,
# whose activations take most of the memory: the numbers below, off CPUs no more than
# make 2**26 numbers of the largest array (128 MB in bfloat16); on CPUs more, up to 64
# per run, while these numbers are at most 2**20, since a round of few rows takes longer
# to begin than to compute. Models whose one batch keeps the device busy: the rows of a
# batch, which fit since training needs them.
_LOGITS, _ROWS = 2**17, 64
_MULTIPLE = 16  # slices are padded to multiples of it: whole vectors of any CPU
_ROWS_ON_CPUS, _NUMBERS_ON_CPUS = 256, 2**20
_ROWS_ELSEWHERE, _NUMBERS = 8192, 2**26


def rows_at_once(task: Task, num_runs: int) -> int:
    """Rows that each run of a block of `num_runs` runs evaluates at once."""
    kind = strategy.kind_of(task)
    if kind == strategy.PRODUCTS:
        return max(task.batch_size // num_runs, 1)
    if kind == strategy.LINEAR:
        logits = max(task.num_classes, 1) * num_runs
        return max(_LOGITS // logits, _ROWS)
    widest = max(strategy.work_of(task).widest, 1)
    if machine.kind() == "cpu":
        fitting = _NUMBERS_ON_CPUS * task.batch_size // (widest * num_runs)
        return max(_ROWS_ON_CPUS // num_runs, min(fitting, _ROWS), 1)
    rows = min(_ROWS_ELSEWHERE, _NUMBERS * task.batch_size // widest)
    return max(rows // num_runs, 1)


# jit: one trace serves all methods that share a task and a block's shape.
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
    """Compute exact metrics of a whole part for all runs of a block.

    Args:
      evaluate, metrics: the task's function `evaluate` and its metrics.
      params, model_state: leaves [seeds, hparams, ...].
      part: arrays with one row per example.
      at_once: rows that are evaluated together.
      dtype: dtype of the mask.
      layout: devices that share the block, if it is sharded.

    Returns:
      metric name -> [seeds, hparams].
    """
    n = num_rows(part)
    slices, rows = _slices(n, at_once)
    padded = slices * rows - n

    def shaped(x: jax.Array) -> jax.Array:
        widths = [(0, padded)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, widths).reshape(slices, rows, *x.shape[1:])

    mask = jnp.arange(slices * rows) < n
    batches = {k: shaped(v) for k, v in part.items()}
    batches["mask"] = mask.reshape(slices, rows).astype(dtype)

    def slice_sums_of(batch: Batch) -> Mapping[str, jax.Array]:
        return _block_sums(evaluate, False, params, model_state, batch, layout)

    if slices == 1:
        sums = slice_sums_of(jax.tree.map(lambda x: x[0], batches))
    else:
        sums = jax.lax.map(slice_sums_of, batches)
        sums = jax.tree.map(lambda x: x.sum(0), sums)
    return values(metrics, sums)


def _slices(n: int, at_once: int) -> tuple[int, int]:
    """Number of slices of a part of n rows, and rows of each, the last one padded."""
    slices = -(-n // at_once)
    return slices, -(-n // (slices * _MULTIPLE)) * _MULTIPLE


def slice_shapes(program: Program, part: Batch) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of the batch that `Task.evaluate` gets in `evaluate_part`.

    Args:
      program: program of the block.
      part: arrays, or their shapes, with one row per example.
    """
    at_once = rows_at_once(program.task, program.num_seeds * program.num_hparams)
    _, rows = _slices(num_rows(part), at_once)
    batch = {
        k: jax.ShapeDtypeStruct((rows, *v.shape[1:]), v.dtype) for k, v in part.items()
    }
    return {**batch, "mask": jax.ShapeDtypeStruct((rows,), program.dtype)}


def values(
    metrics: tuple[Metric, ...], sums: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Compute a block's metrics from the sums of `Task.evaluate` over a whole part.

    Args:
      metrics: metrics of the task.
      sums: leaves [seeds, hparams, ...].

    Returns:
      metric name -> [seeds, hparams].
    """
    # Without the barrier XLA multiplies by the rounded reciprocal of a constant count,
    # and 41 correct of 41 is not 1.
    sums = {**sums, "count": jax.lax.optimization_barrier(sums["count"])}

    def of_run(sums: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {metric.name: value(metric, sums) for metric in metrics}

    return jax.vmap(jax.vmap(of_run))(sums)


def value(metric: Metric, sums: Mapping[str, jax.Array]) -> jax.Array:
    """Value of one metric of one run, from its sums.

    Args:
      metric: the metric.
      sums: name -> sum over the rows of a part, as `Task.evaluate` returns them.

    Raises:
      UsageError: if the metric needs a sum that `evaluate` does not return.
    """
    try:
        return metric.value(sums)
    except KeyError as error:
        raise UsageError(
            f"metric '{metric}' needs {error}, which evaluate does not return"
        ) from error


def _block_sums(
    evaluate: Callable[..., Mapping[str, jax.Array]],
    one_by_one: bool,
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    layout: Layout | None = None,
) -> Mapping[str, jax.Array]:
    """Sum over one batch for all runs of a block, leaves [seeds, hparams, ...].

    Args:
      evaluate: the task's function `evaluate`.
      one_by_one: whether the block is a single run.
      params, model_state: leaves [seeds, hparams, ...].
      batch: rows with their mask, the same for all runs.
      layout: devices that share the block, if it is sharded.
    """
    if layout:
        batch, params = layout.split_batch(batch), layout.gathered(params)

    def of_run(params: PyTree, model_state: PyTree) -> Mapping[str, jax.Array]:
        return evaluate(params, model_state, batch)

    return over_runs(of_run, one_by_one)(params, model_state)


batch_sums = jax.jit(_block_sums, static_argnames=("evaluate", "one_by_one", "layout"))


@functools.partial(jax.jit, static_argnames=("evaluate", "at_once", "dtype", "layout"))
def slice_sums(
    evaluate: Callable[..., Mapping[str, jax.Array]],
    params: PyTree,
    model_state: PyTree,
    part: Batch,
    first: jax.Array | int,
    at_once: int,
    dtype: Any,
    layout: Layout | None = None,
) -> Mapping[str, jax.Array]:
    """Sum over a slice of a part's rows, for a block of one run.

    Args:
      evaluate: the task's function `evaluate`.
      params, model_state: leaves [1, 1, ...].
      part: arrays with one row per example.
      first: index of the first row.
      at_once: length of the slice at most; rows past the end of the part are masked.
      dtype: dtype of the mask.
      layout: devices that share the block, if it is sharded.

    Returns:
      the sums of `evaluate`, leaves [1, 1, ...].
    """
    n, rows = _rows_and_slice(part, at_once)
    at = first + jnp.arange(rows)
    batch = {k: v[jnp.minimum(at, n - 1)] for k, v in part.items()}
    batch["mask"] = (at < n).astype(dtype)
    return _block_sums(evaluate, True, params, model_state, batch, layout)


class Evaluator(NamedTuple):
    """Evaluation of a part as calls of one program.

    Attributes:
      of_piece: the program, `of_piece(params, model_state, *piece)`; may be compiled
        ahead.
      pieces: `pieces(part)` yields the further arguments of each call.
      metrics: `metrics(results)` combines the results of all calls into metric name ->
        [seeds, hparams].
    """

    of_piece: Callable[..., Mapping[str, jax.Array]]
    pieces: Callable[[Batch], Iterable[tuple[Any, ...]]]
    metrics: Callable[[Iterable[Any]], Mapping[str, jax.Array]]

    def __call__(
        self, params: PyTree, model_state: PyTree, part: Batch
    ) -> Mapping[str, jax.Array]:
        """Compute exact metrics of a part, metric name -> [seeds, hparams].

        Args:
          params, model_state: leaves [seeds, hparams, ...].
          part: leaves [rows, ...].
        """
        pieces = self.pieces(part)
        return self.metrics(
            self.of_piece(params, model_state, *piece) for piece in pieces
        )


def evaluator(program: Program, on_host: bool = False) -> Evaluator:
    """Choose how a block of runs is evaluated.

    Args:
      program: program of the block.
      on_host: whether the part stays on the host and is sent slice by slice.
    """
    task, dtype, layout = program.task, program.dtype, program.layout
    at_once = rows_at_once(task, program.num_seeds * program.num_hparams)

    def slices(part: Batch) -> Iterator[tuple[Batch, int]]:
        n, rows = _rows_and_slice(part, at_once)
        return ((part, first) for first in range(0, n, rows))

    def summed(sums: Iterable[Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
        return values(task.metrics, functools.reduce(_add, sums))

    if on_host:
        of_batch = functools.partial(
            batch_sums, task.evaluate, program.one_by_one, layout=layout
        )
        place = layout.replicated if layout else None
        send = functools.partial(_sent_slices, at_once, dtype, place)
        return Evaluator(of_batch, send, summed)
    options = {"at_once": at_once, "dtype": dtype, "layout": layout}
    if program.one_by_one:
        of_slice = functools.partial(slice_sums, task.evaluate, **options)
        return Evaluator(of_slice, slices, summed)
    whole = functools.partial(evaluate_part, task.evaluate, task.metrics, **options)
    return Evaluator(whole, lambda part: [(part,)], lambda results: next(iter(results)))


def compile_ahead(
    program: Program, params: PyTree, model_state: PyTree, part: Batch
) -> None:
    """Compile what `evaluate_models` calls, where that is one program on one device.

    Args:
      program: program of the block.
      params, model_state: shapes and types, leaves [seeds, hparams, ...].
      part: leaves [rows, ...].
    """
    whole, device = evaluator(program).of_piece, _device_of(program, part)
    if device and isinstance(whole, functools.partial) and whole.func is evaluate_part:
        models = with_shardings((params, model_state), device)
        arguments = (*whole.args, *models, part)
        evaluate_part.lower(*arguments, **whole.keywords).compile()


def evaluate_models(
    program: Program, params: PyTree, model_state: PyTree, part: Batch
) -> Mapping[str, jax.Array]:
    """Compute exact metrics of trained models over a part, name -> [seeds, hparams].

    Args:
      program: program of the block.
      params, model_state: leaves [seeds, hparams, ...].
      part: leaves [rows, ...].
    """
    if device := _device_of(program, part):  # else JAX would compile another program
        params, model_state = jax.device_put((params, model_state), device)
    return evaluator(program)(params, model_state, part)


def _device_of(program: Program, part: Batch) -> jax.sharding.Sharding | None:
    """The device that holds a part; None on hosts, and if devices share blocks."""
    array = jax.tree.leaves(part)[0]
    here = isinstance(array, jax.Array) and not program.layout
    return array.sharding if here else None


def _rows_and_slice(part: Batch, at_once: int) -> tuple[int, int]:
    """Rows of a part, and rows of one slice of it."""
    n = num_rows(part)
    return n, min(at_once, n)


def _add(a: PyTree, b: PyTree) -> PyTree:
    """Add two trees of the same structure."""
    return jax.tree.map(jnp.add, a, b)


def _sent_slices(
    at_once: int, dtype: Any, place: Any, part: Batch
) -> Iterator[tuple[Batch]]:
    """Send a part from the host to the device in slices; the last one is padded.

    Args:
      at_once: rows of a slice.
      dtype: dtype of the mask.
      place: device or sharding to send to; None for the default device.
      part: on the host, leaves [rows, ...].
    """
    n, rows = _rows_and_slice(part, at_once)

    def send(first: int) -> tuple[Batch]:
        """Send the slice that starts at row `first`."""
        at = np.arange(first, first + rows)
        batch = {k: v[np.minimum(at, n - 1)] for k, v in part.items()}
        batch["mask"] = (at < n).astype(dtype)
        return (jax.device_put(batch, place),)

    return prefetched(send, range(0, n, rows))


def parts_to_measure(task: Task, train: Batch, valid: Batch) -> dict[str, Batch]:
    """The parts to measure at each evaluation, by name.

    One part only where training and validation data are the same object. The training
    part is limited to the task's `measured_rows`.

    Args:
      task: the task.
      train, valid: its parts, leaves [rows, ...].
    """
    if valid is train:
        return {"train": train}
    if task.measured_rows is not None:
        train = {k: v[: task.measured_rows] for k, v in train.items()}
    return {"train": train, "valid": valid}


def measure(
    evaluators: Mapping[str, Evaluator],
    params: PyTree,
    model_state: PyTree,
    parts: Mapping[str, Batch],
) -> dict[str, jax.Array]:
    """Compute the metrics of several parts.

    Args:
      evaluators: part name -> how it is evaluated.
      params, model_state: leaves [seeds, hparams, ...].
      parts: part name -> its data.

    Returns:
      'PART_METRIC' -> [seeds, hparams].
    """
    return {
        f"{name}_{metric}": value
        for name, part in parts.items()
        for metric, value in evaluators[name](params, model_state, part).items()
    }
