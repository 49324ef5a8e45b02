"""The initial state and the step of one run, and of a block of runs.

A population is seeds (outside) x hyperparameters (inside), two nested `vmap`s: runs
that differ only in hyperparameters share every batch and its gather. All
hyperparameters outside `Method.static` and the horizon are traced, so a grid, a seed
list or a budget never costs a second compilation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrjax import optim
from lrjax.common import numerics
from lrjax.core import (
    Batch,
    Method,
    PyTree,
    Task,
)
from lrjax.engine.sharding import Layout


class RunState(NamedTuple):
    """The state that a run carries from step to step.

    Attributes:
      params, model_state: parameters and model state of the task.
      opt_state: optimiser state of the method.
      last_loss: loss of the last batch.
      diverged_at: 0 while all is finite; else the update (counted from 1) with the
        first loss, or the measurement with the first parameters, that were not.
      loss_sum: sum of the losses of all updates so far, in two parts as in `_plus`;
        () if it is not wanted.
    """

    params: PyTree
    model_state: PyTree
    opt_state: optax.OptState
    last_loss: jax.Array
    diverged_at: jax.Array
    loss_sum: tuple[jax.Array, jax.Array] | tuple[()] = ()


@dataclasses.dataclass(frozen=True)
class Program:
    """Everything that decides the compiled programs of a block of runs.

    Attributes:
      task: data and model.
      method: how the learning rate is controlled.
      static: names and values of the hyperparameters that are compiled in.
      eval_every: steps between measurements.
      num_seeds, num_hparams: the shape of the block.
      fresh_batches: draw each batch anew instead of going through epochs.
      dtype: dtype of losses and traced hyperparameters.
      one_by_one: the block is one run whose steps are called from the host, for models
        that XLA trains many times slower inside a loop.
      layout: sharding of the block on several devices; None on one.
      sums_losses: whether the losses of all updates are added up, for their mean.
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
    layout: Layout | None = None
    sums_losses: bool = False


class Seeds(NamedTuple):
    """Arrays that follow from the seeds of a block alone; leaves [num_seeds, ...].

    Attributes:
      params, model_state: as initialised.
      order: uint32 [num_seeds, 2], keys of the data order.
      noise: keys [num_seeds], for all other randomness of training.
    """

    params: PyTree
    model_state: PyTree
    order: jax.Array
    noise: jax.Array


class Inputs(NamedTuple):
    """The traced values in which the runs of a block differ, and their horizon.

    Attributes:
      order, noise: as in `Seeds`.
      hparams: name -> [num_hparams].
      horizon: updates over which schedules extend.
    """

    order: jax.Array
    noise: jax.Array
    hparams: Mapping[str, jax.Array]
    horizon: jax.Array


@functools.partial(jax.jit, static_argnames="task_init")
def seed_runs(task_init: Callable[..., Any], numbers: jax.Array) -> Seeds:
    """Compute initial parameters and keys of runs, shared by all methods.

    Args:
      task_init: `Task.init`.
      numbers: uint32 [num_seeds], the seeds.
    """

    def of_seed(number: jax.Array) -> Seeds:
        return seed_run(task_init, numerics.key(number))

    return jax.vmap(of_seed)(jnp.asarray(numbers, jnp.uint32))


def seed_run(task_init: Callable[..., Any], key: jax.Array) -> Seeds:
    """As `seed_runs` for one run's key, without the axis of seeds.

    Args:
      task_init: `Task.init`.
      key: key of one run.
    """
    params, model_state = task_init(jax.random.fold_in(key, 0))
    words = jax.random.bits(jax.random.fold_in(key, 1), (2,), jnp.uint32)
    return Seeds(params, model_state, words, jax.random.fold_in(key, 2))


def num_rows(part: Batch) -> int:
    """Number of rows of a part of the data."""
    return len(next(iter(part.values())))


def inputs(
    program: Program,
    seeds: Seeds,
    hparams: Sequence[Mapping[str, float]],
    horizon: int,
) -> Inputs:
    """Pack seeds and each lane's traced hyperparameters for `step_block`.

    Args:
      program: static choices.
      seeds: those of the block.
      hparams: name -> value, one dictionary per lane.
      horizon: updates over which schedules extend.
    """
    values = {
        name: np.asarray([h[name] for h in hparams], program.dtype)
        for name in hparams[0]
    }
    # One transfer for all of these tiny arrays.
    values, end = jax.device_put((values, np.asarray(horizon, program.dtype)))
    return Inputs(seeds.order, seeds.noise, values, end)


def transformation(
    program: Program, hparams: Mapping[str, Any], horizon: Any
) -> optax.GradientTransformationExtraArgs:
    """Build the Optax transformation of one run.

    Args:
      program: method and static hyperparameters.
      hparams: name -> traced value.
      horizon: updates over which schedules extend; may be traced.
    """
    built = program.method.build(horizon, **hparams, **dict(program.static))
    return optax.with_extra_args_support(built)


def init_run(
    program: Program,
    params: PyTree,
    model_state: PyTree,
    hparams: Mapping[str, Any],
    horizon: Any,
) -> RunState:
    """Build the state of one run before its first step.

    Args:
      program: method and static choices.
      params, model_state: as returned by `Task.init`.
      hparams, horizon: as for `transformation`.
    """
    tx = transformation(program, hparams, horizon)
    nan = jnp.asarray(jnp.nan, program.dtype)
    zero = jnp.zeros((), program.dtype)
    loss_sum = (zero, zero) if program.sums_losses else ()
    return RunState(params, model_state, tx.init(params), nan, jnp.int32(0), loss_sum)


def step_run(
    program: Program,
    state: RunState,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    hparams: Mapping[str, Any],
    horizon: Any,
) -> RunState:
    """Compute one update of one run; a diverged run stays as it is.

    Args:
      program: task and method.
      state: state of one run.
      batch: rows of the task's training part with `mask`.
      key: noise of this step.
      step: int, updates done so far.
      hparams: traced hyperparameters of the method.
      horizon: updates over which schedules extend.
    """
    gradient = gradient_run(program, state, batch, key)
    return apply_run(program, state, gradient, batch, key, step, hparams, horizon)


def step_block(
    program: Program,
    state: RunState,
    batch: Batch,
    mask: jax.Array,
    inputs: Inputs,
    step: jax.Array,
) -> RunState:
    """Compute one update of every run of a block.

    Args:
      program: static choices.
      state: state of the block.
      batch: leaves [seeds, rows, ...]; runs with the same seed see the same rows.
      mask: [rows], False on padding.
      inputs: seeds' keys, hyperparameters and horizon.
      step: int, updates done so far.
    """
    mask = mask.astype(program.dtype)

    def of_seed(state: RunState, batch: Batch, noise: jax.Array) -> RunState:
        """Update the runs of one seed, leaves [hparams, ...]."""
        batch = {**batch, "mask": mask}
        if program.layout:
            batch = program.layout.split_batch(batch)
        key = jax.random.fold_in(noise, step)

        def of_lane(state: RunState, hparams: Mapping[str, jax.Array]) -> RunState:
            return step_run(program, state, batch, key, step, hparams, inputs.horizon)

        return over(of_lane, program.one_by_one)(state, inputs.hparams)

    return over(of_seed, program.one_by_one)(state, batch, inputs.noise)


def over(function: Callable[..., PyTree], one_by_one: bool) -> Callable[..., PyTree]:
    """Map a function over the first axis of all its arguments.

    Args:
      function: takes and returns trees of arrays.
      one_by_one: the axis has length one and the function is called without `vmap`,
        which would create grouped convolutions that are slow on CPUs.
    """
    if not one_by_one:
        return jax.vmap(function)

    def without_vmap(*args: PyTree) -> PyTree:
        result = function(*jax.tree.map(lambda x: x[0], args))
        return jax.tree.map(lambda x: x[None], result)

    return without_vmap


def over_runs(
    function: Callable[..., PyTree], one_by_one: bool
) -> Callable[..., PyTree]:
    """As `over` for the first two axes, the runs of a block: [seeds, hparams, ...]."""
    return over(over(function, one_by_one), one_by_one)


class Gradient(NamedTuple):
    """Loss and gradient of a run on one batch.

    Attributes:
      loss: loss of the batch.
      model_state: after the batch.
      grads: gradients of the loss, structured as the parameters.
    """

    loss: jax.Array
    model_state: PyTree
    grads: PyTree


def gradient_run(
    program: Program, state: RunState, batch: Batch, key: jax.Array
) -> Gradient:
    """Compute loss and gradient of a run, the first half of `step_run`.

    Args:
      program, state, batch, key: as for `step_run`.
    """
    return _gradient(program, state, batch, key, state.params)


def _gradient(
    program: Program, state: RunState, batch: Batch, key: jax.Array, params: PyTree
) -> Gradient:
    """As `gradient_run`, at given parameters instead of the state's.

    Args:
      program, state, batch, key: as for `step_run`.
      params: parameters of one run.
    """
    function = jax.value_and_grad(program.task.loss, has_aux=True)

    def of_piece(model_state, key, piece):
        """Loss and gradient of a micro-batch, the model's state and the metrics."""
        (loss, (model_state, metrics)), grads = function(
            params, model_state, key, piece
        )
        return (loss, grads), model_state, metrics

    (loss, grads), model_state = _mean_of_pieces(program, of_piece, state, batch, key)
    return Gradient(loss, model_state, _clipped(program.task, grads))


def _loss(
    program: Program, state: RunState, batch: Batch, key: jax.Array, params: PyTree
) -> jax.Array:
    """Compute the loss of a batch at given parameters, without the gradient.

    Args:
      program, state, batch, key, params: as for `_gradient`.
    """

    def of_piece(model_state, key, piece):
        """Loss of a micro-batch, the model's state and the metrics."""
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
    """Average over a batch by going through its micro-batches in turn.

    Args:
      program: gives the number of micro-batches.
      of_piece: `of_piece(model_state, key, piece) -> (means, model_state, metrics)`.
      state: its `model_state` goes to the first piece, each result to the next piece.
      batch: its rows are dealt out in turn, so the padding of a short batch is spread
        over all pieces.
      key: random key of the batch; each piece's key follows from it.

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

    def add(carry, key_and_piece):
        """Add a micro-batch to the weighted sums."""
        sums, old_state, total = carry
        key, piece = key_and_piece
        means, new_state, weight = weighted(old_state, key, piece)
        sums = jax.tree.map(lambda s, m: s + weight * m, sums, means)
        new = sums, new_state, total + weight
        # A piece of padding alone has no mean.
        return jax.tree.map(lambda n, o: jnp.where(weight > 0, n, o), new, carry), None

    first_key, first_piece = jax.tree.map(lambda x: x[0], (keys, pieces))
    means, _, weight = jax.eval_shape(
        weighted, state.model_state, first_key, first_piece
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (means, weight))
    start = zeros[0], state.model_state, zeros[1]
    # With steps called from the host loops are slow, so this one is unrolled.
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
    """Apply a gradient to a run, the second half of `step_run`.

    Args:
      program, state, batch, key, step, hparams, horizon: as for `step_run`.
      gradient: as returned by `gradient_run` for the same batch and key.
    """
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
    loss_sum = _plus(state.loss_sum, loss) if program.sums_losses else ()
    new = RunState(params, model_state, opt_state, loss, state.diverged_at, loss_sum)
    kept = jax.tree.map(lambda n, o: jnp.where(alive, n, o), new, state)
    return kept._replace(diverged_at=diverged_at.astype(jnp.int32))


def _plus(sums: tuple[Any, ...], new: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Add to a sum in two parts, the second of which collects rounding errors.

    Knuth's two-sum: without it a mean over 23,000 losses would be off in its fifth
    digit in float32.

    Args:
      sums: the sum and its rounding error, two arrays of one shape.
      new: the summand, of that shape.
    """
    total, rest = sums
    rounded = total + new
    added = rounded - total
    lost = (total - (rounded - added)) + (new - added)
    return rounded, rest + lost


def _clipped(task: Task, grads: PyTree) -> PyTree:
    """Scale gradients down together if their norm exceeds the task's limit."""
    if task.max_norm is None:
        return grads
    # The formula of PyTorch's clip_grad_norm_.
    scale = jnp.minimum(task.max_norm / (optax.tree.norm(grads) + 1e-6), 1)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)


def init(program: Program, seeds: Seeds, inputs: Inputs) -> RunState:
    """Build the initial states of a block, leaves [num_seeds, num_hparams, ...].

    Args:
      program: static choices.
      seeds: those of the block, leaves [num_seeds, ...].
      inputs: as returned by `inputs`.
    """

    def per_seed(params, model_state):
        """Build the states of the runs of one seed, leaves [num_hparams, ...]."""

        def per_lane(hparams):
            return init_run(program, params, model_state, hparams, inputs.horizon)

        # axis_size: a method may have no traced hyperparameter.
        return jax.vmap(per_lane, axis_size=program.num_hparams)(inputs.hparams)

    return jax.vmap(per_seed)(seeds.params, seeds.model_state)


def observe(
    state: RunState, step: jax.Array
) -> tuple[RunState, PyTree, dict[str, jax.Array]]:
    """Mark runs with non-finite parameters and read values off the state.

    Args:
      state: state of a block.
      step: int, updates done.

    Returns:
      The state; the parameters to evaluate; and name -> [seeds, hparams] with the
      learning rate, the last loss and `diverged_at`. If losses are summed there is also
      `mean_batch_loss`, over all updates done; updates after a divergence add nothing.
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
        """The last learning rate of one run; NaN if it has several."""
        # The second argument sets the mapped axes: a state may have no array.
        rate = optim.effective_learning_rate(opt_state)
        # Methods with one rate per part of the model have no single rate.
        return jnp.full((), jnp.nan) if isinstance(rate, dict) else rate

    rate = jax.vmap(jax.vmap(rate_of))(state.opt_state, state.diverged_at)
    row = {
        "learning_rate": rate,
        "last_batch_loss": state.last_loss,
        "diverged_at": state.diverged_at,
    }
    if state.loss_sum:
        total, rest = state.loss_sum
        row["mean_batch_loss"] = (total + rest) / jnp.asarray(step, total.dtype)
    return state, params, row


def final_params(state: RunState) -> PyTree:
    """The parameters to keep and to evaluate, leaves [seeds, hparams, ...]."""
    return jax.vmap(jax.vmap(optim.eval_params))(state.opt_state, state.params)
