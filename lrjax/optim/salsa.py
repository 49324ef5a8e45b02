"""SaLSA: a smoothed line search along Adam's direction, only where it is needed."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds

_SMALL = 1e-8  # losses and slopes below it are not searched along
_RARELY = 10  # updates, at most, from one search to the next


class SalsaState(NamedTuple):
    """State of `salsa`.

    Attributes:
      count: number of updates made.
      learning_rate: the step size that the last search found; before it, the first
        guess.
      decrease: average of the losses' decreases.
      slope: average of the slopes along the direction.
      slow, fast: averages of the step sizes that searches found.
      waited: updates since the last search.
      exp_avg: average of gradients.
      exp_avg_sq: average of squared gradients.
    """

    count: jax.Array
    learning_rate: jax.Array
    decrease: jax.Array
    slope: jax.Array
    slow: jax.Array
    fast: jax.Array
    waited: jax.Array
    exp_avg: Any
    exp_avg_sq: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def salsa(
    learning_rate: base.Scalar = 1.0,
    c: base.Scalar = 0.5,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    b3: base.Scalar = 0.9,
    decrease_factor: base.Scalar = 0.8,
    increase_factor: base.Scalar = 1.1,
    max_backtracks: base.Scalar = 100,
    weight_decay: base.Scalar = 0.0,
    speed_up: bool = True,
    use_momentum: bool = False,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam's direction with a stable Armijo line search (SaLSA).

    Along :math:`d = g_t / (\sqrt{\hat v_t} + 10^{-8})` a step size that starts from the
    last one, increased, is decreased until averages (decay :math:`\beta_3`) of the
    decrease on this batch and of the slope satisfy Armijo's condition:

    .. math::
      \overline{f_t(x_t) - f_t(x_t - \eta d_t)}
        \ge c \eta \overline{\langle g_t, d_t \rangle}

    With `speed_up` there is no search, after the first nine updates, while the step
    sizes of the last searches stay about the same, for at most ten updates; these go
    along :math:`\hat m / (\sqrt{\hat v} + 10^{-8})` with the increased step size.

    `update` needs the extra arguments `value`, the loss of the batch, and `value_fn`,
    the function from parameters to the loss of the same batch. It must be the whole
    optimiser.

    Args:
      learning_rate: the step size that the first search starts from, a number or a
        traced number; "should be just high".
      c: required decrease, relative to the slope.
      b1: decay of the average of gradients.
      b2: decay of the average of squared gradients.
      b3: decay of the averages in the condition.
      decrease_factor: factor of the step size in a search.
      increase_factor: factor of the step size before a search.
      max_backtracks: largest number of trials in a search.
      weight_decay: coefficient of decoupled weight decay, times the last step size.
      speed_up: whether to search only where step sizes change. Static.
      use_momentum: search along the average of gradients, too. Static.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> def loss(params):
      ...     return jnp.sum(params**2)
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.salsa()
      >>> state = transformation.init(params)
      >>> value, grads = jax.value_and_grad(loss)(params)
      >>> updates, state = transformation.update(
      ...     grads, state, params, value=value, value_fn=loss
      ... )
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.88

    References:
      Kenneweg, Kenneweg, Fumagalli and Hammer, `No Learning Rates Needed: Introducing
      SALSA -- Stable Armijo Line Search Adaptation <https://arxiv.org/abs/2407.20650>`_,
      2024. Official implementation: ``SaLSA`` of TheMody's repository of this name.
    """
    bounds.check(
        bounds.NONNEGATIVE, learning_rate=learning_rate, weight_decay=weight_decay
    )
    bounds.check(bounds.POSITIVE, c=c)
    bounds.check(bounds.FRACTION, b1=b1, b2=b2, b3=b3)
    bounds.check(bounds.INSIDE, decrease_factor=decrease_factor)
    bounds.check(bounds.SCALE, increase_factor=increase_factor)
    bounds.check(bounds.COUNT, max_backtracks=max_backtracks)

    def init(params):
        dtype = base.scalar_dtype(params)
        return SalsaState(
            count=jnp.zeros((), jnp.int32),
            learning_rate=base.fresh(dtype, learning_rate),
            decrease=jnp.zeros((), dtype),
            slope=jnp.zeros((), dtype),
            slow=jnp.full((), _SMALL, dtype),
            fast=jnp.full((), _SMALL, dtype),
            waited=jnp.full((), _RARELY, jnp.int32),
            exp_avg=base.zeros_like(params),
            exp_avg_sq=base.zeros_like(params),
        )

    def update(updates, state, params=None, *, value=None, value_fn=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        value_fn = base.require_value("value_fn", value_fn)
        dtype = state.learning_rate.dtype
        need, beta1, beta2, beta3, shrink, grow, decay, most, loss = base.scalars(
            dtype,
            c,
            b1,
            b2,
            b3,
            decrease_factor,
            increase_factor,
            weight_decay,
            max_backtracks,
            base.require_value("value", value),
        )
        count, waited = state.count + 1, state.waited + 1
        # As officially, the averages are corrected for one update more than made.
        scale1 = 1 / base.bias_correction(beta1, count + 1)
        scale2 = 1 / base.bias_correction(beta2, count + 1)
        start = grow * state.learning_rate
        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)

        def prepare(grad, m, v):
            new_m = beta1 * m + (1 - beta1) * grad
            new_v = beta2 * v + (1 - beta2) * (grad * grad)
            root = jnp.sqrt(scale2 * new_v) + _SMALL
            along = scale1 * new_m / root
            return (
                new_m.astype(m.dtype),
                new_v.astype(v.dtype),
                along,
                along if use_momentum else grad / root,
            )

        exp_avg, exp_avg_sq, averaged, direction = base.map_leaves(
            prepare, 4, updates, state.exp_avg, state.exp_avg_sq
        )

        def change(step, directions):
            """The update, with the weight decay that comes before any step."""

            def leaf(d, p, has_decay):
                moved = -step * d
                if has_decay:
                    moved = moved - decay * state.learning_rate * p
                return moved.astype(p.dtype)

            return jax.tree.map(leaf, directions, params, decay_flags)

        search = jnp.asarray(True)
        if speed_up:
            ratio = base.safe_divide(state.fast, state.slow)
            moved = jnp.maximum(ratio, base.safe_divide(jnp.ones((), dtype), ratio)) - 1
            often = jnp.minimum(_RARELY, 1 / (moved + _SMALL))
            search = (count < _RARELY) | (waited.astype(dtype) >= often)
        now = base.sum_leaves(lambda g, d: g * d, dtype, updates, direction)
        slope = beta3 * state.slope + (1 - beta3) * now
        slope = jnp.where(search, slope, state.slope)
        searches = search & (loss >= _SMALL) & (slope >= _SMALL) & jnp.isfinite(loss)

        def goes_on(carry):
            _, _, _, tries, found = carry
            return searches & ~found & (tries < most)

        def attempt(carry):
            step, _, fall, tries, _ = carry
            trial = optax.apply_updates(params, change(step, direction))
            change_of_loss = loss - value_fn(trial).astype(dtype)
            average = beta3 * state.decrease + (1 - beta3) * change_of_loss
            # A loss that did not change, as by rounding, ends the search.
            same = change_of_loss == 0
            enough = (average >= step * need * slope) & ~same
            following = jnp.where(same | enough, step, shrink * step)
            fall = jnp.where(enough, average, fall)
            return following, step, fall, tries + 1, same | enough

        step = base.if_finite(loss, start, state.learning_rate)
        tried = base.if_finite(loss, start)
        carry = step, tried, state.decrease, jnp.zeros_like(most), jnp.asarray(False)
        step, tried, decrease, _, _ = jax.lax.while_loop(goes_on, attempt, carry)
        directions = jax.tree.map(
            lambda d, m: jnp.where(searches, d, m), direction, averaged
        )

        def learned(average, weight):
            return jnp.where(search, weight * average + (1 - weight) * step, average)

        return change(tried, directions), SalsaState(
            count=count,
            learning_rate=jnp.where(search, step, state.learning_rate),
            decrease=decrease,
            slope=slope,
            slow=learned(state.slow, 0.99),
            fast=learned(state.fast, 0.9),
            waited=jnp.where(search, 0, waited),
            exp_avg=exp_avg,
            exp_avg_sq=exp_avg_sq,
        )

    return optax.GradientTransformationExtraArgs(init, update)
