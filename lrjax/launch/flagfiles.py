"""Check the files of --flagfile, which absl reads without a limit."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator

from lrjax.common import files
from lrjax.messages import UsageError, shown

_LARGEST = 2**20  # bytes
_MOST = 100  # files; absl reads those that a file names by recursion


def check(arguments: Iterable[str]) -> None:
    """Refuse files of flags that might never end, and those that they name.

    Args:
      arguments: the command line.

    Raises:
      UsageError: if a file cannot be read, is a pipe or a device, or is too large.
    """
    waiting, seen = [*_named(arguments)], set[str]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if len(seen) > _MOST:
            raise UsageError(f"--flagfile: more than {_MOST} files name each other")
        try:
            content = files.read_given(os.path.expanduser(path), _LARGEST)
        except OSError as error:
            raise UsageError(
                f"--flagfile={shown(path)}: {files.words(error)}"
            ) from error
        lines = content.decode(errors="replace").splitlines()
        waiting += _named(line.strip() for line in lines)


def _named(arguments: Iterable[str]) -> Iterator[str]:
    """The files that arguments name, as --flagfile=FILE or --flagfile FILE."""
    pairs = itertools.pairwise([*arguments, ""])
    for argument, following in itertools.takewhile(lambda pair: pair[0] != "--", pairs):
        flag, equals, value = argument.partition("=")
        if flag in ("-flagfile", "--flagfile"):
            yield value if equals else following
