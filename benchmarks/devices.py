r"""What several devices give, and what streaming the data costs.

  python benchmarks/devices.py [--part=runs,batch,stream] [--devices=1,2,4,8]
      [--task=bookwiki/roberta_tiny] [--batch=16] [--steps=8] [--turns=3]

On a CPU, so many devices are made of its cores: then this shows what it costs to deal
work out, not what more hardware gives.

- runs: whole blocks of runs on each device; 320 runs of logistic regression on digits,
  as an experiment trains them, compiled programs at hand.
- batch: one run of a language model whose batches (and, once more, whose parameters,
  too) are cut over the devices.
- stream: the same run on one device, its rows on the device or sent from the host.

Times are medians over turns; each count of devices is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lrjax import machine

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))


def seconds(job: Callable[[], Any], turns: int) -> float:
    """The median of so many turns, after one that does not count."""
    job()
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        job()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def runs_per_second(turns: int) -> float:
    """Of an experiment on all devices."""
    from lrjax import config as config_lib
    from lrjax.launch import experiment, startup

    config = config_lib.base()
    config.tasks, config.methods = ("digits/logistic",), ("adam",)
    config.seeds, config.epochs = 10, 100
    config.grid.learning_rate = tuple(10 ** (-4 + 3 * i / 31) for i in range(32))
    settings = config_lib.check(config)
    startup.prepare(settings)

    def train() -> None:
        with tempfile.TemporaryDirectory() as workdir:
            experiment.run(settings, workdir)

    return 320 / seconds(train, turns)


def stepper(
    args: argparse.Namespace, shard: str, streamed: bool
) -> Callable[[int], Any]:
    """Train a language model for some steps from its start, and measure it."""
    import jax

    from lrjax import methods
    from lrjax.engine import programs, sharding, train
    from lrjax.launch import program_pool
    from lrjax.tasks import TaskOptions, text

    recipe = text.RECIPES[args.task]
    random = np.random.default_rng(0)
    batch = args.batch or recipe.batch_size
    shape = (64 * batch, recipe.length)
    tokens = random.integers(5, recipe.vocab_size, shape).astype(np.uint16)
    rows = {"train": tokens, "valid": tokens[:8]}
    options = TaskOptions(batch_size=batch, precision=args.precision, stream=streamed)
    task = text.recipe_task(args.task, rows, recipe.vocab_size, 4, options)
    found = sharding.choose(shard, jax.devices())
    task = program_pool.moved_to(task, found.replicated if found else jax.devices()[0])
    method = methods.find("adamw_cosine")
    static, traced = methods.split(method, dict(method.defaults))
    program = train.single(
        task,
        method,
        static,
        eval_every=2 * args.steps,
        num_seeds=1,
        num_hparams=1,
        one_by_one=machine.kind() == "cpu",
        layout=found,
    )
    seeds = train.seed_runs(task.init, np.asarray([0]))
    inputs = train.inputs(program, seeds, [traced], 1000)
    compiled = programs.compile_program(program, seeds, inputs)
    return programs.stepper(compiled, program, seeds, inputs)


def step_seconds(
    advances: dict[str, Callable[[int], Any]], steps: int, turns: int
) -> dict[str, float]:
    """Of one step each; in turns, two lengths subtracted, the median."""
    found: dict[str, list[float]] = {name: [] for name in advances}
    for turn in range(turns + 1):
        for name, advance in advances.items():
            times = []
            for count in (steps, 2 * steps):
                began = time.perf_counter()
                advance(count)
                times.append(time.perf_counter() - began)
            if turn:  # the first does not count
                found[name].append((times[1] - times[0]) / steps)
    return {name: float(np.median(times)) for name, times in found.items()}


def child(args: argparse.Namespace) -> dict[str, Any]:
    """What one count of devices gives."""
    import jax

    result: dict[str, Any] = {
        "devices": len(jax.devices()),
        "kind": jax.devices()[0].device_kind,
    }
    if "runs" in args.part:
        result["runs"] = runs_per_second(args.turns)
    sides = {}
    if "batch" in args.part:
        sides |= {shard: stepper(args, shard, False) for shard in ("batch", "params")}
    if "stream" in args.part:
        sides["on device"] = stepper(args, "runs", False)
        sides["streamed"] = stepper(args, "runs", True)
    result |= step_seconds(sides, args.steps, args.turns)
    return result


def main() -> None:
    """Start a process for each count, and print what they found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", default="runs,batch,stream")
    parser.add_argument("--devices", default="1,2,4,8")
    parser.add_argument("--task", default="bookwiki/roberta_tiny")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--batch", type=int, help="rows; the task's own if not given")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args)))
        return
    print("| devices | measured | |\n|---|---|---|")
    flags = [word for word in sys.argv[1:] if not word.startswith("--part")]
    for count in map(int, args.devices.split(",")):
        parts = args.part.split(",")
        if count > 1:  # streaming has nothing to do with their number
            parts = [part for part in parts if part != "stream"]
        cpu = f"--xla_force_host_platform_device_count={count}"
        env = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {cpu}"}
        command = [sys.executable, __file__, "--child", f"--part={','.join(parts)}"]
        output = subprocess.check_output([*command, *flags], env=env, text=True)
        found = json.loads(output.splitlines()[-1])
        for name, value in found.items():
            if name in ("devices", "kind"):
                continue
            shown = f"{value:.0f} runs/s" if name == "runs" else f"{1e3 * value:.1f} ms"
            print(f"| {found['devices']} | {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
