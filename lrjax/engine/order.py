"""The order in which a run sees its data: a keyed bijection instead of a sort.

Sorting random bits took most of the time of a small run. Instead, position p of
epoch e maps to row pi(p), where pi is a Feistel network over Z_a x Z_b (Luby and
Rackoff 1988; Black and Rogaway 2002 for domains whose size is not a power of two),
keyed by the run's key and e. Any slice of the order can be computed by itself, in a
few integer operations per row. Where a * b exceeds the number of rows, the few
positions that land outside follow their cycle until they are inside.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from lrjax import machine
from lrjax.core import Batch

_LARGE_ROW = 2**16  # bytes: a second form of a part with larger rows costs much memory


def _factors(n: int) -> tuple[int, int]:
    """Return a, b near sqrt(n) with the smallest a * b >= n."""
    root = math.isqrt(n - 1) + 1
    return min(
        ((a, -(-n // a)) for a in range(root, max(2 * root, 2)) if n < 3 or a < n),
        key=lambda ab: (ab[0] * ab[1], ab[0]),
    )


def _mix(x: jax.Array) -> jax.Array:
    """Mix bits by the finaliser of MurmurHash3, a bijection of uint32.

    Args:
      x: uint32 of any shape.
    """
    x ^= x >> 16
    x *= jnp.uint32(0x85EBCA6B)
    x ^= x >> 13
    x *= jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def permute(key_words: jax.Array, epoch: jax.Array, position: jax.Array, n: int):
    """Map positions of an epoch to rows.

    Args:
      key_words: uint32 [2], drawn from the run's key.
      epoch: int array, which pass over the data; broadcasts against `position`.
      position: int array of any shape with values in [0, n).
      n: number of rows, below 2**32; static.

    Returns:
      int32 array; over all positions of an epoch each row occurs exactly once.
    """
    a, b = _factors(n)
    # Small domains mix more slowly: with fewer rounds a chi-squared test of positions
    # and pairs over 100,000 keys shows a bias.
    rounds = 12 if n < 100 else 8
    epoch_key = _mix(key_words[0] + jnp.uint32(0x9E3779B9) * epoch.astype(jnp.uint32))
    number = jnp.arange(rounds, dtype=jnp.uint32).reshape(-1, *[1] * epoch.ndim)
    keys = _mix(epoch_key ^ _mix(key_words[1] + jnp.uint32(0x7F4A7C15) * number))

    def bounded(value: jax.Array, key: jax.Array, size: int) -> jax.Array:
        # Multiply and shift instead of a remainder: as uniform, and cheaper.
        high = _mix(value * jnp.uint32(0x9E3779B1) + key) >> 16
        return (high * jnp.uint32(size)) >> 16

    def wrap(value: jax.Array, size: int) -> jax.Array:
        return jnp.where(value >= size, value - jnp.uint32(size), value)

    def network(x: jax.Array) -> jax.Array:
        """Map x in [0, a * b) one to one to the same range."""

        def two_rounds(i, halves):
            left, right = halves
            left = wrap(left + bounded(right, keys[2 * i], a), a)
            return left, wrap(right + bounded(left, keys[2 * i + 1], b), b)

        # A loop, not unrolled: running the rounds is cheap, compiling them was not.
        halves = x // jnp.uint32(b), x % jnp.uint32(b)
        left, right = jax.lax.fori_loop(0, rounds // 2, two_rounds, halves)
        return left * jnp.uint32(b) + right

    position, _ = jnp.broadcast_arrays(position.astype(jnp.uint32), epoch)
    if a * b == n:
        return network(position).astype(jnp.int32)
    # All positions take the first turn. One loop, so that the network is compiled once.
    _, x = jax.lax.while_loop(
        lambda carry: carry[0] | jnp.any(carry[1] >= n),
        lambda carry: (
            jnp.asarray(False),
            jnp.where(carry[0] | (carry[1] >= n), network(carry[1]), carry[1]),
        ),
        (jnp.asarray(True), position),
    )
    return x.astype(jnp.int32)


# jit: one trace serves all methods that are trained on the same data.
@functools.partial(jax.jit, static_argnames=("count", "batch_size", "n", "fresh"))
def batches(
    key_words: jax.Array,
    step: jax.Array,
    count: int,
    batch_size: int,
    n: int,
    fresh: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Compute the rows of `count` batches, starting with the batch of step `step`.

    Args:
      key_words: uint32 [2], drawn from the run's key.
      step: int, updates done so far.
      count: number of batches; static.
      batch_size: rows of a batch; static.
      n: rows of the data; static.
      fresh: draw every batch from an order of its own instead of going through whole
        epochs; static.

    Returns:
      rows int32 [count, batch_size], and mask bool [count, batch_size], False on
      the padding of a short batch.
    """
    per_epoch = -(-n // batch_size)
    ahead = jnp.arange(count)
    steps = (step.astype(ahead.dtype) + ahead)[:, None]
    column = jnp.arange(batch_size)[None, :]
    if fresh:
        epoch, position = steps, jnp.broadcast_to(column, (count, batch_size))
    else:
        epoch, position = steps // per_epoch, steps % per_epoch * batch_size + column
    mask = position < n
    return permute(key_words, epoch, jnp.where(mask, position, 0), n), mask


def laid_out(part: Batch, shared: bool = False) -> dict[str, jax.Array]:
    """A part in the form in which `taken` gathers many batches from it.

    On TPUs images become rows of numbers. XLA's gather of images would copy the whole
    part in each step, into a layout of which it can take slices.

    Args:
      part: leaves [rows, ...].
      shared: as for `taken`.
    """

    def of(array: jax.Array) -> jax.Array:
        small = array[:1].nbytes <= _LARGE_ROW
        return array.reshape(len(array), -1) if small else array

    return {k: of(v) if _is_costly(v, shared) else v for k, v in part.items()}


def taken(
    part: Batch, rows: jax.Array, like: Batch, shared: bool = False
) -> dict[str, jax.Array]:
    """The rows of a part that a batch consists of.

    Args:
      part: leaves [rows of the part, ...]; may come from `laid_out`.
      rows: int array of any shape.
      like: the part as it was; gives the shapes of its rows.
      shared: whether several devices share the batch; then each gathers its own rows.

    Returns:
      leaves [*rows.shape, ...].
    """

    def of(array: jax.Array, row: tuple[int, ...]) -> jax.Array:
        if not _is_costly(array, shared):
            return array[rows].reshape(*rows.shape, *row)

        def one(number: jax.Array) -> jax.Array:
            return jax.lax.dynamic_index_in_dim(array, number, keepdims=False)

        # Of unsigned numbers JAX need not ask whether they count from the end.
        found = jax.lax.map(one, jnp.ravel(rows).astype(jnp.uint32))
        return found.reshape(*rows.shape, *row)

    return {k: of(v, like[k].shape[1:]) for k, v in part.items()}


def _is_costly(array: Any, shared: bool) -> bool:
    """Whether XLA would copy an array before it gathers rows: images on a TPU."""
    on_tpu = machine.kind() == "tpu" and isinstance(array, jax.Array)
    return on_tpu and array.ndim > 2 and not shared
