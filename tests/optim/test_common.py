"""What every transformation must do. What a test does depends on no name."""

from __future__ import annotations

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
from cases import CASES

every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


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
    """Parameters of several shapes and containers."""
    key = jax.random.key(0)
    shapes = {"w": (3, 4), "b": (4,), "scale": ()}
    leaves = {
        name: jax.random.normal(jax.random.fold_in(key, i), shape, dtype)
        for i, (name, shape) in enumerate(shapes.items())
    }
    return {"first": leaves, "rest": [leaves["b"] * 2, (leaves["w"] - 1,)]}


def loss(params):
    """Smooth, and with its minimum away from zero."""
    leaves = jax.tree.leaves(jax.tree.map(lambda p: jnp.sum(jnp.cosh(p - 0.3)), params))
    return sum(leaf.astype(jnp.float32) for leaf in leaves)


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


@every_case
def test_minimises_in_5000_steps(case):
    transformation = case.build(**case.tuned)
    for f, factor in ((quadratic, 0.01), (rosenbrock, 0.2)):
        init = FUNCTIONS[f]
        _, values = jax.jit(
            lambda params, f=f: trajectory(transformation, params, 5000, f)
        )(init)
        assert values[-1] < factor * f(init), f.__name__


@every_case
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

    population = jax.jit(jax.vmap(train))(lanes)
    for index, lane in enumerate(lanes):
        lane_of_population = jax.tree.map(lambda leaf, i=index: leaf[i], population)
        assert_close(lane_of_population, train(lane), rtol=1e-4)
    assert train._cache_size() == 1


@every_case
def test_traced_equals_static_hyperparameters(case):
    def train(hparams):
        return trajectory(case.build(**hparams), tree(), 3)[0][0]

    traced = {name: jnp.asarray(value) for name, value in case.hparams.items()}
    assert_close(jax.jit(train)(traced), train(case.hparams), rtol=1e-4)


@every_case
def test_eager_equals_jit_and_compiles_once(case):
    transformation = case.build(**case.hparams)
    params = tree()
    state = transformation.init(params)
    expected = params, state
    step = jax.jit(lambda params, state: update(transformation, params, state))
    for _ in range(3):
        params, state = step(params, state)
        expected = update(transformation, *expected)
    assert step._cache_size() == 1
    assert_close((params, state), expected, rtol=1e-4)


@every_case
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_keeps_dtypes(case, dtype):
    transformation = case.build(**case.hparams)
    params = tree(dtype)
    state = transformation.init(params)
    new_params, new_state = jax.jit(
        lambda params, state: update(transformation, params, state)
    )(params, state)
    for old, new in ((params, new_params), (state, new_state)):
        jax.tree.map(lambda a, b: (a.dtype, a.shape) == (b.dtype, b.shape), old, new)
        assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype, old, new))
    shapes = {leaf.shape for leaf in jax.tree.leaves(params)} - {()}
    for leaf in jax.tree.leaves(new_state):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            assert leaf.dtype == dtype if leaf.shape in shapes else True
            assert leaf.shape in shapes | {()} or leaf.dtype == jnp.float32
    assert optim.effective_learning_rate(new_state).dtype == jnp.float32
    assert finite(new_params)


@every_case
@pytest.mark.parametrize("size", [0.0, 1e30, -1e30])
def test_stays_finite_at_any_first_gradient(case, size):
    transformation = case.build(**case.hparams)
    flat = {"x": jnp.ones(3)}
    state = transformation.init(flat)

    def step(params, state, grad):
        f = lambda p: jnp.sum(jax.lax.stop_gradient(grad) * p["x"])  # noqa: E731
        return update(transformation, params, state, f)

    params, state = jax.jit(step)(flat, state, jnp.asarray(size))
    assert finite(params)
    params, state = jax.jit(step)(params, state, jnp.asarray(0.0))
    assert finite(params)


@every_case
def test_stays_finite_at_a_rate_of_zero(case):
    if "learning_rate" not in case.hparams:
        pytest.skip("has no learning rate")
    rates = [0.0]
    if case.schedule:
        rates.append(lambda count: jnp.where(count == 0, 0.0, 1.0))
        rates.append(lambda count: jnp.where(count == 1, 0.0, 1.0))
    for rate in rates:
        hparams = dict(case.hparams) | {"learning_rate": rate}
        (params, _), values = trajectory(case.build(**hparams), tree(), 3)
        assert finite((params, values))


@every_case
def test_schedule_equals_number(case):
    if not case.schedule or "learning_rate" not in case.hparams:
        pytest.skip("takes no schedule")
    rate = case.hparams["learning_rate"]
    number = case.build(**case.hparams)
    schedule = case.build(**dict(case.hparams) | {"learning_rate": lambda count: rate})
    assert_close(
        trajectory(number, tree(), 3)[0][0], trajectory(schedule, tree(), 3)[0][0]
    )


@every_case
def test_ignores_extra_arguments(case):
    transformation = case.build()
    params = tree()
    state = transformation.init(params)
    value, grads = jax.value_and_grad(loss)(params)
    needed = {"value": value, "grad_fn": jax.grad(loss), "value_fn": loss}
    expected = transformation.update(grads, state, params, **needed)
    found = transformation.update(
        grads, state, params, **needed, temperature=1.0, batch={"x": value}
    )
    assert_close(found, expected)


@every_case
def test_params_and_state_can_be_donated(case):
    transformation = case.build(**case.hparams)
    params = tree()
    expected, _ = update(transformation, params, transformation.init(params))
    state = transformation.init(params)
    step = jax.jit(
        lambda params, state: update(transformation, params, state),
        donate_argnums=(0, 1),
    )
    params, state = step(params, state)
    assert_close(params, expected, rtol=1e-4)
    step(params, state)


@every_case
def test_state_survives_a_checkpoint(case, tmp_path):
    transformation = case.build(**case.hparams)
    (params, state), _ = trajectory(transformation, tree(), 2)
    checkpointer = ocp.StandardCheckpointer()
    checkpointer.save(tmp_path / "state", state)
    checkpointer.wait_until_finished()
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    restored = checkpointer.restore(tmp_path / "state", abstract)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert_close(
        update(transformation, params, restored),
        update(transformation, params, state),
    )


@every_case
def test_works_under_multi_steps_and_cond(case):
    # Both need a state whose types an update does not change.
    transformation = optax.MultiSteps(case.build(**case.hparams), 2)
    (params, state), _ = trajectory(transformation, tree(), 4)
    assert finite(params)
    expected, single = trajectory(case.build(**case.hparams), tree(), 2)[0]
    del expected
    assert_close(
        optim.effective_learning_rate(state).shape,
        optim.effective_learning_rate(single).shape,
    )


_SHARDED = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
sys.path.insert(0, {folder!r})
import numpy as np
import test_common as common
from jax.sharding import AxisType, NamedSharding, PartitionSpec

mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
params = {{"w": jax.random.normal(jax.random.key(0), (4, 6)), "b": np.ones(6)}}
params = jax.tree.map(jax.numpy.asarray, params)
for case in common.CASES:
    transformation = case.build(**case.hparams)
    run = jax.jit(lambda p: common.trajectory(transformation, p, 3)[0][0])
    sharding = {{
        "w": NamedSharding(mesh, PartitionSpec(None, "x")),
        "b": NamedSharding(mesh, PartitionSpec("x")),
    }}
    found = run(jax.device_put(params, sharding))
    assert found["w"].sharding.num_devices == 2, case.name
    common.assert_close(found, run(params), rtol=1e-4)
    print(case.name)
"""


def test_sharded_equals_whole():
    script = _SHARDED.format(folder=str(pathlib.Path(__file__).parent))
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split() == [case.name for case in CASES]
