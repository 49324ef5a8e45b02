"""Planning and training of blocks: units, checkpoints and the launchers.

`LAUNCHERS` has the names of their modules alone, so that main.py can list launchers
before flags are parsed without importing JAX or Dask.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

from lrjax import plugins
from lrjax.messages import UsageError, shown

if TYPE_CHECKING:
    from lrjax.launch.session import Launch


@dataclasses.dataclass(frozen=True)
class Registered:
    """A launcher by the name of its module.

    Attributes:
      module: holds a `lrjax.launch.session.Launch`.
      trains: what trains, for --help; '' for a launcher that --launcher does not offer.
      remote: whether the workers of --config.cluster train, so that this process needs
        no JAX to train runs.
      function: name of the `Launch` in the module.
    """

    module: str
    trains: str
    remote: bool = False
    function: str = "launch"


LAUNCHERS: dict[str, Registered] = {
    "local": Registered("lrjax.launch.local", "this process"),
    "dask": Registered(
        "lrjax.launch.dask_client",
        "the workers of a Dask cluster that --config.cluster names (docs/cluster.md)",
        remote=True,
    ),
    "hosts": Registered("lrjax.launch.hosts", ""),  # --multihost chooses it
}


SHIPPED = frozenset(LAUNCHERS)


def find(name: str) -> Launch:
    """Import a launcher by name, or by its import path 'module:name'.

    Raises:
      UsageError: if the name is unknown, or cannot be imported.
    """
    known = plugins.find("launcher", name, LAUNCHERS, _accept)
    return getattr(importlib.import_module(known.module), known.function)


def _accept(name: str, found: Any) -> Registered:
    """Check that what a package offers is a function.

    Raises:
      UsageError: if it is not.
    """
    if not callable(found):
        raise UsageError(f"launcher '{name}' is {shown(found)}, not a function")
    return registered(found)


def registered(launch: Any, trains: str = "", remote: bool = False) -> Registered:
    """Describe a function as a launcher; see `Registered`."""
    return Registered(launch.__module__, trains, remote, launch.__qualname__)
