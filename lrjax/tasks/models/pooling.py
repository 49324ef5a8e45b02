"""Pooling of 2 x 2 pixels, by reshaping.

XLA's window reductions and their derivatives are slower on a CPU.
"""

from __future__ import annotations

import jax


def average(images: jax.Array) -> jax.Array:
    """Mean of every 2 x 2 pixels of [rows, height, width, channels].

    An odd last row or column is dropped.
    """
    return _windows(images).mean((2, 4))


def maximum(images: jax.Array) -> jax.Array:
    """Maximum of every 2 x 2 pixels of [rows, height, width, channels].

    An odd last row or column is dropped.
    """
    return _windows(images).max((2, 4))


def _windows(images: jax.Array) -> jax.Array:
    """[rows, height, width, channels] -> [rows, height/2, 2, width/2, 2, channels]."""
    rows, height, width, channels = images.shape
    images = images[:, : height // 2 * 2, : width // 2 * 2]
    return images.reshape(rows, height // 2, 2, width // 2, 2, channels)
