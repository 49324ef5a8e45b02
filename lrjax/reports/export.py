"""Writes the tables in the formats of other tools."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from lrjax.core import UsageError
from lrjax.identity import canonical

_LONGEST = 200  # bytes in a folder's name


def csv(runs: pd.DataFrame, curves: pd.DataFrame, folder: Path) -> None:
    """Write runs.csv and curves.csv; `hparams` is JSON in them."""
    _plain(runs).to_csv(folder / "runs.csv", index=False)
    curves.to_csv(folder / "curves.csv", index=False)


def parquet(runs: pd.DataFrame, curves: pd.DataFrame, folder: Path) -> None:
    """Write runs.parquet and curves.parquet; `hparams` is JSON in them."""
    _plain(runs).to_parquet(folder / "runs.parquet", index=False)
    curves.to_parquet(folder / "curves.parquet", index=False)


def _plain(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with their hyperparameters as JSON."""
    return runs.assign(hparams=runs["hparams"].map(canonical))


def tensorboard(runs: pd.DataFrame, curves: pd.DataFrame, folder: Path) -> None:
    """Write an event file for each run, in TASK/ENTRY/seedN as `folders` names them.

    Args:
      runs: with columns `task`, `entry` and `seed`.
      curves: as returned by `results.load`.
      folder: to write to; old event files of these runs are replaced.

    Raises:
      UsageError: if tensorboardX is not installed.
    """
    try:
        import tensorboardX  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            "report.export=tensorboard needs tensorboardX: pip install tensorboardX"
        ) from error
    rows = dict(list(curves.groupby("run_id")))
    tasks, entries = (folders(map(str, runs[name])) for name in ("task", "entry"))
    for run in runs.itertuples():
        names = tasks[str(run.task)], entries[str(run.entry)]
        run_folder = folder.joinpath(*names, f"seed{run.seed}")
        for old in run_folder.glob("events.out.tfevents.*"):
            old.unlink()
        with tensorboardX.SummaryWriter(str(run_folder)) as events:
            curve = rows.get(run.run_id, curves[:0]).sort_values("step")
            numbers = curve.select_dtypes("number").columns
            for name in numbers.difference(["run_id", "step", "epoch"]):
                for step, value in zip(curve["step"], curve[name], strict=True):
                    if not math.isnan(value):
                        # At time 0, so that the same tables give the same bytes.
                        events.add_scalar(name, value, int(step), walltime=0.0)


def folders(names: Iterable[str]) -> dict[str, str]:
    """Map names to names of folders: valid, inside of their parent, and unique.

    A slash becomes a dash. A name that is then invalid, too long or taken (capitals do
    not count, since some file systems ignore them) gets digits of its hash. Names that
    need no change come first.
    """
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    plain = {name: re.sub(r"[/\\\x00-\x1f]", "-", name) for name in names}
    for name in sorted(plain, key=lambda name: (name != plain[name], name)):
        folder = plain[name]
        too_long = len(os.fsencode(folder)) > _LONGEST
        if folder.strip(". ") == "" or too_long or folder.casefold() in taken:
            digits = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
            folder = f"{folder.strip('. ')[: _LONGEST // 4]}-{digits}"
        taken.add(folder.casefold())
        chosen[name] = folder
    return chosen
