"""The learning rate as an action: 64 episodes at once, and one in a Gymnasium loop.

  python examples/control.py

The policy below halves the rate whenever the training loss has risen.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lrjax import control, tasks

AT = {name: i for i, name in enumerate(control.OBSERVATIONS)}
env = control.Env(tasks.make_task("libsvm/iris"), steps=100, steps_per_action=5)


def act(rate, observation, info):
    rate = jnp.where(observation[AT["train_change"]] > 0, rate / 2, rate)
    return rate, rate


policy = control.Policy(init=lambda: jnp.float32(0.3), act=act)
rollout = jax.jit(jax.vmap(lambda key: control.rollout(env, policy, key)))
episodes = rollout(jax.vmap(jax.random.key)(jnp.arange(64)))
print(f"64 episodes: mean return {episodes.rewards.sum(1).mean():.4f}")

from lrjax.control import gym  # noqa: E402 -- needs `pip install gymnasium`

single = gym.LearningRateEnv(env)
(observation, info), rate, total, over = single.reset(seed=0), 0.3, 0.0, False
while not over:
    rate = rate / 2 if observation[AT["train_change"]] > 0 else rate
    observation, reward, over, _, info = single.step(np.array([rate], np.float32))
    total += reward
print(f"seed 0 in a loop: return {total:.4f}, as {episodes.rewards[0].sum():.4f} above")
