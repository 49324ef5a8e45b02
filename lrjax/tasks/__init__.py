"""Tasks by name: data on the device plus the pure functions that train on it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import numerics
from lrjax.core import Task, Text, UsageError, counted, cut, nearest, unknown
from lrjax.tasks import images, libsvm, synthetic, text
from lrjax.tasks.data import DataError, fingerprint_arrays

__all__ = [
    "TASKS",
    "DataError",
    "fingerprint",
    "make_task",
    "precision_of",
    "trains_network",
    "with_model",
]

# name -> make(protocol, data_dir, batch_size, precision); those that have them also
# take `remat` and `label_smoothing`.
TASKS: dict[str, Callable[..., Task]] = {
    **{f"libsvm/{name}": functools.partial(libsvm.make, name) for name in libsvm.SETS},
    "digits/logistic": libsvm.make_digits,
    **images.FACTORIES,
    **text.FACTORIES,
}

# Ends of files' names that people have tables in.
_TABLES = (".csv", ".tsv", ".parquet", ".arff", ".json", ".xlsx", ".npz", ".npy")
_SVMLIGHT, _SYNTHETIC = "svmlight:", "synthetic/"


def make_task(
    name: str,
    protocol: str = "sound",
    data_dir: str | None = None,
    batch_size: int | None = None,
    precision: str = "float32",
    source: Text | None = None,
    *,
    micro_batches: int = 1,
    remat: bool = False,
    label_smoothing: float = 0.0,
    stream: bool | None = None,
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
      micro_batches: equal parts of a batch, whose gradients are added up.
      remat: whether the model's blocks are computed again for the gradient instead of
        kept.
      label_smoothing: share of each label that is spread over all classes when the
        training loss is computed.
      stream: whether the training part stays on the host, from where batches are sent
        to the device; False: never; None: where it would take more than half of what
        is free there.

    Raises:
      UsageError: if there is no such task or option, or its data cannot be had.
    """
    libsvm.check_options(protocol, batch_size, precision)
    if name.startswith(_SVMLIGHT):
        path = name.removeprefix(_SVMLIGHT)
        make = functools.partial(_make_file, path)
    elif name.startswith(_SYNTHETIC):
        make = functools.partial(_make_synthetic, name)
    elif name in TASKS:
        make = TASKS[name]
    else:
        raise _unknown(name)
    if name in text.FACTORIES:
        make = functools.partial(make, text=source)
    asked = {"remat": remat, "label_smoothing": label_smoothing, "stream": stream}
    known = inspect.signature(make).parameters
    for option, value in asked.items():
        # What a task does not have it does without, so that may be asked for.
        if value and option not in known:
            raise UsageError(f"{option}={value}: '{name}' has no such option")
    asked = {option: value for option, value in asked.items() if option in known}
    task = make(protocol, data_dir, batch_size, precision, **asked)
    if micro_batches < 1 or task.batch_size % micro_batches:
        raise UsageError(
            f"micro_batches={micro_batches}: batches of "
            f"{counted(task.batch_size, 'row')} of "
            f"'{name}' cannot be cut in {micro_batches} equal parts"
        )
    changing = {"label_smoothing": label_smoothing, "micro_batches": micro_batches}
    options = {k: v for k, v in changing.items() if v not in (0, 1)}
    return dataclasses.replace(
        task, micro_batches=micro_batches, options=tuple(options.items())
    )


def _unknown(name: str) -> UsageError:
    """The error for a task that does not exist, which may be a file."""
    suffix = Path(name).suffix.lower()
    a_path = os.path.exists(name) or name.startswith((".", "/", "~"))
    if not a_path and (not suffix or nearest(name, TASKS)):
        return unknown("task", name, TASKS)
    asked = f"unknown task '{cut(name)}'"
    if suffix in _TABLES:
        return UsageError(
            f"{asked}: {suffix} files are not read; write it in svmlight's format "
            "(LABEL INDEX:VALUE ..., sklearn.datasets.dump_svmlight_file) and give "
            "svmlight:PATH, or make a lrjax.core.Task of its arrays"
        )
    return UsageError(
        f"{asked}: for a file of your own in svmlight's format give "
        f"svmlight:{cut(name)}"
    )


def precision_of(name: str, asked: str) -> str:
    """In which precision a task is trained.

    Args:
      name: of the task.
      asked: 'auto' is bfloat16 for networks on TPUs, whose units are made for it, and
        else float32; anything but 'auto' stays as it is.
    """
    if asked != "auto":
        return asked
    on_tpu = jax.default_backend() == "tpu"
    return "bfloat16" if trains_network(name) and on_tpu else "float32"


def trains_network(name: str) -> bool:
    """Whether a task is one of those here that train a network on images or text.

    For what must be known before there is a task, whose loss would tell more
    (`lrjax.strategy`); of files, made-up tasks and one's own nothing is known by name.
    """
    return name in images.FACTORIES or name in text.FACTORIES


def _make_file(
    path: str,
    protocol: str,
    data_dir: str | None,
    batch_size: int | None,
    precision: str,
) -> Task:
    del data_dir
    return libsvm.make_file(path, protocol, batch_size, precision)


def _make_synthetic(
    name: str,
    protocol: str,
    data_dir: str | None,
    batch_size: int | None,
    precision: str,
) -> Task:
    del protocol, data_dir
    if precision != "float32":
        raise DataError(f"{name}: synthetic tasks are in float32 only")
    return synthetic.make(name, batch_size)


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


def with_model(task: Task) -> Task:
    """A task of the user's own, whose model counts for the identity of its runs.

    Registered tasks are known by their names. Of others the programs are looked at:
    what `init`, `loss` and `evaluate` do, and the arrays that they hold.
    """
    key = jax.eval_shape(lambda: numerics.key(0))
    params, state = jax.eval_shape(task.init, key)
    batch = {
        name: jax.ShapeDtypeStruct((task.batch_size, *array.shape[1:]), array.dtype)
        for name, array in task.train.items()
    }
    batch["mask"] = jax.ShapeDtypeStruct((task.batch_size,), jnp.float32)
    made = (
        jax.make_jaxpr(task.init)(key),
        jax.make_jaxpr(task.loss)(params, state, key, batch),
        jax.make_jaxpr(task.evaluate)(params, state, batch),
    )
    digest = hashlib.sha256(repr((task.max_norm, task.measured_rows)).encode())
    for program in made:
        # Functions are shown with where they lie in memory.
        digest.update(re.sub(r" at 0x[0-9a-f]+", "", str(program)).encode())
        for value in program.consts:
            if jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key):
                value = jax.random.key_data(value)
            digest.update(np.asarray(value).tobytes())
    model = ("model", digest.hexdigest()[:16])
    return dataclasses.replace(task, options=(*task.options, model))
