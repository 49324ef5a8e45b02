"""Files are read and written through one module, which links and pipes cannot fool."""

import ast
import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from lrjax.common import files
from lrjax.core import UsageError

ROOT = Path(__file__).parent.parent
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


def test_files_below_a_folder_are_found_once_through_links_and_circles(tmp_path):
    top, other = tmp_path / "top", tmp_path / "other"
    for folder in (top / "b" / "run", other):
        folder.mkdir(parents=True)
        (folder / "x.log").touch()
    (top / "a_latest").symlink_to(top / "b" / "run")
    (top / "b" / "back").symlink_to(top)
    (top / "linked").symlink_to(other)
    (other / "back").symlink_to(other)
    found = {str(p.relative_to(top)) for p in files.found_below(top, "*.log")}
    assert found == {"b/run/x.log", "linked/x.log"}


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path, monkeypatch):
    def refused(_):
        raise PermissionError(errno.EACCES, "Permission denied", "x")

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PermissionError):
        next(files.found_below(tmp_path, "*"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENAMETOOLONG, errno.ESTALE])
def test_what_may_not_be_looked_at_is_not_missing(tmp_path, monkeypatch, number):
    """Tests may run as a user to whom the system refuses nothing."""
    path = tmp_path / "private" / "x"

    def refused(*_, **__):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "lstat", refused)
    with pytest.raises(UsageError, match=os.strerror(number)):
        files.expanded(path)
    assert files.is_there(path)  # whoever opens it is told why it cannot be


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


# Calls that reach the file system, by the last part of what is called, or the whole.
REACHING = {
    *(
        "open",
        "read_text",
        "read_bytes",
        "write_text",
        "write_bytes",
        "memmap",
        "touch",
    ),
    *(
        "fromfile",
        "loadtxt",
        "genfromtxt",
        "savefig",
        "to_csv",
        "to_parquet",
        "to_json",
    ),
    *("to_pickle", "read_csv", "read_table", "read_parquet", "read_json", "read_excel"),
    *("unlink", "rmdir", "mkdir", "makedirs", "truncate", "symlink_to", "hardlink_to"),
    *("symlink", "rmtree", "copyfile", "copytree", "mkstemp", "mkdtemp", "urlopen"),
    *(
        "TemporaryDirectory",
        "NamedTemporaryFile",
        "TemporaryFile",
        "SummaryWriter",
        "ZipFile",
        "TarFile",
    ),
    *(
        "np.load",
        "np.save",
        "np.savez",
        "np.savez_compressed",
        "os.replace",
        "os.rename",
    ),
    *("os.remove", "os.link", "json.load", "json.dump", "pickle.load", "pickle.loads"),
    *("mmap.mmap", "shutil.copy", "shutil.move", "os.read", "load_file", "save_file"),
}
_OPENED = "what files.py opened or read"
_RANDOM = "a temporary folder of a random name"
# file -> call -> why it need not be in files.py
BESIDE = {
    "lrjax/results.py": {
        "known.open": "opens by files.open_own",
        "self.open": "opens by files.open_own",
        "file.truncate": _OPENED,
    },
    "lrjax/launch/traces.py": {"path.read_bytes": "of lrjax's own modules"},
    "lrjax/tasks/bundled.py": {"np.loadtxt": "parses lines that are read already"},
    "lrjax/machine.py": {"read_text": "of /proc and of control groups"},
    "lrjax/common/temporary.py": {"tempfile.mkdtemp": _RANDOM},
    "lrjax/optim/learned.py": {
        "open": "lrjax.optim needs nothing else of lrjax; regular files only, too",
        "os.open": "as above",
        "zipfile.ZipFile": _OPENED,
        "members.open": _OPENED,
    },
    "lrjax/tables/lock.py": {"workdir.mkdir": "the directory that the user chose"},
    "lrjax/tables/parts.py": {
        "path.unlink": "a part that another has the rows of; unlinks a link itself",
        "parquet.read_table": _OPENED,
    },
    "lrjax/tables/reader.py": {"columnar.read_json": _OPENED},
    "lrjax/tasks/batches.py": {"np.memmap": "of a file that files.py made"},
    "lrjax/tasks/tokens.py": {"part.mkdir": _RANDOM, "np.memmap": _OPENED},
    "lrjax/tasks/data.py": {"_INTERNET.open": "an address, with https and limits"},
    "lrjax/tasks/labelled_text.py": {"data.read_bytes": "reads by files.open_given"},
    "lrjax/tasks/table.py": {
        "data.read_bytes": "reads by files.open_given",
        "pd.read_csv": _OPENED,
    },
    "lrjax/launch/checkpoint.py": {"np.load": _OPENED, "np.savez": _OPENED},
    "lrjax/tasks/image_data.py": {
        "data.read_bytes": "reads by files.open_given",
        "Image.open": _OPENED,
        "tarfile.open": _OPENED,
    },
    "lrjax/common/packed.py": {"archive.open": _OPENED, "zipfile.ZipFile": _OPENED},
    "lrjax/common/sheets.py": {"to_csv": "to memory"},
    "lrjax/hpo/lengths.py": {"np.load": "of lrjax's own table"},
    "lrjax/hpo/prior.py": {
        "np.load": "of lrjax's own table",
        "path.read_bytes": "as above",
    },
    "lrjax/hpo/select.py": {"tempfile.TemporaryDirectory": _RANDOM},
    "lrjax/reports/rate_figure.py": {"figure.savefig": _OPENED},
    "lrjax/reports/drawing.py": {"figure.savefig": "to memory"},
    "lrjax/reports/export.py": {
        "to_parquet": _OPENED,
        "tempfile.TemporaryDirectory": _RANDOM,
        "tensorboardX.SummaryWriter": "in a temporary folder, moved from there",
    },
    "lrjax/reports/published.py": {"pd.read_csv": _OPENED},
    "lrjax/elsewhere/race_jobs.py": {"Race.open": "opens by files.open_own"},
    "lrjax/race/command.py": {
        "unlink": "in a job's own folder; unlinks a link itself",
        "code_file.unlink": "as above",
    },
    "lrjax/launch/dask_worker.py": {"tempfile.TemporaryDirectory": _RANDOM},
    "lrjax/launch/leftovers.py": {"os.rmdir": "removes empty folders only"},
    "lrjax/showing.py": {
        "open": "a pipe to this process's own child",
        "os.open": "the null device",
    },
    "lrjax/launch/process.py": {
        "os.open": "of /dev/null, in place of a closed stream",
        "open": "of a stream's number",
    },
}


def reaching_calls(path):
    """Calls of a file that reach the file system: the whole name, or its last part."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(
            node.func, ast.Name | ast.Attribute
        ):
            whole = ast.unparse(node.func)
            last = whole.rpartition(".")[2]
            if {whole, last} & REACHING:
                yield whole if whole.replace(".", "").isidentifier() else last


def test_all_files_are_read_and_written_in_one_place():
    found = {}
    for path in [ROOT / "main.py", *(ROOT / "lrjax").rglob("*.py")]:
        name = str(path.relative_to(ROOT))
        if name != "lrjax/common/files.py" and (calls := set(reaching_calls(path))):
            found[name] = calls
    assert found == {name: set(calls) for name, calls in BESIDE.items()}


@pytest.mark.parametrize(
    "code",
    [
        *("open('x')", "Path('x').read_text()", "np.load('x')", "Image.open('x')"),
        *("pd.read_csv('x')", "a.to_csv('x')", "os.replace('x', 'y')", "x.mkdir()"),
    ],
)
def test_such_calls_are_found(code, tmp_path):
    (tmp_path / "code.py").write_text(code)
    assert list(reaching_calls(tmp_path / "code.py"))
