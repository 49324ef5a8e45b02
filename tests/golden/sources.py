"""Authors' code that is in no package, from clones of their repositories.

`GOLDEN_SOURCES` names a folder with a clone of each as OWNER/NAME, at its commit.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import sys
import types
from typing import Any

COMMITS = {
    "google/automl": "6a54c8741e7c3265d4547c4f35f47a0391122dc5",
    "KellerJordan/Muon": "857d1adc159e098212f828d927460782d3da59e9",
    "nikhilvyas/SOAP": "a1e553530fde97d0e6b307d7c82ac6d38b072340",
    "iShohei220/adopt": "6468572b4b3688a2f056b796b071da540568520e",
    "apple/ml-ademamix": "c3d73c09f1287e5c33b95189bb0aa7de0a5a7667",
    "sail-sg/Adan": "2c65beaf400775753b155da4082c3819fea689b9",
    "kyleliang919/C-Optim": "2c0517c4db2e50b56d389ba4803eab1f4b3b8ae3",
    "huggingface/pytorch-image-models": "aa4b5850c1543fa488abf260f18390eda46cf85d",
    "ittaikr/open_lm_fork": "cc51851a1fc4210f6655a767d00fb72a06fdf73a",
    "facebookresearch/schedule_free": "70785b53e778d0e872c0bbb75ff4ee54ee10c291",
}


def load(repository: str, path: str) -> Any:
    """Import one file of a repository, without the package that it may be in."""
    assert repository in COMMITS
    folder = pathlib.Path(os.environ["GOLDEN_SOURCES"], repository, path).parent
    package = types.ModuleType(repository.replace("/", "_").replace(".", "_"))
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.{pathlib.Path(path).stem}")
