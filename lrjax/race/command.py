"""Runs the jobs of a race as shell commands."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import signal
import string
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lrjax.common import files, objects
from lrjax.messages import (
    STOPPING,
    Interrupted,
    UsageError,
    cut,
    printable,
    unknown,
)
from lrjax.race.answer import Answer
from lrjax.race.job import Job
from lrjax.race.race import Race

_OUTPUT, _CODE = "output.txt", "exit_code"  # in a job's folder
_LARGEST = 2**20  # bytes of a result, and of a line that may be one
_OF_JOB = ("method", "seed", "fold", "start", "stop", "folder", "checkpoint")
_GRACE = 30.0  # seconds that a stopped command has to save its state and end
_SHORTEST, _LONGEST = 0.02, 0.5  # seconds between looks at a command
# The command is the script's first argument, so that nothing in it can end the script;
# its exit code outlives this process.
_SCRIPT = 'sh -c "$0"; code=$?; echo $code > "$1.part"; mv "$1.part" "$1"; exit $code'
# Exit codes of a shell whose command was stopped from outside.
_KILLED = 9
_STOPPED = {128 + number for number in (*STOPPING, _KILLED)}


def run(race: Race, command: str, result: str = "") -> Answer:
    """Train every job that is left by a shell command, one after the other.

    Start the same command again, at once or on another machine with the same folder,
    to train several jobs at once.

    Args:
      race: to run.
      command: with fields in braces: {method}, any hyperparameter such as
        {learning_rate}, {seed}, {fold}, {start}, {stop}, {checkpoint} and {folder}.
        The last line of its output that is JSON and has the race's metric is the
        result; lines with a `step` are noted for curves; with `"saved": true` they say
        that the state of that step is at {checkpoint}.
      result: a file to read the result from instead, with fields as in the command.

    Returns:
      The answer.

    Raises:
      UsageError: if a field is unknown, a result is missing, the command was stopped
        or, before any run has succeeded, fails. Its job is done again by the next call.
        On Windows always.
      Interrupted: on a signal, once the command has ended.
    """
    if sys.platform == "win32":
        raise UsageError(
            "lrjax race runs commands by a POSIX shell, which Windows lacks: ask for "
            "jobs in Python, by lrjax.Race (docs/race.md)"
        )
    for template in filter(None, (command, result)):
        check(template, race)
    with _signals() as signals:
        for job in race:
            _tell(f"job {job.number}: {job.label}, seed {job.seed}")
            _train(job, command, result, race, signals)
    return race.answer()


def check(template: str, race: Race) -> None:
    """Refuse a template with a field that a job may not have.

    Raises:
      UsageError: if it has one, or cannot be read.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(
            f"cannot read '{cut(template)}': {error}; write braces that are none of "
            "lrjax's twice, as {{ and }}"
        ) from None
    for _, field, form, conversion in parts:
        if form or conversion:
            raise UsageError(
                f"'{cut(template)}': {{{field}}} is filled in as it is, without a "
                "format; write braces that are none of lrjax's twice, as {{ and }}"
            )
    for contender in race.contenders:
        hidden = set(_OF_JOB) & set(contender.hyperparameters)
        if hidden:
            raise UsageError(
                f"{contender.method}: a command cannot tell its hyperparameter "
                f"{min(hidden)} from the job's; give it another name"
            )
        known = (*_OF_JOB, *contender.hyperparameters)
        for field in (name for _, name, _, _ in parts if name is not None):
            if field not in known:
                raise UsageError(
                    f"{unknown('field', '{' + field + '}', known)}; "
                    f"{contender.method} has {', '.join(known)}"
                )


def _values(job: Job) -> dict[str, str]:
    """Values of the fields of a command."""
    values = {name: getattr(job, name) for name in _OF_JOB} | job.hyperparameters
    return {name: str(value) for name, value in values.items()}


def _train(job: Job, command: str, result: str, race: Race, signals: list[int]) -> None:
    """Run a job's command, unless an earlier call's has ended, and tell its result."""
    output, code_file = job.folder / _OUTPUT, job.folder / _CODE
    path = result.format_map(_values(job)) if result else ""
    lines, code, before = _Lines(job, output), 0, None
    if not code_file.exists() or _code(code_file):
        before = _stamp(path)
        quoted = {name: shlex.quote(value) for name, value in _values(job).items()}
        code = _run(command.format_map(quoted), job, lines, signals)
    else:  # it ended well after the call that began it had been killed
        lines.take()
    if code:
        code_file.unlink(missing_ok=True)
        _failed(job, code, lines, race)
        return
    try:
        if path and _stamp(path) == before:
            raise UsageError(f"job {job.number}: the command has not written {path}")
        values = _result(job, path, lines)
    except UsageError as error:
        # Else the next call would take this result again, not try a mended command.
        code_file.unlink(missing_ok=True)
        raise UsageError(f"{error} ({output})") from error
    job.tell(**values)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    _tell(f"job {job.number}: {shown}")


def _result(job: Job, path: str, lines: _Lines) -> dict[str, float]:
    """Measurements of a command that ended well.

    Args:
      job: its job.
      path: of the file that has the result; '' for the output.
      lines: of its output.

    Raises:
      UsageError: if there is no result, or the race cannot take it.
    """
    found = _from_file(path) if path else lines.found
    if job.metric not in found:
        said = f"; its last line: {lines.last}" if lines.last else ""
        raise UsageError(
            f"job {job.number}: the command ended without a result: "
            f"{path or 'the last line of its output'} must be JSON such as "
            f'{{"{job.metric}": 0.5}}{said}'
        )
    value = found[job.metric]
    if not _is_number(value):
        raise UsageError(
            f"job {job.number}: {job.metric} must be a number, or null where it "
            f"diverged, not {cut(json.dumps(value))}"
        )
    return job.checked(_numbers(found))


def _run(command: str, job: Job, lines: _Lines, signals: list[int]) -> int:
    """Run a command to its end, and return its exit code; take its output meanwhile.

    Raises:
      Interrupted: on a signal, once the command has ended.
    """
    path = job.folder / _OUTPUT
    with (
        files.writing(path),
        files.open_own(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as output,
    ):
        process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, command, str(job.folder / _CODE)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that a signal can reach all of it
            # If this process is killed, the job stays taken while the command runs.
            pass_fds=(job.claim.fileno(),),
        )
    pause, end, code = _SHORTEST, math.inf, None
    try:
        while (code := process.poll()) is None and time.monotonic() < end:
            lines.take()
            if signals and end == math.inf:
                end = time.monotonic() + _GRACE
                _kill(process, signal.SIGTERM)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST)
    finally:
        if signals or code is None:
            _kill(process, _KILLED)  # what its shell has left, too
            code = process.wait()
    lines.take()
    if signals:
        (job.folder / _CODE).unlink(missing_ok=True)
        raise Interrupted(signals[0])
    return code


def _kill(process: Any, number: int) -> None:
    """Send a signal to a command and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Note signals that stop, instead of ending at once; a second one ends at once."""
    came: list[int] = []

    def note(number: int, _: Any) -> None:
        if came:
            raise Interrupted(number)
        came.append(number)
        _tell("stopping: the command may save its state; once more to end at once")

    before = {number: signal.getsignal(number) for number in STOPPING}
    taken = [n for n, handler in before.items() if handler is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, note)
    try:
        yield came
    finally:
        for number in taken:
            signal.signal(number, before[number])


class _Lines:
    """The lines of a command's output, taken as they come.

    Attributes:
      found: the last that is JSON and has the race's metric; {} if none has.
      last: the last that was not empty, for messages.
    """

    def __init__(self, job: Job, path: Path):
        self.found: dict[str, Any] = {}
        self.last = ""
        self._job, self._path = job, path
        self._offset, self._rest = 0, b""

    def take(self) -> None:
        """Take what has been printed since."""
        with contextlib.suppress(FileNotFoundError), files.open_own(self._path) as file:
            file.seek(self._offset)
            while piece := file.read(_LARGEST):
                self._offset += len(piece)
                *lines, rest = (self._rest + piece).split(b"\n")
                for line in lines:
                    self._line(line)
                self._rest = rest[-_LARGEST:]
        if self._rest and self._rest.rstrip().endswith(b"}"):  # a last one without \n
            self._line(self._rest)
            self._rest = b""

    def _line(self, line: bytes) -> None:
        """Take a line; bars of progress write several over each other."""
        text = line.rstrip().rsplit(b"\r", 1)[-1].strip()
        if text:
            self.last = cut(text.decode(errors="replace"))
        values = objects.parsed(text[max(0, text.find(b"{")) :])
        if values:
            _note(self._job, values)
            if self._job.metric in values:
                self.found = values


def _code(path: Path) -> int:
    """The exit code that a command has left."""
    with contextlib.suppress(OSError, ValueError):
        return int(files.read_own(path, 100))
    return 1


def _failed(job: Job, code: int, lines: _Lines, race: Race) -> None:
    """Count a job whose command failed as lost, unless it may be a mistake.

    Raises:
      UsageError: if no job has ever succeeded, or the command was stopped by a signal.
    """
    where = f"{f': {lines.last}' if lines.last else ''} ({job.folder / _OUTPUT})"
    if code in _STOPPED or -code in (*STOPPING, _KILLED):
        raise UsageError(
            f"job {job.number}: the command was stopped by a signal (exit code "
            f"{code}){where}; the same call tries it again"
        )
    if not race.any_told:
        raise UsageError(
            f"job {job.number}: the command ended with exit code {code} before any job "
            f"has succeeded{where}; the same call tries it again. If that is how it "
            f'diverges, let it print {{"{job.metric}": null}} and end with 0'
        )
    job.failed(f"exit code {code}")
    _tell(f"job {job.number}: lost, exit code {code}")


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among values, without the step; NaN for null."""
    found = {}
    for name, value in values.items():
        if name in ("step", "saved") or not _is_number(value):
            continue
        try:
            found[name] = math.nan if value is None else float(value)
        except OverflowError:  # of an int with hundreds of digits
            found[name] = math.inf
    return found


def _is_number(value: Any) -> bool:
    """Whether a value of JSON is a number, or null for one that diverged."""
    return value is None or type(value) in (int, float)


def _note(job: Job, values: Mapping[str, Any]) -> None:
    """Note what a line says of a step on the way; it decides nothing."""
    step = values.get("step")
    if type(step) is not int or not 0 <= step <= job.stop:
        return
    try:
        if numbers := _numbers(values):
            job.report(step, **numbers)
        if values.get("saved") is True:
            job.saved(step)
    except UsageError as error:
        _tell(f"warning: {error}")


def _stamp(path: str) -> tuple[int, ...]:
    """A file's identity, size and time, which change when it is written."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _from_file(path: str) -> dict[str, Any]:
    """The JSON in a file, or in its last line."""
    try:
        content = files.read_given(path, _LARGEST).strip()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {files.words(error)}") from error
    return (
        objects.parsed(content)
        or objects.parsed(content[content.rfind(b"\n") + 1 :])
        or {}
    )


def _tell(text: str) -> None:
    """Print a line of progress."""
    print(printable(text), file=sys.stderr, flush=True)
