"""Parameters of any kind, as Optax takes them, made arrays that one can compute with.

Optimisers here compute with real arrays of float32 or float64. What comes in is made
such, what goes out is made like the parameters again: numbers of fewer bits are widened
and an update is rounded once, at its end; a complex array is the array of its real and
imaginary parts, one beside the other, so that norms are norms and a problem takes the
same steps in its complex and in its real form; Python's and NumPy's numbers are arrays.
Nothing is done to arrays that are float32 or float64 already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import optax

PyTree = Any
P = ParamSpec("P")


def joint_type(*dtypes: Any) -> Any:
    """The type that holds numbers of all these, also where JAX is set to be strict."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)


def as_real(params: PyTree, name: str = "", what: str = "params") -> PyTree:
    """Parameters as real arrays of float32 or wider.

    Args:
      params: a tree of floating-point or complex arrays or numbers.
      name: of the optimiser, for messages.
      what: the tree is called there.

    Returns:
      The tree; a complex leaf [..., n] has become a real one [..., 2 n], a complex
      number one of two entries.

    Raises:
      ValueError: for a leaf of another kind; names it.
    """

    def real(path, leaf):
        try:
            array = jnp.asarray(leaf)
            inexact = jnp.issubdtype(array.dtype, jnp.inexact)
            kind = str(array.dtype)
        except (TypeError, ValueError):
            array, inexact, kind = leaf, False, type(leaf).__name__
        if not inexact:
            raise ValueError(
                f"{_where(name, what, path)} is {kind}: parameters are "
                "floating-point or complex. Keep others out, by optax.masked or "
                "optax.partition."
            )
        return _real(array)

    return jax.tree_util.tree_map_with_path(real, params)


def like(tree: PyTree, params: PyTree) -> PyTree:
    """What is like `as_real(params)` made like `params`: their types and shapes."""

    def restore(array, leaf):
        if jnp.iscomplexobj(leaf):
            real, imaginary = jnp.split(array, 2, axis=-1)
            array = jnp.reshape(jax.lax.complex(real, imaginary), jnp.shape(leaf))
        return array.astype(jnp.result_type(leaf))

    return jax.tree.map(restore, tree, params)


def any_leaves(
    build: Callable[P, optax.GradientTransformationExtraArgs],
) -> Callable[P, optax.GradientTransformationExtraArgs]:
    """Lets an optimiser take parameters of any kind; its state is `as_real`.

    Inside, parameters and gradients are `as_real`, also those that `value_fn` and
    `grad_fn` take and give; outside, they are as the caller has them. As everywhere in
    Optax the gradient of a complex parameter is the conjugate of what `jax.grad` gives.

    Args:
      build: from hyperparameters to the transformation.
    """
    name = getattr(build, "__name__", "")

    @functools.wraps(build)
    def wrapped(*args: P.args, **kwargs: P.kwargs):
        inner = build(*args, **kwargs)

        def init(params):
            return inner.init(as_real(params, name))

        def update(updates, state, params=None, **extra_args):
            outside = updates if params is None else params
            what = "updates" if params is None else "params"
            inside = as_real(outside, name, what)

            def gradients(tree):
                return _gradients(tree, outside, name)

            # What Optax calls so, and the gradient at other points.
            given = {k: v for k, v in extra_args.items() if v is not None}
            if "value_fn" in given:
                value_fn = given["value_fn"]
                given["value_fn"] = lambda at: _wide(value_fn(like(at, outside)))
            if "grad_fn" in given:
                grad_fn = given["grad_fn"]
                given["grad_fn"] = lambda at: gradients(grad_fn(like(at, outside)))
            if "grad" in given and _alike(given["grad"], outside):
                given["grad"] = gradients(given["grad"])
            changes, state = inner.update(
                gradients(updates),
                state,
                None if params is None else inside,
                **(extra_args | given),
            )
            return like(changes, outside), state

        return optax.GradientTransformationExtraArgs(init, update)

    return wrapped


def _gradients(grads: PyTree, params: PyTree, name: str) -> PyTree:
    """Gradients as real arrays, complex ones as the parameters are."""

    def real(path, grad, param):
        grad = jnp.asarray(grad)
        if jnp.iscomplexobj(param):
            grad = grad.astype(joint_type(grad.dtype, jnp.complex64))
        elif jnp.iscomplexobj(grad):
            raise ValueError(
                f"{_where(name, 'gradient', path)} is {grad.dtype}, the parameter "
                f"{jnp.asarray(param).dtype}: a real parameter has a real gradient."
            )
        return _real(grad)

    return jax.tree_util.tree_map_with_path(real, _masked_as(params, grads), params)


def _masked_as(params: PyTree, grads: PyTree) -> PyTree:
    """Gradients without what `optax.masked` and `partition` hide of the parameters.

    They hide it in what `update` is given to change, not in its extra arguments.
    """
    leaves = jax.tree.leaves(params, is_leaf=_is_hidden)
    if not any(map(_is_hidden, leaves)):
        return grads
    return jax.tree.map(
        lambda param, grad: param if _is_hidden(param) else grad,
        params,
        grads,
        is_leaf=_is_hidden,
    )


def _alike(grads: PyTree, params: PyTree) -> bool:
    """Whether gradients are of these parameters, which a wrapper may have reshaped.

    Most optimisers do not look at this argument: it is for others beside them.
    """
    try:
        grads = _masked_as(params, grads)
    except ValueError:
        return False
    return jax.tree.structure(grads) == jax.tree.structure(params)


def _is_hidden(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _real(array: jax.Array) -> jax.Array:
    if jnp.iscomplexobj(array):
        array = jnp.atleast_1d(array)
        # Along an axis that is there: masks that look at the rank stay as they are.
        array = jnp.concatenate([array.real, array.imag], axis=-1)
    return _wide(array)


def _wide(value: Any) -> jax.Array:
    array = jnp.asarray(value)
    if array.dtype.itemsize < jnp.dtype(jnp.float32).itemsize:
        return array.astype(jnp.float32)
    return array.astype(joint_type(array.dtype, jnp.float32))


def _where(name: str, tree: str, path: Any) -> str:
    """A leaf in words, as in "optim.adamw: params['w']"."""
    place = f"{tree}{jax.tree_util.keystr(path)}"
    return f"optim.{name}: {place}" if name else place
