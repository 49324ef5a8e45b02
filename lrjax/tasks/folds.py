"""Training and validation rows that change places, for a second look at contenders.

Which rows happen to validate favours some contenders over others, and more seeds do not
help. Where a random draw divided the rows, another division is as good.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lrjax.core import Batch, Task

OPTION = "fold"  # name in `Task.options`
_MOST_BYTES = 2**30  # of a training part: each division is a copy


def count(task: Task) -> int:
    """Number of divisions of the rows, the task's own included; at least 1.

    Example:
      >>> from lrjax import tasks
      >>> count(tasks.make_task("libsvm/iris"))  # 90 rows to train on, 30 to validate
      4
    """
    train, valid = task.train, task.valid
    if not task.exchangeable or task.streamed or not _alike(train, valid):
        return 1
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in train.values())
    held = _rows(valid)
    return 1 + _rows(train) // held if held and size <= _MOST_BYTES else 1


def of(task: Task, number: int) -> Task:
    """A task with another division of its rows; the parts keep their sizes.

    Args:
      task: with its own division, number 0.
      number: below `count(task)`; the validation rows change places with as many
        training rows, others for each number.
    """
    if not number:
        return task
    held, every = _rows(task.valid), _rows(task.train) // _rows(task.valid)
    # Rows from all over the part, since files are often sorted by class.
    at = number - 1 + every * np.arange(held)
    on_host = isinstance(next(iter(task.train.values())), np.ndarray)
    exchange = _exchanged_on_host if on_host else _exchanged
    train, valid = exchange(task.train, task.valid, at)
    options = (*task.options, (OPTION, number))
    return dataclasses.replace(task, train=train, valid=valid, options=options)


@jax.jit  # one small program, however many arrays
def _exchanged(train: Batch, valid: Batch, at: np.ndarray) -> tuple[Batch, Batch]:
    """Exchange the validation rows with the training rows at some positions."""
    put = {name: rows.at[at].set(valid[name]) for name, rows in train.items()}
    return put, {name: rows[at] for name, rows in train.items()}


def _exchanged_on_host(
    train: Batch, valid: Batch, at: np.ndarray
) -> tuple[Batch, Batch]:
    """Exchange rows as `_exchanged` does, for arrays of NumPy."""
    put = {name: rows.copy() for name, rows in train.items()}
    for name, rows in put.items():
        rows[at] = valid[name]
    return put, {name: rows[at] for name, rows in train.items()}


def wanted(task: Task, options: Sequence[tuple[str, Any]]) -> Task:
    """The division of a task that a run was trained on, by the run's options."""
    return of(task, dict(options).get(OPTION, 0))


def _alike(train: Batch, valid: Batch) -> bool:
    """Whether rows of one part can be rows of the other."""
    forms = [{k: (v.shape[1:], v.dtype) for k, v in p.items()} for p in (train, valid)]
    return train is not valid and forms[0] == forms[1]


def _rows(part: Batch) -> int:
    return len(next(iter(part.values()))) if part else 0
