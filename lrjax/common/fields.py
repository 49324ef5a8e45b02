"""Declare the fields of a config, each with default, check and meaning.

A dataclass with attributes made by `field` and `block` declares a part of a config. Its
ConfigDict (`config_of`), its checked values (`checked`) and its documentation
(`documented`) are derived from it.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from ml_collections import config_dict

from lrjax.core import (
    Domain,
    UsageError,
    cut,
    shown,
    unknown,
)
from lrjax.identity import is_number, plain

# check(name with dots, value in the config) -> value to use; raises UsageError with one
# line that begins with the name.
Check = Callable[[str, Any], Any]

POSITIVE, PART = Domain(5e-324), Domain(5e-324, 1.0, closed=True)
_MOST_SEEDS = 10**6
_DEEPEST = 8  # names that are nested; configs have three
_KEY = "config"  # key in a dataclass field's metadata

_T = TypeVar("_T")


class Config(config_dict.ConfigDict):
    """A ConfigDict that converts NumPy's values, and ranges, to Python's own types.

    Keys of a dictionary that becomes a block may have dots, as names of files do.
    """

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, dict):
            value = Config(value, allow_dotted_keys=True)
        super().__setitem__(key, plain(value))


@dataclasses.dataclass(frozen=True)
class Field:
    """A value of a config.

    Attributes:
      default: the value, or a function that makes a block of values whose names are
        known only when a config is made.
      check: checks and converts a value of any type.
      help: the meaning, for people.
      kind: type that flags and config files may set; None for the default's type.
    """

    default: Any
    check: Check
    help: str
    kind: type | None = None

    def value(self) -> Any:
        """Return the default; a block of values is made anew at each call."""
        return self.default() if callable(self.default) else self.default

    def initial(self) -> Any:
        """Return the default for a new ConfigDict."""
        value = self.value()
        if self.kind is None:
            return value
        return config_dict.FieldReference(value, field_type=self.kind)


@dataclasses.dataclass(frozen=True)
class Block:
    """A nested block of a config.

    Attributes:
      declaration: the dataclass that declares its fields.
      help: the meaning, for people.
    """

    declaration: type
    help: str


Declared = Mapping[str, Field | Block]


def field(default: Any, check: Check, help: str, kind: type | None = None) -> Any:
    """Declare a field (see `Field`); the dataclass's default is the checked default."""
    declared = Field(default, check, help, kind)
    return dataclasses.field(
        default_factory=lambda: check("", declared.value()), metadata={_KEY: declared}
    )


def block(declaration: type, help: str) -> Any:
    """Declare a nested block; see `Block`."""
    declared = Block(declaration, help)
    return dataclasses.field(default_factory=declaration, metadata={_KEY: declared})


def declared(declaration: type) -> dict[str, Field | Block]:
    """Return name -> field or block, in the order of a declaration."""
    return {f.name: f.metadata[_KEY] for f in dataclasses.fields(declaration)}


def documented(declaration: type[_T]) -> type[_T]:
    """Add the meaning of each field to a declaration's docstring."""
    lines = [
        textwrap.fill(
            f"{name}: {part.help}", 84, initial_indent="  ", subsequent_indent="    "
        )
        for name, part in declared(declaration).items()
    ]
    declaration.__doc__ = "\n".join([f"{declaration.__doc__}\n\nAttributes:", *lines])
    return declaration


def config_of(fields: Declared) -> Config:
    """Make a ConfigDict of all fields at their defaults, locked to their types."""
    config = Config()
    for name, part in fields.items():
        if isinstance(part, Block):
            config[name] = config_of(declared(part.declaration))
        else:
            config[name] = part.initial()
    return config


def checked(
    declaration: type[_T], config: config_dict.ConfigDict, prefix: str = ""
) -> _T:
    """Check a config's values and return them as the declaration's dataclass.

    Args:
      declaration: dataclass that declares the fields.
      config: ConfigDict with all of its fields.
      prefix: start of the fields' names in errors.

    Raises:
      UsageError: names the first field with an invalid value.
    """
    values = {}
    for name, part in declared(declaration).items():
        path = f"{prefix}{name}"
        if isinstance(part, Block):
            values[name] = checked(part.declaration, config[name], f"{path}.")
        else:
            values[name] = part.check(path, config[name])
    return declaration(**values)


def leaves(
    config: config_dict.ConfigDict, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield the name with dots and the value of every field of a ConfigDict.

    Raises:
      UsageError: if it is nested deeper than any config, or holds itself.
    """
    if prefix.count(".") >= _DEEPEST:
        raise UsageError(f"config.{cut(prefix[:-1])}: nested too deeply")
    for name, value in config.items():
        if isinstance(value, config_dict.ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


# Checks


def words(value: Any) -> tuple[str, ...]:
    """Split text at commas into names, '' into none, or convert a sequence of names."""
    parts = value.split(",") if isinstance(value, str) else map(str, value)
    return tuple(part.strip() for part in parts if part.strip())


def some_names(name: str, value: Any) -> tuple[str, ...]:
    """Check names in a tuple, or in text separated by commas; there may be none."""
    value = plain(value)
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, str) for part in parts):
        raise UsageError(
            f"config.{name}={shown(value)}: give names, separated by commas"
        )
    return words(",".join(parts))


def names(name: str, value: Any) -> tuple[str, ...]:
    """Check that there is at least one name; drop repeated ones."""
    given = some_names(name, value)
    if not given:
        raise UsageError(f"config.{name} is empty: name at least one")
    return tuple(dict.fromkeys(given))


def seeds(name: str, value: Any) -> tuple[int, ...]:
    """Check seeds: returns 0 to n - 1 for a number n, a tuple unchanged."""
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
    """Whether a value is a Python int other than True and False."""
    return isinstance(value, int) and not isinstance(value, bool)


def positive(name: str, value: Any) -> int:
    """Check a whole number of at least 1."""
    value = plain(value)
    if not is_whole(value) or value < 1:
        raise UsageError(
            f"config.{name}={shown(value)}: must be a whole number from 1 up"
        )
    if value >= 2**31:
        raise UsageError(f"config.{name}={shown(value)}: must be below 2**31")
    return value


def flag(name: str, value: Any) -> bool:
    """Check a boolean."""
    value = plain(value)
    if not isinstance(value, bool):
        raise UsageError(f"config.{name}={shown(value)}: must be True or False")
    return value


def text(name: str, value: Any) -> str:
    """Check text."""
    value = plain(value)
    if not isinstance(value, str):
        raise UsageError(f"config.{name}={shown(value)}: must be text")
    return value


def number(domain: Domain, which: str = "") -> Check:
    """Make a check for a number in a domain; `which` describes it in errors."""

    def check(name: str, value: Any) -> float:
        """Return the value as a float; raise UsageError outside of the domain."""
        value = plain(value)
        if not is_number(value):
            raise UsageError(f"config.{name}={shown(value)}: must be a number")
        if value not in domain:
            raise UsageError(f"config.{name}={shown(value)}: must be {which or domain}")
        return math.inf if value > sys.float_info.max else float(value)

    return check


def one_of(valid: Iterable[str]) -> Check:
    """Make a check for one of several valid words."""

    def check(name: str, value: Any) -> str:
        """Return the word; raise UsageError for any other."""
        value = plain(value)
        if value not in valid:
            raise unknown(f"config.{name}", value, valid)
        return value

    return check


def optional(check: Check) -> Check:
    """Make a check that also accepts None."""
    return lambda name, value: None if value is None else check(name, value)
