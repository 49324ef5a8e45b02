"""Parts of one's own, by import path, entry point and decorator, in every mode."""

import functools
import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import program
import pytest

import lrjax
from lrjax import arguments, config, launch, methods, own, plugins, tasks, track
from lrjax.core import METRICS, Metric, UsageError, find_metric
from lrjax.hpo import tuners
from lrjax.reports import analyses
from lrjax.tasks.options import TaskOptions

ROOT = Path(__file__).parent.parent
MODULE = """
import jax, jax.numpy as jnp, numpy as np, optax
import lrjax
from lrjax.hpo import tuners
from lrjax.launch.local import launch as local

def parabola(horizon, learning_rate=0.1, scale=1.0):
    return optax.sgd(lambda step: scale * learning_rate * (1 - step / horizon) ** 2)

@lrjax.register_method("own_scaled", space={"scale": (0.1, 10.0)}, advice="Tune it.")
def scaled(scale=1.0):
    return optax.sgd(scale)

def task(options):
    rows = jnp.asarray(np.random.RandomState(0).randn(24, 3), jnp.float32)
    def evaluate(params, state, batch):
        errors = ((batch["x"] - params) ** 2).sum(1)
        return {"loss": errors @ batch["mask"], "count": batch["mask"].sum()}
    def loss(params, state, key, batch):
        sums = evaluate(params, state, batch)
        return sums["loss"] / sums["count"], (state, {})
    parts = {"x": rows[:16]}, {"x": rows[16:20]}, {"x": rows[20:]}
    return lrjax.Task("own", *parts, lambda key: (jax.random.normal(key, (3,)), ()),
                      loss, evaluate, batch_size=8)

class Tuner(tuners.Random):
    pass

def make_tuner(problem):
    return tuners.Random(problem)

def analysis(study, writer):
    return None

class Tracker:
    def __init__(self, workdir):
        self.path, self.ended = workdir / "kept", []
    def log(self, run, rows):
        assert rows
    def end(self, run, result):
        self.ended.append(run["run_id"])
    def close(self):
        self.path.write_text(" ".join(self.ended))

metric = lrjax.Metric("hits", lambda sums: sums["count"], True)
number = 5
def broken():
    raise OSError("no such\\nserver")
"""
KINDS = {
    "method": (methods.METHODS, methods.find, "parabola"),
    "task": (tasks.TASKS, tasks.make_task, "task"),
    "metric": (METRICS, find_metric, "metric"),
    "tuner": (tuners.PLAIN, tuners.find, "Tuner"),
    "launcher": (launch.LAUNCHERS, launch.find, "local"),
    "tracker": (track.TRACKERS, track.find, "Tracker"),
}


@pytest.fixture
def module(tmp_path, monkeypatch, registries):
    """A module below the current directory; what it registers is forgotten."""
    package = f"own_parts_{tmp_path.name.replace('-', '_')}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "parts.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield f"{package}.parts"
    sys.modules.pop(f"{package}.parts", None)


def test_every_kind_has_a_group():
    assert set(KINDS) | {"analysis"} == set(plugins.GROUPS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_found_by_its_import_path(module, kind):
    registry, find, name = KINDS[kind]
    assert find(f"{module}:{name}")
    assert f"{module}:{name}" in registry


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere_to_be_found:x", "cannot be imported: ModuleNotFoundError"),
        ("MODULE:x", "cannot be imported: AttributeError"),
        ("MODULE:number", "5"),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_line(module, kind, name, words):
    name = name.replace("MODULE", module)
    with pytest.raises(UsageError, match=words) as refused:
        KINDS[kind][1](name)
    assert "\n" not in str(refused.value)
    assert name in str(refused.value)


def test_a_task_that_fails_is_said_in_one_line(module):
    with pytest.raises(UsageError, match="cannot be made: OSError: no such") as refused:
        tasks.make_task(f"{module}:broken")
    assert "\n" not in str(refused.value)


@pytest.fixture
def package(module, tmp_path, monkeypatch):
    """An installed package that offers a part of every kind."""
    folder = tmp_path / "own_parts-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own-parts\n")
    names = {kind: name for kind, (*_, name) in KINDS.items()} | {
        "analysis": "analysis"
    }
    (folder / "entry_points.txt").write_text(
        "".join(
            f"[{plugins.GROUPS[kind]}]\nfrom-package = {module}:{name}\n"
            for kind, name in names.items()
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    plugins.offered.cache_clear()
    assert importlib.metadata.entry_points(group="lrjax.methods")
    yield
    plugins.offered.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_found_by_an_entry_point(package, kind):
    assert KINDS[kind][1]("from-package")


def test_an_analysis_is_found_by_an_entry_point(package):
    assert len(analyses.find_all()) == len(analyses.ANALYSES) + 1


def test_misspelt_names_are_guessed_among_those_of_packages(package):
    with pytest.raises(UsageError, match="did you mean 'from-package'"):
        methods.find("from-pakage")


def test_decorators_register_and_replace_ones_own_but_not_shipped_parts(module):
    @lrjax.register_method("own_sgd", space={"learning_rate": (1e-3, 1.0)})
    def first(learning_rate=0.1):
        raise NotImplementedError

    @lrjax.register_method("own_sgd")
    def second(horizon, learning_rate=0.2):
        raise NotImplementedError

    assert methods.find("own_sgd").defaults == {"learning_rate": 0.2}
    lrjax.register_metric(Metric("own_hits", lambda sums: sums["count"], True))
    assert find_metric("own_hits").name == "own_hits"
    lrjax.register_tuner("own_tuner")(tuners.Random)
    assert tuners.find("own_tuner") is tuners.Random
    for register in (
        lambda: lrjax.register_method("adam")(first),
        lambda: lrjax.register_task("digits/wrn")(first),
        lambda: lrjax.register_metric(Metric("loss", lambda sums: 0, True)),
        lambda: lrjax.register_tuner("smac")(first),
        lambda: lrjax.register_launcher("dask")(first),
    ):
        with pytest.raises(UsageError, match="lrjax's own"):
            register()


def test_a_method_defined_anew_has_the_hyperparameters_of_its_new_form(registries):
    for default in ({"momentum": 0.9}, {"b1": 0.9}, {}):

        def own(learning_rate=0.1, **kept):
            raise NotImplementedError

        named = inspect.signature(own).parameters["learning_rate"]
        more = [named.replace(name=k, default=v) for k, v in default.items()]
        own.__signature__ = inspect.Signature([named, *more])
        lrjax.register_method("own_anew")(own)
        made = config.base()
        assert set(made.hparams.own_anew) == {"learning_rate", *default}
        config.check_names(made)


@pytest.mark.parametrize(
    "flags",
    [
        ("--launcher=dask", "--config.cluster.workers=1"),
        (
            *("--mode=tune", "--config.tune.tuner=MODULE:make_tuner"),
            *("--config.tune.trials=3", "--config.tune.space.scale=(0.1,1.0)"),
        ),
        ("--mode=config",),
        *(
            pytest.param(flags, marks=pytest.mark.slow)
            for flags in (
                ("--launcher=MODULE:local", "--config.grid.scale=1.0,2.0"),
                ("--log=MODULE:Tracker",),
                ("--mode=plan",),
                ("--mode=select", "--config.select.budget=2"),
            )
        ),
    ],
)
def test_main_takes_import_paths_in_every_mode(module, tmp_path, flags):
    path = f"{module}:task"
    command = [
        *(
            sys.executable,
            ROOT / "main.py",
            f"--config={ROOT / 'configs' / 'libsvm.py'}",
        ),
        *(f"--config.tasks={path}", f"--config.methods={module}:parabola,sgd"),
        *("--workdir=run", "--config.seeds=2", "--config.epochs=4"),
        f"--config.hparams.{module}:parabola.learning_rate=0.25",
        *(flag.replace("MODULE", module) for flag in flags),
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    if {"--mode=plan", "--mode=config"} & {*flags}:
        assert ("0.25" in done.stdout) == ("--mode=config" in flags)
        return
    lines = Path("run/runs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["task"] for row in rows} == {path}
    own = [row["hparams"] for row in rows if row["method"].endswith(":parabola")]
    assert {values["learning_rate"] for values in own} == {0.25}
    if "--log=MODULE:Tracker" in flags:
        kept = Path("run/kept").read_text().split()
        assert sorted(kept) == sorted(row["run_id"] for row in rows)
    if "--config.grid.scale=1.0,2.0" in flags:
        assert {values["scale"] for values in own} == {1.0, 2.0}


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("a.b:own", "--config.hparams['a.b:own'].scale"),
        ("from-package", "--config.hparams['from-package'].scale"),
        ("adam", "--config.hparams.adam.scale"),
        ("['a.b:own']", "--config.hparams.['a.b:own'].scale"),
    ],
)
def test_names_of_methods_are_quoted_for_flags(name, quoted):
    for end in ("", "=1.0"):
        given = f"--config.hparams.{name}.scale{end}"
        assert arguments.rewritten(["lrjax", given], []) == ["lrjax", f"{quoted}{end}"]


def test_hyperparameters_are_set_and_guessed_by_import_path(module):
    name = f"{module}:scaled"
    train = functools.partial(lrjax.compare, "libsvm/iris", [name], seeds=1, steps=2)
    assert set(train(hparams={name: {"scale": 2.0}}).runs["scale"]) == {2.0}
    for hparams, words in (
        ({name: {"scael": 2.0}}, rf"did you mean 'hparams.{name}.scale'"),
        ({"scaled": {"scale": 2.0}}, "did you mean 'hparams.own_scaled.scale'"),
        ({name: 2.0}, "must be a dictionary with some of scale"),
    ):
        with pytest.raises(UsageError, match=words):
            train(hparams=hparams)


def test_a_decorated_method_keeps_its_space_under_any_name(module):
    found = methods.find(f"{module}:scaled")
    assert found.name == f"{module}:scaled"
    assert found.advice == "Tune it."
    assert set(found.space.ranges) == {"scale"}
    function = sys.modules[module].scaled
    assert own.methods_of([function]) == [methods.METHODS["own_scaled"]]

    @functools.wraps(function)
    def other(rate=1.0):
        raise NotImplementedError

    del other.__wrapped__  # else its signature is that of the first
    assert own.methods_of([other])[0].defaults == {"rate": 1.0}


BROKEN = """
import math
import optax, lrjax
def misspelt(learning_rate=0.1): return optax.sdg(learning_rate)
def several(learning_rate=0.1): return optax.sgd(learning_rate), None
def nothing(learning_rate=0.1): optax.sgd(learning_rate)
def branches(learning_rate=0.1): return optax.sgd(0.1 if learning_rate else 1.0)
def computes(horizon, learning_rate=0.1): return optax.sgd(lambda k: math.sqrt(k))
def bare(learning_rate=0.1, /): return optax.sgd(learning_rate)
def sums(learning_rate=0.1):
    def update(grads, state, params=None):
        return {k: g.sum() for k, g in grads.items()}, state
    return optax.GradientTransformation(lambda params: (), update)
"""


WORDS = {
    "misspelt": "no attribute 'sdg' (MODULE.py, line 4)",
    "several": "which is not a transformation of Optax",
    "nothing": "returns None, which is not a transformation",
    "branches": "(MODULE.py, line 7); numbers are traced",
    "computes": "(MODULE.py, line 8); numbers are traced",
    "bare": "positional-only",
    "sums": "its updates are {'a': (), 'b': ()}",
}


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        *(("train", name) for name in WORDS),
        *((mode, "misspelt") for mode in ("tune", "select", "plan")),
        *((mode, "nothing") for mode in ("tune", "select", "plan")),
    ],
)
def test_a_broken_method_is_said_in_one_line(mode, name, tmp_path, monkeypatch):
    module = f"broken_{name}_{mode}"
    (tmp_path / f"{module}.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    flags = ["--config=libsvm:iris", "--config.epochs=1", "--config.seeds=1"]
    flags += [f"--workdir={tmp_path / 'runs'}", f"--config.methods={module}:{name}"]
    if mode == "tune":
        flags += ["--config.tune.space.learning_rate=(0.1,1.0)"]
    with mock.patch.dict(methods.METHODS):
        answer = program.invoke(mode, *flags)
    assert answer.code == 2
    said = answer.err[-1]
    assert f"error: method '{module}:{name}'" in said
    assert WORDS[name].replace("MODULE", module) in said


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("own_parts.py:parabola", "own_parts:parabola"),
        ("./parts/own.py", "parts.own:NAME"),
    ],
)
def test_a_file_in_place_of_a_module_is_named(name, hint):
    with pytest.raises(UsageError, match=f"without .py: {hint}"):
        methods.find(name)


FINDERS = {
    "method": (methods.find, "adam"),
    "task": (lambda name: tasks.make_task(name, TaskOptions()), "libsvm/iris"),
    "metric": (find_metric, "accuracy"),
    "tuner": (tuners.find, "random"),
    "tracker": (track.find, "mlflow"),
    "launcher": (launch.find, "local"),
}


@pytest.mark.parametrize("kind", FINDERS)
def test_a_path_is_imported_whatever_name_is_near(kind):
    """And what is wrong with it is said, in place of another name."""
    find, near = FINDERS[kind]
    last = near.rpartition("/")[2]
    for name in (f"nowhere:{last}", f"nowhere:{last}_own", f"{last}_own:x"):
        with pytest.raises(UsageError, match="cannot be imported: ModuleNotFoundErr"):
            find(name)
    with pytest.raises(UsageError, match="cannot be imported: AttributeError"):
        find(f"__main__:{last}_own")  # a script, which has no spec


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("task", "libsvm:iris", "libsvm/iris"),
        ("task", "lbsvm:iris", "libsvm/iris"),
        ("method", "adamw:cosine", "adamw_cosine"),
    ],
)
def test_a_slip_that_looks_like_a_path_gets_the_name(kind, name, meant):
    with pytest.raises(UsageError, match=f"did you mean '{meant}'"):
        FINDERS[kind][0](name)


def test_a_part_of_a_script_is_found_beside_others(monkeypatch):
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)  # as that of a script
    monkeypatch.setattr(main, "own_part", 3, raising=False)
    known = {"__main__:own_parts": 2}
    found = plugins.find("method", "__main__:own_part", known, lambda _, part: part)
    assert found == known["__main__:own_part"] == 3


def test_a_misspelt_part_of_a_module_is_named(module):
    with pytest.raises(UsageError, match="did you mean 'parabola'"):
        methods.find(f"{module}:parabole")


def test_a_module_that_ends_the_program_does_not(tmp_path, monkeypatch):
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="SystemExit: 3"):
        methods.find("leaves:own")


@pytest.mark.parametrize("kind", ["method", "task", "tuner", "launcher"])
def test_a_decorator_without_brackets_is_refused(kind):
    def own(learning_rate=0.1): ...

    with pytest.raises(UsageError, match=f'write @lrjax.register_{kind}\\("own"\\)'):
        getattr(lrjax, f"register_{kind}")(own)
