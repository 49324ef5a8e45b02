"""Large studies: how much memory a report takes, and how large it is."""

import os
import subprocess
import sys
from pathlib import Path

import fabricated
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
MEASURED = """
import resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print("peak KiB and seconds:", peak, time.perf_counter() - start)
sys.exit(done.returncode)
"""


@pytest.mark.parametrize("epochs", [100, 1112])
def test_the_nine_data_sets_with_up_to_a_million_rows(tmp_path, epochs):
    """900 runs; at most 2 GB and 5 MB. Run with -s to see the time."""
    study = (fabricated.LIBSVM, fabricated.METHODS, 10)
    dead = [("libsvm/dna", "dowg", seed) for seed in range(3)]
    fabricated.write(tmp_path, *study, epochs=epochs, diverged=dead)
    command = [sys.executable, "main.py", "--mode=report", f"--workdir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[-1]
    print(f"{epochs} epochs: {line}")
    assert int(line.split()[4]) * 1024 < 2e9
    assert (tmp_path / "report" / "index.html").stat().st_size < 5e6
