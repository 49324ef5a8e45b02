"""A small network of normalised hidden units, and training it in any way."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import methods
from lrjax.core import Metric, Task
from lrjax.engine import programs, train
from lrjax.launch import checkpoint
from lrjax.methods import METHODS


def task(streamed=False):
    """60 rows in batches of 16, so that the last batch of an epoch is short."""
    random = np.random.default_rng(0)
    part = {"x": random.normal(3, 2, (60, 5)), "y": random.normal(size=60)}
    valid = {name: jnp.asarray(rows[:24]) for name, rows in part.items()}

    def hidden(params, batch):
        return batch["x"] @ params["w"]

    def errors(params, values, mean, batch):
        return (jnp.tanh(values - mean) @ params["v"] - batch["y"]) ** 2

    def loss(params, state, key, batch):
        values, mask = hidden(params, batch), batch["mask"][:, None]
        mean = (values * mask).sum(0) / mask.sum()
        new = {"mean": 0.9 * state["mean"] + 0.1 * mean}
        noise = 0.1 * jax.random.normal(key, values.shape)  # as dropout would
        each = errors(params, values + noise, mean, batch) * batch["mask"]
        return each.sum() / batch["mask"].sum(), (new, {})

    def evaluate(params, state, batch):
        each = errors(params, hidden(params, batch), state["mean"], batch)
        bins = (
            jnp.stack([each <= 1, each > 1]).astype(float) @ batch["mask"]
        )  # sums may be arrays
        loss = (each * batch["mask"]).sum()
        return {"loss": loss, "bins": bins, "count": batch["mask"].sum()}

    def init(key):
        one, other = jax.random.split(key)
        params = {"w": jax.random.normal(one, (5, 1024)) / 2}
        params["v"] = jax.random.normal(other, (1024,)) / 32
        return params, {"mean": jnp.zeros(1024)}

    if not streamed:
        part = {name: jnp.asarray(rows) for name, rows in part.items()}
    functions = (init, loss, evaluate)
    share = Metric("share", lambda sums: sums["bins"][1] / sums["bins"].sum(), False)
    options = {"metrics": ("loss", share), "streamed": streamed}
    return Task("own/wide", part, valid, valid, *functions, 16, **options)


def trained(
    task,
    layout=None,
    one_by_one=False,
    method="schedule_free_adamw",
    cut=0,
    folder=None,
):
    """Measurements and final state after ten updates, two seeds x two rates.

    Args:
      task: as from `task`.
      layout: of the block.
      one_by_one: one run alone.
      method: name.
      cut: stop after so many updates and go on from the state.
      folder: where to save it in between.
    """
    if layout:
        parts = {
            k: jax.device_put(getattr(task, k), layout.replicated) for k in ("valid",)
        }
        if not task.streamed:
            parts["train"] = jax.device_put(task.train, layout.replicated)
        task = dataclasses.replace(task, **parts, test=parts["valid"])
    chosen, rates = METHODS[method], [0.03] if one_by_one else [0.03, 0.01]
    lanes = [dict(chosen.defaults) | {"learning_rate": rate} for rate in rates]
    static, _ = methods.split(chosen, lanes[0])
    numbers = np.asarray([3] if one_by_one else [3, 4])
    program = train.single(
        task,
        chosen,
        static,
        eval_every=5,
        num_seeds=len(numbers),
        num_hparams=len(lanes),
        dtype=jnp.result_type(float),
        one_by_one=one_by_one,
        layout=layout,
    )
    seeds = train.seed_runs(task.init, numbers)
    inputs = train.inputs(
        program, seeds, [methods.split(chosen, lane)[1] for lane in lanes], 10
    )
    compiled = programs.compile_program(program, seeds, inputs)
    start, state = 0, None
    if cut:
        *_, last = programs.train(compiled, program, seeds, inputs, cut)
        start, state = cut, last.state
        if folder:
            checkpoint.save(folder, cut, state, {})
            start, state, _ = checkpoint.restore(folder, compiled.state)
    *_, last = programs.train(compiled, program, seeds, inputs, 10, start, state)
    values = {k: v[-1] for k, v in last.values.items()}
    values["test_loss"] = programs.judge(program, last.state, task.test)["loss"]
    return values, last.state
