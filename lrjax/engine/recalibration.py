"""Recomputed batch-norm statistics for evaluation at averaged parameters.

Batch-norm statistics belong to the parameters at which gradients are taken. A method
that averages parameters is evaluated at others (schedule_free's issue 60), so their
statistics are recomputed from some batches at each measurement; training continues
with its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import optim
from lrjax.common import numerics
from lrjax.core import (
    Batch,
    Method,
    PyTree,
    Task,
)
from lrjax.engine import order, strategy
from lrjax.engine.train import (
    BlockState,
    Program,
    model_states,
    num_rows,
    over_runs,
)

_BATCHES = 50  # number of batches advised by schedule-free's official code


def recalibrates(task: Task, method: Method, hparams: Mapping[str, Any]) -> bool:
    """Whether a model's state is recomputed for evaluation.

    Args:
      task: whose model may have a state.
      method: which may be evaluated at other parameters than it trains.
      hparams: a value for each of its hyperparameters.
    """
    params, model_state = strategy.model_shapes(task.init)
    if not jax.tree.leaves(model_state):
        return False
    opt_state = jax.eval_shape(method.build(1.0, **hparams).init, params)
    return optim.evaluates_elsewhere(opt_state)


def recalibrates_state(state: BlockState) -> bool:
    """Decide as `recalibrates`, from the state of a block.

    Runs with and without recalibration are never in one block.
    """
    has_state = bool(jax.tree.leaves(state[0].model_state))
    return has_state and optim.evaluates_elsewhere(state[0].opt_state)


def calibration_batch(train: Batch, batch_size: int, number: Any) -> dict[str, Any]:
    """Batch `number` for recalibration: rows spread evenly over the part.

    Args:
      train: the training part, leaves [rows, ...].
      batch_size: rows of the batch.
      number: number of the batch, from 0.
    """
    n = num_rows(train)
    rows = (np.arange(batch_size) * n // batch_size + number) % n
    return order.taken(train, rows, train)


def next_state(program: Program) -> Callable[[PyTree, PyTree, Batch, Any], PyTree]:
    """Return the function that advances a block's model states by one batch.

    Args:
      program: program of the block.

    Returns:
      `function(params, model_state, batch, number) -> model_state`, with leaves [seeds,
      hparams, ...] and batch `number` of `calibration_batch`.
    """
    return functools.partial(
        _next_state,
        loss=program.task.loss,
        one_by_one=program.one_by_one,
        dtype=program.dtype,
    )


@functools.partial(jax.jit, static_argnames=("loss", "one_by_one", "dtype"))
def _next_state(
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    number: jax.Array | int,
    *,
    loss: Callable[..., Any],
    one_by_one: bool,
    dtype: Any,
) -> PyTree:
    """Model states of a block after one batch; all runs use the same random numbers.

    Args:
      params, model_state: leaves [seeds, hparams, ...].
      batch: leaves [rows, ...], without a mask.
      number: number of the batch, which gives the random key.
      loss: `Task.loss`.
      one_by_one, dtype: as in `train.Program`.
    """
    mask = jnp.ones(num_rows(batch), dtype)
    batch = {**batch, "mask": mask}
    key = jax.random.fold_in(numerics.key(0), number)

    def of_run(params: PyTree, model_state: PyTree) -> PyTree:
        return loss(params, model_state, key, batch)[1][0]

    return over_runs(of_run, one_by_one)(params, model_state)


def loop_on_host(first: int, stop: int, body: Callable[..., Any], value: Any) -> Any:
    """Loop as `jax.lax.fori_loop` does, calling `body` from the host.

    Args:
      first, stop: range of the numbers.
      body: `body(number, value) -> value`.
      value: where to start.
    """
    for number in range(first, stop):
        value = body(number, value)
    return value


def recalibrated(
    program: Program,
    state: BlockState,
    params: PyTree,
    train: Batch,
    next_state: Callable[[PyTree, PyTree, Batch, Any], PyTree],
    loop: Callable[..., Any] = loop_on_host,
) -> PyTree:
    """The model states to evaluate a block with, recomputed where necessary.

    Args:
      program: program of the block.
      state: state of the block.
      params: parameters to evaluate, leaves [seeds, hparams, ...].
      train: the training part.
      next_state: as returned by `next_state`; may be compiled ahead.
      loop: `jax.lax.fori_loop` inside a compiled program.

    Returns:
      leaves [seeds, hparams, ...]; the block's own where `recalibrates_state` is False.
    """

    def body(number: Any, model_state: PyTree) -> PyTree:
        batch = calibration_batch(train, program.task.batch_size, number)
        return next_state(params, model_state, batch, number)

    model_state = model_states(state)
    if not recalibrates_state(state):
        return model_state
    return loop(0, _BATCHES, body, model_state)
