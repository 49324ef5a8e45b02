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
    "messages": set(),
    "metrics": {"messages"},
    "core": {"messages", "metrics"},
    "optim": set(),
    "order": set(),
    "identity": {"core"},
    "numerics": {"core"},
    "protocol": {"core", "methods"},
    "layout": {"core"},
    "tasks": {"core", "crew", "fields", "jaxprs", "numerics", "reading"},
    "methods": {"core", "identity", "optim"},
    "method_code": {"core"},
    "hyperparameters": {"core", "identity", "methods", "optim"},
    "fields": {"core", "identity"},
    "config": {
        *("core", "fields", "hyperparameters", "identity", "layout", "methods"),
        *("protocol", "tasks"),
    },
    "config_page": {"config", "fields", "methods"},
    "train": {"core", "layout", "numerics", "optim"},
    "prefetch": set(),
    "evaluation": {"core", "layout", "prefetch", "strategy", "train"},
    "recalibration": {"core", "numerics", "optim", "train"},
    "compiler": {"core"},
    "host_loop": {
        *("compiler", "core", "evaluation", "layout", "order", "prefetch"),
        *("recalibration", "train"),
    },
    "programs": {
        *("compiler", "core", "evaluation", "host_loop", "layout", "numerics", "order"),
        *("recalibration", "strategy", "train"),
    },
    "checkpoint": {"core"},
    "tables": {"core", "identity", "reading"},
    "record": {"core", "tables"},
    "results": {"core", "identity", "record", "tables"},
    "rows": {"core", "programs", "train"},
    "blocks": {
        *("checkpoint", "config", "core", "methods", "numerics"),
        *("protocol", "recalibration", "results", "strategy", "tasks", "train"),
    },
    "crew": {"core"},
    "console": {"core"},
    "program_pool": {
        *("blocks", "console", "core", "crew", "layout", "programs", "train"),
    },
    "units": {
        *("blocks", "checkpoint", "config", "console", "core", "crew", "layout"),
        *("program_pool", "programs", "strategy", "tasks", "train"),
    },
    "session": {"config", "console", "results", "units"},
    "local": {
        *("blocks", "checkpoint", "config", "console", "core", "layout", "programs"),
        *("results", "rows", "session", "units"),
    },
    "experiment": {
        *("config", "console", "core", "local", "numerics", "session", "units"),
    },
    "plan": {
        *("blocks", "config", "core", "crew", "evaluation", "numerics", "programs"),
        *("results", "strategy", "tasks", "train", "units"),
    },
    "backend": {"config", "core", "numerics", "tasks"},
    "worker": {
        *("backend", "blocks", "checkpoint", "config", "core", "local", "methods"),
        *("results", "tasks", "train", "units"),
    },
    "cluster": {
        *("blocks", "config", "console", "core", "results", "session", "units"),
        "worker",
    },
    "multihost": {"blocks", "config", "console", "core", "local", "results", "units"},
    "scores": {"core"},
    "stats": {"core", "scores"},
    "portfolio": set(),
    "curves": {"core", "scores", "stats"},
    "fidelity": {"core", "curves", "scores", "stats"},
    "report": {
        *("core", "curves", "fidelity", "portfolio", "reading", "record", "results"),
        *("scores", "stats"),
    },
    "control": {
        *("core", "evaluation", "hyperparameters", "methods", "numerics", "optim"),
        *("order", "train"),
    },
    "hpo": {
        *("blocks", "config", "console", "core", "evaluation", "experiment"),
        *("hyperparameters", "identity", "local", "method_code", "methods", "numerics"),
        *("programs", "protocol", "reading", "report", "results", "rows", "scores"),
        *("session", "stats", "strategy", "tasks", "train", "units"),
    },
    "cli": {
        *("backend", "cluster", "config", "config_page", "core", "experiment", "hpo"),
        *("local", "methods", "multihost", "plan", "report", "results"),
    },
    "__init__": set(),
    "reading": {"core"},
    "jaxprs": set(),
    "strategy": {"core", "jaxprs", "numerics"},
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


class _WithoutFunctions(ast.NodeTransformer):
    """Leaves what runs when a module is imported."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        return None


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    names = imported(ast.parse(path.read_text()))
    units = {n.split(".")[1] for n in names if n.startswith("lrjax.")}
    units &= set(ALLOWED)
    assert units <= ALLOWED[unit(path)] | {unit(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_imports_wait(path):
    top = _WithoutFunctions().visit(ast.parse(path.read_text()))
    allowed = {"flax"} if path.parent == PACKAGE / "tasks" / "models" else set()
    assert not {name.split(".")[0] for name in imported(top)} & (HEAVY - allowed)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_keys_are_made_in_one_place(path):
    """JAX's own default is whatever the environment says."""
    if path.name == "numerics.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("jax.random.key", "jax.random.PRNGKey")


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
