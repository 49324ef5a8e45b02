"""Data in the forms in which users have them, turned into the parts of a task.

Inputs and targets may be arrays, or tuples and dictionaries of arrays. In a task they
are flat: 'inputs' is an array's own name, 'inputs/tokens' that of a dictionary's entry.
So no name of the user's meets 'mask', which lrjax adds to batches.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import console
from lrjax.core import Batch, UsageError, counted, cut, listed, shown, unknown
from lrjax.tasks import batches as batches_lib

SHARE = 0.2  # of the rows for validation, and the same for testing
_TARGETS = ("targets", "target", "labels", "label", "y")
_SEED = 0  # of the split
_AT_ONCE = 1024  # rows of a Hugging Face data set that are read at once
_CHECKED = 2**20  # rows of a large array that are looked at


class Parts(NamedTuple):
    """The parts of a task.

    Attributes:
      train, valid, test: flat name -> array.
      streamed: whether `train` stays on the host.
      drawn: whether the rows of `valid` were drawn from those of `train`.
    """

    train: dict[str, Any]
    valid: dict[str, Any]
    test: dict[str, Any]
    streamed: bool
    drawn: bool


def parts(
    train: Any,
    valid: Any = SHARE,
    test: Any = None,
    targets: str | None = None,
    inputs: str | Sequence[str] | None = None,
    streamed: bool | None = None,
    most: int = batches_lib.MOST,
) -> Parts:
    """Make the parts of a task.

    Args:
      train, valid, test: pairs of inputs and targets, dictionaries, data sets or
        iterators of batches; `valid` and `test` may be shares of the rows of `train`.
      targets: the entry of a dictionary that holds the targets.
      inputs: the entry or entries of a dictionary that the model gets; None: all
        others.
      streamed: whether to keep the training part on the host; None: if it is mapped
        from a file.
      most: largest size in bytes of batches that are collected.

    Raises:
      UsageError: for other forms of data; one line that says what to do.
    """
    read = functools.partial(_part, targets=targets, inputs=inputs, most=most)
    rows = read(train, "train")
    mapped = any(isinstance(array, np.memmap) for array in rows.values())
    valid = SHARE if valid is None else valid
    shares = [_share(valid, "valid"), _share(test, "test")]
    if shares[0] and test is None:
        shares[1] = shares[0]
    on_disk = [batches_lib.is_on_disk(array) for array in rows.values()]
    if any(shares) and mapped and not all(on_disk):
        raise UsageError(
            "train is mapped from a file, which cannot be split without a copy in "
            "memory: give valid=(inputs, targets) and test= as well, such as slices"
        )
    drawn_rows = held(len(next(iter(rows.values()))), shares)
    train, *drawn = (
        batches_lib.split(rows, drawn_rows) if any(shares) else (rows, {}, {})
    )
    found = {"train": train}
    for name, given, part, share in zip(
        ("valid", "test"), (valid, test), drawn, shares, strict=True
    ):
        if share:
            found[name] = part
        elif given is None or _is_number(given):
            found[name] = found["valid"]
        else:
            found[name] = read(given, name)
    streamed = mapped if streamed is None else streamed
    placed = _on_host(train) if streamed else _placed(train)
    valid_part = _placed(found["valid"])
    same = found["test"] is found["valid"]
    return Parts(
        train=placed,
        valid=valid_part,
        test=valid_part if same else _placed(found["test"]),
        streamed=streamed,
        drawn=bool(shares[0]),
    )


def tree(batch: Mapping[str, Any], side: str) -> Any:
    """Put together the inputs or the targets of a batch.

    Args:
      batch: flat name -> array.
      side: 'inputs' or 'targets'.

    Returns:
      an array, or a tuple or dictionary of trees.
    """
    if side in batch:
        return batch[side]
    nested: dict[str, dict[str, Any]] = {}
    for name, array in batch.items():
        head, _, rest = name.partition("/")
        if head == side:
            first, slash, below = rest.partition("/")
            nested.setdefault(first, {})[f"{side}/{below}" if slash else side] = array
    found = {name: tree(each, side) for name, each in nested.items()}
    if all(name.startswith("#") for name in found):
        return tuple(found[f"#{i}"] for i in range(len(found)))
    return found


def _flat(value: Any, name: str, where: str) -> dict[str, Any]:
    """Flatten tuples and dictionaries; lists are arrays."""
    if isinstance(value, Mapping):
        items = [(str(key), each) for key, each in value.items()]
        bad = [key for key, _ in items if not key or "/" in key or key[0] == "#"]
        if bad:
            raise UsageError(
                f"{where}: {name}: {shown(bad[0])} must be a name without / and #"
            )
    elif isinstance(value, tuple):
        items = [(f"#{i}", each) for i, each in enumerate(value)]
    else:
        return {name: value}
    if not items:
        raise UsageError(f"{where}: {name} are empty")
    found = {}
    for key, each in items:
        found |= _flat(each, f"{name}/{key}", where)
    return found


def _part(
    value: Any,
    where: str,
    targets: str | None,
    inputs: str | Sequence[str] | None,
    most: int,
) -> dict[str, Any]:
    """Read one part, as a flat dictionary of arrays."""
    flat = _given(value, where, targets, inputs, most)
    arrays = {name: _array(leaf, f"{where}: {name}") for name, leaf in flat.items()}
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        raise UsageError(
            f"{where}: inputs and targets have different numbers of rows: "
            + ", ".join(f"{name} {count:,}" for name, count in rows.items())
        )
    if not next(iter(rows.values())):
        raise UsageError(f"{where} has no rows")
    return arrays


def _given(
    value: Any,
    where: str,
    targets: str | None,
    inputs: str | Sequence[str] | None,
    most: int,
) -> dict[str, Any]:
    """Flatten a part, whatever its form."""
    split = functools.partial(_sides, where=where, targets=targets, inputs=inputs)
    if hasattr(value, "with_format") and hasattr(value, "column_names"):
        columns = value.column_names
        if isinstance(columns, Mapping):  # a DatasetDict
            raise UsageError(
                f"{where} holds several parts: give one, such as "
                f"data[{next(iter(columns), 'train')!r}]"
            )
        value = value.with_format("numpy").iter(_AT_ONCE)
    if isinstance(value, tuple | Mapping):
        return split(value)
    if hasattr(value, "step") and hasattr(value, "reset"):
        raise UsageError(
            f"{where} is an environment, and a task has a fixed data set: "
            "reinforcement learning does not fit"
        )
    if hasattr(value, "columns") or hasattr(value, "dtype") or isinstance(value, str):
        raise UsageError(
            f"{where} must be (inputs, targets), not {type(value).__name__} alone; "
            "for a model of the inputs themselves give (x, x)"
        )
    if hasattr(value, "__getitem__") and not isinstance(value, Iterable):
        raise UsageError(_ROWS.format(where))
    if not isinstance(value, Iterable):
        raise UsageError(
            f"{where} must be (inputs, targets), a dictionary of arrays, a data set or "
            f"an iterator of batches, not {shown(value)}"
        )
    return _collected(value, where, split, most)


def _sides(
    value: Any,
    where: str,
    targets: str | None,
    inputs: str | Sequence[str] | None,
) -> dict[str, Any]:
    """Tell inputs and targets of a part or a batch apart; flatten both."""
    if not isinstance(value, Mapping):
        if len(value) != 2:
            raise UsageError(
                f"{where} must be (inputs, targets), not {len(value)} things; several "
                "inputs are a tuple, too: ((a, b), targets)"
            )
        return {
            **_flat(value[0], "inputs", where),
            **_flat(value[1], "targets", where),
        }
    names = [str(name) for name in value]
    if targets is None:
        found = [name for name in _TARGETS if name in names]
        if not found:
            raise UsageError(
                f"{where}: which of {', '.join(map(cut, names))} are the targets? "
                "Name them: targets='...'"
            )
        targets = found[0]
    several = inputs is None or (
        isinstance(inputs, Iterable) and not isinstance(inputs, str)
    )
    chosen = inputs if several else [inputs]
    if chosen is None:
        chosen = [name for name in names if name != targets]
    for name in (targets, *chosen):
        if name not in names:
            raise UsageError(f"{where}: {unknown('entry', name, names)}")
    if not chosen:
        raise UsageError(f"{where} has no inputs beside '{targets}'")
    own = {name: value[name] for name in chosen}
    # A single entry is the model's one argument.
    given = own[chosen[0]] if len(chosen) == 1 else own
    return {
        **_flat(given, "inputs", where),
        **_flat(value[targets], "targets", where),
    }


def _collected(
    batches: Iterable[Any], where: str, split: Any, most: int
) -> dict[str, np.ndarray]:
    """Collect the batches of an iterator."""
    if "Random" in type(getattr(batches, "sampler", None)).__name__:
        warnings.warn(
            f"{where}: the loader shuffles, so that each process has other data and "
            "recognises no run of another: make it with shuffle=False, as lrjax "
            "shuffles by itself",
            stacklevel=2,
        )
    as_arrays = getattr(batches, "as_numpy_iterator", None)  # TensorFlow's
    batches = as_arrays() if as_arrays else batches
    bar = console.bar(batches, desc=f"reading {where}", unit=" batches")
    return batches_lib.collect(
        (_batch(batch, where, split) for batch in bar), where, most
    )


def _batch(batch: Any, where: str, split: Any) -> dict[str, np.ndarray]:
    """Flatten a batch."""
    flat = split(tuple(batch) if isinstance(batch, list) else _pair(batch, where))
    arrays = {
        name: np.asarray(_array(leaf, f"{where}: {name}", "a batch"))
        for name, leaf in flat.items()
    }
    if len({len(array) for array in arrays.values()}) > 1:
        raise UsageError(_ROWS.format(where))
    return arrays


_ROWS = (
    "{}: yields single rows, not batches (inputs, targets) with a row per example: "
    "give a DataLoader or .batch(256)"
)


def _pair(batch: Any, where: str) -> Any:
    """Check that a batch is a pair or a dictionary."""
    if isinstance(batch, tuple | Mapping):
        return batch
    raise UsageError(
        f"{where} yields {type(batch).__name__}, and a batch must be (inputs, targets) "
        "or a dictionary"
    )


def _array(leaf: Any, where: str, of: str = "") -> Any:
    """Turn an array of any library into one of NumPy's or JAX's."""
    if isinstance(leaf, np.ma.MaskedArray):
        raise UsageError(
            f"{where} is a masked array: give {where.split()[-1]}.filled(...), or "
            "leave its masked rows out"
        )
    if isinstance(leaf, jax.Array | np.ndarray):
        array = leaf
    elif hasattr(leaf, "toarray"):
        raise UsageError(f"{where} is sparse: give {where.split()[-1]}.toarray()")
    elif hasattr(leaf, "detach"):  # PyTorch
        array = leaf.detach().cpu().numpy()
    elif hasattr(leaf, "to_numpy"):  # pandas, polars
        array = leaf.to_numpy()
    else:
        try:
            array = np.asarray(leaf)
        except ValueError:
            array = np.empty(0, object)
    if not array.ndim:
        if of:
            raise UsageError(_ROWS.format(where.split(":")[0]))
        raise UsageError(
            f"{where} is {shown(leaf)}, not an array with a row per example"
        )
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        raise UsageError(f"{where} holds random keys; the loss gets a key by itself")
    # As of a frame with columns of several types.
    if isinstance(array, np.ndarray) and array.dtype == object:
        array = _of_objects(array, where)
    kinds = (jnp.number, jnp.bool_)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        if array.dtype.kind == "M":
            raise UsageError(f"{where} holds dates: turn them into numbers")
        if array.dtype.kind in "US" or any(isinstance(x, str) for x in np.ravel(array)):
            raise UsageError(
                f"{where} holds text, not numbers: encode it, classes by "
                "np.unique(y, return_inverse=True)[1]; a table in a file needs none: "
                "table:FILE.csv?target=COLUMN"
            )
        raise UsageError(
            f"{where} holds rows of different lengths, or other objects than numbers: "
            "pad rows to one length (lengths= names the entry with their lengths)"
        )
    _check_range(array, where)
    return array


def _of_objects(array: np.ndarray, where: str) -> np.ndarray:
    """Make numbers of an array of objects if all are numbers or truth values.

    Raises:
      UsageError: if the others are missing values, or of a type that no array has.
    """
    flat = np.ravel(array)
    numbers = [isinstance(x, bool | int | float | np.number | np.bool_) for x in flat]
    if all(numbers) and len(flat):
        return np.array(flat.tolist()).reshape(array.shape)
    others = [x for x, number in zip(flat, numbers, strict=True) if not number]
    if kinds := {type(x).__name__ for x in others} - {"NoneType", "NAType"}:
        if not kinds & {"str", "bytes", "list", "tuple", "ndarray"}:
            raise UsageError(f"{where} holds {listed(sorted(kinds))}, not numbers")
    elif others:
        missing = counted(len(others), "missing value")
        raise UsageError(f"{where} has {missing}: fill them, or leave their rows out")
    return array


def _check_range(array: Any, where: str) -> None:
    """Refuse whole numbers that become others in 32 bits."""
    wide = array.dtype in (np.int64, np.uint64, np.uint32)
    if not wide or jnp.result_type(int) == jnp.int64 or not array.size:
        return
    if isinstance(array, np.memmap):
        array = array[:_CHECKED]
    if array.max() >= 2**31 or array.min() < -(2**31):
        raise UsageError(
            f"{where} has whole numbers beyond 32 bits: number them from 0, or set "
            "JAX_ENABLE_X64=1"
        )


def _placed(part: Batch) -> dict[str, jax.Array]:
    """Put a part on the device."""
    return jax.device_put(dict(part))


def _on_host(part: Batch) -> dict[str, np.ndarray]:
    """Keep a part on the host, in the types that it would have on the device."""
    found = {}
    for name, array in part.items():
        kind = jax.dtypes.canonicalize_dtype(array.dtype)
        if isinstance(array, np.memmap):
            if array.dtype != kind:
                raise UsageError(
                    f"train: {name} is {array.dtype} in its file: write it as {kind}"
                )
            found[name] = array
        else:
            found[name] = np.asarray(array).astype(kind)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _share(value: Any, name: str) -> float:
    """The share of the rows of `train` that a part gets; 0 if it is given itself."""
    if not _is_number(value):
        return 0.0
    least = 0 if name == "test" else math.ulp(0.0)
    if not least <= value < 1:
        raise UsageError(
            f"{name} {shown(value)} must be a share of the rows between 0 and 1, or "
            "the data themselves"
        )
    return float(value)


def held(rows: int, shares: Sequence[float]) -> list[np.ndarray]:
    """Draw the rows of training, validation and test, each in ascending order."""
    # NumPy freezes the numbers of RandomState for all versions (NEP 19).
    order = np.random.RandomState(_SEED).permutation(rows)
    valid, test = (max(round(share * rows), share > 0) for share in shares)
    if valid + test >= rows:
        raise UsageError(
            f"train: {counted(rows, 'row')} cannot be split into training, "
            f"{valid:,} for validation and {test:,} for testing"
        )
    cuts = np.split(order, [valid, valid + test])
    return [np.sort(cuts[2]), np.sort(cuts[0]), np.sort(cuts[1])]
