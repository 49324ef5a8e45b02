"""AutoLRS: forecasts, the Gaussian process, what a search finds, and how it goes back.

Whole runs by hand in NumPy: `tests/golden/references.py`, also in test_parity.py.
"""

from __future__ import annotations

import importlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from sklearn.gaussian_process import GaussianProcessRegressor, kernels

from lrjax import optim
from lrjax.methods import METHODS

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "golden"))
import references

autolrs = importlib.import_module("lrjax.optim.autolrs")
CURVATURES = np.logspace(-2, 0, 10)


def forecast(losses, after):
    """The forecast from losses at 0, 1, ..., in float64."""
    sums = np.zeros(16)
    np.add.at(sums, np.arange(len(losses)) * 16 // len(losses), losses)
    with jax.enable_x64(True):
        number, after = (jnp.asarray(n, jnp.int32) for n in (len(losses), after))
        return float(autolrs._forecast(jnp.asarray(sums), number, after))


@pytest.mark.parametrize("number", [3, 5, 16, 19, 99])
@pytest.mark.parametrize("share", [0.2, 1.0, 8.0])
@pytest.mark.parametrize(("a", "c"), [(1.3, 1.0), (-2.0, 0.5), (50.0, -80.0)])
def test_forecasts_exponential_curves(number, share, a, c):
    after, slowness = 10 * number, share * number
    losses = a * np.exp(-np.arange(number) / slowness) + c
    expected = a * np.exp(-after / slowness) + c
    assert forecast(losses, after) == pytest.approx(expected, abs=1e-4 * abs(a))


def test_forecasts_of_noisy_losses_are_those_of_least_squares():
    rng = np.random.default_rng(0)
    times = np.arange(16)

    def curve(t, a, slowness, c):
        return a * np.exp(-t / slowness) + c

    for _ in range(8):
        losses = curve(times, 1.0, 5.0, 2.0) + 0.03 * rng.normal(size=16)
        best, _ = scipy.optimize.curve_fit(
            curve, times, losses, (1, 5, 2), bounds=([-99, 1, -99], [99, 160, 99])
        )
        assert forecast(losses, 160) == pytest.approx(curve(160, *best), abs=1e-4)


def test_losses_that_do_not_change_are_forecast_as_they_are():
    assert forecast(np.full(20, 3.0), 100) == 3.0


def test_posterior_equals_scikit_learn():
    rng = np.random.default_rng(0)
    places, values, at = rng.uniform(size=6), rng.normal(size=6), np.linspace(0, 1, 65)
    theirs = GaussianProcessRegressor(
        kernels.Matern(0.25, nu=2.5), alpha=0.01, optimizer=None
    ).fit(places[:4, None], values[:4])
    with jax.enable_x64(True):
        ours = autolrs._posterior(places, values, jnp.arange(6) < 4, jnp.asarray(at))
    for found, expected in zip(
        ours, theirs.predict(at[:, None], return_std=True), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def quadratic(params):
    return 0.5 * jnp.sum(CURVATURES.astype(params.dtype) * params**2)


def train(tx, params, steps, f=quadratic):
    """Parameters, states and losses before each update, and those after all."""

    def step(carry, number):
        params, state = carry
        value, grads = jax.value_and_grad(f)(params)
        updates, new = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), new), (params, state)

    carry = params, tx.init(params)
    last, before = jax.jit(lambda: jax.lax.scan(step, carry, jnp.arange(steps)))()
    return jax.tree.map(lambda old, new: jnp.append(old, new[None], 0), before, last)


@pytest.mark.parametrize(
    "options",
    [
        {"train_steps": 40, "trial_steps": 8, "candidates": 5},
        {"train_steps": 30, "trial_steps": 21, "candidates": 3, "kappa": 50.0},
    ],
)
def test_equals_the_algorithm_by_hand_over_several_stages(options):
    """With losses that change from batch to batch."""
    steps, start = 250, np.linspace(-1, 2, 10)
    noise = np.random.default_rng(0).normal(size=(steps, 10))
    base = {"learning_rate": 1.0, "momentum": 0.9}
    by_hand = references.autolrs(
        start,
        lambda step, x: CURVATURES * (x - 0.1 * noise[step]),
        np.full(steps, 0.03),
        value=lambda step, x: 0.5 * CURVATURES @ (x - 0.1 * noise[step]) ** 2,
        base_optimizer=("sgd", base),
        **options,
    )
    expected = np.array([x for x, _ in by_hand])
    with jax.enable_x64(True):
        tx = optim.autolrs(optax.sgd(**base), 0.03, **options)

        def step(carry, noise):
            params, state = carry
            value, grads = jax.value_and_grad(quadratic)(params - 0.1 * noise)
            updates, state = tx.update(grads, state, params, value=value)
            params = params + updates
            return (params, state), params

        carry = jnp.asarray(start), tx.init(jnp.asarray(start))
        found = jax.jit(lambda: jax.lax.scan(step, carry, noise))()[1]
    assert expected.shape == (steps, 10)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_finds_a_rate_near_the_best_constant_one():
    tx = optim.autolrs(optim.sgd(1.0), 0.3, train_steps=200, trial_steps=20)
    params, state = train(tx, jnp.ones(10), 400)
    rates = np.geomspace(0.03, 3.0, 201)
    ends = [CURVATURES @ (1 - rate * CURVATURES) ** 400 / 2 for rate in rates]
    best = rates[np.argmin(ends)]
    chosen = float(state.learning_rate[-1])
    assert best / 2 < chosen < 1.05 * best
    assert quadratic(params[-1]) < np.median(ends) / 20
    # As after as many updates at this rate, without the search.
    alone = (1 - chosen * CURVATURES) ** 200
    np.testing.assert_allclose(params[-1], alone, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_trials_go_back_to_the_bit(dtype):
    tx = optim.autolrs(optim.adamw(1.0), 0.03, train_steps=9, trial_steps=7)
    start = jnp.linspace(-0.7, 1.9, 10).astype(dtype)
    params, states = train(tx, start, 2 * 79 + 1)
    for stage in (0, 79):
        for trial in range(11):
            place = stage + 7 * trial
            np.testing.assert_array_equal(params[place], params[stage])
            moved = jax.tree.map(
                lambda leaf, a=place, b=stage: bool(jnp.any(leaf[a] != leaf[b])),
                states.inner,
            )
            assert not any(jax.tree.leaves(moved))
            assert np.any(params[place + 3] != params[stage])
    assert np.any(params[79] != params[0])


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_losses_that_are_not_finite_are_the_worst(bad):
    """Above a rate of 1.5, as where training diverges; the search settles below."""

    def cliff(params):
        return jnp.where(jnp.min(params) < -0.5, bad, quadratic(params))

    tx = optim.autolrs(optim.sgd(1.0), 1.0, train_steps=40, trial_steps=8)
    params, states = train(tx, jnp.ones(10), 120, cliff)
    rates = np.asarray(states.learning_rate)
    assert rates.max() > 1.5
    assert rates[81:121].max() < 1.5
    assert np.isfinite(params).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states))
    assert quadratic(params[-1]) < 0.1 * quadratic(params[0])


def test_steps_beyond_any_number_can_be_taken_back():
    """Losses stay finite while parameters leave the numbers."""

    def deaf(params):
        return jnp.sum(jnp.tanh(params)) + 0 * jnp.sum(jnp.sin(params))

    huge = optax.scale(-3e38)  # a sum of two such steps is infinite
    tx = optim.autolrs(huge, 1.0, 2.0, train_steps=2, trial_steps=8, candidates=3)
    params, _ = train(tx, jnp.ones(3), 24, deaf)
    assert np.isfinite(params).all()
    np.testing.assert_array_equal(params[24], params[0])


def test_population_equals_loop():
    @jax.jit
    def run(rate, trial_steps, start):
        tx = optim.autolrs(
            optim.sgd(1.0, 0.9),
            rate,
            train_steps=30,
            trial_steps=trial_steps,
            candidates=4,
        )
        params, states = train(tx, start, 140)
        return params[-1], states.learning_rate

    rates = jnp.array([0.01, 0.03, 0.1])
    lengths = jnp.array([5.0, 6.0, 0.0])  # trials end at other times
    starts = jax.random.normal(jax.random.key(0), (3, 10))
    found = jax.jit(jax.vmap(run))(rates, lengths, starts)
    for lane, told in enumerate(zip(rates, lengths, starts, strict=True)):
        for ours, expected in zip(found, run(*told), strict=True):
            np.testing.assert_allclose(ours[lane], expected, rtol=1e-4, atol=1e-6)
    # Without trials there is one rate.
    assert len(np.unique(found[1][2])) == 1
    assert len(np.unique(found[1][0])) > 4


@pytest.mark.parametrize("horizon", [1, 20, 79, 80, 250, 503, 1000])
def test_methods_fill_the_horizon_and_end_in_training(horizon):
    method = METHODS["autolrs_sgd"]

    @jax.jit
    def run(length):
        tx = method.build(length, **method.defaults)
        _, states = train(tx, jnp.ones(10), horizon)
        return states.learning_rate[1:], states.forecasts

    rates, forecasts = jax.device_get(run(jnp.float32(horizon)))
    training = np.sum(rates == rates[-1])
    assert training >= max(horizon // 12, 1)
    assert (rates[-max(horizon // 12, 1) :] == rates[-1]).all()
    # Ten trials a stage: one stage from 80 updates on, two from 400 on, five at most.
    stages = (horizon >= 80) * max(min(5, horizon // 200), 1)
    assert np.any(forecasts[1:] != forecasts[:-1], axis=1).sum() == 10 * stages
