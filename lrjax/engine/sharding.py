"""How one block lies on several devices: its batches cut, its state perhaps too.

As a rule each device trains whole blocks (`experiment`). A single large run cannot be
dealt out like that. So its batches are cut along their rows, each device computes the
gradient of its part, and XLA adds them up; parameters and optimiser state are whole on
every device, or cut as well (fully sharded data parallel, Zhao et al. 2023).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lrjax.core import (
    PyTree,
    Task,
    UsageError,
    counted,
)

_AXIS = "data"
_LANE_AXES = 2  # of a block's arrays, seeds and hparams, come first
_WORTH = 128  # numbers of a run on each device; a smaller array is kept whole


@dataclasses.dataclass(frozen=True)
class Layout:
    """Devices that share a block.

    Attributes:
      devices: which.
      cuts_params: whether parameters and optimiser state are cut, too.
    """

    devices: tuple[Any, ...]
    cuts_params: bool

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices in a row."""
        return Mesh(np.asarray(self.devices), (_AXIS,))

    @property
    def whole(self) -> NamedSharding:
        """Of an array that every device has."""
        return NamedSharding(self.mesh, PartitionSpec())

    def along(self, axis: int) -> NamedSharding:
        """Of an array that is cut along an axis."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, _AXIS))

    def cut(self, batch: PyTree) -> PyTree:
        """A batch inside of a compiled program, its rows dealt out if they divide."""

        def one(x: jax.Array) -> jax.Array:
            if len(x) % len(self.devices):
                return x
            return jax.lax.with_sharding_constraint(x, self.along(0))

        return jax.tree.map(one, batch)

    def of_state(self, state: PyTree) -> PyTree:
        """Shardings of a block's state, for leaves [seeds, hparams, ...] or shapes."""

        def one(x: Any) -> NamedSharding:
            count = len(self.devices)
            axes = range(_LANE_AXES, x.ndim)
            axes = [axis for axis in axes if x.shape[axis] % count == 0]
            size = math.prod(x.shape[_LANE_AXES:])
            if not self.cuts_params or not axes or size < _WORTH * count:
                return self.whole
            return self.along(max(axes, key=lambda a: x.shape[a]))

        return jax.tree.map(one, state)


def described(tree: PyTree, shardings: Any) -> PyTree:
    """Shapes and types of arrays, and how they lie on devices.

    Args:
      tree: of arrays or shapes.
      shardings: a tree of the same structure, or one for all.
    """

    def one(x: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda x: one(x, shardings), tree)
    return jax.tree.map(one, tree, shardings)


def choose(shard: str, devices: Sequence[Any]) -> Layout | None:
    """The layout that a config asks for; None where each device has blocks of its own.

    Args:
      shard: one of `core.SHARDED`.
      devices: of this process.
    """
    if shard == "runs" or len(devices) == 1:
        return None
    return Layout(tuple(devices), cuts_params=shard == "params")


def check(layout: Layout, task: Task) -> None:
    """Raises UsageError where a task's batches cannot be cut evenly."""
    rows, count = task.batch_size // task.micro_batches, len(layout.devices)
    if rows % count:
        parts = f", in {task.micro_batches} parts," if task.micro_batches > 1 else ""
        batches = f"batches of {counted(task.batch_size, 'row')}"
        raise UsageError(
            f"{task.name}: {batches}{parts} do not divide by "
            f"{count} devices; set --config.batch_size, or use fewer devices"
        )
