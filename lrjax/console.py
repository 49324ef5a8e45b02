"""What a running command says, and how it hears that it is to stop."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

from lrjax.core import Interrupted


def say(text: str) -> None:
    """Prints a line to stderr, above any progress bar."""
    try:
        tqdm.write(text, file=sys.stderr)
    except BrokenPipeError:
        raise
    except OSError:
        pass  # a log on a full disk; what the tables lack is said by them


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], int]]:
    """Notes SIGINT and SIGTERM instead of dying of them; the second one kills.

    Yields a function that returns the signal that came, 0 if none did.
    """
    came = [0]
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0  # only the main thread may handle signals
        return

    def note(signum: int, frame: Any) -> None:
        came[0] = signum
        for number in before:
            signal.signal(number, signal.SIG_DFL)

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    # What a shell had ignored, as scripts' background jobs have Ctrl-C, stays so.
    before = {n: v for n, v in before.items() if v is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: came[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_if(stopping: Callable[[], int]) -> None:
    """Raises Interrupted if it is time to stop."""
    if stopping():
        raise Interrupted(stopping())


def wait_for(
    future: concurrent.futures.Future[Any], stopping: Callable[[], int]
) -> None:
    """Waits for a future; raises Interrupted if it is time to stop before."""
    while not concurrent.futures.wait([future], timeout=0.2).done:
        stop_if(stopping)
    stop_if(stopping)
