"""Runs main.py and kills it, by SIGKILL, at a chosen point.

  python tests/killer.py POINT NUMBER [flags of main.py]

It dies when it comes to the point for the NUMBERth time.
"""

import os
import runpy
import shutil
import signal
import sys
from pathlib import Path

import orbax.checkpoint as ocp

from lrjax import results
from lrjax.common import files
from lrjax.engine import programs
from lrjax.launch import checkpoint

# Short segments from the first one on: each block of a trial or run comes to several
# points, and to as many on a fast machine as on a slow one.
programs.MAX_ROUNDS = 8


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name, wanted=lambda *_: True):
    """Die instead of a call."""
    call = getattr(owner, name)

    def dying(*arguments, **named):
        if wanted(*arguments) and reached():
            die()
        return call(*arguments, **named)

    setattr(owner, name, dying)


def halfway(table):
    """Die once half of what is appended to a table is written."""
    write = files.write_all

    def dying(file, content):
        if Path(file.name).name == table and reached():
            file.write(content[: len(content) // 2])
            die()
        write(file, content)

    files.write_all = dying


def renaming(ending):
    """Die before a temporary file takes its place."""
    before(os, "replace", lambda _, target: str(target).endswith(ending))


def saving():
    """Die while Orbax writes, which it does in threads."""
    save = ocp.StandardCheckpointer.save

    def dying(*arguments, **named):
        save(*arguments, **named)
        if reached():
            die()

    ocp.StandardCheckpointer.save = dying


def dropping():
    """Die when an old checkpoint is gone in part."""
    rmtree = shutil.rmtree

    def dying(path, **named):
        manifests = list(path.glob("*/*.json")) or list(path.glob("manifest.json"))
        if manifests and reached():
            manifests[0].unlink()
            die()
        rmtree(path, **named)

    checkpoint.shutil.rmtree = dying


POINTS = {
    "curves": lambda: halfway(results.CURVES),
    "runs": lambda: halfway(results.RUNS),
    "trials": lambda: halfway(results.TRIALS),
    "between": lambda: before(
        results.Tables, "append", lambda tables, name, rows: name == results.RUNS
    ),
    "config": lambda: renaming("config.json"),
    "saving": saving,
    "saved": lambda: before(checkpoint, "_files"),
    "manifest": lambda: renaming("manifest.json"),
    "dropping": dropping,
    "discard": lambda: before(checkpoint, "discard"),
    "params": lambda: renaming(".safetensors"),
}

if __name__ == "__main__":
    point, left = sys.argv[1], [int(sys.argv[2])]

    def reached():
        left[0] -= 1
        return left[0] == 0

    POINTS[point]()
    sys.argv = ["main.py", *sys.argv[3:]]
    runpy.run_path("main.py", run_name="__main__")
