"""The program as people start it: its answers, its exit codes, what it leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
IRIS = "--config=configs/libsvm.py:iris"


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "main.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


def test_trains_ranks_and_goes_on_where_it_was(tmp_path):
    arguments = (
        IRIS,
        f"--workdir={tmp_path}/run",
        "--config.methods=adam,sgd",
        "--config.seeds=(3,5)",
        "--config.epochs=3",
    )
    first = run(*arguments)
    assert first.returncode == 0, first.stderr
    text = (tmp_path / "run" / "runs.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    assert {(r["method"], r["seed"]) for r in rows} == {
        (m, s) for m in ("adam", "sgd") for s in (3, 5)
    }
    assert "adam" in first.stdout
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["config"]["seeds"] == [3, 5]
    assert config["overrides"]["epochs"] == 3
    again = run(*arguments)
    assert again.returncode == 0
    assert "4 of 4 are done" in again.stderr
    assert again.stdout == first.stdout


def test_lists_methods():
    done = run("--mode=methods")
    assert done.returncode == 0
    assert "prodigyopt" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([IRIS], "--workdir is missing"),
        (["--workdir={tmp}/new"], "--config is missing"),
        ([IRIS, "--workdir={tmp}/new", "--config.methods=adm"], "mean 'adam'"),
        ([IRIS, "--workdir={tmp}/new", "--config.mthods=adam"], "methods"),
        ([IRIS, "--workdir={tmp}/new", "--config.hparams.sgd.b1=0.9"], "b1"),
        ([IRIS, "--workdir={tmp}/new", "--config.epochs=few"], "few"),
        ([IRIS, "--workdir={tmp}/new", "--mode=trian"], "trian"),
        ([IRIS, "--workdir={tmp}/new", "--wokdir=x"], "wokdir"),
        ([IRIS, "--workdir={tmp}/new", "stray"], "stray"),
        (["--config=configs/absent.py", "--workdir={tmp}/new"], "absent.py"),
        (
            ["--config=configs/libsvm.py:irsi", "--workdir={tmp}/new"],
            "did you mean 'libsvm/iris'?",
        ),
        (
            [
                "--config=configs/libsvm.py",
                "--config.tasks=svmlight:{tmp}/absent",
                "--workdir={tmp}/new",
            ],
            "absent",
        ),
        ([IRIS, "--workdir={tmp}/file"], "cannot write to workdir"),
    ],
)
def test_mistakes_get_one_line_and_code_2(tmp_path, arguments, message):
    (tmp_path / "file").write_text("precious")
    done = run(*(a.format(tmp=tmp_path) for a in arguments))
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"
