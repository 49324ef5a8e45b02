"""Many tasks of one shape trained by one program: tasks x seeds x rates at once."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import machine, methods
from lrjax.core import Batch, Method, Task
from lrjax.engine import evaluation, programs, train

# Tasks that are vmapped; on a CPU one after the other took a third of the time of
# eight beside each other.
_TASKS_AT_ONCE, _TASKS_AT_ONCE_ELSEWHERE = {"cpu": 1}, 64


class Entry(NamedTuple):
    """What can be selected.

    Attributes:
      label: its name.
      method, hparams: what it trains with.
    """

    label: str
    method: Method
    hparams: Mapping[str, Any]


class Stop(NamedTuple):
    """Where runs end and are measured.

    Attributes:
      steps: updates.
      horizon: of the schedules, at least `steps`.
      cooldown: updates at the end over which methods that are bound to their horizon
        come to rest, as in a race.
    """

    steps: int
    horizon: int
    cooldown: int = 0


def groups(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries that share a program: of the same method but for traced numbers."""
    found: dict[Any, list[Entry]] = {}
    for entry in entries:
        static, traced = methods.split(entry.method, entry.hparams)
        found.setdefault((entry.method.name, static, tuple(traced)), []).append(entry)
    return list(found.values())


def train_group(
    stacked: Task, group: Sequence[Entry], seeds: Sequence[int], stops: Sequence[Stop]
) -> list[dict[str, np.ndarray]]:
    """Train entries that share a program, anew to each stop, in one compilation.

    Args:
      stacked: arrays with a task axis first.
      group: of `groups`.
      seeds: of the runs of each.
      stops: where to measure.

    Returns:
      for each stop, measurements by name [tasks, seeds, entries].
    """
    method, hparams = group[0].method, dict(group[0].hparams)
    rests = method.horizon_bound(hparams) and any(stop.cooldown for stop in stops)
    lanes = [methods.split(entry.method, entry.hparams)[1] for entry in group]
    first = {
        part: jax.tree.map(lambda x: x[0], getattr(stacked, part))
        for part in ("train", "valid", "test")
    }
    program = train.single(
        task=dataclasses.replace(stacked, **first),
        method=methods.cooled(method) if rests else method,
        static=methods.split(method, hparams)[0],
        eval_every=max(stop.steps for stop in stops),
        num_seeds=len(seeds),
        num_hparams=len(group),
    )
    keyed = train.seed_runs(stacked.init, np.asarray(seeds, np.uint32))
    at_once = _TASKS_AT_ONCE.get(machine.kind(), _TASKS_AT_ONCE_ELSEWHERE)

    @jax.jit
    def on_all(inputs: train.Inputs, steps: jax.Array, *parts: Batch):
        one = functools.partial(_train_one, program, keyed, inputs, steps)
        return jax.lax.map(lambda p: one(*p), parts, batch_size=at_once)

    found = []
    for stop in stops:
        extra = {}
        if rests:
            cools = float(stop.cooldown)
            start = stop.steps - cools if cools else math.inf
            extra = {"cooldown_start": start, "cooldown_steps": cools or 1.0}
        inputs = train.inputs(
            program, keyed, [{**lane, **extra} for lane in lanes], stop.horizon
        )
        parts = (stacked.train, stacked.valid, stacked.test)
        values = on_all(inputs, jnp.int32(stop.steps), *parts)
        found.append({k: np.asarray(v) for k, v in values.items()})
    return found


def _train_one(
    program: train.Program,
    seeds: train.Seeds,
    inputs: train.Inputs,
    steps: jax.Array,
    train_part: Batch,
    valid_part: Batch,
    test_part: Batch,
) -> dict[str, jax.Array]:
    """Train the seeds and rates of an entry's method on one task, from its data."""
    state = train.init(program, seeds, inputs)
    state, table = programs.segment(
        program, state, inputs, train_part, valid_part, jnp.int32(0), steps
    )
    lanes = program.num_seeds * program.num_hparams
    test = evaluation.evaluate_part(
        program.task.evaluate,
        program.task.metrics,
        train.final_params(state),
        train.model_states(state),
        test_part,
        evaluation.rows_at_once(program.task, lanes),
        program.dtype,
    )
    last = {k: v[0] for k, v in table.items()}
    return last | {f"test_{k}": v for k, v in test.items()}
