"""One run's initial state and step; a segment of many runs as one compiled program.

A population is seeds (outside) x hyperparameters (inside), two nested `vmap`s: runs
that differ only in hyperparameters share every batch and its gather. A segment is a
loop over rounds of `eval_every` steps and a measurement. How many rounds, where they
start and end, the horizon and all hyperparameters outside `Method.static` are traced,
so a grid, a seed list or a budget never costs a second compilation.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrjax import optim, order
from lrjax.core import Batch, Method, PyTree, Task

RECALIBRATION_BATCHES = 50  # as the official code of schedule-free advises
MAX_ROUNDS = 128  # most rounds of a segment: rows of its table of measurements
_SEGMENT_SECONDS = 0.5  # aim for a segment: the pace of progress bar and curves
_FIRST_SEGMENT_FLOATS = 10**7  # updates of a segment times numbers of a block's state
# Rows of a block that are evaluated at once, in all its lanes together: of linear
# models so many logits, what a cache holds, but no fewer rows than these; of others,
# whose activations take most of the memory, so many rows.
_EVALUATION_LOGITS, _EVALUATION_ROWS = 2**17, 64
_EVALUATION_MULTIPLE = 16  # rows are padded to it: whole vectors of any CPU
_EVALUATION_ROWS_OF_NETWORKS = {"cpu": 256}
_EVALUATION_ROWS_ELSEWHERE = 8192


class RunState(NamedTuple):
    """What a run carries from step to step.

    `diverged_at` is 0 while all is finite, else the update (counted from 1) that saw
    a loss, or the measurement that saw parameters, that were not.
    """

    params: PyTree
    model_state: PyTree
    opt_state: optax.OptState
    last_loss: jax.Array
    diverged_at: jax.Array


@dataclasses.dataclass(frozen=True)
class Program:
    """All that decides the compiled programs of a block of runs.

    Attributes:
      task: data and model.
      method: how the learning rate is controlled.
      static: names and values of the hyperparameters that are compiled in.
      eval_every: steps between measurements.
      num_seeds, num_hparams: the shape of the block.
      fresh_batches: draw each batch anew instead of going through epochs.
      dtype: of losses and traced hyperparameters.
      one_by_one: the block is one run, and each of its steps is a call from the host:
        for models that XLA trains many times slower inside of a loop.
    """

    task: Task
    method: Method
    static: tuple[tuple[str, Any], ...]
    eval_every: int
    num_seeds: int
    num_hparams: int
    fresh_batches: bool = False
    dtype: Any = jnp.float32
    one_by_one: bool = False


class Seeds(NamedTuple):
    """What follows from the seeds of a block alone; leaves [num_seeds, ...].

    Attributes:
      params, model_state: as initialised.
      order: uint32 [num_seeds, 2], for the order of the data.
      noise: keys [num_seeds], for whatever else is random in training.
    """

    params: PyTree
    model_state: PyTree
    order: jax.Array
    noise: jax.Array


class Inputs(NamedTuple):
    """The traced values that tell the runs of a block apart.

    Attributes:
      order, noise: as in `Seeds`.
      hparams: name -> [num_hparams].
      horizon: updates that schedules are laid out for.
    """

    order: jax.Array
    noise: jax.Array
    hparams: Mapping[str, jax.Array]
    horizon: jax.Array


@functools.partial(jax.jit, static_argnames="task_init")
def seed_runs(task_init: Callable[..., Any], numbers: jax.Array) -> Seeds:
    """Initial parameters and purpose keys of runs, shared by all methods.

    Args:
      task_init: `Task.init`.
      numbers: uint32 [num_seeds], the seeds.
    """

    def one(number: jax.Array) -> Seeds:
        return seed_run(task_init, jax.random.key(number))

    return jax.vmap(one)(jnp.asarray(numbers, jnp.uint32))


def seed_run(task_init: Callable[..., Any], key: jax.Array) -> Seeds:
    """What follows from one run's key, without the axis of seeds."""
    params, model_state = task_init(jax.random.fold_in(key, 0))
    words = jax.random.bits(jax.random.fold_in(key, 1), (2,), jnp.uint32)
    return Seeds(params, model_state, words, jax.random.fold_in(key, 2))


def inputs(
    program: Program,
    seeds: Seeds,
    hparams: Sequence[Mapping[str, float]],
    horizon: int,
) -> Inputs:
    """Packs what tells runs apart: seeds and each lane's traced hyperparameters."""
    values = {
        name: np.asarray([h[name] for h in hparams], program.dtype)
        for name in hparams[0]
    }
    # One transfer for all: they are tiny.
    on_device = jax.device_put((values, np.asarray(horizon, program.dtype)))
    return Inputs(seeds.order, seeds.noise, *on_device)


def transformation(
    program: Program, hparams: Mapping[str, Any], horizon: Any
) -> optax.GradientTransformationExtraArgs:
    """The Optax transformation of one run."""
    built = program.method.build(horizon, **hparams, **dict(program.static))
    return optax.with_extra_args_support(built)


def init_run(
    program: Program,
    params: PyTree,
    model_state: PyTree,
    hparams: Mapping[str, Any],
    horizon: Any,
) -> RunState:
    """The state of one run before its first step."""
    tx = transformation(program, hparams, horizon)
    nan = jnp.asarray(jnp.nan, program.dtype)
    return RunState(params, model_state, tx.init(params), nan, jnp.int32(0))


def step_run(
    program: Program,
    state: RunState,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    hparams: Mapping[str, Any],
    horizon: Any,
) -> RunState:
    """One update of one run; a run that has diverged stays as it is.

    Args:
      program: task and method.
      state: of one run.
      batch: rows of the task's training part with `mask`.
      key: noise of this step.
      step: int, updates done so far.
      hparams: traced hyperparameters of the method.
      horizon: updates that schedules are laid out for.
    """
    gradient = gradient_run(program, state, batch, key)
    return apply_run(program, state, gradient, batch, key, step, hparams, horizon)


class Gradient(NamedTuple):
    """What a batch says of a run's parameters.

    Attributes:
      loss: on the batch.
      model_state: after the batch.
      grads: of the loss, like the parameters.
    """

    loss: jax.Array
    model_state: PyTree
    grads: PyTree


def gradient_run(
    program: Program, state: RunState, batch: Batch, key: jax.Array
) -> Gradient:
    """The first half of `step_run`: the loss and its gradient."""
    return _gradient(program, state, batch, key, state.params)


def _gradient(
    program: Program, state: RunState, batch: Batch, key: jax.Array, params: PyTree
) -> Gradient:
    """As `gradient_run`, at other parameters than the state's."""
    function = jax.value_and_grad(program.task.loss, has_aux=True)

    def of_piece(model_state, key, piece):
        (loss, (model_state, metrics)), grads = function(
            params, model_state, key, piece
        )
        return (loss, grads), model_state, metrics

    (loss, grads), model_state = _mean_of_pieces(program, of_piece, state, batch, key)
    return Gradient(loss, model_state, _clipped(program.task, grads))


def _loss(
    program: Program, state: RunState, batch: Batch, key: jax.Array, params: PyTree
) -> jax.Array:
    """The loss of a batch alone."""

    def of_piece(model_state, key, piece):
        loss, (model_state, metrics) = program.task.loss(
            params, model_state, key, piece
        )
        return loss, model_state, metrics

    return _mean_of_pieces(program, of_piece, state, batch, key)[0]


def _mean_of_pieces(
    program: Program,
    of_piece: Callable[..., tuple[PyTree, PyTree, Mapping[str, jax.Array]]],
    state: RunState,
    batch: Batch,
    key: jax.Array,
) -> tuple[PyTree, PyTree]:
    """Means over a batch from means over its micro-batches, one after the other.

    Args:
      program: says how many there are.
      of_piece: `of_piece(model_state, key, piece) -> (means, model_state, metrics)`.
      state: whose `model_state` the first piece gets; each next one that of the last.
      batch: real rows are dealt out, so that a short batch is short in all pieces.
      key: of the batch; each piece's follows from it.

    Returns:
      The means and the model's state after the batch.
    """
    count = program.task.micro_batches
    if count == 1:
        return of_piece(state.model_state, key, batch)[:2]
    pieces = {
        k: v.reshape(-1, count, *v.shape[1:]).swapaxes(0, 1) for k, v in batch.items()
    }
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(count))

    def weighted(model_state, key, piece):
        means, model_state, metrics = of_piece(model_state, key, piece)
        return means, model_state, metrics.get("count", piece["mask"].sum())

    def add(carry, each):
        sums, old_state, total = carry
        means, new_state, weight = weighted(old_state, *each)
        sums = jax.tree.map(lambda s, m: s + weight * m, sums, means)
        new = sums, new_state, total + weight
        # Of padding alone there is no mean.
        return jax.tree.map(lambda n, o: jnp.where(weight > 0, n, o), new, carry), None

    first = jax.tree.map(lambda x: x[0], (keys, pieces))
    means, _, weight = jax.eval_shape(weighted, state.model_state, *first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (means, weight))
    start = zeros[0], state.model_state, zeros[1]
    # Where steps are calls from the host, it is because loops are slow.
    (sums, model_state, total), _ = jax.lax.scan(
        add, start, (keys, pieces), unroll=count if program.one_by_one else 1
    )
    return jax.tree.map(lambda s: s / total, sums), model_state


def apply_run(
    program: Program,
    state: RunState,
    gradient: Gradient,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    hparams: Mapping[str, Any],
    horizon: Any,
) -> RunState:
    """The second half of `step_run`: the update."""
    loss, model_state, grads = gradient
    tx = transformation(program, hparams, horizon)
    updates, opt_state = tx.update(
        grads,
        state.opt_state,
        state.params,
        value=loss,
        value_fn=functools.partial(_loss, program, state, batch, key),
        grad_fn=lambda params: _gradient(program, state, batch, key, params).grads,
    )
    params = optax.apply_updates(state.params, updates)
    loss = loss.astype(program.dtype)
    finite = jnp.isfinite(loss)
    alive = (state.diverged_at == 0) & finite
    diverged_at = jnp.where(
        (state.diverged_at == 0) & ~finite, step + 1, state.diverged_at
    )
    new = RunState(params, model_state, opt_state, loss, state.diverged_at)
    kept = jax.tree.map(lambda n, o: jnp.where(alive, n, o), new, state)
    return kept._replace(diverged_at=diverged_at.astype(jnp.int32))


def _clipped(task: Task, grads: PyTree) -> PyTree:
    """Gradients, scaled down together where their norm is above the task's limit."""
    if task.max_norm is None:
        return grads
    # As PyTorch's clip_grad_norm_ has it.
    scale = jnp.minimum(task.max_norm / (optax.tree.norm(grads) + 1e-6), 1)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)


def rows_at_once(task: Task, lanes: int) -> int:
    """How many rows of a part are evaluated at once, in each of a block's lanes."""
    if task.family == "language":  # what training has room for
        return max(task.batch_size // lanes, 1)
    if task.family == "linear":
        logits = max(task.num_classes, 1) * lanes
        return max(_EVALUATION_LOGITS // logits, _EVALUATION_ROWS)
    rows = _EVALUATION_ROWS_OF_NETWORKS.get(
        jax.default_backend(), _EVALUATION_ROWS_ELSEWHERE
    )
    return max(rows // lanes, 1)


# Traced once for all methods that share a task and a block's shape.
@functools.partial(jax.jit, static_argnames=("evaluate", "at_once", "dtype"))
def evaluate_part(
    evaluate: Callable[..., Mapping[str, jax.Array]],
    params: PyTree,
    model_state: PyTree,
    part: Batch,
    at_once: int,
    dtype: Any,
) -> dict[str, jax.Array]:
    """Exact means over a whole part, for a block of runs.

    Args:
      evaluate: of the task.
      params, model_state: leaves [seeds, hparams, ...].
      part: arrays with one row per example.
      at_once: rows that are evaluated together.
      dtype: of the mask.

    Returns:
      name -> [seeds, hparams] for each sum of `task.evaluate` but 'count'.
    """
    n = len(next(iter(part.values())))
    slices = -(-n // at_once)
    rows = -(-n // (slices * _EVALUATION_MULTIPLE)) * _EVALUATION_MULTIPLE
    padded = slices * rows - n

    def shaped(x: jax.Array) -> jax.Array:
        widths = [(0, padded)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, widths).reshape(slices, rows, *x.shape[1:])

    mask = jnp.arange(slices * rows) < n
    batches = {k: shaped(v) for k, v in part.items()}
    batches["mask"] = mask.reshape(slices, rows).astype(dtype)
    one = jax.vmap(jax.vmap(evaluate, (0, 0, None)), (0, 0, None))
    if slices == 1:
        sums = one(params, model_state, jax.tree.map(lambda x: x[0], batches))
    else:
        sums = jax.lax.map(lambda b: one(params, model_state, b), batches)
        sums = jax.tree.map(lambda x: x.sum(0), sums)
    return _means(sums)


def _means(sums: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    # XLA would multiply by a constant's rounded reciprocal: 41 of 41 would not be 1.
    count = jax.lax.optimization_barrier(sums["count"])
    return {k: v / count for k, v in sums.items() if k != "count"}


@functools.partial(jax.jit, static_argnames=("evaluate", "rows", "dtype"))
def _slice_sums(evaluate, params, model_state, part, first, rows, dtype):
    """`evaluate` of one run, leaves [1, 1, ...], over some rows from `first` on."""
    n = len(next(iter(part.values())))
    at = first + jnp.arange(rows)
    batch = {k: v[jnp.minimum(at, n - 1)] for k, v in part.items()}
    batch["mask"] = (at < n).astype(dtype)
    one = evaluate(*jax.tree.map(lambda x: x[0, 0], (params, model_state)), batch)
    return {k: v[None, None] for k, v in one.items()}


def _rows_of_a_slice(task: Task, part: Batch) -> int:
    return min(rows_at_once(task, 1), len(next(iter(part.values()))))


def _evaluate_one_by_one(
    slice_sums: Callable[..., Any],
    task: Task,
    params: PyTree,
    model_state: PyTree,
    part: Batch,
) -> dict[str, jax.Array]:
    """As `evaluate_part`, for one run and with a call of `slice_sums` per slice."""
    n, rows = len(next(iter(part.values()))), _rows_of_a_slice(task, part)
    slices = [
        slice_sums(params, model_state, part, first) for first in range(0, n, rows)
    ]
    return _means(functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), slices))


def init(program: Program, seeds: Seeds, inputs: Inputs) -> RunState:
    """Initial states of a block, leaves [num_seeds, num_hparams, ...]."""

    def per_seed(params, model_state):
        def per_lane(hparams):
            return init_run(program, params, model_state, hparams, inputs.horizon)

        # A method may have no number at all.
        return jax.vmap(per_lane, axis_size=program.num_hparams)(inputs.hparams)

    return jax.vmap(per_seed)(seeds.params, seeds.model_state)


def observe(
    state: RunState, step: jax.Array
) -> tuple[RunState, PyTree, dict[str, jax.Array]]:
    """Marks runs whose parameters are not finite.

    Args:
      state: of a block.
      step: int, updates done.

    Returns:
      The state, the parameters to evaluate, and what can be read off the state, name
      -> [seeds, hparams].
    """
    params = final_params(state)
    finite = functools.reduce(
        jnp.logical_and,
        [jnp.isfinite(x).all(tuple(range(2, x.ndim))) for x in jax.tree.leaves(params)],
    )
    dead = state.diverged_at > 0
    diverged_at = jnp.where(~dead & ~finite, step, state.diverged_at)
    state = state._replace(diverged_at=diverged_at.astype(jnp.int32))

    def rate_of(opt_state: Any, _: jax.Array) -> jax.Array:
        return optim.effective_learning_rate(opt_state)  # which may have no array

    rate = jax.vmap(jax.vmap(rate_of))(state.opt_state, state.diverged_at)
    row = {
        "learning_rate": rate,
        "last_batch_loss": state.last_loss,
        "diverged_at": state.diverged_at,
    }
    return state, params, row


def recalibrates(task: Task, method: Method, hparams: Mapping[str, Any]) -> bool:
    """Whether a model's state is made anew for the parameters that are judged.

    Batch-norm statistics are of the parameters that gradients are taken at; a method
    that averages parameters judges others (schedule_free's issue 60).

    Args:
      task: whose model may have a state.
      method: which may judge other parameters.
      hparams: a value for every hyperparameter of it.
    """
    params, model_state = jax.eval_shape(task.init, jax.random.key(0))
    if not jax.tree.leaves(model_state):
        return False
    opt_state = jax.eval_shape(method.build(1.0, **hparams).init, params)
    return optim.evaluates_elsewhere(opt_state)


def _recalibrates(state: RunState) -> bool:
    """As `recalibrates`, of a state of a run or of a block."""
    has_state = bool(jax.tree.leaves(state.model_state))
    return has_state and optim.evaluates_elsewhere(state.opt_state)


@functools.partial(
    jax.jit, static_argnames=("loss", "batch_size", "one_by_one", "dtype")
)
def _one_more_batch(
    loss: Callable[..., Any],
    batch_size: int,
    one_by_one: bool,
    params: PyTree,
    model_state: PyTree,
    train: Batch,
    number: jax.Array | int,
    dtype: Any,
) -> PyTree:
    """A block's model states after one more batch at the parameters to judge.

    Batch `number` has rows from all over the training part. What is random draws the
    same for every run. Leaves [seeds, hparams, ...].
    """
    n = len(next(iter(train.values())))
    rows = (np.arange(batch_size) * n // batch_size + number) % n
    batch = {k: v[rows] for k, v in train.items()}
    batch["mask"] = jnp.ones(batch_size, dtype)
    key = jax.random.fold_in(jax.random.key(0), number)

    def one(params: PyTree, model_state: PyTree) -> PyTree:
        return loss(params, model_state, key, batch)[1][0]

    if one_by_one:
        run = jax.tree.map(lambda x: x[0, 0], (params, model_state))
        return jax.tree.map(lambda x: x[None, None], one(*run))
    return jax.vmap(jax.vmap(one))(params, model_state)


def _recalibrated(
    one_more: Callable[[PyTree, PyTree, Batch, int], PyTree],
    state: RunState,
    params: PyTree,
    train: Batch,
) -> PyTree:
    """A block's model states for `params`, with the loop of the host if there is one.

    Training goes on with its own.
    """
    model_state = state.model_state
    if _recalibrates(state):
        for number in range(RECALIBRATION_BATCHES):
            model_state = one_more(params, model_state, train, number)
    return model_state


def _parts(task: Task, train: Batch, valid: Batch) -> dict[str, Batch]:
    """The parts to measure; once where both are the same."""
    if valid is train:
        return {"train": train}
    if task.measured_rows is not None:
        train = {k: v[: task.measured_rows] for k, v in train.items()}
    return {"train": train, "valid": valid}


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
    lanes = program.num_seeds * program.num_hparams
    n = len(next(iter(train.values())))

    def rows_of(key_words: jax.Array, first: jax.Array):
        return order.batches(
            key_words, first, every, task.batch_size, n, program.fresh_batches
        )

    def seed_step(state, rows, noise_key, mask, step):
        batch = {k: v[rows] for k, v in train.items()} | {
            "mask": mask.astype(program.dtype)
        }
        key = jax.random.fold_in(noise_key, step)
        return jax.vmap(
            lambda s, h: step_run(program, s, batch, key, step, h, inputs.horizon)
        )(state, inputs.hparams)

    @jax.jit  # traced once for the shapes of the table and for the loop
    def measure(state: RunState, step: jax.Array):
        state, params, row = observe(state, step)
        model_state = state.model_state
        if _recalibrates(state):

            def one_more(number: jax.Array, model_state: PyTree) -> PyTree:
                return _one_more_batch(
                    *(task.loss, task.batch_size, False),
                    *(params, model_state, train, number, program.dtype),
                )

            model_state = jax.lax.fori_loop(
                0, RECALIBRATION_BATCHES, one_more, model_state
            )
        for name, part in _parts(task, train, valid).items():
            at_once = rows_at_once(task, lanes)
            means = evaluate_part(
                task.evaluate, params, model_state, part, at_once, program.dtype
            )
            row |= {f"{name}_{k}": v for k, v in means.items()}
        return state, row

    def round_(r, carry):
        state, table = carry
        first = start + r * every
        rows, mask = jax.vmap(rows_of, (0, None), (0, None))(inputs.order, first)

        def one_step(i, state):
            step = jax.vmap(seed_step, (0, 0, 0, None, None))
            return step(state, rows[:, i], inputs.noise, mask[i], first + i)

        last = jnp.minimum(first + every, stop)
        state = jax.lax.fori_loop(0, last - first, one_step, state)
        state, row = measure(state, last)
        table = {k: table[k].at[r].set(row[k].astype(table[k].dtype)) for k in table}
        return state, table

    shapes = jax.eval_shape(measure, state, start)[1]
    table = {k: jnp.zeros((MAX_ROUNDS, *v.shape), v.dtype) for k, v in shapes.items()}
    rounds = (stop - start + every - 1) // every
    return jax.lax.fori_loop(0, rounds, round_, (state, table))


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
    make = jax.jit(functools.partial(init, program)).lower(seeds, example)
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make.out_info
    )
    if program.one_by_one:
        run, need = _compile_one_by_one(program, shapes, example)
    else:

        def advance(state, inputs, train, valid, start, stop):
            return segment(
                program, state, inputs, train, train if shared else valid, start, stop
            )

        lowered = jax.jit(advance, donate_argnums=0).lower(
            shapes, example, task.train, valid, 0, 0
        )
        run = _compile_loop(lowered, small=task.family == "linear")
        need = _need(run, shapes)
    return Compiled(make.compile(), run, shapes, need)


def _compile_loop(lowered: Any, small: bool) -> Any:
    """Compiles a program of a loop, on CPUs for the operations that it has.

    Without the kernels of YNNPACK, which JAX uses for sums and matrix products there:
    they cut fusions in two. Where operations are `small`, without threads inside of
    them either: handing over costs more than they take, and other blocks use the cores.
    """
    options: dict[str, str | bool] = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if small:
        options["xla_cpu_multi_thread_eigen"] = False
    if jax.default_backend() == "cpu":
        try:
            return lowered.compile(options)
        except jax.errors.JaxRuntimeError as error:  # another JAX may lack an option
            if "No such compile option" not in str(error):
                raise
    return lowered.compile()


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
        params, model_state = program.task.init(jax.random.key(0))
        return init_run(program, params, model_state, hparams, 1.0)

    lane = {name: jax.ShapeDtypeStruct((), program.dtype) for name in hparams[0]}
    leaves = jax.tree.leaves(jax.eval_shape(init, lane))
    size = sum(x.size * x.dtype.itemsize for x in leaves)
    return program.num_seeds * program.num_hparams * size


def _compile_one_by_one(
    program: Program, shapes: RunState, example: Inputs
) -> tuple[Callable[..., Any], float]:
    """A `segment` of one run whose loops are the host's, and the memory it needs."""
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
        name: _slice_sums.lower(
            task.evaluate,
            params,
            shapes.model_state,
            part,
            0,
            _rows_of_a_slice(task, part),
            dtype,
        ).compile()
        for name, part in _parts(task, task.train, task.valid).items()
    }
    programs = [updated, *evaluated.values()]
    one_more: Any = None
    if _recalibrates(shapes):
        one_more = _one_more_batch.lower(
            *(task.loss, task.batch_size, True),
            *(params, shapes.model_state, task.train, 0, dtype),
        ).compile()
        programs.append(one_more)
    need = max(_need(each, shapes) for each in programs)

    def run(state, inputs, train, valid, start, stop):
        table = []
        while start < stop:
            last = min(start + every, stop)
            for step in range(start, last):
                state = updated(state, inputs, train, step)
            state, params, row = observed(state, last)
            model_state = _recalibrated(one_more, state, params, train)
            for name, part in _parts(task, train, valid or train).items():
                means = _evaluate_one_by_one(
                    evaluated[name], task, params, model_state, part
                )
                row |= {f"{name}_{k}": v for k, v in means.items()}
            table.append(row)
            start = last
        return state, {k: jnp.stack([row[k] for row in table]) for k in table[0]}

    return run, need


def stepper(
    compiled: Compiled, program: Program, seeds: Seeds, inputs: Inputs
) -> Callable[[int], Any]:
    """A function that trains a block for some updates from its start: to time it."""
    task = program.task
    valid = {} if task.valid is task.train else task.valid

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


def final_params(state: RunState) -> PyTree:
    """The parameters to keep and to judge, leaves [seeds, hparams, ...]."""
    return jax.vmap(jax.vmap(optim.eval_params))(state.opt_state, state.params)


def final_model(program: Program, state: RunState) -> tuple[PyTree, PyTree]:
    """As `final_params`, and the model's state that belongs to them."""
    task, params = program.task, final_params(state)

    def one_more(*args: Any) -> PyTree:
        return _one_more_batch(
            task.loss, task.batch_size, program.one_by_one, *args, program.dtype
        )

    return params, _recalibrated(one_more, state, params, task.train)


def judge(program: Program, state: RunState, part: Batch) -> dict[str, np.ndarray]:
    """Exact means of trained runs over a part, name -> [seeds, hparams].

    Methods share this program: it depends on the task and the block's shape alone.
    """
    task, dtype = program.task, program.dtype
    params, model_state = final_model(program, state)
    if program.one_by_one:
        rows = _rows_of_a_slice(task, part)

        def slice_sums(*args: Any) -> Any:
            return _slice_sums(task.evaluate, *args, rows, dtype)

        means = _evaluate_one_by_one(slice_sums, task, params, model_state, part)
    else:
        at_once = rows_at_once(task, program.num_seeds * program.num_hparams)
        means = evaluate_part(task.evaluate, params, model_state, part, at_once, dtype)
    return {k: np.asarray(v) for k, v in means.items()}
