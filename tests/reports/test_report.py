"""The report as a whole, from tables that nobody trained for."""

import dataclasses
import filecmp
import functools
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import fabricated
import numpy as np
import pandas as pd
import pytest

from lrjax import reports, results
from lrjax.core import UsageError
from lrjax.hpo.judged import Judged
from lrjax.hpo.selection import Selection
from lrjax.reports import analyses, drawing, page
from lrjax.reports import published as published_lib
from lrjax.reports.palette import Palette
from lrjax.tables import frames

ROOT = Path(__file__).parent.parent.parent
TASKS = fabricated.LIBSVM[:3]
QUICK = {"bootstrap": 50}


def write(workdirs, folder, **options):
    return reports.write(workdirs, folder, reports.Options(**QUICK | options))


def table(folder, name):
    return pd.read_csv(folder / "tables" / f"{name}.csv")


def sections(folder):
    html = (folder / "index.html").read_text()
    return re.findall(r'<section id="(\w+)"', html)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A working directory with all that a report may find."""
    workdir = tmp_path_factory.mktemp("study") / "run"
    methods = ("adam", "momentum", "prodigy", "cocob", "smac:adam")
    return fabricated.write(
        workdir,
        TASKS,
        methods,
        5,
        rates={"adam": (1e-4, 1e-3, 1e-2)},
        diverged=[(TASKS[0], "momentum", s) for s in (0, 1, 2)],
        missing=[(TASKS[1], "prodigy", 4)],
        trials=fabricated.trials(TASKS, "adam"),
        config={
            "config": {"tasks": [*TASKS, "libsvm/usps"], "methods": list(methods)},
            "versions": {"jax": "0.10.2"},
            "git_revision": "0123456789abcdef",
        },
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "published.csv"
    rows = [
        "task,method,metric,mean,std_error",
        f"{TASKS[0]},prodigy,valid_loss,0.5,0.1",
        f"{TASKS[0]},adam learning_rate=0.001,valid_loss,0.5,",
        f"{TASKS[1]},momentum,test_accuracy,0.7,0.01",
        f"{TASKS[1]},nobody,test_accuracy,0.7,0.01",
        f"{TASKS[0]},momentum,valid_loss,0.5,0.1",  # most of its runs diverged
    ]
    path.write_text("\n".join(rows))
    return path


@pytest.fixture(scope="module")
def written(study, published, tmp_path_factory):
    """The report of that directory, with every option; its folder and its findings."""
    folder = tmp_path_factory.mktemp("report") / "out"
    options = {"compare": str(published), "export": ("csv", "parquet", "tensorboard")}
    return folder, write([study], folder, smooth=0.3, **options)


@pytest.fixture
def sketched(monkeypatch):
    """Draw figures as the page of a running study: as SVG alone, not laid out."""
    style = functools.partial(drawing.style, laid_out=False)
    writer = functools.partial(reports.ReportWriter, kinds=("svg",))
    monkeypatch.setattr(drawing, "style", style)
    monkeypatch.setattr(reports, "ReportWriter", writer)


def test_every_analysis_has_its_files(written):
    folder, _ = written
    found = sections(folder)
    assert found == [
        *("findings", "overview", "gap", "curves", "rates", "scores", "pairs"),
        *("critical_difference", "against", "profiles", "grid", "contributions"),
        *("cost", "targets", "fidelity", "tuning", "train_loss", "compared", "notes"),
    ]
    for name in set(found) - {"findings", "notes"}:
        assert len(table(folder, name))
    for name in set(found) - {"findings", "notes", "targets"}:
        png = (folder / "figures" / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        svg = (folder / "figures" / f"{name}.svg").read_text()
        assert svg.startswith("<?xml")
    html = (folder / "index.html").read_text()
    linked = set(re.findall(r'<p class="files">(.*?)</p>', html))
    paths = re.findall(r'href="([^"]+)"', "".join(linked))
    assert len(paths) > 40
    assert all((folder / path).is_file() for path in paths)


def test_the_page_loads_nothing_and_runs_nothing_from_elsewhere(written):
    html = (written[0] / "index.html").read_text()
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", html)
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    assert "default-src 'none'" in html
    assert not re.findall(r'\bid="([^"]+)"(?=.*\bid="\1")', html, re.DOTALL)


def test_findings_come_from_the_tables(study, written):
    said = dict(line.split(": ", 1) for line in written[1])
    runs, _ = results.load(study)
    assert said["What"].startswith(f"{len(runs)} runs: 5 methods in 7 settings on 3 ")
    assert said["Best"].startswith("prodigy, with a mean rank of 1")
    # Momentum's few survivors on iris are better, but few.
    assert re.search(r"prodigy on [^;]*libsvm/iris", said["Where"])
    assert said["Diverged"] == "3 of 104 runs: momentum on libsvm/iris (3 of 5)."
    seconds, examples = runs["seconds"].sum(), runs["examples"].sum() / 1e6
    assert f"{seconds:.3g} s" in said["Cost"]
    assert f"{examples:.3g} million" in said["Cost"]
    assert "up to 7.22 full runs" in said["Cost"]  # 20 x 0.111 + 5
    assert "without a finished run: libsvm/usps" in said["Missing"]
    assert "1 run that another entry has" in said["Missing"]
    text = (written[0] / "index.html").read_text()
    for sentence in said.values():
        assert sentence in text


def test_gaps_are_differences_of_means(study, written):
    runs, _ = results.load(study)
    done = runs[(runs["status"] == "done") & (runs["method"] != "adam")]
    means = 100 * done.groupby(["method", "task"])["valid_accuracy"].mean().unstack()
    means.loc["momentum", TASKS[0]] = np.nan  # most of its runs diverged
    found = table(written[0], "gap").set_index("entry")
    expected = means.max() - means
    for method in ("prodigy", "cocob", "smac:adam", "momentum"):
        for task in TASKS:
            np.testing.assert_allclose(
                found.loc[method, task], expected.loc[method, task], atol=1e-9
            )
    whole = found["mean_gap"].dropna()
    assert whole.is_monotonic_increasing
    assert whole["prodigy"] == pytest.approx(found.loc["prodigy", list(TASKS)].mean())
    assert "momentum" not in whole


def test_a_grid_shows_loss_over_rates(study, written):
    runs, curves = results.load(study)
    found = table(written[0], "grid")
    adam = runs[runs["method"] == "adam"]
    rates = adam["hparams"].map(lambda h: h["learning_rate"])
    expected = adam.groupby([adam["task"], rates])["valid_loss"].median()
    np.testing.assert_allclose(found["median"], expected)
    assert set(found["method"]) == {"adam"}
    html = (written[0] / "index.html").read_text()
    assert "Best rate of the grid: 0.001 (adam) on libsvm/iris" in html
    assert "prodigy (settled)" in html
    assert "cocob (settled)" not in html  # it has no single rate
    assert curves["learning_rate"].notna().any()


def test_tuning_is_drawn_from_trials(written):
    found = table(written[0], "tuning")
    assert set(found["method"]) == {"smac:adam"}  # what became of them
    for _, part in found.groupby("task"):
        assert part["spent"].iloc[-1] == pytest.approx(20 * 0.111 + 5)
        full = part["best"].dropna()
        assert len(full) == 5
        assert full.is_monotonic_decreasing
        assert full.iloc[-1] == part["value"].tail(5).min()
    cost = table(written[0], "cost").set_index("entry")["tuning_full_runs"]
    assert cost["smac:adam"] == pytest.approx(20 * 0.111 + 5)
    assert cost["prodigy"] == 0


@pytest.mark.usefixtures("one_figure")
def test_each_tuning_belongs_to_what_it_found(tmp_path):
    """Two seeds of one tuner, and another tuner whose best setting never ran."""
    rows = fabricated.trials(TASKS[:1], "adam")
    tunings = [("smac", 0, 1.0), ("smac", 1, 2.0), ("asha", 0, 3.0)]
    trials = [
        row | {"tuner": tuner, "seed": seed, "cost": cost, "tuning": f"{tuner}{seed}"}
        for tuner, seed, cost in tunings
        for row in rows
    ]
    # At the full length nothing but a penalty.
    trials += [row | {"task": "t", "status": "crashed", "tuning": "x"} for row in rows]
    names = ("smac:adam", "smac.1:adam", "sgd")
    fabricated.write(tmp_path, TASKS[:1], names, 2, trials=trials)
    write([tmp_path], tmp_path / "report")
    found = table(tmp_path / "report", "tuning")
    assert found.loc[found["task"] == "t", "best"].isna().all()
    best = found.groupby("method")["best"].min()
    assert best.to_dict() == {"smac:adam": 1.0, "smac.1:adam": 2.0, "adam": 3.0}
    cost = table(tmp_path / "report", "cost").set_index("entry")["tuning_full_runs"]
    assert cost["smac:adam"] == cost["smac.1:adam"] > cost["sgd"] == 0


@pytest.mark.usefixtures("one_figure")
def test_runs_of_another_length_are_named(tmp_path):
    folders = [tmp_path / "long", tmp_path / "short"]
    for folder, method in zip(folders, ("adam", "sgd"), strict=True):
        fabricated.write(folder, TASKS[:1], (method,), 2)
    path = folders[1] / "runs.jsonl"
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    fabricated.lines(path, [row | {"steps": row["steps"] // 2} for row in rows])
    said = write(folders, tmp_path / "report")
    steps = rows[0]["steps"]
    short = f"sgd on {TASKS[0]}: {steps // 2:,} of {steps:,} updates."
    assert f"Length: not all trained for as long as others: {short}" in said
    said = write(folders[:1], tmp_path / "report")
    assert not any(line.startswith("Length") for line in said)


@pytest.mark.usefixtures("one_figure")
def test_a_tuning_cut_short_counts_by_its_full_budget(tmp_path):
    rows = fabricated.trials(TASKS[:1], "adam")[:20]
    rows = [row | {"max_budget": 100, "tuned_by": "valid_accuracy"} for row in rows]
    fabricated.write(tmp_path, TASKS[:1], ("smac:adam",), 2, trials=rows)
    write([tmp_path], tmp_path / "report")
    found = table(tmp_path / "report", "tuning")
    assert found["spent"].iloc[-1] == pytest.approx(20 * 0.111)
    assert found["best"].isna().all()
    assert set(found["tuned_by"]) == {"valid_accuracy"}
    assert found["value"].dropna().lt(0).all()  # the costs were above 0
    cost = table(tmp_path / "report", "cost").set_index("entry")["tuning_full_runs"]
    assert cost["smac:adam"] == pytest.approx(20 * 0.111)
    html = (tmp_path / "report" / "index.html").read_text()
    assert "No trial had the full budget yet." in html


@pytest.mark.usefixtures("one_figure")
def test_two_tunings_of_a_method_are_two_trajectories(tmp_path):
    rows = fabricated.trials(TASKS[:1], "adam")
    both = [row | {"tuning": name} for name in "xy" for row in rows]
    config = {"config": {"methods": ["adam"]}}
    fabricated.write(tmp_path, TASKS[:1], ("smac:adam",), 2, trials=both, config=config)
    said = write([tmp_path], tmp_path / "report")
    found = table(tmp_path / "report", "tuning")
    assert list(found.groupby("tuning").size()) == [25, 25]
    assert found["spent"].max() == pytest.approx(20 * 0.111 + 5)
    assert "Missing: nothing." in said  # adam ran as smac:adam


def test_published_values_stand_beside_ours(study, written):
    runs, _ = results.load(study)
    found = table(written[0], "compared")
    lost = (found["entry"] == "momentum") & (found["task"] == TASKS[0])
    assert found.loc[lost, ["ours", "ours_error", "errors_apart"]].isna().all(axis=None)
    found = found[~lost].set_index("entry")
    mine = runs[(runs["task"] == TASKS[0]) & (runs["method"] == "prodigy")]
    error = mine["valid_loss"].std() / np.sqrt(len(mine))
    row = found.loc["prodigy"]
    assert row["ours"] == pytest.approx(mine["valid_loss"].mean())
    assert row["ours_error"] == pytest.approx(error)
    expected = (row["ours"] - 0.5) / np.hypot(error, 0.1)
    assert row["errors_apart"] == pytest.approx(expected)
    assert np.isnan(found.loc["adam learning_rate=0.001", "errors_apart"])
    assert len(found) == 3
    assert "4 of 5 published values" in (written[0] / "index.html").read_text()


def test_published_names_may_be_words_for_what_is_missing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "task,method,metric,mean,std_error\nNA,None,valid_loss,1,NA\nnull,a,b,2,0.5\n"
    )
    found = published_lib.read(str(path))
    assert found[["task", "method"]].values.tolist() == [["NA", "None"], ["null", "a"]]
    assert found["mean"].tolist() == [1.0, 2.0]
    assert found["std_error"].isna().tolist() == [True, False]


def test_csv_and_parquet_hold_the_tables(study, written):
    runs, curves = frames.raw(study)
    found = pd.read_csv(written[0] / "csv" / "curves.csv")
    pd.testing.assert_frame_equal(found, curves)
    found = pd.read_csv(written[0] / "csv" / "runs.csv").set_index("run_id")
    run = runs.set_index("run_id").iloc[7]
    assert json.loads(found.loc[run.name, "hparams"]) == run["hparams"]
    assert found.loc[run.name, "valid_loss"] == run["valid_loss"]
    found = pd.read_parquet(written[0] / "parquet" / "runs.parquet")
    assert set(found["run_id"]) == set(runs["run_id"])
    assert json.loads(found["hparams"][0])["learning_rate"] > 0
    found = pd.read_parquet(written[0] / "parquet" / "curves.parquet")
    pd.testing.assert_frame_equal(found, curves)


def test_event_files_hold_the_curves(study, written):
    from tensorboardX.proto import event_pb2

    runs, curves = results.load(study)
    (file,) = (written[0] / "tensorboard" / "libsvm-wine" / "cocob" / "seed2").iterdir()
    content, place, scalars = file.read_bytes(), 0, {}
    while place < len(content):  # length, checksum, event, checksum
        (length,) = struct.unpack_from("<Q", content, place)
        event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
        place += 16 + length
        for value in event.summary.value:
            scalars[value.tag, event.step] = value.simple_value
    run = runs[(runs["task"] == TASKS[1]) & (runs["method"] == "cocob")]
    run_id = run.set_index("seed").loc[2, "run_id"]
    for row in curves[curves["run_id"] == run_id].to_dict("records"):
        for name in ("valid_loss", "valid_accuracy", "train_loss"):
            assert scalars[name, row["step"]] == pytest.approx(row[name], rel=1e-6)
        assert ("learning_rate", row["step"]) not in scalars  # null in the table


@pytest.mark.slow
def test_the_same_tables_give_the_same_bytes(study, tmp_path):
    write([study], tmp_path / "a")
    command = [sys.executable, "main.py", "--mode=report", f"--workdir={study}"]
    command += [f"--config.report.folder={tmp_path}/b", "--config.report.bootstrap=50"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONHASHSEED": "7"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("What: 104 runs")
    assert done.stdout.endswith(f"report: {tmp_path}/b/index.html\n")
    assert not done.stderr
    for folder in ("", "figures", "tables"):
        compared = filecmp.dircmp(tmp_path / "a" / folder, tmp_path / "b" / folder)
        assert not compared.left_only + compared.right_only
        names = compared.common_files
        same, *_ = filecmp.cmpfiles(compared.left, compared.right, names, False)
        assert sorted(same) == sorted(names)


# What is not as it should be


@pytest.mark.usefixtures("sketched")
def test_only_diverged_runs(tmp_path):
    dead = [(task, m, s) for task in TASKS for m in ("sgd", "adam") for s in range(2)]
    workdir = fabricated.write(tmp_path, TASKS, ("sgd", "adam"), 2, diverged=dead)
    said = write([workdir], tmp_path / "report")
    assert "Best: none: every run diverged." in said
    assert any(line.startswith("Diverged: 12 of 12 runs") for line in said)
    assert len(table(tmp_path / "report", "overview")) == 2


@pytest.mark.usefixtures("sketched")
def test_one_seed(tmp_path):
    workdir = fabricated.write(tmp_path, TASKS, ("sgd", "adam", "prodigy"), 1)
    said = write([workdir], tmp_path / "report")
    assert "How sure: one run of each: there are no intervals, and ranks may be" in (
        "".join(said)
    )
    assert table(tmp_path / "report", "overview")["rank_low"].isna().all()
    html = (tmp_path / "report" / "index.html").read_text()
    assert "no difference could have been called a win or a loss" in html


@pytest.mark.usefixtures("sketched")
def test_entries_of_one_rank_are_level(tmp_path):
    """No finding calls one of two alike better than the other."""
    workdir = fabricated.write(tmp_path / "run", TASKS[:1], ("adam", "sgd"), 2)
    rows = [json.loads(r) for r in (workdir / results.RUNS).read_text().splitlines()]
    for row in rows:  # each wins once
        won = row["seed"] == (row["method"] == "sgd")
        row |= {"valid_accuracy": 0.9 if won else 0.8}
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (workdir / results.RUNS).write_text(text)
    (best,) = [s for s in write([workdir], tmp_path / "out") if s.startswith("Best")]
    assert best == "Best: adam, with a mean rank of 1.50, level with sgd."
    html = (tmp_path / "out" / "index.html").read_text()
    assert "adam and sgd have the best mean rank, 1.50 of 2." in html
    assert "adam and sgd are nearest to the best on average: 0 points behind." in html


@pytest.mark.usefixtures("sketched")
def test_runs_that_not_all_have_are_said_to_be_left_out(tmp_path):
    lost = [(TASKS[0], "sgd", 2)]
    workdir = fabricated.write(tmp_path, TASKS[:1], ("adam", "sgd"), 3, missing=lost)
    lines = write([workdir], tmp_path / "report")
    said = dict(line.split(": ", 1) for line in lines)
    assert "by the first 2 runs of each" in said["Best"]
    assert said["Where"].startswith("best mean over all runs: ")
    assert "1 run that another entry has" in said["Missing"]
    raced = [(TASKS[0], "race:sgd", 2)]
    methods = ("race:adam", "race:sgd")
    workdir = fabricated.write(tmp_path / "race", TASKS[:1], methods, 3, missing=raced)
    assert "Missing: nothing." in write([workdir], tmp_path / "page")


@pytest.mark.usefixtures("sketched")
def test_one_method(tmp_path):
    workdir = fabricated.write(tmp_path, TASKS, ("sgd",), 3)
    said = write([workdir], tmp_path / "report")
    assert "How sure: one entry alone cannot be compared." in said
    assert "pairs" not in sections(tmp_path / "report")


@pytest.mark.usefixtures("one_figure")
def test_a_task_whose_name_ends_like_a_protocols_is_not_missing(tmp_path):
    name = "svmlight:/a/my $a$ (set).svm"
    asked = {"config": {"tasks": [name], "methods": ["sgd", "adam"]}}
    workdir = fabricated.write(tmp_path, [name], ("sgd", "adam"), 3, config=asked)
    said = write([workdir], tmp_path / "report")
    assert "Missing: nothing." in said


@pytest.mark.usefixtures("sketched")
def test_heat_maps_of_many_entries_stop_and_their_tables_do_not(tmp_path, monkeypatch):
    """Cells grow with the square of the entries: 300 took six minutes to draw."""
    monkeypatch.setattr(analyses, "_MOST_ROWS", 3)
    methods = ("sgd", "adam", "prodigy", "cocob", "dog")
    workdir = fabricated.write(tmp_path, TASKS[:1], methods, 2)
    write([workdir], folder := tmp_path / "report")
    html = (folder / "index.html").read_text()
    assert html.count("The first 3 of 5 are drawn.") == 2
    assert len(table(folder, "gap")) == 5
    assert len(table(folder, "pairs")) == 5 * 4


@pytest.mark.usefixtures("sketched")
def test_one_task_without_curves(tmp_path):
    workdir = fabricated.write(tmp_path, TASKS[:1], ("sgd", "adam"), 3)
    (workdir / "curves.jsonl").write_text("")
    said = write([workdir], tmp_path / "report")
    assert any("one task says nothing about others" in line for line in said)
    found = sections(tmp_path / "report")
    assert not {"curves", "rates", "targets", "critical_difference"} & set(found)
    assert {"grid", "tuning", "compared"}.isdisjoint(found)


@pytest.mark.usefixtures("sketched")
def test_no_two_methods_have_a_run_in_common(tmp_path):
    runs, curves = fabricated.runs_and_curves(TASKS, ("sgd", "adam"), 1)
    apart = [r for r in runs if (r["method"] == "sgd") == (r["task"] == TASKS[0])]
    fabricated.lines(tmp_path / "runs.jsonl", apart)
    fabricated.lines(tmp_path / "curves.jsonl", curves)
    said = write([tmp_path], tmp_path / "report")
    assert any("too incomplete to compare" in line for line in said)


@pytest.mark.usefixtures("one_figure")
def test_perplexities_and_other_protocols(tmp_path):
    a = fabricated.write(tmp_path / "a", ("text",), ("sgd", "adam"), 3, metric="loss")
    b = fabricated.write(
        tmp_path / "b", ("book",), ("sgd", "adam"), 3, metric="perplexity"
    )
    said = write([a, b], tmp_path / "report")
    assert "judged by validation loss and validation perplexity" in said[0]
    runs, _ = results.load(b)
    found = table(tmp_path / "report", "gap").set_index("entry")
    means = runs.groupby("method")["valid_perplexity"].mean()
    assert found.loc["adam", "book"] == pytest.approx(
        means["adam"] - min(means), abs=1e-9
    )


@pytest.mark.usefixtures("one_figure")
def test_several_directories_are_one_study(tmp_path):
    a = fabricated.write(tmp_path / "a", TASKS[:1], ("sgd", "adam"), 3)
    b = fabricated.write(tmp_path / "b", TASKS[:2], ("sgd", "adam", "cocob"), 3)
    said = write([a, b], tmp_path / "report")
    # What both have counts once.
    assert said[0].startswith("What: 18 runs: 3 methods on 2 tasks, 3 runs of each")
    assert (tmp_path / "report" / "index.html").read_text().count("sha256") == 2


def test_results_of_two_versions_do_not_mix(tmp_path):
    a, b = (
        fabricated.write(
            tmp_path / name, (name,), ("sgd",), 2, config={"numerics_version": version}
        )
        for name, version in (("a", 1), ("b", 2))
    )
    with pytest.raises(UsageError, match="versions 1, 2\\) do not mix"):
        write([a, b], tmp_path / "report")


@pytest.mark.usefixtures("one_figure")
def test_a_torn_last_line_is_dropped(tmp_path):
    workdir = fabricated.write(tmp_path, TASKS, ("sgd", "adam"), 2)
    for name in ("runs.jsonl", "curves.jsonl", "trials.jsonl"):
        with open(workdir / name, "a") as file:
            file.write('{"run_id": "77')
    with pytest.warns(UserWarning, match="dropped a torn last line"):
        said = write([workdir], tmp_path / "report")
    assert said[0].startswith("What: 12 runs")


@pytest.mark.usefixtures("one_figure")
def test_many_settings_are_shown_by_the_best(tmp_path):
    rates = tuple(10.0**-e for e in range(9))
    published = tmp_path / "published.csv"
    published.write_text(
        f"task,method,metric,mean\n{TASKS[0]},sgd learning_rate=1,valid_loss,1\n"
    )
    workdir = fabricated.write(
        tmp_path / "run",
        TASKS[:2],
        ("sgd", "adam", "cocob"),
        2,
        rates={"sgd": rates, "adam": rates},
    )
    said = write([workdir], tmp_path / "report", compare=str(published))
    assert "Each method is shown by the best of its settings, 19 in all." in said[0]
    entries = set(table(tmp_path / "report", "overview")["entry"])
    # Where each is best by construction.
    assert entries == {"sgd learning_rate=0.1", "adam learning_rate=0.001", "cocob"}
    cost = table(tmp_path / "report", "cost").set_index("entry")
    assert cost.loc["sgd learning_rate=0.1", "tuning_full_runs"] == 8
    assert list(table(tmp_path / "report", "compared")["entry"]) == [
        "sgd learning_rate=1"
    ]


@pytest.mark.usefixtures("one_figure")
def test_of_a_grid_over_more_the_best_setting_at_each_rate_counts(tmp_path):
    rates = (1e-4, 1e-3, 1e-2)
    runs, curves = fabricated.runs_and_curves(
        ("t",), ("adam",), 3, rates={"adam": rates}
    )
    worse = [
        {
            **run,
            "run_id": f"w{run['run_id'][1:]}",
            "hparams": run["hparams"] | {"b1": 0.5},
            "valid_loss": run["valid_loss"] + 1,
            "valid_accuracy": 0.01,
        }
        for run in runs
    ]
    for run in runs:
        run["hparams"]["b1"] = 0.9
    fabricated.lines(tmp_path / "runs.jsonl", runs + worse)
    fabricated.lines(tmp_path / "curves.jsonl", curves)
    write([tmp_path], tmp_path / "report")
    found = table(tmp_path / "report", "grid").set_index("learning_rate")
    for rate in rates:
        losses = [
            r["valid_loss"] for r in runs if r["hparams"]["learning_rate"] == rate
        ]
        assert found.loc[rate, "median"] == pytest.approx(np.median(losses))
        assert found.loc[rate, "runs"] == 3


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize(
    ("lost", "best"),
    [
        (1, "0.1 (sgd) on t, by"),
        (2, "0.01 (sgd) on t, by"),
        (9, "none on t, where half"),
    ],
)
def test_the_best_rate_is_none_at_which_half_diverged(
    lost, best, tmp_path, monkeypatch
):
    monkeypatch.setattr(analyses, "ANALYSES", [analyses._grid])
    rates = {"sgd": (0.01, 0.1, 100.0)}
    runs, curves = fabricated.runs_and_curves(("t",), ("sgd",), 3, rates=rates)
    for run in runs:
        if lost == 9 or (run["hparams"]["learning_rate"] == 0.1 and run["seed"] < lost):
            run |= {"status": "diverged", "valid_loss": None, "valid_accuracy": None}
    fabricated.lines(tmp_path / "runs.jsonl", runs)
    fabricated.lines(tmp_path / "curves.jsonl", curves)
    write([tmp_path], tmp_path / "report")
    html = (tmp_path / "report" / "index.html").read_text()
    assert f"Best rate of the grid: {best}" in html


@pytest.mark.usefixtures("sketched")
def test_curves_are_held_to_results_of_their_own_part(tmp_path, monkeypatch):
    """Runs that are judged by test data have curves of validation data alone."""
    monkeypatch.setattr(analyses, "ANALYSES", [analyses._cost, analyses._targets])
    methods, lost = ("adam", "sgd", "cocob"), [(TASKS[0], "sgd", 0)]
    runs, curves = fabricated.runs_and_curves(TASKS[:2], methods, 3, diverged=lost)
    for run in runs:
        if run["test_accuracy"] is not None:
            run["test_accuracy"] /= 2
    fabricated.lines(tmp_path / "runs.jsonl", runs)
    fabricated.lines(tmp_path / "curves.jsonl", curves)
    for part in ("valid", "test"):
        write([tmp_path], tmp_path / part, metrics=(f"{part}_accuracy",))
    for name in ("anytime", "targets"):
        one, other = (table(tmp_path / part, name) for part in ("valid", "test"))
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.usefixtures("sketched")
@pytest.mark.parametrize("alone", [True, False])
def test_what_could_be_significant_is_said_of_each_task(alone, tmp_path, monkeypatch):
    """Six seeds are enough for one comparison, and too few for three."""
    monkeypatch.setattr(analyses, "ANALYSES", [analyses._against])
    others = [(TASKS[0], m, s) for m in ("adam", "cocob") for s in range(6)]
    methods = ("momentum", "sgd", "adam", "cocob")
    workdir = fabricated.write(
        tmp_path / "run", TASKS[:2], methods, 6, missing=others if alone else ()
    )
    write([workdir], tmp_path / "report", baseline="momentum")
    html = (tmp_path / "report" / "index.html").read_text()
    assert ("no difference could have been called" in html) != alone
    assert ("and 1 loss." in html) == alone


def test_names_are_no_markup(tmp_path):
    runs, curves = fabricated.runs_and_curves(("t",), ("sgd", "adam"), 2)
    for row in runs:
        row["task"] = "svmlight:/a_b/<script>alert(1)</script>&$x^{2}$%"
    fabricated.lines(tmp_path / "runs.jsonl", runs)
    fabricated.lines(tmp_path / "curves.jsonl", curves)
    write([tmp_path], tmp_path / "report")
    html = (tmp_path / "report" / "index.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;$x^{2}$%" in html
    tex = (tmp_path / "report" / "tables" / "scores.tex").read_text()
    assert r"/a\_b/" in tex
    assert r"\&\$x\textasciicircum \{2\}\$\%" in tex


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ("valid_acuracy",)}, "did you mean 'valid_accuracy'"),
        ({"metrics": ("seconds",)}, "metric 'seconds'"),
        ({"baseline": "adamm"}, "unknown baseline 'adamm'; did you mean 'adam'"),
        ({"export": ("parkett",)}, "did you mean 'parquet'"),
        ({"smooth": 1.5}, "report.smooth=1.5"),
        ({"bootstrap": 1}, "report.bootstrap=1"),
        ({"target": float("nan")}, "report.target=nan"),
        ({"compare": "nowhere.csv"}, "nowhere.csv: No such file"),
    ],
)
def test_an_option_that_cannot_be_meant_is_one_clear_line(tmp_path, options, message):
    workdir = fabricated.write(tmp_path, TASKS, ("sgd", "adam"), 2)
    with pytest.raises(UsageError, match=re.escape(message)):
        write([workdir], tmp_path / "report", **options)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"task,method,mean\n", "has no column 'metric'"),
        (b"task,method,metric,mean\n", "holds no row"),
        (b"task,method,metric,mean\nt,m,l,1\nt,m,l,x\n", "row 2: 'x' is no mean"),
        (b"task,method,metric,mean\n,m,l,1\n", "row 1 has no task"),
        (b"task,method,metric,mean\na,b\n1,2,3,4,5,6\n", "published.csv: "),
        (b"\xff\xfe\x00task", "published.csv: "),
        (b"task,method,metric,mean\nt,m,l,1\n", "none of its rows fits the tables"),
        (b"task,method,metric,mean\nlibsvm/iris,adam,valid_loss,1\n", "several"),
    ],
)
def test_a_damaged_file_of_published_results_is_refused(
    study, tmp_path, content, message
):
    path = tmp_path / "published.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(message)):
        write([study], tmp_path / "report", compare=str(path))
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no results"),
        ({"runs.jsonl": "", "curves.jsonl": ""}, "holds no finished run yet"),
        ({"runs.jsonl": "{}\n", "curves.jsonl": ""}, "line 1 is damaged"),
        (
            {"runs.jsonl": '{"run_id": "a"}\n', "curves.jsonl": ""},
            "runs.jsonl has no task",
        ),
        ({"trials.jsonl": "{}\n"}, "trials.jsonl: line 1 is damaged: "),
        ({"trials.jsonl": "[1]\n"}, "trials.jsonl: line 1 is damaged: "),
        (
            {"trials.jsonl": '{"task":"t","method":"m","budget":"x","cost":1}\n'},
            "trials.jsonl: line 1 is damaged: ",
        ),
    ],
)
def test_damaged_tables_are_refused(tmp_path, files, message):
    if "trials.jsonl" in files:
        fabricated.write(tmp_path, TASKS, ("sgd",), 2)
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=re.escape(message)):
        write([tmp_path], tmp_path / "report")


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    workdir = fabricated.write(tmp_path / "run", TASKS[:1], ("sgd",), 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        write([workdir], tmp_path / "file" / "report")


# Pieces


def test_numbers_have_the_digits_that_people_read():
    assert page.short(0.123456) == "0.1235"
    assert page.short(1234567.0) == "1.23e+06"
    assert page.short(float("nan")) == ""
    assert page.short(np.float64(2)) == "2"
    assert page.short(("a", "b")) == "a, b"


def test_an_alias_looks_as_what_it_stands_for():
    palette = Palette(tuple(map(str, range(12))), {"m": "3"})
    assert palette.number("m") == 3
    assert palette.colour("m") == palette.colour("3")
    assert palette.sign("m") == palette.sign("3")


@pytest.mark.slow
def test_two_pages_give_a_method_one_colour(study, written, tmp_path):
    """By the swatches of its buttons: here it is last among others on another task."""
    methods = ("momentum", "cocob", "sgd", "dowg", "prodigy")
    fabricated.write(tmp_path, ("other",), methods, 2)
    write([tmp_path], tmp_path / "report")
    pages = []
    for folder in (written[0], tmp_path / "report"):
        html = (folder / "index.html").read_text()
        found = re.findall(r"<button [^>]*>(<svg.*?</svg>)<span>([^<]+)", html)
        pages.append({name: swatch for swatch, name in found})
    shared = {"momentum", "cocob", "prodigy"}
    assert shared <= pages[0].keys() & pages[1].keys()
    assert all(pages[0][name] == pages[1][name] for name in shared)
    assert all("var(--c" in swatch for swatch in pages[1].values())
    assert len(set(pages[1].values())) == len(methods)


def test_whole_names_stand_behind_short_ones(tmp_path):
    names = [f"svmlight:/a/long/path/to/{x}/data.svm" for x in ("first", "second")]
    fabricated.write(tmp_path, names, ("sgd", "adam"), 2)
    write([tmp_path], tmp_path / "report")
    html = (tmp_path / "report" / "index.html").read_text()
    for name in names:
        assert f"<title>{name}</title></text>" in html
    titles = re.findall(r">([^<>]*data\.svm)<title>", html)
    assert len(set(titles)) == 2
    assert "Names that figures show in short" in html


def test_answers_are_made_as_a_selection_writes_them():
    made = fabricated.answer()
    assert set(made) == {field.name for field in dataclasses.fields(Selection)}
    names = {field.name for field in dataclasses.fields(Judged)}
    assert all(set(each) == names for each in made["judged"])


def test_a_selection_has_a_section_of_its_own(tmp_path):
    workdir = fabricated.write(tmp_path / "run", TASKS[:1], ("sgd", "adam"), 2)
    alone = {"interval": [None, None], "runner_up": "", "runner_up_better": None}
    loss = {"name": "loss", "higher_is_better": False, "unit": "", "digits": 3}
    loss |= {"least": 0.0, "greatest": None}
    other = fabricated.answer("libsvm/<b>", metric="loss", scale=loss, **alone)
    answers = [fabricated.answer(), other]
    (workdir / "selection.json").write_text(json.dumps(answers))
    lines = write([workdir], tmp_path / "out")
    said = [line for line in lines if line.startswith("Selected")]
    assert said[0] == (
        "Selected: adam (learning_rate=0.01) on libsvm/wine, validation accuracy 85.0 "
        "% (75.0 to 95.0), the best with probability 0.62, before adam "
        "(learning_rate=0.1), for 3.2 full runs."
    )
    assert said[1].endswith(
        "validation loss 0.850, the best with probability 0.62, for 3.2 full runs."
    )
    assert sections(tmp_path / "out")[:2] == ["findings", "selection"]
    found = table(tmp_path / "out", "selection")
    assert list(found["winner"]) == ["adam (learning_rate=0.01)"] * 2
    assert list(found["full_runs"]) == [3.21] * 2
    assert list(found["contenders"]) == [3, 3]
    assert list(found["runs"]) == [2, 2]
    assert list(found["best"]) == [0.625] * 2
    svg = (tmp_path / "out" / "figures" / "selection.svg").read_text()
    for name in ("adam (learning_rate=0.01)", "adam (learning_rate=0.1)"):
        assert name in svg
    assert "a run that was lost" in svg
    for task in ("libsvm/wine", "libsvm/&lt;b&gt;"):
        assert task in svg


def test_a_selection_without_a_run_is_reported(tmp_path):
    none = {"how": "prior", "values": [], "score": None, "interval": [None, None]}
    none |= {"cost": 0.0, "runner_up": "", "runner_up_better": None, "seeds": []}
    none |= {"judged": [fabricated.judged("adam (learning_rate=0.01)")]}
    answers = json.dumps([fabricated.answer(**none)])
    (tmp_path / "selection.json").write_text(answers)
    (said,) = write([tmp_path], tmp_path / "out")
    assert said == (
        "Selected: adam (learning_rate=0.01) on libsvm/wine, the best with probability "
        "0.62, for 0.0 full runs."
    )
    assert sections(tmp_path / "out") == ["findings", "selection", "notes"]
    page_text = (tmp_path / "out" / "index.html").read_text()
    assert "Nothing was trained" in page_text


@pytest.mark.parametrize("text", ["{", "[1]", '[{"task": "a"}]', "3"])
def test_a_damaged_answer_of_a_selection_is_refused(tmp_path, text):
    (tmp_path / "selection.json").write_text(text)
    with pytest.raises(UsageError, match=r"selection\.json is damaged"):
        write([tmp_path], tmp_path / "out")
