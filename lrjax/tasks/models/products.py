"""Matrix products of halves with wider results, whose derivatives are of halves too."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp


def product(subscripts: str, a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    """Multiply as `jnp.einsum` with `preferred_element_type=dtype`.

    JAX's own derivative would multiply the result's gradient as it is. In float32 that
    takes matrix units up to fifteen times as long, so it is rounded to the operands'
    type first.

    Args:
      subscripts: 'in,in->out', in which each letter stands in two of the three.
      a, b: of the same type.
      dtype: of the result.
    """
    if jnp.finfo(a.dtype).bits < jnp.finfo(dtype).bits:
        return _halves(subscripts, dtype, a, b)
    return jnp.einsum(subscripts, a, b, preferred_element_type=dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _halves(subscripts: str, dtype: Any, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=dtype)


def _forward(subscripts: str, dtype: Any, a: jax.Array, b: jax.Array):
    return jnp.einsum(subscripts, a, b, preferred_element_type=dtype), (a, b)


def _backward(
    subscripts: str, dtype: Any, kept: tuple[jax.Array, jax.Array], slopes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Gradients of `product` by both operands, from those of its result."""
    del dtype
    a, b = kept
    operands, out = subscripts.split("->")
    of_a, of_b = operands.split(",")
    slopes = slopes.astype(a.dtype)
    by_a = jnp.einsum(f"{out},{of_b}->{of_a}", slopes, b)
    return by_a, jnp.einsum(f"{out},{of_a}->{of_b}", slopes, a)


_halves.defvjp(_forward, _backward)
