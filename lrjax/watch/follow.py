"""State of a working directory, read anew only where it has changed.

Another program may be writing it, may be killed and started again, and may write
anything: what cannot be read is counted and named, never fatal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lrjax.analysis import scores
from lrjax.common import files
from lrjax.core import METRICS, Metric, UsageError, counted, encodable
from lrjax.reports import selected
from lrjax.tables import live, parts, reader, record
from lrjax.tables.frames import Hparams
from lrjax.watch.tail import Tail, stamp
from lrjax.watch.thinned import Curves

RATE, EPOCH = "learning_rate", "epoch"
TRAINING = "training"  # status of a run that has not ended
_ENDED = ("done", "diverged", "stopped")
_HUGE = 1e15  # numbers from here on are damage
_TEXTS = ("run_id", "task", "protocol", "method")
# Names of what may change, beside the tasks.
RUNS, TUNING, SELECTION = "runs", "tuning", "selection"


class Study:
    """A working directory that is followed.

    Attributes:
      workdir: the directory, which need not exist yet.
      generation: how often it was read from the start, because tables were replaced.
      changed: names of what has changed, for whoever shows it to clear.
      changed_tasks: names of tasks, likewise.
      progress: content of progress.json; None if there is none.
      trials, races: rows of the tables, in order.
      answers: of a selection, as returned by `selected.checked`.
    """

    def __init__(self, workdir: Path):
        self.workdir = workdir
        self.generation = 0
        self._begin()

    def _begin(self) -> None:
        """Know nothing yet."""
        self.generation += 1
        self.changed = {RUNS, TUNING, SELECTION}
        self.changed_tasks: set[str] = set()
        self.progress: dict[str, Any] | None = None
        self.trials: list[dict[str, Any]] = []
        self.races: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self._metrics: dict[str, tuple[Metric, ...]] = {}
        self._runs: dict[str, dict[str, Any]] = {}
        self._table: pd.DataFrame | None = None
        self._damaged: dict[str, int] = {}
        self._faults: dict[str, str] = {}
        self._stamps: dict[str, Any] = {}
        self._tails: dict[Path, Tail] = {}
        self._blocks: list[Path] = []  # their tables of curves
        self._published: list[Path] = []
        self._parts: set[Path] = set()  # that were read
        self._curves = Curves(self._columns())

    def look(self) -> None:
        """Read what has changed since the last call."""
        if any(self._is_replaced(tail) for tail in self._tails.values()):
            self._begin()
        self._replaced(record.NAME, self._read_metrics)
        for name, take in (
            (live.STARTED, self._take_started),
            (reader.RUNS, self._take_finished),
            (reader.TRIALS, self._take_trials),
            (reader.RACES, self._take_races),
        ):
            for lines in self._appended(self.workdir / name):
                take(lines)
        self._find_parts()
        for path in (self.workdir / reader.CURVES, *self._blocks):
            for lines in self._appended(path):
                self._take_curves(lines)
        self._replaced(live.PROGRESS, self._read_progress)
        self._replaced(selected.ANSWER, self._read_answers)

    # What others ask.

    @property
    def faults(self) -> list[str]:
        """Faults met in reading, a line each."""
        lost = dict(self._damaged)
        for tail in self._tails.values():
            if tail.skipped:
                lost[tail.path.name] = lost.get(tail.path.name, 0) + tail.skipped
        lines = [f"{name}: {counted(n, 'damaged line')}" for name, n in lost.items()]
        return [*self._faults.values(), *lines]

    @property
    def known(self) -> Mapping[str, Metric]:
        """Name -> metric; where tasks disagree on a direction, those built in."""
        try:
            return scores.known_metrics([self._metrics])
        except UsageError:
            return METRICS

    def runs(self) -> pd.DataFrame:
        """The runs that have begun, as returned by `scores.arrange`.

        `status` of those that have not ended is TRAINING; `raw_task` is the task as in
        `changed_tasks`, `curve` the column of curves that ranks it, None if unknown.
        """
        if self._table is None:
            self._table = self._arranged()
        return self._table

    def _arranged(self) -> pd.DataFrame:
        rows = [row for row in self._runs.values() if row["kind"] == "run"]
        if not rows:
            return pd.DataFrame(columns=["run_id", "task", "entry", "method", "status"])
        frame = pd.DataFrame(rows)
        frame["hparams"] = frame["hparams"].map(Hparams)
        ranked = scores.ranked_by(frame, self._metrics)
        curve = [self._ranking(task) for task in frame["task"]]
        return scores.arrange(ranked.assign(curve=curve, raw_task=frame["task"]))

    def points(self, run_ids: list[str]) -> tuple[Any, Any, tuple[str, ...]]:
        """Thinned curves of runs that have any: steps, values and their columns.

        Returns:
          as `Curves.of`, and the names of the columns of values.
        """
        return (*self._curves.of(run_ids), self._curves.columns)

    def has_curve(self, run_id: str) -> bool:
        """Whether anything was measured of a run."""
        return run_id in self._curves

    @property
    def metrics(self) -> dict[str, tuple[Metric, ...]]:
        """Task -> its metrics, as returned by `record.load_metrics`."""
        return self._metrics

    @property
    def nameless(self) -> int:
        """Number of runs that have curves, but no name in any table."""
        return sum(name not in self._runs for name in self._curves.run_ids)

    # How tables are read.

    def _is_replaced(self, tail: Tail) -> bool:
        """Whether a table is another one than before, so that all is read anew."""
        try:
            return tail.changed() is None and not self._is_published(tail.path)
        except OSError:
            return False  # reading it says why

    def _is_published(self, path: Path) -> bool:
        """Whether a table of a block is gone because its rows are in a part now."""
        return path in self._blocks and not path.exists()

    def _appended(self, path: Path) -> Iterator[bytes]:
        """The lines that a table has got, piece by piece."""
        tail = self._tails.setdefault(path, Tail(path))
        try:
            if tail.changed():
                yield from tail.pieces()
            self._faults.pop(path.name, None)
        except OSError as error:
            self._faults[path.name] = f"cannot read {path}: {files.words(error)}"

    def _replaced(self, name: str, read: Callable[[Path], None]) -> None:
        """Read a file that is replaced as a whole, if it was."""
        path = self.workdir / name
        try:
            if (now := stamp(path)) == self._stamps.get(name):
                return
            try:
                read(path)
                self._faults.pop(name, None)
            except UsageError as error:
                self._faults[name] = str(error)
            self._stamps[name] = now  # only now, as it is read again after an OSError
        except OSError as error:
            self._faults[name] = f"cannot read {path}: {files.words(error)}"

    def _rows(self, name: str, lines: bytes) -> list[dict[str, Any]]:
        """The rows of whole lines that are sound; others are counted."""
        rows = []
        for line in lines.splitlines():
            try:
                rows.append(reader.row_of(Path(name), 0, line)[1])
            except UsageError:
                self._damaged[name] = self._damaged.get(name, 0) + 1
        return rows

    def _take_started(self, lines: bytes) -> None:
        """Runs that have begun."""
        for line in lines.splitlines():
            row = _started(line)
            if row is None:
                self._damaged[live.STARTED] = self._damaged.get(live.STARTED, 0) + 1
            else:
                self._add({**row, "status": TRAINING})

    def _take_finished(self, lines: bytes) -> None:
        """Runs that have ended."""
        for row in self._rows(reader.RUNS, lines):
            named = {"protocol": "", "seed": 0, "steps": 1, "hparams": {}}
            row = {**named, **row, "kind": "run"}
            if row.get("status") in _ENDED and all(name in row for name in _TEXTS):
                self._add(row)
            else:
                self._damaged[reader.RUNS] = self._damaged.get(reader.RUNS, 0) + 1

    def _add(self, row: dict[str, Any]) -> None:
        """Add a run, unless it is known to have ended."""
        run_id = row["run_id"]
        before = self._runs.get(run_id, {"status": TRAINING})
        if row["status"] == TRAINING and before["status"] != TRAINING:
            return
        for name in ("task", "method", "protocol"):
            row[name] = encodable(row[name])
        self._runs[run_id] = row
        self._table = None
        self.changed |= {RUNS}
        self.changed_tasks.add(row["task"])

    def _take_trials(self, lines: bytes) -> None:
        """Trials of tunings that have ended."""
        self.trials += self._rows(reader.TRIALS, lines)
        self.changed |= {TUNING}

    def _take_races(self, lines: bytes) -> None:
        """Runs of selections that have ended."""
        self.races += self._rows(reader.RACES, lines)
        self.changed |= {SELECTION}

    def _take_curves(self, lines: bytes) -> None:
        """Measurements of runs."""
        frame = reader.numbers(lines)
        if frame is None:
            rows = self._rows(reader.CURVES, lines)
            kept = self._curves.columns
            frame = pd.DataFrame(
                {
                    "run_id": [row["run_id"] for row in rows],
                    "step": [row["step"] for row in rows],
                    **{
                        n: pd.Series([r.get(n) for r in rows], dtype=float)
                        for n in kept
                    },
                }
            )
        if len(frame):
            self._add_points(frame)

    def _add_points(self, frame: pd.DataFrame) -> None:
        """Add rows of curves."""
        for run_id in self._curves.add(frame):
            if run_id in self._runs:
                self.changed_tasks.add(self._runs[run_id]["task"])

    def _find_parts(self) -> None:
        """Look for curves of blocks, and read those that were published."""
        self._replaced(parts.FOLDER, self._list_parts)
        new = [path for path in self._published if path not in self._parts]
        for path in new:
            self._parts.add(path)
            try:
                for frame in parts.frames_of([path]):
                    self._add_points(frame)
            except UsageError as error:
                self._faults[path.name] = str(error)

    def _list_parts(self, folder: Path) -> None:
        """List the tables of blocks that train, and the parts."""
        blocks = [path.name for path in folder.glob("*") if path.is_dir()]
        before = self._blocks
        self._blocks = [parts.table_of(self.workdir, name) for name in sorted(blocks)]
        for path in set(before) - set(self._blocks):
            self._tails.pop(path, None)
        self._published = parts.published(self.workdir)

    def _read_metrics(self, _: Path) -> None:
        """The metrics of tasks; where they are others, curves are read anew."""
        metrics = record.load_metrics(self.workdir)
        if metrics != self._metrics:
            self._metrics = metrics
            self._table = None
            if set(self._columns()) != set(self._curves.columns):
                self._forget_curves()

    def _forget_curves(self) -> None:
        """Read all curves from their start, other columns of them."""
        self._curves = Curves(self._columns())
        self._parts.clear()
        for path in [p for p in self._tails if p.name == reader.CURVES]:
            del self._tails[path]

    def _columns(self) -> tuple[str, ...]:
        """The columns of curves that are shown."""
        ranking = {f"valid_{metrics[0]}" for metrics in self._metrics.values()}
        return (EPOCH, RATE, *sorted(ranking | set(scores.PREFERRED)))

    def _ranking(self, task: str) -> str | None:
        """The column that ranks a task; None if nothing says."""
        found = self._metrics.get(task)
        return f"valid_{found[0]}" if found else None

    def _read_progress(self, _: Path) -> None:
        self.progress = _numbers_of(live.progress(self.workdir))

    def _read_answers(self, _: Path) -> None:
        self.changed |= {SELECTION}
        self.answers = []
        self.answers = selected.read([self.workdir])


def _started(line: bytes) -> dict[str, Any] | None:
    """A row of started.jsonl; None if it is damaged."""
    try:
        row = json.loads(line)
        sound = all(isinstance(row[name], str) and row[name] for name in _TEXTS)
        sound = sound and isinstance(row["hparams"], dict)
        sound = sound and all(
            value is None or isinstance(value, str | int | float)
            for value in row["hparams"].values()
        )
        sound = sound and all(
            type(row[name]) is int and 0 <= row[name] < 2**53
            for name in ("seed", "steps")
        )
        row["kind"] = str(row.get("kind", "run"))
        return row if sound else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _numbers_of(progress: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A progress.json whose numbers are numbers; None if it is damaged."""
    if progress is None:
        return None
    fields = {"updates_before": 0, **progress}
    numbers = ("runs", "runs_done", "updates", "updates_done", "updates_before")
    for name in (*numbers, "began", "written"):
        value = fields.get(name)
        if not isinstance(value, int | float) or not abs(value) < _HUGE:
            return None
    texts = {name: str(fields.get(name, "")) for name in ("mode", "state", "what")}
    return {**fields, **texts}
