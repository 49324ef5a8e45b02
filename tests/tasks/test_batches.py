"""Batches of an iterator in memory and on disk become the same arrays."""

import errno
import gc
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import linen as nn

import lrjax
from lrjax.core import UsageError
from lrjax.tasks import batches, given

ROOT = Path(__file__).parent.parent.parent
ROWS = 50
X = np.random.default_rng(0).normal(size=(ROWS, 3, 2))
Y = np.arange(ROWS) % 3


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, and no room in memory."""
    monkeypatch.setenv("LRJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(batches, "IN_MEMORY", 100)
    return tmp_path / "cache"


def pieces(size=7, end=ROWS):
    for first in range(0, end, size):
        at = slice(first, first + size)
        yield X[at], Y[at]


def open_files(folder):
    """The files in a folder that this process has open or mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if str(folder) in line]


@pytest.mark.parametrize("size", [1, 7, ROWS])
def test_what_is_on_disk_is_what_is_in_memory(size, cache, monkeypatch):
    on_disk = given.parts(pieces(size), 0.3, 0.1)
    monkeypatch.undo()
    in_memory = given.parts(pieces(size), 0.3, 0.1)
    assert on_disk.streamed
    assert not in_memory.streamed
    for own, expected in zip(on_disk[:3], in_memory[:3], strict=True):
        assert list(own) == list(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(own[name], array)
            assert own[name].dtype == array.dtype
    assert all(isinstance(array, np.memmap) for array in on_disk.train.values())
    assert all(isinstance(array, jax.Array) for array in on_disk.valid.values())


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_rows_move_within_their_file(at_once, cache, monkeypatch):
    monkeypatch.setattr(batches, "_AT_ONCE", at_once)
    shares = np.array([1, 2, 3, 20, 21, 30, 49]), np.array([0, 48])
    arrays = batches.collect(({"x": x} for x, _ in pieces()), "train")
    first, second = batches.split(arrays, shares)
    np.testing.assert_array_equal(first["x"], X[shares[0]].astype(np.float32))
    np.testing.assert_array_equal(second["x"], X[shares[1]].astype(np.float32))
    assert batches.is_on_disk(first["x"])
    assert not isinstance(second["x"], np.memmap)


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.float16, ml_dtypes.bfloat16])
def test_types_stay(kind, cache):
    array = X.astype(kind)
    found = batches.collect(({"x": array[i : i + 9]} for i in range(0, ROWS, 9)), "it")
    assert batches.is_on_disk(found["x"])
    assert found["x"].dtype == kind
    np.testing.assert_array_equal(found["x"], array)


@pytest.mark.slow
def test_runs_are_those_of_arrays_in_memory(cache, monkeypatch):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x.reshape(len(x), -1))

    def trained():
        task = lrjax.Task.from_flax(Model(), "cross_entropy", pieces(), batch_size=8)
        study = lrjax.compare(task, ["sgd"], seeds=2, epochs=2)
        return task, study.curves["valid_loss"]

    (task, on_disk), _ = trained(), monkeypatch.undo()
    lrjax.check_task(task)
    assert task.streamed
    np.testing.assert_allclose(on_disk, trained()[1], rtol=1e-5)


def test_files_have_no_names_and_go_with_the_arrays(cache):
    found = given.parts(pieces())
    assert list(cache.iterdir()) == []
    assert open_files(cache)
    del found
    gc.collect()
    assert not open_files(cache)


def test_files_go_with_an_error(cache):
    def broken():
        yield from pieces()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        given.parts(broken())
    with pytest.raises(UsageError, match=r"batch 4: inputs has rows of float32 \[2\]"):
        given.parts([*pieces(20), (X[:, 0], Y)])
    with pytest.raises(UsageError, match="more than 1,000 bytes, or never end"):
        given.parts(pieces(), most=1000)
    gc.collect()
    assert list(cache.iterdir()) == []
    assert not open_files(cache)
    handles = [os.readlink(path) for path in Path("/proc/self/fd").iterdir()
               if path.is_symlink()]  # fmt: skip
    assert not [path for path in handles if str(cache) in path]


def test_a_full_disk_is_said_in_one_line(cache, monkeypatch):
    class Full:
        def write(self, content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(batches.files, "nameless", lambda folder: Full())
    with pytest.raises(UsageError, match=r"cannot write .*cache.*: No space left"):
        given.parts(pieces())


def test_a_killed_process_leaves_nothing(cache):
    code = """
        import os, signal, sys
        import numpy as np
        from lrjax.tasks import batches
        batches.IN_MEMORY = 100
        rows = ({"x": np.ones((50, 3))} for _ in range(9))
        assert batches.is_on_disk(batches.collect(rows, "train")["x"])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    clean = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=clean, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(cache.iterdir()) == []


def test_a_loader_may_reuse_its_memory():
    buffer = np.zeros((2, 3), np.float32)

    def reused():
        for i in range(3):
            buffer[:] = i
            yield {"x": buffer}

    found = batches.collect(reused(), "train")["x"]
    np.testing.assert_array_equal(found[:, 0], [0, 0, 1, 1, 2, 2])
