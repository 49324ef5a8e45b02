"""Train and compare ways to control the learning rate, in JAX."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Imported when first used: `import lrjax.optim` needs JAX and Optax alone.
_LAZY = {
    "Metric": "lrjax.metrics",
    "Task": "lrjax.core",
    "check_task": "lrjax.tasks.checks",
    "compare": "lrjax.api",
    "find_rate": "lrjax.api",
    "rate_transfer": "lrjax.api",
    "select": "lrjax.hpo.select",
    "tune": "lrjax.api",
    **dict.fromkeys(
        (
            *("register_analysis", "register_launcher", "register_method"),
            *("register_metric", "register_task", "register_tuner"),
        ),
        "lrjax.register",
    ),
}


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module("lrjax.metrics")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'lrjax' has no attribute '{name}'")
