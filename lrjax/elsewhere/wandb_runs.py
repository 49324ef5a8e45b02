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
from lrjax.elsewhere import csv_table, names
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
        return csv_table.records(place, rows, choices, each_row=True), choices
    if not path.exists():
        raise UsageError(f"{place} does not exist")
    found = path.rglob("run-*.wandb") if path.is_dir() else iter([path])
    paths = sorted(itertools.islice(found, _MAX_FILES))
    if not paths:
        raise UsageError(
            f"{place} holds no run of wandb: there is no file run-*.wandb below it"
        )
    try:
        from wandb.proto import wandb_internal_pb2
    except ImportError as error:
        raise UsageError(f"wandb:{place} needs wandb: pip install wandb") from error
    message: Any = wandb_internal_pb2
    return [_offline(path, message.Record) for path in paths], choices


def _chart(place: str, rows: pd.DataFrame, choices: Choices) -> list[Record]:
    """The runs of a chart: a column for the step, then one for each run and metric."""
    step, *columns = map(str, rows)
    of_run: dict[str, dict[str, str]] = {}
    for column in columns:
        run, dash, metric = column.rpartition(" - ")
        if not dash:
            raise UsageError(f"{place}: column '{cut(column)}' is none of a chart")
        if not metric.endswith(("__MIN", "__MAX")):
            of_run.setdefault(run, {})[column] = metric
    frames = [
        rows[[step, *of_metric]].rename(columns={step: "step", **of_metric})
        for of_metric in of_run.values()
    ]
    named = [f.assign(run=run) for f, run in zip(frames, of_run, strict=True)]
    table = pd.concat(named, ignore_index=True).fillna("")
    return csv_table.records(place, table, choices)


def _offline(path: Path, message: Any) -> Record:
    """The run of a file that wandb wrote.

    Args:
      path: the file.
      message: wandb's class of the messages in it.
    """
    about: dict[str, Any] = {"task": "", "method": ""}
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
                about = {**names.guess([record.run.run_group or name]), "task": project}
                fields |= _values(record.run.config.update)
            elif kind == "config":
                fields |= _values(record.config.update)
            elif kind == "summary":
                summary |= _values(record.summary.update)
            elif kind == "history":
                row = _values(record.history.item)
                step = row.get(names.find("step", row) or "", record.history.step.num)
                for key, value in row.items():
                    number = names.number(value)
                    if number is not None and (key[:1] != "_" or key == "_runtime"):
                        points.setdefault(key, {})[float(step)] = number
            elif kind == "exit" and not record.exit.exit_code:
                status = "done"
    series = {key: pd.Series(found).sort_index() for key, found in points.items()}
    finals = {k: v for k, v in summary.items() if k not in series and k[:1] != "_"}
    return Record(path.parent.name, {**finals, **fields}, series, about, status)


def _values(items: Any) -> dict[str, Any]:
    """Keys and values of wandb's messages."""
    return {
        ".".join(item.nested_key) or item.key: json.loads(item.value_json)
        for item in items
    }


def _messages(content: bytes) -> Iterator[bytes]:
    """The messages of a file; a last one that was cut off is left out.

    Raises:
      ValueError: if it is another file, or damaged.
    """
    if not content.startswith(_START):
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
