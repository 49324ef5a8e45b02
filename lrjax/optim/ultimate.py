"""Adam whose hyperparameters follow their own gradients, and these rates theirs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds, passes


class UltimateAdamState(NamedTuple):
    """State of `ultimate_adam`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the last update; before it, the initial rate.
      decays: of the last update, [2], as numbers whose `_decay` is b1 and b2.
      hypergrad_lr: the rate of the rate.
      hypergradients: derivatives of the last loss in the rate and the decays, [3].
      grads: gradients of the last update.
      exp_avg: average of gradients before the last update.
      exp_avg_sq: average of squared gradients before the last update.
    """

    count: jax.Array
    learning_rate: jax.Array
    decays: jax.Array
    hypergrad_lr: jax.Array
    hypergradients: jax.Array
    grads: Any
    exp_avg: Any
    exp_avg_sq: Any


def _decay(number: jax.Array) -> jax.Array:
    """A decay, between 0 and 1, from any number."""
    return (jnp.tanh(number) + 1) / 2


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def ultimate_adam(
    learning_rate: base.Scalar = 1e-3,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    eps: base.Scalar = 1e-8,
    hypergrad_lr: base.Scalar = 1e-5,
    hyper_hypergrad_lr: base.Scalar = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam / SGD / SGD of "Gradient descent: the ultimate optimizer".

    Adam's rate :math:`\alpha` and decays :math:`\beta` are trained by SGD, with the
    derivatives of each loss through the update before it, and the rate
    :math:`\kappa` of this SGD likewise by another SGD. With
    :math:`\beta = (\tanh b + 1) / 2`, :math:`h = (\alpha, b_1, b_2)`, Adam's direction
    :math:`d_t(h)` and :math:`q_t = -\nabla_h \langle g_t, \alpha d_{t-1}(h) \rangle`:

    .. math::
      \kappa_t = \kappa_{t-1} + \nu \langle q_t, q_{t-1} \rangle, \quad
      h_t = h_{t-1} - \kappa_t q_t, \quad x_{t+1} = x_t - \alpha_t d_t(h_t)

    Hypergradients that are not finite count as zero.

    Args:
      learning_rate: the initial rate :math:`\alpha`, a number or a traced number.
      b1: the initial decay of the first moment.
      b2: the initial decay of the second moment.
      eps: term outside of the root in the denominator, and the first second moment.
      hypergrad_lr: the initial rate :math:`\kappa` of rate and decays.
      hyper_hypergrad_lr: the rate :math:`\nu` of this rate; 0 for one level.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation and, for `hypergrad_lr`, of its example.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.ultimate_adam(0.1, hypergrad_lr=1e-3)
      >>> state = transformation.init(params)
      >>> for _ in range(2):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.106

    References:
      Chandra, Xie, Ragan-Kelley and Meijer, `Gradient Descent: The Ultimate Optimizer
      <https://arxiv.org/abs/1909.13371>`_, 2022. Official implementation: ``gdtuo`` of
      gradient-descent-the-ultimate-optimizer.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        eps=eps,
        hypergrad_lr=hypergrad_lr,
        hyper_hypergrad_lr=hyper_hypergrad_lr,
    )
    bounds.check(bounds.FRACTION, b1=b1, b2=b2)

    def init(params):
        dtype = base.scalar_dtype(params)
        (first,) = base.scalars(dtype, eps)
        decays = jnp.stack(base.scalars(dtype, b1, b2))
        return UltimateAdamState(
            count=jnp.zeros((), jnp.int32),
            learning_rate=base.fresh(dtype, learning_rate),
            decays=jnp.arctanh(2 * decays - 1),
            hypergrad_lr=base.fresh(dtype, hypergrad_lr),
            hypergradients=jnp.zeros(3, dtype),
            grads=base.zeros_like(params),
            exp_avg=base.zeros_like(params),
            exp_avg_sq=jax.tree.map(lambda p: jnp.zeros_like(p) + first, params),
        )

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        dtype = state.learning_rate.dtype
        epsilon, of_rate = base.scalars(dtype, eps, hyper_hypergrad_lr)
        least = jnp.finfo(dtype).tiny  # where a root still has a derivative

        def moments(decays, grad, m, v):
            beta1, beta2 = decays
            return beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad * grad

        def direction(decays, count, m, v):
            scale1, scale2 = 1 / base.bias_correction(_decay(decays), count)
            return scale1 * m / (jnp.sqrt(jnp.maximum(scale2 * v, least)) + epsilon)

        count = jnp.maximum(state.count, 1)
        units = jnp.eye(2, dtype=dtype)

        def products(now, grad, m, v):
            """The gradient times the last direction, and its derivatives in decays."""

            def product(decays):
                averages = moments(_decay(decays), grad, m, v)
                return now * direction(decays, count, *averages)

            value, by_first = jax.jvp(product, (state.decays,), (units[0],))
            _, by_second = jax.jvp(product, (state.decays,), (units[1],))
            return value, by_first, by_second

        sums = passes.sums(
            products, 3, dtype, updates, state.grads, state.exp_avg, state.exp_avg_sq
        )
        # Of the loss now, to first order, if the last update had had others.
        rate = state.learning_rate
        found = -jnp.stack([sums[0], rate * sums[1], rate * sums[2]])
        hyper = jnp.append(rate, state.decays)
        found = jnp.where((state.count > 0) & jnp.isfinite(found), found, 0)
        of_hyper = state.hypergrad_lr + of_rate * found @ state.hypergradients
        new = hyper - of_hyper * found
        # The averages start with no gradient, to be kept as they are.
        decays = jnp.where(state.count > 0, _decay(state.decays), 1)
        # Overwrite the old state only after the sums over it, else XLA copies it first.
        rate, *held = passes.after(jnp.sum(found), new[0], *decays, *new[1:])

        def update_leaf(grad, last, m, v):
            m, v = moments(held[:2], last, m, v)
            now = moments(_decay(jnp.stack(held[2:])), grad, m, v)
            change = -rate * direction(jnp.stack(held[2:]), state.count + 1, *now)
            return change.astype(m.dtype), m.astype(m.dtype), v.astype(v.dtype)

        changes, exp_avg, exp_avg_sq = base.map_leaves(
            update_leaf, 3, updates, state.grads, state.exp_avg, state.exp_avg_sq
        )
        return changes, UltimateAdamState(
            count=state.count + 1,
            learning_rate=new[0],
            decays=new[1:],
            hypergrad_lr=of_hyper,
            hypergradients=found,
            grads=base.copy(updates),
            exp_avg=exp_avg,
            exp_avg_sq=exp_avg_sq,
        )

    return optax.GradientTransformationExtraArgs(init, update)
