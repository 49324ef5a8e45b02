"""Fields of a config: default, check and meaning of each are declared together.

A dataclass whose attributes are made by `field` and `block` declares a part of a
config. Its ConfigDict (`config_of`), its checked values (`checked`) and its
documentation (`documented`) follow from the declaration.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from ml_collections import config_dict

from lrjax.core import Domain, UsageError, shown, unknown
from lrjax.identity import is_number, plain

# Takes a field's name with dots and the value that a config has; returns the value to
# use. Raises UsageError with one line that begins with the name.
Check = Callable[[str, Any], Any]

POSITIVE, PART = Domain(5e-324), Domain(5e-324, 1.0, closed=True)
_MOST_SEEDS = 10**6
_KEY = "config"  # of a dataclass field's metadata

_T = TypeVar("_T")


class Config(config_dict.ConfigDict):
    """A ConfigDict that takes NumPy's numbers and arrays, and ranges, as Python's."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, plain(value))


@dataclasses.dataclass(frozen=True)
class Field:
    """A value of a config.

    Attributes:
      default: the value, or a function that makes a block of values whose names are
        known only when a config is made.
      check: of a value, at whatever type.
      help: the meaning, in words.
      kind: type that flags and config files may set; of the default if None.
    """

    default: Any
    check: Check
    help: str
    kind: type | None = None

    def initial(self) -> Any:
        """The default as a new config has it."""
        value = self.default() if callable(self.default) else self.default
        if self.kind is None:
            return value
        return config_dict.FieldReference(value, field_type=self.kind)


@dataclasses.dataclass(frozen=True)
class Block:
    """A nested block of a config.

    Attributes:
      declaration: the dataclass that declares its fields.
      help: the meaning, in words.
    """

    declaration: type
    help: str


Declared = Mapping[str, Field | Block]


def field(default: Any, check: Check, help: str, kind: type | None = None) -> Any:
    """Declares a field; see `Field`. Left out in Python, it is its checked default."""
    declared = Field(default, check, help, kind)

    def factory() -> Any:
        return check("", default() if callable(default) else default)

    return dataclasses.field(default_factory=factory, metadata={_KEY: declared})


def block(declaration: type, help: str) -> Any:
    """Declares a nested block; see `Block`."""
    declared = Block(declaration, help)
    return dataclasses.field(default_factory=declaration, metadata={_KEY: declared})


def declared(declaration: type) -> dict[str, Field | Block]:
    """Name -> field or block, in the order of a declaration."""
    return {f.name: f.metadata[_KEY] for f in dataclasses.fields(declaration)}


def documented(declaration: type[_T]) -> type[_T]:
    """Lists the meaning of each field in a declaration's docstring."""
    lines = [
        textwrap.fill(
            f"{name}: {found.help}", 84, initial_indent="  ", subsequent_indent="    "
        )
        for name, found in declared(declaration).items()
    ]
    said = "\n".join([f"{declaration.__doc__}\n\nAttributes:", *lines])
    declaration.__doc__ = said
    return declaration


def config_of(fields: Declared) -> Config:
    """A ConfigDict with every field at its default, locked to the fields' types."""
    config = Config()
    for name, found in fields.items():
        if isinstance(found, Block):
            config[name] = config_of(declared(found.declaration))
        else:
            config[name] = found.initial()
    return config


def checked(
    declaration: type[_T], config: config_dict.ConfigDict, prefix: str = ""
) -> _T:
    """The declaration's dataclass with a config's values.

    Args:
      declaration: of all fields that are looked at.
      config: has them all.
      prefix: of the fields' names in errors.

    Raises:
      UsageError: if a value is of no use; says which.
    """
    values = {}
    for name, found in declared(declaration).items():
        path = f"{prefix}{name}"
        if isinstance(found, Block):
            values[name] = checked(found.declaration, config[name], f"{path}.")
        else:
            values[name] = found.check(path, config[name])
    return declaration(**values)


def leaves(
    config: config_dict.ConfigDict, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Name with dots and value of every field of a ConfigDict."""
    for name, value in config.items():
        if isinstance(value, config_dict.ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


# Checks


def words(value: Any) -> tuple[str, ...]:
    """Names from text with commas between, '' for none; or from a tuple of them."""
    parts = value.split(",") if isinstance(value, str) else map(str, value)
    return tuple(part.strip() for part in parts if part.strip())


def some_names(name: str, value: Any) -> tuple[str, ...]:
    """Checks for names in a tuple or in text with commas; there may be none."""
    value = plain(value)
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, str) for part in parts):
        raise UsageError(
            f"config.{name}={shown(value)}: give names with commas between"
        )
    return words(",".join(parts))


def names(name: str, value: Any) -> tuple[str, ...]:
    """Checks for at least one name; each comes once in what is returned."""
    given = some_names(name, value)
    if not given:
        raise UsageError(f"config.{name} is empty: name at least one")
    return tuple(dict.fromkeys(given))


def seeds(name: str, value: Any) -> tuple[int, ...]:
    """Checks for seeds: 0 to n - 1 for a number n, else the tuple itself."""
    value = plain(value)
    if is_whole(value):
        if value < 1:
            raise UsageError(
                f"config.{name}={shown(value)}: at least one seed is needed"
            )
        if value > _MOST_SEEDS:
            raise UsageError(
                f"config.{name}={shown(value)}: more than {_MOST_SEEDS} seeds"
            )
        return tuple(range(value))
    if not isinstance(value, tuple) or not all(is_whole(v) for v in value):
        raise UsageError(
            f"config.{name}={shown(value)}: give a number or a tuple of them"
        )
    if not value:
        raise UsageError(f"config.{name} is empty: at least one seed is needed")
    for seed in value:
        if not 0 <= seed < 2**32:
            raise UsageError(
                f"config.{name}: {shown(seed)} is not between 0 and 2**32 - 1"
            )
    if len(set(value)) < len(value):
        raise UsageError(f"config.{name}={shown(value)}: a seed comes twice")
    return value


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of Python's."""
    return isinstance(value, int) and not isinstance(value, bool)


def positive(name: str, value: Any) -> int:
    """Checks for a whole number from 1 up."""
    value = plain(value)
    if not is_whole(value) or not 1 <= value < 2**31:
        raise UsageError(
            f"config.{name}={shown(value)}: must be a whole number from 1 up"
        )
    return value


def flag(name: str, value: Any) -> bool:
    """Checks for True or False."""
    value = plain(value)
    if not isinstance(value, bool):
        raise UsageError(f"config.{name}={shown(value)}: must be True or False")
    return value


def text(name: str, value: Any) -> str:
    """Checks for text."""
    value = plain(value)
    if not isinstance(value, str):
        raise UsageError(f"config.{name}={shown(value)}: must be text")
    return value


def number(domain: Domain, which: str = "") -> Check:
    """A check for a number of a domain; `which` says it in words."""

    def check(name: str, value: Any) -> float:
        value = plain(value)
        if not is_number(value):
            raise UsageError(f"config.{name}={shown(value)}: must be a number")
        if value not in domain:
            raise UsageError(f"config.{name}={shown(value)}: must be {which or domain}")
        return math.inf if value > sys.float_info.max else float(value)

    return check


def one_of(valid: Iterable[str]) -> Check:
    """A check for a word among the valid ones."""

    def check(name: str, value: Any) -> str:
        value = plain(value)
        if value not in valid:
            raise unknown(f"config.{name}", value, valid)
        return value

    return check


def optional(check: Check) -> Check:
    """A check that also takes None."""
    return lambda name, value: None if value is None else check(name, value)
