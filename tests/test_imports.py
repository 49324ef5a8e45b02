"""Imports run one way, and heavy ones wait until they are needed."""

import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lrjax"

# modules and packages -> what of lrjax they may import, from the ground up; a module of
# a package may have a row of its own
_ROWS = {
    "machine messages optim": "",
    "extras": "messages",
    "plugins": "messages",
    "metrics": "messages plugins",
    "domains": "",
    "core": "domains messages metrics",
    "analysis identity": "core",
    "console": "core messages",
    "common": "core identity messages",
    "own": "core identity",
    "methods": "core identity optim own plugins",
    "protocol": "core methods",
    "hyperparameters": "common core identity methods optim",
    "tasks": "common console core machine metrics plugins",
    "hpo.tuners": "core plugins",
    "hpo.points": "",
    "hpo.posterior": "hpo.points",
    "hpo.prior": "hpo.points hpo.posterior",
    "hpo.proposals": "hpo.points hpo.posterior hpo.prior",
    "hpo.course": "hpo.points hpo.prior hpo.proposals",
    "hpo.judged": "hpo.course hpo.posterior hpo.proposals",
    "hpo.rate_grid": "",
    "hpo.lengths": "hpo.points hpo.prior",
    "hpo.ladders": "hpo.lengths",
    "hpo.recipes": "hpo.lengths hpo.points hpo.posterior hpo.prior",
    "race": "common domains hpo.course hpo.judged hpo.points hpo.prior hpo.proposals "
    "hpo.rate_grid messages",
    "config": "common core hpo.tuners hyperparameters identity methods protocol tasks",
    "config_page": "common config methods",
    "engine": "common core machine optim",
    "tables": "common core identity",
    "results": "common core identity tables",
    "launch": "common config console core engine identity machine messages methods "
    "plugins protocol results tables tasks",
    "elsewhere": "common core metrics race tables",
    "track": "messages plugins",
    "track.values": "track",
    "track.sender": "console core launch",
    "track.names": "analysis launch",
    "track.listeners": "core launch track track.names track.sender",
    "track.event_files": "common core track track.values",
    "track.wandb_runs": "common core track track.values",
    "track.mlflow_runs": "common core identity track track.values",
    "rates": "analysis core reports",
    "reports": "analysis common console core elsewhere identity plugins rates results "
    "tables",
    "watch": "analysis common core messages reports tables",
    "control": "common core engine hyperparameters methods optim",
    "hpo": "analysis common config console core engine hpo.course hpo.judged "
    "hpo.ladders hpo.lengths hpo.points hpo.posterior hpo.prior hpo.proposals "
    "hpo.rate_grid hpo.recipes hpo.tuners hyperparameters identity launch machine "
    "methods own plugins protocol reports results tasks track.listeners",
    "api": "common config core elsewhere hpo launch methods optim own plugins rates "
    "reports results tasks track.listeners",
    "register": "core hpo.tuners launch methods own plugins reports tasks",
    "showing": "messages reports",
    "arguments": "common config messages methods plugins",
    "command": "arguments cli launch messages race track watch",
    "__main__": "__init__ command extras launch showing",
    "__init__": "api control core extras hpo messages methods metrics optim race "
    "register results tasks",
    "cli": "common config config_page core elsewhere hpo launch methods reports "
    "results showing tables track track.listeners",
}
ALLOWED = {
    name: set(known.split()) for names, known in _ROWS.items() for name in names.split()
}
# The engine is JAX alone: what it trains is given, what it measures is returned.
NO_DISK = {"json", "os", "pathlib", "shutil", "tempfile"}
# What a selection asks for and believes is NumPy alone: it trains nothing, so that
# tables of runs are all that is needed to judge it.
NUMPY_ALONE = ("course", "judged", "points", "posterior", "prior", "proposals")
NUMPY_ALONE += ("ladders", "lengths", "rate_grid", "recipes")
# Imported only inside of functions, where they are first used; linen modules need
# Flax to be defined, and are themselves imported like this.
HEAVY = {
    *("dask_jobqueue", "distributed", "equinox", "flax", "matplotlib", "pyarrow"),
    *("optuna", "rliable", "tensorboard", "wandb"),
    *("safetensors", "sklearn", "smac", "tensorboardX", "tensorflow_datasets"),
    *("mlflow", "transformers"),
}


def unit(path: Path) -> str:
    """The row of `ALLOWED` that a file belongs to."""
    return row(path.relative_to(PACKAGE).with_suffix("").parts)


def row(parts: Sequence[str]) -> str:
    """The row of a module: its own, or its package's."""
    own = ".".join(parts[:2])
    return own if own in ALLOWED else parts[0]


def imported(tree: ast.AST) -> set[str]:
    """Full names of all modules that a tree imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            found = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= found
            if not all(map(_is_module, found)):
                names.add(node.module)
    return names


def _is_module(name: str) -> bool:
    """Whether a full name is that of a module here, not of something in it."""
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


class _WithoutFunctions(ast.NodeTransformer):
    """Leaves what runs when a module is imported."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        return None


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    names = imported(ast.parse(path.read_text()))
    units = {row(n.split(".")[1:]) for n in names if n.startswith("lrjax.")}
    units &= set(ALLOWED)
    assert units <= ALLOWED[unit(path)] | {unit(path)}


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "engine").glob("*.py")), ids=lambda p: p.name
)
def test_the_engine_knows_no_disk(path):
    assert not imported(ast.parse(path.read_text())) & NO_DISK


def loaded_by(modules):
    """Packages that a new process has loaded once it has imported some modules."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("name", NUMPY_ALONE)
def test_beliefs_need_numpy_alone(name):
    names = imported(ast.parse((PACKAGE / "hpo" / f"{name}.py").read_text()))
    used = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert used <= {"numpy", "lrjax"}
    loaded = loaded_by(f"lrjax.hpo.{name}")
    assert "numpy" in loaded
    assert not loaded & (HEAVY | {"jax", "jaxlib", "optax", "pandas"})


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


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_progress_is_shown_in_one_place(path):
    """A bar made elsewhere fails where stderr is closed."""
    names = {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}
    assert "tqdm" not in names or path.name == "console.py"


def test_every_module_has_its_place():
    assert {unit(path) for path in FILES} == set(ALLOWED)


def test_optim_needs_jax_and_optax_alone():
    sources = [*(PACKAGE / "optim").rglob("*.py"), PACKAGE / "__init__.py"]
    names = set().union(*(imported(ast.parse(path.read_text())) for path in sources))
    used = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert used == {"jax", "lrjax", "numpy", "optax"}
    loaded = loaded_by("lrjax.optim; lrjax.optim.schedules.cosine")  # an attribute
    assert "optax" in loaded
    assert not loaded & (HEAVY | {"pandas", "ml_collections", "absl_flags", "tqdm"})


def test_tables_are_read_and_shown_without_jax():
    assert not loaded_by("lrjax.reports, lrjax.results") & {"jax", "jaxlib", "optax"}
