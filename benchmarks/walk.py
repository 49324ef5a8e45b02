r"""Prints the way of a hyperparameter through lrjax, from a flag to a row of a table.

  python benchmarks/walk.py --config=configs/libsvm.py:iris --workdir=runs/walk \
      --config.methods=adam --config.grid.learning_rate="(0.0123456789,)"

Runs main.py with the arguments given and notes every function of lrjax that is called
with the value 0.0123456789: as an argument or inside of one (settings, runs, rows).
Prints the files in the order in which the value first came to each, with the functions
that took it there. A function that was called from a file which comes with its own
file when that is imported is marked: such a call goes back up, as one of a function
that was handed down.

Functions that only pass settings on count like those that use the value. Inside of a
compiled program the value is an array, which is followed no further than into the
functions that are traced with it.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import runpy
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VALUE = 0.0123456789
_DEPTH = 6  # containers within containers that are searched
_ITEMS = 50  # of each container


def holds(thing: Any, depth: int = _DEPTH) -> bool:
    """Whether the value is in an object, or in what it contains."""
    if isinstance(thing, float):
        return abs(thing - VALUE) < 1e-9  # as float32, too
    if isinstance(thing, str):
        return str(VALUE) in thing
    if not depth:
        return False
    if isinstance(thing, Mapping):
        thing = tuple(thing.values())
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = dataclasses.fields(thing)
        thing = tuple(getattr(thing, field.name, None) for field in fields)
    if isinstance(thing, list | tuple):
        return any(holds(item, depth - 1) for item in thing[:_ITEMS])
    return False


def imports() -> dict[str, set[str]]:
    """File of lrjax -> files of lrjax that come with it when it is imported."""
    direct: dict[str, set[str]] = {}
    for path in (ROOT / "lrjax").rglob("*.py"):
        names: set[str] = set()
        for node in _at_import(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
        files = (name.replace(".", "/") for name in names if name.startswith("lrjax"))
        known = {f"{file}{end}" for file in files for end in (".py", "/__init__.py")}
        known = {file for file in known if (ROOT / file).exists()}
        direct[str(path.relative_to(ROOT))] = known
    grown = True
    while grown:
        grown = False
        for known in direct.values():
            further = set().union(*(direct[file] for file in known)) - known
            known |= further
            grown = grown or bool(further)
    return direct


def _at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The parts of a module that run when it is imported."""
    for node in ast.iter_child_nodes(tree):
        types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not types and not isinstance(node, ast.FunctionDef | ast.Lambda):
            yield node
            yield from _at_import(node)


class Walk:
    """The functions that were called with the value, by file, in order."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, None]] = {}
        self._imports = imports()
        self._lock = threading.Lock()

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call; for `sys.setprofile`."""
        file = _file(frame)
        if event != "call" or file is None:
            return
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        sys.setprofile(None)
        with contextlib.suppress(Exception):  # of objects that are half made
            if any(holds(frame.f_locals.get(name)) for name in names):
                with self._lock:
                    functions = self.files.setdefault(file, {})
                    functions.setdefault(code.co_qualname + self._mark(frame, file))
        sys.setprofile(self.note)

    def _mark(self, frame: FrameType, file: str) -> str:
        """' (UP from FILE)' if the caller's file is one that this file imports."""
        caller = frame.f_back and _file(frame.f_back)
        if caller and caller != file and caller in self._imports[file]:
            return f" (UP from {caller})"
        return ""


def _file(frame: FrameType) -> str | None:
    """The file of lrjax that a frame runs, None for other code."""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(ROOT / "lrjax"):
        return None
    return str(path.relative_to(ROOT))


def main() -> None:
    """Run main.py with the arguments of this process, and print the way."""
    walk = Walk()
    sys.path.insert(0, str(ROOT))
    sys.argv = [str(ROOT / "main.py"), *sys.argv[1:]]
    threading.setprofile(walk.note)
    sys.setprofile(walk.note)
    try:
        with contextlib.suppress(SystemExit):
            runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        sys.setprofile(None)
        for number, (file, functions) in enumerate(walk.files.items(), 1):
            print(f"{number:3d}  {file}: {', '.join(functions)}")


if __name__ == "__main__":
    main()
