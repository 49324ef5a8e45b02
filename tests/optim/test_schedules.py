"""Schedules: values of other libraries, boundaries, tracing, invariants."""

from __future__ import annotations

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrjax import optim
from lrjax.optim import schedules

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "schedules.npz"

# Every argument of every schedule, integers where they are natural.
ARGUMENTS = {
    "constant": {"learning_rate": 0.3},
    "linear": {"learning_rate": 0.3, "horizon": 40, "final_learning_rate": 0.1},
    "cosine": {"learning_rate": 0.3, "horizon": 40, "final_learning_rate": 0.1},
    "cosine_warm_restarts": {
        "learning_rate": 0.3,
        "T_0": 5,
        "t_mult": 2,
        "eta_min": 0.1,
    },
    "step": {"learning_rate": 0.3, "step_size": 7, "gamma": 0.5},
    "exponential": {"learning_rate": 0.3, "gamma": 0.5, "step_size": 10},
    "polynomial": {
        "learning_rate": 0.3,
        "horizon": 40,
        "power": 2,
        "final_learning_rate": 0.1,
    },
    "inverse_sqrt": {"learning_rate": 0.3, "timescale": 10},
    "one_cycle": {
        "learning_rate": 0.3,
        "horizon": 40,
        "pct_start": 0.25,
        "div_factor": 10.0,
        "final_div_factor": 100.0,
    },
    "warmup_stable_decay": {
        "learning_rate": 0.3,
        "horizon": 40,
        "warmup_steps": 5,
        "decay_steps": 10,
        "final_learning_rate": 0.1,
        "decay_power": 0.5,
    },
    "rex": {
        "learning_rate": 0.3,
        "horizon": 40,
        "beta": 0.5,
        "final_learning_rate": 0.1,
    },
    "power": {
        "learning_rate": 0.3,
        "horizon": 40,
        "timescale": 5,
        "exponent": 0.5,
        "decay_steps": 10,
        "final_learning_rate": 0.05,
    },
    "inverse_power": {"learning_rate": 0.3, "timescale": 10, "power": 0.75},
    "warmed_cosine": {
        "learning_rate": 0.3,
        "horizon": 40,
        "warmup_steps": 5,
        "initial_learning_rate": 0.05,
    },
}
# Where an argument decides a length or a shape, its value at the edge.
EDGES = [
    ("linear", {"horizon": 0}),
    ("cosine", {"horizon": 0}),
    ("polynomial", {"horizon": 0}),
    ("polynomial", {"power": 0.5}),
    ("rex", {"horizon": 0}),
    ("one_cycle", {"horizon": 0}),
    ("one_cycle", {"horizon": 1}),
    ("one_cycle", {"horizon": 4}),  # the peak at step 0
    ("one_cycle", {"pct_start": 0.0}),
    ("one_cycle", {"pct_start": 1.0}),
    ("warmup_stable_decay", {"warmup_steps": 0}),
    ("warmup_stable_decay", {"decay_steps": 0}),
    ("warmup_stable_decay", {"warmup_steps": 40, "decay_steps": 40}),
    ("power", {"horizon": 0}),
    ("power", {"timescale": 0}),
    ("power", {"decay_steps": 0}),
    ("inverse_power", {"timescale": 0}),
    ("warmed_cosine", {"warmup_steps": 0}),
    ("warmed_cosine", {"warmup_steps": 0, "horizon": 0}),
    ("inverse_sqrt", {"timescale": 0}),
    ("exponential", {"step_size": 0}),
    ("step", {"step_size": 0}),
    ("cosine_warm_restarts", {"T_0": 0}),
    ("cosine_warm_restarts", {"T_0": 1, "t_mult": 1}),
    ("cosine_warm_restarts", {"t_mult": 1}),
    ("cosine_warm_restarts", {"t_mult": 1.0000001}),
]

STEPS = np.arange(60)
RATES = st.floats(1e-6, 10.0)
LENGTHS = st.integers(0, 70) | st.floats(0.1, 70.0)


def _warmed_cosine(warmup_steps, initial_learning_rate, **kwargs):
    return schedules.warmup(
        schedules.cosine(**kwargs), warmup_steps, initial_learning_rate
    )


def _build(name, kwargs):
    build = _warmed_cosine if name == "warmed_cosine" else getattr(schedules, name)
    return build(**kwargs)


@functools.partial(jax.jit, static_argnums=0)
def _traced(name, kwargs, step):
    """A schedule with every number traced."""
    return _build(name, kwargs)(step)


def _values(name, step=STEPS, **kwargs):
    return np.asarray(_traced(name, ARGUMENTS[name] | kwargs, step))


def _golden():
    """Schedule, its arguments and golden values, per case."""
    with np.load(GOLDEN) as data:
        for index, case in enumerate(json.loads(str(data["cases"]))):
            name, kwargs = case["schedule"], case["kwargs"]
            yield pytest.param(
                name, kwargs, data[f"values_{index}"], id=f"{index}-{name}"
            )


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize(("name", "kwargs", "values"), list(_golden()))
def test_equals_other_libraries(name, kwargs, values, x64):
    names = ("warmup_steps", "initial_learning_rate")
    own = {key: v for key, v in kwargs.items() if key not in names}
    warm = {key: v for key, v in kwargs.items() if key in names}
    with jax.enable_x64(x64):
        if name in ("warmup_stable_decay", "refined") or not warm:
            schedule = _build(name, kwargs)
        else:
            schedule = schedules.warmup(_build(name, own), **warm)
        found = jax.jit(schedule)(np.arange(len(values)))
    # float32 knows the angle of a cosine to 1e-7 of the peak, no better.
    tolerance = 1e-12 if x64 else 1e-6
    np.testing.assert_allclose(
        found, values, rtol=10 * tolerance, atol=kwargs["learning_rate"] * tolerance
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "argument"), [(n, a) for n, kwargs in ARGUMENTS.items() for a in kwargs]
)
def test_vmap_over_each_argument_equals_a_loop(name, argument):
    value = ARGUMENTS[name][argument]
    values = np.array([value, 2 * value, 3 * value])
    found = jax.vmap(lambda v: _traced(name, ARGUMENTS[name] | {argument: v}, STEPS))(
        values
    )
    expected = [_values(name, **{argument: v}) for v in values.tolist()]
    # Around a cosine's end a relative comparison would be one of rounding.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_one_step_equals_an_array_of_steps(name):
    schedule = jax.jit(_build(name, ARGUMENTS[name]))
    single = [schedule(step) for step in STEPS.tolist()]
    assert all(value.shape == () for value in single)
    np.testing.assert_allclose(schedule(STEPS), single, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32, jnp.float32])
def test_results_are_float32_or_wider(name, dtype):
    kwargs = {key: jnp.asarray(value, dtype) for key, value in ARGUMENTS[name].items()}
    result = jax.eval_shape(_build(name, kwargs), jnp.int32(3))
    assert (result.dtype, result.weak_type) == (jnp.float32, False)
    with jax.enable_x64(True):
        kwargs = {key: np.float64(value) for key, value in ARGUMENTS[name].items()}
        assert _build(name, kwargs)(3).dtype == jnp.float64


@pytest.mark.parametrize(("name", "edge"), EDGES)
def test_edges_are_finite_with_their_gradients(name, edge):
    kwargs = {key: float(v) for key, v in (ARGUMENTS[name] | edge).items()}
    assert np.isfinite(_values(name, **kwargs)).all()
    jacobian = jax.jacrev(lambda kwargs: _traced(name, kwargs, STEPS))(kwargs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jacobian))


@pytest.mark.parametrize(
    "name", ["linear", "cosine", "polynomial", "rex", "warmup_stable_decay", "power"]
)
def test_reaches_the_final_value_at_the_horizon_and_holds_it(name):
    for horizon in (1, 3, 40, 41, 99_999):
        kwargs = {"horizon": horizon, "final_learning_rate": np.float32(0.1)}
        if name == "warmup_stable_decay":
            kwargs |= {"warmup_steps": 0.1 * horizon, "decay_steps": 0.3 * horizon}
            kwargs |= {"decay_power": 1.0}
        if name == "power":
            kwargs |= {"timescale": 0.5 * horizon, "decay_steps": 0.1 * horizon}
        steps = np.array([0, horizon - 1, horizon, horizon + 1, 10**7])
        first, last, *held = _values(name, steps, **kwargs)
        start = 0.0 if name == "warmup_stable_decay" else 0.3
        assert first == np.float32(start)
        assert held == [np.float32(0.1)] * 3
        assert last > 0.1 or name == "warmup_stable_decay" or horizon == 99_999


def test_one_cycle_ends_at_its_last_step_and_holds():
    first, top, last, past = _values("one_cycle", np.array([0, 9, 39, 1000]))
    np.testing.assert_allclose([first, top, last, past], [0.03, 0.3, 3e-4, 3e-4], 1e-6)


def test_schedules_without_length_start_at_their_end():
    assert (_values("cosine", horizon=0, final_learning_rate=0.0) == 0).all()
    assert (_values("inverse_sqrt", timescale=0) <= np.float32(0.3)).all()


def _restarts(first, growth, steps):
    """Cycle and part of it done at each step, by walking in extended precision."""
    cycle, start, length = 0, np.longdouble(0), np.longdouble(first)
    cycles, parts = [], []
    for step in range(steps):
        while step >= start + length:
            cycle, start, length = cycle + 1, start + length, length * growth
        cycles.append(cycle)
        parts.append(float((step - start) / length))
    return np.array(cycles), np.array(parts)


@pytest.mark.parametrize(
    ("first", "growth"), [(10, 2), (1, 2), (7, 3), (5, 1), (11, 4), (1, 1)]
)
def test_whole_restarts_are_exact_to_200_000_steps_in_float32(first, growth):
    steps = 200_001
    cycles, parts = _restarts(first, growth, steps)
    kwargs = {"learning_rate": 1.0, "T_0": first, "t_mult": growth, "eta_min": 0.0}
    found = _values("cosine_warm_restarts", np.arange(steps), **kwargs)
    # A cycle's number that is off by one would show as 0 in place of 1, or as 1.
    assert (found[np.flatnonzero(np.diff(cycles, prepend=-1))] == 1.0).all()
    np.testing.assert_allclose(found, (1 + np.cos(np.pi * parts)) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("first", "growth"), [(10, 1.5), (2.5, 1.25), (9, np.e), (30, 1.09), (0.7, 1.11)]
)
def test_restarts_that_are_not_whole(first, growth):
    steps = 5_000
    growth = np.float32(growth)
    _, parts = _restarts(np.float32(first), np.longdouble(growth), steps)
    kwargs = {"learning_rate": 1.0, "T_0": first, "t_mult": growth, "eta_min": 0.0}
    found = _values("cosine_warm_restarts", np.arange(steps), **kwargs)
    np.testing.assert_allclose(found, (1 + np.cos(np.pi * parts)) / 2, atol=1e-4)


@pytest.mark.parametrize("growth", [1, 1.0001, 1.5, 2, 3])
@pytest.mark.parametrize("horizon", [1, 37, 1000, 168_800])
def test_fit_first_cycle_ends_a_cycle_at_the_horizon(growth, horizon):
    first = jax.jit(schedules.fit_first_cycle)(10, growth, horizon)
    lengths = [float(first)]
    while sum(lengths) < horizon * (1 - 1e-4):
        lengths.append(lengths[-1] * growth)
    np.testing.assert_allclose(sum(lengths), horizon, rtol=2e-4)
    # The nearest whole number of cycles is less than one away from the unfitted.
    walked = _restarts(10, growth, horizon + 1)[0][-1]
    assert abs(len(lengths) - walked) <= 1
    # The last update is still in the last cycle, close to its end.
    last = schedules.cosine_warm_restarts(1.0, first, growth)(horizon - 1)
    assert last < 0.6 or len(lengths) == horizon


@given(data=st.data())
@settings(max_examples=150)
def test_stays_between_its_ends_and_only_falls(data):
    falling = ["linear", "cosine", "polynomial", "rex", "exponential", "step"]
    name = data.draw(
        st.sampled_from([*falling, "inverse_sqrt", "cosine_warm_restarts"])
    )
    low, high = sorted([data.draw(RATES), data.draw(RATES)])
    kwargs = {"learning_rate": high}
    shapes = {
        "horizon": LENGTHS,
        "T_0": LENGTHS,
        "step_size": LENGTHS,
        "timescale": LENGTHS,
        "power": st.floats(0.1, 5.0),
        "beta": st.floats(0.0, 0.95),
        "gamma": st.floats(0.01, 1.0),
        "t_mult": st.integers(1, 4) | st.floats(1.0, 4.0),
    }
    for argument in ARGUMENTS[name]:
        if argument in shapes:
            kwargs[argument] = data.draw(shapes[argument], label=argument)
        elif argument in ("final_learning_rate", "eta_min"):
            kwargs[argument] = low
        else:
            low = 0.0 if argument == "gamma" else low
    if name in ("exponential", "step", "inverse_sqrt"):
        low = 0.0
    values = _values(name, **kwargs)
    slack = 1e-5 * high
    assert np.isfinite(values).all()
    assert (values >= low - slack).all()
    assert (values <= high + slack).all()
    if name != "cosine_warm_restarts":
        assert (np.diff(values) <= slack).all()


@pytest.mark.slow
@given(peak=RATES, initial=st.floats(0.0, 1.0), steps=LENGTHS)
@settings(max_examples=50)
def test_warm_up_is_a_straight_line_to_the_schedule(peak, initial, steps):
    low = initial * peak
    kwargs = {"learning_rate": peak, "initial_learning_rate": low}
    values = _values("warmed_cosine", warmup_steps=steps, **kwargs)
    line = low + (peak - low) * STEPS / max(steps, 1e-9)
    np.testing.assert_allclose(
        values[steps > STEPS], line[steps > STEPS], rtol=1e-5, atol=1e-6 * peak
    )
    after = _traced(
        "cosine",
        ARGUMENTS["cosine"] | {"learning_rate": peak, "final_learning_rate": 0.0},
        np.maximum(STEPS - steps, 0),
    )
    np.testing.assert_allclose(
        values[steps <= STEPS], after[steps <= STEPS], rtol=1e-5, atol=1e-6 * peak
    )


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_by_name_with_traced_numbers(name):
    @jax.jit
    def values(learning_rate, horizon, warmup_steps):
        schedule = schedules.by_name(name, learning_rate, horizon, warmup_steps)
        return schedule(np.arange(300))

    found = values(0.5, 300, 30)
    assert np.isfinite(found).all()
    assert found[0] == 0
    start = 0.5 / 25 if name == "one_cycle" else 0.5
    np.testing.assert_allclose(found[15], start / 2, rtol=1e-6)
    np.testing.assert_allclose(found[30], start, rtol=1e-6)
    np.testing.assert_allclose(max(found), 0.5, rtol=1e-5)
    # The shape stretches with the horizon.
    twice = jax.jit(
        lambda horizon: schedules.by_name(name, 0.5, horizon)(2 * np.arange(100))
    )(200)
    once = schedules.by_name(name, 0.5, 100)(np.arange(100))
    tolerance = 0.02 if name == "one_cycle" else 1e-6
    np.testing.assert_allclose(twice, once, atol=tolerance)


def test_by_name_is_the_schedule_with_its_documented_shape():
    steps = np.arange(200)
    shapes = {
        "cosine": schedules.cosine(0.5, 150),
        "cosine_warm_restarts": schedules.cosine_warm_restarts(0.5, 10, 2),
        "exponential": schedules.exponential(0.5, 0.01, 150),
        "inverse_sqrt": schedules.inverse_sqrt(0.5, 15),
        "polynomial": schedules.polynomial(0.5, 150, 2),
        "step": schedules.step(0.5, 50),
        "warmup_stable_decay": schedules.warmup_stable_decay(0.5, 150, 0, 30),
    }
    for name, expected in shapes.items():
        found = schedules.by_name(name, 0.5, 150)(steps)
        np.testing.assert_array_equal(found, expected(steps), err_msg=name)


def test_refined_is_linear_where_norms_stay_and_warms_up_where_they_fall():
    steps = np.arange(100)
    flat = schedules.refined(0.3, 99, np.full(100, 7.0))(steps)
    np.testing.assert_allclose(flat, 0.3 * (1 - steps / 99), atol=0.005)
    falling = schedules.refined(0.3, 100, np.r_[np.linspace(9, 1, 20), np.ones(80)])
    values = falling(steps)
    assert values[0] < 0.02
    np.testing.assert_allclose(max(values), 0.3, rtol=1e-6)
    assert falling(100) == falling(1000) == 0


def test_refined_takes_traced_norms_and_zeros():
    @jax.jit
    def values(norms, horizon):
        return schedules.refined(0.3, horizon, norms, power=1)(np.arange(60))

    assert np.isfinite(values(np.zeros(50), 60)).all()
    norms = np.r_[0.0, np.linspace(2, 1, 49)]
    assert np.isfinite(values(norms, 60)).all()
    # Stretched in time, and no matter in which unit.
    np.testing.assert_allclose(values(1e30 * norms, 60), values(norms, 60), rtol=1e-5)
    wide = schedules.refined(0.3, 120, norms, power=1)(2 * np.arange(60))
    np.testing.assert_allclose(values(norms, 60), wide, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [3.0, [1.0], np.ones((2, 2))])
def test_refined_refuses_what_is_no_list_of_norms(bad):
    with pytest.raises(ValueError, match="gradient_norms must be a list of at least"):
        schedules.refined(0.3, 100, bad)


def test_a_cooldown_that_begins_at_any_step_is_that_of_the_schedule():
    """The wrapper around constant steps gives the schedule's decay, from outside it."""
    planned = schedules.warmup_stable_decay(0.1, 40, 0, 15, decay_power=0.5)
    wrapped = optim.cooldown(optim.sgd(0.1), start=25, steps=15, power=0.5)
    state, found = wrapped.init(jnp.ones(())), []
    for _ in range(45):
        update, state = wrapped.update(jnp.ones(()), state, jnp.ones(()))
        found.append(-update)
    np.testing.assert_allclose(found, planned(np.arange(45)), rtol=1e-5, atol=1e-8)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"'cosin'.*'cosine'.*warmup_stable_decay"):
        schedules.by_name("cosin", 0.1, 100)
    with pytest.raises(ValueError, match="Valid names: constant, linear"):
        schedules.by_name("", 0.1, 100)
