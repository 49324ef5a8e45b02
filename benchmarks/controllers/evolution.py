r"""Controllers that learn: evolution strategies over populations of small tasks.

  python -m benchmarks.controllers.evolution --out=policy.npz
  python -m benchmarks.controllers.evolution --out=mine.npz --task=libsvm/letter

The first trains anew, for some minutes, and made the weights that the method `learned`
ships with; the second finetunes these. A policy is judged by the logarithm of the
validation loss at the end, mean over tasks.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from lrjax import methods, optim, tasks
from lrjax.common import numerics
from lrjax.control.env import Data
from lrjax.core import Task, UsageError, counted
from lrjax.engine import evaluation, order, train
from lrjax.optim.learned import load
from lrjax.optim.observation import OBSERVED, logarithm

_UNITS = 16
# Tasks to learn on: Gaussian classes, of one shape.
_ROWS, _FEATURES, _CLASSES = 300, 12, 5
_HORIZONS = (40, 80, 160, 320)


def start(key: jax.Array) -> dict[str, jax.Array]:
    """Weights of a policy that always takes the same rate: hidden units, no output."""
    shape = (len(OBSERVED), _UNITS)
    return {
        "hidden": jax.random.normal(key, shape) / len(OBSERVED) ** 0.5,
        "hidden_bias": jnp.zeros(_UNITS),
        "out": jnp.zeros(_UNITS),
        "out_bias": jnp.zeros(()),
    }


def shaped(fitness: jax.Array) -> jax.Array:
    """Ranks of the fitness, spread evenly over [-1/2, 1/2]; ties share theirs.

    Only the order of losses counts: one diverged run is as bad as another.
    """
    below = (fitness[:, None] > fitness[None, :]).sum(1)
    equal = (fitness[:, None] == fitness[None, :]).sum(1)
    below, equal = below.astype(fitness.dtype), equal.astype(fitness.dtype)
    return (below + (equal - 1) / 2) / max(len(fitness) - 1, 1) - 0.5


class Progress(NamedTuple):
    """A generation: its number and the mean loss over its policies."""

    generation: int
    loss: float


def evolve(
    losses: Callable[[jax.Array, jax.Array, int], jax.Array],
    center: jax.Array,
    key: jax.Array,
    generations: int,
    pairs: int,
    sigma: float,
    rate: float,
    told: Callable[[Progress], None] = lambda progress: None,
) -> jax.Array:
    """Minimises by evolution strategies with antithetic pairs and ranked losses.

    Args:
      losses: `losses(points [2 pairs, n], key, generation) -> [2 pairs]`.
      center: [n], where to start.
      key: of the perturbations, and handed on to `losses`.
      generations: how many.
      pairs: perturbations of a generation, each tried with both signs.
      sigma: their standard deviation.
      rate: of Adam, which follows the estimated gradient; falls to zero by a cosine.
      told: hears of each generation.

    Returns:
      The last center.

    Source: Salimans et al. 2017, arXiv 1703.03864.
    """
    tx = optax.adam(optax.cosine_decay_schedule(rate, max(generations, 1)))
    state = tx.init(center)

    @jax.jit
    def ask(center, key):
        noise = jax.random.normal(key, (pairs, center.size), center.dtype)
        return noise, center + sigma * jnp.concatenate([noise, -noise])

    @jax.jit
    def tell(center, state, noise, found):
        ranks = shaped(jnp.where(jnp.isfinite(found), found, jnp.inf))
        gradient = (ranks[:pairs] - ranks[pairs:]) @ noise / (2 * pairs * sigma)
        with jax.numpy_dtype_promotion("standard"):  # Optax takes powers by a count
            updates, state = tx.update(gradient, state)
        return optax.apply_updates(center, updates), state

    for generation in range(generations):
        here = jax.random.fold_in(key, generation)
        noise, points = ask(center, jax.random.fold_in(here, 0))
        found = losses(points, jax.random.fold_in(here, 1), generation)
        center, state = tell(center, state, noise, found)
        told(Progress(generation, float(jnp.mean(found))))
    return center


def final_losses(
    task: Task, hparams: Mapping[str, float] | None = None
) -> Callable[..., jax.Array]:
    """How policies do: a compiled function of weights, data and seeds.

    Args:
      task: whose functions train; its rows are not used.
      hparams: of the method `learned`, where they are not its defaults.

    Returns:
      `f(weights, data, numbers, steps) -> [tasks, policies]`, logarithms of validation
      losses at the end, limited to +-6. `weights` has leaves [policies, ...], `data`
      leaves [tasks, ...], and `numbers` [tasks] are seeds.
    """
    method = methods.METHODS["learned"]
    chosen = dict(method.defaults) | dict(hparams or {})
    chosen.pop("policy")
    program = train.single(task, method, (), 1, 1, 1)

    def run(weights: Any, data: Data, seeds: train.Seeds, steps: Any) -> jax.Array:
        traced = {k: jnp.asarray(v, jnp.float32) for k, v in chosen.items()}
        traced["policy"] = weights
        n = len(next(iter(data.train.values())))

        def update(step: Any, state: train.RunState) -> train.RunState:
            rows, mask = order.batches(seeds.order, step, 1, task.batch_size, n)
            batch = {name: part[rows[0]] for name, part in data.train.items()}
            batch["mask"] = mask[0].astype(jnp.float32)
            key = jax.random.fold_in(seeds.noise, step)
            return train.step_run(program, state, batch, key, step, traced, steps)

        begun = train.init_run(program, seeds.params, seeds.model_state, traced, steps)
        state = jax.lax.fori_loop(0, steps, update, begun)
        params = optim.eval_params(state.opt_state, state.params)
        one = jax.tree.map(lambda x: x[None, None], (params, state.model_state))
        means = evaluation.evaluate_part(
            task.evaluate,
            task.metrics,
            *one,
            data.valid,
            evaluation.rows_at_once(task, 1),
            jnp.float32,
        )
        loss = jnp.where(state.diverged_at > 0, jnp.inf, means["loss"][0, 0])
        return logarithm(loss)

    @jax.jit
    def all_runs(weights: Any, data: Data, numbers: jax.Array, steps: Any):
        def on(data: Data, number: jax.Array) -> jax.Array:
            seeds = train.seed_run(task.init, numerics.key(number))
            return jax.vmap(lambda w: run(w, data, seeds, steps))(weights)

        return jax.vmap(on)(data, numbers)

    return all_runs


def blobs(generator: np.random.Generator) -> Task:
    """Logistic regression on classes drawn at random, more or less hard to tell apart.

    Classes overlap, columns differ in scale and depend on each other, and some labels
    are wrong, each to a degree that is drawn, too.
    """
    labels = np.arange(_ROWS) % _CLASSES  # equal counts: all tasks split alike
    centers = generator.normal(size=(_CLASSES, _FEATURES))
    centers *= 10 ** generator.uniform(-0.7, 0.5)
    mixing = generator.normal(size=(_FEATURES, _FEATURES)) * generator.uniform(0, 1)
    features = centers[labels] + generator.normal(size=(_ROWS, _FEATURES))
    features = features @ (np.eye(_FEATURES) + mixing)
    wrong = generator.uniform(size=_ROWS) < generator.choice([0.0, 0.0, 0.1, 0.3])
    moved = np.where(wrong, generator.permutation(labels), labels)
    task = tasks.libsvm.logistic_task("blobs", features, labels)
    # The parts are those of the true classes; within each the wrong labels stay.
    parts = tasks.libsvm.split(labels)
    train_part, valid = (
        {**part, "labels": jnp.asarray(moved[rows], jnp.int32)}
        for part, rows in ((task.train, parts.train), (task.valid, parts.valid))
    )
    return dataclasses.replace(task, train=train_part, valid=valid)


def perceptron(task: Task, units: int = 16) -> Task:
    """The same rows for a network with a hidden layer."""
    features = task.train["features"].shape[1]
    logistic = task

    def init(key: jax.Array):
        first, second = jax.random.split(key)
        params = {
            "hidden": jax.random.normal(first, (features, units)) / features**0.5,
            "bias": jnp.zeros(units),
        }
        out = {
            "weight": jax.random.normal(second, (task.num_classes, units)) / units**0.5,
            "bias": jnp.zeros(task.num_classes),
        }
        return {"first": params, "out": out}, ()

    def above(params, batch):
        first = params["first"]
        hidden = jax.nn.relu(batch["features"] @ first["hidden"] + first["bias"])
        return params["out"], {**batch, "features": hidden}

    def loss(params, state, key, batch):
        out, hidden = above(params, batch)
        return logistic.loss(out, state, key, hidden)

    def evaluate(params, state, batch):
        out, hidden = above(params, batch)
        return logistic.evaluate(out, state, hidden)

    return dataclasses.replace(
        task, name=f"{task.name}/mlp", init=init, loss=loss, evaluate=evaluate
    )


def stacked(made: list[Task]) -> Data:
    """The rows of tasks of one shape, leaves [tasks, ...]."""
    rows = [Data(task.train, task.valid) for task in made]
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)


def learn(
    seed: int = 0,
    generations: int = 300,
    pairs: int = 24,
    num_tasks: int = 256,
    at_once: int = 16,
    told: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, np.ndarray]:
    """Train a policy anew on random tasks.

    Two generations of three are of logistic regression, the third of a small network,
    on half of the tasks; lengths of training take turns.

    Args:
      seed: of everything.
      generations, pairs: of `evolve`.
      num_tasks: tasks that are drawn in all.
      at_once: tasks of a generation.
      told: hears of each generation.

    Returns:
      Weights of `network` in `optim/learned.py`.
    """
    generator = np.random.default_rng(seed)
    linear = [blobs(generator) for _ in range(num_tasks)]
    data = stacked(linear)
    kinds = final_losses(linear[0]), final_losses(perceptron(linear[0]))
    key = numerics.key(seed)
    center, unravel = ravel_pytree(start(jax.random.fold_in(key, 0)))
    each = jax.jit(jax.vmap(unravel))

    def losses(points: jax.Array, key: jax.Array, generation: int) -> jax.Array:
        network = generation % 3 == 2
        count = at_once // 2 if network else at_once
        chosen = jax.random.choice(key, num_tasks, (count,), replace=False)
        rows = jax.tree.map(lambda x: x[chosen], data)
        numbers = jax.random.bits(key, (count,), jnp.uint32)
        judge = kinds[network]
        steps = _HORIZONS[generation % len(_HORIZONS)]
        return judge(each(points), rows, numbers, steps).mean(0)

    center = evolve(
        losses, center, jax.random.fold_in(key, 1), generations, pairs, 0.1, 0.05, told
    )
    return {name: np.asarray(value) for name, value in unravel(center).items()}


def finetune(
    task: Task,
    steps: int,
    weights: Mapping[str, Any] | None = None,
    seed: int = 0,
    generations: int = 5,
    pairs: int = 8,
    part: float = 0.25,
    told: Callable[[Progress], None] = lambda progress: None,
) -> tuple[dict[str, np.ndarray], float]:
    """Adapts a policy to a task by a few short runs on its training part.

    Only the last layer is adapted. Policies are judged on the validation part. In the
    end old and new weights have a full run each, and the better ones are returned.

    Args:
      task: the task.
      steps: updates of a full run.
      weights: where to start; those shipped if None.
      seed: of everything.
      generations, pairs: of `evolve`.
      part: of a full run that each of these runs takes, schedules included.
      told: hears of each generation.

    Returns:
      The weights, and the cost in full runs.
    """
    if not 0 < part <= 1:
        raise UsageError(f"part is {part}; it must be above 0, and 1 at most")
    fixed = dict(load() if weights is None else weights)
    last = {name: jnp.asarray(fixed.pop(name)) for name in ("out", "out_bias")}
    center, unravel = ravel_pytree(last)
    judge, data = final_losses(task), stacked([task])
    short = max(round(part * steps), 1)

    @jax.jit
    def each(points: jax.Array) -> dict[str, jax.Array]:
        return jax.vmap(lambda point: {**fixed, **unravel(point)})(points)

    def losses(points: jax.Array, key: jax.Array, _: int) -> jax.Array:
        return judge(
            each(points), data, jax.random.bits(key, (1,), jnp.uint32), short
        ).mean(0)

    key = numerics.key(seed)
    adapted = evolve(losses, center, key, generations, pairs, 0.05, 0.02, told)
    # What short runs advise is kept only if it helps full ones.
    pair = jnp.stack([center, adapted])
    full = judge(each(pair), data, jax.random.bits(key, (1,), jnp.uint32), steps)[0]
    found = {**fixed, **unravel(pair[jnp.argmin(full)])}
    cost = generations * 2 * pairs * short / steps + 2
    return {name: np.asarray(value) for name, value in found.items()}, cost


def main(arguments: list[str] | None = None) -> None:
    """The two commands of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", required=True, help="where the weights go, an npz file"
    )
    parser.add_argument("--task", help="finetune to this task")
    parser.add_argument("--epochs", type=int, default=100, help="of a full run of it")
    parser.add_argument("--data_dir", help="where data files lie")
    parser.add_argument("--generations", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    began = time.perf_counter()

    def told(progress: Progress) -> None:
        if progress.generation % 10 == 0 or given.task:
            print(
                f"generation {progress.generation:4d}, mean log10 loss "
                f"{progress.loss:.4f}, {time.perf_counter() - began:.0f} s",
                file=sys.stderr,
            )

    count = {} if given.generations is None else {"generations": given.generations}
    try:
        numerics.fix("float32")
        for name in ("epochs", "generations"):
            value = getattr(given, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} is {value}; it must be 1 or more")
        # Before the work, not after it.
        folder = pathlib.Path(given.out).resolve().parent
        if not os.access(folder, os.W_OK):
            raise UsageError(f"--out: {folder} is no folder that can be written to")
        if given.task:
            options = tasks.TaskOptions(data_dir=given.data_dir)
            task = tasks.make_task(given.task, options)
            steps = given.epochs * task.steps_per_epoch
            weights, cost = finetune(task, steps, seed=given.seed, told=told, **count)
            print(f"cost: {counted(cost, 'full run', form='g')}")
        else:
            weights = learn(given.seed, told=told, **count)
        np.savez(given.out, **weights)  # pyright: ignore[reportArgumentType]
    except (UsageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
