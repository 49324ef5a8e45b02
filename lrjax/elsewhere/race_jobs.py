"""The jobs of a race (`lrjax.Race`), from its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lrjax.elsewhere.columns import Choices
from lrjax.elsewhere.records import Record
from lrjax.race import Race


def read(place: str, choices: Choices) -> tuple[list[Record], Choices]:
    """Read the jobs that are over; the task is named like the folder.

    Returns:
      a record for each job; the choices, with the direction of the race's metric.

    Raises:
      UsageError: if the folder has no race.
    """
    race = Race.open(place)
    records = []
    for done in race.done():
        points: dict[str, dict[int, float]] = {}
        for step, values in [*done.curve.items(), (race.horizon, done.values)]:
            for name, value in values.items():
                points.setdefault(name, {})[step] = value
        if done.lost:
            points.setdefault(race.metric, {})[race.horizon] = np.nan
        records.append(
            Record(
                f"job {done.job}",
                dict(done.contender.hyperparameters),
                {
                    name: pd.Series(dict(sorted(p.items())))
                    for name, p in points.items()
                },
                {
                    "task": Path(place).resolve().name,
                    "method": done.contender.method,
                    "seed": done.seed,
                    "seconds": done.seconds,
                },
                "diverged" if done.lost else "done",
            )
        )
    return records, choices.directed(race.metric, race.higher_is_better)
