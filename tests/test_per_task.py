"""Settings of single tasks: fewer methods and seeds, other lengths, on some of them."""

import itertools
import json

import pytest
from program import invoke

from lrjax import config as config_lib
from lrjax.core import UsageError

FILE = """
from lrjax import config as config_lib

def get_config():
    config = config_lib.base()
    config.tasks = ("libsvm/iris", "libsvm/wine")
    config.methods, config.seeds, config.steps = ("adam", "prodigy"), 3, 8
    config.tune.trials, config.tune.tuner = 4, "random"
    config.tune.unit, config.tune.max_budget = "steps", 6
    config.per_task = {
        "libsvm/": {"seeds": 1},
        "libsvm/wine": {
            "methods": ("momentum",), "seeds": 2, "epochs": 1, "batch_size": 16,
            "trials": 3,
        },
    }
    return config
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(FILE)
    return path


def rows(folder, name="runs"):
    lines = (folder / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def counts(table, *columns):
    found = sorted(tuple(row[column] for column in columns) for row in table)
    return {key: len(list(group)) for key, group in itertools.groupby(found)}


def test_each_task_is_trained_as_its_own_settings_say(file, tmp_path):
    done = invoke(f"--config={file}", f"--workdir={tmp_path / 'all'}")
    assert not done.code, done.err
    assert counts(rows(tmp_path / "all"), "task", "method", "steps") == {
        ("libsvm/iris", "adam", 8): 1,
        ("libsvm/iris", "prodigy", 8): 1,
        ("libsvm/wine", "momentum", 7): 2,  # 108 rows in batches of 16
    }


def test_runs_are_those_of_a_config_for_that_task_alone(file, tmp_path):
    alone = tmp_path / "alone.py"
    alone.write_text(FILE.split("    config.per_task")[0] + "    return config\n")
    for config, folder, flags in (
        (file, "all", ()),
        (
            alone,
            "wine",
            (
                *("--config.tasks=libsvm/wine", "--config.methods=momentum"),
                *("--config.seeds=2", "--config.steps=7", "--config.batch_size=16"),
                "--config.eval_every=7",
            ),
        ),
    ):
        done = invoke(f"--config={config}", f"--workdir={tmp_path / folder}", *flags)
        assert not done.code, done.err
    both, wine = (
        {
            row["run_id"]: row["valid_loss"]
            for row in rows(tmp_path / folder)
            if row["task"] == "libsvm/wine"
        }
        for folder in ("all", "wine")
    )
    assert both == wine


def test_tuning_has_its_own_numbers_of_trials_and_seeds(file, tmp_path):
    done = invoke("--mode=tune", f"--config={file}", f"--workdir={tmp_path / 'all'}")
    assert not done.code, done.err
    assert counts(rows(tmp_path / "all", "trials"), "task", "method") == {
        ("libsvm/iris", "adam"): 4,
        ("libsvm/iris", "prodigy"): 4,
        ("libsvm/wine", "momentum"): 3,
    }
    assert counts(rows(tmp_path / "all"), "task", "method") == {
        ("libsvm/iris", "random:adam"): 1,
        ("libsvm/iris", "random:prodigy"): 1,
        ("libsvm/wine", "random:momentum"): 2,
    }


def test_a_flag_goes_before_them(file, tmp_path):
    flags = ("--config.seeds=4", "--config.steps=3", "--config.methods=sgd")
    done = invoke(f"--config={file}", f"--workdir={tmp_path / 'all'}", *flags)
    assert not done.code, done.err
    assert counts(rows(tmp_path / "all"), "task", "method", "steps") == {
        ("libsvm/iris", "sgd", 3): 4,
        ("libsvm/wine", "sgd", 3): 4,
    }


def test_fewer_tasks_may_be_chosen_by_a_flag(file, tmp_path):
    flags = ("--config.tasks=libsvm/iris", f"--workdir={tmp_path / 'all'}")
    done = invoke(f"--config={file}", *flags)
    assert not done.code, done.err
    assert counts(rows(tmp_path / "all"), "task", "method") == {
        ("libsvm/iris", "adam"): 1,
        ("libsvm/iris", "prodigy"): 1,
    }


def test_they_are_no_flags(file, tmp_path):
    for flag in ("--config.per_task=3", "--config.per_task.x.seeds=3"):
        done = invoke(f"--config={file}", f"--workdir={tmp_path / 'all'}", flag)
        assert done.code
        assert "per_task is set in a config file" in done.err[-1]


def test_the_page_of_fields_shows_them(file):
    done = invoke("--mode=config", f"--config={file}")
    assert "per_task.libsvm/wine.trials" in "\n".join(done.out)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"cifar10/": {"seeds": 1}}, "no task's name starts with 'cifar10/'"),
        ({"libsvm/": {"seed": 1}}, "did you mean 'seeds'"),
        ({"libsvm/": {"precision": "float64"}}, "unknown config.per_task"),
        ({"libsvm/": {"seeds": 0}}, "at least one seed"),
        ({"libsvm/": {"methods": ("adm",)}}, "unknown method 'adm'"),
        ({"libsvm/": {"batch_size": "many"}}, "must be a whole number"),
        ({3: {}}, "must be the start of a name"),
        ({"libsvm/": 3}, "give fields and their values"),
    ],
)
def test_mistakes_are_named(value, message):
    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), ("adam",)
    config.per_task = value
    with pytest.raises(UsageError, match=message) as error:
        config_lib.check(config_lib.yielding(config, ["epochs"]))
    assert "\n" not in str(error.value)


def test_a_task_has_one_length():
    config = config_lib.base()
    config.tasks, config.methods = ("libsvm/iris",), ("adam",)
    config.per_task = {"libsvm/": {"epochs": 3, "steps": 9}}
    with pytest.raises(UsageError, match=r"libsvm/.*give epochs or steps, not both"):
        config_lib.check(config)


@pytest.mark.parametrize(
    ("key", "way"),
    [
        ("svmlight:", "config.per_task = {{KEY: {own}}}"),
        ("svmlight:{folder}/a.v1.svm", "config.per_task[KEY] = {own}"),
    ],
)
def test_names_of_files_have_dots(tmp_path, key, way):
    for name in ("a.v1.svm", "a.v2.svm"):
        lines = [f"{row % 2} 1:{row} 2:{row * row % 7}" for row in range(40)]
        (tmp_path / name).write_text("\n".join(lines))
    own = way.format(own={"seeds": 1, "steps": 3})
    text = FILE.split("    config.per_task")[0].replace(
        "libsvm/", f"svmlight:{tmp_path}/a."
    )
    text = text.replace("a.iris", "a.v1.svm").replace("a.wine", "a.v2.svm")
    key = key.format(folder=tmp_path)
    file = tmp_path / "config.py"
    file.write_text(text + f"    {own.replace('KEY', repr(key))}\n    return config\n")
    done = invoke(f"--config={file}", f"--workdir={tmp_path / 'all'}")
    assert not done.code, done.err
    others = (3, 1) if key == "svmlight:" else (8, 3)
    found = counts(rows(tmp_path / "all"), "task", "method", "steps")
    for name, (steps, seeds) in {"a.v1.svm": (3, 1), "a.v2.svm": others}.items():
        task = f"svmlight:{tmp_path}/{name}"
        assert found[task, "adam", steps] == found[task, "prodigy", steps] == seeds
    alone = f"--config.tasks=svmlight:{tmp_path}/a.v2.svm"
    assert not invoke(f"--config={file}", f"--workdir={tmp_path / 'one'}", alone).code
