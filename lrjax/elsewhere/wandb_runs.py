"""Runs of Weights & Biases: its pages' exports as CSV, and folders of its runs."""

from __future__ import annotations

import itertools
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from lrjax.common import files
from lrjax.common.reading import reading
from lrjax.core import UsageError, cut
from lrjax.elsewhere import configs, csv_table, names
from lrjax.elsewhere.columns import Choices
from lrjax.elsewhere.records import Record

_MAX_BYTES = 2**30  # of a run's file
_MAX_FILES = 100_000
# The file is a log of LevelDB's form: blocks of pieces, each with checksum, length and
# kind. wandb's own reader of it is a program that prints nothing.
_START = b":W&B\xe1\xbe\x00"
_BLOCK, _HEAD = 2**15, struct.Struct("<IHB")
_ENDS = (1, 4)  # kinds of pieces: whole, first, middle, last


def read(place: str, choices: Choices) -> tuple[list[Record], Choices]:
    """Read the runs of an export (a table of runs, or a chart), or of offline folders.

    Raises:
      UsageError: if nothing can be read, or wandb is needed and not installed.
    """
    path = files.expanded(place)
    if path.suffix == ".csv":
        rows = csv_table.table(place)
        if any(str(name).endswith("__MIN") for name in rows):
            return _chart(place, rows, choices), choices
        named = {*choices.roles.values(), *choices.ignore}
        rows = rows.rename(
            columns=configs.short_names(c for c in rows if c not in named)
        )
        return csv_table.records(place, rows, choices, each_row=True), choices
    if not path.exists():
        raise UsageError(f"{place} does not exist")
    found = files.found_below(path, "run-*.wandb") if path.is_dir() else iter([path])
    # A run that was resumed has a folder for each part, with the time in its name.
    with reading(place, ""):
        paths = sorted(
            itertools.islice(found, _MAX_FILES),
            key=lambda path: (path.parent.name.partition("run-")[2], path),
        )
    try:
        from wandb.proto import wandb_internal_pb2
    except ImportError as error:
        raise UsageError(f"wandb:{place} needs wandb: pip install wandb") from error
    message: Any = wandb_internal_pb2
    runs: dict[tuple[str, str], Record] = {}
    for path in paths:
        for key, part in _offline(path, message.Record):
            runs[key] = _joined(runs[key], part) if key in runs else part
    if paths and not runs:
        raise UsageError(f"wandb:{place} holds no run: its files run-*.wandb are empty")
    if not runs:
        raise UsageError(
            f"wandb:{place} holds no run: name a folder that wandb made, which has a "
            "file run-ID.wandb for each run, or a CSV file that its page exported"
        )
    return [*runs.values()], choices


def _chart(place: str, rows: pd.DataFrame, choices: Choices) -> list[Record]:
    """The runs of a chart: a column for the step, then one for each run and metric.

    Raises:
      UsageError: if a column is neither, or the chart is over something else.
    """
    clock, *columns = map(str, rows)
    if not any(choices.column(role, [clock]) for role in ("step", "epoch")):
        raise UsageError(
            f"{place}: its x axis is '{cut(clock)}'; export the chart with steps or "
            "epochs there, or say that these are steps: ?step=COLUMN"
        )
    of_run: dict[str, dict[str, str]] = {}
    for column in columns:
        run, dash, metric = column.rpartition(" - ")
        if not dash:
            raise UsageError(f"{place}: column '{cut(column)}' is none of a chart")
        if not metric.endswith(("__MIN", "__MAX")):
            run = run.removeprefix("Group: ")
            of_run.setdefault(run, {})[column] = metric
    frames = [
        rows[[clock, *of_metric]].rename(columns=of_metric)
        for of_metric in of_run.values()
    ]
    named = [f.assign(run=run) for f, run in zip(frames, of_run, strict=True)]
    table = pd.concat(named, ignore_index=True).fillna("")
    return csv_table.records(place, table, choices)


def _offline(path: Path, message: Any) -> Iterator[tuple[tuple[str, str], Record]]:
    """The run of a file that wandb wrote, with its project and id; none if it is empty.

    Args:
      path: the file.
      message: wandb's class of the messages in it.
    """
    key: tuple[str, str] | None = None
    about: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    points: dict[str, dict[float, float]] = {}
    status = "stopped"  # unless the run says how it ended
    with reading(path, "is no file of wandb's, or damaged"):
        for piece in _messages(files.read_given(path, _MAX_BYTES)):
            record = message.FromString(piece)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                name, project = record.run.display_name, record.run.project
                key = project, record.run.run_id
                name = record.run.run_group or name
                about = {"method": name, **names.guess([name]), "task": project}
                fields |= _values(record.run.config.update)
            elif kind == "config":
                fields |= _values(record.config.update)
            elif kind == "summary":
                summary |= _values(record.summary.update)
            elif kind == "history":
                row = _values(record.history.item)
                step = row.get(names.find("step", row) or "", record.history.step.num)
                for tag, value in row.items():
                    number = names.number(value)
                    if number is not None and (tag[:1] != "_" or tag == "_runtime"):
                        points.setdefault(tag, {})[float(step)] = number
            elif kind == "exit" and not record.exit.exit_code:
                status = "done"
    if key is None:  # killed before it wrote what it is
        return
    series = {tag: pd.Series(found).sort_index() for tag, found in points.items()}
    finals = {k: v for k, v in summary.items() if k not in series and k[:1] != "_"}
    settings = configs.flat({**finals, **fields})
    yield key, Record(path.parent.name, settings, series, about, status)


def _joined(first: Record, then: Record) -> Record:
    """A run and what it recorded after it was resumed, which counts from there on."""
    series = {**first.series}
    for key, values in then.series.items():
        before = series.get(key, values.iloc[:0])
        if key == "_runtime" and len(before) and values.iloc[0] < before.iloc[-1]:
            values = values + before.iloc[-1]  # the clock began anew
        series[key] = pd.concat([before[before.index < values.index[0]], values])
    fields = {**first.fields, **then.fields}
    return Record(first.name, fields, series, then.guessed, then.status)


def _values(items: Any) -> dict[str, Any]:
    """Keys and values of wandb's messages."""
    return {
        ".".join(item.nested_key) or item.key: json.loads(item.value_json)
        for item in items
    }


def _messages(content: bytes) -> Iterator[bytes]:
    """The messages of a file; a last one that was cut off is left out.

    A run that was killed at its start may leave nothing.

    Raises:
      ValueError: if it is another file, or damaged.
    """
    if not content.startswith(_START[: len(content)]):
        raise ValueError("it begins otherwise")
    place, message = len(_START), b""
    while place + _HEAD.size <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _HEAD.size:  # too few bytes for another piece; they are zeros
            place += left
            continue
        checksum, length, kind = _HEAD.unpack_from(content, place)
        place += _HEAD.size
        piece = content[place : place + length]
        if len(piece) < length:
            return
        if zlib.crc32(piece, zlib.crc32(bytes([kind]))) != checksum:
            raise ValueError(f"wrong checksum at byte {place:,}")
        place += length
        message += piece
        if kind in _ENDS:
            yield message
            message = b""
