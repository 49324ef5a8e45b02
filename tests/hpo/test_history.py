"""What a user has trained before counts as a known task."""

import dataclasses
import shutil

import numpy as np
import pytest

import lrjax
from lrjax import config as config_lib
from lrjax import results, tasks
from lrjax.hpo import finished, history, points, prior
from lrjax.launch.session import Session

IRIS = "libsvm/iris"
RATES = (1e-6, 1e-2)  # of Adam: far too small, and good


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory with runs of two rates and of another method."""
    folder = tmp_path_factory.mktemp("history") / "trained"
    given = {"steps": 60, "seeds": 2, "workdir": folder}
    lrjax.compare(IRIS, "adam", grid={"learning_rate": RATES}, **given)
    lrjax.compare(IRIS, ["momentum", "cocob"], **given)
    return folder


def known(folder, workdir, *tasks_at_hand, task=IRIS):
    """What a selection on a task takes from a folder, and what it says of that."""
    config = config_lib.base()
    config.tasks, config.methods, config.steps = (task,), ("adam",), 60
    config.select.history = (str(folder),)
    said = []
    session = Session(config_lib.check(config), workdir)
    loaded = {each.name: each for each in tasks_at_hand}
    return history.known(session, loaded, said.append), said


def test_finished_runs_say_what_is_believed_of_all_contenders(trained, tmp_path):
    (past,), said = known(trained, tmp_path)
    assert said[-1] == f"select.history adds 1 task: your {IRIS}"
    assert past.kind == points.SHARE
    table = prior.known(past.kind)
    rates = table.rates.tolist()
    keys = [prior.key_of(str(m), r) for m, r in zip(table.methods, rates, strict=True)]
    assert set(past.scores) == set(keys)
    assert max(past.scores.values()) == 0
    # What runs say is added to what similar tasks let expect.
    expected = prior.believe(
        table,
        [prior.Candidate(str(m), r) for m, r in zip(table.methods, rates, strict=True)],
        past.described,
    ).belief.mean
    before = dict(zip(keys, (expected - expected.max()).tolist(), strict=True))
    runs, _ = results.load(trained)
    runs = runs[runs.method == "adam"]
    rate = runs.hparams.map(lambda hparams: hparams["learning_rate"])
    reached = runs.groupby(rate).valid_accuracy.mean()
    assert reached[1e-2] > reached[1e-6] + 0.1  # so far apart that the order is sure
    good, bad = (prior.key_of("adam", rate) for rate in (1e-2, 1e-5))
    assert past.scores[good] > past.scores[bad]
    assert past.scores[good] - past.scores[bad] != before[good] - before[bad]
    # It is one more task, in full.
    extended = prior.extend(table, [past])
    assert len(extended.regret) == len(table.regret) + 1
    np.testing.assert_allclose(
        extended.regret[-1], np.clip([past.scores[key] for key in keys], -10, 0)
    )


def test_each_run_that_counts_is_one_of_the_table(trained):
    settings = config_lib.check(base())
    (found,) = finished.read(trained, settings)
    assert (found.task, found.horizon) == (IRIS, 60)
    contenders = {
        (each.method, str(each.rate)): rows for each, rows in found.rows.items()
    }
    rated = {("adam", str(rate)) for rate in RATES} | {("momentum", "0.1")}
    assert set(contenders) == rated | {("cocob", "nan")}
    assert all(len(rows) == 2 for rows in contenders.values())


def base():
    config = config_lib.base()
    config.tasks, config.methods = (IRIS,), ("adam",)
    return config


def test_a_task_that_cannot_be_made_is_left_out_unless_it_is_at_hand(trained, tmp_path):
    mine = dataclasses.replace(tasks.make_task(IRIS, tasks.TaskOptions()), name="mine")
    folder = tmp_path / "mine"
    lrjax.compare(mine, ["adam", "cocob"], steps=20, workdir=folder)
    found, said = known(folder, tmp_path)
    assert found == []
    assert "mine is left out: " in said[0]
    assert "select.history adds nothing" in said[-1]
    (past,), said = known(folder, tmp_path, mine)
    assert past.family == "your mine"
    assert past.described["classes"] == 3


def test_one_contender_alone_says_nothing(tmp_path):
    folder = tmp_path / "alone"
    lrjax.compare(IRIS, "adam", steps=20, seeds=3, workdir=folder)
    found, said = known(folder, tmp_path)
    assert found == []
    assert "nor runs of two contenders" in said[-1]


def test_the_directory_of_the_selection_does_not_count(trained, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(trained, own)
    assert known(own, own)[0] == []
    assert known(own, tmp_path)[0] != []


def test_a_selection_says_what_it_has_taken(trained):
    said = []
    answer = lrjax.select(
        IRIS, budget=0.5, steps=200, history=[trained], log=said.append
    )
    assert f"select.history adds 1 task: your {IRIS}" in said
    # The same task again is as similar as can be.
    assert answer.similar[0][0] == f"your {IRIS}"
