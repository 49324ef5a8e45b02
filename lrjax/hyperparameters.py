"""A method's hyperparameters as a run will use them: checked, and in one spelling."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import jax

from lrjax import methods as methods_lib
from lrjax.core import (
    Domain,
    Method,
    UsageError,
    shown,
    unknown,
)
from lrjax.identity import (
    dtype_of,
    is_number,
    plain,
    used,
)
from lrjax.optim import schedules

Spelt: TypeAlias = Callable[[Method, Mapping[str, Any], str], dict[str, Any]]

_AT_ONCE = 256  # settings that are looked at in one trace
_REMEMBERED = 2**15  # settings that were looked at: some 20 MB


def normal(
    method: Method, hparams: Mapping[str, Any], precision: str
) -> dict[str, Any]:
    """Values of all hyperparameters as they are used; None where none was given.

    Args:
      method: whose.
      hparams: a value for every hyperparameter, in any of Python's or NumPy's types.
      precision: of the run; numbers are used in float64 for 'float64', else in float32.

    Returns:
      whole numbers as int, others as float, each in one spelling whatever was given;
      None for a number that is the same setting (`Method.none`).

    Raises:
      UsageError: if a value is of the wrong kind or out of range as it is used.
    """
    return {
        name: _normal(method, name, value, dtype_of(precision))
        for name, value in hparams.items()
    }


def complete(
    method: Method, hparams: Mapping[str, Any], precision: str
) -> dict[str, Any]:
    """As `normal`, and the method's own code looks at the values, traced in training.

    So what `lrjax.optim` refuses is refused in a config: a distance of 0 that never
    grows, say, or a factor that does not shrink.

    Args:
      method: whose.
      hparams: a value for every hyperparameter.
      precision: of the run.

    Raises:
      UsageError: as `normal`, or if the method cannot be built with the values.
    """
    return complete_all(method, [hparams], precision)[0]


def complete_all(
    method: Method, lanes: Iterable[Mapping[str, Any]], precision: str
) -> list[dict[str, Any]]:
    """As `complete` of each, one after the other, in less time.

    Raises:
      UsageError: as `complete`, for the first of them that is of no use.
    """
    return _all_looked_at(method, lanes, precision, normal)


def check_proposed(method: Method, hparams: Mapping[str, Any], precision: str) -> None:
    """Refuses a setting that, as `proposed`, the method cannot be built with.

    Raises:
      UsageError: as the method's own code says it.
    """
    _all_looked_at(method, [hparams], precision, proposed)


def _all_looked_at(
    method: Method, lanes: Iterable[Mapping[str, Any]], precision: str, spelt: Spelt
) -> list[dict[str, Any]]:
    """Lanes as `spelt` has them, each of which the method can be built with."""
    rest, found = iter(lanes), []
    with jax.enable_x64(precision == "float64"):
        while chunk := _looked_at(method, rest, precision, spelt):
            found += chunk
    return found


def _looked_at(
    method: Method, lanes: Iterator[Mapping[str, Any]], precision: str, spelt: Spelt
) -> list[dict[str, Any]]:
    """The next of some lanes; none where there are no more.

    Starting a trace takes as long as building a method, so many lanes share a trace.
    Their number is limited because a trace holds all its values in memory.
    """
    found = []

    def look() -> None:
        for lane in itertools.islice(lanes, _AT_ONCE):
            values = spelt(method, lane, precision)
            try:
                _build(method.build, precision, values)
            except UsageError:
                raise
            except ValueError as error:
                raise UsageError(f"{method.name}: {error}") from None
            found.append(values)

    jax.eval_shape(look)
    return found


def _build(build: Callable[..., Any], precision: str, values: dict[str, Any]) -> None:
    """Builds a method with values, unless it was built with them of late."""
    try:
        hash(tuple(values.values()))
    except TypeError:  # of a kind that only the method itself knows
        build(100.0, **values)
    else:
        _build_once(build, precision, **values)


@functools.lru_cache(_REMEMBERED, typed=True)
def _build_once(build: Callable[..., Any], precision: str, /, **values: Any) -> None:
    del precision  # decides, by JAX's type of numbers, what they are used as
    build(100.0, **values)


def proposed(
    method: Method, hparams: Mapping[str, Any], precision: str
) -> dict[str, Any]:
    """As `normal`, for what a tuner proposes: its space says what it may be.

    The study's has a first cycle of length 0, for one, with which a run diverges. What
    the method's own code refuses is looked for at the corners of a space, once, before
    training (`check_proposed`): in training values are traced, and it sees none.
    """
    dtype = dtype_of(precision)
    return {
        name: int(value)
        if method.domains.get(name, Domain()).whole and is_number(plain(value))
        else used(value, dtype)
        for name, value in hparams.items()
    }


def _normal(method: Method, name: str, value: Any, dtype: Any) -> Any:
    value, default = plain(value), method.defaults[name]

    def refused(why: object) -> UsageError:
        return UsageError(f"{method.name}.{name}={shown(value)}: {why}")

    if name == "schedule":
        if not isinstance(value, str) or value not in schedules.SCHEDULES:
            raise unknown("schedule", value, schedules.SCHEDULES)
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise refused("must be True or False")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise refused("must be a name")
        if name == "policy":  # known by what is in the file
            return methods_lib.pinned_policy(value)
    elif default is not None and not is_number(plain(default)):
        return value  # of a kind that only the method itself knows
    elif value is not None or (default is not None and name not in method.required):
        try:
            found = _number(value, method.domains.get(name, Domain()), dtype)
        except ValueError as why:
            raise refused(why) from None
        return None if found == method.none.get(name) else found
    return value


def number(where: str, value: Any, domain: Domain, dtype: Any) -> int | float:
    """A number as it is used.

    Args:
      where: what has the value, and the value, for messages.
      value: as it was given.
      domain: what it may be.
      dtype: np.float32 or np.float64, in which it is used.

    Raises:
      UsageError: if it is none, or as it is used not in the domain.
    """
    try:
        return _number(plain(value), domain, dtype)
    except ValueError as why:
        raise UsageError(f"{where}: {why}") from None


def _number(value: Any, domain: Domain, dtype: Any) -> int | float:
    """As `number`; what is wrong with it is a ValueError."""
    if not is_number(value):
        raise ValueError("must be a number")
    return _number_once(value, domain, dtype)


@functools.lru_cache(_REMEMBERED, typed=True)  # most lanes of a grid share most values
def _number_once(value: int | float, domain: Domain, dtype: Any) -> int | float:
    # Whole numbers are exact: their domains end where a type's counting does.
    found = value if domain.whole else used(value, dtype)
    if found in domain and (found or not value):
        return int(found) if domain.whole else found
    if domain.whole or value not in domain:
        raise ValueError(f"must be {domain}")
    kind = f"{dtype.__name__}, in which it is used"
    if not found:
        raise ValueError(f"is 0 in {kind}; give 0 if you mean it")
    raise ValueError(f"is {found:g} in {kind}; it must be {domain}")
