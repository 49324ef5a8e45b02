"""Whole experiments: the same bytes, nothing twice, nothing lost, right columns."""

import contextlib
import json
import math
import re
import shutil

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from lrjax import config as config_lib
from lrjax import identity, results, tasks
from lrjax.core import UsageError
from lrjax.engine import programs
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import experiment, local
from lrjax.launch import rows as rows_lib
from lrjax.methods import METHODS

RUN_COLUMNS = [
    *("run_id", "task", "protocol", "method", "hparams", "seed", "steps", "horizon"),
    *("status", "diverged_at", "train_loss", "train_accuracy", "valid_loss"),
    *(
        "valid_accuracy",
        "test_loss",
        "test_accuracy",
        "learning_rate",
        "seconds",
        "examples",
        "block",
    ),
]
CURVE_COLUMNS = [
    *("run_id", "step", "epoch", "train_loss", "train_accuracy", "valid_loss"),
    *("valid_accuracy", "learning_rate"),
]


def settings_of(**changes):
    """Three seeds of SGD and momentum on iris; dots are double underscores."""
    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), ("sgd", "momentum")
    config.seeds, config.epochs = 3, 4
    for name, value in changes.items():
        *path, last = name.split("__")
        part = config
        for step in path:
            part = part[step]
        part[last] = value
    return config_lib.check(config)


def read(folder, name):
    return (folder / name).read_bytes()


def rows_of(folder, name):
    return [json.loads(line) for line in read(folder, name).splitlines()]


def untimed(folder):
    """The bytes of runs.jsonl without the one field that is a measured time."""
    return re.sub(rb'"seconds": [^,]+, ', b"", read(folder, results.RUNS))


def same_rows(folder, other):
    """Whether two folders hold the same rows, whatever their order."""
    curves = [sorted(read(f, results.CURVES).splitlines()) for f in (folder, other)]
    runs = [sorted(untimed(f).splitlines()) for f in (folder, other)]
    return curves[0] == curves[1] and runs[0] == runs[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with the tables of the settings above."""
    folder = tmp_path_factory.mktemp("finished")
    experiment.run(settings_of(), folder)
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    folder = tmp_path / "copied"
    shutil.copytree(finished, folder)
    return folder


@pytest.fixture
def compilations(monkeypatch):
    """Grow by one for each program that is compiled for training."""
    found, compile_program = [], programs.compile_program

    def counted(*arguments):
        found.append(arguments)
        return compile_program(*arguments)

    monkeypatch.setattr(programs, "compile_program", counted)
    return found


# What the tables hold


def test_there_is_a_row_per_run_and_per_run_and_epoch(finished):
    runs, curves = (rows_of(finished, n) for n in (results.RUNS, results.CURVES))
    assert sorted((r["method"], r["seed"]) for r in runs) == [
        (method, seed) for method in ("momentum", "sgd") for seed in range(3)
    ]
    assert len({r["run_id"] for r in runs}) == 6
    # 90 rows for training, so two batches of 64 make an epoch.
    assert {(c["run_id"], c["step"], c["epoch"]) for c in curves} == {
        (r["run_id"], 2 * epoch, float(epoch)) for r in runs for epoch in range(1, 5)
    }
    assert len(curves) == 24


def test_columns_are_those_of_the_documentation(finished):
    for row in rows_of(finished, results.RUNS):
        assert list(row) == RUN_COLUMNS
        assert row["task"] == "libsvm/iris"
        assert row["protocol"] == "sound"
        assert row["steps"] == row["horizon"] == 8
        assert row["hparams"] == dict(METHODS[row["method"]].defaults)
        assert row["status"] == "done"
        assert row["diverged_at"] is None
        assert row["examples"] == 4 * 90
        assert row["block"] == "3x2"
        assert row["seconds"] > 0
        assert all(0 < row[f"{p}_loss"] < 3 for p in ("train", "valid", "test"))
    for row in rows_of(finished, results.CURVES):
        assert list(row) == CURVE_COLUMNS


def test_a_runs_row_repeats_the_end_of_its_curve(finished):
    last = {row["run_id"]: row for row in rows_of(finished, results.CURVES)}
    for row in rows_of(finished, results.RUNS):
        shared = set(CURVE_COLUMNS) & set(RUN_COLUMNS)
        assert {k: row[k] for k in shared} == {
            k: last[row["run_id"]][k] for k in shared
        }


def test_accuracies_are_counts_of_rows_rounded_once(finished):
    for row in rows_of(finished, results.RUNS):
        for part in ("valid", "test"):  # 30 rows each
            accuracy = np.float32(row[f"{part}_accuracy"])
            assert accuracy == np.float32(round(30 * accuracy)) / np.float32(30)


def test_what_is_said_of_a_block_is_in_the_units_of_the_ranking():
    task = tasks.make_task("libsvm/iris")
    ended = [
        {"status": status, "valid_accuracy": accuracy}
        for status, accuracy in (("done", 0.9), ("done", 1.0), ("diverged", None))
    ]
    said = local._summary(ended, task)
    assert said == "3 runs, validation accuracy 95.0 %, 1 diverged"
    assert local._summary(ended[2:], task) == "1 run, 1 diverged"


@pytest.mark.parametrize(
    ("changes", "examples"),
    [
        ({"steps": 7}, 3 * 90 + 64),  # the eighth batch is the short one
        ({"steps": 8}, 4 * 90),
        ({"steps": 1, "batch_size": 1000}, 90),
        ({"steps": 7, "protocol": "study"}, 2 * 150 + 64),
        ({"steps": 7, "protocol": "study", "methods": ("cawr",)}, 7 * 64),
    ],
)
def test_examples_are_the_rows_that_were_seen(changes, examples):
    settings = settings_of(**({"methods": ("sgd",)} | changes))
    block = blocks_lib.plan(settings, blocks_lib.make_tasks(settings, None))[0]
    metrics, zeros = ("loss", "accuracy"), np.zeros((3, 1))
    others = ("learning_rate", "diverged_at", "last_batch_loss")
    names = [f"{part}_{name}" for part in ("train", "valid") for name in metrics]
    row = rows_lib.run_row(
        block.example,
        "",
        block.program,
        (0, 0),
        dict.fromkeys([*names, *others], zeros),
        dict.fromkeys(metrics, zeros),
        0.0,
    )
    assert row["examples"] == examples


def test_a_round_is_no_longer_than_the_training_or_an_epoch():
    def eval_every(**changes):
        settings = settings_of(methods=("sgd",), **changes)
        blocks = blocks_lib.plan(settings, blocks_lib.make_tasks(settings, None))
        return blocks[0].program.eval_every

    assert eval_every() == eval_every(steps=1) == 2  # an epoch
    assert eval_every(steps=7, eval_every=5) == 5
    assert eval_every(steps=7, eval_every=10**9) == 7
    assert eval_every(steps=1, eval_every=10**9) == 2


# The same again


def test_the_same_config_gives_the_same_bytes(finished, tmp_path):
    experiment.run(settings_of(), tmp_path)
    assert same_rows(tmp_path, finished)


def test_finished_runs_are_skipped(copied, finished, compilations):
    experiment.run(settings_of(), copied)
    assert not compilations
    for name in (results.RUNS, results.CURVES, "config.json"):
        assert read(copied, name) == read(finished, name)


def test_another_order_of_tasks_methods_and_seeds_is_the_same_work(
    copied, compilations
):
    experiment.run(settings_of(methods=("momentum", "sgd"), seeds=(2, 0, 1)), copied)
    assert not compilations


def test_more_work_keeps_what_is_there(copied, finished, compilations):
    experiment.run(settings_of(methods=("momentum", "adam")), copied)
    assert len(compilations) == 1
    for name in (results.RUNS, results.CURVES):
        assert read(copied, name).startswith(read(finished, name))
    added = rows_of(copied, results.RUNS)[6:]
    assert [(r["method"], r["seed"]) for r in added] == [("adam", s) for s in range(3)]


def test_torn_lines_are_cut_off_and_made_good(copied, finished):
    # A run's curve is written before its row: a kill can tear both of the same run.
    last = rows_of(copied, results.RUNS)[-1]["run_id"].encode()
    curves = read(copied, results.CURVES).splitlines(keepends=True)
    (copied / results.CURVES).write_bytes(
        b"".join(sorted(curves, key=lambda row: last in row))
    )
    for name in (results.RUNS, results.CURVES):
        content = read(copied, name)
        (copied / name).write_bytes(content[: len(content) - 30])
    with pytest.warns(UserWarning, match="torn last line"):
        experiment.run(settings_of(), copied)
    assert same_rows(copied, finished)


@pytest.mark.parametrize("lost", [(0,), (5,), (1, 4), tuple(range(6))])
def test_lost_rows_are_trained_again_to_the_same_numbers(copied, finished, lost):
    runs = read(copied, results.RUNS).splitlines(keepends=True)
    gone = [json.loads(runs[i])["run_id"].encode() for i in lost]
    kept = [line for i, line in enumerate(runs) if i not in lost]
    curves = read(copied, results.CURVES).splitlines(keepends=True)
    # Of a cut run some rows of its curve are there already.
    some = [c for c in curves if not any(g in c for g in gone) or b'"step": 2' in c]
    (copied / results.RUNS).write_bytes(b"".join(kept))
    (copied / results.CURVES).write_bytes(b"".join(some))
    experiment.run(settings_of(), copied)
    assert same_rows(copied, finished)
    assert read(copied, results.RUNS).startswith(b"".join(kept))


def test_a_lost_curve_row_of_a_finished_run_stays_missing(copied, compilations):
    lines = read(copied, results.CURVES).splitlines(keepends=True)
    (copied / results.CURVES).write_bytes(b"".join(lines[:3] + lines[4:]))
    experiment.run(settings_of(), copied)
    assert not compilations
    assert read(copied, results.CURVES) == b"".join(lines[:3] + lines[4:])


def test_fields_that_nobody_knows_are_ignored(copied, finished, compilations):
    for name in (results.RUNS, results.CURVES):
        rows = [row | {"colour": ["red", 1]} for row in rows_of(copied, name)]
        (copied / name).write_text("".join(map(results.line, rows)))
    before = [read(copied, name) for name in (results.RUNS, results.CURVES)]
    experiment.run(settings_of(), copied)
    assert not compilations
    assert [read(copied, name) for name in (results.RUNS, results.CURVES)] == before
    for found, wanted in zip(results.load(copied), results.load(finished), strict=True):
        assert found[list(wanted)].equals(wanted)


def test_damaged_curves_of_finished_runs_are_found_where_they_are_read(copied):
    lines = read(copied, results.CURVES).splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"step": ', b'"step": -')
    (copied / results.CURVES).write_bytes(b"".join(lines))
    experiment.run(settings_of(), copied)
    with pytest.raises(UsageError, match=r"curves.jsonl: line 4"):
        results.load(copied)


def test_a_run_that_was_cut_short_is_completed(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    append, calls = results.Tables.append, []

    def die_at_the_second_block(tables, name, rows, *block):
        if name == results.RUNS:
            calls.append(rows)
        if len(calls) == 2:
            raise Killed
        append(tables, name, rows, *block)

    monkeypatch.setattr(blocks_lib, "_JOINED_COST", {"cpu": 0})  # a block each
    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(results.Tables, "append", die_at_the_second_block)
        experiment.run(settings_of(), tmp_path / "cut")
    assert len(rows_of(tmp_path / "cut", results.RUNS)) == 3
    experiment.run(settings_of(), tmp_path / "cut")
    experiment.run(settings_of(), tmp_path / "whole")
    assert same_rows(tmp_path / "cut", tmp_path / "whole")


# Blocks and grids


def test_more_seeds_than_a_block_holds(finished, tmp_path, monkeypatch, compilations):
    monkeypatch.setattr(blocks_lib, "_MOST_LANES", {"cpu": (2, 32)})
    experiment.run(settings_of(methods=("momentum",)), tmp_path)
    assert len(compilations) == 1  # for both blocks
    rows = rows_of(tmp_path, results.RUNS)
    assert sorted(row["seed"] for row in rows) == [0, 1, 2]
    assert {row["block"] for row in rows} == {"2x1"}
    assert len(rows_of(tmp_path, results.CURVES)) == 12
    whole = {row["run_id"]: row for row in rows_of(finished, results.RUNS)}
    for row in rows:
        for name in ("train_loss", "valid_loss", "test_loss", "test_accuracy"):
            expected = whole[row["run_id"]][name]
            assert row[name] == pytest.approx(expected, rel=1e-5)


def test_blocks_follow_from_the_settings_alone(monkeypatch):
    monkeypatch.setattr(blocks_lib, "_MOST_LANES", {"cpu": (4, 3)})
    settings = settings_of(
        methods=("sgd",), seeds=10, grid__learning_rate=(0.1, 0.2, 0.3, 0.4)
    )
    blocks = blocks_lib.plan(settings, blocks_lib.make_tasks(settings, None))
    seeds = [[row[0].seed for row in block.runs] for block in blocks]
    rates = [[lane["learning_rate"] for lane in block.lanes] for block in blocks]
    # The fewest blocks, all of one shape; the last is filled up with its last run.
    assert seeds[::2] == seeds[1::2] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]
    assert rates == [[0.1, 0.2], [0.3, 0.4]] * 3
    assert len({block.key for block in blocks}) == 1
    runs = {i for block in blocks for row in block.ids for i in row}
    assert len(runs) == 40


def test_a_grid_gives_every_combination(monkeypatch):
    monkeypatch.setattr(blocks_lib, "_JOINED_COST", {"cpu": 0})  # a block each
    settings = settings_of(
        methods=("momentum", "adam"),
        seeds=2,
        grid__learning_rate=(0.01, 0.1),
        grid__momentum=(0.5, 0.9),
    )
    blocks = blocks_lib.plan(settings, blocks_lib.make_tasks(settings, None))
    assert [(b.example.method, b.program.num_hparams) for b in blocks] == [
        ("momentum", 4),
        ("adam", 2),  # it has no momentum
    ]
    runs = [run for block in blocks for row in block.runs for run in row]
    found = [(run.method, run.seed, dict(run.hparams)) for run in runs]
    assert [(m, s, h["learning_rate"], h.get("momentum")) for m, s, h in found] == [
        *(
            ("momentum", s, r, m)
            for s in (0, 1)
            for r in (0.01, 0.1)
            for m in (0.5, 0.9)
        ),
        *(("adam", s, r, None) for s in (0, 1) for r in (0.01, 0.1)),
    ]
    assert len({identity.run_id(run) for run in runs}) == 12
    for block in blocks:  # what is trained is what is written down
        for row in block.runs:
            for run, lane in zip(row, block.lanes, strict=True):
                assert lane.items() <= dict(run.hparams).items()


def test_other_values_and_budgets_compile_nothing(tmp_path):
    misses = []
    jax.monitoring.register_event_listener(
        lambda name, **_: misses.append(name) if "cache_misses" in name else None
    )
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        for number, changes in enumerate(
            (
                {"grid__learning_rate": (0.011, 0.12), "epochs": 3},
                {"grid__learning_rate": (0.5, 0.0), "epochs": 5, "seeds": (9, 8, 7)},
            )
        ):
            del misses[:]
            settings = settings_of(methods=("momentum",), **changes)
            experiment.run(settings, tmp_path / str(number))
            if number == 0:
                assert misses  # two rates had not been compiled for
        assert not misses
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


def test_diverged_runs_are_marked_and_their_curves_end(tmp_path):
    # The second rate times the decay leaves the numbers with the first update; the
    # second one sees it.
    settings = settings_of(
        methods=("sgd",),
        seeds=2,
        hparams__sgd__weight_decay=1e30,
        grid__learning_rate=(1e-31, 1e30),
    )
    experiment.run(settings, tmp_path)
    runs, curves = (rows_of(tmp_path, n) for n in (results.RUNS, results.CURVES))
    measured = [name for name in RUN_COLUMNS if "loss" in name or "accuracy" in name]
    for row in runs:
        steps = [c["step"] for c in curves if c["run_id"] == row["run_id"]]
        nulls = {name for name, value in row.items() if value is None}
        if row["hparams"]["learning_rate"] < 1:
            assert row["status"] == "done"
            assert nulls == {"diverged_at"} | {
                k for k, v in row["hparams"].items() if v is None and k in row
            }
            assert steps == [2, 4, 6, 8]
        else:
            assert row["status"] == "diverged"
            assert row["diverged_at"] == 2
            assert nulls == {*measured, "learning_rate"}
            assert steps == [2]
    ended = [c for c in curves if c["train_loss"] is None]
    assert len(ended) == 2
    for row in ended:
        assert {k for k, v in row.items() if v is None} == {
            *("train_loss", "train_accuracy", "valid_loss", "valid_accuracy"),
            "learning_rate",
        }


# The study's treatment


def restarts(counter, rate, first, growth):
    """Cosine annealing with warm restarts, cycle by cycle."""
    length = first
    while counter >= length:
        counter -= length
        length *= growth
    return rate * (1 + math.cos(math.pi * counter / length)) / 2


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A folder with two runs of CAWR under study, measured at every step."""
    folder = tmp_path_factory.mktemp("studied")
    settings = settings_of(
        methods=("cawr",), protocol="study", steps=40, eval_every=1, seeds=2
    )
    experiment.run(settings, folder)
    return folder


def test_cawr_under_study_skips_an_update_and_is_a_counter_ahead(studied):
    runs, curves = results.load(studied)
    task = tasks.make_task("libsvm/iris", tasks.TaskOptions(protocol="study"))
    part = {**task.train, "mask": np.ones(150, np.float32)}
    for row in runs.itertuples():
        curve = curves[curves["run_id"] == row.run_id].set_index("step")
        assert curve.index.tolist() == list(range(1, 41))
        # The first of N steps has no gradient yet, so it changes nothing.
        init, *_ = (jax.random.fold_in(jax.random.key(row.seed), i) for i in range(3))
        start = float(task.evaluate(*task.init(init), part)["loss"]) / 150
        assert curve["train_loss"][1] == pytest.approx(start)
        assert (curve["train_loss"].diff().loc[2:] != 0).all()
        # Update k, made by step k + 1, has the rate of counter k + 1.
        expected = [restarts(step, 5e-3, 10, 2) for step in range(2, 41)]
        found = curve.loc[2:, "learning_rate"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_study_validates_and_tests_on_the_training_part(studied):
    for row in rows_of(studied, results.RUNS):
        assert row["train_loss"] == row["valid_loss"] == row["test_loss"]
        assert row["valid_accuracy"] == row["test_accuracy"]
        assert 0 < row["last_batch_loss"] < 2
        assert row["examples"] == 40 * 64  # each step draws a batch afresh
    for row in rows_of(studied, results.CURVES):
        assert list(row) == [*CURVE_COLUMNS, "last_batch_loss"]
        assert row["train_loss"] == row["valid_loss"]
        assert row["epoch"] == round(row["step"] / 3, 6)  # 150 rows


# scikit-learn

DECAY = 0.01


def scikit_learn(task):
    """Losses and accuracies where LogisticRegression ends, part by part.

    A column of ones in place of the intercept, because our decay is on all
    parameters: mean loss + DECAY / 2 |parameters|^2 on both sides.
    """

    def arrays(part):
        features = np.asarray(part["features"], np.float64)
        ones = np.ones((len(features), 1))
        return np.hstack([features, ones]), np.asarray(part["labels"])

    features, labels = arrays(task.train)
    model = LogisticRegression(
        C=1 / (DECAY * len(labels)), fit_intercept=False, tol=1e-10, max_iter=10_000
    ).fit(features, labels)
    found = {}
    for name in ("train", "valid", "test"):
        features, labels = arrays(getattr(task, name))
        found[f"{name}_loss"] = log_loss(labels, model.predict_proba(features))
        found[f"{name}_accuracy"] = model.score(features, labels)
    return found


@pytest.mark.parametrize(
    "name", ["libsvm/iris", pytest.param("libsvm/wine", marks=pytest.mark.slow)]
)
def test_full_batches_end_where_scikit_learn_does(name, tmp_path):
    task = tasks.make_task(name)
    settings = settings_of(
        tasks=(name,),
        methods=("momentum",),
        hparams__momentum__weight_decay=DECAY,
        grid__learning_rate=(0.01, 0.1, 0.3),
        batch_size=task.num_examples,
        epochs=1500,
        eval_every=500,
        seeds=2,
    )
    experiment.run(settings, tmp_path)
    runs, _ = results.load(tmp_path)
    expected = scikit_learn(task)
    best = runs[np.isclose(runs["learning_rate"], 0.1)]
    assert len(best) == 2
    for part in ("train", "valid", "test"):
        loss = expected[f"{part}_loss"]
        np.testing.assert_allclose(best[f"{part}_loss"], loss, rtol=1e-4)
    for part in ("valid", "test"):
        accuracy = expected[f"{part}_accuracy"]
        np.testing.assert_allclose(best[f"{part}_accuracy"], accuracy, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["libsvm/iris", "libsvm/wine"])
def test_a_tuned_rate_with_batches_of_64_reaches_scikit_learn(name, tmp_path):
    settings = settings_of(
        tasks=(name,),
        methods=("momentum",),
        hparams__momentum__weight_decay=DECAY,
        hparams__momentum__schedule="cosine",
        grid__learning_rate=(0.001, 0.01, 0.1, 0.3),
        epochs=300,
        seeds=3,
    )
    experiment.run(settings, tmp_path)
    runs, _ = results.load(tmp_path)
    rate = runs["hparams"].map(lambda h: h["learning_rate"])
    means = runs.groupby(rate)[["train_loss", "valid_loss", "test_accuracy"]].mean()
    best = means.loc[means["valid_loss"].idxmin()]
    expected = scikit_learn(tasks.make_task(name))
    assert best["train_loss"] == pytest.approx(expected["train_loss"], rel=0.02)
    assert best["valid_loss"] == pytest.approx(expected["valid_loss"], rel=0.02)
    # At most one of the test part's rows worse.
    rows = len(tasks.make_task(name).test["labels"])
    assert best["test_accuracy"] >= expected["test_accuracy"] - 1 / rows


def test_tasks_that_cannot_be_had_are_left_out_where_that_is_allowed(
    tmp_path, finished
):
    names = (f"svmlight:{tmp_path / 'missing'}", "libsvm/iris")
    with pytest.raises(UsageError, match="no such file"):
        experiment.run(settings_of(tasks=names), tmp_path / "not")
    with pytest.warns(UserWarning, match="left out: .*no such file"):
        experiment.run(settings_of(tasks=names, skip_missing=True), tmp_path / "left")
    assert same_rows(tmp_path / "left", finished)
    with pytest.raises(UsageError, match="no such file"):
        experiment.run(settings_of(tasks=names[:1], skip_missing=True), tmp_path / "no")


def test_only_missing_tasks_are_left_out(tmp_path):
    settings = settings_of(tasks=("libsvm/irs", "libsvm/wine"), skip_missing=True)
    with pytest.raises(UsageError, match="did you mean 'libsvm/iris'"):
        experiment.run(settings, tmp_path)
