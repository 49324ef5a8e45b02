"""How XLA is asked to compile for CPUs, where its own way is not the best."""

from __future__ import annotations

from typing import Any

import jax

from lrjax.core import PyTree

_MANY_ARRAYS = 256

# XLA takes about 10 ms for each of a program's kernels, however small, and a step of a
# network of many layers has thousands. With the emitters before the latest, and with
# LLVM optimising less, it takes about half of that, and the step is as fast. Without
# any optimising it takes a fifth, and the step nearly twice as long.
_STEP = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}
_ONCE = _STEP | {"xla_backend_optimization_level": 0}


def compile_step(lowered: Any, params: PyTree) -> Any:
    """Compiles a program that is called again and again.

    Args:
      lowered: the program.
      params: of the model that it trains or evaluates.
    """
    return _compile(lowered, _STEP if _many_arrays(params) else {})


def compile_once(lowered: Any, params: PyTree) -> Any:
    """As `compile_step`, for a program that is called once in many steps."""
    return _compile(lowered, _ONCE if _many_arrays(params) else {})


def compile_loop(lowered: Any, small: bool) -> Any:
    """Compiles a program of a loop.

    Without the kernels of YNNPACK, which JAX uses for sums and matrix products there:
    they cut fusions in two. Where operations are `small`, without threads inside of
    them either: handing over costs more than they take, and other blocks use the cores.
    """
    options: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if small:
        options["xla_cpu_multi_thread_eigen"] = False
    return _compile(lowered, options if jax.default_backend() == "cpu" else {})


def _many_arrays(params: PyTree) -> bool:
    many = len(jax.tree.leaves(params)) > _MANY_ARRAYS
    return many and jax.default_backend() == "cpu"


def _compile(lowered: Any, options: dict[str, Any]) -> Any:
    if options:
        try:
            return lowered.compile(options)
        except jax.errors.JaxRuntimeError as error:  # another JAX may lack an option
            if "No such compile option" not in str(error):
                raise
    return lowered.compile()
