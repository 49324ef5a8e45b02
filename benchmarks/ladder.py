r"""What the tables of `configs/ladder.py` say of the study's claims.

  python -m benchmarks.ladder                        # of the tables in results/ladder
  python -m benchmarks.ladder --runs=runs/ladder --rates=runs/rates
  python -m benchmarks.ladder --keep --data_dir=DATA  # of runs/ladder and runs/rates
  python -m benchmarks.ladder --unpack               # into runs/ladder and runs/rates
  python -m benchmarks.ladder --figure=docs/ladder.png

`--keep` compresses tables into results/ladder, curves thinned to ten rows a run, with
the place of each task: parameters, updates, floating-point operations. `--unpack` puts
them where the commands of the config go on from them.

Regret: points of the test metric behind the best entry's mean on a task (a point is a
hundredth of accuracy, two per cent of other metrics), at most ten. Intervals are the
middle 95 % over 2,000 draws of tasks with replacement.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from benchmarks import kept
from configs import ladder
from lrjax import config as config_lib
from lrjax import results
from lrjax.analysis import curves as curves_lib
from lrjax.analysis import early_order
from lrjax.core import Task, UsageError
from lrjax.hpo.points import CLIP, Scale, points

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "results" / "ladder"
PLACES = "places.json"
DRAWS = 2000
SEEDS = 3  # that every task has
LEARNING_RATE_FREE = ("dadapt_adam", "prodigy", "cocob", "dowg", "dog")
TUNED = "random:"
IMAGES = ("digits/", "fashion_mnist/")
_OTHERS_OF_DIGITS = ("digits/logistic", "digits/diffusion")
GRID = ("adamw_cosine", "momentum")  # methods of `rates`
# Pairs of a smaller task and a larger one of the same kind.
TWINS = (
    *((f"digits/{m}", f"fashion_mnist/{m}") for m in ("mlp", "lstm", "cnn", "vit")),
    ("digits/logistic", "digits/mlp"),
    ("digits/mlp", "digits/cnn"),
    ("digits/cnn", "digits/wrn"),
)


# Numbers of tasks, of which some may come several times -> a figure.
Statistic = Callable[[np.ndarray], float]


# What is kept


def keep(folders: Mapping[str, Path], data_dir: str | None) -> None:
    """Compress tables into `KEPT`, with the places of their tasks.

    Args:
      folders: name below `KEPT` -> working directory.
      data_dir: where the tasks' data are.
    """
    names = {str(n) for f in folders.values() for n in results.load(f)[0]["task"]}
    known = json.loads((KEPT / PLACES).read_text()) if (KEPT / PLACES).exists() else {}
    for name in sorted(names - set(known)):
        known[name] = place(name, data_dir)
    (KEPT / PLACES).write_text(json.dumps(known, indent=1) + "\n")
    kept.keep(KEPT, folders)


def place(name: str, data_dir: str | None) -> dict[str, float]:
    """Parameters of a task, updates of a run, operations and rows of an update."""
    import jax

    from lrjax.engine import strategy
    from lrjax.launch import blocks as blocks_lib

    settings = config_lib.check(ladder.get_config(f"full:{name}"))
    (task,) = blocks_lib.make_tasks(settings, data_dir)
    params, _ = strategy.model_shapes(task.init)
    return {
        "parameters": sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params)),
        "updates": settings.updates(name, task.steps_per_epoch),
        "operations": _operations(task),
        "batch": task.batch_size,
        "rows": task.num_examples,
    }


def _operations(task: Task) -> float:
    """Floating-point operations of an update, counted by XLA before it compiles."""
    import jax

    from lrjax.engine import strategy

    params, model_state, key, batch = strategy.loss_arguments(
        task.init, strategy.batch_shapes(task), task.batch_size
    )
    gradient = jax.jit(jax.grad(task.loss, has_aux=True))
    lowered = gradient.lower(params, model_state, key, batch)
    return (lowered.cost_analysis() or {}).get("flops", 0.0)


# What is read


class Study(NamedTuple):
    """Tables of the ladder.

    Attributes:
      runs: a row per run: task, entry, seed, points on the test part.
      rates: settled learning rates by task and entry.
      grid: a row per run at a given rate: task, method, rate, validation score.
      places: task -> what `place` says.
    """

    runs: pd.DataFrame
    rates: pd.DataFrame
    grid: pd.DataFrame
    places: Mapping[str, Mapping[str, float]]


def read(runs_dir: Path, rates_dir: Path | None) -> Study:
    """Read working directories."""
    runs, curves = results.load(runs_dir)
    runs = scored(runs, runs_dir, "test")
    runs["entry"] = runs["method"]
    whole = finished(runs, "full", ("", TUNED))
    for task in sorted(set(runs["task"]) - whole):
        print(f"{task} is under way and left out", file=sys.stderr)
    runs = runs[runs["task"].isin(whole)]
    joined = curves_lib.join(runs.assign(length=runs["steps"]), curves)
    grid = pd.DataFrame(columns=["task", "method", "rate", "seed", "points"])
    if rates_dir is not None and (rates_dir / "runs.jsonl").exists():
        grid = scored(results.load(rates_dir)[0], rates_dir, "valid")
        grid["rate"] = [float(h["learning_rate"]) for h in grid["hparams"]]
        grid = grid[grid["task"].isin(finished(grid, "rates", ("",)))]
    places = json.loads((KEPT / PLACES).read_text())
    return Study(runs, curves_lib.settled_rates(joined), grid, places)


def finished(runs: pd.DataFrame, part: str, starts: Sequence[str]) -> set[str]:
    """Tasks on which all methods of a part of the config have all their runs.

    Args:
      runs: of any tasks.
      part: of the config, such as 'full'.
      starts: what each method's name stands behind, such as `TUNED`.
    """
    found = set()
    for task, own in runs.groupby("task"):
        asked = config_lib.check(ladder.get_config(f"{part}:{task}")).on(str(task))
        points_of_grid = math.prod(map(len, asked.grid.values()))
        wanted = len(asked.seeds) * points_of_grid
        counts = own["method"].value_counts()
        entries = [start + method for method in asked.methods for start in starts]
        if all(counts.get(entry, 0) >= wanted for entry in entries):
            found.add(str(task))
    return found


def scored(runs: pd.DataFrame, folder: Path, part: str) -> pd.DataFrame:
    """Add `points`: the first metric of each task on a part; -inf where diverged."""
    metrics, found = results.load_metrics(folder), []
    for task, own in runs.groupby("task", sort=False):
        first = metrics[str(task)][0]
        values = own[f"{part}_{first.name}"].where(own["status"] == "done")
        scaled = points(values.to_numpy(float), Scale.of(first))
        found.append(own.assign(points=scaled))
    return pd.concat(found, ignore_index=True)


def regrets(runs: pd.DataFrame) -> pd.DataFrame:
    """Regret of every run: index (task, seed), columns entry."""
    wide = runs.pivot_table(
        index=["task", "seed"], columns="entry", values="points", aggfunc="first"
    )
    best = wide.replace(-np.inf, np.nan).groupby(level="task").mean().max(axis=1)
    behind = -wide.sub(best, axis=0, level="task")
    return behind.clip(upper=CLIP)


def of_images(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean test accuracy in per cent: index method at its defaults, best first.

    Columns are the tasks that networks classify images in.
    """
    tasks = [task for task in ladder.TASKS if task.startswith(IMAGES)]
    tasks = [task for task in tasks if task not in _OTHERS_OF_DIGITS]
    own = runs[runs["task"].isin(tasks) & ~runs["entry"].str.startswith(TUNED)]
    means = own.groupby(["entry", "task"])["points"].mean().unstack()
    order = means.rank(ascending=False).mean(axis=1).sort_values(kind="stable").index
    return means.loc[order, [task for task in tasks if task in means]]


def family(task: str) -> str:
    """The kind of model of a task."""
    for name, tasks in ladder.FAMILIES.items():
        if task in tasks:
            return name
    raise KeyError(task)


def interval(statistic: Statistic, count: int) -> tuple[float, float, float]:
    """A statistic of tasks, and the middle 95 % of it over draws of tasks.

    Args:
      statistic: of the numbers of tasks, of which some may come several times.
      count: number of tasks.
    """
    draws = np.random.default_rng(0).integers(count, size=(DRAWS, count))
    with warnings.catch_warnings(action="ignore"):  # of draws that are all one task
        drawn = [statistic(draw) for draw in draws]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return statistic(np.arange(count)), float(low), float(high)


def shown(found: tuple[float, float, float], digits: int = 2) -> str:
    """A statistic with its interval."""
    value, low, high = (f"{each:.{digits}f}" for each in found)
    return f"{value} ({low} to {high})"


# What is asked


def mean_regret(behind: pd.DataFrame) -> pd.DataFrame:
    """Mean regret by task (rows) and entry (columns)."""
    return behind.groupby(level="task").mean()


def selection(behind: pd.DataFrame) -> dict[str, Statistic]:
    """Regret of the single best entry and of the best on each task, without hindsight.

    Chosen on all seeds but one and judged by that one, over the first `SEEDS`.

    Args:
      behind: as returned by `regrets`.
    """
    seeds = behind.index.get_level_values("seed")
    folds = [
        (behind.xs(s, level="seed"), mean_regret(behind[seeds != s]))
        for s in range(SEEDS)
    ]
    judged = np.stack([each.to_numpy() for each, _ in folds])  # [seeds, tasks, entries]
    means = np.stack([each.to_numpy() for _, each in folds])

    def single(tasks: np.ndarray) -> float:
        """Regret of the entry with the least mean over the tasks."""
        best = means[:, tasks].mean(axis=1).argmin(axis=1)
        return float(np.mean([judged[s, tasks, e].mean() for s, e in enumerate(best)]))

    own = np.take_along_axis(judged, means.argmin(axis=2)[:, :, None], 2)[:, :, 0]

    def virtual(tasks: np.ndarray) -> float:
        """Regret of each task's own best."""
        return float(own[:, tasks].mean())

    return {
        "single": single,
        "virtual": virtual,
        "gap": lambda tasks: single(tasks) - virtual(tasks),
    }


def value_of_tuning(means: pd.DataFrame) -> pd.DataFrame:
    """Points that tuning gains, by task (rows) and method (columns)."""
    methods = [m for m in means if f"{TUNED}{m}" in means]
    return pd.DataFrame({m: means[m] - means[f"{TUNED}{m}"] for m in methods})


def correlation(values: pd.Series, sizes: pd.Series) -> Statistic:
    """Spearman's rank correlation with a size."""
    x, y = values.to_numpy(), sizes.loc[values.index].to_numpy(float)
    return lambda tasks: float(scipy.stats.spearmanr(x[tasks], y[tasks]).statistic)


def rate_ratios(study: Study) -> pd.DataFrame:
    """Settled rates of learning-rate-free methods over the best rates of a grid.

    Those that are kinds of Adam are compared with AdamW under a cosine, the others with
    SGD with momentum, a tenth of whose rate has the same effect on a smooth loss.
    """
    mean = study.grid.groupby(["task", "method", "rate"])["points"].mean()
    best = {}
    for (task, method), own in mean.groupby(level=["task", "method"]):
        best[task, method] = own.idxmax()[2]
    rows = []
    for row in study.rates.itertuples():
        if row.entry not in LEARNING_RATE_FREE:
            continue
        adam = row.entry in ("dadapt_adam", "prodigy")
        other = best.get((row.task, "adamw_cosine" if adam else "momentum"))
        if other:
            # A cosine's median over training is half of its peak; momentum of 0.9
            # sums ten gradients.
            equal = other / 2 if adam else other * 10
            rows.append((row.task, row.entry, row.learning_rate / equal))
    return pd.DataFrame(rows, columns=["task", "entry", "ratio"])


def tau(x: Any, y: Any) -> float:
    """Kendall's tau-b of two orders."""
    weights = np.ones((1, len(x)))
    return float(early_order.weighted_tau(np.asarray(x), np.asarray(y), weights)[0])


def twins(study: Study, means: pd.DataFrame) -> pd.DataFrame:
    """How well the order on a smaller task predicts that on a larger one."""
    grid = study.grid.groupby(["task", "method", "rate"])["points"].mean()
    rows = []
    for small, large in TWINS:
        row: dict[str, Any] = {"smaller": small, "larger": large}
        for method in GRID:
            if (small, method) in grid.index and (large, method) in grid.index:
                row[method] = tau(grid.loc[small, method], grid.loc[large, method])
        if small in means.index and large in means.index:
            both = means.loc[[small, large]].dropna(axis=1)
            plain = [e for e in both if not e.startswith(TUNED)]
            row["methods"] = tau(-both.loc[small, plain], -both.loc[large, plain])
        if len(row) > 2:
            rows.append(row)
    return pd.DataFrame(rows)


# What is shown


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    print("| " + " | ".join(head) + " |")
    print("|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def report(study: Study) -> None:
    """Print all tables in Markdown."""
    behind = regrets(study.runs)
    means = mean_regret(behind)
    everywhere = means.dropna(axis=1).columns
    tasks = list(means.index)
    places = pd.DataFrame(study.places).T.loc[tasks]
    places["family"] = [family(task) for task in tasks]
    places["all"] = places["operations"] * places["updates"]
    left = len(ladder.TASKS) - len(tasks)
    print(f"## Tasks: {len(tasks)}, and {left} without runs\n")
    print_table(
        ["task", "family", "parameters", "updates", "operations of a run"],
        [
            [
                str(task),
                row.family,
                f"{row.parameters:,.0f}",
                f"{row.updates:,.0f}",
                f"{row['all']:.1e}",
            ]
            for task, row in places.sort_values("parameters").iterrows()
        ],
    )
    print("\n## Test accuracy on images, %\n")
    accuracies = of_images(study.runs)
    rows = []
    for method, row in accuracies.iterrows():
        rows.append([f"`{method}`", *(f"{x:.1f}".replace("nan", "") for x in row)])
    print_table(["method", *(f"`{task}`" for task in accuracies)], rows)
    by_family = means.groupby([family(t) for t in tasks]).mean()
    names = list(by_family.index)
    print("\n## Mean regret by family, points\n")
    rows = []
    for entry in means.mean().sort_values().index:
        own = means[entry].dropna()
        value = shown(mean_with_interval(own))
        worst = f"{(own >= CLIP - 0.5).sum()} of {len(own)}"
        cells = [f"{by_family.loc[n, entry]:.2f}".replace("nan", "") for n in names]
        rows.append([f"`{entry}`", value, *cells, worst])
    print_table(["entry", "all", *names, "at 10 points"], rows)
    print("\n## Single best and best on each task\n")
    groups = {"all": tasks, **{n: [t for t in tasks if family(t) == n] for n in names}}
    groups = {n: own for n, own in groups.items() if len(own) > 2}  # else no gap
    plain = [e for e in everywhere if not e.startswith(TUNED)]
    rows = []
    for name, own in groups.items():
        for label, entries in (("defaults", plain), ("all", list(everywhere))):
            found = selection(behind.loc[own, entries]).values()
            cells = [shown(interval(each, len(own))) for each in found]
            rows.append([f"{name} ({len(own)})", label, *cells])
    print_table(["tasks", "entries", "single best", "best on each", "gap"], rows)
    gains = value_of_tuning(means)
    print("\n## Points gained by tuning\n")
    rows = []
    for method in [*gains, "mean of all"]:
        values = gains.mean(axis=1) if method == "mean of all" else gains[method]
        values = values.dropna()
        cells = [shown(mean_with_interval(values))]
        for size in ("parameters", "updates", "all"):
            of = correlation(values, places[size])
            cells.append(shown(interval(of, len(values))))
        rows.append([method, *cells])
    sizes = ["with parameters", "with updates", "with operations"]
    print_table(["method", "mean", *sizes], rows)
    print("\n## Settled rates of learning-rate-free methods over the best rate\n")
    ratios = rate_ratios(study)
    if len(ratios):
        ratios["family"] = ratios["task"].map(family)
        table = ratios.groupby(["entry", "family"])["ratio"]
        logs = table.agg(lambda r: 10 ** np.log10(r).mean()).unstack()
        print_table(
            ["method", *logs.columns],
            [
                [m, *(f"{v:.2g}" for v in row)]
                for m, row in zip(logs.index, logs.values, strict=True)
            ],
        )
    pairs = twins(study, means)
    if len(pairs):
        print("\n## Kendall's tau between twins\n")
        rows = pairs.values.tolist()
        cells = [[c if isinstance(c, str) else f"{c:.2f}" for c in row] for row in rows]
        taus = [pairs[name].dropna() for name in pairs.columns[2:]]
        cells.append(["mean", "", *(shown(mean_with_interval(each)) for each in taus)])
        print_table(list(pairs), cells)


def mean_with_interval(values: pd.Series) -> tuple[float, float, float]:
    """The mean of a figure of each task, with its interval."""
    found = values.to_numpy(float)
    return interval(lambda tasks: float(found[tasks].mean()), len(found))


def draw(study: Study, path: Path) -> None:
    """Draw the mean regret of every entry, by family: one column of dots for each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    means = mean_regret(regrets(study.runs))
    families = pd.Series([family(str(task)) for task in means.index], means.index)
    by_family, counts = means.groupby(families).mean(), families.value_counts()
    methods = [m for m in means if not m.startswith(TUNED)]
    methods.sort(key=lambda m: -means[m].mean())
    places = np.arange(len(methods))
    columns = len(by_family)
    figure, axes = plt.subplots(
        1,
        columns,
        sharey=True,
        figsize=(2 + 3 * columns, 4.8),
        squeeze=False,
        layout="constrained",
    )
    for ax, name in zip(axes[0], by_family.index, strict=True):
        plain = by_family.loc[name, methods].to_numpy()
        best = by_family.loc[name, [f"{TUNED}{m}" for m in methods]].to_numpy()
        ax.hlines(places, plain, best, color="0.8", zorder=1)
        ax.plot(plain, places, "o", color="tab:blue", label="default")
        ax.plot(best, places, "D", color="tab:orange", label="tuned, 8 full runs")
        ax.set_title(f"{name} ({counts[name]} tasks)")
        ax.set_xlim(0, None)
        ax.grid(axis="x", color="0.9")
    axes[0, 0].set_yticks(places, methods)
    names = axes[0, 0].get_legend_handles_labels()
    figure.legend(*names, loc="outside upper right", ncols=2)
    figure.supxlabel("points of the test metric behind the best entry, mean")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Keep, unpack, draw or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, help="directory of full (runs/ladder)")
    parser.add_argument("--rates", type=Path, help="directory of rates (runs/rates)")
    parser.add_argument("--data_dir", help="where data of tasks are, for --keep")
    parser.add_argument("--keep", action="store_true", help="compress the tables")
    parser.add_argument(
        "--unpack", action="store_true", help="write them to go on from"
    )
    parser.add_argument("--figure", type=Path, help="file to draw into")
    try:
        _run(parser.parse_args())
    except UsageError as error:
        sys.exit(f"error: {error}")


def _run(given: argparse.Namespace) -> None:
    """Do what the flags say."""
    folders = {
        "ladder": given.runs or ROOT / "runs" / "ladder",
        "rates": given.rates or ROOT / "runs" / "rates",
    }
    if given.keep:
        return keep(folders, given.data_dir)
    if given.unpack:
        return kept.unpack(KEPT, folders)
    with tempfile.TemporaryDirectory() as folder:
        if not given.runs:
            folders = {name: Path(folder) / name for name in folders}
            kept.unpack(KEPT, folders)
        study = read(folders["ladder"], folders["rates"])
    if given.figure:
        return draw(study, given.figure)
    report(study)


if __name__ == "__main__":
    main()
