"""Read config.json, the record of a working directory, and the metrics it describes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrjax.common import files
from lrjax.core import Metric, UsageError, encodable, shown

NAME = "config.json"
LARGEST = 2**28  # bytes


def read(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Read config.json; {} if it is missing or cannot be read."""
    try:
        record = json.loads(files.read_own(Path(workdir) / NAME, LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def describe(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    """Describe a task's metrics for config.json; the first ranks the task's runs."""
    names = ("name", "higher_is_better", "unit", "digits", "least", "greatest")
    return [
        {name: _bounded(getattr(metric, name)) for name in names} for metric in metrics
    ]


def _bounded(value: Any) -> Any:
    """Convert infinity to None, since JSON has no infinity."""
    return None if isinstance(value, float) and math.isinf(value) else value


def metric_from(written: Any) -> Metric:
    """Make a metric that can show values, but not compute them, from its description.

    Raises:
      UsageError: if `describe` did not write it.
    """

    def value(sums: Any) -> Any:
        raise UsageError(f"metric '{written['name']}' was read from a file")

    try:
        fields = dict(written)
        for name, bound in (("least", -math.inf), ("greatest", math.inf)):
            if fields[name] is None:
                fields[name] = bound
        return Metric(value=value, **fields)
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(f"not a metric: {shown(written)}") from error


def load_metrics(workdir: str | os.PathLike[str]) -> dict[str, tuple[Metric, ...]]:
    """Read task -> its metrics from config.json, the ranking one first.

    Tasks without a description are left out.

    Raises:
      UsageError: if a description is damaged.
    """
    path = Path(workdir) / NAME
    try:
        return {
            encodable(task): tuple(map(metric_from, metrics))
            for task, metrics in described(workdir).items()
            if metrics
        }
    except (TypeError, UsageError) as error:
        raise UsageError(f"{path}: its metrics are damaged: {error}") from error


def described(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Read task -> description of its metrics from config.json, unchecked."""
    metrics = read(workdir).get("metrics")
    return metrics if isinstance(metrics, dict) else {}
