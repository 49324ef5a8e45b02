"""The parts that pages show now, and who looks at them."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator
from typing import NamedTuple


class News(NamedTuple):
    """Parts that a page has not seen yet.

    Attributes:
      mark: what it has seen once it has this, for `Board.wait`.
      anew: whether parts that are not among these are gone.
      parts: name -> HTML.
    """

    mark: str
    anew: bool
    parts: dict[str, str]


class Board:
    """Parts of a page that one thread replaces and others wait for."""

    def __init__(self):
        self._changed = threading.Condition()
        self._lookers = 0
        self._version = 0
        self._parts: dict[str, tuple[int, str]] = {}
        self.clear()

    def clear(self) -> None:
        """Remove all parts."""
        with self._changed:
            self._edition = secrets.token_hex(8)
            self._parts.clear()
            self._changed.notify_all()

    def put(self, name: str, html: str) -> None:
        """Replace a part, if it is another one."""
        with self._changed:
            if self._parts.get(name, (0, ""))[1] != html:
                self._version += 1
                self._parts[name] = self._version, html
                self._changed.notify_all()

    def wait(self, mark: str, seconds: float) -> News | None:
        """Wait for parts that are newer than a mark; None if none came in time.

        Args:
          mark: that of the last news; '' for none.
          seconds: how long to wait, at most.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._news(mark), seconds):
                return None
            return self._news(mark)

    def _news(self, mark: str) -> News | None:
        edition, _, version = mark.partition("-")
        same = edition == self._edition and version.isdecimal()
        since = int(version) if same else 0
        parts = {name: html for name, (n, html) in self._parts.items() if n > since}
        if not parts:
            return None
        return News(f"{self._edition}-{self._version}", not same, parts)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Somebody looks at the page."""
        with self._changed:
            self._lookers += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._lookers -= 1

    def wait_for_lookers(self) -> None:
        """Wait until somebody looks."""
        with self._changed:
            self._changed.wait_for(lambda: self._lookers)
