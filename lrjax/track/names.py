"""Names of runs for people: of a task, the entry and the seed."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from lrjax.analysis import scores
from lrjax.launch.live import Row


class Names:
    """Names the entries of runs as reports do, as far as it is told of them."""

    def __init__(self):
        self._entries: dict[str, str] = {}  # by run_id

    def plan(self, heads: Iterable[Row]) -> None:
        """Learn of runs that will be compared with each other."""
        runs = pd.DataFrame(list(heads))
        if len(runs):
            labels = scores.label_entries(runs)
            self._entries |= dict(zip(runs["run_id"], labels, strict=True))

    def entry(self, run: Row) -> str:
        """The entry of a run: its method, and hyperparameters that vary.

        Which vary in a tuning or a selection is not known before, so that their runs
        have the beginning of their `run_id` in place of it.
        """
        planned = self._entries.get(run["run_id"])
        return planned or f"{run['method']} {run['run_id'][:8]}"
