"""Weights & Biases: a run for each run, its files in WORKDIR/wandb."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrjax.common import files
from lrjax.core import UsageError
from lrjax.track import Row, values

_MOST_OPEN = 64  # runs at a time, all of them in one process of W&B's
_FOLDER = "wandb"
_LONGEST = 128  # characters of a group's name


def connect(workdir: Path) -> Wandb:
    """Log in, unless the mode is offline.

    Raises:
      UsageError: if W&B is not installed, too old, or has no key, or something else is
        in the way.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            "--log=wandb needs Weights & Biases: pip install 'lrjax[track]'"
        ) from error
    files.check_folder(workdir / _FOLDER)
    if wandb.setup().settings.mode not in ("offline", "disabled"):
        try:
            # Here, since it may ask for a key; the server is not asked yet.
            wandb.login(verify=False)
        except wandb.Error as error:
            raise UsageError(
                f"--log=wandb: {error} Or keep runs here by WANDB_MODE=offline"
            ) from error
    return Wandb(workdir)


class Wandb:
    """Keeps runs open while they train, up to a number; rows of others wait."""

    def __init__(self, workdir: Path):
        """Take the working directory."""
        self._workdir = workdir
        self._open: dict[str, Any] = {}  # run_id -> W&B's run
        self._waiting: dict[str, tuple[Row, list[Row]]] = {}  # run_id -> run, rows

    def log(self, run: Row, rows: Sequence[Row]) -> None:
        """See `track.Tracker`."""
        run_id = run["run_id"]
        if run_id not in self._open and len(self._open) >= _MOST_OPEN:
            self._waiting.setdefault(run_id, (run, []))[1].extend(rows)
            return
        if run_id not in self._open:
            self._open[run_id] = self._begun(run)
        _log(self._open[run_id], rows)

    def end(self, run: Row, result: Row) -> None:
        """See `track.Tracker`."""
        kept = self._taken(run)
        kept.summary.update({**values.result(result), "status": result["status"]})
        kept.finish()

    def close(self) -> None:
        """See `track.Tracker`."""
        waiting = [run for run, _ in self._waiting.values()]
        for run in [*({"run_id": run_id} for run_id in self._open), *waiting]:
            self._taken(run).finish(exit_code=1)

    def _taken(self, run: Row) -> Any:
        """W&B's run, with all rows, which is to be finished."""
        if run["run_id"] in self._open:
            return self._open.pop(run["run_id"])
        kept = self._begun(run)
        _log(kept, self._waiting.pop(run["run_id"], (run, []))[1])
        return kept

    def _begun(self, run: Row) -> Any:
        """Begin a run, or go on with one of this id."""
        import wandb  # pyright: ignore[reportMissingImports]

        files.make_folder(self._workdir / _FOLDER, below=self._workdir)
        settings = wandb.Settings(
            silent=True,
            console="off",  # what is printed is not one run's
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,  # of the machine, again for each run
        )
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "lrjax",
            dir=str(self._workdir),
            id=run["run_id"],
            name=f"{run['entry']} seed{run['seed']}",
            group=f"{run['task']} {run['protocol']} {run['method']}"[:_LONGEST],
            job_type=run["kind"],
            config={name: value for name, value in run.items() if name != "run_id"},
            resume="allow",
            reinit="create_new",
            settings=settings,
        )


def _log(kept: Any, rows: Sequence[Row]) -> None:
    """Add rows of a curve to W&B's run."""
    for row in rows:
        kept.log(values.curve(row), step=row["step"])
