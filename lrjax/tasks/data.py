"""Finds, downloads and reads data files; fingerprints of arrays."""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import http.client
import io
import lzma
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
from array import array
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lrjax import machine
from lrjax.common import files
from lrjax.common import reading as reading_lib
from lrjax.common.reading import reason as _reason
from lrjax.core import UsageError

MAX_BYTES = 2**30  # per file, stored and decompressed
MAX_FEATURES = 10**6
MAX_ELEMENTS = 2**27  # per dense array: 1 GiB in float64
TIMEOUT = 30.0  # seconds to wait for an answer
TIME_LIMIT = 1800.0  # seconds for one download

_OPENERS = {".bz2": bz2.open, ".xz": lzma.open, ".gz": gzip.open}
_CHUNK = 2**20


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
      DataError: if the file is missing, unreadable, damaged, or holds more than
        `max_bytes` after decompression.
    """
    if not os.fspath(path):
        raise DataError("no data file is named")
    path = Path(path)
    content = bytearray()
    with reading(path):
        if not path.exists():
            raise DataError(f"{path}: no such file")
        if not path.is_file():
            raise DataError(f"{path}: not a regular file")
        with _OPENERS.get(path.suffix, open)(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                content += chunk
                if len(content) > max_bytes:
                    raise DataError(f"{path}: holds more than {max_bytes:,} bytes")
    return bytes(content)


def open_lines(path: Path) -> Generator[bytes]:
    """Yield the lines of a file, decompressing .bz2, .xz and .gz.

    Raises:
      DataError: if the file is unreadable or damaged.
    """
    with reading(path), _OPENERS.get(path.suffix, open)(path, "rb") as file:
        yield from file


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
    return parse_svmlight(read_bytes(path, max_bytes), str(path))


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
        are not finite, indices above MAX_FEATURES, and dense arrays above MAX_ELEMENTS.
    """
    labels, values, indices = array("d"), array("d"), array("q")
    ends, line_numbers = array("q"), array("q")
    lone = re.search(rb"\r(?!\n)", text)
    if lone:  # after a comment it would hide the next row
        number = text.count(b"\n", 0, lone.start()) + 1
        raise DataError(
            f"{where}: line {number}: CR alone does not end a line; LF does"
        )
    for number, line in enumerate(io.BytesIO(text), 1):
        line = line.partition(b"#")[0]
        tokens = line.split()
        if not tokens:
            continue
        # [index, ':', value, index, ':', value, ...]
        pieces = b" ".join(tokens[1:]).replace(b":", b" : ").split()
        colons = [b":"] * (len(tokens) - 1)
        try:
            labels.append(float(tokens[0]))
            indices.extend(map(int, pieces[0::3]))
            values.extend(map(float, pieces[2::3]))
            sound = pieces[1::3] == colons and len(pieces) == 3 * len(colons)
            sound = sound and b"_" not in line  # Python alone reads 1_0 as a number
        except (ValueError, OverflowError):
            sound = False
        if not sound:
            raise DataError(f"{where}: line {number}: {_complaint(tokens)}")
        ends.append(len(indices))
        line_numbers.append(number)
    return _dense(
        labels=np.asarray(labels),
        values=np.asarray(values),
        indices=np.asarray(indices),
        ends=np.asarray(ends),
        line_numbers=np.asarray(line_numbers),
        where=where,
    )


def _dense(
    labels: np.ndarray,
    values: np.ndarray,
    indices: np.ndarray,
    ends: np.ndarray,
    line_numbers: np.ndarray,
    where: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Check the numbers of a file and make dense features and labels.

    Args:
      labels: [rows].
      values, indices: [entries], those of all rows concatenated.
      ends: [rows], position in `values` after the row's last entry.
      line_numbers: [rows], from 1, for messages.
      where: name of the file, for messages.

    Raises:
      DataError: for a number out of range, with the line's number.
    """
    rows = np.repeat(np.arange(len(labels)), np.diff(ends, prepend=0))
    first = np.diff(rows, prepend=-1) > 0
    steps = np.diff(indices, prepend=0)
    problems = (
        (~np.isfinite(labels), np.arange(len(labels)), "the label is not finite"),
        (~np.isfinite(values), rows, "a value is not finite"),
        (indices < 1, rows, "an index is below 1"),
        (indices > MAX_FEATURES, rows, f"an index is above {MAX_FEATURES:,}"),
        ((steps <= 0) & ~first, rows, "the indices do not increase"),
    )
    for wrong, row, reason in problems:
        if wrong.any():
            number = line_numbers[row[wrong.argmax()]]
            raise DataError(f"{where}: line {number}: {reason}")
    if not len(labels):
        raise DataError(f"{where}: holds no rows")
    if not len(indices):
        raise DataError(f"{where}: holds no features")
    shape = (len(labels), int(indices.max()))
    if shape[0] * shape[1] > MAX_ELEMENTS:
        raise DataError(
            f"{where}: {shape[0]:,} rows x {shape[1]:,} features are more than "
            f"{MAX_ELEMENTS:,} numbers"
        )
    features = np.zeros(shape)
    features[rows, indices - 1] = values
    return features, labels


# Possessive quantifiers, so that a very long token causes no backtracking.
_NUMBER = rb"[+-]?+(\d++\.?+\d*+|\.\d++)([eE][+-]?+\d++)?+"


def _complaint(tokens: Sequence[bytes]) -> str:
    """Say what is wrong with a line that does not parse."""
    if not re.fullmatch(_NUMBER, tokens[0]):
        return f"the label {_shown(tokens[0])} is not a number"
    for token in tokens[1:]:
        if token.startswith(b"qid:"):
            return "qid: belongs to ranking, not to classification"
        if not re.fullmatch(rb"[+-]?+\d++:" + _NUMBER, token):
            return f"{_shown(token)} is not index:value"
    return f"an index is above {MAX_FEATURES:,}"


def _shown(token: bytes) -> str:
    """Format a token for a message: short, printable, in quotes."""
    text = token[:30].decode("ascii", "backslashreplace")
    return repr(text + "..." if len(token) > 30 else text)


# Finding and downloading


def cache_dir() -> Path:
    """The folder for downloads: $LRJAX_CACHE, or ~/.cache/lrjax."""
    return files.expanded(os.environ.get("LRJAX_CACHE") or "~/.cache/lrjax")


def find_file(names: Iterable[str], folders: Iterable[Path]) -> Path | None:
    """Find the first existing `folder/name`, plain or with .bz2, .xz or .gz.

    All names are tried in the first folder, then in the second, and so on.
    """
    names = list(names)
    for folder in folders:
        for name in names:
            for suffix in ("", *_OPENERS):
                path = folder / (name + suffix)
                if os.path.isfile(path):
                    return path
    return None


def check_sha256(path: Path) -> None:
    """Compare a file with the checksum that `record_sha256` wrote, if there is one.

    Raises:
      DataError: if they differ or cannot be read.
    """
    note = _sha256_note(path)
    try:
        if not note.exists():
            return
        expected = note.read_text("utf-8", "replace").split()[:1]
        matches = expected == [_sha256(path)]
    except OSError as error:
        raise DataError(f"{path}: {_reason(error)}") from error
    if not matches:
        raise DataError(
            f"{path}: its sha256 is not the one in {note.name}: the file has changed "
            "(delete both to start anew)"
        )


def record_sha256(path: Path) -> None:
    """Write a file's checksum to `<path>.sha256` in sha256sum's format, once.

    Raises:
      DataError: if it cannot be written.
    """
    note = _sha256_note(path)
    try:
        if note.exists():
            return
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            part = Path(scratch, note.name)
            part.write_text(f"{_sha256(path)}  {path.name}\n", "utf-8")
            os.replace(part, note)
    except OSError as error:
        raise DataError(f"{note}: {_reason(error)}") from error


def _sha256_note(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
      folder: created if it does not exist.
      check: called with the path of the downloaded file before it is moved to its
        place; an exception discards the file.
      max_bytes: the largest size accepted.
      time_limit: seconds until the download is abandoned.

    Returns:
      The path of the file.

    Raises:
      DataError: if the address is not https, or the download fails.
    """
    name = url.rsplit("/", 1)[-1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            part = Path(scratch, name)
            _fetch(url, part, max_bytes, time_limit)
            check(part)
            os.replace(part, folder / name)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # else the connection stays open
        raise DataError(f"{url}: {_reason(error)}") from error
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
    """Download an https address to a file."""
    from tqdm import tqdm

    deadline = time.monotonic() + time_limit
    if not url.startswith("https://"):
        raise DataError(f"{url}: only https is allowed")
    with _INTERNET.open(url, timeout=TIMEOUT) as answer, open(path, "wb") as file:
        length = answer.headers.get("Content-Length")
        length = int(length) if length and length.isdecimal() else None
        # disable=None: no bar if stderr is not a terminal.
        bar = tqdm(
            total=length, unit="B", unit_scale=True, desc=path.name, disable=None
        )
        with bar:
            size = 0
            # read1 returns what has arrived, so a slow server cannot pass the deadline.
            while chunk := answer.read1(_CHUNK):
                size += len(chunk)
                if size > max_bytes:
                    raise DataError(f"{url}: larger than {max_bytes:,} bytes")
                if time.monotonic() > deadline:
                    raise DataError(f"{url}: took longer than {time_limit:.0f} s")
                file.write(chunk)
                bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
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


def fingerprint_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """The sha256 of named arrays, their dtypes and shapes, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        # The `str` of bfloat16, int4 and the like is that of raw bytes.
        kind = array.dtype.name if array.dtype.kind == "V" else array.dtype.str
        digest.update(f"{name} {kind} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
