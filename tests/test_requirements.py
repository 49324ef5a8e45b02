"""What pyproject.toml asks for, requirements files pin and lrjax explains agree."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import lrjax
from lrjax.core import NUMERICS_VERSION
from lrjax.extras import EXTRAS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]
# What a machine that trains has, and what the tests of the other parts need.
SHIPPED = ("tasks", "report", "tune", "text", "tfds")
OTHERS = ("control", "track", "dev")


def read(name):
    lines = (ROOT / name).read_text().splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    found = [Requirement(line) for line in lines if line and not line.startswith("-r")]
    return {each.name.lower(): each for each in found}


def pin(requirement):
    (only,) = requirement.specifier
    assert only.operator == "=="
    return only.version


def asked(*extras):
    """Requirements of extras by name, without those on other extras of lrjax."""
    found = [Requirement(each) for extra in extras for each in OPTIONAL[extra]]
    return {each.name.lower(): each for each in found if each.name != "lrjax"}


CORE = {r.name.lower(): r for r in map(Requirement, PROJECT["dependencies"])}
ASKED = CORE | asked(*SHIPPED)
PINNED = read("requirements-cpu.txt")
DEV = read("requirements-dev.txt")


def test_the_core_is_small():
    assert set(CORE) == {"jax", "numpy", "optax"}


def test_both_name_the_same_packages():
    # For --config.report.export=tensorboard; it was always there.
    assert set(ASKED) | {"tensorboardx"} == set(PINNED)
    assert set(asked(*OTHERS)) == set(DEV) | {"tensorboardx"}
    assert set(asked("docs")) == set(read("requirements-docs.txt"))


@pytest.mark.parametrize("name", ASKED)
def test_pins_are_in_range(name):
    assert pin(PINNED[name]) in ASKED[name].specifier


def test_the_oldest_core_is_the_one_that_is_tested():
    oldest = read("requirements-oldest.txt")
    for name, requirement in CORE.items():
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        assert pin(oldest[name]).startswith(bound.version)


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-tpu.txt"])
def test_accelerators_have_the_same_jax(file):
    assert pin(read(file)["jax"]) == pin(PINNED["jax"])


def test_all_has_every_extra_of_lrjaxs_parts():
    (everything,) = map(Requirement, OPTIONAL["all"])
    assert everything.extras == set(EXTRAS)


# distributions whose packages have other names
IMPORTED = {
    "absl-py": {"absl"},
    "mlflow-skinny": {"mlflow"},
    "orbax-checkpoint": {"orbax"},
    "pillow": {"PIL"},
    "scikit-learn": {"sklearn"},
    "smac": {"ConfigSpace", "smac"},  # these come together
    "dask-jobqueue": {"dask", "dask_jobqueue"},
    "transformers": {"huggingface_hub", "tokenizers", "transformers"},
    "tensorboardx": {"tensorboardX"},
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_is_explained_is_what_the_extra_installs(extra):
    extra_only = set(asked(extra)) - set(CORE)  # the others have higher bounds here
    names = [IMPORTED.get(n, {n.replace("-", "_")}) for n in extra_only]
    assert set(EXTRAS[extra]) == set().union(*names)


def imports():
    """Top-level names of all other packages that lrjax imports, with their modules."""
    for path in sorted((ROOT / "lrjax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for name in {name.split(".")[0] for name in names}:
                if name not in sys.stdlib_module_names | {"lrjax"}:
                    yield name, str(path.relative_to(ROOT))


def test_every_import_is_of_the_core_or_of_an_extra():
    explained = set().union(*EXTRAS.values())
    # These say themselves what to install, for sources and models that few have.
    themselves = {"accelerate", "datasets", "equinox", "optuna", "tensorboard", "torch"}
    other = {*CORE, *explained, *themselves}
    unknown = {(name, path) for name, path in imports() if name not in other}
    assert not unknown


def test_the_changelog_knows_this_version_and_its_numbers():
    text = (ROOT / "CHANGELOG.md").read_text()
    newest = text.split("\n## ")[1]
    assert newest.startswith(lrjax.__version__)
    said = [int(n) for n in re.findall(r"`numerics_version` (\d+)", newest)]
    assert said[0] == max(said) == NUMERICS_VERSION
    assert PROJECT["version"] == lrjax.__version__
    assert f"version: {lrjax.__version__}" in (ROOT / "CITATION.cff").read_text()


def test_the_installed_package_has_the_extras():
    found = importlib.metadata.metadata("lrjax").get_all("Provides-Extra") or []
    assert set(found) >= {*EXTRAS, "all"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", importlib.metadata.version("lrjax"))
