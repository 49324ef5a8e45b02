"""Read the runs of a working directory and their curves into pandas."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrjax.core import UsageError, encodable
from lrjax.identity import canonical
from lrjax.tables import parts, reader

if TYPE_CHECKING:
    import pandas as pd


class Hparams(dict[str, Any]):
    """Hyperparameters of a run: an immutable dictionary that pandas can group and sort.

    `dict(hparams)` and `hparams | {...}` return dictionaries that can be changed.

    Example:
      >>> import pandas as pd
      >>> hparams = [Hparams(b1=0.9), Hparams(b1=0.9), Hparams(b1=0.5)]
      >>> runs = pd.DataFrame({"hparams": hparams, "loss": [1.0, 3.0, 5.0]})
      >>> runs.groupby("hparams")["loss"].mean().tolist()
      [5.0, 2.0]
    """

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(_frozen(self))

    def __lt__(self, other: Mapping[str, Any]) -> bool:
        return _order(self) < _order(other)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hparams, (dict(self),)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("hyperparameters of a run cannot be changed; change a copy")

    __setitem__ = __delitem__ = __ior__ = pop = popitem = clear = _refuse
    update = setdefault = _refuse  # pyright: ignore[reportAssignmentType]


def _frozen(value: Any) -> Any:
    """Convert a value to a hashable one; equal values get equal hashes."""
    if isinstance(value, Mapping):
        return frozenset((name, _frozen(item)) for name, item in value.items())
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _order(value: Any) -> tuple[Any, ...]:
    """Return a sort key for values of any type: numbers by size, before text."""
    if isinstance(value, Mapping):
        return 0, sorted((name, _order(item)) for name, item in value.items())
    if isinstance(value, int | float):
        return 1, value
    return 2, canonical(value)


_NAMES = ("task", "method", "protocol")
_OF_RUN = ("task", "method", "seed")


def load(workdir: str | os.PathLike[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read runs and curves into tidy frames, a row per line of the tables.

    Curves in parts are read, too (`lrjax.tables.parts`), and have task, method and seed
    of their runs. `hparams` holds dictionaries to group by (`Hparams`); numbers that
    were not finite are NaN. Names of tasks and methods are as `encodable` writes them.
    A torn last line is dropped with a warning.

    Raises:
      UsageError: if a table is missing, or a line is damaged or contradicts another.

    Example:
      >>> import tempfile
      >>> import lrjax
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     study = lrjax.compare("libsvm/iris", "adam", steps=20, workdir=folder)
      ...     runs, curves = load(folder)
      >>> runs.groupby(["method", "hparams"]).size().tolist()
      [10]
      >>> last = curves["step"] == 20
      >>> curves[last].groupby("method")["valid_loss"].count().to_dict()
      {'adam': 10}
    """
    runs, curves = raw(workdir)
    if "run_id" in runs and "run_id" in curves:
        of_run = runs.drop_duplicates("run_id").set_index("run_id")
        for name in of_run.columns.intersection(_OF_RUN, sort=False):
            curves[name] = curves["run_id"].map(of_run[name])
    return runs, curves


def raw(workdir: str | os.PathLike[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read runs and curves as `load`, with the columns of the tables alone."""
    workdir, frames = Path(workdir), []
    curves_path, in_parts = workdir / reader.CURVES, parts.read(workdir)
    if not os.path.lexists(workdir / reader.RUNS):
        raise UsageError(f"{workdir} holds no results: there is no {reader.RUNS}")
    if os.path.lexists(curves_path):
        frames = [reader.read_frame(curves_path)]
    elif not len(in_parts):
        raise UsageError(f"{workdir} holds no results: there is no {reader.CURVES}")
    runs = reader.read_frame(workdir / reader.RUNS)
    curves = parts.joined(workdir, [*frames, in_parts])
    if "hparams" in runs:
        runs["hparams"] = runs["hparams"].map(Hparams)
    for name in _NAMES:
        if name in runs:
            runs[name] = [encodable(str(value)) for value in runs[name]]
    return runs, curves
