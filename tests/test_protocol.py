"""The protocol `study`, number by number against what the study's trainer does."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax import (
    config,
    methods,
    optim,
    protocol,
    tasks,
)
from lrjax.launch import blocks
from lrjax.optim import schedules

BOOKWIKI = "bookwiki/roberta_base"
STEPS, WARMUP = 23_000, 10_000


def hparams_of(method, task=BOOKWIKI):
    found = methods.find(method)
    return dict(found.defaults) | protocol.STUDY.overrides(method, task)


def trainers_rate(step, steps=STEPS):
    """The linear schedule of Hugging Face's Trainer, by its documentation."""
    if step < WARMUP:
        return step / WARMUP
    return max(0, (steps - step) / (steps - WARMUP))


@pytest.mark.parametrize("method", ["adam", "smac", "dadapt_adam", "cocob", "dowg"])
def test_rates_on_text_are_the_trainers(method):
    chosen = hparams_of(method)
    rate = schedules.by_name(
        chosen["schedule"], 1.0, STEPS, chosen["warmup_fraction"] * STEPS
    )
    steps = np.array([0, 1, 851, 9_999, 10_000, 10_001, 17_500, 22_999])
    expected = [trainers_rate(step) for step in steps.tolist()]
    np.testing.assert_allclose(jax.vmap(rate)(steps), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    ("steps", "highest"), [(852, 0.0851), (2556, 0.2555), (7667, 0.7666), (STEPS, 1.0)]
)
@pytest.mark.parametrize("method", ["adam", "cawr"])
def test_a_rung_on_text_ends_within_the_full_warm_up(method, steps, highest):
    tuning, chosen = protocol.STUDY.tuning_of(BOOKWIKI), hparams_of(method)
    horizon = steps if tuning.fidelity == "rescale" else STEPS
    tx = methods.find(method).build(horizon, **chosen)

    def step(state, _):
        _, state = tx.update(jnp.ones(()), state, jnp.ones(()))
        return state, optim.effective_learning_rate(state)

    @jax.jit
    def rates():
        return jax.lax.scan(step, tx.init(jnp.ones(())), None, steps)[1]

    found = np.asarray(rates()) / chosen["learning_rate"]
    np.testing.assert_allclose(found.max(), highest, atol=1e-6)
    if steps < WARMUP:
        assert found.argmax() == steps - 1  # it has not begun to fall


def gradients(count=120):
    """Gradients of a noisy valley at whatever parameters one is at."""
    noise = np.random.default_rng(0).normal(size=(count, 6))
    curvature = np.logspace(-2, 1, 6)
    return lambda params, step: curvature * params + 0.3 * noise[step]


def cocob_on_paper(params, gradient, rates):
    """Orabona and Tommasi's algorithm 2, every gradient times the trainer's rate."""
    start, scale = params.copy(), np.full_like(params, 1e-8)
    total, size, reward = (np.zeros_like(params) for _ in range(3))
    for step, rate in enumerate(rates):
        coin = rate * gradient(params, step)
        scale = np.maximum(scale, abs(coin))
        total, size = total - coin, size + abs(coin)
        reward = np.maximum(reward - coin * (params - start), 0)
        bet = total / (scale * np.maximum(size + scale, 100 * scale))
        params = start + bet * (scale + reward)
        yield params


def dowg_on_paper(params, gradient, rates):
    """Khaled and others' DoWG, every gradient times the trainer's rate."""
    start, distance, total = params.copy(), 1e-8, 0.0
    for step, rate in enumerate(rates):
        scaled = rate * gradient(params, step)
        distance = max(distance, ((params - start) ** 2).sum())
        total = total + distance * (scaled**2).sum()
        params = params - distance * scaled / (math.sqrt(total) + 1e-8)
        yield params


@pytest.mark.parametrize(
    ("method", "on_paper"), [("cocob", cocob_on_paper), ("dowg", dowg_on_paper)]
)
def test_the_trainers_schedule_scales_the_gradients_of(method, on_paper):
    with jax.enable_x64(True):
        horizon, gradient = 120, gradients()
        warmup = horizon * 10 / 23
        rates = [
            step / warmup if step < warmup else (horizon - step) / (horizon - warmup)
            for step in range(horizon)
        ]
        tx = methods.find(method).build(float(horizon), **hparams_of(method))
        update = jax.jit(tx.update)
        params = start = np.linspace(-1, 2, 6)
        state = tx.init(params)
        expected = list(on_paper(start, gradient, rates))
        for step, wanted in enumerate(expected):
            changes, state = update(gradient(params, step), state, params)
            params = np.asarray(params + changes)
            np.testing.assert_allclose(params, wanted, rtol=1e-10, atol=1e-12)
        assert abs(expected[-1] - start).max() > 1e-6


@functools.cache
def checked(**changes):
    found = config.base()
    found.tasks, found.seeds, found.steps = (changes["task"],), 1, 3
    found.methods, found.protocol = changes["methods"], changes["protocol"]
    return config.check(found)


@pytest.mark.parametrize(
    ("task", "afresh"), [("bookwiki/roberta_tiny", False), ("libsvm/iris", True)]
)
def test_cawr_goes_through_text_in_epochs(task, afresh):
    settings = checked(task=task, methods=("adam", "cawr"), protocol="study")
    runs = [block.example for block in blocks.plan(settings, [made(task, "study")])]
    assert [run.fresh_batches for run in runs] == [False, afresh]
    assert [
        block.program.fresh_batches
        for block in blocks.plan(settings, [made(task, "study")])
    ] == [False, afresh]


@functools.cache
def made(task, choice):
    return tasks.make_task(task, tasks.TaskOptions(protocol=choice))


@pytest.mark.parametrize("task", tasks.TASKS)
def test_only_text_is_gone_through_in_epochs_by_cawr(task):
    afresh = protocol.STUDY.draws_afresh("cawr", task)
    assert afresh == (not task.startswith("bookwiki/"))
    assert not protocol.STUDY.draws_afresh("adam", task)
    assert not protocol.SOUND.draws_afresh("cawr", task)


@pytest.mark.parametrize(
    ("task", "rate"),
    [
        ("finetune/roberta_tiny", 1e-3),
        ("finetune/roberta_base", 2e-5),
        ("finetune:a.csv?text=t&target=y&checkpoint=~/roberta", 2e-5),
        ("finetune:a.csv?checkpoint=b&text=t", 2e-5),
        ("finetune:checkpoint=.csv?text=t&target=y", 1e-3),
        ("finetune:a.csv?text=t&target=y", 1e-3),
    ],
)
def test_large_checkpoints_are_tuned_with_small_rates(task, rate):
    for method in ("adamw_cosine", "nadamw_cosine"):
        changed = protocol.SOUND.overrides(method, task)
        base = methods.METHODS[method].defaults
        assert (base | changed)["learning_rate"] == rate
