"""Batch-norm statistics for the parameters that are judged.

They belong to the parameters that gradients are taken at. A method that averages
parameters judges others (schedule_free's issue 60), so their statistics are made anew
from some batches at each measurement; training continues with its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import numerics, optim
from lrjax.core import Batch, Method, PyTree, Task
from lrjax.train import Program, RunState, over_runs

_BATCHES = 50  # as the official code of schedule-free advises


def recalibrates(task: Task, method: Method, hparams: Mapping[str, Any]) -> bool:
    """Whether a model's state is made anew for the parameters that are judged.

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


def next_state(program: Program) -> Callable[[PyTree, PyTree, Batch, Any], PyTree]:
    """`function(params, model_state, batch, number)`, the model's state after a batch.

    Args:
      program: of the block whose parameters and states, leaves [seeds, hparams, ...],
        the function takes, with batch `number` of `calibration_batch`.
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
    """A block's model states after a batch; all runs get the same random numbers."""
    mask = jnp.ones(len(next(iter(batch.values()))), dtype)
    batch = {**batch, "mask": mask}
    key = jax.random.fold_in(numerics.key(0), number)

    def of_run(params: PyTree, model_state: PyTree) -> PyTree:
        return loss(params, model_state, key, batch)[1][0]

    return over_runs(of_run, one_by_one)(params, model_state)


def loop_on_host(first: int, stop: int, body: Callable[..., Any], value: Any) -> Any:
    """As `jax.lax.fori_loop`, with a call of `body` from the host for each turn."""
    for number in range(first, stop):
        value = body(number, value)
    return value


def recalibrated(
    program: Program,
    state: RunState,
    params: PyTree,
    train: Batch,
    next_state: Callable[[PyTree, PyTree, Batch, Any], PyTree],
    loop: Callable[..., Any] = loop_on_host,
) -> PyTree:
    """The model states to evaluate a block with: its own where none is made anew.

    Args:
      program: of the block.
      state: of the block.
      params: to evaluate, leaves [seeds, hparams, ...].
      train: the training part.
      next_state: as from `next_state`; may be compiled ahead.
      loop: `jax.lax.fori_loop` inside of a program.
    """

    def body(number: Any, model_state: PyTree) -> PyTree:
        batch = calibration_batch(train, program.task.batch_size, number)
        return next_state(params, model_state, batch, number)

    if not recalibrates_state(state):
        return state.model_state
    return loop(0, _BATCHES, body, state.model_state)
