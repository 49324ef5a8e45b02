"""Finds and reads text, and cuts it into documents."""

from __future__ import annotations

import codecs
import glob
import hashlib
import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lrjax.common import files as files_lib
from lrjax.common import packed
from lrjax.common.reading import reason
from lrjax.core import listed, shown
from lrjax.tasks import data
from lrjax.tasks.data import DataError
from lrjax.tasks.options import Text

MAX_CHARACTERS = 10**6  # per document; longer ones are cut, at a line's end if any
MAX_TEXT = 2**36  # bytes per file, decompressed; Wikipedia has a third of it
MAX_LINE = 2**27  # bytes; a line is kept in memory whole
_SEED = 0  # for drawing a fraction of the documents
_ENDINGS = (".txt", ".txt.xz", ".txt.gz", ".txt.bz2")
_FOLDERS = ("bookwiki", "text", "")  # searched for text in a data directory


class Corpus(NamedTuple):
    """A collection of documents that can be iterated over repeatedly.

    Attributes:
      name: for messages.
      fingerprint: text that identifies the documents' content.
      documents: returns an iterator over the documents.
      count: number of documents; None if unknown.
      files: the files that the documents are read from, if any.
    """

    name: str
    fingerprint: str
    documents: Callable[[], Iterator[str]]
    count: int | None = None
    files: tuple[Path, ...] = ()


def find_corpus(text: Text, data_dir: str | None, embedded: bool) -> Corpus:
    """Find the corpus that the options name, or the data directory's text files.

    Args:
      text: the options.
      data_dir: the data directory; $LRJAX_DATA_DIR if None.
      embedded: whether to fall back to Python's bundled documentation.

    Raises:
      DataError: if there is no text.
    """
    if text.corpus:
        parts = [_corpus(name, data_dir) for name in sources(text)]
        if not parts:
            raise DataError(f"config.text.corpus={shown(text.corpus)} names nothing")
        return parts[0] if len(parts) == 1 else _joined(parts)
    searched = folders(data_dir)
    for folder in searched:
        files = _text_files(folder)
        if files:
            return _from_files(files, str(folder))
    if embedded:
        return _embedded()
    where = ", ".join(map(str, searched)) or "no data directory is named"
    raise DataError(
        f"there are no text files ({where}): give --data_dir, or --config.text.corpus"
    )


def sources(text: Text) -> list[str]:
    """Split `config.text.corpus` into paths, globs and names of library data sets."""
    if os.path.exists(os.path.expanduser(text.corpus)):
        return [text.corpus]  # its name may have a comma
    return [name.strip() for name in text.corpus.split(",") if name.strip()]


def folders(data_dir: str | None) -> list[Path]:
    """Folders of a data directory to search for text, in this order."""
    root = data.root(data_dir)
    return [root / name for name in _FOLDERS] if root else []


def _text_files(folder: Path) -> list[Path]:
    """List the text files in a folder, without hidden ones."""
    with data.reading(folder):
        if not folder.is_dir():
            return []
        return [
            path
            for path in sorted(folder.iterdir())
            if path.name.endswith(_ENDINGS)
            and not data.is_hidden(path.name)
            and files_lib.is_there(path)
        ]


def _named(name: str) -> list[Path]:
    """List the files that match a path or glob.

    A part of the path that exists literally is not treated as a pattern. Hidden files
    match only if a part of the pattern begins with a dot.
    """
    paths = [""]
    for part in Path(os.path.expanduser(name)).parts:
        paths = [path for base in paths for path in _below(base, part)]
    return [Path(path) for path in sorted(set(paths)) if files_lib.is_there(path)]


def _below(base: str, part: str) -> list[str]:
    """Paths under `base` that match one part of a path or glob."""
    path = os.path.join(base, part)
    if os.path.lexists(path):
        return [path]
    matches = glob.glob(os.path.join(glob.escape(base), part), recursive=True)
    named = part.startswith(".")
    return [path for path in matches if named or not _is_hidden_below(base, path)]


def _is_hidden_below(base: str, path: str) -> bool:
    """Whether a part of `path` after `base` is hidden."""
    return any(map(data.is_hidden, Path(os.path.relpath(path, base or ".")).parts))


def _corpus(name: str, data_dir: str | None) -> Corpus:
    """The corpus that one entry of `sources` names."""
    if name == "pydoc":
        return _embedded()
    kind, _, rest = name.partition(":")
    if kind == "tfds":
        return _from_tfds(rest, data_dir)
    if kind == "hf":
        return _from_datasets(rest)
    with data.reading(shown(name)):  # raises for example if the name is too long
        path = Path(os.path.expanduser(name))
        files = _text_files(path) if path.is_dir() else _named(name)
    if not files:
        raise DataError(f"{name}: no text files there")
    return _from_files(files, name)


def _joined(parts: Sequence[Corpus]) -> Corpus:
    """One corpus with the documents of several, one after the other."""
    counts = [part.count for part in parts]
    return Corpus(
        ", ".join(part.name for part in parts),
        " ".join(part.fingerprint for part in parts),
        lambda: itertools.chain.from_iterable(part.documents() for part in parts),
        None if None in counts else sum(count or 0 for count in counts),
        tuple(path for part in parts for path in part.files),
    )


def subset(corpus: Corpus, fraction: float) -> Corpus:
    """Keep each document with probability `fraction`, the same ones every time."""
    if fraction == 1:
        return corpus

    def documents() -> Iterator[str]:
        draw = random.Random(_SEED)
        for document in corpus.documents():
            if draw.random() < fraction:
                yield document

    count = None if corpus.count is None else round(fraction * corpus.count)
    return corpus._replace(documents=documents, count=count)


def _embedded() -> Corpus:
    """Python's bundled language reference, one document per paragraph."""
    from pydoc_data.topics import topics

    lines = [
        line for name in sorted(topics) for line in (*topics[name].split("\n"), "")
    ]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return Corpus("pydoc", digest, lambda: paragraphs(lines))


def _from_files(files: Sequence[Path], name: str) -> Corpus:
    """The corpus in text files, one document per paragraph."""
    digest = hashlib.sha256()
    for path in files:
        with data.reading(path), files_lib.open_given(path) as file:
            content: Any = file
            digest.update(hashlib.file_digest(content, "sha256").digest())

    def documents() -> Iterator[str]:
        for path in files:
            yield from paragraphs(read_lines(path))

    return Corpus(name, digest.hexdigest(), documents, files=tuple(files))


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, plain or compressed, ending in LF, CRLF or CR.

    Raises:
      DataError: if the file cannot be read or is larger than `MAX_TEXT`, or a line is
        longer than `MAX_LINE` or is not UTF-8, with its number.
    """
    count = 0
    for stretch in _stretches(path):
        if not count:
            stretch = stretch.removeprefix(codecs.BOM_UTF8)
        try:
            text = stretch.decode()
        except UnicodeDecodeError as error:
            before = stretch[: error.start].replace(b"\r\n", b"\n")
            before = before.replace(b"\r", b"\n")
            number = count + 1 + before.count(b"\n")
            at = len(before) - before.rfind(b"\n") - 1
            wide = stretch.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            hint = ": it begins like UTF-16" if wide and not count else ""
            raise DataError(
                f"{path}: line {number}: byte 0x{stretch[error.start]:02x} at {at} "
                f"is not UTF-8 text{hint}"
            ) from error
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        lines = text.removesuffix("\n").split("\n")
        if "\0" in text:
            number, line = next((n, x) for n, x in enumerate(lines, 1) if "\0" in x)
            raise DataError(
                f"{path}: line {count + number}: a zero byte at {line.index(chr(0))}: "
                "it is UTF-16 or not text"
            )
        yield from lines
        count += len(lines)


def _stretches(path: Path) -> Iterator[bytes]:
    """Yield the content of a file, decompressed, in stretches of whole lines."""
    held = bytearray()  # the beginning of a line
    with data.reading(path), packed.open_given(path, MAX_TEXT) as file:
        while piece := file.read(packed.PIECE):
            # A CR at the end may be half of CRLF.
            end = piece.rfind(b"\n") + 1 or piece.rfind(b"\r", 0, -1) + 1
            if end:
                yield bytes(held) + piece[:end]
                held.clear()
            held += piece[end:]
            if len(held) > MAX_LINE:
                raise DataError(f"{path}: a line has more than {MAX_LINE:,} bytes")
    if held:
        yield bytes(held)


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Yield documents: lines between blank lines or form feeds, joined by spaces."""
    gathered: list[str] = []
    size = 0
    for line in itertools.chain(lines, [""]):
        for number, part in enumerate(line.split("\f")):
            part = part.strip()
            ends = number > 0 or not part or size > MAX_CHARACTERS
            if ends and gathered:
                yield " ".join(gathered)
                gathered, size = [], 0
            if part:
                gathered.append(part)
                size += len(part)


def _from_tfds(name: str, data_dir: str | None) -> Corpus:
    """The corpus of a TFDS data set in array_record files; needs no TensorFlow."""
    import tensorflow_datasets as tfds

    root = data.root(data_dir)
    if root:
        data.check_regular(root / name.split(":")[0].split("/")[0])
    try:
        source: Any = tfds.data_source(
            name,
            split="train",
            data_dir=root,
            download=False,
            builder_kwargs={"file_format": "array_record"},
        )
        rows = len(source)
        version = str(getattr(source.dataset_info, "full_name", name))
    except Exception as error:  # TFDS passes on any error of its parts
        raise DataError(f"tfds:{name}: {reason(error)}") from error

    where = f"tfds:{name}"

    def documents() -> Iterator[str]:
        return _texts((source[i] for i in range(rows)), where)

    return Corpus(where, f"tfds {version} {rows}", documents, rows)


def _from_datasets(name: str) -> Corpus:
    """Split 'train' of a data set on the Hugging Face hub: 'NAME' or 'NAME:CONFIG'."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            f"hf:{name}: needs the package datasets (pip install datasets)"
        ) from error
    path, _, config = name.partition(":")
    try:
        # Loading scripts are other people's code; from version 4 on there are none.
        old = int(datasets.__version__.partition(".")[0]) < 4
        options: Any = {"trust_remote_code": False} if old else {}
        source: Any = datasets.load_dataset(
            path, config or None, split="train", **options
        )
        fingerprint = f"hf {name} {source._fingerprint} {len(source)}"
    except Exception as error:  # the library passes on any error of its parts
        raise DataError(f"hf:{name}: {reason(error)}") from error
    where = f"hf:{name}"
    return Corpus(where, fingerprint, lambda: _texts(source, where), len(source))


def _texts(rows: Iterable[Mapping[str, Any]], where: str) -> Iterator[str]:
    """Yield the field 'text' of a library's rows, except where it is None.

    Raises:
      DataError: if a row cannot be read, has no such field or is not UTF-8.
    """
    rows = iter(rows)
    for number in itertools.count():
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # damaged files; each library has its own errors
            raise DataError(f"{where}: row {number}: {reason(error)}") from error
        if "text" not in row:
            raise DataError(f"{where}: its rows have no 'text', but {listed(row)}")
        value = row["text"]
        try:
            value = value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: row {number} is not UTF-8 text") from error
        if value is not None:
            yield str(value)
