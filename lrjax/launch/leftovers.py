"""Leftovers of killed processes in a working directory: their rows are taken over.

Workers of a cluster and hosts keep the rows of what they train in tables of their own,
`parts/BLOCK` and `hosts/NUMBER`, until these rows are in the tables of the working
directory. Checkpoints and parameters are at the same place for all launchers, so that a
study that one launcher began can be finished by another.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from lrjax import results
from lrjax.common import files
from lrjax.core import UsageError
from lrjax.launch import checkpoint
from lrjax.tables import parts, reader

PARTS, HOSTS = "parts", "hosts"


def take_over(tables: results.Tables, kinds: Sequence[str] = (PARTS, HOSTS)) -> None:
    """Append the rows of folders that no process uses any more; remove the folders.

    Removes unfinished files of parameters and curves as well. Warns of a folder that
    another process still uses or whose tables are damaged, which is left as it is; then
    so are unfinished files, which may be that process's.

    Args:
      tables: of the working directory, open.
      kinds: folders in which to look.

    Raises:
      UsageError: if the rows cannot be appended.
    """
    all_ended = True
    for place in (tables.workdir / kind for kind in kinds):
        if not os.path.islink(place):
            files.remove_unfinished(place)
    for folder in (path for kind in kinds for path in folders(tables.workdir, kind)):
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(results.Tables(folder, tables.workdir))
            except UsageError as error:
                warnings.warn(f"{folder} is left as it is: {error}", stacklevel=2)
                all_ended = False
                continue
            # A run's curve before its row: a kill leaves no row without a curve.
            for path in parts.unfinished(folder):
                for piece in lines(path):
                    append(tables, results.CURVES, piece, block=path.parent.name)
            for table in (results.CURVES, results.RUNS):
                for piece in lines(folder / table):
                    append(tables, table, piece)
            files.remove_at_once(folder)
    for name in (checkpoint.PARAMS, parts.FOLDER) if all_ended else ():
        if not os.path.islink(tables.workdir / name):
            files.remove_unfinished(tables.workdir / name)


def remove_empty(workdir: Path) -> None:
    """Remove those of lrjax's folders in a working directory that are empty."""
    for name in (checkpoint.FOLDER, PARTS, HOSTS):
        with contextlib.suppress(OSError):
            os.rmdir(workdir / name)


def folders(workdir: Path, kind: str) -> list[Path]:
    """Folders of workers or hosts in a working directory, in order; no links."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not os.path.islink(workdir / kind):
            with os.scandir(workdir / kind) as entries:
                found = [
                    entry.name
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                    and not files.is_unfinished(entry.name)
                ]
            return [workdir / kind / name for name in sorted(found)]
    return []


def lines(path: Path, start: int = 0) -> Iterator[bytes]:
    """Read a table as `reader.pieces`; nothing if it is missing.

    Args:
      path: the table's file.
      start: where a line begins, in bytes.
    """
    with contextlib.suppress(FileNotFoundError):
        yield from reader.pieces(path, start)


def append(tables: results.Tables, table: str, piece: bytes, block: str = "") -> None:
    """Append the rows of a piece that a table does not have yet."""
    tables.append(table, map(json.loads, piece.splitlines()), block)
