"""The schedule that the gradient norms of an earlier run ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from lrjax.optim import bounds
from lrjax.optim.arguments import ArgumentError, checked, is_number
from lrjax.optim.schedules import parts
from lrjax.optim.schedules.parts import Schedule


@checked("schedules")
def refined(
    learning_rate: ArrayLike,
    horizon: ArrayLike,
    gradient_norms: ArrayLike | Sequence[float],
    smoothing: float = 0.1,
    power: ArrayLike = 2.0,
) -> Schedule:
    """The schedule that is best for the gradient norms of an earlier run.

    With n recorded norms, smoothed by a running median to G_0, ..., G_(n-1), and
    w_i = G_i^(-power),

    lr(i) proportional to w_i (w_(i+1) + ... + w_(n-1)),

    with `learning_rate` as its largest value, stretched from n to `horizon` steps with
    straight lines in between. Where norms stay the same this is `linear`; where they
    fall at first it has a warm-up.

    Args:
      learning_rate: the largest value.
      horizon: steps until zero; n for the same length as the earlier run.
      gradient_norms: positive norms at equal distances in time, [n] with n of at least
        2. Euclidean for SGD, the sum of absolute values for Adam.
      smoothing: share of n that the running median looks at, from 0 to 1, known while
        tracing. Memory is n times this share of n.
      power: 2 for SGD with Euclidean norms; 1 for Adam.

    Returns:
      f(step) -> learning rate.

    Raises:
      ArgumentError: if `gradient_norms` are not at least two numbers, or known ones not
        finite numbers from 0 of which one is above; one line.

    Example:
      >>> from lrjax.optim import schedules
      >>> rate = schedules.refined(0.1, 5, [3.0, 2.0, 1.0, 1.0, 1.0], smoothing=0)
      >>> [round(float(rate(step)), 4) for step in (0, 1, 2, 3, 4)]
      [0.0181, 0.0375, 0.1, 0.05, 0.0]

    Source: Defazio, Cutkosky, Mehta and Mishchenko, "When, why and how much? Adaptive
    learning rate scheduling by refinement" (2023), Algorithm 1 with the median filter
    of its section 3.1; facebookresearch/adaptive_scheduling, which leaves the scale
    open.
    """
    bounds.check(bounds.NONNEGATIVE, learning_rate=learning_rate)
    bounds.check(bounds.POSITIVE, horizon=horizon)
    bounds.check(bounds.SHARE, smoothing=smoothing)
    bounds.check(bounds.POSITIVE, power=power)
    if isinstance(smoothing, Tracer):
        raise ArgumentError("smoothing must be known while tracing")
    recorded = _norms(gradient_norms)

    def schedule(step: ArrayLike) -> jax.Array:
        norms = _running_median(parts.real(recorded), smoothing)
        # A norm of zero counts as the smallest that is not.
        least = jnp.min(jnp.where(norms > 0, norms, jnp.inf))
        relative = jnp.where(norms > 0, least / norms, 1.0)
        weights = relative ** parts.real(power)
        tails = jnp.cumsum(weights[::-1])[::-1]
        table = weights * jnp.append(tails[1:], 0.0)
        table = table / jnp.max(table)
        place = parts.progress(step, horizon) * len(norms)
        return parts.real(learning_rate) * jnp.interp(
            place, parts.real(np.arange(len(norms))), table
        )

    return schedule


def _norms(given: Any) -> jax.Array | np.ndarray:
    """Gradient norms as an array, after a check, of values where they are known."""
    try:
        norms = given if isinstance(given, jax.Array) else np.asarray(given)
    except ValueError:  # lists of several lengths
        norms = np.empty(())
    if not is_number(norms) or norms.ndim != 1 or len(norms) < 2:
        raise ArgumentError("gradient_norms must be a list of at least two numbers")
    if isinstance(norms, np.ndarray):
        good = np.isfinite(norms) & (norms >= 0)
        if not good.all():
            index = int(np.argmin(good))
            raise ArgumentError(
                "gradient_norms must be finite numbers from 0; "
                f"gradient_norms[{index}] is {norms[index]}"
            )
        if not norms.any():
            raise ArgumentError("gradient_norms must not all be 0")
    return norms


def _running_median(values: jax.Array, share: float) -> jax.Array:
    """The median of a window around each value, of about `share` of all values."""
    width = 2 * (int(share * len(values)) // 2) + 1
    half = width // 2
    padded = jnp.pad(jnp.pad(values, (half, 0), "edge"), (0, half), "reflect")
    windows = padded[np.arange(len(values))[:, None] + np.arange(width)]
    return jnp.sort(windows, axis=1)[:, half]
