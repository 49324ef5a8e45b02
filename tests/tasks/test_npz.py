"""Arrays of .npz files: the right numbers, or one line before memory is taken."""

import io
import struct
import zipfile

import numpy as np
import pytest

from lrjax.tasks import npz
from lrjax.tasks.data import DataError

MOST = 10**6


def member(header, content=b"", version=1):
    """A member of an archive, of a header as text."""
    size = "<H" if version == 1 else "<I"
    start = b"\x93NUMPY" + bytes([version, 0])
    return start + struct.pack(size, len(header)) + header.encode() + content


def archive(path, members, how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", how) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.array(5),
        np.zeros((0, 3), np.int64),
        np.array([True, False]),
        np.arange(3, dtype=">i4"),
    ],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_of_numpy(array, save, tmp_path):
    path = tmp_path / "a.npz"
    save(path, wanted=array, other=np.array([None]))
    assert npz.names(path) == {"wanted", "other"}
    (found,) = npz.read(path, ["wanted"], MOST).values()
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert npz.headers(path, ["wanted"], MOST)["wanted"] == (array.shape, array.dtype)


HEADER = "{{'descr': {}, 'fortran_order': {}, 'shape': {}}}"


@pytest.mark.parametrize("version", [1, 2, 3, 9])
@pytest.mark.parametrize(
    "header",
    [
        HEADER.format("'|u1'", False, shape)
        for shape in (
            *("(True,)", "(4.0,)", "('4',)", "4", "(-1,)", "(-2, -2)", "(5,)", "(3,)"),
            *("(10**9,)", f"({2**63},)", f"({2**64}, 0)", "(1,) * 99", "[4]", "None"),
        )
    ]
    + [
        HEADER.format(kind, False, "(4,)")
        for kind in (
            *("'O'", "'|S1'", "'<U1'", "'V1'", "'S0'", "'<M8[s]'", "'c16'", "1", "{}"),
            *("[('a', 'u1')]", "('u1', (2,))", "'nonsense'", "b'u1'"),
        )
    ]
    + [
        HEADER.format("'|u1'", 1, "(4,)"),
        *("", "{}", "[]", "{" * 5000, "f()", "{'shape': (4,)}", "\0", " " * 60000),
    ],
)
def test_odd_headers_are_one_line(header, version, tmp_path):
    content = member(header + "\n", b"\0" * 4, version)
    path = archive(tmp_path / "a.npz", {"wanted.npy": content})
    for read in (npz.headers, npz.read):
        with pytest.raises(DataError) as refused:
            read(path, ["wanted"], MOST)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 400


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, wanted=np.zeros(MOST, np.uint8))
    with pytest.raises(DataError, match="more than 1,000,000 bytes"):
        npz.read(path, ["wanted"], MOST)
    with pytest.raises(DataError, match="absent"):
        npz.read(path, ["absent"], MOST)
    array = io.BytesIO()
    np.save(array, np.zeros(4))
    for how in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        archive(path, {"wanted.npy": array.getvalue()}, how)
        with pytest.raises(DataError, match="not by deflate"):
            npz.read(path, ["wanted"], MOST)


def test_a_size_that_the_archive_lies_about(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, wanted=np.zeros(10**5, np.uint8))
    content = path.read_bytes()
    size = struct.pack("<I", 10**5 + 128)
    assert size in content
    for lie in (0, 200, 2**31):
        path.write_bytes(content.replace(size, struct.pack("<I", lie)))
        with pytest.raises(DataError):
            npz.read(path, ["wanted"], MOST)


def test_a_long_table_of_contents_is_refused(tmp_path):
    path = archive(tmp_path / "a.npz", {f"{i:0200}": b"" for i in range(5000)})
    with pytest.raises(DataError, match="a header has more than 1,048,576 bytes"):
        npz.names(path)
