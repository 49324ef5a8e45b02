"""What of JAX decides numbers beside a run, fixed here so that a `run_id` has it all.

People set JAX's settings in their environment for other programs (TPU users another
generator of random numbers, for one). None of them is part of a run's identity, so
none may change a number: lrjax has its own values. What cannot be set is refused.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax

from lrjax.core import UsageError

T = TypeVar("T")

_GENERATOR = "threefry2x32"
# Names that a version of JAX does not have are left out.
SETTINGS: dict[str, Any] = {
    # Random numbers.
    "jax_default_prng_impl": _GENERATOR,
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
    "jax_legacy_prng_key": "allow",
    "jax_debug_key_reuse": False,
    # Types and shapes that are mixed.
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    # How things are computed.
    "jax_default_matmul_precision": None,
    "jax_allow_f16_reductions": True,
    "jax_softmax_custom_jvp": False,
    "eager_constant_folding": False,
    # What is compiled, and how hard.
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
    # Runs may diverge, which is no error.
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
    # Data goes to the device and measurements come back.
    "jax_transfer_guard": None,
    "jax_transfer_guard_host_to_device": None,
    "jax_transfer_guard_device_to_device": None,
    "jax_transfer_guard_device_to_host": None,
}
# XLA's flags that trade exactness for speed; all at once they would hide divergence.
_INEXACT = re.compile(r"--(xla_\w*enable_fast_(?:math|min_max))(?:=(\S+))?")
_LONGEST = 2**20  # bytes of a file of flags
_TF32 = "NVIDIA_TF32_OVERRIDE"


def key(seed: Any) -> jax.Array:
    """A key of random numbers that follows from the seed alone.

    Args:
      seed: from 0 to 2**32 - 1; may be traced.
    """
    return jax.random.key(seed, impl=_GENERATOR)


def wanted(precision: str) -> dict[str, Any]:
    """Settings that this JAX has, and their values for a precision."""
    values = SETTINGS | {"jax_enable_x64": precision == "float64"}
    return {name: value for name, value in values.items() if name in jax.config.values}


def fix(precision: str) -> None:
    """Sets what changes numbers, for a process that is lrjax's own.

    What the environment had set otherwise is named in a warning.

    Raises:
      UsageError: if something that cannot be set from here would change them.
    """
    check_environment()
    ignored = []
    for name, value in wanted(precision).items():
        if not _is(name, value):
            if name.upper() in os.environ and name != "jax_enable_x64":
                ignored.append(f"{name.upper()}={os.environ[name.upper()]}")
            jax.config.update(name, value)
    if ignored:
        warnings.warn(
            f"{', '.join(ignored)}: not taken; it would change numbers, and no table "
            "would show it (docs/reliability.md)",
            stacklevel=2,
        )


@contextlib.contextmanager
def fixed(precision: str) -> Iterator[None]:
    """As `fix`, for a part of somebody else's process; afterwards all is as it was.

    Settings count for all threads, for those that compile are lrjax's own.

    Raises:
      UsageError: if something that cannot be set from here would change numbers.
    """
    check_environment()
    before = {
        name: jax.config.values[name]
        for name, value in wanted(precision).items()
        if not _is(name, value)
    }
    try:
        for name in before:
            jax.config.update(name, wanted(precision)[name])
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def settled(function: Callable[..., T]) -> Callable[..., T]:
    """Has a function run `fixed`; its first argument are the settings of a config."""

    @functools.wraps(function)
    def inside(settings: Any, *args: Any, **kwargs: Any) -> T:
        with fixed(settings.precision):
            return function(settings, *args, **kwargs)

    return inside


def _is(name: str, value: Any) -> bool:
    """Whether a setting has a value; some are enumerations."""
    found = jax.config.values[name]
    return value in (
        found,
        getattr(found, "value", found),
        getattr(found, "name", found),
    )


def check_environment() -> None:
    """Refuses variables that change numbers and are read by XLA or CUDA themselves.

    Raises:
      UsageError: if there is one.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    for name, value in _INEXACT.findall(f"{flags} {_in_file(flags)}"):
        if value.lower() not in ("false", "0"):
            raise UsageError(
                f"XLA_FLAGS has --{name}, which changes numbers: leave it out"
            )
    if _TF32 in os.environ:
        raise UsageError(
            f"{_TF32}={os.environ[_TF32]} changes numbers on GPUs: unset it"
        )


def _in_file(flags: str) -> str:
    """The flags in the file that XLA_FLAGS names where it holds no flags itself."""
    name = flags.strip()
    if not name or name.startswith("-"):
        return ""
    try:
        with open(name, "rb", opener=_without_waiting) as file:
            return file.read(_LONGEST).decode(errors="replace")
    except (OSError, ValueError):
        return ""  # XLA itself says that it cannot be read


def _without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK)  # it may be a pipe
