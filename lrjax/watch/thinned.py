"""Learning curves of many runs, thinned: at most 64 points of each.

A run's steps are cut into stretches of equal width, and the last point of each stretch
is kept. The width is the smallest power of two with which 64 stretches reach the run's
last step, so what is kept depends on the points alone, not on when they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

POINTS = 64
_NONE = -1  # as a step: no point


class Curves:
    """Thinned curves.

    Attributes:
      columns: what is kept beside the step.
      rows: number of points that were added.
    """

    def __init__(self, columns: Sequence[str]):
        self.columns = tuple(columns)
        self.rows = 0
        self._places: dict[str, int] = {}
        self._width = np.zeros(0, np.int64)
        self._steps = np.zeros((0, POINTS), np.int64)
        self._values = np.zeros((0, POINTS, len(columns)), np.float64)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._places

    @property
    def run_ids(self) -> list[str]:
        """The runs that have points."""
        return list(self._places)

    def add(self, frame: pd.DataFrame) -> set[str]:
        """Add points.

        Args:
          frame: with run_id, step (from 0) and any of `columns`; others are ignored.

        Returns:
          the `run_id`s of the points.
        """
        names = frame["run_id"].tolist()
        for name in names:
            self._places.setdefault(name, len(self._places))
        self._grow(len(self._places))
        self.rows += len(names)
        run = np.fromiter((self._places[name] for name in names), np.int64, len(names))
        step = frame["step"].to_numpy(np.int64)
        self._widen(run, step)
        order = np.argsort(step, kind="stable")  # of points of a stretch the last stays
        run, step = run[order], step[order]
        stretch = _stretch(step, self._width[run])
        newer = step >= self._steps[run, stretch]
        run, step, stretch = run[newer], step[newer], stretch[newer]
        self._steps[run, stretch] = step
        for place, column in enumerate(self.columns):
            if column in frame:
                values = frame[column].to_numpy(np.float64)[order][newer]
                self._values[run, stretch, place] = values
            else:
                self._values[run, stretch, place] = np.nan
        return set(names)

    def of(self, run_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Points of some runs, which were all added, at common steps.

        Returns:
          steps [runs, 64], -1 where there is no point, and values [runs, 64, columns],
          NaN there. Stretches are those of the longest run.
        """
        places = np.array([self._places[name] for name in run_ids], np.int64)
        steps, values = self._steps[places], self._values[places]
        width = self._width[places].copy()
        while len(width) and (narrow := width < width.max()).any():
            steps[narrow], values[narrow] = _halved(steps[narrow], values[narrow])
            width[narrow] *= 2
        return steps, values

    def _grow(self, count: int) -> None:
        """Make room for that many runs, and for half as many again."""
        have = len(self._width)
        if count <= have:
            return
        more = count + count // 2 - have
        self._width = np.concatenate([self._width, np.ones(more, np.int64)])
        self._steps = np.concatenate(
            [self._steps, np.full((more, POINTS), _NONE, np.int64)]
        )
        empty = np.full((more, POINTS, len(self.columns)), np.nan, np.float64)
        self._values = np.concatenate([self._values, empty])

    def _widen(self, run: np.ndarray, step: np.ndarray) -> None:
        """Make the stretches of runs so wide that they reach the steps."""
        while (beyond := _stretch(step, self._width[run]) >= POINTS).any():
            wider = np.unique(run[beyond])
            self._steps[wider], self._values[wider] = _halved(
                self._steps[wider], self._values[wider]
            )
            self._width[wider] *= 2


def _stretch(step: np.ndarray, width: np.ndarray) -> np.ndarray:
    """The stretch of a step: the first ends with the step that the width is."""
    return (np.maximum(step, 1) - 1) // width


def _halved(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join every two stretches: the later point stays.

    Args:
      steps: [runs, 64].
      values: [runs, 64, columns].
    """
    later = steps[:, 1::2] != _NONE
    joined = np.full_like(steps, _NONE)
    joined[:, : POINTS // 2] = np.where(later, steps[:, 1::2], steps[:, ::2])
    kept = np.full_like(values, np.nan)
    pairs = np.where(later[..., None], values[:, 1::2], values[:, ::2])
    kept[:, : POINTS // 2] = pairs
    return joined, kept


def _quantiles(ordered: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """Quartiles of columns: the lower one, the median and the upper one.

    Args:
      ordered: [runs, points], ascending, NaN last.
      counts: [points], how many are numbers.
    """
    column = np.arange(len(counts))
    for share in (0.25, 0.5, 0.75):
        place = share * (counts - 1)
        below, above = np.floor(place).astype(int), np.ceil(place).astype(int)
        low, high = ordered[below, column], ordered[above, column]
        yield low + (place - below) * (high - low)


def bands(steps: np.ndarray, values: np.ndarray, dead: np.ndarray) -> pd.DataFrame:
    """Median and quartiles over runs of one entry, some of which may be behind.

    As `lrjax.analysis.curves.bands` of finished runs: a line goes on while more runs
    are alive than have diverged.

    Args:
      steps: [runs, points], -1 where there is none.
      values: [runs, points, 2]: epochs, and what is shown.
      dead: [runs], which runs diverged.

    Returns:
      a row per point with epoch, median, low, high, and diverged: whether the line ends
      there because half of the runs diverged.
    """
    epoch, shown = values[..., 0].astype(float), values[..., 1].astype(float)
    there = (steps != _NONE) & np.isfinite(shown) & np.isfinite(epoch)
    alive = there.sum(0)
    last = np.where(there.any(1), POINTS - 1 - there[:, ::-1].argmax(1), -1)
    lost = (dead[:, None] & (last[:, None] < np.arange(shown.shape[1]))).sum(0)
    kept = alive > lost
    shown = np.where(there, shown, np.nan)[:, kept]
    epoch = np.where(there, epoch, np.nan)[:, kept]
    if not kept.any():
        names = ["epoch", "median", "low", "high", "diverged"]
        return pd.DataFrame({name: [] for name in names}, dtype=float)
    low, median, high = _quantiles(np.sort(shown, axis=0), alive[kept])
    ended = np.zeros(kept.sum(), bool)
    ended[-1] = 2 * dead.sum() >= len(dead)
    return pd.DataFrame(
        {
            "epoch": np.nanmax(epoch, axis=0),
            "median": median,
            "low": low,
            "high": high,
            "diverged": ended,
        }
    )
