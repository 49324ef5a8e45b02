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
from lrjax.launch import dask_worker, experiment
from lrjax.launch.units import Begin
from lrjax.tasks import folds

TRIO = ("adam", "prodigy", "schedule_free_adamw")


def settings(names=TRIO, **fields):
    config = config_lib.base()
    chosen = {"tasks": ("libsvm/iris",), "epochs": 4, "seeds": 3} | fields
    config.update(chosen)
    config.methods = names
    return config_lib.check(config)


def planned(names=TRIO, **fields):
    wanted = settings(names, **fields)
    return blocks_lib.plan(wanted, blocks_lib.make_tasks(wanted, None))


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
