"""Sends rows in a thread of its own, so that training neither waits nor fails."""

from __future__ import annotations

import collections
import contextlib
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lrjax.console import say
from lrjax.core import counted, cut
from lrjax.launch.live import Measured, Row

MOST = 200_000  # rows that wait; then training waits, too
QUIET = 3.0  # seconds of waiting at the end of which nothing is said
PATIENCE = 60.0  # seconds without progress after which nothing more is sent

Take = Callable[[Sequence[Measured]], Iterable[Any]]


class Sender:
    """A `lrjax.launch.live.Listener` that hands rows on in order, by one thread.

    If what it hands them to fails, or does nothing for `PATIENCE` seconds while much
    waits, that is one warning, and nothing more is sent.
    """

    def __init__(
        self,
        name: str,
        take: Take,
        plan: Callable[[Sequence[Row]], Any] = lambda heads: None,
        end: Callable[[], Any] = lambda: None,
    ):
        """Take what gets the rows; the thread starts with the first ones.

        Args:
          name: for warnings.
          take: takes rows; returns an iterator, each step of which is some progress.
          plan: called with the heads of runs before they train.
          end: called by the thread after the last rows, or when something failed.
        """
        self._name, self._take, self._plan, self._end = name, take, plan, end
        self._waiting = collections.deque[Sequence[Measured]]()
        self._rows = self._steps = 0  # that wait; that were taken
        self._is_closing = self._is_off = False
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()  # its lock may be taken twice

    def plan(self, heads: Sequence[Row]) -> None:
        """See `Listener`."""
        self._plan(heads)

    def send(self, rows: Sequence[Measured]) -> None:
        """See `Listener`; waits while too many rows wait already."""
        with self._changed:
            self._wait_while(lambda: self._rows > MOST)
            if self._is_off:
                return
            self._waiting.append(rows)
            self._rows += len(rows)
            self._changed.notify_all()
            if not self._thread:
                self._thread = threading.Thread(
                    target=self._work, name=f"lrjax {self._name}", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """See `Listener`; waits until all is sent, as long as there is progress."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._thread is None, QUIET):
                say(f"waiting for {self._name} to take {counted(self._rows, 'row')}")
            self._wait_while(lambda: self._thread is not None)

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        """Wait, at most `PATIENCE` seconds without progress; the lock is held."""
        while condition() and not self._is_off:
            before = self._steps
            if not self._changed.wait(PATIENCE) and self._steps == before:
                self._stop(f"no answer for {PATIENCE:.0f} seconds")

    def _work(self) -> None:
        """Hand on what waits, until all is sent after the end."""
        try:
            while rows := self._next():
                for _ in self._take(rows):
                    self._note()
                    if self._is_off:
                        break
                self._note(len(rows))
        except BaseException as error:  # of anybody's code
            self._stop(f"{type(error).__name__}: {error}")
        try:
            self._end()
        except BaseException as error:
            self._stop(f"{type(error).__name__}: {error}")
        with self._changed:
            self._thread = None
            self._changed.notify_all()

    def _next(self) -> Sequence[Measured] | None:
        """Wait for rows; None at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or self._is_closing or self._is_off
            )
            return self._waiting.popleft() if self._waiting else None

    def _note(self, rows: int = 0) -> None:
        """Note some progress.

        Args:
          rows: how many less are waiting.
        """
        with self._changed:
            self._steps += 1
            self._rows -= rows
            self._changed.notify_all()

    def _stop(self, why: str) -> None:
        """Send nothing more, and warn once."""
        with self._changed:
            if self._is_off:
                return
            self._is_off = True
            self._waiting.clear()
            self._changed.notify_all()
        text = f"{self._name} gets no more rows: {cut(why, 300)}; the tables have all"
        with contextlib.suppress(Warning):  # of filters that make it an error
            warnings.warn(text, stacklevel=2)
