"""Policies that choose the learning rate, fixed or learned, and rollouts of episodes.

A policy sees the observation and `info`. With one update per action, the policies below
give the same runs as the methods of the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from lrjax.control.env import (
    Data,
    Env,
    EnvState,
    check_count,
    check_rates,
)
from lrjax.core import Task, UsageError
from lrjax.optim.learned import load
from lrjax.optim.learned import network as ask


class Policy(NamedTuple):
    """A rule for the learning rate.

    Attributes:
      init: `init() -> memory`, a tree of arrays.
      act: `act(memory, observation, info) -> (memory, learning_rate)`.

    Example:
      >>> halve = Policy(lambda: 0.2, lambda rate, observation, info: (rate / 2, rate))
      >>> halve.act(halve.init(), None, {})
      (0.1, 0.2)
    """

    init: Callable[[], Any]
    act: Callable[[Any, jax.Array, dict[str, jax.Array]], tuple[Any, jax.Array]]


class Episode(NamedTuple):
    """Record of an episode, with a row per action.

    Attributes:
      observations: [actions, 10], before the action.
      learning_rates: [actions].
      rewards: [actions]; 0 after the end.
      done: [actions], whether the episode was over after the action.
      info: name -> [actions], after the action.
      state: the final state.
    """

    observations: jax.Array
    learning_rates: jax.Array
    rewards: jax.Array
    done: jax.Array
    info: dict[str, jax.Array]
    state: EnvState


def rollout(
    env: Env, policy: Policy, key: jax.Array, task: Task | Data | None = None
) -> Episode:
    """Run an episode; can be jitted, and vmapped over keys, policies and tasks.

    Args:
      env: the environment.
      policy: chooses the rates.
      key, task: arguments of `Env.reset`.

    Example:
      >>> from lrjax import tasks
      >>> env = Env(tasks.make_task("libsvm/iris"), steps=20, steps_per_action=10)
      >>> run = jax.jit(lambda key: rollout(env, constant(0.1), key))
      >>> run(jax.random.key(0)).rewards.shape
      (2,)
    """
    state, observation = env.reset(key, task)
    data = state.data  # kept out of the loop's carry

    def act(carry, _):
        """Take one action; return the next carry, and the row of the episode."""
        state, observation, memory = carry
        state = state._replace(data=data)
        memory, rate = policy.act(memory, observation, env.info(state))
        rate = jnp.asarray(rate, env.dtype)
        state, following, reward, done, info = env.step(state, rate)
        row = {
            "observations": observation,
            "learning_rates": rate,
            "rewards": reward,
            "done": done,
            "info": info,
        }
        return (state._replace(data=()), following, memory), row

    start = state._replace(data=()), observation, policy.init()
    (state, _, _), rows = jax.lax.scan(act, start, length=env.num_actions)
    return Episode(**rows, state=state._replace(data=data))


def constant(learning_rate: Any) -> Policy:
    """Choose the same rate always.

    Example:
      >>> constant(0.1).act((), None, {"step": 7})
      ((), 0.1)
    """
    return scheduled(lambda step: learning_rate)


def scheduled(schedule: Callable[[jax.Array], Any]) -> Policy:
    """Follow a function of the number of updates, such as those of `schedules`.

    Example:
      >>> scheduled(lambda step: 0.1 / (1 + step)).act((), None, {"step": 4})
      ((), 0.02)
    """
    return Policy(lambda: (), lambda memory, _, info: (memory, schedule(info["step"])))


def replay(learning_rates: Any, steps_per_rate: int = 1) -> Policy:
    """Replay recorded rates.

    Args:
      learning_rates: [rates]; after the end the last one is kept.
      steps_per_rate: number of updates per rate.

    Raises:
      UsageError: if the rates are empty, not a list, negative or not finite.

    Example:
      >>> _, rate = replay([0.5, 0.25], steps_per_rate=5).act((), None, {"step": 7})
      >>> float(rate)
      0.25
    """
    if not isinstance(learning_rates, Tracer):
        check_rates(learning_rates)
    rates = jnp.asarray(learning_rates)
    if rates.ndim != 1 or not rates.size:
        raise UsageError(f"rates to replay are a list, not of shape {rates.shape}")
    check_count("steps_per_rate", steps_per_rate)
    return scheduled(
        lambda step: rates[jnp.minimum(step // steps_per_rate, rates.size - 1)]
    )


def told_the_loss(transformation: optax.GradientTransformation) -> Policy:
    """Follow a transformation that sets its rate from the loss, one update per action.

    Args:
      transformation: multiplies updates by minus a rate that depends on `value`, for
        example `optim.reduce_on_plateau(optim.scale_by_learning_rate(0.1))` or
        `optim.greedy_lr(optim.scale_by_learning_rate(1.0), 0.1)`.

    Example:
      >>> from lrjax import optim
      >>> tx = optim.reduce_on_plateau(optim.scale_by_learning_rate(0.5))
      >>> policy = told_the_loss(tx)
      >>> _, rate = policy.act(policy.init(), None, {"train_loss": jnp.array(1.0)})
      >>> float(rate)
      0.5
    """
    transformation = optax.with_extra_args_support(transformation)

    def act(memory, _, info):
        loss = info["train_loss"]
        one, zero = jnp.ones_like(loss), jnp.zeros_like(loss)
        update, memory = transformation.update(one, memory, zero, value=loss)
        return memory, -jnp.asarray(update)

    return Policy(lambda: transformation.init(jnp.zeros(())), act)


def network(weights: Any = None, learning_rate: Any = 1e-2) -> Policy:
    """The network of the method `learned`, which gives the same runs.

    Args:
      weights: weights of `network` in `optim/learned.py`; the shipped ones if None.
      learning_rate: factor of the network's output.

    Example:
      >>> _, rate = network().act((), jnp.zeros(10), {})
      >>> bool(rate > 0)
      True
    """
    weights = load() if weights is None else weights

    def act(memory, observation, _):
        return memory, learning_rate * ask(weights, observation)

    return Policy(lambda: (), act)
