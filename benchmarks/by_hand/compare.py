r"""Lines of code and seconds to the first ranking, and to a tuned rate.

  python benchmarks/by_hand/compare.py [--turns=3] [--pytorch=PYTHON] [--json=FILE]

Runs the scripts beside this one as whole processes, with an empty and with a full cache
of compiled programs (JAX's own is on for all). Lines are those that are neither empty
nor comments nor docstrings. `tuning_with_optuna.py` needs `pip install optuna`, and
`with_pytorch.py` an interpreter that has PyTorch and prodigyopt, as --pytorch.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTORCH, OPTUNA = "with_pytorch", "tuning_with_optuna"
SCRIPTS = ("with_lrjax", "with_optax", PYTORCH, "tuning_with_lrjax", OPTUNA)


def lines_of(path: Path) -> int:
    """Lines of code of a script."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = tree.body[1:]  # without the docstring
    return len([line for line in ast.unparse(tree).splitlines() if line.strip()])


def seconds(python: str, path: Path, cache: str) -> float:
    """Seconds of a script by an interpreter, with a folder of compiled programs.

    Raises:
      RuntimeError: if it fails.
    """
    of_jax = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    settings = {
        **({"LRJAX_CACHE": cache} if "lrjax" in path.name else of_jax),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(HERE.parent.parent),
    }
    began = time.perf_counter()
    done = subprocess.run(
        [python, str(path)],
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{path.name}: {done.stderr[-500:]}")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--pytorch", help="an interpreter that has PyTorch")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pythons = dict.fromkeys(SCRIPTS, sys.executable) | {PYTORCH: options.pytorch}
    if not importlib.util.find_spec("optuna"):
        del pythons[OPTUNA]
    pythons = {script: python for script, python in pythons.items() if python}
    times: dict[str, list[tuple[float, float]]] = {script: [] for script in pythons}
    for _ in range(options.turns):
        for script, python in pythons.items():
            with tempfile.TemporaryDirectory() as cache:
                path = HERE / f"{script}.py"
                turn = seconds(python, path, cache), seconds(python, path, cache)
                times[script].append(turn)
    rows = []
    for script, turns in times.items():
        cold, warm = (statistics.median(column) for column in zip(*turns, strict=True))
        lines = lines_of(HERE / f"{script}.py")
        rows.append({"script": script, "lines": lines, "cold": cold, "warm": warm})
        print(f"{script:20} {lines:3} lines  cold {cold:6.1f} s  warm {warm:6.1f} s")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
