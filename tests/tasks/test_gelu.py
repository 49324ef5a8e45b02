"""GELU against its definition and JAX's, values and derivatives."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax import machine
from lrjax.tasks.models.gelu import gelu


@pytest.fixture(autouse=True)
def _accelerator(monkeypatch):
    monkeypatch.setattr(machine, "kind", lambda: "gpu")


def value_and_slope(x):
    out, pull = jax.vjp(gelu, x)
    return out, pull(jnp.ones_like(x))[0]


def exact(x):
    """Value and derivative in Python's floats."""
    below = 0.5 * math.erfc(-x * math.sqrt(0.5))
    return x * below, below + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


@pytest.mark.parametrize(
    ("dtype", "error"), [("float64", 1e-15), ("float32", 5e-7), ("bfloat16", 2**-8)]
)
def test_value_and_derivative_are_exact(dtype, error):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.linspace(-8, 8, 321).astype(dtype).reshape(3, 107)
        found = jax.jit(jax.vmap(value_and_slope))(x)
        expected = np.vectorize(exact)(np.asarray(x, np.float64))
        for ours, true in zip(found, expected, strict=True):
            assert ours.dtype == dtype
            # Halves are rounded once, so relative to the number itself.
            room = error * (np.abs(true) if dtype == "bfloat16" else 1)
            off = np.abs(np.asarray(ours, np.float64) - true)
            assert (off <= room + 1e-6 * (dtype == "bfloat16")).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_is_jaxs(dtype, monkeypatch):
    with jax.enable_x64(dtype == "float64"):
        x = jax.random.normal(jax.random.key(0), (4, 50), dtype)
        ours = jax.vmap(value_and_slope)(x)
        monkeypatch.setattr(machine, "kind", lambda: "cpu")  # where JAX's is used
        theirs = jax.vmap(value_and_slope)(x)
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_only_the_input_is_kept():
    kept = jax.tree.leaves(jax.eval_shape(lambda x: jax.vjp(gelu, x)[1], jnp.ones(9)))
    assert [x.shape for x in kept] == [(9,)]
