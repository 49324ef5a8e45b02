"""One block on several devices: the same numbers, to rounding."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lrjax import layout, tasks
from lrjax.core import UsageError

ROOT = Path(__file__).resolve().parent.parent
EIGHT = " --xla_force_host_platform_device_count=8"


def python(*words):
    env = os.environ | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + EIGHT}
    env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_numbers_do_not_depend_on_how_many_devices_share_a_batch():
    done = python("tests/on_eight_devices.py")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_it_works_from_the_command_line(tmp_path):
    command = ["main.py", "--config=configs/small_images.py", "--config.steps=4"]
    command += ["--config.methods=adam", "--config.shard=params"]
    done = python(*command, "--config.seeds=1", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "each block on all 8 devices" in done.stderr


@pytest.mark.slow
def test_batches_that_do_not_divide_are_refused_before_any_work(tmp_path):
    command = ["main.py", "--config=configs/small_images.py", "--config.shard=batch"]
    done = python(*command, "--config.batch_size=60", f"--workdir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: digits/wrn: batches of 60 rows do not divide by 8 devices; "
        "set --config.batch_size, or use fewer devices"
    )
    assert not (tmp_path / "runs.jsonl").exists()


def test_parts_of_a_batch_are_what_is_cut():
    task = tasks.make_task(
        "digits/logistic", tasks.TaskOptions(batch_size=12, micro_batches=4)
    )
    devices = [jax.devices()[0]] * 3
    found = layout.choose("batch", devices)
    assert found is not None
    layout.check(found, task)
    with pytest.raises(UsageError, match="12 rows, in 4 parts, do not divide by 2"):
        layout.check(layout.Layout(tuple(devices[:2]), False), task)


def test_one_device_has_blocks_of_its_own():
    assert layout.choose("params", jax.devices()[:1]) is None
    assert layout.choose("runs", [jax.devices()[0]] * 2) is None
