"""Domains: the numbers that a hyperparameter can be."""

from __future__ import annotations

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Domain:
    """The valid values of a hyperparameter that is a number.

    Attributes:
      low: smallest valid value.
      high: upper bound.
      closed: whether `high` itself is valid.
      whole: whether only whole numbers are valid, both ends included.

    Example:
      >>> decay = Domain(high=1.0)
      >>> 0.9 in decay, 1.0 in decay, str(decay)
      (True, False, 'in [0, 1)')
    """

    low: float = 0.0
    high: float = math.inf
    closed: bool = False
    whole: bool = False

    def __contains__(self, value: float) -> bool:
        if value == self.high:
            return self.closed or self.whole
        return self.low <= value < self.high and not (self.whole and value % 1)

    def __str__(self) -> str:
        if self.whole:
            return f"a whole number from {self.low:.0f} to {self.high:.0f}"
        return f"in [{self.low:g}, {self.high:g}{']' if self.closed else ')'}"
