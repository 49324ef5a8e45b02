"""ScheduleFree+: Schedule-Free AdamW with a Polyak step size in place of a rate.

As in `schedule_free`, the parameters are y, and x follows from y and z.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds, passes
from lrjax.optim.schedule_free import Average


class ScheduleFreePlusState(NamedTuple):
    """State of `schedule_free_plus`.

    Attributes:
      count: number of updates made.
      learning_rate: the step size of the last update; -inf before it.
      average: weights of the average, and the interpolation b of the parameters.
      norm_avg: average n of the gradient's norm, from 0.
      z: the iterate that AdamW moves.
      exp_avg: average of gradients.
      exp_avg_sq: average of squared gradients.
    """

    count: jax.Array
    learning_rate: jax.Array
    average: Average
    norm_avg: jax.Array
    z: Any
    exp_avg: Any
    exp_avg_sq: Any

    def eval_params(self, params: base.PyTree) -> base.PyTree:
        """The average x, from the parameters y."""
        return self.average.point(self.z, params)


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def schedule_free_plus(
    learning_rate: base.ScalarOrSchedule = 1.0,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.95,
    sf_beta1: base.Scalar = 0.9,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    r: base.Scalar = 0.0,
    polyak_beta: base.Scalar = 0.0,
    c_warmup: base.Scalar = 0,
    sf_beta1_anneal_steps: base.Scalar = 0,
    sf_beta1_max: base.Scalar = 0.965,
    weight_lr_power: base.Scalar = 2.0,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""ScheduleFree+: no learning rate and no schedule.

    With gradients g at the parameters y, the loss f there and Adam's corrected averages
    :math:`\hat m, \hat v`:

    .. math::
      n_{t+1} &= \frac{\beta_p n_t + (1-\beta_p) \sqrt{\pi / 2} \, \|g_t\|_1}
        {1 - \beta_p^{t+1}}, \quad
      \alpha_t = \gamma_t
        \frac{\max(f_t + b_t \langle g_t, z_t - x_t \rangle, 0)}{n_{t+1}} \\
      z_{t+1} &= z_t - \alpha_t \frac{\hat m_{t+1}}{\sqrt{\hat v_{t+1}} + \epsilon}
        - \alpha_t^2 w y_t \\
      x_{t+1} &= (1-c_{t+1}) x_t + c_{t+1} z_{t+1}, \quad
        c_{t+1} = \frac{w_t}{\sum_{i \le t} w_i}, \quad
        w_t = (t+1)^r (\max_{i \le t} \alpha_i)^p \\
      y_{t+1} &= b_t x_{t+1} + (1-b_t) z_{t+1}

    `update` needs the loss of the batch as the extra argument `value`; it must stay
    above 0. `eval_params` gives x.

    Args:
      learning_rate: factor :math:`\gamma` of the step size, such as a warm-up.
      b1: decay of the average of gradients.
      b2: decay of the second moment.
      sf_beta1: how y is interpolated between x and z, b above.
      eps: term outside of the root in the denominator; also the least factor
        :math:`\gamma`.
      weight_decay: coefficient w of weight decay, taken at y and multiplied by the
        square of the step size; "values should be more like 20 or 50 than 0.1".
      r: power of the step count in the weights of the average; "try r=2 as well".
      polyak_beta: decay :math:`\beta_p` of the average of the gradient's norm, the sum
        of absolute values; 0 for none. As in the official code the average goes on
        from its corrected value: with 0.9 it is up to 4,000 times too large, and steps
        as much too small, in the first 100 updates, and with 0.99 nothing moves.
      c_warmup: updates at first in which x is z; "1x or 2x the lr warmup".
      sf_beta1_anneal_steps: updates over which 1 - b falls from `1 - sf_beta1` to
        `1 - sf_beta1_max`, along a line in its logarithm; 0 for no change.
      sf_beta1_max: b from then on.
      weight_lr_power: power p of the largest step size in the weights of the average.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation. A gradient of zero, with which that stops in an error,
      makes a step size of 0.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.schedule_free_plus(0.3)
      >>> state = transformation.init(params)
      >>> for _ in range(200):
      ...     updates, state = transformation.update(
      ...         2 * params, state, params, value=jnp.sum(params**2)
      ...     )
      ...     params = optax.apply_updates(params, updates)
      >>> averaged = optim.eval_params(state, params)
      >>> bool(jnp.abs(averaged).max() < 0.5)
      True

    References:
      Defazio, `ScheduleFree+: Scaling Learning-Rate-Free & Schedule-Free Learning to
      Large Language Models <https://arxiv.org/abs/2605.19095>`_, 2026. Official
      implementation: ``AdamCScheduleFreePlusPaper`` of facebookresearch/schedule_free.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        eps=eps,
        weight_decay=weight_decay,
        c_warmup=c_warmup,
        sf_beta1_anneal_steps=sf_beta1_anneal_steps,
        weight_lr_power=weight_lr_power,
    )
    bounds.check(bounds.FRACTION, b1=b1, b2=b2, polyak_beta=polyak_beta)
    bounds.check(bounds.INSIDE, sf_beta1=sf_beta1, sf_beta1_max=sf_beta1_max)
    bounds.check(bounds.FINITE, r=r)

    def init(params):
        dtype = base.scalar_dtype(params)
        return ScheduleFreePlusState(
            count=jnp.zeros((), jnp.int32),
            learning_rate=base.none_yet(dtype),
            average=Average(
                max_rate=base.fresh(dtype, eps),
                weight_sum=jnp.zeros((), dtype),
                momentum=base.fresh(dtype, sf_beta1),
            ),
            norm_avg=jnp.zeros((), dtype),
            z=base.copy(params),
            exp_avg=base.zeros_like(params),
            exp_avg_sq=base.zeros_like(params),
        )

    def interpolation(count, dtype):
        """The factor b of an update."""
        first, last, steps = base.scalars(
            dtype, sf_beta1, sf_beta1_max, sf_beta1_anneal_steps
        )
        part = base.safe_divide(count.astype(dtype), steps)
        part = jnp.where(steps > 0, jnp.minimum(part, 1), 0)
        return 1 - (1 - first) ** (1 - part) * (1 - last) ** part

    def update(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.norm_avg.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        beta1, beta2, keep, epsilon, decay, start, loss = base.scalars(
            dtype,
            b1,
            b2,
            polyak_beta,
            eps,
            weight_decay,
            c_warmup,
            base.require_value("value", value),
        )
        old_b, new_b = state.average.momentum, interpolation(state.count, dtype)
        # The norm of the gradient, and <g, z - y>: z - x is (z - y) / b.
        norm, slope = passes.sums(
            lambda grad, y, z: (jnp.abs(grad), grad * (z - y)),
            2,
            dtype,
            updates,
            params,
            state.z,
        )
        size = keep * state.norm_avg + (1 - keep) * norm * math.sqrt(math.pi / 2)
        size = size / base.bias_correction(keep, state.count + 1)
        gap = jnp.maximum(loss + new_b / old_b * slope, 0)
        alpha = jnp.maximum(rate, epsilon) * base.safe_divide(gap, size)
        alpha = base.if_finite(loss, alpha)

        share, average = state.average.next(state.count, alpha, r, weight_lr_power)
        alone = state.count.astype(dtype) < start
        share = jnp.where(alone, 1, share)
        weight_sum = jnp.where(alone, state.average.weight_sum, average.weight_sum)
        average = Average(average.max_rate, weight_sum, new_b)

        scale1 = 1 / base.bias_correction(beta1, state.count + 1)
        scale2 = 1 / base.bias_correction(beta2, state.count + 1)
        kept = new_b * (1 - share)  # of the old x in the new y

        def update_leaf(grad, y, z, m, v, has_decay):
            new_m = beta1 * m + (1 - beta1) * grad
            new_v = beta2 * v + (1 - beta2) * (grad * grad)
            move = -alpha * (scale1 * new_m) / (jnp.sqrt(scale2 * new_v) + epsilon)
            if has_decay:
                move = move - alpha * alpha * decay * y
            new_z = z + move
            change = (1 - kept / old_b) * (new_z - y) + kept * (1 / old_b - 1) * move
            return (
                change.astype(y.dtype),
                new_z.astype(z.dtype),
                new_m.astype(m.dtype),
                new_v.astype(v.dtype),
            )

        changes, z, exp_avg, exp_avg_sq = base.map_leaves(
            update_leaf,
            4,
            updates,
            params,
            state.z,
            state.exp_avg,
            state.exp_avg_sq,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        return changes, ScheduleFreePlusState(
            count=state.count + 1,
            learning_rate=alpha,
            average=average,
            norm_avg=size,
            z=z,
            exp_avg=exp_avg,
            exp_avg_sq=exp_avg_sq,
        )

    return optax.GradientTransformationExtraArgs(init, update)
