"""Read compressed files and archives that users bring, within limits.

A few kilobytes can unfold to gigabytes. So nothing is decompressed at once: content
comes in pieces, up to a number of bytes that the caller sets, and headers that tarfile
and zipfile read whole are limited, too.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import functools
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from lrjax.common import files

XZ_MEMORY = 2**27  # bytes for decoding .xz; what `xz -9` writes needs 65 MiB
PIECE = 2**20  # bytes: read at once, and largest header of an archive
_PLAIN_ZIP = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class _Gzip:
    """A decoder of gzip with the interface of `bz2.BZ2Decompressor`."""

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    def decompress(self, content: bytes, most: int) -> bytes:
        piece = self._decoder.decompress(self._decoder.unconsumed_tail + content, most)
        self.needs_input = len(piece) < most
        return piece


_DECODERS = {
    ".bz2": bz2.BZ2Decompressor,
    ".xz": functools.partial(lzma.LZMADecompressor, memlimit=XZ_MEMORY),
    ".gz": _Gzip,
}
ENDINGS = tuple(_DECODERS)
_BEGINNINGS = {b"BZh": ".bz2", b"\xfd7zXZ\0": ".xz", b"\x1f\x8b": ".gz"}


class _Unpacked(io.RawIOBase):
    """The content of a compressed file, of one stream or several, up to a limit."""

    def __init__(self, file: BinaryIO, ending: str, most: int) -> None:
        self._file, self._ending, self._most = file, ending, most
        self._begin()

    def _begin(self) -> None:
        """Start at the beginning."""
        self._file.seek(0)
        self._decoder: Any = _DECODERS[self._ending]()
        self._rest = b""  # read from the file, not yet decoded
        self._at = 0  # bytes of content so far
        self._ended = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._file.close()
        super().close()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place of the content; going back decodes it again."""
        if whence == os.SEEK_CUR:
            offset += self._at
        elif whence != os.SEEK_SET:
            raise io.UnsupportedOperation("the size of the content is not known")
        if offset < self._at:
            self._begin()
        while self._at < offset and self.read(min(offset - self._at, PIECE)):
            pass
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Decode the next bytes.

        Raises:
          OSError: if the content is longer than the limit.
          EOFError: if the file ends too early.
        """
        view = memoryview(buffer)
        while not self._ended:
            content = b""
            if self._decoder.needs_input:
                content = self._rest or self._file.read(PIECE // 16)
                self._rest = b""
                if not content:
                    raise EOFError("it ends too early")
            piece = self._decoder.decompress(content, len(view))
            if self._decoder.eof:
                self._next_stream()
            if piece:
                view[: len(piece)] = piece
                self._at += len(piece)
                if self._at > self._most:
                    raise too_large(self._most)
                return len(piece)
        return 0

    def _next_stream(self) -> None:
        """Look for another stream behind the one that ended; zeros may lie between."""
        rest = self._decoder.unused_data.lstrip(b"\0")
        while not rest and (more := self._file.read(PIECE // 16)):
            rest = more.lstrip(b"\0")
        self._rest, self._ended = rest, not rest
        if rest:
            self._decoder = _DECODERS[self._ending]()


def too_large(most: int) -> OSError:
    """The error for content of more than `most` bytes."""
    return OSError(errno.EFBIG, f"it holds more than {most:,} bytes")


def open_given(
    path: str | os.PathLike[str], most: int, guess: bool = False
) -> io.BufferedReader:
    """Open a file that a user brings, decompressing .bz2, .xz and .gz.

    Args:
      path: the file.
      most: largest size in bytes, after decompression.
      guess: whether its first bytes say how it is compressed, and not its name.

    Raises:
      OSError: if it is not a regular file, is larger, or cannot be opened.
    """
    file = files.open_given(path)
    try:
        ending = os.path.splitext(path)[1]
        if guess:
            start = file.read(6)
            file.seek(0)
            found = (e for b, e in _BEGINNINGS.items() if start.startswith(b))
            ending = next(found, "")
        if ending in ENDINGS:
            return Guarded(_Unpacked(file, ending, most), PIECE)
        if os.fstat(file.fileno()).st_size > most:
            raise too_large(most)
    except BaseException:
        file.close()
        raise
    return Guarded(file, PIECE)  # pyright: ignore[reportArgumentType]


class Guarded(io.BufferedReader):
    """A file of which no more than `PIECE` bytes can be read at once.

    tarfile and zipfile read headers whole, whatever size these claim.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        """Read some bytes.

        Raises:
          OSError: if it would be more than `PIECE`.
        """
        wanted = PIECE + 1 if size is None or size < 0 else min(size, PIECE + 1)
        content = super().read(wanted)
        if len(content) > PIECE:
            raise OSError(errno.EFBIG, f"a header has more than {PIECE:,} bytes")
        return content


@contextlib.contextmanager
def open_zip(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive that a user brings.

    Raises:
      OSError: if it is not a regular file, or its table of contents is too long.
    """
    with (
        files.open_given(path) as file,
        Guarded(file, PIECE) as guarded,  # pyright: ignore[reportArgumentType]
        zipfile.ZipFile(guarded) as archive,
    ):
        yield archive


def open_member(archive: zipfile.ZipFile, name: str, most: int) -> Any:
    """Open a member of a zip archive for reading.

    Args:
      archive: as from `open_zip`.
      name: the member.
      most: largest size in bytes, after decompression.

    Raises:
      OSError: if it is larger, or compressed in a way that cannot be limited.
      KeyError: if there is no such member.
    """
    member = archive.getinfo(name)
    if member.file_size > most:
        raise too_large(most)
    if member.compress_type not in _PLAIN_ZIP:
        raise OSError(errno.ENOTSUP, "it is compressed, but not by deflate")
    return archive.open(member)
