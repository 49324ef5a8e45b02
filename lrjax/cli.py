"""What the modes of main.py do, and what they show."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lrjax import config as config_lib
from lrjax import experiment, report, results
from lrjax.methods import METHODS, state_size


def _use_compilation_cache() -> None:
    """Keeps compiled programs between processes."""
    folder = os.environ.get("LRJAX_CACHE", "~/.cache/lrjax")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        path = Path(folder).expanduser() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _quiet() -> None:
    """Hides what JAX says of backends that are not there."""
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)


def train(
    config: ConfigDict, workdir: str, data_dir: str | None, overrides: Mapping[str, Any]
) -> None:
    """Trains all runs of a config, then ranks the methods."""
    settings = config_lib.check(config)
    if settings.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    _quiet()
    _use_compilation_cache()
    experiment.run(settings, workdir, data_dir, overrides)
    runs, curves = results.load(workdir)
    picture = Path(workdir) / "curves.png"
    report.learning_curves(runs, curves, picture)
    print(report.ranking(runs))
    print(f"\nlearning curves and rates: {picture}")


def methods() -> None:
    """Prints every method with its hyperparameters."""
    probe = jax.ShapeDtypeStruct((1000,), "float32")
    for name, method in METHODS.items():
        copies = state_size(method, probe) / probe.size
        print(f"{name}  ({method.family}; state {copies:.0f} x parameters)")
        print(f"  {method.source}")
        if method.advice:
            print(f"  {method.advice}")
        for hparam, default in method.defaults.items():
            found = method.space.ranges.get(hparam)
            span = f"  tuned in [{found.low:g}, {found.high:g}]" if found else ""
            scale = " log" if found and found.log else ""
            print(f"    {hparam} = {default}{span}{scale}")
        print()
