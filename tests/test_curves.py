import numpy as np
import pandas as pd
import pytest

from lrjax.analysis import curves, stats
from lrjax.analysis import scores as scores_lib

RUNS = pd.DataFrame(
    {
        "run_id": ["p", "q", "r"],
        "task": "t",
        "entry": ["a", "a", "b"],
        "seed": [0, 1, 0],
        "steps": 40,
        "examples": 400,
        "seconds": 4.0,
        "status": ["done", "diverged", "done"],
    }
)


def rows(values, column="valid_loss"):
    """Curve rows: run_id -> values at steps 10, 20, ..."""
    return pd.DataFrame(
        {"run_id": run, "step": 10 * i, "epoch": float(i), column: value}
        for run, values in values.items()
        for i, value in enumerate(values, 1)
    )


LOSSES = {"p": [4.0, 3.0, 2.0, 1.0], "q": [5.0, None], "r": [2.0, 2.0, 2.0, 2.0]}
METRICS = pd.Series({"t": "valid_loss"})


def test_rows_meet_their_runs_in_order_of_steps():
    mixed = rows(LOSSES | {"unknown": [1.0]}).sample(frac=1, random_state=0)
    found = curves.join(RUNS, mixed)
    assert list(found["run"]) == [0] * 4 + [1] * 2 + [2] * 4
    assert list(found["entry"]) == ["a"] * 6 + ["b"] * 4
    assert list(found["part"][:4]) == [0.25, 0.5, 0.75, 1.0]
    assert len(curves.join(RUNS, pd.DataFrame(columns=["run_id"]))) == 0


def test_smoothing_is_the_studys():
    values = np.random.default_rng(0).uniform(size=30)
    joined = curves.join(RUNS, rows({"p": values, "r": values[::-1]}))
    found = curves.smooth(joined, ["valid_loss"], 0.3)
    expected = [values[0]]
    for value in values[1:]:
        expected.append(0.3 * value + 0.7 * expected[-1])
    np.testing.assert_allclose(found.loc[found["run"] == 0, "valid_loss"], expected)


def test_a_smoothed_curve_ends_where_its_run_did():
    found = curves.smooth(curves.join(RUNS, rows(LOSSES)), ["valid_loss"], 0.3)
    assert list(found["valid_loss"].isna()) == list(
        curves.join(RUNS, rows(LOSSES))["valid_loss"].isna()
    )


def test_thinned_curves_keep_their_ends():
    joined = curves.join(RUNS, rows({"p": range(1000), "r": range(1000)}))
    found = curves.thin(joined, points=50)
    for _, part in found.groupby("run"):
        assert len(part) == 50
        assert (part["step"].min(), part["step"].max()) == (10, 10000)
    pd.testing.assert_frame_equal(curves.thin(found, points=50), found)


def test_bands_are_numpys_quantiles():
    rng = np.random.default_rng(0)
    runs = pd.DataFrame(
        {"run_id": [str(i) for i in range(7)], "task": "t", "entry": "a", "steps": 30}
    )
    values = rng.normal(size=(7, 3))
    joined = curves.join(runs, rows({str(i): v for i, v in enumerate(values)}))
    found = curves.bands(joined, "valid_loss")
    for name, share in (("low", 0.25), ("median", 0.5), ("high", 0.75)):
        np.testing.assert_allclose(found[name], np.quantile(values, share, axis=0))
    assert list(found["alive"]) == [7, 7, 7]


def test_a_curve_that_was_short_has_not_diverged():
    runs = RUNS.assign(status="done", steps=[20, 20, 40])
    short = {"p": [4.0, 3.0], "q": [5.0, 4.0], "r": [2.0, 2.0, 2.0, 2.0]}
    found = curves.bands(curves.join(runs, rows(short)), "valid_loss")
    assert dict(found.groupby("entry").size()) == {"a": 2, "b": 4}
    assert not found["diverged"].any()


def test_bands_end_where_half_of_the_runs_have():
    found = curves.bands(curves.join(RUNS, rows(LOSSES)), "valid_loss")
    assert dict(found.groupby("entry").size()) == {"a": 1, "b": 4}
    assert list(found["diverged"]) == [True] + 4 * [False]
    assert len(curves.bands(curves.join(RUNS, rows(LOSSES)), "valid_accuracy")) == 0


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_runs_lost_before_the_first_value_count_among_those_that_diverged(lost):
    runs = pd.concat([RUNS] * 2, ignore_index=True)[:4]
    runs = runs.assign(run_id=list("pqrs"), entry="a")
    runs["status"] = ["diverged"] * lost + ["done"] * (4 - lost)
    values = {run: [None] if i < lost else [2.0] * 4 for i, run in enumerate("pqrs")}
    found = curves.bands(curves.join(runs, rows(values)), "valid_loss")
    assert len(found) == (4 if lost < 2 else 0)
    assert not found["diverged"].any()


def test_settled_rates_are_medians_of_medians():
    rates = {"p": [1.0, 3.0, 5.0], "q": [10.0, 11.0], "r": [None, None]}
    found = curves.settled_rates(curves.join(RUNS, rows(rates, "learning_rate")))
    assert found.to_dict("records") == [
        {"task": "t", "entry": "a", "learning_rate": (3.0 + 10.5) / 2}
    ]


def test_a_last_value_alone_is_no_curve():
    both = rows(LOSSES).merge(rows({"p": [4.0], "q": [3.0]}, "valid_f1"), how="left")
    joined = curves.join(RUNS, both)
    assert joined["valid_f1"].notna().any()
    found = curves.without_lone(joined)
    assert found["valid_f1"].isna().all()
    pd.testing.assert_series_equal(found["valid_loss"], joined["valid_loss"])
    nothing = curves.join(RUNS, both[:0])
    assert not len(curves.without_lone(nothing))


def test_targets_by_hand():
    joined = curves.join(RUNS, rows(LOSSES))
    found = curves.to_target(joined, RUNS, METRICS, pd.Series({"t": 2.0}))
    a, b = found.set_index("entry").loc["a"], found.set_index("entry").loc["b"]
    # One of a's runs gets there after 30 steps, the other diverged: half never do.
    assert (a["runs"], a["reached"], a["steps"]) == (2, 1, np.inf)
    assert (b["reached"], b["steps"], b["examples"], b["seconds"]) == (1, 10, 100, 1.0)
    upward = pd.Series({"t": "valid_accuracy"})
    joined = curves.join(RUNS, rows({"p": [0.1, 0.8, 0.7, 0.6]}, "valid_accuracy"))
    found = curves.to_target(joined, RUNS[:1], upward, pd.Series({"t": 0.75}))
    assert found["steps"][0] == 20


def test_anytime_scores_by_hand():
    joined = curves.join(RUNS, rows(LOSSES))
    # 0 is a loss of 4, 1 a loss of 2, as scores.
    span = pd.DataFrame({"low": [-4.0], "high": [-2.0]}, index=["t"])
    found = curves.anytime(joined, METRICS, span, RUNS, points=8)
    # Before its first evaluation a run has 0; the diverged run of a has 0 for ever.
    expected = np.array([0, 0, 0, 0.5, 0.5, 1, 1, 1]) / 2
    np.testing.assert_allclose(found["a"], expected)
    np.testing.assert_allclose(found["b"], [0, 1, 1, 1, 1, 1, 1, 1])
    assert list(found.index) == [i / 8 for i in range(1, 9)]


def test_a_run_whose_curve_lacks_the_metric_has_no_score_of_zero():
    span = pd.DataFrame({"low": [-4.0], "high": [-2.0]}, index=["t"])
    alone = RUNS.assign(status="done")[RUNS["run_id"] != "q"]
    nothing = rows({"q": [float("nan")] * 4})
    known = pd.concat([rows({k: LOSSES[k] for k in "pr"}), nothing])
    expected = curves.anytime(curves.join(alone, known), METRICS, span, alone)
    runs = RUNS.assign(status="done")
    found = curves.anytime(curves.join(runs, known), METRICS, span, runs)
    pd.testing.assert_frame_equal(found, expected)
    died = curves.anytime(curves.join(RUNS, known), METRICS, span, RUNS)
    np.testing.assert_allclose(died["a"], expected["a"] / 2)


def test_where_all_are_equal_all_that_finish_have_one():
    span = pd.DataFrame({"low": [-2.0], "high": [-2.0]}, index=["t"])
    joined = curves.join(RUNS, rows(LOSSES))
    found = curves.anytime(joined, METRICS, span, RUNS, points=4)
    assert list(found["b"]) == [1, 1, 1, 1]
    assert list(found["a"]) == [0, 0, 0.5, 0.5]


@pytest.mark.parametrize("metric", ["valid_accuracy", "valid_loss"])
def test_the_end_of_training_has_the_normalised_score(metric):
    rng = np.random.default_rng(0)
    values = {run: list(rng.uniform(size=4)) for run in "pqr"}
    runs = RUNS.assign(status="done", metric=metric)
    runs[metric] = [values[run][-1] for run in "pqr"]
    judged = scores_lib.judge(runs.drop(columns="metric"), [metric])
    comparison = stats.complete(judged)
    found = curves.anytime(
        curves.join(judged, rows(values, metric)),
        pd.Series({"t": metric}),
        stats.ends(comparison.scores),
        judged,
    )
    unit = stats.normalise(comparison.scores)
    assert found["b"].iloc[-1] == pytest.approx(unit["b"].iloc[0])
