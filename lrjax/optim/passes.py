"""Fewer passes over memory: how XLA is brought to read and copy large arrays once.

An update of an optimiser takes as long as its arrays take to be read and written. A
copy of a method works without this file: a `base.sum_leaves` for each sum in place of
`sums` (the same but for rounding), and coefficients as they are in place of `after`.
What is gained depends on compiler and processor; this says whether it still pays:

  python benchmarks/optimizers.py --passes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lrjax.optim import base

PyTree = Any
Scalar = float | jax.Array

# Rows that are summed at once, the best first: few enough that a processor adds many
# columns at once, and enough that the groups' sums are little to store.
_GROUPS = range(16, 9, -1)


def sums(
    fn: Callable[..., tuple[jax.Array, ...]], outputs: int, dtype: Any, *trees: PyTree
) -> tuple[jax.Array, ...]:
    """Sums of several functions of the same leaves, in one pass over them.

    Groups of rows are summed first, all functions at once, and then their sums: but for
    these nothing is stored in between, which separate sums with common subexpressions
    would lead to. Groups are small, so that a processor adds many columns at once.
    """

    def leaf_sums(*leaves):
        values = fn(*(base.cast(leaf, dtype) for leaf in leaves))
        shape = values[0].shape
        if not shape:
            return values
        axis = len(shape) - 1
        rows = shape[-2] if axis else 0
        group = next((size for size in _GROUPS if rows and rows % size == 0), None)
        if group is not None:
            view = (*shape[:-2], rows // group, group, shape[-1])
            values = tuple(jnp.reshape(value, view) for value in values)
        zeros = (jnp.zeros((), dtype),) * outputs
        partial = jax.lax.reduce(values, zeros, _add_all, (axis,))
        return tuple(jnp.sum(value) for value in partial)

    return tuple(
        base.total(tree, dtype) for tree in base.map_leaves(leaf_sums, outputs, *trees)
    )


def _add_all(left: tuple, right: tuple) -> tuple:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def after(token: jax.Array, *values: Scalar) -> list[jax.Array]:
    """`values`, which the compiler cannot use before `token`; NaN if it is NaN.

    A sum over old state, and an update that overwrites this state, can be in any order
    for the compiler, which then works on a copy. With its coefficients taken `after`
    the sum, the update follows and no copy is made.
    """
    return [hold(token, value) for value in values]


@jax.jit
def hold(token: jax.Array, value: Scalar) -> jax.Array:
    """What `after` does for one value; a program of its own so that it has a name."""
    return jnp.where(jnp.isnan(token), token, value)
