"""Evolution strategies and gradients through training, where the optimum is known."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.controllers import evolution, splines
from lrjax import config as config_lib
from lrjax import optim
from lrjax.core import UsageError
from lrjax.methods import METHODS
from lrjax.optim.learned import (
    SHIPPED,
    load,
    network,
    pinned,
)

KEY = jax.random.key(0)


def test_ranks_are_spread_evenly_and_ties_share():
    found = evolution.shaped(jnp.asarray([3.0, jnp.inf, 1.0, jnp.inf, 2.0]))
    np.testing.assert_allclose(found, [0, 0.375, -0.5, 0.375, -0.25])


def test_evolution_finds_a_minimum_past_points_that_are_no_numbers():
    goal = jnp.asarray([1.0, -2.0, 0.5])

    def losses(points, key, generation):
        far = jnp.square(points - goal).sum(1)
        return jnp.where(points[:, 0] > 1.2, jnp.nan, far)

    found = evolution.evolve(losses, jnp.zeros(3), KEY, 200, 8, 0.1, 0.1)
    np.testing.assert_allclose(found, goal, atol=0.15)


def test_the_shipped_policy_is_small_and_in_its_place():
    weights = load()
    assert sum(value.size for value in weights.values()) <= 1000
    assert SHIPPED.parent.joinpath("learned.py").exists()
    rates = jax.vmap(lambda o: network(weights, o))(6 * jnp.eye(7))
    assert ((rates >= 1e-3) & (rates <= 1e3)).all()


def spoiled(folder):
    """Files that are no weights, and what is said of them."""
    weights = load()
    for name, changed in (
        ("shape", {"hidden": np.zeros((3, 16), np.float32)}),
        ("more", {"other": np.zeros(1)}),
        ("nan", {"out_bias": np.float32(np.nan)}),
        ("whole", {"out": np.zeros(16, int)}),
        ("pickle", {"out": np.array([{}] * 16, object)}),
    ):
        np.savez(folder / f"{name}.npz", **{**weights, **changed})
    np.savez(folder / "empty.npz")
    (folder / "text.npz").write_text("nothing")
    (folder / "large.npz").write_bytes(bytes(2 * 10**6))
    cut = SHIPPED.read_bytes()
    (folder / "cut.npz").write_bytes(cut[: len(cut) // 2])
    return [*folder.iterdir(), folder, folder / "missing.npz"]


def test_other_files_are_refused_in_one_line(tmp_path):
    paths = spoiled(tmp_path)
    assert len(paths) == 11
    for path in paths:
        with pytest.raises(ValueError, match=path.name) as caught:
            load(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(UsageError, match=path.name):
            METHODS["learned"].build(
                10, **METHODS["learned"].defaults | {"policy": str(path)}
            )


@given(
    st.integers(0, SHIPPED.stat().st_size - 1),
    st.binary(max_size=40),
    st.integers(0, 40),
)
@settings(max_examples=150)
def test_a_damaged_policy_is_refused_in_one_line(tmp_path_factory, place, put, taken):
    content = bytearray(SHIPPED.read_bytes())
    content[place : place + taken] = put
    path = tmp_path_factory.mktemp("policy") / "weights.npz"
    path.write_bytes(content)
    said, weights = "", {}
    try:
        weights = load(path)
    except ValueError as error:
        said = str(error)
    assert bool(weights) != ("weights.npz: " in said)
    assert "\n" not in said
    assert all(np.isfinite(value).all() for value in weights.values())


def test_a_policy_that_grows_when_it_is_decompressed_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "large.npz", out=np.zeros(10**7))
    assert (tmp_path / "large.npz").stat().st_size < 10**6
    with pytest.raises(ValueError, match="more than 1 MB when decompressed"):
        load(tmp_path / "large.npz")


def test_a_config_reads_the_policy_first(tmp_path):
    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), ("learned",)
    for policy, message in ((str(tmp_path), "not weights"), (3, "must be a name")):
        config.hparams.learned.policy = policy
        with pytest.raises(UsageError, match=message):
            config_lib.check(config).hparams_grid("learned", "libsvm/iris")


def test_a_policy_is_known_by_what_is_in_its_file(tmp_path):
    path, config = tmp_path / "a@b.npz", config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), ("learned",)

    def name():
        (lane,) = config_lib.check(config).hparams_grid("learned", "libsvm/iris")
        return lane["policy"]

    shipped = name()
    assert shipped == pinned("shipped") == pinned(shipped)
    config.hparams.learned.policy = str(path)
    np.savez(path, **load())
    same = name()
    assert same == f"{path}@{shipped.split('@')[-1]}"
    np.savez(path, **{**load(), "out_bias": np.float32(0.5)})
    assert name() not in (same, shipped)
    # What was pinned before is not what is there now, and nobody gets the other.
    with pytest.raises(UsageError, match=r"a@b.npz: holds other weights") as caught:
        METHODS["learned"].build(10, **METHODS["learned"].defaults | {"policy": same})
    assert "\n" not in str(caught.value)


def test_learned_needs_the_loss():
    tx = optim.learned(10)
    params = jnp.ones(3)
    with pytest.raises(ValueError, match="value"):
        tx.update(params, tx.init(params), params)


@pytest.mark.slow
def test_commands_write_weights(tmp_path):
    out = tmp_path / "mine.npz"
    for more in (["--task=libsvm/iris", "--epochs=4", "--generations=1"], []):
        command = [
            sys.executable,
            "-m",
            "benchmarks.controllers.evolution",
            f"--out={out}",
        ]
        done = subprocess.run(
            [*command, "--generations=1", *more], capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        assert set(load(out)) == set(load())
        assert ("cost: 6 full runs" in done.stdout) == bool(more)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--generations=0", "--generations is 0"),
        ("--epochs=-1", "--epochs is -1"),
        ("--out=/nowhere/mine.npz", "/nowhere is no folder"),
        ("--task=libsvm/irs", "did you mean 'libsvm/iris'"),
    ],
)
def test_a_command_that_cannot_succeed_ends_at_once(tmp_path, capsys, given, message):
    with pytest.raises(SystemExit) as caught:
        evolution.main([f"--out={tmp_path / 'mine.npz'}", given])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


# Schedules by gradient


def test_knots_are_rates_at_equal_distances_in_log_time():
    schedule = splines.spline(jnp.asarray([0.0, -1.0, -3.0]), 99)
    found = [float(schedule(t)) for t in (0, 9, 99, 500)]
    np.testing.assert_allclose(found, [1, 0.1, 1e-3, 1e-3], 1e-5)


def test_pieces_of_one_step_are_greedy_and_whole_training_is_not():
    # One curvature: the greedy rate is (1/h) m / (m + c), with m from 100 / h and
    # c = 1 / h, so that m_t = c / (0.01 + t), the best there is after t steps. Two
    # curvatures: greed serves the steeper one and loses.
    horizon, start = 30, jnp.full(3, -1.0)
    alone = splines.noisy_quadratic(np.array([1.0]))
    knots = splines.tune(alone, horizon, start, KEY, 1, 300)
    best = 0.5 / (0.01 + horizon)
    assert splines.final_loss(alone, horizon, knots, KEY) < 1.6 * best
    both = splines.noisy_quadratic(np.array([0.01, 1.0]))
    loss = {
        pieces: float(
            splines.final_loss(
                both, horizon, splines.tune(both, horizon, start, KEY, pieces, 300), KEY
            )
        )
        for pieces in (1, None)
    }
    assert loss[None] < 0.9 * loss[1]
    with pytest.raises(UsageError, match="does not divide 30"):
        splines.tune(both, horizon, start, KEY, 7)


def test_the_gradient_through_training_is_that_of_differences():
    from lrjax import tasks

    system = splines.training(tasks.make_task("libsvm/iris"))
    knots = jnp.asarray([-1.0, -0.5])
    loss = jax.jit(lambda knots: splines.final_loss(system, 6, knots, KEY))
    found = jax.jit(jax.grad(loss))(knots)
    for i in range(2):
        shift = 0.05 * jnp.eye(2)[i]
        expected = (loss(knots + shift) - loss(knots - shift)) / 0.1
        np.testing.assert_allclose(found[i], expected, 0.02)
