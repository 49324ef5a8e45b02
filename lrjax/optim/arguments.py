"""Checks of a call's arguments: their kinds, by its annotations, and its errors.

An error is one line that names the function, the argument, the value and what would do.
Arrays, traced or not, are known by their dtype alone, so that none is fetched.
"""

from __future__ import annotations

import collections.abc
import contextlib
import functools
import inspect
import types
import typing
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

P = ParamSpec("P")
R = TypeVar("R")


class ArgumentError(ValueError):
    """A mistake in a call; one line.

    Attributes:
      reason: what is wrong.
      where: the function, such as 'optim.lion'; '' while that is not known.
    """

    def __init__(self, reason: str, where: str = ""):
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason, self.where = reason, where


@contextlib.contextmanager
def named(where: str, outermost: bool = False) -> Iterator[None]:
    """Put the name of the function into `ArgumentError`s from within.

    Args:
      where: the name.
      outermost: whether it replaces that of a function inside, whose arguments are
        those of this one.
    """
    try:
        yield
    except ArgumentError as error:
        if error.where and not outermost:
            raise
        raise ArgumentError(error.reason, where) from error.__cause__


def shown(value: Any) -> str:
    """A value as text of one line and at most 80 characters."""
    if isinstance(value, int) and abs(value) > 10**80:
        return "a whole number of more than 80 digits"  # repr refuses thousands
    if inspect.isroutine(value):
        return f"the function {getattr(value, '__name__', '?')}"
    if isinstance(value, jax.Array):
        return f"an array of {value.dtype} and shape {value.shape}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def is_number(value: Any) -> bool:
    """Whether a value is a real number or an array of such numbers."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        kind = value.dtype
        return jnp.issubdtype(kind, jnp.integer) or jnp.issubdtype(kind, jnp.floating)
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_flag(value: Any) -> bool:
    """Whether a value is True or False, known while tracing."""
    return isinstance(value, bool | np.bool_)


def is_transformation(value: Any) -> bool:
    """Whether a value has the two functions of an Optax transformation."""
    return all(callable(getattr(value, name, None)) for name in ("init", "update"))


class Kind(NamedTuple):
    """A kind of arguments.

    Attributes:
      text: its name, to follow "must be".
      holds: whether a value is of this kind.
    """

    text: str
    holds: Callable[[Any], bool]


_NUMBER = Kind("a number", is_number)
_FLAG = Kind("True or False", is_flag)
_NAME = Kind("a string", lambda value: isinstance(value, str))
_SCHEDULE = Kind("a schedule (a function of the update count)", callable)
_TRANSFORMATION = Kind(
    "an Optax transformation, such as optim.sgd(0.1)", is_transformation
)
_TRACED_FLAG = Kind(
    _FLAG.text, lambda value: is_flag(value) or isinstance(value, jax.Array)
)
_NONE = Kind("None", lambda value: value is None)


def _kinds(hint: Any) -> tuple[Kind, ...]:
    """The kinds that an annotation stands for; () if it may be anything else, too."""
    if hint == ArrayLike:
        return (_NUMBER,)
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    members = set(typing.get_args(hint)) if union else {hint}
    made = {m for m in members if typing.get_origin(m) is collections.abc.Callable}
    rest = members - made - {types.NoneType}
    if rest == {bool}:
        kinds = [_FLAG]
    elif rest == {bool, jax.Array}:
        kinds = [_TRACED_FLAG]
    elif rest == {str}:
        kinds = [_NAME]
    elif rest in ({float}, {float, jax.Array}):
        kinds = [_NUMBER]
    elif rest and all(
        inspect.isclass(member) and issubclass(member, optax.GradientTransformation)
        for member in rest
    ):
        kinds = [_TRANSFORMATION]
    elif rest or not made:
        return ()
    else:
        kinds = []
    if made:
        kinds.append(_SCHEDULE)
    if types.NoneType in members:
        kinds.append(_NONE)
    return tuple(kinds)


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


@functools.cache
def declared(function: Callable[..., Any]) -> dict[str, tuple[Kind, ...]]:
    """The kinds of a function's arguments, of those whose annotations say them."""
    hints = typing.get_type_hints(function)
    kinds = {name: _kinds(hint) for name, hint in hints.items() if name != "return"}
    return {name: found for name, found in kinds.items() if found}


def _check_kind(name: str, value: Any, kinds: tuple[Kind, ...]) -> None:
    """Raise ArgumentError unless a value is of one of the kinds."""
    if not any(kind.holds(value) for kind in kinds):
        what = " or ".join(kind.text for kind in kinds)
        said = shown(value)
        if callable(value) and _TRANSFORMATION in kinds:
            said += ": call it first"
        elif callable(value) and name == "learning_rate":
            said = "a schedule: the method changes it itself, from where it starts"
        raise ArgumentError(f"{name} must be {what}, not {said}")


def check_kinds(function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Check a call by the annotations of `function`; Python checks the names."""
    try:
        given = _signature(function).bind(*args, **kwargs).arguments
    except TypeError:  # the call itself says it, with the function's name
        return
    kinds = declared(function)
    for name, value in given.items():
        if name in kinds:
            _check_kind(name, value, kinds[name])


def checked(package: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: checks the kinds of arguments, and names the function in errors.

    Args:
      package: name of its package in errors, such as 'schedules'.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        where = f"{package}.{function.__name__}"

        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            with named(where, outermost=True):
                check_kinds(function, args, kwargs)
                return function(*args, **kwargs)

        return wrapped

    return decorate


# Extra arguments of an update -> what they must be, and a name for it.
_EXTRA = {
    "value": ("the loss of the batch, one number", "loss"),
    "metric": ("one number, NaN where nothing was measured", "metric"),
    "value_fn": ("the function from parameters to the batch's loss", "loss_fn"),
    "grad_fn": ("the function from parameters to the batch's gradient", "gradient_fn"),
}


def check_extra(extra_args: Mapping[str, Any], read: Container[str]) -> None:
    """Check those extra arguments of an update that the optimiser reads.

    Args:
      extra_args: the arguments by name; None counts as not given.
      read: the names that it reads.
    """
    for name, (what, _) in _EXTRA.items():
        value = extra_args.get(name)
        if name not in read or value is None:
            continue
        if not name.endswith("_fn"):
            check_scalar(name, value, what)
        elif not callable(value):
            raise ArgumentError(f"{name} must be {what}, not {shown(value)}")


def check_scalar(name: str, value: Any, what: str) -> None:
    """Raise ArgumentError unless a value is one number, traced or not."""
    if not is_number(value) or np.shape(value):
        raise ArgumentError(f"{name} must be {what}, not {shown(value)}")


def missing(name: str) -> ArgumentError:
    """Make the error for an extra argument that an update was not given."""
    what, example = _EXTRA[name]
    return ArgumentError(
        f"needs {name}, {what}: update(grads, state, params, {name}={example})"
    )
