"""Training whose loop is the host's: a call of a compiled program for each step.

For models that XLA trains many times slower inside of a loop (docs/design.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lrjax import evaluation, order
from lrjax.train import Inputs, Program, RunState, observe, step_run


def compile_one_by_one(
    program: Program, shapes: RunState, example: Inputs
) -> tuple[Callable[..., Any], list[Any]]:
    """A `segment` of one run whose loops are the host's, and its compiled programs."""
    task, every, dtype = program.task, program.eval_every, program.dtype

    def update(state, inputs, train, step):
        n = len(next(iter(train.values())))
        rows, mask = order.batches(
            inputs.order[0], step, 1, task.batch_size, n, program.fresh_batches
        )
        batch = {k: v[rows[0]] for k, v in train.items()}
        batch["mask"] = mask[0].astype(dtype)
        run, hparams = jax.tree.map(lambda x: x[0, 0], state), inputs.hparams
        run = step_run(
            program,
            run,
            batch,
            jax.random.fold_in(inputs.noise[0], step),
            step,
            {name: value[0] for name, value in hparams.items()},
            inputs.horizon,
        )
        return jax.tree.map(lambda x: x[None, None], run)

    lowered = jax.jit(update, donate_argnums=0).lower(shapes, example, task.train, 0)
    updated = lowered.compile()
    observed = jax.jit(observe, donate_argnums=0).lower(shapes, 0).compile()
    _, params, _ = jax.eval_shape(observe, shapes, 0)
    evaluated = {
        name: evaluation.slice_sums.lower(
            task.evaluate,
            params,
            shapes.model_state,
            part,
            0,
            evaluation.rows_of_a_slice(task, part),
            dtype,
        ).compile()
        for name, part in evaluation.parts_to_measure(
            task, task.train, task.valid
        ).items()
    }
    programs = [updated, *evaluated.values()]
    one_more: Any = None
    if evaluation.recalibrates_state(shapes):
        one_more = evaluation.one_more_batch.lower(
            *(task.loss, task.batch_size, True),
            *(params, shapes.model_state, task.train, 0, dtype),
        ).compile()
        programs.append(one_more)

    def run(state, inputs, train, valid, start, stop):
        table = []
        while start < stop:
            last = min(start + every, stop)
            for step in range(start, last):
                state = updated(state, inputs, train, step)
            state, params, row = observed(state, last)
            model_state = evaluation.recalibrated(one_more, state, params, train)
            for name, part in evaluation.parts_to_measure(
                task, train, valid or train
            ).items():
                means = evaluation.evaluate_one_by_one(
                    evaluated[name], task, params, model_state, part
                )
                row |= {f"{name}_{k}": v for k, v in means.items()}
            table.append(row)
            start = last
        return state, {k: jnp.stack([row[k] for row in table]) for k in table[0]}

    return run, programs
