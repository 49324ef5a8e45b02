"""Report errors of decoders in one line when reading files of others."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from lrjax.common import files
from lrjax.core import UsageError, printable

_LONGEST = 160  # characters of an exception's message
_RAGGED = re.compile(r"Expected (\d+) fields in line (\d+), saw (\d+)")


@contextlib.contextmanager
def reading(
    where: object, fault: str = "cannot be read", kind: type[UsageError] = UsageError
) -> Iterator[None]:
    """Convert any exception of the code inside to a UsageError of one line.

    On damaged files decoders raise more exceptions than they document, so a list of
    them is never complete. Put as little code as possible inside.

    Args:
      where: the file, for the message.
      fault: description of the fault, for the message; '' for none.
      kind: class of the error.

    Raises:
      UsageError: of class `kind`; a UsageError of the code inside is passed on.

    Example:
      >>> import io
      >>> import numpy as np
      >>> with reading("mine.npz"):
      ...     arrays = np.load(io.BytesIO(b""))
      Traceback (most recent call last):
      lrjax.messages.UsageError: mine.npz: cannot be read: No data left in file
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
    """Describe an exception in a few words on one line."""
    nested = getattr(error, "reason", None)
    if isinstance(nested, BaseException):  # a URLError wraps the cause
        error = nested
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        where = f"byte {error.start} is 0x{byte:02x}"
        encoding = error.encoding.upper()
        return f"it is not in {encoding} ({where}): save it again in {encoding}"
    if type(error).__name__ == "EmptyDataError":  # of pandas
        return "it is empty"
    if ragged := _RAGGED.search(str(error)):  # of pandas
        columns, line, values = ragged.groups()
        return f"line {line} has {values} values for {columns} columns"
    # Libraries raise OSErrors with a text of their own, too.
    of_system = isinstance(error, OSError) and error.strerror
    message = files.words(error) if of_system else str(error)
    text = printable(" ".join(str(message).split()))
    if not text:
        return type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
