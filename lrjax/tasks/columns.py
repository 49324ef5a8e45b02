"""Columns of a table as numbers, with what the training rows alone tell.

Numbers stay numbers; texts and truth values become a column per category. A missing
number becomes the mean, with a column that says so; a missing text is a category.
Among texts only an empty cell is missing, among numbers also NA and the like.
"""

from __future__ import annotations

import datetime
import re
import warnings
from typing import TYPE_CHECKING

import numpy as np

from lrjax.core import counted, cut, listed, shown
from lrjax.tasks import data
from lrjax.tasks.data import DataError

if TYPE_CHECKING:
    import pandas as pd

_CATEGORIES = 1000  # most of them in a column
_FEW = 20  # categories that any column may have
_ODD = 0.1  # largest share of other texts in a column that is taken for numbers
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_AMOUNT = re.compile(r"[-+$€£ ]*\d[\d., ']*[%$€£ ]*")  # 1,234.50 or $5 or 7%
_ABSENT = {"na", "n/a", "nan", "null", "none", "<na>", "#n/a"}
_DATE = re.compile(
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}"
)


def is_text(column: pd.Series) -> bool:
    """Whether a column holds texts, categories or truth values."""
    import pandas as pd

    return not pd.api.types.is_numeric_dtype(column) or column.dtype.kind == "b"


def is_of_words(column: pd.Series) -> bool:
    """Whether a column holds texts among which 'NA' or 'None' is one like the others.

    Numbers in any spelling, dates and truth values have no such words.
    """
    values = set(column.dropna())
    if not values or not all(isinstance(value, str) for value in values):
        return False
    texts = sorted(values)
    numbers = _are_amounts(texts) or _odd_among_numbers(texts) is not None
    return not numbers and not all(_DATE.fullmatch(text) for text in texts)


def warn_of_classes(labels: pd.Series, label: str, where: str) -> None:
    """Warn of a class whose name others use for missing values.

    Args:
      labels: texts.
      label: name of the column.
      where: the file, for the message.
    """
    named = [text for text in labels.astype(str).unique() if text.lower() in _ABSENT]
    if named:
        warnings.warn(
            f"{where}: {shown(named[0])} in column '{label}' is a class like the "
            "others: leave such cells empty if they are missing",
            stacklevel=3,
        )


def encode(columns: pd.DataFrame, rows: np.ndarray, name: str) -> np.ndarray:
    """Turn columns into numbers; warn of missing values.

    Args:
      columns: numbers and texts.
      rows: numbers of the training rows.
      name: the task's name, for messages.

    Returns:
      float64 [rows, features], finite.

    Raises:
      DataError: for dates, lists, identifiers and infinite numbers.
    """
    pieces, width = [], 0
    for label in columns:
        column = columns[label]
        shorter = cut(str(label))
        check(column, shorter, name, f"&drop={shorter}")
        if is_text(column):
            piece = _categories(column, rows, shorter, name)
        else:
            piece = _numbers(column, rows, shorter, name)
        width += piece.shape[1]
        if len(columns) * width > data.MAX_ELEMENTS:
            raise DataError(
                f"{name}: {len(columns):,} rows x {width:,} columns of categories are "
                f"more than {data.MAX_ELEMENTS:,} numbers"
            )
        pieces.append(piece)
    missing = columns.isna()
    if missing.to_numpy().any():
        affected = [str(label) for label in columns if missing[label].any()]
        warnings.warn(
            f"{name}: {counted(int(missing.any(axis=1).sum()), 'row')} of "
            f"{len(columns):,} with missing values, in "
            f"{listed(affected)}: numbers become the mean, with a column that "
            "says so, and texts a category of their own",
            stacklevel=2,
        )
    return np.concatenate(pieces, axis=1)


def _numbers(column: pd.Series, rows: np.ndarray, label: str, where: str) -> np.ndarray:
    """A column of numbers, and one of 1 where they are missing, if some are."""
    values = column.to_numpy(float, na_value=np.nan)
    if np.isinf(values).any():
        raise DataError(f"{where}: column '{label}' has infinite numbers")
    missing = np.isnan(values)
    known = values[rows][~missing[rows]]
    values = np.where(missing, known.mean() if len(known) else 0, values)[:, None]
    if not missing[rows].any():
        return values
    return np.column_stack([values, missing])


def _categories(
    column: pd.Series, rows: np.ndarray, label: str, where: str
) -> np.ndarray:
    """A column of 0 and 1 per category of the training rows, a missing text too."""
    texts = column.astype(object).where(column.notna(), None)
    texts = [None if text is None else str(text) for text in texts]
    found = {texts[row] for row in rows}
    known = sorted(text for text in found if text is not None)
    odd = _odd_among_numbers(known)
    if len(known) > max(_FEW, len(rows) / 2) or len(known) > _CATEGORIES:
        why = "as identifiers have: leave it out"
        if odd is not None:
            why = f"but {shown(odd)} is not a number: empty such cells, or leave it out"
        elif _are_amounts(known):
            why = f"such as {shown(known[0])}: write numbers as 1234.5, or leave it out"
        raise DataError(
            f"{where}: column '{label}' has {len(known):,} different texts in "
            f"{len(rows):,} rows, {why} (&drop={label})"
        )
    if odd is not None:
        warnings.warn(
            f"{where}: column '{label}' is text, as {shown(odd)} is not a number: "
            "each text is a category: leave such cells empty if numbers are meant",
            stacklevel=2,
        )
    places = {text: place for place, text in enumerate(known)}
    if None in found:
        places[None] = len(known)
    encoded = np.zeros((len(texts), len(places)))
    for row, text in enumerate(texts):
        if text in places:
            encoded[row, places[text]] = 1
    return encoded


def _odd_among_numbers(texts: list[str]) -> str | None:
    """The first of some texts that is not a number, if most others are numbers."""
    odd = [text for text in texts if not _NUMBER.fullmatch(text.strip())]
    return odd[0] if odd and len(odd) <= _ODD * len(texts) else None


def _are_amounts(texts: list[str]) -> bool:
    """Whether some texts are numbers in another spelling than Python's."""
    amounts = all(_AMOUNT.fullmatch(text) for text in texts)
    return amounts and not all(_NUMBER.fullmatch(text.strip()) for text in texts)


def check(column: pd.Series, label: str, where: str, without: str = "") -> None:
    """Refuse dates and whatever is neither number nor text.

    Args:
      column: to check.
      label: its name.
      where: the file or task, for the message.
      without: how to leave the column out, for the message; '' if that is no help.
    """
    import pandas as pd

    kind, fault = column.dtype.kind, ""
    if kind in "mM" or isinstance(column.dtype, pd.PeriodDtype):
        fault = "dates or times"
    elif kind == "c":
        fault = "complex numbers"
    elif not pd.api.types.is_numeric_dtype(column):
        values = column.dropna()
        kinds = {type(value) for value in values}
        if kinds & {datetime.date, datetime.time, datetime.datetime, pd.Timestamp}:
            fault = "dates or times"
        elif not all(issubclass(k, str | bool | np.bool_ | int | float) for k in kinds):
            names = ", ".join(sorted(k.__name__ for k in kinds))
            fault = f"values of type {names}"
        elif len(values) and all(_DATE.fullmatch(str(value)) for value in values):
            fault = "dates or times"
    if fault:
        raise DataError(
            f"{where}: column '{label}' holds {fault}: turn it into numbers or texts"
            f"{f', or leave it out ({without})' if without else ''}"
        )
