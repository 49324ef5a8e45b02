"""Finds, downloads and reads data files; fingerprints of arrays."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import time
import urllib.error
import urllib.request
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lrjax import console, machine
from lrjax.common import files, packed
from lrjax.common import reading as reading_lib
from lrjax.core import UsageError

# Limits, each of which bounds the memory that a file can take.
MAX_BYTES = 2**30  # per file, stored and decompressed
MAX_LINE = 2**25  # bytes in a line of an svmlight file: 10^6 entries of 32
MAX_FEATURES = 10**6
MAX_ROWS = 2**24  # each has a label and a count of entries
MAX_ELEMENTS = 2**27  # per dense array: 1 GiB in float64
_LONGEST_NOTE = 2**12  # bytes of a file with a checksum
TIMEOUT = 30.0  # seconds to wait for an answer
TIME_LIMIT = 1800.0  # seconds for one download

_AT_ONCE = 2**24  # numbers of a large array that are looked at together
_BLOCK = 2**18  # numbers of an svmlight file that are checked at once


class DataError(UsageError):
    """A task or its data is not available; the message is one line: what and where."""


# Reading

# Context manager around every decoder: turns its exceptions into one-line DataErrors.
reading = functools.partial(reading_lib.reading, kind=DataError)


def is_hidden(name: str) -> bool:
    """Whether a file name is hidden or a leftover of an editor.

    Hidden: .book.txt, macOS's ._book.txt. Leftovers: book.txt~, #book.txt#, ~$book.txt.
    """
    left = name.endswith("~") or (name.startswith("#") and name.endswith("#"))
    return name.startswith((".", "~$")) or left


def read_bytes(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """Read a file, decompressing .bz2, .xz and .gz.

    Raises:
      DataError: if the file is missing, unreadable, not a regular file, damaged, or
        holds more than `max_bytes` after decompression.
    """
    with reading(path), _open(path, max_bytes) as file:
        return b"".join(iter(lambda: file.read(packed.PIECE), b""))


def _open(path: str | os.PathLike[str], max_bytes: int) -> io.BufferedReader:
    """Open a data file; see `packed.open_given`."""
    if not os.fspath(path):
        raise DataError("no data file is named")
    if not os.path.lexists(path):
        raise DataError(f"{path}: no such file")
    return packed.open_given(path, max_bytes)


def check_regular(folder: Path) -> None:
    """Refuse pipes and devices in a folder that a library will read.

    Raises:
      DataError: if there is one.
    """
    for path in folder.rglob("*"):
        if files.is_there(path):
            with reading(path), files.open_given(path):
                pass


def read_svmlight(
    path: str | os.PathLike[str], max_bytes: int = MAX_BYTES
) -> tuple[np.ndarray, np.ndarray]:
    """Read an svmlight file, plain or compressed.

    Args:
      path: the file.
      max_bytes: largest size after decompression.

    Returns:
      dense features [rows, largest index] and labels [rows], both float64.

    Raises:
      DataError: as `read_bytes` and `parse_svmlight`.
    """
    return _parse(_lines(path, max_bytes), str(path))


def _lines(path: str | os.PathLike[str], max_bytes: int) -> Iterator[bytes]:
    """Yield the lines of a file, decompressed; a line above `MAX_LINE` in pieces."""
    with reading(path), _open(path, max_bytes) as file:
        yield from iter(functools.partial(file.readline, MAX_LINE + 1), b"")


def parse_svmlight(text: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Parse lines of the form `label index:value index:value ... # comment`.

    Indices start at 1 and increase along a line; absent ones have value 0. Empty
    lines and lines with only a comment are skipped. Lines end in LF or CRLF.

    Args:
      text: content of the file.
      where: name of the file, for messages.

    Returns:
      dense features [rows, largest index] and labels [rows], both float64.

    Raises:
      DataError: for text in another format, with the line's number; for numbers that
        are not finite, and for more or larger numbers than the limits of this module.
    """
    return _parse(io.BytesIO(text), where)


class _Rows(NamedTuple):
    """Some rows of an svmlight file.

    Attributes:
      labels: float64 [rows].
      counts: int32 [rows], number of entries.
      indices: int32 [entries], those of all rows concatenated, from 1.
      values: float64 [entries].
    """

    labels: np.ndarray
    counts: np.ndarray
    indices: np.ndarray
    values: np.ndarray


def _parse(lines: Iterable[bytes], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Parse an svmlight file of lines; see `parse_svmlight`."""
    blocks: list[_Rows] = []
    rows = columns = 0
    for block in _blocks(lines, where):
        rows += len(block.labels)
        columns = max(columns, int(block.indices.max(initial=0)))
        if rows > MAX_ROWS:
            raise DataError(f"{where}: has more than {MAX_ROWS:,} rows")
        if rows * columns > MAX_ELEMENTS:
            raise DataError(
                f"{where}: {rows:,} rows x {columns:,} features, or more, are more "
                f"than {MAX_ELEMENTS:,} numbers"
            )
        blocks.append(block)
    if not rows:
        raise DataError(f"{where}: holds no rows")
    if not columns:
        raise DataError(f"{where}: holds no features")
    features = np.zeros((rows, columns))
    start = 0
    for block in blocks:
        stop = start + len(block.labels)
        at = np.repeat(np.arange(start, stop), block.counts)
        features[at, block.indices - 1] = block.values
        start = stop
    return features, np.concatenate([block.labels for block in blocks])


def _blocks(lines: Iterable[bytes], where: str) -> Iterator[_Rows]:
    """Yield the rows of an svmlight file in blocks, checked."""
    labels, values = array("d"), array("d")
    indices, counts, numbers = array("i"), array("i"), array("q")
    known = False  # whether a line was right, so that it is an svmlight file
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE:
            raise DataError(f"{where}: line {number} has more than {MAX_LINE:,} bytes")
        if b"\r" in line and b"\r" in line.removesuffix(b"\r\n"):
            # After a comment it would hide the next row.
            raise DataError(
                f"{where}: line {number}: CR alone does not end a line; LF does"
            )
        line = line.partition(b"#")[0]
        tokens = line.split(None, MAX_FEATURES + 1)
        if not tokens:
            continue
        # [index, ':', value, index, ':', value, ...]
        count = len(tokens) - 1
        pieces = b" ".join(tokens[1:]).replace(b":", b" : ").split(None, 3 * count)
        sound = len(pieces) == 3 * count and pieces[1::3] == [b":"] * count
        sound = sound and count <= MAX_FEATURES
        sound = sound and b"_" not in line  # Python alone reads 1_0 as a number
        try:
            if sound:
                labels.append(float(tokens[0]))
                indices.extend(map(int, pieces[0::3]))
                values.extend(map(float, pieces[2::3]))
        except (ValueError, OverflowError):
            sound = False
        if not sound:
            raise DataError(f"{where}: line {number}: {_complaint(tokens, known)}")
        known = True
        counts.append(count)
        numbers.append(number)
        if len(values) + len(labels) > _BLOCK:
            yield _checked(labels, counts, indices, values, numbers, where)
            labels, values = array("d"), array("d")
            indices, counts, numbers = array("i"), array("i"), array("q")
    yield _checked(labels, counts, indices, values, numbers, where)


def _checked(
    labels: array,
    counts: array,
    indices: array,
    values: array,
    numbers: array,
    where: str,
) -> _Rows:
    """Check the numbers of some rows.

    Args:
      labels, counts, indices, values: as in `_Rows`.
      numbers: [rows], numbers of lines, for messages.
      where: name of the file, for messages.

    Raises:
      DataError: for a number out of range, with the line's number.
    """
    block = _Rows(*map(np.asarray, (labels, counts, indices, values)))
    at = np.repeat(np.arange(len(labels)), block.counts)
    first = np.diff(at, prepend=-1) > 0
    steps = np.diff(block.indices, prepend=0)
    problems = (
        (~np.isfinite(block.labels), np.arange(len(labels)), "the label is not finite"),
        (~np.isfinite(block.values), at, "a value is not finite"),
        (block.indices < 1, at, "an index is below 1"),
        (block.indices > MAX_FEATURES, at, f"an index is above {MAX_FEATURES:,}"),
        ((steps <= 0) & ~first, at, "the indices do not increase"),
    )
    for wrong, row, reason in problems:
        if wrong.any():
            number = numbers[row[wrong.argmax()]]
            raise DataError(f"{where}: line {number}: {reason}")
    return block


# Possessive quantifiers, so that a very long token causes no backtracking.
_NUMBER = rb"[+-]?+(\d++\.?+\d*+|\.\d++)([eE][+-]?+\d++)?+"


def _complaint(tokens: Sequence[bytes], known: bool) -> str:
    """Say what is wrong with a line that does not parse.

    Args:
      tokens: what is between white space.
      known: whether to quote it; if no line before was right, the file may be any file,
        the content of which is nobody's business.
    """

    def quoted(what: str, token: bytes) -> str:
        return f"{what} {_shown(token)}" if known else what

    if not re.fullmatch(_NUMBER, tokens[0]):
        return f"{quoted('the label', tokens[0])} is not a number"
    for number, token in enumerate(tokens[1:], 1):
        if number > MAX_FEATURES:
            return f"it has more than {MAX_FEATURES:,} entries"
        if token.startswith(b"qid:"):
            return "qid: belongs to ranking, not to classification"
        if not re.fullmatch(rb"[+-]?+\d++:" + _NUMBER, token):
            return f"{quoted(f'entry {number}', token)} is not index:value"
    return f"an index is above {MAX_FEATURES:,}"


def _shown(token: bytes) -> str:
    """Format a token for a message: short, printable, in quotes."""
    text = token[:30].decode("ascii", "backslashreplace")
    return repr(text + "..." if len(token) > 30 else text)


# Finding and downloading


def cache_dir() -> Path:
    """The folder for downloads: $LRJAX_CACHE, or ~/.cache/lrjax."""
    return files.expanded(os.environ.get("LRJAX_CACHE") or "~/.cache/lrjax")


def root(data_dir: str | None) -> Path | None:
    """The user's data directory: $LRJAX_DATA_DIR if None; None without one."""
    found = data_dir or os.environ.get("LRJAX_DATA_DIR")
    return files.expanded(found) if found else None


def find_file(names: Iterable[str], folders: Iterable[Path]) -> Path | None:
    """Find the first existing `folder/name`, plain or with .bz2, .xz or .gz.

    All names are tried in the first folder, then in the second, and so on.
    """
    names = list(names)
    for folder in folders:
        for name in names:
            for suffix in ("", *packed.ENDINGS):
                path = folder / (name + suffix)
                if files.is_there(path):
                    return path
    return None


def check_sha256(path: Path) -> None:
    """Compare a file with the checksum that `record_sha256` wrote, if there is one.

    Raises:
      DataError: if they differ or cannot be read.
    """
    note = _sha256_note(path)
    if not os.path.lexists(note):
        return
    with reading(note):
        expected = files.read_given(note, _LONGEST_NOTE).decode("utf-8", "replace")
    if expected.split()[:1] != [_sha256(path)]:
        raise DataError(
            f"{path}: its sha256 is not the one in {note.name}: the file has changed "
            "(delete both to start anew)"
        )


def record_sha256(path: Path) -> None:
    """Write a file's checksum to `<path>.sha256` in sha256sum's format, once.

    Raises:
      UsageError: if it cannot be written.
    """
    note = _sha256_note(path)
    if not os.path.lexists(note):
        files.replace(note, f"{_sha256(path)}  {path.name}\n")


def _sha256_note(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    with reading(path), files.open_given(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def download(
    url: str,
    folder: Path,
    check: Callable[[Path], Any] = lambda path: None,
    max_bytes: int = MAX_BYTES,
    time_limit: float = TIME_LIMIT,
) -> Path:
    """Download a file into a folder, atomically, and record its checksum.

    Args:
      url: an https address; its last part becomes the file's name.
      folder: a folder of lrjax, made if it does not exist.
      check: called with the path of the downloaded file before it is moved to its
        place; an exception discards the file.
      max_bytes: the largest size accepted.
      time_limit: seconds until the download is abandoned.

    Returns:
      The path of the file.

    Raises:
      UsageError: if the address is not https, the download fails, or the file cannot be
        written.
    """
    name = url.rsplit("/", 1)[-1]
    files.make_folder(folder, folder.parent)
    with files.writing(folder), files.scratch_folder(folder) as scratch:
        part = scratch / name
        with reading(url, ""):
            _fetch(url, part, max_bytes, time_limit)
        check(part)
        files.move(part, folder / name)
    record_sha256(folder / name)
    return folder / name


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https addresses only."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not newurl.startswith("https://"):
            fp.close()
            raise DataError(
                f"{req.full_url}: redirects to {newurl}, which is not https"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_INTERNET = urllib.request.build_opener(_HttpsOnly)


def _fetch(url: str, path: Path, max_bytes: int, time_limit: float) -> None:
    """Download an https address to a new file."""
    deadline = time.monotonic() + time_limit
    if not url.startswith("https://"):
        raise DataError(f"{url}: only https is allowed")
    try:
        answer = _INTERNET.open(url, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()  # else the connection stays open
        raise
    with answer, files.replacing(path) as file:
        length = answer.headers.get("Content-Length") or ""
        length = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
        with console.bar(
            total=length, unit="B", unit_scale=True, desc=path.name
        ) as bar:
            size = 0
            # read1 returns what has arrived, so a slow server cannot pass the deadline.
            while chunk := answer.read1(packed.PIECE):
                size += len(chunk)
                if size > max_bytes:
                    raise DataError(f"{url}: larger than {max_bytes:,} bytes")
                if time.monotonic() > deadline:
                    raise DataError(f"{url}: took longer than {time_limit:.0f} s")
                file.write(chunk)
                bar.update(len(chunk))
    if length is not None and size != length:
        raise DataError(f"{url}: ended after {size:,} of {length:,} bytes")


# Fingerprints


def stays_on_host(arrays: Iterable[np.ndarray], stream: bool | None) -> bool:
    """Whether to keep a training part on the host and copy batches to the device.

    Args:
      arrays: the part's arrays.
      stream: the task's option; None: True if the part would take more than half of an
        accelerator's free memory.
    """
    if stream is not None:
        return stream
    device = jax.local_devices()[0]
    size = sum(array.nbytes for array in arrays)
    return device.platform != "cpu" and size > machine.free_memory(device) / 2


def pieces(array: Any) -> Iterator[Any]:
    """Go through an array's rows, many at a time; it may be larger than memory."""
    rows = max(_AT_ONCE // max(array[:1].size, 1), 1)
    for first in range(0, len(array), rows):
        yield array[first : first + rows]


def fingerprint_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """The sha256 of named arrays, their dtypes and shapes, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        # The `str` of bfloat16, int4 and the like is that of raw bytes.
        kind = array.dtype.name if array.dtype.kind == "V" else array.dtype.str
        digest.update(f"{name} {kind} {array.shape}\n".encode())
        for piece in pieces(array):
            digest.update(piece.tobytes())
    return digest.hexdigest()
