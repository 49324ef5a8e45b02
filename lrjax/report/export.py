"""The tables in the formats of other tools."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from lrjax.core import UsageError
from lrjax.results import canonical


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
    """Writes an event file for each run, in TASK/ENTRY/seedN.

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
    for run in runs.itertuples():
        names = (str(run.task), str(run.entry), f"seed{run.seed}")
        where = folder.joinpath(*(name.replace("/", "-") for name in names))
        for old in where.glob("events.out.tfevents.*"):
            old.unlink()
        with tensorboardX.SummaryWriter(str(where)) as writer:
            mine = rows.get(run.run_id, curves[:0]).sort_values("step")
            for name in mine.columns.difference(["run_id", "step", "epoch"]):
                for step, value in zip(mine["step"], mine[name], strict=True):
                    if not math.isnan(value):
                        # Time zero, so that the same tables give the same events.
                        writer.add_scalar(name, value, int(step), walltime=0.0)
