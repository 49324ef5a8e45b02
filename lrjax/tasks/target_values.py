"""Checks of the values of targets: those that a loss or a metric would misread."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from lrjax.core import Batch, UsageError
from lrjax.tasks import losses
from lrjax.tasks.losses import Loss

_LOOKED_AT = 2**24  # entries of targets that are mapped from a file
_NEAR_ONE = 1e-3  # as far as shares in half precision add up to 1
_CHOICES = {"accuracy", "confusion"}  # sums that tell classes apart


def are_shares(train: Batch, shapes: tuple[Any, Any]) -> bool:
    """Whether the targets of each row, in the outputs' shape, add up to 1."""
    outputs, targets = shapes
    if "targets" not in train or not hasattr(outputs, "dtype"):
        return False
    if outputs.shape != targets.shape or outputs.ndim < 2 or outputs.shape[-1] < 2:
        return False
    values = _values(train)
    whole = values.sum(-1, dtype=float)
    return bool(values.min() >= 0 and (abs(whole - 1) < _NEAR_ONE).all())


def check(
    part: Batch,
    loss: Loss,
    shapes: tuple[Any, Any],
    sums: Collection[str],
    shared: bool,
    lengths: str | None,
) -> None:
    """Refuse targets that a loss or a metric would take for something else.

    Args:
      part: training, validation or test data.
      loss: the loss.
      shapes: those of a few rows' outputs and targets.
      sums: names of the sums that the metrics need.
      shared: whether targets of the outputs' shape are shares of the classes.
      lengths: the input that says which items of a row count.

    Raises:
      UsageError: says what the targets must be.
    """
    outputs, targets = shapes
    if "targets" not in part or not hasattr(outputs, "dtype"):
        return
    chosen = not _CHOICES.isdisjoint(sums)
    classes = losses.classes(outputs, targets)
    if classes and (loss.softmax or chosen or targets.ndim == 1):
        advice = (
            "; lengths= leaves items out"
            if targets.ndim > 1
            else ": np.unique(y, return_inverse=True)[1] numbers classes from 0, and "
            "numbers to be predicted are floats"
        )
        _within(0, classes - 1, f"for {classes} outputs{advice}", part, lengths)
    elif loss.binary:
        _within(0, 1, "for a binary cross-entropy", part, lengths)
    elif loss.softmax:
        _within(0, math.inf, "as shares of classes", part, lengths)
    elif loss.estimates and chosen and not shared and _beyond_signs(part, lengths):
        raise UsageError(
            "accuracy and the like take an output above 0 for yes, and this loss "
            "brings outputs near the targets: use a cross-entropy, or give targets "
            "that are -1 and 1"
        )


def _beyond_signs(part: Batch, lengths: str | None) -> bool:
    """Whether targets are others than -1 and 1."""
    return bool((abs(_counted(part, lengths)) != 1).any())


def _within(
    least: float, most: float, why: str, part: Batch, lengths: str | None
) -> None:
    """Refuse targets beyond bounds; numbers that are not finite are left alone."""
    values = _counted(part, lengths)
    if ((values < least) | (values > most)).any():
        bounds = f"from {least} " + ("up" if math.isinf(most) else f"to {most}")
        raise UsageError(
            f"targets go from {values.min()} to {values.max()}, and must be {bounds} "
            f"{why}"
        )


def _counted(part: Batch, lengths: str | None) -> np.ndarray:
    """The targets of the items that count."""
    values = _values(part)
    if lengths is None or values.ndim < 2:
        return values
    own = np.asarray(part[f"inputs/{lengths}"])[: len(values)]
    if own.ndim == 1:
        own = np.arange(values.shape[1]) < own[:, None]
    return values[own > 0] if own.shape == values.shape[:2] else values


def _values(part: Batch) -> np.ndarray:
    """The targets, as far as they are looked at."""
    targets: Any = part["targets"]
    if isinstance(targets, np.memmap):
        targets = targets[: _LOOKED_AT // math.prod(targets.shape[1:]) + 1]
    return np.asarray(targets)
