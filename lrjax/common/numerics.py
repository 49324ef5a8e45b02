"""Fix the settings of JAX that change results, so that a `run_id` determines them.

Users set JAX's settings in their environment for other programs; on TPUs, for example,
another generator of random numbers. No setting is part of a run's identity, so none may
change a result: lrjax sets its own values, and refuses those it cannot override.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax

from lrjax.common import files
from lrjax.core import UsageError, shown

T = TypeVar("T")

_GENERATOR = "threefry2x32"
# Settings that the installed JAX does not have are skipped.
SETTINGS: dict[str, Any] = {
    # Random numbers.
    "jax_default_prng_impl": _GENERATOR,
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
    "jax_legacy_prng_key": "allow",
    "jax_debug_key_reuse": False,
    # Promotion of types and shapes.
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    # Arithmetic.
    # Else TPUs would multiply float32 in bfloat16, and NVIDIA's GPUs in TF32.
    "jax_default_matmul_precision": "highest",
    "jax_allow_f16_reductions": True,
    "jax_softmax_custom_jvp": False,
    "eager_constant_folding": False,
    # Compilation and its effort.
    "jax_disable_jit": False,
    "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
    "jax_memory_fitting_effort": 0.0,
    "jax_memory_fitting_level": "O2",
    "jax_compiler_enable_remat_pass": True,
    "jax_scan3": False,
    "jax_enable_pgle": False,
    "jax_no_tracing": False,
    "jax_no_execution": False,
    "jax_compilation_cache_check_contents": False,
    # Divergence of a run is not an error.
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
    # Batches go to the device and measurements come back.
    "jax_transfer_guard": None,
    "jax_transfer_guard_host_to_device": None,
    "jax_transfer_guard_device_to_device": None,
    "jax_transfer_guard_device_to_host": None,
}
# Settings with which lrjax's own code stops; a `with` around a call overrides ours.
_STOPPING = (
    "jax_disable_jit",
    "jax_debug_nans",
    "jax_debug_infs",
    "jax_numpy_rank_promotion",
    "jax_transfer_guard",
    "jax_transfer_guard_host_to_device",
    "jax_transfer_guard_device_to_device",
    "jax_transfer_guard_device_to_host",
)
# XLA's flags that trade exactness for speed; together they would hide divergence.
_INEXACT = re.compile(r"--(xla_\w*enable_fast_(?:math|min_max))(?:=(\S+))?")
_LONGEST = 2**20  # bytes of a file of flags
_TF32 = "NVIDIA_TF32_OVERRIDE"
_held: list[str] = []  # precisions of the `fixed` that are under way


def key(seed: Any) -> jax.Array:
    """Make a random key that depends on the seed only, not on JAX's settings.

    Args:
      seed: from 0 to 2**32 - 1; may be traced.
    """
    return jax.random.key(seed, impl=_GENERATOR)


def wanted(precision: str) -> dict[str, Any]:
    """Return the values of the settings that the installed JAX has."""
    values = SETTINGS | {"jax_enable_x64": precision == "float64"}
    return {name: value for name, value in values.items() if name in jax.config.values}


def fix(precision: str) -> None:
    """Set everything that changes results, in a process of lrjax's own.

    Warns of other values that the environment had set.

    Raises:
      UsageError: if an environment variable that cannot be overridden changes results.
    """
    check_environment()
    ignored = []
    ours = wanted(precision)
    for name, value in ours.items():
        if not _is(jax.config.values, name, ours):
            if name.upper() in os.environ and name != "jax_enable_x64":
                ignored.append(f"{name.upper()}={os.environ[name.upper()]}")
            jax.config.update(name, value)
    if ignored:
        warnings.warn(
            f"{', '.join(ignored)}: ignored, since it changes results and no table "
            "would show it (docs/reliability.md)",
            stacklevel=2,
        )


@contextlib.contextmanager
def fixed(precision: str) -> Iterator[None]:
    """Set what changes results, as `fix`, inside of a `with`; restore it afterwards.

    For use in a user's process. Applies to all threads, since lrjax compiles in threads
    of its own.

    Raises:
      UsageError: if an environment variable that cannot be overridden changes results,
        or a `with` of JAX's around the call would stop training.
    """
    if _held[-1:] == [precision]:  # within a `with` of this kind
        yield
        return
    check_environment()
    ours, outside = wanted(precision), _of_all_threads()
    before = {name: outside[name] for name in ours if not _is(outside, name, ours)}
    try:
        for name in before:
            jax.config.update(name, ours[name])
        here = jax.config.values
        if stopping := [x for x in _STOPPING if x in ours and not _is(here, x, ours)]:
            within = f"with jax.{stopping[0].removeprefix('jax_')}(...)"
            raise UsageError(
                f"lrjax sets {', '.join(stopping)} itself, since training would stop: "
                f"call it outside of `{within}`"
            )
        _held.append(precision)
        try:
            yield
        finally:
            _held.pop()
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _of_all_threads() -> Mapping[str, Any]:
    """The values of all settings, outside of any `with` of the calling thread."""
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        return beside.submit(lambda: jax.config.values).result()


def settled(function: Callable[..., T]) -> Callable[..., T]:
    """Run a function under `fixed`, with the precision of its argument `settings`."""

    @functools.wraps(function)
    def inside(settings: Any, *args: Any, **kwargs: Any) -> T:
        with fixed(settings.precision):
            return function(settings, *args, **kwargs)

    return inside


def _is(values: Mapping[str, Any], name: str, ours: Mapping[str, Any]) -> bool:
    """Whether a setting has our value; compares enumerations by value and name."""
    current = values[name]
    return ours[name] in (
        current,
        getattr(current, "value", current),
        getattr(current, "name", current),
    )


def check_environment() -> None:
    """Refuse environment variables that XLA or CUDA read and that change results.

    Raises:
      UsageError: names the variable.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    for name, value in _INEXACT.findall(f"{flags} {_in_file(flags)}"):
        if value.lower() not in ("false", "0"):
            raise UsageError(
                f"XLA_FLAGS has --{name}, which changes results: remove it"
            )
    if _TF32 in os.environ:
        raise UsageError(
            f"{_TF32}={os.environ[_TF32]} changes results on GPUs: unset it"
        )


def _in_file(flags: str) -> str:
    """Read the flags of the file that XLA_FLAGS names, if it names one.

    Raises:
      UsageError: if it is too large, or no regular file: XLA would wait for a pipe.
    """
    name = flags.strip()
    if not name or name.startswith("-"):
        return ""
    try:
        return files.read_given(name, _LONGEST).decode(errors="replace")
    except FileNotFoundError:
        return ""  # XLA goes on without it
    except OSError as error:
        raise UsageError(
            f"XLA_FLAGS={shown(name)} names a file: {files.words(error)}"
        ) from error
