"""Every mode and launcher, killed at changes of the disk and at random moments.

What is there in the end is bit for bit what nothing interrupted leaves.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lrjax import results
from lrjax.tables import parts

ROOT = Path(__file__).parent.parent
KILLS = 20  # of each kind and mode
CONFIG = ("--config=configs/libsvm.py:iris", "--config.checkpoint_minutes=0")
TRAIN = (
    *("--config.methods=sgd,prodigy", "--config.seeds=2", "--config.epochs=300"),
    "--config.save_params",
)
FLAGS = {
    "train": TRAIN,
    "tune": (
        *("--mode=tune", "--config.methods=sgd,adam", "--config.seeds=1"),
        *("--config.epochs=27", "--config.tune.tuner=asha", "--config.tune.trials=9"),
    ),
    "select": (  # some contenders, then those that lead on other rows
        *("--mode=select", "--config.methods=sgd,adam", "--config.epochs=27"),
        *("--config.select.how=race", "--config.select.budget=8"),
    ),
    "bakeoff": (  # all contenders, then rates between theirs
        *("--mode=select", "--config.methods=sgd,adam", "--config.epochs=27"),
        "--config.select.how=bakeoff",
    ),
    "dask": (*TRAIN, "--launcher=dask", "--config.cluster.workers=1"),
    "parts": (  # curves that workers publish
        *(*TRAIN, "--launcher=dask", "--config.cluster.workers=1"),
        "--config.curve_parts",
    ),
    "hosts": (*TRAIN, "--multihost"),  # host 0 is the victim
    "host 1": (*TRAIN, "--multihost"),
}


class Command:
    """One command, which with several hosts is two processes, the victim last."""

    def __init__(self, mode, workdir, victim=(), **environment):
        """Start it.

        Args:
          mode: one of FLAGS.
          workdir: its working directory.
          victim: arguments of tests/killer.py, which dies.
          environment: more variables.
        """
        environment |= {"JAX_PLATFORMS": "cpu", "LRJAX_KILLER_FOLDER": str(workdir)}
        places = [{}]
        if "--multihost" in FLAGS[mode]:
            with socket.socket() as free:
                free.bind(("localhost", 0))
                address = f"localhost:{free.getsockname()[1]}"
            places = [
                {
                    "JAX_COORDINATOR_ADDRESS": address,
                    "JAX_NUM_PROCESSES": "2",
                    "JAX_PROCESS_ID": str(number),
                }
                for number in ((1, 0) if mode == "hosts" else (0, 1))
            ]
        self.processes = []
        for place in places:
            last = place is places[-1]
            script = ("tests/killer.py", *victim) if victim and last else ("main.py",)
            command = [sys.executable, *script, *CONFIG, *FLAGS[mode]]
            self.processes.append(
                subprocess.Popen(
                    [*command, f"--workdir={workdir}"],
                    cwd=ROOT,
                    env={**os.environ, "PYTHONPATH": str(ROOT), **environment, **place},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def end(self, kill_after=None):
        """Wait for the end; kill the others once the last process has died.

        Args:
          kill_after: seconds after which all are killed.

        Returns:
          the exit code of the last process, and what all said.
        """
        last = self.processes[-1]
        others = self.processes[:-1]
        if kill_after is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                last.wait(kill_after)
            for process in self.processes:
                process.kill()
        said = last.communicate(timeout=600)[1]
        for process in others:
            if last.returncode == -signal.SIGKILL:
                process.kill()
            said += process.communicate(timeout=600)[1]
        codes = {process.returncode for process in others}
        assert codes <= {last.returncode, -signal.SIGKILL}, said
        return last.returncode, said


def content(workdir, mode):
    """Rows of all tables without measured times, and the parameters; no leftovers.

    For `parts` the rows of published curves and of the table together.
    """
    found = {}
    for name in (results.RUNS, results.CURVES, results.TRIALS, results.RACES):
        path = workdir / name
        if path.exists():
            rows = map(json.loads, path.read_text().splitlines())
            each = [json.dumps(row | {"seconds": None}, sort_keys=True) for row in rows]
            assert len(set(each)) == len(each)
            found[name] = sorted(each)
    if mode == "parts":
        assert not parts.unfinished(workdir)
        curves = results.load(workdir)[1]
        rows = (row.dropna().to_dict() for _, row in curves.iterrows())
        found[results.CURVES] = sorted(json.dumps(row, sort_keys=True) for row in rows)
    for path in (workdir / "params").glob("*"):
        found[path.name] = path.read_bytes()
    for name in ("checkpoints", "parts", "hosts"):
        assert not (workdir / name).exists()
    assert not list(workdir.rglob(".*.tmp"))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a mode leaves, and the number of changes on the way, made when needed."""
    made = {}

    def of(mode):
        if mode not in made:
            folder = tmp_path_factory.mktemp(mode)
            count = folder / "count"
            workdir = folder / "work"
            command = Command(
                mode, workdir, ("change", "0"), LRJAX_KILLER_COUNT=str(count)
            )
            code, said = command.end()
            assert code == 0, said
            made[mode] = content(workdir, mode), int(count.read_text())
            assert bool(parts.published(workdir)) == (mode == "parts")
        return made[mode]

    return of


def resumed(mode, workdir, whole, by=None):
    """Let a mode, or another launcher, go on to its end."""
    code, said = Command(by or mode, workdir).end()
    assert code == 0, said
    # A worker outlives its killed client for a moment, and may end a block meanwhile.
    if (workdir / "parts").exists():
        time.sleep(5)
        code, said = Command(by or mode, workdir).end()
        assert code == 0, said
    assert content(workdir, mode) == whole


@pytest.mark.slow
@pytest.mark.parametrize("place", range(KILLS))
@pytest.mark.parametrize("mode", FLAGS)
def test_killed_at_a_change_it_goes_on_to_the_same_bits(tmp_path, whole, mode, place):
    found, count = whole(mode)
    number = 1 + place * (count - 1) // (KILLS - 1)
    workdir = tmp_path / "work"
    # Threads come to changes in another order each time, and some changes less often.
    code, said = Command(mode, workdir, ("change", str(number))).end()
    assert code == -signal.SIGKILL or (number > 0.9 * count and code == 0), said
    # A study that one launcher began can be finished by another.
    others = [other for other in ("train", "dask", "hosts") if other != mode]
    switches = mode not in ("tune", "select", "bakeoff") and place % 4 == 3
    resumed(mode, workdir, found, others[place % 8 // 4] if switches else mode)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 4, 7, 11, 16, 22, 29])
def test_a_worker_killed_at_a_change_is_replaced(tmp_path, whole, number):
    workdir = tmp_path / "work"
    code, said = Command("dask", workdir, ("worker", str(number))).end()
    assert code == 0, said
    assert (tmp_path / "died").exists()
    assert content(workdir, "train") == whole("train")[0]


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in FLAGS if mode != "host 1"])
def test_killed_at_random_moments_it_goes_on_to_the_same_bits(tmp_path, whole, mode):
    found, _ = whole(mode)
    chance = random.Random(mode)
    began = time.monotonic()
    resumed(mode, tmp_path / "timed", found)
    most = time.monotonic() - began
    kills = completed = 0
    while kills < KILLS:
        workdir = tmp_path / str(completed)
        code, said = Command(mode, workdir).end(chance.uniform(0.3 * most, most))
        if code == -signal.SIGKILL:
            kills += 1
        else:
            assert code == 0, said
            assert content(workdir, mode) == found
            completed += 1
    resumed(mode, tmp_path / str(completed), found)
