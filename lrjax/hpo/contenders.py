"""Contenders of a race: methods with hyperparameters, in the order of entry."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrjax import hyperparameters, methods
from lrjax.config import Settings
from lrjax.core import Method, UsageError

# From `benchmarks/selection.py --order` on 60 synthetic tasks. Greedy: each next one
# raises most what a race to the end among those before it reaches; no further contender
# raised it at all.
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
      key: its name in `_FIRST_TO_ENTER`: the method, and the rate unless it is the
        method's default (which may differ between tasks).
    """

    method: Method
    hparams: tuple[tuple[str, Any], ...]
    key: str

    @property
    def label(self) -> str:
        """Its name in messages and tables: 'adam (learning_rate=0.01)'."""
        rated = "learning_rate" in self.method.space.ranges
        if not (self.method.needs_rate and rated):
            return self.method.name
        rate = dict(self.hparams)["learning_rate"]
        return f"{self.method.name} (learning_rate={rate:g})"

    @property
    def needs_cooldown(self) -> bool:
        """Whether it is judged by a branch with a cooldown."""
        return self.method.horizon_bound(dict(self.hparams))


def contenders(
    chosen: Sequence[Method], task: str, settings: Settings, named: bool = False
) -> list[Contender]:
    """All contenders: each method at its default, and over a grid of learning rates.

    The grid has a rate per decade of the method's space; methods that need no rate have
    none. The user's own methods come first, then `_FIRST_TO_ENTER`, then defaults, then
    rates by their distance from the default: a small budget leaves out the last ones.
    A method that needs a published value is skipped where the task has none.

    Args:
      chosen: the methods.
      task: name of the task.
      settings: the config, for hyperparameters and precision.
      named: whether the user named these methods: then each of them comes once before
        any comes again.

    Raises:
      UsageError: if no method is left.
    """
    places = {key: place for place, key in enumerate(_FIRST_TO_ENTER)}
    # With place in `_FIRST_TO_ENTER`, distance from the default, place in `chosen`.
    ranked: list[tuple[int, float, int, Contender]] = []

    def add(distance: float, place: int, contender: Contender, *keys: str) -> None:
        first = min(places.get(key, len(places)) for key in (contender.key, *keys))
        ranked.append((first, distance, place, contender))

    for place, method in enumerate(chosen):
        base = _base(method, task, settings)
        if any(base[name] is None for name in method.required):
            continue  # needs a published value, and the task has none
        if methods.METHODS.get(method.name) is not method:
            places[method.name] = -1
        # The default may have another rate here than in `_FIRST_TO_ENTER`.
        rate = base.get("learning_rate")
        with_rate = [f"{method.name} {rate:g}"] if isinstance(rate, float) else []
        add(0.0, place, Contender(method, _sorted(base), method.name), *with_rate)
        space = method.space.ranges.get("learning_rate")
        if not (method.needs_rate and space):
            continue
        centre = base["learning_rate"]
        decades = round(math.log10(space.high / space.low))
        for rate in np.geomspace(space.low, space.high, decades + 1).tolist():
            rate = float(f"{rate:.6g}")
            decades_off = abs(math.log10(rate / centre)) if centre > 0 else 1.0
            if decades_off > 0.1:
                hparams = _sorted(base | {"learning_rate": rate})
                contender = Contender(method, hparams, f"{method.name} {rate:g}")
                add(decades_off, place, contender)
    if not ranked:
        raise UsageError(
            f"select: no method can run on {task}: those chosen need published values, "
            "which this task does not have; name others (--mode=methods lists them) or "
            "leave select.methods empty for all"
        )
    ordered = [contender for *_, contender in sorted(ranked, key=lambda r: r[:3])]
    if not named:
        return ordered
    first = {contender.method.name: contender for contender in reversed(ordered)}
    return sorted(ordered, key=lambda c: first[c.method.name] is not c)


def _base(method: Method, task: str, settings: Settings) -> dict[str, Any]:
    """A method's hyperparameters on a task, from the settings and the protocol."""
    if methods.METHODS.get(method.name) is not method:
        own = dict(method.defaults)
        return hyperparameters.complete(method, own, settings.precision)
    try:
        return settings.hparams_grid(method.name, task)[0]
    except UsageError:
        if method.required:
            return dict(method.defaults)
        raise


def _sorted(hparams: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(hparams.items()))
