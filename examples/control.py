"""The learning rate as an action: 64 episodes at once, and one in a Gymnasium loop.

python examples/control.py

The policy halves the rate whenever the training loss has risen. The loop needs
Gymnasium: `pip install gymnasium`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import control, tasks
from lrjax.control import gym

RISEN = control.OBSERVATIONS.index("train_change")
env = control.Env(tasks.make_task("libsvm/iris"), steps=100, steps_per_action=5)


def act(rate, observation, info):  # the rate is the policy's state and its action
    rate = jnp.where(observation[RISEN] > 0, rate / 2, rate)
    return rate, rate


policy = control.Policy(init=lambda: jnp.float32(0.3), act=act)
rollout = jax.jit(jax.vmap(lambda key: control.rollout(env, policy, key)))
episodes = rollout(jax.vmap(jax.random.key)(jnp.arange(64)))
print(f"64 episodes: mean return {episodes.rewards.sum(1).mean():.4f}")

single = gym.LearningRateEnv(env)
(observation, info), rate, total, over = single.reset(seed=0), 0.3, 0.0, False
while not over:
    rate = rate / 2 if observation[RISEN] > 0 else rate
    observation, reward, over, _, info = single.step(np.array([rate], np.float32))
    total += reward
print(f"seed 0 in a loop: return {total:.4f}, as {episodes.rewards[0].sum():.4f} above")
