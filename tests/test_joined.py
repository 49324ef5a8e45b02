"""Blocks of several methods: the same runs as in blocks of their own."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from lrjax import config as config_lib
from lrjax import identity, results
from lrjax.engine import programs, train, xla_options
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import dask_worker, experiment, reuse
from lrjax.launch.units import Begin
from lrjax.tasks import folds

TRIO = ("adam", "prodigy", "schedule_free_adamw")


def settings(names=TRIO, **fields):
    config = config_lib.base()
    chosen = {"tasks": ("libsvm/iris",), "epochs": 4, "seeds": 3} | fields
    config.update(chosen)
    config.methods = names
    return config_lib.check(config)


@functools.cache
def task(name, precision):
    """One task for all blocks, as a search has it."""
    (found,) = blocks_lib.make_tasks(settings(tasks=(name,), precision=precision), None)
    return found


def planned(names=TRIO, **fields):
    wanted = settings(names, **fields)
    loaded = [task(name, wanted.precision) for name in wanted.tasks]
    return blocks_lib.plan(wanted, loaded)


def trained(block):
    """What the runs of a block ended with, by run_id: values, and state."""
    seeds, inputs = block.inputs()
    compiled = programs.compile_program(block.program, seeds, inputs)
    *_, last = programs.train(
        compiled, block.program, seeds, inputs, block.example.steps
    )
    return {
        run_id: (
            {name: value[-1][s, h] for name, value in last.values.items()},
            train.run_at(block.program, last.state, s, h),
        )
        for (s, h), run_id in block.ids_by_position.items()
    }


def alone(block):
    """The blocks of a joined block's methods."""
    return [
        blocks_lib.cut(block, (group,), number)
        for number, group in enumerate(block.program.groups)
    ]


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def test_runs_are_those_of_blocks_of_their_own(x64):
    (block,) = planned(precision="float64")
    assert [group.method.name for group in block.program.groups] == [*TRIO]
    together = trained(block)
    apart = dict(itertools.chain(*(trained(b).items() for b in alone(block))))
    assert together.keys() == apart.keys()
    for run_id, (values, state) in together.items():
        others, other_state = apart[run_id]
        for name in values:
            np.testing.assert_allclose(values[name], others[name], 1e-11, err_msg=name)
        for one, other in zip(*map(jax.tree.leaves, (state, other_state)), strict=True):
            np.testing.assert_allclose(one, other, 1e-9, 1e-13)


def test_numbers_of_a_method_do_not_depend_on_its_neighbours(x64):
    """A neighbour that diverges at once included."""
    rates = {"sgd": {"learning_rate": 1.7e308}}
    (first,) = planned(("adam", "sgd"), precision="float64", hparams=rates)
    (second,) = planned(("prodigy", "adam"), precision="float64")
    found, others = trained(first), trained(second)
    shared = found.keys() & others.keys()
    assert len(shared) == 3
    for run_id in shared:
        for name, value in found[run_id][0].items():
            np.testing.assert_allclose(value, others[run_id][0][name], 1e-11)
    dead = [values["diverged_at"] for values, _ in found.values()]
    assert sorted(map(bool, dead)) == [False] * 3 + [True] * 3


def test_only_what_trains_quickly_is_joined():
    quick, slow = planned(), planned(epochs=10**6)
    assert len(quick) == 1
    assert len(slow) == len(TRIO)
    assert {block.program.effort for block in slow} == {xla_options.FULL}
    assert quick[0].program.effort == xla_options.LEAST
    assert planned(epochs=1000)[0].program.effort == xla_options.LESS


def test_what_is_joined_trains_on_the_same_rows_and_seeds():
    blocks = planned(seeds=7)  # in two chunks, the second padded
    assert len(blocks) == 2
    for block in blocks:
        for row in block.runs:
            assert len({run.seed for run in row}) == 1
        assert len({(run.task, run.steps) for run in block.runs[0]}) == 1
    both = planned(tasks=("libsvm/iris", "libsvm/wine"))
    assert [block.example.task for block in both] == ["libsvm/iris", "libsvm/wine"]
    assert len(planned(shard="batch")) == len(TRIO)


def test_a_grid_that_fills_a_block_is_not_joined():
    rates = tuple(np.geomspace(1e-4, 1, 30))
    blocks = planned(("adam", "momentum", "sgd"), grid={"learning_rate": rates})
    lanes = [block.program.num_hparams for block in blocks]
    assert lanes == [30, 30, 30]
    fewer = planned(("adam", "momentum", "sgd"), grid={"learning_rate": rates[:10]})
    assert [block.program.num_hparams for block in fewer] == [30]
    assert [group.num_hparams for group in fewer[0].program.groups] == [10, 10, 10]


def test_states_of_runs_make_the_state_of_the_block_again():
    (block,) = planned()
    seeds, inputs = block.inputs()
    init = functools.partial(train.init, block.program)
    state = jax.device_get(jax.jit(init)(seeds, inputs))
    states = {
        run_id: train.run_at(block.program, state, s, h)
        for (s, h), run_id in block.ids_by_position.items()
    }
    again = Begin(states=states).state(block)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_halves_are_those_of_the_methods_first():
    (block,) = planned()
    parts = blocks_lib.halves(block)
    assert [[g.method.name for g in p.program.groups] for p in parts] == [
        ["adam"],
        ["prodigy", "schedule_free_adamw"],
    ]
    found = [i for part in parts for row in part.ids for i in row]
    assert sorted(found) == sorted(i for row in block.ids for i in row)
    assert [lane for part in parts for lane in part.lanes] == [*block.lanes]


@pytest.mark.parametrize("fold", [0, 2])
def test_a_worker_gets_the_block_that_was_sent(fold):
    """With the division of the rows that the runs are to be trained on."""
    wanted = settings()
    (block,) = planned()
    task = folds.of(block.program.task, fold)
    runs = [
        tuple(dataclasses.replace(run, options=task.options) for run in row)
        for row in block.runs
    ]
    program = dataclasses.replace(block.program, task=task)
    block = dataclasses.replace(block, program=program, runs=tuple(runs))
    message = dask_worker.block_message(block)
    again = dask_worker.block_of(message, wanted, None)
    assert again.ids == block.ids
    assert again.lanes == block.lanes
    assert again.program.groups == block.program.groups
    assert dataclasses.replace(again.program, task=None) == (
        dataclasses.replace(program, task=None)
    )
    found = again.program.task
    assert found.options == task.options
    for sent, got in ((task.train, found.train), (task.valid, found.valid)):
        jax.tree.map(np.testing.assert_array_equal, got, sent)
    own = planned()[0].program.task.valid
    same = [np.array_equal(rows, own[name]) for name, rows in found.valid.items()]
    assert all(same) == (not fold)


def test_a_method_that_is_added_leaves_what_is_done_as_it_is(tmp_path):
    experiment.run(settings(("adam", "sgd")), tmp_path)
    before, _ = results.load(tmp_path)
    experiment.run(settings(("adam", "sgd", "prodigy")), tmp_path)
    after, curves = results.load(tmp_path)
    assert len(after) == 9
    assert after["run_id"].is_unique
    kept = after[after["run_id"].isin(before["run_id"])].reset_index(drop=True)
    columns = [name for name in before if name != "hparams"]
    assert kept[columns].equals(before[columns])
    assert set(after["block"]) == {"3x2", "3x3"}
    assert (curves.groupby("run_id").size() == 4).all()


def test_runs_are_identified_without_their_block():
    (block,) = planned()
    ids = {identity.run_id(run) for row in block.runs for run in row}
    found = {i for b in planned(("prodigy",)) for row in b.ids for i in row}
    assert found < ids


def cuts(names, **fields):
    """A block for each of some methods, as a search asks for them."""
    return [b for name in names for b in planned((name,), **fields)]


def test_a_few_more_runs_are_trained_by_a_program_that_is_there(x64):
    """Any methods of the block, other seeds and rates, on other rows."""
    rates = {"adam": {"learning_rate": 0.02}, "prodigy": {"learning_rate": 0.5}}
    (lent,) = planned(precision="float64")
    wanted = cuts(
        ("prodigy", "adam"), precision="float64", seeds=(7, 8, 9), hparams=rates
    )
    (again,) = reuse.by_programs_of([lent], wanted)
    assert again.key == lent.key
    assert again.spare == {2}
    assert again.methods == ["adam", "prodigy"]
    assert sorted(again.run_ids) == sorted(i for b in wanted for i in b.run_ids)
    apart = dict(itertools.chain(*(trained(b).items() for b in wanted)))
    for run_id, (values, _) in trained(again).items():
        for name, value in values.items():
            np.testing.assert_allclose(value, apart[run_id][0][name], 1e-11)
    (smaller,) = blocks_lib.halves(again)
    assert not smaller.spare
    assert sorted(smaller.run_ids) == sorted(again.run_ids)
    assert smaller.program.groups == lent.program.groups[:2]


def test_lanes_that_are_too_many_for_a_group_repeat_its_last():
    grid = {"learning_rate": (0.1, 0.2, 0.3)}
    (lent,) = planned(("adam", "sgd"), grid=grid)
    wanted = cuts(("sgd",), grid={"learning_rate": (0.4, 0.5)})
    (again,) = reuse.by_programs_of([lent], wanted)
    assert [lane["learning_rate"] for lane in again.lanes[3:]] == [0.4, 0.5, 0.5]
    assert again.spare == {0, 1, 2}
    assert sorted(again.run_ids) == sorted(wanted[0].run_ids)
    message = dask_worker.block_message(again)
    assert dask_worker.block_of(message, settings(), None).run_ids == again.run_ids


def test_what_no_program_fits_gets_its_own():
    (lent,) = planned(epochs=4)
    more = {"grid": {"learning_rate": (0.1, 0.2)}}
    for names, fields in (
        (("adam", "momentum"), {}),
        (("adam",), more),
        (("adam",), {"epochs": 5}),
        (("adam",), {"seeds": 2}),
        (("adam",), {"tasks": ("libsvm/wine",)}),
    ):
        wanted = cuts(names, **({"epochs": 4} | fields))
        assert reuse.by_programs_of([lent], wanted) is None, fields
    assert reuse.by_programs_of([], cuts(("adam",), epochs=4)) is None
    long = planned(("adam",), epochs=10**6)
    assert reuse.by_programs_of(long, cuts(("adam",), epochs=10**6)) is None


def test_the_cheapest_programs_that_hold_all_are_taken():
    grid = {"learning_rate": (0.1, 0.2, 0.3)}
    wide, narrow = planned(grid=grid)[0], planned()[0]
    others = planned(("sgd", "momentum"))[0]
    found = reuse.by_programs_of([wide, others, narrow], cuts(("prodigy", "sgd")))
    assert [block.key for block in found] == [others.key, narrow.key]
    assert [block.methods for block in found] == [["sgd"], ["prodigy"]]


def test_runs_on_other_rows_are_not_trained_together():
    (lent,) = planned()
    divided = folds.of(lent.program.task, 1)
    one, other = cuts(("adam", "prodigy"))
    other = dataclasses.replace(
        other,
        program=dataclasses.replace(other.program, task=divided),
        runs=tuple(
            tuple(dataclasses.replace(run, options=divided.options) for run in row)
            for row in other.runs
        ),
    )
    found = reuse.by_programs_of([lent], [one, other])
    assert [block.program.task.options for block in found] == [(), divided.options]
    assert {block.key for block in found} == {lent.key}
