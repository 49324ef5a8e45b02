"""A tuning that was killed goes on, by the same command, to the same numbers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lrjax import results

ROOT = Path(__file__).parents[2]
COMMAND = (
    "--mode=tune",
    "--config=configs/libsvm.py:iris",
    "--config.methods=adam",
    "--config.protocol=study",
    "--config.seeds=2",
    "--config.epochs=200",
    "--config.tune.trials=24",
    "--config.tune.seeds=2",
    "--config.tune.min_budget=20",
    "--config.checkpoint_minutes=0",  # after each segment
)


def run(workdir, *script, **environment):
    """Exit code, and what was said."""
    process = subprocess.run(
        [sys.executable, *(script or ["main.py"]), *COMMAND, f"--workdir={workdir}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return process.returncode, process.stderr


def numbers(workdir):
    """The rows of all tables but for their times; trials in the order written."""
    tables = {}
    for name in (results.TRIALS, results.RUNS, results.CURVES):
        rows = map(json.loads, Path(workdir, name).read_text().splitlines())
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
        if name != results.TRIALS:
            rows.sort(key=lambda row: (row["run_id"], row.get("step", 0)))
        tables[name] = rows
    return tables


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder that nothing was interrupted in."""
    folder = tmp_path_factory.mktemp("whole")
    code, said = run(folder, JAX_PLATFORMS="cpu")
    assert code == 0, said
    return folder


POINTS = (
    *(("trials", 1), ("trials", 2), ("trials", 4)),
    *(("saving", 1), ("saved", 3), ("manifest", 2), ("discard", 1)),
    *(("curves", 1), ("between", 1), ("runs", 1)),
)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "number"), POINTS)
def test_killed_at_a_chosen_point_it_goes_on_to_the_same_numbers(
    tmp_path, whole, point, number
):
    script = ("tests/killer.py", point, str(number))
    code, said = run(tmp_path, *script, JAX_PLATFORMS="cpu")
    assert code == -signal.SIGKILL, said
    code, said = run(tmp_path, JAX_PLATFORMS="cpu", PYTHONHASHSEED="5")
    assert code == 0, said
    assert numbers(tmp_path) == numbers(whole)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_two_devices_give_the_same_numbers(tmp_path, whole):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    code, said = run(tmp_path, JAX_PLATFORMS="cpu", XLA_FLAGS=flags)
    assert code == 0, said
    assert "2 devices" in said
    assert numbers(tmp_path) == numbers(whole)
