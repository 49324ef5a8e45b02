"""Hypergradient descent with a learning rate for each tensor or each coordinate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds


class MultirateState(NamedTuple):
    """State of `multirate_sgd`.

    Attributes:
      learning_rate: mean of the rates of all parameters in the last update; before it,
        the initial rate.
      rates: a rate for each leaf, or for each entry.
      direction: the direction of the last update.
    """

    learning_rate: jax.Array
    rates: Any
    direction: Any


@base.any_leaves
def multirate_sgd(
    learning_rate: base.Scalar,
    per_coordinate: bool = False,
    weight_decay: base.Scalar = 0.0,
    hypergrad_lr: base.Scalar = 1e-6,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with hypergradient descent on a rate per tensor or per coordinate.

    With :math:`h_t = g_t + w x_t`, for each tensor or coordinate by itself:

    .. math::
      \gamma_t = \gamma_{t-1} + \kappa \langle h_t, h_{t-1} \rangle, \quad
      x_{t+1} = x_t - \gamma_t h_t

    `hypergradient_sgd` is the same with one rate for all.

    Args:
      learning_rate: the initial rate, a number or a traced number.
      per_coordinate: a rate for each entry, not for each leaf. Static.
      weight_decay: coefficient w of weight decay, added to the gradient.
      hypergrad_lr: the learning rate :math:`\kappa` of the learning rates.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = {"a": jnp.array([1.0]), "b": jnp.array([-2.0])}
      >>> transformation = optim.multirate_sgd(0.1, hypergrad_lr=1e-2)
      >>> state = transformation.init(params)
      >>> for _ in range(2):
      ...     grads = {name: 2 * x for name, x in params.items()}
      ...     updates, state = transformation.update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> {name: round(float(rate), 3) for name, rate in state.rates.items()}
      {'a': 0.132, 'b': 0.228}

    References:
      Baydin et al., `Online Learning Rate Adaptation with Hypergradient Descent
      <https://arxiv.org/abs/1703.04782>`_, 2018, with a rate per tensor as in Chandra
      et al., `Gradient Descent: The Ultimate Optimizer
      <https://arxiv.org/abs/1909.13371>`_, 2022: ``SGDPerParam`` under ``SGD`` of its
      official implementation.
    """
    bounds.check(
        bounds.NONNEGATIVE,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        hypergrad_lr=hypergrad_lr,
    )

    def init(params):
        dtype = base.scalar_dtype(params)
        (first,) = base.scalars(dtype, learning_rate)

        def rates(param):
            return jnp.zeros(param.shape if per_coordinate else (), param.dtype) + first

        return MultirateState(
            learning_rate=base.fresh(dtype, learning_rate),
            rates=jax.tree.map(lambda p: rates(p).astype(p.dtype), params),
            direction=base.zeros_like(params),
        )

    def update(updates, state, params=None, **extra_args):
        del extra_args
        params = base.require_params(params)
        dtype = state.learning_rate.dtype
        (step,) = base.scalars(dtype, hypergrad_lr)

        def update_leaf(grad, param, last, rate, has_decay):
            grad = base.add_decay(grad, param, weight_decay, dtype, has_decay)
            product = grad * last if per_coordinate else jnp.sum(grad * last)
            new_rate = rate + step * product
            return (
                (-new_rate * grad).astype(param.dtype),
                grad.astype(last.dtype),
                new_rate.astype(rate.dtype),
                jnp.mean(new_rate) * param.size if param.size else jnp.zeros((), dtype),
            )

        decay_flags = base.decay_flags(weight_decay, weight_decay_mask, params)
        changes, direction, rates, sums = base.map_leaves(
            update_leaf, 4, updates, params, state.direction, state.rates, decay_flags
        )
        size = base.num_entries(params)
        return changes, MultirateState(base.total(sums, dtype) / size, rates, direction)

    return optax.GradientTransformationExtraArgs(init, update)
