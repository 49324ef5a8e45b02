"""docs/methods.md says what is so."""

from __future__ import annotations

import inspect
import pathlib
import re
import sys

import jax
import numpy as np
import pytest

from lrjax import optim
from lrjax.methods import METHODS, state_size
from lrjax.optim import schedules

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import bfloat16

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "methods.md").read_text()
TABLE = PAGE.split("\n\n")[2]
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in TABLE.splitlines()[2:]
    if (cells := [cell.strip() for cell in line.strip("|").split("|")])
}
PROBE = jax.ShapeDtypeStruct((1000,), "float32")


def test_the_table_has_every_method_and_no_other():
    assert list(ROWS) == list(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_family_memory_and_source(name):
    family, memory, source, parity, _, advice = ROWS[name]
    assert family == METHODS[name].family
    assert float(memory) == round(state_size(METHODS[name], PROBE) / PROBE.size)
    assert source == METHODS[name].source
    assert parity
    assert advice


def _bfloat16(name):
    said = re.fullmatch(r"([\w ]+): (\d\.\d\d), (\d\.\d\d)", ROWS[name][4])
    assert said
    return said[1], float(said[2]), float(said[3])


@pytest.mark.parametrize("name", METHODS)
def test_the_word_on_bfloat16_follows_from_its_figures(name):
    said, kept, rounded = _bfloat16(name)
    assert said == bfloat16.verdict(kept, rounded)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("sgd", "dog") else pytest.param(name, marks=pytest.mark.slow)
        for name in METHODS
        if name != "learned"  # what comes out depends on how it is compiled
    ],
)
def test_trains_in_bfloat16_as_the_page_says(name):
    said, *figures = _bfloat16(name)
    fall, *parts = bfloat16.measure(METHODS[name])
    assert fall > 1  # of the 1.4 nats of four classes
    assert said == bfloat16.verdict(*parts)
    np.testing.assert_allclose(parts, figures, atol=0.03)


@pytest.mark.parametrize("name", METHODS)
def test_a_paragraph_has_the_formula_and_the_page_every_option(name):
    headings = re.findall(r"^\*\*(`.+?`)\*\*", PAGE, re.MULTILINE)
    assert f"`{name}`" in ", ".join(headings)
    assert set(METHODS[name].defaults) <= set(re.findall(r"`(\w+)`", PAGE))


@pytest.mark.parametrize("name", sorted(set(METHODS) & set(optim.__all__)))
def test_every_option_of_the_function_is_named(name):
    options = inspect.signature(getattr(optim, name)).parameters
    assert set(options) - {"base_optimizer"} <= set(re.findall(r"`(\w+)`", PAGE))


def test_schedules_and_wrappers_are_there():
    rows = set(re.findall(r"^\| `(\w+)`", PAGE[PAGE.index("## Schedules") :], re.M))
    wrappers = {
        name
        for name in optim.__all__
        if {"base_optimizer", "inner"}
        & set(inspect.signature(getattr(optim, name)).parameters)
    }
    assert wrappers
    assert wrappers | set(schedules.SCHEDULES) <= rows
