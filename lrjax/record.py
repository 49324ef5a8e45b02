"""config.json, the record of a working directory: the metrics that it describes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrjax import tables
from lrjax.core import Metric, UsageError, shown

NAME = "config.json"


def read(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """What config.json holds; nothing where there is none, or it cannot be read."""
    try:
        found = json.loads(tables.content(Path(workdir) / NAME))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def describe(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    """What a reader of tables must know of metrics, the first of which ranks."""
    names = ("name", "higher_is_better", "unit", "digits", "least", "greatest")
    return [
        {name: _bounded(getattr(metric, name)) for name in names} for metric in metrics
    ]


def _bounded(value: Any) -> Any:
    """None for a bound that is not there: JSON has no infinity."""
    return None if isinstance(value, float) and math.isinf(value) else value


def metric_from(written: Any) -> Metric:
    """A metric as `describe` wrote it; it can be shown, and not computed.

    Raises:
      UsageError: if it was not written by `describe`.
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
        raise UsageError(f"no metric: {shown(written)}") from error


def load_metrics(workdir: str | os.PathLike[str]) -> dict[str, tuple[Metric, ...]]:
    """Task -> its metrics, the first of which ranks, as config.json has them.

    Nothing where it does not say.

    Raises:
      UsageError: if what it says is damaged.
    """
    path = Path(workdir) / NAME
    try:
        return {
            task: tuple(map(metric_from, metrics))
            for task, metrics in described(workdir).items()
            if metrics
        }
    except (TypeError, UsageError) as error:
        raise UsageError(f"{path}: its metrics are damaged: {error}") from error


def described(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Task -> its metrics as they stand in config.json, sound or not."""
    found = read(workdir).get("metrics")
    return found if isinstance(found, dict) else {}
