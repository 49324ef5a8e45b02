"""Turn runs that another program recorded into the frames that reports take."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrjax.core import (
    Metric,
    UsageError,
    counted,
    encodable,
    printable,
    unknown,
)
from lrjax.elsewhere import names
from lrjax.elsewhere.columns import Choices, Measured, measured
from lrjax.tables.frames import Hparams

_ROLES = ("task", "method", "seed", "learning_rate", "status", "seconds", "examples")
_ROLES += ("protocol",)
_NEARLY = 0.8  # of the runs


@dataclasses.dataclass(frozen=True)
class Record:
    """A run as another program recorded it.

    Attributes:
      name: its name, another for each run of a source.
      fields: settings, and whatever else has one value in the run.
      series: name -> values by step, in the order of steps, each step once.
      guessed: task, method and others, for those that `fields` lacks.
      status: 'done', 'diverged' or 'stopped'; a 'done' run may turn out diverged.
    """

    name: str
    fields: Mapping[str, Any]
    series: Mapping[str, pd.Series]
    guessed: Mapping[str, Any]
    status: str = "done"


@dataclasses.dataclass(frozen=True)
class Source:
    """Runs from elsewhere, as a report takes them.

    Attributes:
      name: as the user gave it, without a password.
      runs, curves: as returned by `tables.frames.load`, with `ranked_by`, and `length`,
        the last step of the curve; a protocol, a number of steps, a time or a number of
        examples that is unknown is None or NaN. Where a file counts epochs alone, these
        are the steps of the curves, and the number of steps is unknown.
      metrics: task -> its metrics, the ranking one first.
      notes: sentences on how the runs were read.
    """

    name: str
    runs: pd.DataFrame
    curves: pd.DataFrame
    metrics: Mapping[str, tuple[Metric, ...]]
    notes: tuple[str, ...]


def gather(name: str, records: Sequence[Record], choices: Choices) -> Source:
    """Make the frames of a source's runs.

    Args:
      name: of the source.
      records: its runs.
      choices: what the user said about them.

    Raises:
      UsageError: if there is no run, none has a metric of known direction, or a column
        that the user named is not there.
    """
    if not records:
        raise UsageError(f"{name} holds no run")
    choices.check(name, {key for r in records for key in (*r.fields, *r.series)})
    records = [_with_finals(record, choices) for record in records]
    present = {key for r in records for key in (*r.fields, *r.series)}
    for role in choices.roles.keys() & set(_ROLES):
        if choices.roles[role] not in present:
            raise unknown(f"column of {name}", choices.roles[role], present)
    values: dict[str, dict[str, list[np.ndarray]]] = {}
    for record in records:
        task = encodable(str(_taken(record, choices)[0]["task"]))
        for key, series in record.series.items():
            roles = any(names.find(role, [key]) for role in names.ROLES)
            if choices.metric(key) or not (roles or names.is_about(key)):
                numbers = values.setdefault(key, {}).setdefault(task, [])
                numbers.append(series.to_numpy(float))
    joined = {
        key: {task: np.concatenate(found) for task, found in of_key.items()}
        for key, of_key in values.items()
    }
    found = measured(name, joined, choices)
    doubts = [
        f"{counted(few, 'run')} of {len(values[key][task])} with no {printable(key)} "
        "above 1, counted as per cent like the others: are these shares?"
        for key, column in found.columns.items()
        for task in values[key]
        if found.factors[task, column] != 1
        and (few := sum(map(_at_most_one, values[key][task])))
    ]
    rows, curves = [], []
    for record in records:
        row, curve = _run(name, record, found, choices)
        rows.append(row)
        curves.append(curve.assign(run_id=row["run_id"]))
    runs = pd.DataFrame(rows)
    runs["method"] = _spelt_alike(runs["method"])
    runs["hparams"], unsettled = _without_measured(runs)
    runs["seed"], numbered = _seeds(runs)
    runs["length"] = _lengths(runs)
    runs["steps"] = runs["length"].where(runs.pop("counted"))
    table = pd.concat([c for c in curves if len(c)] or curves[:1], ignore_index=True)
    notes = (*found.notes, *doubts, *unsettled, *numbered, *_remarks(runs, table))
    metrics = {str(task): found.metrics for task in runs["task"].unique()}
    return Source(name, runs, table, metrics, notes)


def _at_most_one(values: np.ndarray) -> bool:
    """Whether values that are not all 0 end at 1: shares, or per cent of a bad run."""
    return 0 < values[np.isfinite(values)].max(initial=0) <= 1


def _with_finals(record: Record, choices: Choices) -> Record:
    """Move metrics among a run's fields to its series, at the last step."""
    last = max((s.index[-1] for s in record.series.values()), default=0)
    fields, series = ({**record.fields}, {**record.series})
    for key in choices.ignore:
        fields.pop(key, None)
        series.pop(key, None)
    for key, value in record.fields.items():
        number = names.number(value)
        if number is not None and key in fields and choices.metric(key):
            del fields[key]
            series.setdefault(key, pd.Series([number], [last]))
    return dataclasses.replace(record, fields=fields, series=series)


def _taken(
    record: Record, choices: Choices
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Role -> what a run says of it, and the fields without a role."""
    fields, taken = {**record.fields}, {}
    guessed = {**record.guessed}
    for role in _ROLES:
        key, other = (choices.column(role, given) for given in (fields, guessed))
        value = guessed.pop(other, None) if other else guessed.pop(role, None)
        if key:
            value = fields.pop(key)
        of_series = choices.column(role, record.series)
        if value is None and of_series and role in ("seconds", "examples"):
            value = _total(record.series[of_series].astype(float))
        taken[role] = value
    return taken, {**guessed, **fields}


def _total(values: pd.Series) -> float:
    """The last of values that count up, else (as for times of epochs) their sum."""
    values = values.dropna()
    counts_up = values.is_monotonic_increasing and values.nunique() > 1
    return float(values.iloc[-1] if counts_up or len(values) == 1 else values.sum())


def _run(
    source: str, record: Record, found: Measured, choices: Choices
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The row of a run, and its curve."""
    taken, fields = _taken(record, choices)
    task = encodable(str(taken["task"]))
    settings = _settings(fields)
    if taken["learning_rate"] is not None:
        settings["learning_rate"] = names.setting(taken["learning_rate"])
    series = {
        column: found.factors[task, column] * record.series[key].astype(float)
        for key, column in found.columns.items()
        if key in record.series
    }
    status = names.status(taken["status"]) or record.status
    ends = {column: values.iloc[-1] for column, values in series.items()}
    judged = found.ranked_by.partition("_")[0]
    if any(not np.isfinite(ends[c]) for c in ends if c.startswith(f"{judged}_")):
        status = "diverged"
    finals = dict.fromkeys(found.columns.values(), np.nan)
    if status != "diverged":
        finals |= {c: end if np.isfinite(end) else np.nan for c, end in ends.items()}
    curve = _curve(series, record.series, choices)
    seed = names.number(taken["seed"])
    row = {
        "run_id": f"{source} {record.name}",
        "task": task,
        "protocol": encodable(str(taken["protocol"] or "")) or None,
        "method": encodable(str(taken["method"])),
        "hparams": Hparams(settings),
        "seed": int(seed) if seed is not None and _is_seed(seed) else None,
        "length": max(v.index[-1] for v in series.values()) if len(curve) else np.nan,
        "counted": not np.array_equal(curve["step"], curve["epoch"]),
        "status": status,
        **finals,
        "seconds": _amount(taken["seconds"]),
        "examples": _amount(taken["examples"]),
        "source": source,
        "ranked_by": found.ranked_by,
    }
    return row, curve


def _is_seed(number: float) -> bool:
    """Whether a number is whole, and fits in a table's column."""
    return number.is_integer() and abs(number) < 2**63


def _amount(value: object) -> float:
    """A finite number from 0 on, of seconds or examples; NaN for anything else."""
    found = names.number(value)
    return found if found is not None and 0 <= found < np.inf else np.nan


def _settings(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The hyperparameters among a run's fields; nested ones get dots in their names."""
    settings: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, Mapping):
            settings |= _settings(value, f"{prefix}{key}.")
        elif key[:1] != "_" and not names.is_about(key):
            listed = isinstance(value, list | tuple)
            value = json.dumps(value) if listed else names.setting(value)
            if value not in (None, ""):
                settings[encodable(prefix + key)] = value
    return settings


def _curve(
    metrics: Mapping[str, pd.Series], series: Mapping[str, pd.Series], choices: Choices
) -> pd.DataFrame:
    """A run's curve: a row per evaluation, with the last values before it.

    Evaluations are the steps with a validation metric; of training, if there is no
    more than one. Without two there is no curve.
    """
    curves = {k: v for k, v in metrics.items() if not k.startswith("test_")}
    for part in ("valid_", "train_"):
        steps = [v.index for k, v in curves.items() if k.startswith(part)]
        index = sorted(set(itertools.chain(*steps)))
        if len(index) > 1:
            break
    else:
        return pd.DataFrame(columns=["step", "epoch"])
    for role in ("learning_rate", "epoch"):
        if key := choices.column(role, series):
            curves[role] = series[key].astype(float)
    whole = all(step % 1 == 0 for step in index)
    table = pd.DataFrame({"step": np.array(index, int if whole else float)})
    for name, values in {"epoch": pd.Series(dtype=float), **curves}.items():
        known = values.reindex(index, method="ffill").to_numpy(float)
        table[name] = np.where(np.isfinite(known), known, np.nan)
    table["epoch"] = table["epoch"].bfill()
    return table


def _spelt_alike(methods: pd.Series) -> pd.Series:
    """Methods of one name, however it is capitalised, in one spelling."""
    spelt = {name.lower(): name for name in sorted(methods)}  # small letters come last
    return methods.str.lower().map(spelt)


def _without_measured(runs: pd.DataFrame) -> tuple[list[Hparams], list[str]]:
    """Settings of runs without what must be measured, and a note on that.

    That is a number with another value in nearly every run, of no usual name, if seeds
    tell apart the runs that have all else in common.
    """
    settings = pd.DataFrame([dict(hparams) for hparams in runs["hparams"]])
    varied = [
        name
        for name, values in settings.items()
        if not names.is_tuned(str(name))
        and values.map(names.number).nunique() >= _NEARLY * len(runs)
    ]
    kept = [
        Hparams({k: v for k, v in hparams.items() if k not in varied})
        for hparams in runs["hparams"]
    ]
    entries = runs.assign(hparams=kept)[["task", "method", "hparams", "seed"]]
    told = runs["seed"].notna().all() and not entries.duplicated().any()
    if not varied or not told or not entries.drop(columns="seed").duplicated().any():
        return [*runs["hparams"]], []
    listed = printable(", ".join(map(str, varied)))
    return kept, [f"no settings, since they differ in nearly every run: {listed}"]


def _seeds(runs: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """Seeds of runs, and a note if they do not tell the runs of a setting apart.

    Where a run of a setting has no seed, or two that ended have the same, all its runs
    are numbered.
    """
    setting = ["task", "method", "hparams"]
    stopped = runs["status"] == "stopped"
    groups = runs.groupby(setting)["seed"]
    known = groups.transform("count") == groups.transform("size")
    ended = runs.assign(seed=runs["seed"].mask(stopped)).groupby(setting)["seed"]
    twice = ended.transform("nunique") < ended.transform("count")
    seeds = runs["seed"].where(known & ~twice, groups.cumcount()).astype(int)
    note = "runs of a setting with the same seed are numbered instead"
    return seeds, [note] * bool(twice.any())


def _lengths(runs: pd.DataFrame) -> pd.Series:
    """Steps of runs: of their setting's longest, since one may have ended early.

    A run that diverged says nothing about its length; NaN where nobody does.
    """
    known = runs["length"].where(runs["status"] == "done")
    setting = known.groupby([runs["task"], runs["method"], runs["hparams"]])
    longest = setting.transform("max")
    of_task = longest.groupby(runs["task"]).transform("max")
    any_of_task = runs.groupby("task")["length"].transform("max")
    return longest.fillna(of_task).fillna(any_of_task)


def _remarks(runs: pd.DataFrame, curves: pd.DataFrame) -> list[str]:
    """Remarks on what a report cannot show of some runs, and why."""
    remarks = []
    stopped = int((runs["status"] == "stopped").sum())
    if stopped:
        remarks.append(f"left out, since not finished: {counted(stopped, 'run')}")
    if not len(curves):
        remarks.append("only final values: there are no curves")
    elif "learning_rate" not in curves:
        remarks.append("no learning rates over time")
    if runs["seconds"].isna().all():
        remarks.append("no times")
    if runs["examples"].isna().all():
        remarks.append("no numbers of examples")
    return remarks
