"""The environment as Gymnasium `Env` and `VectorEnv`; needs the package gymnasium."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax.common import numerics
from lrjax.control.env import (
    OBSERVATIONS,
    Data,
    Env,
    check_count,
    check_rates,
)
from lrjax.core import Task, UsageError, counted

try:
    import gymnasium
    from gymnasium import spaces
    from gymnasium.utils import seeding
    from gymnasium.vector import AutoresetMode, VectorEnv
except ImportError as error:
    raise UsageError(
        'lrjax.control.gym needs the package gymnasium: pip install "lrjax[control]"'
    ) from error


def _observation_space() -> spaces.Box:
    """Bounds of an observation [10]."""
    low = np.full(len(OBSERVATIONS), -12, np.float32)  # difference of two logarithms
    high = -low
    for name in ("fraction", "noise", "diverged"):
        low[OBSERVATIONS.index(name)], high[OBSERVATIONS.index(name)] = 0, 1
    return spaces.Box(low, high, dtype=np.float32)


def _action_space(highest_rate: float) -> spaces.Box:
    """Bounds of an action [1]."""
    if not 0 < highest_rate < np.inf:
        raise UsageError(f"highest_rate is {highest_rate}; it must be positive, finite")
    return spaces.Box(0.0, highest_rate, (1,), np.float32)


def _actions(action: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Convert an action to an array of rates, after checking it.

    Raises:
      UsageError: if rates have another shape, are negative or not finite.
    """
    rates = np.asarray(action)
    if rates.shape != shape:
        raise UsageError(f"an action is of shape {shape}, not {rates.shape}")
    check_rates(rates)
    return rates


class LearningRateEnv(gymnasium.Env):
    """The environment as a Gymnasium `Env`.

    An action is an array [1], the learning rate. Both the horizon and a crash end an
    episode as `terminated`, since the observation shows the remaining horizon.
    `reset(seed=7)` trains like seed 7 of an experiment; without a seed, one is drawn.

    Example:
      >>> from lrjax import tasks
      >>> task = tasks.make_task("libsvm/iris")
      >>> env = LearningRateEnv(Env(task, steps=20, steps_per_action=10))
      >>> observation, info = env.reset(seed=0)
      >>> rate = np.array([0.1], np.float32)
      >>> observation, reward, over, _, info = env.step(rate)
      >>> observation.shape, info["step"], over
      ((10,), 10, False)
    """

    metadata = {"render_modes": []}  # noqa: RUF012 -- as Gymnasium has it

    def __init__(self, env: Env, highest_rate: float = 1.0):
        """Wrap an environment.

        Args:
          env: the environment.
          highest_rate: upper bound of actions.
        """
        self.observation_space = _observation_space()
        self.action_space = _action_space(highest_rate)
        self._reset, self._step = jax.jit(env.reset), jax.jit(env.step)
        self._info = jax.jit(env.info)
        self._state: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start an episode; return observation and info. `options` are ignored."""
        super().reset(seed=seed, options=options)
        self._state, observation = self._reset(_key(seed, self.np_random))
        return _float32(observation), _numbers(self._info(self._state))

    def step(self, action: Any):
        """Train with a rate until the next action; return Gymnasium's five values."""
        (rate,) = _actions(action, (1,))
        if self._state is None or self._state.done:
            raise UsageError("no episode has begun, or it is over: call reset first")
        self._state, observation, reward, done, info = self._step(self._state, rate)
        return _float32(observation), float(reward), bool(done), False, _numbers(info)


class LearningRateVectorEnv(VectorEnv):
    """Many episodes in one compiled program.

    Actions are arrays [num_envs, 1]. An episode that is over is reset in the next step,
    which ignores its action (Gymnasium's `AutoresetMode.NEXT_STEP`).

    Example:
      >>> from lrjax import tasks
      >>> env = Env(tasks.make_task("libsvm/iris"), steps=20, steps_per_action=10)
      >>> observations, info = LearningRateVectorEnv(env, num_envs=3).reset(seed=0)
      >>> observations.shape
      (3, 10)
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        env: Env,
        num_envs: int,
        highest_rate: float = 1.0,
        tasks: Sequence[Task] | None = None,
    ):
        """Wrap an environment.

        Args:
          env: the environment.
          num_envs: number of episodes.
          highest_rate: upper bound of actions.
          tasks: [num_envs] tasks with the functions and shapes of the environment's.
        """
        check_count("num_envs", num_envs)
        if tasks is not None and len(tasks) != num_envs:
            raise UsageError(
                f"{counted(len(tasks), 'task')} for {counted(num_envs, 'episode')}"
            )
        self.num_envs = num_envs
        self.single_observation_space = _observation_space()
        self.single_action_space = _action_space(highest_rate)
        batch = gymnasium.vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, num_envs)
        self.action_space = batch(self.single_action_space, num_envs)
        self._data = None
        if tasks is not None:
            rows = [env.rows(task) for task in tasks]
            self._data: Data | None = jax.tree.map(lambda *x: jnp.stack(x), *rows)
        self._reset = jax.jit(jax.vmap(env.reset))
        self._step = jax.jit(jax.vmap(env.step))
        self._info = jax.jit(jax.vmap(env.info))
        self._choose = jax.jit(_choose)
        self._generators: list[np.random.Generator] = []
        self._state: Any = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None):
        """Start all episodes.

        Args:
          seed: seed of the first episode, the others get seed + 1, seed + 2, ...; or a
            sequence of seeds; or None to draw them.
          options: ignored.

        Returns:
          Observations [num_envs, 10] and info.
        """
        del options
        seeds = seed
        if seed is None or isinstance(seed, int | np.integer):
            numbers = range(self.num_envs)
            seeds = [None if seed is None else int(seed) + i for i in numbers]
        if len(seeds) != self.num_envs:
            raise UsageError(
                f"{counted(len(seeds), 'seed')} for {counted(self.num_envs, 'episode')}"
            )
        old = self._generators or [None] * self.num_envs
        self._generators = [
            seeding.np_random(s)[0] if s is not None or g is None else g
            for s, g in zip(seeds, old, strict=True)
        ]
        self._state, observation = self._start(seeds)
        return _float32(observation), _arrays(self._info(self._state))

    def step(self, actions: Any):
        """Train every episode, or reset it if it was over."""
        rates = _actions(actions, (self.num_envs, 1))[:, 0]
        if self._state is None:
            raise UsageError("no episode has begun: call reset first")
        over = np.asarray(self._state.done)
        state, observation, reward, done, info = self._step(self._state, rates)
        if over.any():
            fresh, first = self._start([None] * self.num_envs, over)
            state, observation = self._choose(
                over, (fresh, first), (state, observation)
            )
            info, done = self._info(state), state.done
        self._state, done = state, np.asarray(done)
        none = np.zeros(self.num_envs, bool)
        rewards = np.asarray(reward, np.float64)
        return _float32(observation), rewards, done, none, _arrays(info)

    def _start(self, seeds: Sequence[int | None], resetting: np.ndarray | None = None):
        """Reset all episodes; return their states and observations.

        Args:
          seeds: seed of each episode; None to draw one.
          resetting: [num_envs] booleans, the episodes whose new state is used; the
            others draw no seed. None for all.
        """
        keys = jnp.stack(
            [
                _key(seed, generator if resetting is None or resetting[i] else None)
                for i, (seed, generator) in enumerate(
                    zip(seeds, self._generators, strict=True)
                )
            ]
        )
        return (
            self._reset(keys) if self._data is None else self._reset(keys, self._data)
        )


def _key(seed: int | None, generator: np.random.Generator | None) -> jax.Array:
    """The key of a seed; None draws a seed, or takes 0 if there is no generator."""
    if seed is None:
        seed = int(generator.integers(2**32)) if generator is not None else 0
    return numerics.key(np.uint32(seed % 2**32))


def _choose(where: jax.Array, new: Any, old: Any) -> Any:
    """Select rows of two trees: `new` where `where` [rows] is true, else `old`."""
    old_leaves, treedef = jax.tree.flatten(old)
    chosen = [
        jnp.where(jnp.reshape(where, (-1,) + (1,) * (o.ndim - 1)), n, o)
        for n, o in zip(jax.tree.leaves(new), old_leaves, strict=True)
    ]
    return treedef.unflatten(chosen)


def _float32(observation: Any) -> np.ndarray:
    return np.asarray(observation, np.float32)


def _numbers(info: dict[str, Any]) -> dict[str, float]:
    return {name: np.asarray(value).item() for name, value in info.items()}


def _arrays(info: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in info.items()}
