r"""How far a race's winner is from the best that there was, and what selecting costs.

    python benchmarks/selection.py --quick
    LRJAX_DATA_DIR=... python benchmarks/selection.py --libsvm=iris,wine,vowel
    python benchmarks/selection.py --order

Every contender is trained in full with fresh seeds on tasks that nothing was chosen on;
its mean test accuracy is the truth. Then races are held at several budgets, each with
its own seeds, and the winner is looked up in that table. Regret is the best contender's
accuracy less the winner's, in points. Beside it stand always taking the single best
contender (of the other tasks), Adam at 1e-3, AdamW with a cosine whose rate was raced
for at the same budget, and Prodigy with a cosine. With --order it prints instead, from
other tasks, which contenders a race should let in first.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import quickstart
from lrjax import backend, experiment, methods, portfolio, results
from lrjax import config as config_lib
from lrjax.core import Task
from lrjax.hpo import contenders, race, rungs, trials
from lrjax.hpo import portfolio as across
from lrjax.tasks import make_task, synthetic

QUICK = (
    *("adam", "adamw_cosine", "nadamw_cosine", "momentum", "cawr", "dadapt_adam"),
    *("prodigy", "cocob", "dowg", "dog", "schedule_free_adamw", "mechanic"),
)
FRESH_SEEDS = (1001, 1002, 1003)
HELD_OUT = 10**6  # numbers of the synthetic tasks start here
ORDER_TASKS, ORDER_LENGTH = 12, 20  # of each depth; contenders to print
TUNED = "adamw_cosine"


def main() -> None:
    """Measures and prints tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="12 methods, one depth")
    parser.add_argument("--tasks", type=int, default=100, help="synthetic ones")
    parser.add_argument("--libsvm", default="", help="names with commas between")
    parser.add_argument("--budgets", default="2,4,8,16")
    parser.add_argument("--epochs", type=int, default=30, help="of synthetic tasks")
    parser.add_argument("--order", action="store_true", help="who enters a race first")
    args = parser.parse_args()
    backend.prepare(config_lib.check(quickstart.get_config()))
    if args.order:
        print_order(args.epochs)
        return
    budgets = [float(x) for x in args.budgets.split(",")]
    names = QUICK if args.quick else tuple(methods.METHODS)
    depths = (1,) if args.quick else (0, 1, 2)
    for depth in depths:
        numbers = [HELD_OUT + 3 * i for i in range(args.tasks // len(depths))]
        made = [
            synthetic.make(f"synthetic/classification-{n - n % 3 + depth}")
            for n in numbers
        ]
        study(f"synthetic, depth {depth}", made, names, budgets, args.epochs)
    sets = [make_task(f"libsvm/{n}") for n in filter(None, args.libsvm.split(","))]
    if sets:
        study("LIBSVM", sets, names, budgets, 100)


def print_order(epochs: int) -> None:
    """Prints contenders as a greedy portfolio on made-up tasks takes them in."""
    tables = []
    for depth in range(3):
        names = [
            f"synthetic/classification-{3 * i + depth}" for i in range(ORDER_TASKS)
        ]
        made = [synthetic.make(name) for name in names]
        settings = settings_of(made[0], tuple(methods.METHODS), epochs)
        found = contenders.contenders(
            list(methods.METHODS.values()), names[0], settings
        )
        steps = epochs * made[0].steps_per_epoch
        tables.append(accuracies(made, entries_of(found), steps))
    table = pd.concat(tables).rename_axis("task").rename_axis("entry", axis=1)
    entered: list[str] = []
    for row in portfolio.best_portfolios(table).head(ORDER_LENGTH).itertuples():
        entered += [label for label in row.members if label not in entered]
        print(f"{row.k:3} {100 * row.score:.2f} {entered[-1]}")


def settings_of(task: Task, names: Sequence[str], epochs: int) -> config_lib.Settings:
    """Of runs on a task."""
    config = config_lib.base()
    config.tasks, config.methods, config.epochs = (task.name,), tuple(names), epochs
    return config_lib.check(config)


def entries_of(found: Sequence[contenders.Contender]) -> list[across.Entry]:
    """Contenders as what is trained on many tasks at once."""
    return [across.Entry(c.label, c.method, dict(c.hparams)) for c in found]


def accuracies(
    made: Sequence[Task], entries: Sequence[across.Entry], steps: int
) -> pd.DataFrame:
    """Mean test accuracy of runs with fresh seeds, task x label; lost runs have 0."""
    names = [task.name for task in made]
    rows = across.train_tasks(synthetic.stack(made), names, entries, FRESH_SEEDS, steps)
    accuracy = rows["test_accuracy"].fillna(0.0)
    return accuracy.groupby([rows["task"], rows["method"]]).mean().unstack()


def study(
    title: str,
    made: Sequence[Task],
    names: Sequence[str],
    budgets: Sequence[float],
    epochs: int,
) -> None:
    """Holds all races on some tasks and prints what they come to."""
    settings = settings_of(made[0], names, epochs)
    chosen = [methods.find(name) for name in names]
    began = time.perf_counter()
    truth, short = truths(made, chosen, settings, epochs)
    print(f"\n## {title}: {len(made)} tasks, {truth.shape[1]} contenders\n", flush=True)
    print(f"Table of the truth in {time.perf_counter() - began:.0f} s\n", flush=True)
    best = truth.max(axis=1)
    lines: dict[str, pd.Series] = {
        "single best": pd.Series(
            {
                t: truth.loc[t, portfolio.single_best(truth.drop(index=t))]
                if len(truth) > 1
                else np.nan
                for t in truth.index
            }
        ),
        "adam 1e-3": truth["adam"],
        "prodigy, cosine": truth["prodigy"],
    }
    spent: dict[str, float] = {}
    for budget in budgets:
        for label, subset in (("race", chosen), (TUNED, [methods.find(TUNED)])):
            began = time.perf_counter()
            won, cost = races(made, subset, settings, budget, epochs)
            key = f"{label} at {budget:g}"
            lines[key] = pd.Series({t: truth.loc[t, w] for t, w in won.items()})
            spent[key] = cost
            print(f"{key}: {time.perf_counter() - began:.0f} s", flush=True)
    quarter = truth.quantile(0.25, axis=1)
    print("\n| | mean regret, points | worst | below the worst quarter | full runs |")
    print("|---|---|---|---|---|")
    for name, reached in lines.items():
        regret = 100 * (best - reached)
        below = int((reached < quarter).sum())
        cost = f"{spent[name]:.1f}" if name in spent else ""
        print(
            f"| {name} | {regret.mean():.2f} | {regret.max():.1f} | {below} | {cost} |"
        )
    if len(made) >= 4:
        transfer(made, truth, short, epochs)


def truths(
    made: Sequence[Task], chosen: Sequence, settings: config_lib.Settings, epochs: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean test accuracy of every contender, task x label; and of shorter runs.

    The shorter runs are what is left of a full run after the probes are paid.
    """
    tables: tuple[list, list] = [], []
    shared: dict[object, list[Task]] = {}
    for task in made:
        shared.setdefault((task.loss, task.num_examples), []).append(task)
    for group in shared.values():
        found = contenders.contenders(chosen, group[0].name, settings)
        entries = entries_of(found)
        steps = epochs * group[0].steps_per_epoch
        left = max(1, steps - across.probe(group[0]).steps)
        for table, length in zip(tables, (steps, left), strict=True):
            table.append(accuracies(group, entries, length))
    full, short = (pd.concat(t).rename_axis("task") for t in tables)
    return full.rename_axis("entry", axis=1), short.rename_axis("entry", axis=1)


def races(
    made: Sequence[Task],
    chosen: Sequence,
    settings: config_lib.Settings,
    budget: float,
    epochs: int,
) -> tuple[Mapping[str, str], float]:
    """The winner's label on each task, and the mean cost in full runs."""
    won, costs = {}, []
    with tempfile.TemporaryDirectory() as folder, results.Tables(folder) as tables:
        trainer = trials.Trainer(tables, settings, lambda: 0, lambda _: None)
        with trainer:
            for task in made:
                found = contenders.contenders(chosen, task.name, settings)
                horizon = epochs * task.steps_per_epoch
                layout = rungs.plan(len(found), budget, horizon, ())
                held = race.Race(
                    task, task.name, found, layout, settings, tables, lambda _: None
                )
                answer = held.run(trainer)
                won[task.name] = next(
                    c.label
                    for c in found
                    if (c.method.name, dict(c.hparams))
                    == (answer.method, dict(answer.hparams))
                )
                costs.append(answer.cost)
    return won, float(np.mean(costs))


def transfer(
    made: Sequence[Task], truth: pd.DataFrame, short: pd.DataFrame, epochs: int
) -> None:
    """Prints how much of the gap a selector across tasks closes."""
    probes = {task.name: across.probe(task) for task in made}
    features = pd.DataFrame.from_dict(
        {name: p.features for name, p in probes.items()}, orient="index"
    )
    steps = {t.name: epochs * t.steps_per_epoch for t in made}
    cost = float(np.mean([p.steps / steps[name] for name, p in probes.items()]))
    low, high = truth.min(axis=1), truth.max(axis=1)

    def normalised(table: pd.DataFrame) -> pd.DataFrame:
        return table.sub(low, axis=0).div((high - low).clip(lower=1e-9), axis=0)

    print()
    for selector in ("forest", "nearest"):
        print(
            across.leave_one_out(
                normalised(truth), features, cost, selector, normalised(short)
            )
        )


if __name__ == "__main__":
    experiment.say("figures depend on the machine only in seconds")
    main()
