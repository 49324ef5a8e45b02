"""Packages that parts of lrjax need, and the extras of lrjax that install them.

`pip install lrjax` brings JAX, Optax and NumPy, which is what `lrjax.optim` and
`lrjax.Race` need. Where another part is used without its packages, Python would name
the first that is missing; this module says what to install.
"""

from __future__ import annotations

import importlib.abc
import sys
from typing import Any

from lrjax.messages import UsageError

# extra -> the packages it installs, as they are imported (pyproject.toml)
EXTRAS = {
    "tasks": (
        *("absl", "flatbuffers", "flax", "matplotlib", "ml_collections", "orbax"),
        *("pandas", "PIL", "pyarrow", "safetensors", "scipy", "sklearn", "tqdm"),
    ),
    "report": (
        *("absl", "matplotlib", "ml_collections", "pandas", "pyarrow", "rliable"),
        *("scipy", "tqdm"),
    ),
    "tune": ("ConfigSpace", "smac"),
    "text": ("huggingface_hub", "tokenizers", "transformers"),
    "tfds": ("importlib_resources", "tensorflow_datasets"),
    "cluster": ("dask", "dask_jobqueue", "distributed"),
    "control": ("gymnasium",),
    "track": ("mlflow", "tensorboardX", "wandb"),
}
_REPORTING = ("analysis", "elsewhere", "rates", "reports", "results", "tables", "watch")
# Modules between an import statement and a finder.
_MACHINERY = {__name__, "importlib", "importlib._bootstrap"}


class MissingPackage(UsageError, ImportError):  # noqa: N818 -- not always a fault
    """A package is not installed; the message is one line that says how to get it."""


def missing(package: str, asking: str) -> MissingPackage:
    """Make the error for a package that is missing.

    Args:
      package: name of the package, as it is imported.
      asking: name of lrjax's module that imports it.

    Example:
      >>> print(missing("smac", "lrjax.hpo.smac"))
      lrjax.hpo.smac needs smac, which is not installed: pip install "lrjax[tune]"
    """
    extras = [extra for extra, packages in EXTRAS.items() if package in packages]
    part = asking.split(".")[1] if "." in asking else ""
    extra = extras[-1] if part in _REPORTING else extras[0]
    return MissingPackage(
        f"{asking} needs {package}, which is not installed: "
        f'pip install "lrjax[{extra}]"'
    )


class _Explain(importlib.abc.MetaPathFinder):
    """Comes last: what it is asked for, no other finder has found."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Raise if a module of lrjax imports a package of an extra."""
        asking = _asking()
        if asking.split(".")[0] == "lrjax" and any(
            fullname in packages for packages in EXTRAS.values()
        ):
            raise missing(fullname, asking)


def _asking() -> str:
    """Name of the module whose import statement is running."""
    frame: Any = sys._getframe(1)
    while frame and frame.f_globals.get("__name__") in _MACHINERY:
        frame = frame.f_back
    return frame.f_globals.get("__name__", "") if frame else ""


def explain() -> None:
    """Explain from now on what lrjax's own imports miss; others fail as before."""
    if not any(isinstance(finder, _Explain) for finder in sys.meta_path):
        sys.meta_path.append(_Explain())
