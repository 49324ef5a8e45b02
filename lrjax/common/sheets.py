"""Tables as CSV that spreadsheets show as it is, without evaluating a cell."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable

import pandas as pd

from lrjax.core import printable

# What spreadsheets take for the start of a formula (OWASP, CSV injection).
_FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
    "\n",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def csv(table: pd.DataFrame, float_format: str | None = None) -> bytes:
    """Write a table as CSV in UTF-8, without its index.

    A text that a spreadsheet would evaluate gets a single quote before it; numbers stay
    as they are. Control characters other than tabs and line feeds are escaped, and
    undecodable parts of file names become question marks.

    Args:
      table: the table; its columns' names are text.
      float_format: format of floats, such as '%.6g'; None for all their digits.
    """
    content = io.BytesIO()
    with_texts(table.rename(columns=_inert), _inert).to_csv(
        content,
        index=False,
        float_format=float_format,
        mode="wb",
        encoding="utf-8",
        errors="replace",
    )
    return content.getvalue()


def with_texts(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    """Return a table whose texts are changed; all else, types included, stays."""
    changed = table.copy(deep=False)
    for place, dtype in enumerate(table.dtypes):
        if dtype.kind not in "biufM":
            cells = [
                change(v) if isinstance(v, str) else v for v in table.iloc[:, place]
            ]
            changed.isetitem(place, pd.Series(cells, table.index, dtype=object))
    return changed


def _inert(text: str) -> str:
    """A text that is not evaluated: a single quote before one like a formula."""
    text = _CONTROLS.sub(lambda found: printable(found[0]), text)
    if not text.startswith(_FORMULA):
        return text
    with contextlib.suppress(ValueError):
        float(text)
        return text
    return f"'{text}"
