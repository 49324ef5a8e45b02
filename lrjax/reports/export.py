"""Writes the tables in the formats of other tools."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from lrjax.common import files, sheets
from lrjax.common.naming import folders
from lrjax.core import UsageError
from lrjax.identity import canonical

_EVENTS = "events.out.tfevents.lrjax"


def csv(runs: pd.DataFrame, curves: pd.DataFrame, folder: Path) -> None:
    """Write runs.csv and curves.csv; `hparams` is JSON in them."""
    files.replace(folder / "runs.csv", sheets.csv(_plain(runs)))
    files.replace(folder / "curves.csv", sheets.csv(curves))


def parquet(runs: pd.DataFrame, curves: pd.DataFrame, folder: Path) -> None:
    """Write runs.parquet and curves.parquet; `hparams` is JSON in them."""
    for name, table in (("runs", _plain(runs)), ("curves", curves)):
        with files.replacing(folder / f"{name}.parquet") as file:
            sheets.with_texts(table, _valid).to_parquet(file, index=False)


def _plain(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with their hyperparameters as JSON."""
    return runs.assign(hparams=runs["hparams"].map(canonical))


def _valid(text: str) -> str:
    """A text that can be encoded, with the question marks of all other files."""
    return files.encoded(text).decode()


def tensorboard(runs: pd.DataFrame, curves: pd.DataFrame, folder: Path) -> None:
    """Write an event file for each run, in TASK/ENTRY/seedN as `folders` names them.

    Args:
      runs: with columns `task`, `entry` and `seed`.
      curves: as returned by `results.load`.
      folder: to write to.

    Raises:
      UsageError: if tensorboardX is not installed.
    """
    try:
        import tensorboardX  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            "report.export=tensorboard needs tensorboardX: pip install 'lrjax[track]'"
        ) from error
    rows = dict(list(curves.groupby("run_id")))
    tasks, entries = (folders(map(str, runs[name])) for name in ("task", "entry"))
    for run in runs.itertuples():
        names = tasks[str(run.task)], entries[str(run.entry)]
        run_folder = folder.joinpath(*names, f"seed{int(run.seed)}")
        files.make_folder(run_folder, folder)
        curve = rows.get(run.run_id, curves[:0]).sort_values("step")
        with tempfile.TemporaryDirectory() as temporary:
            with tensorboardX.SummaryWriter(temporary) as events:
                _add_scalars(events, curve)
            # Always one name, so that a later export replaces it; TensorBoard would
            # show two files of a run as one, with every point twice.
            (file,) = Path(temporary).iterdir()
            files.replace(run_folder / _EVENTS, files.read_own(file))


def _add_scalars(events: Any, curve: pd.DataFrame) -> None:
    """Add a run's curve to its event file.

    Args:
      events: tensorboardX's writer.
      curve: rows of the curves, by step.
    """
    numbers = curve.select_dtypes("number").columns
    for name in numbers.difference(["run_id", "step", "epoch"]):
        for step, value in zip(curve["step"], curve[name], strict=True):
            if not math.isnan(value):
                # At time 0, so that the same tables give the same bytes.
                events.add_scalar(name, value, int(step), walltime=0.0)
