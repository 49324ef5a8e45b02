"""Programs of many arrays are compiled in another way, to the same results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax import machine
from lrjax.engine import xla_options

MANY = [jnp.float32(i) for i in range(5)]
cpu = pytest.mark.skipif(machine.kind() != "cpu", reason="options of CPUs")


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch):
    monkeypatch.setattr(xla_options, "_MANY_ARRAYS", 3)


class Lowered:
    """Keeps what it is asked for; knows some options alone."""

    def __init__(self, *known, error=None):
        self.known, self.error, self.asked = known, error, []

    def compile(self, options=None):
        self.asked.append(options or {})
        for name in options or {}:
            if name not in self.known:
                error = self.error or f"No such compile option: '{name}'"
                raise jax.errors.JaxRuntimeError(f"INVALID_ARGUMENT: {error}")
        return "compiled"


@cpu
def test_few_arrays_are_compiled_as_always():
    lowered = Lowered()
    xla_options.compile_step(lowered, MANY[:3])
    xla_options.compile_once(lowered, MANY[:3])
    assert lowered.asked == [{}, {}]


@cpu
@pytest.mark.parametrize(
    "compile_", [xla_options.compile_step, xla_options.compile_once]
)
def test_a_jax_that_lacks_the_options(compile_):
    lowered = Lowered()
    assert compile_(lowered, MANY) == "compiled"
    assert lowered.asked[0]
    assert lowered.asked[-1] == {}
    level = "xla_backend_optimization_level"
    one_known = Lowered(level)
    assert compile_(one_known, MANY) == "compiled"
    assert one_known.asked[-1] == {level: one_known.asked[0][level]}
    with pytest.raises(jax.errors.JaxRuntimeError, match="no memory"):
        compile_(Lowered(error="no memory"), MANY)


@pytest.mark.parametrize(
    "compile_", [xla_options.compile_step, xla_options.compile_once]
)
def test_the_same_numbers(compile_):
    def step(params, x):
        return [p + jnp.tanh(x @ x.T).sum() for p in params]

    x = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    found = compile_(jax.jit(step).lower(MANY, x), MANY)(MANY, x)
    exact = np.tanh(x.astype(np.float64) @ x.T.astype(np.float64)).sum()
    np.testing.assert_allclose(found, np.arange(5) + exact, rtol=1e-5)


def test_a_jax_that_lacks_a_value_of_an_option():
    """XLA's lists of what may be part of a command buffer differ by version."""

    class OtherValues(Lowered):
        def compile(self, options=None):
            self.asked.append(options or {})
            for name in options or {}:
                raise jax.errors.JaxRuntimeError(
                    f"INVALID_ARGUMENT: While setting option {name}, 'WHILE' is not a "
                    "valid enum value."
                )
            return "compiled"

    lowered = OtherValues()
    with machine.compiling_for("gpu"):
        assert xla_options.compile_loop(lowered, "linear") == "compiled"
    assert [len(options) for options in lowered.asked] == [1, 0]


@pytest.mark.parametrize("kind", ["linear", "network", "convolutions", "products"])
def test_loops_of_small_models_are_launched_at_once_on_gpus(kind):
    lowered = Lowered("xla_gpu_enable_command_buffer")
    with machine.compiling_for("gpu"):
        xla_options.compile_loop(lowered, kind)
    (options,) = lowered.asked
    small = kind in ("linear", "network")
    assert ("WHILE" in options.get("xla_gpu_enable_command_buffer", "")) == small
    other = Lowered()
    with machine.compiling_for("tpu"):
        xla_options.compile_loop(other, kind)
    assert other.asked == [{}]


@cpu
def test_command_buffers_are_tried_where_programs_run(monkeypatch):
    xla_options._buffers_work.cache_clear()
    assert xla_options._buffers_work()  # a CPU ignores the option

    def fails(lowered, options):
        raise jax.errors.JaxRuntimeError("INTERNAL: no graph")

    xla_options._buffers_work.cache_clear()
    monkeypatch.setattr(xla_options, "_compile", fails)
    with pytest.warns(UserWarning, match="do not work here: INTERNAL: no graph"):
        assert not xla_options._buffers_work()
    xla_options._buffers_work.cache_clear()
