"""The fastest way to train a task, derived from its loss.

The loss is traced for a batch's shapes only: no data is touched and nothing computed.
The matrix products and convolutions in its jaxpr tell the kind of model. The kind and
the backend decide whether runs share a block and how many rows are evaluated at once.
Equal shapes and backends give equal answers in every process.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lrjax import machine
from lrjax.common import jaxprs, numerics
from lrjax.core import Batch, PyTree, Task

LINEAR, NETWORK, CONVOLUTIONS, PRODUCTS = KINDS = (
    "linear",
    "network",
    "convolutions",
    "products",
)
# On CPUs XLA's convolutions are about 30 times slower inside a loop
# (benchmarks/convolutions.py): above this share of all multiplications they would
# dominate the time. The patch embedding of a vision transformer is below it.
_CONVOLVED = 1 / 30
# Multiplications of a matrix product that keeps all cores of a CPU busy: about a
# millisecond of one core, many times the cost of calling a program.
_LARGE = 2**25
_ONE_BY_ONE = {"cpu": (CONVOLUTIONS, PRODUCTS)}


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations of a loss for one batch; a `scan`'s body counts once per iteration.

    Attributes:
      products: number of matrix products; dot products with a scalar result excluded.
      multiplied: multiplications in all matrix products.
      largest: multiplications in the largest one.
      convolved: multiplications in convolutions.
      loops: whether there is a loop (`scan`, `while`).
      widest: numbers in the largest array that is computed.
    """

    products: int
    multiplied: int
    largest: int
    convolved: int
    loops: bool
    widest: int

    @property
    def kind(self) -> str:
        """The kind of model, one of `KINDS`.

        'linear': at most one matrix product, no convolution and no loop.
        'convolutions': convolutions do more than a thirtieth of the multiplications.
        'products': no convolution, and a matrix product that keeps a CPU's cores busy.
        'network': everything else.
        """
        if self.products <= 1 and not self.convolved and not self.loops:
            return LINEAR
        if self.convolved > _CONVOLVED * (self.convolved + self.multiplied):
            return CONVOLUTIONS
        # A few convolutions cost more than the large products gain.
        if not self.convolved and self.largest >= _LARGE:
            return PRODUCTS
        return NETWORK


def batch_shapes(task: Task) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch of a task, without the mask."""
    return {
        name: jax.ShapeDtypeStruct((task.batch_size, *array.shape[1:]), array.dtype)
        for name, array in task.train.items()
    }


def loss_arguments(
    init: Callable[..., Any], batch: Mapping[str, jax.ShapeDtypeStruct], rows: int
) -> tuple[Any, Any, Any, Batch]:
    """Shapes and types of the arguments of `Task.loss`.

    Args:
      init: `Task.init`.
      batch: as returned by `batch_shapes`.
      rows: number of rows of the batch.
    """
    key = jax.eval_shape(lambda: numerics.key(0))
    params, model_state = model_shapes(init)
    mask = jax.ShapeDtypeStruct((rows,), jnp.result_type(float))
    return params, model_state, key, {**batch, "mask": mask}


def model_shapes(init: Callable[..., Any]) -> tuple[PyTree, PyTree]:
    """Shapes and types of the parameters and the model state that `Task.init` returns.

    Args:
      init: `Task.init`.
    """
    return _model_shapes(init, jnp.result_type(float))


@functools.lru_cache(maxsize=64)
def _model_shapes(init: Callable[..., Any], context: Any) -> tuple[PyTree, PyTree]:
    """Shapes of `model_shapes`, cached; types depend on JAX's default, the context."""
    del context
    return jax.eval_shape(lambda: init(numerics.key(0)))


def work_of(task: Task) -> Work:
    """Operations of a task's loss for one batch."""
    batch = sorted(batch_shapes(task).items())
    shapes = tuple((name, x.shape, str(x.dtype)) for name, x in batch)
    context = (machine.kind(), str(jnp.result_type(float)))
    return _traced(task.init, task.loss, task.batch_size, shapes, context)


def kind_of(task: Task) -> str:
    """The kind of model that a task trains, one of `KINDS`."""
    return work_of(task).kind


def one_by_one(task: Task) -> bool:
    """Whether each run is a block of its own, with steps called from the host.

    True on CPUs for models that train slower in a loop or side by side than alone.
    """
    return kind_of(task) in _ONE_BY_ONE.get(machine.kind(), ())


# The key has functions and shapes, no data: tasks that differ in data share an entry.
@functools.lru_cache(maxsize=64)
def _traced(
    init: Callable[..., Any],
    loss: Callable[..., Any],
    rows: int,
    shapes: tuple[tuple[str, tuple[int, ...], str], ...],
    context: tuple[Any, ...],
) -> Work:
    """Trace a loss for shapes of a batch and count its operations (cached)."""
    del context  # part of the cache's key, as tracing may depend on it
    batch = {name: jax.ShapeDtypeStruct(dims, dtype) for name, dims, dtype in shapes}
    params, model_state, key, batch = loss_arguments(init, batch, rows)

    def loss_alone(
        params: PyTree, model_state: PyTree, key: jax.Array, batch: Batch
    ) -> jax.Array:
        return loss(params, model_state, key, batch)[0]

    traced = jax.make_jaxpr(loss_alone)(params, model_state, key, batch)
    return work_in(traced.jaxpr)


def work_in(jaxpr: Any) -> Work:
    """Count the operations on which a jaxpr's results depend."""
    products = multiplied = largest = convolved = widest = 0
    loops = False
    for eqn, repeats in jaxprs.live(jaxpr):
        name = eqn.primitive.name
        if name == "dot_general":
            count = _multiplied(eqn)
            products += repeats * (eqn.outvars[0].aval.size > 1)  # else it is a sum
            multiplied += repeats * count
            largest = max(largest, count)
        elif name == "conv_general_dilated":
            convolved += repeats * _convolved(eqn)
        loops |= name in ("scan", "while")
        widest = max(widest, *(getattr(x.aval, "size", 0) for x in eqn.outvars))
    return Work(products, multiplied, largest, convolved, loops, widest)


def _multiplied(eqn: Any) -> int:
    """Multiplications of a `dot_general`."""
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return eqn.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _convolved(eqn: Any) -> int:
    """Multiplications of a `conv_general_dilated`."""
    kernel = eqn.invars[1].aval
    outputs = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
    return eqn.outvars[0].aval.size * kernel.size // max(outputs, 1)
