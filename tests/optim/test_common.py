"""What every method must do. What a test does depends on no name."""

from __future__ import annotations

import functools
import inspect
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from lrjax import optim

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from cases import CASES, FLAGGED, SCHEDULABLE

MINIMISES_IN = 5000  # steps


def parametrize(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


every_case = parametrize(CASES)
# Where flags may matter; what else the tests look at is the same code.
every_case_and_flag = parametrize(CASES + FLAGGED)


def quadratic(params):
    return 0.5 * jnp.sum(jnp.logspace(0, 2, 10) * params["x"] ** 2)


def rosenbrock(params):
    x, y = params["x"], params["y"]
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


FUNCTIONS = {
    quadratic: {"x": jnp.ones(10)},
    rosenbrock: {"x": jnp.asarray(-1.0), "y": jnp.asarray(1.0)},
}


def tree(dtype=jnp.float32):
    """Parameters of several shapes and containers; no shape is the number of leaves."""
    key = jax.random.key(0)
    shapes = {"w": (3, 5), "b": (5,), "scale": ()}
    leaves = {
        name: jax.random.normal(jax.random.fold_in(key, i), shape, dtype)
        for i, (name, shape) in enumerate(shapes.items())
    }
    return {"first": leaves, "rest": [(leaves["b"] * 2,)]}


def loss(params):
    """Smooth, its gradients at most 1, its minimum away from zero."""
    leaves = jax.tree.leaves(params)
    return sum(
        jnp.sum(jnp.log(jnp.cosh(leaf.astype(jnp.float32) - 0.3))) for leaf in leaves
    )


def update(transformation, params, state, f=loss):
    """One step: everything that any transformation may ask for is there."""
    value, grads = jax.value_and_grad(f)(params)
    updates, state = transformation.update(
        grads, state, params, value=value, grad_fn=jax.grad(f), value_fn=f
    )
    return optax.apply_updates(params, updates), state


def trajectory(transformation, params, steps, f=loss):
    """Parameters and state after some steps, and the losses at the evaluated points."""

    def step(carry, _):
        params, state = update(transformation, *carry, f)
        return (params, state), f(optim.eval_params(state, params))

    carry = params, transformation.init(params)
    return jax.lax.scan(step, carry, length=steps)


def assert_close(found, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol, atol
        ),
        found,
        expected,
    )


def finite(values):
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(values))


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation():
    """Hundreds of programs are compiled here, and each of them runs for an instant."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@functools.lru_cache
def compiled(case):
    """The transformation with hyperparameters away from the defaults; init and step."""
    transformation = case.build(**case.hparams)
    return (
        transformation,
        jax.jit(transformation.init),
        jax.jit(lambda params, state: update(transformation, params, state)),
    )


@pytest.mark.slow
@every_case
@pytest.mark.parametrize(("f", "factor"), [(quadratic, 0.01), (rosenbrock, 0.2)])
def test_minimises_in_5000_steps(case, f, factor):
    """With its defaults or, where they are not meant for this, in its search space."""

    def train(hparams):
        transformation = case.build(MINIMISES_IN, **hparams)
        _, values = trajectory(transformation, FUNCTIONS[f], MINIMISES_IN, f)
        return values[-1]

    columns = {
        name: np.array([candidate[name] for candidate in case.candidates], np.float32)
        for name in case.candidates[0]
    }
    last = jax.jit(jax.vmap(train))(columns)
    assert np.nanmin(last) < factor * f(FUNCTIONS[f])


@pytest.mark.slow
@every_case_and_flag
def test_population_equals_loop(case):
    names = sorted(case.hparams)
    # One lane for each hyperparameter, in which it alone is changed.
    values = np.array([case.hparams[name] for name in names], np.float32)
    lanes = np.where(np.eye(len(names), dtype=bool), 0.75 * values, values)
    lanes = np.concatenate([values[None], lanes]).astype(np.float32)

    @jax.jit
    def train(lane):
        transformation = case.build(**dict(zip(names, lane, strict=True)))
        (params, state), _ = trajectory(transformation, tree(), 4)
        return params, optim.effective_learning_rate(state)

    population = jax.device_get(jax.jit(jax.vmap(train))(lanes))
    for index, lane in enumerate(lanes):
        lane_of_population = jax.tree.map(lambda leaf, i=index: leaf[i], population)
        assert_close(lane_of_population, train(lane), rtol=1e-4)
    assert train._cache_size() == 1
    # The first lane has the hyperparameters of the transformation that is not traced.
    _, init, step = compiled(case)
    params, state = tree(), init(tree())
    for _ in range(4):
        params, state = step(params, state)
    assert_close(jax.tree.map(lambda leaf: leaf[0], population[0]), params, rtol=1e-4)


# What can differ: plain, with readings of its own, two points, a network, wrappers, and
# searches that call the loss.
EAGER = {
    *("adam", "cawr", "prodigy", "schedule_free_adamw", "mechanic", "learned"),
    *("armijo_sgd", "adgd", "reduce_on_plateau", "soap"),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=case.name, marks=() if case.name in EAGER else pytest.mark.slow
        )
        for case in CASES
    ],
)
def test_eager_equals_jit_and_compiles_once(case):
    assert {each.name for each in CASES} >= EAGER
    transformation, _, step = compiled(case)
    step.clear_cache()
    params = tree()
    state = transformation.init(params)
    expected = params, state
    for _ in range(2):
        params, state = step(params, state)
        expected = update(transformation, *expected)
    assert step._cache_size() == 1
    assert_close((params, state), expected, rtol=1e-4)


@pytest.mark.slow
@every_case_and_flag
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_keeps_dtypes(case, dtype):
    _, init, step = compiled(case)
    params = tree(dtype)
    state = init(params)
    new_params, new_state = step(params, state)
    for old, new in ((params, new_params), (state, new_state)):
        assert jax.tree.map(jnp.shape, old) == jax.tree.map(jnp.shape, new)
        assert jax.tree.map(jnp.result_type, old) == jax.tree.map(jnp.result_type, new)
    # Whatever the parameters are, what is kept is float32.
    for leaf in jax.tree.leaves(state):
        assert leaf.dtype == jnp.float32 or not jnp.issubdtype(leaf.dtype, jnp.inexact)
    assert optim.effective_learning_rate(new_state).dtype == jnp.float32
    assert finite(new_params)


@pytest.mark.slow
@every_case_and_flag
def test_stays_finite_at_any_first_gradient(case):
    transformation = case.build()

    @jax.jit
    def step(params, state, grad):
        return update(transformation, params, state, lambda p: jnp.sum(grad * p["x"]))

    for first in (0.0, 1e30, -1e30):
        params = {"x": jnp.ones(3)}
        params, state = step(params, transformation.init(params), jnp.asarray(first))
        assert finite(params), first
        params, state = step(params, state, jnp.asarray(0.0))
        assert finite(params), first


@pytest.mark.slow
@every_case
def test_stays_finite_at_a_rate_of_zero(case):
    assert "learning_rate" in case.hparams
    _, init, step = compiled(case)
    standing = case.build(**dict(case.hparams) | {"learning_rate": 0.0})
    first = jax.jit(lambda params, state: update(standing, params, state))
    params, state = first(tree(), init(tree()))
    assert finite(params)
    params, state = step(params, state)
    assert finite(first(*step(params, state))[0])


@pytest.mark.slow
@pytest.mark.parametrize("build", SCHEDULABLE.values(), ids=SCHEDULABLE)
def test_schedule_of_the_rate(build):
    rate = inspect.signature(build).parameters["learning_rate"].default

    @jax.jit
    def train(rates):
        transformation = build(learning_rate=rates.__getitem__)
        (params, state), values = trajectory(transformation, tree(), 3)
        return params, optim.effective_learning_rate(state), values

    @jax.jit
    def train_at(rate):
        (params, state), values = trajectory(build(learning_rate=rate), tree(), 3)
        return params, optim.effective_learning_rate(state), values

    assert_close(train(jnp.full(3, rate)), train_at(rate))
    for rates in ([0, 0, 0], [0, rate, rate], [rate, 0, rate]):
        params, _, values = train(jnp.asarray(rates, jnp.float32))
        assert finite((params, values)), rates


@pytest.mark.slow
@every_case
def test_ignores_extra_arguments(case):
    transformation, init, _ = compiled(case)

    @jax.jit
    def both(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        needed = {"value": value, "grad_fn": jax.grad(loss), "value_fn": loss}
        others = {"temperature": 1.0, "batch": {"x": value}}
        return (
            transformation.update(grads, state, params, **needed),
            transformation.update(grads, state, params, **needed, **others),
        )

    assert_close(*both(tree(), init(tree())))


@pytest.mark.slow
@every_case
def test_params_and_state_can_be_donated(case):
    # Hyperparameters are arrays here, which must not go with the state either.
    arrays = {k: jnp.asarray(v, jnp.float32) for k, v in case.hparams.items()}
    transformation = case.build(**arrays)
    step = jax.jit(
        lambda params, state: update(transformation, params, state),
        donate_argnums=(0, 1),
    )
    params = tree()
    params, state = step(params, transformation.init(params))
    again, _ = step(params, state)
    assert finite(again)
    state = transformation.init(again)
    step(again, state)


@pytest.mark.slow
@every_case
def test_state_survives_a_checkpoint(case, tmp_path):
    _, init, step = compiled(case)
    params, state = step(tree(), init(tree()))
    checkpointer = ocp.StandardCheckpointer()
    checkpointer.save(tmp_path / "state", state)
    checkpointer.wait_until_finished()
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    restored = checkpointer.restore(tmp_path / "state", abstract)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert_close(step(params, restored), step(params, state))


LOOPS = {"armijo_sgd", "salsa", "muon", "soap"}  # their length is known at run time


@pytest.mark.slow
@every_case
def test_a_run_has_derivatives(case):
    """By the rate and the first parameters, as in learning to learn."""
    if case.name == "soap":
        pytest.skip("eigenvectors of equal eigenvalues have none")

    def last(rate, shift):
        params = jax.tree.map(lambda leaf: leaf + shift, tree())
        (params, state), _ = trajectory(case.build(learning_rate=rate), params, 3)
        return loss(params) + loss(optim.eval_params(state, params))

    point = jnp.asarray(case.hparams["learning_rate"], jnp.float32), jnp.asarray(0.01)
    derivatives = [jax.jit(jax.jacfwd(last, (0, 1)))(*point)]
    if case.name not in LOOPS:
        derivatives.append(jax.jit(jax.grad(last, (0, 1)))(*point))
    assert finite(derivatives)


@pytest.mark.slow
@every_case
def test_works_under_multi_steps(case):
    # It needs a state whose types an update does not change.
    transformation = optax.MultiSteps(case.build(**case.hparams), 2)
    with jax.numpy_dtype_promotion("standard"):  # Optax averages with a count
        (params, state), _ = jax.jit(lambda: trajectory(transformation, tree(), 4))()
    assert finite(params)
    assert optim.effective_learning_rate(state).shape == ()


_SHARDED = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_disable_most_optimizations", True)
sys.path.insert(0, {folder!r})
import numpy as np
import test_common as common
from jax.sharding import AxisType, NamedSharding, PartitionSpec

mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
w = jax.random.normal(jax.random.key(0), (20, 6))
params = {{"w": w, "rows": 2 * w, "b": np.ones(6)}}
params = jax.tree.map(jax.numpy.asarray, params)
for case in common.CASES[{part}::2]:
    transformation = case.build(**case.hparams)
    run = jax.jit(lambda p: common.trajectory(transformation, p, 3)[0][0])
    sharding = {{
        "w": NamedSharding(mesh, PartitionSpec(None, "x")),
        "rows": NamedSharding(mesh, PartitionSpec("x", None)),
        "b": NamedSharding(mesh, PartitionSpec("x")),
    }}
    found = run(jax.device_put(params, sharding))
    assert found["w"].sharding.num_devices == 2, case.name
    common.assert_close(found, run(params), rtol=1e-4)
    print(case.name)
"""


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 1])
def test_sharded_equals_whole(part):
    script = _SHARDED.format(folder=str(pathlib.Path(__file__).parent), part=part)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == [case.name for case in CASES[part::2]]


@pytest.mark.slow
# The first rows have what can differ: narrower than state, wider state, not real.
@every_case_and_flag
@pytest.mark.parametrize(
    ("dtype", "x64"),
    [
        *(("bfloat16", False), ("float32", True), ("complex64", False)),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                *(("float32", False), ("bfloat16", True), ("float64", True)),
                *(("complex64", True), ("complex128", True)),
            )
        ),
    ],
)
def test_works_where_jax_refuses_to_promote(case, dtype, x64):
    """As a user of strict promotion has it, by the types of their own parameters."""

    def once(hparams):
        transformation = case.build(**hparams)
        found = update(transformation, params, transformation.init(params), strict_loss)
        return found, optim.eval_params(found[1], params)

    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        params = {"w": jnp.ones((3, 5), dtype), "scale": jnp.ones((), dtype)}
        jax.eval_shape(lambda: once({}))
        traced = {k: jnp.asarray(v, jnp.float32) for k, v in case.hparams.items()}
        jax.eval_shape(once, traced)


def strict_loss(params):
    """A loss in float32 whatever the parameters are."""
    return sum(jnp.sum(jnp.abs(leaf)).astype(jnp.float32) for leaf in params.values())
