"""Models of Flax linen, NNX, Equinox and plain functions as two pure functions.

What a model needs is found from its signature and its variables: an argument such as
`train` or `deterministic`, random keys, state such as batch-norm statistics.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lrjax.common import numerics
from lrjax.core import PyTree, UsageError, cut, shown

# Arguments by which a model knows that it is trained, and their value then.
_FLAGS = {
    **dict.fromkeys(("train", "training", "is_training"), True),
    **dict.fromkeys(("deterministic", "use_running_average", "inference"), False),
}
_KEYS = ("key", "rng")
_SHARED = "params"


class Model(NamedTuple):
    """A model without its parameters.

    Attributes:
      init: `init(key) -> (params, state)`.
      apply: `apply(params, state, inputs, key) -> (outputs, state)`; without a key
        (None) the model is evaluated.
      name: what to call it.
      begun: whether it came with parameters, at which all seeds begin.
    """

    init: Callable[[jax.Array], tuple[PyTree, PyTree]]
    apply: Callable[[PyTree, PyTree, Any, jax.Array | None], tuple[Any, PyTree]]
    name: str
    begun: bool = False


class _Signature(NamedTuple):
    """The arguments of a model.

    Attributes:
      inputs: names of those for inputs.
      flags: names of those that say whether it is trained.
      key: name of that for a random key; '' if there is none.
      state: whether one is called `state`.
      lengths: name of the input that only the loss reads, unless the model has an
        argument of that name.
    """

    inputs: frozenset[str]
    flags: tuple[str, ...]
    key: str
    state: bool
    lengths: str

    def flagged(self, train: bool) -> dict[str, bool]:
        """The arguments that say whether the model is trained."""
        return {name: _FLAGS[name] == train for name in self.flags}

    def arguments(self, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arrange inputs as arguments: by position, and by name.

        A tuple is several arguments; so is a dictionary, if the model has arguments of
        these names. Otherwise the model gets it whole.
        """
        if isinstance(inputs, tuple):
            return inputs, {}
        if not isinstance(inputs, Mapping):
            return (inputs,), {}
        own = dict(inputs)
        if self.lengths not in self.inputs:
            own.pop(self.lengths, None)
        if set(own) <= self.inputs:
            return (), own
        data = [name for name in own if name != self.lengths]
        if len(data) == 1 and len(inputs) > 1:
            return (own.pop(data[0]),), own
        return (own,), {}


def _signature(function: Callable[..., Any], lengths: str | None) -> _Signature:
    """Read the signature of a model's function."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        found = ()
    names = [p.name for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    special = {*_FLAGS, *_KEYS, "state", "rngs", "self", _SHARED}
    return _Signature(
        inputs=frozenset(names) - special,
        flags=tuple(name for name in names if name in _FLAGS),
        key=next((name for name in names if name in _KEYS), ""),
        state="state" in names,
        lengths=lengths or "",
    )


def _refuse_several(model: Any) -> None:
    """Refuse several models, as adversarial training has."""
    if isinstance(model, list | tuple | Mapping) and not callable(model):
        raise UsageError(
            "a task has one model, trained by one optimiser on one loss: several "
            "models with an optimiser each do not fit"
        )


def _kind(model: Any) -> str:
    """The library of a model or its class, such as 'linen'; '' if it has none."""
    bases = (model if isinstance(model, type) else type(model)).__mro__
    for base in bases:
        if base.__name__ == "Module":
            for library in ("linen", "nnx", "equinox", "haiku", "torch"):
                if library in base.__module__:
                    return library
    return ""


def _check_kind(model: Any, wanted: str) -> None:
    """Refuse a model of another library."""
    _refuse_several(model)
    kind = _kind(model)
    if kind and kind != wanted:
        ways = {"linen": "from_flax", "nnx": "from_nnx", "equinox": "from_equinox"}
        way = f"use Task.{ways[kind]}" if kind in ways else "it cannot be trained here"
        raise UsageError(f"the model is one of {kind}: {way}")


# Flax linen


def linen(model: Any, lengths: str | None, example: Any) -> Model:
    """Make a model of a linen module.

    Args:
      model: a `flax.linen.Module`.
      lengths: name of the input that only the loss reads.
      example: inputs of one row.
    """
    _check_kind(model, "linen")
    if isinstance(model, type):
        raise UsageError(f"{model.__name__} is a class: give a module, such as "
                         f"{model.__name__}(...)")  # fmt: skip
    if _kind(model) != "linen":
        raise UsageError(f"model must be a flax.linen.Module, not {shown(model)}")
    signature = _signature(model.__call__, lengths)
    # Written anew by each call, and no state of the training.
    passing = ("intermediates", "losses", "metrics", "perturbations")

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        args, named = signature.arguments(example)
        variables = dict(model.init(key, *args, **named, **signature.flagged(False)))
        params = variables.pop("params", {})
        return params, {k: v for k, v in variables.items() if k not in passing}

    def apply(
        params: PyTree, state: PyTree, inputs: Any, key: jax.Array | None
    ) -> tuple[Any, PyTree]:
        args, named = signature.arguments(inputs)
        named |= signature.flagged(key is not None)
        variables = {"params": params, **state}
        if key is None:
            return model.apply(variables, *args, **named), state
        # A stream without a key of its own uses that of the parameters.
        rngs = {"dropout": key, "params": jax.random.fold_in(key, 1)}
        outputs, new = model.apply(
            variables, *args, **named, rngs=rngs, mutable=list(state)
        )
        return outputs, {**state, **new}

    return Model(init, apply, type(model).__name__)


# Flax NNX


def nnx(model: Any, lengths: str | None, example: Any) -> Model:
    """Make a model of an NNX module.

    Random keys in it (of dropout, for example) are no state: each step makes new ones
    from its own key.

    Args:
      model: a function of `nnx.Rngs` that returns a module, or a class whose only
        argument is `rngs`; or a module.
      lengths: name of the input that only the loss reads.
      example: unused.
    """
    from flax import nnx

    del example
    _check_kind(model, "nnx")
    given = isinstance(model, nnx.Module)
    if not given and not callable(model):
        raise UsageError(
            f"model must be a function of nnx.Rngs that returns an nnx.Module, not "
            f"{shown(model)}"
        )

    def make(key: jax.Array) -> Any:
        if given:
            return model
        rngs = nnx.Rngs(key)
        return model(rngs=rngs) if isinstance(model, type) else model(rngs)

    def split(module: Any) -> tuple[Any, ...]:
        """Graph, parameters, state and random keys; what was sown is left out."""
        graph, params, noise, _, state = nnx.split(
            module, nnx.Param, nnx.RngState, nnx.Intermediate, ...
        )
        return graph, params, state, noise

    abstract = model if given else nnx.eval_shape(lambda: make(numerics.key(0)))
    if not isinstance(abstract, nnx.Module):
        raise UsageError(
            f"the function returns {type(abstract).__name__}, not an nnx.Module"
        )
    signature = _signature(abstract.__call__, lengths)
    graph, *shapes = split(abstract)
    shapes = [jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), s)
              for s in shapes]  # fmt: skip

    def noise_of(key: jax.Array) -> Any:
        """States of all random streams, each with a key of its own."""
        leaves, structure = jax.tree.flatten(shapes[2])
        made = []
        for number, leaf in enumerate(leaves):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                own = jax.random.fold_in(key, number)
                made.append(jax.random.split(own, leaf.shape) if leaf.shape else own)
            else:
                made.append(jnp.zeros(leaf.shape, leaf.dtype))
        return jax.tree.unflatten(structure, made)

    def filled(which: int, pure: PyTree) -> Any:
        """An NNX state with the arrays of a plain dictionary."""
        whole = jax.tree.map(lambda x: x, shapes[which])
        nnx.replace_by_pure_dict(whole, pure)
        return whole

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        _, params, state, _ = split(make(key))
        return nnx.to_pure_dict(params), nnx.to_pure_dict(state)

    def apply(
        params: PyTree, state: PyTree, inputs: Any, key: jax.Array | None
    ) -> tuple[Any, PyTree]:
        args, named = signature.arguments(inputs)
        named |= signature.flagged(key is not None)
        # Evaluation draws nothing, so that any key will do.
        noise = noise_of(numerics.key(0) if key is None else key)
        module = nnx.merge(graph, filled(0, params), filled(1, state), noise)
        module.eval() if key is None else module.train()
        outputs = module(*args, **named)
        new = nnx.to_pure_dict(split(module)[2])
        return outputs, state if key is None else new

    return Model(init, apply, _name(model, abstract), given)


# Equinox


def equinox(
    model: Any, lengths: str | None, example: Any, batched: bool | None = None
) -> Model:
    """Make a model of an Equinox module.

    Its floating-point arrays are the parameters. A model of one row is vmapped.

    Args:
      model: a function of a key that returns a module, or (module, state) as
        `eqx.nn.make_with_state` does; or a module, or such a pair.
      lengths: name of the input that only the loss reads.
      example: inputs of one row, with an axis of rows.
      batched: whether the model takes a batch; None: if it fails on a single row.
    """
    try:
        import equinox as eqx
    except ImportError as error:
        raise UsageError("from_equinox needs Equinox: pip install equinox") from error

    pair = isinstance(model, tuple) and len(model) == 2 and _is_state(model[1])
    _check_kind(model[0] if pair else model, "equinox")
    given = pair or isinstance(model, eqx.Module)
    if not given and not callable(model):
        raise UsageError(
            f"model must be a function of a key that returns an eqx.Module, not "
            f"{shown(model)}"
        )

    build: Any = (lambda key: model) if given else model

    def make(key: jax.Array) -> tuple[Any, Any]:
        """The module and its state, None if it has none."""
        made = build(key)
        if isinstance(made, tuple) and len(made) == 2 and _is_state(made[1]):
            return made
        return made, None

    def parted(made: tuple[Any, Any]) -> tuple[Any, Any, Any]:
        """Parameters, other arrays, and what is not an array."""
        arrays, static = eqx.partition(made, _is_array)
        module, state = arrays
        params, others = eqx.partition(module, _is_inexact)
        return params, (others, state), static

    abstract = eqx.filter_eval_shape(make, numerics.key(0))
    if not isinstance(abstract[0], eqx.Module):
        raise UsageError(
            f"the function returns {type(abstract[0]).__name__}, not an eqx.Module"
        )
    structure, others_structure, static = parted(abstract)
    paths, treedef = jax.tree_util.tree_flatten_with_path(structure)
    names = [jax.tree_util.keystr(path).lstrip(".") for path, _ in paths]
    others_treedef = jax.tree.structure(others_structure)
    signature = _signature(abstract[0].__call__, lengths)
    axis = _axis_name(eqx, abstract[0])
    stateful = abstract[1] is not None

    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        params, others, _ = parted(make(key))
        leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(others)]
        return dict(zip(names, jax.tree.leaves(params), strict=True)), leaves

    def apply(
        params: PyTree, state: PyTree, inputs: Any, key: jax.Array | None
    ) -> tuple[Any, PyTree]:
        own = jax.tree.unflatten(treedef, [params[name] for name in names])
        others, memory = jax.tree.unflatten(others_treedef, state)
        module = eqx.combine(own, others, static[0])
        memory = eqx.combine(memory, static[1])
        module = eqx.nn.inference_mode(module, key is None)
        call = functools.partial(_called, module, signature, stateful)
        if takes_batch:
            outputs, memory = call(inputs, memory, key)
        else:
            rows = len(jax.tree.leaves(inputs)[0])
            keys = None if key is None or not signature.key else key
            keys = keys if keys is None else jax.random.split(keys, rows)
            outputs, memory = jax.vmap(
                call, in_axes=(0, None, 0), out_axes=(0, None), axis_name=axis
            )(inputs, memory, keys)
        if not stateful or key is None:
            return outputs, state
        return outputs, jax.tree.leaves(parted((module, memory))[1])

    takes_batch = bool(batched)
    if batched is None:
        shapes = jax.eval_shape(init, numerics.key(0))
        takes_batch = _fails(apply, *shapes, example)
    return Model(init, apply, _name(model, abstract[0]), given)


def _called(
    module: Any,
    signature: _Signature,
    stateful: bool,
    inputs: Any,
    state: Any,
    key: jax.Array | None,
) -> tuple[Any, Any]:
    """Call an Equinox module; return its outputs and its state."""
    args, named = signature.arguments(inputs)
    if signature.key:
        named[signature.key] = key
    if not stateful:
        return module(*args, **named), state
    if signature.state and named.keys() - {signature.key}:
        named["state"] = state
    else:
        args = (*args, state)
    return module(*args, **named)


def _is_state(value: Any) -> bool:
    """Whether a value is Equinox's State."""
    return type(value).__name__ == "State" and "equinox" in type(value).__module__


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)


def _is_inexact(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _axis_name(eqx: Any, module: Any) -> str:
    """The name of the axis of rows that batch norms of a module reduce over."""
    kinds = (eqx.nn.BatchNorm,)
    found = {
        str(leaf.axis_name)
        for leaf in jax.tree.leaves(module, is_leaf=lambda x: isinstance(x, kinds))
        if isinstance(leaf, kinds)
    }
    if len(found) > 1:
        raise UsageError(f"batch norms name several axes: {', '.join(sorted(found))}")
    return found.pop() if found else "batch"


def _fails(apply: Callable[..., Any], *arguments: Any) -> bool:
    """Whether tracing a call raises an exception."""
    try:
        jax.eval_shape(lambda *args: apply(*args, None), *arguments)
    except Exception:  # the user's code may raise anything
        return True
    return False


# Plain functions


def functions(init: Any, apply: Any, lengths: str | None) -> Model:
    """Make a model of two functions.

    Args:
      init: `init(key) -> params`; `(params, state)` if `apply` has an argument `state`.
      apply: `apply(params, inputs) -> outputs`; with an argument `state` it returns
        (outputs, state); `key` or `rng`, and `train`, are given if it has them.
      lengths: name of the input that only the loss reads.
    """
    for name, function in (("init", init), ("apply", apply)):
        _refuse_several(function)
        if not callable(function):
            raise UsageError(f"{name} must be a function, not {shown(function)}")
    signature = _signature(apply, lengths)

    def both(key: jax.Array) -> tuple[PyTree, PyTree]:
        made = init(key)
        if not signature.state:
            return made, ()
        if not isinstance(made, tuple) or len(made) != 2:
            raise UsageError(
                "apply has an argument state: init(key) must return (params, state)"
            )
        return made

    def applied(
        params: PyTree, state: PyTree, inputs: Any, key: jax.Array | None
    ) -> tuple[Any, PyTree]:
        args, named = signature.arguments(inputs)
        named |= signature.flagged(key is not None)
        if signature.key:
            named[signature.key] = key
        if not signature.state:
            return apply(params, *args, **named), state
        result = apply(params, *args, **named, state=state)
        if not isinstance(result, tuple) or len(result) != 2:
            raise UsageError(
                "apply has an argument state: it must return (outputs, state)"
            )
        return result[0], state if key is None else result[1]

    return Model(both, applied, _name(apply, apply))


def _name(given: Any, made: Any) -> str:
    """Name of a model: that of its class or function."""
    if inspect.isfunction(made):
        name = made.__name__
    elif isinstance(given, type):
        name = given.__name__
    else:
        name = type(made).__name__
    return cut(name) if name.isidentifier() else "own"
