"""TRAC: the displacement of any optimiser, times a scale that is learned by erfi."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrjax.optim import base, bounds
from lrjax.optim.readings import scaled_rate

_TERMS = 128  # of the series for erfi


class TracState(NamedTuple):
    """State of `trac`.

    Attributes:
      scales: [tuners], scales whose sum is the scale of the displacement.
      square_sum: [tuners], decaying sum of h squared.
      reward: [tuners], decaying sum of -h.
      learning_rate: the scale that the last update used, times the rate of the base
        optimiser if that is known; 0 before it. A tree if there are several rates.
      start: the initial parameters.
      inner: state of the base optimiser.
    """

    scales: jax.Array
    square_sum: jax.Array
    reward: jax.Array
    learning_rate: jax.Array
    start: Any
    inner: Any


def _series() -> tuple[float, np.ndarray]:
    """The width and the coefficients of the authors' series for erfi.

    It is Weideman's of 1994 but for one sample of the Fourier transform, which they
    leave out, so that it is up to 1.05 % below erfi, and beyond 1.5 up to 0.2 % above.
    """
    width = np.sqrt(_TERMS / np.sqrt(2.0))
    angles = np.arange(1 - 2 * _TERMS, 2 * _TERMS) * np.pi / (2 * _TERMS)
    squares = np.square(width * np.tan(angles / 2))
    samples = np.exp(-squares) * (width**2 + squares)
    parts = np.fft.fft(np.fft.fftshift(samples)).real / (4 * _TERMS)
    return float(width), parts[1 : _TERMS + 1]


_WIDTH, _PARTS = _series()


def _erfi(x: jax.Array) -> jax.Array:
    """Erf(ix) / i as the authors compute it, for [tuners] values."""
    angle = 2 * jnp.arctan(x / _WIDTH)
    waves = jnp.sin(jnp.arange(1, _TERMS + 1, dtype=x.dtype) * angle[:, None])
    total = 2 * waves @ jnp.asarray(_PARTS, x.dtype) + x / math.sqrt(math.pi)
    return jnp.exp(jnp.square(x)) * total / (_WIDTH**2 + jnp.square(x))


@base.any_leaves
def trac(
    base_optimizer: optax.GradientTransformation,
    betas: Sequence[base.Scalar] = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999),
    s_prev: base.Scalar = 1e-8,
    eps: base.Scalar = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""TRAC: tune the scale of another optimiser's displacement from the start.

    With the updates :math:`u_t` of the base optimiser at :math:`x_t` and the scale
    :math:`S_t = \sum_i s_{t,i}`:

    .. math::
      \Delta_t &= (x_t - x_0) / (S_t + \epsilon), \quad
        h_t = \langle \Delta_t, g_t \rangle \\
      v_{t+1} &= \beta^2 v_t + h_t^2, \quad
        \sigma_{t+1} = \beta \sigma_t - h_t, \quad \sigma_0 = 10^{-8} \\
      s_{t+1} &= \frac{s_{\mathrm{prev}}}{\mathrm{erfi}(1 / \sqrt{2})}
        \mathrm{erfi}\left(\frac{\sigma_{t+1}}
        {\sqrt{2} \sqrt{v_{t+1}} + \epsilon}\right) \\
      x_{t+1} &= x_0 + \max(S_{t+1}, 0) (\Delta_t + u_t)

    for each of the values of :math:`\beta`. Where the sum of the scales falls to 0, the
    parameters go back to their start, h is 0 from then on, and they stay there.

    Args:
      base_optimizer: the optimiser to tune, with its own learning rate and schedule.
      betas: decays of the tuners. Their number is static.
      s_prev: scale; the authors have no need to tune it.
      eps: term in the denominators.

    Returns:
      The transformation, for parameters of any shapes. Defaults are those of the
      official implementation, and so is its series for erfi, which is about 1 % off.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.array([1.0, -2.0])
      >>> transformation = optim.trac(optim.sgd(0.1), s_prev=1e-3)
      >>> state = transformation.init(params)
      >>> for _ in range(20):
      ...     updates, state = transformation.update(2 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(jnp.abs(params).max() < 1.0)
      True

    References:
      Muppidi, Zhang and Yang, `Fast TRAC: A Parameter-Free Optimizer for Lifelong
      Reinforcement Learning <https://arxiv.org/abs/2405.16642>`_, 2024, Algorithm 1.
      Official implementation: ``start_trac`` of trac-optimizer 0.0.2 (PyTorch).
    """
    bounds.check(bounds.POSITIVE, s_prev=s_prev, eps=eps)
    bounds.check_betas(betas)
    base_optimizer = optax.with_extra_args_support(base_optimizer)

    def init(params):
        dtype = base.scalar_dtype(params)
        zeros = jnp.zeros(len(betas), dtype)
        inner = base_optimizer.init(params)
        return TracState(
            scales=zeros,
            square_sum=jnp.copy(zeros),
            reward=jnp.full_like(zeros, 1e-8),
            learning_rate=jax.tree.map(
                jnp.zeros_like, scaled_rate(jnp.zeros((), dtype), inner)
            ),
            start=base.copy(params),
            inner=inner,
        )

    def update(updates, state, params=None, **extra_args):
        params = base.require_params(params)
        dtype = state.scales.dtype
        scale_init, epsilon, half = base.scalars(dtype, s_prev, eps, 0.5**0.5)
        decays = jnp.stack(base.scalars(dtype, *betas))
        scale = jnp.sum(state.scales)
        product = base.sum_leaves(
            lambda grad, param, start: (param - start) * grad,
            dtype,
            updates,
            params,
            state.start,
        ) / (scale + epsilon)
        square_sum = decays**2 * state.square_sum + product**2
        reward = decays * state.reward - product
        spread = base.root(2 * square_sum) + epsilon
        scales = scale_init / _erfi(half[None]) * _erfi(reward / spread)
        new_scale = jnp.maximum(jnp.sum(scales), 0)
        old_factor = new_scale / (scale + epsilon) - 1

        steps, inner = base_optimizer.update(updates, state.inner, params, **extra_args)

        def update_leaf(param, start, step):
            return (new_scale * step - old_factor * (start - param)).astype(param.dtype)

        changes = jax.tree.map(update_leaf, params, state.start, steps)
        return changes, TracState(
            scales=scales,
            square_sum=square_sum,
            reward=reward,
            learning_rate=scaled_rate(new_scale, inner),
            start=state.start,
            inner=inner,
        )

    return optax.GradientTransformationExtraArgs(init, update)
