"""Who races: methods with their hyperparameters, in the order in which they enter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrjax import methods
from lrjax.config import Settings
from lrjax.core import Method, UsageError

# The portfolio that `benchmarks/selection.py --order` grew on made-up tasks: whose best
# member has the highest mean test accuracy. With too many contenders each trains too
# little to be judged by; these few differ from each other.
_FIRST_TO_ENTER = (
    "mechanic",
    "dadapt_sgd",
    "ldog",
    "adam learning_rate=0.01",
    "nadamw_cosine learning_rate=0.01",
    "schedule_free_radam learning_rate=1",
    "momo",
    "cawr",
    "greedy_lr learning_rate=0.01",
    "schedule_free_sgd",
    "adamw_cosine learning_rate=1",
    "prodigy",
    "momo learning_rate=0.1",
    "cocob",
    "cawr learning_rate=0.01",
    "schedule_free_radam learning_rate=0.1",
    "storm_plus",
    "learned",
    "cawr learning_rate=1",
    "schedule_free_radam learning_rate=0.01",
)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A method with its hyperparameters.

    Attributes:
      method: how the learning rate is controlled.
      hparams: a value for every hyperparameter, sorted by name.
      label: for people; tells contenders apart.
    """

    method: Method
    hparams: tuple[tuple[str, Any], ...]
    label: str

    @property
    def bound(self) -> bool:
        """Whether it is judged by a branch that comes to rest."""
        return self.method.horizon_bound(dict(self.hparams))


def contenders(
    chosen: Sequence[Method], task: str, settings: Settings
) -> list[Contender]:
    """Each method at its default, and over a grid of rates where it needs one.

    The grid has a rate per decade of the method's space. `_FIRST_TO_ENTER` come first,
    then defaults, then rates in the order of their distance from them: what a budget
    has no room for is left out from the end.

    Raises:
      UsageError: if there is none.
    """
    places = {label: place for place, label in enumerate(_FIRST_TO_ENTER)}
    ranked: list[tuple[int, float, int, Contender]] = []

    def add(away: float, place: int, contender: Contender) -> None:
        first = places.get(contender.label, len(places))
        ranked.append((first, away, place, contender))

    for place, method in enumerate(chosen):
        base = _base(method, task, settings)
        if any(base[name] is None for name in method.required):
            continue  # the same method as another, at a value that was published
        add(0.0, place, Contender(method, _sorted(base), method.name))
        space = method.space.ranges.get("learning_rate")
        if not (method.needs_rate and space):
            continue
        centre = base["learning_rate"]
        decades = round(math.log10(space.high / space.low))
        for rate in np.geomspace(space.low, space.high, decades + 1).tolist():
            rate = float(f"{rate:.6g}")
            away = abs(math.log10(rate / centre)) if centre > 0 else 1.0
            if away > 0.1:
                label = f"{method.name} learning_rate={rate:g}"
                hparams = _sorted(base | {"learning_rate": rate})
                add(away, place, Contender(method, hparams, label))
    if not ranked:
        raise UsageError(
            f"select: no method is left for {task}: name one that needs no published "
            f"value (--mode=methods lists them), or leave select.methods empty for all"
        )
    return [each for *_, each in sorted(ranked, key=lambda entry: entry[:3])]


def _base(method: Method, task: str, settings: Settings) -> dict[str, Any]:
    """A method's hyperparameters on a task, as the settings and the protocol say."""
    if methods.METHODS.get(method.name) is not method:
        return dict(method.defaults)  # the user's own
    try:
        return settings.lanes(method.name, task)[0]
    except UsageError:
        if method.required:
            return dict(method.defaults)
        raise


def _sorted(hparams: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(hparams.items()))
