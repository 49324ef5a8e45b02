"""Converts parameters of any kind that Optax takes to real arrays, and back.

Optimisers here compute with real arrays of float32 or float64. Inputs are converted and
updates are converted back to the parameters' dtypes and shapes. Narrower floats are
widened, so that an update is rounded once, at the end. A complex array becomes the
concatenation of its real and imaginary parts, so that norms are right and a problem
takes the same steps in its complex and in its real form. Python and NumPy numbers
become arrays. Arrays of float32 or float64 are left alone.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
import optax

from lrjax.optim.arguments import (
    ArgumentError,
    check_extra,
    check_kinds,
    check_scalar,
    named,
    shown,
)

PyTree = Any
P = ParamSpec("P")


def joint_type(*dtypes: Any) -> Any:
    """The promoted dtype, also under JAX's strict dtype promotion."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)


def as_real(params: PyTree, what: str = "params") -> PyTree:
    """Convert parameters to real arrays of float32 or wider.

    Args:
      params: a tree of floating-point or complex arrays or numbers.
      what: word for the tree in messages, such as 'params'.

    Returns:
      The tree of real arrays; a complex leaf [..., n] becomes [..., 2 n], a complex
      scalar [2].

    Raises:
      ArgumentError: for a leaf of another kind; names the leaf.
    """

    def real(path, leaf):
        """Convert a leaf; raise ArgumentError for integers and other objects."""
        try:
            array = jnp.asarray(leaf)
            inexact = jnp.issubdtype(array.dtype, jnp.inexact)
            kind = str(array.dtype)
        except (TypeError, ValueError):
            array, inexact, kind = leaf, False, type(leaf).__name__
        if not inexact:
            raise ArgumentError(
                f"{what}{jax.tree_util.keystr(path)} is {kind}: parameters are "
                "floating-point or complex. Keep others out, by optax.masked or "
                "optax.partition."
            )
        return _real(array)

    return jax.tree_util.tree_map_with_path(real, params)


def like(tree: PyTree, params: PyTree) -> PyTree:
    """Inverse of `as_real`: converts a tree to the dtypes and shapes of `params`."""

    def restore(array, leaf):
        if jnp.iscomplexobj(leaf):
            real, imaginary = jnp.split(array, 2, axis=-1)
            array = jnp.reshape(jax.lax.complex(real, imaginary), jnp.shape(leaf))
        return array.astype(jnp.result_type(leaf))

    return jax.tree.map(restore, tree, params)


def any_leaves(
    build: Callable[P, optax.GradientTransformationExtraArgs],
) -> Callable[P, optax.GradientTransformationExtraArgs]:
    """Decorator: lets an optimiser for real arrays take parameters of any kind.

    The optimiser sees parameters and gradients converted by `as_real`, also in the
    arguments and results of `value_fn` and `grad_fn`; its state has this form too. As
    everywhere in Optax the gradient of a complex parameter is the conjugate of the
    result of `jax.grad`. The kinds of hyperparameters, as `build` declares them, and of
    the extra arguments that `update` names are checked, and errors name the optimiser.

    Args:
      build: function from hyperparameters to the transformation.
    """
    name = getattr(build, "__name__", "")
    where = f"optim.{name}"

    @functools.wraps(build)
    def wrapped(*args: P.args, **kwargs: P.kwargs):
        with named(where, outermost=True):
            check_kinds(build, args, kwargs)
            inner = build(*args, **kwargs)
        # What it reads is named; what a wrapper passes on is for what it wraps.
        read = getattr(inner.update, "__kwdefaults__", None) or {}

        def init(params):
            with named(where):
                return inner.init(as_real(params))

        def update(updates, state, params=None, **extra_args):
            with named(where):
                check_extra(extra_args, read)
                return convert(updates, state, params, **extra_args)

        def convert(updates, state, params, **extra_args):
            outside = updates if params is None else params
            what = "updates" if params is None else "params"
            inside = as_real(outside, what)

            def gradients(tree):
                return _gradients(tree, outside)

            # Optax's extra arguments, and the gradient at other points.
            given = {k: v for k, v in extra_args.items() if v is not None}
            if "value_fn" in given:
                value_fn = _told("value_fn", given["value_fn"], where)
                given["value_fn"] = lambda at: _wide(value_fn(like(at, outside)))
            if "grad_fn" in given:
                grad_fn = _told("grad_fn", given["grad_fn"], where)
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


def _told(kind: str, fn: Callable[[PyTree], Any], where: str) -> Callable[..., Any]:
    """Make a user's function say what is wrong with it, or why it cannot work.

    Args:
      kind: its name among the extra arguments.
      fn: the function of parameters.
      where: name of the optimiser.
    """

    def called(params):
        try:
            result = fn(params)
        except ArgumentError:
            raise
        except Exception as error:
            nodes = jax.tree.leaves(params, is_leaf=_is_hidden)
            if not any(map(_is_hidden, nodes)):
                raise
            raise ArgumentError(
                f"needs {kind} at all parameters, of which optax.masked and "
                f"optax.partition hide some, so that {kind} fails: make {where} the "
                "whole optimiser"
            ) from error
        if kind == "value_fn":
            check_scalar("the result of value_fn", result, "the loss, one number")
        return result

    return called


def _gradients(grads: PyTree, params: PyTree) -> PyTree:
    """Convert gradients to real arrays, complex where the parameters are."""

    def real(path, grad, param):
        """Convert the gradient of a leaf."""
        grad = jnp.asarray(grad)
        if grad.shape != jnp.shape(param):
            raise ArgumentError(
                f"gradient{jax.tree_util.keystr(path)} has the shape {grad.shape}, the "
                f"parameter {jnp.shape(param)}"
            )
        if jnp.iscomplexobj(param):
            grad = grad.astype(joint_type(grad.dtype, jnp.complex64))
        elif jnp.iscomplexobj(grad):
            raise ArgumentError(
                f"gradient{jax.tree_util.keystr(path)} is {grad.dtype}, the parameter "
                f"{jnp.asarray(param).dtype}: a real parameter has a real gradient."
            )
        return _real(grad)

    with contextlib.suppress(ValueError):  # of other structures, as below
        grads = _masked_as(params, grads)
    given, needed = jax.tree.structure(grads), jax.tree.structure(params)
    if given != needed:
        raise ArgumentError(
            "the gradient must have the structure of the parameters; it has "
            f"{shown(given)}, they have {shown(needed)}"
        )
    return jax.tree_util.tree_map_with_path(real, grads, params)


def _masked_as(params: PyTree, grads: PyTree) -> PyTree:
    """Mask gradients where `optax.masked` or `partition` masks the parameters.

    Optax masks the updates and parameters, but not the extra arguments of `update`.
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
    """Whether gradients have the structure of these parameters.

    A wrapper may have reshaped the parameters; most optimisers ignore this argument,
    which then is for others in the same chain.
    """
    try:
        grads = _masked_as(params, grads)
    except ValueError:
        return False
    return jax.tree.structure(grads) == jax.tree.structure(params)


def _is_hidden(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _real(array: jax.Array) -> jax.Array:
    """Convert an array to a real one of float32 or wider."""
    if jnp.iscomplexobj(array):
        array = jnp.atleast_1d(array)
        # Along an existing axis, so that masks that look at the rank still work.
        array = jnp.concatenate([array.real, array.imag], axis=-1)
    return _wide(array)


def _wide(value: Any) -> jax.Array:
    """Convert a value to an array of float32 or wider."""
    array = jnp.asarray(value)
    if array.dtype.itemsize < jnp.dtype(jnp.float32).itemsize:
        return array.astype(jnp.float32)
    return array.astype(joint_type(array.dtype, jnp.float32))
