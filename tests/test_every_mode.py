"""Every mode on every family of task, in miniature.

Families come from the registry of tasks and modes from main.py's flag: a new one has no
miniature here, which fails, until there is one. CI runs those that compile soon.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from program import invoke
from tasks.test_image_data import write_idx
from tasks.test_task_images import archive

from lrjax import metrics, tasks
from lrjax.core import Task
from lrjax.hpo import ladders
from lrjax.tasks import text

ROOT = Path(__file__).parent.parent


# Families of tasks: the first part of their names, files, made-up tasks, a user's own


def svmlight(folder):
    """A file of a user's own: three classes, two features."""
    path = folder / "mine.svm"
    rows = [f"{i % 3} 1:{i % 3 + 0.1 * (i % 7):.2f} 2:{i % 5}\n" for i in range(60)]
    path.write_text("".join(rows))
    return path


def table(folder):
    """A table of a user's own: a number, a category and prices."""
    path = folder / "mine.csv"
    rows = [f"{0.1 * (i % 7):.1f},{'ab'[i % 2]},{i % 5 + i % 7}.5\n" for i in range(60)]
    path.write_text("size,kind,price\n" + "".join(rows))
    return path


def idx_files(name):
    def files(folder):
        write_idx(folder / name, rows=60)
        return folder

    return files


def archives(name, rows, size, classes):
    def files(folder):
        archive(folder, name, rows, size, classes=classes)
        return folder

    return files


def text_file(folder):
    path = folder / "book.txt"
    lines = [
        f"chapter {i} has the words of {i % 7} and {i % 11}\n\n" for i in range(80)
    ]
    path.write_text("".join(lines))
    return path


def labelled_texts(folder):
    """A file of texts in two classes."""
    path = folder / "texts.csv"
    rows = [f"{'open' if i % 3 else 'close'} file {i},{i % 3 > 0}\n" for i in range(40)]
    path.write_text("body,kind\n" + "".join(rows))
    return path


def own(options):
    """A user's own regression in Python, with a convolution over its four features."""
    x = jax.random.normal(jax.random.key(0), (40, 4))
    rows = {"x": x, "y": x.sum(1)}

    def predict(params, x):
        kernel = jnp.ones((2, 1, 1))
        smooth = jax.lax.conv_general_dilated(
            x[..., None], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        return smooth[..., 0] @ params

    def evaluate(params, state, batch):
        wrong, mask = predict(params, batch["x"]) - batch["y"], batch["mask"]
        return {
            "loss": jnp.sum(wrong**2 * mask),
            "absolute_error": jnp.abs(wrong) @ mask,
            "count": mask.sum(),
        }

    def loss(params, state, key, batch):
        sums = evaluate(params, state, batch)
        return sums["loss"] / sums["count"], (state, {})

    def init(key):
        return 0.1 * jax.random.normal(key, (4,)), ()

    functions = init, loss, evaluate
    return Task("own/smooth", rows, rows, rows, *functions, 8, metrics=metrics.mae())


class Miniature(NamedTuple):
    """A task of a family, cut down; `{path}` is what `files(folder)` returns."""

    task: str
    metric: str = "accuracy"
    flags: Sequence[str] = ()
    files: Callable[[Path], Path] | None = None


MINIATURES = {
    "svmlight:": Miniature("svmlight:{path}", files=svmlight),
    "table:": Miniature("table:{path}?target=price&hidden=4", "rmse", files=table),
    "synthetic/": Miniature("synthetic/regression-3", "loss"),
    "own": Miniature("own/smooth", "mae"),
    "synthetic": Miniature("synthetic/ill_conditioned", "loss"),
    "breast_cancer": Miniature("breast_cancer/mlp_bn"),
    "diabetes": Miniature("diabetes/mlp", "rmse"),
    "iris": Miniature("iris/mlp"),
    "wine": Miniature("wine/mlp"),
    "libsvm": Miniature("libsvm/wine"),
    "digits": Miniature("digits/logistic"),
    "mnist": Miniature(
        "mnist/cnn",
        flags=["--config.batch_size=8"],
        files=idx_files("mnist"),
    ),
    "fashion_mnist": Miniature("fashion_mnist/cnn", files=idx_files("fashion_mnist")),
    "cifar10": Miniature("cifar10/wrn16_2", files=archives("cifar10", 40, 32, 10)),
    "cifar100": Miniature(
        "cifar100/densenet_bc", files=archives("cifar100", 200, 32, 100)
    ),
    "dtd": Miniature(
        "dtd/vit_ti16",
        flags=["--config.batch_size=4"],
        files=archives("dtd", 94, 224, 47),
    ),
    "bookwiki": Miniature(
        "bookwiki/roberta_micro",
        "perplexity",
        [
            *("--config.text.length=32", "--config.batch_size=4"),
            "--config.text.corpus={path}",
        ],
        text_file,
    ),
    "text": Miniature(
        "text/gpt_micro",
        "perplexity",
        [
            *("--config.text.length=16", "--config.batch_size=4"),
            "--config.text.corpus={path}",
        ],
        text_file,
    ),
    "finetune": Miniature(
        "finetune/roberta_tiny",
        flags=["--config.text.length=4", "--config.batch_size=4"],
    ),
    "finetune:": Miniature(
        "finetune:{path}?text=body&target=kind",
        flags=["--config.batch_size=4"],
        files=labelled_texts,
    ),
}
# Other kinds of model in a family.
MINIATURES |= {
    name: Miniature(name) for name in ("digits/mlp_bn", "digits/lstm", "digits/vit")
}
MINIATURES["digits/diffusion"] = Miniature("digits/diffusion", "loss")
FAMILIES = [
    *sorted({name.split("/")[0] for name in tasks.TASKS}),
    *sorted(name for name in MINIATURES if name in tasks.TASKS),
    *("svmlight:", "table:", "finetune:", "synthetic/", "own"),
]


# Modes: flags, and what is asked for beside exit code 0


METHODS = ("adamw_cosine", "schedule_free_adamw")


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_runs(folder, metric):
    rows = read_lines(folder / "runs.jsonl")
    done = [row for row in rows if row["status"] == "done"]
    assert done
    for row in done:
        assert math.isfinite(row[f"valid_{metric}"]), row
        assert math.isfinite(row[f"test_{metric}"]), row
    return rows


def check_train(folder, answer, metric):
    rows = check_runs(folder, metric)
    assert {(row["method"], row["seed"]) for row in rows} == {
        (method, seed) for method in METHODS for seed in (0, 1)
    }
    assert all(any(method in line for line in answer.out) for method in METHODS)
    assert any(metric in line for line in answer.out)


def check_tune(folder, answer, metric):
    assert "random:adam" in {row["method"] for row in check_runs(folder, metric)}
    trials = read_lines(folder / "trials.jsonl")
    assert any(math.isfinite(trial["cost"]) for trial in trials)


def check_select(folder, answer, metric):
    check_runs(folder, metric)
    (found,) = json.loads((folder / "selection.json").read_text())
    assert found["method"] in METHODS
    assert found["metric"] == metric
    assert math.isfinite(found["score"])
    trained = [each for each in found["judged"] if each["values"]]
    assert {each["label"].split(" ")[0] for each in trained} == set(METHODS)
    assert found["how"] == "race"
    assert found["cost"] == sum(len(each["values"]) for each in trained) == 4
    rows = read_lines(folder / "races.jsonl")
    assert any(math.isfinite(row[f"valid_{metric}"]) for row in rows)
    assert any(found["method"] in line for line in answer.out)


def check_advise(folder, answer, metric):
    (found,) = json.loads((folder / "advice.json").read_text())
    assert {each["method"] for each in found["recipes"]} <= set(METHODS)
    assert len(found["recipes"]) == 3
    assert found["metric"] == metric
    assert found["cost"] <= 1
    rows = check_runs(folder, metric)
    assert {row["steps"] for row in rows} == {found["updates"]}
    assert len(rows) == sum(len(each["rates"]) for each in found["ladders"]) == 10
    assert any(found["recipes"][0]["label"] in line for line in answer.out)


def check_plan(folder, answer, metric):
    assert any("run" in line for line in answer.out)
    assert not folder.exists()


def check_report(folder, answer, metric):
    page = (folder / "report" / "index.html").read_text()
    assert page.rstrip().endswith("</html>")
    assert metric in page


# In this order: what was trained is reported in the end. `methods` needs no task.
MODES = {
    "train": (check_train, [f"--config.methods={','.join(METHODS)}"]),
    "plan": (check_plan, [f"--config.methods={','.join(METHODS)}"]),
    "tune": (
        check_tune,
        [
            *("--config.methods=adam", "--config.seeds=1", "--config.tune.trials=3"),
            *("--config.tune.tuner=random", "--config.tune.unit=steps"),
            *("--config.tune.min_budget=2", "--config.tune.max_budget=6"),
        ],
    ),
    "select": (
        check_select,
        [f"--config.methods={','.join(METHODS)}", "--config.select.budget=4"],
    ),
    "advise": (
        check_advise,
        [
            *(f"--config.methods={','.join(METHODS)}", "--config.steps=50"),
            "--config.advise.spend=1",
        ],
    ),
    "report": (check_report, []),
}


def test_every_mode_is_here():
    others = {"compact", "methods", "config", "race", "watch"}  # no task is trained
    assert {*MODES, *others} == set(flags.FLAGS["mode"].parser.enum_values)


def flags_of(miniature, folder):
    path = miniature.files(folder) if miniature.files else folder
    asked = [
        f"--config={ROOT}/configs/libsvm.py",
        *(f"--config.tasks={miniature.task}", f"--data_dir={path}"),
        *("--config.seeds=2", "--config.steps=6", "--config.eval_every=3"),
        *miniature.flags,
    ]
    return [flag.format(path=path) for flag in asked]


@pytest.mark.slow  # .ci/run runs those that compile soon
@pytest.mark.parametrize("family", FAMILIES)
def test_every_mode_on(family, tmp_path, monkeypatch, subtests):
    monkeypatch.setenv("LRJAX_DATA_DIR", "")
    monkeypatch.setitem(tasks.TASKS, "own/smooth", tasks.Factory(own))
    # All that counts here, and quick to compile.
    micro, tiny = "bookwiki/roberta_micro", text.RECIPES["bookwiki/roberta_tiny"]
    small = {"hidden_size": 16, "num_layers": 1, "intermediate_size": 32}
    monkeypatch.setitem(text.RECIPES, micro, dataclasses.replace(tiny, **small))
    factory = tasks.Factory(functools.partial(text.make, micro), network=True)
    monkeypatch.setitem(tasks.TASKS, micro, factory)
    monkeypatch.setattr(ladders, "LEAST", 1)
    miniature, data = MINIATURES[family], tmp_path / "data"
    data.mkdir()
    asked = flags_of(miniature, data)
    for mode, (check, more) in MODES.items():
        trained = mode != "report"
        folders = [mode] if trained else ["train", "tune", "select", "advise"]
        for name in folders:
            with subtests.test(mode=mode, folder=name):
                folder = tmp_path / name
                of_task = [*asked, *more] if trained else []
                answer = invoke(f"--mode={mode}", f"--workdir={folder}", *of_task)
                assert answer.code == 0, answer.err
                check(folder, answer, miniature.metric)
