"""What was appended is read once, in whole lines, whatever becomes of the file."""

import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrjax.watch import tail as tail_lib
from lrjax.watch.tail import Tail


def read(tail):
    """All lines that are new."""
    return b"".join(tail.pieces()) if tail.changed() else b""


LINES = st.lists(st.sampled_from([b"a", b"bc\n", b"\n", b"\r\0"]), max_size=40)


@given(LINES.map(b"".join), st.lists(st.floats(0, 1), max_size=6))
@settings(max_examples=60)
def test_any_split_of_appends_gives_the_same_lines(tmp_path_factory, content, cuts):
    path = tmp_path_factory.mktemp("tail") / "table"
    tail, got = Tail(path), b""
    ends = [0, *sorted(int(cut * len(content)) for cut in cuts), len(content)]
    for begin, end in itertools.pairwise(ends):
        with path.open("ab") as file:
            file.write(content[begin:end])
        got += read(tail)
    assert got == content[: content.rfind(b"\n") + 1]
    assert read(tail) == b""


def test_what_could_not_be_read_is_read_later(tmp_path):
    path, tail = tmp_path / "table", Tail(tmp_path / "table")
    (tmp_path / "elsewhere").write_bytes(b"a\n")
    path.symlink_to(tmp_path / "elsewhere")
    for _ in range(3):  # the fault does not pass by itself
        with pytest.raises(OSError, match="symbolic"):
            read(tail)
    path.unlink()
    path.write_bytes(b"b\n")
    assert read(tail) == b"b\n"


def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path):
    tail = Tail(tmp_path / "folder" / "table")
    assert tail.changed() is False
    (tmp_path / "folder").mkdir()
    tail.path.write_bytes(b"a\n")
    assert read(tail) == b"a\n"


def test_a_torn_last_line_that_is_cut_off_is_no_other_file(tmp_path):
    """As a training does when it is started again."""
    tail = Tail(tmp_path / "table")
    tail.path.write_bytes(b"a\nb")
    assert read(tail) == b"a\n"
    with tail.path.open("r+b") as file:
        file.truncate(2)
    assert tail.changed() is True
    assert read(tail) == b""
    with tail.path.open("ab") as file:
        file.write(b"c\n")
    assert read(tail) == b"c\n"


def replaced(path):
    new = path.with_name("new")
    new.write_bytes(b"other\nlonger than before\n")
    new.replace(path)


CHANGES = {
    "replaced": replaced,
    "removed": os.unlink,
    "shorter": lambda path: path.write_bytes(b"a\n"),
    "written anew": lambda path: path.write_bytes(b"x\ny\nz\nand more\n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_file_is_noticed(tmp_path, change):
    tail = Tail(tmp_path / "table")
    tail.path.write_bytes(b"a\nb\nc\n")
    read(tail)
    CHANGES[change](tail.path)
    assert tail.changed() is None


def test_a_line_without_an_end_takes_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tail_lib, "_PIECE", 100)
    tail = Tail(tmp_path / "table")
    tail.path.write_bytes(b"first\n" + b"x" * 950)
    assert read(tail) == b"first\n"
    with tail.path.open("ab") as file:
        file.write(b"y" * 80 + b"\nsecond\n")
    assert read(tail) == b"second\n"
    assert tail.skipped == 1


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_other_things_in_its_place_are_refused(tmp_path, kind):
    path = tmp_path / "table"
    (tmp_path / "other").write_bytes(b"other people's\n")
    if kind == "link":
        path.symlink_to(tmp_path / "other")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    tail = Tail(path)
    assert tail.changed()
    with pytest.raises(OSError, match=r"."):
        list(tail.pieces())
