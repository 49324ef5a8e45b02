r"""A learning-rate finder on the tasks that judge selections.

    python benchmarks/rate_finder.py --judged=results/selection_judged.zip --data=DATA

The range test of Smith (2017, arXiv 1506.01186) as fastai and PyTorch Lightning do it:
AdamW for 100 updates, at rates that grow exponentially from 1e-7 to 10, on a new batch
each. Losses are smoothed (0.98, without bias); the first ten, the last five and those
after four times the least do not count. It answers a tenth of the rate of the least
loss, or the rate of the steepest fall. Writes results/rate_finder.json, with which
`selection.py` compares.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import priors
from benchmarks.across_tasks import made_tasks
from configs import quickstart
from lrjax import config as config_lib
from lrjax import optim
from lrjax.common import files, numerics
from lrjax.core import Batch, Task
from lrjax.launch import startup

FOUND = Path(__file__).resolve().parents[1] / "results" / "rate_finder.json"
RATES = np.geomspace(1e-7, 10, 100)
_SMOOTHED = 0.98
_BLOWN = 4.0  # times the least loss
_SKIPPED = (10, 5)  # first and last losses


def main() -> None:
    """Find rates for all judging tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judged", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    args = parser.parse_args()
    startup.prepare(config_lib.check(quickstart.get_config()))
    found: dict[str, dict[str, float]] = {}
    ranges: dict[str, Callable[..., jax.Array]] = {}
    for name, _ in priors.files(args.judged):
        shape, _, number = name.partition("-")
        task = made_tasks.make(shape, int(number), args.data).task
        if shape not in ranges:
            ranges[shape] = range_test(task)
        found[name] = answers(np.asarray(ranges[shape](task.train, int(number))))
        print(name, found[name], flush=True)
    files.replace(FOUND, json.dumps(found, indent=0, sort_keys=True) + "\n")


def range_test(task: Task) -> Callable[[Batch, int], jax.Array]:
    """Make the range test of all tasks of a shape: losses [rates] of its updates.

    Args:
      task: one of the shape.
    """

    def tested(train: Batch, seed: Any) -> jax.Array:
        key = numerics.key(seed)
        params, state = task.init(jax.random.fold_in(key, 0))
        tx = optim.adamw(learning_rate=1.0)
        orders = jax.random.split(jax.random.fold_in(key, 1), len(RATES))
        rows = jax.tree.leaves(train)[0].shape[0]

        def step(carry: Any, drawn: tuple[jax.Array, jax.Array]) -> Any:
            (params, opt_state), (rate, order) = carry, drawn
            at = jax.random.randint(order, (task.batch_size,), 0, rows)
            batch = {name: values[at] for name, values in train.items()}
            batch["mask"] = jnp.ones(task.batch_size, jnp.float32)
            loss, grads = jax.value_and_grad(
                lambda params: task.loss(params, state, order, batch)[0]
            )(params)
            updates, opt_state = tx.update(grads, opt_state, params)
            updates = jax.tree.map(lambda u: rate * u, updates)
            return (optax.apply_updates(params, updates), opt_state), loss

        rates = jnp.float32(RATES)
        return jax.lax.scan(step, (params, tx.init(params)), (rates, orders))[1]

    return jax.jit(tested)


def answers(losses: np.ndarray) -> dict[str, float]:
    """What a finder answers to the losses of its updates.

    Args:
      losses: [rates], of batches before their updates.

    Returns:
      'tenth', a tenth of the rate of the least smoothed loss, and 'steepest', the rate
      at which it falls fastest.
    """
    smoothed: list[float] = []
    mean = 0.0
    for i, loss in enumerate(losses):
        mean = _SMOOTHED * mean + (1 - _SMOOTHED) * float(loss)
        now = mean / (1 - _SMOOTHED ** (i + 1))
        if not now <= _BLOWN * min(smoothed, default=now):
            break
        smoothed.append(now)
    if len(smoothed) < 2:  # no rate is small enough
        return {"tenth": float(RATES[0]) / 10, "steepest": float(RATES[0])}
    first, last = _SKIPPED
    first = max(0, min(first, len(smoothed) - 2))  # of a loss that blew up before
    kept = smoothed[first : max(first + 2, len(smoothed) - last)]
    least, steepest = int(np.argmin(kept)), int(np.argmin(np.gradient(kept)))
    return {
        "tenth": float(RATES[first + least]) / 10,
        "steepest": float(RATES[first + steepest]),
    }


if __name__ == "__main__":
    main()
