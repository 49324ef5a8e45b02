"""Tasks of images: what they hold, what padding does, and training end to end."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax import config, experiment, results, tasks


@functools.cache
def digits(precision="float32"):
    return tasks.make_task("digits/wrn", batch_size=16, precision=precision)


def batch(task, rows, padding):
    """The first rows of a part, and padding of nonsense."""
    index = np.r_[np.arange(rows), np.full(padding, 700)]
    mask = jnp.asarray(np.arange(rows + padding) < rows, jnp.float32)
    return {k: v[index] for k, v in task.train.items()} | {"mask": mask}


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    task = digits()
    assert task.train["images"].dtype == np.uint8
    parts = [task.train, task.valid, task.test]
    assert [len(p["labels"]) for p in parts] == [1079, 359, 359]
    images = np.concatenate([p["images"] for p in parts])[..., 0]
    labels = np.concatenate([p["labels"] for p in parts])
    bunch = load_digits()
    ours = np.c_[labels, images.reshape(len(images), -1)]
    theirs = np.c_[bunch.target, bunch.data]
    assert (np.unique(ours, axis=0) == np.unique(theirs, axis=0)).all()


def test_padding_counts_for_nothing():
    task = digits()
    params, state = task.init(jax.random.key(0))
    step = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    key = jax.random.key(1)
    short = step(params, state, key, batch(task, 10, 0))
    padded = step(params, state, key, batch(task, 10, 6))
    for a, b in zip(jax.tree.leaves(short), jax.tree.leaves(padded), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    judge = jax.jit(task.evaluate)
    short, padded = (judge(params, state, batch(task, 10, n)) for n in (0, 6))
    for name in ("loss", "accuracy", "count"):
        np.testing.assert_allclose(short[name], padded[name], rtol=1e-6)


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    task = digits("bfloat16")
    params, state = task.init(jax.random.key(0))
    (loss, (new, _)), grads = jax.jit(jax.value_and_grad(task.loss, has_aux=True))(
        params, state, jax.random.key(1), batch(task, 16, 0)
    )
    for leaf in jax.tree.leaves((params, state, loss, new, grads)):
        assert leaf.dtype == jnp.float32
    exact = digits().loss(params, state, jax.random.key(1), batch(task, 16, 0))[0]
    assert 0 < abs(loss - exact) < 0.05 * exact


@pytest.mark.parametrize("protocol", ["sound", "study"])
def test_digits_train_end_to_end(protocol, tmp_path):
    asked = config.base()
    asked.tasks, asked.methods = ("digits/wrn",), ("adam",)
    asked.seeds, asked.steps, asked.protocol = 1, 3, protocol
    settings = dataclasses.replace(config.check(asked), batch_size=16)
    experiment.run(settings, tmp_path)
    runs, _ = results.load(tmp_path)
    row = runs.iloc[0]
    assert (row.task, row.status, row.steps) == ("digits/wrn", "done", 3)
    assert np.isfinite([row.train_loss, row.valid_loss, row.test_loss]).all()
