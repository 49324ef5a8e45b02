"""The initial state and the step of one run, and of a block of runs.

A population is seeds (outside) x lanes (inside), two nested `vmap`s: runs that differ
only in their lane share every batch and its gather. All hyperparameters outside
`Method.static` and the horizon are traced, so a grid, a seed list or a budget never
costs a second compilation.

Lanes are grouped by method. Gradients and evaluations are those of all lanes at once,
updates those of one group after the other: what methods share is compiled once.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

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
from lrjax.engine import xla_options
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


class Group(NamedTuple):
    """Lanes of a block with one method.

    Attributes:
      method: how the learning rate is controlled.
      static: names and values of the hyperparameters that are compiled in.
      num_hparams: their number; lanes differ in traced hyperparameters.
    """

    method: Method
    static: tuple[tuple[str, Any], ...]
    num_hparams: int


@dataclasses.dataclass(frozen=True)
class Program:
    """Everything that decides the compiled programs of a block of runs.

    Attributes:
      task: data and model.
      groups: lanes by method, in the order of the block.
      eval_every: steps between measurements.
      num_seeds: runs of each lane.
      fresh_batches: draw each batch anew instead of going through epochs.
      dtype: dtype of losses and traced hyperparameters.
      one_by_one: the block is one run whose steps are called from the host, for models
        that XLA trains many times slower inside a loop.
      layout: sharding of the block on several devices; None on one.
      sums_losses: whether the losses of all updates are added up, for their mean.
      effort: how well to optimise the compiled loop, as in `xla_options`.
    """

    task: Task
    groups: tuple[Group, ...]
    eval_every: int
    num_seeds: int
    fresh_batches: bool = False
    dtype: Any = jnp.float32
    one_by_one: bool = False
    layout: Layout | None = None
    sums_losses: bool = False
    effort: str = xla_options.FULL

    @property
    def num_hparams(self) -> int:
        """Number of lanes of all groups."""
        return sum(group.num_hparams for group in self.groups)

    @property
    def group(self) -> Group:
        """The only group; what concerns one run needs a program with one."""
        (group,) = self.groups
        return group

    @property
    def parts(self) -> list[Program]:
        """A program for each group alone."""
        return [dataclasses.replace(self, groups=(group,)) for group in self.groups]

    @property
    def places(self) -> list[tuple[int, int]]:
        """Lane of the block -> its group, and its place there."""
        return [
            (number, place)
            for number, group in enumerate(self.groups)
            for place in range(group.num_hparams)
        ]


def single(
    task: Task,
    method: Method,
    static: tuple[tuple[str, Any], ...],
    eval_every: int,
    num_seeds: int,
    num_hparams: int,
    **choices: Any,
) -> Program:
    """Build the program of a block whose lanes all have one method.

    Args:
      task, eval_every, num_seeds: as in `Program`.
      method, static, num_hparams: as in `Group`.
      choices: the other fields of `Program`.
    """
    groups = (Group(method, static, num_hparams),)
    return Program(task, groups, eval_every, num_seeds, **choices)


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
      hparams: for each group, name -> [num_hparams].
      horizon: updates over which schedules extend.
    """

    order: jax.Array
    noise: jax.Array
    hparams: tuple[Mapping[str, jax.Array], ...]
    horizon: jax.Array


BlockState: TypeAlias = tuple[RunState, ...]
"""A state for each group of a block, leaves [num_seeds, num_hparams, ...]."""


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
    """Seed a run from its key, as `seed_runs` but without the axis of seeds.

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
    lanes = iter(hparams)
    values = []
    for group in program.groups:
        own = list(itertools.islice(lanes, group.num_hparams))
        columns = {n: np.asarray([h[n] for h in own], program.dtype) for n in own[0]}
        values.append(columns)
    # One transfer for all of these tiny arrays.
    values, end = jax.device_put((values, np.asarray(horizon, program.dtype)))
    return Inputs(seeds.order, seeds.noise, tuple(values), end)


def transformation(
    program: Program, hparams: Mapping[str, Any], horizon: Any
) -> optax.GradientTransformationExtraArgs:
    """Build the Optax transformation of one run.

    Args:
      program: method and static hyperparameters.
      hparams: name -> traced value.
      horizon: updates over which schedules extend; may be traced.
    """
    method, static, _ = program.group
    built = method.build(horizon, **hparams, **dict(static))
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
    gradient = gradient_run(program, state.params, state.model_state, batch, key)
    return apply_run(program, state, gradient, batch, key, step, hparams, horizon)


def step_block(
    program: Program,
    state: BlockState,
    batch: Batch,
    mask: jax.Array,
    inputs: Inputs,
    step: jax.Array,
) -> BlockState:
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

    def of_seed(state: BlockState, batch: Batch, noise: jax.Array) -> BlockState:
        """Update the runs of one seed, leaves [lanes, ...]."""
        batch = {**batch, "mask": mask}
        if program.layout:
            batch = program.layout.split_batch(batch)
        key = jax.random.fold_in(noise, step)

        def gradient_of(params: PyTree, model_state: PyTree) -> Gradient:
            return gradient_run(program, params, model_state, batch, key)

        models = [(run.params, run.model_state) for run in state]
        gradients = over(gradient_of, program.one_by_one)(*joined(models, axis=0))
        shares = split(gradients, [group.num_hparams for group in program.groups])

        def updated(
            part: Program, state: RunState, gradient: Gradient, hparams: Any
        ) -> RunState:
            """Update the runs of one group and seed."""

            def of_lane(
                state: RunState, gradient: Gradient, hparams: Mapping[str, jax.Array]
            ) -> RunState:
                return apply_run(
                    part, state, gradient, batch, key, step, hparams, inputs.horizon
                )

            return over(of_lane, program.one_by_one)(state, gradient, hparams)

        return tuple(map(updated, program.parts, state, shares, inputs.hparams))

    return over(of_seed, program.one_by_one)(state, batch, inputs.noise)


def joined(trees: Sequence[PyTree], axis: int = 1) -> PyTree:
    """Put the lanes of all groups side by side, along an axis."""
    if len(trees) == 1 or not jax.tree.leaves(trees):
        return trees[0]
    return _concatenated(list(trees), axis)


@functools.partial(jax.jit, static_argnums=1, inline=True)
def _concatenated(trees: Sequence[PyTree], axis: int) -> PyTree:
    """As `joined`, for two trees or more: one program, and not one for each leaf."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis), *trees)


def split(tree: PyTree, lengths: Sequence[int]) -> list[PyTree]:
    """Divide the first axis of a tree into parts of these lengths."""
    if len(lengths) == 1:
        return [tree]
    ends = list(itertools.accumulate(lengths))
    return [
        jax.tree.map(lambda x, a=end - length, b=end: x[a:b], tree)
        for length, end in zip(lengths, ends, strict=True)
    ]


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
    """Map over the first two axes, the runs of a block: [seeds, hparams, ...]."""
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
    program: Program,
    params: PyTree,
    model_state: PyTree,
    batch: Batch,
    key: jax.Array,
) -> Gradient:
    """Compute loss and gradient of a run, the first half of `step_run`.

    Args:
      program, batch, key: as for `step_run`.
      params, model_state: those of one run.
    """
    function = jax.value_and_grad(_task_loss(program), has_aux=True)

    def of_piece(model_state, key, piece):
        """Loss and gradient of a micro-batch, the model's state and the metrics."""
        (loss, (model_state, metrics)), grads = function(
            params, model_state, key, piece
        )
        if program.layout:
            grads = program.layout.scattered(grads)
        return (loss, grads), model_state, metrics

    (loss, grads), model_state = _mean_of_pieces(
        program, of_piece, model_state, batch, key
    )
    return Gradient(loss, model_state, _clipped(program.task, grads))


def _task_loss(program: Program) -> Callable[..., Any]:
    """The task's loss, of parameters that are whole while it is computed."""
    task, layout = program.task, program.layout
    if not layout:
        return task.loss

    def loss(params: PyTree, *others: Any) -> Any:
        """Compute `Task.loss`; its derivative sums the gradient over the devices."""
        return task.loss(layout.gathered(params), *others)

    return loss


def _loss(
    program: Program,
    model_state: PyTree,
    batch: Batch,
    key: jax.Array,
    params: PyTree,
) -> jax.Array:
    """Compute the loss of a batch, without the gradient.

    Args:
      program, params, model_state, batch, key: as for `gradient_run`.
    """

    def of_piece(model_state, key, piece):
        """Loss of a micro-batch, the model's state and the metrics."""
        loss, (model_state, metrics) = _task_loss(program)(
            params, model_state, key, piece
        )
        return loss, model_state, metrics

    return _mean_of_pieces(program, of_piece, model_state, batch, key)[0]


def _mean_of_pieces(
    program: Program,
    of_piece: Callable[..., tuple[PyTree, PyTree, Mapping[str, jax.Array]]],
    model_state: PyTree,
    batch: Batch,
    key: jax.Array,
) -> tuple[PyTree, PyTree]:
    """Average over a batch by going through its micro-batches in turn.

    Args:
      program: gives the number of micro-batches.
      of_piece: `of_piece(model_state, key, piece) -> (means, model_state, metrics)`.
      model_state: goes to the first piece, each result to the next piece.
      batch: its rows are dealt out in turn, so the padding of a short batch is spread
        over all pieces.
      key: random key of the batch; each piece's key follows from it.

    Returns:
      The means and the model's state after the batch.
    """
    count = program.task.micro_batches
    if count == 1:
        return of_piece(model_state, key, batch)[:2]
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
    means, _, weight = jax.eval_shape(weighted, model_state, first_key, first_piece)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (means, weight))
    start = zeros[0], model_state, zeros[1]
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

    def grad_fn(params: PyTree) -> PyTree:
        return gradient_run(program, params, state.model_state, batch, key).grads

    updates, opt_state = tx.update(
        grads,
        state.opt_state,
        state.params,
        value=loss,
        value_fn=functools.partial(_loss, program, state.model_state, batch, key),
        grad_fn=grad_fn,
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


def init(program: Program, seeds: Seeds, inputs: Inputs) -> BlockState:
    """Build the initial states of a block.

    Args:
      program: static choices.
      seeds: those of the block, leaves [num_seeds, ...].
      inputs: as returned by `inputs`.
    """

    def of_group(part: Program, hparams: Mapping[str, jax.Array]) -> RunState:
        """Build the states of one group, leaves [num_seeds, num_hparams, ...]."""

        def of_seed(params: PyTree, model_state: PyTree) -> RunState:
            def of_lane(hparams: Mapping[str, jax.Array]) -> RunState:
                return init_run(part, params, model_state, hparams, inputs.horizon)

            # axis_size: a method may have no traced hyperparameter.
            return jax.vmap(of_lane, axis_size=part.num_hparams)(hparams)

        return jax.vmap(of_seed)(seeds.params, seeds.model_state)

    return tuple(map(of_group, program.parts, inputs.hparams))


def observe(
    state: BlockState, step: jax.Array
) -> tuple[BlockState, PyTree, dict[str, jax.Array]]:
    """Mark runs with non-finite parameters and read values off the state.

    Args:
      state: state of a block.
      step: int, updates done.

    Returns:
      The state; the parameters to evaluate; and name -> [seeds, hparams] with the
      learning rate, the last loss and `diverged_at`. If losses are summed there is also
      `mean_batch_loss`, over all updates done; updates after a divergence add nothing.
    """
    parts = [_observe_group(part, step) for part in state]
    states, params, rows = zip(*parts, strict=True)
    return states, joined(params), joined(rows)


def _observe_group(
    state: RunState, step: jax.Array
) -> tuple[RunState, PyTree, dict[str, jax.Array]]:
    """Observe a group, as `observe` does a block."""
    params = _params_of_group(state)
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


def final_params(state: BlockState) -> PyTree:
    """The parameters to keep and to evaluate, leaves [seeds, hparams, ...]."""
    return joined([_params_of_group(part) for part in state])


def model_states(state: BlockState) -> PyTree:
    """The model states of all runs, leaves [seeds, hparams, ...]."""
    return joined([part.model_state for part in state])


def _params_of_group(state: RunState) -> PyTree:
    """The parameters of one group, as `final_params`."""
    return jax.vmap(jax.vmap(optim.eval_params))(state.opt_state, state.params)


def run_at(program: Program, state: BlockState, seed: int, lane: int) -> RunState:
    """Cut one run out of a block's state, leaves [1, ...].

    Args:
      program: program of the block.
      state: its state.
      seed, lane: position of the run.
    """
    group, place = program.places[lane]
    return jax.tree.map(lambda x: x[seed : seed + 1, place], state[group])
