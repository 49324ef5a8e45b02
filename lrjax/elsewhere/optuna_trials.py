"""Trials of Optuna's studies, from the database that it keeps them in."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pandas as pd

from lrjax.common import files
from lrjax.common.reading import reading, reason
from lrjax.core import UsageError, cut, unknown
from lrjax.elsewhere import names
from lrjax.elsewhere.columns import Choices
from lrjax.elsewhere.records import Record

_SQLITE = "sqlite:///"
# A trial that failed returned NaN or raised an error: it has no value.
_STATES = {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "diverged"}


def read(place: str, choices: Choices) -> tuple[list[Record], Choices]:
    """Read the trials of all studies of a database, or of the one after '#'.

    The database holds JSON and numbers, no pickles: samplers and pruners are not in it.
    A file of SQLite is opened for reading only.

    Returns:
      a record for each trial that has ended; the choices, with the directions of the
      studies.

    Raises:
      UsageError: if there is no such study, it is no database of Optuna's, or optuna is
        not installed.
    """
    url, _, wanted = place.partition("#")
    with _storage(url) as (optuna, storage):
        studies = sorted(optuna.get_all_study_names(storage))
        if wanted and wanted not in studies:
            raise unknown(f"study of {cut(url)}", wanted, studies)
        records: list[Record] = []
        directions: dict[str, bool] = {}
        for name in [wanted] if wanted else studies:
            study = optuna.load_study(study_name=name, storage=storage)
            metrics = _metrics(study)
            for metric, higher in metrics.items():
                if directions.setdefault(metric, higher) != higher:
                    raise UsageError(
                        f"{url}: studies maximise and minimise {cut(metric)}; name one "
                        f"of them: #{' or #'.join(map(cut, studies))}"
                    )
            for trial in study.get_trials(deepcopy=False):
                if trial.state.name in _STATES:
                    records.append(_record(trial, name, [*metrics], choices))
    higher = tuple(metric for metric, up in directions.items() if up)
    lower = tuple(metric for metric, up in directions.items() if not up)
    directed = dataclasses.replace(
        choices, higher=(*choices.higher, *higher), lower=(*choices.lower, *lower)
    )
    return records, directed


@contextlib.contextmanager
def _storage(url: str) -> Iterator[tuple[Any, Any]]:
    """Optuna, and its storage at an address or in a file."""
    try:
        import optuna
    except ImportError as error:
        raise UsageError("optuna:... needs optuna: pip install optuna") from error
    if "://" not in url or url.startswith(_SQLITE):
        path = files.expanded(url.removeprefix(_SQLITE))
        with reading(path, ""), files.open_given(path) as file:
            if not file.read(16).startswith(b"SQLite format 3"):
                raise UsageError(f"{path} is no database of SQLite")
        quoted = urllib.parse.quote(str(path.absolute()))
        url = f"{_SQLITE}file:{quoted}?mode=ro&uri=true"
    try:
        storage = optuna.storages.RDBStorage(url, skip_table_creation=True)
    except Exception as error:
        words = reason(error.__cause__ or error).partition(" [SQL")[0]
        raise UsageError(f"no database of Optuna's: {words}") from error
    try:
        yield optuna, storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _metrics(study: Any) -> dict[str, bool]:
    """Name of each objective -> whether it is maximised."""
    up = [direction.name == "MAXIMIZE" for direction in study.directions]
    plain = [f"objective_{i}" for i in range(len(up))] if up[1:] else ["objective"]
    return dict(zip(study.metric_names or plain, up, strict=True))


def _record(trial: Any, study: str, metrics: list[str], choices: Choices) -> Record:
    """The run of a trial: reports are the curve of the first objective."""
    reports = dict(sorted(trial.intermediate_values.items()))
    last = max(reports, default=0)
    values = trial.values or [math.nan] * (trial.state.name == "FAIL")
    points = {m: {last: value} for m, value in zip(metrics, values, strict=False)}
    points[metrics[0]] = reports | points.get(metrics[0], {})
    series = {k: pd.Series(v, dtype=float) for k, v in points.items() if v}
    measured = {
        key: value
        for key, value in trial.user_attrs.items()
        if names.number(value) is not None and choices.metric(key)
    }
    guessed = {"task": study, "method": study}
    if trial.duration is not None:
        guessed["seconds"] = trial.duration.total_seconds()
    return Record(
        f"{study} {trial.number}",
        {**measured, **trial.params},
        series,
        guessed,
        _STATES[trial.state.name],
    )
