"""Train and compare ways to control the learning rate, in JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lrjax import extras
from lrjax.messages import nearest

__version__ = "0.1.0"

# Imported when first used: `import lrjax.optim` needs JAX and Optax alone.
_LAZY = {
    "Metric": "lrjax.metrics",
    "Race": "lrjax.race",
    "Task": "lrjax.core",
    "UsageError": "lrjax.messages",
    "advise": "lrjax.hpo.advise",
    "check_task": "lrjax.tasks.checks",
    "compare": "lrjax.api",
    "find_rate": "lrjax.api",
    "rate_transfer": "lrjax.api",
    "report": "lrjax.api",
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
extras.explain()
_MODULES = ("control", "core", "methods", "metrics", "optim", "results", "tasks")

if TYPE_CHECKING:  # the same names, for type checkers
    from lrjax import control as control
    from lrjax import core as core
    from lrjax import methods as methods
    from lrjax import metrics as metrics
    from lrjax import optim as optim
    from lrjax import results as results
    from lrjax import tasks as tasks
    from lrjax.api import compare as compare
    from lrjax.api import find_rate as find_rate
    from lrjax.api import rate_transfer as rate_transfer
    from lrjax.api import report as report
    from lrjax.api import tune as tune
    from lrjax.core import Task as Task
    from lrjax.hpo.advise import advise as advise
    from lrjax.hpo.select import select as select
    from lrjax.messages import UsageError as UsageError
    from lrjax.metrics import Metric as Metric
    from lrjax.race import Race as Race
    from lrjax.register import register_analysis as register_analysis
    from lrjax.register import register_launcher as register_launcher
    from lrjax.register import register_method as register_method
    from lrjax.register import register_metric as register_metric
    from lrjax.register import register_task as register_task
    from lrjax.register import register_tuner as register_tuner
    from lrjax.tasks.checks import check_task as check_task
else:

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"lrjax.{name}")
        if name in _LAZY:
            return getattr(importlib.import_module(_LAZY[name]), name)
        near = None if name.startswith("_") else nearest(name, __dir__())
        hint = f"; did you mean '{near}'?" if near else ""
        raise AttributeError(f"module 'lrjax' has no attribute '{name}'{hint}")

    def __dir__() -> list[str]:
        return sorted([*_LAZY, *_MODULES])
