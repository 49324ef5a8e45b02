"""What trackers keep, read back with their own readers, is what the tables have."""

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from absl import flags
from program import invoke
from test_hosts import ends, start

import lrjax
from lrjax import config as config_lib
from lrjax import track
from lrjax.core import Interrupted, UsageError
from lrjax.launch import dask_client, experiment
from lrjax.tables import live
from lrjax.track import sender
from lrjax.track.listeners import of_function, of_trackers

ROOT = Path(__file__).parent.parent
GRID = ("--config.methods=sgd,adam", "--config.grid.learning_rate=0.1,3e38")
# mode -> flags; sgd diverges with the larger rate
MODES = {
    "train": GRID,
    "tune": (
        *(
            "--config.methods=adam",
            "--config.tune.trials=3",
            "--config.tune.unit=steps",
        ),
        *("--config.tune.tuner=random", "--config.tune.max_budget=6"),
    ),
    "select": ("--config.methods=sgd,adam", "--config.select.budget=4"),
    "advise": (
        *("--config.methods=adam", "--config.steps=200"),
        "--config.advise.spend=1.0",
    ),
}
KINDS = {"train": {"run"}, "tune": {"run", "trial"}}
KINDS |= {"select": {"race"}, "advise": {"race"}}


class Kept(NamedTuple):
    """What a tracker has of a run.

    Attributes:
      hparams: name -> value, in the types that the tracker has.
      curves: name -> {step: value}.
      result: name -> last value.
      status: 'done' or 'diverged'.
      place: what tells the run's group and name.
    """

    hparams: dict[str, Any]
    curves: dict[str, dict[int, float]]
    result: dict[str, float]
    status: str
    place: str


# The trackers' own readers: the runs that they have of a working directory, by run_id


def of_tensorboard(workdir):
    """Read event files with TensorBoard."""
    backend = "tensorboard.backend.event_processing.event_accumulator"
    reader = pytest.importorskip(backend, reason="TensorBoard reads event files")
    from tensorboard.plugins.hparams import metadata

    kept = {}
    for folder in sorted((workdir / "tensorboard").glob("*/*/*")):
        size = {reader.SCALARS: 0, reader.TENSORS: 0}
        found = reader.EventAccumulator(str(folder), size_guidance=size).Reload()
        content = {
            name: metadata.plugin_data.content
            for name, metadata in found.summary_metadata.items()
        }
        started = metadata.parse_session_start_info_plugin_data(
            content["_hparams_/session_start_info"]
        )
        hparams = {
            name: getattr(value, value.WhichOneof("kind"))
            for name, value in started.hparams.items()
        }
        curves = {
            name: {event.step: event.value for event in found.Scalars(name)}
            for name in found.Tags()["scalars"]
        }
        for name, curve in curves.items():
            assert len(curve) == len(found.Scalars(name)), "a point came twice"
        (status,) = found.Tensors("status/text_summary")
        (status,) = status.tensor_proto.string_val
        ends = {name: curve[max(curve)] for name, curve in curves.items()}
        place = str(folder.relative_to(workdir / "tensorboard"))
        run_id = hparams["run_id"]
        assert run_id not in kept
        kept[run_id] = Kept(hparams, curves, ends, status.decode(), place)
    return kept


def of_wandb(workdir):
    """Read offline runs with W&B's own inspector."""
    util = pytest.importorskip("wandb.util", reason="W&B reads its offline runs")
    inspect = (util.get_core_path(), "leet", "inspect", "--json", "--no-observability")

    def inspected(path, *flags):
        command = [*inspect, *flags, f"--run-file={path}", str(workdir / "wandb")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    kept = {}
    for path in sorted((workdir / "wandb").glob("offline-run-*/*.wandb")):
        known = json.loads(inspected(path, "--summary"))
        lines = map(json.loads, inspected(path).splitlines())
        records = {}
        for line in lines:
            records.setdefault(line["type"], []).append(line[line["type"]])
        curves = {}
        for item in (record["item"] for record in records.get("history", ())):
            for name, value in item.items():
                if not name.startswith("_"):
                    assert item["_step"] not in curves.setdefault(name, {})
                    curves[name][item["_step"]] = value
        (run,) = records["run"]
        summary = {k: v for k, v in known["summary"].items() if not k.startswith("_")}
        status = summary.pop("status")
        place = f"{run['run_group']} {known['name']} {run['job_type']}"
        hparams = known["config"]["hparams"]
        kept[known["run_id"]] = Kept(hparams, curves, summary, status, place)
        assert known["state"] == "finished"
    return kept


def of_mlflow(workdir):
    """Read the file store with MLflow's client."""
    mlflow = pytest.importorskip("mlflow", reason="MLflow reads its file store")
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    client = mlflow.MlflowClient((workdir / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("lrjax")
    kept = {}
    for run in client.search_runs([experiment.experiment_id]):
        tags, metrics, kept_id = run.data.tags, run.data.metrics, run.info.run_id
        curves = {}
        for name in metrics:
            points = client.get_metric_history(kept_id, name)
            curves[name] = {point.step: point.value for point in points}
            assert len(curves[name]) == len(points), "a point came twice"
        place = f"{tags['lrjax.group']} {run.info.run_name} {tags['lrjax.kind']}"
        assert run.info.status == "FINISHED"
        assert tags["lrjax.run_id"] not in kept
        kept[tags["lrjax.run_id"]] = Kept(
            run.data.params, curves, metrics, tags["lrjax.status"], place
        )
    return kept


READERS = {"tensorboard": of_tensorboard, "wandb": of_wandb, "mlflow": of_mlflow}


def installed(name):
    """Whether a tracker can be tested here; skips the test if not."""
    package = {"tensorboard": "tensorboardX"}.get(name, name)
    pytest.importorskip(package, reason=f"--log={name} needs it")


def available():
    """Names of the trackers that can be tested here."""
    for name in track.SHIPPED:
        with contextlib.suppress(pytest.skip.Exception):
            installed(name)
            yield name


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A file of a user's own: three classes, two features."""
    path = tmp_path_factory.mktemp("data") / "mine.svm"
    rows = [f"{i % 3} 1:{i % 3 + 0.1 * (i % 7):.2f} 2:{i % 5}\n" for i in range(60)]
    path.write_text("".join(rows))
    return f"svmlight:{path}"


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    """W&B without a server, and without files of this user's."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def asked(task, mode, folder):
    """The command line of a mode."""
    common = (f"--config={ROOT}/configs/libsvm.py", f"--config.tasks={task}")
    length = ("--config.seeds=2", "--config.steps=6", "--config.eval_every=2")
    return (f"--mode={mode}", f"--workdir={folder}", *common, *length, *MODES[mode])


@pytest.fixture(scope="module")
def folders(tmp_path_factory, task):
    """Mode -> working directories with and without trackers; trained when needed."""
    made = {}

    def folders_of(mode):
        if mode not in made:
            base = tmp_path_factory.mktemp(mode)
            made[mode] = base / "logged", base / "plain"
            log = f"--log={','.join(available())}"
            for folder, more in zip(made[mode], ([log], []), strict=True):
                answer = invoke(*asked(task, mode, folder), *more)
                assert answer.code == 0, answer.err
        return made[mode]

    return folders_of


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def same(found, wanted):
    """Whether numbers are equal, in float32 where a tracker keeps no more."""
    return set(found) == set(wanted) and all(
        found[name] == wanted[name] or found[name] == np.float32(wanted[name])
        for name in wanted
    )


def measured(row):
    """The numbers in a row of a table, but for those that say what it is."""
    names = {"run_id", "seed", "step", "steps", "horizon"}
    return {
        k: v
        for k, v in row.items()
        if k not in names and isinstance(v, int | float) and math.isfinite(v)
    }


def test_every_tracker_and_mode_is_here():
    assert set(READERS) == track.SHIPPED
    others = set(flags.FLAGS["mode"].parser.enum_values) - set(MODES)
    for mode in others:
        answer = invoke(f"--mode={mode}", "--log=tensorboard", "--workdir=nowhere")
        assert answer.code == 2
        assert "--log is for --mode=train" in answer.err[-1]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "mode",
    [m if m == "train" else pytest.param(m, marks=pytest.mark.slow) for m in MODES],
)
def test_trackers_have_what_the_tables_have(mode, name, folders):
    installed(name)
    folder, _ = folders(mode)
    kept = READERS[name](folder)
    started = {row["run_id"]: row for row in lines(folder / "started.jsonl")}
    assert set(kept) == set(started)
    assert {row["kind"] for row in started.values()} == KINDS[mode]
    for run_id, row in started.items():
        run = kept[run_id]
        for hparam, value in row["hparams"].items():
            found = run.hparams.get(hparam)  # TensorBoard has no value for None
            assert found in (value, str(value)), hparam
        words = (row["task"].replace("/", "-"), row["method"], f"seed{row['seed']}")
        assert all(word in run.place.replace("/", "-") for word in words)
        assert name == "tensorboard" or row["kind"] in run.place
    curves = {}
    for row in lines(folder / "curves.jsonl"):
        for column, value in measured(row).items():
            curves.setdefault(row["run_id"], {}).setdefault(column, {})
            curves[row["run_id"]][column][row["step"]] = value
    rows = lines(folder / "runs.jsonl")
    assert {row["status"] for row in rows} == (
        {"done", "diverged"} if mode == "train" else {"done"}
    )
    for row in rows:
        run, wanted = kept[row["run_id"]], curves.get(row["run_id"], {})
        assert all(same(run.curves[column], wanted[column]) for column in wanted), row
        assert run.status == row["status"]
        wanted = measured(row)
        if mode in ("select", "advise"):
            del wanted["examples"]  # its runs are told of before it is known
        assert same(run.result, {"epoch": run.result["epoch"]} | wanted), row
        assert row["status"] == "diverged" or "test_accuracy" in run.result
    trials = [kept[i] for i, row in started.items() if row["kind"] == "trial"]
    assert {trial.status for trial in trials} <= {"done"}
    assert all(6 in trial.curves["valid_loss"] for trial in trials)
    told = lines(folder / "trials.jsonl") if trials else []
    for row in told:  # a cost is a metric, of which more may be better
        values = [abs(trial.result[row["tuned_by"]]) for trial in trials]
        assert np.isclose(values, abs(row["cost"]), rtol=1e-6).any()
    assert len(told) == len(trials)


@pytest.mark.parametrize("mode", MODES)
def test_tables_are_the_same_with_trackers(mode, folders):
    logged, plain = folders(mode)
    names = ("runs.jsonl", "curves.jsonl", "started.jsonl", "config.json")
    names += {"tune": ("trials.jsonl",), "select": ("races.jsonl",)}.get(mode, ())
    for name in names:
        found = [(folder / name).read_text() for folder in (logged, plain)]
        if name not in ("curves.jsonl", "config.json"):
            found = [
                [row | {"seconds": 0} for row in map(json.loads, text.splitlines())]
                for text in found
            ]
        assert found[0] == found[1], name


# What a function is told, and when


def settings(task, **more):
    config = config_lib.base()
    config.tasks, config.methods, config.seeds = (task,), ("adam",), 2
    config.steps, config.eval_every = 6, 2
    for name, value in more.items():
        config[name] = value
    return config_lib.check(config)


def told(task, folder, launch=experiment.local.launch, **more):
    """Train; return what a function got."""
    rows = []
    heard = of_function(rows.extend)
    experiment.run(settings(task, **more), folder, launch=launch, listeners=heard)
    return rows


def check_told(rows, folder):
    """Check that what was told is what the tables have, and whose it is."""
    ends = {row["run_id"]: row for row in rows if "status" in row}
    curves = [row for row in rows if "status" not in row]
    for table, found in (("runs.jsonl", ends.values()), ("curves.jsonl", curves)):
        for row in lines(folder / table):
            (match,) = [
                each
                for each in found
                if (each["run_id"], each.get("step"))
                == (row["run_id"], row.get("step"))
            ]
            assert match.items() >= row.items()
        assert len(found) == len(lines(folder / table))
    assert {(row["method"], row["kind"], row["metric"]) for row in rows} == {
        ("adam", "run", "accuracy")
    }


def test_a_function_gets_rows_as_they_are_measured(task, tmp_path):
    check_told(told(task, tmp_path), tmp_path)
    assert told(task, tmp_path) == []  # nothing is trained again


def test_rows_that_were_there_are_not_sent_again(task, tmp_path):
    told(task, tmp_path)
    path = tmp_path / "runs.jsonl"
    kept, lost = path.read_text().splitlines(keepends=True)
    path.write_text(kept)
    curves = tmp_path / "curves.jsonl"
    *before, last = curves.read_text().splitlines(keepends=True)
    curves.write_text("".join(before))
    again = told(task, tmp_path)
    missing = [json.loads(last), json.loads(lost)]
    if missing[0]["run_id"] == missing[1]["run_id"]:
        assert len(again) == 2
    assert [row["run_id"] for row in again][-1] == missing[1]["run_id"]
    assert {row.get("step") for row in again} == {missing[0]["step"], None}


@pytest.mark.parametrize("call", ["compare", "tune", "select"])
def test_every_function_tells_rows(call, task, tmp_path):
    rows = []
    more = {"tuner": "random", "trials": 2, "seeds": 1} if call == "tune" else {}
    more |= {"budget": 2} if call == "select" else {}
    methods = "adam" if call == "tune" else ["adam", "sgd"]
    function = getattr(lrjax, call)
    function(task, methods, steps=6, workdir=tmp_path, on_rows=rows.extend, **more)
    ends = [row["run_id"] for row in rows if "status" in row]
    assert sorted(ends) == sorted(live.started(tmp_path))
    assert all(any(row["run_id"] == i and "step" in row for row in rows) for i in ends)
    with pytest.raises(UsageError, match="on_rows must be a function, not 5"):
        function(task, methods, steps=6, on_rows=5)


def test_a_function_that_fails_is_one_warning(task, tmp_path):
    def broken(rows):
        raise KeyError("mine")

    with pytest.warns(
        UserWarning, match=r"on_rows gets no more rows: KeyError"
    ) as all_:
        found = lrjax.compare(task, "adam", seeds=2, steps=6, on_rows=broken)
    assert len(all_) == 1
    assert len(found.runs) == 2


# Trackers that fail


class Broken:
    """Fails at one of its methods."""

    def __init__(self, at):
        self.at, self.calls = at, []

    def __getattr__(self, name):
        def call(*_):
            self.calls.append(name)
            if name == self.at:
                raise SystemExit("no such\nserver")

        return call


@pytest.mark.parametrize("at", ["log", "end", "close"])
def test_a_tracker_that_fails_stops_no_training(at, task, tmp_path, registries):
    broken, well = Broken(at), Broken("")
    track.TRACKERS |= {"broken": lambda workdir: broken, "well": lambda workdir: well}
    heard = of_trackers(["broken", "well"], tmp_path / "logged")
    words = "--log=broken gets no more rows: SystemExit: no such server; the tables"
    with pytest.warns(UserWarning, match=words) as caught:
        experiment.run(settings(task), tmp_path / "logged", listeners=heard)
    assert len(caught) == 1
    assert broken.calls.count(at) == 1
    assert broken.calls[-1] == "close"
    assert (well.calls.count("end"), well.calls[-1]) == (2, "close")
    experiment.run(settings(task), tmp_path / "plain")
    curves = [tmp_path / name / "curves.jsonl" for name in ("logged", "plain")]
    assert curves[0].read_bytes() == curves[1].read_bytes()
    track.TRACKERS["broken"] = lambda workdir: Broken(at)
    answer = invoke(*asked(task, "train", tmp_path / "cli"), "--log=broken")
    assert answer.code == 0


@pytest.mark.parametrize("made", [None, object(), "text"])
def test_what_is_no_tracker_is_said_before_training(made, tmp_path, registries):
    track.TRACKERS["odd"] = lambda workdir: made
    with pytest.raises(lrjax.UsageError, match="without log and end and close"):
        of_trackers(["odd"], tmp_path)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("tensorboard", "tensorboard"), ("wandb", "wandb"), ("mlflow", "mlruns")],
)
@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_in_the_way_is_said_before_training(
    name, folder, kind, tmp_path, monkeypatch
):
    installed(name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if kind == "file":
        (tmp_path / folder).touch()
    else:
        (tmp_path / folder).symlink_to(tmp_path)
    with pytest.raises(UsageError, match=f"{folder}: it is "):
        of_trackers([name], tmp_path)


def test_an_address_of_mlflow_that_is_none_is_said_before_training(
    tmp_path, monkeypatch
):
    installed("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "htpp://localhost")
    with pytest.raises(UsageError, match=r"--log=mlflow cannot be used: .*htpp"):
        of_trackers(["mlflow"], tmp_path)


def test_hints_that_cannot_be_written_stop_nothing(task, tmp_path):
    (tmp_path / "progress.json").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        experiment.run(settings(task), tmp_path)
    assert len(lrjax.results.load(tmp_path)[0]) == 2


def test_who_is_awaited_at_the_end_is_said(monkeypatch, capsys):
    monkeypatch.setattr(sender, "QUIET", 0.01)
    let = threading.Event()

    def take(rows):
        let.wait()
        yield

    slow = sender.Sender("--log=slow", take)
    slow.send([object()])
    closing = threading.Thread(target=slow.close)
    closing.start()
    while "waiting for --log=slow to take 1 row" not in capsys.readouterr().err:
        closing.join(0.02)
        assert closing.is_alive()
    let.set()
    closing.join()


def test_a_tracker_that_cannot_be_opened_is_said_before_training(
    task, tmp_path, registries, monkeypatch
):
    def refuse(workdir):
        raise OSError("no such\nserver")

    track.TRACKERS["broken"] = refuse
    for name in available():
        package = {"tensorboard": "tensorboardX"}.get(name, name)
        monkeypatch.setitem(sys.modules, package, None)
    refused = {
        "broken": "--log=broken cannot be used: OSError: no such server",
        "wanbd": "unknown tracker 'wanbd'; did you mean 'wandb'?",
        "tensorboard": "needs tensorboardX: pip install 'lrjax[track]'",
        "wandb": "pip install 'lrjax[track]'",
        "mlflow": "pip install 'lrjax[track]'",
    }
    for name, words in refused.items():
        answer = invoke(*asked(task, "train", tmp_path / "w"), f"--log={name}")
        assert answer.code == 2, answer
        assert words in answer.err[-1]
        assert not (tmp_path / "w" / "runs.jsonl").exists()


def test_a_tracker_that_hangs_is_left_behind(task, tmp_path, registries, monkeypatch):
    monkeypatch.setattr(sender, "PATIENCE", 0.1)
    hung = threading.Event()

    class Hanging(Broken):
        def log(self, *_):
            hung.wait()

    track.TRACKERS["hanging"] = lambda workdir: Hanging("")
    heard = of_trackers(["hanging"], tmp_path)
    with pytest.warns(UserWarning, match="--log=hanging gets no more rows: no answer"):
        experiment.run(settings(task), tmp_path, listeners=heard)
    hung.set()
    assert len(lines(tmp_path / "runs.jsonl")) == 2


def test_a_slow_tracker_gets_all_rows_in_order(monkeypatch):
    monkeypatch.setattr(sender, "MOST", 3)
    got, gate = [], threading.Semaphore(0)

    def take(rows):
        gate.acquire()
        got.extend(rows)
        yield

    slow = sender.Sender("slow", take)

    def release():
        for _ in range(20):
            gate.release()

    timer = threading.Timer(0.05, release)
    timer.start()
    for number in range(20):  # far more than may wait
        slow.send([number])
    slow.close()
    timer.join()
    assert got == list(range(20))


# Trackers go on with a run


@pytest.mark.parametrize("name", READERS)
def test_a_run_that_is_resumed_is_one_run(name, task, tmp_path):
    installed(name)
    experiment.run(settings(task, seeds=1), tmp_path)
    curve = lines(tmp_path / "curves.jsonl")
    (result,) = lines(tmp_path / "runs.jsonl")
    run = live.started(tmp_path)[result["run_id"]] | {"entry": "adam"}
    for begin, is_stopped in ((0, True), (1, False)):
        tracker = track.find(name)(tmp_path)
        # What was measured since the last checkpoint is measured again.
        tracker.log(run, curve[begin : begin + 2])
        if not is_stopped:
            tracker.end(run, result)
        tracker.close()
    if name == "wandb":  # it joins runs of one id when it uploads them
        paths = [*tmp_path.glob("wandb/offline-run-*/*.wandb")]
        assert {path.stem for path in paths} == {f"run-{run['run_id']}"}
        return
    (kept,) = READERS[name](tmp_path).values()
    assert kept.status == "done"
    wanted = {row["step"]: row["valid_loss"] for row in curve}
    assert same(kept.curves["valid_loss"], wanted)
    files = [*tmp_path.glob("tensorboard/*/*/*/*")]
    assert len(files) == (2 if name == "tensorboard" else 0)


def test_runs_of_one_name_have_folders_of_their_own(task, tmp_path):
    """Batch sizes are in no table: both are the entry 'adam'."""
    installed("tensorboard")
    for batch_size in (4, 8):
        heard = of_trackers(["tensorboard"], tmp_path)
        given = settings(task, seeds=1, batch_size=batch_size)
        experiment.run(given, tmp_path, listeners=heard)
    assert len(of_tensorboard(tmp_path)) == len(lines(tmp_path / "runs.jsonl")) == 2


# Hints for people who watch


def test_hints_say_what_trains_and_how_far_it_is(task, tmp_path):
    experiment.run(settings(task), tmp_path)
    rows = lines(tmp_path / "runs.jsonl")
    started = live.started(tmp_path)
    for row in rows:
        head = started[row["run_id"]]
        assert (head.pop("kind"), head.pop("metric")) == ("run", "accuracy")
        assert row.items() >= head.items()
    known = live.progress(tmp_path)
    wanted = {"mode": "train", "state": "ended", "runs": 2, "runs_done": 2}
    wanted |= {"updates": 12, "updates_done": 12, "updates_before": 0}
    assert known.items() >= wanted.items()
    assert known["began"] <= known["written"]
    assert known["pid"] == os.getpid()
    experiment.run(settings(task), tmp_path)
    known = live.progress(tmp_path)
    assert (known["runs"], known["runs_done"], known["updates_before"]) == (2, 2, 12)
    experiment.run(settings(task, seeds=3), tmp_path)
    assert len(lines(tmp_path / "started.jsonl")) == 3


@pytest.mark.parametrize("mode", MODES)
def test_planned_is_what_was_done(mode, folders):
    known = live.progress(folders(mode)[1])
    assert (known["mode"], known["state"]) == (mode, "ended")
    assert known["runs_done"] == known["runs"] == len(live.started(folders(mode)[1]))
    assert known["updates_done"] == known["updates"]


@pytest.mark.parametrize("damage", ["torn", "gone", "link", "folder", "other"])
def test_damaged_hints_change_nothing(damage, task, tmp_path):
    experiment.run(settings(task, seeds=1), tmp_path)
    path = tmp_path / "started.jsonl"
    elsewhere = tmp_path / "elsewhere"
    text = path.read_text()
    path.unlink()
    if damage == "torn":
        path.write_text(text[:-9])
    elif damage == "link":
        elsewhere.write_text("mine\n")
        path.symlink_to(elsewhere)
    elif damage == "folder":
        path.mkdir()
    elif damage == "other":
        path.write_text('[1]\n{"run_id": 5}\nnot json\n\xff\n')
    refused = damage in ("link", "folder")
    expected = pytest.warns(UserWarning, match="cannot write .*; training goes on")
    with expected if refused else contextlib.nullcontext():
        experiment.run(settings(task), tmp_path)
    assert len(lines(tmp_path / "runs.jsonl")) == 2
    if damage == "link":
        assert elsewhere.read_text() == "mine\n"
    if not refused:
        runs = {row["run_id"] for row in lines(tmp_path / "runs.jsonl")}
        assert set(live.started(tmp_path)) <= runs
        assert len(live.started(tmp_path)) == 1  # the other one was finished


def test_a_progress_that_cannot_be_written_is_one_warning(task, tmp_path):
    (tmp_path / "progress.json").mkdir()
    with pytest.warns(UserWarning, match="progress.json.*training goes on") as caught:
        experiment.run(settings(task), tmp_path)
    assert len(caught) == 1
    assert live.progress(tmp_path) is None


@pytest.mark.parametrize(
    ("error", "state"), [(KeyError(), "failed"), (Interrupted(15), "stopped")]
)
def test_a_command_that_fails_says_so(error, state, task, tmp_path):
    def fail(settings, blocks, runs):
        raise UsageError("mine")

    with pytest.raises(UsageError, match="mine"):
        experiment.run(settings(task), tmp_path, announce=fail)
    assert live.progress(tmp_path) is None  # nothing was planned

    def failing(path):
        with experiment.local.launch(settings(task), path) as launcher:
            launcher.session.live.expect("run", 1, 1)
            raise error

    with pytest.raises(type(error)):
        failing(tmp_path)
    assert live.progress(tmp_path)["state"] == state


# Other launchers


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_workers_of_a_cluster_tell_the_same(mode, task, tmp_path):
    for launcher in ("local", "dask"):
        log = f"--log={','.join(available())}"
        more = (f"--launcher={launcher}", "--config.cluster.workers=1", log)
        folder = tmp_path / launcher
        answer = invoke(*asked(task, mode, folder), *more)
        assert answer.code == 0, answer.err
    for name in available():
        kept = [READERS[name](tmp_path / folder) for folder in ("local", "dask")]
        assert set(kept[0]) == set(kept[1])
        for here, there in (tuple(k[run_id] for k in kept) for run_id in kept[0]):
            assert here._replace(curves={}, result={}) == there._replace(
                curves={}, result={}
            )
            for column, points in there.curves.items():
                if column not in ("seconds", "last_batch_loss"):
                    assert points.items() <= here.curves[column].items()
            unlike = {"epoch", "last_batch_loss"}  # of trials, whose rows differ
            assert {*here.result} - unlike == {*there.result} - unlike


@pytest.mark.slow
def test_rows_of_workers_reach_a_function(task, tmp_path):
    config = config_lib.base()
    config.tasks, config.methods, config.seeds = (task,), ("adam",), 2
    config.steps, config.eval_every, config.cluster.workers = 6, 2, 1
    rows = []
    experiment.run(
        config_lib.check(config),
        tmp_path,
        launch=dask_client.launch,
        listeners=of_function(rows.extend),
    )
    check_told(rows, tmp_path)


@pytest.mark.slow
def test_the_first_host_sends_rows_of_all(tmp_path):
    installed("tensorboard")
    hosts = start(2, tmp_path, "--log=tensorboard")
    codes, said = ends(hosts)
    assert codes == [0, 0], said
    kept = of_tensorboard(tmp_path)
    runs = {row["run_id"]: row for row in lines(tmp_path / "runs.jsonl")}
    assert set(kept) == set(runs) == set(live.started(tmp_path))
    curves = lines(tmp_path / "curves.jsonl")
    for run_id in runs:
        found = {
            row["step"]: row["valid_loss"] for row in curves if row["run_id"] == run_id
        }
        assert same(kept[run_id].curves["valid_loss"], found)
    assert live.progress(tmp_path)["state"] == "ended"


def test_known_runs_of_a_selection_that_train_again_are_not_sent_again(task, tmp_path):
    """Runs of a stage train as one block, those that are in the table, too."""

    def selected():
        rows = []
        lrjax.select(
            task,
            ["adam", "sgd"],
            budget=2,
            steps=6,
            workdir=tmp_path,
            on_rows=rows.extend,
            log=lambda line: None,
        )
        return {row["run_id"] for row in rows if "status" in row}

    first = selected()
    assert len(first) == 2
    lost = None
    for name in ("runs.jsonl", "races.jsonl"):
        *kept, last = (tmp_path / name).read_text().splitlines(keepends=True)
        (tmp_path / name).write_text("".join(kept))
        lost = lost or json.loads(last)["run_id"]
    assert selected() == {lost}
