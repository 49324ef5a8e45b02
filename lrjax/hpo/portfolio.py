"""Selection across tasks: what to train on a new task, from what was best on others.

A task is described by cheap probes, steps and gradients at its initial parameters. A
selector learns from tables of results which entry suits which description, and is
judged on tasks that it has not seen against always taking the single best entry.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from lrjax import evaluation, methods, portfolio, programs, train
from lrjax.core import Batch, Method, Task, UsageError

PROBE_RATES = (1e-3, 1e-2, 1e-1)  # of Adam, and a tenfold of each of SGD
PROBE_STEPS = 5
_BATCHES = 8  # whose gradients give the noise scale
_PROBE_SEED = 2**32 - 2
_TREES, _NEIGHBOURS = 200, 3
# Tasks that are vmapped; on a CPU one after the other took a third of the time of
# eight beside each other.
_TASKS_AT_ONCE, _TASKS_AT_ONCE_ELSEWHERE = {"cpu": 1}, 64
_RESAMPLES, _LEVEL = 2000, 0.95


class Probe(NamedTuple):
    """What probes say of a task.

    Attributes:
      features: name -> number, all finite.
      steps: gradients of a batch that it took, which are charged.
    """

    features: dict[str, float]
    steps: int


def probe(task: Task) -> Probe:
    """Describes a task by its sizes and by what its first steps look like.

    - log_rows, log_params, classes;
    - loss: of the initial parameters, on a batch;
    - log_noise: the gradient noise scale, the trace of the batch gradients'
      covariance over their mean's squared norm;
    - log_curvature: of the loss along its gradient, g'Hg / g'g, and its sign;
    - adam_RATE, sgd_RATE: the loss after some steps over the loss before.
    """
    key = jax.random.key(_PROBE_SEED)
    params, state = task.init(jax.random.fold_in(key, 0))
    rows = np.random.RandomState(0).permutation(task.num_examples)
    size = min(task.batch_size, max(1, task.num_examples // _BATCHES))
    at = rows[: size * _BATCHES].reshape(-1, size)
    batches = {k: v[at] for k, v in task.train.items()}
    batches["mask"] = jnp.ones(at.shape, jnp.float32)
    found = _probe(task.loss, params, state, key, batches)
    features = {k: float(v) for k, v in found.items()}
    features |= {
        "log_rows": math.log(task.num_examples),
        "log_params": math.log(sum(x.size for x in jax.tree.leaves(params))),
        "classes": float(task.num_classes),
    }
    runs = 2 * len(PROBE_RATES)
    return Probe(
        {k: v if math.isfinite(v) else 0.0 for k, v in sorted(features.items())},
        runs * PROBE_STEPS + len(at) + 2,
    )


@functools.partial(jax.jit, static_argnames="loss_of")
def _probe(
    loss_of: Callable[..., Any], params: Any, state: Any, key: jax.Array, batches: Batch
) -> dict[str, jax.Array]:
    def loss(params: Any, batch: Batch) -> jax.Array:
        return loss_of(params, state, key, batch)[0]

    def flat(tree: Any) -> jax.Array:
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])

    first = jax.tree.map(lambda x: x[0], batches)
    grads = jax.vmap(lambda b: flat(jax.grad(loss)(params, b)))(batches)
    mean = grads.mean(0)
    square = jnp.sum(mean**2)
    gradient = jax.grad(loss)(params, first)
    _, bent = jax.jvp(lambda p: jax.grad(loss)(p, first), (params,), (gradient,))
    along = flat(gradient)
    curvature = along @ flat(bent) / jnp.maximum(along @ along, 1e-30)
    start = loss(params, first)
    found = {
        "loss": start,
        "log_noise": jnp.log(grads.var(0).sum() / jnp.maximum(square, 1e-30) + 1e-30),
        "log_gradient": 0.5 * jnp.log(square + 1e-30),
        "log_curvature": jnp.log(jnp.abs(curvature) + 1e-30),
        "curvature_sign": jnp.sign(curvature),
    }

    def after(tx: optax.GradientTransformation) -> jax.Array:
        def step(carry, batch):
            params, opt_state = carry
            grads = jax.grad(loss)(params, batch)
            updates, opt_state = tx.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        some = jax.tree.map(lambda x: x[:PROBE_STEPS], batches)
        (ended, _), _ = jax.lax.scan(step, (params, tx.init(params)), some)
        ratio = loss(ended, first) / jnp.maximum(start, 1e-30)
        return jnp.clip(jnp.nan_to_num(ratio, nan=10.0, posinf=10.0), 0, 10)

    for rate in PROBE_RATES:
        found[f"adam_{rate:g}"] = after(optax.adam(rate))
        found[f"sgd_{10 * rate:g}"] = after(optax.sgd(10 * rate))
    return found


class Entry(NamedTuple):
    """What can be selected.

    Attributes:
      label: its name.
      method, hparams: what it trains with.
    """

    label: str
    method: Method
    hparams: Mapping[str, Any]


def train_tasks(
    stacked: Task,
    names: Sequence[str],
    entries: Sequence[Entry],
    seeds: Sequence[int],
    steps: int,
) -> pd.DataFrame:
    """Trains every entry on many tasks of one shape, tasks x seeds x rates at once.

    Args:
      stacked: arrays with a task axis first, as from `tasks.synthetic.stack`.
      names: of the tasks.
      entries: what to train.
      seeds: of the runs of each.
      steps: updates of each.

    Returns:
      a row per task, entry and seed in the form of `runs.jsonl` as far as statistics
      need it: task, protocol, method (the entry's label), hparams, seed, steps, status,
      valid_loss, test_loss and accuracies where there are any.
    """
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        static, traced = methods.split(entry.method, entry.hparams)
        groups.setdefault((entry.method.name, static, tuple(traced)), []).append(entry)
    single = dataclasses.replace(
        stacked,
        **{
            part: jax.tree.map(lambda x: x[0], getattr(stacked, part))
            for part in ("train", "valid", "test")
        },
    )
    count = len(seeds)
    keyed = train.seed_runs(stacked.init, np.asarray(seeds, np.uint32))
    rows: list[dict[str, Any]] = []
    for (_, static, _), group in groups.items():
        program = train.Program(
            task=single,
            method=group[0].method,
            static=static,
            eval_every=steps,
            num_seeds=count,
            num_hparams=len(group),
        )
        lanes = [methods.split(e.method, e.hparams)[1] for e in group]
        packed = train.inputs(program, keyed, lanes, steps)
        one = functools.partial(_train_one, program, keyed, packed, steps)
        found = {k: np.asarray(v) for k, v in _over_tasks(one, stacked).items()}
        for i, name in enumerate(names):
            for s in range(count):
                for h, entry in enumerate(group):
                    values = {k: float(v[i, s, h]) for k, v in found.items()}
                    rows.append(_row(name, entry, seeds[s], steps, values))
    return pd.DataFrame(rows)


def _over_tasks(one: Callable[..., Any], stacked: Task) -> dict[str, jax.Array]:
    """`one` for each task's parts, in one program: name -> [tasks, seeds, hparams]."""
    at_once = _TASKS_AT_ONCE.get(jax.default_backend(), _TASKS_AT_ONCE_ELSEWHERE)
    parts = (stacked.train, stacked.valid, stacked.test)
    return jax.jit(
        lambda *parts: jax.lax.map(lambda p: one(*p), parts, batch_size=at_once)
    )(*parts)


def _train_one(
    program: train.Program,
    seeds: train.Seeds,
    inputs: train.Inputs,
    steps: int,
    train_part: Batch,
    valid_part: Batch,
    test_part: Batch,
) -> dict[str, jax.Array]:
    """Trains the seeds and rates of an entry's method on one task, from its data."""
    state = train.init(program, seeds, inputs)
    state, table = programs.segment(
        program, state, inputs, train_part, valid_part, jnp.int32(0), jnp.int32(steps)
    )
    lanes = program.num_seeds * program.num_hparams
    test = evaluation.evaluate_part(
        program.task.evaluate,
        train.final_params(state),
        state.model_state,
        test_part,
        evaluation.rows_at_once(program.task, lanes),
        program.dtype,
    )
    last = {k: v[0] for k, v in table.items()}
    return last | {f"test_{k}": v for k, v in test.items()}


def _row(
    task: str, entry: Entry, seed: int, steps: int, values: Mapping[str, float]
) -> dict[str, Any]:
    dead = values["diverged_at"] > 0
    return {
        "task": task,
        "protocol": "sound",
        "method": entry.label,
        "hparams": {},
        "seed": seed,
        "steps": steps,
        "status": "diverged" if dead else "done",
    } | {
        k: math.nan if dead else v
        for k, v in values.items()
        if k.startswith(("valid_", "test_", "train_"))
    }


@dataclasses.dataclass(frozen=True)
class Report:
    """How good a selector is on tasks that it has not seen.

    Attributes:
      selector: 'forest' or 'nearest'.
      tasks: how many.
      single, selected, virtual: mean scores of always the single best entry (of the
        other tasks), of what was selected, and of the best entry of each task.
      closed: share of the gap between single and virtual best that is closed; below
        0 where selecting is worse than not to.
      interval: 95 % bootstrap interval of it over tasks.
      cost: of the probes, in full runs.
      chosen: task -> entry.
    """

    selector: str
    tasks: int
    single: float
    selected: float
    virtual: float
    closed: float
    interval: tuple[float, float]
    cost: float
    chosen: Mapping[str, str]

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.selector}: {100 * self.closed:.0f} % of the gap closed (95 % "
            f"interval {100 * low:.0f} to {100 * high:.0f} %) on {self.tasks} tasks "
            f"left out one by one; scores {self.single:.3f} single best, "
            f"{self.selected:.3f} selected, {self.virtual:.3f} virtual best; probes "
            f"cost {self.cost:.2f} full runs"
        )


def leave_one_out(
    scores: pd.DataFrame,
    features: pd.DataFrame,
    cost: float,
    selector: str = "forest",
    charged: pd.DataFrame | None = None,
) -> Report:
    """Judges a selector on each task by one that was made from all others.

    Args:
      scores: index task, columns entry, higher is better, from 0 to 1 on each task
        (means over runs of `stats.normalise`).
      features: index task, columns as from `probe`.
      cost: of the probes, in full runs.
      selector: 'forest', a random forest per entry that predicts its score, or
        'nearest', the mean score over the nearest tasks.
      charged: scores of runs that are shorter by the cost of the probes, which what
        was selected gets; `scores` where that is not known.

    Raises:
      UsageError: if there are fewer than four tasks, or no such selector.
    """
    if selector not in _SELECTORS:
        raise UsageError(f"unknown selector '{selector}': forest or nearest")
    if len(scores) < 4:
        raise UsageError(f"{len(scores)} tasks are too few to learn from: give four")
    features = features.loc[scores.index]
    paid = scores if charged is None else charged.loc[scores.index, scores.columns]
    chosen, single = {}, []
    for task in scores.index:
        others = scores.drop(index=task)
        guess = _SELECTORS[selector](
            features.drop(index=task).to_numpy(float),
            others.to_numpy(float),
            features.loc[[task]].to_numpy(float),
        )
        chosen[task] = str(scores.columns[int(np.argmax(guess))])
        single.append(scores.loc[task, portfolio.single_best(others)])
    each = pd.DataFrame(
        {
            "single": single,
            "selected": [paid.loc[task, entry] for task, entry in chosen.items()],
            "virtual": portfolio.virtual_best(scores)["score"].to_numpy(),
        }
    ).to_numpy(float)
    draws = np.random.default_rng(0).integers(len(each), size=(_RESAMPLES, len(each)))
    drawn = [_closed(each[rows].mean(0)) for rows in draws]
    tails = 50 * (1 - _LEVEL), 50 * (1 + _LEVEL)
    low, high = np.nanpercentile(drawn, tails)
    means = each.mean(0)
    return Report(
        selector=selector,
        tasks=len(each),
        single=float(means[0]),
        selected=float(means[1]),
        virtual=float(means[2]),
        closed=_closed(means),
        interval=(float(low), float(high)),
        cost=cost,
        chosen=chosen,
    )


def _closed(means: np.ndarray) -> float:
    single, selected, virtual = means
    return (
        float((selected - single) / (virtual - single)) if virtual > single else np.nan
    )


def _forest(known: np.ndarray, scores: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Predicted scores [entries] of one new task."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(
        _TREES, min_samples_leaf=2, max_features=1 / 3, random_state=0
    )
    return forest.fit(known, scores).predict(new)[0]


def _nearest(known: np.ndarray, scores: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Mean scores [entries] over the nearest tasks in standardised features."""
    mean, deviation = known.mean(0), known.std(0)
    deviation = np.where(deviation > 0, deviation, 1)
    away = np.square((known - mean) / deviation - (new - mean) / deviation).sum(1)
    return scores[np.argsort(away, kind="stable")[:_NEIGHBOURS]].mean(0)


_SELECTORS = {"forest": _forest, "nearest": _nearest}
