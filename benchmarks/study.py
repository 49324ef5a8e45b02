r"""The tables of docs/libsvm.md, from the directories that configs/study.py fills.

  python -m benchmarks.study                  # of the tables in results/study
  python -m benchmarks.study --runs=runs      # of runs/study, runs/sound and runs/grid
  python -m benchmarks.study --keep           # compresses those into results/study
  python -m benchmarks.study --unpack         # and writes them there again

Under `study` runs are judged by training loss, as there; under `sound` by the test
part, which nothing was chosen by. Prints Markdown; trains nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats as tests

from benchmarks import kept
from lrjax import results
from lrjax.analysis import portfolio, stats
from lrjax.analysis import scores as scores_lib

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "results" / "study"
PARTS = ("study", "sound", "grid")
NEAR = 0.05  # of the span between worst and best: what counts as near the best


def load(workdir: Path, metric: str) -> pd.DataFrame:
    """All runs of a directory, named and judged by a metric."""
    return scores_lib.judge(scores_lib.arrange(results.load(workdir)[0]), (metric,))


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def by_size(runs: pd.DataFrame) -> list[str]:
    """Tasks, the one with fewest examples first."""
    return list(runs.groupby("task")["examples"].max().sort_values().index)


def scores(runs: pd.DataFrame, percent: bool) -> str:
    """Mean and 95 % interval of every entry on every task, best mean rank first."""
    order = stats.mean_ranks(runs)
    tasks = by_size(runs)
    rows = []
    for entry in order.index:
        cells = []
        for task in tasks:
            part = runs[(runs["task"] == task) & (runs["entry"] == entry)]
            values = part["value"].dropna().to_numpy()
            metric = scores_lib.metric_of(str(part["metric"].iloc[0]))
            ends = stats.interval(values, metric)
            lost = int(part["value"].isna().sum())
            mean, low, high = (
                f"{100 * x:.1f}" if percent else f"{x:.4f}"
                for x in (values.mean() if len(values) else np.nan, *ends)
            )
            text = f"{mean} ({low} to {high})"
            cells.append(text + f" ({lost} diverged)" * (lost > 0))
        rows.append([f"`{entry}`", f"{order[entry]:.2f}", *cells])
    return markdown(["method", "rank", *(t.split("/")[-1] for t in tasks)], rows)


def reliability(runs: pd.DataFrame) -> str:
    """Where each entry is near the best, and where it fails most."""
    comparison = stats.complete(runs)
    unit = stats.normalise(comparison.scores).groupby(level="task").mean()
    overall = stats.overall(comparison)
    rows = []
    for entry in overall.index:
        worst = unit[entry].idxmin()
        row = overall.loc[entry]
        rows.append(
            [
                f"`{entry}`",
                f"{row['rank']:.2f} ({row['rank_low']:.2f} to {row['rank_high']:.2f})",
                f"{row['iqm']:.2f} ({row['iqm_low']:.2f} to {row['iqm_high']:.2f})",
                f"{int((unit[entry] >= unit.max(axis=1) - NEAR).sum())} of {len(unit)}",
                f"{unit[entry].min():.2f} on {str(worst).split('/')[-1]}",
            ]
        )
    head = ["method", "mean rank", "middle half of normalised scores"]
    return markdown([*head, "tasks near the best", "worst task's score"], rows)


def selection(runs: pd.DataFrame) -> str:
    """Single best, virtual best, and what can be said without luck."""
    comparison = stats.complete(runs)
    unit = stats.normalise(comparison.scores)
    means = unit.groupby(level="task").mean()
    single = portfolio.single_best(means)
    best = portfolio.virtual_best(means)
    held = portfolio.held_out(unit)
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(2000):  # tasks drawn anew
        drawn = means.iloc[rng.integers(0, len(means), len(means))]
        drawn = drawn.set_axis(range(len(drawn))).rename_axis("task")
        gaps.append(drawn.max(axis=1).mean() - drawn.mean().max())
    low, high = np.quantile(gaps, [0.025, 0.975])
    pairs = portfolio.best_portfolios(means).iloc[:3]
    reached, oracle = means[single].mean(), best["score"].mean()
    bests = (f"{t.split('/')[-1]} `{e}`" for t, e in best["entry"].items())
    held_out = f"{held[0]:.3f} and {held[1]:.3f}"
    rows = [
        ["single best", f"`{single}`: {reached:.3f} of 1"],
        ["virtual best", f"{oracle:.3f}"],
        ["gap", f"{oracle - reached:.3f} ({low:.3f} to {high:.3f} over tasks)"],
        ["both, chosen on all runs but one and judged by that one", held_out],
        ["best on", ", ".join(bests)],
    ]
    for pair in pairs.itertuples():
        if pair.k > 1:
            members = ", ".join(f"`{member}`" for member in pair.members)
            rows.append([f"best {pair.k} together", f"{pair.score:.3f}: {members}"])
    return markdown(["of normalised scores", ""], rows)


def tuning(runs: pd.DataFrame) -> str:
    """What tuning gains over a method's default, small tasks first."""
    tasks = by_size(runs)
    entries = set(runs["entry"])
    pairs = [(e, e.removeprefix("smac:")) for e in sorted(entries) if "smac:" in e]
    means = runs.groupby(["task", "entry"])["value"].mean().unstack()
    rows = []
    for tuned, plain in pairs:
        if plain not in entries:
            continue
        gain = np.log(means[plain] / means[tuned]).reindex(tasks)
        rho = tests.spearmanr(np.arange(len(tasks)), gain, nan_policy="omit").statistic
        cells = [f"{np.exp(g):.2f}" if np.isfinite(g) else "-" for g in gain]
        rows.append([f"`{plain}`", *cells, f"{rho:+.2f}"])
    names = [t.split("/")[-1] for t in tasks]
    return markdown(["method", *names, "rank correlation with size"], rows)


def grid(runs: pd.DataFrame, test: pd.DataFrame) -> str:
    """Best rate of each method by validation loss, and how wide the good range is."""
    rows = []
    for task in by_size(runs):
        for method in sorted(set(runs["method"])):
            part = runs[(runs["task"] == task) & (runs["method"] == method)]
            means = part.groupby("rate")["value"].mean().dropna()
            best = means.idxmin()
            good = means.index[means <= 1.1 * means.min()]
            judged = test[(test["task"] == task) & (test["method"] == method)]
            value = judged[judged["rate"] == best]["test_accuracy"].mean()
            rows.append(
                [
                    task.split("/")[-1],
                    f"`{method}`",
                    f"{best:.3g}",
                    f"{good.min():.2g} to {good.max():.2g}",
                    f"{100 * value:.1f}",
                ]
            )
    head = ["data set", "method", "best rate", "rates within 10 % of its loss"]
    return markdown([*head, "test accuracy"], rows)


def sections(folder: Path) -> Iterator[tuple[str, str]]:
    """Title and text of each table.

    Args:
      folder: has the working directories `PARTS`.
    """
    study = load(folder / "study", "train_loss")
    yield "study: training loss", scores(study, percent=False)
    yield "study: near the best", reliability(study)
    yield "study: selecting", selection(study)
    accuracy = load(folder / "sound", "test_accuracy")
    yield "sound: test accuracy", scores(accuracy, percent=True)
    sound = load(folder / "sound", "test_loss")
    yield "sound: test loss", scores(sound, percent=False)
    yield "sound: near the best", reliability(sound)
    yield "sound: selecting", selection(sound)
    untuned = sound[~sound["entry"].str.startswith("smac:")]
    yield "sound: selecting among defaults", selection(untuned)
    yield "sound: what tuning gains", tuning(sound)
    rates = load(folder / "grid", "valid_loss")
    rates["rate"] = rates["hparams"].map(lambda h: h["learning_rate"])
    yield "grid: rates", grid(rates, rates)


def main() -> None:
    """Keep, unpack or report."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--runs", type=Path, help="folder of the working directories")
    parser.add_argument("--keep", action="store_true", help="compress their tables")
    parser.add_argument("--unpack", action="store_true", help="write them again")
    given = parser.parse_args()
    runs = given.runs or Path("runs")
    folders = {name: runs / name for name in PARTS}
    if given.keep:
        return kept.keep(KEPT, folders, curve_rows=2)
    if given.unpack:
        return kept.unpack(KEPT, folders)
    with tempfile.TemporaryDirectory() as temporary:
        if not given.runs:
            runs = Path(temporary)
            kept.unpack(KEPT, {name: runs / name for name in PARTS})
        text = [f"## {title}\n\n{table}" for title, table in sections(runs)]
    print("\n\n".join(text))
    return None


if __name__ == "__main__":
    main()
