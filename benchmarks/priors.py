r"""Makes lrjax/hpo/priors.npz of the tables that selection_tables.py made.

    python benchmarks/selection_tables.py --tables=DIR --data=DATA
    python benchmarks/priors.py --tables=DIR

With --out it writes another file. DIR may also be a file that --pack made of it:
results/selection_known.zip, and results/selection_judged.zip for `selection.py`.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lrjax import methods as methods_lib
from lrjax.hpo import points, prior

SHARE = points.Scale(1, 0.0, 1.0)
LOSS = points.Scale(-1, 0.0, math.inf)
LEAST_LOSS = 1e-4  # smaller test losses of made tasks are equal
GOOD = 5.0  # points of regret: contenders whose noise matters
# Probes that predicted nothing beyond the others; tables may have them.
UNUSED = ("log_curvature", "curvature_sign")
_LEAST_OWN = 0.05  # share of a variance that noise of measuring may not explain


class Table(NamedTuple):
    """What was measured on a task.

    Attributes:
      name, family: of the task.
      contenders: keys.
      features: what a selector sees of the task.
      kind: of the metric, as in `points`.
      rows: of the validation part.
      valid, test: points [runs, contenders], NaN where a run was lost; the first half
        of the runs is of one choice of validation rows.
      level: the metric's value of the best contenders, for the noise of rows.
      content: the file.
    """

    name: str
    family: str
    contenders: tuple[str, ...]
    features: dict[str, float]
    kind: str
    rows: float
    valid: np.ndarray
    test: np.ndarray
    level: float
    content: dict[str, np.ndarray]

    @property
    def truth(self) -> np.ndarray:
        """Regret [contenders], 0 for the best and no worse than -`points.CLIP`."""
        return regret(self.test)


def regret(test: np.ndarray) -> np.ndarray:
    """Mean points over runs, less the best mean; runs are clipped first."""
    lost = np.isnan(test)
    whole = ~lost.any(0)
    if lost.all():
        return np.full(test.shape[1], -points.CLIP)
    best = test[:, whole].mean(0).max() if whole.any() else np.nanmax(test)
    reached = np.maximum(np.where(lost, -np.inf, test), best - points.CLIP).mean(0)
    return np.maximum(reached - reached.max(), -points.CLIP)


def files(path: Path) -> Iterator[tuple[str, Any]]:
    """Name and opened content of each table in a folder, or in a file of `pack`."""
    if path.is_dir():
        for each in sorted(path.glob("*.npz")):
            yield each.stem, each
        return
    with zipfile.ZipFile(path) as packed:
        for name in packed.namelist():
            yield Path(name).stem, io.BytesIO(packed.read(name))


def pack(folder: Path, out: Path) -> None:
    """Write all tables of a folder to one file, losses to three digits.

    Args:
      folder: of the tables.
      out: a zip of files as `selection_tables.py` makes them.
    """
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as packed:
        for name, each in files(folder):
            with np.load(each) as file:
                content = {key: file[key] for key in file.files}
            for key in content:
                if key.endswith("_loss"):
                    most = np.minimum(content[key], np.finfo(np.float16).max)
                    content[key] = most.astype(np.float16)
            written = io.BytesIO()
            np.savez(written, **content)
            packed.writestr(f"{name}.npz", written.getvalue())


def read(path: Path, kind: str) -> list[Table]:
    """Read all tables of a folder, or a packed file, that have a kind of metric."""
    tables = []
    for name, each in files(path):
        with np.load(each) as file:
            content = _sorted({key: file[key] for key in file.files})
        if kind == points.SHARE and "test_accuracy" not in content:
            continue
        tables.append(_table(name, content, kind))
    return tables


def _sorted(content: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a file with contenders in the order of their keys."""
    keys = content["contenders"]
    order = np.argsort(keys)
    return {
        name: array[..., order] if array.shape[-1:] == keys.shape else array
        for name, array in content.items()
    }


def _table(name: str, content: dict[str, Any], kind: str) -> Table:
    metric, scale = ("accuracy", SHARE) if kind == points.SHARE else ("loss", LOSS)

    def measured(part: str) -> np.ndarray:
        values = content[f"{part}_{metric}"].astype(float)
        if kind == points.RATIO:
            values = np.maximum(values, LEAST_LOSS)
        found = points.points(values, scale)
        return np.where(np.isfinite(found), found, np.nan)

    test = measured("test")
    best = regret(test).argmax()
    return Table(
        name=name,
        family=str(content["family"]),
        contenders=tuple(map(str, content["contenders"])),
        features=features(content),
        kind=kind,
        rows=math.exp(_named(content, "probe")["log_rows"]),
        valid=measured("valid"),
        test=test,
        level=float(np.nanmean(test[:, best])) / 100,
        content=content,
    )


def _named(content: dict[str, Any], name: str) -> dict[str, float]:
    values = content[f"{name}_values"].astype(float)
    return dict(zip(map(str, content[f"{name}_names"]), values.tolist(), strict=True))


def features(content: dict[str, Any]) -> dict[str, float]:
    """What a selector sees of a task."""
    probed = _named(content, "probe")
    probed = {name: value for name, value in probed.items() if name not in UNUSED}
    return prior.describe(probed, int(content["horizon"]), int(content["batch_size"]))


def noise_of(tables: Sequence[Table]) -> tuple[float, float]:
    """Fit the variance of a run's points: a constant, and a factor of p(1 - p)/rows."""
    rows, found = [], []
    for table in tables:
        truth = table.truth
        good = truth > -GOOD
        if good.sum() < 3:
            continue
        halves = np.split(table.valid[:, good], 2)
        off = [half - truth[good] for half in halves]
        # What all share on a choice of rows is no noise.
        off = [each - np.nanmean(each) for each in off]
        found.append(np.nanmean(np.square(off)))
        p = min(max(table.level, 0.02), 0.98)
        rows.append([1.0, 1e4 * p * (1 - p) / table.rows])
    if tables[0].kind == points.RATIO:
        return float(np.median(found)), 0.0
    design, target = np.array(rows), np.array(found)
    # Least squares on logarithms' scale: tasks differ in variance by much.
    weights = 1 / np.maximum(design @ [0.5, 0.5], 0.1)
    solved, *_ = np.linalg.lstsq(design * weights[:, None], target * weights)
    return float(max(solved[0], 0.05)), float(max(solved[1], 0.0))


def known_from(
    tables: Sequence[Table], methods: np.ndarray, rates: np.ndarray
) -> prior.Known:
    """What a prior knows after these tables."""
    names = tuple(sorted(tables[0].features))
    described = np.array([[table.features[n] for n in names] for table in tables])
    families = np.array([table.family for table in tables])
    truth = np.array([table.truth for table in tables])
    left, usual = np.zeros_like(truth), np.zeros(len(tables))
    for family in np.unique(families):
        own = families == family
        others = truth[~own]
        weights, novelty = prior.weigh(described[~own], described[own])
        centre = others.mean(0)
        left[own] = truth[own] - centre - weights @ (others - centre)
        usual[own] = novelty
    return prior.Known(
        kind=tables[0].kind,
        methods=methods,
        rates=rates,
        features=names,
        described=described,
        families=families,
        regret=truth,
        residual=covariance(left, measuring(tables)),
        noise=noise_of(tables),
        usual=usual,
    )


def measuring(tables: Sequence[Table]) -> np.ndarray:
    """Variance of what a table says of each contender, since its runs are few."""
    found = []
    for table in tables:
        if np.isnan(table.test).all():
            continue
        best = np.nanmax(table.test)
        runs = np.maximum(np.nan_to_num(table.test, nan=-np.inf), best - points.CLIP)
        found.append(runs.var(0, ddof=1) / len(runs))
    return np.mean(found, 0)


def covariance(left: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Of regrets around what is predicted, without the noise of measuring them.

    Args:
      left: residuals [tasks, contenders].
      noise: variance of each contender's measurements.
    """
    found = left.T @ left / len(left)
    diagonal = np.diag(found)
    own = np.maximum(diagonal - noise, _LEAST_OWN * diagonal)
    found = found + np.diag(own - diagonal)
    values, axes = np.linalg.eigh(found)
    return (axes * np.maximum(values, _LEAST_OWN * values.max() / len(values))) @ axes.T


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", required=True, type=Path)
    parser.add_argument("--out", type=Path, default=prior.FILE)
    parser.add_argument("--pack", type=Path, help="write the tables to this file")
    args = parser.parse_args()
    if args.pack:
        pack(args.tables, args.pack)
        return
    content: dict[str, Any] = {}
    for kind in (points.SHARE, points.RATIO):
        tables = read(args.tables, kind)
        keys = tables[0].contenders
        methods = np.array([key.split()[0] for key in keys])
        rates = rates_of(keys)
        found = known_from(tables, methods, rates)
        content |= {
            "methods": methods,
            "rates": rates.astype(np.float32),
            "features": np.array(found.features),
            f"{kind}_described": found.described.astype(np.float32),
            f"{kind}_families": found.families,
            f"{kind}_regret": np.round(-10 * found.regret).astype(np.uint8),
            f"{kind}_residual": found.residual.astype(np.float16),
            f"{kind}_noise": np.array(found.noise, np.float32),
            f"{kind}_usual": found.usual.astype(np.float16),
        }
        print(f"{kind}: {len(tables)} tasks, noise {found.noise}")
    with args.out.open("wb") as file:
        np.savez_compressed(file, **content)
    print(f"{args.out}: {args.out.stat().st_size / 1e3:.0f} kB")


def rates_of(keys: Sequence[str]) -> np.ndarray:
    """The learning rate of each contender, NaN for methods that need none."""
    found = []
    for key in keys:
        name, *rate = key.split()
        method = methods_lib.find(name)
        own = method.defaults.get("learning_rate")
        rated = method.needs_rate and isinstance(own, float)
        found.append(float(rate[0]) if rate else own if rated else math.nan)
    return np.array(found)


if __name__ == "__main__":
    main()
