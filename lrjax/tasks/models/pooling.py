"""Pooling of 2 x 2 pixels, as sums and maxima of a reshaped image.

XLA's windows take longer on a CPU, and so do their derivatives.
"""

from __future__ import annotations

import jax


def average(images: jax.Array) -> jax.Array:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    return _windows(images).mean((2, 4))


def maximum(images: jax.Array) -> jax.Array:
    """Largest of 2 x 2 pixels; an odd last row or column is left out."""
    return _windows(images).max((2, 4))


def _windows(images: jax.Array) -> jax.Array:
    """[rows, height, width, channels] -> [rows, height/2, 2, width/2, 2, channels]."""
    rows, height, width, channels = images.shape
    images = images[:, : height // 2 * 2, : width // 2 * 2]
    return images.reshape(rows, height // 2, 2, width // 2, 2, channels)
