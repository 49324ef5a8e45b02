"""Writes lrjax/race/methods.json: the known methods, for processes without JAX.

python benchmarks/race_methods.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lrjax import methods
from lrjax.hpo import points, prior
from lrjax.race.log import encoded

FILE = Path(__file__).parents[1] / "lrjax" / "race" / "methods.json"


def described() -> dict[str, Any]:
    """Name -> defaults, and the ends of the learning rate's space where one is tuned.

    Of the methods that known tasks have trained.
    """
    found = {}
    for name in sorted(set(map(str, prior.known(points.SHARE).methods))):
        method = methods.METHODS[name]
        limits = method.space.ranges.get("learning_rate")
        rated = method.needs_rate and limits
        rates = [limits.low, limits.high] if rated else None
        found[name] = {"defaults": encoded(method.defaults), "rates": rates}
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(described(), indent=1) + "\n")
