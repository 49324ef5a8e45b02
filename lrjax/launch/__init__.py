"""Planning and training of blocks: units, checkpoints and the launchers.

`LAUNCHERS` has the names of their modules alone, so that main.py can list launchers
before flags are parsed without importing JAX or Dask.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lrjax.launch.session import Launch


@dataclasses.dataclass(frozen=True)
class Registered:
    """A launcher by the name of its module.

    Attributes:
      module: holds `launch`, a `lrjax.launch.session.Launch`.
      trains: what trains, for --help; '' for a launcher that --launcher does not offer.
      remote: whether the workers of --config.cluster train, so that this process needs
        no JAX to train runs.
    """

    module: str
    trains: str
    remote: bool = False


LAUNCHERS = {
    "local": Registered("lrjax.launch.local", "this process"),
    "dask": Registered(
        "lrjax.launch.dask_client",
        "the workers of a Dask cluster that --config.cluster names (docs/cluster.md)",
        remote=True,
    ),
    "hosts": Registered("lrjax.launch.hosts", ""),  # --multihost chooses it
}


def find(name: str) -> Launch:
    """Import a launcher of `LAUNCHERS`."""
    return importlib.import_module(LAUNCHERS[name].module).launch
