"""Whole reports of runs from elsewhere, alone and beside lrjax's own."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import fabricated
import numpy as np
import pandas as pd
import pytest
from program import invoke

import lrjax
from lrjax import elsewhere
from lrjax.reports import (
    Options,
    ReportWriter,
    analyses,
    drawing,
    export,
    findings,
    study,
    write,
)

ROOT = Path(__file__).parents[2]
SECTIONS = ("overview", "gap", "scores", "pairs", "profiles", "contributions")


def rows_of(methods=("adamw", "lion", "sgd"), tasks=("mnist", "iris"), seeds=4):
    """A row for each run and epoch of a study that nobody ran."""
    rng = np.random.default_rng(0)
    rows = [
        {
            **{"task": task, "method": method, "seed": seed, "epoch": epoch},
            **{"lr": 0.1 / epoch, "train_loss": 1 / epoch + rng.uniform(0, 0.1)},
            "val_accuracy": 0.9 - 0.5 / epoch - place / 20 + rng.uniform(0, 0.02),
        }
        for task in tasks
        for place, method in enumerate(methods)
        for seed in range(seeds)
        for epoch in range(1, 11)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def table(tmp_path):
    """A tidy CSV file."""
    path = tmp_path / "mine.csv"
    rows_of().to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_every_part_of_a_report(table, tmp_path):
    options = Options(export=("csv", "parquet", "tensorboard"), baseline="sgd")
    lines = write(
        [], tmp_path / "out", options, others=[elsewhere.read(f"csv:{table}")]
    )
    page = (tmp_path / "out/index.html").read_text()
    for name in (*SECTIONS, "curves", "rates", "cost", "targets", "train_loss"):
        assert f'id="{name}"' in page
    assert lines[0].startswith("What: 24 runs: 3 methods on 2 tasks, 4 runs of each")
    assert lines[1].startswith("Best: adamw, with a mean rank of 1.00")
    assert lines[-1] == (
        f"From: csv:{table}: 24 runs; no times; no numbers of examples."
    )
    overall = pd.read_csv(tmp_path / "out/tables/overview.csv")
    assert [*overall["entry"]] == ["adamw", "lion", "sgd"]
    assert (tmp_path / "out/tensorboard/mnist/lion/seed2").is_dir()
    targets = pd.read_csv(tmp_path / "out/tables/targets.csv")
    assert (
        targets["steps"].between(1, 10).sum()
        == len(targets) - targets["steps"].isin([np.inf]).sum()
    )
    bands = pd.read_csv(tmp_path / "out/tables/curves.csv")
    ends = rows_of().query("epoch == 10").groupby(["task", "method"])["val_accuracy"]
    read = bands[bands["epoch"] == 10].set_index(["task", "entry"])["median"]
    np.testing.assert_allclose(read.sort_index(), ends.median().sort_index())


@pytest.mark.parametrize("seeds", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_final_values_alone(tmp_path, seeds):
    path = tmp_path / "mine.csv"
    rows = rows_of(seeds=seeds).query("epoch == 10")
    rows.drop(columns=["epoch", "lr", "train_loss"]).to_csv(path, index=False)
    page = lrjax.report(f"csv:{path}", folder=tmp_path / "out")
    text = page.read_text()
    for name in SECTIONS:
        assert f'id="{name}"' in text
    assert 'id="curves"' not in text
    assert "only final values: there are no curves" in text


@pytest.mark.parametrize("text", ["method,loss\na,1\n", "method,loss\na,nan\n"])
def test_a_single_run(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    assert lrjax.report(f"csv:{tmp_path}/a.csv", folder=tmp_path / "out").exists()


def test_steps_are_not_called_epochs(tmp_path):
    path = tmp_path / "mine.csv"
    rows_of().rename(columns={"epoch": "step"}).to_csv(path, index=False)
    source = elsewhere.read(f"csv:{path}")
    found = study.read_study([], Options(), [source])
    assert found.stepped == {"mnist", "iris"}
    known = dataclasses.replace(found, stepped=frozenset())
    for shown, label in ((found, b"step"), (known, b"epoch")):
        with drawing.style() as plt:
            writer = ReportWriter(plt)
            (curves,) = (a for a in analyses.ANALYSES if a.__name__ == "_curves")
            curves(shown, writer)
        labels = re.findall(rb"\b(step|epoch)\b", writer.contents["figures/curves.svg"])
        assert set(labels) == {label}


def test_beside_runs_of_lrjax(table, tmp_path):
    """One comparison: the same tasks, seeds and protocol, and no word of lengths."""
    methods = ["adam", "prodigy"]
    workdir = fabricated.write(tmp_path / "ours", ["iris", "mnist"], methods, 4)
    source = elsewhere.read(f"csv:{table}")
    both = study.read_study([workdir], Options(), [source])
    assert both.tasks == ["iris", "mnist"]
    assert set(both.comparison.entries) == {"adamw", "lion", "sgd", *methods}
    assert both.comparison.runs == 4
    assert set(both.all_runs["protocol"]) == {"sound"}
    assert set(both.all_runs["steps"]) == {200}
    assert both.curves.groupby("run", observed=True)["part"].max().eq(1).all()
    assert not both.stepped
    said = dict(findings.findings(both, [workdir], [source]))
    assert "as far as is known" in said["Cost"]
    assert "Length" not in said


def test_sources_are_compared_by_what_all_have(tmp_path):
    workdir = fabricated.write(tmp_path / "ours", ["iris"], ["adam"], 2)
    losses = tmp_path / "losses.csv"
    losses.write_text("task,method,seed,val_loss\niris,lion,0,0.5\niris,lion,1,nan\n")
    runs, _ = study.read([workdir], [elsewhere.read(f"csv:{losses}")])
    assert set(runs["ranked_by"]) == {"valid_loss"}
    other = tmp_path / "other.csv"
    other.write_text("task,method,seed,val_f1\niris,lion,0,0.5\n")
    with pytest.raises(lrjax.UsageError, match=r"no metric in common.*has valid_f1"):
        study.read([workdir], [elsewhere.read(f"csv:{other}")])


@pytest.mark.slow
def test_a_page_of_runs_of_all(table, tmp_path):
    workdir = fabricated.write(tmp_path / "ours", ["iris", "dna"], ["adam"], 4)
    page = lrjax.report([workdir, f"csv:{table}"], folder=tmp_path / "out")
    assert f"{workdir}, csv:{table}" in page.read_text()


@pytest.mark.slow
def test_published_results_are_compared(table, tmp_path):
    (tmp_path / "paper.csv").write_text(
        "task,method,metric,mean\nmnist,lion,valid_accuracy,0.81\n"
    )
    page = lrjax.report(
        f"csv:{table}", folder=tmp_path / "out", compare=str(tmp_path / "paper.csv")
    )
    assert 'id="compared"' in page.read_text()


@pytest.mark.slow
def test_the_command(table, tmp_path):
    """Several sources, by commas and by repeating the flag; the report is here."""
    second = tmp_path / "a,b.csv"
    rows_of(methods=("adagrad",)).to_csv(second, index=False)
    command = [sys.executable, "-m", "lrjax", "report"]
    sources = [f"--from=csv:{table},csv:{second}", f"--from=csv:{table}"]
    done = subprocess.run(
        [*command, *sources],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "What: 32 runs: 4 methods on 2 tasks" in done.stdout
    assert done.stdout.endswith("report: report/index.html\n")
    assert (tmp_path / "report/index.html").exists()
    assert "Warning" not in done.stderr


@pytest.mark.parametrize("there", ["nothing", "a report", "a selection"])
def test_a_directory_without_runs_gets_the_report(tmp_path, there):
    place = tmp_path / "new"
    if there != "nothing":
        place.joinpath("report").mkdir(parents=True)
    if there == "a selection":  # which known tasks alone answered
        text = json.dumps([fabricated.answer(cost=0.0)])
        place.joinpath("selection.json").write_text(text)
    (tmp_path / "a.csv").write_text("method,loss\nadam,1\nsgd,2\n")
    source = f"--from=csv:{tmp_path}/a.csv"
    done = invoke("--mode=report", source, f"--workdir={place}")
    assert done.code == 0, done.err
    assert done.out[-1] == f"report: {place}/report/index.html"
    assert any(line.startswith("Best: adam") for line in done.out)
    assert any(line.startswith("Selected") for line in done.out) == (
        there == "a selection"
    )


def test_of_several_directories_each_must_have_runs(tmp_path):
    (tmp_path / "a.csv").write_text("method,loss\nadam,1\nsgd,2\n")
    workdir = fabricated.write(tmp_path / "ours", ["iris"], ["adam"], 2)
    source = f"--from=csv:{tmp_path}/a.csv"
    done = invoke("--mode=report", source, f"--workdir={workdir},{tmp_path}/new")
    assert done.code
    assert done.err[-1].endswith("new holds no results: there is no runs.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report"], "--workdir is missing"),
        (["--config=quickstart", "--from=csv:a"], "--from is for --mode=report"),
        (["report", "--from=csv:none.csv"], "none.csv: No such file or directory"),
        (["report", "--from=cvs:none.csv"], "did you mean 'csv'"),
    ],
)
def test_a_bad_command_is_one_line(tmp_path, arguments, message):
    done = subprocess.run(
        [sys.executable, "-m", "lrjax", *arguments],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "report").exists()


def test_bad_calls_in_python(table, tmp_path):
    with pytest.raises(lrjax.UsageError, match="did you mean 'baseline'"):
        lrjax.report(f"csv:{table}", folder=tmp_path / "out", basline="sgd")
    with pytest.raises(lrjax.UsageError, match="nothing to report"):
        lrjax.report([], folder=tmp_path / "out")
    with pytest.raises(lrjax.UsageError, match="holds no results"):
        lrjax.report(tmp_path, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_that_a_report_exported(tmp_path):
    """Its CSV file of runs is one like those of others."""
    workdir = fabricated.write(
        tmp_path / "ours", ["iris"], ["adam"], 2, rates={"adam": [1, 2]}
    )
    export.csv(*study.read([workdir]), tmp_path)
    runs = elsewhere.read(f"csv:{tmp_path}/runs.csv").runs
    ours = pd.DataFrame(
        map(json.loads, (workdir / "runs.jsonl").read_text().splitlines())
    )
    ours = ours.sort_values(["valid_loss"])
    runs = runs.sort_values(["valid_loss"])
    for name in ("task", "method", "seed", "protocol", "valid_loss", "seconds"):
        assert [*runs[name]] == [*ours[name]]
    rates = [hparams["learning_rate"] for hparams in runs["hparams"]]
    assert rates == [hparams["learning_rate"] for hparams in ours["hparams"]]


@pytest.mark.parametrize(
    ("place", "package"),
    [
        ("wandb:{}", "wandb.proto"),
        ("tensorboard:{}", "tensorboard.backend.event_processing"),
        ("optuna:{}/study.db", "optuna"),
    ],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, place, package):
    for name in ("run-1.wandb", "events.out.tfevents.1", "study.db"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    name = package.partition(".")[0]
    with pytest.raises(lrjax.UsageError, match=f"needs {name}: pip install {name}"):
        elsewhere.read(place.format(tmp_path))
