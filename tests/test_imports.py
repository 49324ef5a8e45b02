"""Imports run one way, and heavy ones wait until they are needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lrjax"

# module (or package) -> what of lrjax it may import
ALLOWED = {
    "core": set(),
    "optim": set(),
    "order": set(),
    "protocol": {"core"},
    "layout": {"core"},
    "reading": {"core"},
    "tasks": {"core", "crew", "reading"},
    "methods": {"core", "optim"},
    "config": {"core", "layout", "methods", "optim", "protocol"},
    "train": {"core", "layout", "optim"},
    "evaluation": {"core", "layout", "optim", "train"},
    "compiler": {"core"},
    "host_loop": {"compiler", "core", "evaluation", "layout", "order", "train"},
    "programs": {
        *("compiler", "core", "evaluation", "host_loop", "layout", "order", "train"),
    },
    "checkpoint": {"core"},
    "results": {"core", "reading"},
    "rows": {"core", "programs", "train"},
    "blocks": {
        *("checkpoint", "config", "core", "evaluation", "methods", "protocol"),
        *("results", "tasks", "train"),
    },
    "crew": {"core"},
    "experiment": {
        *("blocks", "checkpoint", "config", "core", "crew", "layout", "programs"),
        *("results", "rows", "tasks", "train"),
    },
    "plan": {
        *("blocks", "config", "core", "crew", "evaluation", "experiment", "programs"),
        *("results", "tasks", "train"),
    },
    "backend": {"blocks", "config", "core", "tasks"},
    "worker": {
        *("backend", "blocks", "checkpoint", "config", "core", "crew", "experiment"),
        *("methods", "programs", "results", "tasks", "train"),
    },
    "cluster": {"config", "core", "experiment", "results", "worker"},
    "multihost": {"blocks", "config", "core", "experiment", "results"},
    "stats": {"core"},
    "portfolio": set(),
    "curves": {"stats"},
    "fidelity": {"curves", "stats"},
    "report": {
        *("core", "curves", "fidelity", "portfolio", "reading", "results", "stats"),
    },
    "control": {
        *("core", "evaluation", "methods", "optim", "order", "tasks", "train"),
    },
    "hpo": {
        *("blocks", "checkpoint", "cluster", "config", "core", "crew", "evaluation"),
        *("experiment", "methods", "portfolio", "programs", "protocol", "results"),
        *("reading", "rows", "stats", "tasks", "train", "worker"),
    },
    "cli": {
        *("backend", "cluster", "config", "core", "experiment", "hpo", "methods"),
        *("multihost", "plan", "report", "results"),
    },
    "__init__": set(),
}
# Imported only inside of functions, where they are first used; linen modules need
# Flax to be defined, and are themselves imported like this.
HEAVY = {
    *("dask_jobqueue", "distributed", "flax", "matplotlib", "pyarrow", "rliable"),
    *("safetensors", "sklearn", "smac", "tensorboardX", "tensorflow_datasets"),
    "transformers",
}


def unit(path: Path) -> str:
    """The module or package directly below lrjax that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Full names of all modules that a tree imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    names = imported(ast.parse(path.read_text()))
    units = {n.split(".")[1] for n in names if n.startswith("lrjax.")}
    units &= set(ALLOWED)
    assert units <= ALLOWED[unit(path)] | {unit(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_imports_wait(path):
    tree = ast.parse(path.read_text())
    top = ast.Module([n for n in tree.body if not isinstance(n, ast.FunctionDef)], [])
    allowed = {"flax"} if path.parent == PACKAGE / "tasks" / "models" else set()
    assert not {name.split(".")[0] for name in imported(top)} & (HEAVY - allowed)


def test_every_module_has_its_place():
    assert {unit(path) for path in FILES} == set(ALLOWED)


def test_optim_needs_jax_and_optax_alone():
    code = "import sys, lrjax.optim, lrjax.optim.schedules; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "optax" in loaded
    assert not loaded & (HEAVY | {"pandas", "ml_collections", "absl_flags", "tqdm"})
