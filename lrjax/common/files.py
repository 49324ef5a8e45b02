"""Read and write files: lrjax's own, and those that users bring.

lrjax's own files (tables, checkpoints, reports, caches) are opened without following a
symbolic link, since on a shared disk a link may point to other people's files, and are
replaced atomically. Users' files may be links. Both must be regular files: opening a
pipe or a device might block for ever.

All of lrjax reads and writes through this module (tests/test_files.py lists the rest).
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import io
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from lrjax.messages import UsageError, cut, shown

# Flags of `os.open` that Windows lacks, and the one that only it needs: without, it
# would translate ends of lines.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_PLAIN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # of some file systems
_WORDS = {
    errno.ELOOP: "it is not a regular file but a link, which lrjax does not follow",
    errno.ENXIO: "it is not a regular file",  # a pipe without a reader
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EISDIR: "it is not a regular file but a folder",
    errno.EDQUOT: "the disk quota is used up",
}
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_TEMPORARY = ".tmp"  # ends the names of unfinished files, which begin with a dot


def words(error: BaseException) -> str:
    """Describe an error of the file system in a few words, without the path."""
    if isinstance(error, OSError):
        known = _WORDS.get(error.errno or 0)
        return known or error.strerror or type(error).__name__
    if isinstance(error, RecursionError):
        return "too many nested folders"
    return str(error)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of the file system into one line that names the path.

    Raises:
      UsageError: in place of an OSError.
    """
    try:
        yield
    except (OSError, RecursionError) as error:
        raise UsageError(f"cannot write {os.fspath(path)}: {words(error)}") from error


# Users' files.


def expanded(path: str | os.PathLike[str]) -> Path:
    """Turn a path that a user gave into one on this machine: `~` is a home directory.

    Shells leave `~` as it is in `--workdir=~/runs`. A folder of that name is `./~`.

    Raises:
      UsageError: if it is none, a user has no home directory, it is an address such as
        gs://bucket, which would make a folder `gs:` here, or the system refuses to say
        whether it is there.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"{shown(path)} is not a path")
    name = os.fspath(path)
    if _ADDRESS.match(name):
        raise UsageError(
            f"{shown(name)} is an address: lrjax reads and writes local folders only"
        )
    if "\0" in name:
        raise UsageError(f"{shown(name)}: a path cannot hold a null character")
    home = os.path.expanduser(name)
    if home.startswith("~"):
        first = home.partition(os.sep)[0]
        raise UsageError(
            f"{shown(name)}: {shown(first)} has no home directory; "
            "for a folder of this name write ./ before it"
        )
    try:
        os.lstat(home)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise UsageError(f"{cut(name)}: {words(error)}") from error
    return Path(home)


def open_given(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file that a user brings for reading; links are followed.

    Raises:
      OSError: if it is not a regular file, or cannot be opened.
    """
    return os.fdopen(_descriptor(path, os.O_RDONLY), "rb")


def read_given(path: str | os.PathLike[str], most: int) -> bytes:
    """Read a file that a user brings; links are followed.

    Args:
      path: the file.
      most: largest size in bytes.

    Raises:
      OSError: if it is not a regular file, is larger, or cannot be read.
    """
    with open_given(path) as file:
        return _content(file, most)


def found_below(folder: str | os.PathLike[str], pattern: str) -> Iterator[Path]:
    """Files below a folder that a user brings; links to other folders are followed.

    Args:
      folder: where to look.
      pattern: of their names, as for a shell.

    Raises:
      OSError: if a folder cannot be listed.
    """

    def failed(error: OSError) -> None:
        raise error

    top = Path(os.path.realpath(folder))
    seen = {top}
    for place, folders, names in os.walk(folder, onerror=failed, followlinks=True):
        yield from (Path(place, name) for name in fnmatch.filter(names, pattern))
        for name in [*folders]:
            path = Path(place, name)
            real = Path(os.path.realpath(path))
            # Of a folder below `folder`, its own name counts.
            if real in seen or (path.is_symlink() and top in real.parents):
                folders.remove(name)
            else:
                seen.add(real)


# lrjax's own files.


def open_own(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> io.FileIO:
    """Open one of lrjax's own files, unbuffered; refuse a link.

    Args:
      path: the file; with `os.O_CREAT` it is made if it is missing.
      flags: as for `os.open`.

    Raises:
      OSError: if it is a link or not a regular file, or cannot be opened.
    """
    if not _NO_FOLLOW and os.path.islink(path):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    handle = _descriptor(path, flags | _NO_FOLLOW)
    mode = {os.O_RDONLY: "rb", os.O_WRONLY: "wb", os.O_RDWR: "r+b"}[flags & _ACCESS]
    return io.FileIO(os.fspath(path), mode, opener=lambda *_: handle)


def read_own(path: str | os.PathLike[str], most: int = 2**40) -> bytes:
    """Read one of lrjax's own files; refuse a link.

    Raises:
      OSError: if it is a link, not a regular file or larger than `most` bytes, or
        cannot be read.
    """
    with open_own(path) as file:
        return _content(file, most)


def replace(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file atomically: afterwards it is whole, or as it was before.

    Args:
      path: the file; a link in its place is replaced, not followed.
      content: bytes, or text to be written in UTF-8.

    Raises:
      UsageError: if it cannot be written.
    """
    with replacing(path) as file:
        file.write(content if isinstance(content, bytes) else encoded(content))


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` once the code inside has ended.

    An exception inside leaves `path` as it was.

    Raises:
      UsageError: if it cannot be written.
    """
    path = Path(path)
    with writing(path):
        _check_name(path)
        _check_no_folder(path)
        temporary = path.with_name(f".{secrets.token_hex(8)}{_TEMPORARY}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW
        handle = os.open(temporary, flags | _PLAIN, 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


def write_all(file: io.FileIO, content: bytes, sync: bool = True) -> None:
    """Write all bytes to an unbuffered file.

    Args:
      file: to write to.
      content: what to write.
      sync: whether to flush it to the disk, so that it survives a power loss.
    """
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
    if sync:
        os.fsync(file.fileno())


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush a folder's entries to the disk, so that new files survive a power loss."""
    if sys.platform == "win32":  # which does not open folders
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def make_folder(path: str | os.PathLike[str], below: str | os.PathLike[str]) -> Path:
    """Make a folder of lrjax and those above it; refuse links.

    Args:
      path: the folder.
      below: a folder above it that the user chose, made as well; it may be a link.

    Returns:
      `path`.

    Raises:
      UsageError: if a folder below `below` is a link or a file, or cannot be made.
    """
    path, below = Path(path), Path(below)
    with writing(path):
        below.mkdir(parents=True, exist_ok=True)
        place = below
        for part in path.relative_to(below).parts:
            place = place / part
            with contextlib.suppress(FileExistsError):
                place.mkdir()
            mode = os.lstat(place).st_mode
            if stat.S_ISLNK(mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if not stat.S_ISDIR(mode):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return path


def check_folder(path: str | os.PathLike[str]) -> None:
    """Refuse what stands where lrjax will make a folder and write to it.

    Raises:
      UsageError: if it is a link, not a folder, or a folder that cannot be written to.
    """
    with writing(path):
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISLNK(mode):
            words = "it is a link, which lrjax does not follow here"
            raise OSError(errno.EEXIST, words)
        if not stat.S_ISDIR(mode):
            raise OSError(errno.EEXIST, "it is not a folder")
        if not os.access(path, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))


@contextlib.contextmanager
def scratch_folder(place: str | os.PathLike[str]) -> Iterator[Path]:
    """Make a folder of a random name in `place`, removed when the code inside ends.

    What is made in it can be moved to `place` by `move`.

    Raises:
      OSError: if it cannot be made.
    """
    with tempfile.TemporaryDirectory(_TEMPORARY, ".", place) as scratch:
        yield Path(scratch)


def nameless(place: str | os.PathLike[str]) -> BinaryIO:
    """Make a file without a name on the disk of the folder `place`.

    It lives while it is open or mapped, and goes with the process, even a killed one.

    Raises:
      UsageError: if it cannot be made.
    """
    with writing(place):
        return cast(BinaryIO, tempfile.TemporaryFile(dir=place))


@contextlib.contextmanager
def replacing_all(
    folder: str | os.PathLike[str], below: str | os.PathLike[str]
) -> Iterator[Path]:
    """Make files in an empty folder that take their places in `folder` together.

    Only once the code inside has ended are they moved, those of `folder` itself last:
    if the disk is full before, `folder` is as it was. Its other files stay.

    Args:
      folder: made if it is missing.
      below: as in `make_folder`.

    Raises:
      UsageError: if they cannot be made or moved.
    """
    folder = make_folder(folder, below)
    with contextlib.ExitStack() as stack:
        with writing(folder):
            scratch = stack.enter_context(scratch_folder(folder))
        try:
            yield scratch
        except UsageError as error:  # names a file; say where it was to be
            words = str(error).replace(f"{scratch.name}{os.sep}", "")
            raise UsageError(words) from error
        made = [path for path in scratch.rglob("*") if path.is_file()]
        moves = {path: folder / path.relative_to(scratch) for path in made}
        for target in moves.values():
            make_folder(target.parent, below)
            with writing(target):
                _check_no_folder(target)
        with writing(folder):
            for path in sorted(made, key=lambda path: (-len(path.parts), path)):
                os.replace(path, moves[path])
            for parent in {target.parent for target in moves.values()}:
                sync_folder(parent)


def move(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Move a file or folder to another name on the same disk, atomically.

    A link in the target's place is replaced, not followed; so is a file by a file.

    Raises:
      OSError: if it cannot be moved, for example because a folder is there.
    """
    if os.path.islink(target):  # a folder does not replace it
        os.unlink(target)
    os.replace(source, target)
    sync_folder(os.path.dirname(os.path.abspath(target)))


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether anything but a folder has this name: opening it says if it is a file.

    Or why it cannot be looked at.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return not os.path.isdir(path)


def make_private_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder that only this user may write to, and those above it.

    Returns:
      its path without links.

    Raises:
      OSError: if it is a link, belongs to another user, or if others may write to it or
        put another in its place.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.parent.resolve() / path.name
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700)
    facts = os.lstat(path)
    if stat.S_ISLNK(facts.st_mode):
        raise OSError(errno.ELOOP, "")
    if not stat.S_ISDIR(facts.st_mode):
        raise OSError(errno.ENOTDIR, "")
    if sys.platform == "win32":  # where a user's folders are the user's alone
        return path
    me = os.geteuid()
    if facts.st_uid != me:
        raise OSError(errno.EPERM, "it belongs to another user")
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(errno.EPERM, "other users may write to it")
    for folder in path.parents:
        facts = os.stat(folder)
        # In a folder such as /tmp only its owner and root may replace others' entries.
        kept = facts.st_mode & stat.S_ISVTX and facts.st_uid in (0, me)
        if facts.st_mode & stat.S_IWOTH and not kept:
            raise OSError(errno.EPERM, f"other users may write to {folder}")
    return path


def remove_folder(path: str | os.PathLike[str]) -> None:
    """Remove a folder and all in it, as far as possible; a link is only unlinked."""
    if os.path.islink(path):
        with contextlib.suppress(OSError):
            os.unlink(path)
        return
    shutil.rmtree(path, ignore_errors=True)  # does not follow links inside


def remove_at_once(path: str | os.PathLike[str]) -> None:
    """Remove a folder so that a kill leaves all of it, or nothing under its name.

    What is left under another name, `remove_unfinished` of the folder above removes.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}{_TEMPORARY}")
    with contextlib.suppress(OSError):
        os.replace(path, temporary)
        path = temporary
    remove_folder(path)


def remove_unfinished(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left of files that they were replacing or removing.

    Only for a folder that no other process writes to.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if not is_unfinished(name):
                continue
            if entry.is_dir(follow_symlinks=False):
                remove_folder(entry.path)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def is_unfinished(name: str) -> bool:
    """Whether a file or folder of this name is being replaced or removed."""
    return name[0] == "." and len(name) == 21 and name.endswith(_TEMPORARY)


def encoded(text: str) -> bytes:
    """Encode text in UTF-8; undecodable parts of file names become question marks."""
    return text.encode("utf-8", "replace")


def _descriptor(path: str | os.PathLike[str], flags: int) -> int:
    """Open a regular file without waiting for another process."""
    _check_name(path)
    handle = os.open(path, flags | _NO_WAIT | _PLAIN, 0o666)
    try:
        if stat.S_ISDIR(mode := os.fstat(handle).st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        if _NO_WAIT:
            os.set_blocking(handle, True)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _check_name(path: str | os.PathLike[str]) -> None:
    """Refuse a name that no file can have, for which Python raises ValueError."""
    if "\0" in os.fspath(path):
        raise OSError(errno.EINVAL, "its name holds a null character")


def _check_no_folder(path: Path) -> None:
    """Refuse a folder where a file is to be."""
    if path.is_dir() and not path.is_symlink():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))


def _content(file: io.FileIO | BinaryIO, most: int) -> bytes:
    """Read a whole open file of at most `most` bytes."""
    size = os.fstat(file.fileno()).st_size
    if size > most:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than {most:,}")
    pieces, left = [], most + 1  # a file may grow, and /proc says 0
    while left > 0 and (piece := file.read(min(left, max(size, 2**16)))):
        pieces.append(piece)
        left -= len(piece)
    if not left:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
