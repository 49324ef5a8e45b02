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
from collections.abc import Iterator, Mapping
from typing import Any

from lrjax.common import files
from lrjax.messages import UsageError, cut, printable, unknown
from lrjax.race.answer import Answer
from lrjax.race.job import Job
from lrjax.race.race import Race

_OUTPUT = "output.txt"  # in a job's folder
_LARGEST = 2**20  # bytes of a result, and of a line that may be one
_OF_JOB = ("method", "seed", "fold", "start", "stop", "folder", "checkpoint")
_GRACE = 1.5  # seconds that a stopped command has to end


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
      UsageError: if a field is unknown, a result is missing or, before any run has
        succeeded, the command fails. Its job is done again by the next call.
    """
    for template in filter(None, (command, result)):
        check(template, race)
    for job in race:
        _tell(f"job {job.number}: {job.label}, seed {job.seed}")
        _train(job, command, result, race)
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
    for field in (name for _, name, _, _ in parts if name is not None):
        for contender in race.contenders:
            known = (*_OF_JOB, *contender.hyperparameters)
            if field not in known:
                raise UsageError(
                    f"{unknown('field', '{' + field + '}', known)}; "
                    f"{contender.method} has {', '.join(known)}"
                )


def _filled(template: str, job: Job) -> str:
    """A template with a job's values, quoted for the shell where needed."""
    values = {name: getattr(job, name) for name in _OF_JOB} | job.hyperparameters
    return template.format_map({k: shlex.quote(str(v)) for k, v in values.items()})


def _train(job: Job, command: str, result: str, race: Race) -> None:
    """Run a job's command, and tell what it measured."""
    found: dict[str, Any] = {}
    path = job.folder / _OUTPUT
    with (
        files.writing(path),
        files.open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as output,
        _running(_filled(command, job), job) as process,
    ):
        for line in iter(lambda: process.stdout.readline(_LARGEST), b""):
            output.write(line)
            if values := _object(line):
                _note(job, values)
                if job.metric in values:
                    found = values
        code = process.wait()
    if code:
        _failed(job, code, race)
        return
    if result:
        found = _from_file(shlex.split(_filled(result, job))[0])
    if job.metric not in found:
        raise UsageError(
            f"job {job.number}: the command ended without a result: "
            f"{result or f'the last line of its output ({path})'} must be JSON such as "
            f'{{"{job.metric}": 0.5}}'
        )
    values = _numbers(found)
    job.tell(**values)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    _tell(f"job {job.number}: {shown}")


@contextlib.contextmanager
def _running(command: str, job: Job) -> Iterator[Any]:
    """Start a command; at an exception end it and all that it has started."""
    process: Any = subprocess.Popen(
        command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that a signal can reach all of it
        # If this process is killed, the job stays taken as long as the command runs.
        pass_fds=(job.claim.fileno(),),
    )
    try:
        yield process
    except BaseException:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
                break
        raise
    finally:
        process.stdout.close()


def _failed(job: Job, code: int, race: Race) -> None:
    """Count a job whose command failed as lost, unless none has ever succeeded."""
    reason = f"exit code {code}" if code > 0 else f"signal {-code}"
    if not race.any_told:
        last = _last_line(job)
        raise UsageError(
            f"job {job.number}: the command ended with {reason} before any job has "
            f"succeeded{f': {last}' if last else ''} ({job.folder / _OUTPUT}); the "
            "same call tries it again. If that is how it diverges, let it print "
            f'{{"{job.metric}": null}} and end with 0'
        )
    job.failed(reason)
    _tell(f"job {job.number}: lost, {reason}")


def _last_line(job: Job) -> str:
    """The last line that a job's command has printed."""
    with files.open_own(job.folder / _OUTPUT) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
        lines = (file.read() or b"").decode(errors="replace").strip().splitlines()
    return cut(lines[-1]) if lines else ""


def _object(line: bytes) -> dict[str, Any] | None:
    """The object that a line of JSON holds; None if it is none."""
    if line[:1] != b"{":
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among values, without the step; NaN for null."""
    return {
        str(name): math.nan if value is None else float(value)
        for name, value in values.items()
        if name not in ("step", "saved")
        and (value is None or type(value) in (int, float))
    }


def _note(job: Job, values: Mapping[str, Any]) -> None:
    """Note what a line says of a step on the way."""
    step = values.get("step")
    if type(step) is not int or not 0 <= step <= job.stop:
        return
    if numbers := _numbers(values):
        job.report(step, **numbers)
    if values.get("saved") is True:
        job.saved(step)


def _from_file(path: str) -> dict[str, Any]:
    """The last line of JSON in a file, or the whole of it."""
    try:
        content = files.read_given(path, _LARGEST)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {files.words(error)}") from error
    lines = content.strip().splitlines()[-1:]
    return (
        _object(b" ".join(content.split()))
        or (_object(lines[0]) if lines else {})
        or {}
    )


def _tell(text: str) -> None:
    """Print a line of progress."""
    print(printable(text), file=sys.stderr, flush=True)
