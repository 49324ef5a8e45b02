"""compare, tune and find_rate: the runs of main.py, for parts of one's own."""

import concurrent.futures
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import lrjax
from lrjax import config as config_lib
from lrjax import methods, own, results, tasks
from lrjax.core import Method, UsageError
from lrjax.launch import experiment
from lrjax.methods import METHODS
from lrjax.rates import Rates, Transfer

NAMED = "synthetic/regression-1"
SHORT = {"seeds": 2, "steps": 6}


def quadratic(name="quadratic", scale=1.0):
    """A task with one array whose loss is a parabola around each row."""

    def loss(params, state, key, batch):
        sums = evaluate(params, state, batch)
        return sums["loss"] / sums["count"], (state, {})

    def evaluate(params, state, batch):
        errors = scale * ((batch["x"] - params) ** 2).sum(1)
        return {"loss": errors @ batch["mask"], "count": batch["mask"].sum()}

    rows = jnp.asarray(np.random.RandomState(0).randn(24, 3), jnp.float32)
    parts = ({"x": rows[:16]}, {"x": rows[16:20]}, {"x": rows[20:]})

    def init(key):
        return jax.random.normal(key, (3,)), ()

    return lrjax.Task(name, *parts, init, loss, evaluate, batch_size=8)


def halving(horizon, learning_rate=0.1):
    """A method of one's own: the rate falls along a parabola."""
    return optax.sgd(
        lambda step: learning_rate * (1 - jnp.float32(step) / horizon) ** 2
    )


def test_a_comparison_has_the_runs_of_main(tmp_path):
    config = config_lib.base()
    config.tasks, config.methods = (NAMED,), ("sgd", "prodigy")
    config.seeds, config.steps = 2, 6
    experiment.run(config_lib.check(config), tmp_path)
    study = lrjax.compare(NAMED, ["sgd", "prodigy"], **SHORT)
    runs, curves = results.load(tmp_path)
    ours = study.runs.set_index("run_id").sort_index()
    wanted = runs.set_index("run_id").sort_index()
    for name in ("method", "seed", "valid_loss", "test_loss"):
        assert ours[name].equals(wanted[name])
    assert len(study.curves) == len(curves)
    assert {"task", "method", "seed"} <= set(study.curves)
    assert ours["learning_rate"].notna().all()
    assert "prodigy" in str(study)


def test_parts_of_ones_own_are_compared_resumed_and_forgotten(tmp_path, capsys):
    arguments = (quadratic(), [halving, "adam"])
    first = lrjax.compare(*arguments, workdir=tmp_path, **SHORT)
    assert set(first.runs["method"]) == {"halving", "adam"}
    assert first.runs["valid_loss"].notna().all()
    again = lrjax.compare(*arguments, workdir=tmp_path, **SHORT)
    assert "4 of 4 are done" in capsys.readouterr().err
    assert again.runs.equals(first.runs)
    assert "halving" not in methods.METHODS
    assert "quadratic" not in tasks.TASKS
    assert first.report() == tmp_path / "report" / "index.html"
    assert (tmp_path / "report" / "index.html").stat().st_size > 10_000


@pytest.mark.parametrize("where", ["all", "train", "valid", "test"])
def test_arrays_of_numpy_are_as_good_as_those_of_jax(where):
    task = quadratic()
    names = ("train", "valid", "test") if where == "all" else (where,)
    parts = {name: {"x": np.asarray(getattr(task, name)["x"])} for name in names}
    runs = [
        lrjax.compare(each, "adam", **SHORT).runs.drop(columns="seconds")
        for each in (task, dataclasses.replace(task, **parts))
    ]
    assert runs[0].equals(runs[1])


@pytest.mark.slow
def test_a_changed_method_or_task_is_trained_anew(tmp_path):
    def run(task, power):
        def own(horizon, learning_rate=0.1):
            def rate(step):
                return learning_rate * (1 - jnp.float32(step) / horizon) ** power

            return optax.sgd(rate)

        study = lrjax.compare(task, own, workdir=tmp_path, seeds=1, steps=4)
        return set(study.runs["run_id"])

    first = run(quadratic(), 1)
    assert run(quadratic(), 1) == first
    second = run(quadratic(), 2)
    assert len(second) == 2
    assert len(run(quadratic(scale=2.0), 2)) == 3


AT_REST = {"sgd": {"learning_rate": 0.0}}


def at_rest(task, **fields):
    """The losses of parameters as they are drawn, in order of the seeds."""
    study = lrjax.compare(task, "sgd", hparams=AT_REST, **SHORT, **fields)
    return study.runs.sort_values("seed")["valid_loss"].to_numpy()


def test_what_functions_read_may_change_between_calls():
    """As a number in another cell of a notebook."""
    read = {"scale": 1.0, "shift": 0.0, "factor": 1.0}

    def changing():
        task = quadratic()

        def evaluate(params, state, batch):
            sums = task.evaluate(params, state, batch)
            return {**sums, "loss": read["scale"] * sums["loss"]}

        def init(key):
            params, state = task.init(key)
            return read["shift"] + params, state

        doubled = lrjax.Metric("more", lambda s: read["factor"] * s["loss"], False)
        return dataclasses.replace(
            task, init=init, evaluate=evaluate, metrics=("loss", doubled)
        )

    task = changing()
    before = at_rest(task)
    read["scale"] = 5.0
    np.testing.assert_allclose(at_rest(task), 5 * before, rtol=1e-6)
    np.testing.assert_allclose(at_rest(changing()), 5 * before, rtol=1e-6)
    read["shift"] = 100.0  # beside which parameters and rows are small
    np.testing.assert_allclose(at_rest(task), 5 * 3 * 100**2, rtol=0.1)
    read["factor"] = 7.0
    study = lrjax.compare(task, "sgd", hparams=AT_REST, **SHORT)
    wanted = 7 * len(task.valid["x"]) * study.runs["valid_loss"]
    np.testing.assert_allclose(study.runs["valid_more"], wanted, rtol=1e-6)


def test_a_registered_method_that_reads_another_number_is_trained_anew(tmp_path):
    read = {"rate": 0.0}

    @lrjax.register_method("reading")
    def reading(learning_rate=1.0):
        return optax.sgd(learning_rate * read["rate"])

    try:
        assert len(lrjax.compare(NAMED, "reading", workdir=tmp_path, **SHORT).runs) == 2
        read["rate"] = 0.1
        assert len(lrjax.compare(NAMED, "reading", workdir=tmp_path, **SHORT).runs) == 4
    finally:
        del METHODS["reading"]


def test_calls_in_threads_train_their_own_tasks():
    """Both have the name of their model."""
    scales = (1.0, 3.0, 9.0)
    with concurrent.futures.ThreadPoolExecutor(len(scales)) as pool:
        one, *others = pool.map(lambda s: at_rest(quadratic("same", s)), scales)
    for scale, other in zip(scales[1:], others, strict=True):
        np.testing.assert_allclose(other, scale * one, rtol=1e-6)


def test_tuning_gives_the_best_and_all_trials(tmp_path):
    space = {"learning_rate": (1e-3, 1.0, "log")}
    tuned = lrjax.tune(
        quadratic(), halving, trials=4, space=space, tuner="random", **SHORT
    )
    assert len(tuned.trials) == 4
    best = tuned.trials.loc[tuned.trials["cost"].idxmin()]
    assert tuned.best["learning_rate"] == best["learning_rate"]
    assert len(tuned.runs) == 2
    assert tuned.runs["learning_rate"].eq(best["learning_rate"]).all()
    rate = tuned.runs["learning_rate"].iloc[0]
    horizon = tuned.runs["horizon"].iloc[0]
    call = f"tx = halving(horizon={horizon}, learning_rate={rate})"
    assert call in tuned.snippet.splitlines()


@pytest.mark.parametrize("method", ["sgd", halving, "schedule_free_sgd"])
def test_the_rate_of_a_parabola_is_found(method, tmp_path):
    """The loss is sum (x - p)**2, so plain steps diverge from a rate of 1 on."""
    rates = [1e-3, 1e-2, 0.1, 0.3, 3.0, 30.0]
    before = list(METHODS)
    found = lrjax.find_rate(quadratic(), method, rates=rates, steps=60)
    assert list(METHODS) == before  # in its order, from which others' draws follow
    if method != "schedule_free_sgd":  # its average makes larger rates good, too
        assert 0.1 <= found.rate <= 0.3
        assert found.edge == (3.0 if method == "sgd" else 30.0)  # `halving` recovers
    low, high = found.interval
    assert low <= found.rate <= high
    first = found.table.iloc[0]  # a loss of one's own has no bounds
    assert first["high"] - first["mean"] == pytest.approx(first["mean"] - first["low"])
    figure = found.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").read_bytes()[:4] == b"\x89PNG"
    assert figure.axes
    assert f"learning rate {found.rate:g}" in str(found)


def fabricated(losses):
    """Runs of rates with a list of losses each."""
    return pd.DataFrame(
        [
            {
                "task": "t",
                "hparams": {"learning_rate": rate},
                "seed": seed,
                "valid_loss": loss,
            }
            for rate, seeds in losses.items()
            for seed, loss in enumerate(seeds)
        ]
    )


def widths(optimum):
    """Rates of three widths whose best is `optimum(width)`, with noise of seeds."""
    rates = 10.0 ** np.arange(-5, 1)
    return Transfer(
        {
            width: Rates.of(
                fabricated(
                    {
                        rate: [
                            1 + np.log10(rate / optimum(width)) ** 2 + 0.01 * seed
                            for seed in range(3)
                        ]
                        for rate in rates
                    }
                ),
                "adam",
            )
            for width in (1.0, 10.0, 100.0)
        }
    )


def test_a_rate_that_falls_with_the_width_does_not_transfer(tmp_path):
    found = widths(lambda width: 0.1 / width)
    assert found.exponent == pytest.approx(-1)
    assert found.shared is None
    assert "no rate serves all widths; the best changes as width^-1.00" in str(found)
    found.plot(tmp_path / "widths.png")
    assert (tmp_path / "widths.png").read_bytes()[:4] == b"\x89PNG"


def test_a_rate_that_transfers_is_said():
    found = widths(lambda width: 0.01)
    assert found.exponent == pytest.approx(0, abs=1e-12)
    assert found.shared == (0.01, 0.01)
    assert "the rate transfers: 0.01 at every width" in str(found)


@pytest.mark.slow
def test_rates_of_several_widths_are_found(tmp_path):
    tasks = {1: quadratic(), 2: "libsvm/iris"}
    given = {"rates": [0.03, 0.1, 0.3], "steps": 4, "seeds": 2}
    found = lrjax.rate_transfer(tasks, "sgd", workdir=tmp_path, **given)
    assert [*found.by_width] == [1, 2]
    assert found.by_width[1].rate == lrjax.find_rate(quadratic(), "sgd", **given).rate
    assert (tmp_path / "width_2" / "runs.jsonl").exists()
    for wrong in ({}, {1: quadratic()}, {1: quadratic(), -2: quadratic()}):
        with pytest.raises(UsageError, match="rate_transfer: tasks has the widths"):
            lrjax.rate_transfer(wrong, "sgd")


NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "rate", "interval", "edge"),
    [
        ({1: [3, 3, 3], 2: [1, 1.1, 1.2], 3: [2, 2, 2]}, 2, (2, 2), None),
        ({1: [1.1, 1.2, 1], 2: [1, 1.1, 1.2], 3: [2, 2, 2]}, 1, (1, 2), None),
        ({1: [2, 2, 2], 2: [1, 1, 1], 3: [1, 1, NAN]}, 2, (2, 2), 3),
        ({1: [2, 2, 2], 2: [1, 1, 1], 3: [NAN] * 3, 4: [9, 9, 9]}, 2, (2, 2), 3),
        ({1: [2, 2], 2: [1, 1]}, 2, (2, 2), None),
        ({1: [1, 1, 1], 2: [1, 1, 1]}, 1, (1, 2), None),
    ],
)
def test_rates_are_judged_over_seeds(losses, rate, interval, edge):
    found = Rates.of(fabricated(losses), "sgd")
    assert (found.rate, found.interval) == (rate, interval)
    assert found.edge == edge


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({1: [2], 2: [1]}, "no rate diverged."),
        ({1: [1], 2: [NAN]}, "training breaks down from 2 on."),
        ({1: [2], 2: [NAN], 3: [1]}, "runs diverged at 2."),
        ({1: [NAN], 2: [2, NAN], 3: [1, 2]}, "runs diverged at 1, 2."),
    ],
)
def test_rates_at_which_runs_diverged_are_said(losses, words):
    assert f"; {words}" in str(Rates.of(fabricated(losses), "sgd"))


def test_rates_that_all_diverge_are_said():
    with pytest.raises(UsageError, match="diverged on t with every rate from 1 to 2"):
        Rates.of(fabricated({1: [NAN], 2: [NAN]}), "sgd")


BAD = {
    "a number for a task": (lambda: lrjax.compare(5, "adam"), "task must be"),
    "no task": (lambda: lrjax.compare([], "adam"), "task must be"),
    "a list with a number": (
        lambda: lrjax.compare([5], "adam"),
        "task must be a lrjax.Task or the name of one, not 5",
    ),
    "a frame": (
        lambda: lrjax.compare(pd.DataFrame({"a": [1]}), "adam"),
        "not data (DataFrame): lrjax.Task.from_flax and others make one",
    ),
    "arrays": (
        lambda: lrjax.select((np.ones((5, 2)), np.ones(5))),
        "table:FILE.csv?target=COLUMN names one of a file",
    ),
    "no method": (lambda: lrjax.compare(NAMED, []), "methods is empty"),
    "a transformation": (
        lambda: lrjax.compare(NAMED, optax.adam(1e-3)),
        "is not a method",
    ),
    "a method twice": (lambda: lrjax.compare(NAMED, ["sgd", "sgd"]), "comes twice"),
    "a misspelt method": (lambda: lrjax.compare(NAMED, "adm"), "did you mean 'adam'"),
    "no defaults": (
        lambda: lrjax.compare(NAMED, lambda learning_rate: None),
        "its parameter learning_rate needs a default",
    ),
    "a broken function": (
        lambda: lrjax.compare(NAMED, lambda learning_rate=1.0: 1 / 0, **SHORT),
        "fails at its first step",
    ),
    "a shipped name": (
        lambda: lrjax.compare(
            NAMED, Method("adam", halving, {"learning_rate": 0.1}, "own", "")
        ),
        "lrjax's own",
    ),
    "a field": (lambda: lrjax.compare(NAMED, "adam", epoch=3), "did you mean 'epochs'"),
    "a value": (lambda: lrjax.compare(NAMED, "adam", epochs="two"), "epochs"),
    "a launcher": (lambda: lrjax.compare(NAMED, "adam", launcher="dusk"), "dask"),
    "a workdir": (lambda: lrjax.compare(NAMED, "adam", workdir=3, **SHORT), "workdir"),
    "own on a cluster": (
        lambda: lrjax.compare(quadratic(), "adam", launcher="dask"),
        "module:name",
    ),
    "no rate": (
        lambda: lrjax.find_rate(NAMED, lambda size=1.0: optax.sgd(size), steps=5),
        "no learning_rate",
    ),
    "a method without a name": (
        lambda: lrjax.compare(NAMED, functools.partial(optax.sgd, learning_rate=0.1)),
        "has no name: give a function made by def",
    ),
    "domains": (
        lambda: own.method_of(halving, domains=["b1"]),
        "domains must map hyperparameters to what they may be",
    ),
    "one rate": (lambda: lrjax.find_rate(NAMED, "sgd", rates=[1.0]), "two different"),
    "text for a rate": (
        lambda: lrjax.find_rate(NAMED, "sgd", rates=["1", "2"]),
        "not a number",
    ),
    "a space": (
        lambda: lrjax.tune(NAMED, "sgd", space={"lr": (1, 2)}),
        "learning_rate",
    ),
    "a tuner": (lambda: lrjax.tune(NAMED, "sgd", tuner="smack"), "smac"),
    "a list for a space": (
        lambda: lrjax.tune(NAMED, "sgd", space=[1]),
        "tune.space=[1]: must be a dictionary",
    ),
    "a number for a range": (
        lambda: lrjax.tune(NAMED, "sgd", space={"learning_rate": 1}),
        "tune.space.learning_rate=1",
    ),
    "a number for a launcher": (
        lambda: lrjax.compare(NAMED, "adam", launcher=3),
        "launcher must be a name, not 3",
    ),
    "a number for a folder": (
        lambda: lrjax.compare(NAMED, "adam", data_dir=3, **SHORT),
        "3 is not a path",
    ),
    "part of an epoch": (
        lambda: lrjax.compare(NAMED, "adam", epochs=1.5),
        "must be a whole number",
    ),
    "part of a seed": (
        lambda: lrjax.compare(NAMED, "adam", seeds=2.5),
        "seeds=2.5: give a number or a tuple",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_one_line(name):
    call, words = BAD[name]
    with pytest.raises(UsageError) as refused:
        call()
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_numbers_below_0_of_ones_own_method_are_tuned_and_trained(tmp_path):
    def shifted(learning_rate=0.1, shift=-0.5, scale=1.0):
        return optax.sgd(learning_rate * (2 + shift) * scale)

    mine = own.method_of(shifted, space={"shift": (-1.0, -0.25, "linear")})
    done = lrjax.tune("libsvm/iris", mine, trials=3, epochs=2, workdir=tmp_path)
    tuned = done.runs["shift"]
    assert len(tuned) == 10
    assert tuned.between(-1, -0.25).all()
    with pytest.raises(UsageError, match=r"shifted.scale=-1: must be in \[0, inf\)"):
        lrjax.compare("libsvm/iris", mine, steps=2, hparams={"shifted": {"scale": -1}})
    defaults = mine.defaults | {"shift": 0.5}
    strict = dataclasses.replace(mine, domains={}, defaults=defaults)
    with pytest.raises(UsageError, match=r"at shift=-1: shifted\.shift=-1\.0: must be"):
        lrjax.tune("libsvm/iris", strict, trials=3, epochs=2)


@pytest.mark.parametrize(
    ("function", "fields", "reason"),
    [
        ("compare", {"tune_trials": 5}, "tune_trials changes nothing: .*lrjax.tune$"),
        ("compare", {"tune": {"trials": 5}}, "tune changes nothing: .*lrjax.tune$"),
        ("compare", {"cluster.workers": 2}, "cluster.workers changes nothing: .*dask"),
        ("tune", {"report": {"target": 1}}, "report changes nothing: .*lrjax.report$"),
        ("find_rate", {"select.budget": 2}, "budget changes nothing: .*lrjax.select$"),
    ],
)
def test_what_a_function_does_not_read_is_named(function, fields, reason):
    methods = ["adam"] if function == "compare" else "adam"
    with pytest.raises(UsageError, match="steps"), pytest.warns(match=reason):
        getattr(lrjax, function)("libsvm/iris", methods, steps=-1, **fields)
