"""The compiled programs of a block of runs, and the training loop that calls them.

A segment is a loop over rounds; a round is `eval_every` steps and a measurement. The
number of rounds and where they start and end are traced values, so no budget costs a
second compilation.
"""

from __future__ import annotations

import concurrent.futures
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.core import Batch, PyTree, Task
from lrjax.engine import (
    evaluation,
    host_loop,
    order,
    recalibration,
    strategy,
    xla_options,
)
from lrjax.engine.sharding import with_shardings
from lrjax.engine.train import (
    BlockState,
    Inputs,
    Program,
    Seeds,
    final_params,
    init,
    init_run,
    model_states,
    num_rows,
    observe,
    seed_runs,
    step_block,
)

MAX_ROUNDS = 128  # of a segment: the rows of its table of measurements
_SEGMENT_SECONDS = 0.5  # target: how often the progress bar and curves are updated
_FIRST_SEGMENT_FLOATS = 10**7  # updates x numbers in a block's state, first segment


def segment(
    program: Program,
    state: BlockState,
    inputs: Inputs,
    train: Batch,
    valid: Batch,
    start: jax.Array,
    stop: jax.Array,
) -> tuple[BlockState, dict[str, jax.Array]]:
    """Train a block from update `start` to `stop`, measuring every `eval_every`.

    Args:
      program: static choices.
      state: state of the block.
      inputs: order, noise, hyperparameters and horizon.
      train, valid: the parts to train on and to validate with; the same object
        where the protocol makes no difference.
      start: int, updates done so far, a multiple of `eval_every`.
      stop: int, updates done at the end; the last round may be short.

    Returns:
      The new state, and name -> [MAX_ROUNDS, seeds, hparams], of which the first rows
      are filled, one per round.
    """
    task, every = program.task, program.eval_every
    n, shared = num_rows(train), program.layout is not None
    laid_out = order.laid_out(train, shared)
    evaluator = evaluation.evaluator(program)
    next_state = recalibration.next_state(program)

    def rows_of(key_words: jax.Array, first: jax.Array):
        return order.batches(
            key_words, first, every, task.batch_size, n, program.fresh_batches
        )

    @jax.jit  # one trace serves both the shapes of the table and the loop
    def measure(state: BlockState, step: jax.Array):
        """Evaluate the block; return its state and the row of measurements."""
        state, params, row = observe(state, step)
        model_state = recalibration.recalibrated(
            program, state, params, train, next_state, jax.lax.fori_loop
        )
        parts = evaluation.parts_to_measure(task, train, valid)
        evaluators = dict.fromkeys(parts, evaluator)
        row |= evaluation.measure(evaluators, params, model_state, parts)
        return state, row

    def train_round(r, carry):
        """Train to the next measurement, and write it to row `r` of the table."""
        state, table = carry
        first = start + r * every
        rows, mask = jax.vmap(rows_of, (0, None), (0, None))(inputs.order, first)

        def one_step(i, state):
            batch = order.taken(laid_out, rows[:, i], train, shared)
            return step_block(program, state, batch, mask[i], inputs, first + i)

        end = jnp.minimum(first + every, stop)
        state = jax.lax.fori_loop(0, end - first, one_step, state)
        state, row = measure(state, end)
        table = {k: table[k].at[r].set(row[k].astype(table[k].dtype)) for k in table}
        return state, table

    shapes = jax.eval_shape(measure, state, start)[1]
    table = {k: jnp.zeros((MAX_ROUNDS, *v.shape), v.dtype) for k, v in shapes.items()}
    rounds = (stop - start + every - 1) // every
    return jax.lax.fori_loop(0, rounds, train_round, (state, table))


Segment: TypeAlias = Callable[..., tuple[BlockState, dict[str, jax.Array]]]
"""`segment` of one program: `f(state, inputs, train, valid, start, stop)`."""


def _own_valid(task: Task) -> Batch:
    """The validation part to pass to `segment`; empty if it is the training part."""
    return {} if task.valid is task.train else task.valid


def _placed(program: Program, tree: PyTree) -> PyTree:
    """Copy arrays to every device of a sharded block; else returns them unchanged."""
    return jax.device_put(tree, program.layout.replicated) if program.layout else tree


class Measurements(NamedTuple):
    """The measurements of one segment, on the host.

    Attributes:
      steps: updates done at each measurement, [rounds].
      values: name -> [rounds, seeds, hparams].
      seconds: duration of the segment.
      state: state of the block after the segment, where it can be kept: at the end, and
        when `train` was asked to pause; else None, as the next segment reuses its
        memory.
    """

    steps: np.ndarray
    values: dict[str, np.ndarray]
    seconds: float
    state: BlockState | None


class Compiled(NamedTuple):
    """The programs of a block, ready to run.

    Attributes:
      init: `init(seeds, inputs) -> state`.
      segment: as `segment`, without the program.
      state: shapes and types of the block's state.
      need: bytes of device memory for training, without the data; 0 if unknown.
    """

    init: Callable[..., Any]
    segment: Callable[..., Any]
    state: BlockState
    need: float


def compile_program(
    program: Program,
    seeds: Seeds,
    example: Inputs,
    recalled: Callable[..., Segment] = lambda program, segment, arguments: segment,
    judged: bool = False,
) -> Compiled:
    """Compile what `train` calls, or load it from the persistent cache.

    Args:
      program: static choices.
      seeds, example: arrays with the shapes and types of every later call.
      recalled: as `launch.traces.recalled`; default: traces the segment.
      judged: whether `judge` will be called for the test part. What it calls is then
        compiled, too, while XLA has the segment.
    """
    task = program.task
    shared, valid = task.valid is task.train, _own_valid(task)
    init_block, layout = functools.partial(init, program), program.layout
    make_init, placed = jax.jit(init_block).trace(seeds, example), None
    shapes = make_init.out_info
    if layout:
        placed = layout.of_block(shapes)
        shapes = with_shardings(shapes, placed)
        seeds, example = with_shardings((seeds, example), layout.replicated)
        make_init = jax.jit(init_block, out_shardings=placed).trace(seeds, example)

    def compile_start() -> Any:
        """Compile the programs that a run starts with."""
        numbers = jax.ShapeDtypeStruct((program.num_seeds,), jnp.uint32)
        seed_runs.lower(task.init, numbers).compile()  # called later, by its own name
        return xla_options.compile_once(make_init.lower(), shapes[0].params)

    if program.one_by_one or task.streamed:
        run, parts = host_loop.compile_host_loop(program, shapes, example)
        memory = max(need(part, shapes) for part in parts)
        start = compile_start()
    else:

        def its_segment(state, inputs, train, valid, start, stop):
            return segment(
                program, state, inputs, train, train if shared else valid, start, stop
            )

        out = (placed, layout.replicated) if layout else None
        arguments = (shapes, example, task.train, valid, 0, 0)
        its_segment = recalled(program, its_segment, arguments)
        lowered = jax.jit(its_segment, donate_argnums=0, out_shardings=out).lower(
            *arguments
        )
        kind = strategy.kind_of(task)
        # XLA compiles the segment without Python, which traces the others meanwhile.
        with concurrent.futures.ThreadPoolExecutor(1) as beside:
            compiling = beside.submit(
                xla_options.compile_loop, lowered, kind, program.effort
            )
            start = compile_start()
            # While there is time. What is kept on disk is loaded fast when needed.
            if judged and task.test is not task.train and not compiling.done():
                _prepare_judge(program, shapes)
            run = compiling.result()
        memory = need(run, shapes)
    return Compiled(start, run, shapes, memory)


def need(compiled: Any, state: PyTree) -> float:
    """Bytes that a program takes with its state, without its other inputs."""
    memory = compiled.memory_analysis()
    if memory is None:
        return 0.0
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return float(tree_bytes(state) + new + memory.temp_size_in_bytes)


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all arrays, or shapes, of a tree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def least_need(program: Program, hparams: Sequence[Mapping[str, float]]) -> int:
    """Bytes of a block's state, a lower bound of its memory; compiles nothing.

    Args:
      program: static choices.
      hparams: hyperparameters of each lane; only the names matter.
    """

    def of_group(part: Program, lane: Mapping[str, float]) -> int:
        """Bytes of the runs of one group."""
        scalars = {name: jax.ShapeDtypeStruct((), program.dtype) for name in lane}
        models = strategy.model_shapes(program.task.init)
        # The horizon is traced, too: JAX would compile a program for a constant.
        state = jax.eval_shape(functools.partial(init_run, part), *models, scalars, 1.0)
        return program.num_seeds * part.num_hparams * tree_bytes(state)

    firsts = [
        hparams[lane] for lane, (_, place) in enumerate(program.places) if not place
    ]
    return sum(map(of_group, program.parts, firsts))


def stepper(
    compiled: Compiled, program: Program, seeds: Seeds, inputs: Inputs
) -> Callable[[int], Any]:
    """Return a function that trains a block from its start, for timing.

    Returns:
      `advance(steps)`, which trains `steps` updates, at most one segment's, and waits.
    """
    task, valid = program.task, _own_valid(program.task)
    seeds, inputs = _placed(program, (seeds, inputs))

    def advance(steps: int) -> None:
        """Train for `steps` updates from the start, and wait for the end."""
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
    state: BlockState | None = None,
    pause: Callable[[], bool] = lambda: False,
) -> Iterator[Measurements]:
    """Train a block of runs, yielding the measurements of each segment.

    Segments grow until one takes about half a second. Their length never changes a
    number, only how often the host gets results. Each segment's measurements are
    fetched while the next one runs. Ends early once all runs have diverged.

    Args:
      compiled: the programs.
      program: the source of `compiled`.
      seeds, inputs: seeds and inputs of the block.
      steps: updates done at the end.
      start, state: where to resume, instead of the initial state.
      pause: called after each segment; True asks for the state in `Measurements`.
    """
    task, every, valid = program.task, program.eval_every, _own_valid(program.task)
    began = time.perf_counter()
    seeds, inputs = _placed(program, (seeds, inputs))
    if state is None:
        state = compiled.init(seeds, inputs)
    # The first segment is surely short; later lengths follow from measured times.
    floats = sum(x.size for x in jax.tree.leaves(compiled.state))
    rounds = min(max(_FIRST_SEGMENT_FLOATS // (floats * every), 1), MAX_ROUNDS)
    pending = None
    while start < steps or pending:
        submitted = None
        if start < steps and not (pending and pause()):
            stop = min(start + rounds * every, steps)
            state, table = compiled.segment(
                state, inputs, task.train, valid, start, stop
            )
            submitted = (
                np.append(np.arange(start + every, stop, every), stop),
                table,
            )
            start = stop
        if pending:
            at, table = pending
            values = {k: np.asarray(v)[: len(at)] for k, v in table.items()}
            if task.valid is task.train:  # the shared part was measured once
                values = _under_both_names(values)
            now = time.perf_counter()
            seconds, began = now - began, now
            dead = bool((values["diverged_at"][-1] > 0).all())
            idle = submitted is None
            yield Measurements(at, values, seconds, state if idle or dead else None)
            began += time.perf_counter() - now  # the caller's time is not training
            if dead:
                return
            if seconds < _SEGMENT_SECONDS:
                growth = 4 if seconds < _SEGMENT_SECONDS / 8 else 2
                rounds = min(growth * rounds, MAX_ROUNDS)
        pending = submitted


def _under_both_names(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Repeat the measurements of the training part under the validation names.

    Args:
      values: 'PART_METRIC' -> [seeds, hparams].
    """
    start = "train_"
    valid = {
        f"valid_{name.removeprefix(start)}": value
        for name, value in values.items()
        if name.startswith(start)
    }
    return {**values, **valid}


def final_model(program: Program, state: BlockState) -> tuple[PyTree, PyTree]:
    """The parameters to evaluate, and the model state that belongs to them.

    Returns:
      as `final_params`, and the model state, leaves [seeds, hparams, ...].
    """
    params = final_params(state)
    next_state = recalibration.next_state(program)
    return params, recalibration.recalibrated(
        program, state, params, program.task.train, next_state
    )


def _prepare_judge(program: Program, shapes: BlockState) -> None:
    """Compile what `judge` calls for the test part.

    Args:
      program: static choices.
      shapes: shapes and types of the block's state.
    """
    params, model_state = jax.eval_shape(
        lambda state: (final_params(state), model_states(state)), shapes
    )
    evaluation.compile_ahead(program, params, model_state, program.task.test)


def judge(program: Program, state: BlockState, part: Batch) -> dict[str, np.ndarray]:
    """Compute exact metrics of trained runs over a part, name -> [seeds, hparams].

    The program depends on the task and the block's shape alone, so methods share it.
    """
    params, model_state = final_model(program, state)
    values = evaluation.evaluate_models(program, params, model_state, part)
    return {k: np.asarray(v) for k, v in values.items()}
