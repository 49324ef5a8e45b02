"""One step of each network: loss, gradients and updated parameters beside a CPU's.

`highest` is float32 with all its digits. `shipped` is float32 as experiments have it,
in which GPUs multiply in TF32 and TPUs in bfloat16.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import blocks, compare
from benchmarks.accelerator.core import CPU, DEVICE, Numbers, Part, Row, check, under
from lrjax import methods
from lrjax.common import numerics
from lrjax.core import Task
from lrjax.engine import train

# Relative Euclidean distances: an exact float32 step of a few dozen layers keeps three
# digits; ten bits of TF32, or eight of bfloat16, not two.
FLOORS = {"highest": 1e-3, "shipped": 5e-2, "bfloat16": 5e-2}
# In bfloat16 the gradient of WRN-16-2 changes by a seventh where parameters change by a
# millionth, as all roundings fall otherwise: two devices are no closer. Unrelated
# gradients are 1.4 apart.
MOST = 0.5
ROWS = {"dtd/vit_ti16": 2, "bookwiki/roberta_base": 2}
NAMES = (
    *("digits/wrn", "cifar10/wrn16_2", "cifar100/densenet_bc", "dtd/vit_ti16"),
    *("bookwiki/roberta_tiny", "bookwiki/roberta_base"),
)


def parts(miniature: bool) -> list[Part]:
    """A part for each network; an item is a network and its arithmetic."""
    names = ("digits/wrn",) if miniature else NAMES
    kinds = ("highest", "bfloat16") if miniature else tuple(FLOORS)
    return [
        Part(
            f"step-{name.partition('/')[2]}",
            tuple(f"{name}/{kind}" for kind in kinds),
            compute,
            judge,
            (DEVICE, CPU),
        )
        for name in names
    ]


def compute(item: str, folder: Path) -> dict[str, np.ndarray]:
    """Loss, gradients and parameters after one step, also from noisy parameters."""
    del folder
    name, _, kind = item.rpartition("/")
    precision = "bfloat16" if kind == "bfloat16" else "float32"
    task = blocks.make_task(name, precision, ROWS.get(name, 8))
    exact = jax.default_matmul_precision("highest")
    with exact if kind == "highest" else contextlib.nullcontext():
        step = jax.jit(_step_of(task))
        params, model_state = jax.jit(task.init)(numerics.key(0))
        found = step(params, model_state)
        moved = step(jax.tree.map(compare.noisy, params), model_state)
    return _named("found", found) | _named("moved", moved)


def _step_of(task: Task) -> Any:
    """A function from parameters to loss, gradients and parameters after a step."""
    sgd = methods.find("sgd")
    hparams = dict(sgd.defaults) | {"learning_rate": 0.1}
    static, traced = methods.split(sgd, hparams)
    program = train.single(task, sgd, static, 1, 1, 1)
    rows = task.batch_size

    def step(params: Any, model_state: Any) -> dict[str, Any]:
        batch = {key: jnp.asarray(value[:rows]) for key, value in task.train.items()}
        batch["mask"] = jnp.ones(rows, program.dtype)
        key = numerics.key(1)
        gradient = train.gradient_run(program, params, model_state, batch, key)
        state = train.init_run(program, params, model_state, traced, 10.0)
        state = train.apply_run(
            program, state, gradient, batch, key, jnp.int32(0), traced, 10.0
        )
        return {"loss": gradient.loss, "grads": gradient.grads, "params": state.params}

    return step


def _named(start: str, step: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A sample of each array of a step's result, with its name."""
    return {
        f"{start}/{what}/{number}": compare.sample(leaf)
        for what, tree in step.items()
        for number, leaf in enumerate(jax.tree.leaves(tree))
    }


def judge(item: str, sides: Mapping[str, Numbers]) -> list[Row]:
    """Compare loss, gradients and parameters with the CPU's.

    In exact float32 each array, else all together.
    """
    kind = item.rpartition("/")[2]
    far_from = compare.farthest if kind == "highest" else compare.distance
    rows = []
    for what in ("loss", "grads", "params"):
        found, own = (under(sides[side], f"found/{what}") for side in (DEVICE, CPU))
        moved = far_from(under(sides[CPU], f"moved/{what}"), own)
        may = min(compare.allowed(moved, FLOORS[kind]), MOST)
        rows.append(check(f"{item}, {what}", far_from(found, own), may))
    return rows
