"""Messages of a running command on stderr, and signals that stop it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tqdm import tqdm

from lrjax.core import Interrupted, printable
from lrjax.messages import STOPPING


def say(text: str) -> None:
    """Print lines to stderr, above any progress bar, without control characters.

    What cannot be written is lost: a full disk or a reader that has gone stops no
    training.
    """
    if _is_closed():
        return
    with contextlib.suppress(OSError):
        _Bar.write("\n".join(map(printable, text.split("\n"))), file=sys.stderr)


class _Bar(tqdm):
    """A bar whose description may hold any names."""

    def set_description_str(self, desc: str | None = None, refresh: bool = True):
        super().set_description_str(printable(desc or ""), refresh)

    def set_description(self, desc: str | None = None, refresh: bool = True):
        super().set_description(printable(desc or ""), refresh)


# tqdm's own lock is one between processes, too. From Python 3.14 on that starts another
# process, which reports a leak where this one ends on a signal.
_Bar.set_lock(threading.RLock())


def bar(iterable: Iterable[Any] | None = None, desc: str = "", **options: Any) -> _Bar:
    """A progress bar on stderr, shown only on a terminal; options as for tqdm."""
    hidden = True if _is_closed() else None  # None: unless it is a terminal
    label = printable(desc)
    return _Bar(iterable, desc=label, disable=hidden, leave=False, **options)


def _is_closed() -> bool:
    """Whether nothing can be written to stderr, as in some programs of users."""
    return sys.stderr is None or sys.stderr.closed


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], int]]:
    """Record the first signal of `STOPPING` instead of ending; a second one kills.

    Yields a function that returns the recorded signal, 0 if none came.
    """
    received = [0]
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # only the main thread may handle signals
        return

    def note(signum: int, frame: Any) -> None:
        received[0] = signum
        for number in before:
            signal.signal(number, signal.SIG_DFL)

    before = {n: signal.getsignal(n) for n in STOPPING}
    # Signals that the parent ignores stay ignored: Ctrl-C in a script's background job.
    before = {n: v for n, v in before.items() if v is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: received[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_if(stopping: Callable[[], int]) -> None:
    """Raise Interrupted if a signal came."""
    if stopping():
        raise Interrupted(stopping())


def wait_for(
    future: concurrent.futures.Future[Any], stopping: Callable[[], int]
) -> None:
    """Wait until a future is done; raise Interrupted if a signal comes before."""
    while not concurrent.futures.wait([future], timeout=0.2).done:
        stop_if(stopping)
    stop_if(stopping)
