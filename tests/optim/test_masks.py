"""Weight decay for some leaves, and factors of the rate under one distance estimate.

The official code with parameter groups is in test_parity.py.
"""

from __future__ import annotations

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lrjax import optim
from lrjax.methods import METHODS

EXTRA = {
    "learned": {"horizon": 8},
    "hypergradient_sgd": {"learning_rate": 0.1},
    "multirate_sgd": {"learning_rate": 0.1},
}


def _takes(argument):
    return sorted(
        name
        for name in optim.__all__
        if argument in inspect.signature(getattr(optim, name)).parameters
    )


DECAYING = _takes("weight_decay")
FACTORED = _takes("learning_rate_factors")


def build(name, **kwargs):
    return getattr(optim, name)(**EXTRA.get(name, {}), **kwargs)


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"layer": {"w": (4, 3), "b": (3,)}, "scale": ()}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape)),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def loss(params):
    leaves = jax.tree.leaves(params)
    return sum(jnp.sum(jnp.log(jnp.cosh(leaf - 0.3))) for leaf in leaves)


def step(transformation, params, state, f=loss):
    value, grads = jax.value_and_grad(f)(params)
    with jax.numpy_dtype_promotion("standard"):  # Optax takes powers by a count
        updates, state = optax.with_extra_args_support(transformation).update(
            grads, state, params, value=value, grad_fn=jax.grad(f), value_fn=f
        )
    return optax.apply_updates(params, updates), state


def train(transformation, params, steps=4, f=loss):
    """Parameters after some steps, whose operations are compiled one by one."""
    state = transformation.init(params)
    for _ in range(steps):
        params, state = step(transformation, params, state, f)
    return params


def program(build, *arguments):
    """What an update of two leaves computes; `arguments` of `build` are traced."""
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
    one = jnp.ones(())

    def update(params, arguments):
        tx = build(*arguments)
        return tx.update(
            params,
            tx.init(params),
            params,
            value=one,
            grad_fn=lambda params: params,
            value_fn=lambda params: jnp.sum(params["b"]),
        )

    return str(jax.make_jaxpr(update)(params, arguments))


def assert_equal(found, expected, rtol=1e-9, atol=1e-12):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
        found,
        expected,
    )


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


MIXED = {"layer": {"w": True, "b": False}, "scale": False}


def matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def test_all_that_decay_have_a_mask_and_no_method_has_it_as_hyperparameter():
    assert len(DECAYING) > 15
    assert _takes("weight_decay_mask") == sorted([*DECAYING, "mechanic"])
    for name in DECAYING:
        arguments = inspect.signature(getattr(optim, name)).parameters
        assert arguments["weight_decay_mask"].default is None
    for method in METHODS.values():
        told = {"weight_decay_mask", "learning_rate_factors"} & set(method.defaults)
        assert not told, method.name


@pytest.mark.parametrize("name", DECAYING)
def test_a_mask_of_one_kind_is_the_program_without(name):
    """All of it decays or nothing: to the bit what it was, at the same cost."""

    def masked(mask, weight_decay=0.1):
        return program(
            lambda: build(name, weight_decay=weight_decay, weight_decay_mask=mask)
        )

    def traced(mask):
        return program(
            lambda w: build(name, weight_decay=w, weight_decay_mask=mask), 0.1
        )

    every, none = masked(None), masked(None, 0.0)
    assert every != none
    assert masked({"w": True, "b": np.True_}) == every
    assert masked(lambda _: False) == none
    assert masked(matrices, 0.0) == none
    assert masked(matrices) not in (every, none)
    assert traced({"w": True, "b": True}) == traced(None)


# The rest take decay otherwise, and are compared with official code.
COUPLED = {
    "adog": {"reps_rel": 1e-2},
    "cocob": {},
    "dadapt_adagrad": {"d0": 1e-2},
    "dadapt_adam": {"d0": 1e-2},
    "dadapt_sgd": {"d0": 1e-2, "momentum": 0.5},
    "dog": {"reps_rel": 1e-2},
    "hypergradient_adam": {"hypergrad_lr": 1e-3},
    "hypergradient_sgd": {"hypergrad_lr": 1e-3, "momentum": 0.5},
    "ldog": {"reps_rel": 1e-2},
    "multirate_sgd": {"hypergrad_lr": 1e-3},
    "prodigy": {"d0": 1e-2, "decouple": False},
    "schedule_free_sgd": {},
    "sgd": {"learning_rate": 0.1, "momentum": 0.5},
    "storm_plus": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUPLED)
def test_decay_that_is_added_to_gradients_is_a_loss_of_some_leaves(name):
    """w/2 |x|^2 over the leaves that decay, whatever the method makes of it."""

    def penalised(params):
        return loss(params) + 0.05 * jnp.sum(jnp.square(params["layer"]["w"]))

    params = parameters()
    if name == "dadapt_sgd":  # its first norm leaves out the decay
        params["layer"]["w"] *= 0
    kwargs = COUPLED[name]
    masked = build(name, weight_decay=0.1, weight_decay_mask=matrices, **kwargs)
    plain = build(name, weight_decay=0.0, **kwargs)
    found, expected = train(masked, params), train(plain, params, f=penalised)
    assert_equal(found, expected)
    moved = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), found, params)
    assert min(jax.tree.leaves(moved)) > 1e-5


@pytest.mark.parametrize("name", ["adamw", "nadamw"])
@pytest.mark.parametrize("mask", [MIXED, {"layer": False, "scale": True}, matrices])
def test_equals_optax(name, mask):
    ours = getattr(optim, name)(0.1, weight_decay=0.1, weight_decay_mask=mask)
    theirs = getattr(optax, name)(0.1, weight_decay=0.1, mask=mask)
    assert_equal(train(ours, parameters()), train(theirs, parameters()))


@pytest.mark.parametrize(
    "name", ["iam", "iam_adam", "ngn", "salsa", "schedule_free_plus"]
)
def test_decay_beside_the_step_moves_the_leaves_that_it_is_for(name):
    """In a first update, whose step size knows nothing of it: leaf by leaf."""
    params = parameters()

    def first(**kwargs):
        tx = build(name, **kwargs)
        # With no loss to lower, a line search is left out.
        value = jnp.asarray(0.0 if name == "salsa" else 1.0)
        extra = {"value": value, "value_fn": loss}
        return tx.update(jax.grad(loss)(params), tx.init(params), params, **extra)[0]

    without, every = first(), first(weight_decay=0.1)
    mixed = first(weight_decay=0.1, weight_decay_mask=MIXED)
    assert_equal(mixed["layer"]["w"], every["layer"]["w"])
    assert_equal(mixed["layer"]["b"], without["layer"]["b"])
    assert not np.allclose(every["layer"]["w"], without["layer"]["w"])


@pytest.mark.parametrize(
    "wrap",
    [
        optim.mechanic,
        optim.trac,
        optim.reduce_on_plateau,
        optim.greedy_lr,
        optim.abel,
        optim.autolrs,
        optim.polynomial_averaging,
        lambda inner: optim.cooldown(inner, 1, 3),
        lambda inner: optax.partition(
            {"train": inner, "freeze": optax.set_to_zero()},
            {"layer": {"w": "train", "b": "freeze"}, "scale": "train"},
        ),
    ],
)
def test_wrappers_leave_the_mask_to_what_they_wrap(wrap):
    ours = wrap(optim.adamw(0.1, weight_decay=0.1, weight_decay_mask=MIXED))
    theirs = wrap(optax.adamw(0.1, weight_decay=0.1, mask=MIXED))
    assert_equal(train(ours, parameters()), train(theirs, parameters()))


def test_mechanic_pulls_by_what_decays():
    """A leaf that never moves and is masked out is as good as not there."""
    params = {"x": jnp.arange(1.0, 4.0), "still": jnp.full(2, 7.0)}
    mechanic = functools.partial(
        optim.mechanic, optim.sgd(0.1), s_decay=0.1, s_init=1e-2
    )
    alone = train(mechanic(), {"x": params["x"]}, f=lambda p: loss(p["x"]))
    for mask, equal in (({"x": True, "still": False}, True), (None, False)):
        both = train(mechanic(weight_decay_mask=mask), params, f=lambda p: loss(p["x"]))
        assert np.allclose(both["x"], alone["x"], rtol=1e-12, atol=0) is equal
    none = train(mechanic(weight_decay_mask=False), params)
    unpulled = train(optim.mechanic(optim.sgd(0.1), s_decay=0.0, s_init=1e-2), params)
    jax.tree.map(np.testing.assert_array_equal, none, unpulled)


def test_masks_of_other_containers():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    grads = jax.tree.map(jnp.zeros_like, params)
    tx = optim.adamw(0.1, weight_decay=0.1, weight_decay_mask=matrices)
    updates, _ = tx.update(grads, tx.init(params), params)
    changed = jax.tree.map(lambda leaf: bool(jnp.any(leaf != 0)), updates)
    assert jax.tree.leaves(changed) == jax.tree.leaves(matrices(params))
    with_none = {"w": jnp.ones((2, 2)), "absent": None}
    tx = optim.sgd(0.1, weight_decay=0.1, weight_decay_mask={"w": False, "absent": 1})
    updates, _ = tx.update(with_none, tx.init(with_none), with_none)
    np.testing.assert_allclose(updates["w"], -0.1)


BAD = {
    "structure": ({"w": True}, "both"),
    "list": ([True, False], "both"),
    "deeper": ({"w": {"x": True}, "b": True}, "both"),
    "text": ("matrices", "both"),
    "none": (lambda params: None, "both"),
    "array": (np.array([True, False]), "both"),
    "number": ({"w": True, "b": 0.5}, "weight_decay_mask"),
    "traced": (lambda p: {k: jnp.all(p[k] > 0) for k in p}, "weight_decay_mask"),
    "negative": ({"w": 1.0, "b": -0.5}, "learning_rate_factors"),
    "nan": ({"w": np.float32("nan"), "b": 1}, "learning_rate_factors"),
    "infinite": ({"w": 1, "b": float("inf")}, "learning_rate_factors"),
}


@pytest.mark.parametrize(
    ("values", "argument"),
    [
        pytest.param(values, argument, id=f"{name}-{argument}")
        for name, (values, where) in BAD.items()
        for argument in ("weight_decay_mask", "learning_rate_factors")
        if where in ("both", argument)
    ],
)
def test_what_does_not_fit_gets_one_line(values, argument):
    with pytest.raises(ValueError, match=argument) as caught:
        program(lambda: optim.prodigy(weight_decay=0.1, **{argument: values}))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", DECAYING)
@pytest.mark.parametrize("mask", [{"w": True}, "matrices", {"layer": 0.5, "scale": 1}])
def test_a_mask_that_does_not_fit_is_refused_at_init(name, mask):
    given = {"weight_decay": 0.1, "weight_decay_mask": mask}
    with pytest.raises(ValueError, match="weight_decay_mask") as caught:
        build(name, **given).init(parameters())
    assert f"optim.{name}" in str(caught.value)
    assert "\n" not in str(caught.value)


DISTANCES = {"d0": 1e-2, "weight_decay": 0.0}


def test_what_has_one_distance_for_all_leaves_has_factors():
    distances = [name for name in DECAYING if name.startswith("dadapt")]
    assert [*distances, "prodigy"] == FACTORED


@pytest.mark.parametrize("name", [*FACTORED, "prodigy without momentum"])
def test_a_leaf_of_factor_0_is_as_good_as_left_out(name):
    optimiser = functools.partial(getattr(optim, name.split()[0]), **DISTANCES)
    if "without" in name:
        optimiser = functools.partial(optimiser, safeguard_warmup=True, b1=0.0)
    factors = {"layer": {"w": 1.0, "b": 0.0}, "scale": 1.0}
    labels = {"layer": {"w": "train", "b": "freeze"}, "scale": "train"}
    left_out = optax.partition(
        {"train": optimiser(), "freeze": optax.set_to_zero()}, labels
    )
    with_factors = optimiser(learning_rate_factors=factors)
    params = parameters()
    found = train(with_factors, params, 8)
    assert_equal(found, train(left_out, params, 8))
    np.testing.assert_array_equal(found["layer"]["b"], params["layer"]["b"])


@pytest.mark.parametrize("name", [n for n in FACTORED if n != "dadapt_adam"])
def test_the_same_factor_everywhere_is_a_factor_of_the_rate(name):
    optimiser = functools.partial(getattr(optim, name), **DISTANCES)
    found = train(optimiser(learning_rate_factors=0.3), parameters(), 8)
    assert_equal(found, train(optimiser(learning_rate=0.3), parameters(), 8))


def test_factors_of_dadapt_adam_are_units_of_its_parameters():
    """Official `layer_scale`: x = factor * y, with a step of 1 for y."""
    factors = {"layer": {"w": 0.2, "b": 3.0}, "scale": 1.0}
    optimiser = functools.partial(optim.dadapt_adam, eps=1e-30, **DISTANCES)
    params = parameters()

    def back(scaled):
        return jax.tree.map(jnp.multiply, factors, scaled)

    scaled = train(
        optimiser(),
        jax.tree.map(jnp.divide, params, factors),
        8,
        f=lambda scaled: loss(back(scaled)),
    )
    found = train(optimiser(learning_rate_factors=factors), params, 8)
    assert_equal(found, back(scaled))


@pytest.mark.parametrize("name", FACTORED)
def test_factors_may_be_traced_and_given_as_a_function(name):
    optimiser = functools.partial(getattr(optim, name), **DISTANCES)
    params = parameters()

    @jax.jit
    @jax.vmap
    def population(factor):
        factors = {"layer": factor, "scale": 1.0}
        tx = optimiser(learning_rate_factors=factors)
        state = tx.init(params)
        return step(tx, *step(tx, params, state))[0]

    def told(factor):
        return lambda params: {"layer": {"w": factor, "b": factor}, "scale": 1}

    found = population(jnp.asarray([0.5, 2.0]))
    for lane, factor in enumerate((0.5, np.float32(2.0))):
        alone = train(optimiser(learning_rate_factors=told(factor)), params, 2)
        assert_equal(jax.tree.map(lambda leaf, i=lane: leaf[i], found), alone)
