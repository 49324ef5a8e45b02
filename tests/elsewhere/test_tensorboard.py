"""TensorBoard's event files, as tensorboardX, PyTorch and lrjax write them."""

import warnings

import fabricated
import numpy as np
import pytest

from lrjax import elsewhere
from lrjax.core import UsageError
from lrjax.reports import export, study
from lrjax.track import event_files

pytest.importorskip("tensorboard", reason="tensorboard reads the files")
STEPS = np.arange(10, 2010, 10)


def writer_of(package):
    """A package's SummaryWriter."""
    reason = f"{package} writes the files"
    if package == "torch":
        return pytest.importorskip(
            "torch.utils.tensorboard", reason=reason, exc_type=ImportError
        ).SummaryWriter
    return pytest.importorskip(package, reason=reason).SummaryWriter


@pytest.mark.parametrize("package", ["tensorboardX", "torch"])
def test_runs_in_folders(tmp_path, package):
    writer = writer_of(package)
    for method in ("adam", "sgd lr=0.5"):
        for seed in (0, 1):
            with writer(str(tmp_path / "mnist" / method / f"seed{seed}")) as events:
                for step in STEPS:
                    events.add_scalar("Loss/train", seed + 1 / step, step)
                    events.add_scalar("Loss/test", 2 / step, step)
                    events.add_scalar("lr", 0.5 / step, step)
                events.add_histogram("weights", np.arange(10.0), 1)
                events.add_text("note", "nothing to compare")
    source = elsewhere.read(f"tensorboard:{tmp_path}")
    runs = source.runs
    assert [*runs["method"]] == ["adam", "adam", "sgd", "sgd"]
    assert [*runs["seed"]] == [0, 1, 0, 1]
    assert set(runs["task"]) == {"mnist"}
    assert runs["hparams"][2] == {"learning_rate": 0.5}
    assert set(runs["steps"]) == {2000}
    curve = source.curves[source.curves["run_id"] == runs["run_id"][1]]
    np.testing.assert_array_equal(curve["step"], STEPS)  # all, not a sample of them
    values = {"train_loss": 1 + 1 / STEPS, "valid_loss": 2 / STEPS}
    for name, expected in (values | {"learning_rate": 0.5 / STEPS}).items():
        np.testing.assert_array_equal(curve[name], expected.astype(np.float32))


@pytest.mark.parametrize("package", ["tensorboardX", "torch"])
def test_hyperparameters(tmp_path, package):
    writer = writer_of(package)
    for name, method in (("a", "adam"), ("b", "sgd")):
        with writer(str(tmp_path / name)) as events:
            for step in (1, 2):
                events.add_scalar("val/loss", 1 / step, step)
            settings = {"optimizer": method, "lr": 0.25, "nesterov": True, "seed": 7}
            events.add_hparams(settings, {"hparam/accuracy": 0.75})
    runs = elsewhere.read(f"tensorboard:{tmp_path}").runs
    assert [*runs["method"]] == ["adam", "sgd"]
    assert [*runs["seed"]] == [7, 7]
    assert runs["hparams"][0] == {"learning_rate": 0.25, "nesterov": True}
    assert [*runs["valid_loss"]] == [0.5, 0.5]
    assert [*runs["valid_hparam_accuracy"]] == [0.75, 0.75]


def test_a_grid_of_results_alone(tmp_path):
    """A writer whose add_hparams is called for each of several runs."""
    writer = writer_of("tensorboardX")
    with writer(str(tmp_path / "grid")) as events:
        for place, rate in enumerate((0.1, 0.2)):
            events.add_hparams(
                {"lr": rate, "optimizer": "adam"},
                {"accuracy": rate},
                name=f"179582309{place}.5",
            )
    runs = elsewhere.read(f"tensorboard:{tmp_path}").runs
    rates = [hparams["learning_rate"] for hparams in runs["hparams"]]
    assert rates == [0.1, 0.2]
    np.testing.assert_allclose(runs["valid_accuracy"], rates)


def test_parts_of_a_run_in_folders_of_their_own(tmp_path):
    """As Keras's callback writes them."""
    writer = writer_of("tensorboardX")
    for part, loss in (("train", 1.0), ("validation", 2.0)):
        with writer(str(tmp_path / "adam" / part)) as events:
            for step in (0, 1):
                events.add_scalar("epoch_loss", loss - step / 4, step)
                events.add_scalar("evaluation_loss_vs_iterations", loss, 100 * step)
    source = elsewhere.read(f"tensorboard:{tmp_path}")
    (run,) = source.runs.to_dict("records")
    assert run["method"] == "adam"
    assert (run["train_loss"], run["valid_loss"]) == (0.75, 1.75)
    assert np.isnan(run["steps"])  # epochs are no updates
    assert [*source.curves["epoch"]] == [*source.curves["step"]] == [0, 1]


@pytest.mark.parametrize("package", ["tensorboardX", "torch", "as torch"])
@pytest.mark.parametrize("tag", ["Loss", "model/Loss"])
def test_a_folder_for_each_line_of_a_chart(tmp_path, package, tag):
    writer = writer_of("tensorboardX" if package == "as torch" else package)
    for method in ("adam", "sgd"):
        lines = {"train": [1 / 10, 1 / 20], "val": [2 / 10, 2 / 20]}
        if package == "as torch":  # it needs no torch to try
            for part, values in lines.items():
                folder = f"{method}/{tag.replace('/', '_')}_{part}"
                with writer(str(tmp_path / folder)) as events:
                    for step, value in zip((10, 20), values, strict=True):
                        events.add_scalar(tag, value, step)
            continue
        with writer(str(tmp_path / method)) as events:
            for place, step in enumerate((10, 20)):
                events.add_scalars(tag, {k: v[place] for k, v in lines.items()}, step)
    runs = elsewhere.read(f"tensorboard:{tmp_path}").runs
    assert [*runs["method"]] == ["adam", "sgd"]
    assert set(runs["task"]) == {tmp_path.name}
    losses = [c for c in runs if c.endswith("loss")]
    assert [c.partition("_")[0] for c in sorted(losses)] == ["train", "valid"]
    np.testing.assert_allclose(runs[sorted(losses)], [[0.05, 0.1]] * 2)


def test_the_names_that_pytorch_makes_by_default(tmp_path):
    """As transformers, too; without other names they tell runs apart."""
    writer = writer_of("tensorboardX")
    folders = ["adamw/runs/Nov27_10-11-12_host", "lion/runs/Nov27_10-11-14_host"]
    for folder in folders:
        with writer(str(tmp_path / folder)) as events:
            events.add_scalar("eval/loss", 1.0, 10)
    runs = elsewhere.read(f"tensorboard:{tmp_path}").runs
    assert [*runs["method"]] == ["adamw", "lion"]
    assert set(runs["task"]) == {tmp_path.name}
    runs = elsewhere.read(f"tensorboard:{tmp_path}/adamw").runs
    assert [*runs["method"]] == ["Nov27_10-11-12_host"]


def test_a_run_that_diverged(tmp_path):
    with writer_of("tensorboardX")(str(tmp_path / "sgd")) as events:
        for step, loss in enumerate((1.0, 2.0, float("nan"))):
            events.add_scalar("val/loss", loss, step)
    source = elsewhere.read(f"tensorboard:{tmp_path}")
    assert [*source.runs["status"]] == ["diverged"]
    np.testing.assert_array_equal(source.curves["valid_loss"], [1, 2, np.nan])


def test_what_a_report_exports_is_read_back(tmp_path):
    workdir = fabricated.write(
        tmp_path / "ours",
        ["iris", "wine"],
        ["adam", "cocob"],
        2,
        rates={"adam": [1, 2]},
    )
    ours, curves = study.read([workdir])
    (tmp_path / "out").mkdir()
    export.tensorboard(ours, curves, tmp_path / "out")
    source = elsewhere.read(f"tensorboard:{tmp_path / 'out'}")
    keys = ["task", "method", "seed"]
    ours = ours.assign(rate=[h["learning_rate"] for h in ours["hparams"]])
    rates = [h.get("learning_rate") for h in source.runs["hparams"]]
    theirs = source.runs.assign(rate=rates)
    ours, theirs = (t.sort_values([*keys, "rate"]) for t in (ours, theirs))
    assert [*ours[keys].itertuples(index=False)] == [
        *theirs[keys].itertuples(index=False)
    ]
    assert set(theirs["steps"]) == {200}
    names = ["step", "train_loss", "valid_loss", "valid_accuracy", "learning_rate"]
    for run, read in zip(ours["run_id"], theirs["run_id"], strict=True):
        left = curves.loc[curves["run_id"] == run, names]
        right = source.curves.loc[source.curves["run_id"] == read, names]
        np.testing.assert_allclose(right, left.astype(np.float32), rtol=1e-7)


def test_a_log_of_lrjax_is_read_back(tmp_path):
    """Its hyperparameters are settings, and what else it says of a run is not."""
    writer_of("tensorboardX")
    for seed, end in ((0, None), (1, 15)):
        run = {"run_id": f"{seed}", "task": "iris", "protocol": "sound", "seed": seed}
        run |= {"method": "adam", "hparams": {"learning_rate": 0.5, "b1": 0.25}}
        run |= {"steps": 20, "kind": "run", "metric": "loss", "entry": "adam"}
        tracker = event_files.connect(tmp_path)
        curve = [{"step": s, "seed": seed, "valid_loss": 1 / s} for s in (10, 20)]
        tracker.log(run, curve)
        status = "diverged" if end else "done"
        tracker.end(run, {**run, "status": status, "diverged_at": end, "seconds": 2.0})
    source = elsewhere.read(f"tensorboard:{tmp_path}")
    assert [*source.runs["status"]] == ["done", "diverged"]
    assert [*source.runs["seed"]] == [0, 1]
    assert [*source.runs["hparams"]] == [{"learning_rate": 0.5, "b1": 0.25}] * 2


@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_what_is_no_run(tmp_path):
    with pytest.raises(UsageError, match="holds no event file"):
        elsewhere.read(f"tensorboard:{tmp_path}")
    with pytest.raises(UsageError, match="is not a folder"):
        elsewhere.read(f"tensorboard:{tmp_path}/none")
    (tmp_path / "events.out.tfevents.1.here").write_bytes(b"something else" * 99)
    with pytest.raises(UsageError, match="holds no run"):
        elsewhere.read(f"tensorboard:{tmp_path}")


@pytest.mark.parametrize(
    ("part", "at", "known"),
    [("a record", -30, True), ("a length", -55, True), ("the end", None, False)],
)
def test_a_damaged_file_is_said_and_a_torn_one_is_not(tmp_path, part, at, known):
    with writer_of("tensorboardX")(str(tmp_path / "adam")) as events:
        for step in range(30):
            events.add_scalar("val/loss", 1 / (1 + step), step)
    (path,) = (tmp_path / "adam").iterdir()
    content = bytearray(path.read_bytes())
    size = len(content) // 31  # of a record, about
    if at is None:
        content = content[:-5]
    else:
        content[-10 * size + at % size] ^= 1
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = elsewhere.read(f"tensorboard:{tmp_path}")
    said = [str(w.message) for w in caught if "damaged" in str(w.message)]
    assert said == [f"{path} is damaged: what follows there is left out"] * known
    assert (len(source.curves) < 25) is known
