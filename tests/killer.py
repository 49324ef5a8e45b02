"""Runs main.py and kills it, by SIGKILL, at a chosen point.

  python tests/killer.py POINT NUMBER [flags of main.py]

It dies when it comes to the point for the NUMBERth time. The point `change` is any
change of a file or folder below LRJAX_KILLER_FOLDER: before and in the middle of each
append and removal, before and after each rename, and after each folder is made. With
the number 0 nothing dies, and LRJAX_KILLER_COUNT gets the number of changes. The point
`worker` is the same in the workers of a Dask cluster on this machine, of which the
first one dies.
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

    def dying(file, content, **named):
        if Path(file.name).name == table and reached():
            file.write(content[: len(content) // 2])
            die()
        write(file, content, **named)

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


def changing():
    """Die at a change of a file or folder."""
    write, rmtree = files.write_all, shutil.rmtree
    replace, mkdir = os.replace, os.mkdir

    def watched(path):
        return isinstance(path, str | Path) and str(path).startswith(FOLDER)

    def writing(file, content, **named):
        if watched(file.name):
            if reached():
                die()
            if reached():
                file.write(content[: len(content) // 2])
                die()
        write(file, content, **named)

    def removing(path, **named):
        if watched(path):
            if reached():
                die()
            inside = sorted(p for p in Path(path).rglob("*") if p.is_file())
            if inside and reached():
                for each in inside[: -(-len(inside) // 2)]:
                    each.unlink()
                die()
        rmtree(path, **named)

    def renaming(source, target, **named):
        if watched(target) and reached():
            die()
        replace(source, target, **named)
        if watched(target) and reached():
            die()

    def making(path, *mode, **named):
        mkdir(path, *mode, **named)
        if watched(path) and reached():
            die()

    files.write_all, shutil.rmtree = writing, removing
    os.replace, os.mkdir = renaming, making
    for name in ("unlink", "rmdir"):
        before(os, name, lambda path, **named: watched(path))


POINTS = {
    "curves": lambda: halfway(results.CURVES),
    "runs": lambda: halfway(results.RUNS),
    "trials": lambda: halfway(results.TRIALS),
    "between": lambda: before(
        results.Tables, "append", lambda tables, name, *_: name == results.RUNS
    ),
    "config": lambda: renaming("config.json"),
    "saving": saving,
    "saved": lambda: before(checkpoint, "_files"),
    "manifest": lambda: renaming("manifest.json"),
    "dropping": dropping,
    "discard": lambda: before(checkpoint, "discard"),
    "params": lambda: renaming(".safetensors"),
}

FOLDER = os.environ.get("LRJAX_KILLER_FOLDER", "")
COUNT = os.environ.get("LRJAX_KILLER_COUNT", "")
IN_WORKERS = "LRJAX_KILLER_WORKER"  # after how many changes a worker dies


def once():
    """Whether no worker has died yet."""
    try:
        Path(FOLDER, "..", "died").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    point, number = sys.argv[1], int(sys.argv[2])
    come = [0]

    def reached():
        come[0] += 1
        return come[0] == number

    if point == "worker":
        os.environ[IN_WORKERS] = str(number)
        os.environ["DASK_DISTRIBUTED__WORKER__PRELOAD"] = str(Path(__file__).resolve())
    elif point == "change":
        changing()
    else:
        POINTS[point]()
    sys.argv = ["main.py", *sys.argv[3:]]
    try:
        runpy.run_path("main.py", run_name="__main__")
    finally:  # the command ends its process before what was registered here is called
        if COUNT:
            Path(COUNT).write_text(str(come[0]))
elif IN_WORKERS in os.environ:  # a worker imports this
    come = [0]

    def reached():
        come[0] += 1
        return come[0] == int(os.environ[IN_WORKERS]) and once()

    changing()
