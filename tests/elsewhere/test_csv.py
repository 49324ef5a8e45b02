"""CSV files of others: which column is what, and what is wrong with a bad one."""

import gzip

import numpy as np
import pandas as pd
import pytest

from lrjax import elsewhere
from lrjax.common import metric_names
from lrjax.core import UsageError
from lrjax.elsewhere import names


def tidy(methods=("adam", "sgd"), seeds=2, epochs=3):
    """A row for each run and epoch, as pandas users keep them."""
    rows = [
        {
            "optimizer": method,
            "seed": seed,
            "epoch": epoch,
            "lr": 0.1 / epoch,
            "weight_decay": 0.01,
            "train_loss": seed + 1 / epoch,
            "val_acc": 0.5 + epoch / 10,
        }
        for method in methods
        for seed in range(seeds)
        for epoch in range(1, epochs + 1)
    ]
    return pd.DataFrame(rows)


def read(path, rows, options=""):
    """Write rows, and read them as a source."""
    text = rows if isinstance(rows, str) else rows.to_csv(index=False)
    path.write_text(text)
    return elsewhere.read(f"csv:{path}{options}")


def test_rows_of_runs_and_epochs(tmp_path):
    rows = tidy()
    source = read(tmp_path / "mnist.csv", rows)
    runs = source.runs
    assert [*runs["method"]] == ["adam", "adam", "sgd", "sgd"]
    assert [*runs["seed"]] == [0, 1, 0, 1]
    assert set(runs["task"]) == {"mnist"}
    assert runs["hparams"][0] == {"weight_decay": 0.01}
    np.testing.assert_array_equal(runs["valid_accuracy"], 0.8)
    assert [m.name for m in source.metrics["mnist"]] == ["accuracy", "loss"]
    curves = source.curves
    np.testing.assert_array_equal(curves["step"], rows["epoch"])
    np.testing.assert_array_equal(curves["epoch"], rows["epoch"])
    np.testing.assert_array_equal(curves["train_loss"], rows["train_loss"])
    np.testing.assert_array_equal(curves["valid_accuracy"], rows["val_acc"])
    np.testing.assert_array_equal(curves["learning_rate"], rows["lr"])
    assert runs["steps"].isna().all()  # epochs are no updates
    assert set(runs["length"]) == {3}


def test_a_rate_that_stays_is_a_setting(tmp_path):
    rows = pd.concat([tidy().assign(lr=lr) for lr in (0.1, 0.01)])
    runs = read(tmp_path / "a.csv", rows).runs
    assert len(runs) == 8  # two runs of a seed differ in their rate alone
    assert {h["learning_rate"] for h in runs["hparams"]} == {0.1, 0.01}


def test_rows_that_differ_in_a_number_alone(tmp_path):
    rows = pd.concat([tidy().assign(weight_decay=wd) for wd in (0.1, 0.01)])
    assert len(read(tmp_path / "a.csv", rows).runs) == 8


def test_a_row_for_each_run(tmp_path):
    text = "dataset,opt,seed,lr,dropout,test_acc,runtime\n"
    text += "a,adam,0,0.1,0.5,91.5,30\na,adam,1,0.1,0.5,92,31\na,sgd,0,1,0.5,nan,3\n"
    source = read(tmp_path / "results.csv", text)
    assert [*source.runs["status"]] == ["done", "done", "diverged"]
    np.testing.assert_allclose(source.runs["valid_accuracy"][:2], [0.915, 0.92])
    assert [*source.runs["seconds"]] == [30, 31, 3]
    assert source.runs["hparams"][2] == {"dropout": 0.5, "learning_rate": 1}
    assert not len(source.curves)
    assert "accuracy was in percent" in source.notes
    assert any("test data shown as validation" in note for note in source.notes)


@pytest.mark.parametrize("first", ["run", "method"])
def test_a_row_for_each_run_with_its_last_epoch(tmp_path, first):
    text = f"{first},epoch,loss\na,30,0.5\nb,20,0.6\n"
    assert [*read(tmp_path / "a.csv", text).runs["valid_loss"]] == [0.5, 0.6]


def test_metrics_logged_in_rows_of_their_own(tmp_path):
    """As Lightning's CSVLogger does, with empty cells for what is not measured."""
    text = "epoch,step,train_loss_epoch,val_loss\n"
    text += "0,9,,0.9\n0,9,0.8,\n1,19,,0.7\n1,19,0.6,\n"
    source = read(tmp_path / "adam.csv", text)
    assert [*source.runs["method"]] == ["adam"]
    assert [*source.curves["step"]] == [9, 19]
    assert [*source.curves["epoch"]] == [0, 1]
    assert [*source.curves["valid_loss"]] == [0.9, 0.7]
    assert [*source.curves["train_loss"]] == [0.8, 0.6]


def test_a_metric_of_no_part_is_of_training_beside_one_of_validation(tmp_path):
    """As Keras's CSVLogger writes them."""
    text = "epoch,accuracy,loss,val_accuracy,val_loss\n0,0.5,1,0.4,2\n1,0.7,0.5,0.6,1\n"
    source = read(tmp_path / "a.csv", text)
    assert [*source.curves["train_loss"]] == [1, 0.5]
    assert [*source.curves["valid_loss"]] == [2, 1]
    assert source.runs["train_accuracy"][0] == 0.7


def test_runs_that_end_early_or_diverge(tmp_path):
    text = "run,method,step,loss\n"
    text += "1,adam,1,1\n1,adam,2,0.5\n1,adam,3,0.3\n2,adam,1,1\n2,adam,2,0.4\n"
    text += "3,adam,1,1\n3,adam,2,inf\n"
    runs = read(tmp_path / "a.csv", text).runs
    assert [*runs["status"]] == ["done", "done", "diverged"]
    assert [*runs["steps"]] == [3, 3, 3]
    assert [*runs["seed"]] == [0, 1, 2]


def test_names_of_runs_say_what_columns_do_not(tmp_path):
    text = (
        "name,step,loss\nadam_seed3,1,1\nadam_seed3,2,1\nsgd_seed4,1,2\nsgd_seed4,2,1"
    )
    runs = read(tmp_path / "a.csv", text).runs
    assert [*zip(runs["method"], runs["seed"], strict=True)] == [
        ("adam", 3),
        ("sgd", 4),
    ]


KERAS = "epoch,loss,val_loss\n0,1,2\n1,0.5,1\n"


@pytest.mark.parametrize(
    ("path", "task", "method", "seed"),
    [
        ("mnist/adam.csv", "mnist", "adam", 0),
        ("mnist/adam/seed3.csv", "mnist", "adam", 3),
        ("mnist/adam/seed3/metrics.csv", "mnist", "adam", 3),
        ("mnist/adam/version_3/metrics.csv", "mnist", "adam", 3),
        # Whether these are repeats is not known.
        ("mnist/lightning_logs/version_3/metrics.csv", "mnist", "version_3", 0),
    ],
)
def test_names_of_files_say_what_columns_do_not(tmp_path, path, task, method, seed):
    path = tmp_path / path
    path.parent.mkdir(parents=True)
    (run,) = read(path, KERAS).runs.to_dict("records")
    assert (run["task"], run["method"], run["seed"]) == (task, method, seed)


@pytest.mark.parametrize("path", ["mnist.csv", "mnist/results.csv"])
def test_a_file_of_several_methods_is_a_task(tmp_path, path):
    (tmp_path / path).parent.mkdir(exist_ok=True)
    runs = read(tmp_path / path, tidy()).runs
    assert set(runs["task"]) == {"mnist"}
    assert set(runs["method"]) == {"adam", "sgd"}


@pytest.mark.parametrize(
    ("name", "method", "settings"),
    [
        ("adam_lr=0.1", "adam", {"lr": 0.1}),
        ("adam (lr=0.1) seed0", "adam", {"lr": 0.1, "seed": 0}),
        ("adam_lr=0.01_s0", "adam", {"lr": 0.01, "seed": 0}),
        ("adam_seed=2-weight_decay=1e-4", "adam", {"weight_decay": 1e-4, "seed": 2}),
        ("opt=adam_base_lr=.5_momentum=0.9", "adam", {"base_lr": 0.5, "momentum": 0.9}),
        ("schedule=warmup_cosine, size=3x3", "", {"schedule": "warmup_cosine"}),
        ("lars2", "lars2", {}),
        (
            "cnn_adamw_lr=0.1_warmup_steps=9",
            "cnn_adamw",
            {"lr": 0.1, "warmup_steps": 9},
        ),
        ("adam encoder_lr=1 lr=2", "adam", {"encoder_lr": 1, "lr": 2}),
    ],
)
def test_settings_in_the_name_of_a_run(name, method, settings):
    found = dict(names.guess([name]))
    assert found.pop("method", "") == method
    assert found.pop("size", "3x3") == "3x3"
    assert found == settings


def test_columns_with_names_of_their_own(tmp_path):
    text = "solver,it,quality,junk\nadam,1,5,a\nadam,2,7,b\nsgd,1,4,c\nsgd,2,6,d\n"
    options = "?method=solver&step=it&higher=quality&ignore=junk"
    source = read(tmp_path / "a.csv", text, options)
    assert [*source.runs["method"]] == ["adam", "sgd"]
    assert [*source.runs["valid_quality"]] == [7, 6]
    (metric,) = source.metrics["a"]
    assert metric.higher_is_better


def test_what_changes_and_is_unknown_is_left_out_and_named(tmp_path):
    rows = tidy().assign(grad_norm=range(12))
    notes = read(tmp_path / "a.csv", rows).notes
    assert any("grad_norm" in note for note in notes)


def test_states_of_runs(tmp_path):
    text = "run,method,state,val_loss\n1,a,finished,1\n2,a,crashed,1\n3,b,done,2\n"
    runs = read(tmp_path / "a.csv", text).runs
    assert [*runs["status"]] == ["done", "stopped", "done"]


def test_a_file_of_some_megabytes(tmp_path):
    rows = tidy(seeds=2, epochs=3).assign(note="x" * 2**18)
    assert len(read(tmp_path / "a.csv", rows.drop(columns="note")).runs) == 4
    wide = rows.assign(**{f"note{i}": "x" * 2**17 for i in range(2)}, note="")
    assert len(read(tmp_path / "a.csv", wide).runs) == 4
    assert (tmp_path / "a.csv").stat().st_size > 2 * 2**20


def test_a_compressed_file(tmp_path):
    path = tmp_path / "mnist.csv.gz"
    path.write_bytes(gzip.compress(tidy().to_csv(index=False).encode()))
    assert set(elsewhere.read(f"csv:{path}").runs["task"]) == {"mnist"}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", "", "is empty"),
        ("a,loss\n", "", "no row"),
        ("a,b\nx,y\n", "", "no metric of known direction"),
        ("method,quality,step\na,1,1\na,2,2\n", "", "it has quality. Say which counts"),
        ("run,step,loss\na,1,1\na,1,2\n", "", "row 2 is a second one for step 1"),
        ("step,loss,b\n1,1,2\n1,2,2\n", "", "nothing tells runs apart"),
        ("step,loss,b\n1,1,2\n1,2,3\n2,1,4\n", "", "nothing tells runs apart"),
        ("run,loss\na,1\na,2\n", "", "second one of run 'a'.*[?]step=COLUMN"),
        ("method,seed,loss\na,1,1\na,1,2\n", "", r"second one of a run.*[?]step="),
        ("run,step,loss\na,1,1\na,2\n", "", "row 2 has 2 values for 3 columns"),
        ("run,step,loss\na,1,1,4\na,2,3\n", "", "row 1 has 4 values for 3 columns"),
        ('run,step,loss\na,1,1\n"a,2,3\n', "", "unexpected end of data"),
        ("run,step,loss\na,1,1\na,2,high\n", "", "row 2: 'high' is no loss"),
        ("run,step,loss\na,1,1\na,,2\n", "", "row 2 has no step"),
        ("run,step,loss\na,1,1\na,-1,2\n", "", "row 2 has no step from 0 on"),
        ("run,step,loss\na,inf,1\na,1,2\n", "", "row 1 has no step from 0 on"),
        ("run,loss,loss\na,1,1\n", "", "'loss' twice"),
        ("run,loss\na,1\n", "?method=optimiser", "unknown column.*'optimiser'"),
        ("run,loss\na,1\n", "?metod=b", "unknown option.*did you mean 'method'"),
        ("run,loss\n\0,1\n", "?higher=x", None),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, text, options, message):
    if message is None:
        assert len(read(tmp_path / "a.csv", text, options).runs) == 1
        return
    with pytest.raises(UsageError, match=message) as error:
        read(tmp_path / "a.csv", text, options)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_an_unknown_format(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        elsewhere.read(f"csv:{tmp_path}/none.csv")
    with pytest.raises(UsageError, match="did you mean 'csv'"):
        elsewhere.read("cvs:a")
    with pytest.raises(UsageError, match="it must be one of csv:FILE"):
        elsewhere.read("a.csv")
    with pytest.raises(UsageError, match="csv:FILE"):
        elsewhere.read("csv:")
    with pytest.raises(UsageError, match="not a regular file"):
        elsewhere.read(f"csv:{tmp_path}")


@pytest.mark.parametrize(
    ("column", "part", "metric", "higher"),
    [
        ("loss", "", "loss", False),
        ("val_loss", "valid", "loss", False),
        ("eval/accuracy", "valid", "accuracy", True),
        ("test_acc", "test", "accuracy", True),
        ("Accuracy/train", "train", "accuracy", True),
        ("train/train_loss", "train", "loss", False),
        ("validation.f1_macro", "valid", "f1_macro", True),
        ("epoch_loss", "", "loss", False),
        ("train_acc1", "train", "acc1", True),
        ("rollout/ep_rew_mean", "", "rollout_ep_rew_mean", True),
        ("word_error_rate", "", "word_error_rate", None),
        ("r2", "", "r2", True),
        ("loss_scale", "", "loss_scale", None),
        ("grad_norm", "", "grad_norm", None),
    ],
)
def test_what_names_mean(column, part, metric, higher):
    assert names.split(column) == (part, metric)
    assert metric_names.higher_is_better(metric) is higher
