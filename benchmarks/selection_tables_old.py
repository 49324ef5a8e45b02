r"""Trains all contenders of races on many tasks, and keeps what races would measure.

    python benchmarks/selection_tables.py --tables=DIR
    LRJAX_DATA_DIR=... python benchmarks/selection_tables.py --tables=DIR --libsvm=wine
    python benchmarks/selection_tables.py --tables=DIR --smac=2,4,8,16

For each contender that a race may let in: accuracy and loss on the validation part at
every rung that a race may have, with the races' seeds; and for every contender the test
accuracy of full runs with fresh seeds, which is the truth. A race follows from these
numbers alone, so `selection.py` holds any number of them without training. With --smac
it instead tunes the rate of AdamW with a cosine at some budgets (in full runs), and
trains with what was found. One file per program or budget, skipped if it is there: the
command can be killed and given again, and run twice at a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.across_tasks import many_tasks
from configs import quickstart
from lrjax import config as config_lib
from lrjax import methods
from lrjax.core import Task
from lrjax.hpo import (
    contenders,
    probes,
    rungs,
    smac,
    targets,
    trials,
    tune,
)
from lrjax.hpo.search import Search
from lrjax.launch import local, startup
from lrjax.tasks import make_task, synthetic

RACE_SEEDS = (0, 1, 2)
FRESH_SEEDS = (1001, 1002, 1003)
HELD_OUT = 10**6  # numbers of the synthetic tasks that nothing is chosen on start here
DEPTHS = (0, 1, 2)
EPOCHS = {"synthetic": 30, "libsvm": 100}
ENTER = 9  # contenders whose rungs are kept
TUNED = "adamw_cosine"  # and those of all its rates
# The others of a race with --few; the choice is by hand, one of each kind.
OTHERS = ("adam", "prodigy", "cocob", "dog", "greedy_lr 0.01", "cawr 0.01")
FEW = 20  # known tasks of a depth on which the others are trained
TEST_ROWS = 4096  # of synthetic tasks: with few the best of many would be lucky
KEPT = ("valid_accuracy", "valid_loss", "test_accuracy")


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", required=True, help="folder of the tables")
    parser.add_argument("--libsvm", default="", help="names with commas between")
    parser.add_argument("--depths", default="1,2,0", help="of synthetic tasks")
    parser.add_argument("--known", type=int, default=60, help="tasks of each depth")
    parser.add_argument("--held", type=int, default=36, help="held-out ones")
    parser.add_argument("--few", action="store_true", help="not all contenders")
    parser.add_argument("--smac", default="", help="budgets with commas between")
    parser.add_argument("--smac_tasks", type=int, default=12, help="of each depth")
    args = parser.parse_args()
    startup.prepare(config_lib.check(quickstart.get_config()))
    folder = Path(args.tables)
    families = {
        f"libsvm-{name}": ([make_task(f"libsvm/{name}")], EPOCHS["libsvm"], 0)
        for name in args.libsvm.split(",")
        if name
    } or {
        f"synthetic-{depth}": (
            [
                synthetic.make(f"synthetic/classification-{n}", test_rows=TEST_ROWS)
                for n in numbers(depth, args.known, args.held)
            ],
            EPOCHS["synthetic"],
            args.known,
        )
        for depth in map(int, args.depths.split(","))
    }
    for name, (made, epochs, known) in families.items():
        if not args.smac:
            write(folder / name, made, epochs, known, args.few)
        for budget in map(float, filter(None, args.smac.split(","))):
            held = made[known:][: args.smac_tasks]
            keep_tuned(folder / f"{name}-smac-{budget:g}.csv", held, epochs, budget)


def numbers(depth: int, known: int, held: int) -> list[int]:
    """Of the synthetic tasks of a depth: to choose with, then held-out ones."""
    first = HELD_OUT + (depth - HELD_OUT) % len(DEPTHS)
    step = len(DEPTHS)
    return [depth + step * i for i in range(known)] + [
        first + step * i for i in range(held)
    ]


def stops_of(horizon: int, probed: int) -> list[many_tasks.Stop]:
    """All places where a race may compare contenders, and the end without probes."""
    ends = rungs.make_plan(2, 100, horizon, (0,)).rungs
    stops = []
    for end in ends:
        plan = rungs.Plan(horizon, 1.0, (0,), 1, (end,))
        stops.append(
            many_tasks.Stop(end, horizon, end - plan.start(0, needs_cooldown=True))
        )
    left = max(1, horizon - probed)
    return [*stops, many_tasks.Stop(left, left)]


def write(
    folder: Path, made: Sequence[Task], epochs: int, known: int, few: bool
) -> None:
    """Train all contenders on tasks of one shape, a file per program."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_lib.base()
    config.tasks, config.epochs = (made[0].name,), epochs
    config.methods = ("adam",)  # contenders are chosen below
    settings = config_lib.check(config)
    found = contenders.contenders(
        list(methods.METHODS.values()), made[0].name, settings
    )
    entries = [many_tasks.Entry(c.key, c.method, dict(c.hparams)) for c in found]
    enter = [e for i, e in enumerate(entries) if i < ENTER or e.method.name == TUNED]
    others = [entry for entry in entries if entry not in enter]
    if few:
        others = [entry for entry in others if entry.label in OTHERS]
    horizon = epochs * made[0].steps_per_epoch
    stops = stops_of(horizon, probes.probe(made[0]).steps)
    full = [many_tasks.Stop(horizon, horizon)]
    fewer = [*made[: min(FEW, known)], *made[known:]]
    for group in many_tasks.groups(missing(folder, enter, "rungs")):
        keep(folder, made, group, (*RACE_SEEDS, *FRESH_SEEDS), stops)
    for group in many_tasks.groups(missing(folder, others, "*")):
        keep(folder, fewer, group, FRESH_SEEDS, full)


def missing(
    folder: Path, entries: Sequence[many_tasks.Entry], kind: str
) -> list[many_tasks.Entry]:
    """Those entries that are in no file of a kind, 'rungs' or '*' for any."""
    paths = sorted(folder.glob(f"{kind}-*.npz"))
    there = {str(label) for path in paths for label in np.load(path)["labels"]}
    return [entry for entry in entries if entry.label not in there]


def keep(
    folder: Path,
    made: Sequence[Task],
    group: Sequence[many_tasks.Entry],
    seeds: Sequence[int],
    stops: Sequence[many_tasks.Stop],
) -> None:
    """Train entries that share a program and write what was measured.

    Arrays of the file are [stops, tasks, seeds, entries], NaN where a run was lost.
    """
    kind = "rungs" if len(stops) > 1 else "end"
    path = folder / f"{kind}-{group[0].label.replace(' ', '-')}.npz"
    claim = path.with_suffix(".partial")
    if path.exists() or claim.exists():
        return
    claim.touch()
    try:
        began = time.perf_counter()
        measured = many_tasks.train_group(synthetic.stack(made), group, seeds, stops)
        dead = np.stack([each["diverged_at"] > 0 for each in measured])
        arrays = {
            name: np.where(dead, np.nan, np.stack([each[name] for each in measured]))
            for name in KEPT
        }
        content: dict[str, Any] = {
            "tasks": np.array([task.name for task in made]),
            "labels": np.array([entry.label for entry in group]),
            "seeds": np.array(seeds),
            "stops": np.array(stops),
            **{name: array.astype(np.float32) for name, array in arrays.items()},
        }
        with claim.open("wb") as file:
            np.savez_compressed(file, **content)
        claim.rename(path)
    finally:
        claim.unlink(missing_ok=True)
    print(f"{path}: {time.perf_counter() - began:.1f} s", flush=True)


def keep_tuned(path: Path, made: Sequence[Task], epochs: int, budget: float) -> None:
    """Tune the rate of `TUNED` by SMAC on each task and train with what was best.

    Rows of the file: task, learning_rate, cost (of tuning, in full runs) and
    test_accuracy, the mean over fresh seeds.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    settings = tuned_settings(made[0], epochs, budget)
    with (
        tempfile.TemporaryDirectory() as folder,
        local.launch(settings, folder) as launcher,
    ):
        searches = []
        for task in made:
            target = targets.targets(
                dataclasses.replace(settings, tasks=(task.name,)), [task]
            )[0]
            searches.append(Search(target, tune.make_tuner(target, Path(folder))))
        trainer = trials.Trainer(launcher, lambda _: None)
        active = [search for search in searches if search.ask()]
        while active:
            trained = trainer.train([job for each in active for job in each.jobs()])
            for search in active:
                search.tell(trained)
            trainer.forget()
            active = [search for search in active if search.ask()]
    entries = []
    for search in searches:
        best = search.best["hparams"] if search.best else search.target.base
        rate = best["learning_rate"]
        entries.append(many_tasks.Entry(f"{rate}", methods.find(TUNED), {**best}))
    horizon = epochs * made[0].steps_per_epoch
    (found,) = many_tasks.train_group(
        synthetic.stack(made), entries, FRESH_SEEDS, [many_tasks.Stop(horizon, horizon)]
    )
    reached = np.where(found["diverged_at"] > 0, 0.0, found["test_accuracy"]).mean(1)
    pd.DataFrame(
        {
            "task": [task.name for task in made],
            "learning_rate": [entry.hparams["learning_rate"] for entry in entries],
            "cost": [spent(search) for search in searches],
            "test_accuracy": np.diagonal(reached),
        }
    ).to_csv(path, index=False)
    print(f"{path}: {time.perf_counter() - began:.1f} s", flush=True)


def tuned_settings(task: Task, epochs: int, budget: float) -> config_lib.Settings:
    """As many trials as a budget bears; below four full runs no shorter ones."""

    def settings(number: int) -> config_lib.Settings:
        config = config_lib.base()
        config.tasks, config.epochs, config.methods = (task.name,), epochs, (TUNED,)
        config.tune.trials = number
        if budget < 4:
            config.tune.min_budget = epochs
        return config_lib.check(config)

    def cost(number: int) -> float:
        target = targets.targets(settings(number), [task])[0]
        return (
            sum(
                stage.trials * (stage.trained if target.continuing else stage.budget)
                for stage in smac.plan(target.problem)
            )
            / target.problem.max_budget
        )

    number = 1
    while cost(number + 1) <= budget:
        number += 1
    return settings(number)


def spent(search: Search) -> float:
    """What a search has cost, in full runs; promoted trials go on from their state."""
    reached: dict[int, int] = {}
    for row in search.rows:
        key = row["config_id"]
        reached[key] = max(reached.get(key, 0), row["budget"])
    if not search.target.continuing:
        return (
            sum(row["budget"] for row in search.rows) / search.target.problem.max_budget
        )
    return sum(reached.values()) / search.target.problem.max_budget


if __name__ == "__main__":
    main()
