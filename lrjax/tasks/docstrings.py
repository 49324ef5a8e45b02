"""Docstrings of Python's own library, labelled by what their modules are for.

The files are parsed, not imported, so nothing of them runs. Versions of Python have
other docstrings; the fingerprint of a task's data tells them apart.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from lrjax.common import files
from lrjax.tasks import data
from lrjax.tasks.data import DataError

# topic -> modules and packages; what only some systems install (tkinter) is not here.
TOPICS = {
    "code": "ast dis importlib inspect pickletools pydoc symtable tokenize typing",
    "concurrency": "asyncio concurrent multiprocessing queue selectors subprocess "
    "threading",
    "files": "_pyio bz2 gzip lzma os pathlib shutil tarfile tempfile zipfile",
    "mail": "email imaplib mailbox poplib smtplib",
    "numbers": "_pydatetime _pydecimal calendar datetime fractions numbers random "
    "statistics",
    "testing": "bdb doctest logging pdb trace traceback unittest warnings",
    "text": "argparse codecs configparser csv difflib encodings html json optparse "
    "string textwrap xml",
    "web": "ftplib http ipaddress socket socketserver ssl urllib wsgiref xmlrpc",
}
_SHORTEST = 40  # characters of a docstring that says something
_MOST_BYTES = 2**22  # of a source file
_ATTEMPTS = 5  # to parse a file
_TESTS = ("test", "tests")
_HIDDEN = "_"  # in place of a module's name


def labelled() -> tuple[list[str], list[str]]:
    """Collect docstrings of `TOPICS`, without the names of modules and topics.

    Returns:
      the texts, on one line each and none twice, and the topic of each.

    Raises:
      DataError: if Python's source files are not installed.

    Example:
      >>> texts, topics = labelled()
      >>> len(texts) == len(topics) > 1000, sorted(set(topics)) == sorted(TOPICS)
      (True, True)
    """
    names = {*TOPICS, *itertools.chain(*map(str.split, TOPICS.values()))}
    names |= {name.removeprefix("_py") for name in names}
    hidden = re.compile(rf"\b({'|'.join(sorted(names))})\b", re.IGNORECASE)
    found: dict[str, str] = {}
    for topic, modules in TOPICS.items():
        before = len(found)
        for text in of_modules(modules.split()):
            found.setdefault(hidden.sub(_HIDDEN, text), topic)
        if len(found) == before:
            raise DataError(
                f"{_library()}: has no docstrings on {topic}: are the source files of "
                "Python's library installed?"
            )
    return list(found), list(found.values())


def of_modules(names: Iterable[str]) -> Iterator[str]:
    """Yield the docstrings of modules and packages of Python's library, on one line.

    Args:
      names: of modules; those that this version of Python lacks are passed over.

    Raises:
      DataError: if a file cannot be read or parsed.

    Example:
      >>> next(of_modules(["fractions"]))
      'Fraction, infinite-precision, rational numbers.'
    """
    for name in names:
        root = _library() / name
        for path in [root.with_suffix(".py"), *sorted(root.rglob("*.py"))]:
            tests = set(path.relative_to(_library()).parts) & set(_TESTS)
            if files.is_there(path) and not tests:
                yield from _of_file(path)


def _library() -> Path:
    """The folder of Python's library."""
    return Path(sysconfig.get_path("stdlib"))


def _parsed(source: bytes) -> ast.Module:
    """Parse a file; again where Python 3.11 fails for no fault of the file.

    It counts recursion for all threads together, and raises a SystemError if another
    one parses meanwhile ('recursion depth mismatch').
    """
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(SystemError):
            return ast.parse(source)
    return ast.parse(source)


def _of_file(path: Path) -> Iterator[str]:
    with data.reading(path):
        tree = _parsed(files.read_given(path, _MOST_BYTES))
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ):
            text = " ".join((ast.get_docstring(node) or "").split())
            if len(text) >= _SHORTEST:
                yield text
