"""Tables know their files: what others do to them is noticed before a row is lost."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrjax import results
from lrjax.core import UsageError
from lrjax.tables import reader, scan

ROOT = Path(__file__).parent.parent
ROW = {"task": "t", "method": "m", "hparams": {}, "budget": 1.0, "cost": 0.5, "seed": 0}
ROW |= {"status": "done", "incumbent": True, "unit": "steps", "tuner": "random"}
ROW |= {"steps": 1, "valid_loss": 0.5}


def row_of(table, number):
    """A sound row of any table."""
    text = {"run_id", "tuning", "race"}
    keys = {k: f"a{number}" if k in text else number for k in reader.KEYS[table]}
    return ROW | keys


@pytest.fixture
def tables(tmp_path):
    with results.Tables(tmp_path / "run") as opened:
        opened.write_config({}, {})
        yield opened


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def moved(path):
    path.rename(path.with_name("moved"))


def copied(path):
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def linked(path):
    moved(path)
    path.symlink_to("moved")


def shortened(path):
    os.truncate(path, path.stat().st_size // 2)


def lengthened(path):
    with path.open("ab") as file:
        file.write(b'{"run_id": "b", "step": 1}\n')


CHANGES = {
    "removed": (Path.unlink, "was removed"),
    "moved": (moved, "was removed"),
    "copied": (copied, "was replaced"),
    "linked": (linked, "was replaced"),
    "shortened": (shortened, "was changed"),
    "lengthened": (lengthened, "was changed"),
}


@pytest.mark.parametrize("table", reader.KEYS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_table_is_noticed_before_the_next_row(tables, table, change):
    act, words = CHANGES[change]
    tables.append(table, [row_of(table, 1)])
    tables.check()
    act(tables.workdir / table)
    before = content_of(tables.workdir)
    with pytest.raises(UsageError, match=f"{table} {words} by another program"):
        tables.check()
    for rows in ([row_of(table, 2)], []):
        with pytest.raises(UsageError, match=f"{table} {words} by another program"):
            tables.append(table, rows)
    assert content_of(tables.workdir) == before


@pytest.mark.parametrize("table", reader.KEYS)
def test_a_table_that_another_program_made_is_noticed(tables, table):
    (tables.workdir / table).write_bytes(b"")
    with pytest.raises(UsageError, match=f"{table} was made by another program"):
        tables.append(table, [row_of(table, 1)])


@pytest.mark.parametrize("what", ["workdir", "lock"])
@pytest.mark.parametrize("change", ["removed", "moved", "copied"])
def test_a_removed_lock_or_workdir_ends_the_first_process(tables, what, change):
    tables.append(results.RUNS, [{"run_id": "a"}])
    if what == "lock":
        CHANGES[change][0](tables.workdir / ".lock")
    elif change == "removed":
        shutil.rmtree(tables.workdir)
    else:
        moved(tables.workdir)
        if change == "copied":
            shutil.copytree(tables.workdir.with_name("moved"), tables.workdir)
    with pytest.raises(UsageError, match=r"\.lock was removed or replaced"):
        tables.append(results.RUNS, [{"run_id": "b"}])
    with results.Tables(tables.workdir) as second:
        second.write_config({}, {})
        second.append(results.RUNS, [{"run_id": "b"}])
    with pytest.raises(UsageError, match=r"\.lock was removed or replaced"):
        tables.append(results.RUNS, [{"run_id": "c"}])
    ids = [row["run_id"] for row in results.read_rows(tables.workdir, results.RUNS)]
    kept = ["a"] * (what == "lock" or change == "copied")
    assert ids == [*kept, "b"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EWOULDBLOCK, "in use by another process"),
        (errno.ENOLCK, "cannot lock workdir .*: No locks available"),
        (errno.EOPNOTSUPP, "cannot lock workdir .*: Operation not supported"),
        (errno.ENOSYS, "cannot lock workdir .*: Function not implemented"),
        (errno.EIO, "cannot lock workdir .*: Input/output error"),
    ],
)
def test_only_a_taken_lock_means_in_use(tmp_path, monkeypatch, number, words):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UsageError, match=words):
        results.Tables(tmp_path).__enter__()


@pytest.mark.parametrize("name", [".lock", "config.json", *reader.KEYS])
@pytest.mark.parametrize("dangling", [False, True])
def test_links_in_a_workdir_are_not_followed(tmp_path, name, dangling):
    victim, workdir = tmp_path / "victim", tmp_path / "run"
    with results.Tables(workdir) as tables:
        tables.write_config({}, {})
    if not dangling:
        victim.write_text("other people's")
    (workdir / name).unlink(missing_ok=True)
    (workdir / name).symlink_to(victim)
    with pytest.raises(UsageError, match="a link, which lrjax does not follow"):
        results.Tables(workdir).__enter__()
    assert victim.exists() != dangling
    if not dangling:
        assert victim.read_text() == "other people's"


@pytest.mark.parametrize("name", ["config.tmp", "config.json.tmp"])
def test_temporary_files_are_not_predictable(tables, tmp_path, name):
    victim = tmp_path / "victim"
    (tables.workdir / name).symlink_to(victim)
    tables.write_config({}, {})
    assert not victim.exists()


@pytest.mark.parametrize("table", reader.KEYS)
@pytest.mark.parametrize("more", [0, 1])
def test_a_last_line_without_its_newline_is_kept(tables, table, more):
    rows = [row_of(table, i) for i in range(3)]
    tables.append(table, rows)
    tables.__exit__()
    path = tables.workdir / table
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])  # as an editor writes it
    assert results.read_rows(tables.workdir, table) == rows
    with results.Tables(tables.workdir) as again:
        again.append(table, [row_of(table, i) for i in range(3 + more)])
    added = results.line(row_of(table, 3)).encode() * more
    assert path.read_bytes() == whole + added


@pytest.mark.parametrize("lacking", [1, 2, 30])
def test_a_torn_last_line_is_dropped(tables, lacking):
    tables.append(results.CURVES, [row_of(results.CURVES, i) for i in range(3)])
    tables.__exit__()
    path = tables.workdir / results.CURVES
    whole = path.read_bytes()
    path.write_bytes(whole[: -1 - lacking])
    with (
        pytest.warns(UserWarning, match="torn last line"),
        results.Tables(tables.workdir) as again,
    ):
        again.append(results.CURVES, [row_of(results.CURVES, i) for i in range(3)])
    assert path.read_bytes() == whole


IDS = [hashlib.sha256(bytes([i])).hexdigest()[:16] for i in range(6)]
ODD = ["a", "0" * 15, "0" * 17, IDS[0] + "0", IDS[1][:-1] + '\\"', "é" * 8, ""]
LINES = st.builds(
    lambda run_id, step, compact: (
        json.dumps(
            {"run_id": run_id, "step": step, "loss": step / 2},
            separators=(",", ":") if compact else None,
        )
        + "\n"
    ),
    st.sampled_from([*IDS, *ODD[:4]]),
    st.integers(0, 3),
    st.booleans(),
)


@settings(max_examples=200)
@given(
    lines=st.lists(LINES, max_size=30),
    finished=st.sets(st.sampled_from([*IDS, *ODD])),
    piece=st.sampled_from([1, 7, 100, 2**20]),
    ended=st.booleans(),
)
def test_a_scan_finds_what_reading_all_rows_finds(
    tmp_path_factory, lines, finished, piece, ended
):
    path = tmp_path_factory.mktemp("scan") / results.CURVES
    text = "".join(lines).encode()
    path.write_bytes(text if ended else text[:-1])
    rows = [json.loads(line) for line in lines]
    wanted: dict[str, set[int]] = {}
    for row in rows:
        if row["run_id"] not in finished:
            wanted.setdefault(row["run_id"], set()).add(row["step"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reader, "PIECE", piece)
        assert scan.unfinished(path, finished) == (wanted, len(text))


@pytest.mark.parametrize(
    "damage", [b"not json", b"[1]", b'{"step": 1}', b'{"run_id": "b", "step": -1}', b""]
)
def test_a_scan_names_a_damaged_line(tmp_path, damage):
    path = tmp_path / results.CURVES
    sound = results.line({"run_id": IDS[0], "step": 1}).encode()
    path.write_bytes(sound * 3 + damage + b"\n" + sound)
    with pytest.raises(UsageError, match="line 4 is damaged"):
        scan.unfinished(path, set(IDS))


def test_a_scan_refuses_rows_that_contradict_each_other(tmp_path):
    path = tmp_path / results.CURVES
    rows = [{"run_id": IDS[0], "step": 1, "loss": loss} for loss in (0.5, 0.5, 0.25)]
    path.write_text("".join(map(results.line, rows)))
    with pytest.raises(UsageError, match="line 3 repeats an earlier row"):
        scan.unfinished(path, set())


def test_rows_of_finished_runs_are_not_written_twice(tables):
    """Also not when they come again, as from a host that was killed in between."""
    curves = [{"run_id": i, "step": step} for i in IDS for step in (1, 2)]
    for _ in range(2):
        tables.append(results.CURVES, curves)
        tables.append(results.RUNS, [{"run_id": i} for i in IDS])
    tables.__exit__()
    content = content_of(tables.workdir)
    with results.Tables(tables.workdir) as again:
        again.append(results.CURVES, curves)
        again.append(results.RUNS, [{"run_id": i} for i in IDS])
    assert content_of(tables.workdir) == content


OPENED = """
import resource, sys
from lrjax import results
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with results.Tables(sys.argv[1]) as tables:
    print(len(tables.runs))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_ten_million_curve_rows_are_opened_in_little_memory(tables):
    """2 GB of curves of 10,000 runs, all but one finished."""
    names = [hashlib.sha256(str(i).encode()).hexdigest()[:16] for i in range(10**4)]
    rest = results.line(dict.fromkeys("abcdefgh", 0.123456789))[1:]
    with (tables.workdir / results.CURVES).open("w") as file:
        for name in names:
            start = f'{{"run_id": "{name}", "step": '
            file.write("".join(f"{start}{step}, {rest}" for step in range(1, 1001)))
    with (tables.workdir / results.RUNS).open("w") as file:
        file.writelines(results.line({"run_id": name} | ROW) for name in names[1:])
    tables.__exit__()
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(tables.workdir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    runs, peak = map(int, done.stdout.split())
    assert runs == 9999
    assert peak < 300 * 1024, f"{peak} KiB"
