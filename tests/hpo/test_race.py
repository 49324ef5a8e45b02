"""Selecting: in its budget, resumable, honest of what it knows, and it trains."""

import dataclasses
import json
import math
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import own
import pytest

import lrjax
from lrjax import config as config_lib
from lrjax import (
    machine,
    methods,
    optim,
    results,
    tasks,
)
from lrjax.core import Method, UsageError
from lrjax.engine import (
    order,
    programs,
    strategy,
    train,
)
from lrjax.hpo import asked as asked_lib
from lrjax.hpo import (
    contenders,
    history,
    lineup,
    method_code,
    points,
    prior,
    probes,
    proposals,
    race,
    selection,
)
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import local, units
from lrjax.methods import METHODS
from lrjax.optim import schedules
from lrjax.tasks import folds

# Where none is named; of the others nothing is known.
USUAL = tuple(method.name for method in asked_lib.usual())
METHODS_RACED = ("adam", "adamw_cosine", "prodigy", "dog")
RATED = re.compile(r"(adam|adamw_cosine) \(learning_rate=[-0-9.e]+\)")


def test_each_method_is_there_at_its_default_and_over_its_rates():
    found = contenders.contenders(asked_lib.usual(), "libsvm/iris", settings_of())
    labels = [each.label for each in found]
    assert len(set(labels)) == len(labels) == len({each.key for each in found})
    assert len(found) > 100
    # All but those that need a value which nobody published for the task.
    left = {name for name in USUAL if not METHODS[name].required}
    assert {each.method.name for each in found} == left
    assert sum(each.key == each.method.name for each in found) == len(left)
    rates = [each.rate for each in found if each.method.name == "adam"]
    assert sorted(rates) == [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0][-len(rates) :]
    assert math.isnan(next(e.rate for e in found if e.method.name == "cocob"))


def test_no_setting_is_there_under_two_names():
    """SMAC's published rate is one of Adam, whose other rates are Adam's own."""
    settings = dataclasses.replace(settings_of(), protocol="study")
    names = ("adam", "smac", "cawr", "cawr_tuned", "sgd", "momentum")
    both = contenders.contenders([METHODS[n] for n in names], "libsvm/iris", settings)
    trained = {
        method_code.snippet(each.method, dict(each.hparams), 100) for each in both
    }
    assert len(trained) == len(both)
    rates = [each.rate for each in both if each.method.name == "smac"]
    assert rates[0] == pytest.approx(0.99886, abs=1e-5)
    assert not {each.rate for each in both if each.method.name == "adam"} & {*rates}
    (alone, *others) = contenders.contenders([METHODS["smac"]], "libsvm/iris", settings)
    assert alone.rate == rates[0]
    assert len(others) > 3  # where Adam is not named, SMAC's rates are tried


def test_a_method_that_no_known_task_was_trained_with_enters_by_name(monkeypatch):
    monkeypatch.setattr(asked_lib.prior, "methods", lambda: frozenset({"adam"}))
    assert {m.name for m in asked_lib.usual() if not m.required} == {"adam"}
    assert [m.name for m in asked_lib.chosen("select", "prodigy")] == ["prodigy"]


def test_who_is_known_is_looked_up_and_who_is_not_is_not():
    found = contenders.contenders(
        asked_lib.usual(), "synthetic/classification-0", settings_of()
    )
    known = prior.known(points.SHARE)
    keys = {
        (str(method), f"{rate:.4g}")
        for method, rate in zip(known.methods, known.rates, strict=True)
    }
    candidates = [contenders.candidate(each, settings_of()) for each in found]
    assert all(each.usual for each in candidates)
    assert {(each.method, f"{each.rate:.4g}") for each in candidates} == keys
    # A user's own method is unknown whatever it is called, other settings less known.
    own = dataclasses.replace(METHODS["adam"], name="own")
    (one, *_) = contenders.contenders([own], "libsvm/iris", settings_of())
    assert one.own
    assert contenders.candidate(one, settings_of()).method == "your own"
    assert not any(each.own for each in found)
    other = dataclasses.replace(
        found[0], hparams=(*found[0].hparams[:-1], (found[0].hparams[-1][0], 0.123))
    )
    assert not contenders.candidate(other, settings_of()).usual


def test_two_named_methods_are_both_tried_at_a_budget_of_two():
    said = []
    answer = lrjax.select(
        "libsvm/iris", ["adam", "prodigy"], budget=2, epochs=4, log=said.append
    )
    tried = {each.label.split()[0] for each in answer.judged if each.values}
    assert tried == {"adam", "prodigy"}
    assert answer.left_out == ()
    assert answer.how == "race"
    assert "not tried" not in str(answer)


def test_who_is_left_out_is_named(tmp_path):
    said, names = [], ["sgd", "adam", "prodigy", "dog", "cawr_tuned"]
    options = {"budget": 3, "epochs": 10, "workdir": tmp_path}
    answer = lrjax.select("libsvm/iris", names, log=said.append, **options)
    tried = {each.label.split()[0] for each in answer.judged if each.values}
    assert set(answer.left_out) == set(names) - tried
    assert len(tried) == 3
    for name in answer.left_out:
        assert name in str(answer).split("not tried")[1]
    assert any("nobody published for this task: cawr_tuned" in line for line in said)
    content = json.loads((tmp_path / selection.ANSWER).read_text())[0]
    assert content["left_out"] == list(answer.left_out)
    assert content["metric"] == "accuracy"
    assert content["scale"]["higher_is_better"] is True


def test_a_users_own_method_is_always_trained():
    own = dataclasses.replace(METHODS["sgd"], name="own")
    for budget, how in ((2, "race"), (8, "race")):
        answer = lrjax.select(
            IRIS, [*list(METHODS.values())[:6], own], budget, steps=20, log=lambda _: 0
        )
        assert answer.how == how
        tried = [each.label for each in answer.judged if each.values]
        assert any(label.startswith("own") for label in tried)


@pytest.mark.parametrize(
    ("asked", "how", "runs"),
    [
        ({"budget": 1.0}, "prior", 1),
        ({"budget": 0.4}, "prior", 0),
        ({"budget": 2.0}, "race", 2),
        ({"budget": 200.0}, "bakeoff", 200),
        ({"seconds": 1e6}, "bakeoff", None),
        ({"seconds": 1e-3}, "race", 8),
        ({"how": "prior"}, "prior", 1),
        ({"how": "race"}, "race", 8),
        ({"how": "race", "budget": 3.0}, "race", 3),
        ({"how": "race", "seeds": 3}, "race", 24),
        ({"how": "bakeoff", "seeds": 2}, "bakeoff", None),
    ],
)
def test_the_way_follows_from_what_is_asked(asked, how, runs):
    wanted = settings_of(**{"budget": None, "methods": (), **asked})
    task, chosen = tasks.make_task("libsvm/iris"), asked_lib.usual()
    found = lineup.line_up("libsvm/iris", task, chosen, wanted, False, lambda _: None)
    count = len(found.contenders)
    assert found.plan.how == how
    if runs is None:
        each = len(wanted.select.seeds)
        runs = count * each if each else count + proposals.FURTHER
    assert found.plan.runs == runs
    assert how in found.opening()
    assert found.why in found.opening()
    dear = found.horizon * max(1, found.budget) < 4 * probes.COST
    assert found.probed == (0 if dear else probes.COST / found.horizon)


def test_who_has_no_time_to_look_does_not_look():
    """Probes cost some gradients: of a task that trains for few they are too dear."""
    wanted = dataclasses.replace(settings_of(budget=1.0), epochs=1)
    task = tasks.make_task("libsvm/iris")
    found = lineup.line_up(
        "libsvm/iris", task, [METHODS["adam"]], wanted, False, lambda _: None
    )
    assert found.described is None
    assert found.probed == 0
    assert "known tasks on average" in found.opening()


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_schedules_that_end_low_are_bound_to_their_horizon(name):
    rate = schedules.by_name(name, 1.0, 1000, 50)
    assert (rate(999) < 0.1) == (name not in schedules.ANYTIME)


def walk(tx, steps):
    """Parameters after each update of a quadratic."""
    params, seen = jnp.array([1.0, -2.0]), []
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(params * jnp.array([1.0, 3.0]), state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return np.array(seen)


def test_a_cooldown_scales_updates_down_to_zero():
    found = walk(optim.cooldown(optim.sgd(0.1), 4, 4), 10)
    expected = walk(optax.sgd(lambda t: 0.1 * jnp.clip((8 - t) / 4, 0, 1)), 10)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (found[7:] == found[7]).all()
    never = walk(optim.cooldown(optim.adamw(0.1), math.inf, 1.0), 10)
    assert (never == walk(optim.adamw(0.1), 10)).all()


def settings_of(**changes):
    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), METHODS_RACED
    config.epochs, config.select.budget = 40, 8.0
    config.select.methods = METHODS_RACED
    for name, value in changes.items():
        setattr(config.select, name, value)
    return config_lib.check(config)


WAYS = {"race": {}, "bakeoff": {"budget": None, "how": "bakeoff"}}


@pytest.fixture(scope="module", params=WAYS)
def raced(request, tmp_path_factory):
    folder, asked = tmp_path_factory.mktemp("raced"), settings_of(**WAYS[request.param])
    return race.run(asked, folder)[0], folder, asked


def lines(folder, name):
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_the_answer(raced):
    answer, folder, _asked = raced
    assert answer.cost <= answer.budget
    assert answer.method in METHODS_RACED
    runs, curves = results.load(folder)
    assert len(runs) == answer.cost == len(lines(folder, results.RACES))
    assert len(curves) == len(runs)
    best = runs[runs["method"] == f"race:{answer.method}"]
    best = best[best["hparams"].map(lambda found: found == answer.hparams)]
    assert sorted(best["valid_accuracy"]) == pytest.approx(sorted(answer.values))
    assert answer.score == pytest.approx(np.mean(answer.values))
    text = str(answer)
    assert f"{answer.cost:.2f} full runs" in text
    assert f"with probability {100 * answer.best:.0f} %" in text
    assert "runner-up" in text
    assert "known tasks" in text
    assert answer.label in text
    content = json.loads((folder / selection.ANSWER).read_text())[0]
    assert content["method"] == answer.method
    for name in ("selection.csv", "selection.png", "selection.svg"):
        assert (folder / name).stat().st_size > 500
    trained = [each for each in answer.judged if each.values]
    assert trained[0] == answer.judged[0]
    assert answer.judged[0].label == answer.label
    assert sum(len(each.values) for each in trained) == answer.cost
    assert sum(each.best for each in answer.judged) == pytest.approx(1)
    assert max(each.now for each in answer.judged) == 0
    labels = {each.label for each in answer.judged} - {"dog", "prodigy"}
    assert all(RATED.fullmatch(label) for label in labels)
    if answer.how == "bakeoff":  # the leaders again, and rates between those there are
        assert all(each.values for each in answer.judged)
        assert max(len(each.values) for each in trained) == 2


def test_second_runs_are_on_other_rows_and_first_ones_on_the_same(raced):
    _answer, folder, _asked = raced
    rows = lines(folder, results.RACES)
    assert {row["fold"] for row in rows if row["run"] == 0} == {0}
    assert {row["fold"] for row in rows if row["run"] == 1} == {1}
    assert all(row["seed"] == row["run"] for row in rows)
    runs, _ = results.load(folder)
    assert len(set(runs["run_id"])) == len(runs)


@pytest.mark.parametrize(
    "kept", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, -2))]
)
def test_one_that_was_killed_resumes_to_the_same_answer(raced, tmp_path, kept):
    answer, folder, asked = raced
    whole = (folder / results.RACES).read_text().splitlines(keepends=True)
    kept %= len(whole)
    (tmp_path / results.RACES).write_text("".join(whole[:kept]) + whole[kept][:9])
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.warns(UserWarning, match="torn"):
        again = race.run(asked, tmp_path)[0]
    assert repr(again) == repr(answer)  # from Python 3.13 on NaN differs from itself
    assert lines(tmp_path, results.RACES) == lines(folder, results.RACES)
    ours = {row["run_id"]: row for row in lines(tmp_path, results.RUNS)}
    theirs = {row["run_id"]: row for row in lines(folder, results.RUNS)}
    assert ours == {run_id: theirs[run_id] for run_id in ours}
    assert len(ours) == len(whole) - kept


@pytest.mark.slow
def test_where_memory_gives_out_it_goes_on_with_fewer_at_once(
    tmp_path, monkeypatch, capsys
):
    calls, train_unit = [], local.train_unit
    monkeypatch.setattr(blocks_lib, "_JOINED_COST", {"cpu": 0})
    (expected,) = race.run(settings_of(), tmp_path / "whole")

    def tight(*args):
        calls.append(args)
        if len(calls) == 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return train_unit(*args)

    monkeypatch.setattr(local, "train_unit", tight)
    monkeypatch.setattr(units, "blocks_at_once", lambda todo, device: 2)
    assert race.run(settings_of(), tmp_path / "tight")[0] == expected
    assert "out of memory, continuing with 1 at once" in capsys.readouterr().err
    ours, theirs = (lines(tmp_path / n, results.RUNS) for n in ("tight", "whole"))
    assert sorted(map(str, ours)) == sorted(map(str, theirs))


def test_one_for_which_there_is_no_memory_is_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda device: 1000.0)
    with pytest.raises(UsageError, match=r"one block needs .* and 1000 B can be used"):
        race.run(settings_of(), tmp_path)


def test_a_run_on_other_rows_is_that_of_a_task_divided_so(raced):
    """Against a loop in plain Optax, on the rows that the division says."""
    _answer, folder, _asked = raced
    rows = [
        row
        for row in lines(folder, results.RACES)
        if row["run"] == 1 and row["method"] in ("adam", "adamw_cosine")
    ]
    if not rows:
        pytest.skip("neither Adam nor AdamW was trained again")
    row, whole = rows[0], tasks.make_task("libsvm/iris")
    task = folds.of(whole, row["fold"])
    end, h = row["steps"], row["hparams"]
    if row["method"] == "adam":
        tx = optax.adam(h["learning_rate"])
    else:
        warmup = h["warmup_fraction"] * end

        def rate(t):
            share = jnp.clip((t - warmup) / (end - warmup), 0)
            cosine = (1 + jnp.cos(jnp.pi * share)) / 2
            return h["learning_rate"] * jnp.minimum(t / warmup, 1) * cosine

        tx = optax.adamw(rate, weight_decay=h["weight_decay"])
    key = jax.random.key(np.uint32(row["seed"]))
    params, _ = task.init(jax.random.fold_in(key, 0))
    words = jax.random.bits(jax.random.fold_in(key, 1), (2,), jnp.uint32)
    at, mask = order.batches(words, 0, end, task.batch_size, task.num_examples)
    state = tx.init(params)
    with jax.numpy_dtype_promotion("standard"):  # Optax takes powers by a count
        for t in range(end):
            batch = {k: v[at[t]] for k, v in task.train.items()} | {"mask": mask[t]}
            grads = jax.grad(lambda p, b=batch: task.loss(p, (), key, b)[0])(params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
    part = {**task.valid, "mask": jnp.ones(len(task.valid["labels"]))}
    sums = task.evaluate(params, (), part)
    loss = float(sums["loss"] / sums["count"])
    assert row["valid_loss"] == pytest.approx(loss, rel=1e-4)


def test_ones_own_bake_offs_are_read_and_others_are_not(raced, tmp_path):
    answer, folder, _asked = raced
    found = history.bakeoffs(folder)
    if answer.how == "race":  # beside it there may be a bake-off
        assert all(each.family == "your libsvm/iris" for each in found)
        return
    assert [each.family for each in found[:1]] == ["your libsvm/iris"]
    past = found[0]
    assert past.kind == points.SHARE
    assert past.described == answer.described
    assert max(past.scores.values()) == 0
    with pytest.raises(UsageError, match="no directory is"):
        history.folders((str(tmp_path / "none*"),))
    (tmp_path / "selection.json").write_text('[{"how": "bakeoff"}]')
    with pytest.raises(UsageError, match=r"selection\.json is damaged"):
        history.bakeoffs(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ("cawr_tuned",)}, "no method can run on"),
        ({"how": "race", "budget": 1.0}, "a race compares two contenders at least"),
        ({"how": "race", "budget": 5.0, "seeds": 3}, "give 6 or more"),
        ({"how": "bakeoff", "budget": 9.0}, "a bake-off trains each of"),
    ],
)
def test_one_that_cannot_be_held_is_refused_in_a_line(tmp_path, changes, words):
    with pytest.raises(UsageError, match=words):
        race.run(settings_of(**changes), tmp_path)
    assert not (tmp_path / results.RACES).exists()


@pytest.mark.parametrize(
    ("chosen", "overrides", "racing", "said"),
    [
        (("adam", "dog"), {}, ("adam", "dog"), "2 methods may race, by config.select"),
        (
            ("dog",),
            {"methods": ("adam",)},
            ("dog",),
            "1 method may race, by config.sel",
        ),
        (
            (),
            {"methods": METHODS_RACED},
            METHODS_RACED,
            "4 methods may race, by config.m",
        ),
        ((), {}, USUAL, "the {count} methods that known tasks were trained with may"),
    ],
)
def test_who_races_is_said_first_and_why(
    monkeypatch, tmp_path, capsys, chosen, overrides, racing, said
):
    def load(*_):
        raise UsageError("enough")

    monkeypatch.setattr(race.blocks_lib, "load", load)
    asked = settings_of(methods=chosen)  # with METHODS_RACED to train, as in a file
    # Those that are registered now: other tests of this process may have changed them.
    racing, said = tuple(racing), said.format(count=len(racing))
    assert race.named_methods(asked, overrides) == racing
    with pytest.raises(UsageError, match="enough"):
        race.run(asked, tmp_path, overrides=overrides)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    if racing == USUAL:
        assert "config.select.methods" in line
        assert "--config.methods as a flag" in line


IRIS = tasks.make_task("libsvm/iris")


def with_loss(loss):
    return dataclasses.replace(IRIS, loss=loss)


def method_of(build):
    return Method("own", build, {}, family="fixed", source="here")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"task": lambda x: x}, "task must be a lrjax.Task"),
        ({"task": None}, "task must be a lrjax.Task"),
        ({"task": {"train": 1}}, "task must be a lrjax.Task"),
        ({"task": "libsvm/irs"}, "did you mean 'libsvm/iris'"),
        ({"task": with_loss({})}, "loss must be a function, not dict"),
        ({"task": with_loss(lambda p, s, k, b: ({"a": 1.0}, (s, {})))}, "not dict"),
        ({"task": with_loss(lambda p, s, k, b: (1.0, (s, None)))}, "a dictionary"),
        ({"task": dataclasses.replace(IRIS, name=3)}, "name must be a text"),
        ({"task": dataclasses.replace(IRIS, num_classes="3")}, "num_classes '3'"),
        ({"task": dataclasses.replace(IRIS, micro_batches=0)}, "micro_batches 0"),
        ({"methods": [optax.adam(1e-3)]}, "is not a method"),
        ({"methods": optax.adam(1e-3)}, "is not a method"),
        ({"methods": [optax.adam]}, "is not a method"),
        ({"methods": 3}, "3 is not a method"),
        ({"methods": [["adam"]]}, "is not a method"),
        ({"methods": ["addam"]}, "did you mean 'adam'"),
        ({"methods": []}, "methods is empty"),
        ({"methods": method_of(lambda horizon: 3)}, "which is not a transformation"),
        (
            {"methods": method_of(lambda horizon: 1 / 0)},
            "step: ZeroDivisionError",
        ),
        ({"budget": "many"}, "budget must be a number, not 'many'"),
        ({"how": "guess"}, "bakeoff"),
        ({"seconds": "all"}, "seconds must be a number"),
        ({"budget": -1}, "must be above 0"),
        ({"seeds": "three"}, "seeds must be a whole number"),
        ({"seeds": 1.5}, "seeds must be a whole number"),
        ({"seeds": ["a"]}, "each of seeds must be a whole number"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"steps": "a"}, "steps must be a whole number"),
        ({"workdir": 3}, "workdir must be a path"),
        ({"data_dir": 3}, "data_dir must be a path"),
        ({"log": 3}, "log must be a function"),
    ],
)
def test_what_is_of_the_wrong_kind_is_said_in_a_line(asked, words):
    plain = {"task": IRIS, "methods": ["adam"], "log": lambda _: None}
    with pytest.raises(UsageError, match=words) as caught:
        lrjax.select(**{**plain, **asked})
    assert "\n" not in str(caught.value)


def test_a_task_that_always_diverges_is_said(tmp_path):
    broken = Method(
        name="broken",
        build=lambda horizon: optax.scale(jnp.nan),
        defaults={},
        family="fixed",
        source="here",
    )
    task = tasks.make_task("libsvm/iris")
    with pytest.raises(UsageError, match="all of 1 contender diverged"):
        lrjax.select(task, methods=[broken], budget=4, epochs=20, log=lambda _: None)


# Tasks of one's own


OWN = [
    pytest.param(name, marks=[] if name in ("cnn", "lstm") else pytest.mark.slow)
    for name in own.MODELS
]


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_a_model_of_ones_own_is_trained_and_judged_exactly(name, tmp_path):
    """A race of two on any kind of model; what it writes is what the model does."""
    task = own.task(name)
    answer = lrjax.select(
        *(task, ["sgd", "adam"]),
        budget=2,
        steps=30,
        seeds=1,
        workdir=tmp_path,
        log=lambda _: None,
    )
    assert answer.task == task.name
    runs, _ = results.load(tmp_path)
    row = runs[runs["method"] == f"race:{answer.method}"].iloc[0]
    assert row["status"] == "done"
    assert answer.score == row["valid_accuracy"]
    program, state = trained_alone(task, row)
    params, model_state = jax.tree.map(
        lambda x: x[0, 0], programs.final_model(program, state)
    )
    for part in ("valid", "test"):
        rows = {**getattr(task, part), "mask": jnp.ones(own.ROWS)}
        sums = jax.jit(task.evaluate)(params, model_state, rows)
        for name in ("accuracy", "loss"):
            mean = float(sums[name]) / own.ROWS
            assert row[f"{part}_{name}"] == pytest.approx(mean, rel=1e-5)


def trained_alone(task, row):
    """The program and the state of a run, trained in a block of its own."""
    method = METHODS[row["method"].removeprefix("race:")]
    static, traced = methods.split(method, row["hparams"])
    program = train.single(
        task, method, static, 30, 1, 1, one_by_one=strategy.one_by_one(task)
    )
    seeds = train.seed_runs(task.init, np.array([row["seed"]]))
    inputs = train.inputs(program, seeds, [traced], row["horizon"])
    compiled = programs.compile_program(program, seeds, inputs)
    *_, last = programs.train(compiled, program, seeds, inputs, row["steps"])
    return program, last.state


def test_the_order_in_which_methods_are_named_changes_nothing():
    names = ["prodigy", "adam", "momentum"]
    one, other = (
        lrjax.select("libsvm/iris", order, budget=4, steps=40)
        for order in (names, names[::-1])
    )
    assert str(one) == str(other)


def test_methods_of_ones_own_follow_by_name_however_they_were_found(registries):
    for name in ("zeta", "alpha"):
        methods.METHODS[name] = dataclasses.replace(METHODS["sgd"], name=name)
    named = ("zeta", "adam", "alpha", "sgd")
    found = lineup.in_order([METHODS[name] for name in named])
    assert [each.name for each in found] == ["sgd", "adam", "alpha", "zeta"]


def test_a_task_is_looked_at_in_the_precision_of_its_caller():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        task = tasks.make_task("libsvm/iris", tasks.TaskOptions(precision="float64"))
        wide = probes.probe(task).features
    task = tasks.make_task("libsvm/iris", tasks.TaskOptions())
    narrow = probes.probe(task).features
    assert wide.keys() == narrow.keys()  # from other numbers: parameters differ
    assert wide["loss"] == pytest.approx(narrow["loss"], rel=0.5)
