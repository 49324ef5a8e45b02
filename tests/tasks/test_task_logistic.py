"""Logistic regression against SciPy, scikit-learn and the gradient on paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from sklearn.linear_model import LogisticRegression

from lrjax.tasks import TaskOptions, make_task
from lrjax.tasks.models import logistic

ROWS, FEATURES, CLASSES = 40, 5, 4


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def problem(seed=0, scale=1.0):
    """Parameters and a batch whose last three rows are padding, in float64."""
    rng = np.random.default_rng(seed)
    params = {
        "weight": jnp.asarray(rng.normal(size=(CLASSES, FEATURES)) * scale),
        "bias": jnp.asarray(rng.normal(size=CLASSES) * scale),
    }
    batch = {
        "features": jnp.asarray(rng.normal(size=(ROWS, FEATURES))),
        "labels": jnp.asarray(rng.integers(0, CLASSES, ROWS), jnp.int32),
        "mask": jnp.asarray((np.arange(ROWS) < ROWS - 3) * 1.0),
    }
    return params, batch


STATIC = ("squash", "compute")
evaluate = jax.jit(logistic.evaluate, static_argnames=STATIC)


@functools.partial(jax.jit, static_argnames=STATIC)
def loss_and_gradient(params, batch, **options):
    def loss(params):
        value, (state, metrics) = logistic.loss(params, (), None, batch, **options)
        assert (state, metrics) == ((), {})
        return value

    return jax.value_and_grad(loss)(params)


def check_trees_are_close(found, expected, **tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def on_paper(params, batch, squash):
    """Loss, gradients and number of right rows, all from textbook formulas."""
    real = np.asarray(batch["mask"]) > 0
    x, y = np.asarray(batch["features"])[real], np.asarray(batch["labels"])[real]
    linear = x @ np.asarray(params["weight"]).T + np.asarray(params["bias"])
    scores = scipy.special.expit(linear) if squash else linear
    log_p = scipy.special.log_softmax(scores, axis=1)
    slope = (np.exp(log_p) - np.eye(CLASSES)[y]) / len(y)
    if squash:
        slope = slope * scores * (1 - scores)
    gradients = {"weight": slope.T @ x, "bias": slope.sum(axis=0)}
    loss = -log_p[np.arange(len(y)), y].mean()
    return loss, gradients, (linear.argmax(axis=1) == y).sum()


@pytest.mark.parametrize("squash", [True, False])
def test_loss_gradient_and_sums_are_those_on_paper(x64, squash):
    params, batch = problem()
    loss, gradient, right = on_paper(params, batch, squash)
    found = loss_and_gradient(params, batch, squash=squash)
    check_trees_are_close(found, (loss, gradient), rtol=1e-10, atol=1e-15)
    sums = evaluate(params, (), batch, squash=squash)
    expected = {"loss": loss * (ROWS - 3), "accuracy": right, "count": ROWS - 3}
    check_trees_are_close(sums, expected, rtol=1e-13)


@pytest.mark.parametrize("squash", [True, False])
def test_padding_changes_nothing(x64, squash):
    params, batch = problem()
    short = {name: array[: ROWS - 3] for name, array in batch.items()}
    for function in (
        loss_and_gradient,
        lambda p, b, squash: evaluate(p, (), b, squash=squash),
    ):
        whole = function(params, batch, squash=squash)
        cut = function(params, short, squash=squash)
        check_trees_are_close(whole, cut, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("squash", [True, False])
def test_a_batch_of_padding_has_loss_and_gradient_zero(squash):
    params, batch = problem()
    batch["mask"] = jnp.zeros(ROWS)
    found = loss_and_gradient(params, batch, squash=squash)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("squash", [True, False])
def test_huge_logits_stay_finite(squash):
    params, batch = problem(scale=1e30)
    found = loss_and_gradient(params, batch, squash=squash)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("squash", "bad"), [(True, np.nan), (False, np.nan), (False, np.inf)]
)
def test_rows_without_a_softmax_are_wrong(squash, bad):
    params, batch = problem()
    batch["mask"] = jnp.ones(ROWS)
    for column in range(CLASSES):
        broken = {**params, "bias": params["bias"].at[column].set(bad)}
        sums = evaluate(broken, (), batch, squash=squash)
        assert (sums["accuracy"], sums["count"]) == (0, ROWS)


def test_of_equal_scores_the_first_counts():
    params, batch = problem(scale=0.0)
    sums = evaluate(params, (), batch, squash=False)
    first = (np.asarray(batch["labels"])[: ROWS - 3] == 0).sum()
    assert float(sums["accuracy"]) == first


def test_bfloat16_computes_near_float32():
    params, batch = jax.tree.map(lambda a: a.astype(jnp.float32), problem())
    batch["labels"] = batch["labels"].astype(jnp.int32)
    exact, _ = loss_and_gradient(params, batch, squash=False)
    rough, _ = loss_and_gradient(params, batch, squash=False, compute=jnp.bfloat16)
    assert exact.dtype == rough.dtype == jnp.float32
    assert 0 < abs(exact - rough) < 0.02


def test_init_is_that_of_a_torch_linear_layer():
    params, state = logistic.init(jax.random.key(1), 100, 400)
    assert state == ()
    assert {name: p.shape for name, p in params.items()} == {
        "weight": (400, 100),
        "bias": (400,),
    }
    for leaf in params.values():
        # Uniform between -0.1 and 0.1: mean 0, standard deviation 0.2 / sqrt(12).
        assert -0.1 <= leaf.min() < -0.099
        assert 0.099 < leaf.max() <= 0.1
        assert abs(leaf.mean()) < 4 * 0.0577 / np.sqrt(leaf.size)
        np.testing.assert_allclose(leaf.std(), 0.0577, rtol=0.05)
    other, _ = logistic.init(jax.random.key(2), 100, 400)
    assert not np.allclose(params["weight"], other["weight"])


def test_every_lane_of_a_population_is_a_run_of_its_own():
    _, batch = problem()
    keys = jax.random.split(jax.random.key(0), 3)
    params, _ = jax.vmap(lambda key: logistic.init(key, FEATURES, CLASSES))(keys)
    gradient = functools.partial(loss_and_gradient, batch=batch, squash=True)
    together = jax.vmap(gradient)(params)
    for lane in range(3):
        own = {name: leaf[lane] for name, leaf in params.items()}
        value, slope = gradient(own)
        check_trees_are_close(together[0][lane], value, rtol=1e-5)
        lane_slope = {name: leaf[lane] for name, leaf in together[1].items()}
        check_trees_are_close(lane_slope, slope, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["libsvm/iris", "libsvm/wine"])
def test_the_gradient_vanishes_where_scikit_learn_ends(x64, name):
    task = make_task(name, TaskOptions(precision="float64"))
    x, y = map(np.asarray, task.train.values())
    model = LogisticRegression(C=0.1, tol=1e-12, max_iter=10_000).fit(x, y)
    params = {"weight": jnp.asarray(model.coef_), "bias": model.intercept_}
    batch = {**task.train, "mask": jnp.ones(len(y))}
    gradient = jax.jit(jax.grad(lambda p: task.loss(p, (), None, batch)[0]))(params)
    # scikit-learn minimises C * sum of losses + |weight|^2 / 2.
    penalty = params["weight"] / (0.1 * len(y))
    np.testing.assert_allclose(gradient["weight"] + penalty, 0, atol=1e-7)
    np.testing.assert_allclose(gradient["bias"], 0, atol=1e-7)
    sums = jax.jit(task.evaluate)(params, (), batch)
    np.testing.assert_allclose(sums["accuracy"] / sums["count"], model.score(x, y))
