"""The width rule: its factors, and that activations stay as large in wide models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import optim

WIDTHS = (128, 512, 1024)
INPUTS, OUTPUTS = 8, 4


def shapes(width):
    return {
        "in": jax.ShapeDtypeStruct((INPUTS, width), jnp.float32),
        "bias": jax.ShapeDtypeStruct((width,), jnp.float32),
        "hidden": jax.ShapeDtypeStruct((width, width), jnp.float32),
        "kernel": jax.ShapeDtypeStruct((3, 3, width, 2 * width), jnp.float32),
        "first": jax.ShapeDtypeStruct((3, 3, 1, width), jnp.float32),
        "out": jax.ShapeDtypeStruct((width, OUTPUTS), jnp.float32),
        "end": jax.ShapeDtypeStruct((OUTPUTS,), jnp.float32),
        "scale": jax.ShapeDtypeStruct((), jnp.float32),
    }


# From Table 3 of Yang et al. 2022, for a model 4 times as wide.
TABLE = {
    "adam": {"in": 1, "bias": 1, "hidden": 1 / 4, "out": 1 / 4},
    "sgd": {"in": 4, "bias": 4, "hidden": 1, "out": 1 / 4},
    "init": {"in": 1, "bias": 1, "hidden": 1, "out": 1 / 2},
}


@pytest.mark.parametrize("rule", TABLE)
def test_factors_are_those_of_the_paper(rule):
    found = optim.width_factors(shapes(64), shapes(16), rule)
    expected = TABLE[rule]
    expected |= {"kernel": expected["hidden"], "first": expected["in"]}
    assert found == expected | {"end": 1, "scale": 1}
    assert set(optim.width_factors(shapes(64), shapes(64), rule).values()) == {1}


@pytest.mark.parametrize(
    ("narrow", "rule", "message"),
    [
        ({"a": jnp.ones(2)}, "adam", "structure of params"),
        (shapes(16) | {"bias": jnp.ones((4, 4))}, "adam", r"base_params\['bias'\]"),
        (shapes(16) | {"bias": jnp.ones(0)}, "adam", r"base_params\['bias'\]"),
        (shapes(16), "adagrad", "rule must be one of adam, sgd, init"),
    ],
)
def test_other_models_and_rules_get_one_line(narrow, rule, message):
    with pytest.raises(ValueError, match=message) as caught:
        optim.width_factors(shapes(64), narrow, rule)
    assert "\n" not in str(caught.value)


def test_no_rule_of_updates_for_weights_at_the_start():
    with pytest.raises(ValueError, match="'adam' or 'sgd', not 'init'"):
        optim.mup(optim.sgd(0.1), shapes(16), "init")


def model(width):
    """Weights of a perceptron, normal, of a variance of one over the inputs."""
    sizes = {
        "w1": (INPUTS, width),
        "w2": (width, width),
        "w3": (width, OUTPUTS),
    }
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.normal(size=size) / size[0] ** 0.5, jnp.float32)
        for name, size in sizes.items()
    }


def activations(params, x):
    """Of all layers, before tanh."""
    first = x @ params["w1"]
    second = jnp.tanh(first) @ params["w2"]
    return {"w1": first, "w2": second, "w3": jnp.tanh(second) @ params["w3"]}


def growth(inner, rule, scaled):
    """For each layer by how much activations move in four steps, with the width.

    The slope of the logarithm of their root mean square over that of the width.
    """
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(16, INPUTS)), jnp.float32)
    y = jnp.asarray(rng.normal(size=(16, OUTPUTS)), jnp.float32)

    def loss(params):
        return jnp.mean(jnp.square(activations(params, x)["w3"] - y))

    sizes = []
    for width in WIDTHS:
        params, transformation = model(width), inner
        if scaled:
            start = optim.width_factors(params, model(WIDTHS[0]), "init")
            params = jax.tree.map(jnp.multiply, start, params)
            transformation = optim.mup(inner, model(WIDTHS[0]), rule)
        before, state = activations(params, x), transformation.init(params)
        for _ in range(4):
            updates, state = transformation.update(
                jax.grad(loss)(params), state, params
            )
            params = optax.apply_updates(params, updates)
        after = activations(params, x)
        sizes.append(
            {k: jnp.sqrt(jnp.mean((after[k] - before[k]) ** 2)) for k in after}
        )
    logs = [[float(jnp.log(size[k])) for size in sizes] for k in sizes[0]]
    slopes = [np.polyfit(np.log(WIDTHS), log, 1)[0] for log in logs]
    return dict(zip(sizes[0], slopes, strict=True))


@pytest.mark.parametrize(
    ("inner", "rule"),
    [
        (optim.adamw(2e-4, weight_decay=0.0), "adam"),
        (optim.lion(2e-4), "adam"),
        (optim.sgd(0.1, momentum=0.9), "sgd"),
    ],
    ids=["adamw", "lion", "sgd"],
)
def test_activations_move_as_much_at_every_width(inner, rule):
    scaled, plain = (growth(inner, rule, scaled) for scaled in (True, False))
    assert all(abs(slope) < 0.2 for slope in scaled.values()), scaled
    assert max(abs(slope) for slope in plain.values()) > 0.4, plain


def test_what_is_recorded_is_the_rate_before_factors():
    transformation = optim.mup(optim.adamw(0.5), model(16))
    state = transformation.init(model(64))
    assert float(optim.effective_learning_rate(state)) == 0.5
