"""Probes, and the benchmarks' selectors on tables whose right answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from benchmarks.across_tasks import selectors
from lrjax.core import Task, UsageError
from lrjax.hpo import probes


def table(tasks=24):
    """Two entries, each best on half of the tasks, told by one feature."""
    names = [f"t{i}" for i in range(tasks)]
    kind = np.arange(tasks) % 2
    scores = pd.DataFrame(
        {"a": 1.0 - 0.8 * kind, "b": 0.2 + 0.7 * kind, "c": np.full(tasks, 0.5)},
        index=pd.Index(names, name="task"),
    ).rename_axis("entry", axis=1)
    noise = np.random.default_rng(0).normal(size=tasks)
    features = pd.DataFrame(
        {"told": kind + 0.1 * noise, "noise": noise[::-1]}, index=names
    )
    return scores, features


@pytest.mark.slow
@pytest.mark.parametrize("selector", ["forest", "nearest"])
def test_a_selector_finds_what_a_feature_tells(selector):
    scores, features = table()
    report = selectors.leave_one_out(scores, features, 0.1, selector)
    assert report.closed == pytest.approx(1.0)
    assert report.virtual == pytest.approx(scores.max(axis=1).mean())
    assert report.single == pytest.approx(scores["a"].mean())
    assert "100 % of the gap" in str(report)
    assert "0.10 full runs" in str(report)


@pytest.mark.slow
def test_a_feature_that_tells_nothing_closes_no_gap():
    scores, features = table()
    features["told"] = 0.0
    report = selectors.leave_one_out(scores, features[["told"]], 0.0)
    # Nobody deviates from the single best, and nothing is probed.
    assert report.closed == pytest.approx(0.0)
    assert report.probed == 0.0
    assert report.interval[0] <= report.closed <= report.interval[1]


def test_a_selector_that_was_learned_is_judged_on_other_tasks():
    scores, features = table()
    known, new = (
        selectors.Table(scores, features, scores).of(names)
        for names in (scores.index[:16], scores.index[16:])
    )
    report = selectors.judge(known, new, 0.1, "forest")
    assert report.tasks == 8
    assert report.closed > 0.7
    assert report.single < report.selected <= report.virtual
    assert report.probed == 1.0
    # Where probes cost more than they bring, it is the single best at no cost.
    dear = known._replace(charged=known.scores - 1.0)
    report = selectors.judge(dear, new._replace(charged=new.scores - 1.0), 0.1)
    assert report.selected == report.single
    assert report.probed == 0.0


@pytest.mark.slow
def test_probes_are_charged():
    scores, features = table()
    paid = selectors.leave_one_out(scores, features, 0.5, charged=scores - 0.1)
    free = selectors.leave_one_out(scores, features, 0.5)
    assert paid.selected == pytest.approx(free.selected - 0.1)
    assert paid.closed < free.closed


def test_too_few_tasks_and_unknown_selectors_are_refused():
    scores, features = table()
    with pytest.raises(UsageError, match="too few"):
        selectors.leave_one_out(scores[:3], features, 0.0)
    with pytest.raises(UsageError, match="forest or nearest"):
        selectors.leave_one_out(scores, features, 0.0, "oracle")


def test_probes_of_a_quadratic_are_its_closed_form():
    """Loss w'Dw/2 plus noise that is linear in w: all probes are known."""
    scales = jnp.array([1.0, 4.0])
    noise = np.random.RandomState(3).normal(size=(64, 2)).astype(np.float32)

    def loss(params, state, key, batch):
        mean = (batch["noise"] * batch["mask"][:, None]).sum(0) / batch["mask"].sum()
        w = params["w"]
        return 0.5 * (scales * w**2).sum() + mean @ w, (state, {})

    part = {"noise": jnp.asarray(noise)}
    start = jnp.array([1.0, 1.0])
    task = Task(
        "quadratic", part, part, part, lambda key: ({"w": start}, ()), loss,
        lambda p, s, b: {}, batch_size=8, metric="loss",
    )  # fmt: skip
    found = probes.probe(task)
    rows = np.random.RandomState(0).permutation(64).reshape(8, 8)
    grads = np.asarray(scales) + noise[rows].mean(1)
    trace, square = grads.var(0).sum(), (grads.mean(0) ** 2).sum()
    assert found.features["log_noise"] == pytest.approx(
        np.log(trace / square), rel=1e-3
    )
    g = grads[0]
    along = (g**2 * np.asarray(scales)).sum() / (g**2).sum()
    assert found.features["log_curvature"] == pytest.approx(np.log(along), rel=1e-4)
    value = float(loss(task.init(jax.random.key(0))[0], (), None, {
        "noise": noise[rows[0]], "mask": jnp.ones(8)})[0])  # fmt: skip
    assert found.features["loss"] == pytest.approx(value, rel=1e-5)
    assert found.steps == 6 * probes.STEPS + 8 + 2
