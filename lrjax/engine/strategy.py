"""How a task is trained fastest, found in what its loss does.

The loss is traced for a batch's shapes alone: no data are touched and nothing is
computed. The products in its jaxpr say what kind of model it is, and with the backend
that decides whether runs share a block and how many rows are evaluated at once. The
same shapes and the same backend give the same answer in every process.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lrjax.common import jaxprs, numerics
from lrjax.core import Task

LINEAR, NETWORK, CONVOLUTIONS, PRODUCTS = KINDS = (
    "linear",
    "network",
    "convolutions",
    "products",
)
# Inside of a loop XLA's programs for CPUs take some 30 times as long for a convolution
# (benchmarks/convolutions.py): from this share of all multiplications on that would
# take longer than all the rest. The patches of a vision transformer are below it.
_CONVOLVED = 1 / 30
# Multiplications of one matrix product that fill a CPU's cores by themselves: what a
# core does in about a millisecond, many times what calling a program costs.
_LARGE = 2**25
_ONE_BY_ONE = {"cpu": (CONVOLUTIONS, PRODUCTS)}


@dataclasses.dataclass(frozen=True)
class Work:
    """What a loss does for one batch; what is in a `scan` counts for each turn.

    Attributes:
      products: matrix products; sums of products do not count.
      multiplied: multiplications in them.
      largest: multiplications of the largest one.
      convolved: multiplications in convolutions.
      loops: whether there is a loop (`scan`, `while`).
    """

    products: int
    multiplied: int
    largest: int
    convolved: int
    loops: bool

    @property
    def kind(self) -> str:
        """The kind of model, one of `KINDS`.

        'linear' has one matrix product at most, and neither convolution nor loop; in
        'convolutions' these do more than a thirtieth of the work; 'products' has none,
        and a matrix product that keeps a CPU's cores busy; 'network' is all else.
        """
        if self.products <= 1 and not self.convolved and not self.loops:
            return LINEAR
        if self.convolved > _CONVOLVED * (self.convolved + self.multiplied):
            return CONVOLUTIONS
        # A few convolutions more than eat up what the large products would gain.
        if not self.convolved and self.largest >= _LARGE:
            return PRODUCTS
        return NETWORK


def work_of(task: Task) -> Work:
    """What a task's loss does for one batch."""
    batch = {
        name: jax.ShapeDtypeStruct((task.batch_size, *array.shape[1:]), array.dtype)
        for name, array in task.train.items()
    }
    shapes = tuple((name, x.shape, str(x.dtype)) for name, x in sorted(batch.items()))
    context = (jax.default_backend(), str(jnp.result_type(float)))
    return _traced(task.init, task.loss, task.batch_size, shapes, context)


def kind_of(task: Task) -> str:
    """The kind of model that a task trains, one of `KINDS`."""
    return work_of(task).kind


def one_by_one(task: Task) -> bool:
    """Whether each run is a block of its own, whose steps are calls from the host.

    On CPUs, for models that are slower in a loop or side by side than alone.
    """
    return kind_of(task) in _ONE_BY_ONE.get(jax.default_backend(), ())


# Functions and shapes, no data: a population of tasks that differ in data is one entry.
@functools.lru_cache(maxsize=64)
def _traced(
    init: Callable[..., Any],
    loss: Callable[..., Any],
    rows: int,
    shapes: tuple[tuple[str, tuple[int, ...], str], ...],
    context: tuple[Any, ...],
) -> Work:
    del context  # tracing may depend on it
    batch = {name: jax.ShapeDtypeStruct(dims, dtype) for name, dims, dtype in shapes}
    batch["mask"] = jax.ShapeDtypeStruct((rows,), jnp.result_type(float))
    key = jax.eval_shape(lambda: numerics.key(0))
    params, state = jax.eval_shape(init, key)
    traced = jax.make_jaxpr(lambda *args: loss(*args)[0])(params, state, key, batch)
    return work_in(traced.jaxpr)


def work_in(jaxpr: Any) -> Work:
    """What a jaxpr does for its results."""
    products = multiplied = largest = convolved = 0
    loops = False
    for eqn, turns in jaxprs.live(jaxpr):
        name = eqn.primitive.name
        if name == "dot_general":
            count = _multiplied(eqn)
            products += turns * (eqn.outvars[0].aval.size > 1)  # else it is a sum
            multiplied += turns * count
            largest = max(largest, count)
        elif name == "conv_general_dilated":
            convolved += turns * _convolved(eqn)
        loops |= name in ("scan", "while")
    return Work(products, multiplied, largest, convolved, loops)


def _multiplied(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return eqn.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _convolved(eqn: Any) -> int:
    kernel = eqn.invars[1].aval
    outputs = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
    return eqn.outvars[0].aval.size * kernel.size // max(outputs, 1)
