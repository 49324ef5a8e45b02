"""The interface between commands and training: sessions and launchers.

A launcher plans the blocks of a config and trains units. There are three: this process
(`lrjax.launch.local`), the workers of a Dask cluster (`lrjax.launch.dask_client`), and
several hosts that share the work (`lrjax.launch.hosts`). Training, tuning and races use
only the interface defined here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lrjax import console, results
from lrjax.common import files
from lrjax.config import Settings
from lrjax.launch import checkpoint, leftovers
from lrjax.launch.live import Live
from lrjax.launch.units import Outcome, Unit
from lrjax.tables import parts


class Session:
    """The settings, tables and signals of a command that trains.

    Use as a context manager; inside it signals that stop are noted instead of raised.

    Attributes:
      settings: settings of the command.
      workdir: directory of the tables.
      home: directory of checkpoints and parameters; other than `workdir` for one of
        several hosts.
      data_dir: directory searched first for data files.
      signalled: returns the signal that came, 0 if none did.
      live: tells what is trained and measured.
    """

    def __init__(
        self,
        settings: Settings,
        workdir: str | os.PathLike[str],
        data_dir: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        home: Path | None = None,
    ):
        """Create a session; nothing is opened before it is entered.

        Args:
          settings: settings of the command.
          workdir: directory of the tables.
          data_dir: directory searched first for data files.
          overrides: config fields that the command line set, for config.json.
          home: directory of checkpoints and parameters; `workdir` if None.
        """
        self.settings, self.workdir = settings, files.expanded(workdir)
        self.home = home or self.workdir
        self.data_dir = str(files.expanded(data_dir)) if data_dir else data_dir
        self.signalled: Callable[[], int] = lambda: 0  # until the session is entered
        self.live = Live(self.home)
        self._overrides = dict(overrides or {})
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        self.signalled = self._stack.enter_context(console.signals())
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self.live.end(error[0])
        finally:
            if "tables" in self.__dict__:
                leftovers.remove_empty(self.home)
            self._stack.__exit__(*error)

    @functools.cached_property
    def tables(self) -> results.Tables:
        """The tables, opened and locked when first used, with rows left elsewhere.

        Raises:
          UsageError: if they cannot be opened, or files beside them not be written.
        """
        publish_in = self.home if self.settings.curve_parts else None
        tables = results.Tables(self.workdir, publish_in)
        self._stack.enter_context(tables)
        files.check_folder(self.home / checkpoint.FOLDER)
        if self.settings.save_params:
            files.check_folder(self.home / checkpoint.PARAMS)
        if self.settings.curve_parts:
            files.check_folder(self.home / parts.FOLDER)
        leftovers.take_over(tables)
        # Of rows and runs that were there before nothing is told.
        tables.heard, self.live.finished = self.live.hear, tables.runs
        return tables

    def record(
        self,
        metrics: Mapping[str, Sequence[Mapping[str, Any]]],
        tables: results.Tables | None = None,
    ) -> None:
        """Write config.json.

        Args:
          metrics: metrics of each task, as returned by `results.describe`.
          tables: in whose directory; the session's own by default.
        """
        settings = dataclasses.asdict(self.settings)
        (tables or self.tables).write_config(settings, self._overrides, metrics)


class Planned(Protocol):
    """A block as its launcher knows it: a `Block` or a description of one."""

    @property
    def name(self) -> str:
        """16 hexadecimal digits that follow from the runs and their positions."""
        ...

    @property
    def title(self) -> str:
        """Task and method, for messages."""
        ...

    @property
    def task_name(self) -> str:
        """The task's name in the tables."""
        ...

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Identities of the distinct runs."""
        ...

    @property
    def heads(self) -> Sequence[Mapping[str, Any]]:
        """Fields of each distinct run that are known before it trains: `rows.head`."""
        ...

    @property
    def updates(self) -> int:
        """Number of updates of all distinct runs together."""
        ...

    @property
    def metrics(self) -> Sequence[Mapping[str, Any]]:
        """The task's metrics, as returned by `results.describe`."""
        ...


class Launcher(Protocol):
    """Plans and trains blocks.

    Attributes:
      session: to train in.
    """

    session: Session

    @property
    def where(self) -> str:
        """Place of the training, for messages: '2 workers (cpu)'."""
        ...

    def blocks(self, settings: Settings) -> Sequence[Any]:
        """Plan all blocks of some settings, each a `Planned`.

        Raises:
          UsageError: if data is not available or cannot be used.
        """
        ...

    def train(
        self,
        units: Sequence[Unit],
        progress: Callable[[Unit, int], Any],
        ready: Callable[[], Any] = lambda: None,
    ) -> Iterator[Outcome]:
        """Train units, each from its last checkpoint.

        Args:
          units: at least one; their blocks are from `blocks`, or are `Block`.
          progress: called with a unit, or a part of it, and the number of updates done
            since the last call; negative if updates must be repeated.
          ready: called once training can start.

        Yields:
          the outcome of each unit, or of its parts, as they finish. The rows of its
          runs are in the session's tables by then.

        Raises:
          UsageError: if a unit cannot be trained.
          Interrupted: on a signal, once running units are saved.
        """
        ...

    def forget(self, names: Sequence[str]) -> None:
        """Remove checkpoints of blocks whose results are safe, by block name."""
        ...

    def spent(self, seconds: float) -> str:
        """Describe in one line what training took, given the seconds of all units."""
        ...


class Launch(Protocol):
    """Opens a session and makes the launcher that trains in it."""

    def __call__(
        self,
        settings: Settings,
        workdir: str | os.PathLike[str],
        data_dir: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> contextlib.AbstractContextManager[Launcher]:
        """Take the arguments of `Session`."""
        ...
