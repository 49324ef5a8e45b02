"""Parameters of any kind in other people's loops, as Optax takes them.

Nothing is compiled as a whole here: single operations on small arrays are quick.
"""

from __future__ import annotations

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from jax import sharding

from lrjax import optim
from lrjax.optim import leaves

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from cases import CASES

BUILDS = {case.name: lambda case=case: case.build(**case.hparams) for case in CASES} | {
    "cooldown": lambda: optim.cooldown(optim.sgd(0.1), 0, 10),
    "polynomial_averaging": lambda: optim.polynomial_averaging(optim.sgd(0.1)),
    "scale_by_learning_rate": lambda: optim.scale_by_learning_rate(0.1),
    "cautious": lambda: optim.cautious(optim.sgd(0.1)),
    "autolrs": lambda: optim.autolrs(optim.sgd(0.1), train_steps=9, trial_steps=5),
}
READINGS = {"effective_learning_rate", "eval_params", "evaluates_elsewhere"}
READINGS |= {"width_factors", "mup"}  # of a model's shapes: test_width.py
every_build = pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)


def gradient(params):
    """Of the squared distance from 0.3, at any parameters."""
    return jax.tree.map(lambda p: p - 0.3, params)


# What any transformation may ask for. Every line search ends where it begins.
EXTRA = {
    "value": jnp.asarray(1.0),
    "value_fn": lambda _: jnp.asarray(-1.0),
    "grad_fn": gradient,
}


def train(tx, params, steps=2):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(gradient(params), state, params, **EXTRA)
        params = optax.apply_updates(params, updates)
    return params, state


def vectors(*dtypes):
    """A tree of two vectors."""
    one, other = dtypes or (jnp.float32, jnp.float32)
    return {
        "a": jnp.asarray([1.0, -2.0, 0.25], one),
        "b": jnp.asarray([0.5, 3.0, -1.5], other),
    }


def halves():
    """The same in both kinds of half precision."""
    return vectors(jnp.float16, jnp.bfloat16)


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_every_optimiser_is_here():
    """Those of `METHODS`, and what is no method by itself."""
    baselines = {"adamw", "nadamw"}  # in METHODS by other names
    assert set(optim.__all__) <= {*READINGS, *BUILDS, *baselines}


@every_build
def test_a_half_precision_update_is_that_of_float32_rounded(build):
    tx, params = build(), halves()
    grads = gradient(params)
    wide, wide_grads = jax.tree.map(lambda p: p.astype(jnp.float32), (params, grads))
    updates, state = tx.update(grads, tx.init(params), params, **EXTRA)
    expected, _ = tx.update(wide_grads, tx.init(wide), wide, **EXTRA)
    assert_equal(
        updates, jax.tree.map(lambda u, p: u.astype(p.dtype), expected, params)
    )
    kinds = {leaf.dtype for leaf in jax.tree.leaves((tx.init(params), state))}
    assert kinds <= {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
    point = optim.eval_params(state, params)
    assert jax.tree.map(jnp.result_type, point) == jax.tree.map(jnp.result_type, params)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_half_precision_gradient_of_zero_moves_next_to_nothing(case):
    tx, params = case.build(), halves()
    zeros, state = jax.tree.map(jnp.zeros_like, params), tx.init(params)
    extra = EXTRA | {"grad_fn": lambda _: zeros}
    for _ in range(2):
        updates, state = tx.update(zeros, state, params, **extra)
        assert all(jnp.all(jnp.abs(u) < 1e-3) for u in jax.tree.leaves(updates))


def side_by_side(z):
    """The real form of a complex array: [..., n] becomes [..., 2 n]."""
    z = np.atleast_1d(z)
    return np.concatenate([z.real, z.imag], axis=-1)


@pytest.mark.slow
@every_build
def test_complex_parameters_take_the_steps_of_their_real_form(build):
    rng = np.random.default_rng(0)
    shapes = {"matrix": (2, 3), "number": ()}

    def normal():
        return {
            name: rng.normal(size=s) + 1j * rng.normal(size=s)
            for name, s in shapes.items()
        }

    start, aim = normal(), normal()

    def complex_loss(z):
        return sum(jnp.sum(jnp.abs(z[k] - aim[k]) ** 2) for k in shapes)

    def complex_gradient(z):
        return jax.tree.map(jnp.conj, jax.grad(complex_loss)(z))

    def real_loss(x):
        halves = {k: jnp.split(x[k], 2, axis=-1) for k in shapes}
        return complex_loss(
            {
                k: jax.lax.complex(*halves[k]).reshape(shape)
                for k, shape in shapes.items()
            }
        )

    def path(params, loss, gradient):
        tx = build()
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(
                gradient(params),
                state,
                params,
                value=loss(params),
                value_fn=loss,
                grad_fn=gradient,
            )
            params = optax.apply_updates(params, updates)
        rate = optim.effective_learning_rate(state)
        return params, optim.eval_params(state, params), rate

    with jax.enable_x64(True):
        pairs = {k: jnp.asarray(side_by_side(z)) for k, z in start.items()}
        numbers = jax.tree.map(jnp.asarray, start)
        *points, rate = path(numbers, complex_loss, complex_gradient)
        *expected, real_rate = path(pairs, real_loss, jax.grad(real_loss))
    np.testing.assert_allclose(rate, real_rate, 1e-9)
    for point, pair in zip(points, expected, strict=True):
        for name, value in point.items():
            assert value.dtype == jnp.complex128
            real = side_by_side(value)
            np.testing.assert_allclose(real, pair[name], 1e-9, err_msg=name)


@pytest.mark.slow
@every_build
def test_numbers_and_arrays_of_python_and_numpy(build):
    others = {
        "python": 1.5,
        "numpy": np.array([1.0, -2.0], np.float32),
        "scalar": np.float32(-0.5),
        "nothing": None,
        "empty": np.zeros((0, 3), np.float32),
        "rest": [jnp.asarray(2.0)],
    }
    arrays = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), others)
    found, expected = train(build(), others), train(build(), arrays)
    assert_equal(found, expected)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found[0]))
    assert_equal(optim.eval_params(found[1], others)["nothing"], None)
    train(build(), {})


@every_build
def test_no_update_changes_a_type(build):
    """Else a state could be in no loop of JAX's, and a step would be compiled twice."""
    kinds = (jnp.float32, jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.complex64)
    params = {jnp.dtype(kind).name: jnp.ones((2, 3), kind) for kind in kinds}
    # Gradients of other widths than the parameters are no obstacle.
    grads = {k: jnp.ones((2, 3), jnp.bfloat16) for k in params} | {"python": 0.5}
    params |= {"python": 1.0}
    tx, extra = build(), EXTRA | {"grad_fn": lambda _: grads}
    state = jax.eval_shape(tx.init, params)
    updates, new = jax.eval_shape(
        lambda *given: tx.update(*given, **extra), grads, state, params
    )
    assert {k: u.dtype for k, u in updates.items()} == {
        k: jnp.result_type(p) for k, p in params.items()
    }

    def types(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)

    assert types(new) == types(state)
    # Optax's own way to find what is kept for parameters.
    kept = optax.tree.map_params(tx, lambda leaf: leaf, tx.init(params))
    assert jax.tree.structure(kept) == jax.tree.structure(state)


@every_build
@pytest.mark.parametrize(
    ("leaf", "kind"),
    [(3, "int32"), (np.ones(2, bool), "bool"), ("text", "str")],
)
def test_says_which_leaf_is_no_number_to_train(build, leaf, kind):
    with pytest.raises(ValueError, match=rf"params\['n'\] is {kind}: ") as error:
        build().init({"w": 1.0, "n": leaf})
    assert str(error.value).startswith("optim.")
    assert "\n" not in str(error.value)


def test_says_that_a_real_parameter_has_no_complex_gradient():
    tx = optim.adamw()
    with pytest.raises(ValueError, match=r"optim.adamw: gradient\['w'\] is complex64"):
        tx.update({"w": 1j}, tx.init({"w": 1.0}), {"w": 1.0})


@every_build
def test_nothing_is_done_to_float32(build, monkeypatch):
    tx, params = build(), vectors()
    arguments = gradient(params), tx.init(params), params

    def program():
        fn = lambda *args: tx.update(*args, **EXTRA)  # noqa: E731
        return str(jax.make_jaxpr(fn)(*arguments))

    found = program()
    monkeypatch.setattr(leaves, "as_real", lambda tree, *what: tree)
    monkeypatch.setattr(leaves, "like", lambda tree, params: tree)
    monkeypatch.setattr(leaves, "_gradients", lambda grads, params: grads)
    assert found == program()


def layer():
    """Two vectors and a matrix."""
    return vectors() | {"m": jnp.asarray([[1.0, -2.0, 0.25], [0.5, 3.0, -1.5]])}


class Model(nnx.Module):
    """A layer, as variables."""

    def __init__(self):
        self.a, self.b, self.m = map(nnx.Param, layer().values())


@every_build
def test_in_the_loops_of_flax(build):
    params, state = train(build(), layer())
    point = optim.eval_params(state, params)
    rate = optim.effective_learning_rate(state)

    tx = build()
    told = optax.GradientTransformation(
        tx.init, lambda grads, state, params: tx.update(grads, state, params, **EXTRA)
    )
    linen = TrainState.create(apply_fn=None, params=layer(), tx=told)
    model = Model()
    optimizer = nnx.Optimizer(model, told, wrt=nnx.Param)
    for _ in range(2):
        linen = linen.apply_gradients(grads=gradient(linen.params))
        optimizer.update(model, gradient(nnx.state(model, nnx.Param)))
    assert_equal(linen.params, params)
    variables = nnx.state(model, nnx.Param)
    assert_equal(dict(nnx.as_pure(variables)), params)
    for opt_state in (linen.opt_state, optimizer.opt_state):
        assert_equal(optim.effective_learning_rate(opt_state), rate)
    assert_equal(optim.eval_params(linen.opt_state, linen.params), point)
    nnx.update(model, optim.eval_params(optimizer.opt_state, variables))
    assert_equal(dict(nnx.as_pure(nnx.state(model, nnx.Param))), point)


@every_build
def test_no_state_begins_with_what_debug_nans_takes_for_a_fault(build):
    with jax.debug_nans(True):
        state = build().init(vectors())
    assert not any(jnp.isnan(leaf).any() for leaf in jax.tree.leaves(state))
    # What stands for a rate that is not there is no rate.
    assert not jnp.isinf(optim.effective_learning_rate(state))


# Products whose sharding JAX wants to be told; so do those of Optax.
PRODUCTS = {"muon", "soap", "armijo_sgd"}


@pytest.mark.parametrize("name", sorted(BUILDS.keys() - PRODUCTS))
def test_explicit_axes_of_a_mesh_are_kept(name):
    """As `jax.make_mesh` makes them; without devices, since types say it."""
    explicit = (sharding.AxisType.Explicit,)
    mesh = sharding.AbstractMesh((2,), ("x",), axis_types=explicit)
    cut = {"rows": ("x", None), "columns": (None, "x"), "b": ("x",), "scale": ()}
    specs = {leaf: sharding.PartitionSpec(*axes) for leaf, axes in cut.items()}
    shapes = {"rows": (32, 8), "columns": (32, 8), "b": (8,), "scale": ()}
    params = {
        leaf: jax.ShapeDtypeStruct(
            shape, jnp.float32, sharding=sharding.NamedSharding(mesh, specs[leaf])
        )
        for leaf, shape in shapes.items()
    }
    with sharding.use_abstract_mesh(mesh):
        found, state = jax.eval_shape(lambda p: train(BUILDS[name](), p, 1), params)
        point = jax.eval_shape(optim.eval_params, state, found)
    for leaf, spec in specs.items():
        assert found[leaf].sharding.spec == point[leaf].sharding.spec == spec


@every_build
def test_each_label_of_a_partition_has_its_own_readings(build):
    labels = {"a": "ours", "b": "other"}
    alone, state = train(build(), {"a": vectors()["a"]})
    tx = optax.partition({"ours": build(), "other": optim.sgd(0.5)}, labels)
    params, states = train(tx, vectors())
    assert_equal(params["a"], alone["a"])
    rates = {"ours": optim.effective_learning_rate(state), "other": jnp.asarray(0.5)}
    assert_equal(optim.effective_learning_rate(states), rates)
    point = optim.eval_params(states, params)
    assert_equal(point["a"], optim.eval_params(state, alone)["a"])
    assert_equal(point["b"], params["b"])
    # What is frozen has no rate.
    tx = optax.partition({"ours": build(), "other": optax.set_to_zero()}, labels)
    _, states = train(tx, vectors())
    assert_equal(optim.effective_learning_rate(states), rates["ours"])


@pytest.mark.slow
@every_build
@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.masked(tx, {"a": True, "b": False}),
        lambda tx: optax.partition(
            {"ours": tx, "other": optim.sgd(0.5)}, {"a": "ours", "b": "other"}
        ),
        optax.flatten,
    ],
    ids=["masked", "partition", "flatten"],
)
def test_the_gradient_for_others_beside_them_is_let_through(build, wrap):
    """As `optax.chain` hands `grad` to all, where only a line search asks for it."""
    params, tx = vectors(), wrap(build())
    grads, told = gradient(params), EXTRA
    if wrap is optax.flatten:  # which flattens no function
        told = EXTRA | {"grad_fn": lambda flat: flat}
    alone, _ = tx.update(grads, tx.init(params), params, **told)
    found, _ = tx.update(grads, tx.init(params), params, **told, grad=grads)
    assert_equal(found, alone)


@pytest.mark.parametrize(
    "wrap", [optim.mechanic, optim.trac, optim.reduce_on_plateau, optim.greedy_lr]
)
def test_a_wrapper_scales_each_rate_of_a_partition(wrap):
    def rates(inner):
        state = wrap(inner).init(vectors())
        after = train(wrap(inner), vectors())[1]
        return [optim.effective_learning_rate(s) for s in (state, after)]

    before, after = rates(
        optax.partition(
            {"slow": optim.sgd(0.25), "fast": optim.sgd(0.5)},
            {"a": "slow", "b": "fast"},
        )
    )
    for found in (before, after):
        assert found.keys() == {"slow", "fast"}
        np.testing.assert_allclose(2 * found["slow"], found["fast"])
    assert after["fast"] > 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_flattened_average_of_one_leaf(shape, dtype):
    params = jnp.full(shape, 2, dtype)
    average = lambda: optim.polynomial_averaging(optim.sgd(0.5))  # noqa: E731
    expected = optim.eval_params(*train(average(), params)[::-1])
    params, state = train(optax.flatten(average()), params)
    found = optim.eval_params(state, params)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, expected)
