"""Threads that train blocks: nothing lost, errors end all, memory is kept to."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import pytest

from lrjax import config as config_lib
from lrjax import machine, results
from lrjax.core import UsageError
from lrjax.engine import programs
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import experiment, local, threads

ROOT = Path(__file__).parent.parent
DEVICE = jax.devices("cpu")[0]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_job_is_done_once_on_its_device(workers):
    done, lock = [], threading.Lock()

    def work(job, device):
        with lock:
            done.append((device, job))
        # What is to be done instead has no result yet.
        return (None, [job - 1]) if job % 10 == 2 else (job, [])

    jobs, nobody = [[2, 10, 20], [30]], lambda: 0
    results = list(threads.train_all(jobs, workers, work, nobody, threading.Event()))
    assert sorted(done) == [(0, 1), (0, 2), (0, 10), (0, 20), (1, 30)]
    assert sorted(results) == [1, 10, 20, 30]


def test_who_wants_no_more_results_ends_the_threads():
    failed, before = threading.Event(), threading.active_count()

    def work(job, device):
        if job:
            failed.wait(10)
        return job + 1, []

    results = threads.train_all([[0, 1, 2]], 2, work, failed.is_set, failed)
    assert next(results) == 1
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before


def test_the_first_error_ends_all_and_is_the_one_told():
    failed, done = threading.Event(), []

    def work(job, device):
        if job == 1:
            raise ValueError("first")
        failed.wait(10)
        done.append(job)
        raise RuntimeError("told to stop")

    with pytest.raises(ValueError, match="first"):
        list(threads.train_all([[0, 1, 2, 3]], 2, work, failed.is_set, failed))
    assert done == [0]


def test_a_room_lets_in_what_it_holds():
    limit = threads.DeviceLimits(max_blocks=2, memory=10.0)
    order = []
    with limit.admit("a", 6.0):
        other = threading.Thread(target=lambda: order.append(admit("b", 6.0)))

        def admit(name, need):
            with limit.admit(name, need):
                return time.monotonic()

        other.start()
        admit("c", 4.0)  # fits beside
        time.sleep(0.05)
        assert not order
        left = time.monotonic()
    other.join(10)
    assert order[0] >= left


def test_what_no_room_will_ever_hold_is_refused():
    limit = threads.DeviceLimits(max_blocks=2, memory=3.0 * 2**20)
    message = "big: one block needs 4 MiB of memory, and 3 MiB can be used"
    with pytest.raises(UsageError, match=message), limit.admit("big", 4.0 * 2**20):
        pass


def test_where_allocations_may_fail_what_is_too_large_is_tried_alone():
    limit = threads.DeviceLimits(max_blocks=2, memory=3.0, strict=False)
    with limit.admit("small", 1.0):
        entered = threading.Event()

        def admit():
            with limit.admit("big", 4.0):
                entered.set()

        other = threading.Thread(target=admit)
        other.start()
        assert not entered.wait(0.05)
    other.join(10)
    assert entered.is_set()


def test_a_room_shrinks_to_one():
    limit = threads.DeviceLimits(max_blocks=3, memory=1.0)
    with limit.admit("a", 0.0), limit.admit("b", 0.0):
        assert limit.shrink()
        assert limit.max_blocks == 1
    assert not limit.shrink()


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)
    monkeypatch.setattr(threads, "_PROBE_SECONDS", 0.01)


def asleep(count):
    return [lambda steps: time.sleep(0.02)] * count  # any number at once


def in_each_others_way(count):
    lock = threading.Lock()

    def job(steps):
        seconds = 0.06 if lock.locked() else 0.02
        with lock:
            time.sleep(seconds)

    return [job] * count


@pytest.mark.parametrize(("jobs", "best"), [(asleep, 4), (in_each_others_way, 1)])
def test_what_is_fastest_is_found_and_kept(quiet, tmp_path, jobs, best):
    cache = tmp_path / "new" / "cache.json"
    assert threads.measured_workers("kind", DEVICE, cache, jobs, 1) == best
    assert list(json.loads(cache.read_text()).values()) == [best]

    def never(count):
        raise AssertionError("it is known")

    assert threads.measured_workers("kind", DEVICE, cache, never, 1) == best


def test_no_more_are_measured_than_memory_holds(quiet, tmp_path):
    cache = tmp_path / "cache.json"
    for held in (0, 1):
        jobs = functools.partial(asleep, held)
        found = threads.measured_workers(
            "kind", DEVICE, cache, lambda _, j=jobs: j(), 1
        )
        assert found == 1
    found = threads.measured_workers("kind", DEVICE, cache, lambda _: asleep(3), 1)
    assert found == 3
    assert not cache.exists()  # there may be more memory next time


@pytest.mark.parametrize(
    "content",
    ["[" * 10**5, '{"a":' * 10**5, '{"kind": [[]]}', "", "[]", '{"kind": "x"}', "\x00"],
)
def test_a_damaged_cache_is_measured_anew(quiet, tmp_path, content):
    cache = tmp_path / "cache.json"
    cache.write_text(content)
    assert threads.measured_workers("kind", DEVICE, cache, in_each_others_way, 1) == 1
    assert 1 in json.loads(cache.read_text()).values()


def test_a_busy_machine_is_not_measured(quiet, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "getloadavg", lambda: (4.0, 4.0, 4.0))
    cache = tmp_path / "cache.json"
    assert threads.measured_workers("kind", DEVICE, cache, in_each_others_way, 1) == 4
    assert not cache.exists()


# In an experiment


def settings(methods=("adam",), seeds=4):
    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), methods
    config.seeds, config.epochs = seeds, 2
    config.grid.learning_rate = (0.001, 0.01)
    return config_lib.check(config)


def rows_of(workdir):
    lines = (workdir / results.RUNS).read_text().splitlines()
    return {row["run_id"]: row for row in map(json.loads, lines)}


def test_without_memory_smaller_blocks_are_trained(tmp_path, monkeypatch, capsys):
    experiment.run(settings(), tmp_path / "whole")
    train_unit = local.train_unit

    def tight(unit, *args):
        program = unit.block.program
        if program.num_seeds * program.num_hparams > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return train_unit(unit, *args)

    monkeypatch.setattr(local, "train_unit", tight)
    experiment.run(settings(), tmp_path / "tight")
    whole, found = rows_of(tmp_path / "whole"), rows_of(tmp_path / "tight")
    assert whole.keys() == found.keys()
    assert {row["block"] for row in found.values()} == {"2x1"}
    for run_id, row in found.items():
        assert row["valid_loss"] == pytest.approx(whole[run_id]["valid_loss"], rel=1e-5)
    assert "continuing with blocks of 2 x 1 runs" in capsys.readouterr().err


def test_a_run_that_no_memory_holds_is_an_error(tmp_path, monkeypatch):
    def tight(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(local, "train_unit", tight)
    with pytest.raises(UsageError, match="one run alone needs more memory"):
        experiment.run(settings(seeds=2), tmp_path)


def test_a_block_that_no_memory_holds_is_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(machine, "free_memory", lambda device: 1000.0)
    with pytest.raises(UsageError, match=r"one block needs .* and 1000 B can be used"):
        experiment.run(settings(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_later_block_that_no_memory_holds_is_refused_before_anything_is_trained(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(blocks_lib, "_JOINED_COST", {"cpu": 0})  # a block each
    wanted = settings(("sgd", "prodigy"))
    small, large = (
        programs.least_need(block.program, block.lanes)
        for block in blocks_lib.plan(wanted, blocks_lib.make_tasks(wanted, None))
    )
    assert 0 < small < large - 1
    compile_program = programs.compile_program
    monkeypatch.setattr(  # what sgd needs beside its state would be in the way
        programs,
        "compile_program",
        lambda *args: compile_program(*args)._replace(need=0),
    )
    monkeypatch.setattr(machine, "free_memory", lambda device: large - 1.0)
    with pytest.raises(UsageError, match="libsvm/iris prodigy: one block needs"):
        experiment.run(wanted, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("method", ["sgd", "prodigy", "cocob"])
def test_the_least_need_is_that_of_the_compiled_state(method):
    wanted = settings((method,))
    (block,) = blocks_lib.plan(wanted, blocks_lib.make_tasks(wanted, None))
    compiled = programs.compile_program(block.program, *jax.eval_shape(block.inputs))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(compiled.state))
    assert programs.least_need(block.program, block.lanes) == size
    assert size <= compiled.need


@pytest.mark.parametrize(("seeds", "rates"), [(5, 2), (7, 3), (1, 5), (3, 33)])
def test_halves_have_the_same_runs_each_of_them_once(seeds, rates):
    wanted = settings(seeds=seeds)
    grid = {"learning_rate": tuple(0.01 * (1 + i) for i in range(rates))}
    wanted = dataclasses.replace(wanted, grid=grid)
    loaded = blocks_lib.make_tasks(wanted, None)
    parts = blocks_lib.plan(wanted, loaded)
    ids = sorted(i for block in parts for i in block.run_ids)
    assert len(ids) == seeds * rates
    while any(p.program.num_seeds * p.program.num_hparams > 1 for p in parts):
        parts = [h for p in parts for h in (blocks_lib.halves(p) or [p])]
        assert {i for p in parts for i in p.run_ids} == {*ids}
    assert sorted(i for p in parts for i in p.run_ids) == ids


@pytest.mark.slow
def test_two_devices_give_the_same_numbers_as_one(tmp_path):
    found = []
    for count in (1, 2):
        workdir = tmp_path / str(count)
        flags = os.environ.get("XLA_FLAGS", "")
        flags += f" --xla_force_host_platform_device_count={count}"
        done = subprocess.run(
            [
                *(sys.executable, "main.py", "--config=configs/libsvm.py:iris"),
                *("--config.methods=adam,prodigy", f"--workdir={workdir}"),
                *("--config.seeds=7", "--config.epochs=20"),
            ],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": flags},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert f"on {count} device" in done.stderr
        rows = rows_of(workdir)
        found.append({k: row | {"seconds": None} for k, row in rows.items()})
    assert found[0] == found[1]
    assert len(found[0]) == 14
