"""D-Adaptation: a step size from a lower bound on the distance to the solution.

If the learning rate is 0, or all gradients so far were 0, the official Adam and SGD
change no state. Here the coefficients of the averages become 1 and 0 instead, which
needs no further pass over the state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds, passes


def check(
    learning_rate: base.ScalarOrSchedule,
    weight_decay: base.Scalar,
    d0: base.Scalar,
    growth_rate: base.Scalar = float("inf"),
) -> None:
    """Check the hyperparameters that all variants have."""
    bounds.check(
        bounds.NONNEGATIVE, learning_rate=learning_rate, weight_decay=weight_decay
    )
    bounds.check(bounds.POSITIVE, d0=d0)
    bounds.check(bounds.GROWTH, growth_rate=growth_rate)


def grow(
    d: jax.Array, d_hat: jax.Array, growth_rate: base.Scalar, moved: jax.Array
) -> jax.Array:
    """The next estimate of the distance, which never shrinks.

    Args:
      d: scalar, the last estimate.
      d_hat: scalar, the new lower bound of the distance.
      growth_rate: largest ratio of two successive estimates.
      moved: scalar boolean, whether the update moved the parameters; else d stays.
    """
    (growth,) = base.scalars(d.dtype, growth_rate)
    return jnp.where(moved, jnp.maximum(d, base.at_most(d_hat, d, growth)), d)


class DAdaptAdamState(NamedTuple):
    """State of `dadapt_adam`.

    Attributes:
      count: number of updates made.
      step: how many of them had a nonzero learning rate and gradient.
      d: estimate of the distance to the solution.
      numerator: weighted sum of <gradient, s> in Adam's metric.
      learning_rate: d times the learning rate (times the bias correction) of the last
        update; before it, of the first.
      s: weighted average of gradients times rates, with the root of b2.
      exp_avg: average of gradients times rates, with b1.
      exp_avg_sq: average of squared gradients, with b2.
    """

    count: jax.Array
    step: jax.Array
    d: jax.Array
    numerator: jax.Array
    learning_rate: jax.Array
    s: Any
    exp_avg: Any
    exp_avg_sq: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def dadapt_adam(
    learning_rate: base.ScalarOrSchedule = 1.0,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    d0: base.Scalar = 1e-6,
    growth_rate: base.Scalar = float("inf"),
    decouple: bool = False,
    use_bias_correction: bool = False,
    learning_rate_factors: base.PerLeaf = None,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with D-Adaptation.

    With :math:`\lambda_k = d_k \gamma_k`, times Adam's bias correction if asked for:

    .. math::
      s_{k+1} &= \sqrt{\beta_2} s_k + (1-\sqrt{\beta_2}) \lambda_k g_k \\
      m_{k+1} &= \beta_1 m_k + (1-\beta_1) \lambda_k g_k \\
      v_{k+1} &= \beta_2 v_k + (1-\beta_2) g_k^2 \\
      r_{k+1} &= \sqrt{\beta_2} r_k + (1-\sqrt{\beta_2}) \lambda_k
        \langle g_k, s_k / (\sqrt{v_k}+\epsilon) \rangle \\
      d_{k+1} &= \max\left(d_k, \min\left(\rho d_k,
        \frac{r_{k+1}}{(1-\sqrt{\beta_2}) \|s_{k+1}\|_1}\right)\right) \\
      x_{k+1} &= x_k - m_{k+1} / (\sqrt{v_{k+1}}+\epsilon)

    Args:
      learning_rate: factor :math:`\gamma`, "leave set to 1 unless you encounter
        instability"; use the schedule that you would use with Adam.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient of weight decay.
      d0: initial estimate of d; "rarely needs changing".
      growth_rate: bound :math:`\rho` on the growth of d in one step; "values like 1.02
        give a kind of learning rate warmup effect".
      decouple: decay as in AdamW instead of adding to the gradient. Static.
      use_bias_correction: whether to use Adam's bias correction. Static.
      learning_rate_factors: factors of the leaves' steps, with the same d for all, in
        the forms that `prodigy` takes; the official `layer_scale`. Except for `eps` and
        decoupled decay, to which it does not apply, a factor is equivalent to measuring
        the leaf's parameters in units of it. A leaf with factor 0 moves by decay alone
        and does not contribute to d, like a parameter group with a learning rate of 0.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.dadapt_adam()
      >>> state = transformation.init(params)
      >>> for _ in range(50):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(state.d > 100 * 1e-6)
      True

    References:
      Defazio and Mishchenko, `Learning-Rate-Free Learning by D-Adaptation
      <https://arxiv.org/abs/2301.07733>`_, 2023. Official implementation:
      ``DAdaptAdam`` of facebookresearch/dadaptation 3.2.
    """
    check(learning_rate, weight_decay, d0, growth_rate)
    bounds.check(bounds.FRACTION, b1=b1, b2=b2)
    bounds.check(bounds.POSITIVE, eps=eps)

    def rate_factor(count, step, dtype):
        """The learning rate over d, with the bias correction if it is used."""
        rate = base.rate_at(learning_rate, count, dtype)
        if use_bias_correction:
            beta1, beta2 = base.scalars(dtype, b1, b2)
            rate *= jnp.sqrt(base.bias_correction(beta2, step + 1))
            rate /= base.bias_correction(beta1, step + 1)
        return rate

    def init(params):
        dtype = base.scalar_dtype(params)
        count = jnp.zeros((), jnp.int32)
        d = base.fresh(dtype, d0)
        return DAdaptAdamState(
            count=count,
            step=jnp.zeros((), jnp.int32),
            d=d,
            numerator=jnp.zeros((), dtype),
            learning_rate=d * rate_factor(count, count, dtype),
            s=base.zeros_like(params),
            exp_avg=base.zeros_like(params),
            exp_avg_sq=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.d.dtype
        beta1, beta2, epsilon = base.scalars(dtype, b1, b2, eps)
        root2 = jnp.sqrt(beta2)
        dlr = state.d * rate_factor(state.count, state.step, dtype)
        active = dlr > 0  # a rate of 0 leaves the state as it is

        factors = base.rate_factors(learning_rate_factors, params, dtype)
        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)

        def gradient(grad, param, has_decay):
            coupled = 0 if decouple else weight_decay
            return base.add_decay(grad, param, coupled, dtype, has_decay)

        keep_s, keep1, keep2 = (jnp.where(active, b, 1) for b in (root2, beta1, beta2))

        def next_s(grad, s, keep_s):
            return keep_s * s + (1 - keep_s) * dlr * grad

        def products(grad, param, s, v, has_decay, factor):
            """Summands of <gradient, s> in Adam's metric and of the new s's L1 norm."""
            grad = gradient(grad, param, has_decay)
            old = s / (base.root(v) + epsilon)
            return (
                base.times(factor, grad * old),
                base.times(factor, jnp.abs(next_s(grad, s, keep_s))),
            )

        product, norm = passes.sums(
            products,
            2,
            dtype,
            updates,
            params,
            state.s,
            state.exp_avg_sq,
            decay_flags,
            factors,
        )
        # Overwrite the old state only after the sums over it, else XLA copies it first.
        keep_s, keep1, keep2 = passes.after(product, keep_s, keep1, keep2)

        def update_leaf(grad, param, s, m, v, has_decay, factor):
            grad = gradient(grad, param, has_decay)
            new_s = next_s(grad, s, keep_s)
            new_m = keep1 * m + (1 - keep1) * base.times(factor, dlr) * grad
            new_v = keep2 * v + (1 - keep2) * (grad * grad)
            change = -jnp.where(active, new_m, 0) / (base.root(new_v) + epsilon)
            return (
                new_s.astype(s.dtype),
                new_m.astype(m.dtype),
                new_v.astype(v.dtype),
                change,
            )

        s, m, v, changes = base.map_leaves(
            update_leaf,
            4,
            updates,
            params,
            state.s,
            state.exp_avg,
            state.exp_avg_sq,
            decay_flags,
            factors,
        )
        moved = active & (norm > 0)
        numerator = root2 * state.numerator + (1 - root2) * dlr * product
        d_hat = base.safe_divide(numerator, (1 - root2) * norm)
        if decouple and not base.is_zero(weight_decay):
            (decay,) = base.scalars(dtype, weight_decay)
            shrink = jnp.where(moved, decay * dlr, 0)
            changes = jax.tree.map(
                lambda u, p, has_decay: u - shrink * p if has_decay else u,
                changes,
                params,
                decay_flags,
            )
        return base.cast_like(changes, params), DAdaptAdamState(
            count=state.count + 1,
            step=state.step + moved.astype(jnp.int32),
            d=grow(state.d, d_hat, growth_rate, moved),
            numerator=jnp.where(moved, numerator, state.numerator),
            learning_rate=dlr,
            s=s,
            exp_avg=m,
            exp_avg_sq=v,
        )

    return optax.GradientTransformationExtraArgs(init, update)


class DAdaptSgdState(NamedTuple):
    """State of `dadapt_sgd`.

    Attributes:
      count: number of updates made.
      step: how many of them had a nonzero learning rate and gradient.
      d: estimate of the distance to the solution.
      numerator: sum of <gradient, s> times the rates.
      first_norm: norm of the first nonzero gradient.
      learning_rate: d times the learning rate over `first_norm` at the last update;
        0 before it.
      s: sum of gradients times rates.
      start: the initial parameters.
    """

    count: jax.Array
    step: jax.Array
    d: jax.Array
    numerator: jax.Array
    first_norm: jax.Array
    learning_rate: jax.Array
    s: Any
    start: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def dadapt_sgd(
    learning_rate: base.ScalarOrSchedule = 1.0,
    momentum: base.Scalar = 0.0,
    weight_decay: base.Scalar = 0.0,
    d0: base.Scalar = 1e-6,
    growth_rate: base.Scalar = float("inf"),
    learning_rate_factors: base.PerLeaf = None,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with D-Adaptation, in its dual averaging form with primal averaging.

    With :math:`\lambda_k = d_k \gamma_k / \|g_0\|`:

    .. math::
      r_{k+1} &= r_k + \lambda_k \langle g_k, s_k \rangle \\
      s_{k+1} &= s_k + \lambda_k g_k \\
      d_{k+1} &= \max\left(d_k, \min\left(\rho d_k,
        \frac{2 r_{k+1}}{\|s_{k+1}\|}\right)\right) \\
      x_{k+1} &= \mu x_k + (1-\mu) (x_0 - s_{k+1})

    As in the official code, the norm of the first gradient excludes the weight decay.

    Args:
      learning_rate: factor :math:`\gamma`, "leave set to 1 unless you encounter
        instability"; use the schedule that you would use with SGD.
      momentum: :math:`\mu`, between 0 and 1; the authors use 0.9 for deep networks.
      weight_decay: coefficient of weight decay, added to the gradient.
      d0: initial estimate of d; "rarely needs changing".
      growth_rate: bound :math:`\rho` on the growth of d in one step; "values like 1.02
        may help if training is unstable".
      learning_rate_factors: factors of the leaves' learning rates, with the same d for
        all, in the forms that `prodigy` takes. A leaf with factor 0 does not move and
        does not contribute to d, like a parameter group with a learning rate of 0; the
        official implementation refuses factors other than 0 and 1.
      weight_decay_mask: the leaves that decay, as in `adamw`. The official
        implementation takes the first parameter group's decay for all groups.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.dadapt_sgd(momentum=0.9)
      >>> state = transformation.init(params)
      >>> for _ in range(50):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(state.d > 100 * 1e-6)
      True

    References:
      Defazio and Mishchenko, `Learning-Rate-Free Learning by D-Adaptation
      <https://arxiv.org/abs/2301.07733>`_, 2023. Official implementation:
      ``DAdaptSGD`` of facebookresearch/dadaptation 3.2.
    """
    check(learning_rate, weight_decay, d0, growth_rate)
    bounds.check(bounds.FRACTION, momentum=momentum)

    def init(params):
        dtype = base.scalar_dtype(params)
        d = base.fresh(dtype, d0)
        return DAdaptSgdState(
            count=jnp.zeros((), jnp.int32),
            step=jnp.zeros((), jnp.int32),
            d=d,
            numerator=jnp.zeros((), dtype),
            first_norm=jnp.zeros((), dtype),
            learning_rate=jnp.zeros((), dtype),
            s=base.zeros_like(params),
            start=base.copy(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.d.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        (mu,) = base.scalars(dtype, momentum)
        factors = base.rate_factors(learning_rate_factors, params, dtype)
        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)

        def first_square(grad, factor):
            square = jnp.square(grad)
            if isinstance(factor, int):
                return square
            return (factor > 0).astype(square.dtype) * square

        first_norm = jax.lax.cond(
            state.step == 0,
            lambda: base.root(base.sum_leaves(first_square, dtype, updates, factors)),
            lambda: state.first_norm,
        )
        dlr = base.safe_divide(state.d * rate, first_norm)
        active = dlr > 0  # a rate of 0 leaves the state as it is

        def gradient(grad, param, has_decay):
            return base.add_decay(grad, param, weight_decay, dtype, has_decay)

        def products(grad, param, s, has_decay, factor):
            """Summands of <gradient, s>, and of the squared norm of the new s."""
            grad = gradient(grad, param, has_decay)
            return (
                base.times(factor, grad * s),
                jnp.square(s + base.times(factor, dlr) * grad),
            )

        product, square = passes.sums(
            products, 2, dtype, updates, params, state.s, decay_flags, factors
        )
        # Overwrite the old state only after the sums over it, else XLA copies it first.
        (step,) = passes.after(product, dlr)

        def update_leaf(grad, param, s, start, has_decay, factor):
            new_s = s + base.times(factor, step) * gradient(grad, param, has_decay)
            change = (1 - mu) * jnp.where(active, start - new_s - param, 0)
            return new_s.astype(s.dtype), change.astype(param.dtype)

        s, changes = base.map_leaves(
            update_leaf, 2, updates, params, state.s, state.start, decay_flags, factors
        )
        moved = active & (square > 0)
        numerator = state.numerator + dlr * product
        d_hat = base.safe_divide(2 * numerator, base.root(square))
        return changes, DAdaptSgdState(
            count=state.count + 1,
            step=state.step + moved.astype(jnp.int32),
            d=grow(state.d, d_hat, growth_rate, moved),
            numerator=numerator,
            first_norm=first_norm,
            learning_rate=dlr,
            s=s,
            start=state.start,
        )

    return optax.GradientTransformationExtraArgs(init, update)


class DAdaptAdagradState(NamedTuple):
    """State of `dadapt_adagrad`.

    Attributes:
      count: number of updates made.
      d: estimate of the distance to the solution.
      gradient_sum: sum of squared gradients in the metric, times squared rates.
      learning_rate: d times the learning rate at the last update; before it, at the
        first.
      s: sum of gradients times rates.
      square_sum: sum of squared gradients, from 1e-6.
      start: the initial parameters.
    """

    count: jax.Array
    d: jax.Array
    gradient_sum: jax.Array
    learning_rate: jax.Array
    s: Any
    square_sum: Any
    start: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def dadapt_adagrad(
    learning_rate: base.ScalarOrSchedule = 1.0,
    momentum: base.Scalar = 0.0,
    eps: base.Scalar = 1e-6,
    weight_decay: base.Scalar = 0.0,
    d0: base.Scalar = 1e-6,
    growth_rate: base.Scalar = float("inf"),
    learning_rate_factors: base.PerLeaf = None,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaGrad with D-Adaptation.

    With :math:`\lambda_k = d_k \gamma_k`, :math:`a_0 = 10^{-6}` and
    :math:`A_k = \sqrt{a_k} + \epsilon`:

    .. math::
      a_{k+1} &= a_k + g_k^2 \\
      s_{k+1} &= s_k + \lambda_k g_k \\
      q_{k+1} &= q_k + \lambda_k^2 \langle g_k, g_k / A_{k+1} \rangle \\
      d_{k+1} &= \max\left(d_k, \min\left(\rho d_k,
        \frac{\langle s_{k+1}, s_{k+1} / A_{k+1} \rangle - q_{k+1}}{\|s_{k+1}\|_1}
        \right)\right) \\
      x_{k+1} &= \mu x_k + (1-\mu) (x_0 - s_{k+1} / A_{k+1})

    The authors recommend Adam or SGD "in most situations", as d grows slowly here.

    Args:
      learning_rate: factor :math:`\gamma`, "leave set to 1 unless you encounter
        instability".
      momentum: :math:`\mu`, between 0 and 1.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient of weight decay, added to the gradient.
      d0: initial estimate of d; "rarely needs changing".
      growth_rate: bound :math:`\rho` on the growth of d in one step.
      learning_rate_factors: factors of the leaves' learning rates, with the same d for
        all, in the forms that `prodigy` takes. A leaf with factor 0 does not move and
        does not contribute to d. The official implementation takes the first parameter
        group's learning rate for all groups.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.dadapt_adagrad()
      >>> state = transformation.init(params)
      >>> for _ in range(50):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(state.d > 100 * 1e-6)
      True

    References:
      Defazio and Mishchenko, `Learning-Rate-Free Learning by D-Adaptation
      <https://arxiv.org/abs/2301.07733>`_, 2023. Official implementation:
      ``DAdaptAdaGrad`` of facebookresearch/dadaptation 3.2.
    """
    check(learning_rate, weight_decay, d0, growth_rate)
    bounds.check(bounds.FRACTION, momentum=momentum)
    bounds.check(bounds.POSITIVE, eps=eps)

    def init(params):
        dtype = base.scalar_dtype(params)
        count = jnp.zeros((), jnp.int32)
        d = base.fresh(dtype, d0)
        return DAdaptAdagradState(
            count=count,
            d=d,
            gradient_sum=jnp.zeros((), dtype),
            learning_rate=d * base.rate_at(learning_rate, count, dtype),
            s=base.zeros_like(params),
            square_sum=jax.tree.map(lambda p: jnp.full_like(p, 1e-6), params),
            start=base.copy(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.d.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        mu, epsilon = base.scalars(dtype, momentum, eps)
        dlr = state.d * rate
        factors = base.rate_factors(learning_rate_factors, params, dtype)
        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)

        def accumulate(grad, param, s, square_sum, has_decay, factor):
            """The new s and sum of squares of a leaf."""
            grad = base.add_decay(grad, param, weight_decay, dtype, has_decay)
            new_s = s + base.times(factor, dlr) * grad
            new_square_sum = square_sum + grad * grad
            return new_s.astype(s.dtype), new_square_sum.astype(square_sum.dtype)

        s, square_sum = base.map_leaves(
            accumulate,
            2,
            updates,
            params,
            state.s,
            state.square_sum,
            decay_flags,
            factors,
        )

        def products(grad, param, s, square_sum, has_decay, factor):
            """Summands of the squared norms of gradient and s, and of s's L1 norm."""
            grad = base.add_decay(grad, param, weight_decay, dtype, has_decay)
            weight = 1 / (base.root(square_sum) + epsilon)
            return (
                base.times(factor * factor, grad * weight * grad),
                s * weight * s,
                jnp.abs(s),
            )

        gradients, square, norm = passes.sums(
            products, 3, dtype, updates, params, s, square_sum, decay_flags, factors
        )
        # With a factor from after the sums XLA recomputes the weights, not stores them.
        (one,) = passes.after(norm, jnp.ones((), dtype))

        def step(param, s, square_sum, start):
            moved = s / (base.root(one * square_sum) + epsilon)
            return ((1 - mu) * (start - moved - param)).astype(param.dtype)

        changes = jax.tree.map(step, params, s, square_sum, state.start)
        gradient_sum = state.gradient_sum + dlr * dlr * gradients
        d_hat = base.safe_divide(square - gradient_sum, norm)
        return changes, DAdaptAdagradState(
            count=state.count + 1,
            d=grow(state.d, d_hat, growth_rate, (rate > 0) & (norm > 0)),
            gradient_sum=gradient_sum,
            learning_rate=dlr,
            s=s,
            square_sum=square_sum,
            start=state.start,
        )

    return optax.GradientTransformationExtraArgs(init, update)


class DAdaptLionState(NamedTuple):
    """State of `dadapt_lion`.

    Attributes:
      count: number of updates made.
      d: estimate of the distance to the solution.
      numerator: weighted sum of <sign, s>.
      learning_rate: d times the learning rate at the last update; before it, at the
        first.
      s: weighted average of signs times rates.
      exp_avg: average of gradients times rates.
    """

    count: jax.Array
    d: jax.Array
    numerator: jax.Array
    learning_rate: jax.Array
    s: Any
    exp_avg: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def dadapt_lion(
    learning_rate: base.ScalarOrSchedule = 1.0,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.99,
    weight_decay: base.Scalar = 0.0,
    d0: base.Scalar = 1e-6,
    learning_rate_factors: base.PerLeaf = None,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Lion with D-Adaptation ("should be considered experimental").

    With :math:`\lambda_k = d_k \gamma_k`:

    .. math::
      u_k &= \mathrm{sign}(\beta_1 m_k + (1-\beta_1) g_k) \\
      x_{k+1} &= (1 - \lambda_k w) x_k - \lambda_k u_k \\
      m_{k+1} &= \beta_2 m_k + (1-\beta_2) \lambda_k g_k \\
      r_{k+1} &= \sqrt{\beta_2} r_k
        + (1-\sqrt{\beta_2}) \lambda_k \langle u_k, s_k \rangle \\
      s_{k+1} &= \sqrt{\beta_2} s_k + (1-\sqrt{\beta_2}) \lambda_k u_k \\
      d_{k+1} &= \max\left(d_k,
        \frac{r_{k+1}}{(1-\sqrt{\beta_2}) \|s_{k+1}\|_1}\right)

    Args:
      learning_rate: factor :math:`\gamma`, "leave set to 1 unless you encounter
        instability".
      b1: weight of the momentum in the sign.
      b2: decay of the momentum.
      weight_decay: coefficient w of decoupled weight decay.
      d0: initial estimate of d; "rarely needs changing".
      learning_rate_factors: factors of the leaves' learning rates, with the same d for
        all, in the forms that `prodigy` takes. They do not apply to decay. A leaf with
        factor 0 moves by decay alone and does not contribute to d. The official
        implementation uses the largest learning rate of all parameter groups in each.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.dadapt_lion()
      >>> state = transformation.init(params)
      >>> for _ in range(50):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(state.d > 100 * 1e-6)
      True

    References:
      Defazio and Mishchenko, `Learning-Rate-Free Learning by D-Adaptation
      <https://arxiv.org/abs/2301.07733>`_, 2023; Chen et al., `Symbolic Discovery of
      Optimization Algorithms <https://arxiv.org/abs/2302.06675>`_, 2023. Official
      implementation: ``DAdaptLion`` of facebookresearch/dadaptation 3.2.
    """
    check(learning_rate, weight_decay, d0)
    bounds.check(bounds.FRACTION, b1=b1, b2=b2)

    def init(params):
        dtype = base.scalar_dtype(params)
        count = jnp.zeros((), jnp.int32)
        d = base.fresh(dtype, d0)
        return DAdaptLionState(
            count=count,
            d=d,
            numerator=jnp.zeros((), dtype),
            learning_rate=d * base.rate_at(learning_rate, count, dtype),
            s=base.zeros_like(params),
            exp_avg=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.d.dtype
        rate = base.rate_at(learning_rate, state.count, dtype)
        beta1, beta2 = base.scalars(dtype, b1, b2)
        root2 = jnp.sqrt(beta2)
        dlr = state.d * rate

        factors = base.rate_factors(learning_rate_factors, params, dtype)
        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)
        done = [jnp.zeros((), dtype)]  # a sum over each leaf that was updated

        def update_leaf(grad, param, s, m, has_decay, factor):
            # One leaf after the other, so that the signs of only one are stored.
            (mix,) = passes.after(done[-1], beta1)
            mixed = mix * m + (1 - mix) * grad
            # XLA computes this difference once for all its uses, unlike `jnp.sign`.
            u = (mixed > 0).astype(dtype) - (mixed < 0).astype(dtype)
            product = base.times(factor, jnp.sum(u * s.astype(dtype)))
            keep_s, keep_m = passes.after(product, root2, beta2)
            rate = base.times(factor, dlr)
            new_s = keep_s * s + (1 - root2) * rate * u
            new_m = keep_m * m + (1 - beta2) * rate * grad
            moved = base.times(factor, u)
            change = -dlr * base.add_decay(moved, param, weight_decay, dtype, has_decay)
            norm = jnp.sum(jnp.abs(new_s), dtype=dtype)
            done.append(norm)
            return (
                product,
                norm,
                new_s.astype(s.dtype),
                new_m.astype(m.dtype),
                change.astype(param.dtype),
            )

        products, norms, s, m, changes = base.map_leaves(
            update_leaf,
            5,
            updates,
            params,
            state.s,
            state.exp_avg,
            decay_flags,
            factors,
        )
        product = base.total(products, dtype)
        norm = base.total(norms, dtype)
        numerator = root2 * state.numerator + (1 - root2) * dlr * product
        d_hat = base.safe_divide(numerator, (1 - root2) * norm)
        return changes, DAdaptLionState(
            count=state.count + 1,
            d=grow(state.d, d_hat, float("inf"), (rate > 0) & (norm > 0)),
            numerator=jnp.where(norm > 0, numerator, state.numerator),
            learning_rate=dlr,
            s=s,
            exp_avg=m,
        )

    return optax.GradientTransformationExtraArgs(init, update)
