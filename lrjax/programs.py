"""The compiled programs of a block of runs, and training by them.

A segment is a loop over rounds of `eval_every` steps and a measurement. How many
rounds, where they start and end, are traced values.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import (
    compiler,
    evaluation,
    host_loop,
    numerics,
    order,
    recalibration,
    strategy,
)
from lrjax.core import Batch, PyTree
from lrjax.layout import described
from lrjax.train import (
    Inputs,
    Program,
    RunState,
    Seeds,
    final_params,
    init,
    init_run,
    observe,
    step_block,
)

MAX_ROUNDS = 128  # most rounds of a segment: rows of its table of measurements
_SEGMENT_SECONDS = 0.5  # aim for a segment: the pace of progress bar and curves
_FIRST_SEGMENT_FLOATS = 10**7  # updates of a segment times numbers of a block's state


def segment(
    program: Program,
    state: RunState,
    inputs: Inputs,
    train: Batch,
    valid: Batch,
    start: jax.Array,
    stop: jax.Array,
) -> tuple[RunState, dict[str, jax.Array]]:
    """Trains a block from update `start` to `stop`, measuring every `eval_every`.

    Args:
      program: static choices.
      state: of the block.
      inputs: order, noise, hyperparameters and horizon.
      train, valid: the parts to train on and to validate with; the same object
        where the protocol makes no difference.
      start: int, updates done so far, a multiple of `eval_every`.
      stop: int, where to stop; the last round may be short.

    Returns:
      The new state, and name -> [MAX_ROUNDS, seeds, hparams] with the rows of the
      rounds that were made.
    """
    task, every = program.task, program.eval_every
    n = len(next(iter(train.values())))
    evaluator = evaluation.evaluator(program)
    next_state = recalibration.next_state(program)

    def rows_of(key_words: jax.Array, first: jax.Array):
        return order.batches(
            key_words, first, every, task.batch_size, n, program.fresh_batches
        )

    @jax.jit  # traced once for the shapes of the table and for the loop
    def measure(state: RunState, step: jax.Array):
        state, params, row = observe(state, step)
        model_state = recalibration.recalibrated(
            program, state, params, train, next_state, jax.lax.fori_loop
        )
        parts = evaluation.parts_to_measure(task, train, valid)
        evaluators = dict.fromkeys(parts, evaluator)
        row |= evaluation.measure(evaluators, params, model_state, parts)
        return state, row

    def round_(r, carry):
        state, table = carry
        first = start + r * every
        rows, mask = jax.vmap(rows_of, (0, None), (0, None))(inputs.order, first)

        def one_step(i, state):
            batch = {k: v[rows[:, i]] for k, v in train.items()}
            return step_block(program, state, batch, mask[i], inputs, first + i)

        last = jnp.minimum(first + every, stop)
        state = jax.lax.fori_loop(0, last - first, one_step, state)
        state, row = measure(state, last)
        table = {k: table[k].at[r].set(row[k].astype(table[k].dtype)) for k in table}
        return state, table

    shapes = jax.eval_shape(measure, state, start)[1]
    table = {k: jnp.zeros((MAX_ROUNDS, *v.shape), v.dtype) for k, v in shapes.items()}
    rounds = (stop - start + every - 1) // every
    return jax.lax.fori_loop(0, rounds, round_, (state, table))


def _placed(program: Program, tree: PyTree) -> PyTree:
    """Arrays that all devices of a block need, on each of them."""
    return jax.device_put(tree, program.layout.whole) if program.layout else tree


class Measurements(NamedTuple):
    """What a segment measured, on the host.

    Attributes:
      steps: update counts at which was measured, [rounds].
      values: name -> [rounds, seeds, hparams].
      seconds: how long the segment took.
      state: of the block after the segment, where it may be kept: at the end, and
        when `train` was asked to pause. The next segment takes its memory.
    """

    steps: np.ndarray
    values: dict[str, np.ndarray]
    seconds: float
    state: RunState | None


class Compiled(NamedTuple):
    """The programs of a block, ready to run.

    Attributes:
      init: `init(seeds, inputs) -> state`.
      segment: as `segment`, without the program.
      state: shapes and types of the block's state.
      need: bytes of memory that training takes beside the data; 0 if not known.
    """

    init: Callable[..., Any]
    segment: Callable[..., Any]
    state: RunState
    need: float


def compile_program(program: Program, seeds: Seeds, example: Inputs) -> Compiled:
    """Compiles (or finds in the persistent cache) what `train` runs.

    Args:
      program: static choices.
      seeds, example: with the shapes and types of all that will follow.
    """
    task = program.task
    shared = task.valid is task.train
    valid = {} if shared else task.valid
    make_state, layout = functools.partial(init, program), program.layout
    shapes = jax.eval_shape(make_state, seeds, example)
    placed = None
    if layout:
        placed = layout.of_state(shapes)
        shapes = described(shapes, placed)
        seeds, example = described((seeds, example), layout.whole)
    make = jax.jit(make_state, out_shardings=placed).lower(seeds, example)
    if program.one_by_one or task.streamed:
        run, parts = host_loop.compile_host_loop(program, shapes, example)
        need = max(_need(part, shapes) for part in parts)
    else:

        def advance(state, inputs, train, valid, start, stop):
            return segment(
                program, state, inputs, train, train if shared else valid, start, stop
            )

        out = (placed, layout.whole) if layout else None
        lowered = jax.jit(advance, donate_argnums=0, out_shardings=out).lower(
            shapes, example, task.train, valid, 0, 0
        )
        small = strategy.kind_of(task) == strategy.LINEAR
        run = compiler.compile_loop(lowered, small)
        need = _need(run, shapes)
    return Compiled(compiler.compile_once(make, shapes.params), run, shapes, need)


def _need(compiled: Any, state: RunState) -> float:
    """Bytes that a program takes, its state included and its other inputs not."""
    memory = compiled.memory_analysis()
    if memory is None:
        return 0.0
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    return float(size + new + memory.temp_size_in_bytes)


def least_need(program: Program, hparams: Sequence[Mapping[str, float]]) -> int:
    """Bytes of a block's state, which training takes at least; compiles nothing.

    Args:
      program: static choices.
      hparams: of each lane; values do not matter.
    """

    def init(hparams: Mapping[str, jax.Array]) -> RunState:
        params, model_state = program.task.init(numerics.key(0))
        return init_run(program, params, model_state, hparams, 1.0)

    lane = {name: jax.ShapeDtypeStruct((), program.dtype) for name in hparams[0]}
    leaves = jax.tree.leaves(jax.eval_shape(init, lane))
    size = sum(x.size * x.dtype.itemsize for x in leaves)
    return program.num_seeds * program.num_hparams * size


def stepper(
    compiled: Compiled, program: Program, seeds: Seeds, inputs: Inputs
) -> Callable[[int], Any]:
    """A function that trains a block for some updates from its start: to time it."""
    task = program.task
    valid = {} if task.valid is task.train else task.valid
    seeds, inputs = _placed(program, (seeds, inputs))

    def advance(steps: int) -> None:
        state = compiled.init(seeds, inputs)
        steps = min(steps, MAX_ROUNDS * program.eval_every)
        jax.block_until_ready(
            compiled.segment(state, inputs, task.train, valid, 0, steps)
        )

    return advance


def train(
    compiled: Compiled,
    program: Program,
    seeds: Seeds,
    inputs: Inputs,
    steps: int,
    start: int = 0,
    state: RunState | None = None,
    pause: Callable[[], bool] = lambda: False,
) -> Iterator[Measurements]:
    """Trains a block of runs, yielding what each segment measured.

    Segments grow until one takes about half a second: their length decides only how
    often the host hears of the device, never a number. Each segment's measurements
    are fetched while the next one runs. Ends early once all runs have diverged.

    Args:
      compiled: the programs.
      program: what they were compiled from.
      seeds, inputs: of the block.
      steps: updates to train for.
      start, state: where to go on from, instead of the initial state.
      pause: asked after each segment whether the state is wanted.
    """
    task, every = program.task, program.eval_every
    valid = {} if task.valid is task.train else task.valid
    began = time.perf_counter()
    seeds, inputs = _placed(program, (seeds, inputs))
    if state is None:
        state = compiled.init(seeds, inputs)
    # A first segment that is surely short; how long the next ones take is measured.
    floats = sum(x.size for x in jax.tree.leaves(compiled.state))
    rounds = min(max(_FIRST_SEGMENT_FLOATS // (floats * every), 1), MAX_ROUNDS)
    pending = None
    while start < steps or pending:
        following = None
        if start < steps and not (pending and pause()):
            stop = min(start + rounds * every, steps)
            state, table = compiled.segment(
                state, inputs, task.train, valid, start, stop
            )
            following = (np.append(np.arange(start + every, stop, every), stop), table)
            start = stop
        if pending:
            at, table = pending
            values = {k: np.asarray(v)[: len(at)] for k, v in table.items()}
            if task.valid is task.train:  # and so was measured once
                values = _under_both_names(values)
            now = time.perf_counter()
            seconds, began = now - began, now
            dead = bool((values["diverged_at"][-1] > 0).all())
            quiet = following is None
            yield Measurements(at, values, seconds, state if quiet or dead else None)
            began += time.perf_counter() - now  # the caller's time is not training
            if dead:
                return
            if seconds < _SEGMENT_SECONDS:
                faster = 4 if seconds < _SEGMENT_SECONDS / 8 else 2
                rounds = min(faster * rounds, MAX_ROUNDS)
        pending = following


def _under_both_names(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Measurements of the training part as those of the validation part, too."""
    start = "train_"
    valid = {
        f"valid_{name.removeprefix(start)}": value
        for name, value in values.items()
        if name.startswith(start)
    }
    return {**values, **valid}


def final_model(program: Program, state: RunState) -> tuple[PyTree, PyTree]:
    """As `final_params`, and the model's state that belongs to them."""
    params = final_params(state)
    next_state = recalibration.next_state(program)
    return params, recalibration.recalibrated(
        program, state, params, program.task.train, next_state
    )


def judge(program: Program, state: RunState, part: Batch) -> dict[str, np.ndarray]:
    """Exact metrics of trained runs over a part, name -> [seeds, hparams].

    Methods share this program: it depends on the task and the block's shape alone.
    """
    params, model_state = final_model(program, state)
    values = evaluation.evaluator(program)(params, model_state, part)
    return {k: np.asarray(v) for k, v in values.items()}
