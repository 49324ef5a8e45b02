"""Readings from optimiser states of any nesting: learning rate, point to evaluate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import ScheduleFreeState

from lrjax.optim import base


def _is_variable(node: Any) -> bool:
    """Whether a node is a variable of Flax NNX, which holds a value and metadata."""
    return hasattr(node, "get_metadata") and hasattr(node, "get_raw_value")


def _bare(tree: Any) -> Any:
    """Replace NNX variables, which wrap the leaves of NNX optimisers, by values."""
    return jax.tree.map(
        lambda node: _bare(node.get_raw_value()) if _is_variable(node) else node,
        tree,
        is_leaf=_is_variable,
    )


def _states(opt_state: Any, *attributes: str) -> list[Any]:
    """The outermost named tuples in `opt_state` that have an attribute, in order."""

    def matches(node):
        return isinstance(node, tuple) and any(hasattr(node, a) for a in attributes)

    return [s for s in jax.tree.leaves(opt_state, is_leaf=matches) if matches(s)]


def _averages(opt_state: Any) -> list[Callable[[Any], Any]]:
    """What gives the point to evaluate from the parameters, for each average."""

    def matches(node):
        ours = isinstance(node, tuple) and hasattr(node, "eval_params")
        return ours or isinstance(node, ScheduleFreeState)

    def reading(state):
        """Of Optax's schedule-free, which has no method for it."""
        if not isinstance(state, ScheduleFreeState):
            return state.eval_params

        def average(z, y):
            b1 = jnp.real(state.b1).astype(y.dtype)
            return (y - (1 - b1) * base.as_real(z).astype(y.dtype)) / b1

        return lambda params: base.where_kept(average, state.z, params)

    states = jax.tree.leaves(opt_state, is_leaf=matches)
    return [reading(state) for state in states if matches(state)]


def effective_learning_rate(opt_state: Any) -> Any:
    """Read the scalar learning rate that the last update really used.

    This is d times the learning rate (times the bias correction) for D-Adaptation and
    Prodigy, the quotient of DoG and DoWG, the value of a schedule, and so on: the field
    `learning_rate` of the first state that has one, outermost first. Each state's
    docstring says what it holds before the first update.

    Args:
      opt_state: the state of any transformation, also inside `optax.chain`,
        `partition`, `masked`, `MultiSteps` or `inject_hyperparams`, and that of Flax's
        `nnx.Optimizer` or `TrainState`.

    Returns:
      A scalar; NaN where no such scalar exists (as for COCOB) or none is recorded, as
      where a state has -inf. In `optax.partition` there is a rate for each label: a
      dictionary, label -> rate. Labels whose transformation has no state, such as
      `optax.set_to_zero` for frozen parameters, are left out; if only one label
      remains, its rate is returned as a scalar.

    Raises:
      ValueError: if the state is None.

    Example:
      >>> import optax
      >>> from lrjax import optim
      >>> params = {"body": 1.0, "head": 2.0}
      >>> tx = optax.partition(
      ...     {"slow": optim.adamw(1e-3), "fast": optim.sgd(0.5)},
      ...     {"body": "slow", "head": "fast"},
      ... )
      >>> rates = optim.effective_learning_rate(tx.init(params))
      >>> {label: round(float(rates[label]), 6) for label in sorted(rates)}
      {'fast': 0.5, 'slow': 0.001}
    """
    _check_given("effective_learning_rate", opt_state)
    return _or_nan(_rate(_bare(opt_state)))


def _check_given(function: str, opt_state: Any) -> None:
    if opt_state is None:
        raise ValueError(
            f"{function}: the optimiser's state is None: give what its init or its "
            "last update returned."
        )


def _rate(opt_state: Any) -> Any:
    """The recorded rate, or a dictionary of rates by label; None if there is none."""
    states = _states(opt_state, "learning_rate", "inner_states")
    for state in states:
        if hasattr(state, "inner_states"):
            rate = _rates(state.inner_states)
        else:
            rate = state.learning_rate
            array = isinstance(rate, jax.Array | np.ndarray | np.generic)
            if array and jnp.issubdtype(rate.dtype, jnp.floating):
                rate = _told(rate)
        if rate is not None:
            return rate
    if any(hasattr(state, "learning_rate") for state in states):
        # An injected factor is not the rate of a method that has no scalar rate.
        return _or_nan(None)
    for state in _states(opt_state, "hyperparams"):
        if "learning_rate" in state.hyperparams:
            return state.hyperparams["learning_rate"]
    return None


def _rates(labels: Mapping[Any, Any]) -> Any:
    """`_rate` for each label of a partition whose transformation has a state."""
    rates = {
        label: _rate(inner) for label, inner in labels.items() if not _stateless(inner)
    }
    if all(rate is None for rate in rates.values()):
        return None
    if len(rates) == 1:
        return next(iter(rates.values()))
    return {label: _or_nan(rate) for label, rate in rates.items()}


def _or_nan(rate: Any) -> Any:
    if rate is None:
        # Transferred by name and made by no operation, as some settings of JAX demand.
        return jax.device_put(np.asarray(jnp.nan, jnp.result_type(float)))
    return rate


@jax.jit
def _told(rate: jax.Array) -> jax.Array:
    """The recorded rate, NaN where `base.none_yet` stands for it."""
    return jnp.where(rate == -jnp.inf, jnp.nan, rate)


def _stateless(inner: Any) -> bool:
    """Whether the state is that of a transformation without state."""
    inner = getattr(inner, "inner_state", inner)  # partition masks each label
    return isinstance(inner, optax.EmptyState)


def scaled_rate(scale: jax.Array, inner: Any) -> Any:
    """`scale` times the rates that a wrapped transformation records; else `scale`."""
    return jax.tree.map(
        lambda rate: (scale * jnp.where(jnp.isnan(rate), 1, rate)).astype(scale.dtype),
        effective_learning_rate(inner),
    )


def eval_params(opt_state: Any, params: base.PyTree) -> base.PyTree:
    """Return the parameters to evaluate and to save: an average if the method has one.

    Args:
      opt_state: the state of any transformation, however nested, also that of Flax's
        `nnx.Optimizer` or `TrainState`.
      params: the parameters that gradients are taken at; for NNX `nnx.state(model,
        wrt)`, into which `nnx.update(model, ...)` puts the result.

    Returns:
      Schedule-free's x, Optax's own included, the average of `polynomial_averaging`,
      else `params`, with the shapes and dtypes of `params`. In `optax.partition` each
      label's parameters have their own.

    Raises:
      ValueError: if the state is None, belongs to other parameters, or stands in their
        place.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from lrjax import optim
      >>> params = jnp.ones(2)
      >>> transformation = optim.schedule_free_sgd(0.1)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(params, state, params)
      >>> averaged = optim.eval_params(state, optax.apply_updates(params, updates))
      >>> [round(float(x), 2) for x in averaged]
      [0.9, 0.9]

    References:
      As ``optax.contrib.schedule_free_eval_params``, for all methods here.
    """
    _check_given("eval_params", opt_state)
    if _states(params, "eval_params", "learning_rate"):
        raise ValueError(
            "eval_params: the parameters hold a state of an optimiser: call "
            "eval_params(opt_state, params)."
        )
    averages = _averages(_bare(opt_state))
    if not averages:
        return params
    point = _bare(params)
    try:
        for average in averages:
            point = average(point)
    except ValueError:
        raise ValueError(
            "eval_params: the optimiser's state is not of these parameters; with NNX "
            "they are nnx.state(model, wrt)."
        ) from None
    return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(point))


def evaluates_elsewhere(opt_state: Any) -> bool:
    """Whether `eval_params` gives another point than the parameters.

    Args:
      opt_state: the state of any transformation, however nested; a tree of
        `jax.ShapeDtypeStruct` is enough.

    Returns:
      A Python boolean.

    Raises:
      ValueError: if the state is None.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> params = jnp.ones(2)
      >>> optim.evaluates_elsewhere(optim.schedule_free_sgd(0.1).init(params))
      True
      >>> optim.evaluates_elsewhere(optim.sgd(0.1).init(params))
      False
    """
    _check_given("evaluates_elsewhere", opt_state)
    return bool(_averages(opt_state))
