"""Checks of hyperparameters' values, where they are known.

JAX arrays, traced or not, schedules, NumPy arrays of several numbers and None pass.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from lrjax.optim.arguments import ArgumentError, shown


@dataclasses.dataclass(frozen=True)
class Bounds:
    """An interval of numbers.

    Attributes:
      text: the allowed numbers in words, to follow "must be".
      low, high: ends of the interval.
      above: whether `low` itself is excluded.
      below: whether `high` itself is excluded.
      whole: whether numbers must be whole.
    """

    text: str
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = True
    whole: bool = False

    def holds(self, number: float) -> bool:
        """Whether `number` is in the interval, before it is rounded."""
        return (
            (self.low < number if self.above else self.low <= number)
            and (number < self.high if self.below else number <= self.high)
            and not (self.whole and number != math.floor(number))
        )


ANY = Bounds("a number, or infinite", below=False)
FINITE = Bounds("a finite number", above=True)
NONNEGATIVE = Bounds("a finite number from 0", 0)
POSITIVE = Bounds("a finite number above 0", 0, above=True)
CAP = Bounds("a number from 0, or infinite", 0, below=False)
SCALE = Bounds("a number above 0, or infinite", 0, above=True, below=False)
GROWTH = Bounds("a number from 1, or infinite", 1, below=False)
RATIO = Bounds("a finite number from 1", 1)
FRACTION = Bounds("a number from 0 and below 1", 0, 1)
INSIDE = Bounds("a number between 0 and 1, exclusive", 0, 1, above=True)
SHARE = Bounds("a number from 0 to 1", 0, 1, below=False)
# Counts are compared as float32 where they are traced, which is exact up to 2**24.
_MOST = 2**24
COUNT = Bounds(f"a whole number from 1 to {_MOST}", 1, _MOST, below=False, whole=True)
FEW = Bounds("a whole number from 1 to 64", 1, 64, below=False, whole=True)
PAUSE = Bounds(f"a number from 0 to {_MOST}", 0, _MOST, below=False)


_INTEGERS = 2**63


def check(bounds: Bounds, **values: Any) -> None:
    """Check arguments, by name, before and after rounding to JAX's float type.

    A number that is not zero must not become zero: XLA flushes numbers below the
    smallest normal one to zero.

    Raises:
      ArgumentError: names the argument and what it must be; one line.
    """
    for name, value in values.items():
        several = isinstance(value, np.ndarray) and value.ndim
        if value is None or callable(value) or isinstance(value, jax.Array) or several:
            continue
        if isinstance(value, np.ndarray | np.generic):
            value = value.item()
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(value, int) and abs(value) >= _INTEGERS:
            number = False  # JAX accepts no such integer, whatever the dtype
        if not number or not bounds.holds(value):
            raise ArgumentError(f"{name} must be {bounds.text}, not {shown(value)}")
        used = as_used(value)
        if not bounds.holds(used):
            raise ArgumentError(
                f"{name} must be {bounds.text}: {shown(value)} is {used:g} in "
                f"{jnp.result_type(float).name}"
            )
        if used == 0 != value:
            raise ArgumentError(
                f"{name} is 0 in {jnp.result_type(float).name} where it is "
                f"{shown(value)}: give 0 or a larger number"
            )


def check_betas(betas: Any) -> None:
    """Check the decays of several tuners.

    Raises:
      ArgumentError: if they are none, no sequence or not from 0 to 1; one line.
    """
    if not isinstance(betas, Sequence | np.ndarray | jax.Array) or not len(betas):
        raise ArgumentError("betas must be a sequence, the decay of at least one tuner")
    for index, beta in enumerate(betas):
        check(SHARE, **{f"betas[{index}]": beta})


def size(name: str, value: Any, bounds: Bounds = COUNT) -> int:
    """Return a whole number that a shape depends on as an int, after checking it.

    Raises:
      ArgumentError: if it is not a whole number, out of bounds, or not known while
        tracing; one line.
    """
    if isinstance(value, Tracer):
        raise ArgumentError(
            f"{name} must be {bounds.text}, known while tracing: name it in "
            "static_args of optax.inject_hyperparams, or in static_argnames of jax.jit"
        )
    if value is None or callable(value):
        raise ArgumentError(f"{name} must be {bounds.text}, known while tracing")
    value = np.asarray(value)[()] if isinstance(value, jax.Array) else value
    if np.ndim(value):
        raise ArgumentError(f"{name} must be {bounds.text}, not an array")
    check(bounds, **{name: value})
    return int(value)


def as_used(value: float) -> float:
    """Round a number to JAX's float type, float32 or float64, as XLA does."""
    # jnp.result_type gives the same and takes 20 times as long.
    dtype = jax.dtypes.canonicalize_dtype(float)
    with np.errstate(over="ignore", under="ignore"):
        used = float(dtype.type(value))
    return 0.0 if abs(used) < np.finfo(dtype).tiny else used
