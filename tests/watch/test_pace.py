"""The page takes a small share of a core, however long its figures take."""

from pathlib import Path

import pytest

from lrjax.watch import pace
from lrjax.watch.board import Board


class Work:
    """A clock, and parts that take processor time to draw."""

    def __init__(self, seconds):
        self.now = self.used = 0.0
        self._seconds = seconds

    def draw(self, name):
        self.used += self._seconds
        self.now += 3 * self._seconds  # others use this machine, too
        return f"<p>{name} {self.now}</p>"


@pytest.mark.parametrize("seconds", [0.01, 0.3, 20.0])
def test_it_rests_in_proportion_to_its_work(seconds, monkeypatch):
    work = Work(seconds)
    monkeypatch.setattr(pace.time, "process_time", lambda: work.used)
    monkeypatch.setattr(pace.time, "monotonic", lambda: work.now)
    painter = pace.Painter(Path("nowhere"), Board())
    painter._draw(work, "part")
    begun, before, drawn = work.now, work.used, 0
    while drawn < 50:
        work.used += 0.01  # to look at the files once a second
        work.now += 1.0
        if work.now >= painter._rested:
            painter._draw(work, "part")
            drawn += 1
    share = (work.used - before) / (work.now - begun)
    assert share < 0.1
    # And it does not rest for longer than that takes.
    assert share > 0.04 or seconds < 0.1
