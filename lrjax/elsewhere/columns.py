"""Metrics among the columns of a source, and the user's choices for them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np

from lrjax.common.metric_names import higher_is_better
from lrjax.core import LOSS, Metric, UsageError, printable, unknown
from lrjax.elsewhere import names

_LISTED = 6  # names in a message
_BEST = {"best", "max", "min"}  # words of the best value so far
_FREE = {"unit": "", "digits": 4, "least": -math.inf, "greatest": math.inf}
_ROUNDING = 1.001  # an accuracy up to here is a share, above it a percentage


@dataclasses.dataclass(frozen=True)
class Choices:
    """A user's choices for a source, after a question mark.

    Attributes:
      roles: a key of `names.ROLES` -> name of the column that has it.
      higher, lower: names of metrics of which higher, or lower, values are better.
      ignore: names of columns to leave out.
    """

    roles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    higher: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def directed(self, metric: str, higher_is_better: bool) -> Choices:
        """The choices, and the direction of a metric."""
        if higher_is_better:
            return dataclasses.replace(self, higher=(*self.higher, metric))
        return dataclasses.replace(self, lower=(*self.lower, metric))

    def column(self, role: str, columns: Iterable[str]) -> str | None:
        """The one of some columns that has a role; None if none has."""
        return names.find(role, columns, self.roles.get(role, ""))

    def check(self, source: str, columns: Iterable[str]) -> None:
        """Check that all columns that the user named are there.

        Raises:
          UsageError: if one is not, or is both higher and lower.
        """
        present = list(columns)
        metrics = [*present, *(names.split(column)[1] for column in present)]
        for name in (*self.higher, *self.lower):
            if name not in metrics:
                raise unknown(f"column of {source}", name, present)
        for name in self.ignore:
            if name not in present:
                raise unknown(f"column of {source}", name, present)
        if both := set(self.higher) & set(self.lower):
            raise UsageError(
                f"{source}: {printable(min(both))} is in both higher= and lower="
            )

    def metric(self, column: str) -> tuple[str, str, bool] | None:
        """Part of the data, metric and direction of a column; None if it is none."""
        part, metric = names.split(column)
        for chosen, higher in ((self.higher, True), (self.lower, False)):
            if {column, metric} & set(chosen):
                return part, metric, higher
        known = higher_is_better(metric)
        return None if known is None else (part, metric, known)


@dataclasses.dataclass(frozen=True)
class Measured:
    """The metrics of a source.

    Attributes:
      columns: name in the source -> column of the tables, such as 'valid_loss'.
      factors: task and column of the tables -> what to multiply values by.
      metrics: the metrics, the ranking one first.
      ranked_by: the column that runs are judged by.
      notes: sentences on how they were read.
    """

    columns: Mapping[str, str]
    factors: Mapping[tuple[str, str], float]
    metrics: tuple[Metric, ...]
    ranked_by: str
    notes: tuple[str, ...]


def measured(
    source: str, values: Mapping[str, Mapping[str, np.ndarray]], choices: Choices
) -> Measured:
    """Find the metrics among columns.

    A metric of no part is one of validation, or of training beside one that is of
    validation or of test data. Test data are shown as validation if nothing else is.

    Args:
      source: name of the source, for messages.
      values: name of a column -> task -> its values in all runs.
      choices: what the user said.

    Raises:
      UsageError: if it is not known of any metric whether higher is better.
    """
    found = {key: choices.metric(key) for key in values}
    unknown = [key for key, metric in found.items() if not metric]
    known = {key: metric for key, metric in found.items() if metric}
    if not known:
        raise UsageError(
            f"{source} has no metric of known direction, such as loss or accuracy; "
            f"it has {_listed(unknown)}. Say which counts, and how: "
            "?higher=NAME or ?lower=NAME after it"
        )
    notes = []
    if unknown:
        notes.append(
            f"left out, since it is not known whether higher is better: "
            f"{_listed(unknown)} (say ?higher=NAME or ?lower=NAME)"
        )
    parts = {(part, metric) for part, metric, _ in known.values()}
    tested = {metric for part, metric in parts if part == "test"}
    validated = any(
        part == "valid" or not (part or metric in tested) for part, metric in parts
    )
    held_out = "valid" if validated else "test"
    columns: dict[str, str] = {}
    for key, (part, metric, _) in known.items():
        beside = {p for p, m in parts if m == metric} & {"valid", "test"}
        part = part or ("train" if beside else "valid")
        column = f"{'valid' if part == held_out else part}_{metric}"
        if column in columns.values():
            notes.append(f"{printable(key)} left out, a second {column}")
        else:
            columns[key] = column
    if tested and not validated:
        notes.append("test data shown as validation, since there is no other")
    described, factors = {}, {}
    for metric, higher in {m: h for _, m, h in known.values()}.items():
        usual = names.describe(metric, higher)
        found_factors = {
            (task, column): _factor(usual, numbers)
            for key, column in columns.items()
            if known[key][1] == metric
            for task, numbers in values[key].items()
        }
        unbounded = None in found_factors.values()
        described[metric] = dataclasses.replace(usual, **_FREE) if unbounded else usual
        scaled = {k: 1.0 if unbounded else f or 1.0 for k, f in found_factors.items()}
        percent = [k for k, factor in scaled.items() if factor != 1]
        if percent:
            some = ", ".join(sorted({" ".join(k) for k in percent}))
            all_of_it = len(percent) == len(scaled)
            of_it = metric if all_of_it else f"{metric} ({printable(some)})"
            notes.append(f"{of_it} was in percent")
        factors |= scaled
    named = {names.split(key)[1] for key in (*choices.higher, *choices.lower)}
    said = {metric for part, metric in parts if part == held_out}

    def place(metric: str) -> tuple[bool, ...]:
        best = bool(_BEST & set(metric.split("_")))
        return metric not in named, best, metric not in said, metric == LOSS.name

    ordered = sorted(described, key=place)
    objectives = [metric for metric in ordered if metric in named]
    if objectives[1:]:
        notes.append(f"judged by {ordered[0]}, the first of {_listed(objectives)}")
    ranking = [f"{part}_{m}" for part in ("valid", "train", "test") for m in ordered]
    ranked_by = next(column for column in ranking if column in columns.values())
    if ranked_by.startswith("train_"):
        notes.append("judged by training data, since there is nothing else")
    metrics = tuple(described[metric] for metric in ordered)
    return Measured(columns, factors, metrics, ranked_by, tuple(notes))


def _factor(metric: Metric, values: np.ndarray) -> float | None:
    """Factor for values: 0.01 for percent; None if they break the bounds."""
    finite = values[np.isfinite(values)]
    low, high = finite.min(initial=math.inf), finite.max(initial=-math.inf)
    if (metric.least, metric.greatest) != (0.0, 1.0) or not len(finite):
        return 1.0
    if low >= 0 and high <= 100:
        return 1.0 if high <= _ROUNDING else 0.01
    return None


def _listed(columns: list[str]) -> str:
    """Some names for a message."""
    more = ", ..." if columns[_LISTED:] else ""
    return printable(", ".join(columns[:_LISTED]) or "no number") + more
