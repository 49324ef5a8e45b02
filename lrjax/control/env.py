"""Training as an environment: each action sets the learning rate of a few steps.

`Env.reset` and `Env.step` are pure functions, built on `train.gradient_run` and
`train.apply_run`: whole episodes can be compiled, and vmapped over seeds, policies and
tasks of the same shapes. As for an Optax transformation, the gradient of the next batch
is known when its rate is chosen.
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lrjax import hyperparameters, methods, optim
from lrjax.core import (
    Batch,
    PyTree,
    Task,
    UsageError,
    counted,
    shown,
    unknown,
)
from lrjax.engine import evaluation, order, train
from lrjax.optim import base, observation

OBSERVATIONS = (*observation.OBSERVED, "valid_loss", "valid_change", "diverged")
REWARDS = ("final", "improvement", "area")
# Hyperparameters that actions replace, with values that leave the rate to the action.
_SET_BY_ACTIONS = {"schedule": "constant", "warmup_fraction": 0.0, "learning_rate": 0.0}


class Data(NamedTuple):
    """The data of a task, which may differ between tasks that share a program.

    Attributes:
      train, valid: as in `Task`.

    Example:
      >>> from lrjax import tasks
      >>> task = tasks.make_task("libsvm/iris")
      >>> data = Data(task.train, task.valid)  # for `Env.reset`
      >>> {name: array.shape for name, array in data.valid.items()}
      {'features': (30, 4), 'labels': (30,)}
    """

    train: Batch
    valid: Batch


class EnvState(NamedTuple):
    """State of an episode.

    Attributes:
      run: parameters, optimiser state and divergence, see `train.RunState`.
      gradient: loss and gradient of the next batch.
      order, noise: random keys of the data's order and of the training noise.
      step: int32, number of updates made, including those after a crash.
      rate: learning rate of the last action.
      window: sums over batches and updates since the previous action.
      last_loss: mean training loss of the previous window; NaN if there was none.
      average, average_square: moving averages of gradients and of their squared norms.
      valid: means over the validation part, by name.
      done: whether the episode is over.
      data: the data given to `reset`; () for the environment's own.
    """

    run: train.RunState
    gradient: train.Gradient
    order: jax.Array
    noise: jax.Array
    step: jax.Array
    rate: jax.Array
    window: observation.Window
    last_loss: jax.Array
    average: PyTree
    average_square: jax.Array
    valid: dict[str, jax.Array]
    done: jax.Array
    data: Data | tuple[()]


@dataclasses.dataclass(frozen=True)
class Env:
    """A reinforcement learning environment that trains one run per episode.

    An observation is an array [10] with the entries of `OBSERVATIONS`, always finite.
    Losses, norms and the rate are common logarithms limited to +-6, and a change is the
    difference of two; `fraction` (elapsed, of the horizon), `noise` (of the gradient,
    see `noise_share` in `optim/observation.py`) and `diverged` are in [0, 1]. The
    training loss is the mean over the batches since the last action, including the next
    batch.

    Rewards: `final` is minus the validation loss at the end, and 0 before;
    `improvement` is the decrease of its common logarithm with each action; `area` sums
    to minus its mean over all actions. A run crashes if it diverges or an action is
    negative or not finite. Its episode ends, and its loss counts as `crash_penalty`
    from then on (under `improvement`, the reward is minus the penalty).

    Attributes:
      task: data and model.
      steps: number of updates in an episode.
      steps_per_action: number of updates per action; None for an epoch.
      method: name of the optimiser, a method whose rate may follow a schedule.
      hparams: hyperparameters of the method that differ from its defaults.
      reward: one of `REWARDS`.
      crash_penalty: positive; upper limit of the loss in rewards.
      dtype: dtype of losses, rates and observations.

    Raises:
      UsageError: for a value of another type or out of range, an unknown reward or
        hyperparameter, or a method without a schedule.

    Example:
      >>> from lrjax import tasks
      >>> env = Env(tasks.make_task("libsvm/iris"), steps=20, steps_per_action=10)
      >>> state, observation = jax.jit(env.reset)(jax.random.key(0))
      >>> state, observation, reward, done, info = jax.jit(env.step)(state, 0.1)
      >>> observation.shape, int(info["step"]), bool(done)
      ((10,), 10, False)
    """

    task: Task
    steps: int
    steps_per_action: int | None = None
    method: str = "adam"
    hparams: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reward: str = "final"
    crash_penalty: float = 100.0
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            raise UsageError(
                f"{shown(self.task)} is not a task; make one with lrjax.tasks.make_task"
            )
        every = 1 if self.steps_per_action is None else self.steps_per_action
        for name, value in (("steps", self.steps), ("steps_per_action", every)):
            check_count(name, value)
        if self.steps_per_action is not None and every > self.steps:
            raise UsageError(
                f"steps_per_action is {every}, but an episode has "
                f"{counted(self.steps, 'step')}"
            )
        if self.reward not in REWARDS:
            raise unknown("reward", self.reward, REWARDS)
        if not any(self.dtype == each for each in (jnp.float32, jnp.float64)):
            raise UsageError(
                f"dtype is {shown(self.dtype)}, not jnp.float32 or jnp.float64"
            )
        if not _is_number(self.crash_penalty) or not 0 < self.crash_penalty < np.inf:
            raise UsageError(
                f"crash_penalty is {shown(self.crash_penalty)}; it must be positive, "
                "finite"
            )
        defaults = methods.find(self.method).defaults
        if "learning_rate" not in defaults or "schedule" not in defaults:
            raise UsageError(f"the rate of '{self.method}' cannot be set from outside")
        if not isinstance(self.hparams, Mapping):
            raise UsageError(f"hparams is {shown(self.hparams)}, no mapping from names")
        for name, value in self.hparams.items():
            if name not in defaults:
                raise unknown(f"hyperparameter of {self.method}", name, defaults)
            if name in _SET_BY_ACTIONS:
                raise UsageError(f"hparams: '{name}' is set by actions")
            if _is_number(defaults[name]) and not _is_number(value):
                raise UsageError(
                    f"hparams: {name} is {shown(value)}; it must be a number"
                )
        hyperparameters.normal(methods.find(self.method), self.hparams, self._precision)
        self._complete()

    @property
    def every(self) -> int:
        """Number of updates per action."""
        return self.steps_per_action or self.task.steps_per_epoch

    @property
    def num_actions(self) -> int:
        """Number of actions in an episode without a crash; the last may be shorter."""
        return -(-self.steps // self.every)

    @property
    def _precision(self) -> str:
        return "float64" if self.dtype == jnp.float64 else "float32"

    def _complete(self) -> dict[str, Any]:
        """All hyperparameters of the method, checked and completed."""
        method = methods.find(self.method)
        hparams = {**method.defaults, **self.hparams, **_SET_BY_ACTIONS}
        return hyperparameters.complete(method, hparams, self._precision)

    @functools.cached_property
    def _program(self) -> tuple[train.Program, dict[str, float]]:
        """The program of a run, and its traced hyperparameters."""
        method = methods.find(self.method)
        static, traced = methods.split(method, self._complete())
        program = train.single(
            self.task, method, static, self.every, 1, 1, dtype=self.dtype
        )
        return program, traced

    def reset(
        self, key: jax.Array, task: Task | Data | None = None
    ) -> tuple[EnvState, jax.Array]:
        """Start an episode.

        Args:
          key: decides initial parameters, order of the data and noise;
            `jax.random.key(7)` is seed 7 of an experiment.
          task: another task with the same functions and shapes, whose data replaces the
            environment's; `Data` can be stacked and vmapped over.

        Returns:
          The state, and the observation [10].

        Raises:
          UsageError: if `key` is no random key, or the shapes of the task's data
            differ.
        """
        _check_key(key)
        if self._precision == "float64" and not jax.config.values["jax_enable_x64"]:
            raise UsageError(
                "dtype is float64, which JAX computes in float32: before all else call "
                'jax.config.update("jax_enable_x64", True)'
            )
        data = () if task is None else self.rows(task)
        program, hparams = self._program
        seeds = train.seed_run(self.task.init, key)
        run = train.init_run(
            program,
            seeds.params,
            seeds.model_state,
            self._traced(hparams, 0.0),
            self.steps,
        )
        zero = jnp.zeros((), self.dtype)
        state = EnvState(
            run=run,
            gradient=train.Gradient(zero, (), ()),  # computed below
            order=seeds.order,
            noise=seeds.noise,
            step=jnp.int32(0),
            rate=zero,
            window=observation.empty_window(self.dtype),
            last_loss=jnp.asarray(jnp.nan, self.dtype),
            average=base.zeros_like(run.params),
            average_square=zero,
            valid={},
            done=jnp.asarray(False),
            data=data,
        )
        state = self._compute_gradient(state)
        state = state._replace(valid=self._evaluate(state))
        return state, self._observe(state, state)

    def step(
        self, state: EnvState, learning_rate: Any
    ) -> tuple[EnvState, jax.Array, jax.Array, jax.Array, dict[str, jax.Array]]:
        """Train with a rate until the next action or the end of the episode.

        Args:
          state: state of an episode.
          learning_rate: a scalar, not negative.

        Returns:
          The state, the observation [10], the reward, whether the episode is over, and
          `info`. If the state is traced, a step after the end changes nothing and its
          reward is 0.

        Raises:
          UsageError: if the rate is not a scalar; and, if they are not traced, for a
            rate that is negative or not finite and for a step after the end.
        """
        self._check_step(state, learning_rate)
        rate = jnp.asarray(learning_rate, self.dtype)
        program, hparams = self._program
        hparams = self._traced(hparams, rate)
        before = state
        bad = ~(jnp.isfinite(rate) & (rate >= 0)) & ~state.done
        state = state._replace(
            run=_mark_diverged(state.run, bad, state.step + 1),
            rate=jnp.where(state.done | bad, state.rate, rate),
            window=observation.empty_window(self.dtype),
            last_loss=state.window.loss,
        )

        def update(_, state: EnvState) -> EnvState:
            batch, key = self._batch(state)
            run = train.apply_run(
                program,
                state.run,
                state.gradient,
                batch,
                key,
                state.step,
                hparams,
                self.steps,
            )
            square_step = base.sum_leaves(
                lambda new, old: jnp.square(new - old),
                self.dtype,
                run.params,
                state.run.params,
            )
            state = state._replace(
                run=run,
                step=state.step + 1,
                window=state.window.add_update(square_step),
            )
            return self._compute_gradient(state)

        left = jnp.where(state.done, 0, self.steps - state.step)
        state = jax.lax.fori_loop(0, jnp.minimum(self.every, left), update, state)
        params = optim.eval_params(state.run.opt_state, state.run.params)
        finite = jax.tree.reduce(
            jnp.logical_and, jax.tree.map(lambda x: jnp.isfinite(x).all(), params)
        )
        run = _mark_diverged(state.run, ~finite, state.step)
        run = _mark_diverged(run, ~jnp.isfinite(state.gradient.loss), state.step + 1)
        state = state._replace(run=run, valid=self._evaluate(state))
        done = before.done | (run.diverged_at > 0) | (state.step >= self.steps)
        # A state after the end does not change.
        state = jax.tree.map(
            lambda old, new: jnp.where(before.done, old, new),
            before._replace(data=()),
            state._replace(data=(), done=done),
        )._replace(data=before.data)
        reward = jnp.where(before.done, 0, self._reward(before, state))
        return state, self._observe(before, state), reward, done, self.info(state)

    def _check_step(self, state: EnvState, learning_rate: Any) -> None:
        """Raise UsageError for the arguments that `step` refuses."""
        if shape := np.shape(learning_rate):
            raise UsageError(f"an action is one number, not of shape {shape}")
        if not isinstance(learning_rate, Tracer):
            check_rates(learning_rate, self.dtype)
        if not isinstance(state.done, Tracer) and np.asarray(state.done):
            raise UsageError("the episode is over: reset the environment first")

    def rows(self, task: Task | Data) -> Data:
        """Return the data of another task with the same shapes, for `reset`.

        Raises:
          UsageError: if the shapes differ.
        """
        if not isinstance(task, Task | Data):
            raise UsageError(f"{shown(task)} is neither a task nor the Data of one")
        data, own = Data(task.train, task.valid), Data(self.task.train, self.task.valid)
        if jax.tree.map(jnp.shape, data) != jax.tree.map(jnp.shape, own):
            raise UsageError(
                f"the rows given differ in shape from those of '{self.task.name}'"
            )
        return data

    def info(self, state: EnvState) -> dict[str, jax.Array]:
        """Further values for logs and policies, not transformed.

        Returns:
          Scalars `step`, `train_loss` (mean over the batches since the last action,
          including the next one), `learning_rate`, `diverged_at` (see
          `train.RunState`), `valid_loss` and other means over the validation part.
        """
        return {
            "step": state.step,
            "train_loss": state.window.loss,
            "learning_rate": state.rate,
            "diverged_at": state.run.diverged_at,
            **{f"valid_{name}": value for name, value in state.valid.items()},
        }

    def _traced(self, hparams: Mapping[str, float], rate: Any) -> dict[str, jax.Array]:
        """Convert hyperparameters and the rate to arrays, as in an experiment."""
        values = {**hparams, "learning_rate": rate}
        return {name: jnp.asarray(v, self.dtype) for name, v in values.items()}

    def _data(self, data: Data | tuple[()]) -> Data:
        """The data of an episode: its own, or the environment's if `data` is ()."""
        return data or Data(self.task.train, self.task.valid)

    def _batch(self, state: EnvState) -> tuple[Batch, jax.Array]:
        """The next batch and its noise key, as in `programs.segment`."""
        part = self._data(state.data).train
        n, size = len(next(iter(part.values()))), self.task.batch_size
        rows, mask = order.batches(state.order, state.step, 1, size, n)
        batch = {name: array[rows[0]] for name, array in part.items()}
        batch["mask"] = mask[0].astype(self.dtype)
        return batch, jax.random.fold_in(state.noise, state.step)

    def _compute_gradient(self, state: EnvState) -> EnvState:
        """Compute the next batch's gradient and add it to window and average."""
        batch, key = self._batch(state)
        run = state.run
        gradient = train.gradient_run(
            self._program[0], run.params, run.model_state, batch, key
        )
        square = base.sum_squares(gradient.grads, self.dtype)
        memory = observation.MEMORY
        average = jax.tree.map(
            lambda mean, g: memory * mean + (1 - memory) * g.astype(mean.dtype),
            state.average,
            gradient.grads,
        )
        return state._replace(
            gradient=gradient,
            window=state.window.add_batch(gradient.loss.astype(self.dtype), square),
            average=average,
            average_square=memory * state.average_square + (1 - memory) * square,
        )

    def _evaluate(self, state: EnvState) -> dict[str, jax.Array]:
        """Means over the validation part, by name."""
        params = optim.eval_params(state.run.opt_state, state.run.params)
        params, model_state = jax.tree.map(
            lambda x: x[None, None], (params, state.run.model_state)
        )
        values = evaluation.evaluate_part(
            self.task.evaluate,
            self.task.metrics,
            params,
            model_state,
            self._data(state.data).valid,
            evaluation.rows_at_once(self.task, 1),
            self.dtype,
        )
        return {name: value[0, 0].astype(self.dtype) for name, value in values.items()}

    def _observe(self, before: EnvState, state: EnvState) -> jax.Array:
        """The observation [10] of a state that followed `before`."""
        # Both averages start from zero and need the same bias correction. In their
        # ratio it is squared once and so remains as a single factor.
        seen = 1 - observation.MEMORY ** (state.step + 1).astype(self.dtype)
        square = base.sum_squares(state.average, self.dtype) / seen
        seen_part = observation.observe(
            state.step.astype(self.dtype) / self.steps,
            state.window,
            state.last_loss,
            state.rate,
            observation.noise_share(state.average_square, square),
        )
        valid = observation.logarithm(state.valid["loss"])
        change = valid - observation.logarithm(before.valid["loss"])
        diverged = (state.run.diverged_at > 0).astype(self.dtype)
        return jnp.concatenate([seen_part, jnp.stack([valid, change, diverged])])

    def _reward(self, before: EnvState, state: EnvState) -> jax.Array:
        """The reward of the action between two states."""
        crashed, penalty = state.run.diverged_at > 0, self.crash_penalty
        loss = jnp.where(crashed, penalty, jnp.minimum(state.valid["loss"], penalty))
        if self.reward == "final":
            return jnp.where(state.done, -loss, 0)
        if self.reward == "improvement":
            better = observation.logarithm(
                before.valid["loss"]
            ) - observation.logarithm(loss)
            return jnp.where(crashed, -penalty, better)
        left = self.num_actions - before.step // self.every
        return -loss * jnp.where(crashed, left, 1) / self.num_actions


def check_rates(rates: Any, dtype: Any = np.float32) -> None:
    """Check learning rates.

    Raises:
      UsageError: if a rate is not a real number, negative, or not finite in `dtype`.
    """
    array = np.asarray(rates)
    if array.dtype.kind not in "fiu" and array.dtype != jnp.bfloat16:
        raise UsageError(f"a learning rate is a number, not {shown(rates)}")
    with np.errstate(over="ignore"):
        values = array.astype(dtype)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise UsageError(f"a learning rate is 0 or more, and finite: not {rates}")


def _check_key(key: Any) -> None:
    """Refuse what is not one random key, typed or, as before, a row of uint32."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", ())
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if shape if typed else dtype != jnp.uint32 or len(shape) != 1:
        raise UsageError(
            f"key is {shown(key)}; it must be one random key, such as jax.random.key(0)"
        )


def _is_number(value: Any) -> bool:
    """Whether a value is a number, of Python or NumPy."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_count(name: str, value: Any) -> None:
    """Check a number of updates.

    Args:
      name: of the argument, for the message.
      value: the number.

    Raises:
      UsageError: if it is not whole, or not from 1 to what int32 can count.
    """
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not 1 <= value < 2**31:
        raise UsageError(
            f"{name} is {shown(value)}; it must be a whole number, 1 or more"
            f"{' and below 2**31' if whole and value > 0 else ''}"
        )


def _mark_diverged(
    run: train.RunState, bad: jax.Array, at: jax.Array
) -> train.RunState:
    """Mark a run as diverged at update `at` if `bad`, unless it diverged before.

    Args:
      run: state of a run.
      bad: scalar boolean.
      at: scalar int, number of the update, from 1.
    """
    at = jnp.where((run.diverged_at == 0) & bad, at, run.diverged_at)
    return run._replace(diverged_at=at.astype(jnp.int32))
