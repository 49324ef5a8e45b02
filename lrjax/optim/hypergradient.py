"""Hypergradient descent: the learning rate follows its own gradient."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds, passes


class HypergradientSgdState(NamedTuple):
    """State of `hypergradient_sgd`.

    Attributes:
      learning_rate: the rate of the last update; before it, the initial rate.
      direction: the direction of the last update.
      velocity: sum of gradients, decayed by the momentum; None if it is `direction`.
    """

    learning_rate: jax.Array
    direction: Any
    velocity: Any


@base.any_leaves
def hypergradient_sgd(
    learning_rate: base.Scalar,
    momentum: base.Scalar = 0.0,
    nesterov: bool = False,
    weight_decay: base.Scalar = 0.0,
    hypergrad_lr: base.Scalar = 1e-6,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with hypergradient descent on the learning rate (SGD-HD).

    With :math:`h_t = g_t + w x_t`:

    .. math::
      \gamma_t &= \gamma_{t-1} + \kappa \langle h_t, u_{t-1} \rangle, \quad
        u_{-1} = 0 \\
      v_t &= \mu v_{t-1} + h_t \\
      u_t &= v_t, \text{ or } h_t + \mu v_t \text{ with Nesterov's momentum} \\
      x_{t+1} &= x_t - \gamma_t u_t

    Args:
      learning_rate: the initial rate, a number or a traced number.
      momentum: :math:`\mu`.
      nesterov: whether to use Nesterov's momentum. Static.
      weight_decay: coefficient w of weight decay, added to the gradient.
      hypergrad_lr: the learning rate :math:`\kappa` of the learning rate.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.hypergradient_sgd(0.1, hypergrad_lr=1e-3)
      >>> state = transformation.init(params)
      >>> for _ in range(2):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.116

    References:
      Baydin et al., `Online Learning Rate Adaptation with Hypergradient Descent
      <https://arxiv.org/abs/1703.04782>`_, 2018, Algorithms 4 and 5. Official
      implementation: ``SGDHD`` of gbaydin/hypergradient-descent.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        hypergrad_lr=hypergrad_lr,
    )
    bounds.check(bounds.FRACTION, momentum=momentum)

    def init(params):
        return HypergradientSgdState(
            learning_rate=base.fresh(base.scalar_dtype(params), learning_rate),
            direction=base.zeros_like(params),
            velocity=base.zeros_like(params) if nesterov else None,
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        mu, step = base.scalars(dtype, momentum, hypergrad_lr)
        grads = jax.tree.map(
            lambda g, p, has_decay: base.add_decay(
                g, p, weight_decay, dtype, has_decay
            ),
            updates,
            params,
            base.decay_flags(weight_decay, weight_decay_mask, params),
        )
        product = base.sum_leaves(operator.mul, dtype, grads, state.direction)
        rate = state.learning_rate + step * product
        # Without Nesterov the last direction is the velocity.
        old = state.velocity if nesterov else state.direction
        # Overwrite the old state only after the sums over it, else XLA copies it first.
        (keep,) = passes.after(product, mu)

        def update_leaf(grad, v):
            new_v = keep * v + grad
            direction = grad + mu * new_v if nesterov else new_v
            return (
                (-rate * direction).astype(v.dtype),
                direction.astype(v.dtype),
                new_v.astype(v.dtype),
            )

        changes, direction, velocity = base.map_leaves(update_leaf, 3, grads, old)
        return changes, HypergradientSgdState(
            rate, direction, velocity if nesterov else None
        )

    return optax.GradientTransformationExtraArgs(init, update)


class HypergradientAdamState(NamedTuple):
    """State of `hypergradient_adam`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the last leaf in the last update; before it, the
        initial rate.
      exp_avg: average of gradients.
      exp_avg_sq: average of squared gradients.
    """

    count: jax.Array
    learning_rate: jax.Array
    exp_avg: Any
    exp_avg_sq: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def hypergradient_adam(
    learning_rate: base.Scalar = 1e-3,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    eps: base.Scalar = 1e-8,
    weight_decay: base.Scalar = 0.0,
    hypergrad_lr: base.Scalar = 1e-8,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam with hypergradient descent on the learning rate (Adam-HD).

    With :math:`h_t = g_t + w x_t` and Adam's direction

    .. math::
      u_t = \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t}
        \frac{m_t}{\sqrt{v_t} + \epsilon}, \quad
      \gamma \leftarrow \gamma + \kappa \langle h_t, u_{t-1} \rangle, \quad
      x_{t+1} = x_t - \gamma u_t

    leaf by leaf: as in the official implementation, the rate of a leaf includes the
    changes of its own and of all leaves before it, in the order of `jax.tree.leaves`.

    Args:
      learning_rate: the initial rate, a number or a traced number.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient w of weight decay, added to the gradient.
      hypergrad_lr: the learning rate :math:`\kappa` of the learning rate.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.hypergradient_adam(0.1, hypergrad_lr=1e-3)
      >>> state = transformation.init(params)
      >>> for _ in range(2):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> round(float(optim.effective_learning_rate(state)), 3)
      0.106

    References:
      Baydin et al., `Online Learning Rate Adaptation with Hypergradient Descent
      <https://arxiv.org/abs/1703.04782>`_, 2018, Algorithm 6. Official implementation:
      ``AdamHD`` of gbaydin/hypergradient-descent.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        eps=eps,
        weight_decay=weight_decay,
        hypergrad_lr=hypergrad_lr,
    )
    bounds.check(bounds.FRACTION, b1=b1, b2=b2)

    def init(params):
        return HypergradientAdamState(
            count=jnp.zeros((), jnp.int32),
            learning_rate=base.fresh(base.scalar_dtype(params), learning_rate),
            exp_avg=base.zeros_like(params),
            exp_avg_sq=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        beta1, beta2, epsilon, step = base.scalars(dtype, b1, b2, eps, hypergrad_lr)

        def debias(count):
            roots = base.root(base.bias_correction(beta2, count))
            return base.safe_divide(roots, base.bias_correction(beta1, count))

        before, now = debias(state.count), debias(state.count + 1)
        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)

        def product(grad, param, m, v, has_decay):
            grad = base.add_decay(grad, param, weight_decay, dtype, has_decay)
            return jnp.sum(grad * (m / (base.root(v) + epsilon)), dtype=dtype)

        products = jax.tree.map(
            product, updates, params, state.exp_avg, state.exp_avg_sq, decay_flags
        )
        rate, rates = state.learning_rate, []
        for value in jax.tree.leaves(products):
            rate = rate + step * (value * before)
            rates.append(rate)
        # Overwrite the old state only after the sums over it, else XLA copies it first.
        keep1, keep2 = passes.after(rate, beta1, beta2)

        def update_leaf(grad, param, m, v, has_decay, leaf_rate):
            grad = base.add_decay(grad, param, weight_decay, dtype, has_decay)
            new_m = keep1 * m + (1 - beta1) * grad
            new_v = keep2 * v + (1 - beta2) * (grad * grad)
            change = -(leaf_rate * now) * new_m / (base.root(new_v) + epsilon)
            return (
                change.astype(param.dtype),
                new_m.astype(m.dtype),
                new_v.astype(v.dtype),
            )

        changes, exp_avg, exp_avg_sq = base.map_leaves(
            update_leaf,
            3,
            updates,
            params,
            state.exp_avg,
            state.exp_avg_sq,
            decay_flags,
            jax.tree.structure(products).unflatten(rates),
        )
        return changes, HypergradientAdamState(
            state.count + 1, rate, exp_avg, exp_avg_sq
        )

    return optax.GradientTransformationExtraArgs(init, update)
