"""Errors of one line, and the formatting of values, counts and hints in messages."""

from __future__ import annotations

import difflib
import os
import signal
import sysconfig
import traceback
from collections.abc import Iterable

# Signals that ask to stop: of Ctrl-C, of a batch system, of a terminal that closes.
STOPPING = (signal.SIGINT, signal.SIGTERM)
if hasattr(signal, "SIGHUP"):  # not on Windows
    STOPPING += (signal.SIGHUP,)

# Folders of code that users have not written: Python's, installed packages', lrjax's.
_OTHERS = (
    *(sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")),
    os.path.dirname(__file__),
)
_SHOWN = 80  # characters of a value in a message
_NEAR = 0.55  # least similarity of a name that is suggested; 1 is equality


class UsageError(ValueError):
    """A mistake of the user's; the message is one line that says what and where.

    Characters of names that would break the line or control a terminal are escaped.

    Example:
      >>> import lrjax
      >>> try:
      ...     lrjax.find_rate("libsvm/iris", "adm")
      ... except lrjax.UsageError as error:
      ...     print(error)
      unknown method 'adm'; did you mean 'adam'?
    """

    def __init__(self, message: object = ""):
        super().__init__(printable(str(message)))


class Interrupted(Exception):  # noqa: N818 -- requested, so not an error
    """A signal asked the program to end; results so far are kept.

    Attributes:
      signum: number of the signal.
    """

    def __init__(self, signum: int):
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


def encodable(text: str) -> str:
    r"""Write what UTF-8 cannot encode as escapes, as `a\udcff` for a byte of a path.

    Frames need it: pandas hashes such strings by memory that it has already freed, so
    that equal ones may differ.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def shown(value: object) -> str:
    """Format a value for a message: at most 80 characters of its `repr`.

    Example:
      >>> len(shown("a" * 1000))
      80
    """
    try:
        return cut(repr(value))
    except Exception:  # from a user's class, or infinite nesting
        return cut(object.__repr__(value))


def cut(text: str, most: int = _SHOWN) -> str:
    """Shorten a text to one line of `most` characters; keep its start and end."""
    if len(text) > 3 * most:
        text = text[:most] + text[-most:]
    text = printable(" ".join(text.split()))
    if len(text) <= most:
        return text
    end = (most - 3) // 2
    return f"{text[: most - 3 - end]}...{text[-end:]}"


def listed(names: Iterable[str], most: int = _SHOWN) -> str:
    """Write names in a row, at most `most` characters; one with a comma in quotes.

    Example:
      >>> listed(["city", "heating, kind"])
      "city, 'heating, kind'"
    """
    quoted = (repr(name) if "," in name else name for name in names)
    return cut(", ".join(quoted), most)


def raised(error: BaseException, most: int = 160) -> str:
    """Say in one line what a user's code raised, and where if that is known.

    Example:
      >>> raised(KeyError("size"))
      "KeyError: 'size'"

    Args:
      error: what was raised.
      most: characters of its own message.
    """
    said = cut(str(error), most)
    said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    places = [
        (os.path.basename(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith((*_OTHERS, "<"))
    ]
    return f"{said} ({places[-1][0]}, line {places[-1][1]})" if places else said


def printable(text: str) -> str:
    """Escape the characters of a text that could control a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(count: float, one: str, many: str = "", form: str = ",") -> str:
    """Format a count with its noun: '1 run', '2,000 runs', '3 entries', '0.7 runs'.

    Args:
      count: the number.
      one: the noun in the singular.
      many: the noun in the plural; '' for `one` with an 's'.
      form: format of the number, as for `format`.
    """
    number = f"{count:{form}}"
    return f"{number} {one if number == '1' else many or one + 's'}"


def unknown(kind: str, name: object, valid: Iterable[str]) -> UsageError:
    """Make the error for an unknown name, with the nearest valid name if any is near.

    Args:
      kind: kind of the named thing, such as 'task'.
      name: the unknown name.
      valid: the valid names.
    """
    valid = list(valid)
    near = nearest(str(name) if isinstance(name, str) else "", valid)
    hint = f"; did you mean '{near}'?" if near else ""
    if not near and len(", ".join(valid)) <= _SHOWN:
        hint = f": it is one of {listed(valid, 2 * _SHOWN)}" if valid else ""
    quoted = cut(name) if isinstance(name, str) else shown(name)
    return UsageError(f"unknown {kind} '{quoted}'{hint}")


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Find the valid name that a misspelt name may mean; None if none is near."""
    lowered = {candidate.lower(): candidate for candidate in valid}
    given = name.lower()
    if given in lowered:
        return lowered[given]
    # Its last part: 'iris' for 'libsvm/iris' and not 'iris/mlp'; by its initials, too.
    for known in (str, _initials):
        ends = [lower for lower in lowered if _ends(known(lower), given)]
        if ends:
            return lowered[ends[0]]
    # Its first words: 'adamw' for 'adamw_cosine', which is no misspelt 'adam'.
    begun = [lower for lower in lowered if lower.startswith(f"{given}_")]
    if begun:
        return lowered[min(begun, key=len)]
    near = difflib.get_close_matches(given, lowered, n=1, cutoff=_NEAR)
    if near:
        return lowered[near[0]]
    # A part of the name: 'cifar10' for 'cifar10/wrn16_2'.
    longer = [lower for lower in lowered if len(given) > 2 and given in lower]
    return lowered[min(longer, key=len)] if longer else None


def _ends(name: str, last: str) -> bool:
    """Whether a name is another one, or ends with it after a slash or a dot."""
    return name == last or name.endswith((f"/{last}", f".{last}"))


def _initials(name: str) -> str:
    """Abbreviate the last part of a name to its initials: 'lr' for 'learning_rate'."""
    before, dot, last = name.rpartition(".")
    words = last.split("_")
    return before + dot + "".join(word[:1] for word in words) if words[1:] else ""
