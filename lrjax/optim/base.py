"""Helpers of the optimisers: scalars, learning rates, arguments per leaf, tree sums."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from lrjax.optim import bounds, leaves
from lrjax.optim.arguments import ArgumentError, missing, shown
from lrjax.optim.leaves import as_real, joint_type, like

PyTree = Any
Scalar = float | jax.Array
P = ParamSpec("P")
ScalarOrSchedule = Scalar | Callable[[jax.Array], Any]
# A value per leaf of the parameters, in the forms that `each_leaf` takes.
PerLeaf = PyTree | Callable[[PyTree], PyTree] | None


def scalar_dtype(tree: PyTree) -> Any:
    """Dtype for scalar state: float32, or float64 if a parameter is float64.

    Step sizes and sums over millions of entries need more than bfloat16, whatever the
    dtype of the parameters.
    """
    return joint_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(tree)))


def scalars(dtype: Any, *values: Scalar) -> tuple[jax.Array, ...]:
    """Convert hyperparameters, traced or not, to arrays of the computation's dtype.

    With arrays of an explicit dtype, an update of bfloat16 parameters is computed in
    float32 and rounded once, at the end.
    """
    return tuple(jnp.asarray(value, dtype) for value in values)


def fresh(dtype: Any, value: Scalar) -> jax.Array:
    """Copy a hyperparameter to a new array, for state, which may be donated."""
    return jnp.array(value, dtype, copy=True)


def rate_at(learning_rate: ScalarOrSchedule, count: jax.Array, dtype: Any) -> jax.Array:
    """The learning rate of update number `count`, counted from 0."""
    value = learning_rate(count) if callable(learning_rate) else learning_rate
    return fresh(dtype, value)


def none_yet(dtype: Any) -> jax.Array:
    """What stands for a number in a state before there is one.

    As in Optax's states it is infinite: NaN would be a fault to `jax_debug_nans`.
    """
    return jnp.full((), -jnp.inf, dtype)


def is_zero(value: Scalar) -> bool:
    """Whether a hyperparameter is known to be zero while tracing."""
    return isinstance(value, int | float | np.number) and bool(value == 0)


def is_positive(value: Scalar) -> bool:
    """Whether a hyperparameter is known to be positive while tracing."""
    return isinstance(value, int | float) and value > 0


def each_leaf(name: str, values: PerLeaf, params: PyTree) -> PyTree:
    """Expand an argument to one value per leaf of the parameters.

    Args:
      name: name of the argument, for the error.
      values: a tree with the structure of `params`, or a prefix of it, whose values
        apply to all leaves below; or a function from `params` to such a tree.
      params: the parameters, of any shapes.

    Returns:
      a tree with the structure of `params`.

    Raises:
      ArgumentError: if the structures do not agree; one line.
    """
    # A tree of a user's class, such as a module, may be callable too.
    if callable(values) and jax.tree_util.all_leaves([values]):
        values = values(params)
    try:
        return jax.tree.broadcast(values, params)
    except ValueError:
        given, needed = jax.tree.structure(values), jax.tree.structure(params)
        raise ArgumentError(
            f"{name} must have the structure of the parameters, or a prefix of it; it "
            f"has {shown(given)}, they have {shown(needed)}"
        ) from None


def decay_flags(weight_decay: Scalar, mask: PerLeaf, params: PyTree) -> PyTree:
    """Tree of Python booleans, one per leaf: whether it has weight decay.

    Args:
      weight_decay: the coefficient; if it is known to be zero, no leaf has decay.
      mask: booleans in the forms of `each_leaf`; None for all.
      params: the parameters.

    Raises:
      ArgumentError: if `mask` has another structure or holds anything else; one line.
    """
    if is_zero(weight_decay) or mask is None:
        has_decay = not is_zero(weight_decay)
        return jax.tree.map(lambda _: has_decay, params)

    def flag(value):
        """Return the flag of a leaf as a Python boolean."""
        array = isinstance(value, np.ndarray | np.bool_ | jax.Array)
        if array and not isinstance(value, Tracer) and not value.shape:
            value = value.item()
        if not isinstance(value, bool):
            raise ArgumentError(
                "weight_decay_mask must hold booleans, one for a leaf and known while "
                f"tracing, not {shown(value)}"
            )
        return value

    return jax.tree.map(flag, each_leaf("weight_decay_mask", mask, params))


def any_leaves(
    build: Callable[P, optax.GradientTransformationExtraArgs],
) -> Callable[P, optax.GradientTransformationExtraArgs]:
    """Decorator: `leaves.any_leaves`; masks and factors must fit already at `init`.

    Args:
      build: function from hyperparameters to the transformation.
    """

    @functools.wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs):
        inner = build(*args, **kwargs)
        bound = inspect.signature(build).bind(*args, **kwargs)
        bound.apply_defaults()
        mask = bound.arguments.get("weight_decay_mask")
        factors = bound.arguments.get("learning_rate_factors")
        if mask is None and factors is None:
            return inner

        def init(params: PyTree) -> Any:
            if mask is not None:
                decay_flags(bound.arguments.get("weight_decay", 1.0), mask, params)
            if factors is not None:
                each_leaf("learning_rate_factors", factors, params)
            return inner.init(params)

        return inner._replace(init=init)

    return leaves.any_leaves(checked)


def add_decay(
    grad: jax.Array,
    param: jax.Array,
    weight_decay: Scalar,
    dtype: Any,
    has_decay: bool = True,
) -> jax.Array:
    """Compute `grad + weight_decay * param`; do not read `param` without decay.

    Args:
      grad, param: a leaf of the gradients and of the parameters, of one shape.
      weight_decay: the coefficient.
      dtype: dtype of the result.
      has_decay: the leaf's flag in the tree of `decay_flags`.
    """
    grad = grad.astype(dtype)
    if is_zero(weight_decay) or not has_decay:
        return grad
    return grad + jnp.asarray(weight_decay, dtype) * param


def rate_factors(factors: PerLeaf, params: PyTree, dtype: Any) -> PyTree:
    """Tree of factors of the leaves' learning rates, for `times`.

    Args:
      factors: numbers, which may be traced, in the forms of `each_leaf`; None for 1.
      params: the parameters.
      dtype: dtype of the factors.

    Raises:
      ArgumentError: if `factors` has another structure or holds anything but finite
        numbers from 0; one line.
    """
    if factors is None:
        return jax.tree.map(lambda _: 1, params)

    def factor(value):
        """Return the factor of a leaf as an array."""
        known = not isinstance(value, jax.Array)
        numeric = isinstance(value, int | float | np.number) or not known
        if not numeric or np.shape(value) or (known and not 0 <= value < np.inf):
            raise ArgumentError(
                "learning_rate_factors must hold finite numbers from 0, one for a "
                f"leaf, not {shown(value)}"
            )
        return jnp.asarray(value, dtype)

    return jax.tree.map(factor, each_leaf("learning_rate_factors", factors, params))


def times(factor: int | jax.Array, value: Any) -> Any:
    """`factor * value`, or `value` if `rate_factors` was given no factors."""
    return value if isinstance(factor, int) else factor * value


def require_params(params: PyTree | None) -> PyTree:
    """Return the parameters; raise ArgumentError if they are missing."""
    if params is None:
        raise ArgumentError("needs the parameters: update(grads, state, params)")
    return params


def require_value(name: str, value: Any) -> Any:
    """Return an extra argument of `update`; raise ArgumentError if it is missing."""
    if value is None:
        raise missing(name)
    return value


def if_finite(loss: jax.Array, value: jax.Array, otherwise: Scalar = 0) -> jax.Array:
    """A step size, or what follows from the loss, where the loss is finite.

    So a loss that is infinite or NaN makes no step, and is not remembered. Scalars are
    chosen, not updates: what is done to large arrays stays as it is.
    """
    return jnp.where(jnp.isfinite(loss), value, otherwise)


def copy(tree: PyTree) -> PyTree:
    """Copy the arrays of a tree, so that both trees can be donated."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def zeros_like(tree: PyTree) -> PyTree:
    """A tree of zeros with the shapes and dtypes of `tree`."""
    return jax.tree.map(jnp.zeros_like, tree)


def cast_like(tree: PyTree, like: PyTree) -> PyTree:
    """Cast `tree` to the dtypes of `like`."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def map_leaves(fn: Callable[..., tuple], outputs: int, *trees: PyTree) -> tuple:
    """Map a function with several outputs over trees; return a tree per output.

    So all computations on a leaf are written in one place, and the compiler sees all
    uses of an array together.
    """
    treedef = jax.tree.structure(trees[0])
    columns = [treedef.flatten_up_to(tree) for tree in trees]
    rows = [fn(*leaves) for leaves in zip(*columns, strict=True)]
    return tuple(
        treedef.unflatten([row[index] for row in rows]) for index in range(outputs)
    )


def total(tree: PyTree, dtype: Any) -> jax.Array:
    """Sum a tree of scalars."""
    return reduce(operator.add, jax.tree.leaves(tree), jnp.zeros((), dtype))


def cast(leaf: Any, dtype: Any) -> Any:
    """Cast an array to `dtype`; return a flag or Python number unchanged."""
    return leaf if isinstance(leaf, bool | int | float) else leaf.astype(dtype)


def sum_leaves(fn: Callable[..., jax.Array], dtype: Any, *trees: PyTree) -> jax.Array:
    """Sum `fn(*leaves)` over all entries of all leaves, computed in `dtype`.

    Args:
      fn: function of leaves, one of each tree, that returns an array.
      dtype: dtype of the computation.
      *trees: trees of the same structure.
    """

    def leaf_sum(*leaves):
        return jnp.sum(fn(*(cast(leaf, dtype) for leaf in leaves)))

    return total(jax.tree.map(leaf_sum, *trees), dtype)


def num_entries(tree: PyTree) -> int:
    """Number of entries of all leaves together, at least 1, to divide by."""
    return max(sum(leaf.size for leaf in jax.tree.leaves(tree)), 1)


def sum_squares(tree: PyTree, dtype: Any) -> jax.Array:
    """Squared Euclidean norm of a tree."""
    return sum_leaves(jnp.square, dtype, tree)


@jax.custom_jvp
def root(square: jax.Array) -> jax.Array:
    """The square root, with a derivative of 0 at 0, where distances begin.

    So a run can be differentiated, as by its hyperparameters.
    """
    return jnp.sqrt(square)


@root.defjvp
def _root_jvp(squares, tangents):
    (square,), (tangent,) = squares, tangents
    value = jnp.sqrt(square)
    return value, safe_divide(tangent, 2 * value)


@jax.custom_jvp
def at_most(value: jax.Array, size: jax.Array, factor: jax.Array) -> jax.Array:
    """The smaller of `value` and `size * factor`; the factor may be infinite.

    Its derivative then is that of `value`, where JAX's own would be 0 times infinity.
    """
    return jnp.minimum(value, size * factor)


@at_most.defjvp
def _at_most_jvp(numbers, tangents):
    value, size, factor = numbers
    value_tangent, size_tangent, factor_tangent = tangents
    cut = size * factor < value
    bound = jnp.where(cut, factor, 0) * size_tangent + size * factor_tangent
    return at_most(*numbers), jnp.where(cut, bound, value_tangent)


def safe_divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """`numerator / denominator`, and 0 where the denominator is 0."""
    zero = denominator == 0
    return jnp.where(zero, 0, numerator / jnp.where(zero, 1, denominator))


def falling(left: jax.Array, power: ArrayLike) -> jax.Array:
    """`1 - (1 - left) ** power`, from 1 down to 0 as `left` is; `left` at power 1."""
    if isinstance(power, int | float) and power == 1:
        return left
    over = 1 - left
    # The inner `where` keeps the gradient of 0^power out.
    raised = jnp.where(over > 0, over, 1) ** jnp.asarray(power, left.dtype)
    return 1 - jnp.where(over > 0, raised, 0)


def bias_correction(decay: jax.Array, count: jax.Array) -> jax.Array:
    """`1 - decay ** count`: total weight in a moving average of `count` values."""
    return 1 - decay ** count.astype(decay.dtype)


def where_kept(fn: Callable[..., Any], kept: PyTree, params: PyTree) -> PyTree:
    """Map `fn(kept, param)` over leaves; return `param` where `kept` is masked.

    Args:
      fn: function of two real arrays, see `as_real`.
      kept: real arrays of a state, with `optax.MaskedNode` at masked leaves; inside
        `optax.flatten` one array for all leaves.
      params: the parameters; the result has their shapes and dtypes.
    """

    def masked(node):
        return isinstance(node, optax.MaskedNode)

    def leaf(kept, param):
        if masked(kept):
            return param
        return like(fn(kept, as_real(param)), param)

    if isinstance(kept, jax.Array):
        treedef = jax.tree.structure(params)
        whole = jax.tree_util.treedef_is_leaf(treedef)
        if not whole or jnp.shape(as_real(params)) != kept.shape:
            flat, unravel = ravel_pytree(params)
            return unravel(leaf(kept, flat))
    return jax.tree.map(leaf, kept, params, is_leaf=masked)


class LearningRateState(NamedTuple):
    """State of `scale_by_learning_rate`.

    Attributes:
      count: number of updates made.
      learning_rate: the rate of the last update; before it, the rate of the first.
    """

    count: jax.Array
    learning_rate: jax.Array


@any_leaves
def scale_by_learning_rate(
    learning_rate: ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    """Multiply updates by minus the learning rate and record the rate.

    Args:
      learning_rate: a number, a traced number or a schedule of the update count.

    Returns:
      The transformation, for updates of any shapes; `effective_learning_rate` reads its
      state.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.ones(2)
      >>> transformation = optim.scale_by_learning_rate(0.1)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(params, state)
      >>> [round(float(u), 2) for u in updates]
      [-0.1, -0.1]

    References:
      As ``optax.scale_by_learning_rate``, which does not record the rate.
    """
    bounds.check(bounds.FINITE, learning_rate=learning_rate)

    def init(params):
        count = jnp.zeros((), jnp.int32)
        rate = rate_at(learning_rate, count, scalar_dtype(params))
        return LearningRateState(count, rate)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        rate = rate_at(learning_rate, state.count, state.learning_rate.dtype)
        updates = jax.tree.map(lambda u: (-rate * u).astype(u.dtype), updates)
        return updates, LearningRateState(state.count + 1, rate)

    return optax.GradientTransformationExtraArgs(init, update)
