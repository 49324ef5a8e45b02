"""Schedules tuned by the gradient through training, whole or cut into pieces.

A schedule is a few knots of the common logarithm of the rate, joined by straight lines
over the logarithm of time. What it is tuned on is a `System`: anything that steps with
a rate and has a loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrjax import methods, optim
from lrjax.core import Task, UsageError, counted
from lrjax.engine import order, train


class System(NamedTuple):
    """What is trained.

    Attributes:
      init: `init(key) -> state`.
      step: `step(state, rate, t) -> state`, differentiable in the rate.
      loss: `loss(state) -> scalar`, what shall be small.
    """

    init: Callable[[jax.Array], Any]
    step: Callable[[Any, jax.Array, jax.Array], Any]
    loss: Callable[[Any], jax.Array]


def spline(knots: jax.Array, horizon: Any) -> Callable[[jax.Array], jax.Array]:
    """The schedule of knots, at equal distances in log(1 + t) from 0 to the horizon.

    Args:
      knots: [n], common logarithms of rates; n is 2 or more.
      horizon: updates in all.
    """
    places = jnp.linspace(0.0, 1.0, len(knots))

    def schedule(t: jax.Array) -> jax.Array:
        time = jnp.log1p(jnp.asarray(t, knots.dtype)).astype(places.dtype)
        time = time / jnp.log1p(jnp.asarray(horizon, places.dtype))
        return 10.0 ** jnp.interp(time, places, knots.astype(places.dtype))

    return schedule


def tune(
    system: System,
    horizon: int,
    knots: jax.Array,
    key: jax.Array,
    truncation: int | None = None,
    iterations: int = 200,
    rate: float = 0.05,
) -> jax.Array:
    """Tune knots by the gradient of the loss through unrolled training.

    With a truncation training is cut into pieces of so many steps. The knots follow
    the sum, over all pieces, of the gradients of the loss at the end of a piece through
    this piece alone: cheap in memory, and biased towards rates that are too small, for
    what a lower loss soon costs later is not seen (Wu et al. 2018).

    Args:
      system: what is trained.
      horizon: updates of a training.
      knots: [n], where to start.
      key: of initial states, another one in each iteration.
      truncation: steps of a piece, a divisor of the horizon; None for no pieces.
      iterations: steps on the knots.
      rate: of Adam, which takes them; falls to zero by a cosine.

    Returns:
      The knots [n].

    Raises:
      UsageError: for a truncation that does not divide the horizon.

    Source: Wu, Ren, Liao and Grosse 2018, arXiv 1803.02021.
    """
    length = horizon if truncation is None else truncation
    if length < 1 or horizon % length:
        raise UsageError(
            f"a truncation of {length} does not divide {counted(horizon, 'step')}"
        )
    tx = optax.adam(optax.cosine_decay_schedule(rate, iterations))

    def piece(knots: jax.Array, state: Any, first: jax.Array):
        schedule = spline(knots, horizon)

        def step(state: Any, t: jax.Array):
            return system.step(state, schedule(t), t), None

        state, _ = jax.lax.scan(step, state, first + jnp.arange(length))
        return system.loss(state), state

    def iteration(carry, key):
        knots, memory = carry

        def one(state: Any, first: jax.Array):
            # Differentiated by the knots alone: nothing flows into the piece before.
            (_, state), gradient = jax.value_and_grad(piece, has_aux=True)(
                knots, state, first
            )
            return state, gradient

        firsts = jnp.arange(0, horizon, length)
        _, gradients = jax.lax.scan(one, system.init(key), firsts)
        # A training that diverges says nothing of where to go.
        gradients = jnp.where(jnp.isfinite(gradients), gradients, 0)
        with jax.numpy_dtype_promotion("standard"):  # Optax takes powers by a count
            updates, memory = tx.update(gradients.sum(0), memory)
        return (optax.apply_updates(knots, updates), memory), None

    keys = jax.random.split(key, iterations)
    run = jax.jit(lambda carry: jax.lax.scan(iteration, carry, keys)[0])
    return run((knots, tx.init(knots)))[0]


def final_loss(
    system: System, horizon: int, knots: jax.Array, key: jax.Array
) -> jax.Array:
    """The loss at the end of a training; compiles, and vmaps over knots and keys."""
    schedule = spline(knots, horizon)

    def step(state: Any, t: jax.Array):
        return system.step(state, schedule(t), t), None

    state, _ = jax.lax.scan(step, system.init(key), jnp.arange(horizon))
    return system.loss(state)


def noisy_quadratic(curvatures: np.ndarray, noise: float = 1.0) -> System:
    """SGD on a quadratic with a noisy minimum, in expectation and so without chance.

    Each coordinate's second moment goes by (1 - rate h)^2 m + (rate h)^2 c, where h is
    its curvature and c = noise / h the variance of the minimum; the loss is the sum of
    h m / 2. Source: Wu et al. 2018.

    Args:
      curvatures: [n], positive.
      noise: how much noise there is.
    """
    h = jnp.asarray(curvatures)

    def step(moments: jax.Array, rate: jax.Array, t: jax.Array) -> jax.Array:
        del t
        return (1 - rate * h) ** 2 * moments + (rate * h) ** 2 * noise / h

    return System(
        init=lambda key: 100 / h,
        step=step,
        loss=lambda moments: jnp.sum(h * moments) / 2,
    )


def training(task: Task, method: str = "sgd") -> System:
    """The training of a small task; the loss is the logarithm of the validation loss.

    Args:
      task: what is trained, in float32.
      method: the optimiser, one whose rate may follow a schedule.
    """
    chosen = methods.find(method)
    fixed = {"schedule": "constant", "warmup_fraction": 0.0, "learning_rate": 0.0}
    static, hparams = methods.split(chosen, dict(chosen.defaults) | fixed)
    program = train.single(task, chosen, static, 1, 1, 1)

    def init(key: jax.Array):
        seeds = train.seed_run(task.init, key)
        run = train.init_run(program, seeds.params, seeds.model_state, hparams, 1.0)
        return run, seeds.order, seeds.noise

    def step(state: Any, rate: jax.Array, t: jax.Array):
        run, words, noise = state
        rows, mask = order.batches(words, t, 1, task.batch_size, task.num_examples)
        batch = {name: part[rows[0]] for name, part in task.train.items()}
        batch["mask"] = mask[0].astype(jnp.float32)
        traced = {**hparams, "learning_rate": rate}
        key = jax.random.fold_in(noise, t)
        run = train.step_run(program, run, batch, key, t, traced, 1.0)
        return run, words, noise

    def loss(state: Any) -> jax.Array:
        run = state[0]
        params = optim.eval_params(run.opt_state, run.params)
        n = len(next(iter(task.valid.values())))
        part = {**task.valid, "mask": jnp.ones(n, jnp.float32)}
        sums = task.evaluate(params, run.model_state, part)
        return jnp.log(sums["loss"] / sums["count"])

    return System(init, step, loss)
