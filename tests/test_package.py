"""An installed lrjax: what it has, and what it says where a package is missing."""

import functools
import os
import pkgutil
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import lrjax
from lrjax.extras import EXTRAS, missing

ROOT = Path(__file__).parent.parent
MODULES = sorted(each.name for each in pkgutil.walk_packages(lrjax.__path__, "lrjax."))
# What is installed with `pip install lrjax` has no packages of the extras but those
# that JAX and Optax bring.
BROUGHT = {"absl", "scipy"}
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder
HIDDEN = {sorted(set().union(*EXTRAS.values()) - BROUGHT)!r}
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in HIDDEN:
            return None
        return PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [
    Finder if f is PathFinder else f for f in sys.meta_path
    if "editable" not in repr(f)
]
"""
# These work with JAX, Optax and NumPy.
CORE = (
    *("lrjax", "lrjax.optim", "lrjax.optim.schedules", "lrjax.race", "lrjax.methods"),
    *("lrjax.core", "lrjax.metrics", "lrjax.messages", "lrjax.register"),
)


def python(code, **environment):
    """Run code in a new process without the packages of the extras."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


def test_a_missing_package_is_named_with_its_extra():
    error = missing("pandas", "lrjax.tables.reader")
    assert isinstance(error, ImportError)
    assert isinstance(error, lrjax.UsageError)
    assert str(error) == (
        "lrjax.tables.reader needs pandas, which is not installed: "
        'pip install "lrjax[report]"'
    )
    assert 'pip install "lrjax[tasks]"' in str(missing("pandas", "lrjax.tasks.table"))


def test_every_module_is_imported_or_says_what_to_install():
    done = python(
        f"""
import importlib
import lrjax
for name in {MODULES!r}:
    if name == "lrjax.__main__":
        continue
    try:
        importlib.import_module(name)
    except lrjax.UsageError as error:
        print(name, "|", error)
    else:
        print(name, "| ")
"""
    )
    assert done.returncode == 0, done.stderr
    said = dict(
        line.split(" | ") if " | " in line else (line[:-2], "")
        for line in done.stdout.splitlines()
    )
    assert set(said) == set(MODULES) - {"lrjax.__main__"}
    assert not {name for name in CORE if said.get(name)}
    # The matrix would be empty if nothing were hidden.
    refused = {name: words for name, words in said.items() if words}
    assert {"lrjax.tasks", "lrjax.api", "lrjax.reports", "lrjax.launch"} & set(refused)
    for words in refused.values():
        assert words.count("pip install") == 1
        assert any(f'"lrjax[{extra}]"' in words for extra in EXTRAS)


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("compare", "tasks"),
        ("select", "tasks"),
        ("report", "tasks"),
        ("tasks", "tasks"),
    ],
)
def test_public_names_say_what_to_install(name, extra):
    done = python(f"import lrjax\ntry: lrjax.{name}\nexcept ImportError as e: print(e)")
    assert f'pip install "lrjax[{extra}]"' in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("mode", ["methods", "train", "report", "--help"])
def test_the_command_says_what_to_install(mode):
    done = python(
        f"sys.argv = ['lrjax', {mode!r}]\nfrom lrjax.__main__ import start\nstart()"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith('pip install "lrjax[tasks]"')


def test_names_are_completed_and_suggested():
    assert {"Race", "compare", "optim", "select", "tune"} <= set(dir(lrjax))
    with pytest.raises(AttributeError, match="'tuen'; did you mean 'tune'"):
        lrjax.tuen  # noqa: B018
    assert not hasattr(lrjax, "__path_of_nothing__")


def test_the_version_is_printed_without_any_package():
    done = python(
        "sys.argv = ['lrjax', '--version']\nfrom lrjax.__main__ import start\nstart()"
    )
    assert done.stdout == f"lrjax {lrjax.__version__}\n", done.stderr


def test_others_see_pythons_own_words():
    done = python("import lrjax\ntry: import smac\nexcept ImportError as e: print(e)")
    assert done.stdout == "No module named 'smac'\n"
    done = python(
        "import lrjax, importlib.util\nprint(importlib.util.find_spec('smac'))"
    )
    assert done.stdout == "None\n"


def test_optimisers_and_the_race_need_no_extra(tmp_path):
    done = python(
        f"""
import jax, jax.numpy as jnp, optax, lrjax
tx = lrjax.optim.prodigy()
state = tx.init(jnp.ones(3))
updates, state = tx.update(jnp.ones(3), state, jnp.ones(3))
print(bool(jnp.isfinite(updates).all()))
race = lrjax.Race(["adam", "prodigy"], budget=2, horizon=10, folder={str(tmp_path)!r})
for job in race:
    job.tell(loss=1.0)
print(race.answer())
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True\n")
    assert "adam" in done.stdout


# Packages of extras that `tasks` does not ask for, as their distributions begin.
LATER = ("configspace", "dask", "distributed", "gymnasium", "hugging", "importlib_res")
LATER += ("mlflow", "rliable", "smac", "tensorboard", "tensorflow", "tokenizers")
LATER += ("transformers", "wandb")
PIP = ("pip", "--quiet", "--disable-pip-version-check")


def alone(*words, cwd=None):
    """Run a program that does not look into this checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True
    )


def build(folder):
    """Build the wheel, of a copy; skip where its build tools cannot be fetched."""
    source = folder / "source"
    for name in ("lrjax", "configs"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    done = alone(sys.executable, "-m", *PIP, "wheel", "--no-deps", "-w", folder, source)
    if done.returncode and "setuptools" in done.stderr:
        pytest.skip("setuptools cannot be fetched to build the wheel")
    assert done.returncode == 0, done.stderr
    (wheel,) = Path(folder).glob("lrjax-*.whl")
    return wheel


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(tmp_path):
    """First with the core alone, then beside the packages that are here."""
    wheel = build(tmp_path / "wheels")
    venv.create(tmp_path / "empty", with_pip=True)
    bin = tmp_path / "empty" / "bin"
    run = functools.partial(alone, cwd=tmp_path)
    done = run(bin / "python", "-m", *PIP, "install", wheel)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("JAX cannot be fetched")
    assert done.returncode == 0, done.stderr

    code = "import lrjax.optim, sys; print(lrjax.__file__, 'pandas' in sys.modules)"
    done = run(bin / "python", "-c", code)
    assert str(tmp_path) in done.stdout
    assert "False" in done.stdout
    done = run(bin / "lrjax", "methods")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'pip install "lrjax[tasks]"' in done.stderr

    # The packages of this environment that `lrjax[tasks]` asks for, without a download.
    (here,) = {p for p in sys.path if p.endswith("site-packages")}
    (site,) = (tmp_path / "empty").glob("lib/*/site-packages")
    others = tmp_path / "others"
    others.mkdir()
    for path in Path(here).iterdir():
        if not path.name.lower().startswith(("__editable__", "easy-", "lrjax", *LATER)):
            (others / path.name).symlink_to(path)
    (site / "others.pth").write_text(f"{others}\n")
    for program in ([bin / "lrjax"], [bin / "python", "-m", "lrjax"]):
        done = run(*program, "methods")
        assert done.returncode == 0, done.stderr
        assert "prodigy" in done.stdout
    done = run(
        *(bin / "lrjax", "train", "--config=libsvm:iris", "--workdir=runs"),
        *("--config.epochs=2", "--config.seeds=2", "--config.methods=adam"),
    )
    assert done.returncode == 0, done.stderr
    assert "libsvm/iris" in done.stdout
    found = "import lrjax; print(lrjax.select('libsvm/iris', ['adam'], budget=2))"
    done = run(bin / "python", "-c", found)
    assert done.returncode == 0, done.stderr
    done = run(bin / "lrjax", "tune", "--config=libsvm:iris", "--workdir=tuned")
    assert done.returncode == 2, done.stderr
    assert 'pip install "lrjax[tune]"' in done.stderr.splitlines()[-1]
    done = run(bin / "lrjax", "report", "--workdir=runs")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/report/index.html").exists()
    shipped = {path.name for path in (site / "lrjax/configs").glob("*.py")}
    assert shipped == {path.name for path in (ROOT / "configs").glob("*.py")}
    for data in (ROOT / "lrjax").rglob("*.*"):
        if data.suffix in (".npz", ".json", ".safetensors", ".typed"):
            assert (site / "lrjax" / data.relative_to(ROOT / "lrjax")).exists(), data
