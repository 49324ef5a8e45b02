"""Tasks by name: data on the device plus the pure functions that train on it."""

from __future__ import annotations

import functools
from collections.abc import Callable

from lrjax.core import Task, Text, unknown
from lrjax.tasks import images, libsvm, synthetic, text
from lrjax.tasks.data import DataError, fingerprint_arrays

__all__ = ["TASKS", "DataError", "fingerprint", "make_task"]

# name -> make(protocol, data_dir, batch_size, precision)
TASKS: dict[str, Callable[..., Task]] = {
    **{f"libsvm/{name}": functools.partial(libsvm.make, name) for name in libsvm.SETS},
    "digits/logistic": libsvm.make_digits,
    **images.FACTORIES,
    **text.FACTORIES,
}

_SVMLIGHT, _SYNTHETIC = "svmlight:", "synthetic/"


def make_task(
    name: str,
    protocol: str = "sound",
    data_dir: str | None = None,
    batch_size: int | None = None,
    precision: str = "float32",
    source: Text | None = None,
) -> Task:
    """Makes a task.

    Args:
      name: a key of `TASKS`, 'svmlight:PATH' for a file of one's own, or
        'synthetic/classification-7' (or regression, and any number).
      protocol: 'sound' or 'study'.
      data_dir: where data files lie, before the cache and a download;
        $LRJAX_DATA_DIR if None.
      batch_size: rows of a batch; the protocol's if None.
      precision: 'float32', 'float64' (needs JAX's x64 mode) or 'bfloat16' (compute
        only).
      source: what language tasks read.

    Raises:
      UsageError: if there is no such task or option, or its data cannot be had.
    """
    libsvm.check_options(protocol, batch_size, precision)
    if name.startswith(_SVMLIGHT):
        path = name.removeprefix(_SVMLIGHT)
        return libsvm.make_file(path, protocol, batch_size, precision)
    if name.startswith(_SYNTHETIC):
        if precision != "float32":
            raise DataError(f"{name}: synthetic tasks are in float32 only")
        return synthetic.make(name, batch_size)
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    if name in text.FACTORIES:
        return text.make(name, protocol, data_dir, batch_size, precision, source)
    return TASKS[name](protocol, data_dir, batch_size, precision)


def fingerprint(task: Task) -> str:
    """16 hexadecimal digits that follow from the three parts' numbers and shapes.

    Copies the data to the host and hashes it: call it once per task.
    """
    parts = {"train": task.train, "valid": task.valid, "test": task.test}
    arrays = {
        f"{part}/{name}": array
        for part, batch in parts.items()
        for name, array in batch.items()
    }
    return fingerprint_arrays(arrays)[:16]
