"""Step sizes from the loss, by hand and against Optax; the plain baselines."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import optim


def loss(x):
    return 0.5 * jnp.sum(jnp.asarray([1.0, 4.0]) * x**2)


X = jnp.asarray([1.0, 1.0])


def step(transformation, x=X, **extra_args):
    value, grad = jax.value_and_grad(loss)(x)
    state = transformation.init(x)
    updates, state = transformation.update(
        grad, state, x, value=value, value_fn=loss, **extra_args
    )
    return x + updates, float(optim.effective_learning_rate(state))


def test_polyak_step_by_hand():
    # The loss is 2.5, its gradient (1, 4), the squared norm 17.
    _, rate = step(optim.polyak_sgd(c=0.5))
    assert rate == pytest.approx(2.5 / 8.5)
    _, rate = step(optim.polyak_sgd(c=1.0, lower_bound=0.8, eps=1.0))
    assert rate == pytest.approx(1.7 / 18)
    _, rate = step(optim.polyak_sgd(0.1))
    assert rate == pytest.approx(0.1)
    x, rate = step(optim.polyak_sgd(), jnp.zeros(2))
    assert rate == 0
    assert jnp.all(x == 0)


def test_polyak_equals_optax():
    x, _ = step(optim.polyak_sgd(c=1.0))
    value, grad = jax.value_and_grad(loss)(X)
    other = optax.polyak_sgd()
    updates, _ = other.update(grad, other.init(X), X, value=value)
    np.testing.assert_allclose(x, X + updates)


def test_armijo_step_by_hand():
    # f(x - r g) = (1 - r)^2 / 2 + 2 (1 - 4 r)^2 <= 2.5 - 17 r / 2 for r <= 17 / 65.
    search = optim.armijo_sgd(c=0.5, decrease_factor=0.5, increase_factor=1.0)
    x, rate = step(search)
    assert rate == 0.25
    np.testing.assert_allclose(x, [0.75, 0.0], atol=1e-7)


def test_armijo_starts_from_the_last_step_size():
    search = optim.armijo_sgd(
        4.0, c=0.1, initial_step=0.125, decrease_factor=0.5, increase_factor=2.0
    )
    x, state = X, search.init(X)
    rates = []
    for _ in range(3):
        value, grad = jax.value_and_grad(loss)(x)
        updates, state = search.update(grad, state, x, value=value, value_fn=loss)
        x += updates
        rates.append(float(state.learning_rate))
    assert rates == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optim.sgd(0.1), optax.sgd(0.1)),
        (optim.sgd(0.1, momentum=0.9), optax.sgd(0.1, 0.9)),
        (
            optim.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.3),
            optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1, 0.9, True)),
        ),
        (optim.adamw(0.1), optax.adamw(0.1, weight_decay=1e-2)),
        (
            optim.adamw(0.1, 0.8, 0.9, 1e-3, 0.3),
            optax.adamw(0.1, 0.8, 0.9, 1e-3, weight_decay=0.3),
        ),
        (optim.nadamw(0.1), optax.nadamw(0.1)),
        (
            optim.nadamw(lambda count: 0.1 / (count + 1), 0.8, 0.9, 1e-3, 0.3),
            optax.nadamw(
                lambda count: 0.1 / (count + 1), 0.8, 0.9, 1e-3, weight_decay=0.3
            ),
        ),
    ],
)
def test_baselines_equal_optax(ours, theirs):
    def path(transformation):
        def update(carry, _):
            x, state = carry
            updates, state = transformation.update(jax.grad(loss)(x), state, x)
            x = optax.apply_updates(x, updates)
            return (x, state), x

        x = jnp.asarray([1.0, 1.0])
        # Optax takes powers by a count, and rates here are divided by one.
        with jax.numpy_dtype_promotion("standard"):
            return jax.lax.scan(update, (x, transformation.init(x)), length=20)[1]

    # In float32, 1 - b2 alone differs by 5e-5 between a number and a float32 array.
    with jax.enable_x64(True):
        np.testing.assert_allclose(path(ours), path(theirs), rtol=1e-9)


@pytest.mark.parametrize("build", [optim.adamw, optim.prodigy, optim.dog, optim.cocob])
def test_says_that_params_are_missing(build):
    transformation = build()
    with pytest.raises(ValueError, match="needs the parameters"):
        transformation.update(X, transformation.init(X))
