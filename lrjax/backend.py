"""What JAX must be told before it does anything."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import jax

from lrjax.config import Settings
from lrjax.core import UsageError

_DEVICE_VARIABLES = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES")


def prepare(settings: Settings) -> None:
    """Starts JAX for some settings; compiled programs are kept between processes.

    Raises:
      UsageError: if there is no device.
    """
    if settings.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    _start()
    _use_compilation_cache()


def _use_compilation_cache() -> None:
    """Keeps compiled programs between processes."""
    folder = os.environ.get("LRJAX_CACHE") or "~/.cache/lrjax"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        path = Path(folder).expanduser() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _start() -> None:
    """Has JAX look for its devices, without a word on those that are not there.

    Raises:
      UsageError: if there is none, as where JAX_PLATFORMS asks for an absent one.
    """
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    try:
        jax.local_devices()
    except Exception as error:  # an AssertionError without a word among others
        asked = [f"{k}={os.environ[k]}" for k in _DEVICE_VARIABLES if k in os.environ]
        reason = str(error).splitlines()[0] if str(error) else "it does not say why"
        raise UsageError(
            f"JAX finds no device to work on (with {', '.join(asked) or 'defaults'}): "
            f"{reason}"
        ) from error
