"""A plan counts what training then does, and leaves no trace."""

import re

import program
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrjax import config as config_lib
from lrjax import machine, results
from lrjax.core import UsageError
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import estimate, experiment


def settings(seeds, methods=("adam", "sgd"), **changes):
    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), methods
    config.seeds, config.epochs = seeds, 3
    config.grid.learning_rate = (0.001, 0.01)
    for name, value in changes.items():
        config[name] = value
    return config_lib.check(config)


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Before, halfway and after: the plans, and the runs that are there at the end."""
    folder = tmp_path_factory.mktemp("planned") / "run"
    wanted = settings(7)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(blocks_lib, "_JOINED_COST", {"cpu": 0})  # a block each
        return _planned(wanted, folder)


def _planned(wanted, folder):
    before = estimate.make(wanted, folder)
    assert not folder.exists()
    experiment.run(settings((0, 1, 2), ("adam",)), folder)
    traces = files(folder)
    halfway = estimate.make(wanted, folder)
    assert files(folder) == traces
    experiment.run(wanted, folder)
    return before, halfway, estimate.make(wanted, folder), results.load(folder)[0]


@pytest.mark.slow
def test_counts_are_those_of_the_runs(planned):
    before, halfway, after, runs = planned
    for method, line in before.lines.set_index("method").iterrows():
        trained = runs[runs["method"] == method]
        assert line["runs"] == len(trained) == 14
        assert line["updates"] == trained["steps"].sum()
        assert set(trained["block"]) <= {line["shape"], "3x2"}
    assert before.lines["done"].tolist() == [0, 0]
    assert before.lines["blocks"].tolist() == [2, 2]
    assert before.lines["programs"].tolist() == [1, 1]
    assert halfway.lines["done"].tolist() == [6, 0]
    assert after.lines["done"].tolist() == [14, 14]
    assert after.lines["blocks"].tolist() == [0, 0]


def test_joined_methods_have_one_line(tmp_path):
    (line,) = estimate.make(settings(7), tmp_path).lines.to_dict("records")
    assert line["method"] == "2 methods"
    assert (line["runs"], line["blocks"], line["programs"]) == (28, 2, 1)
    assert line["shape"] == "4x4"


def test_updates_time_memory_and_disk_are_of_what_is_left(planned):
    before, halfway, after, runs = planned
    left = halfway.lines["runs"] - halfway.lines["done"]
    assert halfway.lines["updates"].tolist() == (left * runs["steps"][0]).tolist()
    assert before.seconds > 0
    assert before.memory > 2**20
    assert before.measured == 2
    assert after.seconds == after.compilation == after.disk == 0


def test_disk_is_about_what_the_tables_take(tmp_path):
    wanted = settings(7, ("adam",))
    expected = estimate.make(wanted, tmp_path).disk
    experiment.run(wanted, tmp_path)
    names = (results.RUNS, results.CURVES)
    size = sum((tmp_path / name).stat().st_size for name in names)
    assert size < expected < 3 * size + 2**14


def test_people_are_told(planned):
    text = estimate.show(planned[1])
    assert "22 of 28 runs to train in 4 blocks, 6 are done and skipped" in text
    assert "2 of 2 programs" in text
    assert "0 of 28 runs to train" in estimate.show(planned[2])


def test_what_is_announced_before_training():
    wanted = settings(7)
    blocks = blocks_lib.plan(*blocks_lib.load(wanted, None))
    some = {run for block in blocks[:1] for run in block.ids_by_position.values()}
    (summary,) = estimate.announce(wanted, blocks, some)
    names, values = (line.split() for line in summary.splitlines())
    row = dict(zip(names, values, strict=True))
    left = (28 - len(some)) * blocks[0].example.steps
    assert row["task"] == "libsvm/iris"
    assert (row["methods"], row["runs"]) == ("2", "28")
    assert row["done"] == str(len(some))
    assert row["updates"].replace(",", "") == str(left)
    everything = {run for block in blocks for run in block.ids_by_position.values()}
    assert not list(estimate.announce(wanted, blocks, everything))


def test_only_long_work_is_timed_before_it_begins(monkeypatch):
    wanted = settings(1, ("adam",))
    blocks = blocks_lib.plan(*blocks_lib.load(wanted, None))
    # A logistic regression's gradient takes two products of rows x features x classes.
    task, example = blocks[0].program.task, blocks[0].example
    products = 2 * 2 * task.batch_size * task.train["features"].shape[1] * 3
    seconds = products * example.steps / machine.usable_cores()
    monkeypatch.setattr(estimate, "_CORE_SPEED", 1.0)
    runs = sum(len(block.ids_by_position) for block in blocks)
    assert seconds * runs <= estimate._at_least(blocks) < 2 * seconds * runs
    _, why, *costs = estimate.announce(wanted, blocks, set())
    assert "timing the first updates" in why
    assert re.search("blocks? at once, estimated by timing 1 of 1 program", costs[0])
    assert "of memory" in costs[1]


def test_a_cluster_is_planned_for_by_its_workers(tmp_path):
    found = estimate.make(settings(7), tmp_path, workers=3)
    assert found.at_once == 3
    times = found.lines["seconds"].tolist()  # of two equal blocks each
    halves = [seconds / 2 for seconds in times for _ in range(2)]
    assert found.seconds == pytest.approx(estimate.makespan(halves, 3))
    assert "on 3 workers like this machine, a block each" in estimate.show(found)
    assert "of memory on each" in estimate.show(found)


def test_a_program_that_was_not_timed_is_as_its_tasks_others(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "_SECONDS", -1.0)  # one program of each task alone
    monkeypatch.setattr(blocks_lib, "_JOINED_COST", {"cpu": 0})  # a block each
    found = estimate.make(settings(1), tmp_path)
    assert found.measured == 1
    times = found.lines["seconds"].tolist()
    assert len(times) == 2
    assert times[0] == times[1] > 0


def test_what_is_left_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("LRJAX_CACHE", str(tmp_path / "empty"))
    wanted = settings(1, tasks=("svmlight:/nowhere", "libsvm/iris"), skip_missing=True)
    with pytest.warns(UserWarning, match="left out"):
        found = estimate.make(wanted, tmp_path / "run")
    assert found.left_out == ("svmlight:/nowhere",)
    assert "svmlight:/nowhere" in estimate.show(found)


def test_tables_of_another_version_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"numerics_version": 0}')
    with pytest.raises(UsageError, match="another version"):
        estimate.make(settings(1), tmp_path)


@given(
    st.lists(st.floats(0, 1e6), max_size=20),
    st.integers(1, 8),
)
def test_a_makespan_is_between_its_bounds(seconds, hands):
    found = estimate.makespan(seconds, hands)
    least = max([sum(seconds) / hands, *seconds])
    assert least * (1 - 1e-9) <= found <= 2 * least * (1 + 1e-9)
    assert estimate.makespan(seconds, 1) == pytest.approx(sum(seconds))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.2 s"),
        (59, "59 s"),
        (90, "1.5 min"),
        (7200, "2.0 h"),
        (86400 * 3, "3 days"),
    ],
)
def test_durations_have_a_fitting_unit(seconds, text):
    assert estimate.duration(seconds) == text


def test_a_plan_needs_no_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs.jsonl").write_text('{"run_id": "another program\'s"}\n')
    kept = files(tmp_path)
    answer = program.invoke(
        *("--mode=plan", "--config=libsvm:iris", "--config.methods=adam"),
        *("--config.seeds=3", "--config.epochs=2", "--config.tune.trials=5"),
    )
    assert not answer.code
    assert any("3 of 3 runs to train" in line for line in answer.out)
    assert files(tmp_path) == kept
