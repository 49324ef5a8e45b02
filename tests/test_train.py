"""Populations against plain loops, hand calculations and closed forms."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import optim, order, protocol, tasks, train
from lrjax.core import Task
from lrjax.methods import METHODS, split

PROTOCOLS = ("sound", "study")
SEEDS = (0, 7)
STEPS, EVERY = 148, 10  # the last round is short
EARLY = 50


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def hparams_of(method, protocol_name="sound", task="libsvm/iris"):
    """A method's hyperparameters there, None if one that it needs has no value."""
    found = protocol.find(protocol_name).overrides(method.name, task)
    hparams = dict(method.defaults) | found
    missing = [name for name in method.required if hparams[name] is None]
    return None if missing else hparams


def other_hparams(method, hparams):
    """The same with every hyperparameter that a tuner would change, changed."""
    return hparams | {name: 0.7 * hparams[name] for name in method.space.ranges}


CASES = [
    (name, protocol_name)
    for name, method in METHODS.items()
    for protocol_name in PROTOCOLS
    if hparams_of(method, protocol_name)
]


def population(task, method, seeds, lanes, horizon, every, fresh=False, dtype=None):
    """A block's program, compiled, with its inputs."""
    static = split(method, lanes[0])[0]
    program = train.Program(
        task=task,
        method=method,
        static=static,
        eval_every=every,
        num_seeds=len(seeds),
        num_hparams=len(lanes),
        fresh_batches=fresh,
        dtype=dtype or jnp.float32,
    )
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    started = train.seed_runs(task.init, keys)
    traced = [split(method, lane)[1] for lane in lanes]
    inputs = train.inputs(program, started, traced, horizon)
    compiled = train.compile_program(program, started, inputs)
    return compiled, program, started, inputs


def trained(compiled, program, seeds, inputs, steps):
    """Steps of the measurements, their values [round, seed, lane], the last state."""
    training = train.train(compiled, program, seeds, inputs, steps)
    at, tables = [], []
    while True:
        try:
            measured = next(training)
        except StopIteration as end:
            values = {k: np.concatenate([t[k] for t in tables]) for k in tables[0]}
            return np.concatenate(at), values, end.value
        at.append(measured.steps)
        tables.append(measured.values)


def lane(state, seed, hparams):
    return jax.tree.map(lambda leaf: leaf[seed, hparams], state)


@functools.cache
def gradient(loss):
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def plain_start(task, seed):
    """Parameters, model state, data order and noise of a seed."""
    init, words, noise = (jax.random.fold_in(jax.random.key(seed), i) for i in range(3))
    return *task.init(init), jax.random.bits(words, (2,), jnp.uint32), noise


def plain_batches(task, words, steps, fresh=False):
    """The rows of each batch, without padding."""
    n = len(task.train["labels"])
    rows, mask = order.batches(words, 0, steps, task.batch_size, n, fresh)
    return [
        row[real] for row, real in zip(np.asarray(rows), np.asarray(mask), strict=True)
    ]


def plain_step(task, tx, params, state, opt_state, rows, key):
    """One update of one run, as anyone would write it."""
    batch = {k: np.asarray(v)[rows] for k, v in task.train.items()}
    batch["mask"] = np.ones(len(rows))
    function = gradient(task.loss)
    (loss, (new_state, _)), grads = function(params, state, key, batch)
    updates, opt_state = tx.update(
        grads,
        opt_state,
        params,
        value=loss,
        grad_fn=lambda p: function(p, state, key, batch)[1],
    )
    return optax.apply_updates(params, updates), new_state, opt_state, loss


def plain_means(task, params, state, part):
    sums = task.evaluate(params, state, part | {"mask": np.ones(len(part["labels"]))})
    return {k: sums[k] / sums["count"] for k in sums if k != "count"}


def plain_run(task, method, hparams, seed, steps, horizon, every, fresh=False):
    """One run in a Python loop: its measurements {step: values}, its last state."""
    params, state, words, noise = plain_start(task, seed)
    tx = method.build(horizon, **hparams)
    opt_state = tx.init(params)
    curve = {}
    for step, rows in enumerate(plain_batches(task, words, steps, fresh)):
        key = jax.random.fold_in(noise, step)
        params, state, opt_state, loss = plain_step(
            task, tx, params, state, opt_state, rows, key
        )
        if (step + 1) % every == 0 or step + 1 == steps:
            point = optim.eval_params(opt_state, params)
            curve[step + 1] = {
                "learning_rate": optim.effective_learning_rate(opt_state),
                "last_batch_loss": loss,
            }
            for part in ("train", "valid"):
                means = plain_means(task, point, state, getattr(task, part))
                curve[step + 1] |= {f"{part}_{k}": v for k, v in means.items()}
    return curve, params, state, opt_state


@functools.cache
def iris(protocol_name, precision="float64"):
    return tasks.make_task("libsvm/iris", protocol_name, precision=precision)


def close(actual, expected, tolerance, what=""):
    np.testing.assert_allclose(
        actual, expected, rtol=tolerance, atol=tolerance, err_msg=what
    )


# A population and a plain loop


@pytest.mark.parametrize(("name", "protocol_name"), CASES)
def test_every_run_equals_a_plain_loop(x64, name, protocol_name):
    method, task = METHODS[name], iris(protocol_name)
    fresh = name in protocol.find(protocol_name).fresh_batches
    first = hparams_of(method, protocol_name)
    lanes = [first, other_hparams(method, first)]
    block = population(
        task, method, SEEDS, lanes, STEPS, EVERY, fresh, dtype=jnp.float64
    )
    steps, values, state = trained(*block, STEPS)
    assert steps.tolist() == [*range(EVERY, STEPS, EVERY), STEPS]
    # Methods that estimate a distance amplify rounding without bound; they are
    # compared step by step from the same state below.
    adaptive = "d0" in method.defaults
    for s, h in ((0, 0), (1, 1)):
        curve, params, _, _ = plain_run(
            task, method, lanes[h], SEEDS[s], STEPS, STEPS, EVERY, fresh
        )
        for i, step in enumerate(steps.tolist()):
            if step > EARLY and (adaptive or step < STEPS):
                continue
            tolerance = 1e-10 if step <= EARLY else 1e-8
            for key, found in values.items():
                if key != "diverged_at":
                    close(found[i, s, h], curve[step][key], tolerance, f"{key} {step}")
        if not adaptive:
            found = lane(state, s, h).params
            jax.tree.map(lambda a, b: close(a, b, 1e-8), found, params)
    assert (values["diverged_at"] == 0).all()
    # The lanes were different runs.
    assert len(np.unique(values["train_loss"][-1])) == 4


@pytest.mark.parametrize(
    ("name", "protocol_name"), [c for c in CASES if "d0" in METHODS[c[0]].defaults]
)
def test_methods_that_estimate_a_distance_equal_a_plain_step(x64, name, protocol_name):
    method, task = METHODS[name], iris(protocol_name)
    first = hparams_of(method, protocol_name)
    lanes = [first, other_hparams(method, first)]
    block = population(task, method, SEEDS, lanes, STEPS, EVERY, dtype=jnp.float64)
    for step in (0, 1, 5, 49, 100, STEPS - 1):
        # One compiled program makes both: how many steps is no part of it.
        before = trained(*block, step)[2] if step else train_start(*block)
        after = trained(*block, step + 1)[2]
        for s, h in ((0, 0), (1, 1)):
            _, _, words, noise = plain_start(task, SEEDS[s])
            run = lane(before, s, h)
            tx = method.build(STEPS, **lanes[h])
            rows = plain_batches(task, words, step + 1)[-1]
            key = jax.random.fold_in(noise, step)
            params, _, opt_state, loss = plain_step(
                task, tx, run.params, run.model_state, run.opt_state, rows, key
            )
            found = lane(after, s, h)
            close(found.last_loss, loss, 1e-13)
            jax.tree.map(
                lambda a, b: close(a, b, 1e-12),
                (found.params, found.opt_state),
                (params, opt_state),
            )


def train_start(compiled, program, seeds, inputs):
    return compiled.init(seeds, inputs)
