"""XLA options for CPUs, where the defaults are slower to compile or to run."""

from __future__ import annotations

import functools
import re
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from lrjax import machine
from lrjax.core import PyTree, cut
from lrjax.engine import strategy

_MANY_ARRAYS = 256
# What XLA says of an option, or of a value of one, that its version lacks.
_UNKNOWN = re.compile(r"(?:No such compile option: '|While setting option )(\w+)")

# XLA compiles for about 10 ms per kernel, however small, and a step of a network with
# many layers has thousands. With the previous emitters and a lower LLVM optimisation
# level it takes about half of that, and the step is as fast. Without optimisation it
# takes a fifth, and the step nearly twice as long.
_STEP = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
_ONCE = _STEP | {"xla_backend_optimization_level": 0}


def compile_step(lowered: Any, params: PyTree) -> Any:
    """Compile a program that is called many times.

    Args:
      lowered: the program.
      params: parameters of the model that it trains or evaluates.
    """
    return _compile(lowered, _STEP if _many_arrays(params) else {})


def compile_once(lowered: Any, params: PyTree) -> Any:
    """Compile a program that is called rarely: in the shortest time."""
    return _compile(lowered, _ONCE if _many_arrays(params) else {})


# How well a program is optimised (docs/design.md has the measurements). `less`
# compiles in 0.5 to 0.65 of the time, and its steps take 1.05 to 2 times as long;
# `least` in a fifth of the time, with steps of 4 to 10 times.
FULL, LESS, LEAST = "full", "less", "least"
_EFFORTS: dict[str, dict[str, Any]] = {FULL: {}, LESS: _STEP, LEAST: _ONCE}


# A loop in a command buffer runs without the host, which otherwise looks up in each
# round whether it has ended: longer than a small model's step takes. Convolutions
# cannot be part of a buffer. (CUDA 12.3; XLA leaves loops out on older drivers.)
_LAUNCHED_AT_ONCE = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,"
    "DYNAMIC_SLICE_FUSION,WHILE"
}


@functools.cache
def _buffers_work() -> bool:
    """Whether loops in command buffers give the same numbers here; tried once."""

    def rounds(count: jax.Array, x: jax.Array) -> jax.Array:
        def inner(i: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.cos(x @ x) * i

        return jax.lax.fori_loop(
            0, count, lambda i, x: jax.lax.fori_loop(0, i, inner, x) + x, x
        )

    arguments = jnp.int32(3), jnp.ones((8, 8), jnp.float32)
    lowered = jax.jit(rounds).lower(*arguments)
    try:
        found = _compile(lowered, _LAUNCHED_AT_ONCE)(*arguments)
        works, reason = (
            bool((found == lowered.compile()(*arguments)).all()),
            "its numbers differ",
        )
    except jax.errors.JaxRuntimeError as error:
        works, reason = False, cut(str(error), 200)
    if not works:
        warnings.warn(
            f"small models train with a launch per step, as loops in CUDA's command "
            f"buffers do not work here: {reason}",
            stacklevel=2,
        )
    return works


def compile_loop(lowered: Any, kind: str, effort: str = FULL) -> Any:
    """Compile a program that consists of a loop.

    On CPUs disables the kernels of YNNPACK, which JAX uses for sums and matrix products
    there, because they split fusions; of linear models also threads inside operations:
    handing work over costs more than the work, and other blocks use the cores. On GPUs
    the loops of small models are launched as a whole.

    Args:
      lowered: the program.
      kind: the kind of model that it trains, one of `strategy.KINDS`.
      effort: how well to optimise it, one of `FULL`, `LESS` and `LEAST`.
    """
    device = machine.kind()
    if device != "cpu":
        small = device == "gpu" and kind in (strategy.LINEAR, strategy.NETWORK)
        # A GPU that is not here is taken to run loops in buffers.
        buffered = small and (not machine.is_here() or _buffers_work())
        return _compile(lowered, _LAUNCHED_AT_ONCE if buffered else {})
    options: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": ""}
    options |= _EFFORTS[effort]
    if kind == strategy.LINEAR:
        options["xla_cpu_multi_thread_eigen"] = False
    return _compile(lowered, options)


def _many_arrays(params: PyTree) -> bool:
    """Whether this is a CPU and a model of many layers, whose compilation is slow."""
    many = len(jax.tree.leaves(params)) > _MANY_ARRAYS
    return many and machine.kind() == "cpu"


def _compile(lowered: Any, options: dict[str, Any]) -> Any:
    """Compile with those of the options that this JAX knows."""
    while options:
        try:
            return lowered.compile(options)
        except jax.errors.JaxRuntimeError as error:  # other versions lack some options
            unknown = _UNKNOWN.search(str(error))
            if not unknown or unknown[1] not in options:
                raise
            options = {k: v for k, v in options.items() if k != unknown[1]}
    return lowered.compile()
