"""Files are read and written through one module, which links and pipes cannot fool."""

import errno
import os
import stat
import threading

import pytest

from lrjax.common import files
from lrjax.core import UsageError

READERS = {
    "own": lambda path: files.read_own(path, 100),
    "given": lambda path: files.read_given(path, 100),
}
WRITERS = {
    "replace": lambda path: files.replace(path, b"new"),
    "open": lambda path: files.open_own(path, os.O_WRONLY).close(),
}


def not_regular(folder):
    """Things in a file's place, by name."""
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    return {
        "pipe": folder / "pipe",
        "folder": folder / "folder",
        "device": "/dev/null",
        "missing": folder / "missing",
        "null": str(folder / "a\0b"),
        "below a file": folder / "file" / "below",
    }


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "kind", ["pipe", "folder", "device", "missing", "null", "below a file"]
)
def test_only_regular_files_are_read_and_none_blocks(reader, kind, tmp_path):
    (tmp_path / "file").touch()
    path = not_regular(tmp_path)[kind]
    with pytest.raises(OSError, match=r".") as refused:
        READERS[reader](path)
    assert files.words(refused.value)
    assert "\n" not in files.words(refused.value)


def test_users_links_are_followed_and_own_are_not(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert files.read_given(tmp_path / "link", 100) == b"content"
    with pytest.raises(OSError, match="Too many levels") as refused:
        files.read_own(tmp_path / "link")
    assert "a link" in files.words(refused.value)


@pytest.mark.parametrize("reader", READERS)
def test_size_is_limited(reader, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert len(READERS[reader](tmp_path / "file")) == 100
    (tmp_path / "file").write_bytes(b"x" * 101)
    with pytest.raises(OSError, match="100"):
        READERS[reader](tmp_path / "file")


def test_a_size_that_the_system_does_not_tell_is_limited():
    assert files.read_given("/proc/self/status", 2**20).startswith(b"Name")
    with pytest.raises(OSError, match="10 bytes"):
        files.read_given("/proc/self/status", 10)


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link"])
def test_replacing_leaves_what_a_link_points_to(kind, tmp_path):
    other, path = tmp_path / "other", tmp_path / "path"
    if kind != "dangling link":
        other.write_bytes(b"other people's")
    path.hardlink_to(other) if kind == "hard link" else path.symlink_to(other)
    files.replace(path, "new")
    assert path.read_bytes() == b"new"
    assert not path.is_symlink()
    if kind == "dangling link":
        assert not other.exists()
    else:
        assert other.read_bytes() == b"other people's"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", ["folder", "null", "below a file"])
def test_what_cannot_be_written_is_refused(writer, kind, tmp_path):
    (tmp_path / "file").touch()
    path = not_regular(tmp_path)[kind]
    with pytest.raises((UsageError, OSError)):
        WRITERS[writer](path)
    assert (tmp_path / "folder").is_dir()
    assert not list(tmp_path.glob(".*"))


def test_a_failure_while_replacing_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.replace(path, "old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(UsageError, match=r"cannot write .*file: No space"):
            files.replace(path, "new")

    def fail():
        with files.replacing(path) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_reader_sees_the_old_or_the_new_file_whole(tmp_path):
    path, seen, done = tmp_path / "file", set(), threading.Event()
    files.replace(path, b"a" * 10**5)

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for letter in b"bcdefgh":
        files.replace(path, bytes([letter]) * 10**5)
    done.set()
    reader.join()
    assert seen <= {bytes([letter]) * 10**5 for letter in b"abcdefgh"}


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.replace(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_file_systems_that_cannot_flush_folders(number, tmp_path, monkeypatch):
    flush = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    files.replace(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("kind", ["link", "file"])
def test_own_folders_are_no_links(kind, tmp_path):
    outside, workdir = tmp_path / "outside", tmp_path / "workdir"
    outside.mkdir()
    workdir.mkdir()
    if kind == "link":
        (workdir / "report").symlink_to(outside)
    else:
        (workdir / "report").touch()
    with pytest.raises(UsageError, match="report"):
        files.make_folder(workdir / "report" / "figures", workdir)
    assert not list(outside.iterdir())
    files.remove_folder(workdir / "report")
    assert outside.exists()


def test_the_users_own_folder_may_be_a_link(tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "large")
    files.make_folder(tmp_path / "runs" / "report", tmp_path / "runs")
    assert (tmp_path / "large" / "report").is_dir()


def test_only_our_own_unfinished_files_are_removed(tmp_path):
    kept = [".tmp", ".0123456789abcdef.text", "0123456789abcdef.tmp", ".lock"]
    for name in [*kept, ".0123456789abcdef.tmp"]:
        (tmp_path / name).touch()
    files.remove_unfinished(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted(kept)
