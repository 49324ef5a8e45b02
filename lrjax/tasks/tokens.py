"""Tokenizers, and the tokens of a corpus.

A corpus is tokenised once. Its tokens are cached as uint16, in a folder named by a hash
of the corpus and the tokenizer.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from lrjax import console
from lrjax.common import files
from lrjax.common.reading import reason
from lrjax.core import counted, cut, shown
from lrjax.tasks import data
from lrjax.tasks.corpus import (
    MAX_CHARACTERS,
    Corpus,
    find_corpus,
    folders,
    read_lines,
    sources,
    subset,
)
from lrjax.tasks.data import DataError
from lrjax.tasks.options import Text

START, PAD, END, UNKNOWN = range(4)  # numbers of special tokens, as in RoBERTa
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_MASK = "<mask>"
_BATCH_CHARACTERS = 4 * 10**6  # tokenised at once; takes about 300 MB
_TRAINING_CHARACTERS = 10**8  # at the start of a corpus, to train a tokenizer on
_FORMAT = 1  # version of the folders of tokens
_SPLITTING = 2  # version of the rule that splits documents; part of the hash
_CHUNK = 2**22  # tokens checked at once
_MAX_TOKENIZER = 2**26  # bytes; RoBERTa's tokenizer.json has 1.4 MB
_MAX_META = 2**16  # bytes of meta.json
# RoBERTa's tokenizer on the Hugging Face hub: repository, commit and SHA-256.
_HUB = "FacebookAI/roberta-base"
_HUB_REVISION = "e2da8e2f811d1448a5b465c236feacd80ffbac7b"
_HUB_SHA256 = "847bbeab6174d66a88898f729d52fa8d355fafe1bea101cf960dd404581df70e"
_ARRAYS = {"tokens.uint16": "<u2", "ends.int64": "<i8"}
_Open = Callable[[Path], BinaryIO]


class Vocabulary(NamedTuple):
    """A byte-level BPE tokenizer with RoBERTa's special tokens.

    Attributes:
      tokenizer: a `tokenizers.Tokenizer`.
      size: number of tokens.
      mask: number of the mask token.
      fingerprint: sha256 of the tokenizer, in hexadecimal.
    """

    tokenizer: Any
    size: int
    mask: int
    fingerprint: str


class Tokens(NamedTuple):
    """A tokenised corpus.

    Attributes:
      tokens: uint16 [tokens], all documents concatenated, without special tokens.
      ends: int64 [documents], end of each document in `tokens`.
      vocabulary: the tokenizer.
    """

    tokens: np.ndarray
    ends: np.ndarray
    vocabulary: Vocabulary


def load_tokens(
    text: Text, data_dir: str | None, room: int, own: bool, embedded: bool
) -> Tokens:
    """Load the tokens of a corpus from the cache, or tokenise the corpus first.

    Args:
      text: names corpus and tokenizer.
      data_dir: directory searched for both; $LRJAX_DATA_DIR if None.
      room: the largest vocabulary that the model supports.
      own: if no tokenizer is named: whether to train one on the corpus instead of
        taking RoBERTa's where it is available.
      embedded: whether to fall back to Python's bundled documentation.

    Raises:
      DataError: if corpus or tokenizer is not available, empty or damaged, or the
        vocabulary is too large.
    """
    folder = Path(os.path.expanduser(text.corpus))
    if text.corpus and files.is_there(folder / "meta.json"):
        if text.fraction != 1:
            raise DataError(
                f"config.text.fraction={text.fraction}: {folder} holds tokens, which "
                "are taken as a whole"
            )
        corpus_tokens = read_tokens(folder)
        if text.tokenizer:
            wanted = read_vocabulary(Path(os.path.expanduser(text.tokenizer)))
            if wanted.fingerprint != corpus_tokens.vocabulary.fingerprint:
                raise DataError(
                    f"{folder}: holds tokens of another tokenizer than {text.tokenizer}"
                )
        return _fitting(corpus_tokens, room, str(folder))
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
    if os.path.lexists(place):
        try:
            return _fitting(_read_own(place), room, str(place))
        except DataError as error:
            console.say(f"warning: {error}; tokenising anew")
    for path in corpus.files:  # fail on a damaged file now, before the long work
        collections.deque(read_lines(path), maxlen=0)
    chosen = subset(corpus, text.fraction)
    write_tokens(chosen, vocabulary or train_vocabulary(chosen, room), place)
    return _fitting(_read_own(place), room, str(place))


def _fitting(tokens: Tokens, room: int, where: str) -> Tokens:
    """Return the tokens, or raise DataError if their vocabulary is above `room`."""
    if tokens.vocabulary.size > room:
        raise DataError(_too_many(tokens.vocabulary.size, room, where))
    return tokens


def _too_many(size: int, room: int, where: str) -> str:
    return f"{where} has {counted(size, 'token')}; the model has room for {room:,}"


# Tokenizers


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a tokenizer from a tokenizer.json or a folder.

    Args:
      path: the file, or a folder with tokenizer.json or with vocab.json and merges.txt.

    Raises:
      DataError: if it cannot be read or is not a RoBERTa tokenizer.
    """
    from tokenizers import Tokenizer, models

    pair = path / "vocab.json", path / "merges.txt"
    if not os.path.isdir(path):
        whole = path
        if not files.is_there(path):
            raise DataError(f"{path}: no such tokenizer")
    else:
        whole = path / "tokenizer.json"
        if not files.is_there(whole) and not all(map(files.is_there, pair)):
            raise DataError(
                f"{path}: there is no tokenizer.json, and no vocab.json with merges.txt"
            )
    if files.is_there(whole):
        return _parsed(_tokenizer_bytes(whole), whole)
    for part in pair:
        _tokenizer_bytes(part)
    with _reading_tokenizer(path):
        tokenizer = _of_bytes(Tokenizer(models.BPE.from_file(*map(str, pair))))
        return _vocabulary(tokenizer, str(path))


def _tokenizer_bytes(path: Path) -> bytes:
    """Read a file of a tokenizer.

    Raises:
      DataError: if it is not a regular file, is too large or cannot be read.
    """
    with data.reading(path):
        return files.read_given(path, _MAX_TOKENIZER)


def _parsed(content: bytes, where: Path) -> Vocabulary:
    """The tokenizer in the content of a tokenizer.json."""
    from tokenizers import Tokenizer

    with _reading_tokenizer(where):
        return _vocabulary(Tokenizer.from_str(content.decode()), str(where))


@contextlib.contextmanager
def _reading_tokenizer(where: Path) -> Iterator[None]:
    """Convert errors of the library, which quote a file, to lines that do not.

    Raises:
      DataError: in place of any exception.
    """
    try:
        with data.reading(where, "not a tokenizer"):
            yield
    except DataError as error:
        cause = error.__cause__
        if cause is None:  # it is a line of ours
            raise
        place = re.search(r"line \d{1,9}( column \d{1,9})?", str(cause))
        at = f" ({place[0]})" if place else ""
        raise DataError(f"{where}: not a tokenizer{at}") from cause


def _of_bytes(tokenizer: Any) -> Any:
    """Make a tokenizer byte-level, as RoBERTa's is."""
    from tokenizers import decoders, pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _vocabulary(tokenizer: Any, where: str) -> Vocabulary:
    """Wrap a tokenizer, after checking that it has RoBERTa's special tokens."""
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
    """Find RoBERTa's tokenizer beside the text, in the data directory or on the hub.

    Returns None if there is none.
    """
    places = []
    for name in sources(text):
        if name != "pydoc" and not name.startswith(("tfds:", "hf:")):
            path = Path(os.path.expanduser(name))
            places.append(path if path.is_dir() else path.parent)
    for folder in folders(data_dir):
        places += [folder, folder / "roberta-base", folder / "tokenizer_roberta_base"]
    for place in places:
        if any(files.is_there(place / n) for n in ("tokenizer.json", "vocab.json")):
            return read_vocabulary(place)
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(_HUB, "tokenizer.json", revision=_HUB_REVISION))
    except Exception as error:  # no network, no such file, a proxy's page, ...
        console.say(
            f"{_HUB}'s tokenizer is not available ({cut(reason(error))}): training "
            "one on the corpus"
        )
        return None
    content = _tokenizer_bytes(path)
    if hashlib.sha256(content).hexdigest() != _HUB_SHA256:
        raise DataError(f"{path}: is not {_HUB}'s tokenizer: its sha256 is another")
    return _parsed(content, path)


def train_vocabulary(corpus: Corpus, size: int) -> Vocabulary:
    """Train a byte-level BPE tokenizer on a corpus."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = _of_bytes(Tokenizer(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*_SPECIAL, _MASK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )

    def first_documents() -> Iterator[str]:
        characters_left = _TRAINING_CHARACTERS
        for document in corpus.documents():
            yield document
            characters_left -= len(document)
            if characters_left < 0:
                return

    console.say(
        f"training a tokenizer of {size:,} tokens on {corpus.name}; kept for next time"
    )
    tokenizer.train_from_iterator(first_documents(), trainer)
    return _vocabulary(tokenizer, corpus.name)


# Folders of tokens


@dataclasses.dataclass(frozen=True)
class _Meta:
    """Content of meta.json."""

    format: int
    corpus: str
    tokenizer: str
    documents: int
    tokens: int
    checksums: tuple[int, int]


def write_tokens(corpus: Corpus, vocabulary: Vocabulary, folder: Path) -> None:
    """Tokenise a corpus, in parallel, and write a folder of tokens atomically.

    Raises:
      UsageError: if the corpus is empty or damaged, or the folder cannot be written.
    """
    files.make_folder(folder.parent, folder.parent.parent)
    with files.writing(folder), files.scratch_folder(folder.parent) as scratch:
        part = scratch / "tokens"
        part.mkdir()
        meta = _write_arrays(corpus, vocabulary, part)
        tokenizer = vocabulary.tokenizer.to_str(pretty=True)
        files.replace(part / "tokenizer.json", tokenizer)
        content = json.dumps(dataclasses.asdict(meta), indent=2) + "\n"
        files.replace(part / "meta.json", content)
        _put(part, folder)


def _write_arrays(corpus: Corpus, vocabulary: Vocabulary, folder: Path) -> _Meta:
    """Write the tokens of a corpus and the ends of its documents.

    Raises:
      DataError: if the corpus is empty or damaged.
    """
    sums, count, documents = [0, 0], 0, 0
    with (
        console.bar(total=corpus.count, unit=" documents", desc=corpus.name) as bar,
        files.replacing(folder / "tokens.uint16") as tokens,
        files.replacing(folder / "ends.int64") as ends,
    ):
        for batch in _batched(corpus.documents()):
            with data.reading(corpus.name, "cannot be tokenised"):
                encodings = vocabulary.tokenizer.encode_batch_fast(
                    batch, add_special_tokens=False
                )
            numbers = [np.asarray(encoding.ids, "<u2") for encoding in encodings]
            numbers = [ids for ids in numbers if len(ids)]
            bar.update(len(batch))
            if not numbers:
                continue
            at = count + np.cumsum([len(ids) for ids in numbers])
            count = int(at[-1])
            documents += len(numbers)
            contents = np.concatenate(numbers).tobytes(), at.astype("<i8").tobytes()
            for i, (file, content) in enumerate(
                zip((tokens, ends), contents, strict=True)
            ):
                file.write(content)
                sums[i] = zlib.crc32(content, sums[i])
    if not count:
        raise DataError(f"{corpus.name}: holds no text")
    return _Meta(
        format=_FORMAT,
        corpus=corpus.name,
        tokenizer=vocabulary.fingerprint,
        documents=documents,
        tokens=count,
        checksums=(sums[0], sums[1]),
    )


def _put(part: Path, folder: Path) -> None:
    """Move a folder of tokens to its place, unless an undamaged one is there."""
    try:
        files.move(part, folder)
    except OSError:
        if not folder.is_dir():
            raise
        try:
            _read_own(folder)  # another process was faster
        except DataError:
            files.remove_folder(folder)
            files.move(part, folder)


def _batched(documents: Iterator[str]) -> Iterator[list[str]]:
    """Group documents into batches of about `_BATCH_CHARACTERS`; cut long ones."""
    batch: list[str] = []
    size = 0
    for document in documents:
        for first in range(0, len(document), MAX_CHARACTERS):
            batch.append(document[first : first + MAX_CHARACTERS])
            size += len(batch[-1])
            if size >= _BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def read_tokens(folder: Path) -> Tokens:
    """Open and check a folder of tokens that a user brings; tokens are memory-mapped.

    Raises:
      DataError: if the folder is damaged.
    """
    return _read(folder, files.open_given)


def _read_own(folder: Path) -> Tokens:
    """Open and check a folder of tokens in the cache; links are not followed.

    Raises:
      DataError: if the folder is damaged.
    """
    if os.path.islink(folder):
        raise DataError(f"{folder}: a link, which lrjax does not follow here")
    return _read(folder, files.open_own)


def _read(folder: Path, open_file: _Open) -> Tokens:
    """Open and check a folder of tokens; see `read_tokens`."""
    with data.reading(folder / "meta.json"), open_file(folder / "meta.json") as file:
        content = file.read(_MAX_META)
    with data.reading(folder, "no sound folder of tokens"):
        meta = _meta(json.loads(content.decode()))
    if meta.format != _FORMAT:
        raise DataError(f"{folder}: of another version ({shown(meta.format)})")
    where = folder / "tokenizer.json"
    with data.reading(where), open_file(where) as file:
        content = file.read(_MAX_TOKENIZER)
    vocabulary = _parsed(content, where)
    if vocabulary.fingerprint != meta.tokenizer:
        raise DataError(f"{folder}: holds tokens of another tokenizer than its own")
    arrays = []
    counts = (meta.tokens, meta.documents)
    for (name, kind), count, checksum in zip(
        _ARRAYS.items(), counts, meta.checksums, strict=True
    ):
        with data.reading(folder / name), open_file(folder / name) as file:
            array = np.memmap(file, np.dtype(kind), "r")
            sound = len(array) == count and zlib.crc32(array.data) == checksum
        if not sound:
            raise DataError(f"{folder / name}: damaged")
        arrays.append(array)
    tokens, ends = arrays[0], np.asarray(arrays[1])
    _check_ends(ends, len(tokens), folder / "ends.int64")
    _check_tokens(tokens, vocabulary.size, folder / "tokens.uint16")
    return Tokens(tokens, ends, vocabulary)


def _meta(fields: dict[str, Any]) -> _Meta:
    """Make a `_Meta` of what is in meta.json."""
    names = [field.name for field in dataclasses.fields(_Meta)]
    first, second = fields["checksums"]
    fields = {**fields, "checksums": (int(first), int(second))}
    return _Meta(**{name: fields[name] for name in names})


def _check_ends(ends: np.ndarray, count: int, where: Path) -> None:
    """Refuse ends that do not split all tokens into non-empty documents."""
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
    """Refuse tokens outside of the vocabulary, and special tokens."""
    for first in range(0, len(tokens), _CHUNK):
        part = tokens[first : first + _CHUNK]
        if part.max() < size and part.min() > END:
            continue
        at = first + int(np.argmax((part >= size) | (part <= END)))
        fault = f"beyond the {size:,} of the tokenizer"
        if tokens[at] <= END:
            fault = "a special one, which does not belong to a document"
        raise DataError(f"{where}: token {tokens[at]} at {at} is {fault}")
