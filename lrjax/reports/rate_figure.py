"""The figures of `find_rate` and `rate_transfer`: validation loss over the rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrjax.common import files
from lrjax.reports import drawing
from lrjax.reports.palette import Palette

if TYPE_CHECKING:
    from lrjax.rates import Rates, Transfer


def draw(rates: Rates, path: str | Path | None) -> Any:
    """Draw the figure, and write it if a path is given.

    Args:
      rates: what was found.
      path: file with an ending that Matplotlib knows; None: it is not written.

    Returns:
      the Matplotlib figure.

    Raises:
      UsageError: if the file cannot be written.
    """
    table = rates.table
    drawing.import_matplotlib()
    with drawing.style() as plt:
        figure, axes = plt.subplots(figsize=(5.5, 3.5))
        own = {"color": Palette(()).colour(rates.method)}
        axes.plot(table["learning_rate"], table["mean"], "o-", markersize=4, **own)
        ends = (table["low"], table["high"])
        axes.fill_between(table["learning_rate"], *ends, alpha=0.2, linewidth=0, **own)
        axes.axvspan(*rates.interval, alpha=0.1, linewidth=0, label="as good")
        axes.axvline(rates.rate, linestyle="--", linewidth=1, label=f"{rates.rate:g}")
        if rates.edge is not None:
            axes.axvline(
                rates.edge,
                color="tab:red",
                linewidth=1,
                label=f"breaks down: {rates.edge:g}",
            )
        axes.set_xscale("log")
        drawing.log_ticks(axes.xaxis)
        axes.set_xlabel("learning rate")
        axes.set_ylabel("validation loss")
        axes.set_title(f"{rates.method} on {rates.task}")
        axes.legend()
        _save(figure, path)
    return figure


def draw_widths(transfer: Transfer, path: str | Path | None) -> Any:
    """Draw a line of losses for each width, with its best rate.

    Args:
      transfer: what was found.
      path: as in `draw`.

    Returns:
      the Matplotlib figure.

    Raises:
      UsageError: if the file cannot be written.
    """
    drawing.import_matplotlib()
    with drawing.style() as plt:
        figure, axes = plt.subplots(figsize=(5.5, 3.5))
        for width, rates in transfer.by_width.items():
            table = rates.table
            (line,) = axes.plot(
                table["learning_rate"], table["mean"], label=f"width {width:g}"
            )
            best = table[table["learning_rate"] == rates.rate]
            axes.plot(rates.rate, best["mean"], "o", color=line.get_color())
        first = next(iter(transfer.by_width.values()))
        axes.set_xscale("log")
        drawing.log_ticks(axes.xaxis)
        axes.set_xlabel("learning rate")
        axes.set_ylabel("validation loss")
        axes.set_title(first.method)
        axes.legend()
        _save(figure, path)
    return figure


def _save(figure: Any, path: str | Path | None) -> None:
    """Write a figure, unless there is no path."""
    if path is None:
        return
    kind = Path(path).suffix.lstrip(".") or "png"
    with files.replacing(path) as file:
        figure.savefig(file, format=kind)
