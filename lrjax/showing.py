"""Tables and figures at the end of a training, made by a second process.

What ranks and draws takes 0.8 s to import, and JAX 0.5 s. In one process the one waits
for the other, as it does for tracing. So a command forks at once; its child imports
what draws, waits, and is told where the tables are. It is an aid only: where there is
no child (one core, no fork) or it fails, the command does the same itself.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from lrjax.messages import STOPPING

_MODES = ("train", "compare")
# Flags of a command that trains elsewhere or not at all, or shows more than this does.
_OTHERS = ("launcher", "multihost", "config.report.after")
_OTHERS += ("help", "helpfull", "helpshort", "helpxml")


class _Child(NamedTuple):
    """The second process: its number, where to ask it, and its answers."""

    number: int
    ask: BinaryIO
    answers: BinaryIO


_child: list[_Child] = []  # at most one


def start(arguments: Sequence[str]) -> None:
    """Fork a child that gets ready to show results, if the command may need them.

    Call before anything starts a thread.

    Args:
      arguments: those of the command line.
    """
    flags = [word.lstrip("-").partition("=") for word in arguments if word[:1] == "-"]
    modes = [value for name, _, value in flags if name == "mode"]
    modes += [word for word in arguments[:1] if word[:1] != "-"]
    names = {name for name, *_ in flags}
    if "config" not in names or names & {*_OTHERS} or not set(modes) <= {*_MODES}:
        return
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        return
    if _has_threads():
        return
    asked, ask = os.pipe()
    answers, answer = os.pipe()
    try:
        number = os.fork()
    except OSError:  # no more processes for this user
        for end in (asked, ask, answers, answer):
            os.close(end)
        return
    if number:
        os.close(asked)
        os.close(answer)
        _child.append(_Child(number, open(ask, "wb"), open(answers, "rb")))  # noqa: SIM115
        return
    try:
        os.close(ask)  # else the end of the command would not be noticed
        os.close(answers)
        _serve(asked, answer)
    finally:  # whatever happens: the child must not go on as the command
        os._exit(0)


def _has_threads() -> bool:
    """Whether this process may have threads, JAX's own among them: it cannot fork."""
    return threading.active_count() > 1 or "jax" in sys.modules


def is_near() -> bool:
    """Whether there is a child, so that this process need not import what draws."""
    return bool(_child)


def of(workdir: str) -> Iterator[str]:
    """Yield the ranking of a working directory; draw its curves and yield their path.

    Raises:
      UsageError: if the tables cannot be read, or the figure cannot be written.
    """
    done = 0
    for text in _told(workdir):
        yield text
        done += 1
    if done < 2:
        from lrjax import reports

        yield from itertools.islice(reports.shown(workdir), done, None)


def _told(workdir: str) -> Iterator[str]:
    """Yield what the child answers; less than all if it fails."""
    while _child:
        child = _child.pop()
        with contextlib.suppress(OSError, ValueError), child.answers:
            with child.ask:
                child.ask.write(json.dumps(workdir).encode())
            for line in child.answers:
                yield json.loads(line)
            os.waitpid(child.number, 0)  # it has closed its end, the last that it does


def _serve(asked: int, answer: int) -> None:
    """Be the child: import what is needed, wait for a directory, and show it.

    Args:
      asked: where the directory comes from; ends with the command.
      answer: where texts go, a line of JSON each.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):  # whoever reads the command's output waits for their end
        os.dup2(null, number)
    for signum in STOPPING:  # the command is stopped, and this process with it
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_reader, args=(answer,), daemon=True).start()
    with contextlib.suppress(Exception):
        from lrjax import reports

        reports.drawing.import_matplotlib()
        importlib.import_module("matplotlib.figure")
        warnings.simplefilter("error")  # the command shows results, and warns
        with open(asked, "rb") as question, open(answer, "wb") as answers:
            # Fails if the command ends without asking.
            for text in reports.shown(json.loads(question.read())):
                answers.write(json.dumps(text).encode() + b"\n")
                answers.flush()


def _end_with_reader(answer: int) -> None:
    """End this process once the command has, also while it imports or draws.

    Else it would draw into a directory that the user may have removed meanwhile.

    Args:
      answer: where texts go.
    """
    waiting = select.poll()
    waiting.register(answer, 0)  # no event is awaited but the end of the reader
    waiting.poll()
    os._exit(0)
