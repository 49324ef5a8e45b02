"""Curves in parts hold the same rows as curves.jsonl, whenever a process is killed."""

import itertools
import os

import pytest

from lrjax import results
from lrjax.common import files
from lrjax.core import UsageError
from lrjax.tables import parts

BLOCKS = {f"block{i}": [f"run{i}{j}" for j in range(3)] for i in range(4)}


def curve_rows(runs, steps):
    return [
        {"run_id": run, "step": step, "loss": step / 3, "accuracy": None}
        for step in steps
        for run in runs
    ]


def train(tables, blocks=tuple(BLOCKS)):
    """Write what training some blocks writes, in two segments."""
    for block in blocks:
        runs = BLOCKS[block]
        if tables.runs.issuperset(runs):
            continue
        for steps in ((1, 2), (3,)):
            tables.append(results.CURVES, curve_rows(runs, steps), block)
        rows = [{"run_id": run, "valid_loss": 0.5, "seconds": 0.1} for run in runs]
        tables.append(results.RUNS, rows, block)


def opened(workdir, home=None):
    tables = results.Tables(workdir, publish_in=home)
    tables.__enter__()
    tables.write_config({}, {})
    return tables


def numbers(workdir):
    """Curves and runs in an order of their own."""
    runs, curves = results.load(workdir)
    curves = curves.sort_values(["run_id", "step"], ignore_index=True)
    return runs.sort_values("run_id", ignore_index=True), curves


@pytest.fixture
def wanted(tmp_path):
    tables = opened(tmp_path / "whole")
    train(tables)
    tables.__exit__()
    return numbers(tmp_path / "whole")


def check(workdir, wanted):
    for found, right in zip(numbers(workdir), wanted, strict=True):
        assert found.equals(right.astype(found.dtypes))


def test_parts_hold_the_rows_of_the_table(tmp_path, wanted):
    workdir = tmp_path / "parts"
    tables = opened(workdir, workdir)
    train(tables)
    tables.__exit__()
    check(workdir, wanted)
    assert not (workdir / results.CURVES).exists()
    names = [path.name.split("-")[0] for path in parts.published(workdir)]
    assert names == sorted(BLOCKS)
    assert not parts.unfinished(workdir)


def test_rows_of_a_block_that_trains_can_be_read(tmp_path):
    tables = opened(tmp_path, tmp_path)
    train(tables, ["block0"])
    tables.append(results.CURVES, curve_rows(BLOCKS["block1"], [1]), "block1")
    _, curves = results.load(tmp_path)
    assert len(curves) == 9 + 3
    tables.__exit__()


class Killed(BaseException):
    pass


def killing(monkeypatch, number):
    """Stop everything before the operation of this number that changes the disk."""
    count = itertools.count()

    def dying(call):
        def called(*arguments, **named):
            if next(count) == number:
                raise Killed
            return call(*arguments, **named)

        return called

    monkeypatch.setattr(files, "write_all", dying(files.write_all))
    monkeypatch.setattr(files, "remove_folder", dying(files.remove_folder))
    monkeypatch.setattr(os, "replace", dying(os.replace))
    monkeypatch.setattr(os, "unlink", dying(os.unlink))


@pytest.mark.parametrize("then", ["parts", "table"])
@pytest.mark.parametrize("number", range(24))
def test_killed_anywhere_and_run_again(tmp_path, monkeypatch, wanted, number, then):
    workdir = tmp_path / "parts"
    opened(workdir, workdir).__exit__()
    with monkeypatch.context() as patched:
        tables = results.Tables(workdir, publish_in=workdir)
        killing(patched, number)
        with pytest.raises(Killed):
            train(tables.__enter__())
        tables.__exit__()
    with results.Tables(workdir, workdir if then == "parts" else None) as again:
        train(again)
    check(workdir, wanted)
    assert not parts.unfinished(workdir)
    assert not [path for path in workdir.rglob(".*") if path.name != ".lock"]


def test_another_process_publishes_in_the_working_directory(tmp_path, wanted):
    """As hosts and workers do, whose own tables have the rows of runs."""
    home = tmp_path / "home"
    main = opened(home, home)
    for block in BLOCKS:
        own = opened(home / "hosts" / block, home)
        train(own, [block])
        main.append(results.RUNS, results.read_rows(own.workdir, results.RUNS))
        own.__exit__()
    main.__exit__()
    check(home, wanted)
    assert len(parts.published(home)) == len(BLOCKS)


def test_compacting_keeps_all_rows(tmp_path, wanted):
    tables = opened(tmp_path, tmp_path)
    train(tables, ["block0", "block1"])
    assert "2 parts with 18 rows are one" in parts.compact(tmp_path)
    train(tables)
    tables.__exit__()
    check(tmp_path, wanted)
    assert "3 parts with 36 rows are one" in parts.compact(tmp_path)
    assert "nothing to merge" in parts.compact(tmp_path)
    check(tmp_path, wanted)
    assert len(parts.published(tmp_path)) == 1


def test_compacting_killed_halfway_loses_nothing(tmp_path, monkeypatch, wanted):
    tables = opened(tmp_path, tmp_path)
    train(tables)
    tables.__exit__()
    with monkeypatch.context() as patched:
        killing(patched, 2)
        with pytest.raises(Killed):
            parts.compact(tmp_path)
    check(tmp_path, wanted)
    parts.compact(tmp_path)
    check(tmp_path, wanted)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_part_is_refused_in_one_line(tmp_path, damage):
    tables = opened(tmp_path, tmp_path)
    train(tables)
    tables.__exit__()
    path = parts.published(tmp_path)[1]
    content = path.read_bytes()
    for place in range(0, len(content), 1 + len(content) // 150):
        changed = bytearray(content[: place if damage == "cut" else None])
        if damage == "flipped":
            changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(UsageError, match=path.name) as refused:
            results.load(tmp_path)
        assert "\n" not in str(refused.value)


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    tables = opened(tmp_path / "run", tmp_path / "run")
    (tables.workdir / parts.FOLDER).symlink_to(outside)
    with pytest.raises(UsageError, match="link"):
        train(tables)
    assert not list(outside.iterdir())
    tables.__exit__()


def test_rows_that_contradict_each_other_are_refused(tmp_path):
    tables = opened(tmp_path, tmp_path)
    train(tables)
    other = curve_rows(["run00"], [1])[0] | {"loss": 7.0}
    (tmp_path / results.CURVES).write_text(results.line(other))
    tables.__exit__()
    with pytest.raises(UsageError, match="run run00 has two different curve rows of"):
        results.load(tmp_path)
