"""MLflow: a run for each run, at MLFLOW_TRACKING_URI or in WORKDIR/mlruns."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrjax.common import files
from lrjax.core import UsageError
from lrjax.identity import digest
from lrjax.track import Row, values

_FOLDER = "mlruns"
_RUN, _STUDY = "lrjax.run_id", "lrjax.study"  # tags
_MOST = 1000  # metrics of one request
_INVALID = re.compile(r"[^\w./ -]")  # in the name of a metric


def connect(workdir: Path) -> MLflow:
    """Choose where runs are kept; nothing is sent yet.

    Raises:
      UsageError: if MLflow is not installed, or something else is in the way.
      mlflow.MlflowException: if the address is none.
    """
    try:
        import mlflow  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            "--log=mlflow needs MLflow: pip install 'lrjax[track]'"
        ) from error
    if address := os.environ.get("MLFLOW_TRACKING_URI", ""):
        mlflow.MlflowClient(address)  # asks no server
    else:
        files.check_folder(workdir / _FOLDER)
    return MLflow(workdir, address)


class MLflow:
    """Keeps runs by MLflow's client, which needs no run to be active."""

    def __init__(self, workdir: Path, address: str):
        """Take where runs are kept.

        Args:
          workdir: the working directory.
          address: of a server or store; '' for one in the working directory.
        """
        self._workdir, self._address = workdir.absolute(), address
        self._study = digest(str(self._workdir))
        self._runs: dict[str, str] = {}  # run_id -> MLflow's, of those that train
        self._steps: dict[str, int] = {}  # likewise, the last step of earlier commands

    @functools.cached_property
    def _client(self) -> Any:
        """MLflow's client, made when it is first needed."""
        import mlflow  # pyright: ignore[reportMissingImports]

        if self._address:
            return mlflow.MlflowClient(self._address)
        # Newer versions take files only from those who say so.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        folder = files.make_folder(self._workdir / _FOLDER, below=self._workdir)
        return mlflow.MlflowClient(folder.as_uri())

    @functools.cached_property
    def _experiment(self) -> str:
        """MLflow's number of the experiment, which is made if it is missing."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "lrjax"
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    @functools.cached_property
    def _earlier(self) -> dict[str, str]:
        """MLflow's runs of earlier commands in this directory: run_id -> MLflow's."""
        found: dict[str, str] = {}
        page = None
        while page is None or page:
            answer = self._client.search_runs(
                [self._experiment],
                f"tags.`{_STUDY}` = '{self._study}'",
                page_token=page,
            )
            found |= {each.data.tags[_RUN]: each.info.run_id for each in answer}
            page = answer.token or ""
        return found

    def log(self, run: Row, rows: Sequence[Row]) -> None:
        """See `track.Tracker`."""
        kept = self._begun(run)
        after = self._steps.get(run["run_id"], -1)
        self._add(
            kept, [(r["step"], values.curve(r)) for r in rows if r["step"] > after]
        )

    def end(self, run: Row, result: Row) -> None:
        """See `track.Tracker`."""
        kept = self._begun(run)
        self._add(kept, [(values.last_step(result), values.result(result))])
        self._client.set_tag(kept, "lrjax.status", result["status"])
        self._client.set_terminated(kept, "FINISHED")
        del self._runs[run["run_id"]]

    def close(self) -> None:
        """See `track.Tracker`."""
        for kept in self._runs.values():
            self._client.set_terminated(kept, "KILLED")

    def _begun(self, run: Row) -> str:
        """MLflow's run, begun or gone on with."""
        run_id = run["run_id"]
        if run_id in self._runs:
            return self._runs[run_id]
        if run_id in self._earlier:
            kept = self._earlier[run_id]
            self._client.update_run(kept, status="RUNNING")
            self._steps[run_id] = self._last_step(kept)
        else:
            kept = self._made(run)
        self._runs[run_id] = kept
        return kept

    def _last_step(self, kept: str) -> int:
        """The last step that a run of MLflow's has."""
        names = self._client.get_run(kept).data.metrics
        history = (
            self._client.get_metric_history(kept, name)
            for name in names
            if not values.is_result(name)
        )
        return max((each.step for steps in history for each in steps), default=-1)

    def _made(self, run: Row) -> str:
        """Make a run: hyperparameters as parameters, what else it is as tags."""
        from mlflow import entities  # pyright: ignore[reportMissingImports]

        fields = {name: value for name, value in run.items() if name != "hparams"}
        tags = {f"lrjax.{name}": str(value) for name, value in fields.items()}
        tags["lrjax.group"] = f"{run['task']} {run['protocol']} {run['method']}"
        tags[_STUDY] = self._study
        name = f"{run['task']} {run['entry']} seed{run['seed']}"
        made = self._client.create_run(self._experiment, tags=tags, run_name=name)
        hparams = [entities.Param(k, str(v)) for k, v in run["hparams"].items()]
        self._client.log_batch(made.info.run_id, params=hparams)
        return made.info.run_id

    def _add(
        self, kept: str, measured: Iterable[tuple[int, Mapping[str, float]]]
    ) -> None:
        """Add measurements to a run.

        Args:
          kept: MLflow's run.
          measured: step, and numbers by name.
        """
        from mlflow import entities  # pyright: ignore[reportMissingImports]

        now = int(1000 * time.time())
        metrics = [
            entities.Metric(_INVALID.sub("_", name), value, now, step)
            for step, numbers in measured
            for name, value in numbers.items()
        ]
        for i in range(0, len(metrics), _MOST):
            self._client.log_batch(kept, metrics=metrics[i : i + _MOST])
