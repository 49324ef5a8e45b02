"""How far numbers are from those of another side, and how far they may be.

Two correct float32 programs differ by their rounding, and training amplifies that, for
some methods a thousandfold within fifty updates. So what is allowed is not one number:
it is a floor, plus `AMPLIFIED` times as much as the CPU's own numbers move when its
input is rounded differently. That is the distance of its float32 trajectory from the
float64 one where there is one, else the effect of noise of a millionth (`moved`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

AMPLIFIED = 10.0
FLOOR = 1e-5  # of float32, relative to the largest value of an array: 80 roundings
NOISE = 1e-6  # relative, of inputs: 8 roundings
LARGE = 4096  # values of an array that are kept


def deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest expected value of the array.

    Values that are not finite must be so in both; else the difference is infinite.
    """
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    if found.shape != expected.shape:
        return float("inf")
    finite = np.isfinite(expected)
    if (finite != np.isfinite(found)).any():
        return float("inf")
    if not finite.any():
        return 0.0
    size = max(np.abs(expected[finite]).max(), 1e-12)
    return float(np.abs(found[finite] - expected[finite]).max() / size)


def largest(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Largest deviation of all arrays of the same names."""
    if found.keys() != expected.keys() or not found:
        return float("inf")
    return max(deviation(found[name], expected[name]) for name in found)


def distance(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Euclidean distance of all arrays together, relative to the expected length."""
    if found.keys() != expected.keys() or not found:
        return float("inf")
    away = sum(
        _squares(np.float64(found[name]) - np.float64(value))
        for name, value in expected.items()
    )
    length = sum(map(_squares, expected.values()))
    return float(np.nan_to_num(np.sqrt(away / max(length, 1e-30)), nan=np.inf))


def farthest(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Largest distance of a single array, relative to its own expected length.

    Arrays shorter than a hundredth of all together count as that: gradients that are
    zero but for rounding have no digits to compare.
    """
    if found.keys() != expected.keys() or not found:
        return float("inf")
    least = np.sqrt(sum(map(_squares, expected.values()))) / 100
    far = [
        np.sqrt(_squares(np.float64(found[name]) - np.float64(value)))
        / max(np.sqrt(_squares(value)), least, 1e-30)
        for name, value in expected.items()
    ]
    return float(np.nan_to_num(max(far), nan=np.inf))


def _squares(values: Any) -> float:
    return float(np.sum(np.square(np.asarray(values, np.float64))))


def allowed(moved: float, floor: float = FLOOR) -> float:
    """The tolerance of numbers that move by so much on the CPU."""
    return floor + AMPLIFIED * moved


def sample(values: Any) -> np.ndarray:
    """At most `LARGE` evenly spaced values of an array, in float32 or as they are."""
    flat = np.asarray(values).reshape(-1)
    flat = flat if flat.dtype.kind in "iub" else flat.astype(np.float32)
    if flat.size <= LARGE:
        return flat
    return flat[np.linspace(0, flat.size - 1, LARGE).round().astype(int)]


def noisy(values: Any) -> np.ndarray:
    """Values with relative noise of `NOISE`; whole numbers as they are."""
    values = np.asarray(values)
    if values.dtype.kind != "f":
        return values
    noise = np.random.default_rng(0).standard_normal(values.shape)
    return (values * (1 + NOISE * noise)).astype(values.dtype)
