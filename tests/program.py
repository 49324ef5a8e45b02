"""main.py inside of this process: its answers, without the time it takes to start."""

import contextlib
import io
import sys
import warnings
from typing import NamedTuple
from unittest import mock

from absl.testing import flagsaver

from lrjax import command
from lrjax.arguments import CONFIG_MODULE


class Answer(NamedTuple):
    """What a command ended with: exit code, lines on stdout and on stderr."""

    code: int
    out: list[str]
    err: list[str]


def invoke(*arguments):
    """Run main.py with these flags."""
    argv = ["main.py", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    sys.modules.pop(CONFIG_MODULE, None)  # of the call before
    code = 0
    with (
        warnings.catch_warnings(action="ignore"),
        flagsaver.flagsaver(),
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            command.main(command.parse(argv))
        except SystemExit as end:
            code = end.code
    return Answer(code, out.getvalue().splitlines(), err.getvalue().splitlines())
