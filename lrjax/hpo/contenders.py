"""Who races: methods with their hyperparameters, in the order in which they enter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrjax import hyperparameters, methods
from lrjax.config import Settings
from lrjax.core import Method, UsageError

# As `benchmarks/selection.py --order` found on 60 made-up tasks: the next is who raises
# most what a race to the end among those before would reach. After these nobody did.
_FIRST_TO_ENTER = (
    "mechanic",
    "ldog",
    "adam 0.01",
    "schedule_free_radam 1",
    "adamw_cosine 0.01",
    "dadapt_sgd",
    "schedule_free_radam 0.01",
    "nadamw_cosine 0.1",
    "schedule_free_sgd",
    "greedy_lr 0.01",
    "adamw_cosine 1",
    "cocob",
)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A method with its hyperparameters.

    Attributes:
      method: how the learning rate is controlled.
      hparams: a value for every hyperparameter, sorted by name.
      key: of it in tables that were made on other tasks: the method's name, and the
        rate where it is not the default, which may be another one there.
    """

    method: Method
    hparams: tuple[tuple[str, Any], ...]
    key: str

    @property
    def label(self) -> str:
        """For people; tells contenders apart: 'adam (learning_rate=0.01)'."""
        rated = "learning_rate" in self.method.space.ranges
        if not (self.method.needs_rate and rated):
            return self.method.name
        rate = dict(self.hparams)["learning_rate"]
        return f"{self.method.name} (learning_rate={rate:g})"

    @property
    def bound(self) -> bool:
        """Whether it is judged by a branch that comes to rest."""
        return self.method.horizon_bound(dict(self.hparams))


def contenders(
    chosen: Sequence[Method], task: str, settings: Settings, named: bool = False
) -> list[Contender]:
    """Each method at its default, and over a grid of rates where it needs one.

    The grid has a rate per decade of the method's space. Methods of the user's
    own come first, then `_FIRST_TO_ENTER`, then defaults, then rates in the order of
    their distance from them: what a budget has no room for is left out from the end.
    A method whose required value nobody published for the task is left out, too.

    Args:
      chosen: the methods.
      task: name of the task.
      settings: what they are to be tried with.
      named: whether somebody asked for these methods by name: then each of them comes
        once before any comes again.

    Raises:
      UsageError: if there is none.
    """
    places = {key: place for place, key in enumerate(_FIRST_TO_ENTER)}
    ranked: list[tuple[int, float, int, Contender]] = []

    def add(away: float, place: int, contender: Contender, *keys: str) -> None:
        first = min(places.get(key, len(places)) for key in (contender.key, *keys))
        ranked.append((first, away, place, contender))

    for place, method in enumerate(chosen):
        base = _base(method, task, settings)
        if any(base[name] is None for name in method.required):
            continue  # the same method as another, at a value that was published
        if methods.METHODS.get(method.name) is not method:
            places[method.name] = -1
        # Here the default may be a rate that was none on the tasks of the table.
        rate = base.get("learning_rate")
        same = [f"{method.name} {rate:g}"] if isinstance(rate, float) else []
        add(0.0, place, Contender(method, _sorted(base), method.name), *same)
        space = method.space.ranges.get("learning_rate")
        if not (method.needs_rate and space):
            continue
        centre = base["learning_rate"]
        decades = round(math.log10(space.high / space.low))
        for rate in np.geomspace(space.low, space.high, decades + 1).tolist():
            rate = float(f"{rate:.6g}")
            away = abs(math.log10(rate / centre)) if centre > 0 else 1.0
            if away > 0.1:
                hparams = _sorted(base | {"learning_rate": rate})
                add(away, place, Contender(method, hparams, f"{method.name} {rate:g}"))
    if not ranked:
        raise UsageError(
            f"select: no method is left for {task}: name one that needs no published "
            f"value (--mode=methods lists them), or leave select.methods empty for all"
        )
    found = [each for *_, each in sorted(ranked, key=lambda entry: entry[:3])]
    if not named:
        return found
    first = {each.method.name: each for each in reversed(found)}
    return sorted(found, key=lambda each: first[each.method.name] is not each)


def _base(method: Method, task: str, settings: Settings) -> dict[str, Any]:
    """A method's hyperparameters on a task, as the settings and the protocol say."""
    if methods.METHODS.get(method.name) is not method:
        own = dict(method.defaults)
        return hyperparameters.complete(method, own, settings.precision)
    try:
        return settings.lanes(method.name, task)[0]
    except UsageError:
        if method.required:
            return dict(method.defaults)
        raise


def _sorted(hparams: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(hparams.items()))
