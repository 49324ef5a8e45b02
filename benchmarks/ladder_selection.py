r"""What known tasks advise on the ladder's tasks, which are not among them.

  python -m benchmarks.ladder_selection --data_dir=DATA     # of results/ladder
  python -m benchmarks.ladder_selection --runs=runs/ladder --rates=runs/rates

A selection without runs (`select.how=prior`) looks at each task with a few gradients
and names one contender. Contenders are the ladder's methods at their defaults, and
momentum and AdamW with a cosine at nine rates; regret, in points of the test metric
behind the best of them, at most ten, as in `benchmarks.ladder`. Beside it: the same
contender everywhere, without hindsight (the best on the tasks of all other families),
rules that need no table, and what known tasks name but where a task is unlike all of
them. Intervals are over draws of tasks.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import kept
from benchmarks import ladder as tables
from configs import ladder
from lrjax import config as config_lib
from lrjax import results
from lrjax.core import UsageError
from lrjax.hpo import lineup, prior
from lrjax.hpo.contenders import Contender
from lrjax.hpo.points import CLIP, Scale
from lrjax.launch import blocks
from lrjax.methods import METHODS

RULES = ("adam", "nadamw_cosine", "prodigy", "schedule_free_adamw")
GUESS, SINGLE = "known tasks", "best on other families"
GUARDED = "NadamW where unlike"


def truth(runs_dir: Path, rates_dir: Path) -> pd.DataFrame:
    """Regret in points by task (rows) and contender (method, rate; columns)."""
    plain = tables.read(runs_dir, None).runs
    plain = plain[plain["method"].isin(ladder.METHODS)]
    grid = tables.scored(results.load(rates_dir)[0], rates_dir, "test")
    columns = ["task", "method", "hparams", "points"]
    both = pd.concat([plain[columns], grid[columns]], ignore_index=True)
    keys = [_key(row.method, row.hparams) for row in both.itertuples()]
    both["method"] = [method for method, _ in keys]
    both["rate"] = [rate for _, rate in keys]
    by_contender = both.groupby(["task", "method", "rate"])["points"]
    mean = by_contender.mean().unstack(["method", "rate"])
    mean = mean.loc[plain["task"].unique()]
    best = mean.replace(-np.inf, np.nan).max(axis=1)
    return -mean.sub(best, axis=0).clip(lower=-CLIP)


def _key(method: str, hparams: Mapping[str, Any]) -> tuple[str, float]:
    """A contender as a prior knows it."""
    contender = Contender(METHODS[method], tuple(hparams.items()), method)
    return prior.key_of(method, contender.rate)


def guessed(name: str, contenders: pd.MultiIndex, data_dir: str | None) -> tuple:
    """The contender that known tasks name, after a look at a task."""
    settings = config_lib.check(ladder.get_config(f"full:{name}"))
    (task,) = blocks.make_tasks(settings, data_dir)
    horizon = settings.updates(name, task.steps_per_epoch)
    described, _ = lineup.look(name, task, horizon, lambda _: None)
    table = prior.known(Scale.of(task.metric).kind)
    candidates = [
        prior.Candidate(method, rate if rate > 0 else math.nan)
        for method, rate in contenders
    ]
    found = prior.believe(table, candidates, described)
    return contenders[int(found.belief.mean.argmax())], found.unlike


def judge(behind: pd.DataFrame, data_dir: str | None) -> pd.DataFrame:
    """Regret of each rule by task, and whom known tasks name there."""
    families = behind.index.map(tables.family)
    rows = []
    for task, family in zip(behind.index, families, strict=True):
        own = behind.loc[task].dropna()
        named, unlike = guessed(task, own.index, data_dir)
        elsewhere = behind.loc[families != family, own.index].mean()
        row = {"task": task, "family": family, "named": named, "unlike": unlike}
        row |= {GUESS: own[named], SINGLE: own[elsewhere.idxmin()]}
        for rule in RULES:
            defaults = [key for key in own.index if key[0] == rule]
            row[rule] = own[defaults].iloc[0]
        row[GUARDED] = row["nadamw_cosine" if unlike else GUESS]
        rows.append(row)
        print(
            f"{task}: {named[0]} {named[1]:g}, {own[named]:.2f} behind", file=sys.stderr
        )
    return pd.DataFrame(rows).set_index("task")


def report(judged: pd.DataFrame) -> None:
    """Print mean regrets with intervals, by family and over all tasks."""
    rules = [GUESS, GUARDED, SINGLE, *RULES]
    groups = [("all", judged), *judged.groupby("family", sort=False)]
    rows = []
    for name, own in groups:
        cells = [f"{name} ({len(own)})"]
        for rule in rules:
            found = tables.mean_with_interval(own[rule])
            cells.append(tables.shown(found) if len(own) > 3 else f"{found[0]:.2f}")
        rows.append(cells)
    tables.print_table(["family (tasks)", *rules], rows)
    print()
    tables.print_table(
        ["task", "named by known tasks", "regret", "unlike all known"],
        [
            [
                task,
                " ".join(map(str, row["named"])).replace(" -1.0", ""),
                f"{row[GUESS]:.2f}",
                "yes" if row["unlike"] else "",
            ]
            for task, row in judged.iterrows()
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--runs", type=Path, help="working directory of full")
    parser.add_argument("--rates", type=Path, help="working directory of rates")
    parser.add_argument("--data_dir", help="where the tasks' data are")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        if given.runs is None:
            given.runs, given.rates = (Path(temporary) / n for n in ("ladder", "rates"))
            kept.unpack(tables.KEPT, {"ladder": given.runs, "rates": given.rates})
        report(judge(truth(given.runs, given.rates), given.data_dir))


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
