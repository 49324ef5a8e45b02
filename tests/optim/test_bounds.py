"""Hyperparameters that nothing can work with get one line, from every function."""

from __future__ import annotations

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrjax import optim
from lrjax.methods import METHODS
from lrjax.optim import schedules

NEEDED = {
    "base_optimizer": optax.sgd(0.1),
    "inner": optax.sgd(0.1),
    "schedule": schedules.constant(0.1),
    "learning_rate": 0.1,
    "horizon": 100,
    "start": 10,
    "steps": 10,
    "step_size": 10,
    "warmup_steps": 10,
    "decay_steps": 10,
    "timescale": 10,
    "base_params": {},
    "T_0": 10,
    "t_mult": 2,
    "gamma": 0.5,
    "gradient_norms": [2.0, 1.0],
    "name": "cosine",
}
FUNCTIONS = {
    name: getattr(module, name)
    for module in (optim, schedules)
    for name in module.__all__
}
# Whose first argument is a state, not a hyperparameter.
READERS = {"effective_learning_rate", "eval_params", "evaluates_elsewhere"}
READERS |= {"width_factors"}  # or parameters
ELSEWHERE = {
    "weight_decay_mask",
    "learning_rate_factors",
    "base_optimizer",
    "inner",
    "schedule",
    "policy",
    "hidden",
    "base_params",
    "rule",
    "name",
    "betas",  # several numbers
    "gradient_norms",
    "start",  # any number, also one before training or without end
}


def _arguments():
    """(function, argument) of every number of every function."""
    for name, function in sorted(FUNCTIONS.items()):
        for parameter in inspect.signature(function).parameters.values():
            flag = isinstance(parameter.default, bool)
            if name not in READERS and parameter.name not in ELSEWHERE and not flag:
                yield pytest.param(name, parameter.name, id=f"{name}-{parameter.name}")


def call(name, **changed):
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    needed = {
        p.name: NEEDED[p.name]
        for p in parameters
        if p.default is inspect.Parameter.empty
    }
    return FUNCTIONS[name](**(needed | changed))


every_number = pytest.mark.parametrize(("name", "argument"), list(_arguments()))


@every_number
def test_what_is_no_real_number_gets_one_line(name, argument):
    for bad in (math.nan, -math.inf, np.float32("nan"), 10**5000):
        with pytest.raises(ValueError, match=argument) as caught:
            call(name, **{argument: bad})
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200


@every_number
def test_traced_numbers_are_not_looked_at(name, argument):
    if argument in (
        "window_size",
        "slice_p",
        "max_precond_dim",
        "candidates",
        "smoothing",
    ):
        return  # a shape

    def build(value):
        call(name, **{argument: value})
        return value

    assert jax.eval_shape(build, -math.inf).shape == ()
    call(name, **{argument: jnp.asarray(-math.inf)})  # nor fetched


# From the official code, which refuses the same, or from what a shape or a loop takes.
OUT = {
    "window_size": (1.5, 0, -1, 1e26, 10**20, math.inf, jnp.asarray(1.5)),
    "slice_p": (1.5, 0, -1, math.inf),
    "max_backtracks": (1.5, 0, -1, 1e26, math.inf),
    "max_precond_dim": (1.5, 0, -1, math.inf, jnp.asarray(1.5)),
    "candidates": (1.5, 0, -1, 65, math.inf, jnp.asarray(1.5)),
    "precondition_frequency": (1.5, 0, -1, 1e26),
    "ns_steps": (1.5, 0, -1),
    "shampoo_beta": (-0.1, 1.0),
    "max_grad_norm": (0.0, -1.0),
    "adam_factor": (-0.1, math.inf),
    "reset_start": (1.5, 0, -1, 1e26),
    "cooldown": (-1, 1e26),
    "warmup": (-1, 1e26),
    "accumulation_size": (0, -1),
    "patience": (-1,),
    "learning_rate": (-1e-3, 1e-320),
    "weight_decay": (-1e-3,),
    "b1": (-0.1, 1.0, 2, 0.999999999999, np.float64(1.0)),
    "b2": (-0.1, 1.0, 2, 0.999999999999),
    "b3": (-0.1, 1.0),
    "beta": (-0.1, 1.0),
    "eps": (-1e-8, math.inf),
    "d0": (0.0, -1e-6, 1e-320, 1e300),
    "d_coef": (0.0, -1.0),
    "growth_rate": (0.9, -1.0),
    "factor": (1.0, 1.5, -0.1),
    "reps_rel": (0.0, -1e-6),
    "init_eta": (0.0,),
    "c": (0.0, -1.0),
    "s_init": (0.0,),
    "decrease_factor": (0.0, 1.0),
    "increase_factor": (0.0, -1.0),
    "initial_step": (0.0,),
    "momentum": (-0.1, 1.0, 2.0),
    "smoothing": (-0.1, 1.1),
    "timescale": (-1, math.inf),
    "exponent": (0.0, -1.0),
    "final_learning_rate": (-1e-3,),
    "eta_min": (-1e-3,),
    "T_0": (-1, math.inf),
    "t_mult": (-1,),
    "horizon": (-1, -0.5),
    "warmup_steps": (-1,),
    "step_size": (-1,),
    "pct_start": (-0.1, 1.1),
    "power": (0.0, -1.0),
}


@pytest.mark.parametrize("argument", OUT)
def test_what_is_out_of_range_gets_one_line(argument):
    names = [
        name for name, found in (p.values for p in _arguments()) if found == argument
    ]
    assert names
    for name in names:
        signed = argument == "learning_rate" and name == "scale_by_learning_rate"
        for bad in OUT[argument]:
            if signed and bad < 0:
                continue  # a factor may have any sign
            with pytest.raises(ValueError, match=argument) as caught:
                call(name, **{argument: bad})
            assert "\n" not in str(caught.value)


def test_schedule_free_has_its_iterates_between():
    for name in ("schedule_free_sgd", "schedule_free_prodigy"):
        for bad in (0.0, 1.0):
            with pytest.raises(ValueError, match="momentum"):
                call(name, momentum=bad)
    for name in ("schedule_free_adamw", "schedule_free_radam"):
        with pytest.raises(ValueError, match="b1"):
            call(name, b1=0.0)


NORMS = {
    "list of at least two": ([], [1.0], 3, "ab", ["1", "2"], [[1, 2]], [[1], [2, 3]]),
    r"numbers from 0; gradient_norms\[1\] is": ([1, math.nan], [1, -2], [1, math.inf]),
    "not all be 0": ([0, 0.0],),
}


@pytest.mark.parametrize("said", NORMS)
def test_the_norms_of_an_earlier_run(said):
    for norms in NORMS[said]:
        with pytest.raises(ValueError, match=said):
            call("refined", gradient_norms=norms)
    call("refined", gradient_norms=jnp.asarray([math.nan, 1.0]))  # not fetched
    with pytest.raises(ValueError, match="smoothing must be known while tracing"):
        jax.jit(lambda share: call("refined", smoothing=share)(0))(0.1)
    with pytest.raises(ValueError, match="horizon must be a finite number above 0"):
        call("refined", horizon=0)


def test_a_cooldown_starts_at_any_time():
    for start in (-5, math.inf, -math.inf):
        call("cooldown", start=start)
    with pytest.raises(ValueError, match=r"^optim.cooldown: start must be"):
        call("cooldown", start=math.nan)


@pytest.mark.parametrize("betas", [(), (0.9, 1.1), (math.nan,), 0.9, None])
@pytest.mark.parametrize("name", ["mechanic", "trac"])
def test_the_tuners_of_a_wrapper(name, betas):
    with pytest.raises(ValueError, match="betas"):
        call(name, betas=betas)


def test_whole_numbers_however_they_are_written():
    for size in (3, 3.0, np.int64(3), np.float32(3), np.asarray(3), jnp.asarray(3)):
        state = call("greedy_lr", window_size=size).init({"x": jnp.ones(2)})
        assert state.values.shape == (3,)
        call("armijo_sgd", max_backtracks=size)


def test_numbers_are_looked_at_as_they_are_used():
    with jax.enable_x64(True):
        optim.adamw(b1=0.999999999999, eps=1e-300)
    with pytest.raises(ValueError, match="is 1 in float32"):
        optim.adamw(b1=0.999999999999)
    with pytest.raises(ValueError, match="is 0 in float32"):
        optim.adamw(eps=1e-300)


@pytest.mark.parametrize("name", METHODS)
def test_defaults_and_search_spaces_are_in_range(name):
    method = METHODS[name]
    ranges = method.space.ranges
    needed = {key: ranges[key].low for key in method.required}
    for end in ("low", "high"):
        inside = {key: getattr(range_, end) for key, range_ in ranges.items()}
        method.build(100, **(dict(method.defaults) | needed | inside))


@pytest.mark.parametrize(
    ("name", "size"), [("prodigy", "slice_p"), ("soap", "max_precond_dim")]
)
def test_a_size_that_optax_traces_is_said_with_what_to_do(name, size):
    params, build = {"w": jnp.ones(3)}, getattr(optim, name)

    @jax.jit
    def start(params, **static):
        return optax.inject_hyperparams(build, **static)(learning_rate=1.0).init(params)

    with pytest.raises(ValueError, match=f"{size} must .* name it in static_args of"):
        start(params)
    optax.inject_hyperparams(build, static_args=size)(learning_rate=1.0).init(params)
