"""Docstrings: what users call has an example, and every example runs."""

import doctest
import importlib
import inspect
from pathlib import Path

import jax
import pytest

import lrjax

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "lrjax").rglob("*.py")
    if ">>> " in path.read_text()
)
# Modules -> what lrjax makes, so that users need no example of it.
MODULES_FOR_USERS = {
    "lrjax.control.env": {"EnvState", "check_count", "check_rates"},
    "lrjax.control.gym": set(),
    "lrjax.control.policies": {"Episode"},
    "lrjax.core": {"Run", "TaskSettings"},
    "lrjax.metrics": set(),
    "lrjax.optim": set(),
    "lrjax.optim.schedules": set(),
    "lrjax.register": set(),
}
# Of other modules, what the pages tell users to call.
NAMES_FOR_USERS = {
    "lrjax.hpo.tuners": ("Problem", "Stage", "Trial", "place"),
    "lrjax.results": ("Hparams", "load"),
    "lrjax.tasks": ("TaskOptions", "fingerprint", "make_task"),
}


def public(module):
    """Names of the public functions and classes that a module defines, or exports."""
    defined = {
        name
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }
    return {*defined, *getattr(module, "__all__", ())}


def for_users():
    """Yield (module, name) of all that must have an example."""
    for name, module in lrjax._LAZY.items():
        yield module, name
    for module, made in MODULES_FOR_USERS.items():
        for name in public(importlib.import_module(module)) - made:
            yield module, name
    for module, names in NAMES_FOR_USERS.items():
        yield from ((module, name) for name in names)
    for name in ("flax", "nnx", "equinox", "functions"):
        yield "lrjax.core", f"Task.from_{name}"


def test_all_that_users_call_has_an_example():
    wanted = set(for_users())
    assert len(wanted) > 90
    without = []
    for module, name in wanted:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        if not doctest.DocTestParser().get_examples(inspect.getdoc(found) or ""):
            without.append(f"{module}.{name}")
    assert not without


@pytest.mark.slow  # some train; all compile
@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, registries):
    with jax.numpy_dtype_promotion("standard"):  # as users have it
        found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed
