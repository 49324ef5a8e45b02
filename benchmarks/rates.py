r"""Regret of learning rates that find_rate and range tests return, at the same cost.

  python benchmarks/rates.py [--tasks=libsvm/wine,digits/logistic] [--epochs=50]
      [--methods=momentum,adam,adamw_cosine] [--json=FILE]

The truth is every rate of a grid (four in a decade) trained at full length with seeds
that nobody else sees. A rate's regret is its mean validation loss there over the best
rate's, in percent. Ways to find a rate:

- find_rate: a tenth of the length, one seed, and with three seeds;
- range test (Smith 2017, Cyclical learning rates): one run whose rate grows
  exponentially from the smallest to the largest of the grid, for as many updates as
  find_rate's runs with one seed have together, and for 100 updates as usual. From its
  smoothed losses (fastai's: 0.98, stopped at four times the smallest) `minimum` takes a
  tenth of the rate with the smallest, and `steepest` the rate where it falls fastest
  (Lightning's `lr_find`).

The schedules of a method apply in the range test, too: at the first update, so that a
cosine has not begun to fall.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lrjax
from lrjax import methods, tasks
from lrjax.core import Task
from lrjax.engine import order, train

TASKS = "libsvm/iris,libsvm/wine,libsvm/vowel,libsvm/vehicle,digits/logistic"
SEEDS = [1000, 1001, 1002, 1003, 1004]  # of the truth
SMOOTHING = 0.98
FORGOTTEN = 4  # times the smallest loss, where a range test stops


def sweep(task: Task, method: str, rates: np.ndarray) -> np.ndarray:
    """Losses of one run whose update number i has rate number i, [updates]."""
    chosen = methods.find(method)
    static, traced = methods.split(chosen, dict(chosen.defaults))
    program = train.single(task, chosen, static, 1, 1, 1)
    seeds = train.seed_run(task.init, jax.random.key(0))
    horizon = 1e9  # a schedule has not begun to fall

    def step(carry: Any, at: Any) -> Any:
        state, number = carry
        rows, mask = order.batches(
            seeds.order, number, 1, task.batch_size, task.num_examples
        )
        batch = {name: array[rows[0]] for name, array in task.train.items()}
        batch["mask"] = mask[0].astype(jnp.float32)
        key = jax.random.fold_in(seeds.noise, number)
        hparams = {**traced, "learning_rate": at}
        state = train.step_run(program, state, batch, key, number, hparams, horizon)
        return (state, number + 1), state.last_loss

    def whole(rates: jax.Array) -> jax.Array:
        hparams = {**traced, "learning_rate": rates[0]}
        state = train.init_run(
            program, seeds.params, seeds.model_state, hparams, horizon
        )
        return jax.lax.scan(step, (state, jnp.int32(0)), rates)[1]

    return np.asarray(jax.jit(whole)(jnp.asarray(rates, jnp.float32)))


def suggestions(rates: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """Rates that a range test suggests."""
    smooth, average = [], 0.0
    for i, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smooth.append(average / (1 - SMOOTHING**i))
        if not np.isfinite(loss) or smooth[-1] > FORGOTTEN * min(smooth):
            break
    seen = np.array(smooth[: -1 if len(smooth) < len(losses) else None])
    tried = rates[: len(seen)]
    slope = np.gradient(seen, np.log(tried))
    return {
        "minimum": float(tried[seen.argmin()]) / 10,
        "steepest": float(tried[slope.argmin()]),
    }


def nearest(rate: float, grid: Sequence[float]) -> float:
    """The rate of a grid next to a rate, on a logarithmic scale."""
    return min(grid, key=lambda other: abs(np.log(other / rate)))


def one(name: str, method: str, epochs: int) -> list[dict[str, Any]]:
    """Regrets of all ways, for a method on a task."""
    short = max(epochs // 10, 1)
    task = tasks.make_task(name)
    found = {
        f"find_rate, {counted}": lrjax.find_rate(
            name, method, seeds=seeds, epochs=short
        )
        for counted, seeds in (("1 seed", 1), ("3 seeds", 3))
    }
    grid = next(iter(found.values())).table["learning_rate"].tolist()
    truth = lrjax.compare(
        name,
        method,
        seeds=SEEDS,
        epochs=epochs,
        eval_every=epochs * task.steps_per_epoch,
        grid={"learning_rate": tuple(grid)},
    ).runs
    losses = truth.groupby("learning_rate")["valid_loss"].apply(
        lambda values: values.fillna(np.inf).mean()
    )
    best = losses.min()
    chosen = {way: rates.rate for way, rates in found.items()}
    for label, updates in (
        ("same cost", len(grid) * short * task.steps_per_epoch),
        ("100 updates", 100),
    ):
        tried = np.geomspace(grid[0], grid[-1], updates)
        for kind, rate in suggestions(tried, sweep(task, method, tried)).items():
            chosen[f"range test, {kind}, {label}"] = rate
    return [
        {
            "task": name,
            "method": method,
            "way": way,
            "rate": rate,
            "best": float(losses.idxmin()),
            "regret": float(losses[nearest(rate, grid)] / best - 1) * 100,
        }
        for way, rate in chosen.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--methods", default="momentum,adam,adamw_cosine")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in options.tasks.split(","):
        for method in options.methods.split(","):
            rows += one(name, method, options.epochs)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    by_way = table.groupby("way", sort=False)["regret"]
    summary = by_way.agg(["median", "mean", "max"])
    print(f"\nregret in percent\n{summary.to_string(float_format='{:.3g}'.format)}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
