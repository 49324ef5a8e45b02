r"""Seconds from a command to its answer, with an empty and with a full cache.

  python benchmarks/first_answer.py [--against=CHECKOUT] [--pairs=3] [--cases=own,wine]
      [--json=FILE]

Times whole processes, imports included: `cold` with no compiled program on disk, `warm`
right after. With `--against` another checkout of lrjax, run by the same Python, takes
turns with this one; figures are medians over turns, ratios medians of the turns'
ratios. `cpu` is the processor time of all threads, which other work on the machine
disturbs less. No download is needed.

- own: a user's svmlight file of 846 rows, 18 features and 4 classes; ten methods, ten
  seeds, 100 epochs;
- quickstart: `configs/quickstart.py`;
- mlp: three methods on a CSV of 10,000 rows and 20 features, an MLP of 64 units, three
  seeds and five epochs;
- select: a race of three methods on the same CSV, at a cost of eight full runs;
- import: `import lrjax`; help: `main.py --help`; neither has a cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent.parent


def write_data(folder: Path) -> None:
    """Write an svmlight file and a CSV."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(4, 18))
    with open(folder / "own.svm", "w", encoding="utf-8") as file:
        for row in range(846):
            values = centres[row % 4] + 1.5 * draw.normal(size=18)
            cells = " ".join(f"{i + 1}:{v:.6f}" for i, v in enumerate(values))
            file.write(f"{row % 4} {cells}\n")
    features = draw.normal(size=(10_000, 20))
    target = (features[:, ::2] * features[:, 1::2]).sum(1) + features[:, 12] > 0
    names = [f"x{i}" for i in range(20)]
    rows = [
        ",".join([*(f"{v:.4f}" for v in row), "ab"[label]])
        for row, label in zip(features, target.astype(int), strict=True)
    ]
    text = "\n".join([",".join([*names, "y"]), *rows])
    (folder / "own.csv").write_text(text + "\n", encoding="utf-8")


def cases(folder: Path) -> dict[str, list[str]]:
    """Name -> arguments of Python."""
    table = f"--config.tasks=table:{folder}/own.csv?target=y&hidden=64"
    short = ["--config.seeds=3", "--config.epochs=5", f"--workdir={folder}/run", table]
    methods = "adam,adamw_cosine,prodigy"
    libsvm = "--config=configs/libsvm.py"
    return {
        "own": [
            *("main.py", libsvm, f"--workdir={folder}/run"),
            f"--config.tasks=svmlight:{folder}/own.svm",
        ],
        "quickstart": [
            *("main.py", "--config=configs/quickstart.py", f"--workdir={folder}/run"),
        ],
        "mlp": ["main.py", libsvm, f"--config.methods={methods}", *short],
        "select": [
            *("main.py", "--mode=select", libsvm, f"--config.methods={methods}"),
            *("--config.select.budget=8", *short),
        ],
        "import": ["-c", "import lrjax"],
        "help": ["main.py", "--help"],
    }


def seconds(arguments: Sequence[str], checkout: Path, cache: Path) -> tuple[float, ...]:
    """Wall and processor seconds of a command.

    Raises:
      RuntimeError: if it fails, with the end of what it said.
    """
    environment = {**os.environ, "LRJAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
    )
    wall = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr[-500:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def measured(
    name: str, arguments: Sequence[str], checkouts: Sequence[Path], pairs: int
) -> list[dict[str, Any]]:
    """Rows of one case: cold and warm."""
    found: dict[str, list[list[tuple[float, ...]]]] = {"cold": [], "warm": []}
    for _ in range(pairs):
        turns = []
        for checkout in checkouts:
            with tempfile.TemporaryDirectory() as scratch:
                cache = Path(scratch) / "cache"
                turn = []
                for attempt in found:
                    run = f"--workdir={scratch}/{attempt}"
                    fresh = [run if a.startswith("--workdir") else a for a in arguments]
                    turn.append(seconds(fresh, checkout, cache))
                turns.append(turn)
        for which, key in enumerate(found):
            found[key].append([turn[which] for turn in turns])
    rows = []
    for key, turns in found.items():
        row: dict[str, Any] = {"case": name, "cache": key}
        for kind, column in enumerate(("seconds", "cpu")):
            row[column] = statistics.median(turn[0][kind] for turn in turns)
            if len(checkouts) > 1:
                row[f"{column}_before"] = statistics.median(t[1][kind] for t in turns)
                row[f"{column}_ratio"] = statistics.median(
                    t[0][kind] / t[1][kind] for t in turns
                )
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, help="another checkout of lrjax")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--cases", default="own,quickstart,mlp,select,import,help")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    checkouts = [HERE, *([options.against] if options.against else [])]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        known = cases(Path(folder))
        for name in options.cases.split(","):
            for row in measured(name, known[name], checkouts, options.pairs):
                rows.append(row)
                cells = [f"{row['case']:<11}{row['cache']:<5}"]
                cells += [
                    f"{k} {v:.2f}" for k, v in row.items() if not isinstance(v, str)
                ]
                print("  ".join(cells), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
