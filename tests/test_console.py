"""Messages and progress bars, whatever has become of stderr."""

import io
import os
import signal
import sys

import pytest

from lrjax import console
from lrjax.messages import STOPPING


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", ["none", "closed", "a file", "a terminal"])
def test_progress_goes_on_whatever_stderr_is(kind, monkeypatch):
    stream = {"none": None, "a file": io.StringIO()}.get(kind, Terminal())
    if kind == "closed":
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(console.bar(range(3), desc="reading a")) == [0, 1, 2]
    with console.bar(total=2) as bar:
        console.say("a message")
        bar.update(2)
    if kind.startswith("a "):
        shown = stream.getvalue()
        assert "a message\n" in shown
        assert ("reading a" in shown) == (kind == "a terminal")


def test_names_control_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    list(console.bar(range(3), desc="a\x1b[31m\n.txt"))
    with console.bar() as bar:
        bar.set_description("c\x1b[31m")
        bar.set_description_str("d\x1b[31m")
    console.say("b\x1b[31m")
    for shown in (r"a\x1b[31m\n.txt", r"b\x1b[31m", r"c\x1b[31m: ", r"d\x1b[31m"):
        assert shown in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue().replace("\x1b[A", "")


@pytest.mark.parametrize("kind", STOPPING)
def test_a_signal_is_noted_and_the_next_one_ends_the_process(kind):
    def ours(*_):
        raise AssertionError("not while signals are noted")

    # Whoever started the tests may have had some ignored.
    before = {each: signal.signal(each, ours) for each in STOPPING}
    try:
        with console.signals() as came:
            assert came() == 0
            os.kill(os.getpid(), kind)
            assert came() == kind
            assert {signal.getsignal(each) for each in STOPPING} == {signal.SIG_DFL}
        assert {signal.getsignal(each) for each in STOPPING} == {ours}
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
