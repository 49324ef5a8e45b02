"""Reading, finding and downloading data files; scikit-learn's reader is the truth."""

import bz2
import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import lzma
import os
import resource
import threading
import time
import urllib.error
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import dump_svmlight_file, load_iris, load_svmlight_file

from lrjax.common import packed
from lrjax.core import UsageError
from lrjax.tasks import data, make_task
from lrjax.tasks.data import DataError

COMPRESSORS = {"": bytes, ".bz2": bz2.compress, ".xz": lzma.compress}
COMPRESSORS[".gz"] = functools.partial(gzip.compress, mtime=0)
SMALL = b"2 1:0.5 3:-1e-2\n# comment\n\n1 2:3 # 4:5\r\n"


def sklearn_read(text, num_features=None):
    features, labels = load_svmlight_file(
        io.BytesIO(text), zero_based=False, n_features=num_features
    )
    return features.toarray(), labels


def check_message(error, start):
    assert str(error).removeprefix("svmlight:").startswith(start)
    assert "\n" not in str(error)


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_reads_plain_and_compressed(tmp_path, suffix):
    path = tmp_path / f"small{suffix}"
    path.write_bytes(COMPRESSORS[suffix](SMALL))
    features, labels = data.read_svmlight(path)
    np.testing.assert_array_equal(features, [[0.5, 0, -0.01], [0, 3, 0]])
    np.testing.assert_array_equal(labels, [2, 1])
    assert features.dtype == labels.dtype == np.float64


def test_real_files_agree_with_sklearn():
    folder = os.environ.get("LRJAX_DATA_DIR")
    if not folder:
        pytest.skip("LRJAX_DATA_DIR is not set")
    files = [p for p in Path(folder).rglob("*.xz") if p.stat().st_size < 200_000]
    files = [p for p in files if ".scale" in p.name or "pendigits" in p.name]
    if not files:
        pytest.skip("no svmlight files in LRJAX_DATA_DIR")
    for path in files:
        features, labels = data.read_svmlight(path)
        expected, expected_labels = sklearn_read(lzma.decompress(path.read_bytes()))
        np.testing.assert_array_equal(features, expected)
        np.testing.assert_array_equal(labels, expected_labels)


@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 8), st.integers(1, 8)),
        elements=st.just(0.0) | st.floats(-1e300, 1e300),
    ),
    st.data(),
)
@settings(max_examples=60)
def test_round_trip(features, draw):
    features[0, -1] = 1.0  # the largest index gives the width
    labels = draw.draw(hnp.arrays(np.int64, len(features), elements=st.integers(-9, 9)))
    file = io.BytesIO()
    dump_svmlight_file(features, labels, file, zero_based=False, comment="a_b: c")
    found, found_labels = data.parse_svmlight(file.getvalue(), "file")
    expected, _ = sklearn_read(file.getvalue())
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, features, rtol=1e-15)
    np.testing.assert_array_equal(found_labels, labels)


SOUND_LINES = [b"1 1:2 3:4.5", b"-1 2:1e3 # note", b"+1 1:.5 2:5.", b"3 4:-7E-2"]
PARTS = [b"0", b"9", b".", b"-", b"e", b":", b" ", b"\t", b"\n", b"\r", b"#", b"_"]
PARTS += [b",", b"nan", b"qid:1", b"1 ", b" 2:1", b"\x00", b"\xff", b"\xd9\xa1"]


@st.composite
def mutated(draw):
    text = b"\n".join(draw(st.lists(st.sampled_from(SOUND_LINES), max_size=4)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 3))
        text = text[:at] + draw(st.sampled_from([*PARTS, b""])) + text[at + cut :]
    return text


@given(mutated() | st.binary(max_size=40))
@settings(max_examples=300)
def test_a_mutated_file_is_refused_or_read_as_sklearn_does(text):
    try:
        features, labels = data.parse_svmlight(text, "file")
    except DataError as error:
        check_message(error, "file: ")
    else:
        expected, expected_labels = sklearn_read(text, features.shape[1])
        np.testing.assert_array_equal(features, expected)
        np.testing.assert_array_equal(labels, expected_labels)


@functools.cache
def iris():
    """A real file: scikit-learn's iris in svmlight's format."""
    file = io.BytesIO()
    dump_svmlight_file(*load_iris(return_X_y=True), file, zero_based=False)
    return file.getvalue()


REPLACED = {
    b" ": [b"", b"\t", b",", b"  ", b"\n", b"\x0b", b"\xc2\xa0"],
    b":": [b"", b"=", b"::", b" ", b";"],
    b"\n": [b"", b"\r", b" ", b"\\n", b"\n\n", b"\x00"],
    b".": [b"", b",", b"..", b"e", b"\xff", b"\xd9\xab"],
    b"1:": [b"0:", b"-1:", b"9999999:", b"99999999999999999999:", b"\xef\xbb\x91:"],
    b"5": [b"nan", b"inf", b"-inf", b"1e400", b"0x5", b"1_0", b"5" * 5000, b"\x80"],
}


@st.composite
def mutated_iris(draw):
    """Iris cut anywhere, or with one to three tokens replaced."""
    text = iris()
    if draw(st.booleans()):
        text = text[: draw(st.integers(0, len(text)))]
    for _ in range(draw(st.integers(0, 3))):
        old = draw(st.sampled_from(sorted(REPLACED)))
        places = [i for i in range(len(text)) if text.startswith(old, i)]
        if places:
            at = draw(st.sampled_from(places))
            new = draw(st.sampled_from(REPLACED[old]))
            text = text[:at] + new + text[at + len(old) :]
    return text


@given(mutated_iris())
@settings(max_examples=200)
def test_a_mutated_real_file_makes_a_task_or_is_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "mutated.svm"
    path.write_bytes(text)
    try:
        task = make_task(f"svmlight:{path}")
    except DataError as error:
        check_message(error, "")
        assert str(path) in str(error)  # noqa: PT017
    else:
        expected, _ = sklearn_read(text, task.train["features"].shape[1])
        parts = (task.train, task.valid, task.test)
        assert sum(len(p["labels"]) for p in parts) == len(expected)
        assert all(np.isfinite(p["features"]).all() for p in parts)


@given(st.sampled_from([".bz2", ".xz", ".gz"]), st.data())
@settings(max_examples=100)
def test_a_damaged_compressed_file_is_refused(tmp_path_factory, suffix, draw):
    whole = COMPRESSORS[suffix](SMALL * 50)
    at = draw.draw(st.integers(0, len(whole) - 1))
    if draw.draw(st.booleans()):
        damaged = whole[:at]
    else:
        damaged = whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(damaged)
    try:
        features, _ = data.read_svmlight(path)
    except DataError as error:
        check_message(error, str(path))
    else:  # only bytes that say nothing of the content, as gzip's time, may differ
        assert features.shape == (100, 3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "holds no rows"),
        (b"# nothing\n\n", "holds no rows"),
        (b"1\n2\n", "holds no features"),
        (b"1 1:1\nx 1:1", "line 2: the label 'x' is not a number"),
        (b"1 1:1\n1,2 1:1", "line 2: the label '1,2' is not a number"),
        (b"nan 1:1", "line 1: the label"),
        (b"1e999 1:1", "line 1: the label is not finite"),
        (b"1 1:nan", "line 1: a value is not finite"),
        (b"1 1:1 2:inf", "line 1: a value is not finite"),
        (b"1 1:1e999", "line 1: a value is not finite"),
        (b"1 1:1\n1 1=2", "line 2: entry 1 '1=2' is not index:value"),
        (b"1 1:1\n1 1;2", "line 2: entry 1 '1;2' is not index:value"),
        (b"1,1:2,2:3", "line 1: the label is not a number"),
        (b"1 1:2,2:3", "line 1: entry 1 is not index:value"),
        (b"1 1:1 1 : 2", "line 1: entry 2 is not index:value"),
        (b"1 1:2:3 4", "line 1: entry 1 is not index:value"),
        (b"1 1:", "line 1: entry 1 is not index:value"),
        (b"1 1.0:2", "line 1: entry 1 is not index:value"),
        (b"1 1_0:2", "line 1: entry 1 is not index:value"),
        (b"1 0:2", "line 1: an index is below 1"),
        (b"1 -3:2", "line 1: an index is below 1"),
        (b"1 2:1 1:1", "line 1: the indices do not increase"),
        (b"1 1:1\n\n# x\n1 1:1 1:2", "line 4: the indices do not increase"),
        (b"1 1000001:1", "line 1: an index is above 1,000,000"),
        (b"1 99999999999999999999:1", "line 1: an index is above 1,000,000"),
        (b"1 " + b"9" * 9999 + b":1", "line 1: an index is above 1,000,000"),
        (b"1 1:1\n1 " + b"9" * 10**6 + b"x:1", "999...' is not index:value"),
        (b"1 1:1\n" * 200 + b"1 1000000:1", "more than 134,217,728 numbers"),
        (b"1 qid:3 1:1", "line 1: qid: belongs to ranking"),
        ("1 1:1\n1 1:٣".encode(), r"entry 1 '1:\\xd9\\xa3' is not index:value"),
        (b"\xef\xbb\xbf1 1:1", "line 1: the label is not a number"),
        (b"1 1:1\n1 1:1\x00", r"line 2: entry 1 '1:1\x00' is not index:value"),
        (b"<html>404</html>", "line 1: the label is not a number"),
    ],
)
def test_malformed_text_is_refused(text, complaint):
    with pytest.raises(DataError) as error:
        data.parse_svmlight(text, "file")
    check_message(error.value, "file: ")
    assert complaint in str(error.value)
    assert len(str(error.value)) < 120


def test_unreadable_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(DataError, match="no data file is named"):
        data.read_svmlight("")
    for path, complaint in (
        (tmp_path / "absent", "no such file"),
        (tmp_path / "dangling", "No such file"),
        (tmp_path, "folder"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
        (tmp_path / ("x" * 999), "no such file"),
        (tmp_path / "nul\0", "no such file"),
    ):
        for read in (data.read_bytes, data.read_svmlight):
            with pytest.raises(DataError, match=complaint) as refused:
                read(path)
            assert "\n" not in str(refused.value)
    for suffix in (".bz2", ".xz", ".gz"):
        path = tmp_path / f"not_compressed{suffix}"
        path.write_bytes(SMALL)
        with pytest.raises(DataError, match="cannot be read"):
            data.read_bytes(path)


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_decompression_bomb_is_refused(tmp_path, suffix):
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(COMPRESSORS[suffix](bytes(2**24)))
    with pytest.raises(DataError, match="holds more than 1,048,576 bytes"):
        data.read_bytes(path, max_bytes=2**20)
    assert len(data.read_bytes(path, max_bytes=2**24)) == 2**24


def test_a_dictionary_of_gigantic_declared_size_takes_no_memory(tmp_path):
    content = bytearray(lzma.compress(SMALL))
    end = 12 + 4 * (content[12] + 1)  # of the block's header, after the stream's
    declared = content.index(b"\x21\x01", 12) + 2  # LZMA2, one byte of properties
    content[declared] = 40  # 4 GiB
    content[end - 4 : end] = zlib.crc32(content[12 : end - 4]).to_bytes(4, "little")
    path = tmp_path / "gigantic.xz"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(DataError):  # where the system does not lend as much
        assert data.read_bytes(path) == SMALL
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def test_xz_takes_no_more_memory_than_its_limit(tmp_path, monkeypatch):
    path = tmp_path / "a.xz"
    path.write_bytes(lzma.compress(SMALL, preset=9))
    assert data.read_bytes(path) == SMALL
    decoder = functools.partial(lzma.LZMADecompressor, memlimit=2**25)
    monkeypatch.setitem(packed._DECODERS, ".xz", decoder)
    with pytest.raises(DataError, match=r"a\.xz: cannot be read: Memory usage limit"):
        data.read_bytes(path)


@pytest.mark.parametrize("suffix", [".bz2", ".xz", ".gz"])
def test_files_of_several_streams_are_read_whole_or_refused(tmp_path, suffix):
    """Python's own readers leave out what follows a damaged stream, in silence."""
    path, stream = tmp_path / f"a{suffix}", COMPRESSORS[suffix](SMALL)
    path.write_bytes(stream + bytes(8) + stream)
    assert data.read_bytes(path) == 2 * SMALL
    for damaged in (stream + b"x" + stream, stream + stream[:-3], b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=path.name):
            data.read_bytes(path)


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 600)), max_size=9))
@settings(max_examples=40)
def test_any_place_of_a_packed_file_can_be_read(tmp_path_factory, steps):
    content = bytes(range(256)) * 10
    for suffix in (".bz2", ".xz", ".gz"):
        path = tmp_path_factory.getbasetemp() / f"seek{suffix}"
        path.write_bytes(COMPRESSORS[suffix](content))
        with packed.open_given(path, 10**4) as file, io.BytesIO(content) as plain:
            for place, count in steps:
                assert file.seek(min(place, len(content))) == plain.seek(
                    min(place, len(content))
                )
                assert file.read(count) == plain.read(count)
                assert file.tell() == plain.tell()


def test_limits_of_svmlight_files(monkeypatch):
    monkeypatch.setattr(data, "MAX_LINE", 40)
    monkeypatch.setattr(data, "MAX_FEATURES", 5)
    monkeypatch.setattr(data, "MAX_ROWS", 7)
    monkeypatch.setattr(data, "_BLOCK", 4)
    for text, complaint in (
        (b"1 1:1\n1 1:1" + b" " * 40, "line 2 has more than 40 bytes"),
        (b"1 1:1 2:1 3:1 4:1 5:1 5:1", "line 1: it has more than 5 entries"),
        (b"1 6:1", "line 1: an index is above 5"),
        (b"1 1:1\n" * 8, "has more than 7 rows"),
        (b"1 1:1\n" * 5 + b"1 0:1", "line 6: an index is below 1"),
    ):
        with pytest.raises(DataError, match=complaint):
            data.parse_svmlight(text, "file")
    features, labels = data.parse_svmlight(b"# a\n1 1:1\n\n2 5:2 # b\n" * 3, "file")
    np.testing.assert_array_equal(features, [[1, 0, 0, 0, 0], [0, 0, 0, 0, 2]] * 3)
    np.testing.assert_array_equal(labels, [1, 2] * 3)


def test_find_file_prefers_folders_then_names(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first / "b.gz", second / "a", second / "b"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (first / "a").mkdir()  # a folder is no file
    assert data.find_file(["a", "b"], [first, second]) == first / "b.gz"
    assert data.find_file(["a", "b"], [second, first]) == second / "a"
    assert data.find_file(["c"], [first, second, tmp_path / "absent"]) is None


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LRJAX_CACHE", str(tmp_path))
    assert data.cache_dir() == tmp_path
    monkeypatch.setenv("LRJAX_CACHE", "~/kept")
    monkeypatch.setenv("HOME", "/somebody")
    assert data.cache_dir() == Path("/somebody/kept")
    monkeypatch.setenv("LRJAX_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.cache_dir() == tmp_path / ".cache" / "lrjax"


def test_a_changed_file_fails_its_checksum(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    data.check_sha256(path)  # nothing is recorded yet
    data.record_sha256(path)
    note = tmp_path / "file.sha256"
    assert note.read_text() == f"{hashlib.sha256(b'one').hexdigest()}  file\n"
    data.check_sha256(path)
    path.write_bytes(b"two")
    data.record_sha256(path)  # what is recorded stays
    with pytest.raises(DataError, match=r"sha256 is not the one in file\.sha256"):
        data.check_sha256(path)
    note.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="sha256"):
        data.check_sha256(path)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /good whole, /short cut off, /slow in drops, /moved with a redirect."""

    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/good")
            self.end_headers()
            return
        if self.path not in ("/good", "/short", "/slow"):
            self.send_error(404)
            return
        self.send_response(200)
        extra = 7 if self.path == "/short" else 0
        self.send_header("Content-Length", str(len(SMALL) + extra))
        self.end_headers()
        if self.path == "/slow":
            with contextlib.suppress(OSError):  # once nobody listens any more
                for byte in SMALL:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
            return
        self.wfile.write(SMALL)

    def log_message(self, *args):
        pass


@pytest.fixture
def site(monkeypatch):
    """A local server that answers for https://host/."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    local = f"http://127.0.0.1:{server.server_port}/"
    internet = data._INTERNET.open

    def over_http(url, timeout):
        assert 0 < timeout < 120
        return internet(url.replace("https://host/", local), timeout=timeout)

    monkeypatch.setattr(data._INTERNET, "open", over_http)
    yield "https://host/"
    server.shutdown()
    server.server_close()


def test_download_keeps_file_and_checksum(site, tmp_path):
    seen = []
    path = data.download(f"{site}good", tmp_path / "new", lambda p: seen.append(p.name))
    assert path == tmp_path / "new" / "good"
    assert path.read_bytes() == SMALL
    assert seen == ["good"]
    assert sorted(p.name for p in path.parent.iterdir()) == ["good", "good.sha256"]
    data.check_sha256(path)


def refuse(path):
    raise DataError(f"{path.name} is not wanted")


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("absent", {}, "404"),
        ("short", {}, "ended after 40 of 47 bytes"),
        ("moved", {}, "which is not https"),
        ("good", {"max_bytes": 10}, "larger than 10 bytes"),
        ("slow", {"time_limit": 0.1}, "took longer than"),
        ("good", {"check": refuse}, "good is not wanted"),
    ],
)
def test_a_failed_download_leaves_nothing(site, tmp_path, name, options, complaint):
    with pytest.raises(DataError, match=complaint) as error:
        data.download(site + name, tmp_path, **options)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["file", "checksum"])
def test_a_download_does_not_write_through_links(site, tmp_path, kind):
    victim = tmp_path / "victim"
    victim.write_bytes(b"other people's")
    folder = tmp_path / "cache" / "libsvm"
    folder.mkdir(parents=True)
    name = "good" if kind == "file" else "good.sha256"
    (folder / name).symlink_to(victim)
    assert data.download(f"{site}good", folder).read_bytes() == SMALL
    assert victim.read_bytes() == b"other people's"
    with contextlib.suppress(DataError):
        data.check_sha256(folder / "good")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(UsageError, match="a link"):
        data.download(f"{site}good", tmp_path / "link")


def test_a_pipe_in_place_of_a_checksum_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    os.mkfifo(tmp_path / "a.sha256")
    with pytest.raises(DataError, match=r"a\.sha256: .*not a regular file"):
        data.check_sha256(tmp_path / "a")


def test_download_refuses_http_and_unreachable_hosts(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="only https"):
        data.download("http://host/file", tmp_path)

    def unreachable(url, timeout):
        raise urllib.error.URLError(TimeoutError("timed out"))

    monkeypatch.setattr(data._INTERNET, "open", unreachable)
    with pytest.raises(DataError, match="https://host/file: timed out"):
        data.download("https://host/file", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not a folder"):
        data.download("https://host/file", tmp_path / "file")


def test_fingerprint_follows_names_types_shapes_and_values():
    numbers = np.arange(6.0)
    variants = [
        {"a": numbers},
        {"b": numbers},
        {"a": numbers.astype(np.float32)},
        {"a": numbers.reshape(2, 3)},
        {"a": numbers + 1},
        {"a": numbers[:3], "b": numbers[3:]},
    ]
    assert len({data.fingerprint_arrays(v) for v in variants}) == len(variants)
    assert data.fingerprint_arrays({"a": numbers.reshape(3, 2).T}) == (
        data.fingerprint_arrays({"a": np.array(numbers.reshape(3, 2).T, order="C")})
    )


def test_fingerprints_tell_small_floats_apart():
    raw = np.arange(8, dtype=np.uint8)
    kinds = ("float8_e4m3fn", "float8_e5m2", "int4", "uint4")
    found = {
        data.fingerprint_arrays({"a": raw.view(getattr(ml_dtypes, kind))})
        for kind in kinds
    }
    assert len(found) == len(kinds)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_lines_end_as_systems_end_them(end):
    lines = [b"1 1:1 # one", b"", b"2 1:3 2:4", b"1 1:5"]
    features, labels = data.parse_svmlight(end.join(lines), "file")
    np.testing.assert_array_equal(labels, [1, 2, 1])
    np.testing.assert_array_equal(features, [[1, 0], [3, 4], [5, 0]])
    with pytest.raises(DataError, match="file: line 4: "):
        data.parse_svmlight(end.join([*lines[:3], b"x 1:5"]), "file")


def test_a_row_is_not_hidden_by_the_comment_before_it():
    with pytest.raises(DataError, match="file: line 2: CR alone does not end a line"):
        data.parse_svmlight(b"1 1:1\n1 1:2 # old\r2 1:3\n2 1:4\n", "file")
