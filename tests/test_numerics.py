"""What of JAX changes numbers is lrjax's own choice, whatever the environment says."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lrjax
from configs import quickstart
from lrjax import config, results
from lrjax.common import numerics
from lrjax.core import UsageError
from lrjax.launch import experiment

ROOT = Path(__file__).parent.parent
# A value that is not lrjax's, as the environment or somebody's program may have it.
OTHERS = {
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 5,
    "jax_high_dynamic_range_gumbel": True,
    "jax_legacy_prng_key": "error",
    "jax_debug_key_reuse": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_default_matmul_precision": "highest",
    "jax_allow_f16_reductions": False,
    "jax_softmax_custom_jvp": True,
    "eager_constant_folding": True,
    "jax_disable_jit": True,
    "jax_disable_most_optimizations": True,
    "jax_optimization_level": "O0",
    "jax_exec_time_optimization_effort": 0.5,
    "jax_memory_fitting_effort": 0.5,
    "jax_memory_fitting_level": "O0",
    "jax_compiler_enable_remat_pass": False,
    "jax_scan3": True,
    "jax_enable_pgle": True,
    "jax_no_tracing": True,
    "jax_no_execution": True,
    "jax_compilation_cache_check_contents": True,
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_error_checking_behavior_nan": "raise",
    "jax_error_checking_behavior_divide": "raise",
    "jax_error_checking_behavior_oob": "raise",
    "jax_transfer_guard": "disallow",
    "jax_transfer_guard_host_to_device": "disallow",
    "jax_transfer_guard_device_to_device": "disallow",
    "jax_transfer_guard_device_to_host": "disallow",
    "jax_enable_x64": True,
}
HERE = sorted(set(OTHERS) & set(jax.config.values))
# Those that are known to change numbers or to end training; others take long to try.
TRIED = (
    *("jax_default_prng_impl", "jax_threefry_partitionable", "jax_enable_x64"),
    "jax_no_tracing",
)


@pytest.fixture(autouse=True, scope="module")
def _shipped():
    """What lrjax itself sets; other tests run with its types strict."""
    with pytest.MonkeyPatch.context() as patch:
        name = "jax_numpy_dtype_promotion"
        patch.setitem(numerics.SETTINGS, name, "standard")
        yield


@pytest.fixture
def setting():
    """Set one of JAX's settings until the test ends."""
    before = {}

    def change(name, value):
        before.setdefault(name, jax.config.values[name])
        jax.config.update(name, value)

    yield change
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("plain"))


def trained(workdir):
    made = quickstart.get_config()
    made.tasks, made.methods = ("libsvm/iris",), ("sgd",)
    made.seeds, made.epochs = 2, 2
    experiment.run(config.check(made), workdir)
    runs, curves = results.load(workdir)
    runs = runs.drop(columns="seconds").sort_values("run_id", ignore_index=True)
    return runs, curves.sort_values(["run_id", "step"], ignore_index=True)


def test_each_setting_has_another_value_here():
    assert set(OTHERS) == {*numerics.SETTINGS, "jax_enable_x64"}


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("precision", ["auto", "float64"])
def test_settings_are_fixed_and_given_back(setting, name, precision):
    setting(name, OTHERS[name])
    before = jax.config.values[name]
    with numerics.fixed(precision):
        found = jax.config.values[name]
        assert numerics.wanted(precision)[name] in (found, getattr(found, "value", 0))
        assert jax.config.values["jax_enable_x64"] == (precision == "float64")
    assert jax.config.values[name] == before


@pytest.mark.parametrize(
    "name",
    [n if n in TRIED else pytest.param(n, marks=pytest.mark.slow) for n in HERE],
)
def test_no_setting_changes_a_number(setting, name, rows, tmp_path):
    setting(name, OTHERS[name])
    found = trained(tmp_path)
    for ours, theirs in zip(rows, found, strict=True):
        assert ours.equals(theirs)


def test_settings_are_given_back_after_an_error(setting):
    setting("jax_default_prng_impl", "rbg")
    with pytest.raises(RuntimeError), numerics.fixed("auto"):
        raise RuntimeError
    assert jax.config.values["jax_default_prng_impl"] == "rbg"


def test_keys_are_threefrys(setting):
    def bits():
        return jax.random.bits(numerics.key(2**32 - 1), (2,), jnp.uint32)

    plain = bits()
    assert tuple(map(int, jax.random.key_data(numerics.key(7)))) == (0, 7)
    setting("jax_default_prng_impl", "rbg")
    assert (bits() == plain).all()
    assert numerics.key(np.uint32(5)).dtype == numerics.key(5).dtype


def test_a_process_of_lrjax_says_what_it_does_not_take(setting, monkeypatch):
    setting("jax_default_prng_impl", "rbg")
    monkeypatch.setenv("JAX_DEFAULT_PRNG_IMPL", "rbg")
    with pytest.warns(UserWarning, match="JAX_DEFAULT_PRNG_IMPL=rbg: ignored"):
        numerics.fix("auto")
    assert jax.config.values["jax_default_prng_impl"] == "threefry2x32"
    with warnings.catch_warnings(action="error"):
        numerics.fix("auto")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("XLA_FLAGS", "--xla_cpu_enable_fast_math=true", "--xla_cpu_enable_fast_math"),
        ("XLA_FLAGS", "--a=b --xla_cpu_enable_fast_min_max", "fast_min_max"),
        ("NVIDIA_TF32_OVERRIDE", "0", "NVIDIA_TF32_OVERRIDE=0"),
    ],
)
def test_what_cannot_be_set_from_here_is_refused(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=said) as error:
        numerics.fix("auto")
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=said), numerics.fixed("auto"):
        pass
    monkeypatch.setenv(name, value.replace("=true", "=false"))
    if "=true" in value:
        numerics.check_environment()


def test_flags_in_a_file_are_refused_alike(monkeypatch, tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text("--xla_dump_to=/tmp\n--xla_cpu_enable_fast_math=true\n")
    monkeypatch.setenv("XLA_FLAGS", str(file))
    with pytest.raises(UsageError, match="--xla_cpu_enable_fast_math"):
        numerics.check_environment()
    file.write_text("--xla_cpu_enable_fast_math=false\n")
    numerics.check_environment()
    monkeypatch.setenv("XLA_FLAGS", str(tmp_path / "missing"))
    numerics.check_environment()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(2**20 + 1))
    for name, message in (("pipe", "is not a regular file"), ("large", "bytes")):
        monkeypatch.setenv("XLA_FLAGS", str(tmp_path / name))
        with pytest.raises(UsageError, match=message):  # XLA would wait for a pipe
            numerics.check_environment()


@pytest.mark.slow
@pytest.mark.parametrize(
    "variable", ["JAX_DEFAULT_PRNG_IMPL=rbg", "JAX_THREEFRY_PARTITIONABLE=0"]
)
def test_the_environment_changes_no_number(variable, rows, tmp_path):
    name, value = variable.split("=")
    flags = ("--config.methods=sgd", "--config.epochs=2", "--config.seeds=2")
    done = subprocess.run(
        [
            *(sys.executable, "main.py", "--config=configs/quickstart.py"),
            *("--config.tasks=libsvm/iris", *flags, f"--workdir={tmp_path}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", name: value},
        check=True,
    )
    assert f"warning: {variable}: ignored" in done.stderr
    found = results.load(tmp_path)[0].sort_values("run_id", ignore_index=True)
    assert found["run_id"].tolist() == rows[0]["run_id"].tolist()
    assert found["train_loss"].tolist() == rows[0]["train_loss"].tolist()


@pytest.mark.parametrize(
    ("context", "said"),
    [
        (lambda: jax.debug_nans(True), "`with jax.debug_nans(...)`"),
        (jax.disable_jit, "`with jax.disable_jit(...)`"),
        (lambda: jax.numpy_rank_promotion("raise"), "jax_numpy_rank_promotion itself"),
        (lambda: jax.transfer_guard("disallow"), "jax_transfer_guard_host_to_device"),
    ],
)
def test_a_setting_around_a_call_that_cannot_be_overridden_is_refused(context, said):
    with context(), pytest.raises(UsageError, match=re.escape(said)):
        lrjax.compare("libsvm/iris", ["adam"], epochs=1, seeds=1)
    assert not jax.config.values["jax_debug_nans"]


@pytest.mark.parametrize("value", [False, True])
def test_comparing_leaves_the_settings_of_a_process_as_they_were(value):
    jax.config.update("jax_debug_nans", value)
    try:
        found = lrjax.compare("libsvm/iris", ["adam"], epochs=1, seeds=1)
        assert jax.config.values["jax_debug_nans"] == value
    finally:
        jax.config.update("jax_debug_nans", False)
    with jax.enable_x64(True):  # in double precision, and for the threads too
        wide = lrjax.compare("libsvm/iris", ["adam"], epochs=1, seeds=1)
    assert not jax.config.values["jax_enable_x64"]
    (narrow,), (fine,) = found.runs["train_loss"], wide.runs["train_loss"]
    assert float(f"{narrow:.9g}") == narrow  # nine digits say all of a float32
    assert float(f"{fine:.9g}") != fine
