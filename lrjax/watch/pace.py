"""Reads and draws a study while somebody looks, in a small share of a core."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lrjax.watch.board import Board

if TYPE_CHECKING:
    from lrjax.watch.sections import Parts

_EVERY = 1.0  # seconds between two looks at the files
_SHARE = 0.08  # of a core, of all work of this process
_AT_FIRST = 0.8  # the same while parts are drawn that nobody has seen yet


class Painter:
    """Keeps a board up to date; `drawing` is held while figures are drawn."""

    def __init__(self, workdir: Path, board: Board):
        self.drawing = threading.Lock()  # Matplotlib's settings are those of a process
        self._workdir = workdir
        self._board = board
        self._seen: set[str] = set()  # parts of this generation
        self._generation = 0  # of the parts
        self._used = 0.0  # seconds of work until a part was drawn
        self._rested = 0.0  # when the next part may be drawn

    def run(self) -> None:
        """Work until the process ends."""
        # They import the report and with it JAX, while the user opens the page.
        from lrjax.watch.follow import Study
        from lrjax.watch.sections import Parts

        parts = Parts(Study(self._workdir))
        self._board.wait_for_lookers()
        self._used = time.process_time()
        while True:
            self._board.wait_for_lookers()
            try:
                self._work(parts)
            except Exception as error:  # tables may hold anything
                self._board.put("faults", parts.fault(error))
            time.sleep(min(_EVERY, self._wait(parts)))

    def _work(self, parts: Parts) -> None:
        """Look at the files, and draw at most one part."""
        parts.study.look()
        parts.refresh()
        if parts.generation != self._generation:
            self._generation = parts.generation
            self._board.clear()
            self._seen.clear()
        for name, html in parts.quick().items():
            self._board.put(name, html)
        if parts.due and time.monotonic() >= self._rested:
            self._draw(parts, next(iter(parts.due)))

    def _wait(self, parts: Parts) -> float:
        """Seconds until there is something to do."""
        rest = self._rested - time.monotonic()
        return max(0.05, rest) if parts.due else _EVERY

    def _draw(self, parts: Parts, name: str) -> None:
        """Draw a part; rest in proportion to all work since the one before."""
        with self.drawing:
            html = parts.draw(name)
        self._board.put(name, html)
        share = _SHARE if name in self._seen else _AT_FIRST
        self._seen.add(name)
        before, self._used = self._used, time.process_time()
        self._rested = time.monotonic() + (self._used - before) / share
