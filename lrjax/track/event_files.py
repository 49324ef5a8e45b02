"""TensorBoard: an event file for each run in WORKDIR/tensorboard/TASK/ENTRY/seedN."""

from __future__ import annotations

import io
import itertools
import os
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrjax.common import files, naming
from lrjax.core import UsageError
from lrjax.track import Row, values

FOLDER = "tensorboard"
_START = "events.out.tfevents."


def connect(workdir: Path) -> TensorBoard:
    """Open event files below a working directory.

    Raises:
      UsageError: if tensorboardX is not installed, or something else is in the way.
    """
    try:
        import tensorboardX as _  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UsageError(
            "--log=tensorboard needs tensorboardX: pip install 'lrjax[track]'"
        ) from error
    files.check_folder(workdir / FOLDER)
    return TensorBoard(workdir)


class TensorBoard:
    """Writes event files; each is open only while something is added.

    A writer of tensorboardX has a thread and an open file, too many for populations of
    thousands.
    """

    def __init__(self, workdir: Path):
        """Take the working directory."""
        self._workdir = workdir
        self._paths: dict[str, Path] = {}  # of the runs that train, by run_id

    def log(self, run: Row, rows: Sequence[Row]) -> None:
        """See `track.Tracker`."""
        summaries = ((row["step"], [_scalars(values.curve(row))]) for row in rows)
        self._add(run, summaries)

    def end(self, run: Row, result: Row) -> None:
        """See `track.Tracker`."""
        from tensorboardX import summary  # pyright: ignore[reportMissingImports]

        *_, ended = summary.hparams({}, {})
        found = [_scalars(values.result(result)), ended]
        found.append(summary.text("status", result["status"]))
        self._add(run, [(values.last_step(result), found)])
        del self._paths[run["run_id"]]

    def close(self) -> None:
        """See `track.Tracker`; no file is open."""

    def _add(self, run: Row, summaries: Iterable[tuple[int, Sequence[Any]]]) -> None:
        """Append summaries to a run's file.

        Args:
          run: the run.
          summaries: step, and those of this step.
        """
        from tensorboardX.proto import event_pb2  # pyright: ignore

        records = [
            event_pb2.Event(wall_time=time.time(), step=step, summary=each)
            for step, those in summaries
            for each in those
        ]
        path = self._paths.get(run["run_id"])
        if path is None:
            path = self._paths[run["run_id"]] = self._new_path(run)
            # From this step on it holds, not what an earlier command measured.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            begun = [{"file_version": "brain.Event:2"}]
            begun += [{"session_log": start, "step": records[0].step}]
            begun += [{"summary": summary} for summary in _settings(run)]
            events = [event_pb2.Event(wall_time=time.time(), **of) for of in begun]
            records = [*events, *records]
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with io.BufferedWriter(files.open_own(path, flags)) as file:
            file.write(b"".join(_framed(each.SerializeToString()) for each in records))

    def _new_path(self, run: Row) -> Path:
        """A new event file in a run's folder, which no other run has."""
        parent = self._workdir / FOLDER
        for name in (run["task"], run["entry"]):
            parent /= naming.folders([name])[name]
        ending = f".lrjax.{run['run_id']}"
        names = itertools.chain(
            [f"seed{run['seed']}"],
            (f"seed{run['seed']} #{number}" for number in itertools.count(2)),
        )
        for folder in (parent / name for name in names):
            files.make_folder(folder, below=self._workdir)
            found = [name for name in os.listdir(folder) if name.startswith(_START)]
            if all(name.endswith(ending) for name in found):
                # TensorBoard reads them in the order of their names.
                last = max((int(name.split(".")[3]) for name in found), default=0)
                now = max(int(time.time()), last + 1)
                return folder / f"{_START}{now:010d}{ending}"
        raise AssertionError  # there is always another name


def _settings(run: Row) -> list[Any]:
    """Summaries that say what a run is, for the tab of hyperparameters."""
    from tensorboardX import summary  # pyright: ignore[reportMissingImports]

    names = ("task", "protocol", "method", "seed", "steps", "kind", "run_id")
    known = {name: run[name] for name in names} | run["hparams"]
    experiment, start, _ = summary.hparams(known, {f"valid_{run['metric']}": None})
    return [experiment, start]


def _scalars(numbers: Mapping[str, float]) -> Any:
    """A summary with numbers by name."""
    from tensorboardX.proto import summary_pb2  # pyright: ignore

    found = [
        summary_pb2.Summary.Value(tag=name, simple_value=value)
        for name, value in numbers.items()
    ]
    return summary_pb2.Summary(value=found)


def _framed(data: bytes) -> bytes:
    """A record of an event file: length and content, each with a checksum."""
    from tensorboardX import record_writer  # pyright: ignore[reportMissingImports]

    def checked(part: bytes) -> bytes:
        return part + struct.pack("<I", record_writer.masked_crc32c(part))

    return checked(struct.pack("<Q", len(data))) + checked(data)
