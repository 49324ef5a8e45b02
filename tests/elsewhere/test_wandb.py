"""Runs of Weights & Biases: what wandb itself wrote, and exports of its pages.

The exports are made by hand, in the form that the pages give, since they come from a
server alone.
"""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lrjax import elsewhere
from lrjax.core import UsageError
from lrjax.elsewhere import wandb_runs
from lrjax.elsewhere.records import Record
from lrjax.track import wandb_runs as track_wandb

TRAIN = """
import sys, wandb
for method, seed, steps in (("adam", 0, 60), ("adam", 1, 60), ("sgd", 0, 60)):
    config = {"optimizer": method, "seed": seed, "lr": 0.1, "model": {"width": 8}}
    run = wandb.init(project="digits", dir=sys.argv[1], config=config)
    config = run.config.update({"late": 3})
    for step in range(steps):
        row = {"train/loss": 1 / (step + 1), "notes": "x" * 400}
        if step % 2:
            row |= {"val/accuracy": step / 100 + seed / 1000, "lr": 0.1 / (step + 1)}
        run.log(row)
    if method == "sgd":
        run.log({"val/accuracy": float("nan")})
    run.summary["test/accuracy"] = 0.25
    run.finish(exit_code=int(seed == 1))
"""

# Stopped after step 3 and resumed at step 2, in a folder named by another second.
RESUMED = """
import sys, time, wandb
config = {"optimizer": {"name": "adam", "lr": 0.1}, "hparams": {"width": 8}}
for start, end, slope in ((0, 4, 1), (2, 6, 2)):
    run = wandb.init(
        project="digits", dir=sys.argv[1], config=config, id="abc", resume="allow"
    )
    for step in range(start, end):
        run.log({"val/loss": slope / (step + 1)}, step=step)
    run.finish(exit_code=int(start == 0))
    time.sleep(1)
"""


def recorded(folder, program):
    """The folder in which wandb recorded a program, in a process of its own."""
    pytest.importorskip("wandb", reason="wandb writes the files")
    settings = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(folder)}
    subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env={"PATH": "/usr/bin:/bin", **settings},
        check=True,
        cwd=folder,
    )
    return folder / "wandb"


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A folder with three runs."""
    return recorded(tmp_path_factory.mktemp("offline"), TRAIN)


def test_offline_runs(offline):
    source = elsewhere.read(f"wandb:{offline}")
    runs = source.runs.sort_values(["method", "seed"]).reset_index(drop=True)
    assert [*runs["method"]] == ["adam", "adam", "sgd"]
    assert [*runs["seed"]] == [0, 1, 0]
    assert set(runs["task"]) == {"digits"}
    # The second one ended with an exit code.
    assert [*runs["status"]] == ["done", "stopped", "diverged"]
    hparams = {"learning_rate": 0.1, "model.width": 8, "late": 3}
    assert runs["hparams"][0] == hparams
    assert runs["test_accuracy"][0] == 0.25
    assert runs["valid_accuracy"][0] == 0.59
    curve = source.curves[source.curves["run_id"] == runs["run_id"][0]]
    steps = np.arange(1, 60, 2)
    np.testing.assert_array_equal(curve["step"], steps)
    np.testing.assert_array_equal(curve["valid_accuracy"], steps / 100)
    np.testing.assert_array_equal(curve["train_loss"], 1 / (steps + 1))
    np.testing.assert_array_equal(curve["learning_rate"], 0.1 / (steps + 1))


def test_a_file_spans_several_blocks(offline):
    """Else pieces of messages would not be joined by the test above."""
    assert all(p.stat().st_size > 2 * 2**15 for p in offline.rglob("run-*.wandb"))


def test_one_offline_run_that_was_killed(offline, tmp_path):
    path = sorted(offline.rglob("run-*.wandb"))[0]
    cut = tmp_path / path.name
    content = path.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    (status,) = elsewhere.read(f"wandb:{cut}").runs["status"]
    assert status == "stopped"


def test_a_run_that_was_resumed_is_one(tmp_path):
    folder = recorded(tmp_path, RESUMED)
    assert len([*folder.rglob("run-abc.wandb")]) == 2
    source = elsewhere.read(f"wandb:{folder}")
    (run,) = source.runs.to_dict("records")
    assert (run["method"], run["status"], run["steps"]) == ("adam", "done", 5)
    assert run["hparams"] == {"learning_rate": 0.1, "width": 8}
    losses = [1, 1 / 2, 2 / 3, 2 / 4, 2 / 5, 2 / 6]
    np.testing.assert_array_equal(source.curves["valid_loss"], losses)


def test_parts_of_a_run_are_joined_where_the_later_one_begins():
    """Its clock may begin anew, and it may end before the first part did."""

    def part(start, seconds, accuracy):
        steps = start + np.arange(3.0)
        series = {"_runtime": pd.Series(seconds, steps)}
        series |= {"val/accuracy": pd.Series(accuracy, steps)} if accuracy else {}
        return Record("a", {}, series, {}, "done")

    first = part(2, [10, 20, 30], [0.2, 0.3, 0.4])
    joined = wandb_runs._joined(first, part(1, [1, 2, 3], [0.5, 0.6, 0.7]))
    assert joined.series["val/accuracy"].to_dict() == {1: 0.5, 2: 0.6, 3: 0.7}
    assert joined.series["_runtime"].iloc[-1] == 33
    joined = wandb_runs._joined(first, part(4, [31, 32, 33], None))
    assert joined.series["val/accuracy"].to_dict() == {2: 0.2, 3: 0.3, 4: 0.4}
    assert joined.series["_runtime"].iloc[-1] == 33


@pytest.mark.parametrize("size", [0, 3, 7])
def test_a_run_that_was_killed_before_it_wrote_anything(offline, tmp_path, size):
    path = sorted(offline.rglob("run-*.wandb"))[0]
    empty = tmp_path / "run-empty.wandb"
    empty.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UsageError, match=r"holds no run: its files .* are empty"):
        elsewhere.read(f"wandb:{tmp_path}")
    (tmp_path / path.name).write_bytes(path.read_bytes())
    assert len(elsewhere.read(f"wandb:{tmp_path}").runs) == 1


def test_a_log_of_lrjax_is_read_back(tmp_path, monkeypatch):
    """Its hyperparameters are settings, and what else it says of a run is not."""
    pytest.importorskip("wandb", reason="wandb writes the files")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    run = {"run_id": "abc", "task": "iris", "protocol": "sound", "method": "adam"}
    run |= {"hparams": {"learning_rate": 0.1, "b1": 0.9}, "seed": 3, "steps": 20}
    run |= {"kind": "run", "metric": "loss", "horizon": 20, "entry": "adam"}
    curve = [{"step": s, "seed": 3, "valid_loss": 1 / s} for s in (10, 20)]
    result = {**run, "status": "diverged", "diverged_at": 15, "seconds": 2.0}
    tracker = track_wandb.connect(tmp_path)
    tracker.log(run, curve)
    tracker.end(run, result)
    sys.modules["wandb"].teardown()
    (read,) = elsewhere.read(f"wandb:{tmp_path / 'wandb'}").runs.to_dict("records")
    assert read["hparams"] == run["hparams"]
    for name in ("task", "protocol", "method", "seed"):
        assert read[name] == run[name]
    assert (read["status"], read["seconds"]) == ("diverged", 2.0)


def test_a_damaged_offline_run(offline, tmp_path):
    path = sorted(offline.rglob("run-*.wandb"))[0]
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    (tmp_path / path.name).write_bytes(content)
    with pytest.raises(UsageError, match="wrong checksum"):
        elsewhere.read(f"wandb:{tmp_path}")
    (tmp_path / path.name).write_bytes(b"something else")
    with pytest.raises(UsageError, match="it begins otherwise"):
        elsewhere.read(f"wandb:{tmp_path}")


def test_an_export_of_the_table_of_runs(tmp_path):
    path = tmp_path / "wandb_export.csv"
    rows = [
        ["Name", "State", "Notes", "User", "Tags", "Created", "Runtime", "Sweep"],
        ["sunny-fox-1", "finished", "-", "me", "", "2025-01-01T00:00:00.000Z", 12, ""],
        ["sunny-fox-1", "finished", "-", "me", "", "2025-01-01T00:01:00.000Z", 13, ""],
        ["calm-sea-3", "crashed", "-", "me", "", "2025-01-01T00:02:00.000Z", 2, ""],
        ["old-sun-4", "finished", "-", "me", "", "2025-01-01T00:03:00.000Z", 14, ""],
    ]
    more = [
        ["dataset", "optimizer", "lr", "betas", "_step", "epoch", "val/loss"],
        ["digits", "adam", 0.001, "[0.9,0.99]", 99, 9, 0.25],
        ["digits", "adam", 0.001, "[0.9,0.99]", 99, 9, 0.375],
        ["digits", "sgd", 0.1, "", 10, 1, 2.5],
        ["digits", "sgd", 0.1, "", 99, 9, "NaN"],
    ]
    both = [a + b for a, b in zip(rows, more, strict=True)]
    path.write_text("\n".join(",".join(f'"{cell}"' for cell in row) for row in both))
    runs = elsewhere.read(f"wandb:{path}").runs
    assert [*runs["status"]] == ["done", "done", "stopped", "diverged"]
    assert [*runs["seed"]] == [0, 1, 0, 1]
    assert [*runs["valid_loss"][:3]] == [0.25, 0.375, 2.5]
    assert [*runs["seconds"]] == [12, 13, 2, 14]
    assert runs["hparams"][0] == {"betas": "[0.9,0.99]", "learning_rate": 0.001}
    assert runs["hparams"][3] == {"learning_rate": 0.1}


def test_an_export_with_settings_of_the_optimiser(tmp_path):
    path = tmp_path / "digits.csv"
    path.write_text(
        "Name,State,optimizer.name,optimizer.lr,hparams.width,model.depth,val/loss\n"
        "a,finished,adam,0.1,8,2,1\nb,finished,sgd,0.2,8,2,2\n"
    )
    runs = elsewhere.read(f"wandb:{path}").runs
    assert [*runs["method"]] == ["adam", "sgd"]
    wanted = {"learning_rate": 0.2, "width": 8, "model.depth": 2}
    assert runs["hparams"][1] == wanted
    runs = elsewhere.read(f"wandb:{path}?method=optimizer.name").runs
    assert [*runs["method"]] == ["adam", "sgd"]


def chart(path, clock, prefix):
    """Write an export of a chart of two runs."""
    runs = [f"{prefix}: {name} - val/loss" for name in ("adam", "sgd")]
    head = [clock, *(r + end for r in runs for end in ("", "__MIN", "__MAX"))]
    rows = [[0, 1, 0.9, 1.1, 2, 2, 2], [10, 0.5, 0.4, 0.6, "", "", ""]]
    rows.append([20, 0.25, 0.2, 0.3, 1.5, 1.5, 1.5])
    path.write_text(
        "\n".join(",".join(f'"{cell}"' for cell in row) for row in [head, *rows])
    )


@pytest.mark.parametrize("prefix", ["optimizer", "Group"])
@pytest.mark.parametrize("clock", ["Step", "trainer/global_step", "epoch"])
def test_an_export_of_a_chart(tmp_path, clock, prefix):
    path = tmp_path / "digits.csv"
    chart(path, clock, prefix)
    source = elsewhere.read(f"wandb:{path}")
    assert set(source.runs["task"]) == {"digits"}
    assert [*source.runs["method"]] == ["adam", "sgd"]
    assert [*source.runs["valid_loss"]] == [0.25, 1.5]
    assert [*source.curves["step"]] == [0, 10, 20, 0, 20]
    assert [*source.curves["valid_loss"]] == [1, 0.5, 0.25, 2, 1.5]
    # Epochs are no updates.
    assert source.runs["steps"].isna().all() == (clock == "epoch")


def test_a_chart_over_something_else(tmp_path):
    path = tmp_path / "digits.csv"
    chart(path, "Relative Time (Process)", "Group")
    with pytest.raises(UsageError, match=r"x axis is 'Relative Time .Process.'"):
        elsewhere.read(f"wandb:{path}")
    chart(path, "batches", "Group")
    assert set(elsewhere.read(f"wandb:{path}?step=batches").runs["steps"]) == {20}


def test_what_is_no_run(tmp_path):
    with pytest.raises(
        UsageError, match=r"holds no run: name a folder that wandb made"
    ):
        elsewhere.read(f"wandb:{tmp_path}")
    with pytest.raises(UsageError, match="does not exist"):
        elsewhere.read(f"wandb:{tmp_path}/none")
