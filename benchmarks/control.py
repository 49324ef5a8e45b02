r"""Episodes per second, and what cutting the unrolled training costs a schedule.

  python benchmarks/control.py [--part=episodes,horizon]

`episodes`: 320 episodes of iris, 100 epochs with an action for each, in one compiled
program against a Gymnasium loop over one environment (a few episodes, scaled up); the
policy is a constant rate on both sides, compilation left out, three turns each.

`horizon`: five knots of a schedule, tuned by the gradient through training that is cut
into pieces, or whole, or by evolution strategies; on a noisy quadratic (Wu et al. 2018)
and on digits in batches of 2.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lrjax import control, tasks
from lrjax.control import evolution, policies, splines

EPISODES, IN_A_LOOP, TURNS = 320, 5, 3


def episodes() -> None:
    """Prints episodes per second of a population and of a loop."""
    from lrjax.control import gym

    task = tasks.make_task("libsvm/iris")
    env = control.Env(task, 100 * task.steps_per_epoch)

    def rollout(key: jax.Array) -> jax.Array:
        return control.rollout(env, policies.constant(0.03), key).rewards.sum()

    population = jax.jit(jax.vmap(rollout))
    keys = jax.vmap(jax.random.key)(jnp.arange(EPISODES))
    single, action = gym.LearningRateEnv(env), np.array([0.03], np.float32)

    def loop(count: int) -> None:
        for seed in range(count):
            single.reset(seed=seed)
            over = False
            while not over:
                *_, over, _, _ = single.step(action)

    population(keys).block_until_ready(), loop(1)
    together, apart = [], []
    for _ in range(TURNS):
        began = time.perf_counter()
        population(keys).block_until_ready()
        together.append(EPISODES / (time.perf_counter() - began))
        began = time.perf_counter()
        loop(IN_A_LOOP)
        apart.append(IN_A_LOOP / (time.perf_counter() - began))
    for name, rates in (("one program", together), ("Gymnasium loop", apart)):
        print(f"{name:15s} {np.median(rates):8.1f} episodes/s ({np.sort(rates)})")
    print(f"ratio {np.median(together) / np.median(apart):.0f}")


def horizon() -> None:
    """Prints knots and final losses by the length of the pieces."""
    digits = tasks.make_task("digits/logistic", batch_size=2)
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
            *(8, 0.1, 0.05),
        )
        row("evolution", knots, judge(knots, keys))


def row(name: str, knots: jax.Array, loss: jax.Array) -> None:
    rates = " ".join(f"{10.0**knot:8.3g}" for knot in np.asarray(knots))
    print(f"  {name:15s} loss {loss:9.3f}   rates {rates}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", default="episodes,horizon")
    for part in parser.parse_args().part.split(","):
        {"episodes": episodes, "horizon": horizon}[part]()
