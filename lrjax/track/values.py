"""Numbers of rows that trackers keep, by name."""

from __future__ import annotations

import math

from lrjax.track import Row

_ENDS = ("seconds", "examples", "diverged_at")


def curve(row: Row) -> dict[str, float]:
    """The measurements in a row of a curve; a diverged run has none."""
    found = {name: value for name, value in row.items() if name not in ("step", "seed")}
    return {k: float(v) for k, v in found.items() if _is_number(v)}


def result(row: Row) -> dict[str, float]:
    """The measurements in a run's last row that its curve does not have."""
    return {
        name: float(value)
        for name, value in row.items()
        if is_result(name) and _is_number(value)
    }


def is_result(name: str) -> bool:
    """Whether a measurement is in a run's last row alone."""
    return name.startswith("test_") or name in _ENDS


def last_step(row: Row) -> int:
    """The update at which a run ended, by its last row."""
    return row["diverged_at"] or row["steps"]


def _is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
