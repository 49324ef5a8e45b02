"""The data sets that come with scikit-learn, read without importing it.

Importing scikit-learn takes longer than training on what is read here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from lrjax.common import packed

_MOST_BYTES = 2**26
_FILES = {"iris": "iris.csv", "wine": "wine_data.csv", "digits": "digits.csv.gz"}


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Read 'iris', 'wine' or 'digits'.

    Returns:
      features [rows, columns] and labels [rows], as scikit-learn's `load_*` functions
      with `return_X_y=True`.
    """
    try:
        table = _read(name)
    except (OSError, ValueError):  # another version has them elsewhere
        from sklearn import datasets

        return getattr(datasets, f"load_{name}")(return_X_y=True)
    return np.ascontiguousarray(table[:, :-1]), table[:, -1].astype(int)


def _read(name: str) -> np.ndarray:
    """Read a file of scikit-learn: features and label, below a header if it has one.

    Raises:
      OSError, ValueError: if it is not there, or has another form.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise FileNotFoundError(name)
    path = Path(found.origin).parent / "datasets" / "data" / _FILES[name]
    with packed.open_given(path, _MOST_BYTES) as file:
        lines = file.readlines()
    header = name != "digits"
    return np.loadtxt(lines[header:], delimiter=",", ndmin=2)
