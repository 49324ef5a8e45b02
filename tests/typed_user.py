"""User code as docs/own.md and docs/own_task.md have it, for mypy and pyright to judge.

`make check` runs both; nothing here is executed. A call that must be refused has a
comment `type: ignore`, which both report where it is not needed.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import nnx

import lrjax
from lrjax.api import Results
from lrjax.core import Method, Range, Space
from lrjax.hpo import tuners
from lrjax.hpo.judged import Judged
from lrjax.hpo.selection import Selection
from lrjax.rates import Rates

Params = dict[str, jax.Array]
Batch = dict[str, jax.Array]

x = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
part = {"x": jnp.asarray(x)}


# Parts of one's own


@lrjax.register_method("parabola", space={"learning_rate": (1e-3, 1.0, "log")})
def parabola(
    horizon: float, learning_rate: float = 0.1, momentum: float = 0.9
) -> optax.GradientTransformation:
    return optax.sgd(lambda step: learning_rate * (1 - step / horizon) ** 2, momentum)


@lrjax.register_task("mine/small")
def make_task(options: lrjax.tasks.TaskOptions) -> lrjax.Task:
    return lrjax.Task.from_flax(
        nn.Dense(3), "cross_entropy", train=(x, y), batch_size=options.batch_size
    )


@lrjax.register_tuner("mine")
class Tuner(tuners.Random):
    def ask(self) -> list[tuners.Trial]:
        return [trial for trial in super().ask() if trial.hparams["b1"] < 1]


method = Method(
    name="mine",
    build=lambda horizon, learning_rate: optax.sgd(learning_rate),
    defaults={"learning_rate": 0.1},
    family="fixed",
    source="this file",
    space=Space({"learning_rate": Range(1e-3, 1.0)}),
)
near = lrjax.Metric("near", lambda sums: sums["near"] / sums["count"], True)
assert_type(lrjax.register_metric(near), lrjax.Metric)


def count_near(outputs: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    return mask.sum(where=jnp.abs(outputs[:, 0] - targets) < 0.5)


# Tasks


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(3)(nn.Dropout(0.1, deterministic=not train)(x))


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(x)


def init(key: jax.Array) -> Params:
    return {"out": jax.random.normal(key, (8, 3))}


def apply(params: Params, x: jax.Array) -> jax.Array:
    return x @ params["out"]


def tasks() -> list[lrjax.Task]:
    loss = optax.softmax_cross_entropy_with_integer_labels
    return [
        lrjax.Task.from_flax(
            MLP(), loss, train=(x, y), metrics=[lrjax.metrics.f1(), "accuracy"]
        ),
        lrjax.Task.from_flax(
            nn.Dense(1),
            "squared_error",
            train=(x[:200], x[:200, 0]),
            valid=(x[200:], x[200:, 0]),
            metrics=[near, lrjax.metrics.r2()],
            sums={"near": count_near},
        ),
        lrjax.Task.from_nnx(Net, "cross_entropy", train={"x": x, "labels": y}),
        lrjax.Task.from_equinox(
            lambda key: eqx.nn.MLP(8, 3, 16, depth=1, key=key), loss, train=(x, y)
        ),
        lrjax.Task.from_functions(init, apply, loss, train=(x, y), name="mine"),
    ]


def own_init(key: jax.Array) -> tuple[Params, tuple[()]]:
    return init(key), ()


def own_loss(
    params: Params, state: tuple[()], key: jax.Array, batch: Batch
) -> tuple[jax.Array, tuple[tuple[()], dict[str, jax.Array]]]:
    sums = own_evaluate(params, state, batch)
    return sums["loss"] / sums["count"], (state, {})


def own_evaluate(params: Params, state: tuple[()], batch: Batch) -> Params:
    loss = apply(params, batch["x"]).sum(1) @ batch["mask"]
    return {"loss": loss, "count": batch["mask"].sum()}


functions = (own_init, own_loss, own_evaluate)
task = lrjax.Task("mine", part, part, part, *functions, batch_size=32)
ranked = lrjax.Task(
    "mine", part, part, part, *functions, 32, metrics=[near, "loss"], metric="loss"
)


# What is asked for


def answers() -> None:
    lrjax.check_task(task)
    study = lrjax.compare(task, ["prodigy", parabola, method], seeds=range(3), epochs=3)
    assert_type(study, Results)
    assert_type(study.report(), Path)
    assert_type(lrjax.report([Path("runs"), "csv:mine.csv"], smooth=0.3), Path)
    lrjax.compare(
        [task, "libsvm/wine"],
        parabola,
        seeds=np.arange(3),
        grid={"learning_rate": np.geomspace(1e-3, 1, 4), "momentum": [0.0, 0.9]},
        hparams={"adam": {"b1": 0.5}},
        workdir=Path("runs"),
        protocol="study",
    )
    space = {"learning_rate": (1e-4, 1.0, "log"), "momentum": (0.0, 0.99)}
    tuned = lrjax.tune(task, "momentum", trials=20, space=space, tune_eta=3)
    assert_type(tuned.best, Mapping[str, Any])
    assert_type(tuned.snippet, str)
    found = lrjax.find_rate(task, parabola, rates=np.geomspace(1e-3, 1, 4))
    assert_type(found, Rates)
    assert_type(found.rate, float)
    assert_type(found.interval, tuple[float, float])
    assert_type(found.edge, float | None)
    chosen = lrjax.select("libsvm/wine", [parabola, "adam", method], budget=8)
    assert_type(chosen, Selection)
    lrjax.select(task, how="prior")
    lrjax.select(task, ["adam"], seeds=range(3), how="bakeoff", seconds=30)
    assert_type(chosen.best, float)
    assert_type(chosen.judged, tuple[Judged, ...])
    assert_type(chosen.hparams, Mapping[str, Any])
    tx = lrjax.optim.prodigy(learning_rate=1.0)
    lrjax.optim.effective_learning_rate(tx.init({"a": jnp.zeros(2)}))
    runs, curves = lrjax.results.load("runs")
    runs.merge(curves, on="run_id")


def refused() -> None:
    lrjax.comapre(task, "adam")  # type: ignore[attr-defined]
    lrjax.compare(task, "adam", seeds="ten")  # type: ignore[arg-type]
    lrjax.compare(task, "adam", epochs="30")  # type: ignore[arg-type]
    lrjax.compare(task, 3)  # type: ignore[arg-type]
    print(lrjax.compare(task, "adam").rnus)  # type: ignore[attr-defined]
    lrjax.tune(task, ["adam"])  # type: ignore[arg-type]
    lrjax.tune(task, "adam", trials="50")  # type: ignore[arg-type]
    lrjax.tune(task, "adam", space=[("b1", 0, 1)])  # type: ignore[arg-type]
    lrjax.find_rate(task, "adam", rates=0.1)  # type: ignore[arg-type]
    print(lrjax.find_rate(task, "adam").rats)  # type: ignore[attr-defined]
    lrjax.select(task, budget="8")  # type: ignore[arg-type]
    lrjax.select(task, how=2)  # type: ignore[arg-type]
    lrjax.select(task, seconds="60")  # type: ignore[arg-type]
    lrjax.check_task("libsvm/iris")  # type: ignore[arg-type]
    lrjax.Metric("near", 5, True)  # type: ignore[arg-type]
    lrjax.metrics.f1(average=3)  # type: ignore[arg-type]
    lrjax.optim.prodigy(d0="small")  # type: ignore[arg-type]
    lrjax.register_method(parabola)  # type: ignore[arg-type]
    lrjax.Task("mine")  # type: ignore[call-arg]
    lrjax.Task("mine", part, part, part, *functions, "32")  # type: ignore[arg-type]
    lrjax.Task.from_flax(MLP(), 5, train=(x, y))  # type: ignore[arg-type]
    lrjax.Task.from_flax(MLP(), "huber", (x, y), batchsize=9)  # type: ignore[call-arg]
