import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from lrjax import report, stats


def table(rows):
    columns = ["task", "entry", "seed", "valid_accuracy", "valid_loss", "status"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(
        run_id=[str(i) for i in range(len(frame))],
        protocol="sound",
        method=frame["entry"],
        hparams=[{}] * len(frame),
        steps=2,
    )


RUNS = table(
    [
        ("t", "a", 0, 0.9, 0.1, "done"),
        ("t", "b", 0, 0.9, 0.2, "done"),
        ("t", "c", 0, None, None, "diverged"),
        ("t", "a", 1, 0.8, 0.3, "done"),
        ("t", "b", 1, 0.7, 0.4, "done"),
        ("t", "c", 1, 0.9, 0.5, "done"),
        ("u", "a", 0, 0.2, 1.0, "done"),
        ("u", "b", 0, 0.5, 0.8, "done"),
        ("u", "c", 0, 0.3, 0.9, "done"),
    ]
)


def test_interval_is_students():
    values = np.random.default_rng(0).normal(3, 2, 10)
    mean, half = stats.mean_interval(values)
    low, high = scipy_stats.t.interval(
        0.95, 9, loc=values.mean(), scale=scipy_stats.sem(values)
    )
    np.testing.assert_allclose([mean - half, mean + half], [low, high])


def test_interval_needs_two_values():
    mean, half = stats.mean_interval(np.array([2.0]))
    assert mean == 2.0
    assert np.isnan(half)
    assert np.isnan(stats.mean_interval(np.array([]))).all()


def test_ranks_by_hand():
    # t: a 1.5, 2; b 1.5, 3; c 3 (diverged), 1.  u: b 1, c 2, a 3. As u has one seed,
    # t keeps its first.
    ranks = stats.mean_ranks(stats.judge(RUNS))
    assert ranks["a"] == pytest.approx((1.5 + 3) / 2)
    assert ranks["b"] == pytest.approx((1.5 + 1) / 2)
    assert ranks["c"] == pytest.approx((3.0 + 2) / 2)
    assert list(ranks.index) == ["b", "a", "c"]


def test_diverged_runs_are_counted_and_left_out_of_means():
    found = stats.summary(RUNS).set_index(["task", "entry"]).loc[("t", "c")]
    assert found["runs"] == 2
    assert found["diverged"] == 1
    assert found["accuracy"] == 0.9
    assert found["loss"] == 0.5


def test_labels_name_what_varies_within_a_task():
    runs = RUNS.assign(
        method="adam",
        hparams=[{"learning_rate": rate, "b1": 0.9} for rate in (0.1, 0.01, 1e-5) * 3],
    )
    assert list(stats.label_entries(runs))[:3] == [
        "adam learning_rate=0.1",
        "adam learning_rate=0.01",
        "adam learning_rate=1e-05",
    ]


def test_values_that_follow_from_the_task_are_no_entries():
    rate = {"t": 0.5, "u": 0.7}
    runs = RUNS.assign(
        method="smac", hparams=[{"learning_rate": rate[t]} for t in RUNS["task"]]
    )
    assert set(stats.label_entries(runs)) == {"smac"}


def test_the_ranking_shows_best_first_and_names_what_diverged():
    text = report.ranking(RUNS)
    assert text.index("\nb ") < text.index("\na ") < text.index("\nc ")
    assert "85.0 ±63.5" in text  # a on t: Student's t with one degree of freedom
    assert "c on t: 1 of 2 runs" in text


def test_curves_are_drawn_for_diverged_and_missing_runs(tmp_path):
    curves = pd.DataFrame(
        {
            "run_id": str(i),
            "step": int(epoch),
            "epoch": epoch,
            "valid_loss": loss,
            "learning_rate": 0.1,
        }
        for i in range(len(RUNS))
        for epoch, loss in ((1.0, 0.5), (2.0, None))
    )
    path = tmp_path / "curves.png"
    report.learning_curves(RUNS, curves, path)
    assert path.read_bytes().startswith(b"\x89PNG")
