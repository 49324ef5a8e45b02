import itertools

import numpy as np
import pandas as pd
import pytest

from lrjax.analysis import portfolio


def table(values):
    values = np.asarray(values, float)
    return pd.DataFrame(
        values,
        index=pd.Index([f"t{i}" for i in range(len(values))], name="task"),
        columns=pd.Index([f"e{i}" for i in range(values.shape[1])], name="entry"),
    )


def random_table(tasks, entries, seed=0):
    rng = np.random.default_rng(seed)
    return table(rng.uniform(size=(tasks, entries)).round(1))  # some are equal


def virtual_best(found, members):
    return found[list(members)].max(axis=1).mean() if members else 0.0


def test_single_and_virtual_best_by_hand():
    found = table([[0.9, 0.1, 0.2], [0.3, 0.8, 0.2], [0.5, 0.4, 0.5]])
    assert portfolio.single_best(found) == "e0"  # 1.7 against 1.3 and 0.9
    best = portfolio.virtual_best(found)
    assert list(best["entry"]) == ["e0", "e1", "e0"]
    assert best["score"].mean() == pytest.approx((0.9 + 0.8 + 0.5) / 3)


def test_axes_cannot_be_swapped():
    for function in (
        portfolio.single_best,
        portfolio.virtual_best,
        portfolio.contributions,
        portfolio.best_portfolios,
    ):
        with pytest.raises(ValueError, match="axes must be named"):
            function(random_table(3, 4).T)


def test_contributions_by_hand():
    found = portfolio.contributions(table([[0.6, 0.2, 0.0], [0.0, 0.4, 0.1]]))
    # Means over tasks: 0.3, 0.3, 0.05. The study: mean of all less mean of the rest.
    mean = (0.3 + 0.3 + 0.05) / 3
    expected = [mean - 0.175, mean - 0.175, mean - 0.3]
    np.testing.assert_allclose(found["share_of_mean"], expected)
    # Without e0 the best are 0.2 and 0.4 instead of 0.6 and 0.4, and so on.
    np.testing.assert_allclose(found["marginal"], [0.2, 0.15, 0.0])
    # First task: the step to 0.2 is shared by two, the rest is e0's alone. Second:
    # 0.1 is shared by two, the rest is e1's alone.
    expected = np.array([0.1 + 0.4, 0.1 + 0.05 + 0.3, 0.05]) / 2
    np.testing.assert_allclose(found["shapley"], expected)


@pytest.mark.parametrize("seed", range(3))
def test_shapley_values_are_means_over_all_orders(seed):
    found = random_table(4, 5, seed)
    gains = pd.Series(0.0, index=found.columns)
    orders = list(itertools.permutations(found.columns))
    for order in orders:
        for i, entry in enumerate(order):
            before = virtual_best(found, order[:i])
            gains[entry] += virtual_best(found, order[: i + 1]) - before
    shapley = portfolio.contributions(found)["shapley"]
    np.testing.assert_allclose(shapley, gains / len(orders))


def test_shapley_values_are_efficient_symmetric_and_give_nothing_for_nothing():
    found = random_table(6, 4)
    found["twin"], found["useless"] = found["e1"], 0.0
    found.columns.name = "entry"
    shapley = portfolio.contributions(found)["shapley"]
    assert shapley.sum() == pytest.approx(found.max(axis=1).mean())
    assert shapley["twin"] == pytest.approx(shapley["e1"])
    assert shapley["useless"] == 0.0


def test_an_entry_alone_contributes_all():
    found = portfolio.contributions(table([[0.5], [1.0]]))
    assert found.loc["e0", "marginal"] == 0.75
    assert found.loc["e0", "shapley"] == 0.75
    assert np.isnan(found.loc["e0", "share_of_mean"])


def test_best_portfolios_are_the_best_of_all_subsets():
    found = random_table(5, 6)
    best = portfolio.best_portfolios(found)
    assert list(best["k"]) == list(range(1, 7))
    for row in best.itertuples():
        subsets = itertools.combinations(found.columns, row.k)
        expected = max(virtual_best(found, subset) for subset in subsets)
        assert row.score == pytest.approx(expected)
        assert virtual_best(found, row.members) == pytest.approx(expected)
        assert row.search == "all subsets"


def test_portfolios_of_many_entries_grow_one_by_one():
    found = random_table(5, 18)
    best = portfolio.best_portfolios(found)
    assert set(best["search"]) == {"greedy"}
    assert best["score"].is_monotonic_increasing
    assert best["members"][0] == (portfolio.single_best(found),)
    assert best["score"].iloc[-1] == pytest.approx(found.max(axis=1).mean())
    for k in (2, 3):
        subsets = itertools.combinations(found.columns, k)
        optimum = max(virtual_best(found, subset) for subset in subsets)
        assert best["score"][k - 1] >= (1 - 1 / np.e) * optimum
    assert list(best["members"].map(len)) == list(range(1, 19))


def test_chosen_on_other_runs_the_virtual_best_of_noise_has_no_lead():
    rng = np.random.default_rng(0)
    names = [[f"t{i}" for i in range(40)], range(10)]
    index = pd.MultiIndex.from_product(names, names=["task", "run"])
    columns = pd.Index([f"e{i}" for i in range(5)], name="entry")
    scores = pd.DataFrame(rng.uniform(size=(400, 5)), index, columns)
    means = scores.groupby(level="task").mean()
    assert portfolio.virtual_best(means)["score"].mean() > 0.58
    single, virtual = portfolio.held_out(scores)
    assert virtual == pytest.approx(0.5, abs=0.03)
    assert single == pytest.approx(0.5, abs=0.03)


def test_held_out_by_hand():
    # Run 0 favours e0, run 1 favours e1: each choice is judged by the other run.
    index = pd.MultiIndex.from_product([["t"], [0, 1]], names=["task", "run"])
    columns = pd.Index(["e0", "e1"], name="entry")
    scores = pd.DataFrame([[1.0, 0.0], [0.0, 1.0]], index, columns)
    assert portfolio.held_out(scores) == (0.0, 0.0)
    assert np.isnan(portfolio.held_out(scores[:1])).all()
