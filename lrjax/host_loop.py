"""Training whose loop is the host's: a call of a compiled program for some steps.

For models that XLA trains many times slower inside of a loop (docs/design.md), a step a
call; and for a training part that stays on the host, a call for as many steps as one
transfer has batches for. The next batches are gathered and sent while the device works.
"""

from __future__ import annotations

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import compiler, evaluation, order
from lrjax.core import Batch, PyTree
from lrjax.layout import described
from lrjax.train import Inputs, Program, RunState, observe, step_block

T = TypeVar("T")

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
    evaluate, evaluating = _evaluations(program, *model)
    programs = [compiled, *evaluating]
    one_more: Any = None
    if evaluation.recalibrates_state(shapes):

        def once_more(*args: Any) -> Any:
            return evaluation.one_more_batch(
                task.loss, program.one_by_one, *args, program.dtype
            )

        batch = evaluation.calibration_batch(task.train, task.batch_size, 0)
        out = layout.of_state(shapes.model_state) if layout else None
        one_more = compiler.compile_step(
            jax.jit(once_more, out_shardings=out).lower(*model, batch, 0), params
        )
        programs.append(one_more)

    def run(state, inputs, train, valid, start, stop):
        table = []
        while start < stop:
            last = min(start + every, stop)
            state = advance(state, inputs, train, start, last)
            state, params, row = observed(state, last)
            model_state = evaluation.recalibrated(
                one_more, state, params, train, task.batch_size
            )
            row |= evaluate(params, model_state, train, valid or train)
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
        for first, (sent, mask) in zip(firsts, _prefetched(make, firsts), strict=True):
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


def _evaluations(
    program: Program, params: PyTree, model_state: PyTree
) -> tuple[Callable[..., dict[str, jax.Array]], list[Any]]:
    """What measures the parts, and its compiled programs."""
    task, dtype, layout = program.task, program.dtype, program.layout
    one_by_one = program.one_by_one
    lanes = program.num_seeds * program.num_hparams
    model = params, model_state
    programs = {}
    for name, part in evaluation.parts_to_measure(task, task.train, task.valid).items():
        if name == "train" and task.streamed:
            batch = next(_slices(program, part))
            lowered = evaluation.batch_sums.lower(
                task.evaluate, one_by_one, *model, batch
            )
        elif one_by_one:
            rows = evaluation.rows_of_a_slice(task, part)
            lowered = evaluation.slice_sums.lower(
                task.evaluate, *model, part, 0, rows, dtype, layout
            )
        else:
            at_once = evaluation.rows_at_once(task, lanes)
            lowered = evaluation.evaluate_part.lower(
                *(task.evaluate, task.metrics, *model, part),
                *(at_once, dtype, layout),
            )
        programs[name] = compiler.compile_step(lowered, params)

    def evaluate(params, model_state, train, valid):
        row = {}
        for name, part in evaluation.parts_to_measure(task, train, valid).items():
            program_of = functools.partial(programs[name], params, model_state)
            if name == "train" and task.streamed:
                sums = map(program_of, _slices(program, part))
                summed = functools.reduce(evaluation.add, sums)
                values = evaluation.values(task.metrics, summed)
            elif one_by_one:
                values = evaluation.evaluate_one_by_one(
                    programs[name], task, params, model_state, part
                )
            else:
                values = program_of(part)
            row |= {f"{name}_{k}": v for k, v in values.items()}
        return row

    return evaluate, list(programs.values())


def _slices(program: Program, part: Batch) -> Iterator[Batch]:
    """A part on the host, on the device slice by slice; the last is filled up."""
    task, n = program.task, len(next(iter(part.values())))
    lanes = program.num_seeds * program.num_hparams
    rows = min(evaluation.rows_at_once(task, lanes), n)
    place = program.layout.whole if program.layout else None

    def make(first: int) -> Batch:
        at = np.arange(first, first + rows)
        batch = {k: v[np.minimum(at, n - 1)] for k, v in part.items()}
        batch["mask"] = (at < n).astype(program.dtype)
        return jax.device_put(batch, place)

    return _prefetched(make, range(0, n, rows))


def _prefetched(make: Callable[[int], T], items: Iterable[int]) -> Iterator[T]:
    """`make` of each item, the next one in a thread while one is used."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting: collections.deque[concurrent.futures.Future[T]] = collections.deque()
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
