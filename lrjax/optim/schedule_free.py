"""Schedule-Free optimisers: an average of the iterates instead of a schedule.

The parameters are y, where gradients are taken; the state keeps z, which the base
optimiser moves; the average x, the point to evaluate, follows from them:
y = b x + (1 - b) z. `eval_params` gives x.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds, passes
from lrjax.optim.prodigy import check, next_estimate


class Average(NamedTuple):
    """Weights of the average x, and the interpolation of y between x and z.

    Attributes:
      max_rate: largest learning rate so far.
      weight_sum: sum of the weights of all iterates.
      momentum: the factor b.
    """

    max_rate: jax.Array
    weight_sum: jax.Array
    momentum: jax.Array

    def next(
        self,
        count: jax.Array,
        rate: jax.Array,
        r: base.Scalar,
        weight_lr_power: base.Scalar,
    ) -> tuple[jax.Array, Average]:
        """Return the share of an iterate in the average x, and the next average.

        Args:
          count: scalar int, number of the iterate, from 0.
          rate: scalar, its learning rate.
          r, weight_lr_power: exponents of the weights, as for `schedule_free_sgd`.
        """
        power, lr_power = base.scalars(rate.dtype, r, weight_lr_power)
        max_rate = jnp.maximum(rate, self.max_rate)
        weight = (count + 1).astype(rate.dtype) ** power * max_rate**lr_power
        weight_sum = self.weight_sum + weight
        share = base.safe_divide(weight, weight_sum)
        return share, Average(max_rate, weight_sum, self.momentum)

    def follow(
        self, share: jax.Array, y: jax.Array, new_z: jax.Array, move: jax.Array
    ) -> jax.Array:
        """Return the change of y when the base optimiser moves z by `move` to `new_z`.

        x moves towards the new z by `share`, and y follows. The old z is not needed, so
        it can be overwritten first.

        Args:
          share: scalar, as returned by `next`.
          y, new_z, move: leaves of one shape.
        """
        return share * (new_z - y) + (1 - share) * (1 - self.momentum) * move

    def point(self, z: base.PyTree, y: base.PyTree) -> base.PyTree:
        """Return the average x."""
        away = 1 - 1 / self.momentum
        return base.where_kept(lambda z, y: (y + away * (z - y)).astype(y.dtype), z, y)


def _average(dtype: Any, momentum: base.Scalar) -> Average:
    """Return the average before the first iterate."""
    return Average(
        max_rate=jnp.zeros((), dtype),
        weight_sum=jnp.zeros((), dtype),
        momentum=base.fresh(dtype, momentum),
    )


class ScheduleFreeState(NamedTuple):
    """State of `schedule_free_sgd`, `schedule_free_adamw` and `schedule_free_radam`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the last update, warm-up included; before it, of the
        first.
      average: weights of the average.
      z: the iterate of the base optimiser.
      exp_avg_sq: average of squared gradients; None for SGD.
    """

    count: jax.Array
    learning_rate: jax.Array
    average: Average
    z: Any
    exp_avg_sq: Any

    def eval_params(self, params: base.PyTree) -> base.PyTree:
        """The average x, from the parameters y."""
        return self.average.point(self.z, params)


def _warmed_up(
    learning_rate: base.ScalarOrSchedule,
    warmup_steps: base.Scalar,
    count: jax.Array,
    dtype: Any,
) -> jax.Array:
    """The learning rate with a linear warm-up that ends at its full value.

    Args:
      learning_rate: a number or a schedule.
      warmup_steps: updates of the warm-up.
      count: scalar int, updates done.
      dtype: dtype of the result.
    """
    rate = base.rate_at(learning_rate, count, dtype)
    (length,) = base.scalars(dtype, warmup_steps)
    step = (count + 1).astype(dtype)
    return rate * jnp.where(step < length, step / jnp.maximum(length, 1), 1)


@base.any_leaves
def schedule_free_sgd(
    learning_rate: base.ScalarOrSchedule = 1.0,
    momentum: base.Scalar = 0.9,
    weight_decay: base.Scalar = 0.0,
    warmup_steps: base.Scalar = 0,
    r: base.Scalar = 0.0,
    weight_lr_power: base.Scalar = 2.0,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Schedule-Free SGD.

    With :math:`\gamma_t` the learning rate, warm-up included, and gradients at y:

    .. math::
      z_{t+1} &= z_t - \gamma_t (\nabla f(y_t) + w y_t) \\
      c_{t+1} &= \frac{w_t}{\sum_{i \le t} w_i}, \quad
        w_t = (t+1)^r (\max_{i \le t} \gamma_i)^p \\
      x_{t+1} &= (1-c_{t+1}) x_t + c_{t+1} z_{t+1} \\
      y_{t+1} &= \beta x_{t+1} + (1-\beta) z_{t+1}

    Args:
      learning_rate: the rate; "a learning rate 10x-50x larger than classical rates
        seems to be a good starting point". No schedule is needed with it.
      momentum: :math:`\beta`, between 0 and 1 exclusive; "values of 0.95 or 0.98 may
        help for very long runs".
      weight_decay: coefficient w of weight decay, taken at y.
      warmup_steps: number of steps of a linear warm-up.
      r: power of the step count in the weights of the average.
      weight_lr_power: power p of the largest rate in the weights of the average.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.schedule_free_sgd(0.1)
      >>> state = transformation.init(params)
      >>> for _ in range(200):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> averaged = optim.eval_params(state, params)
      >>> bool(jnp.abs(averaged).max() < 0.5)
      True

    References:
      Defazio et al., `The Road Less Scheduled <https://arxiv.org/abs/2405.15682>`_,
      2024. Official implementation: ``SGDScheduleFree`` of
      facebookresearch/schedule_free 1.4.1.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_steps=warmup_steps,
        weight_lr_power=weight_lr_power,
    )
    bounds.check(bounds.INSIDE, momentum=momentum)
    bounds.check(bounds.FINITE, r=r)

    def init(params):
        dtype = base.scalar_dtype(params)
        count = jnp.zeros((), jnp.int32)
        return ScheduleFreeState(
            count=count,
            learning_rate=_warmed_up(learning_rate, warmup_steps, count, dtype),
            average=_average(dtype, momentum),
            z=base.copy(params),
            exp_avg_sq=None,
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        rate = _warmed_up(learning_rate, warmup_steps, state.count, dtype)
        share, average = state.average.next(state.count, rate, r, weight_lr_power)

        def update_leaf(grad, y, z, has_decay):
            grad = base.add_decay(grad, y, weight_decay, dtype, has_decay)
            move = -rate * grad
            new_z = z + move
            change = average.follow(share, y, new_z, move)
            return change.astype(y.dtype), new_z.astype(z.dtype)

        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)
        changes, z = base.map_leaves(
            update_leaf, 2, updates, params, state.z, decay_flags
        )
        return changes, ScheduleFreeState(state.count + 1, rate, average, z, None)

    return optax.GradientTransformationExtraArgs(init, update)


def _schedule_free_adam(
    rate_at, b1, b2, eps, weight_decay, r, weight_lr_power, weight_decay_mask
) -> optax.GradientTransformationExtraArgs:
    """Schedule-Free AdamW or RAdam, depending on `rate_at`.

    `rate_at(count, dtype)` returns the rate of an update and whether to divide the
    gradient by Adam's denominator.

    Args:
      rate_at: the function above.
      b1, b2, eps, weight_decay, r, weight_lr_power, weight_decay_mask: as for
        `schedule_free_adamw`.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        eps=eps,
        weight_decay=weight_decay,
        weight_lr_power=weight_lr_power,
    )
    bounds.check(bounds.INSIDE, b1=b1)
    bounds.check(bounds.FRACTION, b2=b2)
    bounds.check(bounds.FINITE, r=r)

    def init(params):
        dtype = base.scalar_dtype(params)
        count = jnp.zeros((), jnp.int32)
        return ScheduleFreeState(
            count=count,
            learning_rate=rate_at(count, dtype)[0],
            average=_average(dtype, b1),
            z=base.copy(params),
            exp_avg_sq=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        beta2, epsilon = base.scalars(dtype, b2, eps)
        rate, adaptive = rate_at(state.count, dtype)
        share, average = state.average.next(state.count, rate, r, weight_lr_power)
        scale = 1 / base.bias_correction(beta2, state.count + 1)

        def update_leaf(grad, y, z, v, has_decay):
            v_new = beta2 * v + (1 - beta2) * (grad * grad)
            denominator = jnp.sqrt(scale * v_new) + epsilon
            direction = grad / jnp.where(adaptive, denominator, 1)
            direction = base.add_decay(direction, y, weight_decay, dtype, has_decay)
            move = -rate * direction
            new_z = z + move
            change = average.follow(share, y, new_z, move)
            return (
                change.astype(y.dtype),
                new_z.astype(z.dtype),
                v_new.astype(v.dtype),
            )

        changes, z, exp_avg_sq = base.map_leaves(
            update_leaf,
            3,
            updates,
            params,
            state.z,
            state.exp_avg_sq,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        return changes, ScheduleFreeState(state.count + 1, rate, average, z, exp_avg_sq)

    return optax.GradientTransformationExtraArgs(init, update)


@base.any_leaves
def schedule_free_adamw(
    learning_rate: base.ScalarOrSchedule = 0.0025,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    warmup_steps: base.Scalar = 0,
    r: base.Scalar = 0.0,
    weight_lr_power: base.Scalar = 2.0,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Schedule-Free AdamW.

    As `schedule_free_sgd`, with the gradient at y replaced by

    .. math::
      \frac{\nabla f(y_t)}{\sqrt{v_{t+1} / (1-\beta_2^{t+1})} + \epsilon} + w y_t,
      \quad v_{t+1} = \beta_2 v_t + (1-\beta_2) \nabla f(y_t)^2

    Args:
      learning_rate: the rate; "1x-10x larger than with schedule-based approaches". No
        schedule is needed with it.
      b1: how y is interpolated between x and z; "0.95 or 0.98 may help for very long
        runs".
      b2: decay of the second moment.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient w of weight decay, taken at y.
      warmup_steps: number of steps of a linear warm-up; the authors advise to use one.
      r: power of the step count in the weights of the average.
      weight_lr_power: power of the largest rate in the weights of the average.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.schedule_free_adamw(0.1)
      >>> state = transformation.init(params)
      >>> for _ in range(200):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> averaged = optim.eval_params(state, params)
      >>> bool(jnp.abs(averaged).max() < 0.5)
      True

    References:
      Defazio et al., `The Road Less Scheduled <https://arxiv.org/abs/2405.15682>`_,
      2024, Algorithm 1. Official implementation: ``AdamWScheduleFree`` of
      facebookresearch/schedule_free 1.4.1.
    """
    bounds.check(
        bounds.NONNEGATIVE, learning_rate=learning_rate, warmup_steps=warmup_steps
    )

    def rate_at(count, dtype):
        return _warmed_up(learning_rate, warmup_steps, count, dtype), True

    return _schedule_free_adam(
        rate_at, b1, b2, eps, weight_decay, r, weight_lr_power, weight_decay_mask
    )


@base.any_leaves
def schedule_free_radam(
    learning_rate: base.ScalarOrSchedule = 0.0025,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    r: base.Scalar = 0.0,
    weight_lr_power: base.Scalar = 2.0,
    silent_sgd_phase: bool | jax.Array = True,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Schedule-Free RAdam, which needs no warm-up.

    As `schedule_free_adamw` with the learning rate times RAdam's rectification

    .. math::
      \sqrt{\frac{(\rho_t-4)(\rho_t-2) \rho_\infty}
        {(\rho_\infty-4)(\rho_\infty-2) \rho_t}}, \quad
      \rho_\infty = \frac{2}{1-\beta_2} - 1, \quad
      \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1-\beta_2^t}

    where :math:`\rho_t > 4`; in the steps before, the rate is 0 or the step is SGD's.

    Args:
      learning_rate: the rate. No schedule or warm-up is needed with it.
      b1: how y is interpolated between x and z.
      b2: decay of the second moment.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient of weight decay, taken at y.
      r: power of the step count in the weights of the average.
      weight_lr_power: power of the largest rate in the weights of the average.
      silent_sgd_phase: make no step where :math:`\rho_t \le 4`, instead of one of SGD;
        "recommended".
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.schedule_free_radam(0.1)
      >>> state = transformation.init(params)
      >>> for _ in range(200):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> averaged = optim.eval_params(state, params)
      >>> bool(jnp.abs(averaged).max() < 0.5)
      True

    References:
      Defazio et al., `The Road Less Scheduled <https://arxiv.org/abs/2405.15682>`_,
      2024; Liu et al., `On the Variance of the Adaptive Learning Rate and Beyond
      <https://arxiv.org/abs/1908.03265>`_, 2020. Official implementation:
      ``RAdamScheduleFree`` of facebookresearch/schedule_free 1.4.1.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate)

    def rate_at(count, dtype):
        """The rectified rate, and whether to divide by Adam's denominator."""
        rate = base.rate_at(learning_rate, count, dtype)
        (beta2,) = base.scalars(dtype, b2)
        step = (count + 1).astype(dtype)
        power = beta2**step
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * step * power / (1 - power)
        adaptive = length > 4
        ratio = (length - 4) * (length - 2) * longest
        ratio /= (longest - 4) * (longest - 2) * length
        rectification = jnp.where(
            adaptive,
            jnp.sqrt(jnp.where(adaptive, ratio, 1)),
            jnp.where(silent_sgd_phase, 0, 1),
        )
        return rate * rectification, adaptive

    return _schedule_free_adam(
        rate_at, b1, b2, eps, weight_decay, r, weight_lr_power, weight_decay_mask
    )


class ScheduleFreeProdigyState(NamedTuple):
    """State of `schedule_free_prodigy`.

    Attributes:
      count: number of updates made.
      step: how many of them had a nonzero learning rate and gradient.
      d: estimate of the distance to the solution.
      d_max: the largest estimate so far.
      numerator: weighted sum of <gradient, z_0 - z>.
      learning_rate: d times the learning rate of the last update, with d as before that
        update; before it, of the first.
      average: weights of the average.
      z: the iterate of Prodigy.
      s: weighted sum of gradients.
      start: the initial parameters.
      exp_avg_sq: average of squared gradients times d squared.
    """

    count: jax.Array
    step: jax.Array
    d: jax.Array
    d_max: jax.Array
    numerator: jax.Array
    learning_rate: jax.Array
    average: Average
    z: Any
    s: Any
    start: Any
    exp_avg_sq: Any

    def eval_params(self, params: base.PyTree) -> base.PyTree:
        """The average x, from the parameters y."""
        return self.average.point(self.z, params)


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def schedule_free_prodigy(
    learning_rate: base.ScalarOrSchedule = 1.0,
    momentum: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    b3: base.Scalar | None = None,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    d0: base.Scalar = 1e-6,
    d_coef: base.Scalar = 1.0,
    growth_rate: base.Scalar = float("inf"),
    safeguard_warmup: bool | jax.Array = False,
    r: base.Scalar = 0.0,
    weight_lr_power: base.Scalar = 2.0,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Schedule-Free around Prodigy without momentum.

    Prodigy with :math:`\beta_1 = 0` moves z by the gradients at y: its distance is that
    of z from the start, its weight decay is taken at z. The average is that of
    `schedule_free_sgd` with the rates :math:`\gamma_t d_{t+1}`.

    Args:
      learning_rate: factor :math:`\gamma` of the estimate, to be left at 1.
      momentum: how y is interpolated between x and z, between 0 and 1 exclusive.
      b2: decay of the second moment.
      b3: decay of the averages that estimate d; the root of `b2` if None.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient of decoupled weight decay, taken at z.
      d0: initial estimate of d; "rarely needs changing".
      d_coef: coefficient of the estimate, "the preferred way to tune the method".
      growth_rate: bound on the growth of d in one step.
      safeguard_warmup: leave the learning rate out of `s`; turn it on with a warm-up.
      r: power of the step count in the weights of the average.
      weight_lr_power: power of the largest rate in the weights of the average.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. It equals
      ``ScheduleFreeWrapper(Prodigy(betas=(0, 0.999)))`` of
      facebookresearch/schedule_free 1.4.1 and konstmish/prodigy 1.1.2.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.schedule_free_prodigy(d0=1e-3)
      >>> state = transformation.init(params)
      >>> for _ in range(200):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> averaged = optim.eval_params(state, params)
      >>> bool(jnp.abs(averaged).max() < 0.5)
      True

    References:
      Defazio et al., `The Road Less Scheduled <https://arxiv.org/abs/2405.15682>`_,
      2024; Mishchenko and Defazio, `Prodigy: An Expeditiously Adaptive Parameter-Free
      Learner <https://arxiv.org/abs/2306.06101>`_, 2023.
    """
    check(learning_rate, b2, b3, eps, weight_decay, d0, d_coef, growth_rate)
    bounds.check(bounds.INSIDE, momentum=momentum)
    bounds.check(bounds.NONNEGATIVE, weight_lr_power=weight_lr_power)
    bounds.check(bounds.FINITE, r=r)

    def init(params):
        dtype = base.scalar_dtype(params)
        count = jnp.zeros((), jnp.int32)
        d = base.fresh(dtype, d0)
        return ScheduleFreeProdigyState(
            count=count,
            step=jnp.zeros((), jnp.int32),
            d=d,
            d_max=base.fresh(dtype, d0),
            numerator=jnp.zeros((), dtype),
            learning_rate=d * base.rate_at(learning_rate, count, dtype),
            average=_average(dtype, momentum),
            z=base.copy(params),
            s=base.zeros_like(params),
            start=base.copy(params),
            exp_avg_sq=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.d.dtype
        beta2, epsilon, decay = base.scalars(dtype, b2, eps, weight_decay)
        beta3 = jnp.sqrt(beta2) if b3 is None else jnp.asarray(b3, dtype)
        rate = base.rate_at(learning_rate, state.count, dtype)
        dlr = state.d * rate
        active = dlr > 0  # a rate of 0 leaves the averages as they are
        keep2, keep3 = (jnp.where(active, b, 1) for b in (beta2, beta3))
        relative = jnp.where(active, state.d / jnp.asarray(d0, dtype), 0)
        weight = relative * jnp.where(safeguard_warmup, state.d, dlr)

        def estimate(grad, z, s, start, v):
            """The leaf's <gradient, x_0 - z> and L1 norm of s; the new averages."""
            new_s = keep3 * s + weight * grad
            new_v = keep2 * v + (1 - keep2) * jnp.square(state.d) * (grad * grad)
            return (
                jnp.sum(grad * (start - z), dtype=dtype),
                jnp.sum(jnp.abs(new_s), dtype=dtype),
                new_s.astype(s.dtype),
                new_v.astype(v.dtype),
            )

        products, norms, s, v = base.map_leaves(
            estimate, 4, updates, state.z, state.s, state.start, state.exp_avg_sq
        )
        norm = base.total(norms, dtype)
        moved = active & (norm > 0)
        numerator = beta3 * state.numerator + relative * dlr * base.total(
            products, dtype
        )
        d, d_max = next_estimate(
            state.d, state.d_max, numerator, norm, d0, d_coef, growth_rate, moved
        )
        # In the official code the wrapper advances the counter, and so does Prodigy if
        # it moves.
        steps = state.step + moved.astype(jnp.int32)
        share, average = state.average.next(
            state.count + steps, rate * d, r, weight_lr_power
        )
        factor, floor = dlr * d, d * epsilon
        # With a factor from after the sums XLA recomputes the move, not stores it.
        (one,) = passes.after(share, jnp.ones((), dtype))

        def step(grad, y, z, v, has_decay):
            """The change of y and the new z of a leaf."""
            decayed = -jnp.where(moved, decay * dlr, 0) * z if has_decay else 0

            def move(one):
                return -factor * grad / (base.root(one * v) + floor)

            # Two additions, as in the official code, for the same rounding.
            new_z = (z + decayed) + move(1)
            change = average.follow(share, y, new_z, move(one) + decayed)
            return change.astype(y.dtype), new_z.astype(z.dtype)

        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)
        changes, z = base.map_leaves(step, 2, updates, params, state.z, v, decay_flags)
        return changes, ScheduleFreeProdigyState(
            count=state.count + 1,
            step=steps,
            d=d,
            d_max=d_max,
            numerator=jnp.where(moved, numerator, state.numerator),
            learning_rate=dlr,
            average=average,
            z=z,
            s=s,
            start=state.start,
            exp_avg_sq=v,
        )

    return optax.GradientTransformationExtraArgs(init, update)
