"""What Windows lacks is not needed by optimisers, races and reports.

A process of its own plays Windows, as far as Python can: other packages are imported
first, then the modules and names that Windows lacks disappear.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # .ci/run runs them
ROOT = Path(__file__).parent.parent
PLAYED = """
import errno, fcntl, multiprocessing, os, signal, subprocess, sys, tempfile, types
import shutil, pathlib, threading, concurrent.futures, http.server
import jax, jax.numpy as jnp, numpy, optax, pandas, matplotlib.figure, pyarrow.json
import matplotlib.backends.backend_agg, ml_collections, absl.app, tqdm
try:
    import rliable.library
except ImportError:
    pass
jnp.ones(2).block_until_ready()

def locking(handle, mode, count, flock=fcntl.flock, fcntl=fcntl):
    try:
        flock(handle, fcntl.LOCK_UN if mode == 0 else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied") from None

sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2, LK_UNLCK=0)
sys.modules["fcntl"] = sys.modules["resource"] = None
sys.platform = "win32"
for name in (
    "O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_DIRECTORY O_ACCMODE geteuid getuid killpg "
    "sched_getaffinity set_blocking setsid"
).split():
    delattr(os, name)
for name in (
    "SIGHUP SIGKILL SIGALRM SIGPIPE setitimer pthread_sigmask ITIMER_REAL"
).split():
    delattr(signal, name)
"""


def on_windows(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", PLAYED + code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "HOME": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_optimisers(tmp_path):
    said = on_windows(
        """
import lrjax.optim
from lrjax.optim.learned import load
print(sorted(load()))  # reads a file
tx = lrjax.optim.dowg()
print(tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))[0].shape)
""",
        tmp_path,
    )
    assert said == "['hidden', 'hidden_bias', 'out', 'out_bias']\n(2,)\n"


def test_a_race_is_run_and_goes_on(tmp_path):
    code = """
import lrjax
race = lrjax.Race(["adam", "prodigy"], budget=3, horizon=10, folder="race")
job = race.ask()
job.tell(loss=float(job.number))
race = lrjax.Race(["adam", "prodigy"], budget=3, horizon=10, folder="race")
numbers = [job.number for job in race if job.tell(loss=2.0) is None]
print(numbers, race.answer().method)
try:
    from lrjax.race import command
    command.run(race, "true")
except lrjax.UsageError as error:
    print(error)
"""
    said = on_windows(code, tmp_path).splitlines()
    assert said[0] == "[1, 2] adam"
    assert "a POSIX shell, which Windows lacks" in said[1]


def test_a_report_is_written(tmp_path):
    rows = "\\n".join(
        f"{entry},{seed},{seed / 10 + (entry == 'b')}"
        for entry in "ab"
        for seed in range(4)
    )
    code = f"""
pathlib.Path("runs.csv").write_text("method,seed,val_loss\\n{rows}\\n")
sys.argv = ["lrjax", "report", "--from=csv:runs.csv"]
from lrjax.__main__ import start
start()
"""
    on_windows(code, tmp_path)
    assert (tmp_path / "report/index.html").stat().st_size > 10_000


MODULES = ("lrjax.api", "lrjax.cli", "lrjax.command")
IMPORT_ALL = f"""
import importlib
for name in {MODULES}:
    try:
        importlib.import_module(name)
        print(name)
    except Exception as error:
        print(name, repr(error))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A line for each of the modules, imported in one process."""
    return on_windows(IMPORT_ALL, tmp_path_factory.mktemp("imports")).splitlines()


@pytest.mark.parametrize("place", range(len(MODULES)), ids=MODULES)
def test_nothing_is_missing_at_import(place, imported):
    assert imported[place] == MODULES[place]
