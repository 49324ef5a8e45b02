"""The page takes a small share of a core, however long its figures take."""

from pathlib import Path

import pytest

from lrjax.watch import pace
from lrjax.watch.board import Board
from lrjax.watch.follow import Study
from lrjax.watch.sections import Parts


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


def test_what_cannot_be_shown_is_said_and_looked_at_again(tmp_path, monkeypatch):
    """No table ends the thread that reads it."""
    board = Board()
    painter = pace.Painter(tmp_path, board)
    told = []

    def fail(study):
        told.append(study)
        raise ZeroDivisionError("<b>")

    def sleep(seconds):
        if len(told) > 1:
            raise KeyboardInterrupt  # the only way out

    monkeypatch.setattr(Study, "look", fail)
    monkeypatch.setattr(pace.time, "sleep", sleep)
    with board.looking(), pytest.raises(KeyboardInterrupt):
        painter.run()
    assert len(told) == 2
    words = board.wait("", 0).parts["faults"]
    assert "cannot be shown: ZeroDivisionError: &lt;b&gt;" in words


def test_parts_of_another_study_take_the_place_of_all(tmp_path):
    board = Board()
    painter = pace.Painter(tmp_path, board)
    parts = Parts(Study(tmp_path))
    painter._work(parts)
    first = board.wait("", 0).mark
    board.put("task-5", "<p>of a study that is gone</p>")
    parts.study._begin()
    painter._work(parts)
    news = board.wait(first, 0)
    assert news.anew
    assert "task-5" not in news.parts
