r"""What a search by halving loses by a shorter first rung, replayed from tables.

  python main.py --config=configs/study.py:libsvm:grid --workdir=runs/grid
  python benchmarks/fidelity.py --workdir=runs/grid [--metric=valid_loss]

Settings of one method (as `tune` has them), or of all (as a race has them), are drawn
from the table's. They start on a rung of 1/27, 1/9, 1/3 or all of the full length; a
third goes on to three times the length, and so on. Promoted runs go on from their
state, so each costs what it adds; as many start as cost `--cost` full runs. Nothing is
trained: what a run had at a rung is read off its curve. Regret: the median at full
length over the other seeds, of the best setting there is less that of the one chosen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lrjax import results
from lrjax.analysis import curves as curves_lib
from lrjax.analysis import scores as scores_lib

RUNGS = (1 / 27, 1 / 9, 1 / 3, 1.0)


def sizes(count: int, rungs: int) -> list[int]:
    """How many are on each rung: a third of those before, and one at least."""
    return [max(1, count // 3**rung) for rung in range(rungs)]


def halving(
    scores: np.ndarray, first: int, cost: float, generator: np.random.Generator
) -> int:
    """Draw settings, halve them rung by rung, and say which is left.

    Args:
      scores: [rungs, settings] of one seed, higher is better.
      first: number of the rung that all start on.
      cost: full runs to spend at most.
      generator: draws the settings.
    """
    rungs = len(RUNGS) - first
    added = np.diff(RUNGS[first:], prepend=0.0)
    count, settings = 1, scores.shape[1]
    while count < settings and np.dot(sizes(count + 1, rungs), added) <= cost:
        count += 1
    alive = generator.permutation(settings)
    for rung, size in enumerate(sizes(count, rungs)):
        alive = alive[:size]
        alive = alive[np.argsort(-scores[first + rung, alive], kind="stable")]
    return int(alive[0])


def table(runs: pd.DataFrame, rows: pd.DataFrame, metric: str) -> np.ndarray:
    """Scores [rungs, entries, seeds] of one task's runs."""
    sign = 1 if scores_lib.higher_is_better(metric) else -1
    found = []
    for rung in RUNGS:
        last = rows[rows["part"] <= rung + 1e-9].drop_duplicates("run", keep="last")
        seen = runs.loc[last["run"], ["entry", "seed"]].reset_index(drop=True)
        seen["score"] = (sign * last[metric].astype(float)).fillna(-np.inf).to_numpy()
        found.append(seen.pivot(index="entry", columns="seed", values="score"))
    return np.stack([wide.to_numpy() for wide in found])


def main() -> None:
    """Print a table for each group of settings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--metric", default="valid_loss")
    parser.add_argument("--cost", default="3,6,12")
    parser.add_argument("--draws", type=int, default=200)
    given = parser.parse_args()
    runs, curves = results.load(given.workdir)
    judged = scores_lib.judge(scores_lib.arrange(runs), (given.metric,))
    rows = curves_lib.join(judged, curves)
    groups = {"all entries": judged.index}
    groups |= {str(name): part.index for name, part in judged.groupby("method")}
    for name, mine in groups.items():
        if judged.loc[mine, "entry"].nunique() < 2:
            continue
        tasks = [
            table(part, rows[rows["run"].isin(part.index)], given.metric)
            for _, part in judged.loc[mine].groupby("task")
        ]
        print(f"\n{name}: mean regret over {len(tasks)} tasks (standard error)\n")
        print("| full runs |" + "".join(f" from {rung:.2g} |" for rung in RUNGS))
        print("|---|" + "---|" * len(RUNGS))
        for cost in map(float, given.cost.split(",")):
            cells = [
                np.array([regret(scores, first, cost, given.draws) for scores in tasks])
                for first in range(len(RUNGS))
            ]
            shown = (f"{x.mean():.4f} ({scipy.stats.sem(x):.4f})" for x in cells)
            print(f"| {cost:g} | " + " | ".join(shown) + " |", flush=True)


def regret(scores: np.ndarray, first: int, cost: float, draws: int) -> float:
    """Mean regret on a task; an entry most of whose runs diverge has the worst score.

    Args:
      scores: [rungs, settings, seeds].
      first, cost: as in `halving`.
      draws: how often settings are drawn; seeds take turns.
    """
    generator = np.random.default_rng(0)
    found = []
    for seed in np.arange(draws) % scores.shape[2]:
        end = np.median(np.delete(scores[-1], seed, axis=1), axis=1)
        end = np.where(np.isfinite(end), end, end[np.isfinite(end)].min())
        found.append(
            end.max() - end[halving(scores[..., seed], first, cost, generator)]
        )
    return float(np.mean(found))


if __name__ == "__main__":
    main()
