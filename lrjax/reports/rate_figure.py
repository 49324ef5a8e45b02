"""The figure of `lrjax.find_rate`: validation loss over the learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrjax.common import files
from lrjax.reports import drawing

if TYPE_CHECKING:
    from lrjax.rates import Rates


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
        axes.plot(table["learning_rate"], table["mean"], "o-", markersize=4)
        axes.fill_between(
            table["learning_rate"], table["low"], table["high"], alpha=0.2, linewidth=0
        )
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
        axes.set_xlabel("learning rate")
        axes.set_ylabel("validation loss")
        axes.set_title(f"{rates.method} on {rates.task}")
        axes.legend()
        if path is not None:
            kind = Path(path).suffix.lstrip(".") or "png"
            with files.replacing(path) as file:
                figure.savefig(file, format=kind)
    return figure
