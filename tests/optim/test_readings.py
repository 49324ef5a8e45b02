"""Readings under any nesting, and against golden values of the step sizes."""

from __future__ import annotations

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import optim

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "golden"))
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import problems
from test_parity import run

PARAMS = {"a": jnp.asarray([1.0, 2.0]), "b": {"c": jnp.asarray(3.0)}}
MASK = {"a": True, "b": False}


def _step(transformation, steps=1, params=PARAMS, **extra_args):
    # Optax's own transformations and wrappers divide floats by counts.
    with jax.numpy_dtype_promotion("standard"):
        state = transformation.init(params)
        for _ in range(steps):
            grads = jax.tree.map(jnp.ones_like, params)
            updates, state = transformation.update(grads, state, params, **extra_args)
            params = optax.apply_updates(params, updates)
        return params, state


NESTINGS = {
    "plain": lambda build: build(0.25),
    "chain": lambda build: optax.chain(optax.clip_by_global_norm(9.0), build(0.25)),
    "masked": lambda build: optax.masked(build(0.25), MASK),
    "partition": lambda build: optax.partition(
        {"train": build(0.25), "freeze": optax.set_to_zero()},
        {"a": "train", "b": "freeze"},
    ),
    "flatten": lambda build: optax.flatten(build(0.25)),
    "deep": lambda build: optax.named_chain(
        ("clip", optax.clip(9.0)),
        (
            "rest",
            optax.apply_if_finite(
                optax.masked(optax.chain(optax.inject_hyperparams(build)(0.25)), MASK),
                3,
            ),
        ),
    ),
    "multi_steps": lambda build: optax.MultiSteps(build(0.25), 1),
    "inject_hyperparams": lambda build: optax.inject_hyperparams(build)(0.25),
    "apply_if_finite": lambda build: optax.apply_if_finite(build(0.25), 3),
}


PART = {"masked", "partition", "deep"}  # of the parameters are trained


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize(
    "build", [optim.sgd, optim.adamw, optim.schedule_free_sgd, optim.polyak_sgd]
)
def test_effective_learning_rate_under_nesting(nesting, build):
    _, state = _step(NESTINGS[nesting](build), value=jnp.asarray(100.0))
    assert float(optim.effective_learning_rate(state)) == 0.25
    traced = jax.jit(optim.effective_learning_rate)(state)
    assert float(traced) == 0.25


@pytest.mark.parametrize("nesting", NESTINGS)
def test_eval_params_under_nesting(nesting):
    def build(learning_rate):
        return optim.schedule_free_sgd(learning_rate, momentum=0.5)

    params, state = _step(NESTINGS[nesting](build), steps=3)
    found = jax.jit(optim.eval_params)(state, params)
    # x is the mean of z, which falls by a quarter in each step.
    np.testing.assert_allclose(found["a"], PARAMS["a"] - 0.25 * 2, rtol=1e-6)
    trained = nesting not in PART
    expected = PARAMS["b"]["c"] - 0.25 * 2 if trained else params["b"]["c"]
    np.testing.assert_allclose(found["b"]["c"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("nesting", "dtype"),
    [
        *((nesting, jnp.float32) for nesting in NESTINGS),
        *(("partition", dtype) for dtype in (jnp.bfloat16, jnp.complex64)),
        *(("flatten", dtype) for dtype in (jnp.bfloat16, jnp.complex64)),
    ],
)
def test_eval_params_of_the_schedule_free_of_optax(nesting, dtype):
    def build(learning_rate):
        sgd = optax.sgd(learning_rate)
        return optax.contrib.schedule_free(sgd, learning_rate, b1=0.5)

    start = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    params, state = _step(NESTINGS[nesting](build), 3, start)
    assert optim.evaluates_elsewhere(state)
    found = jax.jit(optim.eval_params)(state, params)
    assert found["a"].dtype == dtype
    expected = np.asarray(PARAMS["a"] - 0.25 * 2, dtype)
    np.testing.assert_allclose(found["a"], expected, rtol=2e-2)
    assert not np.allclose(params["a"], expected, rtol=2e-2)
    np.testing.assert_array_equal(found["b"]["c"] == params["b"]["c"], nesting in PART)


def test_eval_params_of_an_average_and_without_one():
    params, state = _step(optim.polynomial_averaging(optim.sgd(1.0), gamma=1.0), 2)
    # Weights of the iterates: 1, then 2/3 for the second.
    expected = jax.tree.map(lambda p: p - (1 / 3 * 1 + 2 / 3 * 2), PARAMS)
    found = optim.eval_params(state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), found, expected)
    params, state = _step(optim.sgd(1.0))
    assert optim.eval_params(state, params) is params


def test_two_averages_cover_their_own_leaves():
    def build(momentum):
        return optim.schedule_free_sgd(0.25, momentum)

    transformation = optax.partition(
        {"one": build(0.5), "two": build(0.9)}, {"a": "one", "b": "two"}
    )
    params, state = _step(transformation, steps=3)
    expected = jax.tree.map(lambda p: p - 0.25 * 2, PARAMS)
    found = optim.eval_params(state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), found, expected)


def test_readings_in_a_population():
    def train(rate):
        return _step(optim.schedule_free_sgd(rate), 2)

    params, state = jax.vmap(train)(jnp.asarray([0.1, 0.2]))
    rates = jax.vmap(optim.effective_learning_rate)(state)
    np.testing.assert_allclose(rates, [0.1, 0.2])
    points = jax.vmap(optim.eval_params)(state, params)
    np.testing.assert_allclose(points["b"]["c"], [3 - 0.15, 3 - 0.3], rtol=1e-6)


@pytest.mark.parametrize(
    "transformation",
    [
        optim.cocob(),
        optim.cdowg(),
        optax.sgd(1.0),
        optax.inject_hyperparams(optim.cocob)(learning_rate=1.0),
    ],
)
def test_no_rate_where_there_is_none(transformation):
    state = _step(transformation)[1]
    with jax.debug_nans(True), jax.transfer_guard("disallow"):
        rate = optim.effective_learning_rate(state)
    assert jnp.isnan(rate)


def test_rate_of_plain_optax_is_found_in_its_injected_hyperparameters():
    rates = optax.inject_hyperparams(optax.sgd)(lambda count: 0.5 ** (count + 1))
    assert float(optim.effective_learning_rate(_step(rates, 2)[1])) == 0.25


def test_labels_of_a_partition_without_a_record():
    def rates(*transformations, **injected):
        labels = {"a": "0", "b": "1"}
        inner = {str(i): t for i, t in enumerate(transformations)}
        build = lambda learning_rate=0: optax.partition(inner, labels)  # noqa: E731
        tx = optax.inject_hyperparams(build)(**injected) if injected else build()
        return optim.effective_learning_rate(_step(tx)[1])

    sgd = optax.inject_hyperparams(optax.sgd)
    assert rates(sgd(0.5), optim.sgd(0.25)) == {"0": 0.5, "1": 0.25}
    mixed = rates(optim.sgd(0.5), optax.adam(0.25))
    assert mixed["0"] == 0.5
    assert jnp.isnan(mixed["1"])
    assert jnp.isnan(rates(optax.adam(0.5), optax.sgd(0.25)))
    assert rates(optax.adam(0.5), optax.adam(0.5), learning_rate=0.5) == 0.5
    nested = rates(optax.chain(optim.sgd(0.5)), optim.mechanic(optim.sgd(0.25)))
    assert nested["0"] == 0.5


def test_eval_params_says_that_the_state_is_of_others():
    _, state = _step(optim.schedule_free_sgd(0.25))
    with pytest.raises(ValueError, match="not of these parameters") as error:
        optim.eval_params(state, {"other": PARAMS["a"]})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("transformation", "rate"),
    [
        (optim.sgd(lambda count: 0.5 + count.astype(float)), 0.5),
        (optim.adamw(0.1), 0.1),
        (optim.dadapt_adam(0.5, d0=0.25), 0.125),
        (optim.prodigy(0.5, d0=0.25), 0.125),
        (optim.schedule_free_adamw(1.0, warmup_steps=4), 0.25),
        (optim.hypergradient_adam(0.5), 0.5),
        (optim.reduce_on_plateau(optim.sgd(0.5)), 0.5),
        (optim.greedy_lr(optim.sgd(0.5), 0.25), 0.125),
        (optim.scale_by_learning_rate(0.5), 0.5),
        (optim.cooldown(optim.sgd(0.5), start=1, steps=2), 0.5),
    ],
)
def test_rate_before_the_first_update_is_that_of_the_first(transformation, rate):
    state = transformation.init(PARAMS)
    assert float(optim.effective_learning_rate(state)) == pytest.approx(rate)


@pytest.mark.parametrize(
    "build",
    [
        optim.hypergradient_sgd,
        optim.hypergradient_adam,
        lambda rate: optim.greedy_lr(optim.sgd(1.0), rate),
    ],
)
def test_a_method_that_changes_its_rate_takes_no_schedule(build):
    with pytest.raises(
        ValueError, match="number, not a schedule: the method changes it"
    ):
        build(lambda count: 0.1)


def test_wrappers_multiply_the_rate_of_what_they_wrap():
    scale = optim.greedy_lr(optim.sgd(lambda count: 2.0 + count), 0.5, patience=99)
    _, state = _step(scale, 2, value=jnp.asarray(1.0))
    assert float(optim.effective_learning_rate(state)) == 1.5


@pytest.mark.parametrize(
    "inner",
    [optim.sgd(0.5), optim.adamw(lambda count: 1.0 + count), optim.muon(0.25)],
)
def test_a_cooldown_multiplies_the_rate_of_what_it_wraps(inner):
    resting = optim.cooldown(inner, start=2, steps=4)
    for updates, factor in enumerate([1, 1, 1, 0.75, 0.5, 0.25, 0, 0], 1):
        _, state = _step(resting, updates)
        rate = optim.effective_learning_rate(_step(inner, updates)[1])
        assert float(optim.effective_learning_rate(state)) == factor * float(rate)


def test_a_cooldown_has_no_rate_where_what_it_wraps_has_none():
    _, state = _step(optim.cooldown(optim.cocob(), start=1, steps=2))
    assert jnp.isnan(optim.effective_learning_rate(state))


def _previous(values, start):
    return np.concatenate([[start], values[:-1]])


# Scalars of the golden runs -> the rate that we record.
RATES = {
    "prodigy": lambda case: _previous(case.scalars["d"], 1e-6),
    "dadapt_adam": lambda case: _previous(case.scalars["d"], 1e-6),
    "dog": lambda case: case.scalars["eta"],
    "ldog": lambda case: case.scalars["eta"].mean(axis=1),
    "adog": lambda case: case.scalars["eta"],
    "kt": lambda case: case.scalars["eta"],
    "trac": lambda case: np.maximum(case.scalars["s"], 0),
    "momo": lambda case: case.scalars["tau"],
    "schedule_free_adamw": lambda case: case.scalars["scheduled_lr"],
    "schedule_free_plus": lambda case: case.scalars["scheduled_lr"],
}


@pytest.mark.slow
@pytest.mark.parametrize("method", RATES)
def test_rate_is_the_one_of_the_official_run(method):
    for case in problems.cases(method):
        if case.name != "default":
            continue
        with jax.enable_x64(True):
            transformation = case.build()
        _, _, rates = run(
            transformation, dict(case.problem.init), case.loss, problems.STEPS
        )
        np.testing.assert_allclose(rates, RATES[method](case), 1e-6, err_msg=case.id)


def test_no_state_is_refused():
    for read in (
        lambda state: optim.eval_params(state, jnp.ones(2)),
        optim.effective_learning_rate,
        optim.evaluates_elsewhere,
    ):
        with pytest.raises(ValueError, match="optimiser's state is None"):
            read(None)
        read(optax.EmptyState())


def test_eval_params_says_when_its_arguments_are_swapped():
    params = jnp.ones(2)
    for tx in (optim.schedule_free_adamw(), optim.adamw()):
        with pytest.raises(ValueError, match=r"call eval_params\(opt_state, params\)"):
            optim.eval_params(params, tx.init(params))
