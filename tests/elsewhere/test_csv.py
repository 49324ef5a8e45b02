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


def finals(**columns):
    """A row for each of nine runs: three rates, three seeds of each."""
    rows = [
        {"optimizer": "adam", "lr": lr, "seed": seed, "val_acc": 0.5 + lr + seed / 100}
        for lr in (0.1, 0.2, 0.3)
        for seed in range(3)
    ]
    return pd.DataFrame(rows).assign(**columns)


@pytest.mark.parametrize(
    "column",
    ["", "Unnamed: 0", "time", "train_time", "date", "best_epoch", "total_flos"],
)
def test_what_is_measured_or_counts_rows_is_no_setting(tmp_path, column):
    runs = read(tmp_path / "a.csv", finals(**{column: np.arange(9) // 2})).runs
    assert runs["hparams"].nunique() == 3
    assert not set().union(*runs["hparams"]) - {"learning_rate"}


def test_speeds_are_no_settings(tmp_path):
    """As the last row of a log of Hugging Face's trainer has them."""
    text = "seed,step,loss,eval_loss,train_samples_per_second\n"
    text += "".join(f"{s},1,1,2,\n{s},2,1,1.5,\n{s},2,,,{50 + s}\n" for s in (0, 1))
    assert [*read(tmp_path / "a.csv", text).runs["hparams"]] == [{}, {}]


def test_a_number_that_differs_by_seed_is_no_setting(tmp_path):
    source = read(tmp_path / "a.csv", finals(error_rate=np.arange(9) / 9))
    assert source.runs["hparams"].nunique() == 3
    assert any("nearly every run: error_rate" in note for note in source.notes)
    varied = finals(weight_decay=np.arange(9) / 9)  # as a random search has them
    assert read(tmp_path / "a.csv", varied).runs["hparams"].nunique() == 9
    alone = finals(tau=np.arange(9)).drop(columns=["lr", "seed"])
    assert read(tmp_path / "a.csv", alone).runs["hparams"].nunique() == 9


def test_dates_do_not_tell_runs_apart(tmp_path):
    dates = [f"2026-01-{day:02}" for day in range(1, 13)]
    assert len(read(tmp_path / "a.csv", tidy().assign(date=dates)).runs) == 4


def test_states_of_runs(tmp_path):
    text = "run,method,state,val_loss\n1,a,finished,1\n2,a,crashed,1\n3,b,done,2\n"
    text += "4,b,ok,3\n5,b,TIMEOUT,3\n6,b,nan,3\n"
    runs = read(tmp_path / "a.csv", text).runs
    states = ["done", "stopped", "done", "done", "stopped", "diverged"]
    assert [*runs["status"]] == states
    assert not any(runs["hparams"])


def test_percent_is_of_a_column_and_a_task(tmp_path):
    text = "task,train_acc,val_acc\na,0.79,75\na,0.8,76\nb,0.7,0.75\n"
    source = read(tmp_path / "a.csv", text)
    np.testing.assert_allclose(source.runs["train_accuracy"], [0.79, 0.8, 0.7])
    np.testing.assert_allclose(source.runs["valid_accuracy"], [0.75, 0.76, 0.75])
    assert "accuracy (a valid_accuracy) was in percent" in source.notes


def test_shares_beside_percent_are_doubted(tmp_path):
    text = "method,val_acc\nadam,75\nadam,0.8\nsgd,0.7\nsgd,0\n"
    source = read(tmp_path / "a.csv", text)
    assert [n for n in source.notes if "shares?" in n] == [
        "2 runs of 4 with no val_acc above 1, counted as per cent like the others: "
        "are these shares?"
    ]
    source = read(tmp_path / "a.csv", text.replace("0.", "6."))
    assert not any("shares?" in note for note in source.notes)


def test_texts_of_percent_are_numbers(tmp_path):
    runs = read(tmp_path / "a.csv", "val_acc\n75.5%\n0.5 %\n").runs
    np.testing.assert_allclose(runs["valid_accuracy"], [0.755, 0.005])


def test_a_hole_that_is_written_as_nan(tmp_path):
    text = "seed,val_acc,test_acc\n0,0.7,0.6\n1,0.8,nan\n"
    runs = read(tmp_path / "a.csv", text).runs
    assert [*runs["status"]] == ["done", "done"]
    assert [*runs["valid_accuracy"]] == [0.7, 0.8]
    text = "epoch,step,train_loss,val_loss,val_acc\n0,9,nan,0.9,0.5\n0,9,0.8,nan,nan\n"
    text += "1,19,nan,0.7,0.6\n1,19,0.6,nan,nan\n2,29,0.5,nan,nan\n"
    source = read(tmp_path / "adam.csv", text)
    assert [*source.curves["step"]] == [9, 19]
    assert [*source.curves["train_loss"]] == [0.8, 0.6]
    (run,) = source.runs.to_dict("records")
    assert (run["status"], run["valid_loss"], run["train_loss"]) == ("done", 0.7, 0.5)
    diverged = text + "3,39,nan,nan,nan\n"
    assert [*read(tmp_path / "adam.csv", diverged).runs["status"]] == ["diverged"]


def test_a_run_that_diverged_at_once_is_no_hole(tmp_path):
    text = "lr,step,train_loss,val_loss\n1,1,0.5,0.6\n1,2,0.4,0.5\n"
    text += "9,1,nan,nan\n9,2,nan,nan\n"
    runs = read(tmp_path / "a.csv", text).runs
    assert [*runs["status"]] == ["done", "diverged"]


@pytest.mark.parametrize("state", ["done", "stopped"])
def test_repeats_of_one_seed_are_numbered(tmp_path, state):
    text = f"run,method,seed,status,loss\na,adam,7,{state},1\nb,adam,7,done,2\n"
    source = read(tmp_path / "a.csv", text)
    assert [*source.runs["seed"]] == ([0, 1] if state == "done" else [7, 7])
    noted = any("same seed" in note for note in source.notes)
    assert noted == (state == "done")


def test_seeds_beyond_whole_numbers_of_64_bits(tmp_path):
    runs = read(tmp_path / "a.csv", f"seed,loss\n{2**63},1\n{2**127},2\n").runs
    assert [*runs["seed"]] == [0, 1]


@pytest.mark.parametrize(
    ("columns", "judged"),
    [
        ("best_val_acc,val_acc", "valid_accuracy"),
        ("rollout/ep_rew_mean,eval/mean_reward", "valid_mean_reward"),
        ("val_loss,val_acc", "valid_accuracy"),
        ("best_val_acc", "valid_best_acc"),
    ],
)
def test_what_runs_are_judged_by(tmp_path, columns, judged):
    values = ",".join("1" * len(columns.split(",")))
    runs = read(tmp_path / "a.csv", f"{columns}\n{values}\n").runs
    assert [*runs["ranked_by"]] == [judged]


@pytest.mark.parametrize(
    ("column", "values", "seconds"),
    [
        ("train_runtime", (1, 2, 3), 3),
        ("duration", (10, 9, 11), 30),
        ("eval_runtime", (1, 2, 3), np.nan),
    ],
)
def test_times_of_training(tmp_path, column, values, seconds):
    text = f"step,{column},val_loss\n"
    text += "".join(f"{step},{value},1\n" for step, value in enumerate(values))
    runs = read(tmp_path / "a.csv", text).runs
    np.testing.assert_array_equal(runs["seconds"], seconds)


def test_a_run_is_as_long_as_its_training(tmp_path):
    text = "step,loss,eval_loss\n20,1,1\n40,1,1\n50,1,\n"
    source = read(tmp_path / "a.csv", text)
    assert [*source.runs["steps"]] == [50]
    assert [*source.curves["step"]] == [20, 40]


def test_one_spelling_of_methods_and_truths(tmp_path):
    text = "method,nesterov,loss\nAdam,True,1\nadam,true,2\nadam,TRUE,3\n"
    runs = read(tmp_path / "a.csv", text).runs
    assert set(runs["method"]) == {"adam"}
    assert [*runs["hparams"]] == [{"nesterov": True}] * 3


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
        ("run,step,loss\na,1,1\na,-1,2\n", "", "row 2 has no step from 0 to 1e.15"),
        ("run,step,loss\na,inf,1\na,1,2\n", "", "row 1 has no step from 0 to 1e.15"),
        (
            "run,step,loss\na,1,1\na,1e300,2\n",
            "",
            "row 2 has no step",
        ),  # int64: -9e18
        ("run,loss,loss\na,1,1\n", "", "'loss' twice"),
        ("run,loss\na,1\n", "?method=optimiser", "unknown column.*'optimiser'"),
        ("run,loss\na,1\n", "?metod=b", "unknown option.*did you mean 'method'"),
        ("run,loss\na,1\n", "?hi=b", "csv.hi=b: .*'hi'.* are run,.* higher, lower, ig"),
        ("run,loss\na,1\n", "?higher=los", "unknown column.*'los'.*'loss'"),
        ("run,loss\na,1\n", "?ignore=los", "unknown column.*'los'.*'loss'"),
        ("run,loss\na,1\n", "?lower=loss&higher=loss", "both higher= and lower="),
        ("run;loss\na;1\n", "", "semicolons between its columns"),
        ("run\tloss\na\t1\n", "", "tabs between its columns"),
        ("# of adam\nrun,loss\na,1\n", "", "begins with a comment"),
        ("run,val_acc,loss\na,'75,5',1\n", "", "row 1 has 4 values"),
        ('run,loss\na,"1,234.5"\n', "", "row 1: '1,234.5' is no loss"),
        ("run,acc\na,95%\nb,94\n", "", "row 2: '94' is acc without the sign %"),
        ("run,loss,fit\na,1,good\n", "?higher=fit", "row 1: 'good' is no fit"),
        ("run,loss\n\0,1\n", "", None),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, text, options, message):
    if message is None:
        assert len(read(tmp_path / "a.csv", text, options).runs) == 1
        return
    with pytest.raises(UsageError, match=message) as error:
        read(tmp_path / "a.csv", text, options)
    assert "\n" not in str(error.value)


def test_a_file_of_another_encoding(tmp_path):
    (tmp_path / "a.csv").write_text("run,loss\na,1\n", encoding="utf-16")
    with pytest.raises(UsageError, match="UTF-16"):
        elsewhere.read(f"csv:{tmp_path}/a.csv")


def test_a_file_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("run,loss\na,1\n")
    monkeypatch.chdir(tmp_path)
    sources = ["csv:a.csv", "csv:./a.csv", f"csv:{tmp_path}/a.csv"]
    assert [s.name for s in elsewhere.read_all(sources)] == ["csv:a.csv"]


def test_a_missing_file_and_an_unknown_format(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        elsewhere.read(f"csv:{tmp_path}/none.csv")
    with pytest.raises(UsageError, match="did you mean 'csv'"):
        elsewhere.read("cvs:a")
    with pytest.raises(UsageError, match="it must be one of csv:FILE"):
        elsewhere.read("a.txt")
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
        ("val_neg_root_mse", "valid", "neg_root_mse", True),
        ("neg_mean_squared_error", "", "neg_mean_squared_error", True),
        ("negative_accuracy", "", "negative_accuracy", False),
        ("false_negative_error", "", "false_negative_error", False),
        ("mape", "", "mape", False),
        ("grad_norm", "", "grad_norm", None),
    ],
)
def test_what_names_mean(column, part, metric, higher):
    assert names.split(column) == (part, metric)
    assert metric_names.higher_is_better(metric) is higher


def test_times_below_zero_are_unknown(tmp_path):
    text = "method,loss,seconds,examples\na,1,-3,-1\nb,2,4,inf\n"
    runs = read(tmp_path / "a.csv", text).runs
    np.testing.assert_array_equal(runs["seconds"], [np.nan, 4])
    assert runs["examples"].isna().all()


def test_a_chart_of_weights_and_biases_is_no_table(tmp_path):
    text = "Step,adam - val/loss,adam - val/loss__MIN,adam - val/loss__MAX\n1,2,2,2\n"
    with pytest.raises(UsageError, match=r"Biases: read it with wandb:.*a\.csv"):
        read(tmp_path / "a.csv", text)


@pytest.mark.parametrize(
    ("name", "hint"), [("a.csv", "csv:a.csv"), ("a.csv.gz", "csv:a.csv.gz")]
)
def test_a_file_without_its_format_is_named(name, hint):
    with pytest.raises(UsageError, match=f"did you mean {hint}"):
        elsewhere.read(name)


@pytest.mark.parametrize("name", ["time_s", "wall_time_s", "Time (sec)", "elapsed_s"])
def test_times_in_seconds_have_several_names(tmp_path, name):
    rows = tidy().assign(**{name: tidy()["epoch"] * 2.5})
    source = read(tmp_path / "a.csv", rows)
    assert [*source.runs["seconds"]] == [7.5] * 4
    assert not any("left out" in note for note in source.notes)
