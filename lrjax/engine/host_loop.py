"""Training with the loop on the host: each call of a compiled program does some steps.

Two cases need it. Models that XLA trains many times slower inside a loop
(docs/design.md) get one call per step. A training part that stays on the host gets one
call per transfer of batches; the next batches are gathered and sent while the device
works.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.core import Batch, PyTree
from lrjax.engine import (
    evaluation,
    order,
    recalibration,
    xla_options,
)
from lrjax.engine.prefetch import prefetched
from lrjax.engine.sharding import with_shardings
from lrjax.engine.train import (
    BlockState,
    Inputs,
    Program,
    model_states,
    num_rows,
    observe,
    step_block,
)

_SENT_BYTES = 2**25  # approximate size of one transfer of batches
_AHEAD = 2  # transfers queued on the device besides the one in use


def compile_host_loop(
    program: Program, shapes: BlockState, example: Inputs
) -> tuple[Callable[..., Any], list[Any]]:
    """Compile the host's version of `programs.segment`.

    Args:
      program: static choices.
      shapes: shapes and dtypes of the block's state, with their shardings.
      example: inputs, or their shapes.

    Returns:
      a function `run(state, inputs, train, valid, start, stop)` that returns what
      `programs.segment` does, and the compiled programs that it calls.
    """
    task, every, layout = program.task, program.eval_every, program.layout
    compile_advance = _streamed if task.streamed else _on_device
    advance, compiled = compile_advance(program, shapes, example)
    state, params, _ = jax.eval_shape(observe, shapes, 0)
    model_state = jax.eval_shape(model_states, shapes)
    out = None
    if layout:
        out = layout.of_block(state), layout.of_block(params), layout.replicated
        params = with_shardings(params, out[1])
        model_state = with_shardings(model_state, layout.of_block(model_state))
    observed = xla_options.compile_once(
        jax.jit(observe, donate_argnums=0, out_shardings=out).lower(shapes, 0), params
    )
    evaluators = _evaluators(program, params, model_state)
    programs = [compiled, *(part.of_piece for part in evaluators.values())]
    next_state = recalibration.next_state(program)
    if recalibration.recalibrates_state(shapes):
        batch = recalibration.calibration_batch(task.train, task.batch_size, 0)
        out = layout.of_block(model_state) if layout else None
        lowered = jax.jit(next_state, out_shardings=out).lower(
            params, model_state, batch, 0
        )
        next_state = xla_options.compile_step(lowered, params)
        programs.append(next_state)

    def run(state, inputs, train, valid, start, stop):
        """Train a segment as `programs.segment` does, with a loop on the host."""
        table = []
        while start < stop:
            end = min(start + every, stop)
            state = advance(state, inputs, train, start, end)
            state, params, row = observed(state, end)
            model_state = recalibration.recalibrated(
                program, state, params, train, next_state
            )
            parts = evaluation.parts_to_measure(task, train, valid or train)
            row |= evaluation.measure(evaluators, params, model_state, parts)
            table.append(row)
            start = end
        return state, {k: jnp.stack([row[k] for row in table]) for k in table[0]}

    return run, programs


def _on_device(
    program: Program, shapes: BlockState, example: Inputs
) -> tuple[Callable[..., Any], Any]:
    """Compile training with one call per update, from data on the device.

    Args:
      program, shapes, example: as for `compile_host_loop`.

    Returns:
      `advance(state, inputs, train, start, stop)`, which returns the new state, and the
      compiled program.
    """
    batch_size, fresh = program.task.batch_size, program.fresh_batches

    def update(state, inputs, train, step):
        """Train the block by the batch of update `step`."""
        n = num_rows(train)
        rows, mask = order.batches(inputs.order[0], step, 1, batch_size, n, fresh)
        shared = program.layout is not None
        batch = order.taken(train, rows, train, shared)  # the block has one seed
        return step_block(program, state, batch, mask[0], inputs, step)

    out = program.layout.of_block(shapes) if program.layout else None
    lowered = jax.jit(update, donate_argnums=0, out_shardings=out).lower(
        shapes, example, program.task.train, 0
    )
    compiled = xla_options.compile_step(lowered, shapes[0].params)

    def advance(state, inputs, train, start, stop):
        for step in range(start, stop):
            state = compiled(state, inputs, train, step)
        return state

    return advance, compiled


def _streamed(
    program: Program, shapes: BlockState, example: Inputs
) -> tuple[Callable[..., Any], Any]:
    """Compile training from a part on the host, whose batches are sent ahead.

    Args:
      program, shapes, example: as for `compile_host_loop`.

    Returns:
      as `_on_device`.
    """
    task, fresh, seeds = program.task, program.fresh_batches, program.num_seeds
    size = sum(v[:1].nbytes for v in task.train.values()) * task.batch_size * seeds
    per_call = min(max(_SENT_BYTES // size, 1), program.eval_every)
    if program.one_by_one:
        per_call = 1
    layout = program.layout
    place = layout.split_along(2) if layout else None
    out = (layout.of_block(shapes), layout.replicated) if layout else None

    def steps_of_call(state, inputs, sent, mask, first, count):
        """Train by `count` batches; return the state and the number of updates done."""

        def one_step(i, state):
            batch = {k: v[:, i] for k, v in sent.items()}
            return step_block(program, state, batch, mask[i], inputs, first + i)

        if per_call == 1:  # some models are slow inside a loop
            return one_step(0, state), first + count
        return jax.lax.fori_loop(0, count, one_step, state), first + count

    def gather(words: np.ndarray, train: Batch, first: int):
        """Send the batches of a call from `first` on, leaves [seeds, steps, rows]."""
        n = num_rows(train)
        rows, mask = _rows(words, first, per_call, task.batch_size, n, fresh)
        return jax.device_put({k: v[rows] for k, v in train.items()}, place), mask

    example_sent, example_mask = gather(np.zeros((seeds, 2), np.uint32), task.train, 0)
    lowered = jax.jit(steps_of_call, donate_argnums=0, out_shardings=out).lower(
        shapes, example, example_sent, example_mask, 0, 0
    )
    compiled = xla_options.compile_step(lowered, shapes[0].params)

    def advance(state, inputs, train, start, stop):
        """Train from update `start` to `stop`, sending batches ahead."""
        make = functools.partial(gather, np.asarray(inputs.order), train)
        firsts = range(start, stop, per_call)
        ends = collections.deque()
        for first, (sent, mask) in zip(firsts, prefetched(make, firsts), strict=True):
            count = min(per_call, stop - first)
            state, end = compiled(state, inputs, sent, mask, first, count)
            ends.append(end)
            if len(ends) > _AHEAD:  # batches hold device memory until they are used
                jax.block_until_ready(ends.popleft())
        return state

    return advance, compiled


def _rows(
    words: np.ndarray, first: int, count: int, batch_size: int, n: int, fresh: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Compute `order.batches` for several seeds on the host's CPU.

    The accelerator keeps working meanwhile.

    Args:
      words: uint32 [seeds, 2], keys of the data order.
      first: number of the first update.
      count: number of batches.
      batch_size: rows per batch.
      n: rows of the training part.
      fresh: whether each batch is drawn anew, as in `order.batches`.

    Returns:
      rows int32 [seeds, count, batch_size], and mask bool [count, batch_size].
    """
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        of_seed = functools.partial(
            order.batches, count=count, batch_size=batch_size, n=n, fresh=fresh
        )
        batches = [of_seed(word, np.int32(first)) for word in words]
    rows, mask = zip(*batches, strict=True)
    return np.stack(rows), np.asarray(mask[0])


def _evaluators(
    program: Program, params: PyTree, model_state: PyTree
) -> dict[str, evaluation.Evaluator]:
    """Compile the evaluator of each measured part.

    Args:
      program: static choices.
      params, model_state: shapes of the evaluated model, with their shardings.

    Returns:
      part name -> its evaluator.
    """
    task, evaluators = program.task, {}
    for name, part in evaluation.parts_to_measure(task, task.train, task.valid).items():
        on_host = name == "train" and task.streamed
        evaluator = evaluation.evaluator(program, on_host)
        piece = next(iter(evaluator.pieces(part)))
        lowered = jax.jit(evaluator.of_piece).lower(params, model_state, *piece)
        compiled = xla_options.compile_step(lowered, params)
        evaluators[name] = evaluator._replace(of_piece=compiled)
    return evaluators
