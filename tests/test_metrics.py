"""Metrics: formulas against scikit-learn, and each through every mode to the report."""

import dataclasses
import functools
import inspect
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

import lrjax
from lrjax import (
    check_task,
    config,
    metrics,
    reports,
    results,
    tasks,
)
from lrjax.analysis import scores as scores_lib
from lrjax.core import (
    METRICS,
    Metric,
    Task,
    UsageError,
)
from lrjax.engine import evaluation, programs, train
from lrjax.hpo import race, selection, tune
from lrjax.launch import blocks, dask_worker, experiment
from lrjax.methods import METHODS
from lrjax.reports import selected, study, terminal

CLASSES = 2


def geometric(sums):
    """Of two numbers in an array; not defined for a model that is always right."""
    errors = sums["pair"] / sums["count"]
    return jnp.where(errors.min() > 0, jnp.sqrt(errors[0] * errors[1]), jnp.nan)


# What a user may write, beside all that lrjax has.
OWN = (
    Metric("geometric", geometric, False, "errors", 2, 0.0),
    Metric("minus_loss", lambda s: -s["loss"] / s["count"], True, digits=4),
)
# Names that tables of lrjax have for other things.
TAKEN = tuple(
    Metric(name, lambda s: s["loss"] / s["count"], False) for name in ("entry", "runs")
)
MADE = tuple(make() for make in metrics.MAKERS.values())
ALL = {m.name: m for m in (*METRICS.values(), *MADE, *OWN, *TAKEN)}


def model(params, batch):
    return batch["x"] @ params["w"] + params["b"]


def evaluate(params, state, batch):
    """All sums that any of the metrics needs."""
    labels, mask, logits = batch["labels"], batch["mask"], model(params, batch)
    own = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]
    score, found = jax.nn.softmax(logits)[:, 1], logits.argmax(1)
    real = labels.astype(score.dtype)
    error, target = score - real, real - 0.5
    wrong = jnp.abs(error)
    return {
        "loss": -(own @ mask),
        "accuracy": (found == labels).astype(mask.dtype) @ mask,
        "confusion": metrics.confusion(labels, found, mask, CLASSES),
        "scores": metrics.score_counts(score, labels, mask),
        "absolute_error": wrong @ mask,
        "squared_error": error**2 @ mask,
        "moments": jnp.stack([error**2 @ mask, target @ mask, target**2 @ mask]),
        "pair": jnp.stack([wrong @ mask, wrong**2 @ mask]),
        "count": mask.sum(),
    }


def loss(params, state, key, batch):
    sums = evaluate(params, state, batch)
    return sums["loss"] / sums["count"], (state, {})


def part(seed, rows):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 3)).astype(np.float32)
    labels = (x[:, 0] + generator.normal(size=rows) > 0).astype(np.int32)
    return {"x": jnp.asarray(x), "labels": jnp.asarray(labels)}


def init(key):
    return {"w": 0.1 * jax.random.normal(key, (3, CLASSES)), "b": jnp.zeros(2)}, ()


def task_of(*asked):
    return Task(
        name=f"own/{asked[0]}",
        train=part(0, 70),
        valid=part(1, 45),
        test=part(2, 50),
        init=init,
        loss=loss,
        evaluate=evaluate,
        batch_size=16,
        num_classes=CLASSES,
        metrics=asked,
    )


# Formulas


def seen(rows, classes, seed):
    """Labels, predictions and scores of some rows, and a mask."""
    generator = np.random.default_rng(seed)
    labels, found = generator.integers(classes, size=(2, rows))
    scores = np.round(generator.random(rows), 1) * 0.999 + 0.0005
    targets, guess = 5 + generator.normal(size=(2, rows))
    mask = generator.random(rows) < 0.8
    return labels, found, scores, targets, guess, mask


def in_slices(sums_of, arrays, mask, width=7):
    """Sum over slices, the last one padded, as lrjax makes them."""
    rows, total = len(mask), None
    for first in range(0, rows, width):
        at = np.minimum(np.arange(first, first + width), rows - 1)
        inside = (np.arange(first, first + width) < rows) & mask[at]
        each = sums_of(*(jnp.asarray(a[at]) for a in arrays), jnp.asarray(inside * 1.0))
        total = each if total is None else jax.tree.map(jnp.add, total, each)
    return total


@settings(max_examples=10)
@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 10**6))
def test_formulas_are_scikit_learns(rows, classes, seed):
    labels, found, scores, targets, guess, mask = seen(rows, classes, seed)
    if not mask.any():
        return

    def sums_of(labels, found, scores, targets, guess, mask):
        error, t = guess - targets, targets - 5
        return {
            "confusion": metrics.confusion(labels, found, mask, classes),
            "scores": metrics.score_counts(scores, (labels > 0).astype(int), mask),
            "absolute_error": jnp.abs(error) @ mask,
            "squared_error": error**2 @ mask,
            "moments": jnp.stack([error**2 @ mask, t @ mask, t**2 @ mask]),
            "accuracy": mask.sum(where=labels == found),
            "count": mask.sum(),
        }

    arrays = (labels, found, scores, targets, guess)
    sums = in_slices(sums_of, arrays, mask)
    labels, found, scores, targets, guess = (a[mask] for a in arrays)
    sk = sklearn_metrics
    expected = {
        metrics.f1(): sk.f1_score(labels, found, average="macro", zero_division=0),
        metrics.f1("binary"): sk.f1_score(labels == 1, found == 1, zero_division=0),
        metrics.balanced_accuracy(): np.mean(
            [(found == k)[labels == k].mean() for k in np.unique(labels)]
        ),
        metrics.mae(): sk.mean_absolute_error(targets, guess),
        metrics.rmse(): sk.root_mean_squared_error(targets, guess),
        metrics.ACCURACY: sk.accuracy_score(labels, found),
        metrics.auc(): np.nan,  # without rows of either class
        metrics.r2(): np.nan,  # of a single row
    }
    if 0 < (labels > 0).mean() < 1:
        expected[metrics.auc()] = sk.roc_auc_score(labels > 0, scores)
    if mask.sum() > 1:
        expected[metrics.r2()] = sk.r2_score(targets, guess)
    assert set(metrics.MAKERS) <= {metric.name for metric in expected}
    for metric, value in expected.items():
        np.testing.assert_allclose(
            metric.value(sums), value, rtol=2e-4, atol=1e-6, err_msg=metric.name
        )
        assert not metric.value(sums) < metric.least
        assert not metric.value(sums) > metric.greatest


def test_scores_in_one_bin_count_half():
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(2, size=500), generator.random(500)
    counts = functools.partial(metrics.score_counts, scores, labels, jnp.ones(500))
    exact = sklearn_metrics.roc_auc_score(labels, scores)
    coarse, fine = (metrics.auc().value({"scores": counts(b)}) for b in (20, 10**5))
    assert float(fine) == pytest.approx(exact, abs=1e-6)
    assert float(coarse) == pytest.approx(exact, abs=0.5 / 20)


def test_the_same_arguments_give_the_same_metric():
    assert metrics.f1() is metrics.f1()
    assert metrics.mae("years") is metrics.mae("years")
    assert metrics.mae("years") != metrics.mae("days")


# What may be asked for


def changed(**fields):
    return dataclasses.replace(task_of("accuracy"), **fields)


def names(task):
    return [metric.name for metric in task.metrics]


def test_the_first_metric_ranks_and_the_loss_is_always_there():
    own = OWN[0]
    plain = {**vars(task_of("loss")), "name": "plain"}
    del plain["metrics"]
    assert names(Task(**plain)) == ["accuracy", "loss"]
    # Where `evaluate` returns no accuracy, there is none to rank by.
    unlabelled = {"evaluate": lambda p, s, b: {"loss": b["mask"].sum()}}
    assert names(Task(**{**plain, **unlabelled})) == ["loss"]
    assert names(Task(**plain, metric="perplexity")) == ["perplexity", "loss"]
    assert names(Task(**plain, metric="loss")) == ["loss"]
    assert names(Task(**plain, metrics=(own, "accuracy"))) == [
        *("geometric", "accuracy", "loss"),
    ]
    assert names(changed(metric="loss")) == ["loss", "accuracy"]
    assert names(changed(metric=own)) == ["geometric", "accuracy", "loss"]
    # Neither undoes the other.
    assert names(dataclasses.replace(changed(metric="loss"), metrics=(own,))) == [
        *("geometric", "loss"),
    ]
    assert changed(metric=own).metric is own
    assert f"valid_{changed(metric=own).metric}" == "valid_geometric"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: changed(metric="acuracy"), "did you mean 'accuracy'"),
        (lambda: changed(metrics=("f1",)), "unknown metric 'f1'; did you mean metr"),
        (lambda: changed(metrics=("rsme",)), r"did you mean metrics\.rmse\(\)"),
        (lambda: changed(metrics=("acc",)), "did you mean 'accuracy'"),
        (lambda: changed(metrics=("banana",)), "it is one of accuracy, perplexity"),
        (
            lambda: changed(metrics=(max,)),
            "function max> is a function: wrap it in lrjax",
        ),
        (lambda: changed(metrics=Metric), "is a function: wrap it in lrjax"),
        (lambda: changed(metrics=3), "unknown metric '3'"),
        (lambda: changed(metrics=("loss", "loss")), "comes twice"),
        (lambda: dataclasses.replace(OWN[0], name="a b"), "letters, digits"),
        (lambda: dataclasses.replace(OWN[0], name="x" * 200 + "!"), "letters, digits"),
        (lambda: dataclasses.replace(OWN[0], value=3), "must be a function"),
        (lambda: dataclasses.replace(OWN[0], higher_is_better=None), "True or False"),
        (lambda: dataclasses.replace(OWN[0], unit=3), "unit must be text"),
        (lambda: dataclasses.replace(OWN[0], digits=1.5), "digits must be"),
        (lambda: dataclasses.replace(OWN[0], least=math.nan), "least must be"),
        (lambda: metrics.f1("micro"), "average must be one of"),
        (lambda: metrics.f1([]), "unhashable"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(make, words):
    with pytest.raises(UsageError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", metrics.MAKERS)
def test_a_metric_that_was_not_made_is_named_with_its_call(name):
    make = getattr(metrics, name)
    for asked in (
        {"metrics": (make,)},
        {"metrics": make},
        {"metric": make},
        {"metric": "loss", "metrics": make},
    ):
        with pytest.raises(UsageError) as caught:
            changed(**asked)
        assert f"{name} makes a metric: did you mean metrics.{name}()?" in str(
            caught.value
        )
    with pytest.raises(UsageError, match=rf"did you mean metrics\.{name}\(\)"):
        changed(metrics=(name,))
    assert isinstance(make(), Metric)
    assert changed(metric=name, metrics=(make(),)).metric is make()


def test_every_maker_is_known():
    """Whatever makes a metric when it is called is decorated so."""
    made = {
        name
        for name, make in vars(metrics).items()
        if inspect.isfunction(make) and make.__annotations__.get("return") == "Metric"
    }
    assert made - {"find_metric", "_accept"} == set(metrics.MAKERS)


def test_check_task_takes_every_metric():
    check_task(task_of(*ALL.values()))


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (Metric("gone", lambda s: s["gone"], True), "needs 'gone', which evaluate"),
        (Metric("vector", lambda s: s["pair"], True), r"one .*, not float32\[2\]"),
        (Metric("high", lambda s: s["loss"] + 2, True, greatest=1.0), "must be from"),
        (Metric("broken", lambda s: 1 / 0, True), "fails under jit: ZeroDivision"),
    ],
)
def test_check_task_says_what_is_wrong_with_a_metric(metric, words):
    with pytest.raises(UsageError, match=words):
        check_task(task_of(metric))


def test_check_task_takes_sums_over_other_things_than_rows():
    """As language models count tokens: the loss says so by metrics['count']."""

    def by_token(params, state, batch):
        return {k: 2 * v for k, v in evaluate(params, state, batch).items()}

    def counting(params, state, key, batch):
        mean, _ = loss(params, state, key, batch)
        return mean, (state, {"count": 2 * batch["mask"].sum()})

    check_task(changed(evaluate=by_token, loss=counting, metric="perplexity"))
    with pytest.raises(UsageError, match="'count' of evaluate is 90 for 45 rows"):
        check_task(changed(evaluate=by_token))


# Devices and loops


def expected(task, params, batch):
    """Of each run [seeds, hparams], from the sums of the part as a whole."""
    whole = {**batch, "mask": jnp.ones(len(batch["labels"]))}
    sums = jax.vmap(jax.vmap(lambda p: task.evaluate(p, (), whole)))(params)
    lanes = [
        [float(m.value(jax.tree.map(lambda x: x[s, h], sums))) for h in range(2)]  # noqa: B023
        for m in task.metrics
        for s in range(3)
    ]
    found = np.reshape(lanes, (len(task.metrics), 3, 2))
    return dict(zip(names(task), found, strict=True))


def test_sums_that_are_arrays_add_up_over_slices_lanes_and_loops(monkeypatch):
    task = task_of(*ALL.values())
    keys = jax.random.split(jax.random.key(0), (3, 2))
    params = jax.vmap(jax.vmap(lambda key: init(key)[0]))(keys)
    wanted = expected(task, params, task.valid)
    found = evaluation.evaluate_part(
        task.evaluate, task.metrics, params, (), task.valid, 16, jnp.float32
    )
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-4, err_msg=name)
    one = jax.tree.map(lambda x: x[1:2, 1:2], params)
    monkeypatch.setattr(evaluation, "rows_at_once", lambda task, lanes: 7)
    program = train.single(task, METHODS["sgd"], (), 1, 1, 1, one_by_one=True)
    alone = evaluation.evaluator(program)(one, (), task.valid)
    for name, value in alone.items():
        np.testing.assert_allclose(value[0, 0], wanted[name][1, 1], rtol=1e-4)


def settings_of(name, **changes):
    asked = config.base()
    asked.tasks, asked.methods = (name,), ("sgd", "adam")
    asked.seeds, asked.epochs = 3, 2
    asked.tune.tuner, asked.tune.trials = "random", 3
    for path, value in changes.items():
        *blocks_, last = path.split("__")
        functools.reduce(getattr, blocks_, asked)[last] = value
    return config.check(asked)


@pytest.fixture
def registered(monkeypatch):
    """Let a task of one's own be named in a config."""

    def register(task):
        def make(options):
            return dataclasses.replace(task, streamed=bool(options.stream))

        factory = tasks.Factory(make, frozenset({"stream"}))
        monkeypatch.setitem(tasks.TASKS, task.name, factory)
        return task.name

    return register


@pytest.mark.slow
def test_training_from_the_host_measures_the_same(registered):
    """A streamed training part: its sums are added up on the way."""
    task = task_of(*OWN, metrics.f1())
    found = []
    for streamed in (False, True):
        if streamed:
            train = {k: np.asarray(v) for k, v in task.train.items()}
            task = dataclasses.replace(task, train=train, streamed=True)
        asked = settings_of(registered(task), methods=("adam",))
        (block,) = blocks.plan(asked, [task])
        compiled = programs.compile_program(block.program, *block.inputs())
        *_, last = programs.train(compiled, block.program, *block.inputs(), 10)
        found.append(last.values)
    assert {f"train_{name}" for name in names(task)} <= set(found[0])
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], rtol=1e-3, atol=1e-6)


def test_what_a_worker_tells_of_a_task_can_be_sent(registered):
    task = task_of(*OWN, metrics.f1())
    asked = settings_of(registered(task), methods=("adam",))
    (block,) = blocks.plan(asked, [task])
    planned = dask_worker.planned_block(block)
    told = json.loads(json.dumps(planned.metrics))
    assert [results.metric_from(each).name for each in told] == names(task)


# Every metric through every mode

# Those of the user's own in any case: one is better low, one high.
SOME = [
    pytest.param(m, marks=() if m in OWN else pytest.mark.slow, id=m.name)
    for m in ALL.values()
]


def rows(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def check_readers(folder, metric):
    """Report and ranking know the metric from the directory alone."""
    column = f"valid_{metric}"
    read = study.read_study([folder], reports.Options(bootstrap=10))
    assert set(read.metrics) == {column}
    (told,) = {read.metric(column, task) for task in read.tasks}
    fields = ("name", "higher_is_better", "unit", "digits", "least", "greatest")
    for field in fields:
        assert getattr(told, field) == getattr(metric, field)
    means = read.runs.groupby("entry")["value"].mean() * metric.sign
    scores = read.runs.groupby("entry")["score"].mean()
    np.testing.assert_allclose(scores, means)
    for row in read.per_task.itertuples():
        if not np.isnan(row.mean_low):
            assert metric.least <= row.mean_low <= row.mean <= row.mean_high
            assert row.mean_high <= metric.greatest
    text = reports.ranking(results.load(folder)[0], results.load_metrics(folder))
    assert metric.label in text.splitlines()[0]
    runs = results.load(folder)[0]
    runs = runs.groupby(["method", runs["hparams"].astype(str)])
    for row in runs.mean(numeric_only=True)[runs["seed"].count() > 2].itertuples():
        assert metric.shown(getattr(row, column)) in text


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs of a task that has all metrics."""
    folder = tmp_path_factory.mktemp("trained")
    task = task_of(*ALL.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tasks.TASKS, task.name, tasks.Factory(lambda _: task))
        experiment.run(settings_of(task.name, methods=("sgd",)), folder)
    return folder


@pytest.mark.parametrize("metric", ALL.values(), ids=ALL)
def test_tables_and_their_readers_know_every_metric(metric, trained, tmp_path):
    for row in rows(trained, results.RUNS):
        for part_ in ("train", "valid", "test"):
            assert metric.least <= row[f"{part_}_{metric}"] <= metric.greatest
    for row in rows(trained, results.CURVES):
        assert {f"train_{metric}", f"valid_{metric}", "train_loss"} <= set(row)
    # As if the task had it first.
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    known = json.loads(path.read_text())
    ((name, told),) = known["metrics"].items()
    first = [each for each in told if each["name"] == metric.name]
    known["metrics"] = {name: first + [each for each in told if each not in first]}
    path.write_text(json.dumps(known))
    check_readers(tmp_path, metric)


@pytest.mark.parametrize("metric", SOME)
def test_a_metric_is_tuned_by(metric, registered, tmp_path):
    name, column = registered(task_of(metric)), f"valid_{metric}"
    tune.run(settings_of(name, methods=("sgd",), tune__cost=column), tmp_path)
    trials = rows(tmp_path, results.TRIALS)
    best = min(trials, key=lambda row: (row["status"] != "done", row["cost"]))
    for row in rows(tmp_path, results.RUNS):
        assert row["hparams"] == best["hparams"]
        # Of other seeds, and yet near, with the sign of the metric.
        assert -metric.sign * row[column] == pytest.approx(best["cost"], 0.5, 0.3)
    check_readers(tmp_path, metric)


@pytest.mark.parametrize("metric", SOME)
def test_a_selection_is_ranked_by_a_metric(metric, registered, tmp_path):
    name = registered(task_of(metric))
    asked = settings_of(name, select__how="bakeoff", select__methods=("sgd", "dog"))
    (answer,) = race.run(asked, tmp_path)
    for run in range(2):
        values = [metric.sign * each.values[run] for each in answer.judged]
        behind = [each.behind[run] for each in answer.judged]
        assert max(behind) == 0
        for a, b in ((values, behind), (behind, values)):
            assert (np.diff(np.array(b)[np.argsort(a)]) >= 0).all()
    believed = [each.now for each in answer.judged]
    assert believed == sorted(believed, reverse=True)
    assert answer.label == answer.judged[0].label
    means = [metric.sign * np.mean(each.values) for each in answer.judged]
    ranks = np.argsort(np.argsort([means, believed]))
    assert np.corrcoef(ranks)[0, 1] > 0.5
    assert metric.shown(answer.score) in str(answer)
    assert metric.label in str(answer)
    check_readers(tmp_path, metric)
    runs, known = results.load(tmp_path)[0], results.load_metrics(tmp_path)
    assert all(metric.shown(v) in reports.ranking(runs, known) for v in answer.values)
    (read,) = selected.read([tmp_path])
    assert read["metric"].sign == metric.sign
    assert metric.text(answer.score) in selected.sentence(read)


@pytest.mark.usefixtures("one_figure")
@pytest.mark.parametrize(
    "metric",
    [
        pytest.param(m, marks=() if m is OWN[1] else pytest.mark.slow, id=m.name)
        for m in ALL.values()
    ],
)
def test_a_page_shows_any_metric(metric, registered, tmp_path, monkeypatch):
    name = registered(task_of(metric))
    asked = {"methods": ("sgd", "dog"), "grid__learning_rate": (0.01, 0.1, 1.0)}
    experiment.run(settings_of(name, **asked), tmp_path)
    monkeypatch.delitem(tasks.TASKS, name)
    options = reports.Options(bootstrap=10, metrics=(f"test_{metric}",))
    said = "\n".join(reports.write([tmp_path], tmp_path / "report", options))
    assert f"judged by test {metric}".replace("_", " ") in said
    assert metric.apart in (tmp_path / "report" / "index.html").read_text()
    options = reports.Options(metrics=(f"valid_{metric}x",))
    with pytest.raises(UsageError, match=f"did you mean 'valid_{metric}'"):
        reports.write([tmp_path], tmp_path, options)


def test_tables_that_do_not_tell_their_metrics_are_read_as_far_as_can_be(
    trained, tmp_path
):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    known = json.loads(path.read_text())
    described = known.pop("metrics")
    (name,) = described
    path.write_text(json.dumps(known))
    read = study.read_study([tmp_path], reports.Options(bootstrap=10))
    assert set(read.metrics) == {"valid_accuracy"}
    with pytest.raises(UsageError, match="'valid_minus_loss' has no known direction"):
        study.read_study([tmp_path], reports.Options(metrics=("valid_minus_loss",)))
    described[name][0]["digits"] = "many"
    path.write_text(json.dumps({**known, "metrics": described}))
    with pytest.raises(UsageError, match=r"config.json: its metrics are damaged"):
        study.read_study([tmp_path], reports.Options())


def test_what_other_tasks_of_a_directory_are_measured_by_is_kept(tmp_path):
    for task in (task_of(OWN[0]), task_of("accuracy")):
        with results.Tables(tmp_path) as tables:
            told = {task.name: results.describe(task.metrics)}
            tables.write_config({}, {}, told)
    found = results.load_metrics(tmp_path)
    assert {k: [m.name for m in v] for k, v in found.items()} == {
        "own/geometric": ["geometric", "loss"],
        "own/accuracy": ["accuracy", "loss"],
    }
    assert found["own/accuracy"][1].least == -math.inf


def test_one_name_has_one_direction(tmp_path):
    up = dataclasses.replace(OWN[0], higher_is_better=True)
    with pytest.raises(UsageError, match="higher is better on only one of a and b"):
        scores_lib.known_metrics([{"a": [OWN[0]]}, {"b": [up]}])


def test_tuning_by_what_is_not_measured_is_refused(registered, tmp_path):
    name = registered(task_of("loss"))
    asked = settings_of(name, methods=("sgd",), tune__cost="valid_accuracy")
    with pytest.raises(UsageError, match="it is one of valid_loss, train_loss"):
        tune.run(asked, tmp_path)
    assert not (tmp_path / results.TRIALS).exists()


def test_a_metric_that_is_never_defined_is_said():
    nowhere = Metric("nowhere", lambda sums: sums["loss"] * jnp.nan, True)
    with pytest.raises(UsageError, match="nowhere is not defined on the validation"):
        lrjax.select(task_of(nowhere), ["sgd"], 2, epochs=2, log=lambda _: None)


@pytest.mark.slow
def test_select_shows_values_below_three_seeds_and_an_interval_from_there():
    for seeds, sure in ((2, False), (3, True)):
        answer = lrjax.select(
            task_of("accuracy"),
            ["dog"],
            budget=4,
            epochs=2,
            seeds=seeds,
            log=lambda _: None,
        )
        low, high = answer.interval
        assert sure == (low == low)
        assert ("95 % interval" in str(answer)) is sure
        assert isinstance(answer, selection.Selection)
        if sure:
            assert 0 <= low <= answer.score <= high <= 1
        else:
            for value in answer.values:
                assert answer.scale.shown(value) in str(answer)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (metrics.LOSS, 6.4e28, "6.400e+28"),
        (metrics.LOSS, -123456.7891, "-123457"),
        (metrics.LOSS, 1234.5678, "1234.6"),
        (metrics.LOSS, 99.12345, "99.123"),
        (metrics.LOSS, 0.0, "0.000"),
        (metrics.LOSS, 0.00049, "4.9e-04"),
        (metrics.LOSS, math.nan, "nan"),
        (metrics.LOSS, math.inf, "inf"),
        (metrics.PERPLEXITY, 181574.06, "181574"),
        (metrics.rmse(digits=0), 4.4, "4"),
        (Metric("sixth", abs, True, digits=6), 12.3456789, "12.345679"),
        (metrics.ACCURACY, 0.0001, "0.0"),
        (metrics.ACCURACY, 1.0, "100.0"),
    ],
)
def test_values_are_shown_in_few_digits(metric, value, text):
    assert metric.shown(value) == text


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ({"adam": 3, "sgd": 4}, "mean [95 % interval] over seeds;"),
        ({"adam": 2, "sgd": 1}, "the value of each seed;"),
        ({"adam": 3, "sgd": 1}, "mean [95 % interval] over 3 or more seeds, else each"),
    ],
)
def test_a_ranking_says_what_its_cells_are(seeds, words):
    rows = [
        {"task": "a", "method": method, "seed": seed, "valid_loss": 1.0 + seed}
        for method, count in seeds.items()
        for seed in range(count)
    ]
    runs = pd.DataFrame(rows).assign(
        protocol="sound", status="done", hparams=[{}] * len(rows), steps=1, horizon=1
    )
    assert words in terminal.ranking(runs).splitlines()[0]
