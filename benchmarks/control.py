r"""Episodes per second, learned control on tasks never seen, and what cut unrolls cost.

  python benchmarks/control.py [--part=episodes,heldout,horizon] [--dacbench=PYTHON]

`episodes`: 320 episodes of iris, 100 epochs with an action for each, in one compiled
program against a Gymnasium loop over one environment and, with `--dacbench`, against
DACBench's own `SGDEnv`, run by the Python of an environment that has
`requirements-dacbench.txt`. On all sides logistic regression, the same 90, 30 and 30
rows, AdamW at the rate 0.03 and two updates of 45 rows an epoch, then an evaluation.
Loops run a few episodes; compilation is left out; sides take turns, three each.

`heldout`: `heldout.py` says what.

`horizon`: five knots of a schedule, tuned by the gradient through training that is cut
into pieces, or whole, or by evolution strategies; on a noisy quadratic (Wu et al. 2018)
and on digits in batches of 2.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from heldout import heldout

from benchmarks.controllers import evolution, splines
from lrjax import control, tasks
from lrjax.control import policies
from lrjax.core import Task

EPISODES, IN_A_LOOP, TURNS = 320, 5, 3
EPOCHS, BATCH, RATE = 100, 45, 0.03


def episodes(dacbench: str | None) -> None:
    """Print episodes per second of a population and of loops.

    Args:
      dacbench: the Python that has DACBench; None to leave it out.
    """
    from lrjax.control import gym

    task = tasks.make_task("libsvm/iris", tasks.TaskOptions(batch_size=BATCH))
    steps = EPOCHS * task.steps_per_epoch
    env = control.Env(task, steps, hparams={"weight_decay": 0.01})

    def rollout(key: jax.Array) -> jax.Array:
        return control.rollout(env, policies.constant(RATE), key).rewards.sum()

    population = jax.jit(jax.vmap(rollout))
    keys = jax.vmap(jax.random.key)(jnp.arange(EPISODES))
    single, action = gym.LearningRateEnv(env), np.array([RATE], np.float32)

    def loop() -> None:
        for seed in range(IN_A_LOOP):
            single.reset(seed=seed)
            over = False
            while not over:
                *_, over, _, _ = single.step(action)

    sides = {
        "one compiled program": timed(
            lambda: population(keys).block_until_ready(), EPISODES
        ),
        "Gymnasium loop": timed(loop, IN_A_LOOP),
    }
    with contextlib.ExitStack() as stack:
        if dacbench:
            sides["DACBench"] = stack.enter_context(other_side(task, dacbench))
        for side in sides.values():
            side()  # compiled
        turns = [[side() for side in sides.values()] for _ in range(TURNS)]
    for name, rates in zip(sides, np.transpose(turns), strict=True):
        ratios = np.transpose(turns)[0] / rates
        print(
            f"{name:20s} {np.median(rates):8.1f} episodes/s ({np.sort(rates).round(1)})"
            f"   the first is {np.median(ratios):.0f} times as fast"
            f" ({ratios.min():.0f} to {ratios.max():.0f})"
        )


def timed(work: Callable[[], object], count: int) -> Callable[[], float]:
    """Episodes per second of work that is so many of them."""

    def run() -> float:
        began = time.perf_counter()
        work()
        return count / (time.perf_counter() - began)

    return run


@contextlib.contextmanager
def other_side(task: Task, python: str) -> Iterator[Callable[[], float]]:
    """DACBench in a process of its own, which waits while others have their turn."""
    script = Path(__file__).with_name("dacbench_sgd.py")
    with tempfile.TemporaryDirectory() as folder:
        rows = {
            name: np.concatenate([task.train[name], task.valid[name]])
            for name in ("features", "labels")
        }
        rows |= {f"test_{name}": np.asarray(task.test[name]) for name in rows}
        path = Path(folder) / "rows.npz"
        np.savez(path, **rows)
        command = [python, "-W", "ignore", str(script), str(path)]
        command += map(str, (IN_A_LOOP, EPOCHS, BATCH))
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin
            assert process.stdout

            def turn() -> float:
                print(file=process.stdin, flush=True)
                rate, reward = map(float, process.stdout.readline().split())
                print(f"(DACBench: mean reward {reward:.3f})", file=sys.stderr)
                return rate

            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"error: {python} cannot run {script.name}")
            yield turn
            process.stdin.close()


def horizon() -> None:
    """Print knots and final losses by the length of the pieces."""
    digits = tasks.make_task("digits/logistic", tasks.TaskOptions(batch_size=2))
    quadratic = splines.noisy_quadratic(np.geomspace(1e-2, 1, 20))
    for name, system, steps, pieces, begin, iterations in (
        ("noisy quadratic", quadratic, 300, (1, 10, 100, None), -1.0, 400),
        ("digits", splines.training(digits), 256, (1, 16, None), -1.5, 60),
    ):
        start = jnp.full(5, begin)
        keys = jax.random.split(jax.random.key(9), 20)

        def losses(knots, keys, system=system, steps=steps):
            one = jax.vmap(splines.final_loss, (None, None, None, 0))
            return one(system, steps, knots, keys).mean()

        judge = jax.jit(losses)
        many = jax.jit(jax.vmap(losses, (0, None)))
        print(f"{name}, {steps} steps; the start has {judge(start, keys):.3f}")
        for piece in pieces:
            knots = splines.tune(
                system, steps, start, jax.random.key(0), piece, iterations
            )
            row(f"pieces of {piece or steps}", knots, judge(knots, keys))
        knots = evolution.evolve(
            lambda points, key, _, many=many: many(points, key[None]),
            start,
            jax.random.key(0),
            iterations,
            pairs=8,
            sigma=0.1,
            rate=0.05,
        )
        row("evolution", knots, judge(knots, keys))


def row(name: str, knots: jax.Array, loss: jax.Array) -> None:
    rates = " ".join(f"{10.0**knot:8.3g}" for knot in np.asarray(knots))
    print(f"  {name:15s} loss {loss:9.3f}   rates {rates}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", default="episodes,heldout,horizon")
    parser.add_argument("--dacbench", help="a Python that has DACBench")
    given = parser.parse_args()
    parts = {
        "episodes": lambda: episodes(given.dacbench),
        "heldout": heldout,
        "horizon": horizon,
    }
    for part in given.part.split(","):
        parts[part]()
