"""Text: where it comes from, its tokens, and rows of tokens for a model.

A corpus is tokenised once. Its tokens are kept in the cache as uint16, in a folder
whose name follows from the corpus and the tokenizer; documents are packed into rows
anew at each start, which takes seconds.
"""

from __future__ import annotations

import codecs
import collections
import contextlib
import dataclasses
import glob
import hashlib
import itertools
import json
import math
import os
import random
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrjax.core import counted, cut, shown
from lrjax.reading import reason as _reason
from lrjax.tasks import data
from lrjax.tasks.data import DataError
from lrjax.tasks.options import Text

START, PAD, END, UNKNOWN = range(4)  # numbers of special tokens, as in RoBERTa
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_MASK = "<mask>"
_SEED = 0  # of the choice of documents, and of their order
_BATCH_CHARACTERS = 4 * 10**6  # to tokenise at once; takes about 300 MB
_MAX_CHARACTERS = 10**6  # of a document; longer ones are cut, at a line's end if any
_TRAINING_CHARACTERS = 10**8  # of a corpus, that a tokenizer is trained on
_FORMAT = 1  # of the folders of tokens
_SPLITTING = 2  # how documents are told apart; part of what a folder is known by
_CHUNK = 2**22  # tokens to look at together
_ENDINGS = (".txt", ".txt.xz", ".txt.gz", ".txt.bz2")
_FOLDERS = ("bookwiki", "text", "")  # of a data directory, where text may lie
_HUB = "FacebookAI/roberta-base"


class Corpus(NamedTuple):
    """Documents, which can be read again and again.

    Attributes:
      name: for messages.
      fingerprint: follows from the documents.
      documents: gives them one after the other.
      count: how many; None if that is not known.
      files: that they are read from.
    """

    name: str
    fingerprint: str
    documents: Callable[[], Iterator[str]]
    count: int | None = None
    files: tuple[Path, ...] = ()


class Vocabulary(NamedTuple):
    """A byte-level BPE tokenizer with RoBERTa's special tokens.

    Attributes:
      tokenizer: of the library tokenizers.
      size: tokens.
      mask: number of the token that stands for a masked one.
      fingerprint: follows from the tokenizer.
    """

    tokenizer: Any
    size: int
    mask: int
    fingerprint: str


class Tokens(NamedTuple):
    """A tokenised corpus.

    Attributes:
      tokens: uint16, of all documents one after the other, without special ones.
      ends: int64, where each document ends.
      vocabulary: what the tokens mean.
    """

    tokens: np.ndarray
    ends: np.ndarray
    vocabulary: Vocabulary


def load(
    text: Text, data_dir: str | None, room: int, own: bool, embedded: bool
) -> Tokens:
    """The tokens of a corpus, from the cache if they are there.

    Args:
      text: which corpus and tokenizer.
      data_dir: where both are looked for; $LRJAX_DATA_DIR if None.
      room: the largest vocabulary that the model can have.
      own: whether the tokenizer is trained on the corpus unless one is named, instead
        of taking RoBERTa's where it can be had.
      embedded: whether the text that comes with Python will do.

    Raises:
      DataError: if one cannot be had, is empty or damaged, or they do not fit.
    """
    folder = Path(os.path.expanduser(text.corpus))
    if text.corpus and _is_file(folder / "meta.json"):
        if text.fraction != 1:
            raise DataError(
                f"config.text.fraction={text.fraction}: {folder} holds tokens, which "
                "are taken as a whole"
            )
        found = read_tokens(folder)
        if text.tokenizer:
            wanted = read_vocabulary(Path(os.path.expanduser(text.tokenizer)))
            if wanted.fingerprint != found.vocabulary.fingerprint:
                raise DataError(
                    f"{folder}: holds tokens of another tokenizer than {text.tokenizer}"
                )
        return _fitting(found, room, str(folder))
    corpus = find_corpus(text, data_dir, embedded)
    if text.tokenizer:
        vocabulary = read_vocabulary(Path(os.path.expanduser(text.tokenizer)))
    else:
        vocabulary = None if own else find_vocabulary(text, data_dir)
    if vocabulary is not None and vocabulary.size > room:
        raise DataError(_too_many(vocabulary.size, room, "the tokenizer"))
    which = vocabulary.fingerprint if vocabulary else f"trained {room}"
    key = hashlib.sha256(
        f"{_FORMAT}.{_SPLITTING}\n{corpus.fingerprint}\n{text.fraction!r}\n{which}".encode()
    ).hexdigest()[:16]
    place = data.cache_dir() / "text" / key
    if place.exists():
        try:
            return _fitting(read_tokens(place), room, str(place))
        except DataError as error:
            _say(f"warning: {error}; tokenising anew")
    for path in corpus.files:  # what is no text ends it here, before the long work
        collections.deque(_lines(path), maxlen=0)
    chosen = _subset(corpus, text.fraction)
    write_tokens(chosen, vocabulary or train_vocabulary(chosen, room), place)
    return _fitting(read_tokens(place), room, str(place))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long, of many names with commas
        return False


def _fitting(found: Tokens, room: int, where: str) -> Tokens:
    if found.vocabulary.size > room:
        raise DataError(_too_many(found.vocabulary.size, room, where))
    return found


def _too_many(size: int, room: int, where: str) -> str:
    return f"{where} has {counted(size, 'token')}; the model has room for {room:,}"


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


# Corpora


def find_corpus(text: Text, data_dir: str | None, embedded: bool) -> Corpus:
    """The corpus that is named, or the text files of the data directory.

    Raises:
      DataError: if there is none.
    """
    if text.corpus:
        parts = [_corpus(name, data_dir) for name in _names(text)]
        if not parts:
            raise DataError(f"config.text.corpus={shown(text.corpus)} names nothing")
        return parts[0] if len(parts) == 1 else _joined(parts)
    looked = _folders(data_dir)
    for folder in looked:
        files = _text_files(folder)
        if files:
            return _from_files(files, str(folder))
    if embedded:
        return _embedded()
    where = ", ".join(map(str, looked)) or "no data directory is named"
    raise DataError(
        f"there are no text files ({where}): give --data_dir, or --config.text.corpus"
    )


def _names(text: Text) -> list[str]:
    """The sources of a corpus."""
    if os.path.exists(os.path.expanduser(text.corpus)):
        return [text.corpus]  # its name may have a comma
    return [name.strip() for name in text.corpus.split(",") if name.strip()]


def _folders(data_dir: str | None) -> list[Path]:
    """Where text may lie in a data directory, the first the likeliest."""
    root = data_dir or os.environ.get("LRJAX_DATA_DIR")
    return [Path(root).expanduser() / name for name in _FOLDERS] if root else []


def _text_files(folder: Path) -> list[Path]:
    """The text files in a folder, without hidden ones."""
    with data.reading(folder):
        if not folder.is_dir():
            return []
        return [
            path
            for path in sorted(folder.iterdir())
            if path.name.endswith(_ENDINGS)
            and not data.is_hidden(path.name)
            and path.is_file()
        ]


def _named(name: str) -> list[Path]:
    """The files that a path or glob names; what exists by a part's name is meant by it.

    What a glob finds has no hidden files, unless a part of it begins with a dot.
    """
    found = [""]
    for part in Path(os.path.expanduser(name)).parts:
        found = [path for base in found for path in _below(base, part)]
    return [Path(path) for path in sorted(set(found)) if os.path.isfile(path)]


def _below(base: str, part: str) -> list[str]:
    path = os.path.join(base, part)
    if os.path.lexists(path):
        return [path]
    found = glob.glob(os.path.join(glob.escape(base), part), recursive=True)
    named = part.startswith(".")
    return [each for each in found if named or not _is_hidden_below(base, each)]


def _is_hidden_below(base: str, path: str) -> bool:
    return any(map(data.is_hidden, Path(os.path.relpath(path, base or ".")).parts))


def _corpus(name: str, data_dir: str | None) -> Corpus:
    if name == "pydoc":
        return _embedded()
    kind, _, rest = name.partition(":")
    if kind == "tfds":
        return _from_tfds(rest, data_dir)
    if kind == "hf":
        return _from_datasets(rest)
    with data.reading(shown(name)):  # such as a name that is too long
        path = Path(os.path.expanduser(name))
        files = _text_files(path) if path.is_dir() else _named(name)
    if not files:
        raise DataError(f"{name}: no text files there")
    return _from_files(files, name)


def _joined(parts: Sequence[Corpus]) -> Corpus:
    counts = [part.count for part in parts]
    return Corpus(
        ", ".join(part.name for part in parts),
        " ".join(part.fingerprint for part in parts),
        lambda: itertools.chain.from_iterable(part.documents() for part in parts),
        None if None in counts else sum(count or 0 for count in counts),
        tuple(path for part in parts for path in part.files),
    )


def _subset(corpus: Corpus, fraction: float) -> Corpus:
    """Takes each document with the given probability, the same ones every time."""
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
    """The reference text that comes with Python: a document for each paragraph."""
    from pydoc_data.topics import topics

    lines = [
        line for name in sorted(topics) for line in (*topics[name].split("\n"), "")
    ]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return Corpus("pydoc", digest, lambda: paragraphs(lines))


def _from_files(files: Sequence[Path], name: str) -> Corpus:
    digest = hashlib.sha256()
    for path in files:
        with data.reading(path), open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())

    def documents() -> Iterator[str]:
        for path in files:
            yield from paragraphs(_lines(path))

    return Corpus(name, digest.hexdigest(), documents, files=tuple(files))


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, plain or compressed, ended by LF, CRLF or CR.

    Raises:
      DataError: where it is not UTF-8, with the line's number.
    """
    count = 0
    with contextlib.closing(data.open_lines(path)) as stretches:
        for stretch in stretches:  # up to an LF
            if not count:
                stretch = stretch.removeprefix(codecs.BOM_UTF8)
            try:
                text = stretch.decode()
            except UnicodeDecodeError as error:
                before = stretch[: error.start]
                number = count + 1 + before.count(b"\r")
                at = error.start - before.rfind(b"\r") - 1
                wide = stretch.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
                hint = ": it begins as UTF-16 does" if wide and not count else ""
                raise DataError(
                    f"{path}: line {number}: byte 0x{stretch[error.start]:02x} at {at} "
                    f"is not UTF-8 text{hint}"
                ) from error
            lines = text.removesuffix("\n").removesuffix("\r").split("\r")
            for number, line in enumerate(lines, count + 1):
                if "\0" in line:
                    raise DataError(
                        f"{path}: line {number}: a zero byte at {line.index(chr(0))}: "
                        "it is UTF-16 or no text"
                    )
                yield line
            count += len(lines)


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Documents: what is between blank lines or form feeds, its lines joined."""
    gathered: list[str] = []
    size = 0
    for line in itertools.chain(lines, [""]):
        for number, part in enumerate(line.split("\f")):
            part = part.strip()
            ends = number > 0 or not part or size > _MAX_CHARACTERS
            if ends and gathered:
                yield " ".join(gathered)
                gathered, size = [], 0
            if part:
                gathered.append(part)
                size += len(part)


def _from_tfds(name: str, data_dir: str | None) -> Corpus:
    """Text that TFDS prepared as array_record files, which needs no TensorFlow."""
    import tensorflow_datasets as tfds

    try:
        source: Any = tfds.data_source(
            name,
            split="train",
            data_dir=data_dir or os.environ.get("LRJAX_DATA_DIR"),
            download=False,
            builder_kwargs={"file_format": "array_record"},
        )
        rows = len(source)
        version = str(getattr(source.dataset_info, "full_name", name))
    except Exception as error:  # TFDS raises whatever its parts raise
        raise DataError(f"tfds:{name}: {_reason(error)}") from error

    where = f"tfds:{name}"

    def documents() -> Iterator[str]:
        return _texts((source[i] for i in range(rows)), where)

    return Corpus(where, f"tfds {version} {rows}", documents, rows)


def _from_datasets(name: str) -> Corpus:
    """Part 'train' of a data set of Hugging Face's library: 'NAME' or 'NAME:CONFIG'."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            f"hf:{name}: needs the package datasets (pip install datasets)"
        ) from error
    path, _, config = name.partition(":")
    try:
        source: Any = datasets.load_dataset(path, config or None, split="train")
        fingerprint = f"hf {name} {source._fingerprint} {len(source)}"
    except Exception as error:  # whatever its parts raise
        raise DataError(f"hf:{name}: {_reason(error)}") from error
    where = f"hf:{name}"
    return Corpus(where, fingerprint, lambda: _texts(source, where), len(source))


def _texts(rows: Iterable[Mapping[str, Any]], where: str) -> Iterator[str]:
    """The texts of a library's data set; rows without one are left out.

    Raises:
      DataError: where a row cannot be read, has no such field or is not UTF-8.
    """
    rows = iter(rows)
    for number in itertools.count():
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # a damaged file; each library has its own
            raise DataError(f"{where}: row {number}: {_reason(error)}") from error
        if "text" not in row:
            raise DataError(f"{where}: its rows have no 'text', but {', '.join(row)}")
        value = row["text"]
        try:
            value = value.decode() if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: row {number} is not UTF-8 text") from error
        if value is not None:
            yield str(value)


# Tokenizers


def read_vocabulary(path: Path) -> Vocabulary:
    """Reads a tokenizer.json, or a folder with one or with vocab.json and merges.txt.

    Raises:
      DataError: if it cannot be read or is no RoBERTa tokenizer.
    """
    from tokenizers import Tokenizer, models

    if path.is_dir():
        whole = path / "tokenizer.json"
        pair = path / "vocab.json", path / "merges.txt"
        if not whole.is_file() and not all(each.is_file() for each in pair):
            raise DataError(
                f"{path}: there is no tokenizer.json, and no vocab.json with merges.txt"
            )
    else:
        whole, pair = path, ()
        if not path.is_file():
            raise DataError(f"{path}: no such tokenizer")
    with data.reading(path, "not a tokenizer"):
        if whole.is_file():
            tokenizer = Tokenizer.from_file(str(whole))
        else:
            tokenizer = _of_bytes(Tokenizer(models.BPE.from_file(*map(str, pair))))
        return _vocabulary(tokenizer, str(path))


def _of_bytes(tokenizer: Any) -> Any:
    from tokenizers import decoders, pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _vocabulary(tokenizer: Any, where: str) -> Vocabulary:
    numbers = {name: tokenizer.token_to_id(name) for name in (*_SPECIAL, _MASK)}
    for wanted, name in enumerate(_SPECIAL):
        if numbers[name] != wanted:
            raise DataError(
                f"{where}: not RoBERTa's: {name} has number {numbers[name]} instead of "
                f"{wanted}"
            )
    if numbers[_MASK] is None:
        raise DataError(f"{where}: not RoBERTa's: there is no {_MASK}")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # '<mask>' in a text is six characters, not the special token.
    tokenizer.encode_special_tokens = True
    text = tokenizer.to_str()
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    if size > 2**16:
        raise DataError(f"{where}: {size:,} tokens are more than uint16 can tell apart")
    return Vocabulary(
        tokenizer, size, numbers[_MASK], hashlib.sha256(text.encode()).hexdigest()
    )


def find_vocabulary(text: Text, data_dir: str | None) -> Vocabulary | None:
    """RoBERTa's tokenizer: beside the text, in the data directory, from the hub."""
    places = []
    for name in _names(text):
        if name != "pydoc" and not name.startswith(("tfds:", "hf:")):
            path = Path(os.path.expanduser(name))
            places.append(path if path.is_dir() else path.parent)
    for folder in _folders(data_dir):
        places += [folder, folder / "roberta-base", folder / "tokenizer_roberta_base"]
    for place in places:
        if (place / "tokenizer.json").is_file() or (place / "vocab.json").is_file():
            return read_vocabulary(place)
    from huggingface_hub import hf_hub_download

    try:
        return read_vocabulary(Path(hf_hub_download(_HUB, "tokenizer.json")))
    except DataError:
        raise
    except Exception as error:  # no net, no such file, a proxy's page, ...
        _say(
            f"{_HUB}'s tokenizer is not available ({cut(_reason(error))}): training "
            "one on the corpus"
        )
    return None


def train_vocabulary(corpus: Corpus, size: int) -> Vocabulary:
    """Trains a byte-level BPE tokenizer on a corpus."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = _of_bytes(Tokenizer(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*_SPECIAL, _MASK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )

    def some() -> Iterator[str]:
        left = _TRAINING_CHARACTERS
        for document in corpus.documents():
            yield document
            left -= len(document)
            if left < 0:
                return

    _say(
        f"training a tokenizer of {size:,} tokens on {corpus.name}; kept for next time"
    )
    tokenizer.train_from_iterator(some(), trainer)
    return _vocabulary(tokenizer, corpus.name)


# Folders of tokens


@dataclasses.dataclass(frozen=True)
class _Meta:
    """What meta.json says."""

    format: int
    corpus: str
    tokenizer: str
    documents: int
    tokens: int
    checksums: tuple[int, int]


def write_tokens(corpus: Corpus, vocabulary: Vocabulary, folder: Path) -> None:
    """Tokenises a corpus, in parallel, into a folder that appears whole or not at all.

    Raises:
      DataError: if the corpus is empty or damaged, or the folder cannot be written.
    """
    from tqdm import tqdm

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            part = Path(scratch, "tokens")
            part.mkdir()
            sums, count, documents = [0, 0], 0, 0
            bar = tqdm(
                total=corpus.count, unit=" documents", desc=corpus.name, disable=None
            )
            with (
                bar,
                open(part / "tokens.uint16", "wb") as tokens,
                open(part / "ends.int64", "wb") as ends,
            ):
                for batch in _batched(corpus.documents()):
                    with data.reading(corpus.name, "cannot be tokenised"):
                        found = vocabulary.tokenizer.encode_batch_fast(
                            batch, add_special_tokens=False
                        )
                    numbers = [np.asarray(each.ids, "<u2") for each in found]
                    numbers = [each for each in numbers if len(each)]
                    bar.update(len(batch))
                    if not numbers:
                        continue
                    at = count + np.cumsum([len(each) for each in numbers])
                    count = int(at[-1])
                    documents += len(numbers)
                    contents = (
                        np.concatenate(numbers).tobytes(),
                        at.astype("<i8").tobytes(),
                    )
                    for i, (file, content) in enumerate(
                        zip((tokens, ends), contents, strict=True)
                    ):
                        file.write(content)
                        sums[i] = zlib.crc32(content, sums[i])
                for file in (tokens, ends):
                    file.flush()
                    os.fsync(file.fileno())
            if not count:
                raise DataError(f"{corpus.name}: holds no text")
            vocabulary.tokenizer.save(str(part / "tokenizer.json"))
            meta = _Meta(
                _FORMAT,
                corpus.name,
                vocabulary.fingerprint,
                documents,
                count,
                (sums[0], sums[1]),
            )
            content = json.dumps(dataclasses.asdict(meta), indent=2) + "\n"
            (part / "meta.json").write_text(content, "utf-8")
            _put(part, folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}") from error


def _put(part: Path, folder: Path) -> None:
    """Moves a folder of tokens to its place, unless a sound one is there."""
    try:
        os.replace(part, folder)
    except OSError:
        if not folder.is_dir():
            raise
        try:
            read_tokens(folder)  # another process was faster
        except DataError:
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(part, folder)


def _batched(documents: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for document in documents:
        for first in range(0, len(document), _MAX_CHARACTERS):
            batch.append(document[first : first + _MAX_CHARACTERS])
        size += len(document)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_tokens(folder: Path) -> Tokens:
    """Opens a folder of tokens; they are mapped into memory, not read.

    Raises:
      DataError: if it is damaged.
    """
    fault = "no sound folder of tokens"
    for name in ("meta.json", "tokenizer.json", "tokens.uint16", "ends.int64"):
        if (folder / name).exists() and not (folder / name).is_file():
            # To open a pipe would wait for whoever writes to it.
            raise DataError(f"{folder / name}: not a regular file")
    with data.reading(folder, fault):
        meta = _Meta(**json.loads((folder / "meta.json").read_text("utf-8")))
        checksums = int(meta.checksums[0]), int(meta.checksums[1])
    if meta.format != _FORMAT:
        raise DataError(f"{folder}: of another version ({shown(meta.format)})")
    vocabulary = read_vocabulary(folder / "tokenizer.json")
    if vocabulary.fingerprint != meta.tokenizer:
        raise DataError(f"{folder}: holds tokens of another tokenizer than its own")
    arrays = []
    for name, kind, count, checksum in zip(
        ("tokens.uint16", "ends.int64"),
        ("<u2", "<i8"),
        (meta.tokens, meta.documents),
        checksums,
        strict=True,
    ):
        with data.reading(folder / name):
            array = np.memmap(folder / name, np.dtype(kind), "r")
            sound = len(array) == count and zlib.crc32(array.data) == checksum
        if not sound:
            raise DataError(f"{folder / name}: damaged")
        arrays.append(array)
    tokens, ends = arrays[0], np.asarray(arrays[1])
    _check_ends(ends, len(tokens), folder / "ends.int64")
    _check_tokens(tokens, vocabulary.size, folder / "tokens.uint16")
    return Tokens(tokens, ends, vocabulary)


def _check_ends(ends: np.ndarray, count: int, where: Path) -> None:
    """Refuses ends that do not cut all tokens into documents of one or more."""
    # Compared, not subtracted: differences of the largest numbers overflow.
    wrong = np.flatnonzero(ends <= np.concatenate([[0], ends[:-1]]))
    if len(wrong):
        at = int(wrong[0])
        raise DataError(f"{where}: document {at} has its end, {ends[at]}, too early")
    if ends[-1] != count:
        raise DataError(
            f"{where}: the last end is {ends[-1]}, of {counted(count, 'token')}"
        )


def _check_tokens(tokens: np.ndarray, size: int, where: Path) -> None:
    """Refuses tokens that the vocabulary does not have, and what only rows may have."""
    for first in range(0, len(tokens), _CHUNK):
        part = tokens[first : first + _CHUNK]
        if part.max() < size and part.min() > END:
            continue
        at = first + int(np.argmax((part >= size) | (part <= END)))
        fault = f"beyond the {size:,} of the tokenizer"
        if tokens[at] <= END:
            fault = "a special one, which does not belong to a document"
        raise DataError(f"{where}: token {tokens[at]} at {at} is {fault}")


# Rows


class Pieces(NamedTuple):
    """Parts of documents, none longer than a row has room for.

    Attributes:
      starts, sizes: int64, where each lies among a corpus's tokens.
    """

    starts: np.ndarray
    sizes: np.ndarray


def pieces(ends: np.ndarray, documents: np.ndarray, room: int, whole: bool) -> Pieces:
    """Cuts documents into pieces.

    Args:
      ends: of all documents.
      documents: which ones to cut.
      room: the most tokens of a piece.
      whole: keep what is beyond the first piece of a document.
    """
    starts = np.concatenate([[0], ends[:-1]])[documents]
    sizes = ends[documents] - starts
    if not whole:
        return Pieces(starts, np.minimum(sizes, room))
    counts = -(-sizes // room)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return Pieces(
        np.repeat(starts, counts) + room * nth,
        np.minimum(np.repeat(sizes, counts) - room * nth, room),
    )


def pack(sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Puts pieces into rows: the longest first, each where the least room is left over.

    Args:
      sizes: of the pieces, at most `length`.
      length: of a row.

    Returns:
      The row of each piece, and where in it the piece starts.
    """
    rows, offsets = np.empty(len(sizes), np.int64), np.empty(len(sizes), np.int64)
    by_room: list[list[int]] = [[] for _ in range(length + 1)]
    some = 0  # bit r: there is a row with room for r
    count = 0
    for piece in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[piece])
        fitting = some >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                some &= ~(1 << room)
        else:
            row, room = count, length
            count += 1
        rows[piece], offsets[piece] = row, length - room
        left = room - size
        by_room[left].append(row)
        some |= 1 << left
    return rows, offsets


def make_rows(tokens: np.ndarray, cut: Pieces, length: int, packed: bool) -> np.ndarray:
    """Rows of tokens: each piece between START and END, then PAD.

    Rows come in a random order, the same every time.

    Args:
      tokens: of the corpus.
      cut: what to put into rows; no piece is longer than `length` - 2.
      length: of a row.
      packed: several pieces in a row, where they fit; else one.

    Returns:
      uint16 [rows, length].
    """
    sizes = cut.sizes + 2
    if packed:
        rows, offsets = pack(sizes, length)
    else:
        rows, offsets = np.arange(len(sizes)), np.zeros(len(sizes), np.int64)
    count = int(rows.max(initial=-1)) + 1
    order = np.random.RandomState(_SEED).permutation(count)
    at = order[rows] * length + offsets
    made = np.full(count * length, PAD, np.uint16)
    for first in range(0, len(at), 10**5):  # in slices, because of the indices
        part = slice(first, first + 10**5)
        size = cut.sizes[part]
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        target = np.repeat(at[part] + 1, size) + within
        made[target] = tokens[np.repeat(cut.starts[part], size) + within]
    made[at] = START
    made[at + sizes - 1] = END
    return made.reshape(count, length)


def split(documents: int, study: bool) -> dict[str, np.ndarray]:
    """Which documents train, validate and test, the same every time.

    Half a percent validates and as much tests; of fewer than 400,000 documents 2,000,
    but no more than a twentieth. With `study` half a percent, rounded up as Hugging
    Face's `train_test_split` does, does both.
    """
    order = np.random.RandomState(_SEED).permutation(documents)
    if study:
        part = math.ceil(0.005 * documents)
        return {"valid": order[:part], "train": order[part:]}
    part = min(max(documents // 200, 2000), documents // 20)
    return {
        "valid": order[:part],
        "test": order[part : 2 * part],
        "train": order[2 * part :],
    }
