"""The blocks of docs/own_task.md run as they stand, one after the other."""

import importlib
import re
from pathlib import Path

import jax
import pytest

from lrjax.common import numerics
from lrjax.tasks import losses, table

PAGE = (Path(__file__).parents[2] / "docs" / "own_task.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
OPTIONAL = ("datasets", "equinox", "torch")


def runs_here(block):
    """Whether the libraries that a block imports are installed."""
    for name in OPTIONAL:
        if re.search(rf"^(import|from) {name}\b", block, re.MULTILINE):
            try:
                importlib.import_module(name)
            except ImportError:
                return False
    return True


def test_the_blocks_run(tmp_path, monkeypatch, registries):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    made = []
    with jax.numpy_dtype_promotion("standard"):
        for block in BLOCKS:
            if runs_here(block):
                names.pop("task", None)
                exec(compile(block, "own_task.md", "exec"), names)
                made.append(names.get("task"))
    assert sum(task is not None for task in made) > 10


@pytest.mark.slow  # trains some hundred runs
def test_the_blocks_on_python_run(tmp_path, monkeypatch, registries):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "own.md").read_text()
    others = "optimizer,seed,val_accuracy,val_loss\nlion,0,0.9,0.3\nlion,1,0.8,0.4\n"
    (tmp_path / "mine.csv").write_text(others)  # of somebody who trained elsewhere
    names = {"__name__": "page"}
    # As lrjax ships: a user's code may promote types, in the threads that train, too.
    monkeypatch.setitem(numerics.SETTINGS, "jax_numpy_dtype_promotion", "standard")
    with jax.numpy_dtype_promotion("standard"):
        for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
            exec(compile(block, "own.md", "exec"), names)
    assert (tmp_path / "report" / "index.html").exists()
    assert (tmp_path / "rates.png").exists()
    assert names["found"].rate > 0


def test_the_page_names_all_there_is():
    for name in (*losses.NAMED, *table.ENDINGS[2:]):
        assert name.strip(".") in PAGE.replace("Parquet", "parquet").replace(
            "NPZ", "npz"
        )
    for setting in table._SETTINGS:
        assert f"{setting}=" in PAGE
    for way in ("from_flax", "from_nnx", "from_equinox", "from_functions"):
        assert f"lrjax.Task.{way}(" in PAGE


@pytest.mark.parametrize("name", re.findall(r"table:[^\s'\"`]+", PAGE))
def test_names_of_tables_can_be_read(name):
    assert table.parse(name).target
