"""Studies of Optuna, in the SQLite files that it writes."""

import hashlib
import json
import sqlite3

import numpy as np
import pytest

from lrjax import elsewhere
from lrjax.core import UsageError

optuna = pytest.importorskip("optuna", reason="optuna writes and reads the files")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial):
    """Finishes, is pruned, raises or returns NaN, by the trial's number."""
    rate = trial.suggest_float("lr", 1e-4, 1, log=True)
    trial.suggest_categorical("optimizer", ["adam", "sgd"])
    for step in range(4):
        trial.report(rate / (step + 1), step)
        if trial.number == 1 and step == 2:
            raise optuna.TrialPruned
    if trial.number == 2:
        raise ValueError
    trial.set_user_attr("test_accuracy", 0.5)
    trial.set_user_attr("host", "here")
    return float("nan") if trial.number == 3 else rate / 8


@pytest.fixture
def database(tmp_path):
    """A file with a study of six trials."""
    path = tmp_path / "a study.db"
    make(path, "digits", objective)
    return path


def make(path, name, function, trials=6, **options):
    """Let Optuna run a study."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(
        storage=storage, study_name=name, sampler=sampler, **options
    )
    study.optimize(function, n_trials=trials, catch=(ValueError,))
    storage.remove_session()
    storage.engine.dispose()
    return study


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}", "sqlite:///{}#digits"])
def test_trials_are_runs(database, form):
    source = elsewhere.read(f"optuna:{form.format(database)}")
    runs = source.runs
    states = ["done", "stopped", "diverged", "diverged", "done", "done"]
    assert [*runs["status"]] == states
    assert set(runs["task"]) == {"digits"}
    assert set(runs["method"]) <= {"adam", "sgd"}
    rates = np.array([hparams["learning_rate"] for hparams in runs["hparams"]])
    done = runs["status"] == "done"
    np.testing.assert_array_equal(runs["valid_objective"][done], rates[done] / 8)
    assert set(runs["test_accuracy"][done]) == {0.5}
    curve = source.curves[source.curves["run_id"] == runs["run_id"][0]]
    np.testing.assert_array_equal(curve["step"], range(4))
    expected = rates[0] / [1, 2, 3, 8]  # the value that is returned is the last
    np.testing.assert_array_equal(curve["valid_objective"], expected)
    (objective, _) = source.metrics["digits"]
    assert not objective.higher_is_better


def test_several_objectives_and_directions(tmp_path):
    path = tmp_path / "a.db"

    def both(trial):
        return trial.suggest_float("x", 0, 1), trial.number

    make(path, "two", both, directions=["maximize", "minimize"])
    source = elsewhere.read(f"optuna:{path}")
    first, second = source.metrics["two"]
    assert (first.name, first.higher_is_better) == ("objective_0", True)
    assert (second.name, second.higher_is_better) == ("objective_1", False)
    assert [*source.runs["valid_objective_1"]] == [*range(6)]
    note = "judged by objective_0, the first of objective_0, objective_1"
    assert note in source.notes


def test_studies_in_one_file(tmp_path):
    path = tmp_path / "a.db"
    make(path, "one", objective, 1)
    make(path, "two", objective, 1)
    assert set(elsewhere.read(f"optuna:{path}").runs["task"]) == {"one", "two"}
    assert set(elsewhere.read(f"optuna:{path}#two").runs["task"]) == {"two"}
    make(path, "three", objective, 1, direction="maximize")
    with pytest.raises(UsageError, match=r"maximise and minimise.*#three"):
        elsewhere.read(f"optuna:{path}")
    with pytest.raises(UsageError, match=r"unknown study.*did you mean 'three'"):
        elsewhere.read(f"optuna:{path}#tree")


def test_the_file_is_only_read(database):
    database.chmod(0o444)
    before = hashlib.sha256(database.read_bytes()).digest()
    elsewhere.read(f"optuna:{database}")
    assert hashlib.sha256(database.read_bytes()).digest() == before
    assert [*database.parent.iterdir()] == [database]


def test_the_file_holds_no_pickle(database):
    """What it stores is numbers, names and JSON: reading it runs no code."""
    connection = sqlite3.connect(database)
    tables = "select name from sqlite_master where type = 'table'"
    checked = 0
    for (table,) in connection.execute(tables).fetchall():
        rows = connection.execute(f"select * from {table}")
        names = [column[0] for column in rows.description]
        for row in rows:
            for name, value in zip(names, row, strict=True):
                assert isinstance(value, int | float | str | None)
                if name.endswith("json"):
                    json.loads(value)
                    checked += 1
    connection.close()
    assert checked


def test_what_is_no_study(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        elsewhere.read(f"optuna:sqlite:///{tmp_path}/none.db")
    assert not [*tmp_path.iterdir()]
    (tmp_path / "text.db").write_text("something else")
    with pytest.raises(UsageError, match="no database of SQLite"):
        elsewhere.read(f"optuna:{tmp_path}/text.db")
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("create table other (a)")
    connection.close()
    with pytest.raises(UsageError, match=r"no database of Optuna's.*no such table"):
        elsewhere.read(f"optuna:{tmp_path}/other.db")


def test_a_password_is_not_shown():
    with pytest.raises(UsageError) as error:
        elsewhere.read("optuna:postgresql+nothing://me:secret@127.0.0.1:1/a")
    assert "secret" not in str(error.value)
