"""Runs of Weights & Biases: what wandb itself wrote, and exports of its pages.

The exports are made by hand, in the form that the pages give, since they come from a
server alone.
"""

import subprocess
import sys

import numpy as np
import pytest

from lrjax import elsewhere
from lrjax.core import UsageError

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


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A folder in which wandb, in a process of its own, has recorded three runs."""
    pytest.importorskip("wandb", reason="wandb writes the files")
    folder = tmp_path_factory.mktemp("offline")
    settings = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(folder)}
    subprocess.run(
        [sys.executable, "-c", TRAIN, str(folder)],
        env={"PATH": "/usr/bin:/bin", **settings},
        check=True,
        cwd=folder,
    )
    return folder / "wandb"


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


def test_an_export_of_a_chart(tmp_path):
    path = tmp_path / "digits.csv"
    runs = [f"optimizer: {name} - val/loss" for name in ("adam", "sgd")]
    head = ["Step", *(r + end for r in runs for end in ("", "__MIN", "__MAX"))]
    rows = [[0, 1, 0.9, 1.1, 2, 2, 2], [10, 0.5, 0.4, 0.6, "", "", ""]]
    rows.append([20, 0.25, 0.2, 0.3, 1.5, 1.5, 1.5])
    path.write_text(
        "\n".join(",".join(f'"{cell}"' for cell in row) for row in [head, *rows])
    )
    source = elsewhere.read(f"wandb:{path}")
    assert [*source.runs["method"]] == ["adam", "sgd"]
    assert [*source.runs["valid_loss"]] == [0.25, 1.5]
    assert [*source.curves["step"]] == [0, 10, 20, 0, 20]
    assert [*source.curves["valid_loss"]] == [1, 0.5, 0.25, 2, 1.5]


def test_what_is_no_run(tmp_path):
    with pytest.raises(UsageError, match=r"holds no run of wandb"):
        elsewhere.read(f"wandb:{tmp_path}")
    with pytest.raises(UsageError, match="does not exist"):
        elsewhere.read(f"wandb:{tmp_path}/none")
