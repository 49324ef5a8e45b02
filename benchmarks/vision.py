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
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import noise, steps
from lrjax.core import Batch, Task
from lrjax.engine import strategy
from lrjax.launch import startup
from lrjax.tasks import images


def input_seconds(name: str, task: Task, count: int, turns: int) -> tuple[float, float]:
    """Seconds of augmenting a batch, and of gathering its rows and augmenting them."""
    view = images.RECIPES[name].view
    batch = {k: v[: task.batch_size] for k, v in task.train.items()}
    keys = list(jax.random.split(jax.random.key(0), count))
    rows = jax.random.randint(keys[0], (task.batch_size,), 0, 4 * task.batch_size)

    @jax.jit
    def gathered(key: jax.Array, train: Batch) -> jax.Array:
        return view(key, {k: v[rows] for k, v in train.items()})

    seconds = []
    for job, data in ((jax.jit(view), batch), (gathered, task.train)):
        jax.block_until_ready(job(keys[0], data))
        each = [
            steps.timed(lambda job=job, data=data: [job(key, data) for key in keys])
            for _ in range(turns)
        ]
        seconds.append(float(np.median(each)) / count)
    return seconds[0], seconds[1]


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
        task = noise.image_task(name, args.precision, args.batch)
        alone, input_ = input_seconds(name, task, args.steps, args.turns)
        flops = steps.step_flops(task)
        for runs in map(int, args.runs.split(",")):
            seconds = steps.step_seconds(task, runs, args.steps, args.turns)
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
