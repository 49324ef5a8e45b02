"""Gymnasium's own checks, and its own way to run several environments, agree."""

from __future__ import annotations

import functools
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lrjax import control, tasks
from lrjax.control import gym
from lrjax.core import UsageError


@functools.cache
def env():
    return control.Env(tasks.make_task("libsvm/iris"), 20, 10, "sgd")


def test_gymnasium_finds_nothing_wrong():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        check_env(gym.LearningRateEnv(env()))
    # It would like to be made by name, to draw it in other ways.
    assert all("not having a spec" in str(w.message) for w in heard)


@pytest.mark.slow
def test_a_vector_is_many_of_them():
    ours = gym.LearningRateVectorEnv(env(), 3)
    theirs = gymnasium.vector.SyncVectorEnv([lambda: gym.LearningRateEnv(env())] * 3)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    np.testing.assert_allclose(
        ours.reset(seed=3)[0], theirs.reset(seed=3)[0], 1e-5, 1e-5
    )
    generator, ends = np.random.default_rng(0), []
    for step in range(8):
        actions = generator.uniform(0, 1, (3, 1)).astype(np.float32)
        if step == 3:
            actions[1] = 3e38  # crashes, and so is one step ahead from there on
        (*found, infos), (*expected, reference) = (
            ours.step(actions),
            theirs.step(actions),
        )
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, 1e-4, 1e-5)
        np.testing.assert_allclose(infos["valid_loss"], reference["valid_loss"], 1e-4)
        ends.append(found[2].tolist())
    assert [False, True, False] in ends
    assert [True, False, True] in ends


def test_tasks_of_their_own():
    task = tasks.make_task("libsvm/iris")
    vector = gym.LearningRateVectorEnv(env(), 2, tasks=[task, task])
    observation, _ = vector.reset(seed=[5, 5])
    np.testing.assert_array_equal(observation[0], observation[1])
    with pytest.raises(UsageError, match="1 task for 2"):
        gym.LearningRateVectorEnv(env(), 2, tasks=[task])


def test_bad_input_is_named():
    single = gym.LearningRateEnv(env())
    with pytest.raises(UsageError, match="call reset first"):
        single.step(np.array([0.1]))
    single.reset(seed=1)
    for action, message in (
        (0.1, "shape"),
        ([0.1, 0.1], "shape"),
        (["a"], "a number"),
        ([1j], "a number"),
        ([1e300], "0 or more"),
        ([-0.1], "0 or more"),
        ([np.nan], "0 or more"),
        ([np.inf], "0 or more"),
    ):
        with pytest.raises(UsageError, match=message):
            single.step(action)
    for _ in range(2):
        *_, over, _, _ = single.step([0.1])
    assert over
    with pytest.raises(UsageError, match="call reset first"):
        single.step([0.1])
    with pytest.raises(UsageError, match="highest_rate"):
        gym.LearningRateEnv(env(), highest_rate=0.0)
    with pytest.raises(UsageError, match="num_envs"):
        gym.LearningRateVectorEnv(env(), 0)
    with pytest.raises(UsageError, match="2 seeds for 3"):
        gym.LearningRateVectorEnv(env(), 3).reset(seed=[1, 2])


def test_without_gymnasium_one_line_says_so():
    code = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "import lrjax.control\n"
        "try: import lrjax.control.gym\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert 'pip install "lrjax[control]"' in done.stdout
