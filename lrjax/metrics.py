"""Ready-made metrics, each with the sums that `Task.evaluate` returns for it.

`evaluate` returns sums over the rows with mask 1, scalars or arrays; lrjax adds them up
over slices of the data and over devices, and a metric makes one number of the totals.
So a metric is exact whatever slices there were, where a mean of slices' means would not
be: F1 is no mean over rows.

Example, a task that is ranked by macro F1 and has tables of its accuracy and loss, too:
  >>> import jax
  >>> import jax.numpy as jnp
  >>> from lrjax import metrics
  >>> def evaluate(params, state, batch):
  ...     logits = batch["x"] @ params
  ...     labels, mask = batch["labels"], batch["mask"]
  ...     found = logits.argmax(1)
  ...     own = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
  ...     return {
  ...         "loss": -(own[:, 0] @ mask),
  ...         "accuracy": mask.sum(where=found == labels),
  ...         "confusion": metrics.confusion(labels, found, mask, 3),
  ...         "count": mask.sum(),
  ...     }
  >>> batch = {"x": jnp.eye(3), "labels": jnp.array([0, 1, 1]), "mask": jnp.ones(3)}
  >>> sums = evaluate(jnp.eye(3), (), batch)
  >>> [round(float(m.value(sums)), 3) for m in (metrics.f1(), metrics.ACCURACY)]
  [0.556, 0.667]

and then `Task(..., metrics=(metrics.f1(), "accuracy", "loss"))`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec

import jax
import jax.numpy as jnp

from lrjax.messages import (
    UsageError,
    cut,
    nearest,
    shown,
    unknown,
)

_HUGE = 1e7  # from here on a metric's value has an exponent
_AVERAGES = ("macro", "binary")
Sums = Mapping[str, jax.Array]
P = ParamSpec("P")


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a model is judged by: how good it is on a part of the data, as one number.

    Attributes:
      name: letters, digits and underscores; in tables it is `train_NAME`, `valid_NAME`
        and `test_NAME`.
      value: `value(sums) -> scalar`, in `jax.numpy`: from what `Task.evaluate` returns,
        summed over a whole part, to the number. Sums may be arrays, such as the counts
        of a confusion matrix or of a histogram. NaN where it is not defined.
      higher_is_better: the direction.
      unit: shown behind its name; '%': values are shown times 100.
      digits: how many are shown after the point.
      least, greatest: what its value can be, for intervals; infinite where there is
        no bound.

    Raises:
      UsageError: if one of these cannot be meant.

    Example:
      >>> hits = Metric("hits", lambda sums: sums["hits"] / sums["count"], True)
    """

    name: str
    value: Callable[[Sums], jax.Array]
    higher_is_better: bool
    unit: str = ""
    digits: int = 3
    least: float = -math.inf
    greatest: float = math.inf

    def __post_init__(self):
        named = isinstance(self.name, str) and re.fullmatch(r"[A-Za-z]\w*", self.name)
        if not named or not self.name.isascii():
            raise UsageError(
                f"a metric's name must be letters, digits and underscores, not "
                f"{shown(self.name)}"
            )
        bounds = (self.least, self.greatest)
        checks = {
            "value must be a function of sums": callable(self.value),
            "higher_is_better must be True or False": isinstance(
                self.higher_is_better, bool
            ),
            "unit must be text of up to 20 characters": isinstance(self.unit, str)
            and len(self.unit) <= 20,
            "digits must be a whole number from 0 to 12": isinstance(self.digits, int)
            and 0 <= self.digits <= 12,
            "least must be a number below greatest": all(
                isinstance(each, int | float) for each in bounds
            )
            and self.least < self.greatest,
        }
        for what, sound in checks.items():
            if not sound:
                raise UsageError(f"metric '{self.name}': {what}")

    def __str__(self) -> str:
        return self.name

    @property
    def sign(self) -> float:
        """1.0 where higher is better, else -1.0: times a value it is a score."""
        return 1.0 if self.higher_is_better else -1.0

    @property
    def factor(self) -> float:
        """What values are multiplied by where they are shown in the metric's unit."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def label(self) -> str:
        """The name with its unit: 'accuracy (%)'."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def apart(self) -> str:
        """What differences of shown values are in: 'points', 'in loss'."""
        return "points" if self.unit == "%" else self.unit or f"in {self.name}"

    def shown(self, value: float) -> str:
        """A value in the metric's unit, without it: '93.3'."""
        value = self.factor * value
        kind = "e" if abs(value) >= _HUGE else "f"
        return f"{value:.{self.digits}{kind}}"

    def text(self, value: float) -> str:
        """A value with its unit: '93.3 %'."""
        return f"{self.shown(value)} {self.unit}".rstrip()


def mean_of(name: str) -> Callable[[Sums], jax.Array]:
    """A metric's `value`: the sum of that name over 'count'."""
    return functools.partial(_mean_of, name)


def _mean_of(name: str, sums: Sums) -> jax.Array:
    return sums[name] / sums["count"]


def _perplexity(sums: Sums) -> jax.Array:
    return jnp.exp(sums["loss"] / sums["count"])


ACCURACY = Metric("accuracy", mean_of("accuracy"), True, "%", 1, 0.0, 1.0)
LOSS = Metric("loss", mean_of("loss"), False)
NONNEGATIVE_LOSS = dataclasses.replace(LOSS, least=0.0)  # cross-entropies, squares
PERPLEXITY = Metric("perplexity", _perplexity, False, digits=2, least=1.0)
# What a task may ask for by name.
METRICS: Mapping[str, Metric] = {m.name: m for m in (ACCURACY, PERPLEXITY, LOSS)}
# Functions that make a metric, by name; `_made_once` adds them.
MAKERS: dict[str, Callable[..., Metric]] = {}


def find_metric(name: object, among: Iterable[Metric] = ()) -> Metric:
    """A metric by its name: one of `among`, else one of `METRICS`; a metric as it is.

    Raises:
      UsageError: if there is none of that name.
    """
    if isinstance(name, Metric):
        return name
    known = {**METRICS, **{each.name: each for each in among}}
    if callable(name):
        called = getattr(name, "__name__", "")
        if called not in MAKERS:
            raise UsageError(f"{shown(name)} is a function, no metric: wrap it in one")
        raise UsageError(f"{called} makes a metric: did you mean metrics.{called}()?")
    if not isinstance(name, str):
        raise unknown("metric", str(name), known)
    if name in known:
        return known[name]
    maker = nearest(name, MAKERS)
    if maker and (name == maker or not nearest(name, known)):
        raise UsageError(
            f"unknown metric '{cut(name)}'; did you mean metrics.{maker}(), "
            "from lrjax.metrics?"
        )
    raise unknown("metric", name, known)


def metrics_of(asked: object) -> tuple[Metric, ...]:
    """A task's metrics, from names or metrics; the loss is always among them."""
    if isinstance(asked, str | Metric) or not isinstance(asked, Iterable):
        asked = (asked,)
    found = tuple(find_metric(each) for each in asked)
    names = [each.name for each in found]
    for metric in found:
        if names.count(metric.name) > 1:
            raise UsageError(f"metric '{metric.name}' comes twice")
        if metric.name == LOSS.name and metric.higher_is_better:
            raise UsageError("metric 'loss': lower must be better")
    return found if LOSS.name in names else (*found, LOSS)


def _made_once(make: Callable[P, Metric]) -> Callable[P, Metric]:
    """The same metric for the same arguments: programs are compiled for each."""
    cached = functools.cache(make)

    @functools.wraps(make)
    def made(*args: P.args, **named: P.kwargs) -> Metric:
        try:
            return cached(*args, **named)
        except TypeError as error:
            raise UsageError(f"metrics.{make.__name__}: {error}") from error

    MAKERS[make.__name__] = made
    return made


# Sums


def confusion(
    labels: jax.Array, predicted: jax.Array, mask: jax.Array, num_classes: int
) -> jax.Array:
    """Counts of rows by label and prediction, for `f1` and `balanced_accuracy`.

    Args:
      labels, predicted: whole numbers below num_classes, [rows].
      mask: 1.0 for rows that count, [rows].
      num_classes: how many classes there are.

    Returns:
      [num_classes, num_classes], the label first.

    Example:
      >>> labels, predicted = jnp.array([0, 1, 1]), jnp.array([0, 0, 1])
      >>> confusion(labels, predicted, jnp.ones(3), 2).tolist()
      [[1.0, 0.0], [1.0, 1.0]]
    """
    classes = jnp.arange(num_classes)
    # Labels may be of any type; so may predictions, also booleans.
    with jax.numpy_dtype_promotion("standard"):
        own, taken = labels[:, None] == classes, predicted[:, None] == classes
    own = own.astype(mask.dtype) * mask[:, None]
    return own.T @ taken.astype(own.dtype)


def score_counts(
    scores: jax.Array, labels: jax.Array, mask: jax.Array, bins: int = 1000
) -> jax.Array:
    """A histogram of scores in each of two classes, for `auc`.

    Args:
      scores: from 0 to 1, such as the probability of class 1, [rows].
      labels: 0 or 1, [rows].
      mask: 1.0 for rows that count, [rows].
      bins: equal parts of [0, 1].

    Returns:
      [2, bins], class 0 first.

    Example:
      >>> scores, labels = jnp.array([0.1, 0.9, 0.8]), jnp.array([0, 1, 0])
      >>> score_counts(scores, labels, jnp.ones(3), 2).tolist()
      [[1.0, 1.0], [0.0, 1.0]]
    """
    place = jnp.clip((scores * bins).astype(jnp.int32), 0, bins - 1)
    return jnp.zeros((2, bins), mask.dtype).at[labels, place].add(mask)


# Metrics of classifiers


@_made_once
def f1(average: str = "macro", sums: str = "confusion") -> Metric:
    """F1, the harmonic mean of precision and recall: scikit-learn's `f1_score`.

    `evaluate` returns `sums: confusion(labels, predicted, mask, num_classes)`.

    Args:
      average: 'macro', the mean over the classes that occur as label or prediction, or
        'binary', of class 1 alone.
      sums: name of the counts in what `evaluate` returns.

    Example:
      >>> counts = confusion(jnp.array([0, 1, 1]), jnp.array([0, 0, 1]), jnp.ones(3), 2)
      >>> round(float(f1("binary").value({"confusion": counts})), 4)
      0.6667
    """
    if average not in _AVERAGES:
        raise UsageError(f"metrics.f1: average must be one of {', '.join(_AVERAGES)}")

    def value(totals: Sums) -> jax.Array:
        counts = totals[sums]
        right, occurs = jnp.diagonal(counts), counts.sum(0) + counts.sum(1)
        each = 2 * right / jnp.maximum(occurs, 1)
        if average == "binary":
            return each[1]
        return each.sum() / (occurs > 0).sum().astype(each.dtype)

    return Metric("f1", value, True, "%", 1, 0.0, 1.0)


@_made_once
def balanced_accuracy(sums: str = "confusion") -> Metric:
    """Mean over classes of the share of their rows that are right.

    `evaluate` returns `sums: confusion(labels, predicted, mask, num_classes)`. Classes
    without a row do not count, as in scikit-learn's `balanced_accuracy_score`.

    Example:
      >>> counts = confusion(jnp.array([0, 1, 1]), jnp.array([0, 0, 1]), jnp.ones(3), 2)
      >>> float(balanced_accuracy().value({"confusion": counts}))
      0.75
    """

    def value(totals: Sums) -> jax.Array:
        counts = totals[sums]
        rows = counts.sum(1)
        each = jnp.diagonal(counts) / jnp.maximum(rows, 1)
        return each.sum() / (rows > 0).sum().astype(each.dtype)

    return Metric("balanced_accuracy", value, True, "%", 1, 0.0, 1.0)


@_made_once
def auc(sums: str = "scores") -> Metric:
    """Area under the ROC curve: scikit-learn's `roc_auc_score` of scores in bins.

    `evaluate` returns `sums: score_counts(scores, labels, mask)`. It is the share of
    pairs of a row of class 1 and one of class 0 in which the first has the higher
    score. Scores in the same bin are taken for equal and count half, so that the error
    is at most half the share of such pairs. NaN without rows of either class.

    Example:
      >>> scores, labels = jnp.array([0.1, 0.9, 0.8, 0.7]), jnp.array([0, 1, 0, 1])
      >>> float(auc().value({"scores": score_counts(scores, labels, jnp.ones(4))}))
      0.75
    """

    def value(totals: Sums) -> jax.Array:
        # Shares, not counts: products of counts have more digits than float32.
        negative, positive = totals[sums] / totals[sums].sum(1, keepdims=True)
        below = jnp.cumsum(negative) - negative / 2
        return jnp.clip(positive @ below, 0, 1)

    return Metric("auc", value, True, "", 4, 0.0, 1.0)


# Metrics of regression


@_made_once
def mae(unit: str = "", digits: int = 3, sums: str = "absolute_error") -> Metric:
    """Mean absolute error: scikit-learn's `mean_absolute_error`.

    `evaluate` returns `sums: jnp.abs(predicted - targets) @ mask`, [rows] each.

    Example:
      >>> totals = {"absolute_error": jnp.array(6.0), "count": jnp.array(4.0)}
      >>> mae("years", digits=1).text(mae().value(totals))
      '1.5 years'
    """
    return Metric("mae", mean_of(sums), False, unit, digits, 0.0)


@_made_once
def rmse(unit: str = "", digits: int = 3, sums: str = "squared_error") -> Metric:
    """Root of the mean squared error: scikit-learn's `root_mean_squared_error`.

    `evaluate` returns `sums: (predicted - targets) ** 2 @ mask`, [rows] each.

    Example:
      >>> float(rmse().value({"squared_error": jnp.array(36.0), "count": jnp.array(4)}))
      3.0
    """

    def value(totals: Sums) -> jax.Array:
        return jnp.sqrt(totals[sums] / totals["count"])

    return Metric("rmse", value, False, unit, digits, 0.0)


@_made_once
def r2(sums: str = "moments") -> Metric:
    """Share of the targets' variance that is explained: scikit-learn's `r2_score`.

    `evaluate` returns `sums: jnp.stack([error ** 2 @ mask, t @ mask, t ** 2 @ mask])`,
    where `t` are the targets, [rows], less a constant near their mean: the variance is
    a difference of their moments, and far from 0 it would lose digits. NaN where all
    targets are equal.

    Example:
      >>> t, error = jnp.array([-1.0, 0.0, 1.0]), jnp.array([0.0, 1.0, 0.0])
      >>> moments = jnp.stack([(error**2).sum(), t.sum(), (t**2).sum()])
      >>> float(r2().value({"moments": moments, "count": jnp.array(3.0)}))
      0.5
    """

    def value(totals: Sums) -> jax.Array:
        errors, first, second = totals[sums]
        spread = second - first**2 / totals["count"]
        return jnp.where(spread > 0, 1 - errors / spread, jnp.nan)

    return Metric("r2", value, True, "", 4, greatest=1.0)
