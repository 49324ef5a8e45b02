"""A loss that is infinite or NaN, with gradients that are finite, breaks no method."""

from __future__ import annotations

import math
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import optim

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from cases import CASES, FLAGGED

# What watches the loss, but steps by another rule: it goes on, and such an observation
# may stay among its last ones for a while.
WATCHERS = {"reduce_on_plateau", "greedy_lr", "learned", "autolrs_sgd", "autolrs_adam"}
WINDOW = 10  # observations that are remembered by name of a method, at most


def loss(params):
    """Steeper along some axes than others, so that no step solves it."""
    return jnp.sum((params["w"] - 0.3) ** 2) + 3 * jnp.sum((params["b"] - 0.3) ** 2)


def start():
    return {"w": jnp.asarray([[1.0, -2.0, 0.25], [0.5, 3.0, -1.5]]), "b": jnp.ones(3)}


def reads_losses(case):
    """Whether updates depend on `value`: without it, they fail."""
    tx, params = case.build(), start()
    told = {"value_fn": loss, "grad_fn": jax.grad(loss)}
    try:
        jax.eval_shape(lambda: tx.update(params, tx.init(params), params, **told))
    except ValueError as error:
        return "value=loss" in str(error)
    return False


READERS = [case for case in CASES + FLAGGED if reads_losses(case)]


def stepper(tx):
    """A step with a loss that is given, while all else is as it is."""

    @jax.jit
    def step(params, state, value):
        updates, state = tx.update(
            jax.grad(loss)(params),
            state,
            params,
            value=jnp.where(jnp.isnan(value) | jnp.isinf(value), value, loss(params)),
            value_fn=loss,
            grad_fn=jax.grad(loss),
        )
        return updates, optax.apply_updates(params, updates), state

    return step


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def test_the_methods_that_step_by_losses_are_here():
    names = {case.name.removesuffix("-flags") for case in READERS}
    assert names >= WATCHERS
    documented = {
        name
        for name in optim.__all__
        if "the extra argument `value`"
        in " ".join(getattr(optim, name).__doc__.split())
    }
    assert len(documented) > 10
    assert documented <= names


@pytest.mark.parametrize("case", READERS, ids=[case.name for case in READERS])
def test_a_loss_that_is_not_finite_breaks_nothing(case):
    tx = case.build(100)
    step, init = stepper(tx), jax.jit(tx.init)
    watches = case.name.removesuffix("-flags") in WATCHERS
    for before in (0, 2):
        for bad in (math.inf, -math.inf, math.nan):
            params = start()
            state = init(params)
            for _ in range(before):
                _, params, state = step(params, state, 0.0)
            updates, params, state = step(params, state, bad)
            assert finite(updates), bad
            rate = optim.effective_learning_rate(state)
            assert np.isfinite(rate), bad
            assert watches or finite(state), bad
            stands = not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
            assert watches or rate == 0 or stands, bad
            for _ in range(WINDOW + 1):
                updates, params, state = step(params, state, 0.0)
                assert finite(updates), bad
            assert finite(state), bad
            # It has not come to rest for ever.
            assert any(np.any(leaf) for leaf in jax.tree.leaves(updates)), bad
