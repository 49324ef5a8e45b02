"""Learning rates that react to the progress of the loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds
from lrjax.optim.arguments import ArgumentError
from lrjax.optim.readings import scaled_rate


def _is_better(
    value: jax.Array, best: jax.Array, rtol: jax.Array, atol: jax.Array
) -> jax.Array:
    """Whether `value` is below `best` by a margin, whatever the sign of both.

    Args:
      value, best: scalars.
      rtol, atol: relative and absolute margin.
    """
    margin = jnp.where(jnp.isfinite(best), rtol * jnp.abs(best) + atol, 0)
    return value < best - margin


def _number(condition: jax.Array) -> jax.Array:
    """Convert a condition to an int32, to be added to a count."""
    return condition.astype(jnp.int32)


def _observation(value: Any, metric: Any, dtype: Any) -> jax.Array:
    """The value or metric that an update is given; NaN for none."""
    told = value if metric is None else metric
    if told is None:
        raise ArgumentError(
            "needs the loss, update(..., value=loss), at every step; or metric, NaN at "
            "steps without an evaluation"
        )
    told = jnp.asarray(told, dtype)
    return jnp.where(told == -jnp.inf, jnp.nan, told)  # else nothing would be better


class ReduceOnPlateauState(NamedTuple):
    """State of `reduce_on_plateau`.

    Attributes:
      scale: factor of the updates.
      best: the best observation so far.
      bad_count: observations since then.
      cooldown_count: observations to ignore until a new scale is judged.
      sum: sum of the values for the next observation.
      count: number of them.
      learning_rate: `scale` times the rate of the wrapped transformation, after the
        last update; before it, at the first.
      inner: state of the wrapped transformation.
    """

    scale: jax.Array
    best: jax.Array
    bad_count: jax.Array
    cooldown_count: jax.Array
    sum: jax.Array
    count: jax.Array
    learning_rate: jax.Array
    inner: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def reduce_on_plateau(
    base_optimizer: optax.GradientTransformation,
    factor: base.Scalar = 0.1,
    patience: base.Scalar = 10,
    rtol: base.Scalar = 1e-4,
    atol: base.Scalar = 0.0,
    cooldown: base.Scalar = 0,
    min_scale: base.Scalar = 0.0,
    accumulation_size: base.Scalar = 1,
) -> optax.GradientTransformationExtraArgs:
    r"""Reduce the learning rate when the loss stops falling.

    An observation f is better than the best one, :math:`f_*`, if

    .. math::
      f < f_* - (\mathrm{rtol} |f_*| + \mathrm{atol}),

    which works for negative losses too. After more than `patience` observations that
    are not better, the scale of the updates is multiplied by `factor`.

    `update` takes `value`, the loss, at every step; or `metric` (lower is better), NaN
    at steps without an evaluation. A reduction applies to the same update.

    Args:
      base_optimizer: the optimiser whose updates are scaled, with its learning rate or
        schedule.
      factor: factor of the scale.
      patience: number of observations without progress that are tolerated.
      rtol: relative margin of progress.
      atol: absolute margin of progress.
      cooldown: observations after a reduction that are ignored, rounded down.
      min_scale: lower limit of the scale.
      accumulation_size: number of values that are averaged to one observation, for
        example the steps of an epoch.

    Returns:
      The transformation, for parameters of any shapes. It equals
      ``torch.optim.lr_scheduler.ReduceLROnPlateau`` on positive losses and has its
      defaults.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.ones(2)
      >>> transformation = optim.reduce_on_plateau(
      ...     optim.sgd(0.1), factor=0.5, patience=1
      ... )
      >>> state = transformation.init(params)
      >>> for loss in (1.0, 2.0, 2.0):
      ...     updates, state = transformation.update(params, state, params, value=loss)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.05

    References:
      PyTorch's documentation. Official implementation:
      ``torch.optim.lr_scheduler.ReduceLROnPlateau``.
    """
    bounds.check(bounds.FRACTION, factor=factor)
    bounds.check(bounds.CAP, patience=patience)
    bounds.check(bounds.NONNEGATIVE, rtol=rtol, atol=atol, min_scale=min_scale)
    bounds.check(bounds.PAUSE, cooldown=cooldown)
    bounds.check(bounds.POSITIVE, accumulation_size=accumulation_size)
    base_optimizer = optax.with_extra_args_support(base_optimizer)

    def init(params):
        dtype = base.scalar_dtype(params)
        inner = base_optimizer.init(params)
        scale = jnp.ones((), dtype)
        return ReduceOnPlateauState(
            scale=scale,
            best=jnp.full((), jnp.inf, dtype),
            bad_count=jnp.zeros((), jnp.int32),
            cooldown_count=jnp.zeros((), jnp.int32),
            sum=jnp.zeros((), dtype),
            count=jnp.zeros((), jnp.int32),
            learning_rate=scaled_rate(scale, inner),
            inner=inner,
        )

    def update(updates, state, params=None, *, value=None, metric=None, **extra_args):
        dtype = state.scale.dtype
        shrink, relative, absolute, lowest, size, longest = base.scalars(
            dtype, factor, rtol, atol, min_scale, accumulation_size, patience
        )
        (pause,) = base.scalars(jnp.int32, cooldown)
        told = _observation(value, metric, dtype)
        missing = jnp.isnan(told)
        sum_ = state.sum + jnp.where(missing, 0, told)
        count = state.count + _number(~missing)
        observed = ~missing & (count.astype(dtype) >= size)

        mean = sum_ / jnp.maximum(count, 1).astype(dtype)
        better = observed & _is_better(mean, state.best, relative, absolute)
        bad_count = jnp.where(better, 0, state.bad_count + _number(observed))
        cooling = state.cooldown_count > 0
        cooldown_count = state.cooldown_count - _number(cooling & observed)
        bad_count = jnp.where(cooling, 0, bad_count)
        reduce = bad_count.astype(dtype) > longest
        scale = jnp.where(
            reduce,
            jnp.minimum(state.scale, jnp.maximum(state.scale * shrink, lowest)),
            state.scale,
        )
        steps, inner = base_optimizer.update(
            updates, state.inner, params, value=value, metric=metric, **extra_args
        )
        steps = jax.tree.map(lambda u: (scale * u).astype(u.dtype), steps)
        return steps, ReduceOnPlateauState(
            scale=scale,
            best=jnp.where(better, mean, state.best),
            bad_count=jnp.where(reduce, 0, bad_count),
            cooldown_count=jnp.where(reduce, pause, cooldown_count),
            sum=jnp.where(observed, 0, sum_),
            count=jnp.where(observed, 0, count),
            learning_rate=scaled_rate(scale, inner),
            inner=inner,
        )

    return optax.GradientTransformationExtraArgs(init, update)


class GreedyLrState(NamedTuple):
    """State of `greedy_lr`.

    Attributes:
      rate: factor of the updates.
      best: the best observation so far.
      good_count: consecutive observations that were better.
      bad_count: consecutive observations that were not.
      cooldown_count: observations to ignore until a lower rate is judged.
      warmup_count: observations to ignore until a higher rate is judged.
      reset_count: reductions at the lowest rate until everything is reset.
      values: [window_size], the last values.
      count: number of valid entries of `values`.
      learning_rate: `rate` times the rate of the wrapped transformation, after the last
        update; before it, at the first.
      inner: state of the wrapped transformation.
    """

    rate: jax.Array
    best: jax.Array
    good_count: jax.Array
    bad_count: jax.Array
    cooldown_count: jax.Array
    warmup_count: jax.Array
    reset_count: jax.Array
    values: jax.Array
    count: jax.Array
    learning_rate: jax.Array
    inner: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def greedy_lr(
    base_optimizer: optax.GradientTransformation,
    learning_rate: base.Scalar = 0.1,
    factor: base.Scalar = 0.95,
    patience: base.Scalar = 10,
    rtol: base.Scalar = 0.0,
    atol: base.Scalar = 1e-6,
    cooldown: base.Scalar = 0,
    warmup: base.Scalar = 0,
    min_lr: base.Scalar = 1e-3,
    max_lr: base.Scalar = 1.0,
    eps: base.Scalar = 1e-8,
    window_size: int = 1,
    reset_start: base.Scalar = 500,
) -> optax.GradientTransformationExtraArgs:
    r"""Raise the learning rate while the loss falls and lower it while it does not.

    After more than `patience` consecutive observations that are better than the best
    one the rate is divided by `factor`; after as many that are not it is multiplied.
    "Better" is as in `reduce_on_plateau`, and so are `value` and `metric`.

    Args:
      base_optimizer: the optimiser whose updates are scaled, with learning rate 1.
      learning_rate: the initial rate, a number or a traced number.
      factor: factor of the rate, below 1.
      patience: the rate changes after patience + 1 consecutive observations.
      rtol: relative margin of progress.
      atol: absolute margin of progress.
      cooldown: observations after a reduction that are ignored, rounded down.
      warmup: observations after an increase that are ignored, rounded down.
      min_lr: lowest rate.
      max_lr: highest rate.
      eps: changes of the rate up to this size are not made.
      window_size: number of last values that are averaged to an observation. Static.
      reset_start: number of reductions at the lowest rate, without an increase, after
        which rate and state are reset.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation, which has no default for the initial rate.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.ones(2)
      >>> transformation = optim.greedy_lr(optim.sgd(1.0), 0.1, factor=0.5, patience=1)
      >>> state = transformation.init(params)
      >>> for loss in (3.0, 2.0):
      ...     updates, state = transformation.update(params, state, params, value=loss)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.2

    References:
      Subramanian et al., `GreedyLR: A Novel Adaptive Learning Rate Scheduler
      <https://arxiv.org/abs/2512.14527>`_, 2025. Official implementation: ``GreedyLR``
      of huggingface/transformers.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        rtol=rtol,
        atol=atol,
        min_lr=min_lr,
        max_lr=max_lr,
        eps=eps,
    )
    bounds.check(bounds.INSIDE, factor=factor)
    bounds.check(bounds.CAP, patience=patience)
    bounds.check(bounds.PAUSE, cooldown=cooldown, warmup=warmup)
    bounds.check(bounds.COUNT, reset_start=reset_start)
    window_size = bounds.size("window_size", window_size)
    base_optimizer = optax.with_extra_args_support(base_optimizer)

    def init(params):
        dtype = base.scalar_dtype(params)
        inner = base_optimizer.init(params)
        rate = base.fresh(dtype, learning_rate)
        zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731
        return GreedyLrState(
            rate=rate,
            best=jnp.full((), jnp.inf, dtype),
            good_count=zero(),
            bad_count=zero(),
            cooldown_count=zero(),
            warmup_count=zero(),
            reset_count=jnp.asarray(reset_start, jnp.int32) + zero(),
            values=jnp.zeros(window_size, dtype),
            count=zero(),
            learning_rate=scaled_rate(rate, inner),
            inner=inner,
        )

    def update(updates, state, params=None, *, value=None, metric=None, **extra_args):
        dtype = state.rate.dtype
        first, shrink, relative, absolute, lowest, highest, least = base.scalars(
            dtype, learning_rate, factor, rtol, atol, min_lr, max_lr, eps
        )
        (longest,) = base.scalars(dtype, patience)
        cool, warm, restart = base.scalars(jnp.int32, cooldown, warmup, reset_start)
        told = _observation(value, metric, dtype)
        observed = ~jnp.isnan(told)
        values = jnp.where(
            observed, jnp.roll(state.values, 1).at[0].set(told), state.values
        )
        count = jnp.minimum(state.count + _number(observed), window_size)
        current = jnp.sum(values) / jnp.maximum(count, 1).astype(dtype)

        cooling = state.cooldown_count > 0
        warming = ~cooling & (state.warmup_count > 0)
        judged = observed & ~cooling & ~warming
        better = judged & _is_better(current, state.best, relative, absolute)
        worse = judged & ~better
        best = jnp.where(better, current, state.best)
        pause = observed & ~judged
        good_count = jnp.where(worse | pause, 0, state.good_count + _number(better))
        bad_count = jnp.where(better | pause, 0, state.bad_count + _number(worse))
        up, down = (n.astype(dtype) > longest for n in (good_count, bad_count))

        higher = jnp.minimum(state.rate / shrink, highest)
        lower = jnp.maximum(state.rate * shrink, lowest)
        rate = jnp.where(up & (higher - state.rate > least), higher, state.rate)
        rate = jnp.where(down & (state.rate - lower > least), lower, rate)
        reset_count = state.reset_count - _number(down & (rate <= lowest))
        reset = reset_count <= 0
        renew = up | reset

        steps, inner = base_optimizer.update(
            updates, state.inner, params, value=value, metric=metric, **extra_args
        )
        rate = jnp.where(reset, first, rate)
        steps = jax.tree.map(lambda u: (rate * u).astype(u.dtype), steps)

        return steps, GreedyLrState(
            rate=rate,
            best=jnp.where(reset, jnp.inf, best),
            good_count=jnp.where(up | reset, 0, good_count),
            bad_count=jnp.where(down | reset, 0, bad_count),
            cooldown_count=jnp.where(
                down, cool, state.cooldown_count - _number(cooling & observed)
            ),
            warmup_count=jnp.where(
                up, warm, state.warmup_count - _number(warming & observed)
            ),
            reset_count=jnp.where(renew, restart, reset_count),
            values=jnp.where(reset, 0, values),
            count=jnp.where(reset, 0, count),
            learning_rate=scaled_rate(rate, inner),
            inner=inner,
        )

    return optax.GradientTransformationExtraArgs(init, update)
