"""Training whose loop is the host's: a call of a compiled program for some steps.

For models that XLA trains many times slower inside of a loop (docs/design.md), a step a
call; and for a training part that stays on the host, a call for as many steps as one
transfer has batches for. The next batches are gathered and sent while the device works.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import compiler, evaluation, order, recalibration
from lrjax.core import Batch, PyTree
from lrjax.layout import described
from lrjax.prefetch import prefetched
from lrjax.train import Inputs, Program, RunState, observe, step_block

_SENT_BYTES = 2**25  # of batches in one transfer, about
_AHEAD = 2  # transfers that wait for the device, besides the one that it works on


def compile_host_loop(
    program: Program, shapes: RunState, example: Inputs
) -> tuple[Callable[..., Any], list[Any]]:
    """A `segment` whose loops are the host's, and its compiled programs.

    Args:
      program: static choices.
      shapes: of the block's state, with their shardings.
      example: inputs, or their shapes.
    """
    task, every, layout = program.task, program.eval_every, program.layout
    make = _streamed if task.streamed else _on_device
    advance, compiled = make(program, shapes, example)
    state, params, _ = jax.eval_shape(observe, shapes, 0)
    model, out = (params, shapes.model_state), None
    if layout:
        out = layout.of_state(state), layout.of_state(params), layout.whole
        model = described(params, out[1]), shapes.model_state
    observed = compiler.compile_once(
        jax.jit(observe, donate_argnums=0, out_shardings=out).lower(shapes, 0), params
    )
    evaluators = _evaluators(program, *model)
    programs = [compiled, *(each.of_piece for each in evaluators.values())]
    next_state = recalibration.next_state(program)
    if recalibration.recalibrates_state(shapes):
        batch = recalibration.calibration_batch(task.train, task.batch_size, 0)
        out = layout.of_state(shapes.model_state) if layout else None
        lowered = jax.jit(next_state, out_shardings=out).lower(*model, batch, 0)
        next_state = compiler.compile_step(lowered, params)
        programs.append(next_state)

    def run(state, inputs, train, valid, start, stop):
        table = []
        while start < stop:
            last = min(start + every, stop)
            state = advance(state, inputs, train, start, last)
            state, params, row = observed(state, last)
            model_state = recalibration.recalibrated(
                program, state, params, train, next_state
            )
            parts = evaluation.parts_to_measure(task, train, valid or train)
            row |= evaluation.measure(evaluators, params, model_state, parts)
            table.append(row)
            start = last
        return state, {k: jnp.stack([row[k] for row in table]) for k in table[0]}

    return run, programs


def _on_device(
    program: Program, shapes: RunState, example: Inputs
) -> tuple[Callable[..., Any], Any]:
    """Trains from one update to another, a call each; the data is on the device."""
    batch_size, fresh = program.task.batch_size, program.fresh_batches

    def update(state, inputs, train, step):
        n = len(next(iter(train.values())))
        rows, mask = order.batches(inputs.order[0], step, 1, batch_size, n, fresh)
        batch = {k: v[rows] for k, v in train.items()}  # of the one seed
        return step_block(program, state, batch, mask[0], inputs, step)

    out = program.layout.of_state(shapes) if program.layout else None
    lowered = jax.jit(update, donate_argnums=0, out_shardings=out).lower(
        shapes, example, program.task.train, 0
    )
    compiled = compiler.compile_step(lowered, shapes.params)

    def advance(state, inputs, train, start, stop):
        for step in range(start, stop):
            state = compiled(state, inputs, train, step)
        return state

    return advance, compiled


def _streamed(
    program: Program, shapes: RunState, example: Inputs
) -> tuple[Callable[..., Any], Any]:
    """As `_on_device`, for a training part on the host: batches are sent ahead."""
    task, fresh, seeds = program.task, program.fresh_batches, program.num_seeds
    size = sum(v[:1].nbytes for v in task.train.values()) * task.batch_size * seeds
    most = min(max(_SENT_BYTES // size, 1), program.eval_every)
    if program.one_by_one:
        most = 1
    layout = program.layout
    place = layout.along(2) if layout else None
    out = (layout.of_state(shapes), layout.whole) if layout else None

    def several(state, inputs, sent, mask, first, count):
        def one(i, state):
            batch = {k: v[:, i] for k, v in sent.items()}
            return step_block(program, state, batch, mask[i], inputs, first + i)

        if most == 1:  # without a loop, which may be slow
            return one(0, state), first + count
        return jax.lax.fori_loop(0, count, one, state), first + count

    def gather(words: np.ndarray, train: Batch, first: int):
        """The batches of `most` steps from `first` on, leaves [seeds, steps, rows]."""
        n = len(next(iter(train.values())))
        rows, mask = _rows(words, first, most, task.batch_size, n, fresh)
        return jax.device_put({k: v[rows] for k, v in train.items()}, place), mask

    example_sent, example_mask = gather(np.zeros((seeds, 2), np.uint32), task.train, 0)
    lowered = jax.jit(several, donate_argnums=0, out_shardings=out).lower(
        shapes, example, example_sent, example_mask, 0, 0
    )
    compiled = compiler.compile_step(lowered, shapes.params)

    def advance(state, inputs, train, start, stop):
        make = functools.partial(gather, np.asarray(inputs.order), train)
        firsts = range(start, stop, most)
        ends = collections.deque()
        for first, (sent, mask) in zip(firsts, prefetched(make, firsts), strict=True):
            count = min(most, stop - first)
            state, end = compiled(state, inputs, sent, mask, first, count)
            ends.append(end)
            if len(ends) > _AHEAD:  # what is sent takes memory until it is used
                jax.block_until_ready(ends.popleft())
        return state

    return advance, compiled


def _rows(
    words: np.ndarray, first: int, count: int, batch_size: int, n: int, fresh: bool
) -> tuple[np.ndarray, np.ndarray]:
    """As `order.batches` for several seeds, on the host while the device works."""
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        one = functools.partial(order.batches, count=count, batch_size=batch_size)
        made = [one(word, np.int32(first), n=n, fresh=fresh) for word in words]
    rows, mask = zip(*made, strict=True)
    return np.stack(rows), np.asarray(mask[0])


def _evaluators(
    program: Program, params: PyTree, model_state: PyTree
) -> dict[str, evaluation.Evaluator]:
    """How each part is measured, compiled.

    Args:
      program: static choices.
      params, model_state: shapes of what is evaluated, with their shardings.
    """
    task, found = program.task, {}
    for name, part in evaluation.parts_to_measure(task, task.train, task.valid).items():
        on_host = name == "train" and task.streamed
        evaluator = evaluation.evaluator(program, on_host)
        piece = next(iter(evaluator.pieces(part)))
        lowered = jax.jit(evaluator.of_piece).lower(params, model_state, *piece)
        compiled = compiler.compile_step(lowered, params)
        found[name] = evaluator._replace(of_piece=compiled)
    return found
