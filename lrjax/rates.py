"""The answers of `find_rate` and `rate_transfer`: rates, and how sure they are."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy import special

from lrjax.analysis import stats
from lrjax.core import NONNEGATIVE_LOSS, Metric, UsageError, counted

_LEVEL = 0.05  # of the tests that tell a rate from the best one


@dataclasses.dataclass(frozen=True)
class Rates:
    """Learning rates and what they came to.

    `print(rates)` says the answer in two lines.

    Attributes:
      method, task: names.
      rate: the rate with the lowest mean validation loss.
      interval: smallest and largest of the neighbouring rates whose loss is not
        significantly higher than that of `rate`, by a paired t-test over seeds at 5 %;
        with fewer than three seeds only `rate` itself.
      edge: the smallest rate above `rate` from which on runs diverge, or end with a
        higher loss than the worst rate below `rate`; None if there is none.
      table: a row per rate: learning_rate, mean, low, high (95 % interval of the mean;
        NaN with fewer than three seeds), diverged (share of the runs).

    Example:
      >>> runs = pd.DataFrame(
      ...     {
      ...         "task": "mine",
      ...         "seed": 0,
      ...         "hparams": [{"learning_rate": rate} for rate in (0.01, 0.1, 1.0)],
      ...         "valid_loss": [0.5, 0.2, 0.9],
      ...     }
      ... )
      >>> print(Rates.of(runs, "adam"))
      adam on mine: learning rate 0.1
      3 rates tried; as good as any; training breaks down from 1 on.
    """

    method: str
    task: str
    rate: float
    interval: tuple[float, float]
    edge: float | None
    table: pd.DataFrame

    @classmethod
    def of(
        cls, runs: pd.DataFrame, method: str, loss: Metric = NONNEGATIVE_LOSS
    ) -> Self:
        """Judge rates by their runs.

        Args:
          runs: as returned by `results.load`; each rate has the same seeds.
          method: the method's name, for messages.
          loss: the loss as the task has it, whose bounds intervals keep to.

        Raises:
          UsageError: if no rate has runs that did not diverge.
        """
        rates = runs["hparams"].map(lambda hparams: hparams["learning_rate"])
        losses = runs.assign(rate=rates).pivot(
            index="rate", columns="seed", values="valid_loss"
        )
        task = str(runs["task"].iloc[0])
        values = losses.to_numpy(float)
        whole = np.isfinite(values).all(1)
        if not whole.any():
            raise UsageError(
                f"find_rate: {method} diverged on {task} with every rate from "
                f"{losses.index[0]:g} to {losses.index[-1]:g}: give smaller `rates`"
            )
        mean = np.where(whole, values.mean(1), np.inf)
        best = int(mean.argmin())
        low, high = np.transpose([stats.interval(row, loss) for row in values])
        table = pd.DataFrame(
            {
                "learning_rate": losses.index.to_numpy(float),
                "mean": np.where(whole, mean, np.nan),
                "low": np.where(whole, low, np.nan),
                "high": np.where(whole, high, np.nan),
                "diverged": 1 - np.isfinite(values).mean(1),
            }
        )
        known = table["learning_rate"].tolist()
        first, last = _as_good(values, whole, best)
        edge = _edge(mean, best)
        return cls(
            method,
            task,
            known[best],
            (known[first], known[last]),
            None if edge is None else known[edge],
            table,
        )

    def __str__(self) -> str:
        low, high = self.interval
        seen = f"{counted(len(self.table), 'rate')} tried"
        where = "as good as any" if low == high else f"{low:g} to {high:g} are as good"
        ends = self.table["learning_rate"].iloc[[0, -1]].tolist()
        hint = ""
        if self.rate in ends and len(self.table) > 1:
            side = "smaller" if self.rate == ends[0] else "larger"
            hint = f" The best is at the end of the range: try {side} ones, too."
        lost = self.table.loc[self.table["diverged"] > 0, "learning_rate"]
        edge = "no rate diverged"
        if self.edge is not None:
            edge = f"training breaks down from {self.edge:g} on"
        elif len(lost):
            edge = f"runs diverged at {', '.join(f'{rate:g}' for rate in lost)}"
        return (
            f"{self.method} on {self.task}: learning rate {self.rate:g}\n"
            f"{seen}; {where}; {edge}.{hint}"
        )

    def plot(self, path: Any = None) -> Any:
        """Draw the validation loss over the rate, with its interval, best and edge.

        Args:
          path: file to write; None: only return the figure.

        Returns:
          the Matplotlib figure.
        """
        from lrjax.reports import rate_figure

        return rate_figure.draw(self, path)


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Best rates of models of several widths, as `rate_transfer` found them.

    `print(transfer)` says whether one rate serves all.

    Attributes:
      by_width: width -> its rates, by ascending width.
    """

    by_width: Mapping[float, Rates]

    @property
    def shared(self) -> tuple[float, float] | None:
        """Smallest and largest rate that is as good as the best at every width."""
        lows, highs = zip(
            *(rates.interval for rates in self.by_width.values()), strict=True
        )
        return (max(lows), min(highs)) if max(lows) <= min(highs) else None

    @property
    def exponent(self) -> float:
        """The best rate grows as this power of the width, by least squares.

        0 where the rate transfers, about -1 for Adam on models in the standard
        parametrisation (Yang et al. 2021, Tensor Programs V).
        """
        widths = np.log([*self.by_width])
        rates = np.log([rates.rate for rates in self.by_width.values()])
        return float(np.polyfit(widths, rates, 1)[0])

    def __str__(self) -> str:
        lines = [
            f"width {width:g}: {rates.rate:g}, {rates.interval[0]:g} to "
            f"{rates.interval[1]:g} are as good"
            for width, rates in self.by_width.items()
        ]
        first = next(iter(self.by_width.values()))
        shared = self.shared
        if shared is None:
            lines.append(
                f"{first.method}: no rate serves all widths; the best changes as "
                f"width^{self.exponent:.2f}"
            )
        else:
            low, high = shared
            which = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            lines.append(f"{first.method}: the rate transfers: {which} at every width")
        return "\n".join(lines)

    def plot(self, path: Any = None) -> Any:
        """Draw the validation loss over the rate, a line per width.

        Args:
          path: file to write; None: only return the figure.

        Returns:
          the Matplotlib figure.
        """
        from lrjax.reports import rate_figure

        return rate_figure.draw_widths(self, path)


def _as_good(values: np.ndarray, whole: np.ndarray, best: int) -> tuple[int, int]:
    """First and last of the rates around the best one that may be as good.

    Args:
      values: losses [rates, seeds].
      whole: whether none of a rate's runs diverged, [rates].
      best: number of the best rate.
    """

    def may_be(other: int) -> bool:
        if not (0 <= other < len(values) and whole[other] and values.shape[1] >= 3):
            return False
        differences = values[other] - values[best]
        if np.ptp(differences) == 0:
            return bool(differences[0] <= 0)
        error = differences.std(ddof=1) / math.sqrt(len(differences))
        p_value = special.stdtr(len(differences) - 1, -differences.mean() / error)
        return bool(p_value > _LEVEL)

    first = last = best
    while may_be(first - 1):
        first -= 1
    while may_be(last + 1):
        last += 1
    return first, last


def _edge(mean: np.ndarray, best: int) -> int | None:
    """Number of the first rate above the best from which on training breaks down.

    Args:
      mean: mean losses, infinite where a run diverged; [rates].
      best: number of the best rate.
    """
    below = mean[: best + 1]
    worst = below[np.isfinite(below)].max() if best else math.inf
    broken = ~np.isfinite(mean) | (mean > worst)
    above = np.flatnonzero(~broken[best:]) + best
    edge = int(above[-1]) + 1
    return edge if edge < len(mean) else None
