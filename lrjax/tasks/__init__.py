"""Tasks by name: data on the device plus the pure functions that train on it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import os
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import machine, plugins
from lrjax.common import numerics
from lrjax.core import (
    METRICS,
    Task,
    UsageError,
    counted,
    cut,
    nearest,
    raised,
    shown,
    unknown,
)
from lrjax.tasks import (
    causal_text,
    checks,
    diffusion,
    finetune,
    images,
    libsvm,
    synthetic,
    table,
    text,
)
from lrjax.tasks import options as options_lib
from lrjax.tasks.data import DataError, fingerprint_arrays
from lrjax.tasks.options import Factory, TaskOptions

__all__ = [
    "TASKS",
    "DataError",
    "Factory",
    "TaskOptions",
    "fingerprint",
    "make_task",
    "precision_of",
    "trains_network",
    "with_model",
]

TASKS: dict[str, Factory] = {
    **libsvm.FACTORIES,
    **images.FACTORIES,
    **diffusion.FACTORIES,
    **text.FACTORIES,
    **synthetic.FACTORIES,
    **table.FACTORIES,
    **causal_text.FACTORIES,
    **finetune.FACTORIES,
}

SHIPPED = frozenset(TASKS)

# Endings of files that users may try; none of these formats is read.
_OTHERS = (".arff", ".json", ".xlsx", ".npy")
_SVMLIGHT = "svmlight:"


def make_task(name: str, options: TaskOptions | None = None) -> Task:
    """Make a task by name.

    Args:
      name: a key of `TASKS`, 'svmlight:PATH' or 'table:PATH?target=COLUMN' for a user's
        file, 'finetune:PATH?text=COLUMN&target=COLUMN' for a file of texts,
        'synthetic/classification-7' (or regression, and any number), or the
        import path 'module:name' of a `Task` or of a function that returns one, with
        `TaskOptions` as its argument if it takes one.
      options: the task's options; the defaults of `TaskOptions` if None.

    Raises:
      UsageError: if there is no such task or option, or its data is not available.

    Example:
      >>> task = make_task("libsvm/iris", TaskOptions(batch_size=20))
      >>> task.batch_size, task.num_classes
      (20, 3)
    """
    options = options or TaskOptions()
    options_lib.check(options)
    task = _factory(name)(name, options)
    parts = task.micro_batches if options.micro_batches == 1 else options.micro_batches
    if parts < 1 or task.batch_size % parts:
        raise UsageError(
            f"micro_batches={parts}: batches of {counted(task.batch_size, 'row')} of "
            f"'{name}' cannot be cut in {parts} equal parts"
        )
    changing = {
        "label_smoothing": options.label_smoothing,
        "micro_batches": parts,
        "scan_layers": options.scan_layers,  # changes last bits
    }
    changed = [(k, v) for k, v in changing.items() if v != getattr(TaskOptions, k)]
    changed = (*task.options, *changed)
    return dataclasses.replace(task, micro_batches=parts, options=changed)


def _factory(name: str) -> Factory:
    """Return the factory of a registered task, a file or a synthetic task."""
    if name.startswith(_SVMLIGHT):
        path = name.removeprefix(_SVMLIGHT)
        return Factory(functools.partial(libsvm.make_file, path))
    if name.startswith(table.PREFIX):
        return Factory(functools.partial(table.make, name))
    if name.startswith(finetune.PREFIX):
        return finetune.factory(name)
    if name.startswith(synthetic.PREFIX) and name not in TASKS:
        return Factory(functools.partial(synthetic.make, name))
    if name in TASKS or plugins.is_path(name) or name in plugins.offered("task"):
        return plugins.find("task", name, TASKS, factory_of)
    raise _unknown(name)


def no_task(value: Any) -> UsageError:
    """Make the error for what was given as a task, and may be data."""
    first = value[0] if isinstance(value, tuple) and value else value
    words = shown(value)
    if hasattr(first, "shape"):
        words = (
            f"data ({type(value).__name__}): lrjax.Task.from_flax and others make one "
            "of data and a model, table:FILE.csv?target=COLUMN names one of a file"
        )
    return UsageError(f"task must be a lrjax.Task or the name of one, not {words}")


def factory_of(name: str, found: Any) -> Factory:
    """Make a factory of what a package offers: a task, or a function that makes one.

    Raises:
      UsageError: if it is neither.
    """
    if isinstance(found, Factory):
        return found
    if not isinstance(found, Task) and not callable(found):
        raise UsageError(
            f"task '{cut(name)}' is {shown(found)}: it must be a lrjax.Task, or a "
            "function that returns one"
        )
    return Factory(functools.partial(_own, name, found))


def _own(name: str, found: Any, options: TaskOptions) -> Task:
    """Make a user's task, check it, and let its model be part of its identity.

    Raises:
      UsageError: if it cannot be made, or is broken.
    """
    task, arguments = found, []
    if not isinstance(found, Task):
        arguments = [options] if inspect.signature(found).parameters else []
        try:
            task = found(*arguments)
        except UsageError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise UsageError(
                f"task '{cut(name)}' cannot be made: {raised(error)}"
            ) from error
    if options.precision == "bfloat16" and not arguments:
        raise UsageError(
            f"precision=bfloat16: '{cut(name)}' must be a function of "
            "lrjax.tasks.TaskOptions to have it"
        )
    if not isinstance(task, Task):
        raise UsageError(
            f"task '{cut(name)}': its function returns {shown(task)}, not a lrjax.Task"
        )
    if options.batch_size:
        task = dataclasses.replace(task, batch_size=options.batch_size)
    task = dataclasses.replace(task, name=name)
    checks.check_task(task)
    return with_model(task)


def _unknown(name: str) -> UsageError:
    """The error for an unknown task name, with a hint where it looks like a file."""
    prefix, _, rest = name.partition(":")
    path = rest if prefix.isalpha() and os.path.exists(rest) else name
    suffix = Path(path).suffix.lower()
    a_path = os.path.exists(path) or path.startswith((".", "/", "~"))
    if not a_path and (not suffix or nearest(name, TASKS)):
        return unknown("task", name, TASKS)
    message = f"unknown task '{cut(name)}'"
    if suffix in table.ENDINGS:
        return UsageError(
            f"{message}: for a table give table:{cut(path)}?target=COLUMN"
        )
    if suffix == ".jsonl":
        return UsageError(
            f"{message}: for texts with labels give "
            f"finetune:{cut(path)}?text=COLUMN&target=COLUMN"
        )
    if suffix in _OTHERS:
        return UsageError(
            f"{message}: {suffix} files are not read; write it as CSV or Parquet and "
            "give table:PATH?target=COLUMN, or make a lrjax.Task of its arrays"
        )
    return UsageError(
        f"{message}: for a file of your own in svmlight's format give "
        f"svmlight:{cut(path)}"
    )


def precision_of(name: str, precision: str) -> str:
    """The precision that a task is trained in: 'float32', 'float64' or 'bfloat16'.

    Args:
      name: the task's name.
      precision: 'auto' chooses bfloat16 for networks on GPUs and TPUs, whose matrix
        units are built for it, and float32 otherwise; other values are returned as they
        are.
    """
    if precision != "auto":
        return precision
    halves = trains_network(name) and machine.kind() != "cpu"
    return "bfloat16" if halves else "float32"


def trains_network(name: str) -> bool:
    """Whether a registered task trains a network on images or text.

    Judges by the name, for callers that have no task yet; with a task,
    `lrjax.engine.strategy` looks at its loss. False for tables, synthetic tasks and
    users' own tasks.
    """
    if name.startswith(finetune.PREFIX):
        return True
    return name in TASKS and TASKS[name].network


def fingerprint(task: Task) -> str:
    """A hash of the data of all three parts, 16 hexadecimal digits.

    Covers names, dtypes, shapes and values. Copies the data to the host, so call it
    once per task.

    Example:
      >>> len(fingerprint(make_task("libsvm/iris")))
      16
    """
    parts = {"train": task.train, "valid": task.valid, "test": task.test}
    arrays = {
        f"{part}/{name}": array
        for part, batch in parts.items()
        for name, array in batch.items()
    }
    return fingerprint_arrays(arrays)[:16]


def with_model(task: Task) -> Task:
    """Add a hash of a user's model to a task's options, so that run_ids include it.

    Registered tasks are identified by their names. For others this hashes the jaxprs of
    `init`, `loss`, `evaluate` and of metrics that no name stands for, and the arrays
    that they hold.
    """
    task = checks.untraced(task)
    key = jax.eval_shape(lambda: numerics.key(0))
    params, state = jax.eval_shape(task.init, key)
    batch = {
        name: jax.ShapeDtypeStruct((task.batch_size, *array.shape[1:]), array.dtype)
        for name, array in task.train.items()
    }
    batch["mask"] = jax.ShapeDtypeStruct((task.batch_size,), jnp.float32)
    evaluate, sums = jax.make_jaxpr(task.evaluate, return_shape=True)(
        params, state, batch
    )
    named = {metric.value for metric in METRICS.values()}
    jaxprs = (
        jax.make_jaxpr(task.init)(key),
        jax.make_jaxpr(task.loss)(params, state, key, batch),
        evaluate,
        *(
            jax.make_jaxpr(functools.partial(metric.value))(sums)
            for metric in task.metrics
            if metric.value not in named
        ),
    )
    digest = hashlib.sha256(repr((task.max_norm, task.measured_rows)).encode())
    for program in jaxprs:
        # Jaxprs print functions with their memory addresses; remove these.
        digest.update(re.sub(r" at 0x[0-9a-f]+", "", str(program)).encode())
        for value in program.consts:
            if jnp.issubdtype(jnp.result_type(value), jax.dtypes.prng_key):
                value = jax.random.key_data(value)
            digest.update(np.asarray(value).tobytes())
    model = ("model", digest.hexdigest()[:16])
    return dataclasses.replace(task, options=(*task.options, model))
