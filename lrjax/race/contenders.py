"""Who may be trained in a race: methods with their hyperparameters."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from lrjax.common import files
from lrjax.hpo import rate_grid
from lrjax.hpo.prior import Candidate
from lrjax.messages import UsageError, shown, unknown
from lrjax.race.log import decoded

_FILE = Path(__file__).with_name("methods.json")
_LARGEST = 2**20  # bytes of the file
_MOST = 1000  # contenders: what is believed of them is a matrix of this size
_RATE = "learning_rate"

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


@functools.cache
def shipped() -> Mapping[str, Mapping[str, Any]]:
    """lrjax's methods by name: `defaults`; `rates`, the ends of its rates or None."""
    content = files.read_given(_FILE, _LARGEST)
    return json.loads(content, object_hook=decoded)


def of(methods: Methods) -> tuple[Contender, ...]:
    """All contenders that some methods give.

    A method of lrjax whose rate wants tuning enters at its default and at a rate per
    decade, unless rates are given.

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
    if not isinstance(methods, Iterable):
        raise UsageError(f"methods must be names, not {shown(methods)}")
    named = methods if isinstance(methods, Mapping) else dict.fromkeys(methods)
    found: list[Contender] = []
    for name, given in named.items():
        for each in _of(name, given):
            if each not in found:
                found.append(each)
        if len(found) > _MOST:
            raise _too_many(len(found))
    if not found:
        raise UsageError("a race needs methods: name some, or None for all")
    return tuple(found)


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
    base = known["defaults"] if known else {}
    for key in given or {}:
        if known and key not in base:
            raise unknown(f"hyperparameter of {name}", key, base)
    lists = {
        key: _values(name, key, value, base.get(key))
        for key, value in (given or {}).items()
    }
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


def _values(name: str, key: Any, given: Any, default: Any) -> list[Any]:
    """The values of a hyperparameter to try.

    Args:
      name: of the method.
      key: of the hyperparameter.
      given: a value, or several.
      default: of a method of lrjax; None for one's own.
    """
    given = given.tolist() if hasattr(given, "tolist") else given  # arrays
    several = isinstance(given, list | tuple | range)
    values: list[Any] = list(given) if several else [given]
    values = [each.item() if hasattr(each, "item") else each for each in values]
    kinds: Any = float | int if _is_number(default) else str | float | int
    what = "a number" if _is_number(default) else "a number, a text, True, False"
    for value in values:
        sound = value is None or isinstance(value, kinds)
        if _is_number(default):
            sound = sound and not isinstance(value, bool)
        if not sound or value != value:  # NaN
            raise UsageError(
                f"method '{name}': {key} must be {what}, None or a list of these, not "
                f"{shown(value)}"
            )
        if key == _RATE and default is not None and not 0 < (value or 0) < math.inf:
            raise UsageError(
                f"method '{name}': learning_rate must be above 0, not {shown(value)}"
            )
    if not isinstance(key, str) or not values:
        raise UsageError(f"method '{name}': {shown(key)} has no value to try")
    return values


def _is_number(value: Any) -> bool:
    """Whether a value is a number, and no truth value."""
    return isinstance(value, float | int) and not isinstance(value, bool)
