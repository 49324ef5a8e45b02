"""The examples run as they say, from a clone in which lrjax is not installed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(*command):
    """Run Python in the repository with nothing added to its path."""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=clean, capture_output=True, text=True
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_an_example_finds_lrjax_and_says_how_to_run_it(path):
    text = path.read_text()
    assert f"python examples/{path.name}\n" in text.split('"""')[1]
    head = text[: re.search(r"^(import|from) lrjax.*\n", text, re.M).end()]
    code = f"__file__ = {str(path)!r}\n{head}\nimport lrjax; print(lrjax.__file__)"
    done = run("-P", "-c", code)  # without the working directory, as for a script
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == ROOT / "lrjax"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_task", "own_method"])
def test_an_example_ends_with_an_answer(name):
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text().splitlines()) < 45
    done = run(f"examples/{name}.py")
    assert done.returncode == 0, done.stderr
    assert "full runs of" in done.stdout
    assert "To train with it" in done.stdout


@pytest.mark.slow
def test_the_example_of_control_ends_with_an_answer():
    done = run("examples/control.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
