"""Products of halves with wider results: einsum's values, derivatives of halves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax.tasks.models.products import product

SHAPES = {
    "nh,vh->nv": ((6, 8), (5, 8)),
    "rf,cf->cr": ((6, 8), (5, 8)),
    "ri,io->ro": ((6, 8), (8, 5)),
    "rthd,rshd->rhts": ((2, 6, 3, 8), (2, 6, 3, 8)),
}


@pytest.mark.parametrize("subscripts", SHAPES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_it_is_einsum_with_gradients_from_rounded_slopes(subscripts, dtype):
    a_key, b_key, key = jax.random.split(jax.random.key(0), 3)
    shapes, lanes = SHAPES[subscripts], 2
    a = jax.random.normal(a_key, (lanes, *shapes[0])).astype(dtype)
    b = jax.random.normal(b_key, (lanes, *shapes[1])).astype(dtype)

    def multiplied(a, b):
        return product(subscripts, a, b, jnp.float32)

    value, pullback = jax.vjp(jax.vmap(multiplied), a, b)
    slopes = jax.random.normal(key, value.shape)
    found = [value, *pullback(slopes)]
    assert [x.dtype for x in found] == [jnp.float32, dtype, dtype]

    # `Z` is the axis of lanes.
    of_a, of_b, out = (f"Z{x}" for x in subscripts.replace("->", ",").split(","))
    a, b, slopes = (np.asarray(x, float) for x in (a, b, slopes.astype(dtype)))
    wanted = [
        np.einsum(f"{of_a},{of_b}->{out}", a, b),
        np.einsum(f"{out},{of_b}->{of_a}", slopes, b),
        np.einsum(f"{out},{of_a}->{of_b}", slopes, a),
    ]
    rounding = float(jnp.finfo(dtype).eps)
    for ours, truth in zip(found, wanted, strict=True):
        np.testing.assert_allclose(
            np.asarray(ours, float), truth, rtol=rounding, atol=10 * rounding
        )


def test_the_derivative_multiplies_halves_alone():
    halves = jnp.ones((6, 8), jnp.bfloat16), jnp.ones((5, 8), jnp.bfloat16)

    def loss(a, b):
        return product("nh,vh->nv", a, b, jnp.float32).sum()

    equations = jax.make_jaxpr(jax.grad(loss, (0, 1)))(*halves).jaxpr.eqns
    types = [
        operand.aval.dtype
        for equation in equations
        if equation.primitive.name == "dot_general"
        for operand in equation.invars
    ]
    assert len(types) >= 4
    assert set(types) == {jnp.dtype(jnp.bfloat16)}


def test_it_has_a_second_derivative():
    a, b = jnp.ones((6, 8), jnp.bfloat16), jnp.ones((5, 8), jnp.bfloat16)

    def loss(a):
        return jnp.square(product("nh,vh->nv", a, b, jnp.float32)).sum()

    along = jax.jvp(jax.grad(loss), (a,), (a,))[1]
    # The gradient 2 a b' b is linear in a.
    np.testing.assert_allclose(along.astype(float), 2 * 8 * 5, rtol=0.01)
