"""Settings of the process that must precede any use of JAX's devices."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterable

import jax

from lrjax import tasks
from lrjax.common import files, numerics
from lrjax.config import Settings
from lrjax.core import UsageError
from lrjax.launch import traces
from lrjax.tasks import data

# Parameters of mallopt (glibc's malloc.h), and its largest value.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX, _MOST = -1, -3, -8, 2**31 - 1
_DEVICE_VARIABLES = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES")


def prepare(settings: Settings) -> None:
    """Start JAX for some settings, in a process of lrjax's own.

    Raises:
      UsageError: if there is no device, or the environment would change results.
    """
    numerics.fix(settings.precision)
    begin(settings)


def begin(settings: Settings) -> None:
    """Prepare a user's process: leave settings that change results alone.

    Compiled programs are cached on disk.

    Raises:
      UsageError: if there is no device.
    """
    keep_freed_memory(settings.tasks)
    _start()
    _use_compilation_cache()


def keep_freed_memory(names: Iterable[str]) -> None:
    """Make glibc keep large freed blocks if tasks call a program per step on CPUs.

    On CPUs each call allocates its temporary memory anew, 150 MB for a step of the
    smallest RoBERTa, and the kernel zeroes it page by page: a fifth of that step's
    time, a tenth of a convolutional network's. All threads must share one arena, since
    others cannot hold such blocks. The many short calls of other models would wait for
    its lock, a fifth of their time, so this applies only if all tasks train networks on
    images or text. Malloc settings in the environment take precedence. Call it before
    JAX starts its threads.

    Args:
      names: names of tasks.
    """
    if not all(map(tasks.trains_network, names)):
        return
    if sys.platform != "linux" or not _only_cpus():
        return
    is_set = any(name.startswith("MALLOC_") for name in os.environ)
    if is_set or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # only glibc has it
    # Older versions refuse the first, without which the others would do harm.
    if mallopt and mallopt(_MMAP_THRESHOLD, _MOST):
        mallopt(_TRIM_THRESHOLD, _MOST)
        mallopt(_ARENA_MAX, 1)


def _only_cpus() -> bool:
    """Whether JAX will find only CPUs, as far as can be told before it starts."""
    if "JAX_PLATFORMS" in os.environ:
        return os.environ["JAX_PLATFORMS"] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not importlib.util.find_spec("libtpu")


def _use_compilation_cache() -> None:
    """Make JAX keep compiled programs on disk, in a folder that is the user's alone.

    Their code is executed and nothing vouches for it, so that whoever may write to the
    folder can run programs as this user. JAX_COMPILATION_CACHE_DIR is the user's own
    choice of whom to trust.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = data.cache_dir() / "xla"
        try:
            path = files.make_private_folder(folder)
        except (OSError, RuntimeError) as error:  # RuntimeError: links form a circle
            warnings.warn(
                f"compiled programs are not kept in {folder}: {files.words(error)}; "
                "each start compiles anew (docs/reliability.md)",
                stacklevel=2,
            )
            return
        jax.config.update("jax_compilation_cache_dir", str(path))
        traces.keep_in(path)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _start() -> None:
    """Make JAX find its devices, without warnings about absent ones.

    Raises:
      UsageError: if there is none, such as when JAX_PLATFORMS names an absent one.
    """
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    try:
        jax.local_devices()
    except Exception as error:  # JAX raises many types, some without a message
        values = [f"{k}={os.environ[k]}" for k in _DEVICE_VARIABLES if k in os.environ]
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise UsageError(
            f"JAX finds no device to work on (with {', '.join(values) or 'defaults'}): "
            f"{reason}"
        ) from error
