"""Sums over trees in one pass, whatever the shapes of the leaves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax.optim import base, passes

SHAPES = [(), (7,), (0,), (0, 3), (3, 0), (9, 4), (20, 3), (23, 3), (32, 1), (2, 30, 4)]


def _sums(left, right):
    def products(a, b):
        return a * b, a + b

    return passes.sums(products, 2, jnp.float32, left, right)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_sums_of_two_functions(dtype):
    rng = np.random.default_rng(0)
    left, right = (
        [jnp.asarray(rng.normal(size=shape), dtype) for shape in SHAPES]
        for _ in range(2)
    )
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(left, right, strict=True)
    ]
    expected = (
        sum(np.sum(a * b) for a, b in pairs),
        sum(np.sum(a + b) for a, b in pairs),
    )
    found = _sums(left, right)
    assert [value.dtype for value in found] == [jnp.float32] * 2
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # Each leaf by itself, and as one of several in a population.
    for a, b, (c, d) in zip(left, right, pairs, strict=True):
        expected = np.sum(c * d), np.sum(c + d)
        np.testing.assert_allclose(_sums(a, b), expected, rtol=1e-4, atol=1e-4)
        stacked = jax.vmap(_sums)(jnp.stack([a, 2 * a]), jnp.stack([b, b]))
        np.testing.assert_allclose(
            stacked[0], [expected[0], 2 * expected[0]], rtol=1e-4, atol=1e-4
        )


def test_derivatives_where_a_run_begins():
    """At a distance of zero, below no bound, and of sums of which one is constant."""
    inf = jnp.asarray(jnp.inf)

    def found(x):
        zero = base.root(jnp.sum(jnp.square(x - jax.lax.stop_gradient(x))))
        bound = base.at_most(2 * x[0, 0], x[0, 0], inf)
        cut = base.at_most(2 * x[0, 0], x[0, 0], jnp.asarray(1.5))
        first, _ = passes.sums(lambda a, b: (a * b, b), 2, jnp.float32, [x], [ones])
        return zero + bound + cut + first

    ones = jnp.ones((20, 3))
    expected = ones.at[0, 0].add(2 + 1.5)
    np.testing.assert_allclose(jax.grad(found)(ones), expected)
    np.testing.assert_allclose(jax.jvp(found, (ones,), (ones,))[1], expected.sum())
