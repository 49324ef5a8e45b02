"""Text as it lies around: which files are read, and where a document ends."""

import io
import json
import lzma
import os
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies

from lrjax.common import packed
from lrjax.core import UsageError
from lrjax.tasks import corpus as corpus_lib
from lrjax.tasks import tokens as tokens_lib
from lrjax.tasks.data import DataError, is_hidden
from lrjax.tasks.options import Text
from lrjax.tasks.tokens import END

STORY = "A small red boat.\n\nThen came\nrain.\n\n\nA third one.\n"
DOCUMENTS = ["A small red boat.", "Then came rain.", "A third one."]
MACOS = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(20)


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("LRJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LRJAX_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)


def put(name: str, content: str | bytes = STORY):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(corpus, data_dir=None):
    found = corpus_lib.find_corpus(Text(corpus=corpus), data_dir, embedded=False)
    return list(found.documents())


# Which files


LEFT_OVER = (
    *("._book.txt", ".book.txt", ".~lock.book.txt", "~$book.txt"),
    *("book.txt~", "#book.txt#", ".#book.txt", ".book.txt.swp"),
)


@pytest.mark.parametrize("left", LEFT_OVER)
@pytest.mark.parametrize("below", ["", "nested/"])
def test_hidden_files_are_left_out_by_one_rule(left, below):
    assert is_hidden(left)
    put(f"text/{below}book.txt")
    put(f"text/{below}{left}", MACOS)
    put(f"text/{below}.git/book.txt", "of somebody else")
    folder = f"text/{below}"
    for corpus in (folder, f"{folder}*", f"{folder}*.txt*", "text/**", f"{folder}**/*"):
        if corpus.endswith("*") or not below:
            assert read(corpus) == DOCUMENTS, corpus
    if not below:
        assert read("", data_dir="text") == DOCUMENTS


@pytest.mark.parametrize("name", LEFT_OVER)
def test_a_hidden_file_that_is_named_is_read(name):
    put(f"text/{name}")
    put("text/.hidden/book.txt")
    assert read(f"text/{name}") == DOCUMENTS
    assert read("text/.hidden") == read("text/.hidden/*.txt") == DOCUMENTS
    if name.startswith("."):
        assert read("text/.*") == DOCUMENTS


@pytest.mark.parametrize(
    ("name", "corpus"),
    [
        ("Emma [158].txt", "Emma [158].txt"),
        ("set [v2]/a.txt", "set [v2]"),
        ("set [v2]/a.txt", "set [v2]/*.txt"),
        ("set [v2]/[1]/a?.txt", "set [v2]/*/a?.txt"),
        ("any/set [v2]/a.txt", "*/set [v2]/[a-c].txt"),
        ("**/a.txt", "**/a.txt"),
        ("Emma, part 1.txt", "Emma, part 1.txt"),
        ("a/b/c/d.txt", "a/**/*.txt"),
        ("a/b.txt", "a/**/*.txt"),
        ("a/b.txt", "a/../a/b.txt"),
    ],
)
def test_what_exists_by_its_name_is_taken_by_its_name(name, corpus, tmp_path):
    put(name)
    put("Emma 1.txt", "what the brackets would match")
    put("set v/a.txt", "and here")
    for root in ("", f"{tmp_path}/"):
        assert read(root + corpus) == DOCUMENTS


def test_patterns_find_each_file_once_and_in_order():
    for number in (2, 10, 1):
        put(f"s/{number}/a.txt", f"story {number}")
    assert read("s/**/**/*.txt") == ["story 1", "story 10", "story 2"]
    with pytest.raises(DataError, match=r"s/\*\.md: no text files there"):
        read("s/*.md")
    long = "x" * 300
    with pytest.raises(DataError, match=r"no text files there|cannot be read"):
        read(long)


# Where a document ends


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n\n", " \n\t\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_documents_do_not_depend_on_how_lines_end(end, last, mark):
    text = STORY.rstrip("\n") + last
    put("a.txt", mark + text.replace("\n", end).encode())
    assert read("a.txt") == DOCUMENTS
    put("b.txt.xz", lzma.compress(Path("a.txt").read_bytes()))
    assert read("b.txt.xz") == DOCUMENTS


@settings(max_examples=200)
@example("a\r\r\nb")
@example("a\u2028\u2028b\x85\x85c\x1c\x1d\x0b\n\n\x0cd")
@given(
    strategies.text(strategies.sampled_from("ab \t\n\r\f\v\u2028\u2029\x85\x1c\ufeff"))
)
def test_lines_are_those_of_python_in_text_mode(text):
    content = text.encode()
    lines = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig").read().split("\n")
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(content)
        file.flush()
        found = list(corpus_lib.paragraphs(corpus_lib.read_lines(Path(file.name))))
    assert found == list(corpus_lib.paragraphs(lines))


def test_an_empty_file_and_one_of_blank_lines_hold_no_document():
    for content in ("", "\n", "\r\r", " \f \n"):
        put("a.txt", content)
        assert read("a.txt") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a\nb".encode("utf-16"),
            "line 1: byte 0xff at 0 is not UTF-8 text: it",
        ),
        ("a\nb".encode("utf-16-be"), "line 1: a zero byte at 0: it is UTF-16 or no"),
        ("a\nb".encode("utf-16-le"), "line 1: a zero byte at 1"),
        ("a\nb".encode("utf-32"), "line 1: byte 0xff at 0 is not UTF-8"),
        (b"one\ntwo\0three", "line 2: a zero byte at 3"),
        (b"one\rtwo\rth\xe9", "line 3: byte 0xe9 at 2 is not UTF-8"),
        (b"one\r\ntwo\n\xed\xa0\x80", "line 3: byte 0xed at 0 is not UTF-8"),
    ],
)
def test_what_is_not_utf8_is_refused_in_one_line(content, message):
    put("a.txt", content)
    with pytest.raises(DataError) as refused:
        read("a.txt")
    assert str(refused.value).startswith(f"a.txt: {message}")
    assert "\n" not in str(refused.value)


# Folders of tokens


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "a.txt").write_text("\n\n".join(f"story {i} of many" for i in range(50)))
    corpus = corpus_lib.find_corpus(Text(corpus=str(folder / "a.txt")), None, False)
    vocabulary = tokens_lib.train_vocabulary(corpus, 300)
    tokens_lib.write_tokens(corpus, vocabulary, folder / "tokens")
    return folder / "tokens"


def rewritten(folder, kept, **changes):
    """A folder whose checksums and counts agree, as another program would leave it."""
    os.mkdir(folder)
    meta = json.loads((kept / "meta.json").read_text())
    arrays = {"tokens.uint16": "<u2", "ends.int64": "<i8"}
    sums = []
    for name, kind in arrays.items():
        array = np.fromfile(kept / name, kind)
        array = changes.get(name.split(".")[0], lambda x: x)(array.copy())
        sums.append(zlib.crc32(array.tobytes()))
        array.tofile(folder / name)
        meta["documents" if name.startswith("ends") else "tokens"] = len(array)
    meta = meta | {"checksums": sums} | changes.get("meta", {})
    (folder / "meta.json").write_text(json.dumps(meta))
    tokenizer = (kept / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(tokenizer)
    return folder


def put_at(at, value):
    def change(array):
        array[at] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ends": lambda x: x * 0}, "ends.int64: document 0 has its end, 0, too early"),
        ({"ends": put_at(7, 3)}, "ends.int64: document 7 has its end, 3, too early"),
        ({"ends": put_at(slice(0, 3), [2**63 - 1, -(2**63), -1])}, "document 1 has"),
        ({"ends": put_at(0, -5)}, "ends.int64: document 0 has its end, -5, too early"),
        ({"ends": put_at(-1, 10**6)}, "ends.int64: the last end is 1000000, of"),
        ({"ends": lambda x: x[:-1]}, "ends.int64: the last end is"),
        ({"ends": lambda x: x[:0]}, "ends.int64: cannot be read"),
        ({"ends": lambda x: x.astype("<i4")}, "ends.int64: damaged"),
        ({"tokens": put_at(-1, 300)}, "is beyond the"),
        ({"tokens": put_at(3, 65535)}, "tokens.uint16: token 65535 at 3 is beyond the"),
        ({"tokens": put_at(4, END)}, "tokens.uint16: token 2 at 4 is a special one"),
        ({"tokens": lambda x: x[:-1]}, "ends.int64: the last end is"),
        ({"meta": {"tokens": "many"}}, "tokens.uint16: damaged"),
        ({"meta": {"checksums": [1e400, 1]}}, "no sound folder of tokens"),
        ({"meta": {"format": ["x" * 1000]}}, "of another version (['xxx"),
    ],
)
def test_a_folder_of_tokens_that_cannot_be_right_is_refused(
    changes, message, tokens, monkeypatch
):
    monkeypatch.setattr(tokens_lib, "_CHUNK", 64)
    rewritten(Path("sound"), tokens)
    assert len(tokens_lib.read_tokens(Path("sound")).ends) == 50
    rewritten(Path("other"), tokens, **changes)
    with pytest.raises(DataError) as refused:
        tokens_lib.load_tokens(
            Text(corpus="other"), None, 300, own=True, embedded=False
        )
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "name", ["meta.json", "tokenizer.json", "tokens.uint16", "ends.int64"]
)
def test_a_pipe_in_a_folder_of_tokens_is_refused(tokens, name):
    shutil.copytree(tokens, "piped")
    Path("piped", name).unlink()
    os.mkfifo(Path("piped", name))
    with pytest.raises(DataError, match="not a regular file"):
        tokens_lib.read_tokens(Path("piped"))


@pytest.mark.parametrize("place", ["folder", "file"])
def test_tokens_are_not_written_through_links(place):
    put("a.txt", "\n\n".join(f"story {i} of many" for i in range(50)))

    def load():
        return tokens_lib.load_tokens(Text(corpus="a.txt"), None, 300, True, False)

    first = load()
    (kept,) = Path("cache/text").iterdir()
    assert [path.name for path in Path("cache/text").iterdir()] == [kept.name]
    victim = Path("victim").absolute()
    shutil.copytree(kept, victim)
    before = {path.name: path.read_bytes() for path in victim.iterdir()}
    if place == "folder":
        shutil.rmtree(kept)
        kept.symlink_to(victim)
    else:
        (kept / "meta.json").unlink()
        (kept / "meta.json").symlink_to(victim / "meta.json")
    np.testing.assert_array_equal(load().tokens, first.tokens)
    assert not kept.is_symlink()
    assert not (kept / "meta.json").is_symlink()
    assert {path.name: path.read_bytes() for path in victim.iterdir()} == before


def test_a_cache_that_leads_elsewhere_is_refused():
    put("a.txt", "\n\n".join(f"story {i} of many" for i in range(50)))
    Path("elsewhere").mkdir()
    Path("cache").mkdir()
    Path("cache/text").symlink_to(Path("elsewhere").absolute())
    with pytest.raises(UsageError, match=r"cache/text: .*a link"):
        tokens_lib.load_tokens(Text(corpus="a.txt"), None, 300, True, False)
    assert not list(Path("elsewhere").iterdir())


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_lines_do_not_depend_on_the_pieces_that_are_read(size, monkeypatch):
    text = "a\r\nb\rc\n\r\r\n\nlong line\u2603\r"
    put("a.txt", text)
    whole = list(corpus_lib.read_lines(Path("a.txt")))
    assert whole == ["a", "b", "c", "", "", "", "long line\u2603"]
    monkeypatch.setattr(packed, "PIECE", size)
    assert list(corpus_lib.read_lines(Path("a.txt"))) == whole
    monkeypatch.setattr(corpus_lib, "MAX_LINE", 8)
    with pytest.raises(DataError, match=r"a\.txt: a line has more than 8 bytes"):
        list(corpus_lib.read_lines(Path("a.txt")))


@pytest.mark.parametrize("corpus", ["text/a.txt", "text", "text/*", "text/*.txt"])
def test_a_pipe_among_texts_is_refused(corpus):
    put("text/b.txt")
    os.mkfifo("text/a.txt")
    with pytest.raises(DataError, match=r"text/a\.txt: .*not a regular file"):
        read(corpus)
