r"""The learning rate that each method uses on one small task, in one figure.

  python -m benchmarks.method_rates --figure=docs/methods.png [--workdir=runs/rates]

The task is an MLP on the wines of scikit-learn; each method has its defaults, but
those that need a published value. A panel per method shows the rate of its updates
over training on a logarithmic axis (`optim.effective_learning_rate`), all panels on
the same axes, so that sizes can be compared among relatives: what is a rate for SGD is
none for Adam.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import lrjax
from lrjax import results
from lrjax.methods import METHODS

TASK, UPDATES, POINTS = "wine/mlp", 400, 100
COLUMNS = 6
COLOURS = {
    "fixed": "#737373",
    "schedule": "#332288",
    "learning-rate-free": "#117733",
    "statistics": "#cc6677",
}


def train(workdir: Path) -> None:
    """Train one run of each method, unless it is there."""
    names = [name for name, method in METHODS.items() if not method.required]
    lrjax.compare(
        TASK,
        names,
        seeds=1,
        steps=UPDATES,
        eval_every=UPDATES // POINTS,
        workdir=workdir,
    )


def draw(workdir: Path, path: Path) -> None:
    """Draw a panel per method, family after family."""
    runs, curves = results.load(workdir)
    method_of = runs.set_index("run_id")["method"]
    curves = curves.assign(method=curves["run_id"].map(method_of)).sort_values("step")
    known = set(curves["method"])
    names = [
        name
        for family in COLOURS
        for name, method in METHODS.items()
        if method.family == family and name in known
    ]
    rows = math.ceil(len(names) / COLUMNS)
    figure, axes = plt.subplots(
        rows, COLUMNS, figsize=(2 * COLUMNS, 1.25 * rows), sharex=True, sharey=True
    )
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for axis, name in zip(axes.flat, names, strict=False):
        own = curves[curves["method"] == name]
        rate = own["learning_rate"].to_numpy(float)
        rate = np.where(rate > 0, rate, np.nan)
        colour = COLOURS[METHODS[name].family]
        axis.plot(own["step"], rate, color=colour, linewidth=1.5)
        if np.isnan(rate).all():  # such as COCOB, with one per parameter
            axis.text(UPDATES / 2, 1e-3, "no single rate", ha="center", fontsize=8)
        axis.set_yscale("log")
        axis.set_ylim(1e-7, 1e2)
        axis.set_title(name, fontsize=8, pad=2)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.supxlabel("update", fontsize=9)
    figure.supylabel("learning rate", fontsize=9)
    handles = [plt.Line2D([], [], color=colour) for colour in COLOURS.values()]
    figure.legend(handles, COLOURS, loc="upper center", ncol=len(COLOURS), fontsize=9)
    figure.tight_layout(rect=(0.01, 0.01, 1, 0.97))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--figure", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, default=Path("runs/method_rates"))
    given = parser.parse_args()
    train(given.workdir)
    draw(given.workdir, given.figure)


if __name__ == "__main__":
    main()
