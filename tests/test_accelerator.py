"""`make accelerator` in miniature, so that its first use on a GPU is not its first."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accelerator import __main__ as command
from benchmarks.accelerator import (
    child,
    compare,
    evidence,
    parts,
    results,
    running,
    section,
)
from benchmarks.accelerator.core import (
    CPU,
    DEVICE,
    NotRunError,
    Part,
    check,
)

ROOT = Path(__file__).parent.parent
ABOUT = {
    "device": "Cardboard H100",
    "slug": "cardboard-h100",
    "kind": "gpu",
    "count": 1,
    "platform": "cuda 12",
    "driver": "1.2",
    "python": "3.12",
    "versions": {"jax": "1"},
    "code": "abc",
    "miniature": True,
    "peak": None,
    "command": "make",
    "date": "2026-01-01",
}


class Done:
    """A process that has ended well."""

    def __init__(self, status=0):
        self._status = status

    def poll(self):
        return self._status

    def kill(self):
        pass

    def wait(self):
        return self._status


def here(folder, jobs=None):
    """Work in this process, instead of one for each side."""

    def start(part, side):
        if jobs is not None:
            jobs.append((part.name, side))
        child.work(part, side, folder)
        return Done()

    return start


def two_numbers(item, folder):
    return {"found": np.float32(len(item)), "seconds": np.float64(0.5)}


def same(item, sides):
    numbers = [float(side["found"]) for side in sides.values()]
    return [check(item, max(numbers) - min(numbers), 1e-6)]


TOY = Part("toy", ("a", "bc", "def"), two_numbers, same, (DEVICE, CPU))


def prove(todo, tmp_path, start=None):
    """Run parts in this process; return rows, exit status and the section."""
    folder = tmp_path / "numbers"
    folder.mkdir(exist_ok=True)
    start = start or here(folder)
    rows = command.prove(todo, todo, tmp_path, folder, ABOUT, start, 60.0, {})
    return rows, results.status(rows), (tmp_path / "section.md").read_text()


def told(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    "name", ["golden-quadratic", "golden64-quadratic", "population"]
)
def test_each_part_in_miniature(name, tmp_path):
    (part,) = parts.chosen(parts.all_parts(miniature=True)[0], name)
    part = dataclasses.replace(part, items=part.items[:1])
    rows, status, page = prove([part], tmp_path)
    assert rows
    assert all(row["ok"] for row in rows), rows
    assert status == 0
    assert f"| {part.name} | {len(rows)} of {len(rows)} |" in page
    assert told(tmp_path / "results.jsonl") == rows


def test_a_perturbed_number_fails(tmp_path):
    (part,) = parts.chosen(parts.all_parts(miniature=True)[0], "golden-quadratic")

    def perturbed(item, sides):
        device = {
            name: 1.01 * value if name.startswith("found") else value
            for name, value in sides[DEVICE].items()
        }
        return part.judge(item, {**sides, DEVICE: device})

    rows, status, page = prove([dataclasses.replace(part, judge=perturbed)], tmp_path)
    assert status == 1
    assert not all(row["ok"] for row in rows)
    assert "**fails**" in page


def test_main_returns_one_for_a_wrong_number(tmp_path, capsys):
    def wrong(item, sides):
        return [check(item, 2.0, 1.0)]

    page = tmp_path / "RESULTS.md"
    page.write_text("# Figures\n")
    made = [dataclasses.replace(TOY, judge=wrong)]

    def start(part, side):
        (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
        return here(folder)(part, side)

    flags = [f"--out={tmp_path / 'out'}", "--results", "--miniature"]
    assert command.main(flags, os.environ, made, start, page) == 1
    assert "wrong: def: 2 > 1" in capsys.readouterr().out
    assert page.read_text().startswith("# Figures\n\n<!-- accelerator: cpu -->\n## cpu")
    assert command.main([*flags, "--parts=nothing"], os.environ, made, start, page) == 2


def test_what_dies_is_told_and_stops_nothing(tmp_path):
    def dying(item, folder):
        if item == "bc":
            raise MemoryError("RESOURCE_EXHAUSTED: out of memory")
        if item == "def":
            raise ModuleNotFoundError("No module named 'flux'", name="flux")
        return two_numbers(item, folder)

    todo = [dataclasses.replace(TOY, compute=dying), dataclasses.replace(TOY, name="b")]
    rows, status, page = prove(todo, tmp_path)
    assert [row.get("ok") for row in rows] == [True, None, None, True, True, True]
    assert "toy, bc: failed: MemoryError: RESOURCE_EXHAUSTED: out of memory" in page
    assert "toy, def: not run: needs flux" in page
    assert status == 1
    todo = [dataclasses.replace(part, proves=False) for part in todo]
    assert prove(todo, tmp_path)[1] == 0  # out of memory is a result


def test_finished_items_are_not_computed_again(tmp_path):
    rows, _, page = prove([TOY], tmp_path)
    jobs = []
    assert prove([TOY], tmp_path, here(tmp_path / "numbers", jobs)) == (rows, 0, page)
    assert jobs == []
    more = dataclasses.replace(TOY, items=(*TOY.items, "new"))
    assert len(prove([more], tmp_path, here(tmp_path / "numbers", jobs))[0]) == 4
    assert jobs == [("toy", DEVICE), ("toy", CPU)]


class Real:
    """Starts processes that compute the items of a part, each in some seconds."""

    CODE = """
import os, sys, time
from pathlib import Path
import numpy as np
from benchmarks.accelerator import child
from benchmarks.accelerator.core import Part

def compute(item, folder):
    if item == "bc" and sys.argv[4] == "die":
        os.kill(os.getpid(), 9)
    time.sleep(float(sys.argv[4]) if item == "bc" and sys.argv[4] != "die" else 0)
    return {"found": np.float32(len(item)), "seconds": np.float64(0.5)}

part = Part("toy", ("a", "bc", "def"), compute, None, ("device", "cpu"))
child.work(part, sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
"""

    def __init__(self, folder, how):
        self.folder, self.how = folder, how

    def __call__(self, part, side):
        words = [side, str(self.folder), str(os.getpid()), self.how]
        return subprocess.Popen([sys.executable, "-c", self.CODE, *words], cwd=ROOT)


def test_a_process_that_is_killed_is_told_and_the_others_go_on(tmp_path):
    folder = tmp_path / "numbers"
    rows, status, page = prove([TOY], tmp_path, Real(folder, "die"))
    assert "toy, bc: failed: its process ended with signal 9" in page
    assert [row.get("ok") for row in rows if "check" in row] == [True, True]
    assert status == 1
    command.retry([TOY], folder)
    rows, status, _ = prove([TOY], tmp_path, Real(folder, "0"))
    assert ([row.get("ok") for row in rows], status) == ([True] * 3, 0)


@pytest.mark.slow
def test_a_part_without_time_goes_on_later(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    whole = prove([TOY], other)[2]
    folder = tmp_path / "numbers"
    folder.mkdir()
    running.run_part(TOY, folder, Real(folder, "60"), 3.0)
    begun = [row for row in results.rows_of(TOY, folder) if "open" not in row]
    assert [row["item"] for row in begun] == ["a"]
    assert prove([TOY], tmp_path, Real(folder, "0"))[2] == whole


@pytest.mark.slow
def test_an_item_that_takes_all_the_time_is_given_up(tmp_path):
    part = dataclasses.replace(TOY, items=("bc", "def"))
    running.run_part(part, tmp_path, Real(tmp_path, "60"), 4.0)
    running.run_part(part, tmp_path, Real(tmp_path, "60"), 4.0)
    rows = results.rows_of(part, tmp_path)
    assert any("took more than 4 s" in row.get("failed", "") for row in rows)


def test_other_code_starts_anew_and_says_so(tmp_path):
    first, changed = results.folder_for(tmp_path, ABOUT)
    assert changed == []
    assert results.folder_for(tmp_path, ABOUT) == (first, [])
    second, changed = results.folder_for(tmp_path, ABOUT | {"code": "other"})
    assert (second != first, changed) == (True, ["code"])
    assert results.folder_for(tmp_path, ABOUT) == (first, ["code"])


def test_a_section_replaces_that_of_the_same_device():
    rows = [{"part": "p", "item": "i", "proves": True, **check("c", 0.5, 1.0)}]
    made = section.write(ABOUT, rows, Path("missing.json"))
    page = section.replaced("# Figures\n", made, ABOUT["slug"])
    page += "\n## Next\n"
    other = section.write(ABOUT | {"code": "new"}, rows, Path("missing.json"))
    again = section.replaced(page, other, ABOUT["slug"])
    assert again.count("## Cardboard H100") == 1
    assert "code new" in again
    assert again.endswith("\n## Next\n")
    assert section.replaced(again, made, ABOUT["slug"]) == page


def test_throughput_stands_beside_its_ceiling(tmp_path):
    ceilings = tmp_path / "ceilings.json"
    row = {"device": "h100", "task": "a/b", "runs": 8, "precision": "bfloat16"}
    ceilings.write_text(json.dumps({"rows": [row | {"examples_per_s": 2000.0}]}))
    measured = {
        **{"part": "speed", "item": "i", "proves": False, "task": "a/b", "runs": 8},
        **{"precision": "bfloat16", "step_seconds": 0.5, "examples_per_s": 1000.0},
        **{"tokens_per_s": 0.0, "flops_per_s": 98.9e12},
    }
    page = section.write(ABOUT, [measured], ceilings)
    assert "| 1,000 |  | 98.9 | 10.0% | 2,000 | 50% |" in page
    page = section.write(ABOUT | {"device": "Cardboard"}, [measured], ceilings)
    assert "| 1,000 |  | 98.9 |  |  |  |" in page


@pytest.mark.parametrize(
    ("found", "expected", "far"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.2], [1.0, 2.0], 0.1),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([1.0], [1.0, 2.0], np.inf),
    ],
)
def test_deviation(found, expected, far):
    assert compare.deviation(np.array(found), np.array(expected)) == pytest.approx(far)


def test_what_would_not_fit_is_left_out(tmp_path):
    before = tmp_path / "seconds.json"
    before.write_text(json.dumps({"epochs": 4, "seconds": 100.0}))
    evidence.check_time(before, "a task", 15)
    with pytest.raises(NotRunError, match="60 epochs of a task would take 1500 s"):
        evidence.check_time(before, "a task", 60)


COMMAND = [sys.executable, "-m", "benchmarks.accelerator", "--miniature"]


@pytest.mark.slow
def test_the_whole_miniature_killed_in_the_middle(tmp_path):
    """All parts in processes of their own; killed, called again, to the same table."""
    flags = [f"--out={tmp_path}"]
    process = subprocess.Popen([*COMMAND, *flags], cwd=ROOT, stdout=subprocess.PIPE)
    line = process.stdout.readline()  # what it says about the CPU
    while b"libsvm" not in line:
        line = process.stdout.readline()
    process.kill()
    process.wait()
    process.stdout.close()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert kept
    done = subprocess.run([*COMMAND, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for path, modified in kept.items():
        assert path.stat().st_mtime_ns == modified
    rows = told(tmp_path / "results.jsonl")
    asked = {part.name for part in parts.all_parts(miniature=True)[0]}
    assert {row["part"] for row in rows} == asked
    assert all("failed" not in row and "open" not in row for row in rows)
    page = (tmp_path / "section.md").read_text()
    again = subprocess.run([*COMMAND, *flags], cwd=ROOT, capture_output=True, text=True)
    assert (again.returncode, (tmp_path / "section.md").read_text()) == (0, page)
