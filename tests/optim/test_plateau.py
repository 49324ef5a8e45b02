"""Schedulers that follow the loss, against the official code and by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import optim

NAN = float("nan")
# Falls, stays, falls.
LOSSES = [3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]


def rates(transformation, observations, name="value"):
    """The rate of each update, which is told an observation."""
    params = jnp.zeros(())

    def step(state, observation):
        told = {name: observation}
        updates, state = transformation.update(params + 1, state, params, **told)
        return state, (-updates, optim.effective_learning_rate(state))

    state = transformation.init(params)
    _, (moved, rates) = jax.lax.scan(step, state, jnp.asarray(observations))
    np.testing.assert_allclose(moved, rates, rtol=1e-6)
    return np.asarray(rates)


# From torch.optim.lr_scheduler.ReduceLROnPlateau of PyTorch 2.13.0, with eps=0.
@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"patience": 1}, [1, 1, 1, 1, 2, 2, 4, 4, 4, 4, 8, 8]),
        ({"cooldown": 1}, [1, 1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32]),
        ({"min_scale": 0.2}, [1, 1, 1, 2, 4, 5, 5, 5, 5, 5, 5, 5]),
        ({"rtol": 0.6}, [1, 2, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]),
        (
            {"rtol": 0.0, "atol": 0.6},
            [1, 1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
        ),
    ],
)
def test_reduce_on_plateau_equals_pytorch(kwargs, expected):
    kwargs = {"patience": 0, "factor": 0.5} | kwargs
    transformation = optim.reduce_on_plateau(optax.sgd(1.0), **kwargs)
    np.testing.assert_allclose(rates(transformation, LOSSES), 1 / np.array(expected))


# From transformers.GreedyLR 5.23.0.
@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        (
            {},
            [0.2, 0.4, 0.8, 0.4, 0.2, 0.1, 0.05, 0.025, 0.05, 0.025, 0.0125, 0.00625],
        ),
        (
            {"patience": 1},
            [0.1, 0.2, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.025, 0.025],
        ),
        (
            {"cooldown": 2, "warmup": 1},
            [0.2, 0.2, 0.4, 0.4, 0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.2, 0.2],
        ),
        (
            {"window_size": 3},
            [0.2, 0.4, 0.8, 1.0, 1.0, 0.5, 0.25, 0.125, 0.25, 0.5, 1.0, 0.5],
        ),
        (
            {"min_lr": 0.05, "reset_start": 2},
            [0.2, 0.4, 0.8, 0.4, 0.2, 0.1, 0.05, 0.1, 0.2, 0.1, 0.05, 0.1],
        ),
    ],
)
def test_greedy_lr_equals_transformers(kwargs, expected):
    kwargs = {"patience": 0, "factor": 0.5} | kwargs
    transformation = optim.greedy_lr(optax.sgd(1.0), learning_rate=0.1, **kwargs)
    np.testing.assert_allclose(rates(transformation, LOSSES), expected, rtol=1e-6)


WRAPPERS = {
    "plateau": lambda **kwargs: optim.reduce_on_plateau(optax.sgd(1.0), **kwargs),
    "greedy": lambda **kwargs: optim.greedy_lr(optax.sgd(1.0), 1.0, **kwargs),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_only_progress_counts_whatever_the_sign(wrapper):
    transformation = WRAPPERS[wrapper](patience=1, factor=0.5, rtol=0.01)
    falling = rates(transformation, np.linspace(1.0, -1.0, 11))
    np.testing.assert_array_equal(falling, 1.0)
    # A hundredth of the loss is no progress, also where the loss is negative.
    creeping = rates(transformation, -1.0 - 1e-4 * np.arange(6))
    np.testing.assert_array_equal(creeping, [1, 1, 0.5, 0.5, 0.25, 0.25])


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_steps_without_an_evaluation_do_not_count(wrapper):
    transformation = WRAPPERS[wrapper](patience=0, factor=0.5)
    observations = [1.0, NAN, NAN, 2.0, NAN, 2.0, NAN]
    found = rates(transformation, observations, "metric")
    np.testing.assert_array_equal(found, [1, 1, 1, 0.5, 0.5, 0.25, 0.25])


def test_values_are_averaged_to_observations():
    transformation = optim.reduce_on_plateau(
        optax.sgd(1.0), patience=0, factor=0.5, accumulation_size=2
    )
    # Means 2, 1, 1: the last one is no progress.
    found = rates(transformation, [3.0, 1.0, 2.0, 0.0, 0.0, 2.0])
    np.testing.assert_array_equal(found, [1, 1, 1, 1, 1, 0.5])


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_says_what_is_missing(wrapper):
    transformation = WRAPPERS[wrapper]()
    params = jnp.zeros(())
    with pytest.raises(ValueError, match="value=loss"):
        transformation.update(params, transformation.init(params), params)
