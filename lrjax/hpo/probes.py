"""Features that describe a task, from a few gradients and training steps."""

from __future__ import annotations

import concurrent.futures
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrjax.common import numerics
from lrjax.core import Batch, Task
from lrjax.engine import strategy, train, xla_options
from lrjax.launch import blocks

RATES = (1e-3, 1e-2, 1e-1)  # of Adam; SGD takes ten times these
STEPS = 5
_BATCHES = 8  # batches for the gradient noise scale
_SEED = 2**32 - 2
COST = _BATCHES + 2 * len(RATES) * STEPS  # batch gradients of a probe, at most


class Probe(NamedTuple):
    """The result of `probe`.

    Attributes:
      features: name -> finite number.
      steps: number of batch gradients computed, the cost of the probe.
    """

    features: dict[str, float]
    steps: int


def probe(task: Task) -> Probe:
    """Compute features of a task from its sizes and its first training steps.

    The features; logarithms are natural:
    - log_rows, log_params, classes;
    - loss: of the initial parameters, on a batch;
    - log_gradient: norm of the mean of the batches' gradients;
    - log_noise: the gradient noise scale, the trace of the batch gradients'
      covariance over their mean's squared norm;
    - adam_RATE, sgd_RATE: the loss after five steps over the loss before, at most 10.

    Args:
      task: any task; its model is initialised afresh.

    Returns:
      The features, 0 in place of those that are not finite, and their cost.
    """
    rows = np.random.RandomState(0).permutation(task.num_examples)
    size = min(task.batch_size, max(1, task.num_examples // _BATCHES))
    at = rows[: size * _BATCHES].reshape(-1, size)
    batches = {k: _taken(v, at) for k, v in task.train.items()}
    batches["mask"] = jnp.ones(at.shape, jnp.float32)
    key = numerics.key(_SEED)
    # By the program that draws the parameters of runs with one seed.
    draw = functools.partial(train.seed_runs, task.init, np.asarray([_SEED], np.uint32))
    seeds = jax.eval_shape(draw)
    lowered = _probe.lower(task.loss, seeds.params, seeds.model_state, key, batches)
    effort = blocks.effort_for(blocks.cost_of(task, COST))
    # Only XLA's part beside: a user's `with jax.enable_x64()` is this thread's alone.
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        compiling = beside.submit(
            xla_options.compile_loop, lowered, strategy.kind_of(task), effort
        )
        seeds, compiled = draw(), compiling.result()
    measured = compiled(seeds.params, seeds.model_state, key, batches)
    features = {k: float(v) for k, v in measured.items()}
    features |= {
        "log_rows": math.log(task.num_examples),
        "log_params": math.log(sum(x.size for x in jax.tree.leaves(seeds.params))),
        "classes": float(task.num_classes),
    }
    finite = {k: v if math.isfinite(v) else 0.0 for k, v in sorted(features.items())}
    return Probe(finite, len(at) + 2 * len(RATES) * min(STEPS, len(at)))


def _taken(array: Any, at: np.ndarray) -> Any:
    """Rows of an array, by one program where it is on the device."""
    if isinstance(array, np.ndarray):
        return array[at]
    return jnp.take(array, at, axis=0, mode="clip")


@functools.partial(jax.jit, static_argnames="loss_of")
def _probe(
    loss_of: Callable[..., Any], params: Any, state: Any, key: jax.Array, batches: Batch
) -> dict[str, jax.Array]:
    """Features from gradients and steps on batches of shape [_BATCHES, rows, ...].

    Parameters and state have leaves [1, ...].
    """
    params, state = jax.tree.map(lambda x: x[0], (params, state))

    def loss(params: Any, batch: Batch) -> jax.Array:
        return loss_of(params, state, key, batch)[0]

    def gathered(carry: tuple[Any, jax.Array], numbered: tuple[jax.Array, Batch]):
        """Add a batch's gradient to the mean, and to squared deviations from it."""
        (mean, deviations), (number, batch) = carry, numbered
        grads = jax.grad(loss)(params, batch)
        away = jax.tree.map(jnp.subtract, grads, mean)
        mean = jax.tree.map(lambda m, a: m + a / number.astype(m.dtype), mean, away)
        return (mean, deviations + (1 - 1 / number) * _square(away)), None

    first = jax.tree.map(lambda x: x[0], batches)
    count = len(batches["mask"])
    numbers = jnp.arange(1, count + 1, dtype=jnp.float32)
    nothing = jax.tree.map(jnp.zeros_like, params), jnp.float32(0)
    # One batch after the other, and one rate: a copy of the parameters may be large.
    (mean, deviations), _ = jax.lax.scan(gathered, nothing, (numbers, batches))
    square = _square(mean)
    noise = deviations / count / jnp.maximum(square, 1e-30)
    start = loss(params, first)
    features = {
        "loss": start,
        "log_noise": jnp.log(noise + 1e-30),
        "log_gradient": 0.5 * jnp.log(square + 1e-30),
    }

    def after(make: Callable[..., optax.GradientTransformation], rate: jax.Array):
        """Loss after `STEPS` updates over the loss before, at most 10."""
        tx = make(rate)

        def step(carry, batch):
            """Update the parameters by one batch."""
            params, opt_state = carry
            grads = jax.grad(loss)(params, batch)
            updates, opt_state = tx.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        used = jax.tree.map(lambda x: x[:STEPS], batches)
        (trained, _), _ = jax.lax.scan(step, (params, tx.init(params)), used)
        ratio = loss(trained, first) / jnp.maximum(start, 1e-30)
        return jnp.clip(jnp.nan_to_num(ratio, nan=10.0, posinf=10.0), 0, 10)

    with jax.numpy_dtype_promotion("standard"):  # Optax takes powers by a count
        for name, make, factor in (("adam", optax.adam, 1), ("sgd", optax.sgd, 10)):
            rates = [factor * rate for rate in RATES]
            found = jax.lax.map(functools.partial(after, make), jnp.float32(rates))
            names = [f"{name}_{rate:g}" for rate in rates]
            features |= dict(zip(names, found, strict=True))
    return features


def _square(tree: Any) -> jax.Array:
    """The squared norm of all leaves together, in float32."""
    leaves = [jnp.square(x.astype(jnp.float32)) for x in jax.tree.leaves(tree)]
    return sum((x.sum() for x in leaves), start=jnp.float32(0))
