"""Divisions of rows: what trains and what validates changes, and nothing else."""

import dataclasses

import numpy as np
import pytest

from lrjax import tasks
from lrjax.core import Task
from lrjax.tasks import folds

NAMES = ("libsvm/iris", "libsvm/wine", "digits/logistic", "synthetic/regression-4")


def rows_of(*parts):
    """All rows of some parts as sorted tuples."""
    rows = []
    for part in parts:
        arrays = [np.asarray(array).reshape(len(array), -1) for array in part.values()]
        rows += map(tuple, np.concatenate(arrays, axis=1).tolist())
    return sorted(rows)


@pytest.mark.parametrize("name", NAMES)
def test_rows_change_places_and_none_is_lost(name):
    task = tasks.make_task(name)
    number = folds.count(task)
    assert number == 1 + task.num_examples // len(next(iter(task.valid.values())))
    whole, seen = rows_of(task.train, task.valid), []
    for i in range(number):
        other = folds.of(task, i)
        assert rows_of(other.train, other.valid) == whole
        for part in ("train", "valid"):
            shapes = {k: (v.shape, v.dtype) for k, v in getattr(task, part).items()}
            found = {k: (v.shape, v.dtype) for k, v in getattr(other, part).items()}
            assert found == shapes
        assert other.test is task.test
        assert (other.loss, other.batch_size) == (task.loss, task.batch_size)
        assert dict(other.options).get(folds.OPTION, 0) == i
        seen.append(rows_of(other.valid))
    # No row validates twice, but where a set has it twice.
    together = [row for rows in seen for row in rows]
    assert len(together) <= len(whole)
    assert len(set(together)) >= 0.9 * len(set(whole)) * len(together) / len(whole)
    assert folds.of(task, 0) is task


def test_a_file_that_is_sorted_by_class_keeps_its_classes():
    """Iris is: a block of neighbouring rows would be of one class."""
    task = tasks.make_task("libsvm/iris")
    for i in range(folds.count(task)):
        labels = np.asarray(folds.of(task, i).valid["labels"])
        assert np.bincount(labels, minlength=3).min() >= 5


def test_a_run_is_known_by_its_division():
    task = tasks.make_task("libsvm/wine")
    second = folds.of(task, 2)
    again = folds.wanted(task, second.options)
    assert rows_of(again.valid) == rows_of(second.valid)
    assert folds.wanted(task, task.options) is task


def test_rows_that_a_user_gave_to_validate_never_train():
    x = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    pytest.importorskip("flax")
    from flax import linen as nn

    def task(**parts):
        return Task.from_flax(nn.Dense(2), "cross_entropy", train=(x, y), **parts)

    assert folds.count(task()) == 4
    assert folds.count(task(valid=(x[:20], y[:20]))) == 1
    whole = tasks.make_task("libsvm/wine")
    for changes in (
        {"exchangeable": False},
        {"streamed": True},
        {"valid": whole.train},
        {"valid": {"features": whole.valid["features"]}},
    ):
        assert folds.count(dataclasses.replace(whole, **changes)) == 1


def test_a_protocol_that_validates_on_what_it_trains_on_has_no_other_rows():
    options = tasks.TaskOptions(protocol="study")
    assert folds.count(tasks.make_task("libsvm/iris", options)) == 1
