"""Rates that carry over from a narrow to a wide model: the maximal update rule, muP."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lrjax.optim import arguments, base
from lrjax.optim.arguments import ArgumentError, shown
from lrjax.optim.leaves import as_real

_RULES = ("adam", "sgd", "init")


class MupState(NamedTuple):
    """State of `mup`.

    Attributes:
      inner: state of the wrapped transformation.
    """

    inner: Any


def _shape(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
    """The shape of a leaf of the narrow model, as `mup` sees it."""
    place = f"base_params{jax.tree_util.keystr(path)}"
    try:
        return jax.eval_shape(lambda leaf: as_real(leaf, place), leaf)
    except TypeError:
        raise ArgumentError(
            f"{place} must be an array or its shape, not {shown(leaf)}"
        ) from None


def _factor(rule: str, shape: tuple[int, ...], narrow: tuple[int, ...]) -> float:
    """The factor of a leaf, from its shape and that in the narrow model."""
    outputs = shape[-1] / narrow[-1] if shape else 1.0
    inputs = math.prod(shape[:-1]) / math.prod(narrow[:-1])
    if rule == "adam":
        return 1 / inputs
    if rule == "sgd":
        return outputs / inputs
    return inputs**-0.5 if outputs == 1 else 1.0


@arguments.checked("optim")
def width_factors(
    params: base.PyTree, base_params: base.PyTree, rule: str = "adam"
) -> base.PyTree:
    r"""Factors of leaves that make a width's best rate that of all widths.

    A leaf has as inputs all axes but its last, which is its output, as in Flax. With
    the growth :math:`i` of its inputs and :math:`o` of its outputs over those in a
    narrow model, factors are

    ========  ==================  ================  ==============
    rule      in: only o grows    hidden: both      out: only i
    ========  ==================  ================  ==============
    'adam'    1                   1 / i             1 / i
    'sgd'     o                   o / i             1 / i
    'init'    1                   1                 i ** -0.5
    ========  ==================  ================  ==============

    of the learning rate of Adam and its relatives, whose steps do not depend on the
    gradient's size, of that of SGD, with momentum or not, and of the weights at the
    start, on top of the usual standard deviation of one over the root of the inputs.
    Biases and the scales of norms are vectors of outputs. In a transformer the logits
    of attention are to be divided by the size of a head, not by its root. The factors
    do as well for `learning_rate_factors` of `prodigy` and `dadapt_adam`.

    Args:
      params: the parameters, or their shapes (`jax.eval_shape`).
      base_params: those of the same model at the width whose rate is known, or their
        shapes.
      rule: 'adam', 'sgd' or 'init'.

    Returns:
      A tree of Python numbers with the structure of `params`.

    Raises:
      ArgumentError: if the trees, or the ranks of two leaves, do not agree, or the
        rule is another word; one line.

    Example:
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> def shapes(width):
      ...     return {
      ...         "in": jnp.zeros((784, width)),
      ...         "hidden": jnp.zeros((width, width)),
      ...         "out": jnp.zeros((width, 10)),
      ...     }
      >>> factors = optim.width_factors(shapes(256), shapes(64))
      >>> [factors[name] for name in ("in", "hidden", "out")]
      [1.0, 0.25, 0.25]

    References:
      Yang et al., `Tensor Programs V: Tuning Large Neural Networks via Zero-Shot
      Hyperparameter Transfer <https://arxiv.org/abs/2203.03466>`_, 2022, Table 3.
      Implementation: ``MuAdam`` and ``MuSGD`` of microsoft/mup, which divide the output
      in the forward pass and so have other factors there for the same training.
    """
    if rule not in _RULES:
        raise ArgumentError(
            f"rule must be one of {', '.join(_RULES)}, not {shown(rule)}"
        )
    return _factors(params, base_params, rule)


def _factors(params: base.PyTree, base_params: base.PyTree, rule: str) -> base.PyTree:
    """The factors, as `width_factors` after its check of `rule`."""
    structure = jax.tree.structure(params)
    if jax.tree.structure(base_params) != structure:
        raise ArgumentError(
            "base_params must have the structure of params: the same model, narrower"
        )

    def factor(path, leaf, narrow):
        shape, before = jnp.shape(leaf), jnp.shape(narrow)
        if len(shape) != len(before) or (0 in before and shape != before):
            raise ArgumentError(
                f"base_params{jax.tree_util.keystr(path)} has the shape {before}, "
                f"params {shape}: they may differ in width only"
            )
        return 1.0 if shape == before else _factor(rule, shape, before)

    return jax.tree_util.tree_map_with_path(factor, params, base_params)


@base.any_leaves
def mup(
    inner: optax.GradientTransformation,
    base_params: base.PyTree,
    rule: str = "adam",
) -> optax.GradientTransformationExtraArgs:
    """Multiply the updates of each leaf by its `width_factors`.

    The rate that is best for the model with `base_params` is then near the best for
    models of the same kind and other widths. Their weights must start as
    `width_factors` says for 'init'. Weight decay inside is scaled, too: to keep
    decoupled decay as it is, divide `weight_decay` by the factor in a partition, or add
    the decay after this. `lrjax.rate_transfer` compares the best rates of several
    widths.

    Args:
      inner: any transformation whose updates grow with its rate.
      base_params: the parameters, or their shapes, of the narrow model.
      rule: 'adam' for Adam and its relatives, 'sgd' for SGD.

    Returns:
      The transformation, for parameters of any shapes. `effective_learning_rate` is
      the rate before the factors.

    Raises:
      ArgumentError: in `init`, if the parameters are not of the same kind of model.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from lrjax import optim
      >>> def model(width):
      ...     sizes = {"in": (8, width), "hidden": (width, width), "out": (width, 1)}
      ...     keys = jax.random.split(jax.random.key(0), 3)
      ...     return {
      ...         name: jax.random.normal(key, size) * size[0] ** -0.5
      ...         for key, (name, size) in zip(keys, sizes.items(), strict=True)
      ...     }
      >>> wide, narrow = model(256), model(64)
      >>> start = optim.width_factors(wide, narrow, "init")
      >>> params = jax.tree.map(jnp.multiply, start, wide)
      >>> transformation = optim.mup(optim.adamw(1e-3, weight_decay=0.0), narrow)
      >>> state = transformation.init(params)
      >>> updates, state = transformation.update(params, state, params)
      >>> round(float(jnp.abs(updates["hidden"]).max()), 5)
      0.00025

    References:
      As for `width_factors`. Implementation: ``MuAdam`` and ``MuSGD`` of microsoft/mup.
    """
    if rule not in _RULES[:2]:
        raise ArgumentError(f"rule must be 'adam' or 'sgd', not {shown(rule)}")
    narrow = jax.tree_util.tree_map_with_path(_shape, base_params)
    inner = optax.with_extra_args_support(inner)

    def init(params):
        _factors(params, narrow, rule)
        return MupState(inner.init(params))

    def update(updates, state, params=None, **extra_args):
        changes, new = inner.update(updates, state.inner, params, **extra_args)
        factors = _factors(changes, narrow, rule)
        changes = jax.tree.map(lambda f, change: f * change, factors, changes)
        return changes, MupState(new)

    return optax.GradientTransformationExtraArgs(init, update)
