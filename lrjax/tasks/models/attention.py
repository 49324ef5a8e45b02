"""Masked attention, by a kernel where one works: cuDNN's on GPUs, our own on TPUs."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import machine
from lrjax.common import numerics
from lrjax.core import cut
from lrjax.tasks.models.products import product

_FUSED = "cudnn"
_TPU_LONGEST = 512  # tokens of a row whose scores fit a TPU's fast memory
_TPU_SIZES = 16  # of heads: multiples, which are whole tiles
_CLOSE = 0.05  # tolerated error relative to the largest number, in bfloat16


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    fused: bool = False,
) -> jax.Array:
    """Softmax attention as `jax.nn.dot_product_attention`; float64 inputs keep float64.

    Args:
      query, key, value: [rows, tokens, heads, size].
      mask: bool, broadcastable to [rows, 1, tokens, tokens]: which token attends to
        which; None: all.
      fused: use the device's kernel if there is a mask and the number of tokens is
        even and one that the kernel takes.

    Returns:
      [rows, tokens, heads, size].
    """
    rows, tokens = query.shape[:2]
    if query.dtype == jnp.float64:  # JAX's softmax would be in float32
        return attention_with_dropout(query, key, value, mask, lambda weights: weights)
    if fused and mask is not None and _takes(tokens):
        return _fused(
            query, key, value, jnp.broadcast_to(mask, (rows, 1, tokens, tokens))
        )
    return _of_jax(query, key, value, mask, "xla")


def attention_with_dropout(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    dropout: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Compute `attention` with dropout of the attention weights.

    Scores and softmax are in float32, or in float64 where the inputs are.

    Args:
      query, key, value: [rows, tokens, heads, size].
      mask: as for `attention`.
      dropout: function of the attention weights [rows, heads, tokens, tokens].
    """
    wide = np.promote_types(query.dtype, np.float32)
    logits = product("rthd,rshd->rhts", query, key, wide)
    logits = logits / query.shape[-1] ** 0.5
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    weights = dropout(jax.nn.softmax(logits).astype(query.dtype))
    return jnp.einsum("rhts,rshd->rthd", weights, value)


def can_fuse(tokens: int, heads: int, size: int, dtype: Any) -> bool:
    """Whether the kernel for this device works and agrees with the plain computation.

    What cuDNN supports depends on the GPU, on cuDNN and on JAX, and what compilers of
    TPUs take on their version, so the kernel is tried, under vmap (two lanes of two
    rows) and with gradients. Takes a few seconds, once. A device that is not here, for
    which programs are only compiled, is taken to support it.

    Args:
      tokens, heads, size: shape of the attention.
      dtype: dtype of the computation.
    """
    halves = {"gpu": (jnp.bfloat16, jnp.float16), "tpu": (jnp.bfloat16,)}
    kind = machine.kind()
    if dtype is None or jnp.dtype(dtype) not in halves.get(kind, ()):
        return False
    if kind == "tpu" and not (_takes(tokens) and size % _TPU_SIZES == 0):
        return False
    return not machine.is_here() or _works(tokens, heads, size, dtype)


def _takes(tokens: int) -> bool:
    """Whether the device's kernel takes rows of so many tokens."""
    longest = _TPU_LONGEST if machine.kind() == "tpu" else math.inf
    return tokens % 2 == 0 and tokens <= longest


@functools.cache
def _works(tokens: int, heads: int, size: int, dtype: Any) -> bool:
    """Try the device's kernel; see `can_fuse`."""
    *inputs, cotangent = jax.random.normal(
        numerics.key(0), (4, 2, 2, tokens, heads, size), dtype
    )
    document = jnp.arange(tokens) * 3 // tokens
    mask = document[:, None] == document

    def results(fused: bool) -> Any:
        """Output and gradients, computed by the kernel or not."""

        def output_and_gradients(
            query: jax.Array, key: jax.Array, value: jax.Array, cotangent: jax.Array
        ):
            def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
                return attention(query, key, value, mask, fused)

            output, pullback = jax.vjp(attend, query, key, value)
            return output, pullback(cotangent)

        outputs = jax.jit(jax.vmap(output_and_gradients))(*inputs, cotangent)
        return [x.astype(jnp.float32) for x in jax.tree.leaves(outputs)]

    try:
        pairs = zip(results(True), results(False), strict=True)
        off = [abs(ours - plain).max() / abs(plain).max() for ours, plain in pairs]
        worst = float(jnp.stack(off).max())
        reason = f"its numbers are off by {worst:.0%}"
        fine = worst < _CLOSE  # False for NaN
    except Exception as error:  # JAX, XLA, cuDNN and Pallas raise various types
        fine, reason = False, cut(str(error), 200)
    if not fine:
        whose = "the TPU kernel's" if machine.kind() == "tpu" else "cuDNN's"
        warnings.warn(
            f"{whose} attention is replaced by a slower form: {reason}",
            stacklevel=2,
        )
    return fine


def _kernel(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
    if machine.kind() == "tpu":
        return _for_tpus().attend(query, key, value, mask)
    return _of_jax(query, key, value, mask, _FUSED)


def _for_tpus() -> Any:
    """The module with the kernel for TPUs; it imports Pallas, which is slow."""
    from lrjax.tasks.models import tpu_attention

    return tpu_attention


def _of_jax(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    implementation: Any,
) -> jax.Array:
    """`jax.nn.dot_product_attention` under standard promotion, which it relies on.

    Args:
      query, key, value: [rows, tokens, heads, size].
      mask: bool, broadcastable to [rows, 1, tokens, tokens]; None for all.
      implementation: as for `jax.nn.dot_product_attention`.
    """
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask, implementation=implementation
        )


def _kernel_and_kept(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> tuple[jax.Array, list[jax.Array]]:
    """Result of `_kernel`, and all arrays that its derivative needs.

    Args:
      query, key, value: [rows, tokens, heads, size].
      mask: bool [rows, 1, tokens, tokens].
    """
    if machine.kind() == "tpu":  # computes again what it needs
        return _kernel(query, key, value, mask), []
    output, pullback = _differentiated(query, key, value, mask)
    return output, jax.tree.leaves(pullback)


def _kernel_gradient(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    kept: list[jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, ...]:
    """Gradients of `_kernel` by query, key and value, of their shapes.

    Args:
      query, key, value: [rows, tokens, heads, size].
      mask: bool [rows, 1, tokens, tokens].
      kept: what `_kernel_and_kept` returned.
      cotangent: gradient by the result, [rows, tokens, heads, size].
    """
    if machine.kind() == "tpu":
        return _for_tpus().gradients(query, key, value, mask, cotangent)
    # JAX's derivative of cuDNN's kernel is found by differentiating it once more.
    # Without the arrays of this second forward pass nothing needs it, and XLA leaves it
    # out.
    _, pullback = _differentiated(query, key, value, mask)
    return jax.tree.unflatten(jax.tree.structure(pullback), kept)(cotangent)


def _differentiated(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> tuple[jax.Array, Callable[..., Any]]:
    """`jax.vjp` of `_kernel` by query, key and value."""

    def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return _kernel(query, key, value, mask)

    return jax.vjp(attend, query, key, value)


def _more_rows(function: Callable[..., Any]) -> Any:
    """Make `vmap` merge its axis into the rows; JAX's own rule fails with a mask.

    Args:
      function: of arrays [rows, ...] and scalars, and so its results.
    """
    batched_function = jax.custom_batching.custom_vmap(function)

    @batched_function.def_vmap
    def rule(size: int, batched: Any, *args: Any) -> tuple[Any, Any]:
        """The rule of `custom_vmap`: merge the mapped axis into the rows."""

        def merged(x: jax.Array, has_axis: bool) -> jax.Array:
            if not has_axis and not x.ndim:
                return x
            whole = x if has_axis else jnp.broadcast_to(x, (size, *x.shape))
            return whole.reshape(size * whole.shape[1], *whole.shape[2:])

        def parted(x: jax.Array) -> jax.Array:
            return x.reshape(size, len(x) // size, *x.shape[1:]) if x.ndim else x

        out = jax.tree.map(
            parted, batched_function(*jax.tree.map(merged, args, tuple(batched)))
        )
        return out, jax.tree.map(lambda x: x.ndim > 0, out)

    return batched_function


_forward = _more_rows(_kernel)
_forward_and_kept = _more_rows(_kernel_and_kept)
_backward = _more_rows(_kernel_gradient)


@jax.custom_vjp
def _fused(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
    return _forward(query, key, value, mask)


def _fused_forward(*args: jax.Array) -> tuple[jax.Array, tuple[Any, ...]]:
    output, kept = _forward_and_kept(*args)
    return output, (*args, kept)


def _fused_backward(args: tuple[Any, ...], cotangent: jax.Array) -> tuple[Any, ...]:
    return (*_backward(*args, cotangent), None)


_fused.defvjp(_fused_forward, _fused_backward)
