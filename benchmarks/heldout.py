"""Learned control on tasks that it has never seen, beside tuned and untuned methods.

Run as `python benchmarks/control.py --part=heldout`. What finetuning costs tuning may
spend, too: as many full runs over a grid of rates from 1e-4 to 1. Both judge by the
validation part, with a seed of their own; what is compared is the test part.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.controllers import evolution
from lrjax import config as config_lib
from lrjax import results, tasks
from lrjax.launch import experiment

LIBSVM = ("iris", "wine", "glass", "vowel", "vehicle", "dna", "pendigits")
GROUPS = {
    "LIBSVM and digits": (*(f"libsvm/{n}" for n in LIBSVM), "digits/logistic"),
    "synthetic": tuple(f"synthetic/classification-{n}" for n in range(900, 909)),
}
SEEDS, ANOTHER_SEED, EPOCHS = 5, 2**32 - 2, 100
DECAY = {"weight_decay": 0.01}  # AdamW's own default
DRAWS = 10_000


def heldout() -> None:
    """Print a table for each group of tasks."""
    for title, names in GROUPS.items():
        with tempfile.TemporaryDirectory() as folder:
            runs, cost = compared(names, Path(folder))
        print(f"\n{title}: {len(names)} tasks, {SEEDS} seeds\n", flush=True)
        print(summary(runs, cost), flush=True)


def compared(
    names: Sequence[str], folder: Path
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Runs of all sides, and what each paid before them.

    Returns:
      task, entry, test_loss and test_accuracy, a row per run (NaN where it diverged);
      entry -> full runs.
    """
    costs = {"AdamW 1e-3": 0.0, "Prodigy": 0.0, "learned": 0.0}
    plain = {"adam": DECAY, "prodigy": {}, "learned": {}}
    entries = dict(zip(plain, costs, strict=True))
    parts = [train(names, plain, folder / "plain", SEEDS, entries)]
    tuned = {"adam": "AdamW tuned", "adamw_cosine": "AdamW cosine tuned"}
    paid = 0.0
    for name in names:
        task = tasks.make_task(name)
        steps = EPOCHS * task.steps_per_epoch
        weights, paid = evolution.finetune(task, steps)
        path = folder / f"{name.replace('/', '_')}.npz"
        np.savez(path, **weights)  # pyright: ignore[reportArgumentType]
        own = {"learned": {"policy": str(path)}}
        entry = {"learned": "learned finetuned"}
        parts.append(train([name], own, folder / path.stem, SEEDS, entry))
    rates = np.geomspace(1e-4, 1, round(paid)).tolist()
    grid = train(
        names,
        dict.fromkeys(tuned, DECAY),
        folder / "grid",
        (ANOTHER_SEED,),
        tuned,
        rates,
    )
    done = grid[grid["status"] == "done"]
    best = done.loc[done.groupby(["task", "method"])["valid_loss"].idxmin()]
    for row in best.itertuples():
        own = {row.method: DECAY | {"learning_rate": row.hparams["learning_rate"]}}
        parts.append(train([row.task], own, folder / "tuned", SEEDS, tuned))
    costs |= dict.fromkeys((*tuned.values(), "learned finetuned"), paid)
    runs = pd.concat(parts).drop_duplicates("run_id")
    return runs[["task", "entry", "test_loss", "test_accuracy"]], costs


def train(
    names: Sequence[str],
    hparams: Mapping[str, Mapping[str, Any]],
    workdir: Path,
    seeds: Any,
    entries: Mapping[str, str],
    rates: Sequence[float] = (),
) -> pd.DataFrame:
    """Rows of finished runs.

    Args:
      names: of tasks.
      hparams: method -> what differs from its defaults.
      workdir: of the tables.
      seeds: how many, or which.
      entries: method -> what it is called.
      rates: a grid.
    """
    config = config_lib.base()
    config.tasks, config.methods = tuple(names), tuple(hparams)
    config.seeds, config.epochs = seeds, EPOCHS
    config.grid.learning_rate = tuple(rates)
    for method, values in hparams.items():
        config.hparams[method].update(values)
    experiment.run(config_lib.check(config), workdir)
    runs, _ = results.load(workdir)
    return runs.assign(entry=runs["method"].map(entries))


def summary(runs: pd.DataFrame, costs: Mapping[str, float]) -> str:
    """Ranks and regrets, means over tasks with intervals over tasks drawn anew."""
    loss = np.log10(runs["test_loss"].astype(float)).fillna(np.inf)
    accuracy = 100 * runs["test_accuracy"].astype(float).fillna(0)
    keys = [runs["task"], runs["entry"]]
    # Of half of an entry's runs or more that diverged the median is the worst there is.
    losses = loss.groupby(keys).median().unstack()
    losses = losses.replace(np.inf, losses[np.isfinite(losses)].max().max())
    right = accuracy.groupby(keys).mean().unstack()
    tables = {
        "rank": losses.rank(axis=1),
        "loss": losses.sub(losses.min(axis=1), axis=0),
        "accuracy": right.rsub(right.max(axis=1), axis=0),
    }
    generator = np.random.default_rng(0)
    draws = generator.integers(len(losses), size=(DRAWS, len(losses)))
    lines = [
        "| method | full runs before | mean rank | regret, log10 of test loss "
        "| regret, points of test accuracy |",
        "|---|---|---|---|---|",
    ]
    for entry in tables["rank"].mean().sort_values().index:
        cells = []
        for table in tables.values():
            values = table[entry].to_numpy()
            low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
            cells.append(f"{values.mean():.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {entry} | {costs[entry]:g} | " + " | ".join(cells) + " |")
    bests = losses.idxmin(axis=1).value_counts()
    lines.append(
        "\nThe virtual best, of regret 0, is "
        + ", ".join(f"{entry} on {count}" for entry, count in bests.items())
        + " by test loss."
    )
    print(losses.round(3).to_string(), file=sys.stderr)
    return "\n".join(lines)
