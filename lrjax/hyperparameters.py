"""Check and normalise a method's hyperparameters as a run uses them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import jax

from lrjax import methods as methods_lib
from lrjax.common import numerics
from lrjax.core import (
    Domain,
    Method,
    UsageError,
    cut,
    raised,
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
from lrjax.optim.arguments import ArgumentError

Normaliser: TypeAlias = Callable[[Method, Mapping[str, Any], str], dict[str, Any]]

_AT_ONCE = 256  # settings that are checked in one trace
_CACHED = 2**15  # settings whose check is cached, about 20 MB


def normal(
    method: Method, hparams: Mapping[str, Any], precision: str
) -> dict[str, Any]:
    """Convert hyperparameters to the values that a run uses.

    Args:
      method: the method.
      hparams: a value for every hyperparameter, of any of Python's or NumPy's types.
      precision: precision of the run; numbers are used in float64 for 'float64', else
        in float32.

    Returns:
      whole numbers as int, others as float, equal for equal settings; None for a
      number that means the same (`Method.none`), and where None was given.

    Raises:
      UsageError: if a value has the wrong type, or is out of range once rounded.
    """
    return {
        name: _normal(method, name, value, dtype_of(precision))
        for name, value in hparams.items()
    }


def complete(
    method: Method, hparams: Mapping[str, Any], precision: str
) -> dict[str, Any]:
    """Convert hyperparameters as `normal`, and build the method with them as a check.

    In training the values are traced, so `lrjax.optim` cannot check them; here it can:
    an initial distance of 0, for example, or a factor that does not shrink.

    Args:
      method: the method.
      hparams: a value for every hyperparameter.
      precision: precision of the run.

    Raises:
      UsageError: as `normal`, or if the method cannot be built with the values.
    """
    return complete_all(method, [hparams], precision)[0]


def complete_all(
    method: Method, settings: Iterable[Mapping[str, Any]], precision: str
) -> list[dict[str, Any]]:
    """Convert many settings of a method as `complete`, in less time.

    Args:
      method: the method.
      settings: dictionaries with a value for every hyperparameter.
      precision: precision of the run.

    Raises:
      UsageError: as `complete`, for the first invalid setting.
    """
    return _checked_all(method, settings, precision, normal)


def check_proposed(method: Method, hparams: Mapping[str, Any], precision: str) -> None:
    """Refuse a tuner's setting that the method cannot be built with.

    Args:
      method: the method.
      hparams: a value for every hyperparameter.
      precision: precision of the run.

    Raises:
      UsageError: with the words of the method's own check.
    """
    _checked_all(method, [hparams], precision, proposed)


def _checked_all(
    method: Method,
    settings: Iterable[Mapping[str, Any]],
    precision: str,
    normalise: Normaliser,
) -> list[dict[str, Any]]:
    """Normalise settings, and build the method with each as a check.

    Args:
      method, settings, precision: as for `complete_all`.
      normalise: `normal` or `proposed`.
    """
    rest, checked = iter(settings), []
    with numerics.fixed(precision):
        while chunk := _next_checked(method, rest, precision, normalise):
            checked += chunk
    return checked


def _next_checked(
    method: Method,
    settings: Iterator[Mapping[str, Any]],
    precision: str,
    normalise: Normaliser,
) -> list[dict[str, Any]]:
    """Normalise and check the next settings of an iterator; [] at its end.

    A trace is slow to start, as slow as building a method: settings share one trace.
    Their number is limited because a trace holds all its values in memory.

    Args:
      method, precision, normalise: as for `_checked_all`.
      settings: those that are left.
    """
    checked = []

    def check() -> None:
        """Normalise the next settings and build the method with each."""
        for hparams in itertools.islice(settings, _AT_ONCE):
            values = normalise(method, hparams, precision)
            try:
                _build(method.build, precision, values)
            except UsageError:
                raise
            except ArgumentError as error:  # named as people name it here
                raise UsageError(f"{method.name}: {error.reason}") from None
            except ValueError as error:
                raise UsageError(f"{method.name}: {error}") from None
            except Exception as error:
                if method.code:  # lrjax's own
                    raise
                fails = f"method '{cut(method.name)}' cannot be built: {raised(error)}"
                raise UsageError(fails) from error
            checked.append(values)

    jax.eval_shape(check)
    return checked


def _build(build: Callable[..., Any], precision: str, values: dict[str, Any]) -> None:
    """Build a method with values, unless that is cached."""
    try:
        hash(tuple(values.values()))
    except TypeError:  # a type that only the method itself knows
        build(100.0, **values)
    else:
        _build_once(build, precision, **values)


@functools.lru_cache(_CACHED, typed=True)
def _build_once(build: Callable[..., Any], precision: str, /, **values: Any) -> None:
    del precision  # part of the cache's key: JAX's float type changes the check
    build(100.0, **values)


def proposed(
    method: Method, hparams: Mapping[str, Any], precision: str
) -> dict[str, Any]:
    """Convert a tuner's proposal as `normal`, without checking domains.

    The study's search space includes a first cycle of length 0, which no run may have;
    such a trial counts as diverged. Before training, the corners of a space are tried,
    since values are traced in training and cannot be checked.

    Args:
      method: the method.
      hparams: a value for every hyperparameter.
      precision: precision of the run.
    """
    dtype = dtype_of(precision)
    return {
        name: int(value)
        if method.domains.get(name, Domain()).whole and is_number(plain(value))
        else used(value, dtype)
        for name, value in hparams.items()
    }


def _normal(method: Method, name: str, value: Any, dtype: Any) -> Any:
    """Convert one hyperparameter as `normal`."""
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
        if name == "policy":  # identified by the content of the file
            return methods_lib.pinned_policy(value)
    elif default is not None and not is_number(plain(default)):
        return value  # a type that only the method itself knows
    elif value is not None or (default is not None and name not in method.required):
        try:
            rounded = _number(value, method.domains.get(name, Domain()), dtype)
        except ValueError as why:
            raise refused(why) from None
        return None if rounded == method.none.get(name) else rounded
    return value


def number(where: str, value: Any, domain: Domain, dtype: Any) -> int | float:
    """Check a number, and round it to the type that a run uses.

    Args:
      where: field and value, for messages.
      value: the number, of any type.
      domain: its valid values.
      dtype: np.float32 or np.float64.

    Raises:
      UsageError: if it is not a number, or not in the domain once rounded.
    """
    try:
        return _number(plain(value), domain, dtype)
    except ValueError as why:
        raise UsageError(f"{where}: {why}") from None


def _number(value: Any, domain: Domain, dtype: Any) -> int | float:
    """Check and round a number as `number`; raise ValueError with the reason."""
    if not is_number(value):
        raise ValueError("must be a number")
    return _number_once(value, domain, dtype)


@functools.lru_cache(_CACHED, typed=True)  # most settings of a grid share most values
def _number_once(value: int | float, domain: Domain, dtype: Any) -> int | float:
    """Check and round as `_number`, once per value."""
    # Domains of whole numbers end where float32 is no longer exact.
    rounded = value if domain.whole else used(value, dtype)
    if rounded in domain and (rounded or not value):
        return int(rounded) if domain.whole else rounded
    if domain.whole or value not in domain:
        raise ValueError(f"must be {domain}")
    kind = f"{dtype.__name__}, in which it is used"
    if not rounded:
        raise ValueError(f"is 0 in {kind}; give 0 if you mean it")
    raise ValueError(f"is {rounded:g} in {kind}; it must be {domain}")
