"""What JAX must be told before it does anything."""

from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path

import jax

from lrjax import tasks
from lrjax.config import Settings
from lrjax.core import UsageError

# mallopt's numbers (glibc's malloc.h), and what to set them to.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_MALLOC = {_ARENA_MAX: 1, _MMAP_THRESHOLD: 2**31 - 1, _TRIM_THRESHOLD: 2**31 - 1}
_DEVICE_VARIABLES = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES")


def prepare(settings: Settings) -> None:
    """Starts JAX for some settings; compiled programs are kept between processes.

    Raises:
      UsageError: if there is no device.
    """
    if settings.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    if all(map(tasks.is_network, settings.tasks)):
        keep_freed_memory()
    _start()
    _use_compilation_cache()


def keep_freed_memory() -> None:
    """Has the C library keep large freed blocks; to be called before JAX starts.

    On CPUs each call of a program takes its temporary memory anew. A step of a network
    is a call and takes hundreds of megabytes, which the kernel then fills with zeros
    page by page: a fifth of RoBERTa's time, a tenth of a convolutional network's. One
    arena for all threads, since others cannot hold such blocks; linear models' many
    short calls would wait for its lock, a fifth of their time. Settings of malloc in
    the environment have precedence. Does nothing without glibc.
    """
    asked = [name for name in os.environ if name.startswith("MALLOC_")]
    if asked or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt:
        for parameter, value in _MALLOC.items():
            mallopt(ctypes.c_int(parameter), ctypes.c_int(value))


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
