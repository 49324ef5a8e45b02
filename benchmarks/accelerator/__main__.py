r"""Prove lrjax on the GPU or TPU that is here; `make accelerator` does this.

  python -m benchmarks.accelerator [--parts=golden,speed-wrn16_2,...] [--minutes=90]
      [--out=FOLDER] [--peak=989] [--retry] [--results] [--miniature]

In this order: correctness beside the CPU (golden trajectories, small tables, a step of
each network, populations, repeated bits), throughput, and evidence that methods learn.
A part has eight minutes at most. What it has measured by then is kept, and the
next call continues there. Finished items are computed again only if code,
versions or device changed. What dies is reported and does not stop the others;
`--retry` tries it again.

Results are in FOLDER (runs/accelerator/DEVICE): results.jsonl and section.md, which
`--results` puts into benchmarks/RESULTS.md. The exit status is 1 if a number is wrong
or a part about correctness died. `--miniature` tries every line on small cases.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.accelerator import parts as parts_lib  # noqa: E402
from benchmarks.accelerator import results, running, section, store  # noqa: E402
from benchmarks.accelerator.core import Part, Row  # noqa: E402

PART_SECONDS = 480.0
CEILINGS, PAGE = ROOT / "benchmarks" / "ceilings.json", ROOT / "benchmarks/RESULTS.md"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags of a command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("--parts", default="", help="names, or beginnings of names")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device")
    parser.add_argument("--retry", action="store_true", help="what died")
    parser.add_argument("--results", action="store_true")
    parser.add_argument("--miniature", action="store_true")
    return parser.parse_args(arguments)


def look(env: Mapping[str, str]) -> dict[str, Any]:
    """Device and versions, found by a process of its own.

    Raises:
      RuntimeError: if JAX finds no device.
    """
    command = [sys.executable, "-m", "benchmarks.accelerator.child", "--look"]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(env), capture_output=True, text=True
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise RuntimeError(f"JAX finds no device: {last[0]}")
    return json.loads(done.stdout.splitlines()[-1])


def driver() -> str:
    """The version of NVIDIA's driver; '' where there is none."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().split("\n")[0] if not done.returncode else ""


def describe(args: argparse.Namespace, found: Mapping[str, Any]) -> dict[str, Any]:
    """All that is said about a call."""
    flags = [f"--parts={args.parts}"] * bool(args.parts)
    flags += ["--miniature"] * args.miniature
    return {
        **found,
        "slug": results.slug(found["device"]),
        "driver": driver(),
        "code": results.code(),
        "miniature": args.miniature,
        "peak": args.peak,
        "command": " ".join(["python -m benchmarks.accelerator", *flags]),
        "date": datetime.date.today().isoformat(),
    }


def prove(
    made: Sequence[Part],
    todo: Sequence[Part],
    out: Path,
    folder: Path,
    about: Mapping[str, Any],
    start: running.Start,
    seconds: float,
    missing: Mapping[str, str],
) -> list[Row]:
    """Run parts one after the other, and write tables after each.

    Args:
      made: all parts, whose earlier results are in the tables, too.
      todo: those to run.
      out: where the tables are written.
      folder: where numbers are kept.
      about: as `describe` returns it.
      start: starts the process of a side.
      seconds: of all parts together.
      missing: name of parts that cannot be made here -> what they need.

    Returns:
      all rows.
    """
    ends = time.monotonic() + seconds
    rows: list[Row] = []
    for number, part in enumerate(todo):
        left = min(PART_SECONDS, ends - time.monotonic())
        began = time.monotonic()
        if left > 0:
            running.run_part(part, folder, start, left)
        rows = [row for each in made for row in results.rows_of(each, folder)]
        rows += [
            {"part": name, "item": "all", "proves": True, "not run": words}
            for name, words in missing.items()
        ]
        results.write(out, rows)
        results.replace(out / "section.md", section.write(about, rows, CEILINGS))
        own = [row for row in rows if row["part"] == part.name]
        spent = time.monotonic() - began
        title = f"[{number + 1}/{len(todo)}] {part.name}"
        print(f"{title}: {summary(own)}; {spent:.0f} s", flush=True)
    return rows


def summary(rows: Sequence[Row]) -> str:
    """What became of a part, in a line."""
    judged = [row["ok"] for row in rows if "ok" in row]
    words = [f"{sum(judged)} of {len(judged)} right"] if judged else []
    measured = sum("step_seconds" in row or "test_accuracy" in row for row in rows)
    words += [f"{measured} measured"] if measured else []
    for name in ("failed", "not run", "open"):
        given = [row[name] for row in rows if name in row]
        words += [f"{len(given)} {name} ({given[0]})"] if given else []
    return ", ".join(words) or "nothing to do"


def retry(todo: Sequence[Part], folder: Path) -> None:
    """Open what died, or was not run, once more."""
    for part in todo:
        for side in part.sides:
            for item in part.items:
                store.Store(folder, part.name, side).forget(item)


def main(
    arguments: Sequence[str],
    env: Mapping[str, str],
    made: Sequence[Part] | None = None,
    start: running.Start | None = None,
    page: Path = PAGE,
) -> int:
    """Prove what is asked for; return the exit status.

    Args:
      arguments: flags.
      env: the environment of processes.
      made: the parts, instead of all.
      start: starts the process of a side, instead of a new process.
      page: where `--results` puts the section.
    """
    args = parse(arguments)
    missing: Mapping[str, str] = {}
    if made is None:
        made, missing = parts_lib.all_parts(args.miniature)
    try:
        todo = parts_lib.chosen(made, args.parts)
        about = describe(args, look(env))
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    name = about["slug"] + "-miniature" * args.miniature
    out = (args.out or ROOT / "runs" / "accelerator" / name).resolve()
    out.mkdir(parents=True, exist_ok=True)
    folder, changed = results.folder_for(out, about)
    if changed:
        print(f"everything is run again: changed since the last call: {changed}")
    if about["kind"] == "cpu":
        print("no GPU or TPU is here: the CPU is compared with itself")
    if args.retry:
        retry(todo, folder)
    start = start or running.starter(folder, args.miniature, env)
    seconds = 60 * args.minutes
    rows = prove(made, todo, out, folder, about, start, seconds, missing)
    print(f"tables are in {out / 'section.md'}, rows in {out / 'results.jsonl'}")
    if args.results:
        text = (out / "section.md").read_text()
        results.replace(page, section.replaced(page.read_text(), text, about["slug"]))
        print(f"the section is in {page}")
    for row in rows:
        if row.get("ok") is False:
            print(f"wrong: {row['check']}: {row['error']:.3g} > {row['tolerance']:.3g}")
    return results.status(rows)


if __name__ == "__main__":
    inherited = dict(os.environ)
    os.environ["JAX_PLATFORMS"] = "cpu"  # this process leaves the device to others
    sys.exit(main(sys.argv[1:], inherited))
