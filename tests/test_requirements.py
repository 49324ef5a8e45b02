"""What pyproject.toml asks for and what the requirements files pin agree."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def read(name):
    lines = (ROOT / name).read_text().splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    found = [Requirement(line) for line in lines if line and not line.startswith("-r")]
    return {each.name.lower(): each for each in found}


def pin(requirement):
    (only,) = requirement.specifier
    assert only.operator == "=="
    return only.version


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = {r.name.lower(): r for r in map(Requirement, PROJECT["dependencies"])}
PINNED = read("requirements-cpu.txt")


def test_both_name_the_same_packages():
    assert set(ASKED) == set(PINNED)
    for name in ("dev", "docs"):
        extra = PROJECT["optional-dependencies"][name]
        pinned = read(f"requirements-{name}.txt")
        assert {Requirement(r).name for r in extra} == set(pinned)


@pytest.mark.parametrize("name", ASKED)
def test_pins_are_in_range(name):
    assert pin(PINNED[name]) in ASKED[name].specifier


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-tpu.txt"])
def test_accelerators_have_the_same_jax(file):
    assert pin(read(file)["jax"]) == pin(PINNED["jax"])
