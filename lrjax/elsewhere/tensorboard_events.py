"""Runs of TensorBoard: a folder of event files for each."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
# A folder that PyTorch's writer makes by default, for transformers below `runs`
_STAMP = re.compile(r"[A-Z][a-z]{2}\d\d_\d\d-\d\d-\d\d_.*")
_HEAD, _CHECKSUM = 12, struct.Struct("<I")  # of a record in an event file
_HPARAMS = "_hparams_/session_start_info"


def read(place: str, choices: Choices) -> tuple[list[Record], Choices]:
    """Read the runs below a folder, by TensorBoard's own reader.

    Raises:
      UsageError: if there is none, or tensorboard is needed and not installed.
    """
    top = files.expanded(place)
    if not top.is_dir():
        raise UsageError(f"{place} is not a folder of event files")
    with reading(place, ""):
        found = itertools.islice(files.found_below(top, "*tfevents*"), _MAX_FILES)
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
        with reading(folder, "is no folder of event files, or damaged"):
            events = event_accumulator.EventAccumulator(
                str(folder), size_guidance={"scalars": 0, "tensors": 0}
            )
            with _stopped_at() as stopped:
                events.Reload()
            written = _scalars(events)
            hparams = events.summary_metadata.get(_HPARAMS)
            settings = _settings(plugin_data_pb2, hparams)
        for path in filter(_is_damaged, dict.fromkeys(stopped)):
            said = f"{path} is damaged: what follows there is left out"
            warnings.warn(said, stacklevel=2)
        run, prefix = _run_of(folder, top, [*written])
        if _TIME.fullmatch(folder.name):  # results, written at step 0
            settings |= {tag: values.iloc[-1] for tag, values in written.items()}
            written = {}
        if written.pop("diverged_at", None) is not None:  # in a log of lrjax
            settings["status"] = "diverged"
        fields.setdefault(run, {}).update(configs.flat(settings))
        tags = {prefix + tag: values for tag, values in written.items()}
        series.setdefault(run, {}).update(_with_epochs(tags) if prefix else tags)
    records = [
        Record(str(run.relative_to(top)), fields[run], found, _guessed(run, top))
        for run, found in series.items()
        if found or fields[run]
    ]
    return records, choices


@contextlib.contextmanager
def _stopped_at() -> Iterator[list[str]]:
    """Yield a list that gets the files in which TensorBoard's reader finds no more.

    It says so in debugging messages alone, since a file that grows ends in this way,
    too.
    """
    from tensorboard.util import tb_logging

    logger, stopped = tb_logging.get_logger(), []

    def note(record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        if str(record.msg).startswith("Truncated record"):
            stopped.extend(map(str, args[:1]))
        return record.levelno >= usual

    level, usual = logger.level, logger.getEffectiveLevel()
    logger.addFilter(note)
    logger.setLevel(logging.DEBUG)
    try:
        yield stopped
    finally:
        logger.setLevel(level)
        logger.removeFilter(note)


def _is_damaged(path: str) -> bool:
    """Whether a file of records has a wrong checksum, and is not only cut off."""
    from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

    def wrong(content: bytes, checksum: bytes) -> bool:
        return pywrap_tensorflow.masked_crc32c(content) != _CHECKSUM.unpack(checksum)[0]

    with open(path, "rb") as file:
        while len(head := file.read(_HEAD)) == _HEAD:
            if wrong(head[:8], head[8:]):
                return True
            size = int.from_bytes(head[:8], "little")
            if len(body := file.read(size + _CHECKSUM.size)) < size + _CHECKSUM.size:
                return False
            if wrong(body[:size], body[size:]):
                return True
    return False


def _run_of(folder: Path, top: Path, tags: Sequence[str]) -> tuple[Path, str]:
    """The folder of a run, and what to write before its tags.

    Keras writes folders `train` and `validation` for one run, `add_scalars` of PyTorch
    TAG_train or TAG/train with this tag alone, and `add_hparams` one that is named by
    the time.
    """
    below = folder.relative_to(top).as_posix()
    endings = [f"{re.escape(t)}/|{re.escape(t.replace('/', '_'))}_" for t in tags]
    ending = f"(?:{endings[0]})?" if len(endings) == 1 else ""
    found = re.fullmatch(rf"(?:(.*?)/)??{ending}([^/]+)", below)
    part = found[2] if found else ""
    if found and names.split(part)[0] and "_" not in names.plain(part):
        return top / (found[1] or ""), f"{names.split(part)[0]}/"
    beside = [path for path in folder.parent.iterdir() if _TIME.fullmatch(path.name)]
    if folder != top and beside == [folder]:
        return folder.parent, ""
    return folder, ""


def _with_epochs(tags: Mapping[str, pd.Series]) -> dict[str, pd.Series]:
    """Tags by step; with the epochs, if these are the steps, as in what Keras wrote.

    Tags over the number of batches, which Keras may write beside them, are left out.
    """
    last = {tag: tag.rpartition("/")[2] for tag in tags}
    steps = [v.index for tag, v in tags.items() if last[tag].startswith("epoch_")]
    if not steps:
        return {**tags}
    known = np.unique(np.concatenate(steps))
    kept = {
        tag: values
        for tag, values in tags.items()
        if not (last[tag].startswith("batch_") or tag.endswith("_vs_iterations"))
    }
    return {**kept, "epoch": pd.Series(known.astype(float), known)}


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
    guessed = names.guess([part for part in parts if not _STAMP.fullmatch(part)])
    if "method" not in guessed:  # what differs is the time alone
        guessed = names.guess(parts)
    return {"task": home, "method": home, **guessed}
