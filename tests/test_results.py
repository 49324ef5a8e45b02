import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lrjax import identity, results
from lrjax.core import NUMERICS_VERSION, Run, UsageError
from lrjax.tables import reader

RUN = Run(
    task="libsvm/iris",
    protocol="sound",
    method="adam",
    hparams=(("b1", 0.9), ("learning_rate", 0.001)),
    seed=3,
    steps=200,
    horizon=200,
    batch_size=64,
    precision="float32",
    eval_every=2,
    data="0123456789abcdef",
)
OTHER = {
    "task": "libsvm/wine",
    "protocol": "study",
    "method": "sgd",
    "hparams": (("b1", 0.9), ("learning_rate", 0.002)),
    "seed": 4,
    "steps": 201,
    "horizon": 201,
    "batch_size": 65,
    "precision": "float64",
    "eval_every": 3,
    "data": "fedcba9876543210",
    "fresh_batches": True,
    "recalibrated": True,
    "options": (("label_smoothing", 0.1),),
}


@pytest.fixture
def tables(tmp_path):
    with results.Tables(tmp_path / "run") as opened:
        opened.write_config({"seeds": [1]}, {})
        yield opened


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Run)])
def test_identity_changes_with_every_field(field):
    changed = dataclasses.replace(RUN, **{field: OTHER[field]})
    assert identity.run_id(changed) != identity.run_id(RUN)


def test_identity_ignores_the_order_of_hyperparameters():
    turned = dataclasses.replace(RUN, hparams=RUN.hparams[::-1])
    assert identity.run_id(turned) == identity.run_id(RUN)


def test_identity_of_runs_without_options_is_what_it_was_before_there_were_any():
    if NUMERICS_VERSION == 4:  # as written down then
        assert identity.run_id(RUN) == "e3b34a960136e632"


def test_identity_tells_infinity_from_none():
    ids = {
        identity.run_id(dataclasses.replace(RUN, hparams=(("growth_rate", value),)))
        for value in (math.inf, None, 1.0)
    }
    assert len(ids) == 3


def test_rows_are_whole_lines_and_not_written_twice(tables):
    tables.append(
        results.RUNS, [{"run_id": "a", "loss": 1.0}, {"run_id": "b", "loss": 2.0}]
    )
    tables.append(
        results.RUNS, [{"run_id": "a", "loss": 9.0}, {"run_id": "c", "loss": 3.0}]
    )
    lines = (tables.workdir / results.RUNS).read_text().splitlines()
    assert [json.loads(line)["run_id"] for line in lines] == ["a", "b", "c"]
    assert json.loads(lines[0])["loss"] == 1.0


def test_curve_rows_are_told_apart_by_run_and_step(tables):
    tables.append(
        results.CURVES, [{"run_id": "a", "step": 1}, {"run_id": "a", "step": 2}]
    )
    tables.append(
        results.CURVES, [{"run_id": "a", "step": 2}, {"run_id": "b", "step": 2}]
    )
    rows = (tables.workdir / results.CURVES).read_text().splitlines()
    assert len(rows) == 3


def test_numbers_that_are_not_finite_are_null(tables):
    row = {"run_id": "a", "loss": math.nan, "rate": math.inf, "hparams": {"d": 1.0}}
    tables.append(results.RUNS, [row])
    text = (tables.workdir / results.RUNS).read_text()
    assert json.loads(text) == {
        "run_id": "a",
        "loss": None,
        "rate": None,
        "hparams": {"d": 1.0},
    }


def test_a_torn_last_line_is_cut_off_with_a_warning(tables):
    tables.append(results.RUNS, [{"run_id": "a"}, {"run_id": "b"}])
    path = tables.workdir / results.RUNS
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"run_id": "c", "lo')
    tables.__exit__()
    with (
        pytest.warns(UserWarning, match="torn last line of 19 bytes"),
        results.Tables(tables.workdir) as again,
    ):
        assert again.runs == {"a", "b"}
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "damage",
    [
        *(b"not json\n", b"[1, 2]\n", b'{"step": 1}\n', b"\n", b"\x00\n", b"\xff\n"),
        *(b'{"run_id": 5}\n', b'{"run_id": ["c"]}\n', b"[" * 10**5 + b"\n"),
    ],
)
def test_a_damaged_line_is_refused_and_nothing_is_changed(tables, damage):
    path = tables.workdir / results.RUNS
    content = b'{"run_id": "a"}\n' + damage + b'{"run_id": "b"}\n'
    path.write_bytes(content)
    tables.__exit__()
    with pytest.raises(UsageError, match="line 2 is damaged"):
        results.Tables(tables.workdir).__enter__()
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "damage", [b"", b', "step": null', b', "step": "2"', b', "step": 2.5']
)
def test_a_damaged_step_is_refused(tables, damage):
    path = tables.workdir / results.CURVES
    content = b'{"run_id": "a", "step": 1}\n{"run_id": "a"' + damage + b"}\n"
    path.write_bytes(content)
    tables.__exit__()
    with pytest.raises(UsageError, match=r"curves\.jsonl: line 2 is damaged"):
        results.Tables(tables.workdir).__enter__()
    assert path.read_bytes() == content


ROW = dataclasses.asdict(RUN) | {"run_id": "a", "hparams": {}, "status": "done"}


@pytest.mark.parametrize(
    "damage",
    [
        *({"task": None}, {"method": 5}, {"status": ["done"]}, {"hparams": "b1"}),
        *({"seed": "1"}, {"steps": [1]}, {"valid_loss": "low"}, {"test_accuracy": {}}),
        {"learning_rate": [0.1]},
    ],
)
def test_a_run_with_a_wrong_type_is_refused(tables, damage):
    tables.append(results.RUNS, [ROW, ROW | {"run_id": "b"} | damage])
    tables.append(results.CURVES, [{"run_id": "a", "step": 1}])
    with pytest.raises(UsageError, match=r"runs\.jsonl: line 2 is damaged"):
        results.load(tables.workdir)


@pytest.mark.parametrize("name", ["task", "method", "seed", "status", "hparams"])
def test_a_run_that_lacks_what_others_have_is_refused(tables, name):
    # As after one flipped bit in the name.
    damaged = {k if k != name else k.upper(): v for k, v in ROW.items()}
    tables.append(results.RUNS, [damaged, ROW | {"run_id": "b"}])
    tables.append(results.CURVES, [{"run_id": "a", "step": 1}])
    with pytest.raises(UsageError, match=f"line 1 is damaged: it has no '{name}'"):
        results.load(tables.workdir)


def test_a_curve_with_text_for_a_number_is_refused(tables):
    tables.append(results.RUNS, [ROW])
    tables.append(
        results.CURVES,
        [{"run_id": "a", "step": i, "train_loss": v} for i, v in enumerate([1.0, "x"])],
    )
    with pytest.raises(UsageError, match=r"curves\.jsonl: line 2 is damaged"):
        results.load(tables.workdir)


@pytest.mark.parametrize("name", [results.RUNS, results.CURVES])
def test_a_table_that_is_no_file_is_refused(tmp_path, name):
    (tmp_path / "config.json").write_text(f'{{"numerics_version": {NUMERICS_VERSION}}}')
    path = tmp_path / name
    for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("absent")):
        make(path)
        with pytest.raises(UsageError, match=f"cannot read .*{name}: it is not a"):
            results.Tables(tmp_path).__enter__()
        (path.rmdir if path.is_dir() else path.unlink)()


@pytest.mark.parametrize("name", [results.RUNS, results.CURVES])
def test_a_row_that_comes_twice_is_refused_only_with_other_values(tables, name):
    losses = {"valid_loss": 0.5, "train_loss": None, "seconds": 1.5}
    rows = [{"run_id": i, "step": 1} | losses for i in "ab"]
    tables.append(results.RUNS, rows)
    tables.append(results.CURVES, rows)
    tables.__exit__()
    path = tables.workdir / name
    content = path.read_bytes()
    before = results.load(tables.workdir)
    repeated = content.splitlines(keepends=True)[0]
    for equal in (repeated, repeated.replace(b"1.5", b"2.5")):
        if name == results.RUNS or equal is repeated:
            path.write_bytes(content + equal)
            after = results.load(tables.workdir)
            for one, other in zip(before, after, strict=True):
                assert one.equals(other)
    path.write_bytes(content + repeated.replace(b"0.5", b"0.25"))
    with pytest.raises(UsageError, match=f"{name}: line 3 repeats an earlier row"):
        results.load(tables.workdir)


def row_of(run_id, **fields):
    return {"run_id": run_id, "loss": 0.25, "hparams": {"b1": 0.9}} | fields


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def whole(text, names):
    """Whole lines of a table, the last one perhaps without its newline."""
    end = text.rfind(b"\n") + 1
    last = text[end:]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        row = json.loads(last)
        return text + b"\n" if all(row[name] is not None for name in names) else text
    return text[:end]


@example(name=results.CURVES, cuts=[(0.25, 0, b"\x80")], length=1.0)  # in a name
@given(
    name=st.sampled_from([results.RUNS, results.CURVES, "config.json"]),
    cuts=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=3)), max_size=3
    ),
    length=st.just(1.0) | st.floats(0, 1),
)
@settings(max_examples=60)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_table_is_read_or_refused_and_whole_rows_are_never_lost(
    name, cuts, length
):
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        with results.Tables(workdir) as tables:
            tables.write_config({"seeds": [1]}, {})
            tables.append(results.RUNS, [row_of("a"), row_of("b"), row_of("c")])
            tables.append(results.CURVES, [row_of("a", step=1), row_of("a", step=2)])
        path = workdir / name
        text = path.read_bytes()
        for place, gone, new in cuts:
            at = int(place * len(text))
            text = text[:at] + new + text[at + gone :]
        path.write_bytes(text[: int(length * len(text))])
        before = content_of(workdir)
        try:
            with results.Tables(workdir) as tables:
                tables.append(results.RUNS, [row_of("new")])
        except UsageError:
            assert content_of(workdir) == before
            return
        after = content_of(workdir)
        for each, old in before.items():
            table = each in (results.RUNS, results.CURVES)
            kept = whole(old, reader.KEYS[each]) if table else old
            new = results.line(row_of("new")).encode() if each == results.RUNS else b""
            assert after[each] == kept + new


def test_results_of_another_version_are_refused(tables):
    path = tables.workdir / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"numerics_version": NUMERICS_VERSION + 1}))
    tables.__exit__()
    with pytest.raises(UsageError, match="results of another version"):
        results.Tables(tables.workdir).__enter__()


@pytest.mark.parametrize("content", ["", "{}", "[]", '"text"', "{torn"])
def test_a_foreign_config_is_refused(tables, content):
    (tables.workdir / "config.json").write_text(content)
    tables.__exit__()
    with pytest.raises(UsageError, match=r"not a config\.json that lrjax wrote"):
        results.Tables(tables.workdir).__enter__()


def test_tables_without_a_config_are_refused(tmp_path):
    (tmp_path / results.RUNS).write_text("")
    with pytest.raises(UsageError, match=r"no config\.json"):
        results.Tables(tmp_path).__enter__()


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot write to workdir"):
            results.Tables(path).__enter__()
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(UsageError, match="cannot write to workdir"):
        results.Tables("x/" * 2000).__enter__()


def test_a_second_process_is_refused(tables):
    code = (
        "import sys; from lrjax import results; from lrjax.core import UsageError\n"
        "try: results.Tables(sys.argv[1]).__enter__()\n"
        "except UsageError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tables.workdir)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "in use by another process" in done.stdout


def test_a_full_disk_leaves_whole_lines(tables, monkeypatch):
    tables.append(results.RUNS, [{"run_id": "a"}])
    whole = (tables.workdir / results.RUNS).read_bytes()

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results.os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        tables.append(results.RUNS, [{"run_id": "b"}])
    assert (tables.workdir / results.RUNS).read_bytes() == whole
    assert tables.runs == {"a"}


def test_load_gives_a_frame_for_each_table(tables):
    tables.append(results.RUNS, [{"run_id": "a", "valid_loss": math.nan}])
    tables.append(
        results.CURVES, [{"run_id": "a", "step": 1}, {"run_id": "a", "step": 2}]
    )
    runs, curves = results.load(tables.workdir)
    assert list(runs["run_id"]) == ["a"]
    assert runs["valid_loss"].isna().all()
    assert list(curves["step"]) == [1, 2]


def test_curves_know_the_runs_they_are_of(tables):
    runs = [
        {"run_id": "b", "task": "x", "method": "sgd", "seed": 3},
        {"run_id": "a", "task": "x", "method": "adam", "seed": 1},
    ]
    tables.append(results.RUNS, runs)
    steps = [("a", 1), ("b", 1), ("a", 2)]
    tables.append(results.CURVES, [{"run_id": r, "step": s} for r, s in steps])
    _, curves = results.load(tables.workdir)
    assert curves["step"].tolist() == [1, 1, 2]
    assert curves["method"].tolist() == ["adam", "sgd", "adam"]
    assert curves["seed"].tolist() == [1, 3, 1]
    # A run that was killed in training has lines in this table alone.
    tables.append(results.CURVES, [{"run_id": "c", "step": 1}])
    _, curves = results.load(tables.workdir)
    assert curves["method"].isna().tolist() == [False, False, False, True]


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(UsageError, match=r"no runs\.jsonl"):
        results.load(tmp_path)


def test_load_drops_a_torn_line_of_either_table(tables):
    tables.append(results.RUNS, [{"run_id": "a"}])
    tables.append(
        results.CURVES, [{"run_id": "a", "step": 1}, {"run_id": "a", "step": 2}]
    )
    for name in (results.RUNS, results.CURVES):
        with open(tables.workdir / name, "ab") as file:
            file.write(b'{"run_id": "b", "st')
    with pytest.warns(UserWarning, match="torn last line of 19 bytes"):
        runs, curves = results.load(tables.workdir)
    assert list(runs["run_id"]) == ["a"]
    assert list(curves["step"]) == [1, 2]


@pytest.mark.parametrize(
    "damage",
    [
        *(b"not json\n", b"[1, 2]\n", b'{"step": 1}\n', b"\n", b"\x00\n", b"\xff\n"),
        *(b'{"run_id": 5}\n', b'{"run_id": ["c"]}\n', b"[" * 10**5 + b"\n"),
    ],
)
def test_load_names_a_damaged_line_of_the_curves(tables, damage):
    tables.append(results.RUNS, [{"run_id": "a"}])
    path = tables.workdir / results.CURVES
    sound = b'{"run_id": "a", "step": 1}\n'
    path.write_bytes(sound + damage + sound.replace(b"1", b"2"))
    with pytest.raises(UsageError, match="line 2 is damaged"):
        results.load(tables.workdir)


def test_load_reads_numbers_as_json_does(tables):
    rows = [
        {"run_id": "a", "step": i, "loss": v, "never": None}
        for i, v in enumerate([0.1, 1e-45, None, 3.4e38, 1.0, 0.123456789])
    ]
    tables.append(results.RUNS, [{"run_id": "a"}])
    tables.append(results.CURVES, rows)
    _, curves = results.load(tables.workdir)
    assert curves["step"].tolist() == list(range(6))
    assert curves["loss"].isna().tolist() == [False, False, True, False, False, False]
    assert curves["loss"].dropna().tolist() == [0.1, 1e-45, 3.4e38, 1.0, 0.123456789]
    assert curves["never"].isna().all()
    assert curves["never"].dtype == float


def test_equal_names_that_utf8_lacks_stay_equal_in_frames(tmp_path):
    """Pandas hashes such strings by freed memory: equal ones differed now and then."""
    rows = [{"run_id": f"{i:016x}", "task": "a\udcff\ud800b"} for i in range(200)]
    (tmp_path / results.RUNS).write_text("".join(map(results.line, rows)))
    (tmp_path / results.CURVES).write_text("")
    runs, _ = results.load(tmp_path)
    assert runs["task"].unique().tolist() == ["a\\udcff\\ud800b"]
    runs["task"].str.encode("utf-8")
