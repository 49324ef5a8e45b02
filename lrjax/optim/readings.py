"""What a run wants to know of an optimiser's state, however deeply it is nested."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lrjax.optim import base


def _states(opt_state: Any, attribute: str) -> list[Any]:
    """The outermost named tuples in `opt_state` that have `attribute`, in order."""

    def matches(node):
        return isinstance(node, tuple) and hasattr(node, attribute)

    return [s for s in jax.tree.leaves(opt_state, is_leaf=matches) if matches(s)]


def effective_learning_rate(opt_state: Any) -> jax.Array:
    """The scalar learning rate that the last update really used.

    This is d times the learning rate (times the bias correction) for D-Adaptation and
    Prodigy, the quotient of DoG and DoWG, the value of a schedule, and so on: the field
    `learning_rate` of the first state that has one, outermost first. Each state's
    docstring says what it holds before the first update.

    Args:
      opt_state: the state of any transformation, also inside `optax.chain`,
        `partition`, `masked`, `MultiSteps` or `inject_hyperparams`.

    Returns:
      A scalar; NaN where no such scalar exists (as for COCOB) or none is recorded.
    """
    states = _states(opt_state, "learning_rate")
    for state in states:
        if state.learning_rate is not None:
            return state.learning_rate
    # A factor that was injected is not the rate of a method that has none.
    for state in () if states else _states(opt_state, "hyperparams"):
        if "learning_rate" in state.hyperparams:
            return state.hyperparams["learning_rate"]
    return jnp.full((), jnp.nan)


def eval_params(opt_state: Any, params: base.PyTree) -> base.PyTree:
    """The point to evaluate and to keep: an average where the method has one.

    Args:
      opt_state: the state of any transformation, however nested.
      params: the parameters that gradients are taken at.

    Returns:
      Schedule-free's x, the average of `polynomial_averaging`, else `params`.
    """
    for state in _states(opt_state, "eval_params"):
        params = state.eval_params(params)
    return params


def evaluates_elsewhere(opt_state: Any) -> bool:
    """Whether `eval_params` gives another point than the parameters.

    Args:
      opt_state: the state of any transformation, however nested; shapes will do.
    """
    return bool(_states(opt_state, "eval_params"))
