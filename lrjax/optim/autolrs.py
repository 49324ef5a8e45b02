"""AutoLRS: rates found on the way, by forecasts of the loss from short trials."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrjax.optim import base, bounds
from lrjax.optim.readings import scaled_rate

_PLACES = np.linspace(0.0, 1.0, 65)  # of rates on the logarithm of their interval
_POINTS = 16  # means of losses that a forecast is made from, at most
_LEAST = 4  # updates of a trial: two that move, two that go back
_LENGTH, _NOISE = 0.25, 1e-2  # of the Gaussian process; variance 1
_TIES = 1e-3  # of uncertainty, that the higher of two rates must have more
_DECAYS, _ZOOMS = 16, 6  # a search for the decay of the loss: trials, and how often
_SHORTEST = 1 / 16  # time that a loss decays in, in trials


class AutoLrsState(NamedTuple):
    """State of `autolrs`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate in use times that of the wrapped optimiser.
      place: where the rate in use is on the logarithm of the interval, from 0 to 1.
      places: those of the rates that the stage has tried, [candidates].
      forecasts: their forecasts; the largest number for a loss that was not finite.
      sums: of losses of the trial, by time, [16].
      start: mean of the first losses of the stage's trials.
      failed: number of losses of the trial that were not finite.
      saved: the parameters that each trial starts from.
      saved_inner: the state of the wrapped optimiser there.
      inner: state of the wrapped optimiser.
    """

    count: jax.Array
    learning_rate: jax.Array
    place: jax.Array
    places: jax.Array
    forecasts: jax.Array
    sums: jax.Array
    start: jax.Array
    failed: jax.Array
    saved: Any
    saved_inner: Any
    inner: Any


def _forecast(sums: jax.Array, number: jax.Array, after: jax.Array) -> jax.Array:
    """The value at time `after` of a exp(-b t) + c, fitted to losses by least squares.

    The slowest decay takes `after`, the fastest a sixteenth of the time of the losses.

    Args:
      sums: sums of the losses in equal parts of the time, [parts]; empty parts have 0.
      number: number of losses, at times 0, 1, ...
      after: the time to forecast.
    """
    dtype = sums.dtype
    parts = jnp.arange(len(sums) + 1, dtype=jnp.int32)
    edges = -((-parts * number) // len(sums))
    first, counts = edges[:-1].astype(dtype), jnp.diff(edges).astype(dtype)
    filled = jnp.maximum(counts, 1)
    n, until = number.astype(dtype), after.astype(dtype)
    means = sums / filled
    level = jnp.sum(sums) / n

    def fit(b):
        # Means of exp(-b t) over the parts, less that over all.
        curve = jnp.exp(-b * first) * jnp.expm1(-b * filled) / jnp.expm1(-b) / filled
        mean = jnp.sum(counts * curve) / n
        curve = curve - mean
        rise = jnp.sum(counts * curve * (means - level))
        a = base.safe_divide(rise, jnp.sum(counts * curve**2))
        error = jnp.sum(counts * (means - level - a * curve) ** 2)
        return error, level + a * (jnp.exp(-b * until) - mean)

    low, high = -jnp.log(until), -jnp.log(_SHORTEST * n)
    steps = jnp.linspace(0, 1, _DECAYS, dtype=dtype)
    forecast = level
    for _ in range(_ZOOMS):
        tried = low + (high - low) * steps
        errors, values = jax.vmap(fit)(jnp.exp(tried))
        best = jnp.argmin(errors)
        forecast = values[best]
        low = tried[jnp.maximum(best - 1, 0)]
        high = tried[jnp.minimum(best + 1, _DECAYS - 1)]
    return forecast


def _kernel(left: jax.Array, right: jax.Array) -> jax.Array:
    """Matern's covariance of smoothness 5/2 between places, [left, right]."""
    far = jnp.sqrt(jnp.asarray(5, left.dtype)) / _LENGTH
    distance = far * jnp.abs(left[:, None] - right)
    return (1 + distance + distance**2 / 3) * jnp.exp(-distance)


def _posterior(
    places: jax.Array, values: jax.Array, seen: jax.Array, at: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of a Gaussian process, given noisy values.

    Args:
      places, values: observations, [n].
      seen: which of them there are, [n].
      at: where to evaluate, [m].
    """
    both = seen[:, None] & seen
    noise = jnp.where(seen, _NOISE, 1).astype(places.dtype)
    covariance = jnp.where(both, _kernel(places, places), 0) + jnp.diag(noise)
    cross = jnp.where(seen[:, None], _kernel(places, at), 0)
    root = jnp.linalg.cholesky(covariance)
    solve = jax.scipy.linalg.solve_triangular
    cross = solve(root, cross, lower=True)
    values = solve(root, jnp.where(seen, values, 0), lower=True)
    mean = jnp.sum(cross * values[:, None], axis=0)
    variance = 1 - jnp.sum(cross**2, axis=0)
    return mean, jnp.sqrt(jnp.maximum(variance, 0))


def _next_place(
    places: jax.Array,
    forecasts: jax.Array,
    seen: jax.Array,
    start: jax.Array,
    kappa: jax.Array,
) -> jax.Array:
    """The place that was not yet tried with the lowest lower bound of the forecast.

    What is worse than standing still counts as standing still.
    """
    count = jnp.sum(seen).astype(places.dtype)
    values = jnp.minimum(forecasts, start)
    values = jnp.where(seen, values - jnp.sum(jnp.where(seen, values, 0)) / count, 0)
    spread = jnp.sqrt(jnp.sum(values**2) / count)
    at = jnp.asarray(_PLACES, places.dtype)
    mean, deviation = _posterior(places, base.safe_divide(values, spread), seen, at)
    tried = jnp.any(seen[:, None] & (places[:, None] == at), axis=0)
    bound = mean - kappa * (deviation - _TIES * at)
    return at[jnp.argmin(jnp.where(tried, jnp.inf, bound))]


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def autolrs(
    base_optimizer: optax.GradientTransformation,
    learning_rate: base.Scalar = 0.01,
    span: base.Scalar = 10.0,
    train_steps: base.Scalar = 1000,
    trial_steps: base.Scalar = 100,
    candidates: int = 10,
    kappa: base.Scalar = 2.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Search the rate of each stage by forecasts of the loss from short trials.

    A stage begins with a trial of each of `candidates` rates, one after the other. All
    start from the same parameters and state, to which they go back. A curve

    .. math::
      L(t) = a e^{-b t} + c

    is fitted to the losses of a trial, and its value at `train_steps` is the forecast.
    A Gaussian process on the logarithm of the rate, given the forecasts, has the mean
    :math:`\mu` and the standard deviation :math:`\sigma`; the next candidate is where
    :math:`\mu - \kappa \sigma` is lowest. The stage then trains `train_steps` updates
    with the rate whose forecast is lowest, and the next stage begins.

    All are updates, of which `candidates * trial_steps` in a stage lead nowhere. In a
    trial two are spent on going back, as rounding leaves something after the first.
    The parameters between are those of trials: evaluate, and end, where a stage ends.
    A trial with a loss that is not finite goes back at once and is the worst.
    `update` needs the loss of the batch as `value`.

    The paper and the authors' code leave open, or have otherwise:

    - The fit is by least squares over means of 16 equal parts of the trial, with
      :math:`1 / b` from a sixteenth of the trial to `train_steps`, searched on a
      logarithmic grid that is refined five times. The authors first drop outliers and
      smooth by a quadratic spline, and search b from 1 on without bounds.
    - The process has Matern's covariance of smoothness 5/2 with a length of a quarter
      of the interval and a noise of 0.01, for forecasts less their mean, over their
      standard deviation; a forecast above the loss at the start counts as that loss.
      Their library fits length and noise, and takes the forecasts as they are.
    - :math:`\kappa` is 2. Theirs, 1e6, spreads the candidates evenly.
    - Candidates are on a grid of 65 rates, none twice in a stage. The first is the
      rate in use. Theirs is drawn at random.
    - Stages have equal lengths and losses of batches. Theirs double from 1,000 to
      8,000 updates; the last have validation losses.

    Args:
      base_optimizer: the optimiser whose updates are scaled, with learning rate 1.
      learning_rate: the middle of the interval on its logarithm, and the first rate;
        a number or a traced number.
      span: the interval is from `learning_rate / span` to `learning_rate * span`.
      train_steps: number of updates of a stage after its search, rounded down.
      trial_steps: number of updates of a trial, rounded down; below 4 there is no
        search, and all updates have the first rate.
      candidates: number of trials of a stage, at most 64. Static.
      kappa: weight :math:`\kappa` of the uncertainty.

    Returns:
      The transformation, for parameters of any shapes. It keeps a copy of the
      parameters and one of the state of `base_optimizer`.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.autolrs(
      ...     optim.sgd(1.0), 0.1, train_steps=8, trial_steps=5, candidates=4
      ... )
      >>> state = transformation.init(params)
      >>> for _ in range(28):
      ...     loss = jnp.sum(params**2)
      ...     updates, state = transformation.update(
      ...         2 * params, state, params, value=loss
      ...     )
      ...     params = optax.apply_updates(params, updates)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.365

    References:
      Jin, Zhou, Zhao, Zhu, Guo, Canini and Krishnamurthy, `AutoLRS: Automatic
      Learning-Rate Schedule by Bayesian Optimization on the Fly
      <https://arxiv.org/abs/2105.10762>`_, 2021, Algorithm 1. Official implementation:
      ``autolrs_server.py`` of YuchenJin/autolrs, for PyTorch.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate, kappa=kappa)
    bounds.check(bounds.RATIO, span=span)
    bounds.check(bounds.COUNT, train_steps=train_steps)
    bounds.check(bounds.PAUSE, trial_steps=trial_steps)
    candidates = bounds.size("candidates", candidates, bounds.FEW)
    base_optimizer = optax.with_extra_args_support(base_optimizer)

    def init(params):
        dtype = base.scalar_dtype(params)
        inner = base_optimizer.init(params)
        rate = base.fresh(dtype, learning_rate)
        return AutoLrsState(
            count=jnp.zeros((), jnp.int32),
            learning_rate=scaled_rate(rate, inner),
            place=jnp.full((), 0.5, dtype),
            places=jnp.zeros(candidates, dtype),
            forecasts=jnp.zeros(candidates, dtype),
            sums=jnp.zeros(_POINTS, dtype),
            start=jnp.zeros((), dtype),
            failed=jnp.zeros((), jnp.int32),
            saved=base.copy(params),
            saved_inner=base.copy(inner),
            inner=inner,
        )

    def update(updates, state, params=None, *, value=None, **extra_args):
        params = base.require_params(params)
        dtype = state.place.dtype
        middle, ratio, weight, loss = base.scalars(
            dtype, learning_rate, span, kappa, base.require_value("value", value)
        )
        trained, length = base.scalars(jnp.int32, train_steps, trial_steps)
        length = jnp.where(length < _LEAST, 0, length)
        # Where in the stage this update is, and in its trial.
        now = state.count % (trained + candidates * length)
        trial, step = jnp.divmod(now, jnp.maximum(length, 1))
        trying = now < candidates * length
        begins, ends = trying & (step == 0), trying & (step == length - 1)
        trial = jnp.minimum(trial, candidates - 1)

        place = state.place
        rate = middle * ratio ** (2 * place - 1)
        known = jnp.isfinite(loss)
        failed = jnp.where(begins, 0, state.failed) + (~known).astype(jnp.int32)
        # The last but one loss of a trial is its last: the others are at the start.
        number = jnp.maximum(length - 1, 1)
        part = jnp.minimum(step * _POINTS // number, _POINTS - 1)
        told = jnp.where(known & (step < number), loss, 0)
        sums = jnp.where(begins, 0, state.sums).at[part].add(told)
        start = jnp.where(now == 0, loss, state.start)
        mean = start + (loss - start) / (trial + 1).astype(dtype)
        start = jnp.where(begins & known, mean, state.start)

        def judge(carry):
            """Keep a trial's forecast and choose the next rate; no second round."""
            wanted, places, forecasts, place, sums, number = carry
            worst = jnp.finfo(dtype).max
            found = _forecast(sums, number, trained)
            found = jnp.where((failed > 0) | ~jnp.isfinite(found), worst, found)
            places, forecasts = (
                places.at[trial].set(place),
                forecasts.at[trial].set(found),
            )
            seen = jnp.arange(candidates, dtype=jnp.int32) <= trial
            best = places[jnp.argmin(jnp.where(seen, forecasts, jnp.inf))]
            other = _next_place(places, forecasts, seen, start, weight)
            place = jnp.where(trial == candidates - 1, best, other)
            done = jax.tree.map(jnp.zeros_like, (wanted, sums, number))
            return done[0], places, forecasts, place, *done[1:]

        # A branch would be computed in every update of a population, and so would what
        # a round does not change.
        carry = ends, state.places, state.forecasts, place, sums, number
        carry = jax.lax.while_loop(lambda carry: carry[0], judge, carry)
        _, places, forecasts, coming, sums, _ = carry

        def of_stage(new, old):
            return jax.tree.map(lambda n, o: jnp.where(now == 0, n, o), new, old)

        saved = of_stage(params, state.saved)
        saved_inner = of_stage(state.inner, state.saved_inner)
        # Back in two updates: the second takes what rounding has left of the first.
        back = trying & ((step >= length - 2) | (failed > 0))
        steps, inner = base_optimizer.update(
            updates, state.inner, params, value=value, **extra_args
        )

        def move(step, param, home):
            change = (rate * step).astype(param.dtype)
            # What were infinite could not go back.
            stays = trying & ~jnp.isfinite(param + change)
            change = jnp.where(stays, 0, change)
            return jnp.where(back, home - param, change)

        return jax.tree.map(move, steps, params, saved), AutoLrsState(
            count=state.count + 1,
            learning_rate=scaled_rate(rate, inner),
            place=coming,
            places=places,
            forecasts=forecasts,
            sums=sums,
            start=start,
            failed=failed,
            saved=saved,
            saved_inner=saved_inner,
            inner=jax.tree.map(lambda n, o: jnp.where(back, o, n), inner, saved_inner),
        )

    return optax.GradientTransformationExtraArgs(init, update)
