"""Docstrings of `lrjax.optim`: every argument, and the source."""

from __future__ import annotations

import inspect
import re

import pytest

from lrjax import optim
from lrjax.optim import schedules

OPTIMISERS = {
    name: getattr(optim, name)
    for name in optim.__all__
    if "Transformation"
    in str(inspect.signature(getattr(optim, name)).return_annotation)
}
READINGS = {name: getattr(optim, name) for name in set(optim.__all__) - set(OPTIMISERS)}
SCHEDULES = {
    name: value
    for name, value in vars(schedules).items()
    if inspect.isfunction(value) and not name.startswith("_")
}
FUNCTIONS = {**OPTIMISERS, **READINGS, **SCHEDULES}


def _section(name, title):
    """Text of a section of a docstring, up to the next unindented paragraph."""
    found = re.search(rf"^{title}:\n?((.+\n|\n(?=  ))+)", _doc(name), re.MULTILINE)
    assert found, f"{name} has no section {title}"
    return found[1]


def _doc(name):
    return f"{inspect.getdoc(FUNCTIONS[name])}\n"


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_arguments_and_result_are_described(name):
    described = re.findall(r"^  (\w[\w, ]*):", _section(name, "Args"), re.MULTILINE)
    arguments = [argument for line in described for argument in line.split(", ")]
    assert sorted(arguments) == sorted(inspect.signature(FUNCTIONS[name]).parameters)
    assert _section(name, "Returns")


@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_optimisers_name_shapes_paper_and_code(name):
    result, source = (_section(name, title) for title in ("Returns", "References"))
    assert "shapes" in result
    words = " ".join(f"{result} {source}".split())
    code = re.search(r"``[^`]+``|no official implementation|method of lrjax", words)
    assert code
    assert "<https://" in source or "``" in source


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_schedules_have_a_source(name):
    assert re.search(r"^Source: \w+", _doc(name), re.MULTILINE)
