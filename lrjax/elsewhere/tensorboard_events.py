"""Runs of TensorBoard: a folder of event files for each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrjax.common import files
from lrjax.common.reading import reading
from lrjax.core import UsageError
from lrjax.elsewhere import configs, names
from lrjax.elsewhere.columns import Choices
from lrjax.elsewhere.records import Record

_MAX_FILES = 100_000
_TIME = re.compile(r"\d{9,}(\.\d+)?")  # a folder that add_hparams makes in a run's
_HPARAMS = "_hparams_/session_start_info"


def read(place: str, choices: Choices) -> tuple[list[Record], Choices]:
    """Read the runs below a folder, by TensorBoard's own reader.

    Raises:
      UsageError: if there is none, or tensorboard is needed and not installed.
    """
    top = files.expanded(place)
    if not top.is_dir():
        raise UsageError(f"{place} is not a folder of event files")
    found = itertools.islice(top.rglob("*tfevents*"), _MAX_FILES)
    folders = sorted({path.parent for path in found if path.is_file()})
    if not folders:
        raise UsageError(
            f"{place} holds no event file: none has 'tfevents' in its name"
        )
    try:
        from tensorboard.backend.event_processing import event_accumulator
        from tensorboard.plugins.hparams import plugin_data_pb2
    except ImportError as error:
        raise UsageError(
            f"tensorboard:{place} needs tensorboard: pip install tensorboard"
        ) from error
    fields: dict[Path, dict[str, Any]] = {}
    series: dict[Path, dict[str, pd.Series]] = {}
    for folder in folders:
        run, prefix = _run_of(folder, top)
        with reading(folder, "is no folder of event files, or damaged"):
            events = event_accumulator.EventAccumulator(
                str(folder), size_guidance={"scalars": 0, "tensors": 0}
            )
            events.Reload()
            written = _scalars(events)
            hparams = events.summary_metadata.get(_HPARAMS)
            settings = _settings(plugin_data_pb2, hparams)
        if _TIME.fullmatch(folder.name):  # results, written at step 0
            settings |= {tag: values.iloc[-1] for tag, values in written.items()}
            written = {}
        if written.pop("diverged_at", None) is not None:  # in a log of lrjax
            settings["status"] = "diverged"
        fields.setdefault(run, {}).update(configs.flat(settings))
        tags = {prefix + tag: values for tag, values in written.items()}
        series.setdefault(run, {}).update(tags)
    records = [
        Record(str(run.relative_to(top)), fields[run], found, _guessed(run, top))
        for run, found in series.items()
        if found or fields[run]
    ]
    return records, choices


def _run_of(folder: Path, top: Path) -> tuple[Path, str]:
    """The folder of a run, and what to write before its tags.

    Keras writes folders `train` and `validation` for one run, and `add_hparams` of
    PyTorch one that is named by the time.
    """
    part, _ = names.split(folder.name)
    if folder != top and part and names.plain(folder.name).count("_") == 0:
        return folder.parent, f"{part}/"
    beside = [path for path in folder.parent.iterdir() if _TIME.fullmatch(path.name)]
    if folder != top and beside == [folder]:
        return folder.parent, ""
    return folder, ""


def _scalars(events: Any) -> dict[str, pd.Series]:
    """All scalars of a run, which TensorFlow 2 writes as tensors; by step."""
    from tensorboard.util import tensor_util

    found = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    for tag in events.Tags()["tensors"]:
        if tag.startswith("_hparams_"):
            continue
        arrays = [
            (event.step, tensor_util.make_ndarray(event.tensor_proto))
            for event in events.Tensors(tag)
        ]
        if all(a.size == 1 and a.dtype.kind in "biuf" for _, a in arrays):
            found[tag] = [(step, array.item()) for step, array in arrays]
    series = {}
    for tag, points in found.items():
        steps, values = zip(*points, strict=True)
        values = pd.Series(np.array(values, float), steps)
        series[tag] = values[~values.index.duplicated(keep="last")].sort_index()
    return series


def _settings(messages: Any, metadata: Any) -> dict[str, Any]:
    """The hyperparameters that the hparams plugin recorded; none without metadata."""
    if metadata is None:
        return {}
    data = messages.HParamsPluginData.FromString(metadata.plugin_data.content)
    values = data.session_start_info.hparams
    return {k: getattr(v, v.WhichOneof("kind")) for k, v in values.items()}


def _guessed(run: Path, top: Path) -> Mapping[str, Any]:
    """Task, method and seed by the names of a run's folders."""
    parts = [part for part in run.relative_to(top).parts if not _TIME.fullmatch(part)]
    home = top.resolve().name
    return {"task": home, "method": home, **names.guess(parts)}
