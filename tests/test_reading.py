"""Whatever a decoder raises is one line that says what and where."""

import io
import struct
import zipfile
import zlib

import pandas as pd
import pytest

from lrjax.common.reading import reading
from lrjax.core import UsageError, shown
from lrjax.tasks.data import DataError

# As Rust's panics come: no Exception, of a class that cannot be imported.
Panic = type("PanicException", (BaseException,), {})


@pytest.mark.parametrize(
    "error",
    [
        *(ValueError("a"), KeyError("a"), OSError(5, "a", "b"), MemoryError("a")),
        *(RecursionError("a"), EOFError("a"), zlib.error("a"), struct.error("a")),
        *(zipfile.BadZipFile("a"), NotImplementedError("a"), AssertionError("a")),
        *(SyntaxError("a"), UnicodeDecodeError("a", b"b", 0, 1, "a"), Panic("a")),
        *(ExceptionGroup("a", [ValueError("b")]), ArithmeticError("a")),
    ],
)
def test_any_exception_is_one_line(error):
    with pytest.raises(DataError) as found, reading("file", "torn", DataError):
        raise error
    assert str(found.value).startswith("file: torn: ")
    assert "a" in str(found.value).removeprefix("file: torn: ")
    assert found.value.__cause__ is error


def test_text_in_another_encoding_is_said_in_words():
    with pytest.raises(UsageError) as caught, reading("a.csv"):
        "caf\xe9".encode("latin-1").decode()
    said = "it is not in UTF-8 (byte 3 is 0xe9): save it again in UTF-8"
    assert str(caught.value) == f"a.csv: cannot be read: {said}"


def test_a_table_without_a_line_is_empty():
    with pytest.raises(UsageError) as caught, reading("a.csv"):
        pd.read_csv(io.BytesIO(b""))
    assert str(caught.value) == "a.csv: cannot be read: it is empty"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2), GeneratorExit()])
def test_what_ends_the_program_passes(error):
    with pytest.raises(type(error)) as found, reading("file"):
        raise error
    assert found.value is error


def test_what_is_said_already_is_said_once():
    with pytest.raises(UsageError, match=r"^line 3$"), reading("file"):
        raise DataError("line 3")


def test_lines_are_short_and_steer_no_terminal():
    said = "two\nlines\x1b[31m \u202e" + "x" * 10**6
    with pytest.raises(UsageError) as found, reading("file"):
        raise ValueError(said)
    assert str(found.value).startswith(
        r"file: cannot be read: two lines\x1b[31m \u202e"
    )
    assert str(found.value).isprintable()
    assert len(str(found.value)) < 200
    nameless = pytest.raises(UsageError, match=r"^file: cannot be read: EOFError$")
    with nameless, reading("file"):
        raise EOFError


def test_values_are_cut():
    assert shown("a") == "'a'"
    assert len(shown([["x" * 50] * 50])) == 80
    assert shown("a\nb\x1b") == repr("a\nb\x1b")
