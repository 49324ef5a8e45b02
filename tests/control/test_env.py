"""The environment trains as `train` does, and says so in finite numbers."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrjax import control, optim, tasks
from lrjax.control import policies
from lrjax.core import UsageError
from lrjax.engine import order, programs, train
from lrjax.methods import METHODS, split
from lrjax.optim import schedules

STEPS, SEED = 50, 7
KEY = jax.random.key(SEED)
AT = {name: i for i, name in enumerate(control.OBSERVATIONS)}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@functools.cache
def iris(precision="float32"):
    return tasks.make_task("libsvm/iris", tasks.TaskOptions(precision=precision))


def by_method(name, **hparams):
    """A run of a method by `train`, measured after each update."""
    task, method = iris("float64"), METHODS[name]
    static, traced = split(method, dict(method.defaults) | hparams)
    program = train.single(task, method, static, 1, 1, 1, dtype=jnp.float64)
    seeds = train.seed_runs(task.init, np.asarray([SEED], np.uint32))
    inputs = train.inputs(program, seeds, [traced], STEPS)
    compiled = programs.compile_program(program, seeds, inputs)
    segments = list(programs.train(compiled, program, seeds, inputs, STEPS))
    values = [segment.values for segment in segments]
    curve = {k: np.concatenate([v[k] for v in values])[:, 0, 0] for k in values[0]}
    return curve, jax.tree.map(lambda x: x[0, 0], segments[-1].state[0].params)


def by_policy(policy, every=1):
    env = control.Env(iris("float64"), STEPS, every, dtype=jnp.float64)
    return jax.jit(functools.partial(control.rollout, env, policy))(KEY)


def assert_same(episode, curve, params, every=1):
    for found, name in (
        (episode.learning_rates, "learning_rate"),
        (episode.info["valid_loss"], "valid_loss"),
        (episode.info["valid_accuracy"], "valid_accuracy"),
        (episode.state.run.last_loss[None], "last_batch_loss"),
    ):
        expected = curve[name][every - 1 :: every][-len(found) :]
        np.testing.assert_allclose(found, expected, 1e-10, err_msg=name)
    found = episode.state.run.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9), found, params)


# The same system


@pytest.mark.parametrize(
    ("name", "policy", "hparams"),
    [
        pytest.param(
            *("adam", lambda: policies.constant(0.03), {"learning_rate": 0.03}),
            marks=pytest.mark.slow,
        ),
        (
            "cawr",
            lambda: policies.scheduled(
                schedules.cosine_warm_restarts(
                    5e-3, schedules.fit_first_cycle(10, 2, STEPS), 2
                )
            ),
            {},
        ),
        pytest.param(
            "reduce_on_plateau",
            lambda: policies.told_the_loss(
                optim.reduce_on_plateau(optim.scale_by_learning_rate(0.3), patience=2)
            ),
            {"learning_rate": 0.3, "patience": 2, "observations": STEPS},
            marks=pytest.mark.slow,
        ),
        (
            "greedy_lr",
            lambda: policies.told_the_loss(
                optim.greedy_lr(
                    optim.scale_by_learning_rate(1.0), 0.3, patience=2, window_size=3
                )
            ),
            {"learning_rate": 0.3, "patience": 2, "window_size": 3, "min_lr": 1e-3},
        ),
    ],
)
def test_a_policy_gives_the_run_of_its_method(x64, name, policy, hparams):
    curve, params = by_method(name, **hparams)
    episode = by_policy(policy())
    assert_same(episode, curve, params)
    rates = len(np.unique(episode.learning_rates))
    assert rates == 1 if name == "adam" else rates > 4
    if name == "cawr":  # what was recorded can be replayed
        assert_same(by_policy(policies.replay(curve["learning_rate"])), curve, params)


@pytest.mark.slow
def test_the_network_gives_the_run_of_learned(x64):
    curve, params = by_method("learned", actions=10)
    assert_same(by_policy(policies.network(), 5), curve, params, 5)
    assert len(np.unique(curve["learning_rate"])) == 10


@pytest.mark.slow
def test_the_same_compiled_step_gives_the_same_bits():
    task, rates = iris(), np.geomspace(1e-3, 1, STEPS).astype(np.float32)
    env = control.Env(task, STEPS, 1)
    method = METHODS["adam"]
    static, hparams = split(method, dict(method.defaults))
    program = train.single(task, method, static, 1, 1, 1)
    seeds = train.seed_run(task.init, KEY)

    @jax.jit
    def update(run, step, rate):
        rows, mask = order.batches(seeds.order, step, 1, 64, task.num_examples)
        batch = {name: part[rows[0]] for name, part in task.train.items()}
        batch["mask"] = mask[0].astype(jnp.float32)
        key = jax.random.fold_in(seeds.noise, step)
        traced = hparams | {"learning_rate": rate}
        return train.step_run(program, run, batch, key, step, traced, STEPS)

    run = train.init_run(program, seeds.params, (), hparams, STEPS)
    state, _ = jax.jit(env.reset)(KEY)
    step = jax.jit(env.step)
    for i, rate in enumerate(rates):
        run = update(run, i, rate)
        state, *_ = step(state, rate)
    for ours, theirs in zip(
        jax.tree.leaves(state.run.params), jax.tree.leaves(run.params), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert state.run.last_loss == run.last_loss


# What is seen and rewarded


@functools.cache
def batched(reward="final", every=4, steps=10):
    """Episodes over rates and seeds in one program, a crash among them."""
    env = control.Env(iris(), steps, every, "sgd", reward=reward)

    def episode(seed, rate):
        policy = policies.constant(rate)
        return control.rollout(env, policy, jax.random.key(seed))

    rates = jnp.asarray([0.1, 3e38, -1.0, jnp.nan])
    episodes = jax.vmap(jax.vmap(episode, (None, 0)), (0, None))
    return env, jax.jit(episodes)(jnp.arange(2), rates)


def test_observations_are_what_they_are_said_to_be():
    env, episodes = batched()
    assert env.num_actions == 3
    seen = np.asarray(episodes.observations)
    assert seen.shape == (2, 4, 3, 10)
    assert np.isfinite(seen).all()
    np.testing.assert_allclose(seen[0, 0, :, AT["fraction"]], [0, 0.4, 0.8], 1e-6)
    # By hand, for the first seed with the rate 0.1.
    task = iris()
    seeds = train.seed_run(task.init, jax.random.key(0))
    params, losses, norms, moves, means, squares = seeds.params, [], [], [], [0, 0], 0
    gradient = jax.value_and_grad(task.loss, has_aux=True)
    for step in range(9):
        rows, mask = order.batches(seeds.order, step, 1, 64, task.num_examples)
        batch = {name: part[rows[0]] for name, part in task.train.items()}
        batch["mask"] = mask[0].astype(jnp.float32)
        (loss, _), grads = gradient(params, (), KEY, batch)
        flat = [np.asarray(x) for x in (grads["weight"], grads["bias"])]
        square = sum(np.sum(x**2) for x in flat)
        losses, norms = [*losses, float(loss)], [*norms, square]
        moves.append(0.01 * square)
        means = [0.9 * m + 0.1 * x for m, x in zip(means, flat, strict=True)]
        squares = 0.9 * squares + 0.1 * square
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    seen = dict(zip(control.OBSERVATIONS, seen[0, 0, 2], strict=True))
    expected = {
        "train_loss": np.log10(np.mean(losses[5:])),
        "train_change": np.log10(np.mean(losses[5:]) / np.mean(losses[1:5])),
        "gradient_norm": np.log10(np.mean(norms[5:])) / 2,
        "update_norm": np.log10(np.mean(moves[4:8])) / 2,
        "learning_rate": -1,
        "noise": 1 - sum(np.sum(m**2) for m in means) / (1 - 0.9**9) / squares,
        "valid_loss": np.log10(episodes.info["valid_loss"][0, 0, 1]),
        "valid_change": np.log10(
            episodes.info["valid_loss"][0, 0, 1] / episodes.info["valid_loss"][0, 0, 0]
        ),
        "diverged": 0,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(seen[name], value, 1e-4, 1e-6, err_msg=name)


def test_a_crash_ends_the_episode_at_a_price():
    _, final = batched()
    loss = np.asarray(final.info["valid_loss"])[:, 0]
    np.testing.assert_allclose(final.rewards[:, 0, :2], 0)
    np.testing.assert_allclose(final.rewards[:, 0, 2], -loss[:, -1], 1e-6)
    for crashed in (2, 3):
        np.testing.assert_array_equal(final.rewards[:, crashed], [[-100, 0, 0]] * 2)
        assert final.done[:, crashed].all()
    # What is too large for float32 counts as the same, when it does.
    np.testing.assert_array_equal(final.rewards[:, 1].sum(-1), [-100, -100])
    assert (final.state.run.diverged_at[:, 1] > 1).any()
    assert final.done[:, 0].tolist() == [[False, False, True]] * 2
    assert final.state.step[:, 0].tolist() == [10, 10]
    # A rate that is none trains nothing.
    assert final.state.run.diverged_at[:, 2:].tolist() == [[1, 1]] * 2
    np.testing.assert_array_equal(
        final.state.run.params["weight"][:, 2], final.state.run.params["weight"][:, 3]
    )


@pytest.mark.slow
def test_rewards_add_up():
    env, area = batched("area")
    loss = np.asarray(area.info["valid_loss"])[:, 0]
    np.testing.assert_allclose(area.rewards[:, 0].sum(-1), -loss.mean(-1), 1e-5)
    np.testing.assert_allclose(area.rewards[:, 1].sum(-1), -env.crash_penalty, 1e-6)
    _, better = batched("improvement")
    state, _ = env.reset(jax.random.key(0))
    first = float(env.info(state)["valid_loss"])
    np.testing.assert_allclose(
        better.rewards[0, 0].sum(), np.log10(first / loss[0, -1]), 1e-4
    )
    np.testing.assert_array_equal(better.rewards[:, 2], [[-100, 0, 0]] * 2)


def test_tasks_of_one_shape_are_vmapped_over():
    task = iris()
    turned = dataclasses.replace(
        task, train={**task.train, "features": -task.train["features"]}
    )
    env = control.Env(task, 4, 2)
    rows = jax.tree.map(lambda *x: jnp.stack(x), env.rows(task), env.rows(turned))
    rollout = functools.partial(control.rollout, env, policies.constant(0.1), KEY)
    both = jax.jit(jax.vmap(rollout))(rows).info["train_loss"]
    alone = jax.jit(functools.partial(rollout, turned))().info["train_loss"]
    np.testing.assert_allclose(both[1], alone, 1e-5)
    assert not np.allclose(both[0], alone)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_the_optimisers_refuse_is_refused_here_too(dtype):
    # 1e-300 is 0 in float32, and a distance to start from in float64.
    asked = {"method": "dowg", "hparams": {"eps": 1e-300}, "dtype": dtype}
    if dtype == np.float64:
        control.Env(iris(), 2, **asked)
        return
    with pytest.raises(UsageError, match="is 0 in float32"):
        control.Env(iris(), 2, **asked)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)
def test_every_method_with_a_schedule_makes_an_environment(method):
    if {"learning_rate", "schedule"} <= set(method.defaults):
        control.Env(iris(), 2, method=method.name)
        return
    with pytest.raises(UsageError, match="cannot be set from outside"):
        control.Env(iris(), 2, method=method.name)


def test_an_environment_is_shown_without_its_arrays():
    shown = "<task libsvm/iris: rows train 90, valid 30, test 30; batches of 64; "
    assert repr(iris()) == f"{shown}metrics accuracy, loss>"
    said = repr(control.Env(iris(), 20, 5))
    assert said.startswith(f"Env(task={shown}")
    assert ", steps=20, steps_per_action=5, method='adam'" in said
    assert len(said) < 300


def test_bad_input_is_named():
    task = iris()
    for choices, message in (
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"steps_per_action": 0}, "steps_per_action is 0"),
        ({"steps_per_action": 3}, "is 3, but an episode has 2 steps"),
        ({"steps": 2**31}, r"steps is 2147483648; .* below 2\*\*31"),
        ({"dtype": "x"}, "dtype is 'x', not jnp.float32 or jnp"),
        ({"dtype": np.float16}, "not jnp.float32 or jnp"),
        ({"hparams": None}, "hparams is None, no mapping"),
        ({"reward": "finale"}, "did you mean 'final'"),
        ({"crash_penalty": -1.0}, "crash_penalty"),
        ({"method": "adm"}, "did you mean 'adam'"),
        ({"method": "greedy_lr"}, "'greedy_lr' cannot be set from outside"),
        ({"hparams": {"beta1": 0.5}}, "did you mean 'b1'"),
        ({"hparams": {"b1": "0.5"}}, "b1 is '0.5'; it must be a number"),
        ({"hparams": {"learning_rate": 0.5}}, "set by actions"),
        ({"hparams": {"b1": 1.0}}, r"^adam.b1=1.0: must be in"),
        ({"method": "prodigy", "hparams": {"d0": 0}}, "^prodigy: d0 must be"),
        ({"method": "dog", "hparams": {"reps_rel": 0}}, "^dog: reps_rel must be"),
        ({"task": "libsvm/iris"}, "make_task"),
        ({"crash_penalty": "much"}, "crash_penalty is 'much'"),
    ):
        with pytest.raises(UsageError, match=message):
            control.Env(**{"task": task, "steps": 2} | choices)
    control.Env(task, 2, crash_penalty=np.float32(3))
    with pytest.raises(UsageError, match="dtype is float64, which JAX computes in flo"):
        control.Env(task, 2, dtype=jnp.float64).reset(KEY)
    with pytest.raises(UsageError, match=r"steps_per_rate is 1\.5"):
        policies.replay([0.1], 1.5)
    env = control.Env(task, 2, 2)
    assert control.Env(task, 2).every == task.steps_per_epoch
    with pytest.raises(UsageError, match="differ in shape"):
        env.reset(KEY, control.Data(task.train, task.train))
    state, _ = jax.jit(env.reset)(KEY)
    for rate, message in ((-1, "-1"), (np.nan, "nan"), (np.inf, "inf"), ([1], "shape")):
        with pytest.raises(UsageError, match=message):
            env.step(state, np.asarray(rate, float))
    for rate in (None, "fast", 1j, 1e300):
        with pytest.raises(UsageError, match="a learning rate is"):
            env.step(state, rate)
    with pytest.raises(UsageError, match="neither a task"):
        env.reset(KEY, "libsvm/wine")
    for key in (0, None, "0", 0.5, np.uint32(0), jax.random.split(KEY)):
        with pytest.raises(UsageError, match="must be one random key, such as"):
            control.rollout(env, policies.constant(0.1), key)
    env.reset(jax.random.PRNGKey(0))  # as JAX had them before
    state, *_ = jax.jit(env.step)(state, 0.1)
    with pytest.raises(UsageError, match="episode is over"):
        env.step(state, 0.1)
    for rates, every, message in (
        ([], 1, "rates to replay"),
        ([0.1, np.nan], 1, "a learning rate is"),
        ([0.1], 0, "steps_per_rate is 0"),
    ):
        with pytest.raises(UsageError, match=message):
            policies.replay(rates, every)
