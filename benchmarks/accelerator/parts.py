"""All parts, in the order in which they are run."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from benchmarks.accelerator.core import Part

_MODULES = ("golden", "libsvm", "networks", "populations", "throughput", "evidence")


def all_parts(miniature: bool) -> tuple[list[Part], dict[str, str]]:
    """The parts, and the names of those that miss a package -> what they need."""
    made, missing = [], {}
    for name in _MODULES:
        try:
            module = importlib.import_module(f"benchmarks.accelerator.{name}")
            made += module.parts(miniature)
        except ImportError as error:
            missing[name] = f"needs {error.name or error}"
    return made, missing


def load(name: str, miniature: bool) -> Part | str:
    """A part by its name, or what it needs."""
    made, missing = all_parts(miniature)
    for part in made:
        if part.name == name:
            return part
    return ", ".join(missing.values()) or f"there is no part {name}"


def chosen(made: Iterable[Part], asked: str) -> list[Part]:
    """The parts that are asked for: names or beginnings of names, with commas.

    Raises:
      ValueError: names what begins no part.
    """
    made, wanted = list(made), [name for name in asked.split(",") if name]
    for name in wanted:
        if not any(part.name.startswith(name) for part in made):
            known = ", ".join(part.name for part in made)
            raise ValueError(f"there is no part {name}; there are {known}")
    return [p for p in made if not wanted or p.name.startswith(tuple(wanted))]
