"""Division of one block over several devices: its batches, perhaps its state too.

Usually each device trains whole blocks (`launch.local`). A single large run cannot be
distributed like that, so its batches are split along their rows, each device computes
the gradient of its share, and XLA adds the gradients up. Parameters and optimiser state
are whole on every device, or split as well (fully sharded data parallel, Zhao et al.
2023).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from lrjax.core import (
    PyTree,
    Task,
    UsageError,
    counted,
)

_AXIS = "data"
_LANE_AXES = 2  # leading axes of a block's arrays: seeds and hparams
_WORTH = 128  # numbers of a run per device; smaller arrays are kept whole


@dataclasses.dataclass(frozen=True)
class Layout:
    """Devices that share a block.

    Attributes:
      devices: in order.
      splits_params: whether parameters and optimiser state are split, too, instead of
        replicated.
    """

    devices: tuple[Any, ...]
    splits_params: bool

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices as a mesh of one axis."""
        return Mesh(np.asarray(self.devices), (_AXIS,))

    @property
    def replicated(self) -> NamedSharding:
        """Sharding of an array that every device holds in full."""
        return NamedSharding(self.mesh, PartitionSpec())

    def split_along(self, axis: int) -> NamedSharding:
        """Sharding of an array that is split along an axis."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, _AXIS))

    def split_batch(self, batch: PyTree) -> PyTree:
        """Split a batch's rows over the devices, inside a compiled program.

        Arrays whose rows the number of devices does not divide stay whole.

        Args:
          batch: tree of arrays, leaves [rows, ...].
        """

        def split(x: jax.Array) -> jax.Array:
            if len(x) % len(self.devices):
                return x
            return jax.lax.with_sharding_constraint(x, self.split_along(0))

        return jax.tree.map(split, batch)

    def of_block(self, state: PyTree) -> PyTree:
        """Sharding of each array of a block, such as its state.

        With `splits_params` large arrays are split along their longest axis that
        divides evenly; the others are replicated.

        Args:
          state: tree of arrays or shapes, leaves [seeds, hparams, ...].

        Returns:
          A tree of the same structure.
        """
        return jax.tree.map(functools.partial(self._sharding_of, _LANE_AXES), state)

    def _sharding_of(self, lane_axes: int, x: Any) -> NamedSharding:
        """Sharding of one array with so many leading axes that are never split."""
        count = len(self.devices)
        axes = range(lane_axes, x.ndim)
        axes = [axis for axis in axes if x.shape[axis] % count == 0]
        size = math.prod(x.shape[lane_axes:])
        if not self.splits_params or not axes or size < _WORTH * count:
            return self.replicated
        return self.split_along(max(axes, key=lambda a: x.shape[a]))

    def gathered(self, params: PyTree) -> PyTree:
        """Make a run's parameters whole on every device, inside a compiled program.

        Where parameters are split, the model is to see them whole and its activations
        split by rows. Otherwise XLA lets the parameters' split spread to activations,
        and sends those between devices.
        """
        if not self.splits_params:
            return params
        return jax.lax.with_sharding_constraint(params, self.replicated)

    def scattered(self, grads: PyTree) -> PyTree:
        """Split a run's gradients as its parameters are, inside a compiled program.

        Each device then receives the sum of its share alone.
        """
        if not self.splits_params:
            return grads
        shardings = jax.tree.map(functools.partial(self._sharding_of, 0), grads)
        return jax.lax.with_sharding_constraint(grads, shardings)


def with_shardings(tree: PyTree, shardings: Any) -> PyTree:
    """Shapes and dtypes of arrays with shardings, to compile a program for.

    Args:
      tree: tree of arrays or of `jax.ShapeDtypeStruct`.
      shardings: a tree of the same structure, or a single one for all leaves.

    Returns:
      A tree of `jax.ShapeDtypeStruct`.
    """

    def describe(x: Any, sharding: Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    if isinstance(shardings, Sharding):
        return jax.tree.map(lambda x: describe(x, shardings), tree)
    return jax.tree.map(describe, tree, shardings)


def choose(shard: str, devices: Sequence[Any]) -> Layout | None:
    """The layout that a config asks for; None where each device trains its own blocks.

    Args:
      shard: one of `core.SHARDED`.
      devices: devices of this process.
    """
    if shard == "runs" or len(devices) == 1:
        return None
    return Layout(tuple(devices), splits_params=shard == "params")


def check(layout: Layout, task: Task) -> None:
    """Raise UsageError if a task's batches do not split evenly over the devices."""
    rows, count = task.batch_size // task.micro_batches, len(layout.devices)
    if rows % count:
        parts = f", in {task.micro_batches} parts," if task.micro_batches > 1 else ""
        batches = f"batches of {counted(task.batch_size, 'row')}"
        raise UsageError(
            f"{task.name}: {batches}{parts} do not divide by "
            f"{count} devices; set --config.batch_size, or use fewer devices"
        )
