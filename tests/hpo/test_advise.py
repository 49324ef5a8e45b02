"""Advice on expensive tasks: within its share, resumable, honest of what it knows."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import lrjax
from lrjax import config as config_lib
from lrjax import methods, own, results, tasks
from lrjax.core import Task, UsageError
from lrjax.hpo import adviser, ladders, lengths, points, posterior, prior, recipes
from lrjax.hpo.lengths import Lengths, Peak
from lrjax.hpo.posterior import Belief
from lrjax.methods import METHODS
from lrjax.reports import advised
from lrjax.reports.study import Options, read_study

ROOT = Path(__file__).parents[2]
NAMED = ["nadamw_cosine", "schedule_free_adamw"]
IRIS = {"spend": 0.5, "methods": NAMED, "steps": 800, "log": lambda _: None}
CONFIG = (
    "--config=configs/libsvm.py:iris",
    f"--config.select.methods={','.join(NAMED)}",
    "--config.steps=800",
    "--config.advise.spend=0.5",
)


def quadratic(name="own/bowl", bend=10.0):
    """Half of `bend` times the square of a number: SGD is best at 1 / bend."""
    rows = {"x": jnp.zeros((8, 1))}

    def evaluate(params, state, batch):
        loss = 0.5 * bend * params**2
        return {"loss": loss * batch["mask"].sum(), "count": batch["mask"].sum()}

    def loss(params, state, key, batch):
        return 0.5 * bend * params**2, (state, {})

    return Task(
        name, rows, rows, rows, lambda key: (jnp.ones(()), ()), loss, evaluate, 4
    )


# What short runs say


def peak_of(logs, reached):
    found = lengths.peak(list(logs), list(reached))
    assert found is not None
    return found


def test_the_peak_is_that_of_a_curve_with_a_known_one():
    logs = np.arange(-4, 0.1, 0.5)
    for best in (-3.0, -2.2, -1.5, -1.3):
        found = peak_of(logs, -5 * (logs - best) ** 2)
        assert found.log_rate == pytest.approx(best, abs=0.05)


@pytest.mark.parametrize("lost", [math.nan, -math.inf])
def test_runs_that_were_lost_are_no_peak(lost):
    found = peak_of([-3.0, -2.0, -1.0], [50.0, 60.0, lost])
    assert found.log_rate == pytest.approx(-2, abs=1e-3)
    assert found.variance < 0.01
    assert lengths.peak([-3.0, -2.0], [lost, lost]) is None


def test_a_ladder_that_says_nothing_counts_for_little():
    flat = peak_of([-3.0, -2.5, -2.0], [70.0, 70.0, 70.0])
    sharp = peak_of([-3.0, -2.5, -2.0], [50.0, 70.0, 50.0])
    before = Peak(-4.0, 0.2)
    assert flat.joined(before).log_rate < -3.0
    assert sharp.joined(before).log_rate == pytest.approx(-2.5, abs=1e-3)


@given(st.floats(-6, 2), st.floats(0.05, 4), st.floats(-6, 2), st.floats(0.05, 4))
def test_two_beliefs_together_are_the_product_of_their_densities(a, v, b, w):
    joined = Peak(a, v).joined(Peak(b, w))
    x = np.linspace(-8, 4, 7)
    left = stats.norm.logpdf(x, a, v**0.5) + stats.norm.logpdf(x, b, w**0.5)
    left -= stats.norm.logpdf(x, joined.log_rate, joined.variance**0.5)
    assert left == pytest.approx(left[0], abs=1e-6)


def test_a_run_of_the_full_length_moves_nothing_and_longer_ones_have_smaller_rates():
    known = lengths.known()
    for name in METHODS:
        assert known.move(name, 1.0) == Peak(0.0, 0.0)
    moves = [known.move("nadamw_cosine", ratio) for ratio in (10, 100, 1000)]
    assert 0 > moves[0].log_rate > moves[1].log_rate > moves[2].log_rate
    assert moves[0].variance <= moves[1].variance <= moves[2].variance
    assert known.move("nobody's", 100) == known.move("", 100)


@given(st.integers(0, 10**6), st.integers(0, 4), st.integers(1, 10**6))
def test_ladders_cost_no_more_than_there_is(updates, count, full):
    found = ladders.affordable(updates, count, full)
    least = min(ladders.LEAST, full)
    if found is None:
        assert count == 0 or updates < 3 * least
        return
    assert found.cost <= updates
    assert least <= found.updates <= full
    assert found.methods <= count


@given(st.floats(-6, 2), st.sampled_from([3, 5]))
def test_a_ladder_is_around_what_is_expected_within_what_makes_sense(middle, count):
    rates = ladders.rungs(Peak(middle, 0.1), count)
    assert len(rates) == count
    assert abs(math.log10(rates[count // 2]) - middle) <= 0.26
    within = ladders.rungs(Peak(middle, 0.1), count, [-5.0, 0.0])
    assert min(within) >= 0.99e-5
    assert max(within) <= 1.01


# What is advised


LENGTHS = Lengths({"": 0.0}, {"": 0.0}, (0.1, 0.0), {points.SHARE: (2.0, 2.0)})


def entries_of(belief, *named):
    """Methods without a rate, each one contender."""
    entries = [recipes.Entry(name, (i,)) for i, name in enumerate(named)]
    return entries, posterior.draws(belief)


def test_probabilities_are_those_of_normal_beliefs():
    belief = Belief(np.array([0.0, -1.0]), np.eye(2))
    entries, reached = entries_of(belief, "a", "b")
    given = recipes.advise(reached, entries, {}, [0, 1], LENGTHS, points.SHARE)
    assert [each.method for each in given] == ["a", "b"]
    ahead = stats.norm(1.0, 2**0.5)
    assert given[0].best == pytest.approx(1 - ahead.cdf(0), abs=0.03)
    near = 1 - ahead.cdf(-posterior.NEAR)
    assert given[0].near == pytest.approx(near, abs=0.03)
    assert sum(each.best for each in given) == pytest.approx(1)


def test_the_first_is_the_best_and_others_are_those_that_may_be_better():
    # The second is as the first, the third is worse but another kind.
    alike = np.array([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 4.0]])
    belief = Belief(np.array([0.0, -0.1, -0.5]), alike)
    entries, reached = entries_of(belief, "a", "twin", "other")
    given = recipes.advise(reached, entries, {}, [0, 1, 2], LENGTHS, points.SHARE)
    assert [each.method for each in given] == ["a", "twin", "other"]
    few = recipes.advise(reached, entries, {}, [1, 2], LENGTHS, points.SHARE)
    assert [each.method for each in few] == ["twin", "other"]


def test_a_sure_rate_is_advised_and_an_unsure_one_with_those_beside_it():
    entries = [recipes.Entry("adam", (0, 1), (-4.0, 0.0))]
    reached = np.zeros((2000, 1))
    for variance in (1e-6, 0.3):
        given = recipes.advise(
            reached, entries, {0: Peak(-2.0, variance)}, [0], LENGTHS, points.SHARE
        )
        assert given[0].log_rate == -2.0
        assert {each.log_rate for each in given} == {-2.5, -2.0, -1.5}
        assert (given[0].near > 0.99) == (variance < 0.1)


def test_nothing_beyond_the_rates_of_a_method_is_advised():
    entries = [recipes.Entry("adam", (0, 1), (-4.0, -2.0))]
    peaks = {0: Peak(-1.0, 0.1)}
    given = recipes.advise(
        np.zeros((2000, 1)), entries, peaks, [0], LENGTHS, points.SHARE
    )
    assert max(each.log_rate for each in given) == -2.0


def test_where_nothing_is_alike_the_method_that_works_on_most_is_advised():
    names = ("adam", "nadamw_cosine", "dog", "mine")
    entries = [
        recipes.Entry(name, (i,), () if name == "dog" else (-2.0,), name != "mine")
        for i, name in enumerate(names)
    ]
    found = recipes.considered(entries, unlike=True)
    assert {names[i] for i in found} == {"nadamw_cosine", "mine"}
    assert recipes.considered(entries, unlike=False) == [0, 1, 2, 3]
    without = [entries[0], entries[2]]
    assert recipes.considered(without, unlike=True) == [0, 1]


def test_a_users_own_method_has_a_ladder_before_others():
    entries = [
        recipes.Entry("adam", (0,), (-2.0,)),
        recipes.Entry("mine", (1,), (-2.0,), known=False),
        recipes.Entry("dog", (2,)),
    ]
    reached = np.tile([0.0, -9.0, 0.0], (10, 1))
    assert recipes.laddered(reached, entries) == [1, 0]


def test_the_method_that_works_on_most_tasks_has_a_ladder_and_is_among_the_three():
    names = ("adam", "sgd", "nadamw_cosine")
    entries = [recipes.Entry(name, (0,), (-2.0,)) for name in names]
    reached = np.tile([0.0, -1.0, -5.0], (2000, 1))
    assert recipes.laddered(reached, entries) == [0, 2, 1]
    peaks = dict.fromkeys(range(3), Peak(-2.0, 0.1))
    given = recipes.advise(reached, entries, peaks, [0, 1, 2], LENGTHS, points.SHARE)
    assert given[0].method == "adam"
    assert "nadamw_cosine" in [each.method for each in given]


# On tasks


@pytest.fixture(scope="module")
def advice(tmp_path_factory):
    folder = tmp_path_factory.mktemp("advised")
    return lrjax.advise("libsvm/iris", workdir=folder, **IRIS), folder


def content_of(folder):
    return json.loads((folder / "advice.json").read_text())


def test_the_advice(advice):
    found, folder = advice
    assert len(found.recipes) == 3
    assert {each.method for each in found.recipes} <= set(NAMED)
    trained = int(found.runs["steps"].sum())
    assert len(found.runs) == 10 == sum(len(each.rates) for each in found.ladders)
    assert set(found.runs["method"]) == {f"advise:{name}" for name in NAMED}
    assert set(found.curves["run_id"]) == set(found.runs["run_id"])
    # Each is a run of its own length, with its schedule in that.
    assert set(found.runs["steps"]) == {found.updates}
    looking = round(found.cost * 800) - trained
    assert 0 < looking <= 38
    assert trained + looking <= 0.5 * 800
    values = [value for ladder in found.ladders for value in ladder.values]
    assert sorted(found.runs["valid_accuracy"]) == pytest.approx(sorted(values))
    (written,) = content_of(folder)
    assert [each["label"] for each in written["recipes"]] == [
        each.label for each in found.recipes
    ]
    text = str(found)
    assert sum(each.best for each in found.recipes) == pytest.approx(1)
    assert f"best of these with probability {100 * found.recipes[0].best:.0f}" in text
    assert all(each.label in text and each.snippet for each in found.recipes)
    assert f"distance {found.novelty:.2f}" in text
    assert "50 % allowed" in text


def test_the_snippet_trains(advice):
    found, _ = advice
    code = found.recipes[0].snippet.split("opt_state = tx.init(params)")[0]
    scope, ones = {}, jnp.ones(2)
    with jax.numpy_dtype_promotion("standard"):  # as where it is copied to
        exec(code, scope)
        updates, _ = scope["tx"].update(ones, scope["tx"].init(ones), ones)
    assert np.isfinite(updates).all()


@pytest.mark.parametrize("kept", [0, 3, 9])
def test_one_that_was_killed_resumes_to_the_same_advice(advice, tmp_path, kept):
    _, folder = advice
    shutil.copytree(folder, tmp_path / "again")
    for name in (results.RUNS, results.CURVES):
        whole = (folder / name).read_text().splitlines(keepends=True)
        (tmp_path / "again" / name).write_text("".join(whole[:kept]))
    (tmp_path / "again" / "advice.json").unlink()
    lrjax.advise("libsvm/iris", workdir=tmp_path / "again", **IRIS)
    assert content_of(tmp_path / "again") == content_of(folder)
    ids = [
        {json.loads(line)["run_id"] for line in path.read_text().splitlines()}
        for path in (folder / results.RUNS, tmp_path / "again" / results.RUNS)
    ]
    assert ids[0] == ids[1]


@pytest.mark.slow  # another process
def test_another_process_gives_the_same_by_the_command_line(advice, tmp_path):
    _, folder = advice
    said = subprocess.run(
        [
            *(sys.executable, "main.py", "--mode=advise", *CONFIG),
            f"--workdir={tmp_path}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert said.returncode == 0, said.stderr
    assert content_of(tmp_path) == content_of(folder)
    first = content_of(folder)[0]["recipes"][0]["label"]
    assert first in said.stdout


def test_the_page_has_the_recipes(advice, tmp_path):
    found, folder = advice
    page = found.report(tmp_path / "page").read_text()
    assert found.recipes[0].label in page
    assert "Advised" in page
    (read,) = advised.read([folder])
    assert read["horizon"] == 800
    # Short runs are no comparison of methods.
    assert "There are no full runs to compare" in page
    assert "mean rank" not in page


def test_short_runs_are_not_ranked_among_full_ones(advice, tmp_path):
    _, folder = advice
    shutil.copytree(folder, tmp_path / "mixed")
    runs = (tmp_path / "mixed" / "runs.jsonl").open("a")
    with runs:
        row = json.loads((folder / "runs.jsonl").read_text().splitlines()[0])
        runs.write(json.dumps(row | {"run_id": "0" * 16, "method": "adam"}) + "\n")
    study = read_study([tmp_path / "mixed"], Options())
    assert set(study.all_runs["method"]) == {"adam"}


def test_a_damaged_answer_is_said_in_a_line(advice, tmp_path):
    _, folder = advice
    content = content_of(folder)
    content[0]["recipes"] = []
    (tmp_path / "advice.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"advice\.json is damaged"):
        advised.read([tmp_path])


def test_the_best_rate_of_a_quadratic_is_found():
    found = lrjax.advise(
        quadratic(bend=10.0), 1.0, ["sgd"], steps=400, log=lambda _: None
    )
    (ladder,) = found.ladders
    assert ladder.best == pytest.approx(0.1, rel=0.01)
    assert found.recipes[0].method == "sgd"
    assert found.unlike
    assert "unlike all of them" in str(found)
    assert "no probabilities" in str(found)
    assert "trust the choice among methods little" in " ".join(str(found).split())
    safe = lrjax.advise(quadratic(), 1.0, steps=400, log=lambda _: None)
    assert {each.method for each in safe.recipes} == {"nadamw_cosine"}
    assert len({each.rate for each in safe.recipes}) == 3
    assert "what works on most: NadamW" in " ".join(str(safe).split())
    assert all(math.isnan(each.near) for each in found.recipes)
    assert found.cost <= 1


def test_a_share_that_pays_for_no_short_runs_is_said():
    found = lrjax.advise("libsvm/iris", 0.01, NAMED, steps=1000, log=lambda _: None)
    assert found.ladders == ()
    assert found.cost == 0
    assert found.described is None
    assert "known tasks  all count alike: " in str(found)
    assert "distance" not in str(found)
    assert len(found.runs) == len(found.curves) == 0
    assert len(found.recipes) == 3
    assert "pays for no short runs" in str(found)


def test_a_users_own_method_is_laddered_and_among_the_three():
    def sgd_as_mine(learning_rate=0.1):
        return optax.sgd(learning_rate)

    mine = own.method_of(sgd_as_mine, space={"learning_rate": (1e-3, 1.0)})
    found = lrjax.advise(
        "libsvm/iris", 0.6, [mine, "adam", "dog"], steps=800, log=lambda _: None
    )
    assert [each.method for each in found.ladders] == [mine.name, "adam"]
    assert mine.name in [each.method for each in found.recipes]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"spend": 0}, "config.advise.spend=0.0: must be above 0 and at most 1"),
        ({"spend": 1.5}, "must be above 0 and at most 1"),
        ({"spend": -1}, "must be above 0 and at most 1"),
        ({"spend": math.nan}, "config.advise.spend"),
        ({"spend": "all"}, "advise: spend must be a number, not 'all'"),
        ({"spend": True}, "advise: spend must be a number"),
        ({"task": None}, "advise: task must be a lrjax.Task"),
        ({"methods": ["addam"]}, "did you mean 'adam'"),
        ({"steps": 1.5}, "advise: steps must be a whole number"),
        ({"steps": 0}, "steps"),
        ({"workdir": 3}, "advise: workdir must be a path"),
        ({"log": 3}, "advise: log must be a function"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(asked, words):
    plain = {"task": "libsvm/iris", "methods": ["adam"], "log": lambda _: None}
    with pytest.raises(UsageError, match=words) as caught:
        lrjax.advise(**{**plain, **asked})
    assert "\n" not in str(caught.value)


def case_of(steps, *names, spend=1e-6):
    config = config_lib.base()
    config.tasks, config.methods, config.steps = ("libsvm/iris",), ("adam",), steps
    config.advise.spend = spend
    settings = config_lib.check(config)
    task = tasks.make_task("libsvm/iris", tasks.TaskOptions())
    chosen = [methods.find(name) for name in names]
    named = len(names) < len(METHODS)
    return adviser.lay_out("libsvm/iris", task, chosen, settings, named, lambda _: None)


def test_the_order_in_which_methods_are_named_changes_nothing():
    names = ("sgd", "adam", "momentum")
    one, other = (case_of(400, *order, spend=0.9) for order in (names, names[::-1]))
    assert one.rungs == other.rungs
    assert [each.tolist() for each in one.prior.belief] == [
        each.tolist() for each in other.prior.belief
    ]


def test_a_method_whose_short_runs_were_all_lost_is_left_out(tmp_path):
    case = case_of(2000, *NAMED, spend=0.5)
    first = case.rungs[0].entry
    values = [math.nan if rung.entry == first else 0.9 for rung in case.rungs]
    found = adviser.conclude(case, values, tmp_path)
    assert {each.method for each in found.recipes} == {case.entries[1 - first].method}
    assert "all were lost" in str(found)
    with pytest.raises(UsageError, match="all of 10 short runs diverged"):
        adviser.conclude(case, [math.nan] * len(values), tmp_path)


def test_who_is_known_by_no_table_is_advised_only_if_named():
    case = case_of(50, *METHODS)
    known = set(prior.known(points.SHARE).methods)
    assert {entry.method for entry in case.entries} <= known
    assert all(entry.known for entry in case.entries)


def test_rates_of_runs_longer_than_all_known_ones_are_moved():
    peaks = [case_of(steps, "adam").peaks[0] for steps in (40_000, 4_000_000)]
    move = lengths.known().move("adam", 100)
    assert peaks[1].log_rate == pytest.approx(peaks[0].moved(move).log_rate, abs=0.01)
    assert peaks[1].log_rate < peaks[0].log_rate
    assert peaks[1].variance > peaks[0].variance


def test_tasks_with_runs_of_full_length_are_known():
    past = lengths.past()
    table = prior.known(points.SHARE)
    more = prior.extend(table, past, 0.5)
    assert len(more.regret) - len(table.regret) == sum(
        each.kind == points.SHARE for each in past
    )
    longest = [each.described["log_updates"] for each in past]
    assert min(longest) >= math.log(20_000) - 1e-3


@pytest.mark.slow  # reads all that was measured
def test_what_is_shipped_is_what_was_learned_of_the_tables():
    benchmark = pytest.importorskip("benchmarks.lengths", reason="not in the package")
    tables = [
        table
        for kind in (points.SHARE, points.RATIO)
        for table in benchmark.read(ROOT / "results" / "lengths.zip", kind)
    ]
    found = benchmark.fit([table for table in tables if not table.judges])
    shipped = lengths.known()
    assert found.first.keys() == shipped.first.keys()
    for ours, theirs in zip(found[:2], shipped[:2], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
    assert found.variance == pytest.approx(shipped.variance, rel=1e-5)
    for kind, bend in found.bend.items():
        assert bend == pytest.approx(shipped.bend[kind], rel=1e-5)
