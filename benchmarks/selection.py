r"""How far what a selection answers is from the best there is, from tables.

    python benchmarks/selection.py [--kind=ratio]
    python benchmarks/selection.py --tables=DIR --judged=DIR2
    python benchmarks/selection.py --tables=DIR

The first judges the tables in `results/`, the second others, on tasks that no prior
knows (`selection_tables.py --judged`); the third on the known tables themselves, each
family of tasks with a prior of all others. `--kind=ratio`: tasks with a loss. The
code that decides is lrjax's own; only the training is looked up. Regret: mean test
points over six runs of the best contender less those of the one chosen, at most 10.
Excess: regret above that of an oracle, who knows the test scores of two runs of every
contender, as a share of the single best's, the contender that is best on known tasks.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import joint_search, priors, rate_finder
from benchmarks.across_tasks.earlier_race import halving, rungs
from benchmarks.across_tasks.earlier_race.verdicts import Score
from lrjax import methods
from lrjax.hpo import points, posterior, prior, proposals

BUDGETS = (2, 4, 8, 16)
_RESULTS = Path(__file__).resolve().parents[1] / "results"
_RESAMPLES = 4000
_TAIL = 9.99  # points of regret: as bad as it gets
# Who entered a race first before there were priors, the first most.
_ENTERED = (
    *("mechanic", "ldog", "adam 0.01", "schedule_free_radam 1", "adamw_cosine 0.01"),
    *("dadapt_sgd", "schedule_free_radam 0.01", "nadamw_cosine 0.1"),
    *("schedule_free_sgd", "greedy_lr 0.01", "adamw_cosine 1", "cocob"),
)
_ORDER = (0, 3, 1, 4, 2, 5)  # rows of a table: validation rows change every time


class Known(NamedTuple):
    """What a selection knows when it begins.

    Attributes:
      table: known tasks.
      robust: contenders that work on most of them.
      single: the best on average.
      believed: what is expected on this task.
    """

    table: prior.Known
    robust: list[int]
    single: int
    believed: prior.Prior


class Outcome(NamedTuple):
    """What a selection came to.

    Attributes:
      who: number of the contender.
      best, near: the probabilities that it gave; NaN if it gave none.
      rivals: contenders of which it is the best with probability `best`.
    """

    who: int
    best: float = math.nan
    near: float = math.nan
    rivals: tuple[int, ...] = ()


Choose = Callable[[priors.Table, Known], Outcome]


def main() -> None:
    """Print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--judged", type=Path)
    parser.add_argument("--kind", default=points.SHARE)
    parser.add_argument("--only", default="", help="names with commas between")
    args = parser.parse_args()
    if not args.tables:
        args.tables = _RESULTS / "selection_known.zip"
        args.judged = args.judged or _RESULTS / "selection_judged.zip"
    tables = priors.read(args.tables, args.kind)
    ways = all_ways(tables[0].contenders)
    if args.only:
        ways = {n: way for n, way in ways.items() if n in args.only.split(",")}
    judged = priors.read(args.judged, args.kind) if args.judged else tables
    if not args.judged:
        judging_only = ("earlier race", "Optuna", "rate finder")
        ways = {n: way for n, way in ways.items() if not n.startswith(judging_only)}
    found = judge(tables, judged, ways, apart=not args.judged)
    report(judged, found)


def _finder(keys: Sequence[str], answer: str) -> Choose:
    """AdamW with a cosine at the rate that a range test found, or the nearest here."""
    space = joint_search.Space(keys)

    def choose(table: priors.Table, known: Known) -> Outcome:
        found = json.loads(rate_finder.FOUND.read_text())[table.name]
        return Outcome(space.nearest("adamw_cosine", found[answer]))

    return choose


def all_ways(keys: Sequence[str]) -> dict[str, Choose]:
    """Everything that is judged, by name."""

    def fixed(key: str) -> Choose:
        return lambda table, known: Outcome(keys.index(key))

    nadamw = [i for i, key in enumerate(keys) if key.split()[0] == "nadamw_cosine"]
    ways: dict[str, Choose] = {
        "single best": lambda table, known: Outcome(known.single),
        "Adam at 1e-3": fixed("adam"),
        "AdamW, cosine, 1e-3": fixed("adamw_cosine 0.001")
        if "adamw_cosine 0.001" in keys
        else fixed("adamw_cosine"),
        "AdamW, cosine, 1e-2": fixed("adamw_cosine 0.01"),
        "Prodigy, cosine": fixed("prodigy"),
        "schedule-free AdamW": fixed("schedule_free_adamw"),
        "NadamW, cosine, calibrated": lambda table, known: Outcome(
            nadamw[int(known.table.regret[:, nadamw].mean(0).argmax())]
        ),
        "NadamW, cosine, its rates, 5 runs": lambda table, known: raw_best(
            table, _best_of(known, nadamw, 5), 1
        ),
        "rate finder, a tenth; AdamW, cosine": _finder(keys, "tenth"),
        "rate finder, steepest; AdamW, cosine": _finder(keys, "steepest"),
        "prior (1 run)": way(proposals.PRIOR, 1),
    }
    for budget in BUDGETS:
        ways[f"race at {budget}"] = way(proposals.RACE, budget)
        ways[f"list, highest score, {budget}"] = lambda table, known, count=budget: (
            raw_best(table, known.robust[:count], 1)
        )
        ways[f"random search, {budget}"] = lambda table, known, count=budget: raw_best(
            table, _drawn(table, count), 1
        )
        ways[f"earlier race at {budget}"] = lambda table, known, count=budget: (
            earlier_race(table, count)
        )
    for budget in BUDGETS[2:]:
        ways[f"Optuna's TPE at {budget}"] = lambda table, known, count=budget: Outcome(
            joint_search.tpe(table, count, _ORDER)
        )
        ways[f"SMAC at {budget}"] = lambda table, known, count=budget: Outcome(
            joint_search.smac(table, count, _ORDER)
        )
    everyone = list(range(len(keys)))
    ways["bake-off (104 runs and 12)"] = way(proposals.BAKEOFF, len(keys) + 12)
    ways["bake-off, 104 runs only"] = way(proposals.BAKEOFF, len(keys))
    ways["all, highest score, 1 run each"] = lambda table, known: raw_best(
        table, everyone, 1
    )
    ways["all, highest score, 6 runs each"] = lambda table, known: raw_best(
        table, everyone, 6
    )
    return ways


def _best_of(known: Known, among: Sequence[int], count: int) -> list[int]:
    """Of some contenders those that are best on known tasks."""
    mean = known.table.regret[:, among].mean(0)
    return [among[i] for i in np.argsort(-mean, kind="stable")[:count]]


def _drawn(table: priors.Table, count: int) -> list[int]:
    """Contenders at random, others for each task."""
    seed = joint_search.seed_of(table)
    drawn = np.random.RandomState(seed).permutation(len(table.contenders))
    return drawn[:count].tolist()


def greedy(table: prior.Known, count: int) -> list[int]:
    """A list that works on most known tasks: each adds most to those before it.

    Args:
      table: what is known.
      count: its length.

    Returns:
      Numbers of the table's contenders.
    """
    reached = np.full(len(table.regret), -points.CLIP)
    chosen: list[int] = []
    for _ in range(min(count, table.regret.shape[1])):
        gains = np.maximum(table.regret, reached[:, None]).mean(0)
        gains[chosen] = -np.inf
        chosen.append(int(gains.argmax()))
        reached = np.maximum(reached, table.regret[:, chosen[-1]])
    return chosen


def raw_best(table: priors.Table, among: Sequence[int], runs: int) -> Outcome:
    """Who has the highest mean on the validation part."""
    values = table.valid[list(_ORDER[:runs])][:, list(among)]
    mean = np.where(np.isnan(values), -np.inf, values).mean(0)
    return Outcome(among[int(mean.argmax())])


def way(how: str, runs: int) -> Choose:
    """What `--mode=select` does, with runs looked up in the table."""

    def choose(table: priors.Table, known: Known) -> Outcome:
        believed = known.believed
        judge = proposals.Judge(
            believed,
            2,
            known.table.noise,
            round(table.rows),
            known.table.near_odds,
        )
        plan = proposals.plan(how, believed, (), runs)
        measured: dict[proposals.Wanted, float] = {}
        while wanted := proposals.further(judge, plan, measured):
            for each in wanted:
                value = table.valid[_ORDER[each.run % len(_ORDER)], each.who]
                measured[each] = -math.inf if math.isnan(value) else float(value)
        answer = proposals.answer(judge, plan, measured)
        if answer is None:
            return Outcome(plan.entries[0])
        best = answer.best
        return Outcome(answer.winner, best[answer.winner], answer.near, tuple(best))

    return choose


def earlier_race(table: priors.Table, budget: float) -> Outcome:
    """Successive halving with the list of entries that it had, from its rungs."""
    horizon = int(table.content["horizon"])
    keys = list(table.contenders)
    ends = [max(1, round(share * horizon)) for share in (1 / 9, 1 / 3)]
    plan = rungs.make_plan(len(keys), budget, horizon, ())
    order = [keys.index(key) for key in _ENTERED if key in keys][: plan.entered]
    needs = [_rests(keys[i]) for i in order]

    def train_rung(number: int, alive: Sequence[int]) -> dict[int, Score]:
        end, found = plan.rungs[number], {}
        for i in alive:
            at = slice(len(plan.seeds)), order[i]
            if end == horizon:
                values, losses = _raw(table, "valid", at)
            else:
                place = int(np.argmin([abs(end - each) for each in ends]))
                values, losses = _raw(table, "rung_valid", (place, *at))
            found[i] = Score(values, losses)
        return found

    last = list(halving.halve(plan, needs, train_rung))[-1]
    kept = last.verdict.kept or [0]
    return Outcome(order[kept[0]])


def _raw(
    table: priors.Table, name: str, at: tuple[int | slice, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Metric and minus the loss of some runs, -inf where they were lost."""
    losses = -table.content[f"{name}_loss"][at].astype(float)
    values = losses
    if table.kind == points.SHARE:
        values = table.content[f"{name}_accuracy"][at].astype(float)
    lost = np.isnan(losses) | np.isnan(values)
    return np.where(lost, -np.inf, values), np.where(lost, -np.inf, losses)


def _rests(key: str) -> bool:
    """Whether the earlier race judged a contender by a branch that comes to rest."""
    method = methods.find(key.split()[0])
    return method.horizon_bound(method.defaults)


def oracle(table: priors.Table) -> float:
    """Regret of who knows the test scores of two runs of every contender."""
    truth = table.truth
    scores = np.where(np.isnan(table.test), -1e9, table.test)
    half = len(scores) // 2
    chosen = [
        scores[[a, b]].mean(0).argmax()
        for a in range(half)
        for b in range(half, 2 * half)
    ]
    return float(-truth[chosen].mean())


class Judged(NamedTuple):
    """What ways came to on all tasks.

    Attributes:
      regret: by way, [tasks].
      outcomes: by way, one for each task.
      oracle: regret [tasks].
    """

    regret: dict[str, np.ndarray]
    outcomes: dict[str, list[Outcome]]
    oracle: np.ndarray


def judge(
    tables: Sequence[priors.Table],
    judged: Sequence[priors.Table],
    ways: Mapping[str, Choose],
    apart: bool,
) -> Judged:
    """Let each way choose on each task.

    Args:
      tables: known tasks.
      judged: the tasks to choose on.
      ways: what to judge.
      apart: whether known tasks of the same family are left out.
    """
    keys = tables[0].contenders
    named = np.array([key.split()[0] for key in keys])
    rates = priors.rates_of(keys)
    candidates = [
        prior.Candidate(str(method), float(rate))
        for method, rate in zip(named, rates, strict=True)
    ]
    known: dict[str, tuple[prior.Known, list[int], int]] = {}
    outcomes: dict[str, list[Outcome]] = {name: [] for name in ways}
    for table in judged:
        family = table.family if apart else ""
        if family not in known:
            own = [each for each in tables if each.family != family]
            learned = priors.known_from(own, named, rates)
            known[family] = (
                learned,
                greedy(learned, len(keys)),
                int(learned.regret.mean(0).argmax()),
            )
        believed = prior.believe(known[family][0], candidates, table.features)
        for name, choose in ways.items():
            outcomes[name].append(choose(table, Known(*known[family], believed)))
    truth = [table.truth for table in judged]
    regret = {
        name: np.array([-t[o.who] for t, o in zip(truth, found, strict=True)])
        for name, found in outcomes.items()
    }
    return Judged(regret, outcomes, np.array([oracle(table) for table in judged]))


def report(judged: Sequence[priors.Table], found: Judged) -> None:
    """Print regrets of synthetic and of real tasks, and how right probabilities are."""
    families = np.array([table.family for table in judged])
    made_up = families == "synthetic"
    for title, rows in (("synthetic", made_up), ("real rows", ~made_up)):
        if rows.any():
            _print(title, families[rows], rows, found, judged)
    _print_calibration(judged, found)


def _print(
    title: str,
    families: np.ndarray,
    rows: np.ndarray,
    found: Judged,
    judged: Sequence[priors.Table],
) -> None:
    """Print a table of regrets."""
    base = found.oracle[rows].mean()
    own = [table for table, row in zip(judged, rows, strict=True) if row]
    # Tasks on which each contender is as bad as it gets, or only chance helps, count.
    print(f"\n## {title}: {rows.sum()} tasks of {len(set(families))} families\n")
    print("| | regret (95 % interval) | excess | >= 10 | less that of the race at 8 |")
    print("|---|---|---|---|---|")
    print(f"| oracle of two runs | {base:.2f} | 0 % | | |")
    single = found.regret.get("single best")
    reference = found.regret.get("race at 8")
    groups = families if len(set(families)) > 1 else np.array([t.name for t in own])
    for name, all_regret in found.regret.items():
        regret = all_regret[rows]
        low, high = interval(regret, groups)
        excess = ""
        if single is not None:
            share = (regret.mean() - base) / (single[rows].mean() - base)
            excess = f"{100 * share:.0f} %"
        less = ""
        if reference is not None and name != "race at 8":
            gaps = regret - reference[rows]
            ends = interval(gaps, groups)
            less = f"{gaps.mean():.2f} ({ends[0]:.2f} to {ends[1]:.2f})"
        tail = int((regret >= _TAIL).sum())
        print(
            f"| {name} | {regret.mean():.2f} ({low:.2f} to {high:.2f}) | {excess} "
            f"| {tail} | {less} |"
        )


def interval(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of a mean, over groups and the tasks within them."""
    draw = np.random.default_rng(0)
    names, place = np.unique(groups, return_inverse=True)
    members = [values[place == i] for i in range(len(names))]
    sums = np.array([each.sum() for each in members])
    counts = np.array([len(each) for each in members])
    picks = draw.integers(len(names), size=(_RESAMPLES, len(names)))
    means = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _print_calibration(judged: Sequence[priors.Table], found: Judged) -> None:
    """Print how often what was said to be best, or near it, was."""
    print("\n## Probabilities, and how often they were right\n")
    print("| | best: said | was | near: said | was | log odds to add |")
    print("|---|---|---|---|---|---|")
    truth = [table.truth for table in judged]
    all_said, all_near = [], []
    for name, outcomes in found.outcomes.items():
        if math.isnan(outcomes[0].best):
            continue
        said = np.array([[o.best, o.near] for o in outcomes])
        pairs = list(zip(truth, outcomes, strict=True))
        reached = np.array([t[o.who] for t, o in pairs])
        won = reached >= [t[list(o.rivals) or [o.who]].max() for t, o in pairs]
        near = reached >= -posterior.NEAR
        all_said, all_near = [*all_said, *said[:, 1]], [*all_near, *near]
        print(
            f"| {name} | {said[:, 0].mean():.2f} | {won.mean():.2f} "
            f"| {said[:, 1].mean():.2f} | {near.mean():.2f} "
            f"| {lacking_odds(said[:, 1], near):.2f} |"
        )
    if all_said:
        odds = lacking_odds(np.array(all_said), np.array(all_near))
        print(f"\nlog odds of being near the best, to add in all: {odds:.2f}")


def lacking_odds(said: np.ndarray, came_true: np.ndarray) -> float:
    """What to add to the log odds of probabilities, so that as many come true."""
    low, high = -10.0, 10.0
    while high - low > 1e-3:
        odds = (low + high) / 2
        if posterior.shifted(said, odds).mean() < came_true.mean():
            low = odds
        else:
            high = odds
    return (low + high) / 2


if __name__ == "__main__":
    main()
