"""A training part on the host: the same batches, the same numbers."""

import jax
import numpy as np
import pytest
import wide

from lrjax import tasks
from lrjax.core import UsageError
from lrjax.engine import host_loop, order, prefetch
from lrjax.tasks import data


def test_batches_are_those_of_the_device():
    words = np.asarray([[1, 2], [3, 4]], np.uint32)
    for fresh in (False, True):
        rows, mask = host_loop._rows(words, 5, 3, 16, 60, fresh)
        for seed, word in enumerate(words):
            there = order.batches(word, np.int32(5), 3, 16, 60, fresh)
            np.testing.assert_array_equal(rows[seed], there[0])
            np.testing.assert_array_equal(mask, there[1])


@pytest.mark.parametrize(
    "one_by_one", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_numbers_are_those_of_data_on_the_device(one_by_one, monkeypatch):
    # Two steps a transfer, so that a round ends within one.
    monkeypatch.setattr(host_loop, "_SENT_BYTES", 2 * 16 * 6 * 8 * 2)
    wanted, state = wide.trained(wide.task(), one_by_one=one_by_one)
    found, other = wide.trained(wide.task(streamed=True), one_by_one=one_by_one)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    for mine, its in zip(*map(jax.tree.leaves, (state, other)), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-3, atol=1e-4)


def test_it_goes_on_from_where_it_was_cut():
    whole, _ = wide.trained(wide.task(streamed=True), method="adam")
    cut, _ = wide.trained(wide.task(streamed=True), method="adam", cut=5)
    for name, value in whole.items():
        np.testing.assert_array_equal(cut[name], value)


def test_what_is_prefetched_comes_in_order_and_errors_come_through():
    made = []

    def make(item):
        if item == 3:
            raise OSError("gone")
        made.append(item)
        return 10 * item

    found = prefetch.prefetched(make, range(5))
    assert [next(found) for _ in range(3)] == [0, 10, 20]
    with pytest.raises(OSError, match="gone"):
        next(found)


@pytest.mark.parametrize("name", ["digits/wrn", "digits/diffusion", "text/gpt_micro"])
def test_images_and_text_may_stay_on_the_host(name, monkeypatch):
    monkeypatch.setenv("LRJAX_DATA_DIR", "")
    task = tasks.make_task(name, tasks.TaskOptions(stream=True))
    assert task.streamed
    assert all(isinstance(rows, np.ndarray) for rows in task.train.values())
    assert all(isinstance(rows, jax.Array) for rows in task.valid.values())
    assert tasks.fingerprint(task) == tasks.fingerprint(tasks.make_task(name))


def test_other_tasks_say_that_they_have_no_such_option():
    with pytest.raises(UsageError, match="'digits/logistic' has no such option"):
        tasks.make_task("digits/logistic", tasks.TaskOptions(stream=True))


def test_data_can_be_forced_onto_the_device(monkeypatch):
    monkeypatch.setattr(data, "stays_on_host", lambda arrays, stream: stream is None)
    assert tasks.make_task("digits/wrn").streamed
    assert not tasks.make_task("digits/wrn", tasks.TaskOptions(stream=False)).streamed
    # What is on the device anyway may be asked to be.
    assert not tasks.make_task(
        "digits/logistic", tasks.TaskOptions(stream=False)
    ).streamed
