"""The data sets that come with scikit-learn, read without importing it.

Importing scikit-learn takes longer than training on what is read here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from lrjax.common import packed

_MOST_BYTES = 2**26
_FILES = {
    "breast_cancer": "breast_cancer.csv",
    "digits": "digits.csv.gz",
    "iris": "iris.csv",
    "wine": "wine_data.csv",
}
_FEATURES, _TARGETS = "diabetes_data_raw.csv.gz", "diabetes_target.csv.gz"


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Read 'breast_cancer', 'diabetes', 'digits', 'iris' or 'wine'.

    Returns:
      features [rows, columns] and labels or targets [rows], as scikit-learn's `load_*`
      functions with `return_X_y=True`; those of diabetes in their own units
      (`scaled=False`).
    """
    options = {"scaled": False} if name == "diabetes" else {}
    try:
        if name == "diabetes":
            return _read(_FEATURES, None), _read(_TARGETS, None)[:, 0]
        table = _read(_FILES[name], ",", header=name != "digits")
    except (OSError, ValueError):  # another version has them elsewhere
        from sklearn import datasets

        return getattr(datasets, f"load_{name}")(return_X_y=True, **options)
    return np.ascontiguousarray(table[:, :-1]), table[:, -1].astype(int)


def _read(name: str, separator: str | None, header: bool = False) -> np.ndarray:
    """Read a file of scikit-learn: a row per line.

    Args:
      name: of the file.
      separator: of numbers; None: blanks.
      header: whether the first line is something else.

    Raises:
      OSError, ValueError: if it is not there, or has another form.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise FileNotFoundError(name)
    path = Path(found.origin).parent / "datasets" / "data" / name
    with packed.open_given(path, _MOST_BYTES) as file:
        lines = file.readlines()
    return np.loadtxt(lines[header:], delimiter=separator, ndmin=2)
