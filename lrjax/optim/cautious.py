"""Cautious masks: entries move only where the gradient agrees."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import base, bounds
from lrjax.optim.baselines import adamw
from lrjax.optim.readings import effective_learning_rate

_LEAST = 1e-3  # of the share that updates are divided by


class CautiousState(NamedTuple):
    """State of `cautious`.

    Attributes:
      inner: state of the wrapped transformation.
    """

    inner: Any


@base.any_leaves
def cautious(
    base_optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    r"""Keep those entries of updates that go against the present gradient.

    With the update u of a tensor and its gradient g

    .. math::
      \phi = [u g < 0], \quad
      u \leftarrow \frac{\phi u}{\max(\mathrm{mean}(\phi), 10^{-3})}

    so that updates with momentum do not raise the loss to first order. Weight decay
    inside is masked, too, which the authors do not do: give `base_optimizer` none, and
    see `cautious_adamw`.

    Args:
      base_optimizer: any transformation, without weight decay.

    Returns:
      The transformation, for parameters of any shapes. It keeps nothing of its own.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.ones(2)
      >>> transformation = optim.cautious(optim.sgd(0.1, momentum=0.9))
      >>> state = transformation.init(params)
      >>> for gradient in (jnp.array([1.0, 1.0]), jnp.array([1.0, -0.5])):
      ...     updates, state = transformation.update(gradient, state, params)
      >>> [round(float(u), 2) for u in updates]
      [-0.38, 0.0]

    References:
      Liang et al., `Cautious Optimizers: Improving Training with One Line of Code
      <https://arxiv.org/abs/2411.16085>`_, 2024. Official implementation: ``AdamW`` of
      kyleliang919/C-Optim; its older ``Lion`` divides by the share plus one entry.
    """
    base_optimizer = optax.with_extra_args_support(base_optimizer)

    def init(params):
        return CautiousState(base_optimizer.init(params))

    def update(updates, state, params=None, **extra_args):
        changes, new = base_optimizer.update(updates, state.inner, params, **extra_args)

        def mask(change, grad):
            kept = jnp.sign(change) * jnp.sign(grad).astype(change.dtype) < 0
            share = jnp.mean(kept, dtype=change.dtype)
            return jnp.where(kept, change, 0) / jnp.maximum(share, _LEAST)

        return jax.tree.map(mask, changes, updates), CautiousState(new)

    return optax.GradientTransformationExtraArgs(init, update)


@base.any_leaves
def cautious_adamw(
    learning_rate: base.ScalarOrSchedule = 1e-3,
    b1: base.Scalar = 0.9,
    b2: base.Scalar = 0.999,
    eps: base.Scalar = 1e-6,
    weight_decay: base.Scalar = 0.0,
    weight_decay_mask: base.PerLeaf = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamW with a cautious mask; weight decay is not masked.

    Args:
      learning_rate: :math:`\gamma`, a number, traced or not, or a schedule of the
        update count.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: term outside of the root in the denominator.
      weight_decay: coefficient of weight decay, times the learning rate.
      weight_decay_mask: the leaves that decay, as in `adamw`.

    Returns:
      The transformation, for parameters of any shapes, with the official defaults. It
      is `cautious` around `adamw` and decay beside it; `eps` is PyTorch's, not scaled
      by the bias correction as in the official code.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.cautious_adamw()
      >>> state = transformation.init(params)
      >>> for gradient in (2 * params, jnp.array([-1.0, -1.0])):
      ...     updates, state = transformation.update(gradient, state, params)
      >>> [round(float(u), 5) for u in updates]
      [0.0, 0.00166]

    References:
      As for `cautious`. Official implementation: ``AdamW`` of kyleliang919/C-Optim.
    """
    masked = cautious(adamw(learning_rate, b1, b2, eps, weight_decay=0.0))
    bounds.check(bounds.NONNEGATIVE, weight_decay=weight_decay)

    def update(updates, state, params=None, **extra_args):
        params = base.require_params(params)
        changes, state = masked.update(updates, state, params, **extra_args)
        rate = effective_learning_rate(state)

        def decayed(change, param, has_decay):
            if not has_decay:
                return change
            (decay,) = base.scalars(rate.dtype, weight_decay)
            return (change - rate * decay * param).astype(change.dtype)

        flags = base.decay_flags(weight_decay, weight_decay_mask, params)
        return jax.tree.map(decayed, changes, params, flags), state

    return optax.GradientTransformationExtraArgs(masked.init, update)
