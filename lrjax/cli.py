"""What the modes of main.py do, and what they show."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lrjax import config as config_lib
from lrjax import experiment


def _use_compilation_cache() -> None:
    """Keeps compiled programs between processes."""
    folder = os.environ.get("LRJAX_CACHE", "~/.cache/lrjax")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        path = Path(folder).expanduser() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def train(
    config: ConfigDict, workdir: str, data_dir: str | None, overrides: Mapping[str, Any]
) -> None:
    """Trains all runs of a config, then ranks the methods."""
    settings = config_lib.check(config)
    if settings.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    _use_compilation_cache()
    experiment.run(settings, workdir, data_dir, overrides)
