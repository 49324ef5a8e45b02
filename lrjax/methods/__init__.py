"""METHODS: every way to control the learning rate, by name.

A method is an optimiser, a schedule and defaults. Numbers are traced, so a grid over
any of them needs one compiled program; everything else (names, flags, None) is compiled
in. Defaults are those of the `sound` protocol: the authors' own, used as the authors
advise. `protocol.py` has the values that `study` changes.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lrjax import own, plugins
from lrjax.core import Method, UsageError, cut, raised, shown
from lrjax.identity import is_number, plain
from lrjax.methods import (
    baselines,
    distance,
    everyday,
    forms,
    free,
    losses,
    online,
    statistics,
)
from lrjax.optim.learned import pinned

METHODS: dict[str, Method] = {
    method.name: forms.registered(method)
    for part in (everyday, free, statistics, online, losses, distance, baselines)
    for method in part.METHODS
}
SHIPPED = frozenset(METHODS)  # names that only lrjax's own methods have
_fingerprints: dict[Any, str] = {}  # build of a user's method -> hash of its steps


def pinned_policy(policy: str) -> str:
    """Return a policy's name with a digest of its weights (`optim.learned.pinned`).

    Raises:
      UsageError: if the file cannot be read, or does not hold a policy.
    """
    try:
        return pinned(policy)
    except ValueError as error:
        raise UsageError(str(error)) from None


def find(name: str) -> Method:
    """Return a method by name, or by its import path 'module:name'.

    Raises:
      UsageError: if the name is unknown, or cannot be imported; suggests the nearest.
    """
    return plugins.find("method", name, METHODS, own.accept)


def own_options(method: Method) -> tuple[tuple[str, str], ...]:
    """Return what identifies a method beside its name: nothing for lrjax's own.

    A method of a user may change from one call to the next under the same name, as in
    a notebook, so its runs are also known by what it computes.

    Raises:
      UsageError: if the method cannot take a step.
    """
    if method.name in SHIPPED:
        return ()
    if method.build not in _fingerprints:
        _fingerprints[method.build] = _fingerprint(method)
    return (("method", _fingerprints[method.build]),)


def forget_options() -> None:
    """Find out anew what users' methods compute, since what they read may change."""
    _fingerprints.clear()


def _fingerprint(method: Method) -> str:
    """Hash the first step that a method takes on two small arrays, as a jaxpr."""
    params = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(3)}
    static, traced = split(method, method.defaults)

    def loss(params: Any) -> jax.Array:
        return jnp.sum(params["a"] ** 2) + jnp.sum(params["b"] ** 2)

    def step(horizon: jax.Array, traced: Mapping[str, Any]) -> Any:
        tx = method.build(horizon, **dict(static), **traced)
        if not (hasattr(tx, "init") and hasattr(tx, "update")):
            raise UsageError(
                f"method '{method.name}' returns {shown(tx)}, which is not a "
                "transformation of Optax"
            )
        tx = optax.with_extra_args_support(tx)
        value, grads = jax.value_and_grad(loss)(params)
        functions = {"value_fn": loss, "grad_fn": jax.grad(loss)}
        return tx.update(grads, tx.init(params), params, value=value, **functions)

    fails = f"method '{method.name}' fails at its first step: "
    try:
        program, made = jax.make_jaxpr(step, return_shape=True)(
            jnp.float32(100), traced
        )
    except UsageError:
        raise
    except jax.errors.ConcretizationTypeError as error:
        raise UsageError(
            f"{fails}{raised(error, 60)}; numbers are traced, so write jnp.where for "
            "`if`, and jax.numpy for math"
        ) from error
    except Exception as error:  # the user's code may raise anything
        raise UsageError(fails + raised(error)) from error
    if (found := _shapes(made[0])) != (wanted := _shapes(params)):
        raise UsageError(
            f"{fails}its updates are {cut(found)} where the parameters are {wanted}"
        )
    # Jaxprs print functions with their memory addresses; remove these.
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", str(program)).encode())
    for value in program.consts:
        digest.update(np.asarray(value).tobytes())
    return digest.hexdigest()[:16]


def _shapes(tree: Any) -> str:
    """Write a tree with the shape of each leaf in its place."""
    return str(jax.tree.map(jnp.shape, tree))


def split(
    method: Method, hparams: Mapping[str, Any]
) -> tuple[tuple[tuple[str, Any], ...], dict[str, float]]:
    """Split hyperparameters into those that are compiled in and those that are traced.

    Args:
      method: names the hyperparameters that are always static.
      hparams: a value for every hyperparameter.

    Returns:
      sorted (name, value) pairs of the static ones, and a dictionary of the others.
    """
    static, traced = [], {}
    for name, value in sorted(hparams.items()):
        value = plain(value)
        if is_number(value) and name not in method.static:
            traced[name] = float(value)
        else:
            static.append((name, value))
    return tuple(static), traced


def state_size(method: Method, params: Any) -> int:
    """Count the numbers in the optimiser's state for parameters of these shapes.

    Raises:
      UsageError: if a method of one's own cannot take a step.
    """
    own_options(method)
    needed = dict.fromkeys(method.required, 1.0)
    static, traced = split(method, {**method.defaults, **needed})

    # Numbers are traced as in training: JAX would compile a program for each constant.
    def init(horizon, traced, params):
        return method.build(horizon, **dict(static), **traced).init(params)

    shapes = jax.tree.leaves(jax.eval_shape(init, 1.0, traced, params))
    return sum(math.prod(leaf.shape) for leaf in shapes)
