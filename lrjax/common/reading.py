"""Reading what others wrote: whatever a decoder raises becomes one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lrjax.core import UsageError, printable

_LONGEST = 160  # characters of a reason


@contextlib.contextmanager
def reading(
    where: object, fault: str = "cannot be read", kind: type[UsageError] = UsageError
) -> Iterator[None]:
    """Turns what the code inside raises into one line that says what and where.

    Decoders raise whatever their parts raise, on damaged files more than they document;
    a list of exceptions is never complete. Put as little as possible inside.

    Args:
      where: the file, for the message.
      fault: what is said of it; '' where that is said already.
      kind: of the error.

    Raises:
      UsageError: of that kind; those from the code inside stay as they are.

    Example:
      >>> with reading("mine.npz"):
      ...     arrays = numpy.load("mine.npz")
    """
    try:
        yield
    except UsageError:
        raise
    except BaseException as error:
        # Rust's panics come as a BaseException of a class that cannot be imported.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            parts = filter(None, (str(where), fault, reason(error)))
            raise kind(": ".join(parts)) from error
        raise


def reason(error: BaseException) -> str:
    """An exception in a few words on one line."""
    nested = getattr(error, "reason", None)
    if isinstance(nested, BaseException):  # a URLError around the real one
        error = nested
    said = getattr(error, "strerror", None) or str(error)  # without the path again
    text = printable(" ".join(str(said).split()))
    if not text:
        return type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
