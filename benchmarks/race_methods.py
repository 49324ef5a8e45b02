"""Writes lrjax/race/methods.json: the known methods, for processes without JAX.

python benchmarks/race_methods.py
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from lrjax import methods
from lrjax.core import Domain
from lrjax.hpo import points, prior
from lrjax.optim import schedules
from lrjax.race.log import encoded

FILE = Path(__file__).parents[1] / "lrjax" / "race" / "methods.json"


def described() -> dict[str, Any]:
    """The schedules, and the methods that known tasks have trained.

    Of each its `defaults`; `rates`, the ends of the learning rate's space where one is
    tuned; and `valid`: of those numbers that have other bounds than most, these.
    """
    found = {}
    for name in sorted(set(map(str, prior.known(points.SHARE).methods))):
        method = methods.METHODS[name]
        limits = method.space.ranges.get("learning_rate")
        rates = [limits.low, limits.high] if method.needs_rate and limits else None
        found[name] = {
            "defaults": encoded(method.defaults),
            "rates": rates,
            "valid": {
                key: encoded(_unusual(domain))
                for key, domain in method.domains.items()
                if key in method.defaults and _unusual(domain)
            },
        }
    return {"schedules": list(schedules.SCHEDULES), "methods": found}


def _unusual(domain: Domain) -> dict[str, Any]:
    """The fields of a domain that differ from those of most numbers."""
    usual = dataclasses.asdict(Domain())
    return {k: v for k, v in dataclasses.asdict(domain).items() if v != usual[k]}


if __name__ == "__main__":
    FILE.write_text(json.dumps(described(), indent=1) + "\n")
