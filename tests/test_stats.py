import dataclasses
import itertools
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special as scipy_special
from scipy import stats as scipy_stats

from lrjax import reports
from lrjax.analysis import scores as scores_lib
from lrjax.analysis import stats
from lrjax.core import (
    ACCURACY,
    LOSS,
    NONNEGATIVE_LOSS,
    PERPLEXITY,
    UsageError,
)

try:
    from rliable import library, metrics
except ImportError:  # which is not installed with Python 3.14
    library = metrics = None
with_rliable = pytest.mark.skipif(library is None, reason="rliable is not installed")


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


def random_scores(runs=6, tasks=3, entries=4, seed=0):
    """A comparison of random scores and the array [run, task, entry] behind it."""
    rng = np.random.default_rng(seed)
    # Tasks lie far apart: who swaps the axes gets something else.
    values = rng.normal(size=(runs, tasks, entries)) + 100 * np.arange(tasks)[:, None]
    names = [range(tasks), range(runs)]
    index = pd.MultiIndex.from_product(names, names=["task", "run"])
    index = index.set_levels([f"t{i}" for i in range(tasks)], level=0)
    columns = pd.Index([f"e{i}" for i in range(entries)], name="entry")
    flat = values.swapaxes(0, 1).reshape(-1, entries)
    return stats.Comparison(pd.DataFrame(flat, index, columns)), values


# Names and scores


def test_labels_name_what_varies_within_a_task():
    runs = RUNS.assign(
        method="adam",
        hparams=[{"learning_rate": rate, "b1": 0.9} for rate in (0.1, 0.01, 1e-5) * 3],
    )
    assert list(scores_lib.label_entries(runs))[:3] == [
        "adam learning_rate=0.1",
        "adam learning_rate=0.01",
        "adam learning_rate=1e-05",
    ]


def test_values_that_follow_from_the_task_are_no_entries():
    rate = {"t": 0.5, "u": 0.7}
    runs = RUNS.assign(
        method="smac", hparams=[{"learning_rate": rate[t]} for t in RUNS["task"]]
    )
    assert set(scores_lib.label_entries(runs)) == {"smac"}


def test_runs_of_other_lengths_are_other_entries():
    runs = RUNS[:2].assign(method="adam", seed=0, steps=[10, 20])
    assert list(scores_lib.label_entries(runs)) == ["adam steps=10", "adam steps=20"]


def test_protocols_and_directories_tell_runs_apart():
    same = RUNS[:1].assign(source="x")
    other = same.assign(source="y")
    found = scores_lib.arrange(pd.concat([same, other]))
    assert sorted(found["entry"]) == ["a @ x", "a @ y"]
    other = same.assign(protocol="study")
    found = scores_lib.arrange(pd.concat([same, other]))
    assert sorted(found["task"]) == ["t (sound)", "t (study)"]
    assert list(scores_lib.arrange(pd.concat([same, same]))["entry"]) == ["a", "a #2"]


@pytest.mark.parametrize(
    ("batches", "entries"),
    [
        ({0: "aab", 1: "ab"}, {"x": {"a"}, "x #2": {"a"}, "x #3": {"b"}}),
        ({0: "ab", 1: "b"}, {"x": {"a"}, "x #2": {"b"}}),
        ({0: "aa", 1: "a"}, {"x": {"a"}, "x #2": {"a"}}),
        ({0: "a", 1: "b"}, {"x": {"a", "b"}}),
    ],
)
def test_runs_of_one_name_are_told_apart_by_what_they_saw(batches, entries):
    """The second seed alone would join the first entry, whatever its batch size."""
    rows = [(seed, kind) for seed, kinds in batches.items() for kind in kinds]
    runs = table([("t", "x", seed, 0.5, 1.0, "done") for seed, _ in rows])
    runs["examples"] = [{"a": 320, "b": 640}[kind] for _, kind in rows]
    found = scores_lib.arrange(runs)
    assert not found.duplicated(["task", "entry", "seed"]).any()
    seen = found["examples"].map({320: "a", 640: "b"}).groupby(found["entry"]).agg(set)
    assert seen.to_dict() == entries
    numbered = [name for name in entries if name != "x"]
    assert scores_lib.namesakes(found) == numbered
    text = reports.ranking(runs)
    assert ("tables lack, and told apart by order:" in text) == bool(numbered)


@pytest.mark.parametrize(
    ("metric", "up"),
    [("valid_accuracy", True), ("test_loss", False), ("valid_perplexity", False)],
)
def test_every_metric_has_its_direction(metric, up):
    assert scores_lib.higher_is_better(metric) is up
    runs = RUNS[:2].assign(**{metric: [1.0, 2.0]})
    score = scores_lib.judge(runs, [metric])["score"]
    assert (score[1] > score[0]) is np.bool_(up)
    assert list(scores_lib.judge(runs, [metric])["value"]) == [1.0, 2.0]


def test_metrics_without_a_direction_are_refused():
    with pytest.raises(UsageError, match="known direction"):
        scores_lib.judge(RUNS, ["steps"])
    with pytest.raises(UsageError, match="did you mean 'valid_loss'"):
        scores_lib.judge(RUNS, ["valide_loss"])


def test_a_task_is_judged_by_the_first_metric_that_it_has():
    runs = RUNS.assign(valid_perplexity=[None] * 6 + [9.0, 8.0, 7.0])
    runs.loc[runs["task"] == "u", "valid_accuracy"] = None
    judged = scores_lib.judge(runs)
    assert dict(judged.groupby("task")["metric"].first()) == {
        "t": "valid_accuracy",
        "u": "valid_perplexity",
    }
    with pytest.raises(UsageError, match="task 'u' has no valid_accuracy"):
        scores_lib.judge(runs, ["valid_accuracy"])


def test_diverged_runs_have_the_worst_score_and_stopped_ones_none():
    runs = RUNS.assign(status=["stopped", *RUNS["status"][1:]])
    judged = scores_lib.judge(runs)
    assert len(judged) == len(RUNS) - 1
    assert list(judged.loc[judged["status"] == "diverged", "score"]) == [-np.inf]
    assert judged.loc[judged["status"] == "diverged", "value"].isna().all()


# One task


def test_interval_without_bounds_is_students():
    values = np.random.default_rng(0).normal(3, 2, 10)
    expected = scipy_stats.t.interval(
        0.95, 9, loc=values.mean(), scale=scipy_stats.sem(values)
    )
    np.testing.assert_allclose(stats.interval(values, LOSS), expected)


def test_interval_with_bounds_is_students_on_the_scale_without():
    """Logits and logarithms by the delta method; svyciprop(method = "logit") of R."""
    values = np.random.default_rng(0).uniform(0.7, 0.99, 8)
    mean = values.mean()
    half = scipy_stats.t.ppf(0.975, 7) * scipy_stats.sem(values)
    low, high = stats.interval(values, ACCURACY)
    logit = scipy_special.logit
    np.testing.assert_allclose(logit(mean) - logit(low), half / (mean * (1 - mean)))
    np.testing.assert_allclose(logit(high) - logit(mean), half / (mean * (1 - mean)))
    low, high = stats.interval(values, NONNEGATIVE_LOSS)
    np.testing.assert_allclose(np.log([mean / low, high / mean]), half / mean)
    # Turned round, where the bound lies above.
    below = dataclasses.replace(LOSS, greatest=0.0)
    np.testing.assert_allclose(stats.interval(-values, below), [-high, -low])


def test_intervals_of_accuracies_hold_the_truth_as_often_as_they_say():
    """Of 40 rows that are right with probability 0.9, over five seeds."""
    generator = np.random.default_rng(0)
    held = []
    for _ in range(1500):
        low, high = stats.interval(generator.binomial(40, 0.9, 5) / 40, ACCURACY)
        held.append(low <= 0.9 <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


BOUNDED = [
    *(ACCURACY, PERPLEXITY, NONNEGATIVE_LOSS, LOSS),
    dataclasses.replace(LOSS, least=-2.0, greatest=5.0),
    dataclasses.replace(LOSS, greatest=1.0),
]


@given(
    st.sampled_from(BOUNDED),
    st.lists(st.floats(0, 1), max_size=8),
)
def test_intervals_stay_within_what_a_metric_can_be(metric, parts):
    values = np.array(parts)
    if np.isfinite(metric.least) and np.isfinite(metric.greatest):
        values = metric.least + (metric.greatest - metric.least) * values
    elif np.isfinite(metric.least):
        values = metric.least + 100 * values
    elif np.isfinite(metric.greatest):
        values = metric.greatest - 100 * values
    low, high = stats.interval(values, metric)
    if len(values) < 3:
        assert np.isnan([low, high]).all()
        return
    slack = 1e-9 * max(1.0, np.abs(values).max())
    assert metric.least - slack <= low <= values.mean() + slack
    assert values.mean() - slack <= high <= metric.greatest + slack
    if np.ptp(values) > 1e-3:
        assert low < high


def test_bounds_that_a_value_breaks_are_not_believed():
    values = np.array([-0.2, 0.1, 0.3, 0.4])
    found = stats.interval(values, NONNEGATIVE_LOSS)
    assert found == stats.interval(values, LOSS)
    assert np.isfinite(stats.interval(np.array([1.0, 1.0, 0.9]), ACCURACY)).all()
    assert stats.interval(np.ones(4), ACCURACY) == (1.0, 1.0)
    with_nan = np.array([0.5, np.nan, 0.6, 0.7])
    assert stats.interval(with_nan, ACCURACY) == stats.interval(
        with_nan[[0, 2, 3]], ACCURACY
    )


def test_no_interval_from_fewer_than_three_runs():
    rows = [{"task": "t", "entry": "a", "seed": s, "value": 0.1 * s} for s in range(2)]
    runs = pd.DataFrame(rows).assign(metric="valid_accuracy")
    found = stats.per_task(runs).iloc[0]
    for name in ("mean", "median", "iqm"):
        assert np.isfinite(found[name])
        assert np.isnan([found[f"{name}_low"], found[f"{name}_high"]]).all()


@pytest.mark.parametrize(("lost", "mean"), [(1, 0.8), (2, np.nan), (4, np.nan)])
def test_diverged_runs_leave_means_and_half_of_them_leave_no_mean(lost, mean):
    values = [None] * lost + [0.7, 0.8, 0.9][-(4 - lost) :] * (lost < 4)
    rows = [
        ("t", "a", s, v, v, "done" if v else "diverged") for s, v in enumerate(values)
    ]
    runs = scores_lib.judge(table(rows))
    found = stats.summary(runs, ["valid_accuracy"]).iloc[0]
    assert (found["runs"], found["diverged"]) == (4, lost)
    assert found["valid_accuracy"] == pytest.approx(mean, nan_ok=True)
    assert stats.per_task(runs, 10)["mean"][0] == pytest.approx(mean, nan_ok=True)
    text = reports.ranking(table(rows))
    assert ("80.0 [" in text) == (mean == 0.8)
    assert f"a on t: {lost} of 4 runs" in text


@with_rliable
def test_centres_are_those_of_numpy_scipy_and_rliable():
    values = np.random.default_rng(1).normal(size=9)
    rows = [("t", "a", seed, v, 1.0, "done") for seed, v in enumerate(values)]
    rows += [("t", "b", s, 0.3, 1.0, "done") for s in range(2)]
    rows += [("t", "b", 2, None, None, "diverged")]
    found = stats.per_task(scores_lib.judge(table(rows)), reps=200).set_index("entry")
    a, b = found.loc["a"], found.loc["b"]
    assert a["mean"] == pytest.approx(values.mean())
    assert a["median"] == pytest.approx(np.median(values))
    assert a["iqm"] == pytest.approx(scipy_stats.trim_mean(values, 0.25))
    assert a["iqm"] == pytest.approx(metrics.aggregate_iqm(values[:, None]))
    for name in ("mean", "median", "iqm"):
        assert a[f"{name}_low"] < a[name] < a[f"{name}_high"]
    assert (b["runs"], b["diverged"], b["mean"]) == (3, 1, 0.3)
    assert np.isnan(b["mean_low"])


def test_a_cell_has_the_same_interval_whoever_stands_beside_it():
    rng = np.random.default_rng(2)
    rows = [
        (task, entry, seed, rng.normal(), 1.0, "done")
        for task, entry, seed in itertools.product("tu", "ab", range(5))
    ]
    whole = stats.per_task(scores_lib.judge(table(rows)), reps=100)
    alone = stats.per_task(scores_lib.judge(table(rows[:5])), reps=100)
    np.testing.assert_allclose(alone["iqm_low"][0], whole["iqm_low"][0], atol=0.4)
    assert alone["iqm"][0] == whole["iqm"][0]


# The table without holes


def test_complete_leaves_out_what_lacks_most():
    judged = scores_lib.judge(RUNS)
    found = stats.complete(judged)
    # u has one seed, so t keeps its first.
    assert (found.tasks, found.runs, found.runs_left_out) == (["t", "u"], 1, 3)
    # c is missing from t and from one seed of two: it goes, before any task does.
    few = judged[~((judged["entry"] == "c") & (judged["task"] == "t"))]
    found = stats.complete(few)
    assert found.entries_left_out == ("c",)
    assert found.entries == ["a", "b"]
    # One run of many is missing: its seed goes.
    seeds = [RUNS[:3].assign(seed=s) for s in range(4)]
    many = scores_lib.judge(pd.concat(seeds, ignore_index=True))[1:]
    found = stats.complete(many)
    assert (found.entries, found.runs) == (["a", "b", "c"], 3)


@settings(max_examples=60)
@given(st.sets(st.tuples(*[st.integers(0, n - 1) for n in (3, 4, 3)]), min_size=1))
def test_complete_has_no_holes(present):
    rows = [(f"t{t}", f"e{e}", s, 0.5, 0.5, "done") for t, e, s in sorted(present)]
    found = stats.complete(scores_lib.judge(table(rows)))
    scores = found.scores
    assert not scores.isna().any(axis=None)
    assert scores.groupby(level="task").size().nunique() <= 1
    named = {*found.entries, *found.entries_left_out}
    assert named == {f"e{e}" for _, e, _ in present}
    assert {*found.tasks, *found.tasks_left_out} == {f"t{t}" for t, _, _ in present}


def test_runs_and_tasks_cannot_be_swapped():
    comparison, values = random_scores()
    np.testing.assert_array_equal(stats.cube(comparison.scores), values)
    shuffled = comparison.scores.sample(frac=1, random_state=0)
    np.testing.assert_array_equal(stats.cube(shuffled), values)
    with pytest.raises(ValueError, match="axes must be named"):
        stats.cube(comparison.scores.swaplevel())
    with pytest.raises(ValueError, match="axes must be named"):
        stats.cube(comparison.scores.rename_axis(columns="task"))


# Bootstrap


def test_bootstrap_draws_runs_within_tasks():
    # Runs of a task are equal: whoever draws tasks, or swaps the axes, sees a spread.
    values = np.repeat(np.arange(5.0)[None, :, None], 7, axis=0)
    low, high = stats.bootstrap(values, lambda x: x.mean((0, 1)), reps=100)
    np.testing.assert_array_equal(low, high)
    low, high = stats.bootstrap(
        values.swapaxes(0, 1), lambda x: x.mean((0, 1)), reps=100
    )
    assert high > low + 0.1


@with_rliable
def test_bootstrap_is_rliables_and_leaves_the_global_generator_alone():
    _, values = random_scores()
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    first = stats.bootstrap(values, stats._iqm, reps=100)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(8)
    second = stats.bootstrap(values, stats._iqm, reps=100)
    np.testing.assert_array_equal(first, second)
    np.random.seed(0)
    _, direct = library.get_interval_estimates({"x": values}, stats._iqm, reps=100)
    np.testing.assert_array_equal(first, direct["x"])


@with_rliable
@pytest.mark.parametrize("shape", [(3, 2), (10, 4), (7, 1)])
@pytest.mark.parametrize("fails", ["its import", "its function"])
def test_bootstrap_without_rliable_has_its_bits(fails, shape, monkeypatch):
    def failing(*_, **__):
        raise TypeError("Only NumPy arrays are supported")  # as with arch 8

    values = np.random.default_rng(1).normal(size=shape)
    with_it = stats.bootstrap(values, stats._centres, reps=100)
    if fails == "its import":
        monkeypatch.setitem(sys.modules, "rliable", None)
    else:
        monkeypatch.setattr(library, "get_interval_estimates", failing)
    np.testing.assert_array_equal(
        stats.bootstrap(values, stats._centres, reps=100), with_it
    )


def test_bootstrap_of_a_mean_is_as_wide_as_theory_says():
    values = np.random.default_rng(3).normal(size=(400, 1, 1))
    low, high = stats.bootstrap(values, lambda x: x.mean((0, 1)), reps=2000)
    expected = 2 * 1.96 * values.std() / 20
    assert high[0] - low[0] == pytest.approx(expected, rel=0.08)


def test_one_run_has_no_interval():
    low, high = stats.bootstrap(np.ones((1, 2, 3)), lambda x: x.mean((0, 1)))
    assert np.isnan([low, high]).all()
    assert low.shape == (3,)


# Over tasks


def test_normalised_scores_by_hand():
    comparison, _ = random_scores(runs=3, tasks=1, entries=3)
    scores = comparison.scores.copy()
    scores[:] = [[1, 5, -np.inf], [2, 6, 9], [3, 7, -np.inf]]
    # Medians are 2, 6 and -inf; the last does not count.
    expected = [[0, 0.75, 0], [0, 1, 1], [0.25, 1, 0]]
    np.testing.assert_allclose(stats.normalise(scores), expected)
    scores[:] = 4.0
    np.testing.assert_array_equal(stats.normalise(scores), np.ones((3, 3)))
    scores[:] = -np.inf
    np.testing.assert_array_equal(stats.normalise(scores), np.zeros((3, 3)))


def test_losses_and_accuracies_give_the_same_normalised_scores():
    by_loss = stats.complete(scores_lib.judge(RUNS, ["valid_loss"]))
    turned = RUNS.assign(valid_accuracy=-RUNS["valid_loss"])
    by_accuracy = stats.complete(scores_lib.judge(turned, ["valid_accuracy"]))
    pd.testing.assert_frame_equal(
        stats.normalise(by_loss.scores), stats.normalise(by_accuracy.scores)
    )


def test_ranks_by_hand():
    # t: a 1.5, 2; b 1.5, 3; c 3 (diverged), 1.  u: b 1, c 2, a 3. As u has one seed,
    # t keeps its first.
    ranks = stats.mean_ranks(scores_lib.judge(RUNS))
    assert ranks["a"] == pytest.approx((1.5 + 3) / 2)
    assert ranks["b"] == pytest.approx((1.5 + 1) / 2)
    assert ranks["c"] == pytest.approx((3.0 + 2) / 2)
    assert list(ranks.index) == ["b", "a", "c"]


def test_ranks_are_scipys():
    comparison, values = random_scores()
    values = values.round()  # some are equal
    scores = comparison.scores.round()
    expected = scipy_stats.rankdata(-values, axis=-1)
    np.testing.assert_array_equal(stats.cube(stats.ranks(scores)), expected)


@with_rliable
def test_overall_is_rliables():
    comparison, _ = random_scores()
    found = stats.overall(comparison, reps=200)
    unit = stats.cube(stats.normalise(comparison.scores))
    ranks = stats.cube(stats.ranks(comparison.scores))
    for i, entry in enumerate(comparison.entries):
        row = found.loc[entry]
        assert row["iqm"] == pytest.approx(metrics.aggregate_iqm(unit[..., i]))
        assert row["mean"] == pytest.approx(metrics.aggregate_mean(unit[..., i]))
        assert row["rank"] == pytest.approx(ranks[..., i].mean())
        for name in ("iqm", "mean", "rank"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    assert found["rank"].is_monotonic_increasing


@with_rliable
def test_probability_of_improvement_is_rliables():
    comparison, values = random_scores()
    values[0, :, 1] = values[0, :, 0]  # equal runs count half
    comparison.scores.loc[(slice(None), 0), "e1"] = values[0, :, 1]
    found = stats.improvement(comparison, reps=100).set_index(["entry", "other"])
    for i, j in itertools.permutations(range(4), 2):
        row = found.loc[(f"e{i}", f"e{j}")]
        expected = metrics.probability_of_improvement(values[..., i], values[..., j])
        assert row["probability"] == pytest.approx(expected)
        assert row["low"] <= row["probability"] <= row["high"]
        back = found.loc[(f"e{j}", f"e{i}"), "probability"]
        assert row["probability"] + back == pytest.approx(1.0)


def test_a_diverged_run_never_improves():
    comparison, _ = random_scores(runs=2, tasks=1, entries=2)
    comparison.scores[:] = [[-np.inf, 1.0], [-np.inf, -np.inf]]
    found = stats.improvement(comparison, reps=20)
    # Of four pairs the second wins two, two are equal.
    assert list(found["probability"]) == [0.25, 0.75]


@with_rliable
def test_profiles_are_rliables():
    comparison, _ = random_scores()
    found = stats.profiles(comparison, reps=50, points=11)
    unit = stats.cube(stats.normalise(comparison.scores))
    for i, entry in enumerate(comparison.entries):
        mine = found[found["entry"] == entry]
        expected = library.score_distributions(unit[..., i], np.linspace(0, 1, 11))
        np.testing.assert_allclose(mine["share"], expected)
        assert (mine["low"] <= mine["high"]).all()


# Tests


def test_holm_by_hand():
    # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, each at least the one before.
    found = stats.holm(np.array([0.04, 0.01, 0.03, 0.02]))
    np.testing.assert_allclose(found, [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_array_equal(stats.holm(np.array([0.9, 0.8])), [1.0, 1.0])
    assert len(stats.holm(np.array([]))) == 0


@pytest.mark.parametrize("count", [1, 2, 5, 10, 13, 14, 30])
@pytest.mark.parametrize("digits", [0, 1, 8])
def test_signed_rank_test_is_scipys(count, digits):
    # Rounded, some differences are equal and some are zero.
    rng = np.random.default_rng(count)
    difference = rng.normal(0.4, 1, count).round(digits) + 0.0
    if difference.any():
        expected = scipy_stats.wilcoxon(difference[difference != 0]).pvalue
        assert stats.paired_p(difference) == pytest.approx(expected, abs=1e-12)
    assert stats.paired_p(np.zeros(count)) == 1.0


def test_infinite_differences_rank_behind_all_others():
    # As if they were very large and equal: mean rank 3.5 of 1, 2, 3.5, 3.5.
    found = stats.paired_p(np.array([1.0, -2.0, np.inf, np.inf]))
    assert found == scipy_stats.wilcoxon([1.0, -2.0, 9.0, 9.0]).pvalue
    differences = stats.differences(
        np.array([-np.inf, 1.0, -np.inf]), np.array([2.0, -np.inf, -np.inf])
    )
    assert list(differences) == [-np.inf, np.inf, 0.0]


def test_against_pairs_by_seed():
    rows = []
    for seed in range(8):
        base = seed / 10  # seeds differ more than entries do
        rows += [
            ("t", "base", seed, base, 1.0, "done"),
            ("t", "better", seed, base + 0.01 + seed / 1e3, 1.0, "done"),
            ("t", "same", seed, base, 1.0, "done"),
            ("t", "dead", seed, None, None, "diverged"),
        ]
    rows.pop(1)  # a seed that 'better' lacks is no pair
    found = stats.against(scores_lib.judge(table(rows)), "base").set_index("entry")
    assert dict(found["result"]) == {"better": "win", "dead": "loss", "same": "tie"}
    assert dict(found["pairs"]) == {"better": 7, "dead": 8, "same": 8}
    assert found.loc["better", "p"] == pytest.approx(2 / 2**7)
    assert found.loc["dead", "p"] == pytest.approx(2 / 2**8)
    assert found.loc["same", "p"] == 1.0
    assert found.loc["better", "p_holm"] == pytest.approx(2 * 2 / 2**7)
    assert found.loc["better", "better"] == 1.0
    assert found.loc["dead", "difference"] == -np.inf
    assert found.loc["better", "difference"] == pytest.approx(0.014)


# Demsar 2006, table 6: AUC of four variants of C4.5 on fourteen data sets. In the last
# row but one the third is a little better than the fourth, as the paper's ranks say.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.97501, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
)


def test_the_example_of_demsar():
    rows = [
        (f"t{t:02}", f"e{e}", 0, score, 1.0, "done")
        for (t, e), score in np.ndenumerate(DEMSAR)
    ]
    judged = scores_lib.judge(table(rows))
    ranks = stats.mean_ranks(judged).sort_index()
    np.testing.assert_allclose(ranks, [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    found = stats.friedman_p(stats.complete(judged))
    assert found == pytest.approx(scipy_stats.friedmanchisquare(*DEMSAR.T).pvalue)
    # The paper's chi-squared of 9.28 makes no correction for ties; with it p is less.
    assert scipy_stats.chi2.sf(9.28, 3) / 2 < found < scipy_stats.chi2.sf(9.28, 3)
    assert stats.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert stats.critical_difference(4, 14, alpha=0.1) == pytest.approx(1.12, abs=0.01)


@pytest.mark.parametrize(
    ("entries", "quantile"),  # Demsar 2006, table 5a
    [*enumerate([1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164], 2)],
)
def test_critical_differences_are_those_published(entries, quantile):
    found = stats.critical_difference(entries, 10)
    expected = quantile * np.sqrt(entries * (entries + 1) / 60)
    assert found == pytest.approx(expected, abs=1.5e-3)


def test_what_cannot_be_tested_is_not():
    assert np.isnan(stats.critical_difference(1, 10))
    assert np.isnan(stats.critical_difference(4, 1))
    assert np.isnan(stats.friedman_p(random_scores(tasks=1)[0]))
    assert np.isnan(stats.friedman_p(random_scores(entries=2)[0]))


def test_over_tasks_the_test_is_wilcoxons_on_means():
    comparison, _ = random_scores(tasks=8)
    found = stats.against_over_tasks(comparison, "e0")
    means = stats.normalise(comparison.scores).groupby(level="task").mean()
    for entry in ("e1", "e2", "e3"):
        expected = scipy_stats.wilcoxon(means[entry], means["e0"])
        assert found.loc[entry, "p"] == pytest.approx(expected.pvalue)
        difference = (means[entry] - means["e0"]).mean()
        assert found.loc[entry, "difference"] == pytest.approx(difference)


# In the terminal


def test_the_ranking_shows_best_first_and_names_what_diverged():
    text = reports.ranking(RUNS)
    assert text.index("\nb ") < text.index("\na ") < text.index("\nc ")
    assert "90.0, 80.0" in text  # a on t: with two seeds each
    assert "±" not in text
    assert "c on t: 1 of 2 runs" in text


def test_the_ranking_says_who_was_trained_for_less():
    line = "a on t: 40 of 90 updates"
    equal = RUNS.assign(steps=RUNS["task"].map({"t": 90, "u": 40}))
    assert "trained for less" not in reports.ranking(equal)
    mixed = RUNS.assign(steps=np.where(RUNS["method"] == "a", 40, 90))
    mixed.loc[mixed["task"] == "u", "steps"] = 7
    text = reports.ranking(mixed)
    assert text.splitlines()[-2:] == [
        "trained for less than others they are ranked with:",
        f"  {line}",
    ]


@pytest.mark.parametrize(
    ("missing", "lines"),
    [
        (lambda run: False, []),
        (lambda run: (run.task, run.entry) == ("t", "a"), ["the task t"]),
        (lambda run: (run.entry == "a") & (run.seed > 0), ["all of a"]),
        (lambda run: run.seed > 1, ["all runs but the first 2 runs of each"]),
    ],
)
def test_the_ranking_says_what_its_ranks_leave_out(missing, lines):
    rows = [
        (task, entry, seed, 0.5, 1.0, "done")
        for task, entry, seed in itertools.product("tuv", "abc", range(4))
    ]
    runs = table(rows)
    kept = [run.task == "v" or not missing(run) for run in runs.itertuples()]
    text = reports.ranking(runs[kept])
    head = "not in the mean ranks, for which all need as many runs:"
    assert (head in text) == bool(lines)
    for line in lines:
        assert f"\n  {line}" in text


def test_the_ranking_says_the_rates_that_no_name_says():
    def rates_of(rates):
        hparams = [
            {"learning_rate": rates[m](t)} if m in rates else {} for m, t in keys
        ]
        lines = reports.ranking(RUNS.assign(hparams=hparams)).splitlines()
        return [line for line in lines if line.startswith("learning_rate: ")]

    keys = list(zip(RUNS["method"], RUNS["task"], strict=True))
    two = {"a": lambda _: 0.001, "b": lambda t: 0.3 if t == "u" else 0.1}
    assert rates_of(two) == ["learning_rate: a 0.001; b 0.1 to 0.3"]
    assert rates_of({}) == []


@pytest.mark.parametrize("order", [("t", "u"), ("u", "t")])
def test_a_metric_has_the_bounds_and_the_unit_of_its_task(order):
    weight = dataclasses.replace(LOSS, unit="kg", digits=1)
    tables = {"t": (NONNEGATIVE_LOSS,), "u": (weight,)}
    known = scores_lib.known_metrics([{task: tables[task] for task in order}])
    values = (0.1, 0.2, 0.9)
    rows = [(t, "a", s, None, v, "done") for t in order for s, v in enumerate(values)]
    runs = scores_lib.judge(table(rows), known=known)
    found = stats.per_task(runs, 10, known).set_index("task")
    means = stats.summary(runs, ["valid_loss"], known).set_index("task")
    for task, (metric,) in tables.items():
        ends = stats.interval(np.array(values), metric)
        assert tuple(found.loc[task, ["mean_low", "mean_high"]]) == ends
        assert tuple(means.loc[task, ["valid_loss low", "valid_loss high"]]) == ends
    text = reports.ranking(table(rows), {task: tables[task] for task in order})
    assert "Validation loss or loss (kg), mean" in text
    assert "0.400 [" in text
    assert "0.4 [" in text


def test_the_ranking_takes_tasks_of_any_name():
    for name in ("svmlight:/a/my [weird] $a$ (set).svm", "t (sound)"):
        assert "90.0, 80.0" in reports.ranking(RUNS.replace({"task": {"t": name}}))


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
    reports.learning_curves(RUNS, curves, path)
    assert path.read_bytes().startswith(b"\x89PNG")
