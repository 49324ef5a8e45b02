"""Racing: in its budget, fair to schedules, resumable, and an answer that trains."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

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
from lrjax.hpo import (
    contenders,
    halving,
    race,
    rungs,
    selection,
    verdicts,
)
from lrjax.launch import local, units
from lrjax.methods import METHODS, cooled
from lrjax.optim import schedules

METHODS_RACED = ("adam", "adamw_cosine", "prodigy", "dog")
RATED = re.compile(r"(adam|adamw_cosine) \(learning_rate=[-0-9.e]+\)")


@given(
    st.integers(1, 150),
    st.floats(0.2, 64),
    st.integers(3, 10**5),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_no_race_costs_more_than_its_budget(count, budget, horizon, seeds, random):
    try:
        plan = rungs.make_plan(count, budget, horizon, range(seeds))
    except UsageError:
        assert budget < 2 or horizon < 30
        return
    assert min(count, 2) <= plan.entered <= count
    assert list(plan.rungs) == sorted(set(plan.rungs))
    assert plan.rungs[-1] <= horizon
    needs_cooldown = [random.random() < 0.5 for _ in range(plan.entered)]
    spent = 0
    for rung in range(len(plan.rungs)):
        spent += sum(plan.cost(rung, each) for each in needs_cooldown)
        assert spent <= budget * horizon
        if rung + 1 < len(plan.rungs):
            quota = plan.quota(len(needs_cooldown), rung, spent)
            assert 1 <= quota <= len(needs_cooldown)
            needs_cooldown = needs_cooldown[:quota]


def test_a_small_budget_ends_early_and_a_large_one_has_more_seeds():
    assert rungs.make_plan(100, 1, 1000, ()).rungs[-1] < 1000
    assert rungs.make_plan(100, 2, 1000, ()).rungs == (1000,)
    plan = rungs.make_plan(100, 40, 1000, ())
    assert plan.rungs == (111, 333, 1000)
    assert len(plan.seeds) == 5
    with pytest.raises(UsageError, match=r"give 0\.23 or more"):
        rungs.make_plan(100, 0.1, 240, ())
    assert rungs.make_plan(100, 0.23, 240, ()).entered == 2
    # Most of a rung's contenders go on: early rungs say little.
    assert plan.quota(plan.entered, 0, plan.entered * plan.cost(0, True)) >= 7


@given(st.integers(2, 33), st.floats(1, 16), st.integers(30, 3000))
@settings(max_examples=60, deadline=None)
def test_all_that_is_wanted_starts_if_the_budget_bears_a_rung_of_it(
    wanted, budget, horizon
):
    plan = rungs.make_plan(3 * wanted, budget, horizon, (), wanted)
    first = max(1, round(horizon / 9))
    if wanted * first * len(plan.seeds) <= budget * horizon:
        assert plan.entered >= wanted
    else:  # as many as there is room for
        assert plan.entered == int(budget * horizon // (first * len(plan.seeds)))


@pytest.mark.parametrize("names", [("adam", "prodigy"), tuple(METHODS)])
def test_every_named_method_comes_before_any_comes_again(names):
    chosen = [METHODS[name] for name in names]
    found = contenders.contenders(chosen, "libsvm/iris", settings_of(), named=True)
    labels = [each.method.name for each in found]
    first = len(set(labels))
    assert len(set(labels[:first])) == first
    # All but those that need a value which nobody published for the task.
    assert set(labels) == {n for n in names if not METHODS[n].required}
    # Nobody named these: the order that was found to be best.
    found = contenders.contenders(chosen, "libsvm/iris", settings_of())
    labels = [each.method.name for each in found]
    assert len(set(labels[:first])) < first


def test_two_named_methods_are_both_tried_at_a_budget_of_two():
    said = []
    answer = lrjax.select(
        "libsvm/iris", ["adam", "prodigy"], budget=2, epochs=4, log=said.append
    )
    assert {each.label.split()[0] for each in answer.judged} == {"adam", "prodigy"}
    assert answer.left_out == ()
    assert "not tried" not in str(answer)


def test_who_is_left_out_is_named(tmp_path):
    said, names = [], ["sgd", "adam", "prodigy", "dog", "cawr_tuned"]
    options = {"budget": 0.35, "epochs": 10, "workdir": tmp_path}
    answer = lrjax.select("libsvm/iris", names, log=said.append, **options)
    tried = {each.label.split()[0] for each in answer.judged}
    assert set(answer.left_out) == set(names) - tried
    assert len(tried) == 3
    for name in answer.left_out:
        assert name in said[0]
        assert name in str(answer).split("not tried")[1]
    assert "nobody published for this task: cawr_tuned" in said[0]
    content = json.loads((tmp_path / selection.ANSWER).read_text())[0]
    assert content["left_out"] == list(answer.left_out)
    assert content["metric"] == "accuracy"
    assert content["scale"]["higher_is_better"] is True


def test_halving_needs_nothing_but_scores():
    plan, seen = rungs.make_plan(50, 16, 900, ()), []

    def train_rung(number, alive):
        seen.append(list(alive))
        # The higher its number the better at the end, and the lower before.
        losses = {i: np.full(3, -1.0 - 0.1 * i) for i in alive}
        return {i: verdicts.Score(np.full(3, 0.1 * i), losses[i]) for i in alive}

    *_, last = halving.halve(plan, [True] * plan.entered, train_rung)
    assert [len(alive) for alive in seen] == [8, 6, 4]
    assert seen[-1] == [0, 1, 2, 3]  # by loss
    assert last.verdict.kept == [3]  # by accuracy
    costs = [plan.cost(rung, needs_cooldown=True) for rung in range(3)]
    assert last.spent == sum(n * c for n, c in zip((8, 6, 4), costs, strict=True))


def test_the_users_own_methods_come_first_and_labels_tell_all_apart():
    own = dataclasses.replace(METHODS["adam"], name="own")
    chosen = [METHODS["sgd"], METHODS["adam"], METHODS["mechanic"], own]
    found = contenders.contenders(chosen, "libsvm/iris", settings_of())
    labels = [each.label for each in found]
    assert labels[0] == "own (learning_rate=0.001)"
    assert labels[1:3] == ["mechanic", "adam (learning_rate=0.01)"]
    assert len(set(labels)) == len(labels) == len({each.key for each in found})


def test_noise_is_told_by_a_paired_t_test():
    a, b = np.array([0.8, 0.82, 0.79, 0.85]), np.array([0.7, 0.83, 0.75, 0.8])
    expected = stats.ttest_rel(a, b, alternative="greater").pvalue
    assert verdicts.chance_worse(a, b) == pytest.approx(expected)
    assert math.isnan(verdicts.chance_worse(a[:1], b[:1]))
    # Without spread a sign test: three coins, all heads.
    assert verdicts.chance_worse(a[:3], a[:3] - 0.5) == pytest.approx(1 / 8)
    assert verdicts.chance_worse(a[:3] - 0.5, a[:3]) == pytest.approx(7 / 8)
    assert verdicts.chance_worse(a, a) == 0.5


def score(*values):
    return verdicts.Score(np.array(values), np.array(values))


def test_the_log_says_why_each_is_dropped():
    scores = {
        0: score(0.90, 0.91, 0.92),
        1: score(0.50, 0.52, 0.51),
        2: score(0.92, 0.89, 0.91),
        3: score(0.91, 0.90, 0.90),
        4: score(0.95, -math.inf, 0.95),
    }
    verdict = verdicts.judge(scores, 2, early=False)
    assert verdict.kept == [0, 2]
    assert verdict.order == [0, 2, 3, 1, 4]
    assert "below the top 2 (not significantly worse, p = " in verdict.reasons[3]
    assert "below the top 2 (significantly worse, p = " in verdict.reasons[1]
    assert "diverged" in verdict.reasons[4]
    # A metric may not be defined where training goes well.
    undefined = verdicts.Score(np.array([0.9, -math.inf, 0.9]), np.array([0.9] * 3))
    verdict = verdicts.judge({0: scores[0], 1: undefined}, 2, early=False)
    assert verdict.reasons[1] == "not defined with 1 of 3 seeds"
    # Inside the quota only who diverged is dropped.
    assert verdicts.judge(scores, 5, early=False).kept == [0, 2, 3, 1]


def test_early_rungs_are_judged_by_loss_and_the_end_by_accuracy():
    def both(accuracy, loss):
        return verdicts.Score(np.array([accuracy]), np.array([-loss]))

    scores = {0: both(0.9, 0.5), 1: both(0.8, 0.4), 2: both(0.9, 0.3)}
    assert verdicts.judge(scores, 3, early=True).kept == [2, 1, 0]
    # Equal accuracies are ordered by loss.
    assert verdicts.judge(scores, 3, early=False).kept == [2, 0, 1]


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_schedules_that_end_low_are_bound_to_their_horizon(name):
    rate = schedules.by_name(name, 1.0, 1000, 50)
    assert (rate(999) < 0.1) == (name not in schedules.ANYTIME)


def test_who_is_judged_by_a_branch():
    needs_cooldown = {n for n, m in METHODS.items() if m.horizon_bound(m.defaults)}
    assert {"adamw_cosine", "cawr", "prodigy", "mechanic"} <= needs_cooldown
    free = {"adam", "cocob", "dog", "schedule_free_adamw", "reduce_on_plateau"}
    assert not free & needs_cooldown
    adam = METHODS["adam"]
    assert adam.horizon_bound({**adam.defaults, "schedule": "linear"})


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


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raced")
    return race.run(settings_of(), folder)[0], folder


def lines(folder, name):
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_the_answer_of_a_race(raced):
    answer, folder = raced
    assert answer.cost <= answer.budget
    assert answer.method in METHODS_RACED
    runs, curves = results.load(folder)
    assert set(runs["status"]) == {"done"}
    assert len(curves) == len(runs)
    best = runs[runs["method"] == f"race:{answer.method}"]
    best = best[best["hparams"].map(lambda found: found == answer.hparams)]
    assert len(best) >= len(answer.seeds)
    assert best["valid_accuracy"].mean() == pytest.approx(answer.score, abs=1e-6)
    text = str(answer)
    assert f"{answer.cost:.2f} full runs" in text
    assert "runner-up" in text
    content = json.loads((folder / selection.ANSWER).read_text())[0]
    assert content["method"] == answer.method
    assert content["judged"]
    for name in ("selection.csv", "selection.png", "selection.svg"):
        assert (folder / name).stat().st_size > 500
    dropped = [e.verdict for e in answer.judged if e.verdict != "goes on"]
    assert dropped
    assert answer.label in text
    labels = {e.label for e in answer.judged} - {"dog", "prodigy"}
    assert labels
    assert all(RATED.fullmatch(label) for label in labels)
    assert all(why.startswith("below the top ") or "diverged" in why for why in dropped)


@pytest.mark.parametrize("kept", [0, 7, 20])
def test_a_race_that_was_killed_resumes_to_the_same_answer(raced, tmp_path, kept):
    answer, folder = raced
    whole = (folder / results.RACES).read_text().splitlines(keepends=True)
    assert len(whole) > 20
    (tmp_path / results.RACES).write_text("".join(whole[:kept]) + whole[kept][:9])
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.warns(UserWarning, match="torn"):
        again = race.run(settings_of(), tmp_path)[0]
    assert again == answer
    assert lines(tmp_path, results.RACES) == lines(folder, results.RACES)
    assert lines(tmp_path, results.RUNS) == lines(folder, results.RUNS)


def test_where_memory_gives_out_a_race_goes_on_with_fewer_at_once(
    raced, tmp_path, monkeypatch, capsys
):
    calls, train_unit = [], local.train_unit

    def tight(*args):
        calls.append(args)
        if len(calls) == 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return train_unit(*args)

    monkeypatch.setattr(local, "train_unit", tight)
    monkeypatch.setattr(units, "blocks_at_once", lambda todo, device: 2)
    assert race.run(settings_of(), tmp_path)[0] == raced[0]
    assert "out of memory, continuing with 1 at once" in capsys.readouterr().err
    assert lines(tmp_path, results.RUNS) == lines(raced[1], results.RUNS)


def test_a_race_for_which_there_is_no_memory_is_refused_in_a_line(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(machine, "free_memory", lambda device: 1000.0)
    with pytest.raises(UsageError, match=r"one block needs .* and 1000 B can be used"):
        race.run(settings_of(), tmp_path)


def test_a_branch_is_the_run_brought_to_rest(raced):
    """Against a loop in plain Optax: AdamW with the cosine times the cooldown."""
    answer, folder = raced
    rows = [
        row
        for row in lines(folder, results.RACES)
        if row["method"] == "adamw_cosine" and row["seed"] == 1 and row["cooldown"]
    ]
    row, task = rows[0], tasks.make_task("libsvm/iris")
    start, end, h = row["steps"] - row["cooldown"], row["steps"], row["hparams"]
    warmup, horizon = h["warmup_fraction"] * answer.horizon, answer.horizon

    def rate(t):
        cosine = (
            1 + jnp.cos(jnp.pi * jnp.clip((t - warmup) / (horizon - warmup), 0))
        ) / 2
        rest = jnp.clip((end - t) / (end - start), 0, 1)
        return h["learning_rate"] * jnp.minimum(t / warmup, 1) * cosine * rest

    tx = optax.adamw(rate, weight_decay=h["weight_decay"])
    key = jax.random.key(np.uint32(1))
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": ("cawr_tuned",)}, "no method can run on"),
        ({"budget": 0.1}, "too small for one rung"),
    ],
)
def test_a_race_that_cannot_be_held_is_refused_in_a_line(tmp_path, changes, words):
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
        ((), {}, METHODS, "all {count} registered methods may race: "),
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
    if len(racing) == len(METHODS):
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
        ({"methods": method_of(lambda horizon: 1 / 0)}, "fails: ZeroDivisionError"),
        ({"budget": "many"}, "budget must be a number, not 'many'"),
        ({"budget": None}, "budget must be a number"),
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


def test_a_cooled_method_has_two_more_numbers():
    method = cooled(METHODS["adamw_cosine"])
    extra = set(method.defaults) - set(METHODS["adamw_cosine"].defaults)
    assert extra == {"cooldown_start", "cooldown_steps"}


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
