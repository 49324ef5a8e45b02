r"""What surviving costs: checkpoints, resuming, and the faults that were tried.

  python benchmarks/reliability.py [--json=FILE]
  python benchmarks/reliability.py --faults [--json=FILE]

Checkpoints are timed alone (saved and restored, for blocks of several sizes) and in
training: the same population with a checkpoint every half second and with none, in
turns, so that what a checkpoint makes training wait for is in it. Resuming is a process
of its own, killed and started again, until its first new row is on the disk. Takes a
minute. `--faults` runs the tests that kill, damage and mislead the program and counts
what it survived; some hours on two cores, most of them for the kills.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import io
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

MINUTES = 10.0  # between two checkpoints, by default
TURNS = 3
# Runs of a block, and features of its linear model with 10 classes.
BLOCKS = {"iris-sized": (160, 4), "digits-sized": (160, 64), "large": (160, 4000)}
LONG = (
    *("--config=configs/libsvm.py:iris", "--config.tasks=digits/logistic"),
    *("--config.methods=prodigy", "--config.seeds=5", "--config.epochs=1000000"),
)
FAULTS = {
    "killed by SIGKILL at a chosen point": "test_killed_at_a_chosen_point",
    "killed by SIGKILL at 20 random moments": "test_killed_at_20_random_moments",
    "killed at a change of the disk: train, tune, select, Dask, hosts": (
        "test_killed_at_a_change"
    ),
    "a worker of Dask killed at a change": "test_a_worker_killed",
    "killed at 20 random moments in each of these modes": (
        "test_killed_at_random_moments"
    ),
    "what a Dask client, its workers or hosts left": (
        "test_(what_is_left|half_a_curve|folders_of_many|a_folder_in_use"
        "|a_damaged_folder|links_are_not)"
    ),
    "stopped inside of an append or a save": "test_killed_(anywhere|while_saving)",
    "a signal to the program": "test_(the_program_survives|a_signal|signals_that)",
    "a signal to a Dask client with its workers, to hosts": (
        "test_(an_interrupted|killed_hosts)"
    ),
    "a worker of Dask killed while it trains or tunes": "test_a_worker_dies",
    "what a kill leaves lying": "test_(what_a_finished|refused_ones|unfinished)",
    "each file of a checkpoint: bit, tail, all of it": "test_damage_to_any_file",
    "a foreign or nonsensical checkpoint": (
        "test_(a_foreign_checkpoint|a_manifest|a_checkpoint_(put|of_other)|a_file_"
        "|what_may_have)"
    ),
    "a full disk": "test_(a_full_disk|output_that)",
    "folders and tables without permission": "test_a_(read_only|table_that_cannot)",
    "links, files and pipes in the way": "test_(what_stands|links_in|a_link|links_are)",
    "tables and locks that others change": (
        "test_(a_changed_table|a_table_that_another|a_removed|only_a_taken)"
    ),
    "streams closed, full, gone or of another encoding": "test_streams_stop",
    "a second process": "test_a_second_process",
    "diverging neighbours, dead blocks": "test_(wild_neighbours|a_block_of_dead)",
    "too little memory": (
        "test_(without_memory|a_(block|later_block|run)_that_no_memory|where_alloc)"
    ),
    "damaged tables": (
        "test_(a_(damaged_(line|step|table)|row_that|torn_last|curve_with|table_that_is)"
        "|a_run_(with|that_lacks)|load_names)"
    ),
    "wrong flags, overrides and config files": (
        "test_(any_[ofcv]|wrong_overrides|faults_of|flagfiles|mistakes|any_config|bad_sett"
        "|a_config_that|a_device_that)"
    ),
    "2,000 random configs of a group of fields": "test_many_random",
    "a reader on 1,000 damaged files": "test_many_damaged",
    "damaged data files": "test_(a_mutated|a_damaged_comp|malformed|unreadable)",
    "small files that would take much memory": (
        "test_(a_decompression|a_file_takes|what_is_not_wanted)"
    ),
    "failed downloads": "test_(a_failed_download|download_refuses|a_changed_file)",
}


def median(values: list[float]) -> str:
    """The median with the smallest and the largest, three figures each."""
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


def saving(folder: Path) -> list[dict[str, Any]]:
    """Milliseconds to save and to restore the state of blocks of several sizes."""
    import jax
    import jax.numpy as jnp

    from lrjax.launch import checkpoint

    rows = []
    for name, (runs, features) in BLOCKS.items():
        # Parameters, and four copies of them as Prodigy keeps.
        shape = (5, runs // 5, 10, features + 1)
        state = {f"leaf{i}": jnp.full(shape, float(i)) for i in range(5)}
        like = jax.eval_shape(lambda state=state: state)
        saved, restored = [], []
        for step in range(TURNS + 3):
            began = time.perf_counter()
            checkpoint.save(folder / name, step, state, {})
            saved.append(1e3 * (time.perf_counter() - began))
            began = time.perf_counter()
            assert checkpoint.restore(folder / name, like) is not None
            restored.append(1e3 * (time.perf_counter() - began))
        size = sum(x.nbytes for x in state.values()) / 2**20
        rows.append(
            {"block": name, "mib": size, "save": saved[1:], "restore": restored[1:]}
        )
    return rows


def training(folder: Path) -> dict[str, Any]:
    """Seconds of training with a checkpoint every half second, and with none."""
    from configs import libsvm
    from lrjax import config as config_lib
    from lrjax.launch import checkpoint, experiment

    saves = [0]
    save = checkpoint.save

    def counted(*arguments):
        saves[0] += 1
        save(*arguments)

    checkpoint.save = counted
    times: dict[str, list[float]] = {"with": [], "without": []}
    for turn in range(TURNS + 1):
        for name, minutes in (("with", 1 / 120), ("without", float("inf"))):
            config = libsvm.get_config("iris")
            config.tasks, config.methods = ("digits/logistic",), ("prodigy",)
            config.seeds, config.epochs, config.checkpoint_minutes = 5, 3000, minutes
            settings = config_lib.check(config)
            if not turn:
                saves[0] = 0  # the first turn compiles
            began = time.perf_counter()
            with contextlib.redirect_stderr(io.StringIO()):
                experiment.run(settings, folder / f"{turn}{name}")
            if turn:
                times[name].append(time.perf_counter() - began)
    checkpoint.save = save
    return {**times, "saves": saves[0]}


def start(workdir: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "main.py", *LONG, f"--workdir={workdir}", *flags],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def resuming(folder: Path) -> dict[str, list[float]]:
    """Seconds from the start of a process to its first new row of a curve."""
    times: dict[str, list[float]] = {"imports and data": [], "new": [], "resumed": []}
    curves = folder / "long" / "curves.jsonl"
    for turn in range(TURNS + 1):
        for name in ("new", "resumed"):
            if name == "new":
                curves = folder / f"long{turn}" / "curves.jsonl"
            before = curves.stat().st_size if curves.exists() else 0
            began = time.perf_counter()
            # Checkpoints every second: the killed process leaves some.
            process = start(curves.parent, "--config.checkpoint_minutes=0.017")
            assert process.stderr is not None
            process.stderr.readline()  # '... runs to train'
            imported = time.perf_counter() - began
            while not curves.exists() or curves.stat().st_size == before:
                time.sleep(0.005)
            spent = time.perf_counter() - began
            manifests = "checkpoints/*/*/manifest.json"
            while not list(curves.parent.glob(manifests)):
                time.sleep(0.05)
            process.kill()
            process.wait()
            if turn:  # the first one compiles
                times["imports and data"].append(imported)
                times[name].append(spent)
    return times


def faults() -> list[dict[str, Any]]:
    """Faults tried and survived, from the tests' own report."""
    import re

    names = ["reliability", "checkpoint", "results", "cli", "config", "threads"]
    names += ["killed_anywhere", "leftovers", "dask", "hosts", "tables", "environment"]
    names += ["damaged_files", "bombs", "tasks/test_task_data", "reports/test_writing"]
    files = [f"tests/{x}.py" if "/" in x else f"tests/test_{x}.py" for x in names]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2"]
        command += ["-m", "slow or not slow", f"--junitxml={report}"]
        subprocess.run([*command, *files], cwd=ROOT, check=False)
        cases = list(xml.etree.ElementTree.parse(report).iter("testcase"))
    rows = []
    for fault, pattern in FAULTS.items():
        found = [case for case in cases if re.match(pattern, case.get("name", ""))]
        assert found, f"no test is called {pattern}"
        survived = sum(not len(case) for case in found)  # no failure, error or skip
        rows.append({"fault": fault, "tests": len(found), "survived": survived})
    return rows


def show_faults(rows: list[dict[str, Any]]) -> None:
    print("\n| fault | tests | survived |\n|---|---|---|")
    for row in rows:
        print(f"| {row['fault']} | {row['tests']} | {row['survived']} |")


def show_costs(
    saved: list[dict[str, Any]],
    trained: dict[str, Any],
    resumed: dict[str, list[float]],
) -> None:
    print("\n| block | state | saved in ms | restored in ms | share of 10 minutes |")
    print("|---|---|---|---|---|")
    for row in saved:
        share = np.median(row["save"]) / (MINUTES * 60e3)
        print(
            f"| {row['block']} | {row['mib']:.3g} MiB | {median(row['save'])} | "
            f"{median(row['restore'])} | {share:.3%} |"
        )
    saves = trained["saves"] / TURNS
    added = np.asarray(trained["with"]) - np.asarray(trained["without"])
    each = [float(x) for x in 1e3 * added / saves]
    share = np.median(each) / (MINUTES * 60e3)
    print(
        f"\nIn training ({np.median(trained['without']):.1f} s without, {saves:.0f} "
        f"checkpoints): {median(each)} ms for each, {share:.3%} of 10 minutes."
    )
    print("\n| from the start of the process to | seconds |\n|---|---|")
    for name, values in resumed.items():
        label = name if name == "imports and data" else f"first row, {name}"
        print(f"| {label} | {median(values)} |")


def main() -> None:
    """Run what the arguments ask for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faults", action="store_true", help="only run the tests")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    args = parser.parse_args()
    versions = ("jax", "orbax-checkpoint", "numpy")
    print(
        f"`{shlex.join(['python', *sys.argv])}` on {datetime.date.today()}: "
        f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in versions)
    )
    result: dict[str, Any]
    if args.faults:
        result = {"faults": faults()}
        show_faults(result["faults"])
    else:
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(here / "xla")
            os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
            result = {
                "saved": saving(here),
                "trained": training(here),
                "resumed": resuming(here),
            }
        show_costs(**result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
