"""What is said to people: errors of one line, values cut short, numbers of things."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 80  # characters of a value in a message
_NEAR = 0.55  # of two names that may be mistaken for each other; 1 is the same


class UsageError(ValueError):
    """What the user asked for cannot be done; one line that says what and where."""


class Interrupted(Exception):  # noqa: N818 -- it is no error, somebody asked for it
    """A signal asked the program to end; all that was trained is kept.

    Attributes:
      signum: the signal.
    """

    def __init__(self, signum: int):
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


def shown(value: object) -> str:
    """A value for a message: at most 80 characters of its `repr`.

    Example:
      >>> shown("a" * 1000)
      "'aaaaaaaa...aaaaaaa'"
    """
    try:
        return cut(repr(value))
    except Exception:  # of a user's own class, or nested without end
        return cut(object.__repr__(value))


def cut(text: str, most: int = _SHOWN) -> str:
    """A text as one line of at most 80 characters: of a longer one start and end."""
    if len(text) > 3 * most:
        text = text[:most] + text[-most:]
    text = printable(" ".join(text.split()))
    if len(text) <= most:
        return text
    end = (most - 3) // 2
    return f"{text[: most - 3 - end]}...{text[-end:]}"


def printable(text: str) -> str:
    """Text in which what would steer a terminal is written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(count: float, one: str, many: str = "", form: str = ",") -> str:
    """A number of things for people: '1 run', '2,000 runs', '3 entries', '0.7 runs'.

    Args:
      count: how many.
      one, many: what one is called, and what several are where no 's' makes it.
      form: of the number, as for `format`.
    """
    number = f"{count:{form}}"
    return f"{number} {one if number == '1' else many or one + 's'}"


def unknown(kind: str, name: object, valid: Iterable[str]) -> UsageError:
    """The error for a name that does not exist, with one that is near if there is one.

    Args:
      kind: what is named, as in 'task'.
      name: that does not exist.
      valid: names that do.
    """
    valid = list(valid)
    asked = str(name) if isinstance(name, str) else ""
    near = nearest(asked, valid)
    hint = f"; did you mean '{near}'?" if near else ""
    if not near and len(", ".join(valid)) <= _SHOWN:
        hint = f": it is one of {', '.join(valid)}" if valid else ""
    said = cut(name) if isinstance(name, str) else shown(name)
    return UsageError(f"unknown {kind} '{said}'{hint}")


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The name among the valid ones that may have been meant; None if none is near."""
    lowered = {each.lower(): each for each in valid}
    short = [each for each in lowered if _initials(each) == name.lower()]
    if short and name.lower() not in lowered:
        return lowered[short[0]]
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=_NEAR)
    if near:
        return lowered[near[0]]
    # A part of it, as where 'cifar10' stands for 'cifar10/wrn16_2'.
    parts = [each for each in lowered if len(name) > 2 and name.lower() in each]
    return lowered[min(parts, key=len)] if parts else None


def _initials(name: str) -> str:
    """What people write for a name of several words: 'lr' for 'learning_rate'."""
    before, dot, last = name.rpartition(".")
    words = last.split("_")
    return before + dot + "".join(word[:1] for word in words) if words[1:] else ""
