"""The process of a command: standard streams, signals, and errors in one line.

`main.py` calls `begin` before its slow imports, `imported` after them and `run` at its
end. This module and the one it imports use the standard library only, so that importing
them is fast.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import gc
import io
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeAlias

from lrjax.messages import STOPPING, Interrupted, UsageError, printable

Main: TypeAlias = Callable[[list[str]], None]

STARTED = time.perf_counter()
_GRACE = 2.0  # seconds from a signal to the end of the process, at most
_STOPPED = "Stopped. Run the same command again to resume."
# What a system says of a path that a user may not look at, wherever that is noticed.
_REFUSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ESTALE)
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
_NO_READER = 128 + 13  # the exit code for SIGPIPE, which Windows lacks
_STREAMS = ((0, "stdin"), (1, "stdout"), (2, "stderr"))


class _Messages(io.RawIOBase):
    """Writes to stderr what can be written: no message is worth a study.

    Its reader may have gone, as after `2>&1 | head`, its terminal may be closed, or the
    disk of a log full.
    """

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def isatty(self) -> bool:
        return os.isatty(2)

    def write(self, content: Any) -> int:
        try:
            return os.write(2, content)
        except OSError:
            return len(content)


def begin() -> None:
    """Handle signals during the imports, and make the standard streams robust.

    Garbage is not collected before `imported`.
    """
    gc.disable()
    atexit.register(_end)  # the first to be registered is the last to be called
    _handle_signals(_leave)
    for number, name in _STREAMS:
        if getattr(sys, name) is None:
            # Else the next file gets the number, and prints end up in a table.
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
    # Names of files need not be valid text, nor have the characters of the terminal.
    sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Messages()),
        sys.stderr.encoding,
        "backslashreplace",
        line_buffering=True,
    )


def imported() -> None:
    """Collect garbage from now on, but not among what imports have made.

    What they have made lives to the end, and searching it again and again takes a fifth
    of the time of a short command. Tracing makes very many objects: to search them
    after each 700 new ones, Python's default, takes a few percent more. Does nothing in
    a process that did not call `begin`.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.set_threshold(50_000)
        gc.enable()


def run(main: Main, parse: Callable[[list[str]], list[str]]) -> None:
    """Run a command to its end and exit with its code.

    Args:
      main: called with the command line without its flags; as `reporting` returns it.
      parse: parses the flags of a command line and returns the rest.
    """
    from absl import app

    warnings.formatwarning = _format_warning
    sys.unraisablehook = _show_unraisable
    with _printing():
        try:
            app.run(functools.partial(interruptible, main), flags_parser=parse)
        except SystemExit as end:
            if isinstance(end.code, int) and end.code > 128:
                os._exit(end.code)  # without waiting for threads that compile
            sys.stdout.flush()  # Python would report a failure in words of its own
            if end.code is None or isinstance(end.code, int):
                _ended.append(end.code or 0)
            raise


_ended: list[int] = []  # the exit code of a command that has come to its end


def _end() -> None:
    """End the process of a command without taking all its modules apart.

    Threads have ended, and what was registered to be called at exit has been. To free
    what JAX, pandas and matplotlib hold takes longer than to draw a figure.
    """
    if _ended and not hasattr(sys, "last_type"):  # no error of who called the command
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(_ended[-1])


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """End the process where stdout cannot be written, in silence without its reader.

    At once, since a usual exit would try to write again.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # as after | head
        os._exit(_NO_READER)
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        _tell(f"error: cannot write: {error.strerror}")
        os._exit(2)


def interruptible(main: Main, argv: list[str]) -> None:
    """Call `main` so that signals end it by SystemExit, clean-up included.

    Ends the process after two seconds if the exit is swallowed.
    """
    _handle_signals(_exit_on_signal)
    main(argv)


def reporting(main: Main) -> Main:
    """Decorate `main` so that errors become one line and an exit code.

    2 for what the user can mend, 1 with a traceback for a fault of lrjax, and 128 plus
    the signal's number where one came.
    """

    @functools.wraps(main)
    def reported(argv: list[str]) -> None:
        try:
            with _printing():
                main(argv)
        except UsageError as error:
            fail(str(error))
        except Interrupted as stop:
            _stop(stop.signum)
        except OSError as error:
            if error.errno not in _REFUSED or not error.filename:
                report_fault()
            fail(f"{error.filename}: {error.strerror}")
        except Exception:
            report_fault()

    return reported


def fail(message: str) -> NoReturn:
    """Print an error in one line and exit with code 2."""
    _tell("error: " + printable(" ".join(message.split())))
    sys.exit(2)


def report_fault() -> NoReturn:
    """Print the current exception, ask for a report, and exit with code 1."""
    _tell(traceback.format_exc().rstrip())
    _tell(
        "error: this is a fault of lrjax, not of your command. Please report it with "
        "the lines above, the command, the config file and WORKDIR/config.json"
    )
    sys.exit(1)


def _handle_signals(handler: Callable[[int, Any], object]) -> None:
    """Set a handler of the signals that stop, unless the parent had them ignored."""
    for signum in STOPPING:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, handler)


def _leave(signum: int, _: object) -> NoReturn:
    """End at once: code that is being imported might catch an exception."""
    with contextlib.suppress(OSError):
        os.write(2, f"{_STOPPED}\n".encode())
    os._exit(128 + signum)


def _exit_on_signal(signum: int, _: object) -> NoReturn:
    """End the process, by force after a time of grace."""
    if sys.platform != "win32":
        # The interrupted code may swallow SystemExit; the alarm ends it then.
        signal.signal(signal.SIGALRM, lambda *_: os._exit(128 + signum))
        signal.setitimer(signal.ITIMER_REAL, _GRACE)
    _stop(signum)


def _stop(signum: int) -> NoReturn:
    _tell(_STOPPED)
    sys.exit(128 + signum)


def _tell(text: str) -> None:
    """Print to stderr; fails silently on a full disk or in the middle of a print."""
    with contextlib.suppress(OSError, RuntimeError):
        print(text, file=sys.stderr, flush=True)


def _show_unraisable(fault: Any) -> None:
    """Handle an exception raised where none can propagate, such as in a callback."""
    error = fault.exc_value
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        os._exit(error.code)  # a signal came during garbage collection, for example
    # Orbax raises this after a failed checkpoint, which is reported elsewhere.
    if str(error) != "Event loop is closed":
        sys.__unraisablehook__(fault)


def _format_warning(message: Warning | str, category: type[Warning], *rest: Any) -> str:
    """Format a user's warning as one line, without the place in the code."""
    if category is UserWarning:
        return f"warning: {printable(' '.join(str(message).split()))}\n"
    return _python_format(message, category, *rest)


_python_format = warnings.formatwarning
