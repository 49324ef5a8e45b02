"""The identity of a run: the same setting gets the same `run_id` however it is written.

Numbers are compared as they are used in training: in float32, unless everything is
computed in float64. `0`, `0.0` and `-0.0` are equal, as are `0.1` and
`np.float32(0.1)`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from lrjax.core import NUMERICS_VERSION, Run


def plain(value: Any) -> Any:
    """Convert NumPy's and JAX's numbers, arrays and ranges to Python's own types.

    Arrays, lists and ranges become tuples; other values stay as they are.
    """
    if isinstance(value, str):
        return str(value)  # np.str_ is a str, but its repr differs
    if isinstance(value, bool | int | float | None) and type(value) is not np.float64:
        return value
    # Of its type: a ConfigDict looks for fields that are spelt like what it lacks.
    if hasattr(type(value), "__array__") and hasattr(value, "dtype"):
        array = np.asarray(value)
        if array.dtype.kind not in "biufcUSO":
            import jax.numpy as jnp  # here, as tables are read and shown without JAX

            numeric = jnp.issubdtype(array.dtype, np.number)
            if not numeric or array.dtype.kind == "m":
                return value  # dates, times, records and bytes
            array = array.astype(np.float64)  # bfloat16, int4 and their like
        return plain(
            array.astype(float).tolist() if _is_wide(array) else array.tolist()
        )
    if isinstance(value, list | tuple | range):
        return tuple(plain(item) for item in value)
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def _is_wide(array: np.ndarray) -> bool:
    """Whether an array's floats are wider than Python's, such as np.longdouble."""
    return array.dtype.kind == "f" and array.dtype.itemsize > 8


def is_number(value: Any) -> bool:
    """Whether a plain value is a number; True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def dtype_of(precision: str) -> Any:
    """Return the NumPy type of hyperparameters in a run of this precision."""
    return np.float64 if precision == "float64" else np.float32


def used(value: Any, dtype: Any) -> Any:
    """Round a number to a type, written as the shortest decimal that rounds to it.

    Args:
      value: value of a hyperparameter or an option.
      dtype: np.float32 or np.float64.

    Returns:
      a float for each number (0.1 for np.float32(0.1) in float32): infinite if it is
      too large for the type, 0 if it is subnormal, since processors may flush it to 0;
      anything else as returned by `plain`.

    Example:
      >>> [used(value, np.float32) for value in (np.float32(0.1), 1, 1e-320)]
      [0.1, 1.0, 0.0]
    """
    value = plain(value)
    if not is_number(value):
        return value
    try:
        exact = float(value)
    except OverflowError:  # an int
        return math.inf if value > 0 else -math.inf
    with np.errstate(over="ignore", under="ignore"):
        rounded = dtype(exact)
    if not np.isfinite(rounded):
        return float(rounded)
    if abs(rounded) < np.finfo(dtype).tiny:
        return 0.0
    shortest = float(str(rounded))
    return shortest if dtype(shortest) == rounded else float(rounded)


def run_id(run: Run) -> str:
    """Hash everything that changes a run's results into 16 hexadecimal digits."""
    return digest(run_fields(run) | {"numerics_version": NUMERICS_VERSION})


def run_fields(run: Run) -> dict[str, Any]:
    """Return the fields that identify a run, with numbers as training uses them."""
    dtype = dtype_of(run.precision)
    fields = {
        field.name: plain(getattr(run, field.name)) for field in dataclasses.fields(run)
    }
    for name in ("hparams", "options"):
        pairs = getattr(run, name)
        fields[name] = {key: used(value, dtype) for key, value in pairs}
    # Fields added later are left out at their defaults, so older run_ids stay the same.
    if not run.recalibrated:
        del fields["recalibrated"]
    if not run.options:
        del fields["options"]
    return fields


def tuned_name(tuner: str, seed: int, method: str) -> str:
    """Return the name of a tuned method in the tables, which has the tuning's seed."""
    return f"{tuner}{f'.{seed}' if seed else ''}:{method}"


def digest(value: Any) -> str:
    """Hash a value's canonical JSON into 16 hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def canonical(value: Any) -> str:
    """Write JSON with sorted keys and no spaces; NaN is null, infinity is text."""
    return json.dumps(finite(value), sort_keys=True, separators=(",", ":"))


def finite(value: Any) -> Any:
    """Make a value valid JSON: NaN becomes None, infinity becomes text."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    value = plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        # Infinity is a valid hyperparameter (growth_rate), NaN never is.
        return None if math.isnan(value) else str(value)
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value
