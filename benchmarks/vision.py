r"""Training images per second of each vision model, several runs at once.

  python benchmarks/vision.py [--tasks=cifar10/wrn16_2,...] [--runs=1,2,4,8]
      [--precision=bfloat16] [--peak=989] [--steps=20] [--turns=3] [--json=FILE]

Runs are trained as experiments train them, by the same programs, on images of noise:
gathering rows and augmenting are included, evaluation is not (two lengths of training
with one evaluation each are subtracted). Floating-point operations are those that XLA
counts in one run's step; `--peak` is the device's, in TFLOP/s, to give the share of it.
Augmentation is also timed alone, and together with gathering rows, to give the input's
share of a step. The figures are medians over turns; runs differ in their learning rate,
so they share batches where they are trained together (not convolutions on a CPU).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lrjax import methods
from lrjax.core import Batch, Task
from lrjax.engine import programs, strategy, train
from lrjax.launch import startup
from lrjax.tasks import TaskOptions, image_data, images
from lrjax.tasks.image_data import Part


def noise_task(name: str, precision: str, batch_size: int) -> Task:
    """A task of `RECIPES` with noise for images."""
    recipe = images.RECIPES[name]
    entry = image_data.SETS[recipe.data]
    random = np.random.default_rng(0)
    shape = entry.shape or (480, 500, 3)  # usual for DTD

    def part(rows: int) -> Part:
        pixels = random.integers(0, 256, (rows, *shape), np.uint8)
        made = Part(pixels, np.arange(rows) % entry.classes)
        return made if entry.shape else images.with_sizes(made)

    return images.recipe_task(
        name,
        {"train": part(4 * batch_size), "valid": part(8), "test": part(8)},
        TaskOptions(batch_size=batch_size, precision=precision),
    )


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


def input_seconds(name: str, task: Task, steps: int, turns: int) -> tuple[float, float]:
    """Seconds of augmenting a batch, and of gathering its rows and augmenting them."""
    view = images.RECIPES[name].view
    batch = {k: v[: task.batch_size] for k, v in task.train.items()}
    keys = list(jax.random.split(jax.random.key(0), steps))
    rows = jax.random.randint(keys[0], (task.batch_size,), 0, 4 * task.batch_size)

    @jax.jit
    def gathered(key: jax.Array, train: Batch) -> jax.Array:
        return view(key, {k: v[rows] for k, v in train.items()})

    seconds = []
    for job, data in ((jax.jit(view), batch), (gathered, task.train)):
        jax.block_until_ready(job(keys[0], data))
        each = [
            timed(lambda job=job, data=data: [job(key, data) for key in keys])
            for _ in range(turns)
        ]
        seconds.append(float(np.median(each)) / steps)
    return seconds[0], seconds[1]


def step_flops(task: Task) -> float:
    """What XLA counts for loss and gradient of one run's batch."""
    params, state = jax.eval_shape(task.init, jax.random.key(0))
    batch = {
        k: jax.ShapeDtypeStruct((task.batch_size, *v.shape[1:]), v.dtype)
        for k, v in task.train.items()
    }
    batch["mask"] = jax.ShapeDtypeStruct((task.batch_size,), jnp.float32)
    step = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    lowered = step.lower(params, state, jax.random.key(0), batch)
    return float((lowered.cost_analysis() or {}).get("flops", float("nan")))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = "cifar10/wrn16_2,cifar100/densenet_bc,dtd/vit_ti16"
    parser.add_argument("--tasks", default=names)
    parser.add_argument("--runs", default="1,2,4,8")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    args = parser.parse_args()
    startup.keep_freed_memory(args.tasks.split(","))  # as main.py does
    print(
        f"{args.precision}, batch {args.batch}; {os.cpu_count()} cores, "
        f"{jax.devices()[0].device_kind}, JAX {jax.__version__}\n"
    )
    print(
        "| task | runs | ms a step | images/s, all runs | TFLOP/s | share of peak | "
        "augmentation alone, ms | input, share of step |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    table = []
    for name in args.tasks.split(","):
        task = noise_task(name, args.precision, args.batch)
        alone, input_ = input_seconds(name, task, args.steps, args.turns)
        flops = step_flops(task)
        for runs in map(int, args.runs.split(",")):
            seconds = step_seconds(task, runs, args.steps, args.turns)
            rate = runs * flops / seconds / 1e12
            batches = runs if strategy.one_by_one(task) else 1  # else runs share them
            share = f"{rate / args.peak:.1%}" if args.peak else "-"
            print(
                f"| {name} | {runs} | {1e3 * seconds:.4g} | "
                f"{runs * args.batch / seconds:,.0f} | {rate:.3g} | {share} | "
                f"{1e3 * alone:.3g} | {batches * input_ / seconds:.1%} |",
                flush=True,
            )
            table.append(
                {
                    "task": name,
                    "runs": runs,
                    "step_seconds": seconds,
                    "step_flops": flops,
                    "augmentation_seconds": alone,
                    "input_seconds": input_,
                }
            )
    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
