"""The tables in the formats of other tools."""

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

_LONGEST = 200  # bytes of a folder's name


def csv(runs: pd.DataFrame, curves: pd.DataFrame, folder: Path) -> None:
    """Writes runs.csv and curves.csv; `hparams` is JSON in them."""
    _plain(runs).to_csv(folder / "runs.csv", index=False)
    curves.to_csv(folder / "curves.csv", index=False)


def parquet(runs: pd.DataFrame, curves: pd.DataFrame, folder: Path) -> None:
    """Writes runs.parquet and curves.parquet; `hparams` is JSON in them."""
    _plain(runs).to_parquet(folder / "runs.parquet", index=False)
    curves.to_parquet(folder / "curves.parquet", index=False)


def _plain(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.assign(hparams=runs["hparams"].map(canonical))


def tensorboard(runs: pd.DataFrame, curves: pd.DataFrame, folder: Path) -> None:
    """Writes an event file for each run, in TASK/ENTRY/seedN as `folders` names them.

    Args:
      runs: with columns `task`, `entry` and `seed`.
      curves: as from `results.load`.
      folder: to write to; event files that are there are replaced.

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
        where = folder.joinpath(*names, f"seed{run.seed}")
        for old in where.glob("events.out.tfevents.*"):
            old.unlink()
        with tensorboardX.SummaryWriter(str(where)) as writer:
            mine = rows.get(run.run_id, curves[:0]).sort_values("step")
            numbers = mine.select_dtypes("number").columns
            for name in numbers.difference(["run_id", "step", "epoch"]):
                for step, value in zip(mine["step"], mine[name], strict=True):
                    if not math.isnan(value):
                        # Time zero, so that the same tables give the same events.
                        writer.add_scalar(name, value, int(step), walltime=0.0)


def folders(names: Iterable[str]) -> dict[str, str]:
    """A folder's name for each name; none leads elsewhere, no two are the same.

    A slash becomes a dash. What is then no name of a folder, or is another's, perhaps
    with other capitals (some disks do not tell them apart), gets digits that follow
    from it. Names that need no change are given first.
    """
    made: dict[str, str] = {}
    taken: set[str] = set()
    plain = {name: re.sub(r"[/\\\x00-\x1f]", "-", name) for name in names}
    for name in sorted(plain, key=lambda name: (name != plain[name], name)):
        folder = plain[name]
        long = len(os.fsencode(folder)) > _LONGEST
        if folder.strip(". ") == "" or long or folder.casefold() in taken:
            digits = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
            folder = f"{folder.strip('. ')[: _LONGEST // 4]}-{digits}"
        taken.add(folder.casefold())
        made[name] = folder
    return made
