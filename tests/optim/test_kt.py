"""What KT must do whatever its author's code does: test_parity.py has its values."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import optim

START = {"w": np.asarray([[1.0, -2.0], [0.5, 3.0]]), "b": np.asarray([-1.0, 2.0])}
NUMBERS = sum(leaf.size for leaf in START.values())


def train(tx, grads):
    """Parameters and wealth after updates with gradients that are given, in one row."""

    def step(carry, grad):
        params, state = carry
        ends = {"b": grad[:2], "w": grad[2:].reshape(2, 2)}
        updates, state = tx.update(ends, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state.wealth)

    params = jax.tree.map(jnp.asarray, START)
    return jax.lax.scan(step, (params, tx.init(params)), jnp.asarray(grads))[1]


def moved(params):
    """How far all parameters are from their start, [updates, numbers]."""
    away = [params[name] - START[name] for name in ("b", "w")]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in away], 1)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_the_wealth_of_bets_on_a_coin_with_one_side_is_known():
    """It doubles, nearly: w times the product of (2 t + 1) / (t + 1)."""
    unit = np.full(NUMBERS, -1 / math.sqrt(NUMBERS))
    params, wealth = train(optim.kt(wealth=0.5), np.tile(unit, (20, 1)))
    won = 0.5 * np.cumprod([1.0, *((2 * t + 1) / (t + 1) for t in range(1, 20))])
    np.testing.assert_allclose(wealth, won, rtol=1e-12)
    at = won * np.arange(1, 21) / np.arange(2, 22)
    np.testing.assert_allclose(moved(params), -unit * at[:, None], rtol=1e-12)


def test_gradients_of_norms_up_to_1_never_take_all():
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(5, 200, NUMBERS)) + rng.normal(size=(5, 1, NUMBERS))
    grads /= np.linalg.norm(grads, axis=-1, keepdims=True)
    for row in grads:
        assert np.all(train(optim.kt(), row)[1] > 0)
    _, wealth = train(optim.kt(), np.tile(grads[0, :2] * [[5], [-5]], (10, 1)))
    assert wealth[-1] < 0  # with larger ones it may be lost, as the docstring says


def test_the_rate_multiplies_gradients():
    grads = np.random.default_rng(1).normal(size=(30, NUMBERS)) / 5
    found, wealth = train(optim.kt(0.5), grads)
    expected, same = train(optim.kt(), 0.5 * grads)
    np.testing.assert_allclose(wealth, same, rtol=1e-12)
    np.testing.assert_allclose(moved(found), moved(expected), rtol=1e-12)


def test_decay_wins_nothing():
    grads = np.random.default_rng(2).normal(size=(2, NUMBERS)) / 5
    tx = optim.kt(wealth=0.1, weight_decay=0.5)
    params, wealth = train(tx, grads)
    first = np.concatenate([START["b"], START["w"].ravel()])
    np.testing.assert_allclose(moved(params)[0], -0.05 * (grads[0] + 0.5 * first))
    np.testing.assert_allclose(wealth[1] - 0.1, -moved(params)[0] @ grads[1])
