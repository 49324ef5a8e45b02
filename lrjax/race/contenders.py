"""Contenders of a race: methods with their hyperparameters."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import json
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from lrjax.common import files
from lrjax.domains import Domain
from lrjax.hpo import rate_grid
from lrjax.hpo.prior import Candidate
from lrjax.messages import UsageError, cut, shown, unknown
from lrjax.race.log import decoded

_FILE = Path(__file__).with_name("methods.json")
_LARGEST = 2**20  # bytes of the file
_MOST = 1000  # contenders: what is believed of them is a matrix of this size
_RATE = "learning_rate"
_GREATEST = sys.float_info.max  # whole numbers of Python have no end

Methods: TypeAlias = str | Iterable[str] | Mapping[str, Mapping[str, Any] | None] | None
"""Names; or names with hyperparameters, each a value or a list of values to try."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """A method with a value for each of its hyperparameters.

    Attributes:
      method: its name.
      hyperparameters: name -> number, text, truth value or None.
    """

    method: str
    hyperparameters: Mapping[str, Any]

    @property
    def own(self) -> bool:
        """Whether lrjax does not know the method."""
        return self.method not in shipped()

    @property
    def rate(self) -> float:
        """Its learning rate; NaN if the method needs none."""
        known = shipped().get(self.method)
        rate = self.hyperparameters.get(_RATE)
        if not isinstance(rate, float | int) or (known and not known["rates"]):
            return math.nan
        return float(rate)

    @property
    def label(self) -> str:
        """Its name in messages: 'adam (learning_rate=0.01)'."""
        values = {} if math.isnan(self.rate) else {_RATE: self.rate}
        if self.own:
            values = self.hyperparameters
        shown = (
            f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}"
            for k, v in values.items()
        )
        return f"{self.method} ({', '.join(shown)})" if values else self.method

    def at(self, rate: float) -> Contender:
        """The same with another learning rate."""
        return Contender(self.method, {**self.hyperparameters, _RATE: rate})

    @property
    def candidate(self) -> Candidate:
        """The contender as a prior knows it."""
        usual = {} if self.own else shipped()[self.method]["defaults"]
        rated = not math.isnan(self.rate)
        changed = {
            name: value
            for name, value in self.hyperparameters.items()
            if not (rated and name == _RATE) and usual.get(name, usual) != value
        }
        variant = repr(sorted(changed.items())) if changed else ""
        name = f"your {self.method}" if self.own else self.method
        return Candidate(name, self.rate, not self.own and not changed, variant)


def shipped() -> Mapping[str, Mapping[str, Any]]:
    """lrjax's methods by name, as `benchmarks/race_methods.py` describes them."""
    return _file()["methods"]


@functools.cache
def _file() -> Mapping[str, Any]:
    """The content of the file of methods."""
    return json.loads(files.read_given(_FILE, _LARGEST), object_hook=decoded)


def of(methods: Methods) -> tuple[Contender, ...]:
    """All contenders that some methods give.

    A method of lrjax whose rate wants tuning enters at its default and at a rate per
    decade, unless rates are given. In which order methods are named does not matter;
    values are tried in the order given.

    Args:
      methods: names of `lrjax`'s methods, None for all; or a mapping from names to
        changed hyperparameters (None for none), where a list of values gives a
        contender for each. Names that lrjax does not know are the user's own methods
        if they come with hyperparameters, which may be `{}`.

    Raises:
      UsageError: if a name or a hyperparameter is unknown, or there are none or too
        many.

    Example:
      >>> [each.label for each in of({"prodigy": None, "mine": {"lr": [1, 2]}})]
      ['prodigy', 'mine (lr=1)', 'mine (lr=2)']
    """
    if methods is None:
        methods = tuple(shipped())
    if isinstance(methods, str):
        methods = (methods,)
    if isinstance(methods, bytes) or not isinstance(methods, Iterable):
        raise UsageError(f"methods must be names, not {shown(methods)}")
    named = (
        methods.items()
        if isinstance(methods, Mapping)
        else ((m, None) for m in methods)
    )
    found: list[Contender] = []
    for name, given in sorted(named, key=lambda pair: _place(str(pair[0]))):
        for each in _of(name, given):
            if each not in found:
                found.append(each)
        if len(found) > _MOST:
            raise _too_many(len(found))
    if not found:
        raise UsageError("a race needs methods: name some, or None for all")
    return tuple(found)


def at_rates(names: Iterable[str], rates: Iterable[str]) -> Methods:
    """Some methods, those whose rate wants tuning at some rates.

    Args:
      names: of methods.
      rates: numbers as text.

    Raises:
      UsageError: if `rates` is empty, one of them is not a number, or none of the
        methods has a rate to tune.

    Example:
      >>> at_rates(["adam", "prodigy"], ["0.1", "1e-2"])
      {'adam': {'learning_rate': [0.1, 0.01]}, 'prodigy': None}
    """
    values = []
    for text in rates:
        try:
            values.append(float(text))
        except ValueError:
            raise UsageError(f"--rates: {shown(text)} is not a number") from None
    if not values:
        raise UsageError("--rates is empty: give numbers, or leave it out")
    tuned = {name for name, known in shipped().items() if known["rates"]}
    names = tuple(names)
    if all(name in shipped() and name not in tuned for name in names):
        raise UsageError(
            f"--rates: no rate of {cut(', '.join(names))} wants tuning: leave it out"
        )
    return {name: {_RATE: values} if name in tuned else None for name in names}


def _place(name: str) -> tuple[int, str]:
    """Sort key of methods, so that no answer depends on the order of names.

    lrjax's own are in the order of its file; a user's follow by name.
    """
    names = list(shipped())
    return names.index(name) if name in names else len(names), name


def _too_many(count: int) -> UsageError:
    """The error for a race with too many contenders."""
    return UsageError(
        f"a race of {count:,} contenders is too large: give fewer methods or values, "
        f"for {_MOST:,} contenders at most"
    )


def _of(name: Any, given: Mapping[str, Any] | None) -> Iterator[Contender]:
    """The contenders of one method."""
    known = shipped().get(name) if isinstance(name, str) else None
    if known is None and (given is None or not isinstance(name, str)):
        error = unknown("method", name, shipped())
        raise UsageError(
            f"{error}; in Python one of your own comes with its hyperparameters: "
            "{'mine': {'learning_rate': [0.1, 0.01]}}"
        )
    if given is not None and not isinstance(given, Mapping):
        raise UsageError(
            f"method '{name}': hyperparameters are a mapping such as "
            f"{{'learning_rate': 0.1}}, not {shown(given)}"
        )
    if not known and (near := _meant(name)):
        warnings.warn(
            f"lrjax has no method '{cut(name)}', so it counts as one of your own, of "
            f"which nothing is known; for lrjax's write '{near}'",
            stacklevel=2,
        )
    base = known["defaults"] if known else {}
    for key in given or {}:
        if known and key not in base:
            raise unknown(f"hyperparameter of {name}", key, base)
    lists = {key: _values(name, key, value) for key, value in (given or {}).items()}
    for key, values in lists.items() if known else ():
        for value in values:
            _check(name, key, value)
    count = math.prod(map(len, lists.values()))
    if count > _MOST:
        raise _too_many(count)
    for values in itertools.product(*lists.values()):
        one = Contender(name, {**base, **dict(zip(lists, values, strict=True))})
        if known and known["rates"] and _RATE not in lists:
            for rate in rate_grid.rates(base[_RATE], *known["rates"]):
                yield one.at(rate)
        else:
            yield one


def _meant(name: str) -> str:
    """The method of lrjax that a name of one's own nearly has; '' if there is none."""
    lowered = name.lower()
    begun = [each for each in shipped() if each.startswith((lowered, f"{lowered}_"))]
    near = difflib.get_close_matches(lowered, shipped(), n=1, cutoff=0.92)
    return next(iter([*begun, *near]), "") if len(lowered) > 2 else ""


def _values(name: str, key: Any, given: Any) -> list[Any]:
    """The values of a hyperparameter to try.

    Args:
      name: of the method.
      key: of the hyperparameter.
      given: a value, or several.
    """
    given = given.tolist() if hasattr(given, "tolist") else given  # arrays
    several = isinstance(given, list | tuple | range)
    values: list[Any] = list(given) if several else [given]
    values = [each.item() if hasattr(each, "item") else each for each in values]
    for value in values:
        sound = value is None or isinstance(value, str | float | int)
        if not sound or value != value:  # NaN
            raise UsageError(
                f"method '{name}': {key} must be a number, a text, True, False, None "
                f"or a list of these, not {shown(value)}"
            )
        if isinstance(value, int) and abs(value) > _GREATEST:
            raise UsageError(f"method '{name}': {key} is too large: {shown(value)}")
    if not isinstance(key, str) or not values:
        raise UsageError(f"method '{name}': {shown(key)} has no value to try")
    return values


def _check(name: str, key: str, value: Any) -> None:
    """Refuse a value that a hyperparameter of a method of lrjax cannot have.

    Args:
      name: of the method.
      key: of the hyperparameter.
      value: a number, a text, a truth value or None.
    """
    known = shipped()[name]
    default, valid = known["defaults"][key], known["valid"].get(key, {})
    where = f"method '{name}': {key}"
    if key == "schedule":
        if value not in _file()["schedules"]:
            raise unknown(f"schedule of {name}", value, _file()["schedules"])
    elif isinstance(default, bool | str):
        if type(value) is not type(default):
            what = "True or False" if isinstance(default, bool) else "a name"
            raise UsageError(f"{where} must be {what}, not {shown(value)}")
    elif value is not None or default is not None:
        if not _is_number(value):
            raise UsageError(
                f"{where} must be a number or a list of numbers, not {shown(value)}"
            )
        if key == _RATE and not 0 < value < math.inf:
            raise UsageError(f"{where} must be above 0, not {shown(value)}")
        if value not in Domain(**valid):
            raise UsageError(f"{where} must be {Domain(**valid)}, not {shown(value)}")


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a number, and no truth value."""
    return isinstance(value, float | int) and not isinstance(value, bool)
