"""A method's hyperparameters as a run will use them: checked, and in one spelling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from lrjax import methods as methods_lib
from lrjax.core import Domain, Method, UsageError, shown, unknown
from lrjax.identity import dtype_of, is_number, plain, used
from lrjax.optim import schedules


def normal(
    method: Method, hparams: Mapping[str, Any], precision: str
) -> dict[str, Any]:
    """Values of all hyperparameters as they are used; None where none was given.

    Args:
      method: whose.
      hparams: a value for every hyperparameter, in any of Python's or NumPy's types.
      precision: of the run; numbers are used in float64 for 'float64', else in float32.

    Returns:
      whole numbers as int, others as float, each in one spelling whatever was given.

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
    values = normal(method, hparams, precision)
    with jax.enable_x64(precision == "float64"):
        try:
            jax.eval_shape(lambda: [method.build(100.0, **values), None][1])
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"{method.name}: {error}") from None
    return values


def proposed(
    method: Method, hparams: Mapping[str, Any], precision: str
) -> dict[str, Any]:
    """As `normal`, for what a tuner proposes: its space says what it may be.

    The study's has a first cycle of length 0, for one, with which a run diverges.
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
    where = f"{method.name}.{name}={shown(value)}"
    if name == "schedule":
        if not isinstance(value, str) or value not in schedules.SCHEDULES:
            raise unknown("schedule", value, schedules.SCHEDULES)
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise UsageError(f"{where}: must be True or False")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise UsageError(f"{where}: must be a name")
        if name == "policy":  # known by what is in the file
            return methods_lib.pinned_policy(value)
    elif default is not None and not is_number(plain(default)):
        return value  # of a kind that only the method itself knows
    elif value is not None or (default is not None and name not in method.required):
        return number(where, value, method.domains.get(name, Domain()), dtype)
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
    value = plain(value)
    if not is_number(value):
        raise UsageError(f"{where}: must be a number")
    # Whole numbers are exact: their domains end where a type's counting does.
    found = value if domain.whole else used(value, dtype)
    if found in domain and (found or not value):
        return int(found) if domain.whole else found
    if domain.whole or value not in domain:
        raise UsageError(f"{where}: must be {domain}")
    kind = f"{dtype.__name__}, in which it is used"
    if not found:
        raise UsageError(f"{where}: is 0 in {kind}; give 0 if you mean it")
    raise UsageError(f"{where}: is {found:g} in {kind}; it must be {domain}")
