"""Masked attention of short rows as a kernel for TPUs; imports Pallas, which is slow.

A row's scores stay in a TPU's fast memory. Nothing is kept for the derivative but the
inputs: its kernel computes the scores again. JAX's own kernels go through long rows in
parts, for which they keep statistics that take more bytes than they save here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import extend
from jax.core import ShapedArray
from jax.experimental import pallas as pl
from jax.interpreters import mlir

from lrjax import machine

_COLUMNS = 256  # of the heads that a program of the kernel computes
_FIRST = (((0,), (0,)), ((), ()))  # axes that products sum over
_SECOND = (((1,), (1,)), ((), ()))


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
    """Compute attention, [rows, tokens, heads, size].

    Args:
      query, key, value: [rows, tokens, heads, size].
      mask: bool [rows, 1, tokens, tokens].
    """
    (out,) = _attend(query, key, value, mask[:, 0].astype(jnp.int8))
    return out


def gradients(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    cotangent: jax.Array,
) -> tuple[jax.Array, ...]:
    """Gradients of `attend` by query, key and value, of their shapes.

    Args:
      query, key, value, mask: as for `attend`.
      cotangent: gradient by the result.
    """
    cotangent = cotangent.astype(query.dtype)
    found = _gradients(query, key, value, cotangent, mask[:, 0].astype(jnp.int8))
    return tuple(found)


def _weights(query: jax.Array, key: jax.Array, seen: jax.Array) -> jax.Array:
    """Attention weights of a head, float32 [keys, queries].

    Args:
      query, key: [size, tokens].
      seen: bool [keys, queries].
    """
    scores = _dot(key, query, _FIRST) * query.shape[0] ** -0.5
    scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - scores.max(axis=0, keepdims=True))
    return weights / weights.sum(axis=0, keepdims=True)


def _dot(a: jax.Array, b: jax.Array, axes: Any = (((1,), (0,)), ((), ()))) -> jax.Array:
    """Product of two matrices, in float32; compilers refuse other precisions."""
    precision = jax.lax.Precision.DEFAULT
    return jax.lax.dot_general(a, b, axes, precision, jnp.float32)


def _forward_kernel(
    query: Any, key: Any, value: Any, mask: Any, out: Any, *, size: int
) -> None:
    """Write the attention of some heads of a row.

    Args:
      query, key, value, out: references to [1, heads * size, tokens].
      mask: reference to int8 [1, keys, queries].
      size: of a head.
    """
    seen = mask[0].astype(jnp.int32) != 0
    for at in _heads(query, size):
        weights = _weights(query[0, at], key[0, at], seen).astype(out.dtype)
        out[0, at] = _dot(value[0, at], weights).astype(out.dtype)


def _backward_kernel(
    query: Any,
    key: Any,
    value: Any,
    slope: Any,
    mask: Any,
    by_query: Any,
    by_key: Any,
    by_value: Any,
    *,
    size: int,
) -> None:
    """Write the gradients of some heads of a row.

    Args:
      query, key, value, slope: references to [1, heads * size, tokens]; `slope` is the
        gradient by the result.
      mask: reference to int8 [1, keys, queries].
      by_query, by_key, by_value: references for the results, of the same shapes.
      size: of a head.
    """
    seen = mask[0].astype(jnp.int32) != 0
    dtype = query.dtype
    for at in _heads(query, size):
        queries, keys, slopes = query[0, at], key[0, at], slope[0, at]
        weights = _weights(queries, keys, seen)
        by_value[0, at] = _dot(slopes, weights.astype(dtype), _SECOND).astype(dtype)
        by_weights = _dot(value[0, at], slopes, _FIRST)
        mean = (weights * by_weights).sum(axis=0, keepdims=True)
        by_scores = jnp.where(seen, weights * (by_weights - mean), 0.0)
        by_scores = (by_scores * size**-0.5).astype(dtype)
        by_query[0, at] = _dot(keys, by_scores).astype(dtype)
        by_key[0, at] = _dot(queries, by_scores, _SECOND).astype(dtype)


def _heads(block: Any, size: int) -> list[slice]:
    """Columns of each head in a block."""
    return [slice(at, at + size) for at in range(0, block.shape[1], size)]


def _called(
    kernel: Callable[..., None], count: int, *args: jax.Array
) -> tuple[jax.Array, ...]:
    """Call a kernel for all rows and heads.

    Tokens are its last axis: XLA lays these arrays out in this way by itself, as heads
    have fewer columns than a tile, and so copies nothing.

    Args:
      kernel: of references to the arguments and results, and `size`.
      count: of results, all like the first argument.
      *args: arrays [rows, tokens, heads, size], and the mask, int8 [rows, tokens,
        tokens].
    """
    *wide, mask = args
    rows, tokens, heads, size = wide[0].shape
    columns = heads * size
    together = max(n for n in range(1, heads + 1) if heads % n == 0 and _fits(n, size))
    spec = pl.BlockSpec((1, together * size, tokens), lambda row, at: (row, at, 0))
    mask = mask.swapaxes(1, 2)
    of_mask = pl.BlockSpec((1, *mask.shape[1:]), lambda row, at: (row, 0, 0))
    flat = [x.transpose(0, 2, 3, 1).reshape(rows, columns, tokens) for x in wide]
    out = pl.pallas_call(
        functools.partial(kernel, size=size),
        out_shape=[jax.ShapeDtypeStruct(flat[0].shape, flat[0].dtype)] * count,
        grid=(rows, heads // together),
        in_specs=[*(spec for _ in flat), of_mask],
        out_specs=[spec] * count,
        interpret=machine.is_here() and jax.devices()[0].platform == "cpu",  # tests
    )(*flat, mask)
    shape = (rows, heads, size, tokens)
    return tuple(x.reshape(shape).transpose(0, 3, 1, 2) for x in out)


def _fits(heads: int, size: int) -> bool:
    return heads == 1 or heads * size <= _COLUMNS


def _alone(name: str, kernel: Callable[..., Any], plain: Callable[..., Any]) -> Any:
    """The function that is a kernel in programs of one device, and a plain form else.

    XLA splits programs over devices, but no kernels; how many devices there are is only
    known when a program is lowered.

    Args:
      name: of the operation.
      kernel, plain: the same function of arrays, with a tuple of results.
    """
    operation = extend.core.Primitive(name)
    operation.multiple_results = True

    def shapes(*args: Any) -> list[Any]:
        found = jax.eval_shape(plain, *args)
        return [ShapedArray(x.shape, x.dtype) for x in found]

    def lowered(context: Any, *args: Any) -> Any:
        devices = getattr(context.module_context.axis_context, "num_devices", 1)
        chosen = plain if (devices or 1) > 1 else kernel
        return mlir.lower_fun(chosen, multiple_results=True)(context, *args)

    operation.def_abstract_eval(shapes)
    operation.def_impl(lambda *args: jax.jit(kernel)(*args))
    mlir.register_lowering(operation, lowered)
    return operation.bind


def _plain(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> tuple[jax.Array]:
    """The plain form of `attend`."""
    with jax.numpy_dtype_promotion("standard"):
        out = jax.nn.dot_product_attention(
            query, key, value, mask=mask[:, None] != 0, implementation="xla"
        )
    return (out,)


def _plain_gradients(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    cotangent: jax.Array,
    mask: jax.Array,
) -> tuple[jax.Array, ...]:
    """The plain form of `gradients`."""

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return _plain(query, key, value, mask)[0]

    with jax.numpy_dtype_promotion("standard"):
        return jax.vjp(attend, query, key, value)[1](cotangent)


_attend = _alone(
    "tpu_attention", functools.partial(_called, _forward_kernel, 1), _plain
)
_gradients = _alone(
    "tpu_attention_gradients",
    functools.partial(_called, _backward_kernel, 3),
    _plain_gradients,
)
