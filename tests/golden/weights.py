"""Weights and images that follow from names, for golden values of models.

NumPy freezes the numbers of RandomState for all versions, so the weights of a model
need not be kept.
"""

from __future__ import annotations

import zlib

import numpy as np


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers that follow from a name; float64."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter or buffer of a PyTorch model, of a size that keeps signals alive."""
    noise = normal(name, shape)
    if name.endswith("running_var"):
        return 1 + 0.2 * np.abs(noise)
    if name.endswith("weight") and len(shape) == 1:
        return 1 + 0.2 * noise
    if name.endswith("weight"):
        return noise * (2 / np.prod(shape[1:])) ** 0.5
    return 0.1 * noise


def images(rows: int, size: int, channels: int = 3) -> np.ndarray:
    """Scaled images [rows, size, size, channels]."""
    return normal(f"images {size}", (rows, size, size, channels))


def labels(rows: int, classes: int) -> np.ndarray:
    """Class numbers [rows]."""
    return np.arange(rows) * 7 % classes
