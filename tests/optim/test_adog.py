"""What A-DoG must do whatever its authors' code does: test_parity.py has its values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from lrjax import optim

START = {"w": jnp.asarray([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.asarray([-1.0, 2.0])}
CURVATURE = {"w": jnp.asarray([[1.0, 0.3], [0.1, 0.03]]), "b": jnp.asarray([0.5, 2.0])}


def loss(params, factor=1.0):
    """A parabola with its minimum at 0."""
    squares = jax.tree.map(lambda c, p: jnp.sum(c * p * p), CURVATURE, params)
    return factor * sum(jax.tree.leaves(squares))


def train(tx, steps, f=loss, params=START):
    """Parameters, and points to evaluate, after each of the steps."""

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(f)(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, optim.eval_params(state, params))

    return jax.lax.scan(step, (params, tx.init(params)), length=steps)[1]


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("constant", [0.2, 0.5, 0.8, 1.5])
def test_the_first_steps_have_a_known_length(constant):
    """Along the gradient: r for w, r / a for y, and x between them."""
    tx = optim.adog(reps_rel=1e-2, alpha_const=constant, eps=0.0)
    params, points = train(tx, 1)
    grads = flat(jax.grad(loss)(START))
    along = -grads / np.linalg.norm(grads)
    distance = 1e-2 * (1 + np.linalg.norm(flat(START)))
    before, after = max(1, constant), max(1, 2 * constant)
    of_y = distance / before
    of_x = (1 - 1 / after) * of_y + distance / after
    for found, length in ((points, of_y), (params, of_x)):
        moved = flat(found) - flat(START)
        np.testing.assert_allclose(moved, length * along, rtol=1e-5, atol=1e-7)


def test_a_factor_of_the_loss_cancels():
    tx = optim.adog(reps_rel=1e-2, eps=0.0)
    scaled = train(tx, 30, lambda params: loss(params, 2.0**10))
    jax.tree.map(np.testing.assert_array_equal, train(tx, 30), scaled)


def test_leaves_count_as_one_vector():
    whole, unravel = ravel_pytree(START)
    tx = optim.adog(reps_rel=1e-2)
    in_one = train(tx, 30, lambda x: loss(unravel(x)), whole)
    for found, expected in zip(train(tx, 30), in_one, strict=True):
        np.testing.assert_allclose(
            np.concatenate(
                [leaf.reshape(30, -1) for leaf in jax.tree.leaves(found)], 1
            ),
            expected,
            rtol=1e-4,
            atol=1e-5,
        )


def test_without_weights_the_parameters_are_those_of_dog():
    """And the average is weighted by the distances."""
    distances, path = [], []
    tx, params = optim.dog(reps_rel=1e-2), START
    state = tx.init(params)
    for _ in range(20):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        distances.append(float(state.distance))
        path.append(flat(params))
    found, points = train(optim.adog(reps_rel=1e-2, alpha_const=0.0), 20)
    np.testing.assert_allclose(
        flat(jax.tree.map(lambda p: p[-1], found)), path[-1], 1e-4
    )
    average = np.average(path, axis=0, weights=distances)
    np.testing.assert_allclose(
        flat(jax.tree.map(lambda p: p[-1], points)), average, 1e-4
    )


def test_it_is_faster_than_dog_where_curvatures_differ():
    """The loss of its average falls with the square of time, not with time."""
    curvature = jnp.logspace(-4, 0, 20)

    def f(x):
        return jnp.sum(curvature * x * x)

    def last(tx):
        points = train(tx, 1000, f, jnp.ones(20))[1]
        return float(f(points[-1]))

    assert last(optim.adog()) < 0.2 * last(optim.polynomial_averaging(optim.dog()))
