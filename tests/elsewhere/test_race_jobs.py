"""The jobs of a race in a report."""

import math

import pytest

import lrjax
from lrjax import elsewhere


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


def test_a_folder_without_a_race_is_refused(tmp_path):
    with pytest.raises(lrjax.UsageError, match="has no race"):
        elsewhere.read(f"race:{tmp_path}")
