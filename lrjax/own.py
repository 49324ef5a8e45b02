"""Methods of one's own, made from functions that return an Optax transformation."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lrjax.core import Domain, Method, Range, Space, UsageError, cut, shown, unknown
from lrjax.identity import is_number, plain

# What users give for a method, and for several.
MethodLike = str | Method | Callable[..., Any]
Methods = MethodLike | Iterable[MethodLike]
_SCALES = ("log", "linear", "integer")
_HORIZON = "horizon"  # parameter of a method's function that gets the number of updates
_ANY_NUMBER = Domain(-sys.float_info.max)
_NOTE = "lrjax_method"  # attribute of decorated functions
_FIELDS = ("family", "source", "advice", "static", "domains", "needs_rate")


def method_of(
    function: Callable[..., Any],
    name: str = "",
    space: Mapping[str, Range | Sequence[Any]] | None = None,
    **fields: Any,
) -> Method:
    """Make a method of a function that returns an Optax transformation.

    Each parameter of the function is a hyperparameter with a default, whose numbers may
    be traced. A parameter called `horizon` gets the number of updates of a run; such a
    method is taken to lower its rate towards the end.

    Args:
      function: takes hyperparameters; returns an Optax transformation.
      name: the method's name; that of the function if it is empty.
      space: hyperparameter -> what to tune it over: (low, high), (low, high, 'log') or
        a `lrjax.core.Range`. Ranges above 0 are logarithmic unless 'linear' is given.
      fields: `family`, `source`, `advice`, `static`, `domains` or `needs_rate` of
        `lrjax.core.Method`. Numbers below 0 are valid where the default or the range
        has them, unless `domains` says otherwise.

    Raises:
      UsageError: if a parameter has no default, or an argument is invalid.

    Example:
      >>> import optax
      >>> def lion_parabola(horizon, learning_rate=1e-3, b1=0.9):
      ...     rate = lambda step: learning_rate * (1 - step / horizon) ** 2
      ...     return optax.lion(rate, b1=b1)
      >>> method_of(lion_parabola, space={"learning_rate": (1e-5, 1e-2)}).defaults
      {'learning_rate': 0.001, 'b1': 0.9}
    """
    name = name or getattr(function, "__name__", "")
    if not name:
        raise UsageError(
            f"method {shown(function)} has no name: give a function made by def, or "
            "lrjax.register_method('mine')(function)"
        )
    where = f"method '{cut(str(name))}'"
    for field in fields:
        if field not in _FIELDS:
            raise UsageError(f"{where}: {field} is not one of {', '.join(_FIELDS)}")
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {shown(function)} is not a function") from error
    defaults: dict[str, Any] = {}
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise UsageError(
                f"{where}: name each hyperparameter in place of {parameter}"
            )
        if parameter.name == _HORIZON:
            continue
        if parameter.default is parameter.empty:
            raise UsageError(
                f"{where} is not a method: its parameter {parameter.name} needs a "
                "default"
            )
        defaults[parameter.name] = plain(parameter.default)
    ranges = {k: _range(where, k, v, defaults) for k, v in (space or {}).items()}
    takes_horizon = _HORIZON in parameters

    def build(horizon: Any, **hparams: Any) -> Any:
        return function(**hparams, **({_HORIZON: horizon} if takes_horizon else {}))

    build.__wrapped__ = function  # pyright: ignore[reportFunctionMemberAccess]
    negative = {name for name, values in ranges.items() if values.low < 0}
    negative |= {name for name, v in defaults.items() if is_number(v) and v < 0}
    given = fields.pop("domains", {})
    if not isinstance(given, Mapping):
        raise UsageError(
            f"{where}: domains must map hyperparameters to what they may be, such as "
            f"{{'b1': lrjax.core.Domain(0, 1)}}, not {shown(given)}"
        )
    domains = {**dict.fromkeys(negative, _ANY_NUMBER), **given}
    fields = {"family": "own", "source": "one's own", "domains": domains, **fields}
    fields.setdefault("needs_rate", "learning_rate" in ranges)
    return Method(
        name=name,
        build=build,
        defaults=defaults,
        space=Space(ranges),
        horizon_bound=lambda hparams: takes_horizon,
        **fields,
    )


def remember(function: Callable[..., Any], method: Method) -> None:
    """Note on a function the method that a decorator made of it."""
    with contextlib.suppress(AttributeError):  # some callables take no attributes
        setattr(function, _NOTE, (function, method))


def _made(function: Callable[..., Any], name: str = "") -> Method:
    """Return the method that a decorator made of a function, or make one."""
    note = getattr(function, _NOTE, None)
    if note and note[0] is function:  # and not one that functools.wraps copied it from
        return note[1]
    return method_of(function, name)


def methods_of(given: Any, where: str = "") -> list[str | Method]:
    """Return the methods that were given: names, methods, functions, or one of these.

    Args:
      given: what a user gave.
      where: start of messages.

    Raises:
      UsageError: if something else is among them, one comes twice, or there is none.
    """
    # A transformation of Optax is a named tuple, so it would pass for a sequence.
    single = isinstance(given, str | Method) or hasattr(given, "_fields")
    if single or callable(given) or not isinstance(given, Iterable):
        given = [given]
    chosen: list[str | Method] = []
    for method in given:
        if callable(method) and not isinstance(method, Method):
            method = _made(method)
        if not isinstance(method, str | Method):
            raise UsageError(
                f"{where}{shown(method)} is not a method: give a name (--mode=methods "
                "lists them), a lrjax.core.Method, or a function of hyperparameters "
                "that returns a transformation of Optax"
            )
        chosen.append(method)
    names = [method if isinstance(method, str) else method.name for method in chosen]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{where}method '{cut(name)}' comes twice")
    if not names:
        raise UsageError(f"{where}methods is empty: name at least one")
    return chosen


def _range(where: str, name: str, value: Any, defaults: Mapping[str, Any]) -> Range:
    """Make a range of (low, high, *scales); raise UsageError if it is invalid."""
    if name not in defaults:
        raise UsageError(f"{where}: space has '{cut(str(name))}', which it lacks")
    if isinstance(value, Range):
        return value
    parts = list(value) if isinstance(value, Sequence) else []
    bounds, scales = [plain(bound) for bound in parts[:2]], parts[2:]
    if len(bounds) < 2 or not all(map(is_number, bounds)) or bounds[0] >= bounds[1]:
        raise UsageError(
            f"{where}: space['{name}'] is {shown(value)}: give (low, high), optionally "
            "with 'log', 'linear' or 'integer'"
        )
    low, high = bounds
    for scale in scales:
        if scale not in _SCALES:
            raise unknown(f"scale in space['{name}'] of {where}", scale, _SCALES)
    if "log" in scales and low <= 0:
        raise UsageError(f"{where}: space['{name}']: 'log' needs bounds above 0")
    log = "log" in scales or (low > 0 and "linear" not in scales)
    return Range(float(low), float(high), log, "integer" in scales)


def accept(name: str, found: Any) -> Method:
    """Make what a package offers under a name a method of that name.

    Raises:
      UsageError: if it is neither a method nor a function that can be one.
    """
    found = found if isinstance(found, Method) else _made(found, name)
    return dataclasses.replace(found, name=name)
