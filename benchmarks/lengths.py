r"""Learns how best rates change with length, and judges `lrjax.advise` by tables.

    python benchmarks/length_tables.py --tables=DIR --data=DATA
    python benchmarks/lengths.py --tables=DIR
    python benchmarks/lengths.py --tables=DIR --judge=left_out
    python benchmarks/lengths.py --tables=DIR --judge=judged

The second command makes lrjax/hpo/lengths.json of the tables that no task judges. The
others print regrets and how right probabilities are: on the same tables, each family
with what was learned of all others; and on those kept apart, with what is shipped.
DIR may also be a file that --pack made of it, as results/lengths.zip.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import priors
from benchmarks.across_tasks import made_tasks
from lrjax.hpo import ladders, lengths, points, posterior, prior, recipes
from lrjax.hpo.lengths import Lengths, Peak

_SHRINK = 12.0  # measurements that the common move counts for, against a method's own
_PRESENT = 0.5  # as in `lrjax.hpo.adviser`
_AWAY = (0.5, 1.0)  # decades from the best rate at which losses are measured


class Table(NamedTuple):
    """What was measured on a task.

    Attributes:
      name, family: of the task.
      judges: whether nothing may be learned of it.
      kind: of the metric, as in `points`.
      updates: of each length, the last full.
      methods, rates: of each contender; the rate is NaN for methods without one.
      valid: points [lengths, seeds, contenders], NaN where a run was lost.
      regret: test points of full runs behind the best [contenders].
      probed: the task's probes.
      batch_size: rows of a batch.
    """

    name: str
    family: str
    judges: bool
    kind: str
    updates: np.ndarray
    methods: np.ndarray
    rates: np.ndarray
    valid: np.ndarray
    regret: np.ndarray
    probed: Mapping[str, float]
    batch_size: int

    def of(self, method: str) -> np.ndarray:
        """Numbers of a method's contenders, by rate."""
        own = np.flatnonzero(self.methods == method)
        return own[np.argsort(self.rates[own])]

    def regret_at(self, method: str, log_rate: float) -> float:
        """Regret of a method at any rate: between those trained by a line."""
        own = self.of(method)
        if math.isnan(log_rate):
            return float(-self.regret[own[0]])
        logs = np.log10(self.rates[own])
        return float(-np.interp(log_rate, logs, self.regret[own]))


def read(path: Path, kind: str) -> list[Table]:
    """Read all tables of a folder, or a packed file, that have a kind of metric."""
    found = []
    for name, each in priors.files(path):
        with np.load(each) as file:
            content = {key: file[key] for key in file.files}
        if kind == points.SHARE and "test_accuracy" not in content:
            continue
        found.append(_table(name, content, kind))
    return found


def _table(name: str, content: Mapping[str, np.ndarray], kind: str) -> Table:
    metric, scale = "accuracy", priors.SHARE
    if kind == points.RATIO:
        metric, scale = "loss", priors.LOSS

    def measured(part: str) -> np.ndarray:
        values = content[f"{part}_{metric}"].astype(float)
        if kind == points.RATIO:
            values = np.maximum(values, priors.LEAST_LOSS)
        reached = points.points(values, scale)
        return np.where(np.isfinite(reached), reached, np.nan)

    keys = [str(key).split() for key in content["contenders"]]
    names = map(str, content["probe_names"])
    values = content["probe_values"].astype(float).tolist()
    return Table(
        name=name,
        family=str(content["family"]),
        judges=int(name.split("-")[1]) >= made_tasks.JUDGED_FROM,
        kind=kind,
        updates=content["lengths"],
        methods=np.array([key[0] for key in keys]),
        rates=np.array([float(key[1]) if key[1:] else math.nan for key in keys]),
        valid=measured("valid"),
        regret=priors.regret(measured("test")[-1]),
        probed=dict(zip(names, values, strict=True)),
        batch_size=int(content["batch_size"]),
    )


def rated(table: Table) -> list[str]:
    """Methods that need a rate."""
    return list(dict.fromkeys(table.methods[~np.isnan(table.rates)].tolist()))


def fit(tables: Sequence[Table]) -> Lengths:
    """Learn moves of the best rate, their variance, and what other rates lose."""
    seen: list[tuple[str, float, float]] = []  # method, decades of length, move
    for table in tables:
        for method in rated(table):
            own = table.of(method)
            logs = np.log10(table.rates[own]).tolist()
            there = lengths.peak(logs, table.regret[own].tolist())
            if there is None or there.variance >= lengths.OUTSIDE:
                continue
            for place, updates in enumerate(table.updates[:-1]):
                if updates < ladders.LEAST:
                    continue
                decades = math.log10(table.updates[-1] / updates)
                for reached in table.valid[place][:, own]:
                    here = lengths.peak(logs, reached.tolist())
                    if here is not None and here.variance < lengths.OUTSIDE:
                        seen.append((method, decades, there.log_rate - here.log_rate))
    design = np.array([[1.0, decades] for _, decades, _ in seen])
    moved = np.array([move for *_, move in seen])
    common = np.linalg.lstsq(design, moved, rcond=None)[0]
    first, slope = {"": float(common[0])}, {"": float(common[1])}
    left = moved - design @ common
    for method in sorted({method for method, *_ in seen}):
        own = np.array([each == method for each, *_ in seen])
        x = design[own]
        penalty = _SHRINK * (design.T @ design) / len(design)
        own_part = np.linalg.solve(x.T @ x + penalty, x.T @ left[own])
        first[method] = float(common[0] + own_part[0])
        slope[method] = float(common[1] + own_part[1])
        left[own] -= x @ own_part
    constant, factor = np.linalg.lstsq(design, left**2, rcond=None)[0]
    if factor < 0 or constant < 0:
        constant, factor = float((left**2).mean()), 0.0
    return Lengths(first, slope, (float(constant), float(factor)), bends(tables))


def bends(tables: Sequence[Table]) -> dict[str, tuple[float, float]]:
    """Points that full runs lose a decade below the best rate and above, by kind."""
    found = {}
    for kind in (points.SHARE, points.RATIO):
        sides: tuple[list[float], list[float]] = ([], [])
        for table in tables:
            if table.kind != kind:
                continue
            for method in rated(table):
                own = table.of(method)
                logs = np.log10(table.rates[own])
                there = lengths.peak(logs.tolist(), table.regret[own].tolist())
                if there is None or there.variance >= lengths.OUTSIDE:
                    continue
                best = table.regret[own].max()
                for side, sign in zip(sides, (-1, 1), strict=True):
                    for away in _AWAY:
                        at = there.log_rate + sign * away
                        lost = best - np.interp(at, logs, table.regret[own])
                        side.append(lost / away**2)
        below, above = (float(np.mean(side)) if side else 0.0 for side in sides)
        found[kind] = (below, above)
    return found


def past_of(table: Table) -> prior.Past:
    """A table's full runs, as a further known task."""
    scores = {
        prior.key_of(str(method), float(rate)): float(regret)
        for method, rate, regret in zip(
            table.methods, table.rates, table.regret, strict=True
        )
    }
    return prior.Past(table.family, table.kind, described(table), scores)


def described(table: Table) -> dict[str, float]:
    """A task's features."""
    probed = {k: v for k, v in table.probed.items() if k not in priors.UNUSED}
    return prior.describe(probed, int(table.updates[-1]), table.batch_size)


def write(known: Lengths, tables: Sequence[Table], path: Path) -> None:
    """Write what was learned, and full runs at rates that other tables have."""
    moving = [method for method in known.first if method]
    names = sorted(described(tables[0]))
    keys = set(map(prior.key_of, *contenders_of(prior.known(points.SHARE))))
    first = tables[0]
    kept = [
        i
        for i, each in enumerate(zip(first.methods, first.rates, strict=True))
        if prior.key_of(str(each[0]), float(each[1])) in keys
    ]
    content: dict[str, Any] = {
        "moving": np.array(moving),
        "move": np.array(
            [[part[each] for each in ("", *moving)] for part in known[:2]], np.float32
        ),
        "variance": np.array(known.variance, np.float32),
        "methods": first.methods[kept],
        "rates": first.rates[kept].astype(np.float32),
        "features": np.array(names),
    }
    for kind in (points.SHARE, points.RATIO):
        own = [table for table in tables if table.kind == kind]
        about = [[described(table)[name] for name in names] for table in own]
        content |= {
            f"{kind}_bend": np.array(known.bend[kind], np.float32),
            f"{kind}_described": np.array(about, np.float32),
            f"{kind}_families": np.array([table.family for table in own]),
            f"{kind}_regret": np.round(
                [-10 * table.regret[kept] for table in own]
            ).astype(np.uint8),
        }
    with path.open("wb") as file:
        np.savez_compressed(file, **content)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def contenders_of(known: prior.Known) -> tuple[list[str], list[float]]:
    """Methods and rates."""
    return known.methods.tolist(), known.rates.tolist()


class Known(NamedTuple):
    """What an adviser knows.

    Attributes:
      table: of tasks.
      lengths: of best rates at several lengths.
    """

    table: prior.Known
    lengths: Lengths


class Case(NamedTuple):
    """What an adviser sees of a task before short runs.

    Attributes:
      table: what was measured on the task.
      entries: methods that the table can judge.
      candidates: their contenders.
      found: what is believed of them.
      reached: draws of what each method reaches.
      peaks: the best rate of each that needs one.
      lengths: what is known of lengths.
    """

    table: Table
    entries: list[recipes.Entry]
    candidates: list[prior.Candidate]
    found: prior.Prior
    reached: np.ndarray
    peaks: dict[int, Peak]
    lengths: Lengths


def case(known: Known, table: Table) -> Case:
    """Look at a task."""
    mine = set(table.methods.tolist())
    candidates = [
        prior.Candidate(method, rate)
        for method, rate in zip(*contenders_of(known.table), strict=True)
        if method in mine
    ]
    about = described(table)
    found = prior.believe(known.table, candidates, about)
    entries = recipes.entries(candidates)
    reached = recipes.scores(known.table, entries, about)
    peaks = recipes.expected_peaks(found.belief, entries)
    return Case(table, entries, candidates, found, reached, peaks, known.lengths)


class Judged(NamedTuple):
    """What was advised on a task.

    Attributes:
      regret: points of each recipe behind the best of all, the first recipe first.
      said: probabilities of each: the best of the three, and near the best of all;
        empty if none were given.
      away: decades from the first recipe's rate to the best of its method; NaN for
        methods without one.
    """

    regret: tuple[float, ...]
    said: tuple[tuple[float, float], ...] = ()
    away: float = math.nan


Way = Callable[[Case, int], Judged]


def fixed(*given: tuple[str, float]) -> Way:
    """The same methods and logarithms of rates for all tasks."""
    return lambda case, seed: outcome(case.table, given)


def outcome(
    table: Table,
    chosen: Sequence[tuple[str, float]],
    said: Sequence[tuple[float, float]] = (),
) -> Judged:
    """What methods with logarithms of rates come to."""
    regret = [min(points.CLIP, table.regret_at(*each)) for each in chosen]
    method, log_rate = chosen[0]
    away = math.nan
    if not math.isnan(log_rate):
        own = table.of(method)
        logs = np.log10(table.rates[own])
        best = lengths.peak(logs.tolist(), table.regret[own].tolist())
        away = abs(log_rate - best.log_rate) if best else math.nan
    return Judged(tuple(regret), tuple(said), away)


def prior_alone(case: Case, seed: int) -> Judged:
    """What --mode=select says with select.how=prior."""
    del seed
    best = case.candidates[int(case.found.belief.mean.argmax())]
    return outcome(case.table, [(best.method, np.log10(best.rate))])


def advised(
    place: int | None,
    *,
    moves: bool = True,
    size: tuple[int, int] = (2, 5),
    only: str = "",
) -> Way:
    """What `lrjax.advise` says.

    Args:
      place: which length the short runs have; None: there are none.
      moves: whether the best rate of short runs is moved to full ones, and weighed with
        what known tasks say.
      size: methods, and rates of each.
      only: the one method; '': those of which most is expected.
    """

    def choose(case: Case, seed: int) -> Judged:
        table, entries, peaks = case.table, case.entries, dict(case.peaks)
        chosen = recipes.laddered(case.reached, entries)[: size[0]]
        left = range(len(entries))
        if only:
            left = [i for i, entry in enumerate(entries) if entry.method == only]
            chosen = left
        for i in chosen if place is not None else ():
            ratio = table.updates[-1] / table.updates[place]
            move = case.lengths.move(entries[i].method, float(ratio))
            own = table.of(entries[i].method)
            logs = np.log10(table.rates[own])
            within = entries[i].log_rates
            asked = np.log10(ladders.rungs(peaks[i].before(move), size[1], within))
            at = sorted({int(np.abs(logs - each).argmin()) for each in asked})
            reached = table.valid[place, seed, own[at]].tolist()
            here = lengths.peak(logs[at].tolist(), reached)
            if here is not None:
                peaks[i] = peaks[i].joined(here.moved(move))
                if not moves:
                    peaks[i] = here._replace(variance=peaks[i].variance)
        given = recipes.advise(
            case.reached, entries, peaks, left, case.lengths, table.kind
        )
        return outcome(
            table,
            [(each.method, each.log_rate) for each in given],
            [(each.best, each.near) for each in given],
        )

    return choose


# Of short runs: which length of the tables, and so the share of a full run that ten of
# them cost.
_PLACES = {"1 %": 0, "3 %": 1, "10 %": 2, "33 %": 3}
_SAFE = recipes.CALIBRATED


def ways(spread: tuple[float, ...]) -> dict[str, Way]:
    """Everything that is judged, by name.

    Args:
      spread: logarithms of the rates of the calibrated method, the best known first.
    """
    found = {
        "prior alone (select.how=prior)": prior_alone,
        "AdamW, cosine, 1e-3": fixed(("adamw_cosine", -3.0)),
        "AdamW, cosine, 1e-2": fixed(("adamw_cosine", -2.0)),
        "NadamW, cosine, its three rates": fixed(*((_SAFE, rate) for rate in spread)),
        "advise, nothing spent": advised(None),
    }
    for share, place in _PLACES.items():
        found[f"advise, {share}"] = advised(place)
        found[f"best of the short runs, not moved, {share}"] = advised(
            place, moves=False
        )
        found[f"one method, {share}"] = advised(place, size=(1, 5))
        found[f"three rates each, {share}"] = advised(place, size=(2, 3))
        found[f"NadamW, cosine, short runs, {share}"] = advised(place, only=_SAFE)
    return found


def calibrated(tables: Sequence[Table]) -> tuple[float, float, float]:
    """Three rates of the calibrated method: the best on tables, and those beside it."""
    logs = np.log10(tables[0].rates[tables[0].of(_SAFE)])
    mean = np.mean([table.regret[table.of(_SAFE)] for table in tables], 0)
    best = float(np.round(2 * logs[mean.argmax()]) / 2)
    return best, best - recipes.STEP, best + recipes.STEP


def judge(tables: Sequence[Table], apart: bool) -> None:
    """Print regrets and probabilities.

    Args:
      tables: all.
      apart: whether to judge on those that no one learns from, with what is shipped;
        else on the others, each family with what is learned of all others.
    """
    learned = [table for table in tables if not table.judges]
    for kind in (points.SHARE, points.RATIO):
        outcomes: dict[str, list[Judged]] = {}
        cases: list[Case] = []
        judged = [t for t in tables if t.judges == apart and t.kind == kind]
        for family in sorted({table.family for table in judged}):
            own = learned if apart else [t for t in learned if t.family != family]
            known = prior.known(kind)
            if not apart:
                kept = known.families != family
                known = known._replace(
                    described=known.described[kept],
                    families=known.families[kept],
                    regret=known.regret[kept],
                )
            known = prior.extend(known, list(map(past_of, own)), _PRESENT)
            moves = fit(own)
            rates = calibrated([table for table in own if table.kind == kind])
            for table in judged:
                if table.family != family:
                    continue
                cases.append(case(Known(known, moves), table))
                for name, way in ways(rates).items():
                    found = [way(cases[-1], seed) for seed in (0, 1)]
                    outcomes.setdefault(name, []).extend(found)
        _print(kind, cases, outcomes)


def _print(
    kind: str, cases: Sequence[Case], outcomes: Mapping[str, Sequence[Judged]]
) -> None:
    """Print a table in Markdown."""
    families = sorted({each.table.family for each in cases})
    unlike = sum(each.found.unlike for each in cases)
    print(f"\n## {kind}: {len(cases)} tasks ({', '.join(families)}), {unlike} unlike\n")
    head = "first recipe | best of three | decades off | best: said | was | near: said"
    print(f"| | {head} | was |")
    print("|---|---|---|---|---|---|---|---|")
    for name, found in outcomes.items():
        first = np.array([each.regret[0] for each in found])
        three = np.array([min(each.regret) for each in found])
        away = [each.away for each in found if not math.isnan(each.away)]
        off = f"{np.mean(away):.2f}" if away else ""
        row = f"| {name} | {first.mean():.2f} | {three.mean():.2f} | {off} "
        if found[0].said:
            said = np.array([each.said[0] for each in found])
            won = (first <= three).mean()
            near = (first <= posterior.NEAR).mean()
            row += f"| {said[:, 0].mean():.2f} | {won:.2f} "
            row += f"| {said[:, 1].mean():.2f} | {near:.2f} |"
        else:
            row += "| | | | |"
        print(row)


def main() -> None:
    """Write the file, or judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", required=True, type=Path)
    parser.add_argument("--out", type=Path, default=lengths.FILE)
    parser.add_argument("--judge", choices=("left_out", "judged"))
    parser.add_argument("--pack", type=Path, help="write the tables to this file")
    args = parser.parse_args()
    if args.pack:
        priors.pack(args.tables, args.pack)
        return
    tables = [
        table
        for kind in (points.SHARE, points.RATIO)
        for table in read(args.tables, kind)
    ]
    if args.judge:
        judge(tables, args.judge == "judged")
        return
    learned = [table for table in tables if not table.judges]
    write(fit(learned), learned, args.out)


if __name__ == "__main__":
    main()
