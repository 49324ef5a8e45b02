"""Messages of a command while it trains: its runs, progress and measurements.

Those who look into the working directory find the files of `lrjax.tables.live`;
listeners in this process get rows as they are measured. Neither changes what is
trained.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lrjax import results
from lrjax.core import Interrupted
from lrjax.launch.hints import Hints

_EVERY = 1.0  # seconds between two writes of progress.json

Row = Mapping[str, Any]


class Measured(NamedTuple):
    """A measured row, and whose it is.

    Attributes:
      run: the run's row of started.jsonl.
      values: a row as in curves.jsonl; the last one as in runs.jsonl.
      is_last: whether the run has ended.
    """

    run: Row
    values: Row
    is_last: bool


class Listener(Protocol):
    """Takes rows as they are measured; called from any thread, one call at a time."""

    def plan(self, heads: Sequence[Row]) -> Any:
        """Called before runs train, with what `begin` gets of each of them."""
        ...

    def send(self, rows: Sequence[Measured]) -> Any:
        """Take rows; must return soon and raise nothing."""
        ...

    def close(self) -> Any:
        """Called once, when no more rows will come."""
        ...


class Live:
    """Tells of a command that trains; safe in several threads.

    Attributes:
      mode: 'train', 'tune', 'select' or 'advise'.
      finished: `run_id`s of runs of which nothing is told, if they train once more.
    """

    def __init__(self, folder: Path | None):
        """Take the directory of the files.

        Args:
          folder: the working directory; None to tell nothing.
        """
        self.mode = "train"
        self.finished: Collection[str] = ()
        self._hints = Hints(folder) if folder else None
        self._listeners: list[Listener] = []
        self._runs: dict[str, Row] = {}  # that train now: rows of started.jsonl
        self._steps: dict[str, int] = {}  # of these runs, the last that were told
        self._planned: dict[str, tuple[int, int]] = {}  # kind -> runs, updates
        self._runs_done = self._updates_done = self._updates_before = 0
        self._what, self._began, self._written = "", time.time(), -math.inf
        self._lock = threading.RLock()

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def listen(self, listeners: Iterable[Listener]) -> None:
        """Add listeners, which get what is measured from now on."""
        if self._hints:
            self._listeners += listeners

    # How far it is.

    def expect(
        self, kind: str, runs: int, updates: int, done: tuple[int, int] = (0, 0)
    ) -> None:
        """Say how much is to be trained.

        Args:
          kind: 'run', 'trial' or 'race'; replaces what was said of it before.
          runs, updates: how many in all.
          done: how many of them earlier commands have done.
        """
        with self._lock:
            self._planned[kind] = runs, updates
            self.advance(*reversed(done), before=True)
            self._write("training")

    def note(self, what: str) -> None:
        """Say in a few words what is trained now."""
        with self._lock:
            self._what = what
            self._write_if_due()

    def advance(self, updates: int, runs: int = 0, before: bool = False) -> None:
        """Say how much was trained since the last call; negative if it must again.

        Args:
          updates, runs: how many.
          before: whether an earlier command has trained them.
        """
        with self._lock:
            self._updates_done += updates
            self._updates_before += updates if before else 0
            self._runs_done += runs
            self._write_if_due()

    def _write_if_due(self) -> None:
        """Write progress.json, unless it was written just now."""
        if self._planned and time.monotonic() - self._written >= _EVERY:
            self._write("training")

    def _write(self, state: str) -> None:
        """Write progress.json."""
        if not self._hints:
            return
        self._written = time.monotonic()
        runs, updates = map(sum, zip(*self._planned.values(), strict=True))
        if state == "ended":  # what was planned was the most
            runs, updates = self._runs_done, self._updates_done
        self._hints.progress(
            {
                "mode": self.mode,
                "state": state,
                "what": self._what,
                "runs": runs,
                "runs_done": min(self._runs_done, runs),
                "updates": updates,
                "updates_done": min(self._updates_done, updates),
                "updates_before": min(self._updates_before, updates),
                "began": self._began,
                "written": time.time(),
                "pid": os.getpid(),
            }
        )

    # What is measured.

    def plan(self, blocks: Iterable[Any]) -> None:
        """Tell listeners which runs will train.

        Args:
          blocks: each with `heads`, as `begin` takes them.
        """
        if self.is_heard:
            heads = [head for block in blocks for head in block.heads]
            for listener in self._listeners:
                listener.plan(heads)

    def begin(self, heads: Iterable[Row], is_trial: bool = False) -> None:
        """Say that runs begin to train.

        Args:
          heads: their rows as `rows.head` makes them.
          is_trial: whether they are those of a tuning or a selection.
        """
        if not self._hints:
            return
        kind = (
            ("race" if self.mode in ("select", "advise") else "trial")
            if is_trial
            else "run"
        )
        new = (head for head in heads if head["run_id"] not in self.finished)
        rows = [{**head, "kind": kind} for head in new]
        with self._lock:
            if self.is_heard:
                self._runs |= {row["run_id"]: row for row in rows}
            self._hints.started(rows)

    def hear(self, table: str, rows: Iterable[Row]) -> None:
        """Tell listeners of rows that a table got, or would get.

        Those of runs that have not begun, and those that were told before, are not.

        Args:
          table: CURVES or RUNS; nothing is told of others.
          rows: its rows.
        """
        if not self.is_heard or table not in (results.CURVES, results.RUNS):
            return
        is_last = table == results.RUNS
        with self._lock:
            told = []
            for row in rows:
                run_id = row["run_id"]
                run = self._runs.get(run_id)
                if run is None:
                    continue
                if is_last:
                    del self._runs[run_id]
                    self._steps.pop(run_id, None)
                elif row["step"] <= self._steps.get(run_id, -1):
                    continue
                else:
                    self._steps[run_id] = row["step"]
                told.append(Measured(run, row, is_last))
            for listener in self._listeners if told else ():
                listener.send(told)

    def hear_trial(
        self, run_id: str, values: Mapping[str, float], seconds: float
    ) -> None:
        """Tell listeners that a trial has ended, which has no row in these tables.

        Args:
          run_id: of the trial.
          values: its last measurements.
          seconds: of training.
        """
        run = self._runs.get(run_id)
        if run is None:
            return
        diverged_at = int(values["diverged_at"])
        scores = {
            name: math.nan if diverged_at else value
            for name, value in values.items()
            if name != "diverged_at"
        }
        curve = {k: v for k, v in scores.items() if not k.startswith("test_")}
        step = diverged_at or run["steps"]
        ended = {
            **{name: value for name, value in run.items() if name != "kind"},
            "status": "diverged" if diverged_at else "done",
            "diverged_at": diverged_at or None,
            **scores,
            "seconds": seconds,
        }
        self.hear(results.CURVES, [{"run_id": run_id, "step": step, **curve}])
        self.hear(results.RUNS, [ended])

    def end(self, error: type[BaseException] | None) -> None:
        """Close the listeners, and say that the command ends.

        Args:
          error: why it ends; None if it has done all.
        """
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        if self._planned:
            states = {None: "ended", Interrupted: "stopped"}
            self._write(states.get(error, "failed"))
