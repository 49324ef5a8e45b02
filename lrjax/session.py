"""What a command trains with: a session, and a launcher that trains in it.

A launcher plans the blocks of a config and trains units. There are three: this process
(`lrjax.local`), the workers of a Dask cluster (`lrjax.cluster`), and several hosts that
share the work (`lrjax.multihost`). Training, tuning and races know them by the
interface here alone.
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
from lrjax.config import Settings
from lrjax.units import Outcome, Unit


class Session:
    """A command that trains: what it was asked for, its tables, whether to stop.

    Use as a context manager; while it lasts SIGINT and SIGTERM are noted.

    Attributes:
      settings: what was asked for.
      workdir: where the tables are.
      data_dir: where data files are looked for first.
      signalled: returns the signal that came, 0 if none did.
    """

    def __init__(
        self,
        settings: Settings,
        workdir: str | os.PathLike[str],
        data_dir: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ):
        self.settings, self.workdir = settings, Path(workdir)
        self.data_dir = data_dir
        self.signalled: Callable[[], int] = lambda: 0
        self._overrides = dict(overrides or {})
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        self.signalled = self._stack.enter_context(console.signals())
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @functools.cached_property
    def tables(self) -> results.Tables:
        """The tables; opened, so that nobody else may, when first asked for.

        Raises:
          UsageError: if that cannot be.
        """
        return self._stack.enter_context(results.Tables(self.workdir))

    def record(
        self,
        metrics: Mapping[str, Sequence[Mapping[str, Any]]],
        tables: results.Tables | None = None,
    ) -> None:
        """Writes config.json.

        Args:
          metrics: of each task, as from `results.describe`.
          tables: beside which; the session's own by default.
        """
        settings = dataclasses.asdict(self.settings)
        (tables or self.tables).write_config(settings, self._overrides, metrics)


class Planned(Protocol):
    """A block as its launcher knows it: a `Block`, or what stands for one elsewhere."""

    @property
    def name(self) -> str:
        """16 hexadecimal digits that follow from the runs and where they stand."""
        ...

    @property
    def title(self) -> str:
        """Its task and method, for people."""
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
    def updates(self) -> int:
        """Updates of all distinct runs together."""
        ...

    @property
    def metrics(self) -> Sequence[Mapping[str, Any]]:
        """The task's metrics, as from `results.describe`."""
        ...


class Launcher(Protocol):
    """Who trains.

    Attributes:
      session: for which.
    """

    session: Session

    @property
    def where(self) -> str:
        """What it trains on, for people: '2 workers (cpu)'."""
        ...

    def blocks(self, settings: Settings) -> Sequence[Any]:
        """Plans all blocks of some settings, each a `Planned`.

        Raises:
          UsageError: if data are of no use.
        """
        ...

    def train(
        self,
        units: Sequence[Unit],
        progress: Callable[[Unit, int], Any],
        ready: Callable[[], Any] = lambda: None,
    ) -> Iterator[Outcome]:
        """Trains units, each from its last checkpoint.

        Args:
          units: at least one; their blocks are from `blocks`, or are `Block`.
          progress: called with a unit, or a part of it, and how many updates more of
            it are done; fewer than 0 if it must be trained again.
          ready: called once it is clear that training can start.

        Yields:
          what came of each unit, or of its parts, in the order in which they end. The
          rows of runs are in the session's tables by then.

        Raises:
          UsageError: if a unit cannot be trained.
          Interrupted: on a signal, once what is at hand is saved.
        """
        ...

    def forget(self, names: Sequence[str]) -> None:
        """Drops checkpoints of blocks, by their names: what they gave is safe."""
        ...

    def spent(self, seconds: float) -> str:
        """A line on what training took, given the seconds of all units together."""
        ...


class Launch(Protocol):
    """Opens a session, and makes the launcher that trains in it."""

    def __call__(
        self,
        settings: Settings,
        workdir: str | os.PathLike[str],
        data_dir: str | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> contextlib.AbstractContextManager[Launcher]:
        """Takes the arguments of `Session`."""
        ...
