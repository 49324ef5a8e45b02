r"""A population of runs against one run, and against PyTorch one run at a time.

  pip install -r benchmarks/requirements.txt   # PyTorch; optional
  python benchmarks/population.py [--quick] [--json=FILE] [--no-torch]

Logistic regression with Adam at constant rates, batches of 64, the training and the
validation part measured after every epoch, on iris and on a task of letter's size.
Both sides are warm and take turns in one process, so that a busy machine slows both:
a ratio is the median over the turns of the ratio within a turn, with the smallest and
the largest. Compilation is timed apart; whole processes, import and compilation
included, come last. Takes about ten minutes on two cores, with --quick two.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import sides  # noqa: E402

EPOCHS = 100  # of a full run
# Seeds, rates.
SHAPES = {"1": (1, 1), "10": (10, 1), "320": (10, 32), "3200": (100, 32)}
# Epochs timed; where fewer than `EPOCHS`, times are scaled up.
TIMED = {
    "iris": {"1": 100, "10": 100, "320": 100, "3200": 100, "torch": 100},
    "letter-shaped": {"1": 20, "10": 10, "320": 4, "torch": 2},
}
PROCESSES = "torch, a process per core"
TORCH_RUNS = 4  # of a turn, at rates from the whole range
CHECKED_RATES = (3e-4, 3e-3, 3e-2)  # above, the order of the data counts for more
TOLERANCE = 0.05  # between the training losses of the two sides


@dataclasses.dataclass(frozen=True)
class Timed:
    """Seconds per full run, one number per turn.

    Attributes:
      wall: time that passed.
      cpu: time of all cores together.
    """

    wall: np.ndarray
    cpu: np.ndarray


def take_turns(
    jobs: dict[str, Callable[[], Any]], scale: dict[str, float], turns: int
) -> dict[str, Timed]:
    """Time all jobs in turn, after one round to warm up; `scale` multiplies."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for turn in range(turns + 1):
        for name, job in jobs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            job()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            if turn:
                times[name].append(spent)
    return {
        name: Timed(*(np.asarray(spent) * scale[name]).T)
        for name, spent in times.items()
    }


def summary(values: np.ndarray) -> dict[str, float]:
    """Median, smallest and largest."""
    return {
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def best_settings(torch_side: sides.Torch, epochs: int) -> list[dict[str, Any]]:
    """Try PyTorch with one thread and all, plain and fused Adam; keep the fastest.

    Returns:
      what was tried, the fastest first, with seconds per full run.
    """
    tried = []
    threads = sorted({1, os.cpu_count() or 1})
    options = list(itertools.product(threads, (False, True)))
    for _ in range(4):
        for count, fused in options:
            torch_side.torch.set_num_threads(count)
            torch_side.fused = fused
            began = time.perf_counter()
            torch_side.run(0, sides.spread(1)[0], epochs)
            seconds = (time.perf_counter() - began) * EPOCHS / epochs
            tried.append({"threads": count, "fused": fused, "seconds": seconds})
    best: dict[Any, dict[str, Any]] = {}
    for setting in sorted(tried, key=lambda s: s["seconds"]):
        best.setdefault((setting["threads"], setting["fused"]), setting)
    ranked = list(best.values())
    torch_side.torch.set_num_threads(ranked[0]["threads"])
    torch_side.fused = ranked[0]["fused"]
    return ranked


def check(
    task: Any, torch_side: sides.Torch, epochs: int
) -> Iterator[dict[str, float | bool]]:
    """Train the same runs on both sides, from the same weights, in other orders."""
    side = sides.Lrjax(task, 1, CHECKED_RATES, epochs)
    for rate, scores in zip(CHECKED_RATES, side.run()[0], strict=True):
        ours = float(scores[0])
        theirs = float(torch_side.run(0, rate, epochs, side.initial(0))[0])
        agrees = abs(ours / theirs - 1) < TOLERANCE
        yield {"learning_rate": rate, "lrjax": ours, "torch": theirs, "agrees": agrees}


def measure(name: str, turns: int, with_torch: bool) -> dict[str, Any]:
    """All of one task in this process."""
    task = sides.make_task(name)
    epochs, compiling, jobs, scale = TIMED[name], {}, {}, {}
    shapes = {runs: shape for runs, shape in SHAPES.items() if runs in epochs}
    for runs, (seeds, rates) in shapes.items():
        began = time.perf_counter()
        side = sides.Lrjax(task, seeds, sides.spread(rates), epochs[runs])
        compiling[runs] = time.perf_counter() - began
        jobs[runs] = side.run
        scale[runs] = EPOCHS / epochs[runs] / int(runs)
    report: dict[str, Any] = {
        "task": name,
        "rows": {"train": task.num_examples, "valid": len(task.valid["labels"])},
        "epochs_timed": epochs,
        "turns": turns,
        "compile_seconds": compiling,
    }
    if with_torch:
        parts = [
            (np.array(part["features"]), np.array(part["labels"]))
            for part in (task.train, task.valid)
        ]
        torch_side = sides.Torch(*parts, task.num_classes)
        report["torch_settings"] = best_settings(torch_side, epochs["torch"])
        report["check"] = list(check(task, torch_side, epochs["torch"]))
        scale["torch"] = EPOCHS / epochs["torch"] / TORCH_RUNS

        def train_in_torch() -> None:
            for seed, rate in enumerate(sides.spread(TORCH_RUNS)):
                torch_side.run(seed, rate, epochs["torch"])

        jobs["torch"] = train_in_torch
    with contextlib.ExitStack() as stack:
        if with_torch:
            setting = report["torch_settings"][0]
            several = sides.TorchProcesses(name, epochs["torch"], setting)
            stack.enter_context(several)
            jobs[PROCESSES] = functools.partial(several.run, TORCH_RUNS)
            scale[PROCESSES] = scale["torch"] / several.count
        times = take_turns(jobs, scale, turns)
    if with_torch:  # theirs is not this process's
        times[PROCESSES].cpu[:] = np.nan
    report["seconds_per_run"] = {k: summary(t.wall) for k, t in times.items()}
    report["cpu_seconds_per_run"] = {k: summary(t.cpu) for k, t in times.items()}
    pairs = [("1", "320"), ("1", "10")]
    pairs += [(t, runs) for t in ("torch", PROCESSES) for runs in shapes if with_torch]
    report["ratios"] = {
        f"{a} / {b}": {
            "wall": summary(times[a].wall / times[b].wall),
            "cpu": summary(times[a].cpu / times[b].cpu),
        }
        for a, b in pairs
    }
    return report


def whole_processes(
    name: str, runs: str, turns: int, setting: dict[str, Any] | None
) -> dict[str, Any]:
    """Wall seconds of processes that do all from import to result, in turn."""
    seeds, rates = SHAPES[runs]
    job = [name, f"--seeds={seeds}", f"--rates={rates}", f"--epochs={EPOCHS}"]
    base = [sys.executable, str(HERE / "sides.py")]
    commands = {"lrjax, cold": [*base, "lrjax", *job]}
    commands["lrjax, compiled before"] = commands["lrjax, cold"]
    if setting:
        options = [f"--threads={setting['threads']}"] + ["--fused"] * setting["fused"]
        commands["torch"] = [*base, "torch", *job, *options]
    times: dict[str, list[float]] = {side: [] for side in commands}
    with tempfile.TemporaryDirectory() as cache:
        cached = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        cold = {k: v for k, v in os.environ.items() if k not in cached}
        subprocess.run(
            commands["lrjax, cold"], env=cold | cached, check=True, capture_output=True
        )
        for _ in range(turns):
            for side, command in commands.items():
                environment = cold | cached if side.endswith("before") else cold
                began = time.perf_counter()
                subprocess.run(
                    command, env=environment, check=True, capture_output=True
                )
                times[side].append(time.perf_counter() - began)
    seconds = {side: np.asarray(spent) for side, spent in times.items()}
    report = {
        "task": name,
        "runs": int(runs),
        "turns": turns,
        "seconds": {side: summary(spent) for side, spent in seconds.items()},
    }
    if setting:
        report["ratios"] = {
            side: summary(seconds["torch"] / spent)
            for side, spent in seconds.items()
            if side != "torch"
        }
    return report


def machine(with_torch: bool) -> dict[str, Any]:
    """Where and with what this was measured."""
    packages = ["jax", "jaxlib", "numpy"] + ["torch"] * with_torch
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    found = {name.strip(): value.strip() for name, value in found.items()}
    name = found.get("model name", platform.machine())
    if "model" in found:
        name += f" (family {found['cpu family']}, model {found['model']})"
    return name


def _span(values: dict[str, float], unit: str = "", factor: float = 1.0) -> str:
    numbers = (f"{values[k] * factor:.3g}" for k in ("median", "min", "max"))
    return "{}{unit} ({} to {})".format(*numbers, unit=unit)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(report: dict[str, Any]) -> str:
    """A task's measurements as Markdown."""
    rows = []
    names = {"torch": "PyTorch, one by one", PROCESSES: "PyTorch, a process per core"}
    for runs, seconds in report["seconds_per_run"].items():
        ratio = report["ratios"].get(f"torch / {runs}")
        one = report["ratios"].get(f"1 / {runs}")
        several = report["ratios"].get(f"{PROCESSES} / {runs}")
        timed = report["epochs_timed"]["torch" if runs == PROCESSES else runs]
        rows.append(
            [
                names.get(runs, f"lrjax, {runs} at once"),
                f"{timed}" + (f", times {EPOCHS / timed:g}" if timed < EPOCHS else ""),
                _span(seconds, " ms", 1e3),
                _span(report["cpu_seconds_per_run"][runs], " ms", 1e3)
                if runs != PROCESSES
                else "",
                _span(one["wall"]) if one else "",
                _span(ratio["wall"]) if ratio else "",
                _span(ratio["cpu"]) if ratio else "",
                _span(several["wall"]) if several else "",
                f"{report['compile_seconds'].get(runs, 0):.1f} s"
                if runs in report["compile_seconds"]
                else "",
            ]
        )
    size = report["rows"]
    text = (
        f"\n### {report['task']}: {size['train']} rows to train on, {size['valid']} to "
        f"validate with\n\nPer run of {EPOCHS} epochs; median (min to max) of "
        f"{report['turns']} turns.\n\n"
    )
    head = [
        "",
        "epochs timed",
        "wall per run",
        "all cores' time per run",
        "lrjax 1 / this",
        "PyTorch / this",
        "in all cores' time",
        "PyTorch in a process per core / this",
        "compilation",
    ]
    text += _table(head, rows)
    for number, setting in enumerate(report.get("torch_settings", ())):
        text += "; " if number else "\n\nPyTorch's settings, the fastest is taken: "
        adam = "fused" if setting["fused"] else "plain"
        text += f"{setting['threads']} thread(s), {adam} Adam "
        text += f"{setting['seconds'] * 1e3:.3g} ms"
    if "check" in report:
        text += (
            f"\n\nThe same learning: training loss after {timed} epochs from the same "
            "weights (rate: lrjax, PyTorch): "
        )
        text += "; ".join(
            f"{row['learning_rate']:.2g}: {row['lrjax']:.4f}, {row['torch']:.4f}"
            for row in report["check"]
        )
    return text


def show_whole(reports: Sequence[dict[str, Any]]) -> str:
    """Whole processes as Markdown."""
    rows = [
        [
            report["task"],
            f"{report['runs']}",
            side,
            _span(seconds, " s"),
            _span(report["ratios"][side]) if side in report.get("ratios", {}) else "",
        ]
        for report in reports
        for side, seconds in report["seconds"].items()
    ]
    head = ["task", "runs", "process", "wall", "PyTorch / this"]
    turns = {report["turns"] for report in reports}
    return (
        f"\n### Whole processes, import and compilation included\n\n{EPOCHS} epochs; "
        f"median (min to max) of {max(turns)} turns.\n\n" + _table(head, rows)
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    parser.add_argument("--no-torch", action="store_true", help="lrjax alone")
    args = parser.parse_args()
    with_torch = not args.no_torch and importlib.util.find_spec("torch") is not None
    if not args.no_torch and not with_torch:
        print(
            "no PyTorch, so no comparison with it: "
            "pip install -r benchmarks/requirements.txt\n"
        )
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    result: dict[str, Any] = {"machine": machine(with_torch), "tasks": []}
    print("\n".join(f"- {k}: {v}" for k, v in result["machine"].items()), flush=True)
    for name in sides.TASKS:
        turns = {"iris": 15, "letter-shaped": 7}[name]
        report = measure(name, 3 if args.quick else turns, with_torch)
        result["tasks"].append(report)
        print(show(report), flush=True)
    setting = result["tasks"][0]["torch_settings"][0] if with_torch else None
    cases = [("iris", "10")]
    if not args.quick:
        cases += [("iris", "1"), ("iris", "320"), ("letter-shaped", "1")]
    result["whole_processes"] = [
        whole_processes(name, runs, 1 if args.quick else 5, setting)
        for name, runs in cases
    ]
    print(show_whole(result["whole_processes"]))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    failed = [
        row for t in result["tasks"] for row in t.get("check", ()) if not row["agrees"]
    ]
    if failed:
        sys.exit(f"error: the two sides do not learn the same: {failed}")


if __name__ == "__main__":
    main()
