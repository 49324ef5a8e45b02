"""Files of texts with labels: CSV, TSV, Parquet and JSON lines."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lrjax.core import counted, cut, listed, shown, unknown
from lrjax.tasks import columns as columns_lib
from lrjax.tasks import data, table
from lrjax.tasks.data import DataError

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")
_PACKED = (".gz", ".bz2", ".xz")
# Halves of characters, where JSON was cut within one: no tokenizer takes them.
_HALVES = re.compile("[\ud800-\udfff]")


def read(path: str, text: str, target: str) -> tuple[list[str], np.ndarray]:
    """Read texts and their classes.

    Args:
      path: the file, plain or, except for Parquet, as .gz, .bz2 or .xz.
      text: column of the texts.
      target: column of the labels, texts or whole numbers.

    Returns:
      the texts, and the number of each one's class in the order of the labels.

    Raises:
      DataError: if the file cannot be read, lacks a column, a label is not one, or
        there is one class only.
    """
    suffixes = [s.lower() for s in Path(path).suffixes if s.lower() not in _PACKED]
    ending = suffixes[-1] if suffixes else ""
    if ending not in ENDINGS:
        raise DataError(f"{path}: files of texts are {', '.join(ENDINGS)}")
    frame = _json_lines(path) if ending == ".jsonl" else table.read(path)
    names = [str(name) for name in frame.columns]
    for setting, column in (("text", text), ("target", target)):
        if not column:
            raise DataError(
                f"{path}: which column is the {setting}? Add ?{setting}=COLUMN, one of "
                f"{listed(names, 200)}"
            )
        if column not in names:
            raise DataError(f"{path}: {unknown('column', column, names)}")
    if text == target:
        raise DataError(f"{path}: column '{cut(text)}' is both text and target")
    absent = frame[[text, target]].isna().any(axis=1).to_numpy()
    if absent.any():
        warnings.warn(
            f"{path}: {counted(int(absent.sum()), 'row')} without a text or a label "
            "left out",
            stacklevel=2,
        )
        frame = frame[~absent]
    if not len(frame):
        raise DataError(f"{path}: holds no rows with a text and a label")
    if not columns_lib.is_text(frame[text]):
        raise DataError(f"{path}: column '{cut(text)}' is of numbers, not of texts")
    odd = [each for each in frame[text] if not isinstance(each, str | float | int)]
    if odd:
        raise DataError(f"{path}: column '{cut(text)}' holds {shown(odd[0])}, no text")
    texts = [_HALVES.sub("\ufffd", str(each)) for each in frame[text]]
    return texts, _classes(frame[target], target, path)


def _classes(labels: pd.Series, name: str, path: str) -> np.ndarray:
    """Class numbers of labels [rows].

    Raises:
      DataError: if they are no labels, or all the same.
    """
    column = cut(name)
    columns_lib.check(labels, column, path)
    if columns_lib.is_text(labels):
        columns_lib.warn_of_classes(labels, column, path)
        labels = labels.astype(str)
    else:
        values = labels.to_numpy(float)
        odd = "infinite numbers" if np.isinf(values).any() else ""
        odd = odd or ("fractions" if (values % 1).any() else "")
        if odd:
            raise DataError(
                f"{path}: target '{column}' has {odd}, which are no classes"
            )
    found, classes = np.unique(labels.to_numpy(), return_inverse=True)
    if len(found) < 2:
        raise DataError(f"{path}: column '{column}' holds one class only")
    if 2 * len(found) > len(labels):
        raise DataError(
            f"{path}: column '{column}' has {len(found):,} classes in "
            f"{counted(len(labels), 'row')}"
        )
    return classes


def _json_lines(path: str) -> pd.DataFrame:
    """A table of JSON lines, each an object."""
    import pandas as pd

    rows = []
    for number, line in enumerate(data.read_bytes(path).split(b"\n"), 1):
        if not line.strip():
            continue
        with data.reading(path, f"line {number} is not JSON"):
            row = json.loads(line)
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is not an object of JSON")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return pd.DataFrame(rows)
