r"""Trains methods at many rates and lengths, to learn how the best rate changes.

    python benchmarks/length_tables.py --tables=DIR --data=DATA

One program trains all methods and rates of a shape (`made_tasks.LONG_SHAPES`) beside
each other, with two seeds: the full length, and shorter runs with their whole schedule
in their own length. A file per task holds the validation and test metrics of all, the
task's probes and the seconds; `benchmarks/lengths.py` learns from them. Files that are
there are skipped. DATA is a folder with libsvm/, mnist/ and the like.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import selection_tables
from benchmarks.across_tasks import made_tasks
from configs import quickstart
from lrjax import config as config_lib
from lrjax.hpo import contenders, probes
from lrjax.launch import startup

FULL = 20_000  # updates, and twice as many of every fifth number
SHARES = (1 / 1000, 1 / 300, 1 / 100, 1 / 30, 1 / 10, 1)  # of the full length
SEEDS = (0, 1)
TASKS, TASKS_JUDGED = 4, 3  # of each shape, to learn from and to judge on
KEPT = selection_tables.KEPT
# Method -> ends of the logarithm of its rates, half a decade apart.
RATED = {
    "nadamw_cosine": (-4.0, 0.0),
    "adamw_cosine": (-4.0, 0.0),
    "cawr": (-4.0, 0.0),
    "schedule_free_adamw": (-3.5, 0.5),
    "schedule_free_radam": (-3.5, 0.5),
    "schedule_free_sgd": (-2.0, 2.0),
    "momo_adam": (-4.0, 0.0),
    "reduce_on_plateau": (-4.0, 0.0),
    "greedy_lr": (-4.0, 0.0),
    "adam": (-5.0, -1.0),
    "momentum": (-4.0, 0.0),
    "sgd": (-3.0, 1.0),
}
UNRATED = ("prodigy", "schedule_free_prodigy", "cocob", "ldog", "dadapt_sgd")


def everyone() -> list[contenders.Contender]:
    """The methods at all rates, and those that need none."""
    first: dict[str, contenders.Contender] = {}
    for each in selection_tables.everyone():
        first.setdefault(each.method.name, each)
    found = [first[name] for name in UNRATED]
    for name, (low, high) in RATED.items():
        rates = 10 ** np.arange(low, high + 0.1, 0.5)
        found += [first[name].at(float(f"{rate:.3g}")) for rate in rates]
    return found


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--shapes", default=",".join(made_tasks.LONG_SHAPES))
    args = parser.parse_args()
    startup.prepare(config_lib.check(quickstart.get_config()))
    args.tables.mkdir(parents=True, exist_ok=True)
    populations: dict[str, selection_tables.Population] = {}
    judged = [made_tasks.JUDGED_FROM + number for number in range(TASKS_JUDGED)]
    # All shapes of a number first, so that a shorter run has some of all.
    for number in [*range(TASKS), *judged]:
        for shape in args.shapes.split(","):
            path = args.tables / f"{shape}-{number}.npz"
            if path.exists():
                continue
            made = made_tasks.make(shape, number, args.data)
            if shape not in populations:
                populations[shape] = selection_tables.Population(
                    made.task, False, everyone(), SEEDS, 2 * FULL
                )
            content = measure(
                made, 2 * FULL if number % 5 == 1 else FULL, populations[shape]
            )
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.savez_compressed(file, **content)
            partial.rename(path)
            seconds = " ".join(f"{each:.1f}" for each in content["seconds"])
            print(f"{path.name} {made.task.name}: {seconds} s", flush=True)


def measure(
    made: made_tasks.Made, full: int, population: selection_tables.Population
) -> dict[str, Any]:
    """Train a task's contenders at all lengths; the content of its file.

    Args:
      made: the task.
      full: updates of its full length.
      population: trains tasks of its shape.

    Measurements are [lengths, seeds, contenders], NaN where a run was lost.
    """
    found: dict[str, list[np.ndarray]] = {}
    seconds = []
    lengths = [round(share * full) for share in SHARES]
    for steps in lengths:
        began = time.perf_counter()
        values = population.train(made.task, steps, steps)
        seconds.append(time.perf_counter() - began)
        lost = values["diverged_at"] > 0
        for name in KEPT:
            if name in values:
                kept = np.where(lost, np.nan, values[name]).astype(np.float32)
                found.setdefault(name, []).append(kept)
    probed = probes.probe(made.task)
    return {
        **{name: np.stack(each) for name, each in found.items()},
        "contenders": np.array([each.key for each in population.contenders]),
        "lengths": np.array(lengths),
        "seconds": np.array(seconds),
        "family": made.family,
        "horizon": full,
        "batch_size": made.task.batch_size,
        **selection_tables.pairs("probe", probed.features),
        **selection_tables.pairs("about", made.about),
    }


if __name__ == "__main__":
    main()
