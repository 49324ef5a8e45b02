"""Methods that judge other parameters than they train: the model's state goes along."""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax import (
    config,
    identity,
    methods,
    optim,
    results,
    tasks,
)
from lrjax.core import Run, Task
from lrjax.engine import programs, recalibration, train
from lrjax.launch import experiment
from lrjax.methods import METHODS

BATCHES = 50


def normalised():
    """Least squares of one normalised column, its mean and variance kept by hand."""
    random = np.random.default_rng(0)
    part = {"x": random.normal(3, 2, (24, 2)), "y": random.normal(size=24)}

    def loss(params, state, key, batch):
        hidden = batch["x"] @ params["w"]
        mean, var = hidden.mean(), hidden.var()
        new = {"mean": 0.9 * state["mean"] + 0.1 * mean}
        new["var"] = 0.9 * state["var"] + 0.1 * var
        errors = (hidden - mean) / jnp.sqrt(var + 1) * params["scale"] - batch["y"]
        return jnp.mean(errors**2), (new, {})

    def evaluate(params, state, batch):
        hidden = (batch["x"] @ params["w"] - state["mean"]) / jnp.sqrt(state["var"] + 1)
        errors = (hidden * params["scale"] - batch["y"]) ** 2
        return {"loss": jnp.sum(errors * batch["mask"]), "count": batch["mask"].sum()}

    def init(key):
        params = {"w": jax.random.normal(key, (2,)), "scale": jnp.ones(())}
        return params, {"mean": jnp.zeros(()), "var": jnp.ones(())}

    part = {name: jnp.asarray(rows) for name, rows in part.items()}
    valid = {name: rows[:7] for name, rows in part.items()}
    return Task("own/normalised", part, valid, valid, init, loss, evaluate, 6)


def by_hand(task, params, state):
    """Statistics of `params` in NumPy: batches of every fourth row in turn."""
    x, w = np.asarray(task.train["x"]), np.asarray(params["w"])
    mean, var = float(state["mean"]), float(state["var"])
    for number in range(BATCHES):
        hidden = x[(np.array([0, 4, 8, 12, 16, 20]) + number) % 24] @ w
        mean, var = 0.9 * mean + 0.1 * hidden.mean(), 0.9 * var + 0.1 * hidden.var()
    return mean, var


def mean_loss(task, part, params, mean, var):
    w, scale = np.asarray(params["w"]), float(params["scale"])
    hidden = (np.asarray(part["x"]) @ w - mean) / np.sqrt(var + 1)
    return np.mean((hidden * scale - np.asarray(part["y"])) ** 2)


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("name", ["schedule_free_sgd", "sgd"])
def test_statistics_are_those_of_the_judged_parameters(name, one_by_one):
    with jax.enable_x64(True):
        task, method = normalised(), METHODS[name]
        rates = [0.3] if one_by_one else [0.3, 0.1]
        lanes = [dict(method.defaults) | {"learning_rate": rate} for rate in rates]
        static, _ = methods.split(method, lanes[0])
        traced = [methods.split(method, lane)[1] for lane in lanes]
        program = train.single(
            task,
            method,
            static,
            eval_every=5,
            num_seeds=1,
            num_hparams=len(lanes),
            dtype=jnp.float64,
            one_by_one=one_by_one,
        )
        seeds = train.seed_runs(task.init, np.asarray([3]))
        inputs = train.inputs(program, seeds, traced, 10)
        compiled = programs.compile_program(program, seeds, inputs)
        last = list(programs.train(compiled, program, seeds, inputs, 10))[-1]
        found = {k: v[-1][0] for k, v in last.values.items()}
        found["test_loss"] = programs.judge(program, last.state, task.test)["loss"][0]
        averages = name == "schedule_free_sgd"
        assert recalibration.recalibrates(task, method, lanes[0]) == averages
        for lane in range(len(lanes)):
            state = jax.tree.map(lambda x, lane=lane: x[0, lane], last.state[0])
            params = optim.eval_params(state.opt_state, state.params)
            own = state.model_state
            mean, var = float(own["mean"]), float(own["var"])
            if averages:
                before = mean_loss(task, task.train, params, mean, var)
                mean, var = by_hand(task, params, own)
                after = mean_loss(task, task.train, params, mean, var)
                assert abs(after / before - 1) > 1e-6  # it does make a difference
            parts = {"train": task.train, "valid": task.valid, "test": task.test}
            for part, rows in parts.items():
                expected = mean_loss(task, rows, params, mean, var)
                np.testing.assert_allclose(
                    found[f"{part}_loss"][lane], expected, rtol=1e-10
                )


def test_no_other_run_has_another_identity():
    asked = config.base()
    asked.tasks, asked.methods = ("digits/wrn", "digits/logistic"), ("adam",)
    image, linear = (tasks.make_task(name) for name in asked.tasks)
    free, adam = METHODS["schedule_free_adamw"], METHODS["adam"]
    assert recalibration.recalibrates(image, free, dict(free.defaults))
    assert not recalibration.recalibrates(linear, free, dict(free.defaults))
    assert not recalibration.recalibrates(image, adam, dict(adam.defaults))
    run = Run("task", "sound", "adam", (), 0, 1, 1, 64, "float32", 1, "data")
    assert "recalibrated" not in identity.run_fields(run)
    other = dataclasses.replace(run, recalibrated=True)
    assert identity.run_id(other) != identity.run_id(run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits/wrn", "digits/mlp_bn"])
def test_schedule_free_on_images_is_judged_and_kept_with_its_statistics(name, tmp_path):
    from safetensors.numpy import load_file

    asked = config.base()
    asked.tasks, asked.methods = (name,), ("schedule_free_adamw",)
    asked.seeds, asked.steps, asked.save_params = 1, 24, True
    settings = dataclasses.replace(config.check(asked), eval_every=24)
    experiment.run(settings, tmp_path)
    row = results.load(tmp_path)[0].iloc[0]
    kept = load_file(tmp_path / "params" / f"{row.run_id}.safetensors")
    nested = flax.traverse_util.unflatten_dict(kept, sep="/")
    state = nested.pop("state")
    task = tasks.make_task(name)
    batch = dict(task.valid) | {"mask": jnp.ones(len(task.valid["labels"]))}
    sums = jax.jit(task.evaluate)(nested, state, batch)
    for metric in ("loss", "accuracy"):
        mean = sums[metric] / sums["count"]
        np.testing.assert_allclose(mean, row[f"valid_{metric}"], rtol=1e-4)
