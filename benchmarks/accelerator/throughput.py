"""Examples and tokens per second of each task, several runs at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from benchmarks import noise, steps
from benchmarks.accelerator import blocks
from benchmarks.accelerator.core import DEVICE, Numbers, Part, Row
from lrjax.core import Task
from lrjax.engine import strategy

# task -> rows of a batch, steps of a measurement
TASKS = {
    "cifar10/wrn16_2": (64, 60),
    "cifar100/densenet_bc": (64, 30),
    "dtd/vit_ti16": (64, 20),
    "bookwiki/roberta_tiny": (16, 100),
    "bookwiki/roberta_base": (32, 6),
    "digits/wrn": (64, 200),
}
RUNS = (1, 8, 4, 2)  # where time ends early, the ends are there
TURNS = 3
_MINIATURE = "digits/wrn"


def parts(miniature: bool) -> list[Part]:
    """A part for each task; an item is a precision and a number of runs."""
    names = (_MINIATURE,) if miniature else tuple(TASKS)
    made = []
    for name in names:
        kinds = ("bfloat16", "float32") if name == "cifar10/wrn16_2" else ("bfloat16",)
        items = tuple(f"{name}/{kind}/{runs}" for kind in kinds for runs in RUNS)
        if miniature:
            items = (f"{name}/bfloat16/1/miniature",)
        part = f"speed-{name.partition('/')[2]}"
        made.append(Part(part, items, compute, judge, proves=False))
    return made


def compute(item: str, folder: Path) -> dict[str, float]:
    """Seconds of a step of all runs, and what a step does."""
    del folder
    name, model, precision, runs, *small = item.split("/")
    name = f"{name}/{model}"
    rows, count = (4, 1) if small else TASKS[name]
    task = blocks.make_task(name, precision, rows)
    seconds = steps.step_seconds(task, int(runs), count, 1 if small else TURNS)
    return {
        "step_seconds": seconds,
        "rows": rows,
        "tokens": tokens_of(task),
        "flops": step_flops(task),
    }


def tokens_of(task: Task) -> float:
    """Real tokens of a batch, in the mean; 0 of images."""
    if "tokens" not in task.train:
        return 0.0
    tokens = np.asarray(jax.device_get(task.train["tokens"]))
    return float((tokens != noise.PAD).sum()) / len(tokens) * task.batch_size


def step_flops(task: Task) -> float:
    """Floating-point operations of a run's step, forward and backward.

    XLA's count; where it has none, three times those of the loss.
    """
    counted = steps.step_flops(task)
    if math.isfinite(counted) and counted > 0:
        return counted
    work = strategy.work_of(task)
    return 6.0 * (work.multiplied + work.convolved)


def judge(item: str, sides: Mapping[str, Numbers]) -> list[Row]:
    """One row of the table."""
    name, model, precision, runs, *_ = item.split("/")
    found = {key: float(value) for key, value in sides[DEVICE].items()}
    seconds, runs = found["step_seconds"], int(runs)
    return [
        {
            "task": f"{name}/{model}",
            "precision": precision,
            "runs": runs,
            "step_seconds": seconds,
            "examples_per_s": runs * found["rows"] / seconds,
            "tokens_per_s": runs * found["tokens"] / seconds,
            "flops_per_s": runs * found["flops"] / seconds,
        }
    ]
