"""The jobs of a race in a report."""

import math
import re

import pytest

import lrjax
from lrjax import elsewhere, reports


@pytest.fixture(name="folder")
def _folder(tmp_path):
    folder = tmp_path / "digits"
    race = lrjax.Race(
        ["adam", "prodigy"], budget=4, horizon=30, folder=folder, metric="accuracy"
    )
    for job in race:
        job.report(10, accuracy=0.5, grad_norm=3.0)
        job.report(20, accuracy=0.6)
        if job.number == 3:
            job.failed("out of memory")
        else:
            job.tell(accuracy=0.7 + job.number / 100, loss=math.pi)
    return folder


def test_every_job_is_a_run_with_its_curve(folder):
    source = elsewhere.read(f"race:{folder}")
    runs = source.runs.set_index("run_id").sort_index()
    assert set(runs["task"]) == {"digits"}
    assert set(runs["method"]) == {"adam", "prodigy"}
    assert runs["status"].tolist() == ["done"] * 3 + ["diverged"]
    assert runs["valid_accuracy"].tolist()[:3] == [0.7, 0.71, 0.72]
    assert runs["valid_loss"].tolist()[:3] == [math.pi] * 3
    adam = runs[runs["method"] == "adam"].iloc[0]
    assert adam["hparams"]["b2"] == 0.999
    curve = source.curves[source.curves["run_id"] == runs.index[0]]
    assert curve["step"].tolist() == [10, 20, 30]
    assert curve["valid_accuracy"].tolist() == [0.5, 0.6, 0.7]
    (metrics,) = source.metrics.values()
    assert metrics[0].higher_is_better


def test_a_report_is_made_of_it(folder, tmp_path):
    page = lrjax.report(f"race:{folder}", folder=tmp_path / "page", bootstrap=10)
    assert f"race:{folder}: 4 runs" in page.read_text()


def said(source, folder):
    """The findings of a report, by their word."""
    options = reports.Options(bootstrap=10)
    lines = reports.write([], folder, options, others=[elsewhere.read(source)])
    return dict(line.split(": ", 1) for line in lines)


def test_leaders_that_trained_more_often_make_no_run_missing(tmp_path):
    race = lrjax.Race(
        ["adam", "momentum", "prodigy"], budget=8, horizon=30, folder=tmp_path / "race"
    )
    settings = []
    for job in race:
        setting = (job.method, job.learning_rate)
        again = setting in settings
        settings.append(setting)
        job.tell(loss=5.0 if again else 1.0 + 0.001 * len(settings))
    (again, *_) = [s for s in settings if settings.count(s) > 1]
    assert settings[0] == again  # the first is the best of first runs, and not by all
    lines = said(f"race:{tmp_path / 'race'}", tmp_path / "page")
    assert re.search(r", 1 to \d runs of each", lines["What"])
    assert lines["Best"].startswith(again[0])
    assert "a mean rank of 1.00 by the first run of each, before" in lines["Best"]
    assert lines["Where"].startswith("best mean over all runs: ")
    assert not lines["Where"].startswith(f"best mean over all runs: {again[0]} ")
    assert lines["How sure"].startswith("ranks compare the first run of each: ")
    assert lines["Missing"] == "nothing."


@pytest.mark.parametrize("name", ["my race", "race_2"])
def test_a_figure_is_named_like_the_folder_and_counts_what_is_known(name, tmp_path):
    race = lrjax.Race(["adam"], budget=6, horizon=300, folder=tmp_path / name)
    for job in race:
        for step in (3, 33, 99):
            job.report(step, loss=2.0 + job.number / step)
        job.tell(loss=1.0 + job.number)
    said(f"race:{tmp_path / name}", tmp_path / "page")
    figures = tmp_path / "page" / "figures"
    assert f">{name}</text>" in (figures / "fidelity.svg").read_text()
    axis = (figures / "cost.svg").read_text()
    assert ">steps (in full runs)</text>" in axis
    assert "examples" not in axis
    text = (tmp_path / "page" / "index.html").read_text()
    assert f"On {name}: " in text


@pytest.mark.parametrize("noted", ["", "loss", "train_rmse", "grad_norm"])
def test_what_was_not_noted_is_not_drawn(noted, tmp_path):
    """A last value alone is no curve, and what was noted instead is drawn."""
    race = lrjax.Race(
        ["adam"], budget=6, horizon=300, folder=tmp_path / "race", metric="rmse"
    )
    for job in race:
        for step in (3, 33, 99) if noted else ():
            job.report(step, **{noted: 2.0 + job.number / step})
        job.tell(rmse=1.0 + job.number)
    lines = said(f"race:{tmp_path / 'race'}", tmp_path / "page")
    figures = tmp_path / "page" / "figures"
    names = {path.stem for path in figures.iterdir()}
    assert {"scores", "pairs"} <= names
    assert not {"cost", "fidelity"} & names
    assert not (tmp_path / "page" / "tables" / "targets.csv").exists()
    assert lines["Left out"].startswith("curves of validation rmse on race, with what")
    labels = {"loss": "validation loss", "train_rmse": "training rmse"}
    assert ("curves" in names) == (noted in labels)
    if noted in labels:
        assert f"; learning curves show {labels[noted]} on race." in lines["Left out"]
        assert f">{labels[noted]}</text>" in (figures / "curves.svg").read_text()
    assert (
        "as if it had been stopped" not in (figures.parent / "index.html").read_text()
    )


def test_a_folder_without_a_race_is_refused(tmp_path):
    with pytest.raises(lrjax.UsageError, match="has no race"):
        elsewhere.read(f"race:{tmp_path}")
