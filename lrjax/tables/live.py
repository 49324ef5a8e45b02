"""The files that say what a command trains now: hints for people who watch.

`started.jsonl` has a row per run, from when it begins to train: whose the rows of
curves.jsonl are, which runs.jsonl says only at the end. `progress.json` says how far
the command is. Nothing is decided by them: a working directory without them, or with
damaged ones, is as good as any.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lrjax.common import files, objects

STARTED, PROGRESS = "started.jsonl", "progress.json"
_LARGEST = 2**20  # bytes of a progress.json


def started(workdir: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Read the rows of runs that have begun to train, by `run_id`.

    Lines that are torn or damaged are left out; without a file there are none.
    """
    try:
        text = files.read_own(Path(workdir) / STARTED)
    except OSError:
        return {}
    rows = filter(None, map(objects.parsed, text.splitlines()))
    return {row["run_id"]: row for row in rows if isinstance(row.get("run_id"), str)}


def progress(workdir: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read how far a command is; None if nothing says so."""
    try:
        return objects.parsed(files.read_own(Path(workdir) / PROGRESS, _LARGEST))
    except OSError:
        return None
