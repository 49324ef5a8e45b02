"""Makes XLA read and write large arrays in fewer passes.

The time of an optimiser's update is the time to read and write its arrays. Methods also
work without this file: replace `sums` by a `base.sum_leaves` per sum (the same up to
rounding) and `after` by its values. The gain depends on compiler and processor; this
measures it:

  python benchmarks/optimizers.py --passes
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lrjax.optim import base

PyTree = Any
Scalar = float | jax.Array

# Rows per group, the fastest first: few, so that a processor adds many columns at once,
# but enough that storing the groups' sums is cheap.
_GROUPS = range(16, 9, -1)


def sums(
    fn: Callable[..., tuple[jax.Array, ...]], outputs: int, dtype: Any, *trees: PyTree
) -> tuple[jax.Array, ...]:
    """Sum several functions of the same leaves in one pass over them.

    Groups of rows are summed first, for all functions at once, then the groups' sums.
    Nothing else is stored in between, whereas XLA stores the common subexpressions of
    separate sums.

    Args:
      fn: function of leaves, one of each tree, that returns a tuple of arrays.
      outputs: length of this tuple.
      dtype: dtype of the computation.
      *trees: trees of the same structure.

    Returns:
      the sums over all entries of all leaves, one scalar per output.
    """

    def leaf_sums(*leaves):
        """The sums over one leaf of each tree, one per output."""
        values = fn(*(base.cast(leaf, dtype) for leaf in leaves))
        shape = values[0].shape
        if not shape:
            return values
        axis = len(shape) - 1
        # Rows that a mesh with explicit axes has cut stay as they are cut.
        cut = axis and jax.typeof(values[0]).sharding.spec[-2] is not None
        rows = shape[-2] if axis and not cut else 0
        group = next((size for size in _GROUPS if rows and rows % size == 0), None)
        if group is not None:
            view = (*shape[:-2], rows // group, group, shape[-1])
            values = tuple(jnp.reshape(value, view) for value in values)
        return tuple(jnp.sum(value) for value in _last_sums(values, axis))

    return tuple(
        base.total(tree, dtype) for tree in base.map_leaves(leaf_sums, outputs, *trees)
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _last_sums(values: tuple[jax.Array, ...], axis: int) -> tuple[jax.Array, ...]:
    """Sums along the last axis in one pass."""
    zeros = (jnp.zeros((), values[0].dtype),) * len(values)
    return tuple(jax.lax.reduce(values, zeros, _add_all, (axis,)))


@_last_sums.defjvp
def _last_sums_jvp(axis, values, tangents):
    # JAX's own rule for such a reduction fails where a tangent is known to be zero.
    return _last_sums(*values, axis), tuple(jnp.sum(t, axis) for t in tangents[0])


def _add_all(left: tuple, right: tuple) -> tuple:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def after(token: jax.Array, *values: Scalar) -> list[jax.Array]:
    """Make `values` depend on `token`, so that XLA uses them later; NaN if it is NaN.

    XLA may order a sum over old state after the update that overwrites this state, and
    then copies the state first. If the coefficients of the update are taken `after` the
    sum, the update comes later and no copy is made.
    """
    return [hold(token, value) for value in values]


@jax.jit
def hold(token: jax.Array, value: Scalar) -> jax.Array:
    """`after` for one value; jitted so that it has a name in compiled programs."""
    return jnp.where(jnp.isnan(token), token, value)
