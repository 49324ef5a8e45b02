r"""How far a race's winner is from the best that there was, and what selecting costs.

    python benchmarks/selection_tables.py --tables=DIR
    python benchmarks/selection.py --tables=DIR
    python benchmarks/selection.py --tables=DIR --order

The first command trains, for an hour on two cores; the others read. Mean test accuracy
over fresh seeds is the truth. Races are held at several budgets from the tables, each
with its own seeds, and the winner is looked up there. Regret is the best contender's
accuracy less the winner's, in points. Beside it stand always taking the single best
contender (of the other tasks), Adam at 1e-3, Prodigy with a cosine, and AdamW with a
cosine whose rate SMAC tuned at the same budget. Synthetic tasks are the held-out ones.
With --order it prints instead, from the other synthetic tasks, which contenders a race
should let in first.
"""

from __future__ import annotations

import argparse
import functools
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.across_tasks import selectors
from lrjax import config as config_lib
from lrjax import methods
from lrjax.analysis import portfolio
from lrjax.hpo import (
    contenders,
    halving,
    probes,
    rungs,
)
from lrjax.hpo.verdicts import Score
from lrjax.tasks import synthetic

FRESH = 1000  # seeds from here on are those of the truth
HELD_OUT = 10**6  # numbers of the held-out synthetic tasks start here
LENGTH = 14  # contenders to print
RESAMPLES = 5000


def main() -> None:
    """Print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", required=True, help="as selection_tables.py makes")
    parser.add_argument("--budgets", default="2,4,8,16")
    parser.add_argument("--order", action="store_true", help="who enters a race first")
    args = parser.parse_args()
    budgets = [float(x) for x in args.budgets.split(",")]
    folders = [path for path in sorted(Path(args.tables).iterdir()) if path.is_dir()]
    made_up = [read(f) for f in folders if f.name.startswith("synthetic")]
    known = [each.of(held_out=False) for each in made_up]
    if args.order:
        print_order(known)
        return
    held = [each.of(held_out=True) for each in made_up]
    real = [read(f) for f in folders if f.name.startswith("libsvm")]
    tuned = {b: read_tuned(Path(args.tables), b) for b in budgets}
    for title, tables in (("held-out synthetic tasks", held), ("LIBSVM", real)):
        if tables:
            study(title, tables, budgets, tuned)
    if held:
        transfer(known, held)


class Table(NamedTuple):
    """What was trained on tasks of one shape.

    Attributes:
      tasks: names.
      horizon: updates of a full run.
      rungs: updates, ascending.
      keys: contenders whose rungs are known.
      accuracy, loss: on the validation part [rungs, tasks, seeds, keys], NaN where a
        run was lost.
      tested: test accuracy with each fresh seed, index task, columns entry, of all
        contenders; lost runs count as 0.
      checked: the same on the validation part.
      short: the mean of runs that are shorter by the cost of probes, of `keys`.
    """

    tasks: list[str]
    horizon: int
    rungs: list[int]
    keys: list[str]
    accuracy: np.ndarray
    loss: np.ndarray
    tested: list[pd.DataFrame]
    checked: list[pd.DataFrame]
    short: pd.DataFrame

    @property
    def truth(self) -> pd.DataFrame:
        """Mean test accuracy over the fresh seeds."""
        return mean(self.tested)

    def of(self, held_out: bool) -> Table:
        """The tasks that nothing was chosen on, or the others."""
        rows = [
            i
            for i, task in enumerate(self.tasks)
            if (int(task.rsplit("-", 1)[1]) >= HELD_OUT) == held_out
        ]
        tasks = [self.tasks[i] for i in rows]
        return self._replace(
            tasks=tasks,
            accuracy=self.accuracy[:, rows],
            loss=self.loss[:, rows],
            tested=[each.loc[tasks] for each in self.tested],
            checked=[each.loc[tasks] for each in self.checked],
            short=self.short.loc[tasks],
        )


def read(folder: Path) -> Table:
    """Read the files of tasks of one shape."""
    files = [np.load(path) for path in sorted(folder.glob("*.npz"))]
    files.sort(key=lambda file: -len(file["stops"]))
    whole = [file for file in files if len(file["stops"]) > 1]
    tasks, stops = list(map(str, whole[0]["tasks"])), whole[0]["stops"]
    horizon = int(stops[:-1, 1].max())
    keys = [str(key) for file in whole for key in file["labels"]]

    def joined(name: str) -> np.ndarray:
        return np.concatenate(
            [file[name][:-1][:, :, file["seeds"] < FRESH] for file in whole], axis=-1
        )

    def fresh(file: Mapping[str, np.ndarray], part: str, stop: int) -> list:
        reached = np.nan_to_num(file[f"{part}_accuracy"][stop])
        return [
            pd.DataFrame(reached[:, seed], file["tasks"], file["labels"])
            for seed in np.flatnonzero(file["seeds"] >= FRESH)
        ]

    def full(part: str) -> list[pd.DataFrame]:
        each = [fresh(f, part, -2 if len(f["stops"]) > 1 else 0) for f in files]
        found = [pd.concat(t, axis=1).loc[tasks] for t in zip(*each, strict=True)]
        # Who is let in since may have been trained before, without its rungs.
        return [named(table.loc[:, ~table.columns.duplicated()]) for table in found]

    short = [mean(fresh(file, "test", -1)) for file in whole]
    return Table(
        tasks,
        horizon,
        stops[:-1, 0].tolist(),
        keys,
        joined("valid_accuracy").astype(float),
        joined("valid_loss").astype(float),
        full("test"),
        full("valid"),
        named(pd.concat(short, axis=1).loc[tasks]),
    )


def mean(tables: Sequence[Any]) -> Any:
    """Of tables of one form."""
    return sum(tables[1:], tables[0]) / len(tables)


def named(table: pd.DataFrame) -> pd.DataFrame:
    """With the names of axes that `lrjax.analysis.portfolio` asks for."""
    return table.astype(float).rename_axis("task").rename_axis("entry", axis=1)


def read_tuned(folder: Path, budget: float) -> pd.DataFrame:
    """What SMAC's rates reached: index task, columns test_accuracy and cost."""
    paths = sorted(folder.glob(f"*-smac-{budget:g}.csv"))
    tables = [pd.read_csv(path, index_col="task") for path in paths]
    return pd.concat(tables) if tables else pd.DataFrame()


def print_order(tables: Sequence[Table]) -> None:
    """Print who should be let in, one after the other.

    Next is who raises most what a race to the end would reach: of those that are in,
    the best by the validation part with one seed, judged by the test part with others.
    Of equals it is who reaches most alone.

    Args:
      tables: of the known tasks; those on which a contender is missing are left out.
    """
    checked, tested = (
        [
            pd.concat(t).dropna(axis=0).to_numpy()
            for t in zip(*(getattr(table, name) for table in tables), strict=True)
        ]
        for name in ("checked", "tested")
    )
    keys = list(tables[0].tested[0])
    judged = [mean([*tested[:i], *tested[i + 1 :]]) for i in range(len(tested))]
    rows = np.arange(len(tested[0]))

    def reached(members: list[int]) -> float:
        best = [np.array(members)[each[:, members].argmax(1)] for each in checked]
        return float(np.mean([t[rows, b] for t, b in zip(judged, best, strict=True)]))

    print(f"{len(rows)} tasks, {len(keys)} contenders")
    entered: list[int] = []
    for _ in range(LENGTH):
        left = [i for i in range(len(keys)) if i not in entered]
        entered.append(max(left, key=lambda i: (reached([*entered, i]), reached([i]))))
        alone, together = reached(entered[-1:]), reached(entered)
        print(f"{keys[entered[-1]]:30} alone {alone:.4f}, together {together:.4f}")


def study(
    title: str,
    tables: Sequence[Table],
    budgets: Sequence[float],
    tuned: Mapping[float, pd.DataFrame],
) -> None:
    """Hold all races on some tasks and print what they come to."""
    tested = [
        named(pd.concat(each).dropna(axis=1))
        for each in zip(*(table.tested for table in tables), strict=True)
    ]
    truth = mean(tested)
    best, quarter = truth.max(axis=1), truth.quantile(0.25, axis=1)
    single = {t: portfolio.single_best(truth.drop(index=t)) for t in truth.index}
    lines: dict[str, tuple[pd.Series, float]] = {
        "best by the other two seeds": (by_other_seeds(tested), math.nan),
        "single best": (looked_up(truth, single), math.nan),
        "Adam at 1e-3": (truth["adam"], math.nan),
        "Prodigy with a cosine": (truth["prodigy"], math.nan),
    }
    for budget in budgets:
        found = [
            race(each, i, budget) for each in tables for i in range(len(each.tasks))
        ]
        won = dict(zip(truth.index, (key for key, _ in found), strict=True))
        cost = float(np.mean([spent for _, spent in found]))
        lines[f"race at {budget:g}"] = looked_up(truth, won), cost
        smac = tuned[budget].loc[lambda t: t.index.isin(truth.index)]
        if len(smac):
            few = f", {len(smac)} tasks" if len(smac) < len(truth) else ""
            reached = smac["test_accuracy"], float(smac["cost"].mean())
            lines[f"AdamW, rate by SMAC at {budget:g}{few}"] = reached
            if few:
                same = lines[f"race at {budget:g}"][0][smac.index]
                lines[f"race at {budget:g}, the same tasks"] = same, math.nan
    print(f"\n## {title}: {len(truth)} tasks, {truth.shape[1]} contenders\n")
    print(
        "| | mean regret (95 % interval) | worst | in the worst quarter | full runs |"
    )
    print("|---|---|---|---|---|")
    for name, (reached, cost) in lines.items():
        regret = 100 * (best[reached.index] - reached)
        below = int((reached < quarter[reached.index]).sum())
        low, high = interval(regret.to_numpy())
        paid = "" if math.isnan(cost) else f"{cost:.1f}"
        print(
            f"| {name} | {regret.mean():.2f} ({low:.2f} to {high:.2f}) "
            f"| {regret.max():.1f} | {below} | {paid} |"
        )
    counts = pd.Series(single).value_counts()
    print(f"\nSingle best: {', '.join(f'{k} ({n})' for k, n in counts.items())}.")


def by_other_seeds(tested: Sequence[pd.DataFrame]) -> pd.Series:
    """What each task's best contender by all fresh seeds but one reaches with that one.

    The best of many noisy means flatters itself; this one does not, and says how much
    regret is left to somebody who knows the test accuracies of other runs.
    """
    reached = []
    for i, judged in enumerate(tested):
        best = mean([*tested[:i], *tested[i + 1 :]]).idxmax(axis=1)
        reached.append(looked_up(judged, best.to_dict()))
    return sum(reached[1:], reached[0]) / len(reached)


def looked_up(truth: pd.DataFrame, entries: Mapping[str, str]) -> pd.Series:
    """What an entry for each task reached."""
    return pd.Series({task: truth.loc[task, key] for task, key in entries.items()})


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over tasks."""
    draws = np.random.default_rng(0).integers(
        len(values), size=(RESAMPLES, len(values))
    )
    low, high = np.percentile(values[draws].mean(1), (2.5, 97.5))
    return float(low), float(high)


@functools.cache
def entrants(task: str) -> list[contenders.Contender]:
    """All contenders of a race on a task, in the order in which they enter."""
    config = config_lib.base()
    config.tasks, config.methods = (task,), ("adam",)  # any: all are asked for below
    settings = config_lib.check(config)
    return contenders.contenders(list(methods.METHODS.values()), task, settings)


def race(table: Table, row: int, budget: float) -> tuple[str, float]:
    """Hold a race from a table.

    Args:
      table: with the task.
      row: its place.
      budget: in full runs.

    Returns:
      the winner's key and the cost in full runs.
    """
    # All made-up tasks have the same contenders.
    found = entrants(
        re.sub(r"(?<=^synthetic/classification-)\d+", "0", table.tasks[row])
    )
    plan = rungs.make_plan(len(found), budget, table.horizon, ())
    found = found[: plan.entered]
    places = [table.keys.index(entry.key) for entry in found]
    seeds = len(plan.seeds)

    def train_rung(number: int, alive: Sequence[int]) -> dict[int, Score]:
        rung = table.rungs.index(plan.rungs[number])
        scores = {}
        for i in alive:
            at = (rung, row, slice(seeds), places[i])
            lost = np.isnan(table.accuracy[at])
            scores[i] = Score(
                np.where(lost, -np.inf, table.accuracy[at]),
                np.where(lost, -np.inf, -table.loss[at]),
            )
        return scores

    last = list(
        halving.halve(plan, [entry.needs_cooldown for entry in found], train_rung)
    )[-1]
    return found[last.verdict.kept[0]].key, last.spent / table.horizon


def transfer(known: Sequence[Table], held: Sequence[Table]) -> None:
    """Print how much of the gap a selector across tasks closes."""

    def joined(tables: Sequence[Table]) -> selectors.Table:
        short = named(pd.concat([each.short for each in tables]))
        truth = named(pd.concat([each.truth for each in tables]))[list(short)]
        low, high = truth.min(axis=1), truth.max(axis=1)

        def unit(table: pd.DataFrame) -> pd.DataFrame:
            return table.sub(low, axis=0).div((high - low).clip(lower=1e-9), axis=0)

        described = {t: probes.probe(synthetic.make(t)).features for t in truth.index}
        features = pd.DataFrame.from_dict(described, orient="index")
        return selectors.Table(unit(truth), features, unit(short))

    learned, new = joined(known), joined(held)
    steps = probes.probe(synthetic.make(held[0].tasks[0])).steps
    print(f"\n{len(learned.scores)} tasks to learn from:\n")
    for selector in ("forest", "nearest"):
        print(selectors.judge(learned, new, steps / held[0].horizon, selector))


if __name__ == "__main__":
    main()
