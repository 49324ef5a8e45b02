"""What ScheduleFree+ must do whatever its authors' code does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import optim

START = {"w": np.asarray([[1.0, -2.0], [0.5, 3.0]]), "b": np.asarray([-1.0, 2.0])}


def loss(params):
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params))


def train(tx, steps, f=loss):
    """Parameters, points to evaluate, z and step sizes after each of the steps."""

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(f)(params)
        updates, state = tx.update(grads, state, params, value=value)
        params = optax.apply_updates(params, updates)
        point = optim.eval_params(state, params)
        rate = optim.effective_learning_rate(state)
        return (params, state), (params, point, state.z, rate)

    params = jax.tree.map(jnp.asarray, START)
    return jax.lax.scan(step, (params, tx.init(params)), length=steps)[1]


def assert_equal(found, expected, rtol=1e-9):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol, atol=1e-12), found, expected
    )


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_the_first_step_is_the_loss_over_the_norm_along_the_signs():
    """By sqrt(pi / 2), for which Gaussian gradients have a norm of 1 per entry."""
    params, points, z, rates = train(optim.schedule_free_plus(eps=1e-15), 1)
    entries = np.concatenate([np.ravel(leaf) for leaf in START.values()])
    size = np.sum(entries**2) / np.sum(np.abs(2 * entries)) / np.sqrt(np.pi / 2)
    np.testing.assert_allclose(rates[0], size, rtol=1e-9)
    for name, start in START.items():
        expected = (start - size * np.sign(start))[None]
        for found in (params, points, z):  # all iterates are one
            np.testing.assert_allclose(found[name], expected, rtol=1e-9)


def test_the_point_to_evaluate_is_the_average_of_z():
    tx = optim.schedule_free_plus(0.3, weight_lr_power=0.0, sf_beta1=0.8)
    params, points, z, _ = train(tx, 20)
    for name, path in z.items():
        np.testing.assert_allclose(points[name][-1], np.mean(path, axis=0), rtol=1e-9)
    between = jax.tree.map(lambda x, z: 0.8 * x + 0.2 * z, points, z)
    assert_equal(params, between)


def test_an_interpolation_that_changes_keeps_the_average():
    tx = optim.schedule_free_plus(
        0.3,
        weight_lr_power=0.0,
        sf_beta1=0.5,
        sf_beta1_max=0.9,
        sf_beta1_anneal_steps=10,
    )
    params, points, z, _ = train(tx, 20)
    for name, path in z.items():
        np.testing.assert_allclose(points[name][-1], np.mean(path, axis=0), rtol=1e-9)
    halfway = 1 - np.sqrt(0.5 * 0.1)  # in the logarithm of 1 - b
    for index, share in ((0, 0.5), (5, halfway), (10, 0.9), (19, 0.9)):
        for name in START:
            x, at = points[name][index], z[name][index]
            expected = share * x + (1 - share) * at
            np.testing.assert_allclose(params[name][index], expected, rtol=1e-9)


def test_x_is_z_while_the_average_waits():
    params, points, z, _ = train(optim.schedule_free_plus(0.3, c_warmup=5), 8)
    for name in START:
        np.testing.assert_allclose(points[name][:5], z[name][:5], rtol=1e-9)
        np.testing.assert_allclose(params[name][:5], z[name][:5], rtol=1e-9)
        np.testing.assert_allclose(points[name][5], z[name][5], rtol=1e-9)
        assert not np.allclose(points[name][6], z[name][6], rtol=1e-3)


def test_a_factor_of_the_loss_cancels():
    tx = optim.schedule_free_plus(0.3, eps=1e-30)
    scaled = train(tx, 20, lambda params: 2.0**10 * loss(params))
    assert_equal(scaled, train(tx, 20))


def test_decay_goes_with_the_square_of_the_step():
    """In a first update, whose step size knows nothing of it: z moves by it alone."""
    without, decayed = (
        train(optim.schedule_free_plus(0.3, weight_decay=w), 1) for w in (0.0, 20.0)
    )
    for name, start in START.items():
        extra = without[2][name][0] - decayed[2][name][0]
        np.testing.assert_allclose(extra, 20 * decayed[3][0] ** 2 * start, rtol=1e-9)


def test_a_gradient_of_zero_makes_no_step():
    params, _, _, rates = train(
        optim.schedule_free_plus(), 3, lambda params: 1.0 + 0.0 * loss(params)
    )
    assert not np.any(rates)
    for name, start in START.items():
        np.testing.assert_array_equal(params[name][-1], start)
