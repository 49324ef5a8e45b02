"""Hosts get shares of about the same length, and few of them compile each program."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrjax import config as config_lib
from lrjax.launch import blocks, deal

ITEMS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 10**12)), max_size=60
)


def loads(dealt, costs):
    return [sum(costs[i] for i in share) for share in dealt]


def longest_first(costs, count):
    """The longest share if each item goes to the share with the least."""
    found = [0] * count
    for cost in sorted(costs, reverse=True):
        found[found.index(min(found))] += cost
    return max(found)


@given(ITEMS, st.integers(1, 9))
def test_each_item_has_one_share_and_none_is_much_longer_than_it_must_be(items, count):
    programs, costs = [p for p, _ in items], [c for _, c in items]
    dealt = deal.deal(programs, costs, count)
    assert len(dealt) == count
    assert sorted(i for share in dealt for i in share) == list(range(len(items)))
    assert all(share == sorted(share) for share in dealt)
    greedy = longest_first(costs, count)
    assert max(loads(dealt, costs)) <= 1.05 * greedy
    fair = sum(costs) / count  # no deal is below it, nor below the longest item
    assert max(loads(dealt, costs)) <= 1.05 * (fair + max(costs, default=0))
    assert deal.deal(programs, costs, count) == dealt


@given(st.lists(st.integers(40, 80), min_size=1, max_size=8), st.integers(1, 3))
def test_where_items_are_short_programs_are_divided_once_per_host_at_most(sizes, count):
    programs = [p for p, size in enumerate(sizes) for _ in range(size)]
    costs = [10 + i % 2 for i in range(len(programs))]
    dealt = deal.deal(programs, costs, count)
    assert deal.pairs(dealt, programs) <= len(sizes) + count - 1


@pytest.mark.parametrize("count", [1, 2, 3, 8, 64])
def test_programs_of_a_study_meet_few_hosts(count):
    """34 methods on 6 tasks of very different size, 4 blocks each."""
    programs = [(t, m) for t in range(6) for m in range(34) for _ in range(4)]
    costs = [10**t * (10 + m % 3) for t, m in programs]
    dealt = deal.deal(programs, costs, count)
    stride = [range(len(costs))[number::count] for number in range(count)]
    assert max(loads(dealt, costs)) <= 1.05 * longest_first(costs, count)
    if 1 < count < 64:
        assert deal.pairs(dealt, programs) <= 0.55 * deal.pairs(stride, programs)


def test_a_longer_run_and_a_larger_model_cost_more(monkeypatch):
    monkeypatch.setattr(blocks, "_JOINED_COST", {"cpu": 0})  # a block each
    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris", "digits/logistic"), ("sgd", "adam")
    config.seeds, config.epochs = 10, 2
    settings = config_lib.check(config)
    planned = blocks.plan(settings, blocks.make_tasks(settings, None))
    iris, digits = (
        [blocks.cost(b) for b in planned if b.task_name == name]
        for name in settings.tasks
    )
    assert len(set(iris)) == len(set(digits)) == 1
    assert digits[0] > 10 * iris[0]
    long = blocks.plan(
        dataclasses.replace(settings, epochs=4), blocks.make_tasks(settings, None)
    )
    assert blocks.cost(long[0]) == 2 * iris[0]
    dealt = deal.shares(planned, 2)
    # Both blocks of a method on a task have one program, which one host compiles.
    assert deal.pairs(dealt, [block.key for block in planned]) == 4
