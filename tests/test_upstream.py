"""docs/upstream.md says what others have wrong, and is told when they mend it."""

import re
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from lrjax import optim
from lrjax.hpo import smac

PAGE = (Path(__file__).parent.parent / "docs" / "upstream.md").read_text()
# A program and, if there is one, the line on lrjax after it.
_PART = re.compile(r"```python\n(.*?)```(?:\n\nHere: `(.+?)`$)?", re.DOTALL | re.M)
SHARED, *CASES = _PART.findall(PAGE)
_CLOSE = 1e-4  # of the numbers as they are written there


def title(case):
    """The heading above a program."""
    above = PAGE[: PAGE.index(case[0])]
    return re.findall(r"^## (.+)$", above, re.M)[-1]


def equal(found, right):
    """Whether two results are the same as far as the page says."""
    if isinstance(right, list):
        return np.allclose(found, right, rtol=_CLOSE, atol=0)
    return found == right


@pytest.fixture(autouse=True)
def _as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("case", CASES, ids=title)
def test_it_is_still_wrong_and_lrjax_is_right(case):
    program, here = case
    if title(case).startswith("rliable"):
        pytest.importorskip("rliable", reason="not installed with Python 3.14")
    names = {"optim": optim, "smac": smac}
    exec(compile(SHARED[0], "the shared lines", "exec"), names)
    exec(compile(program, title(case), "exec"), names)
    assert not equal(names["found"], names["right"]), (
        "this release has mended it: take it off the page, and use it if it is equal"
    )
    if here:
        assert equal(eval(here, names), names["right"])


def test_each_fault_names_its_package():
    titles = [title(case) for case in CASES]
    assert len(titles) > 10
    packages = {"JAX", "Optax", "SMAC", "rliable"}
    assert {name.split(":")[0] for name in titles} == packages
