"""What TRAC must do whatever its authors' code does: test_parity.py has its values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy import special

from lrjax import optim

START = {"w": np.asarray([[1.0, -2.0], [0.5, 3.0]]), "b": np.asarray([-1.0, 2.0])}
BETAS = np.asarray([0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999])


def loss(params):
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params))


def train(tx, slopes, params=START):
    """Parameters and rates after updates with gradients that are factors of the loss's.

    Args:
      tx: the transformation.
      slopes: a factor for each update.
      params: where it starts.
    """

    def step(carry, slope):
        params, state = carry
        grads = jax.tree.map(lambda leaf: slope * leaf, jax.grad(loss)(params))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, optim.effective_learning_rate(state))

    params = jax.tree.map(jnp.asarray, params)
    return jax.lax.scan(step, (params, tx.init(params)), jnp.asarray(slopes))[1]


def flat(tree, index):
    return np.concatenate([np.ravel(leaf[index]) for leaf in jax.tree.leaves(tree)])


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def test_the_first_scales_are_known():
    """With no reward yet, erfi of the decays; then +-1 for each, by a sign."""
    params, rates = train(optim.trac(optim.sgd(1.0), s_prev=1e-3), [1.0, 1.0])
    first = 1e-3 * np.sum(special.erfi(BETAS) / special.erfi(0.5**0.5))
    np.testing.assert_allclose(rates, [first, 6e-3], rtol=0.006)
    moved = flat(params, 0) - flat(jax.tree.map(lambda p: p[None], START), 0)
    expected = flat(jax.tree.map(lambda p: -2 * p[None], START), 0)
    np.testing.assert_allclose(moved, float(rates[0]) * expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_second_gradient_against_the_first_step_ends_it_all(dtype):
    """As in the authors' code: back to the start, where nothing is learned."""
    start = jax.tree.map(lambda leaf: leaf.astype(dtype), START)
    slopes = np.ones(20, dtype)
    slopes[1] = -1
    params, rates = train(optim.trac(optim.sgd(1.0)), slopes, start)
    assert rates[0] > 0
    assert not np.any(rates[1:])
    for name, leaf in params.items():
        assert np.all(leaf[1:] == start[name])
        assert np.any(leaf[0] != start[name])


def test_the_scale_grows_while_gradients_agree():
    """By some factor each update, from any s_prev to near the size that is needed."""
    for scale in (1e-8, 1e-5):
        params, rates = train(optim.trac(optim.sgd(0.01), s_prev=scale), np.ones(300))
        assert np.all(rates[2:20] > rates[1:19])
        assert 1e-3 < np.max(rates) < 1e3
        assert np.max(np.abs(flat(params, -1))) < 0.1


def test_leaves_count_as_one_vector():
    whole, unravel = ravel_pytree(START)
    tx = optim.trac(optim.adamw(0.01, weight_decay=0.0), s_prev=1e-3)
    (found, rates), (in_one, others) = (
        train(tx, np.ones(30), p) for p in (START, whole)
    )
    np.testing.assert_allclose(rates, others, rtol=1e-9)
    for name, leaf in unravel(in_one[-1]).items():
        np.testing.assert_allclose(found[name][-1], leaf, rtol=1e-9)


def test_it_adds_to_the_wrapped_rate_in_what_is_read():
    tx = optim.trac(
        optim.sgd(lambda count: jnp.where(count == 0, 2.0, 3.0)), s_prev=1e-3
    )
    _, rates = train(tx, [1.0, 1.0])
    _, scales = train(optim.trac(optim.sgd(1.0), s_prev=1e-3), [1.0])
    np.testing.assert_allclose(rates[0], 2 * scales[0], rtol=1e-9)
