"""What calls may be given: one line names function, argument, value and what would do.

Rows come from the registries: `optim.__all__`, `schedules.__all__` and `METHODS`.
"""

from __future__ import annotations

import functools
import inspect
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import optim
from lrjax.optim import arguments

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from test_bounds import FUNCTIONS, READERS, call
from test_leaves import BUILDS, EXTRA, assert_equal, gradient, vectors

# Arguments that are no number, flag, function or transformation: their own checks, or
# those of Python, say what is wrong with them.
OTHERS = {
    *("weight_decay_mask", "learning_rate_factors", "hidden"),  # a value per leaf
    # shapes, see test_bounds.py
    *("window_size", "slice_p", "max_precond_dim", "candidates"),
    *("params", "base_params", "policy", "betas", "gradient_norms"),
}
# Every argument's kinds: (function, argument) -> texts.
KINDS = {
    (name, argument): [
        kind.text
        for kind in arguments.declared(inspect.unwrap(function)).get(argument, ())
    ]
    for name, function in FUNCTIONS.items()
    for argument in inspect.signature(function).parameters
    if name not in READERS or name == "width_factors"
}
NUMBERS = [key for key, texts in KINDS.items() if "a number" in texts]
FLAGS = [key for key, texts in KINDS.items() if "True or False" in texts]
INNER = [k for k, texts in KINDS.items() if any("transformation" in t for t in texts)]
every_build = pytest.mark.parametrize("name", BUILDS)


def refused(name, argument, value):
    """The one line in which a value is refused."""
    with pytest.raises(
        ValueError, match=rf"^\w+\.{name}: {argument} must be "
    ) as error:
        call(name, **{argument: value})
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 200
    return message


def test_the_kind_of_every_argument_is_declared():
    unknown = {argument for (_, argument), texts in KINDS.items() if not texts}
    assert unknown == OTHERS
    assert len(NUMBERS) > 350
    assert len(FLAGS) > 30
    assert len(INNER) >= 8


@pytest.mark.parametrize(("name", "argument"), NUMBERS)
def test_a_number_is_a_number(name, argument):
    kinds = KINDS[name, argument]
    bad = ["0.1", [0.1], True, 1j, object(), np.array(["a"]), jnp.asarray(True)]
    if "None" not in kinds:
        bad.append(None)
    if len(kinds) == 1:  # and not a schedule
        bad.append(lambda count: 0.1)
    for value in bad:
        refused(name, argument, value)


@pytest.mark.parametrize(("name", "argument"), FLAGS)
def test_a_flag_is_true_or_false(name, argument):
    for value in ("False", 1, 0.0, None):
        assert "True or False" in refused(name, argument, value)
    call(name, **{argument: np.bool_(True)})


@pytest.mark.parametrize(("name", "argument"), INNER)
def test_a_wrapper_wraps_a_transformation(name, argument):
    for value in (None, "lion", 3, optim.sgd, (optax.sgd(0.1),)):
        assert "optim.sgd(0.1)" in refused(name, argument, value)
    assert refused(name, argument, optim.sgd).endswith("sgd: call it first")
    # One of the old kind, which takes no extra arguments, is as good.
    plain = optax.GradientTransformation(*optax.scale(-0.1))
    needed = {"base_params": vectors()} if name == "mup" else {}
    tx, params = call(name, **{argument: plain}, **needed), vectors()
    tx.update(gradient(params), tx.init(params), params, **EXTRA, temperature=1.0)


@pytest.mark.parametrize("value", [None, "x", 3])
def test_a_narrow_model_has_shapes(value):
    with pytest.raises(ValueError, match=r"^optim\.mup: .*base_params") as error:
        optim.mup(optim.sgd(0.1), {"a": value}).init(vectors())
    assert "\n" not in str(error.value)


def test_an_optimiser_inside_is_named_by_what_was_called():
    with pytest.raises(ValueError, match=r"^optim.cautious_adamw: b1 must be"):
        optim.cautious_adamw(b1=2)
    with pytest.raises(ValueError, match=r"^schedules.linear: horizon must be"):
        optim.schedules.linear(0.1, -1)


def outcome(tx, told):
    """Changes and state of an update, or the line in which it is refused."""
    params = vectors()
    try:
        return tx.update(gradient(params), tx.init(params), params, **told)
    except ValueError as error:
        return str(error)


WRONG = {
    "value": ("x", [1.0], jnp.ones(3), True, 1j),
    "metric": ("x", jnp.ones(3)),
    "value_fn": (3, "x", lambda params: (1.0, 2.0), lambda params: jnp.ones(3)),
    "grad_fn": (3, "x", lambda params: jnp.ones(7), lambda params: {"a": jnp.ones(3)}),
}


@functools.cache
def expected_outcome(name):
    """The outcome of an update that is told all that it may read."""
    return outcome(BUILDS[name](), EXTRA)


@pytest.mark.slow
@every_build
@pytest.mark.parametrize("argument", WRONG)
def test_an_extra_argument_that_is_read_is_checked(name, argument):
    """What is not read is for others in a chain, and whatever they make of it."""
    tx = BUILDS[name]()
    expected = expected_outcome(name)
    assert not isinstance(expected, str), expected
    without = outcome(tx, EXTRA | {argument: None})
    reads = isinstance(without, str)
    if reads:
        assert without.startswith("optim.")
        assert f" needs {argument}, " in without or argument == "value"
        assert f"{argument}=" in without
    for value in WRONG[argument]:
        found = outcome(tx, EXTRA | {argument: value})
        if reads or (argument == "metric" and isinstance(found, str)):
            assert isinstance(found, str), value
            assert found.startswith("optim.")
            assert argument in found or "gradient" in found
            assert "\n" not in found
        else:
            assert_equal(found, expected)


@every_build
def test_a_gradient_belongs_to_the_parameters(name):
    tx, params = BUILDS[name](), vectors()
    for grads in ({"a": params["a"]}, params["a"], params | {"a": jnp.ones(7)}):
        with pytest.raises(ValueError, match=r"^optim\.\w+: (the )?gradient") as error:
            tx.update(grads, tx.init(params), params, **EXTRA)
        assert "\n" not in str(error.value)


def rest(params):
    """A loss that has to see all parameters."""
    return jnp.sum(jnp.square(params["a"] * params["b"]))


@every_build
@pytest.mark.parametrize("wrap", ["masked", "partition"])
def test_what_needs_all_parameters_says_so(name, wrap):
    tx, params = BUILDS[name](), vectors()
    if wrap == "masked":
        wrapped = optax.masked(tx, {"a": True, "b": False})
    else:
        labels = {"a": "ours", "b": "other"}
        wrapped = optax.partition({"ours": tx, "other": optim.sgd(0.1)}, labels)
    value, grads = jax.value_and_grad(rest)(params)

    def changes(told):
        found = wrapped.update(grads, wrapped.init(params), params, **told)
        return found[0]["a"]

    told = {"value": value, "value_fn": rest, "grad_fn": jax.grad(rest)}
    # Functions that take what is not hidden from elsewhere.
    b = {"b": params["b"]}
    sound = {
        "value": value,
        "value_fn": lambda part: rest({"a": part["a"]} | b),
        "grad_fn": lambda part: jax.grad(rest)({"a": part["a"]} | b),
    }
    expected = changes(sound)
    try:
        found = changes(told)
    except ValueError as error:
        fault = error
    else:
        np.testing.assert_array_equal(found, expected)
        return
    message = str(fault)
    assert message.startswith("optim.")
    assert "_fn at all parameters, of which optax.masked and" in message
    assert message.endswith("the whole optimiser")
    assert "\n" not in message
    assert fault.__cause__ is not None


@every_build
def test_all_work_in_a_chain(name):
    """Behind a step that changes nothing, the same steps."""
    params = vectors()
    alone, chained = BUILDS[name](), optax.chain(optax.identity(), BUILDS[name]())
    found = chained.update(gradient(params), chained.init(params), params, **EXTRA)
    expected = alone.update(gradient(params), alone.init(params), params, **EXTRA)
    assert_equal(found[0], expected[0])


def test_a_fault_of_a_users_function_stays_what_it_is():
    params, tx = vectors(), optim.adgd()
    with pytest.raises(KeyError, match="missing"):
        tx.update(
            gradient(params), tx.init(params), params, grad_fn=lambda p: p["missing"]
        )
