"""Ready-made metrics, each with the sums that `Task.evaluate` returns for it.

`evaluate` returns sums over the rows with mask 1, scalars or arrays; lrjax adds them up
over slices of the data and over devices, and a metric computes one number from the
totals. So metrics that are not means over rows, such as F1, are exact, however the data
are sliced.

Example: a task that is ranked by macro F1 and also records accuracy and loss.
  >>> import jax
  >>> import jax.numpy as jnp
  >>> from lrjax import metrics
  >>> def evaluate(params, state, batch):
  ...     logits = batch["x"] @ params
  ...     labels, mask = batch["labels"], batch["mask"]
  ...     predicted = logits.argmax(1)
  ...     own = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
  ...     return {
  ...         "loss": -(own[:, 0] @ mask),
  ...         "accuracy": mask.sum(where=predicted == labels),
  ...         "confusion": metrics.confusion(labels, predicted, mask, 3),
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
from typing import TYPE_CHECKING, ParamSpec, TypeAlias

from lrjax import plugins
from lrjax.messages import (
    UsageError,
    cut,
    nearest,
    shown,
    unknown,
)

if TYPE_CHECKING:  # functions import it: tables are read and shown without JAX
    import jax

_HUGE = 1e7  # values from here on are shown with an exponent
_AVERAGES = ("macro", "binary")
Sums: TypeAlias = "Mapping[str, jax.Array]"
P = ParamSpec("P")


@dataclasses.dataclass(frozen=True)
class Metric:
    """A measure of a model's quality on a part of the data, as one number.

    Attributes:
      name: letters, digits and underscores; columns of tables are `train_NAME`,
        `valid_NAME` and `test_NAME`.
      value: `value(sums) -> scalar`, in `jax.numpy`, where `sums` are those of
        `Task.evaluate` over a whole part. Sums may be arrays, such as a confusion
        matrix or a histogram. NaN where the metric is not defined.
      higher_is_better: whether higher values are better.
      unit: unit, shown after the name; with '%' values are shown times 100.
      digits: decimals shown.
      least, greatest: bounds of the value, for intervals; infinite if there are none.

    Raises:
      UsageError: if an attribute is invalid.

    Example:
      >>> hits = Metric("hits", lambda sums: sums["hits"] / sums["count"], True, "%", 1)
      >>> hits.text(hits.value({"hits": 3, "count": 4}))
      '75.0 %'
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
                isinstance(bound, int | float) for bound in bounds
            )
            and self.least < self.greatest,
        }
        for rule, holds in checks.items():
            if not holds:
                raise UsageError(f"metric '{self.name}': {rule}")

    def __str__(self) -> str:
        return self.name

    @property
    def sign(self) -> float:
        """Factor that turns values into scores, where higher is better: 1.0 or -1.0."""
        return 1.0 if self.higher_is_better else -1.0

    @property
    def factor(self) -> float:
        """Factor that converts values to the metric's unit: 100.0 for '%', else 1.0."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def label(self) -> str:
        """The name with its unit: 'accuracy (%)'."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def apart(self) -> str:
        """Unit of differences of shown values: 'points', 'in loss'."""
        return "points" if self.unit == "%" else self.unit or f"in {self.name}"

    def shown(self, value: float) -> str:
        """Format a value in the metric's unit, without the unit: '93.3'.

        Large values have fewer decimals; one without bounds is not shown as 0 if it is
        none.

        Example:
          >>> [LOSS.shown(value) for value in (0.1234, 12.34, 12345.678, 2e-5, 1e8)]
          ['0.123', '12.340', '12346', '2.0e-05', '1.000e+08']
        """
        value = self.factor * value
        size = abs(value)
        if size >= _HUGE or not math.isfinite(size):
            return f"{value:.{self.digits}e}"
        if math.isinf(self.greatest) and 0 < size < 0.5 * 10**-self.digits:
            return f"{value:.1e}"
        whole = len(str(int(size)))
        places = min(self.digits, max(5, self.digits + 2) - whole)
        return f"{value:.{max(places, 0)}f}"

    def text(self, value: float) -> str:
        """Format a value with its unit: '93.3 %'."""
        return f"{self.shown(value)} {self.unit}".rstrip()


def mean_of(name: str) -> Callable[[Sums], jax.Array]:
    """Return a `value` for a metric that is the sum of this name over 'count'.

    Example:
      >>> mean_of("hits")({"hits": 3, "count": 4})
      0.75
    """
    return functools.partial(_mean_of, name)


def _mean_of(name: str, sums: Sums) -> jax.Array:
    return sums[name] / sums["count"]


def _perplexity(sums: Sums) -> jax.Array:
    import jax.numpy as jnp

    return jnp.exp(sums["loss"] / sums["count"])


ACCURACY = Metric("accuracy", mean_of("accuracy"), True, "%", 1, 0.0, 1.0)
LOSS = Metric("loss", mean_of("loss"), False)
NONNEGATIVE_LOSS = dataclasses.replace(LOSS, least=0.0)  # cross-entropies, squares
PERPLEXITY = Metric("perplexity", _perplexity, False, digits=2, least=1.0)
# Metrics that a task may give by name.
METRICS: dict[str, Metric] = {m.name: m for m in (ACCURACY, PERPLEXITY, LOSS)}
# Functions that make a metric, by name; `_made_once` registers them.
MAKERS: dict[str, Callable[..., Metric]] = {}


def find_metric(name: object, among: Iterable[Metric] = ()) -> Metric:
    """Look up a metric by name in `among`, then in `METRICS`; return metrics as given.

    Raises:
      UsageError: if the name is unknown.

    Example:
      >>> find_metric("accuracy").label
      'accuracy (%)'
    """
    if isinstance(name, Metric):
        return name
    known = {**METRICS, **{metric.name: metric for metric in among}}
    if callable(name):
        maker = getattr(name, "__name__", "")
        if maker not in MAKERS:
            raise UsageError(f"{shown(name)} is a function: wrap it in lrjax.Metric")
        raise UsageError(f"{maker} makes a metric: did you mean metrics.{maker}()?")
    if not isinstance(name, str):
        raise unknown("metric", str(name), known)
    if name in known:
        return known[name]
    if plugins.is_path(name) or name in plugins.offered("metric"):
        return plugins.find("metric", name, METRICS, _accept)
    maker = nearest(name, MAKERS)
    if maker and (name == maker or not nearest(name, known)):
        raise UsageError(
            f"unknown metric '{cut(name)}'; did you mean metrics.{maker}(), "
            "from lrjax.metrics?"
        )
    raise unknown("metric", name, known)


def _accept(name: str, found: object) -> Metric:
    """Check that what a package offers is a metric, or a function that makes one."""
    metric = found() if callable(found) and not isinstance(found, Metric) else found
    if not isinstance(metric, Metric):
        raise UsageError(f"metric '{cut(name)}' is {shown(metric)}, not a lrjax.Metric")
    return metric


def metrics_of(given: object) -> tuple[Metric, ...]:
    """Return a task's metrics, given a name, a metric or several; add the loss.

    Example:
      >>> [metric.name for metric in metrics_of([f1(), "accuracy"])]
      ['f1', 'accuracy', 'loss']
    """
    if isinstance(given, str | Metric) or not isinstance(given, Iterable):
        given = (given,)
    metrics = tuple(find_metric(metric) for metric in given)
    names = [metric.name for metric in metrics]
    for metric in metrics:
        if names.count(metric.name) > 1:
            raise UsageError(f"metric '{metric.name}' comes twice")
        if metric.name == LOSS.name and metric.higher_is_better:
            raise UsageError("metric 'loss': lower must be better")
    return metrics if LOSS.name in names else (*metrics, LOSS)


def _made_once(make: Callable[P, Metric]) -> Callable[P, Metric]:
    """Cache a metric per arguments: an equal but new metric would mean recompiling."""
    cached = functools.cache(make)

    @functools.wraps(make)
    def maker(*args: P.args, **named: P.kwargs) -> Metric:
        try:
            return cached(*args, **named)
        except TypeError as error:
            raise UsageError(f"metrics.{make.__name__}: {error}") from error

    MAKERS[make.__name__] = maker
    return maker


# Sums


def confusion(
    labels: jax.Array, predicted: jax.Array, mask: jax.Array, num_classes: int
) -> jax.Array:
    """Count rows by label and prediction, for `f1` and `balanced_accuracy`.

    Args:
      labels, predicted: whole numbers below num_classes, [rows].
      mask: 1.0 for rows to count, [rows].
      num_classes: number of classes.

    Returns:
      the confusion matrix, [num_classes, num_classes], labels first.

    Example:
      >>> import jax.numpy as jnp
      >>> labels, predicted = jnp.array([0, 1, 1]), jnp.array([0, 0, 1])
      >>> confusion(labels, predicted, jnp.ones(3), 2).tolist()
      [[1.0, 0.0], [1.0, 1.0]]
    """
    import jax
    import jax.numpy as jnp

    classes = jnp.arange(num_classes)
    # Labels may be of any type; so may predictions, also booleans.
    with jax.numpy_dtype_promotion("standard"):
        own, taken = labels[:, None] == classes, predicted[:, None] == classes
    own = own.astype(mask.dtype) * mask[:, None]
    return own.T @ taken.astype(own.dtype)


def score_counts(
    scores: jax.Array, labels: jax.Array, mask: jax.Array, bins: int = 1000
) -> jax.Array:
    """Count scores in equal bins, separately for two classes, for `auc`.

    Args:
      scores: from 0 to 1, such as the probability of class 1, [rows].
      labels: 0 or 1, [rows].
      mask: 1.0 for rows to count, [rows].
      bins: number of equal parts of [0, 1].

    Returns:
      [2, bins], class 0 first.

    Example:
      >>> import jax.numpy as jnp
      >>> scores, labels = jnp.array([0.1, 0.9, 0.8]), jnp.array([0, 1, 0])
      >>> score_counts(scores, labels, jnp.ones(3), 2).tolist()
      [[1.0, 1.0], [0.0, 1.0]]
    """
    import jax.numpy as jnp

    place = jnp.clip((scores * bins).astype(jnp.int32), 0, bins - 1)
    return jnp.zeros((2, bins), mask.dtype).at[labels, place].add(mask)


# Metrics of classifiers


@_made_once
def f1(average: str = "macro", sums: str = "confusion") -> Metric:
    """Make F1, the harmonic mean of precision and recall: scikit-learn's `f1_score`.

    `evaluate` returns `sums: confusion(labels, predicted, mask, num_classes)`.

    Args:
      average: 'macro' for the mean over the classes that occur as label or prediction,
        'binary' for class 1 only.
      sums: name of the counts in the sums that `evaluate` returns.

    Example:
      >>> import jax.numpy as jnp
      >>> counts = confusion(jnp.array([0, 1, 1]), jnp.array([0, 0, 1]), jnp.ones(3), 2)
      >>> round(float(f1("binary").value({"confusion": counts})), 4)
      0.6667
    """
    if average not in _AVERAGES:
        raise UsageError(f"metrics.f1: average must be one of {', '.join(_AVERAGES)}")

    def value(totals: Sums) -> jax.Array:
        import jax.numpy as jnp

        counts = totals[sums]
        right, occurs = jnp.diagonal(counts), counts.sum(0) + counts.sum(1)
        per_class = 2 * right / jnp.maximum(occurs, 1)
        if average == "binary":
            return per_class[1]
        return per_class.sum() / (occurs > 0).sum().astype(per_class.dtype)

    return Metric("f1", value, True, "%", 1, 0.0, 1.0)


@_made_once
def balanced_accuracy(sums: str = "confusion") -> Metric:
    """Make balanced accuracy: the mean recall of the classes.

    `evaluate` returns `sums: confusion(labels, predicted, mask, num_classes)`. Classes
    without rows are left out, as in scikit-learn's `balanced_accuracy_score`.

    Example:
      >>> import jax.numpy as jnp
      >>> counts = confusion(jnp.array([0, 1, 1]), jnp.array([0, 0, 1]), jnp.ones(3), 2)
      >>> float(balanced_accuracy().value({"confusion": counts}))
      0.75
    """

    def value(totals: Sums) -> jax.Array:
        import jax.numpy as jnp

        counts = totals[sums]
        rows = counts.sum(1)
        recalls = jnp.diagonal(counts) / jnp.maximum(rows, 1)
        return recalls.sum() / (rows > 0).sum().astype(recalls.dtype)

    return Metric("balanced_accuracy", value, True, "%", 1, 0.0, 1.0)


@_made_once
def auc(sums: str = "scores") -> Metric:
    """Make the area under the ROC curve: scikit-learn's `roc_auc_score`, with bins.

    `evaluate` returns `sums: score_counts(scores, labels, mask)`. The area is the share
    of pairs of a row of class 1 and a row of class 0 in which the first has the higher
    score. Scores in the same bin are treated as equal and count half, so the error is
    at most half the share of such pairs. NaN if a class has no rows.

    Example:
      >>> import jax.numpy as jnp
      >>> scores, labels = jnp.array([0.1, 0.9, 0.8, 0.7]), jnp.array([0, 1, 0, 1])
      >>> float(auc().value({"scores": score_counts(scores, labels, jnp.ones(4))}))
      0.75
    """

    def value(totals: Sums) -> jax.Array:
        import jax.numpy as jnp

        # Shares, not counts: products of counts would exceed float32's precision.
        negative, positive = totals[sums] / totals[sums].sum(1, keepdims=True)
        below = jnp.cumsum(negative) - negative / 2
        return jnp.clip(positive @ below, 0, 1)

    return Metric("auc", value, True, "", 4, 0.0, 1.0)


# Metrics of regression


@_made_once
def mae(unit: str = "", digits: int = 3, sums: str = "absolute_error") -> Metric:
    """Make the mean absolute error: scikit-learn's `mean_absolute_error`.

    `evaluate` returns `sums: jnp.abs(predicted - targets) @ mask`, [rows] each.

    Example:
      >>> import jax.numpy as jnp
      >>> totals = {"absolute_error": jnp.array(6.0), "count": jnp.array(4.0)}
      >>> mae("years", digits=1).text(mae().value(totals))
      '1.5 years'
    """
    return Metric("mae", mean_of(sums), False, unit, digits, 0.0)


@_made_once
def rmse(unit: str = "", digits: int = 3, sums: str = "squared_error") -> Metric:
    """Make the root mean squared error: scikit-learn's `root_mean_squared_error`.

    `evaluate` returns `sums: (predicted - targets) ** 2 @ mask`, [rows] each.

    Example:
      >>> import jax.numpy as jnp
      >>> float(rmse().value({"squared_error": jnp.array(36.0), "count": jnp.array(4)}))
      3.0
    """

    def value(totals: Sums) -> jax.Array:
        import jax.numpy as jnp

        return jnp.sqrt(totals[sums] / totals["count"])

    return Metric("rmse", value, False, unit, digits, 0.0)


@_made_once
def r2(sums: str = "moments") -> Metric:
    """Make R², the share of the targets' variance explained: scikit-learn's `r2_score`.

    `evaluate` returns `sums: jnp.stack([error ** 2 @ mask, t @ mask, t ** 2 @ mask])`,
    where `t` are the targets, [rows], minus a constant near their mean: the variance is
    a difference of moments, which loses digits for targets far from 0. NaN if all
    targets are equal.

    Example:
      >>> import jax.numpy as jnp
      >>> t, error = jnp.array([-1.0, 0.0, 1.0]), jnp.array([0.0, 1.0, 0.0])
      >>> moments = jnp.stack([(error**2).sum(), t.sum(), (t**2).sum()])
      >>> float(r2().value({"moments": moments, "count": jnp.array(3.0)}))
      0.5
    """

    def value(totals: Sums) -> jax.Array:
        import jax.numpy as jnp

        errors, first, second = totals[sums]
        spread = second - first**2 / totals["count"]
        return jnp.where(spread > 0, 1 - errors / spread, jnp.nan)

    return Metric("r2", value, True, "", 4, greatest=1.0)
