"""Runs cut short go on to the same numbers; damaged checkpoints are refused."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from lrjax import config as config_lib
from lrjax import machine, results
from lrjax.core import NUMERICS_VERSION, Interrupted
from lrjax.engine import programs
from lrjax.launch import checkpoint, experiment

ROOT = Path(__file__).parent.parent
STATE = {"params": jnp.arange(1000.0), "count": jnp.int32(7)}
LIKE = jax.eval_shape(lambda: STATE)


@pytest.fixture
def folder(tmp_path):
    checkpoint.save(tmp_path / "block", 5, STATE, {"seconds": 1.5})
    checkpoint.save(tmp_path / "block", 9, STATE, {"seconds": 2.5})
    return tmp_path / "block"


def test_what_was_saved_comes_back(folder):
    step, state, facts = checkpoint.restore(folder, LIKE)
    assert step == 9
    assert facts == {"seconds": 2.5}
    np.testing.assert_array_equal(state["params"], STATE["params"])
    assert state["count"] == 7


def test_the_newest_two_are_kept(folder):
    checkpoint.save(folder, 12, STATE, {})
    assert sorted(path.name for path in folder.iterdir()) == ["12", "9"]


def test_no_checkpoint_is_no_error(tmp_path):
    assert checkpoint.restore(tmp_path / "none", LIKE) is None


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def flip_a_bit(path, place):
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def truncate(path, place):
    content = path.read_bytes()
    path.write_bytes(content[: int(place * (len(content) - 1))])


def remove(path, place):
    path.unlink()


def refusal(folder):
    """What is said of the checkpoint of step 9, and that the one of step 5 is used."""
    with pytest.warns(UserWarning, match="is not used") as warned:
        step, state, facts = checkpoint.restore(folder, LIKE)
    assert (step, facts) == (5, {"seconds": 1.5})
    np.testing.assert_array_equal(state["params"], STATE["params"])
    (message,) = [str(w.message) for w in warned if w.category is UserWarning]
    assert message.startswith(f"checkpoint {folder / '9'} is not used: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("place", [0, 0.5, 1])
@pytest.mark.parametrize("damage", [flip_a_bit, truncate, remove])
def test_damage_to_any_file_is_refused_and_the_last_good_one_used(
    folder, damage, place
):
    whole = {path: path.read_bytes() for path in files_of(folder / "9")}
    assert len(whole) > 3
    for path, content in whole.items():
        damage(path, place)
        said = refusal(folder)
        name = str(path.relative_to(folder / "9"))
        assert ("manifest" if name == "manifest.json" else f"{name} is") in said
        path.write_bytes(content)
    assert checkpoint.restore(folder, LIKE)[0] == 9  # all is made good


def rewrite_manifest(folder, **changes):
    """A manifest that agrees with itself, as another program would have left it."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text()) | changes
    del content["sha256"]
    digest = checkpoint._digest(content)
    path.write_text(json.dumps(content | {"sha256": digest}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"versions": {"numerics": 0, "jax": jax.__version__}}, "numerics was 0, now"),
        ({"versions": {"numerics": NUMERICS_VERSION, "jax": "0.0.1"}}, "was 0.0.1"),
        ({"versions": {}}, "numerics was None"),
        ({"block": "other"}, "it belongs to block other, not block"),
        ({"step": 5}, "it belongs to step 5, not 9"),
        ({"files": {}}, "does not belong to it"),
        ({"files": None}, "is not used"),
        ({"versions": None}, "is not used"),
        ({"facts": None}, "its facts are not finite numbers"),
        ({"facts": {"seconds": float("inf")}}, "its facts are not finite numbers"),
        ({"facts": {"seconds": "x"}}, "must be real number, not str"),
    ],
)
def test_a_foreign_checkpoint_is_refused_and_what_differs_is_said(
    folder, changes, message
):
    rewrite_manifest(folder / "9", **changes)
    assert message in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 10**5])
def test_a_manifest_of_nonsense_is_refused(folder, content):
    (folder / "9" / "manifest.json").write_bytes(content)
    assert "its manifest is damaged" in refusal(folder)


def test_a_checkpoint_put_where_another_runs_are_is_refused(folder):
    shutil.copytree(folder / "9", folder.parent / "others" / "9")
    with pytest.warns(UserWarning, match="it belongs to block block, not others"):
        assert checkpoint.restore(folder.parent / "others", LIKE) is None


def test_a_file_that_does_not_belong_to_it_is_refused(folder):
    (folder / "9" / "state" / "stray").write_bytes(b"x")
    assert "state/stray does not belong to it" in refusal(folder)


@pytest.mark.parametrize("name", ["manifest.json", "state/_METADATA", "stray"])
def test_what_may_have_no_end_is_not_read(folder, name):
    path = folder / "9" / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert f"{name} is not a regular file" in refusal(folder)


@pytest.mark.parametrize("name", ["", "manifest.json", "state", "state/_METADATA"])
def test_links_are_refused_and_not_followed(folder, tmp_path, name):
    path, other = folder / "9" / name, tmp_path / "other"
    shutil.move(path, other)
    path.symlink_to(other)
    before = {p: p.read_bytes() for p in [other, *other.rglob("*")] if p.is_file()}
    assert "is a symbolic link" in refusal(folder)
    checkpoint.save(folder, 9, STATE, {})  # takes its place
    assert checkpoint.restore(folder, LIKE)[0] == 9
    checkpoint.save(folder, 12, STATE, {})
    checkpoint.discard(folder)
    assert before
    assert {p: p.read_bytes() for p in before} == before


def test_a_link_in_place_of_a_blocks_folder_is_neither_read_nor_written(
    folder, tmp_path
):
    link = tmp_path / "link"
    link.symlink_to(folder)
    before = files_of(folder)
    assert checkpoint.restore(link, LIKE) is None
    with pytest.raises(OSError, match="link"):
        checkpoint.save(link, 12, STATE, {})
    checkpoint.discard(link)
    assert not link.is_symlink()
    assert files_of(folder) == before


def test_refused_ones_of_later_steps_make_room(folder):
    for step in (5, 9):  # as after an upgrade
        rewrite_manifest(folder / str(step), versions={})
    for step in (1, 2, 3):
        checkpoint.save(folder, step, STATE, {})
        assert checkpoint.restore(folder, LIKE)[0] == step
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]


def test_a_file_in_place_of_a_checkpoint_is_refused(folder):
    shutil.rmtree(folder / "9")
    (folder / "9").write_bytes(b"")
    refusal(folder)


def test_what_cannot_be_saved_leaves_nothing_and_what_was_there(folder, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "replace", full)
        with pytest.raises(OSError, match="No space left on device"):
            checkpoint.save(folder, 12, STATE, {})
    assert sorted(path.name for path in folder.iterdir()) == ["5", "9"]
    assert checkpoint.restore(folder, LIKE)[0] == 9


def test_a_full_disk_is_seen_before_it_is_written_to(folder, monkeypatch):
    size = STATE["params"].nbytes + STATE["count"].nbytes
    free = [size + checkpoint._SPARED - 1]
    monkeypatch.setattr(
        checkpoint.shutil, "disk_usage", lambda path: mock.Mock(total=1, free=free[0])
    )
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save(folder, 12, STATE, {})
    assert sorted(path.name for path in folder.iterdir()) == ["5", "9"]
    free[0] += 1
    checkpoint.save(folder, 12, STATE, {})
    assert checkpoint.restore(folder, LIKE)[0] == 12


def test_a_checkpoint_of_other_shapes_is_refused(folder):
    like = {"params": jax.ShapeDtypeStruct((999,), "float32"), "count": LIKE["count"]}
    with pytest.warns(UserWarning, match="is not used"):
        assert checkpoint.restore(folder, like) is None


def settings(**changes):
    config = quickstart.get_config()
    config.tasks = ("libsvm/iris",)
    config.methods = ("prodigy", "cawr")
    config.seeds = 2
    config.epochs = 10
    config.checkpoint_minutes = 0.0  # after every segment
    config.update(changes)
    return config_lib.check(config)


def numbers(workdir):
    """All rows but for what time it took, without their order."""
    found = {}
    for name in (results.RUNS, results.CURVES):
        lines = (workdir / name).read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        keys = [
            (row["run_id"], row.get("step") if "epoch" in row else 0) for row in rows
        ]
        assert len(set(keys)) == len(rows), "a row comes twice"
        for row in rows:
            row.pop("seconds", None)
        found[name] = dict(zip(keys, rows, strict=True))
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    experiment.run(settings(), workdir)
    return numbers(workdir)


def one_round_per_segment(monkeypatch):
    monkeypatch.setattr(programs, "_SEGMENT_SECONDS", 0.0)
    monkeypatch.setattr(programs, "_FIRST_SEGMENT_FLOATS", 0)
    # A thread that dies for a process must be the only one.
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)


class Killed(BaseException):
    """Ends a process at once, as far as a test can."""


@pytest.mark.parametrize(
    ("where", "when"),
    [
        *((results.CURVES, 1), (results.RUNS, 1)),
        *(pytest.param(results.CURVES, n, marks=pytest.mark.slow) for n in (4, 7, 10)),
    ],
)
def test_killed_anywhere_it_resumes_to_the_same_numbers(
    tmp_path, monkeypatch, uninterrupted, where, when
):
    one_round_per_segment(monkeypatch)
    calls = [0]
    append = results.Tables.append

    def dying(self, name, rows, *block):
        calls[0] += name == where
        if name != where or calls[0] != when:
            return append(self, name, rows, *block)
        rows = list(rows)
        append(self, name, rows[:1], *block)
        with open(self.workdir / name, "ab") as file:
            file.write(results.line(rows[-1]).encode()[:-5])  # torn
        raise Killed

    monkeypatch.setattr(results.Tables, "append", dying)
    with pytest.raises(Killed):
        experiment.run(settings(), tmp_path)
    with pytest.warns(UserWarning, match="torn last line"):
        experiment.run(settings(), tmp_path)
    assert numbers(tmp_path) == uninterrupted
    assert not (tmp_path / "checkpoints").exists()


def test_killed_while_saving_it_resumes_to_the_same_numbers(
    tmp_path, monkeypatch, uninterrupted
):
    one_round_per_segment(monkeypatch)
    replace, calls = os.replace, [0]

    def dying(source, target):
        if Path(target).name == "manifest.json":
            calls[0] += 1
            if calls[0] == 3:
                raise Killed
        replace(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", dying)
    with pytest.raises(Killed):
        experiment.run(settings(), tmp_path)
    with pytest.warns(UserWarning, match="cut short"):
        experiment.run(settings(), tmp_path)
    assert numbers(tmp_path) == uninterrupted


def test_a_signal_ends_training_with_a_checkpoint(tmp_path, monkeypatch, uninterrupted):
    one_round_per_segment(monkeypatch)
    append, calls = results.Tables.append, [0]

    def signalling(self, name, rows, *block):
        append(self, name, rows, *block)
        calls[0] += name == results.CURVES
        if calls[0] == 4 and name == results.CURVES:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)  # until the main thread has seen it

    monkeypatch.setattr(results.Tables, "append", signalling)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        experiment.run(settings(checkpoint_minutes=60.0), tmp_path)
    assert stopped.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert list((tmp_path / "checkpoints").rglob("manifest.json"))
    experiment.run(settings(), tmp_path)
    assert numbers(tmp_path) == uninterrupted


def test_without_end_no_checkpoint_is_saved(tmp_path, monkeypatch, uninterrupted):
    one_round_per_segment(monkeypatch)
    monkeypatch.setattr(checkpoint, "save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        experiment.run(settings(checkpoint_minutes=0.0), tmp_path / "all")
    experiment.run(settings(checkpoint_minutes=math.inf), tmp_path / "none")
    assert numbers(tmp_path / "none") == uninterrupted


def test_what_a_finished_block_left_is_removed(tmp_path, monkeypatch, uninterrupted):
    one_round_per_segment(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "discard", lambda folder: None)  # killed before it
        experiment.run(settings(), tmp_path)
    other = tmp_path / "checkpoints" / "0123456789abcdef" / "7"
    other.mkdir(parents=True)  # of a config that is not finished
    experiment.run(settings(), tmp_path)
    assert list((tmp_path / "checkpoints").glob("*/*")) == [other]
    assert numbers(tmp_path) == uninterrupted


def test_parameters_of_finished_runs_can_be_kept(tmp_path):
    from safetensors.numpy import load_file

    experiment.run(settings(save_params=True, methods=("cawr",)), tmp_path)
    runs, _ = results.load(tmp_path)
    for run_id in runs["run_id"]:
        params = load_file(tmp_path / "params" / f"{run_id}.safetensors")
        assert {k: v.shape for k, v in params.items()} == {
            "bias": (3,),
            "weight": (3, 4),
        }


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_program_survives_signals(tmp_path, kind):
    command = [
        *(sys.executable, "main.py", "--config=configs/quickstart.py"),
        *("--config.tasks=digits/logistic", "--config.methods=prodigy"),
        *("--config.epochs=2000", "--config.checkpoint_minutes=0.01"),
    ]

    def start(name):
        return subprocess.Popen(
            [*command, f"--workdir={tmp_path / name}"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ends_well(name):
        with start(name) as process:
            process.communicate(timeout=300)
        assert process.returncode == 0

    ends_well("whole")
    process = start("cut")
    for _ in range(600):
        if list((tmp_path / "cut").glob("checkpoints/*/*/manifest.json")):
            break
        time.sleep(0.1)
    process.send_signal(kind)
    _, said = process.communicate(timeout=60)
    if kind is signal.SIGKILL:
        assert process.returncode == -kind
    else:
        assert process.returncode == 128 + kind
        assert "Run the same command again to resume" in said
    ends_well("cut")
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")
