"""Sends rows to other tools as they are measured: a run there for each run here.

A tool that is slow does not slow training, and one that fails does not end it.
`TRACKERS` has names alone, so that --help need not wait for JAX.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lrjax import plugins
from lrjax.messages import UsageError, shown

Row = Mapping[str, Any]


class Tracker(Protocol):
    """A tool that keeps runs; called from one thread, with a run's rows in order.

    A run is its row of `lrjax.tables.live.STARTED`, with its `entry` as in reports.
    """

    def log(self, run: Row, rows: Sequence[Row]) -> Any:
        """Keep rows as in curves.jsonl; the first ones of a run begin it."""
        ...

    def end(self, run: Row, result: Row) -> Any:
        """Keep a row as in runs.jsonl, a run's last."""
        ...

    def close(self) -> Any:
        """Called when the command ends; runs without an end were stopped."""
        ...


Open = Callable[[Path], Tracker]  # given the working directory

# Name -> what opens it, or the module whose function `connect` does.
TRACKERS: dict[str, Open | str] = {
    "tensorboard": "lrjax.track.event_files",
    "wandb": "lrjax.track.wandb_runs",
    "mlflow": "lrjax.track.mlflow_runs",
}
SHIPPED = frozenset(TRACKERS)


def find(name: str) -> Open:
    """Import what opens a tracker, by its name or its import path 'module:name'.

    Raises:
      UsageError: if the name is unknown, or cannot be imported.
    """
    known = plugins.find("tracker", name, TRACKERS, _accept)
    if isinstance(known, str):
        return importlib.import_module(known).connect
    return known


def _accept(name: str, found: Any) -> Any:
    """Check that what a package offers is a function.

    Raises:
      UsageError: if it is not.
    """
    if not callable(found):
        raise UsageError(f"tracker '{name}' is {shown(found)}, not a function")
    return found
