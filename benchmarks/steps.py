"""Seconds and floating-point operations of training steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lrjax import methods
from lrjax.core import Task
from lrjax.engine import programs, strategy, train


def timed(job: Callable[[], Any]) -> float:
    """Seconds until a job's result is there."""
    began = time.perf_counter()
    jax.block_until_ready(job())
    return time.perf_counter() - began


def step_seconds(task: Task, runs: int, steps: int, turns: int) -> float:
    """Seconds of one step of all runs together."""
    method = methods.find("adam")
    lanes = [
        dict(method.defaults) | {"learning_rate": 1e-4 * (i + 1)} for i in range(runs)
    ]
    static, _ = methods.split(method, lanes[0])
    traced = [methods.split(method, lane)[1] for lane in lanes]
    alone = strategy.one_by_one(task)
    width, again = (1, runs) if alone else (runs, 1)
    program = train.single(task, method, static, 3 * steps, 1, width, one_by_one=alone)
    seeds = train.seed_runs(task.init, np.zeros(1, np.uint32))
    inputs = train.inputs(program, seeds, traced[:width], 3 * steps)
    compiled = programs.compile_program(program, seeds, inputs)
    advance = programs.stepper(compiled, program, seeds, inputs)
    advance(steps)
    spent = []
    for _ in range(turns):
        short = timed(lambda: [advance(steps) for _ in range(again)])
        long = timed(lambda: [advance(3 * steps) for _ in range(again)])
        spent.append((long - short) / (2 * steps))
    return float(np.median(spent))


def step_flops(task: Task) -> float:
    """What XLA counts for loss and gradient of one run's batch."""
    arguments = strategy.loss_arguments(
        task.init, strategy.batch_shapes(task), task.batch_size
    )
    lowered = jax.jit(jax.value_and_grad(task.loss, has_aux=True)).lower(*arguments)
    return float((lowered.cost_analysis() or {}).get("flops", float("nan")))
