"""Mechanic: a learned scale for the updates of any optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds, passes
from lrjax.optim.readings import scaled_rate


class MechanicState(NamedTuple):
    """State of `mechanic`.

    Attributes:
      scales: [tuners], scales whose sum is the scale of the displacement.
      max_product: [tuners], decaying maximum of |h|.
      square_sum: [tuners], decaying sum of h squared.
      reward: [tuners], decaying reward of the coin betting.
      learning_rate: the sum of the scales after the last update, times the rate of the
        base optimiser if that is known; 0 before it. A tree if there are several rates.
      start: the initial parameters.
      inner: state of the base optimiser.
    """

    scales: jax.Array
    max_product: jax.Array
    square_sum: jax.Array
    reward: jax.Array
    learning_rate: jax.Array
    start: Any
    inner: Any


# Above 60 lines: one update rule in one piece, to be read beside its source.
@base.any_leaves
def mechanic(
    base_optimizer: optax.GradientTransformation,
    s_decay: base.Scalar = 0.01,
    betas: Sequence[base.Scalar] = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999),
    s_init: base.Scalar = 1e-8,
    eps: base.Scalar = 1e-8,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Tune the scale of another optimiser's updates.

    With the updates :math:`u_t` of the base optimiser at :math:`x_t` and the scale
    :math:`S_t = \sum_i s_{t,i}`:

    .. math::
      \Delta_t &= (x_t - x_0) / (S_t + \epsilon) \\
      h_t &= \left\langle \Delta_t, g_t + \lambda S_t
        \frac{\|g_t\|}{\|x_t+u_t\| + \epsilon} (x_t+u_t) \right\rangle \\
      m_{t+1} &= \max(\beta m_t, |h_t|), \quad
      v_{t+1} = \beta^2 v_t + h_t^2, \quad
      r_{t+1} = \max(\beta r_t - s_t h_t, 0) \\
      s_{t+1} &= \frac{s_{\mathrm{init}} m_{t+1} / n + r_{t+1}}
        {\sqrt{v_{t+1}} + \epsilon} \\
      x_{t+1} &= x_0 + \max(S_{t+1}, 0) (\Delta_t + u_t)

    for each of the n values of :math:`\beta`. This is the PyTorch implementation, which
    keeps no displacements; `optax.contrib.mechanize` is another variant.

    Args:
      base_optimizer: the optimiser to tune, with a learning rate (and its schedule) of
        scale 1.
      s_decay: weight decay :math:`\lambda` in the tuners.
      betas: decays of the tuners. Their number is static.
      s_init: initial scale; the authors report no need to tune it.
      eps: term in the denominators.
      weight_decay_mask: the leaves that `s_decay` applies to, as in `adamw`; both norms
        and the product with it exclude the others. The base optimiser has its own mask.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.mechanic(optim.adamw(1.0), s_init=1e-4)
      >>> state = transformation.init(params)
      >>> for _ in range(3):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(optim.effective_learning_rate(state) > 1e-4)
      True

    References:
      Cutkosky, Defazio and Mehta, `Mechanic: A Learning Rate Tuner
      <https://arxiv.org/abs/2306.00144>`_, 2023, Algorithm 1. Official implementation:
      ``mechanize`` of optimizedlearning/mechanic (PyTorch).
    """
    bounds.check(bounds.NONNEGATIVE, s_decay=s_decay)
    bounds.check(bounds.POSITIVE, s_init=s_init, eps=eps)
    bounds.check_betas(betas)
    base_optimizer = optax.with_extra_args_support(base_optimizer)

    def init(params):
        dtype = base.scalar_dtype(params)
        zeros = jnp.zeros(len(betas), dtype)
        inner = base_optimizer.init(params)
        return MechanicState(
            scales=zeros,
            max_product=jnp.full_like(zeros, 1e-6),
            square_sum=jnp.copy(zeros),
            reward=jnp.copy(zeros),
            learning_rate=jax.tree.map(
                jnp.zeros_like, scaled_rate(jnp.zeros((), dtype), inner)
            ),
            start=base.copy(params),
            inner=inner,
        )

    def update(updates, state, params=None, **extra_args):
        params = base.require_params(params)
        dtype = state.scales.dtype
        decay, scale_init, epsilon = base.scalars(dtype, s_decay, s_init, eps)
        tuner_decays = jnp.stack(base.scalars(dtype, *betas))
        steps, inner = base_optimizer.update(updates, state.inner, params, **extra_args)

        decay_flags = base.decay_flags(s_decay, weight_decay_mask, params)

        def products(grad, param, start, step, has_decay):
            """Summands of the four inner products that scale and decay need."""
            moved, target = param - start, param + step
            if not has_decay:
                zero = jnp.zeros_like(grad)
                return moved * grad, zero, zero, zero
            return moved * grad, moved * target, target * target, grad * grad

        by_grad, by_target, target_norm, grad_norm = passes.sums(
            products, 4, dtype, updates, params, state.start, steps, decay_flags
        )
        scale = jnp.sum(state.scales)
        # With scale 0 there is no decay, even if the ratio overflows.
        ratio = base.root(grad_norm) / (base.root(target_norm) + epsilon)
        pull = decay * scale * jnp.where(scale > 0, ratio, 0)
        product = (by_grad + pull * by_target) / (scale + epsilon)
        max_product = jnp.maximum(tuner_decays * state.max_product, jnp.abs(product))
        square_sum = tuner_decays**2 * state.square_sum + product**2
        reward = jnp.maximum(tuner_decays * state.reward - state.scales * product, 0)
        wealth = max_product * scale_init / len(betas) + reward
        scales = wealth / (base.root(square_sum) + epsilon)
        new_scale = jnp.maximum(jnp.sum(scales), 0)
        old_factor = new_scale / (scale + epsilon) - 1

        def update_leaf(param, start, step):
            # Not `moved` of the sums: XLA would store it for both uses.
            change = new_scale * step - old_factor * (start - param)
            return change.astype(param.dtype)

        changes = jax.tree.map(update_leaf, params, state.start, steps)
        return changes, MechanicState(
            scales=scales,
            max_product=max_product,
            square_sum=square_sum,
            reward=reward,
            learning_rate=scaled_rate(new_scale, inner),
            start=state.start,
            inner=inner,
        )

    return optax.GradientTransformationExtraArgs(init, update)
