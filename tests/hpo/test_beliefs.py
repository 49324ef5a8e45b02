"""Beliefs on contenders: closed forms, invariants, and plans that keep their budget."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lrjax.hpo import points, posterior, prior, proposals
from lrjax.hpo.posterior import Belief, Runs
from lrjax.hpo.prior import Candidate
from lrjax.hpo.proposals import Wanted

ACCURACY = points.Scale(1, 0.0, 1.0)
LOSS = points.Scale(-1, 0.0, math.inf)
KINDS = (points.SHARE, points.RATIO)


# Points


def test_points_of_a_loss_are_its_ratios_and_of_an_accuracy_its_differences():
    assert points.points([0.2, 0.9], ACCURACY).tolist() == pytest.approx([20, 90])
    found = points.points([2.0, 1.0, 0.5], LOSS)
    assert np.diff(found).tolist() == pytest.approx([50 * math.log(2)] * 2)
    # One per cent less is half a point, whatever the loss is.
    for loss in (1e-6, 1.0, 1e6):
        near = points.points([loss, 0.99 * loss], LOSS)
        assert near[1] - near[0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "scale",
    [ACCURACY, LOSS, points.Scale(1, -math.inf, 1.0), points.Scale(-1, -math.inf, 9)],
)
@given(
    st.lists(st.floats(-100, 100, allow_nan=False), min_size=1, max_size=6),
    st.sampled_from([math.nan, math.inf, -math.inf]),
)
@settings(max_examples=40)
def test_points_keep_the_order_and_lose_what_is_not_finite(scale, values, lost):
    found = points.points([*values, lost], scale)
    assert found[-1] == -math.inf
    assert np.isfinite(found[:-1]).all()
    order = np.argsort(scale.sign * np.array(values), kind="stable")
    assert (np.diff(found[:-1][order]) >= -1e-9).all()


def test_values_far_behind_are_clipped_to_the_third_best():
    found = points.clipped(np.array([90, 80, 70, 5, -math.inf]))
    assert found.tolist() == [90, 80, 70, 60, 60]
    assert points.clipped(np.array([50, -math.inf])).tolist() == [50, 40]
    assert points.clipped(np.array([-math.inf])).tolist() == [0]


# Posteriors


def random_belief(count, seed=0):
    draw = np.random.default_rng(seed)
    root = draw.normal(size=(count, count))
    return Belief(draw.normal(size=count), root @ root.T + np.eye(count))


def test_a_run_of_each_is_the_regression_that_books_have():
    """Differences of two contenders: the levels cancel, and shrinkage remains."""
    variance, noise, gap = 4.0, 1.0, 2.0
    runs = Runs(np.array([0, 1]), np.array([0, 0]), np.array([72.0, 72.0 - gap]))
    after = posterior.update(Belief(np.zeros(2), variance * np.eye(2)), runs, noise)
    mean, covariance = after.belief
    shrunk = gap * variance / (variance + noise)
    assert mean[0] - mean[1] == pytest.approx(shrunk, rel=1e-3)
    left = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert left == pytest.approx(2 * variance * noise / (variance + noise), rel=1e-3)


@given(st.integers(0, 10**6), st.floats(-1000, 1000))
@settings(max_examples=25)
def test_a_level_that_all_runs_share_changes_no_difference(seed, level):
    belief = random_belief(5, seed)
    draw = np.random.default_rng(seed)
    who, fold = np.array([0, 1, 2, 0, 1]), np.array([0, 0, 0, 1, 1])
    reached = draw.normal(size=5)

    def differences(values):
        found = posterior.update(belief, Runs(who, fold, values), 1.0).belief.mean
        return found - found[0]

    np.testing.assert_allclose(
        differences(reached), differences(reached + level), atol=1e-6
    )


def test_runs_in_any_order_and_one_by_one_tell_the_same():
    belief = random_belief(4)
    who, fold = np.array([0, 1, 2, 3, 1, 2]), np.array([0, 0, 0, 0, 1, 1])
    reached = np.array([3.0, 1.0, 2.0, 2.5, 1.5, 2.5])
    whole = posterior.update(belief, Runs(who, fold, reached), 2.0).belief
    order = np.array([5, 2, 0, 4, 1, 3])
    again = posterior.update(
        belief, Runs(who[order], fold[order], reached[order]), 2.0
    ).belief
    np.testing.assert_allclose(whole.mean, again.mean, atol=1e-9)
    np.testing.assert_allclose(whole.covariance, again.covariance, atol=1e-9)
    # No run makes anything less certain, and covariances stay such.
    assert (np.diag(whole.covariance) <= np.diag(belief.covariance) + 1e-9).all()
    assert np.linalg.eigvalsh(whole.covariance).min() > -1e-9


def test_a_run_says_something_of_contenders_that_behave_alike():
    alike = np.array([[4.0, 3.6, 0.0], [3.6, 4.0, 0.0], [0.0, 0.0, 4.0]])
    runs = Runs(np.array([0, 2]), np.array([0, 0]), np.array([9.0, 3.0]))
    found = posterior.update(Belief(np.zeros(3), alike), runs, 1.0).belief.mean
    assert found[0] > found[1] > 0 > found[2]


def test_the_best_measured_of_many_is_believed_less_than_it_shows():
    """The winner's curse: the truth is normal, and so is what is believed of it."""
    draw = np.random.default_rng(0)
    off, inside = [], []
    for seed in range(300):
        truth = draw.normal(0, 1.0, size=30)
        reached = truth + draw.normal(0, 2.0, size=30)
        runs = Runs(np.arange(30), np.zeros(30, int), reached)
        after = posterior.update(Belief(np.zeros(30), np.eye(30)), runs, 4.0).belief
        best = int(after.mean.argmax())
        centre = truth - truth.mean()
        off.append(after.mean[best] - after.mean.mean() - centre[best])
        inside.append(posterior.chances(after).best[best] if seed < 60 else np.nan)
    assert abs(np.mean(off)) < 3 * np.std(off) / math.sqrt(len(off))
    assert 0.05 < np.nanmean(inside) < 0.5


def test_chances_of_two_are_those_of_a_normal_difference():
    belief = Belief(np.array([0.0, -1.0]), np.array([[2.0, 0.5], [0.5, 1.0]]))
    found = posterior.chances(belief)
    spread = math.sqrt(2 + 1 - 2 * 0.5)
    assert found.best.sum() == pytest.approx(1)
    assert found.best[0] == pytest.approx(stats.norm.cdf(1 / spread), abs=0.03)
    near = stats.norm.cdf((1 + posterior.NEAR) / spread)
    assert found.near[0] == pytest.approx(near, abs=0.03)
    assert (posterior.chances(belief).best == found.best).all()


# Priors


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_known_is_whole(kind):
    known = prior.known(kind)
    tasks, contenders = known.regret.shape
    assert tasks >= 200
    assert contenders == len(known.methods) == len(known.rates)
    assert known.described.shape == (tasks, len(known.features))
    assert np.isfinite(known.described).all()
    assert (known.regret <= 0).all()
    assert (known.regret >= -points.CLIP).all()
    assert known.regret.max(1).tolist() == [0] * tasks  # somebody is best
    np.testing.assert_allclose(known.residual, known.residual.T, atol=1e-2)
    assert np.linalg.eigvalsh(known.residual).min() > 0
    assert all(value >= 0 for value in known.noise)
    assert prior.FILE.stat().st_size < 300_000


def everyone(known):
    pairs = zip(known.methods, known.rates, strict=True)
    return [Candidate(str(method), float(rate)) for method, rate in pairs]


@pytest.mark.parametrize("kind", KINDS)
def test_a_known_task_is_expected_to_be_as_it_was(kind):
    """On the tasks themselves the prior errs less than the mean of all does."""
    known = prior.known(kind)
    names, candidates = known.features, everyone(known)
    ours, theirs = [], []
    for i in range(0, len(known.regret), 25):
        described = dict(zip(names, known.described[i], strict=True))
        found = prior.believe(known, candidates, described)
        ours.append(np.square(found.belief.mean - known.regret[i]).mean())
        theirs.append(np.square(known.regret.mean(0) - known.regret[i]).mean())
        assert not found.unlike or found.novelty > 0.5
        assert sum(each.share for each in found.similar) <= 1 + 1e-9
    assert np.mean(ours) < 0.7 * np.mean(theirs)


def test_a_task_unlike_all_others_is_said_to_be_and_believed_to_be_average():
    known = prior.known(points.SHARE)
    strange = dict.fromkeys(known.features, 1e6)
    for i, name in enumerate(known.features):
        strange[name] *= -1 if i % 2 else 1
    found = prior.believe(known, everyone(known), strange)
    assert found.unlike
    assert found.novelty > 0.9
    np.testing.assert_allclose(found.belief.mean, known.regret.mean(0), atol=2.0)
    plain = prior.believe(known, everyone(known))
    np.testing.assert_allclose(plain.belief.mean, known.regret.mean(0))
    assert not plain.similar


def test_rates_between_known_ones_are_between_them_and_less_certain():
    known = prior.known(points.SHARE)
    grid = [0.01, 0.1]
    found = prior.believe(
        known, [Candidate("adamw_cosine", rate) for rate in (*grid, 10**-1.5)]
    ).belief
    assert found.mean[2] == pytest.approx(found.mean[:2].mean(), abs=1e-6)
    between = found.covariance[:2, :2].mean()
    assert found.covariance[2, 2] == pytest.approx(between + 4, rel=1e-6)
    # A rate beyond all known ones is believed as the last one, with less certainty.
    far = prior.believe(known, [Candidate("adamw_cosine", 1e9)]).belief
    assert far.covariance[0, 0] > 100


def test_nothing_is_known_of_a_users_own_method():
    known = prior.known(points.SHARE)
    own, other = Candidate("your own", 0.1, usual=False), Candidate("adam", 0.01)
    changed = Candidate("adam", 0.01, usual=False)
    found = prior.believe(known, [own, other, changed]).belief
    spread = np.sqrt(np.diag(found.covariance))
    assert spread[0] == 5
    assert found.covariance[0, 1] == 0
    assert spread[2] > spread[1]
    assert found.mean[1] == found.mean[2]


# A user's own bake-offs


def past_of(known, values, **changes):
    keys = [
        prior.key_of(str(method), rate)
        for method, rate in zip(known.methods, known.rates.tolist(), strict=True)
    ]
    described = dict.fromkeys(known.features, 1e5)
    fields = {
        "family": "your mine",
        "kind": known.kind,
        "described": described,
        "scores": dict(zip(keys, values.tolist(), strict=True)),
    }
    return prior.Past(**fields | changes)


def test_a_task_like_one_of_ones_own_is_believed_to_be_as_that_was():
    known = prior.known(points.SHARE)
    values = np.full(len(known.methods), -9.0)
    values[17] = 0.0
    past = past_of(known, values)
    table = prior.extend(known, [past, past])
    assert table.families[-1] == "your mine"
    before = prior.believe(known, everyone(known), past.described)
    found = prior.believe(table, everyone(table), past.described)
    assert before.unlike
    assert not found.unlike
    assert found.similar[0].family == "your mine"
    assert int(found.belief.mean.argmax()) == 17


def test_what_says_too_little_of_a_task_is_not_used():
    known = prior.known(points.SHARE)
    values = np.zeros(len(known.methods))
    few = dict(list(past_of(known, values).scores.items())[:60])
    for changes in (
        {"scores": few},
        {"kind": points.RATIO},
        {"described": {"loss": 1.0}},
    ):
        table = prior.extend(known, [past_of(known, values, **changes)])
        assert len(table.regret) == len(known.regret)


# Plans


COUNT = 12


def judge_of(seed=0, folds=2):
    believed = prior.Prior(random_belief(COUNT, seed), (), 1.0, False)
    return proposals.Judge(believed, folds, (1.0, 0.5), 100)


def hold(judge, plan, reach):
    """Train all that a plan asks for; the stages and the measurements."""
    measured, stages = {}, []
    while wanted := proposals.further(judge, plan, measured):
        assert len(set(wanted)) == len(wanted)
        assert not set(wanted) & set(measured)
        stages.append(wanted)
        measured |= {each: reach(each) for each in wanted}
        assert len(stages) < 50
    return stages, measured


@given(
    st.sampled_from(proposals.WAYS),
    st.integers(0, 40),
    st.integers(0, 3),
    st.lists(st.integers(0, COUNT - 1), max_size=4),
    st.integers(0, 1000),
    st.floats(0, 1),
)
@settings(max_examples=150)
def test_no_way_trains_more_than_its_budget(how, runs, each, first, seed, losing):
    judge, draw = judge_of(seed), np.random.default_rng(seed)
    if how == proposals.BAKEOFF:
        runs += COUNT * max(each, 1)
    elif how == proposals.RACE:
        runs += 2 * max(each, 1)
    plan = proposals.plan(how, judge.prior, first, runs, each)

    def reach(wanted):
        return -math.inf if draw.uniform() < losing else float(draw.normal(70, 3))

    _, measured = hold(judge, plan, reach)
    assert len(measured) <= max(runs, each if how == proposals.PRIOR else 0)
    entered = {wanted.who for wanted in measured}
    if how == proposals.RACE:
        assert len(entered) >= min(2, COUNT)
        assert set(first[: len(plan.entries)]) <= entered
        assert len(measured) == runs or each or all(map(math.isinf, measured.values()))
    if how == proposals.BAKEOFF:
        assert len(entered) == COUNT
    if each and how != proposals.PRIOR:
        assert set(measured) == {Wanted(i, k) for i in entered for k in range(each)}
    found = proposals.answer(judge, plan, measured)
    reached = [wanted.who for wanted, value in measured.items() if value > -math.inf]
    lost = {wanted.who for wanted, value in measured.items() if value == -math.inf}
    if measured and set(reached) <= lost:
        assert found is None
    else:
        assert found.winner in (set(reached) - lost or set(range(COUNT)))
        assert sum(found.best.values()) == pytest.approx(1)
        assert 0 <= found.near <= 1


def test_who_is_alike_to_one_that_enters_enters_later():
    """Three of a kind, all expected to be better than one of another kind."""
    alike = np.full((4, 4), 4.0)
    alike[3, :3] = alike[:3, 3] = 0
    belief = Belief(np.array([0.0, -0.1, -0.2, -0.5]), alike + 0.01 * np.eye(4))
    believed = prior.Prior(belief, (), 0.1, False)
    assert proposals.plan(proposals.RACE, believed, (), 2).entries == (0, 3)
    assert proposals.plan(proposals.RACE, believed, (2, 2), 2).entries == (2, 3)
    assert proposals.plan(proposals.RACE, believed, (1, 2, 0), 2).entries == (1, 2)


def test_a_small_race_trains_others_and_a_larger_one_its_leaders_again():
    judge = judge_of()
    for runs, again in ((2, 0), (4, 0), (8, 2), (16, 4)):
        plan = proposals.plan(proposals.RACE, judge.prior, (), runs)
        stages, measured = hold(judge, plan, lambda wanted: 70.0 + wanted.who)
        assert len(stages[0]) == max(2, runs // 2)
        most = min(runs - again, COUNT)
        assert len({wanted.who for wanted in measured}) == most
        assert sum(wanted.run > 0 for wanted in measured) == runs - most


@given(st.floats(0, 1), st.floats(-5, 5), st.floats(-5, 5))
def test_log_odds_are_added(chance, one, other):
    shifted = posterior.shifted(chance, one)
    assert 0 <= shifted <= 1
    both = posterior.shifted(shifted, other)
    assert both == pytest.approx(posterior.shifted(chance, one + other), abs=1e-9)
    if 1e-6 < chance < 1 - 1e-6:
        odds = math.log(shifted / (1 - shifted)) - math.log(chance / (1 - chance))
        assert odds == pytest.approx(one, abs=1e-6)
    else:
        assert (shifted == chance) or 0 < chance < 1


def test_being_near_is_said_as_often_as_it_came_true_on_known_tasks():
    """By other odds where at most one contender was trained: that is the prior."""
    judge = judge_of()
    plan = proposals.plan(proposals.RACE, judge.prior, (), 4)
    _, measured = hold(judge, plan, lambda wanted: 80 - wanted.who)
    first = next(iter(measured))
    raised = judge._replace(near_odds=(0.2, 0.7))
    cases = (({}, 0.2), ({first: measured[first]}, 0.2), (measured, 0.7))
    for runs, odds in cases:
        plain = proposals.answer(judge, plan, runs)
        found = proposals.answer(raised, plan, runs)
        assert 0 < plain.near < 1
        assert found.near == pytest.approx(posterior.shifted(plain.near, odds))
        assert (found.winner, found.best) == (plain.winner, plain.best)


def test_a_prior_that_is_confidently_wrong_gives_way():
    """What was expected to be best is far behind: it is not believed to be best."""
    believed = prior.Prior(
        Belief(np.linspace(0, -8, COUNT), 0.25 * np.eye(COUNT)), (), 0.1, False
    )
    judge = proposals.Judge(believed, 2, (1.0, 0.0), 100)
    plan = proposals.plan(proposals.RACE, believed, (0, COUNT - 1), 8)
    truth = np.linspace(-8, 0, COUNT)
    stages, measured = hold(judge, plan, lambda wanted: 80 + truth[wanted.who])
    begun = {wanted: measured[wanted] for wanted in stages[0]}
    assert proposals.surprising(judge, plan, begun)
    assert proposals.answer(judge, plan, measured).winner == COUNT - 1
    # And where it is right, nothing surprises.
    stages, measured = hold(judge, plan, lambda wanted: 80 - wanted.who * 8 / COUNT)
    begun = {wanted: measured[wanted] for wanted in stages[0]}
    assert not proposals.surprising(judge, plan, begun)
    assert proposals.answer(judge, plan, measured).winner == 0


def test_runs_that_are_far_apart_scale_what_is_believed():
    """The factor by maximum likelihood, beside a wide prior: close to closed form."""
    count, noise, spread = 40, 0.5, 3.0
    draw = np.random.default_rng(1)
    reached = draw.normal(0, spread, size=count)
    runs = Runs(np.arange(count), np.zeros(count, int), reached)
    small = Belief(np.zeros(count), 0.25 * np.eye(count))
    found = posterior.scaled(small, runs, noise)
    right = posterior.update(small._replace(covariance=9 * np.eye(count)), runs, noise)
    np.testing.assert_allclose(found.belief.mean, right.belief.mean, atol=0.15 * spread)
    assert found.surprise > 2
    # As expected: nothing is scaled.
    usual = Belief(np.zeros(count), spread**2 * np.eye(count))
    found = posterior.scaled(usual, runs, noise)
    same = posterior.update(usual, runs, noise)
    np.testing.assert_allclose(found.belief.mean, same.belief.mean)


def test_a_fitted_rate_is_the_vertex_of_a_parabola():
    rates = [1e-3, 1e-2, 1e-1, 1.0]
    candidates = [Candidate("sgd", rate) for rate in rates] + [Candidate("dog")]
    vertex = -1.6
    mean = np.array([-2 * (math.log10(r) - vertex) ** 2 for r in rates] + [-9.0])
    measured = {Wanted(i, 0): 80 + float(mean[i]) for i in range(5)}
    belief = Belief(mean, np.eye(5))
    (found,) = proposals.fits(candidates, belief, measured)
    assert found.like == 1
    assert math.log10(found.rate) == pytest.approx(vertex, abs=0.01)
    # Another method's rates are not on its parabola.
    others = [Candidate("your own", rate) for rate in rates]
    both = Belief(np.append(mean, mean[:4] - 3), np.eye(9))
    more = {**measured, **{Wanted(5 + i, 0): 77 + float(mean[i]) for i in range(4)}}
    first, second = proposals.fits([*candidates, *others], both, more)
    assert first.rate == second.rate == found.rate
    assert (first.like, second.like) == (1, 6)
    # At the end of the range, or next to a known rate, there is nothing to fit.
    for shift in (-3.0, -1.95):
        mean = np.array([-2 * (math.log10(r) - shift) ** 2 for r in rates] + [-99.0])
        assert not proposals.fits(candidates, Belief(mean, np.eye(5)), measured)
    lost = {**measured, Wanted(1, 0): -math.inf}
    assert not proposals.fits(candidates, Belief(belief.mean, np.eye(5)), lost)
