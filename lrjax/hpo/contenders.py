"""Contenders of a selection: methods with hyperparameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lrjax import hyperparameters, methods
from lrjax.config import Settings
from lrjax.core import Method, UsageError
from lrjax.hpo import prior, rate_grid


@dataclasses.dataclass(frozen=True)
class Contender:
    """A method with its hyperparameters.

    Attributes:
      method: how the learning rate is controlled.
      hparams: a value for every hyperparameter, sorted by name.
      key: the method, and the rate unless it is the method's default (which may differ
        between tasks): its name in tables of known tasks.
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
    def own(self) -> bool:
        """Whether the method is a user's own."""
        shipped = methods.METHODS.get(self.method.name) is self.method
        return not shipped or self.method.name not in methods.SHIPPED

    @property
    def rate(self) -> float:
        """Its learning rate; NaN if the method needs none."""
        rate = dict(self.hparams).get("learning_rate")
        return float(rate) if self.method.needs_rate and rate else math.nan

    def at(self, rate: float) -> Contender:
        """The same with another learning rate."""
        hparams = _sorted({**dict(self.hparams), "learning_rate": rate})
        return Contender(self.method, hparams, f"{self.method.name} {rate:g}")


def contenders(
    chosen: Sequence[Method], task: str, settings: Settings
) -> list[Contender]:
    """All contenders: each method at its default, and over a grid of learning rates.

    The grid has a rate per decade of the method's space; methods that need no rate have
    none. A method that needs a published value is skipped where the task has none. A
    setting on a grid that one before it trains under another name (`adam` for `smac`,
    which is Adam at a published rate) is there once.

    Args:
      chosen: the methods.
      task: name of the task.
      settings: the config, for hyperparameters and precision.

    Returns:
      The contenders, method after method in the order of `chosen`.

    Raises:
      UsageError: if no method is left.
    """
    found: list[Contender] = []
    for method in chosen:
        base = _base(method, task, settings)
        if any(base[name] is None for name in method.required):
            continue  # needs a published value, and the task has none
        found.append(Contender(method, _sorted(base), method.name))
        space = method.space.ranges.get("learning_rate")
        if not (method.needs_rate and space):
            continue
        rates = rate_grid.rates(base["learning_rate"], space.low, space.high)
        trained = {(each.method.code, each.hparams) for each in found}
        at_rates = [found[-1].at(rate) for rate in rates[1:]]
        found += [
            each
            for each in at_rates
            if not method.code or (method.code, each.hparams) not in trained
        ]
    if not found:
        raise UsageError(
            f"select: no method can run on {task}: those chosen need published values, "
            "which this task does not have; name others (--mode=methods lists them) or "
            "leave select.methods empty for all"
        )
    return found


def candidate(contender: Contender, settings: Settings) -> prior.Candidate:
    """The contender as a prior knows it.

    Args:
      contender: the contender.
      settings: the config, for the precision.
    """
    method = contender.method
    if contender.own:  # nothing is known of it, whatever its name
        return prior.Candidate(f"your {method.name}", contender.rate, usual=False)
    needed = {name: dict(contender.hparams)[name] for name in method.required}
    defaults = {**method.defaults, **needed}
    if not math.isnan(contender.rate):
        defaults["learning_rate"] = contender.rate
    usual = hyperparameters.complete(method, defaults, settings.precision)
    return prior.Candidate(
        method.name, contender.rate, usual=_sorted(usual) == contender.hparams
    )


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
