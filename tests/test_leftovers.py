"""What one launcher left is finished by another; what stands in the way is refused."""

import contextlib
import json
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import libsvm
from lrjax import config as config_lib
from lrjax import results
from lrjax.core import UsageError
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import dask_client, experiment, leftovers, local
from lrjax.tables import live, reader

KINDS = (leftovers.PARTS, leftovers.HOSTS)


@pytest.fixture(scope="module", autouse=True)
def _a_block_for_each_method():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(blocks_lib, "_JOINED_COST", {"cpu": 0})
        yield


def settings(**changes):
    config = libsvm.get_config("iris")
    config.methods, config.seeds, config.epochs = ("sgd", "prodigy"), 2, 5
    config.save_params = True
    config.update(changes)
    return config_lib.check(config)


def content(workdir):
    """All rows without measured times, and the parameters; nothing is left over."""
    found = {}
    for name in (results.RUNS, results.CURVES):
        rows = map(json.loads, (workdir / name).read_text().splitlines())
        found[name] = sorted(json.dumps(row | {"seconds": None}) for row in rows)
        assert len(set(found[name])) == len(found[name])
    for path in (workdir / "params").iterdir():
        found[path.name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    experiment.run(settings(), folder)
    return folder


def rows_in(workdir, table, method=None):
    """Lines of a table, or those of the runs of one method."""
    rows = results.read_rows(workdir, results.RUNS)
    wanted = {row["run_id"] for row in rows if method in (None, row["method"])}
    lines = (workdir / table).read_bytes().splitlines(keepends=True)
    return [line for line in lines if json.loads(line)["run_id"] in wanted]


def leave(whole, workdir, kind, name="3", method="sgd", runs=True, curve=1.0):
    """Leave rows of a method as a killed worker or host does, and its parameters."""
    folder = workdir / kind / name
    with results.Tables(folder) as tables:
        tables.write_config({}, {})
        rows = rows_in(whole, results.CURVES, method)
        rows = rows[: int(curve * len(rows))]
        leftovers.append(tables, results.CURVES, b"".join(rows))
        if runs:
            rows = rows_in(whole, results.RUNS, method)
            leftovers.append(tables, results.RUNS, b"".join(rows))
    (workdir / "params").mkdir(exist_ok=True)
    for row in rows_in(whole, results.RUNS, method) * runs:
        name = f"{json.loads(row)['run_id']}.safetensors"
        shutil.copy(whole / "params" / name, workdir / "params" / name)
    return folder


@pytest.fixture
def trained(monkeypatch):
    """Methods of the blocks that were trained."""
    found, train_unit = [], local.train_unit

    def noting(unit, *arguments):
        found.append(unit.block.example.method)
        return train_unit(unit, *arguments)

    monkeypatch.setattr(local, "train_unit", noting)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("known", [False, True])
def test_what_is_left_is_not_trained_again(tmp_path, whole, trained, kind, known):
    if known:  # killed after the rows were appended, before the folder was removed
        experiment.run(settings(methods=("sgd",)), tmp_path)
        trained.clear()
    leave(whole, tmp_path, kind)
    experiment.run(settings(), tmp_path)
    assert trained == ["prodigy"]
    assert content(tmp_path) == content(whole)
    assert not (tmp_path / kind).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_curve_is_taken_over(tmp_path, whole, trained, kind):
    leave(whole, tmp_path, kind, runs=False, curve=0.5)
    experiment.run(settings(), tmp_path)
    assert sorted(trained) == ["prodigy", "sgd"]
    assert content(tmp_path) == content(whole)
    assert not (tmp_path / kind).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_curve_in_a_part_is_taken_over(tmp_path, whole, trained, kind):
    folder = leave(whole, tmp_path, kind, runs=False, curve=0.5)
    part = folder / "curves" / "0123456789abcdef" / results.CURVES
    part.parent.mkdir(parents=True)
    (folder / results.CURVES).rename(part)
    experiment.run(settings(), tmp_path)
    assert content(tmp_path) == content(whole)
    assert not (tmp_path / kind).exists()


def test_folders_of_many_are_taken_over(tmp_path, whole, trained):
    for n, kind in enumerate(KINDS * 3):
        leave(whole, tmp_path, kind, str(n), ("sgd", "prodigy")[n % 2])
    (tmp_path / "parts" / "empty").mkdir()  # killed before its tables were made
    experiment.run(settings(), tmp_path)
    assert not trained
    assert content(tmp_path) == content(whole)
    names = {path.name for path in whole.iterdir()}
    names.remove(live.STARTED)  # no run has begun here
    assert {path.name for path in tmp_path.iterdir()} == names


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_in_use_stays_until_it_is_free(tmp_path, whole, trained, kind):
    folder = leave(whole, tmp_path, kind)
    with (
        results.Tables(folder),
        pytest.warns(UserWarning, match=rf"^{folder} is left as it is: .* in use"),
    ):
        experiment.run(settings(), tmp_path)
    assert sorted(trained) == ["prodigy", "sgd"]
    assert folder.exists()
    experiment.run(settings(), tmp_path)
    assert not folder.parent.exists()
    assert content(tmp_path) == content(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_folder_is_named_and_left(tmp_path, whole, trained, kind):
    folder = leave(whole, tmp_path, kind)
    (folder / results.RUNS).write_bytes(b"[]\n")
    with pytest.warns(UserWarning, match=rf"^{folder} is left as it is: "):
        experiment.run(settings(), tmp_path)
    assert content(tmp_path) == content(whole)
    assert (folder / results.RUNS).read_bytes() == b"[]\n"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("above", [False, True])
def test_links_are_not_followed(tmp_path, whole, trained, kind, above):
    other, workdir = tmp_path / "other", tmp_path / "work"
    folder = leave(whole, other, kind)
    before = {p: p.read_bytes() for p in other.rglob("*") if p.is_file()}
    link = workdir / kind if above else workdir / kind / "3"
    link.parent.mkdir(parents=True)
    link.symlink_to(folder.parent if above else folder)
    experiment.run(settings(), workdir)
    assert sorted(trained) == ["prodigy", "sgd"]
    assert {p: p.read_bytes() for p in other.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["params", "curves"])
@pytest.mark.parametrize("kind", ["folder", "link", "in use"])
def test_unfinished_files_are_removed(tmp_path, name, kind):
    """Those of lrjax, if no worker may be writing them and no link leads to them."""
    workdir = tmp_path / "work"
    place = tmp_path / "other" if kind == "link" else workdir / name
    place.mkdir(parents=True)
    for file in (".0123456789abcdef.tmp", ".0123.tmp", "mine"):
        (place / file).touch()
    if kind == "link":
        workdir.mkdir()
        (workdir / name).symlink_to(place)
    with results.Tables(workdir) as tables, contextlib.ExitStack() as stack:
        if kind == "in use":
            stack.enter_context(results.Tables(workdir / "parts" / "block"))
            stack.enter_context(pytest.warns(UserWarning, match="in use"))
        leftovers.take_over(tables)
    found = sorted(path.name for path in place.iterdir())
    kept = [] if kind == "folder" else [".0123456789abcdef.tmp"]
    assert found == [".0123.tmp", *kept, "mine"]


def in_the_way(path, what):
    if what == "file":
        path.write_bytes(b"mine")
    elif what == "link":
        (path.parent / "other").mkdir()
        path.symlink_to(path.parent / "other")
    else:
        os.mkfifo(path)


@pytest.mark.parametrize("launch", [local.launch, dask_client.launch])
@pytest.mark.parametrize("name", ["params", "checkpoints", "curves"])
@pytest.mark.parametrize("what", ["file", "link", "pipe"])
def test_what_stands_in_the_way_is_seen_before_training(
    tmp_path, trained, launch, name, what
):
    in_the_way(tmp_path / name, what)
    before = {path.name for path in tmp_path.iterdir()} | {".lock"}
    with pytest.raises(UsageError, match=f"^cannot write {tmp_path / name}: it is "):
        experiment.run(settings(curve_parts=True), tmp_path, launch=launch)
    assert not trained
    assert {path.name for path in tmp_path.iterdir()} == before


def test_parts_that_are_no_folder_are_refused(tmp_path):
    in_the_way(tmp_path / "parts", "link")
    with pytest.raises(UsageError, match="parts: it is a link"):
        experiment.run(settings(), tmp_path, launch=dask_client.launch)


@given(
    st.lists(st.binary(max_size=9).filter(lambda x: b"\n" not in x)), st.integers(1, 20)
)
def test_pieces_are_whole_lines(tmp_path_factory, lines, size):
    path = tmp_path_factory.getbasetemp() / "lines"
    whole = b"".join(line + b"\n" for line in lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "PIECE", size)
        for end in (b"", b"rest"):
            path.write_bytes(whole + end)
            pieces = list(leftovers.lines(path))
            assert b"".join(pieces) == whole + end
            assert all(piece.endswith(b"\n") for piece in pieces[: -1 if end else None])
            start = len(lines[0]) + 1 if lines else 0
            rest = b"".join(leftovers.lines(path, start))
            assert rest == (whole + end)[start:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("removed", [0, 1, 2, 9])
def test_a_folder_that_was_being_removed_is_no_obstacle(
    tmp_path, whole, trained, kind, removed, monkeypatch
):
    """A kill while its files are removed, some of which are gone."""
    leave(whole, tmp_path, kind)
    shutil.copy(whole / "config.json", tmp_path)

    class Killed(BaseException):
        pass

    def cut_short(path, **named):
        for file in sorted(path.iterdir())[:removed]:
            file.unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut_short)
        with pytest.raises(Killed):
            experiment.run(settings(), tmp_path)
    experiment.run(settings(), tmp_path)
    assert content(tmp_path) == content(whole)
    assert not (tmp_path / kind).exists()
