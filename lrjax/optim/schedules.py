"""Learning-rate schedules in closed form, traceable in every number.

Each function takes the peak `learning_rate` first and returns a `Schedule`: a
function from the number of updates made so far (0 at the first update; a number or an
array) to the learning rate, of the same shape. Unlike in Optax's schedules, all
arguments may be traced, as integers or floats, so one compiled program runs many
schedules under `jax.vmap`.

Conventions:
- Lengths (`horizon`, `warmup_steps`, `T_0`, `step_size`, ...) are in updates and
  need not be whole. A length of zero is safe: no NaN, neither in the value nor in
  its gradients.
- `horizon` is the number of updates that a schedule is laid out for. As in Optax
  and in PyTorch's closed forms, the final value is that of `step == horizon`; the
  last of `horizon` updates, `step == horizon - 1`, is one step short of it.
  `one_cycle` alone follows PyTorch in reaching it at `horizon - 1`.
- From its end on, a schedule holds its last value. Those without a horizon
  (`step`, `exponential`, `inverse_sqrt`, `inverse_power`, `cosine_warm_restarts`) have
  no end.
- Numbers that are known, not traced, and out of bounds (a negative length, NaN) raise
  a ValueError of one line.
- Results are float32, or float64 under `jax_enable_x64`, whatever the inputs'
  types. In float32 steps are exact up to 2**24.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lrjax.optim import base, bounds

Schedule = Callable[[ArrayLike], jax.Array]


def constant(learning_rate: ArrayLike) -> Schedule:
    """The same learning rate at every step.

    Args:
      learning_rate: the value.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.constant(0.1)
      >>> [round(float(rate(step)), 4) for step in (0, 100)]
      [0.1, 0.1]

    Source: optax.constant_schedule.
    """
    bounds.check(bounds.FINITE, learning_rate=learning_rate)
    return lambda step: _real(learning_rate) * jnp.ones_like(_real(step))


def linear(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    final_learning_rate: ArrayLike = 0.0,
) -> Schedule:
    """A straight line from `learning_rate` to `final_learning_rate`.

    lr(t) = lr + (final - lr) min(t / horizon, 1)

    Args:
      learning_rate: value at step 0.
      horizon: steps until the final value.
      final_learning_rate: value from step `horizon` on.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.linear(0.1, horizon=100)
      >>> [round(float(rate(step)), 4) for step in (0, 50, 100)]
      [0.1, 0.05, 0.0]

    Source: PyTorch's LinearLR with start_factor 1.
    """
    return polynomial(learning_rate, horizon, 1.0, final_learning_rate)


def cosine(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    final_learning_rate: ArrayLike = 0.0,
) -> Schedule:
    """Half a cosine wave from `learning_rate` to `final_learning_rate`.

    lr(t) = final + (lr - final) (1 + cos(pi min(t / horizon, 1))) / 2

    Args:
      learning_rate: value at step 0.
      horizon: steps until the final value.
      final_learning_rate: value from step `horizon` on; may exceed
        `learning_rate`, the wave then runs upward.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.cosine(0.1, horizon=100)
      >>> [round(float(rate(step)), 4) for step in (0, 50, 100)]
      [0.1, 0.05, 0.0]

    Source: Loshchilov and Hutter, "SGDR" (2017), one cycle; the closed form of
    PyTorch's CosineAnnealingLR, which however rises again after its end.
    """
    _check(learning_rate, final_learning_rate)
    bounds.check(bounds.NONNEGATIVE, horizon=horizon)

    def schedule(step: ArrayLike) -> jax.Array:
        return _anneal(learning_rate, final_learning_rate, _progress(step, horizon))

    return schedule


def cosine_warm_restarts(
    learning_rate: ArrayLike,
    T_0: ArrayLike,
    t_mult: ArrayLike = 1,
    eta_min: ArrayLike = 0.0,
) -> Schedule:
    """Cosine waves from `learning_rate` to `eta_min`, each `t_mult` times longer.

    Cycle i has T_i = T_0 t_mult^i steps and starts at s_i = T_0 (1 + ... +
    t_mult^(i-1)); within it
    lr(t) = eta_min + (lr - eta_min) (1 + cos(pi (t - s_i) / T_i)) / 2.
    The next cycle starts, at `learning_rate`, where the wave would reach `eta_min`.

    The cycle follows in closed form from the geometric series, and is exact in
    float32 where T_0 and t_mult are whole. Restarts have no end; `fit_first_cycle`
    makes a cycle end where training ends.

    Args:
      learning_rate: value at each restart.
      T_0: steps of the first cycle.
      t_mult: growth of the cycles, at least 1 (smaller values count as 1), whole
        or not.
      eta_min: lower end of the waves.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.cosine_warm_restarts(0.1, T_0=10, t_mult=2)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 20, 30)]
      [0.1, 0.05, 0.1, 0.05, 0.1]

    Source: Loshchilov and Hutter, "SGDR" (2017); PyTorch's
    CosineAnnealingWarmRestarts.
    """
    bounds.check(bounds.FINITE, learning_rate=learning_rate, eta_min=eta_min)
    bounds.check(bounds.NONNEGATIVE, T_0=T_0, t_mult=t_mult)

    def schedule(step: ArrayLike) -> jax.Array:
        step, first, growth = _real(step), _length(T_0), _real(t_mult)
        whole = (first == jnp.round(first)) & (growth == jnp.round(growth))

        def start(cycle: jax.Array) -> jax.Array:
            steps = first * _series(growth, cycle)
            return jnp.where(whole, jnp.round(steps), steps)

        # The logarithm's rounding cannot be trusted at a boundary, so take the
        # nearest cycle and step back if that one has not started yet.
        cycle = jnp.round(_cycles(growth, step / first))
        cycle -= (step < start(cycle)).astype(cycle.dtype)
        length = first * jnp.maximum(growth, 1.0) ** cycle
        return _anneal(learning_rate, eta_min, _progress(step - start(cycle), length))

    return schedule


def fit_first_cycle(T_0: ArrayLike, t_mult: ArrayLike, horizon: ArrayLike) -> jax.Array:
    """The length of the first cycle, near `T_0`, for which a cycle ends at `horizon`.

    The number of cycles is the whole number, at least 1, nearest to
    c = log(1 + (t_mult - 1) horizon / T_0) / log(t_mult), for which cycles grown
    from `T_0` would take `horizon` steps (c = horizon / T_0 if t_mult is 1).

    Args:
      T_0: desired steps of the first cycle.
      t_mult: growth of the cycles, at least 1.
      horizon: steps after which a cycle ends.

    Returns:
      `T_0` for `cosine_warm_restarts`, in steps, not whole in general; scalar.

    Example:
      >>> from lrjax.optim import schedules
      >>> round(float(schedules.fit_first_cycle(10, 2, horizon=140)), 2)
      9.33

    Source: none; it inverts the geometric series of `cosine_warm_restarts`.
    """
    bounds.check(bounds.NONNEGATIVE, T_0=T_0, t_mult=t_mult, horizon=horizon)
    growth, horizon = _real(t_mult), _length(horizon)
    cycles = jnp.maximum(jnp.round(_cycles(growth, horizon / _length(T_0))), 1.0)
    return horizon / _series(growth, cycles)


def step(
    learning_rate: ArrayLike, step_size: ArrayLike, gamma: ArrayLike = 0.1
) -> Schedule:
    """A staircase: times `gamma` after every `step_size` steps.

    lr(t) = lr gamma^floor(t / step_size)

    Args:
      learning_rate: value at step 0.
      step_size: steps between two changes.
      gamma: factor of each change.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.step(0.1, step_size=30)
      >>> [round(float(rate(step)), 4) for step in (0, 29, 30, 60)]
      [0.1, 0.1, 0.01, 0.001]

    Source: PyTorch's StepLR.
    """
    bounds.check(bounds.FINITE, learning_rate=learning_rate)
    bounds.check(bounds.NONNEGATIVE, step_size=step_size, gamma=gamma)

    def schedule(step: ArrayLike) -> jax.Array:
        step, size = _real(step), _length(step_size)
        # Compilers may divide by multiplying with 1 / step_size, which can fall
        # short of a whole number: take the nearest stair, go back if too early.
        stair = jnp.round(step / size)
        stair -= (step < stair * size).astype(stair.dtype)
        return _real(learning_rate) * _real(gamma) ** stair

    return schedule


def exponential(
    learning_rate: ArrayLike, gamma: ArrayLike, step_size: ArrayLike = 1
) -> Schedule:
    """Smooth exponential decay: times `gamma` over every `step_size` steps.

    lr(t) = lr gamma^(t / step_size)

    Args:
      learning_rate: value at step 0.
      gamma: factor over `step_size` steps, positive.
      step_size: steps. Prefer a long one: in float32 a factor per step is off by
        up to 6e-8 of itself, and the t-th power by t times that.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.exponential(0.1, gamma=0.5, step_size=10)
      >>> [round(float(rate(step)), 4) for step in (0, 10, 20)]
      [0.1, 0.05, 0.025]

    Source: PyTorch's ExponentialLR (step_size 1).
    """
    bounds.check(bounds.FINITE, learning_rate=learning_rate)
    bounds.check(bounds.POSITIVE, gamma=gamma)
    bounds.check(bounds.NONNEGATIVE, step_size=step_size)

    def schedule(step: ArrayLike) -> jax.Array:
        return _real(learning_rate) * _real(gamma) ** (_real(step) / _length(step_size))

    return schedule


def polynomial(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    power: ArrayLike = 1.0,
    final_learning_rate: ArrayLike = 0.0,
) -> Schedule:
    """A power of the steps that are left.

    lr(t) = final + (lr - final) (1 - min(t / horizon, 1))^power

    Args:
      learning_rate: value at step 0.
      horizon: steps until the final value.
      power: positive; 1 is a straight line.
      final_learning_rate: value from step `horizon` on.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.polynomial(0.1, horizon=100, power=2)
      >>> [round(float(rate(step)), 4) for step in (0, 50, 100)]
      [0.1, 0.025, 0.0]

    Source: PyTorch's PolynomialLR.
    """
    _check(learning_rate, final_learning_rate)
    bounds.check(bounds.NONNEGATIVE, horizon=horizon)
    bounds.check(bounds.POSITIVE, power=power)

    def schedule(step: ArrayLike) -> jax.Array:
        left = 1.0 - _progress(step, horizon)
        # A Python integer is multiplied out.
        exponent = power if isinstance(power, int) else _real(power)
        # The inner `where` keeps the gradient of 0^power out.
        rest = jnp.where(left > 0, jnp.where(left > 0, left, 1.0) ** exponent, 0.0)
        return _mix(learning_rate, final_learning_rate, rest)

    return schedule


def inverse_sqrt(learning_rate: ArrayLike, timescale: ArrayLike) -> Schedule:
    """Decay with the inverse square root of the step.

    lr(t) = lr sqrt(timescale / (timescale + t))

    `warmup(inverse_sqrt(lr, w), w)` is the schedule of the Transformer, with the
    value lr sqrt(w / t) after w steps of warm-up.

    Args:
      learning_rate: value at step 0.
      timescale: steps after which the value has fallen by a factor sqrt(2).

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.inverse_sqrt(0.1, timescale=100)
      >>> [round(float(rate(step)), 4) for step in (0, 300)]
      [0.1, 0.05]

    Source: Vaswani et al., "Attention is all you need" (2017), section 5.3.
    """
    bounds.check(bounds.FINITE, learning_rate=learning_rate)
    bounds.check(bounds.NONNEGATIVE, timescale=timescale)

    def schedule(step: ArrayLike) -> jax.Array:
        scale = _length(timescale)
        return _real(learning_rate) * jnp.sqrt(scale / (scale + _real(step)))

    return schedule


def one_cycle(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    pct_start: ArrayLike = 0.3,
    div_factor: ArrayLike = 25.0,
    final_div_factor: ArrayLike = 1e4,
) -> Schedule:
    """Half a cosine wave up to `learning_rate`, and one far down.

    From lr / div_factor at step 0 to lr at step pct_start horizon - 1, then to
    lr / (div_factor final_div_factor) at step horizon - 1.

    Args:
      learning_rate: the peak.
      horizon: steps in all.
      pct_start: fraction of the horizon (not percent) spent on the way up.
      div_factor: peak over value at step 0.
      final_div_factor: value at step 0 over last value.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.one_cycle(0.1, horizon=100)
      >>> [round(float(rate(step)), 7) for step in (0, 29, 99)]
      [0.004, 0.1, 4e-07]

    Source: Smith and Topin, "Super-convergence" (2018); PyTorch's OneCycleLR with
    its defaults, and without its cycled momentum.
    """
    bounds.check(bounds.FINITE, learning_rate=learning_rate)
    bounds.check(bounds.NONNEGATIVE, horizon=horizon)
    bounds.check(bounds.SHARE, pct_start=pct_start)
    bounds.check(
        bounds.POSITIVE, div_factor=div_factor, final_div_factor=final_div_factor
    )

    def schedule(step: ArrayLike) -> jax.Array:
        step, steps = _real(step), _real(horizon)
        top = _real(pct_start) * steps - 1.0
        low = _real(learning_rate) / _real(div_factor)
        up = _anneal(low, learning_rate, _progress(step, top))
        down = _progress(step - top, steps - 1.0 - top)
        down = _anneal(learning_rate, low / _real(final_div_factor), down)
        return jnp.where(step <= top, up, down)

    return schedule


def warmup_stable_decay(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    warmup_steps: ArrayLike,
    decay_steps: ArrayLike,
    final_learning_rate: ArrayLike = 0.0,
    decay_power: ArrayLike = 1.0,
) -> Schedule:
    """Linear warm-up from zero, a plateau, and a decay at the end.

    lr(t) = min(t / warmup_steps, 1) (final + (lr - final) (1 - over(t)^decay_power)),
    over(t) = 1 - min((horizon - t) / decay_steps, 1), and 1 past the horizon

    A decay can begin at any step: `horizon` and `decay_steps` are where it ends and
    how long it takes. For a decay decided during a run, see `optim.cooldown`.

    Args:
      learning_rate: the plateau.
      horizon: steps in all, warm-up and decay included.
      warmup_steps: steps of the warm-up.
      decay_steps: steps of the decay.
      final_learning_rate: value from step `horizon` on.
      decay_power: shape of the decay, positive: 1 is a straight line, 1/2 the
        "1-sqrt" that falls fast at first.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.warmup_stable_decay(
      ...     0.1, horizon=100, warmup_steps=10, decay_steps=20
      ... )
      >>> [round(float(rate(step)), 4) for step in (0, 5, 50, 90, 100)]
      [0.0, 0.05, 0.1, 0.05, 0.0]

    Source: Hu et al., "MiniCPM" (2024), with the decays of Hägele et al., "Scaling
    laws and compute-optimal training beyond fixed training durations" (2024).
    """
    _check(learning_rate, final_learning_rate)
    bounds.check(
        bounds.NONNEGATIVE,
        horizon=horizon,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
    )
    bounds.check(bounds.POSITIVE, decay_power=decay_power)

    def schedule(step: ArrayLike) -> jax.Array:
        step, steps = _real(step), _real(horizon)
        left = jnp.where(step < steps, _progress(steps - step, decay_steps), 0.0)
        left = base.falling(left, decay_power)
        return _progress(step, warmup_steps) * _mix(
            learning_rate, final_learning_rate, left
        )

    return schedule


def power(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    timescale: ArrayLike,
    exponent: ArrayLike = 0.51,
    decay_steps: ArrayLike = 0,
    final_learning_rate: ArrayLike = 0.0,
) -> Schedule:
    """A plateau, a power law of the steps, and a linear decay at the end.

    lr(t) = final + (lr min(1, (timescale / t)^exponent) - final) left(t),
    left(t) = min((horizon - t) / decay_steps, 1), and 0 past the horizon

    In the paper's terms, with batches of B tokens in S sequences, the rate after n
    tokens is min(lr, S a n^b): exponent is -b, and timescale = (lr / (S a))^(1/b) / B.
    For language models they take a = 4 and b = -0.51. Stages before the decay do not
    depend on the horizon.

    Args:
      learning_rate: the largest value.
      horizon: steps in all.
      timescale: steps after which the power law goes below `learning_rate`.
      exponent: of the power law, positive.
      decay_steps: steps of the decay; 0 for none before the horizon.
      final_learning_rate: value from step `horizon` on.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.power(0.1, 100, timescale=10, exponent=0.5, decay_steps=20)
      >>> [round(float(rate(step)), 4) for step in (0, 10, 40, 90, 100)]
      [0.1, 0.1, 0.05, 0.0167, 0.0]

    Source: Shen et al., "Power scheduler: a batch size and token number agnostic
    learning rate scheduler" (2024); its warm-up is `warmup`, and the shape of the
    decay at the end is that of `warmup_stable_decay`.
    """
    _check(learning_rate, final_learning_rate)
    bounds.check(
        bounds.NONNEGATIVE,
        horizon=horizon,
        timescale=timescale,
        decay_steps=decay_steps,
    )
    bounds.check(bounds.POSITIVE, exponent=exponent)

    def schedule(step: ArrayLike) -> jax.Array:
        step, steps, scale = _real(step), _real(horizon), _length(timescale)
        left = jnp.where(step < steps, _progress(steps - step, decay_steps), 0.0)
        law = (scale / jnp.maximum(step, scale)) ** _real(exponent)
        return _mix(_real(learning_rate) * law, final_learning_rate, left)

    return schedule


def inverse_power(
    learning_rate: ArrayLike, timescale: ArrayLike, power: ArrayLike = 1.0
) -> Schedule:
    """Decay with a power of the step.

    lr(t) = lr (1 + t / timescale)^(-power)

    Args:
      learning_rate: value at step 0.
      timescale: steps after which the value has fallen by a factor 2^power.
      power: positive; 1/2 is `inverse_sqrt`.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.inverse_power(0.1, timescale=100)
      >>> [round(float(rate(step)), 4) for step in (0, 100, 300)]
      [0.1, 0.05, 0.025]

    Source: Robbins and Monro, "A stochastic approximation method" (1951), for power
    1; Caffe's policy "inv", whose gamma is 1 / timescale.
    """
    bounds.check(bounds.FINITE, learning_rate=learning_rate)
    bounds.check(bounds.NONNEGATIVE, timescale=timescale)
    bounds.check(bounds.POSITIVE, power=power)

    def schedule(step: ArrayLike) -> jax.Array:
        scale = _length(timescale)
        return _real(learning_rate) * (scale / (scale + _real(step))) ** _real(power)

    return schedule


def refined(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    gradient_norms: ArrayLike,
    smoothing: float = 0.1,
    power: ArrayLike = 2.0,
) -> Schedule:
    """The schedule that is best for the gradient norms of an earlier run.

    With n recorded norms, smoothed by a running median to G_0, ..., G_(n-1), and
    w_i = G_i^(-power),

    lr(i) proportional to w_i (w_(i+1) + ... + w_(n-1)),

    with `learning_rate` as its largest value, stretched from n to `horizon` steps with
    straight lines in between. Where norms stay the same this is `linear`; where they
    fall at first it has a warm-up.

    Args:
      learning_rate: the largest value.
      horizon: steps until zero; n for the same length as the earlier run.
      gradient_norms: positive norms at equal distances in time, [n] with n of at least
        2. Euclidean for SGD, the sum of absolute values for Adam.
      smoothing: share of n that the running median looks at, from 0 to 1, known while
        tracing. Memory is n times this share of n.
      power: 2 for SGD with Euclidean norms; 1 for Adam.

    Returns:
      f(step) -> learning rate.

    Raises:
      ValueError: if `gradient_norms` is no list of at least two numbers; one line.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.refined(0.1, 5, [3.0, 2.0, 1.0, 1.0, 1.0], smoothing=0)
      >>> [round(float(rate(step)), 4) for step in (0, 1, 2, 3, 4)]
      [0.0181, 0.0375, 0.1, 0.05, 0.0]

    Source: Defazio, Cutkosky, Mehta and Mishchenko, "When, why and how much? Adaptive
    learning rate scheduling by refinement" (2023), Algorithm 1 with the median filter
    of its section 3.1; facebookresearch/adaptive_scheduling, which leaves the scale
    open.
    """
    bounds.check(bounds.FINITE, learning_rate=learning_rate)
    bounds.check(bounds.NONNEGATIVE, horizon=horizon)
    bounds.check(bounds.SHARE, smoothing=smoothing)
    bounds.check(bounds.POSITIVE, power=power)
    if np.ndim(gradient_norms) != 1 or np.shape(gradient_norms)[0] < 2:
        raise ValueError("gradient_norms must be a list of at least two numbers")

    def schedule(step: ArrayLike) -> jax.Array:
        norms = _running_median(_real(gradient_norms), smoothing)
        # A norm of zero counts as the smallest that is not.
        least = jnp.min(jnp.where(norms > 0, norms, jnp.inf))
        relative = jnp.where(norms > 0, least / norms, 1.0)
        weights = relative ** _real(power)
        tails = jnp.cumsum(weights[::-1])[::-1]
        table = weights * jnp.append(tails[1:], 0.0)
        table = table / jnp.max(table)
        place = _progress(step, horizon) * len(norms)
        return _real(learning_rate) * jnp.interp(
            place, _real(np.arange(len(norms))), table
        )

    return schedule


def rex(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    beta: ArrayLike = 0.5,
    final_learning_rate: ArrayLike = 0.0,
) -> Schedule:
    """Reflected exponential: above the straight line, steepest at the end.

    lr(t) = final + (lr - final) z / (1 - beta + beta z),  z = 1 - min(t / horizon, 1)

    Args:
      learning_rate: value at step 0.
      horizon: steps until the final value.
      beta: bend, from 0 (a straight line) to below 1.
      final_learning_rate: value from step `horizon` on.

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.rex(0.1, horizon=100)
      >>> [round(float(rate(step)), 4) for step in (0, 50, 100)]
      [0.1, 0.0667, 0.0]

    Source: Chen, Wolfe and Kyrillidis, "REX: Revisiting budgeted training with an
    improved schedule" (2022), where beta is 1/2.
    """
    _check(learning_rate, final_learning_rate)
    bounds.check(bounds.NONNEGATIVE, horizon=horizon)
    bounds.check(bounds.FRACTION, beta=beta)

    def schedule(step: ArrayLike) -> jax.Array:
        left = 1.0 - _progress(step, horizon)
        bend = _real(beta)
        bent = left / (1.0 - bend + bend * left)
        return _mix(learning_rate, final_learning_rate, bent)

    return schedule


def warmup(
    schedule: Schedule,
    warmup_steps: ArrayLike,
    initial_learning_rate: ArrayLike = 0.0,
) -> Schedule:
    """A linear warm-up, after which `schedule` starts from its step 0.

    lr(t) = initial + (schedule(0) - initial) t / warmup_steps  for t < warmup_steps
    lr(t) = schedule(t - warmup_steps)  from there on

    To end at `horizon`, lay `schedule` out for `horizon - warmup_steps`.

    Args:
      schedule: the schedule that follows.
      warmup_steps: steps of the warm-up; with 0 the result is `schedule` itself.
      initial_learning_rate: value at step 0. With the default, zero, the first
        update moves nothing (as in Optax and Transformers).

    Returns:
      f(step) -> learning rate.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.warmup(schedules.constant(0.1), warmup_steps=10)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10)]
      [0.0, 0.05, 0.1]

    Source: Goyal et al., "Accurate, large minibatch SGD" (2017); joined in time as
    by PyTorch's SequentialLR and by optax.join_schedules.
    """
    bounds.check(bounds.NONNEGATIVE, warmup_steps=warmup_steps)
    bounds.check(bounds.FINITE, initial_learning_rate=initial_learning_rate)

    def warmed(step: ArrayLike) -> jax.Array:
        step = _real(step)
        after = schedule(jnp.maximum(step - _real(warmup_steps), 0.0))
        return _mix(after, initial_learning_rate, _progress(step, warmup_steps))

    return warmed


SCHEDULES: dict[str, Callable[[ArrayLike, ArrayLike], Schedule]] = {
    "constant": lambda learning_rate, horizon: constant(learning_rate),
    "linear": linear,
    "cosine": cosine,
    "cosine_warm_restarts": lambda learning_rate, horizon: cosine_warm_restarts(
        learning_rate, _real(horizon) / 15, 2
    ),
    "step": lambda learning_rate, horizon: step(learning_rate, _real(horizon) / 3),
    "exponential": lambda learning_rate, horizon: exponential(
        learning_rate, 0.01, horizon
    ),
    "polynomial": lambda learning_rate, horizon: polynomial(learning_rate, horizon, 2),
    "inverse_sqrt": lambda learning_rate, horizon: inverse_sqrt(
        learning_rate, _real(horizon) / 10
    ),
    "one_cycle": one_cycle,
    "warmup_stable_decay": lambda learning_rate, horizon: warmup_stable_decay(
        learning_rate, horizon, 0, _real(horizon) / 5
    ),
    "rex": rex,
    "warmup_stable_sqrt": lambda learning_rate, horizon: warmup_stable_decay(
        learning_rate, horizon, 0, _real(horizon) / 5, decay_power=0.5
    ),
    "power": lambda learning_rate, horizon: power(
        learning_rate, horizon, _real(horizon) / 10, 0.51, _real(horizon) / 10
    ),
    "inverse_power": lambda learning_rate, horizon: inverse_power(
        learning_rate, _real(horizon) / 10, 0.75
    ),
}
# Schedules that do not decay towards the horizon: stopping a run early gives about what
# a shorter run would give. All others are bound to their horizon.
ANYTIME = frozenset({"constant", "inverse_sqrt", "inverse_power"})


def by_name(
    name: str,
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    warmup_steps: ArrayLike = 0,
) -> Schedule:
    """Make the schedule called `name`, with lengths that are fractions of the horizon.

    With h = horizon - warmup_steps:
    - constant, linear, cosine, one_cycle, rex: as defined here, over h steps;
    - cosine_warm_restarts: four cycles of h/15, 2h/15, 4h/15 and 8h/15 steps;
    - step: a tenth after each third of h;
    - exponential: down to a hundredth over h;
    - polynomial: power 2, over h;
    - inverse_sqrt: timescale h/10;
    - warmup_stable_decay: decay over the last h/5; its warm-up is `warmup_steps`;
    - warmup_stable_sqrt: the same with `decay_power` 1/2;
    - power: timescale h/10, exponent 0.51, decay over the last h/10;
    - inverse_power: power 3/4, timescale h/10.

    Args:
      name: a key of `SCHEDULES`.
      learning_rate: the peak.
      horizon: steps in all, warm-up included.
      warmup_steps: steps of linear warm-up from zero, before the schedule.

    Returns:
      f(step) -> learning rate.

    Raises:
      ValueError: if there is no such schedule.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.by_name("cosine", 0.1, horizon=110, warmup_steps=10)
      >>> [round(float(rate(step)), 4) for step in (0, 5, 10, 60, 110)]
      [0.0, 0.05, 0.1, 0.05, 0.0]

    Source: as for each schedule.
    """
    if name not in SCHEDULES:
        near = difflib.get_close_matches(name, SCHEDULES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        names = ", ".join(SCHEDULES)
        raise ValueError(f"No schedule {name!r}.{hint} Valid names: {names}.")
    bounds.check(bounds.NONNEGATIVE, horizon=horizon, warmup_steps=warmup_steps)
    remaining = _real(horizon) - _real(warmup_steps)
    return warmup(SCHEDULES[name](learning_rate, remaining), warmup_steps)


def _running_median(values: jax.Array, share: float) -> jax.Array:
    """The median of a window around each value, of about `share` of all values."""
    width = 2 * (int(share * len(values)) // 2) + 1
    half = width // 2
    padded = jnp.pad(jnp.pad(values, (half, 0), "edge"), (0, half), "reflect")
    windows = padded[np.arange(len(values))[:, None] + np.arange(width)]
    return jnp.sort(windows, axis=1)[:, half]


def _check(learning_rate: ArrayLike, final_learning_rate: ArrayLike) -> None:
    """Check both ends of a schedule."""
    bounds.check(
        bounds.FINITE,
        learning_rate=learning_rate,
        final_learning_rate=final_learning_rate,
    )


def _real(number: ArrayLike) -> jax.Array:
    """`number` in JAX's default float type, never weakly typed."""
    return jnp.asarray(number, jnp.result_type(float))


def _length(steps: ArrayLike) -> jax.Array:
    """`steps` as a divisor: 1 if it is 0."""
    steps = _real(steps)
    return jnp.where(steps > 0, steps, 1.0)


def _progress(step: ArrayLike, steps: ArrayLike) -> jax.Array:
    """The fraction of `steps` that is over at `step`, in [0, 1]; 1 if `steps` is 0."""
    step = _real(step)
    part = jnp.clip(step / _length(steps), 0.0, 1.0)
    # Exactly 1 at the end, however the division rounds.
    return jnp.where(step >= _real(steps), 1.0, part)


def _mix(a: ArrayLike, b: ArrayLike, weight: jax.Array) -> jax.Array:
    """`a` at weight 1, `b` at weight 0, exactly."""
    return weight * _real(a) + (1.0 - weight) * _real(b)


def _anneal(start: ArrayLike, end: ArrayLike, progress: jax.Array) -> jax.Array:
    """Half a cosine wave from `start` to `end`."""
    return _mix(start, end, (1.0 + jnp.cos(jnp.pi * progress)) / 2.0)


def _series(growth: jax.Array, cycles: jax.Array) -> jax.Array:
    """1 + growth + ... + growth^(cycles-1), the length of `cycles` cycles."""
    # (growth^cycles - 1) / excess, in the form that keeps more digits.
    excess = _excess(growth)
    near_one = jnp.expm1(cycles * jnp.log1p(excess))
    return jnp.where(excess < 0.1, near_one, growth**cycles - 1.0) / excess


def _cycles(growth: jax.Array, length: jax.Array) -> jax.Array:
    """The number of cycles, not whole in general, whose `_series` is `length`."""
    excess = _excess(growth)
    return jnp.log1p(excess * length) / jnp.log1p(excess)


def _excess(growth: jax.Array) -> jax.Array:
    """`growth` - 1, at least 1e-12, so that equal cycles are not a special case."""
    return jnp.maximum(growth - 1.0, 1e-12)
