"""The nouns of lrjax: Method, Metric, Task, Run, Space. Imports nothing of lrjax."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

PyTree = Any
Batch = Mapping[str, Any]

# Raised by one whenever the same run gives other numbers than before; part of each
# run's identity, so that old results are never mixed with new ones.
NUMERICS_VERSION = 6


class UsageError(ValueError):
    """What the user asked for cannot be done; one line that says what and where."""


class Interrupted(Exception):  # noqa: N818 -- it is no error, somebody asked for it
    """A signal asked the program to end; all that was trained is kept.

    Attributes:
      signum: the signal.
    """

    def __init__(self, signum: int):
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


_SHOWN = 80  # characters of a value in a message
_HUGE = 1e7  # from here on a metric's value has an exponent
_NEAR = 0.55  # of two names that may be mistaken for each other; 1 is the same


def shown(value: object) -> str:
    """A value for a message: at most 80 characters of its `repr`.

    Example:
      >>> shown("a" * 1000)
      "'aaaaaaaa...aaaaaaa'"
    """
    try:
        return cut(repr(value))
    except Exception:  # of a user's own class, or nested without end
        return cut(object.__repr__(value))


def cut(text: str, most: int = _SHOWN) -> str:
    """A text as one line of at most 80 characters: of a longer one start and end."""
    if len(text) > 3 * most:
        text = text[:most] + text[-most:]
    text = printable(" ".join(text.split()))
    if len(text) <= most:
        return text
    end = (most - 3) // 2
    return f"{text[: most - 3 - end]}...{text[-end:]}"


def printable(text: str) -> str:
    """Text in which what would steer a terminal is written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def counted(count: float, one: str, many: str = "", form: str = ",") -> str:
    """A number of things for people: '1 run', '2,000 runs', '3 entries', '0.7 runs'.

    Args:
      count: how many.
      one, many: what one is called, and what several are where no 's' makes it.
      form: of the number, as for `format`.
    """
    number = f"{count:{form}}"
    return f"{number} {one if number == '1' else many or one + 's'}"


def unknown(kind: str, name: object, valid: Iterable[str]) -> UsageError:
    """The error for a name that does not exist, with one that is near if there is one.

    Args:
      kind: what is named, as in 'task'.
      name: that does not exist.
      valid: names that do.
    """
    valid = list(valid)
    asked = str(name) if isinstance(name, str) else ""
    near = nearest(asked, valid)
    hint = f"; did you mean '{near}'?" if near else ""
    if not near and len(", ".join(valid)) <= _SHOWN:
        hint = f": it is one of {', '.join(valid)}" if valid else ""
    said = cut(name) if isinstance(name, str) else shown(name)
    return UsageError(f"unknown {kind} '{said}'{hint}")


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The name among the valid ones that may have been meant; None if none is near."""
    lowered = {each.lower(): each for each in valid}
    short = [each for each in lowered if _initials(each) == name.lower()]
    if short and name.lower() not in lowered:
        return lowered[short[0]]
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=_NEAR)
    if near:
        return lowered[near[0]]
    # A part of it, as where 'cifar10' stands for 'cifar10/wrn16_2'.
    parts = [each for each in lowered if len(name) > 2 and name.lower() in each]
    return lowered[min(parts, key=len)] if parts else None


def _initials(name: str) -> str:
    """What people write for a name of several words: 'lr' for 'learning_rate'."""
    before, dot, last = name.rpartition(".")
    words = last.split("_")
    return before + dot + "".join(word[:1] for word in words) if words[1:] else ""


@dataclasses.dataclass(frozen=True)
class Domain:
    """Numbers that a hyperparameter may be.

    Attributes:
      low: the least.
      high: the most.
      closed: whether `high` itself is allowed.
      whole: whether only whole numbers are, both ends included.
    """

    low: float = 0.0
    high: float = math.inf
    closed: bool = False
    whole: bool = False

    def __contains__(self, value: float) -> bool:
        if value == self.high:
            return self.closed or self.whole
        return self.low <= value < self.high and not (self.whole and value % 1)

    def __str__(self) -> str:
        if self.whole:
            return f"a whole number from {self.low:.0f} to {self.high:.0f}"
        return f"in [{self.low:g}, {self.high:g}{']' if self.closed else ')'}"


@dataclasses.dataclass(frozen=True)
class Range:
    """Values that a tuner may try for one hyperparameter, both ends included.

    Attributes:
      low: smallest value.
      high: largest value.
      log: whether values are drawn uniformly in the logarithm.
      integer: whether only whole numbers are meant.
    """

    low: float
    high: float
    log: bool = True
    integer: bool = False


@dataclasses.dataclass(frozen=True)
class Space:
    """A search space: hyperparameter name -> Range. Independent dimensions."""

    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)


def _never(hparams: Mapping[str, Any]) -> bool:
    return False


def _no_code(hparams: Mapping[str, Any], horizon: int) -> str:
    return ""


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to control the learning rate: hyperparameters -> Optax transformation.

    Attributes:
      name: the name in `METHODS`, in tables and on the command line.
      build: `build(horizon, **hparams) -> GradientTransformationExtraArgs`, where
        `horizon` is the number of updates that the schedule is laid out for and
        `hparams` are values for all keys of `defaults`. `horizon` and every number
        outside `static` may be traced.
      defaults: every hyperparameter with its default.
      space: the hyperparameters worth tuning and their ranges.
      static: hyperparameters that are compiled in although they are numbers; what
        is no number (names, flags, None) always is.
      required: hyperparameters that have no default (None) and must be given.
      domains: hyperparameter -> the numbers that it may be; 0 or more for others.
      none: hyperparameter -> the number that trains the same as its default, None;
        where it is given a run has None.
      family: one of 'fixed', 'schedule', 'learning-rate-free', 'statistics'.
      source: paper and official implementation.
      advice: what its authors say about using it.
      needs_rate: whether it has a learning rate that one has to find.
      horizon_bound: whether, with given hyperparameters, its rate falls towards the
        horizon, so that a run which is cut short looks worse than it is.
      code: `code(hparams, horizon)`, what builds it, as an expression of Python in
        which `optim` is `lrjax.optim` and `schedules` is `lrjax.optim.schedules`; ''
        where there is none.
      optax: the same in plain Optax where it is exact, with `learning_rate` for the
        rate or schedule and hyperparameters in braces; '' where it is not.
    """

    name: str
    build: Callable[..., optax.GradientTransformationExtraArgs]
    defaults: Mapping[str, Any]
    family: str
    source: str
    advice: str = ""
    space: Space = Space()
    static: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    domains: Mapping[str, Domain] = dataclasses.field(default_factory=dict)
    none: Mapping[str, float] = dataclasses.field(default_factory=dict)
    needs_rate: bool = False
    horizon_bound: Callable[[Mapping[str, Any]], bool] = _never
    code: Callable[[Mapping[str, Any], int], str] = _no_code
    optax: str = ""


@dataclasses.dataclass(frozen=True)
class Metric:
    """What a model is judged by: how good it is on a part of the data, as one number.

    `lrjax.metrics` has ready-made ones.

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
    value: Callable[[Mapping[str, jax.Array]], jax.Array]
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


def mean_of(name: str) -> Callable[[Mapping[str, jax.Array]], jax.Array]:
    """A metric's `value`: the sum of that name over 'count'."""
    return functools.partial(_mean_of, name)


def _mean_of(name: str, sums: Mapping[str, jax.Array]) -> jax.Array:
    return sums[name] / sums["count"]


def _perplexity(sums: Mapping[str, jax.Array]) -> jax.Array:
    return jnp.exp(sums["loss"] / sums["count"])


ACCURACY = Metric("accuracy", mean_of("accuracy"), True, "%", 1, 0.0, 1.0)
LOSS = Metric("loss", mean_of("loss"), False)
NONNEGATIVE_LOSS = dataclasses.replace(LOSS, least=0.0)  # cross-entropies, squares
PERPLEXITY = Metric("perplexity", _perplexity, False, digits=2, least=1.0)
# What a task may ask for by name.
METRICS: Mapping[str, Metric] = {m.name: m for m in (ACCURACY, PERPLEXITY, LOSS)}
# What `lrjax.metrics` makes when it is called.
MAKERS = ("f1", "balanced_accuracy", "auc", "mae", "rmse", "r2")


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


def _metrics_of(asked: object) -> tuple[Metric, ...]:
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


@dataclasses.dataclass(frozen=True)
class Task:
    """Data on the device and the pure functions that train and judge a model.

    `train`, `valid` and `test` are dictionaries of arrays with one row per example.
    A batch is the same dictionary with `batch_size` rows and one more entry,
    `mask` [batch_size], 1.0 for real rows and 0.0 for the padding of a short batch.

    Attributes:
      name: the name in tables.
      train, valid, test: the three parts.
      init: `init(key) -> (params, state)`; `state` is what training changes beside
        the parameters (batch-norm statistics; `()` where there is none).
      loss: `loss(params, state, key, batch) -> (loss, (state, metrics))`, the mean
        over the rows with mask 1, or over metrics['count'] things where there is that.
      evaluate: `evaluate(params, state, batch) -> sums`, a dictionary of scalars and
        arrays: 'loss' and whatever the metrics need ('accuracy' for classifiers) summed
        over the rows with mask 1, and 'count', their number, or that of the things
        that the loss is a mean over.
      batch_size: rows of a batch.
      num_classes: number of classes; 0 where there are none.
      metrics: what is measured, `Metric`s or names of `METRICS` ('accuracy': the number
        of right rows over 'count', 'perplexity': the exponential of the mean loss,
        'loss'). Runs are ranked by the first, or by another that `metric=` names; the
        loss is always measured. () for the accuracy, if `evaluate` returns it, and the
        loss.
      max_norm: to which gradients are cut down; None: never.
      measured_rows: how many rows of the training part, its first, the training loss
        is measured on; None: all.
      micro_batches: equal parts that a batch is cut in, one after the other on the
        device, their gradients added up; for memory.
      streamed: whether `train` holds NumPy's arrays, on the host or mapped from a file,
        whose batches are sent to the device while it works.
      options: names and values of what the task was asked for that changes numbers,
        where it is not the default.
    """

    name: str
    train: Batch
    valid: Batch
    test: Batch
    init: Callable[[jax.Array], tuple[PyTree, PyTree]]
    loss: Callable[..., tuple[jax.Array, tuple[PyTree, Mapping[str, jax.Array]]]]
    evaluate: Callable[[PyTree, PyTree, Batch], Mapping[str, jax.Array]]
    batch_size: int
    num_classes: int = 0
    metrics: tuple[Metric, ...] = ()
    max_norm: float | None = None
    measured_rows: int | None = None
    micro_batches: int = 1
    streamed: bool = False
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self):
        asked = self.metrics if self.metrics != () else self._default()
        try:
            object.__setattr__(self, "metrics", _metrics_of(asked))
        except UsageError as error:
            raise UsageError(f"task '{self.name}': {error}") from None

    def _default(self) -> Metric:
        """Accuracy, unless `evaluate` returns none; whether it does costs a trace."""

        def sums() -> Any:
            rows = min(self.batch_size, self.num_examples)
            batch = {k: jnp.asarray(v[:rows]) for k, v in self.train.items()}
            batch["mask"] = jnp.ones(rows)
            bits = jnp.zeros(2, jnp.uint32)
            key = jax.random.wrap_key_data(bits, impl="threefry2x32")
            return self.evaluate(*self.init(key), batch)

        try:
            found = jax.eval_shape(sums)
        except Exception:  # what is wrong with a task is for `check_task` to say
            return ACCURACY
        return ACCURACY if ACCURACY.name in found else LOSS

    @property
    def metric(self) -> Metric:
        """What runs are ranked by, the first of `metrics`."""
        return self.metrics[0]

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the metrics in the order of the tables: the loss comes first."""
        names = [metric.name for metric in self.metrics if metric.name != LOSS.name]
        return (LOSS.name, *names)

    @property
    def num_examples(self) -> int:
        """Rows of the training part."""
        return len(next(iter(self.train.values())))

    @property
    def steps_per_epoch(self) -> int:
        """Batches that cover the training part once, the last one perhaps short."""
        return -(-self.num_examples // self.batch_size)


def _with_metric(init: Callable[..., None]) -> Callable[..., None]:
    """Lets `Task` and `dataclasses.replace` take `metric=`: what to rank by.

    It is no field, so that to replace `metrics` is never undone by an older `metric`.
    """

    @functools.wraps(init)
    def made(self: Task, *args: Any, metric: Any = None, **fields: Any) -> None:
        if metric is not None:
            others = fields.get("metrics", ())
            if isinstance(others, str | Metric) or not isinstance(others, Iterable):
                others = (others,)
            others = tuple(others)
            try:
                own = (each for each in others if isinstance(each, Metric))
                first = find_metric(metric, own)
            except UsageError as error:
                name = args[0] if args else fields.get("name")
                raise UsageError(f"task '{name}': {error}") from None
            rest = (each for each in others if str(each) != first.name)
            fields["metrics"] = (first, *rest)
        init(self, *args, **fields)

    return made


Task.__init__ = _with_metric(Task.__init__)


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that decides one training run's numbers.

    Attributes:
      task, protocol, method: names.
      hparams: a value for every hyperparameter of the method, sorted by name.
      seed: decides initialisation, data order and noise; nothing else does.
      steps: updates to train for.
      horizon: updates that schedules are laid out for (`steps` unless cut short).
      batch_size: rows of a batch.
      precision: 'float32', 'float64' or 'bfloat16' (compute only).
      eval_every: steps between evaluations.
      data: fingerprint of the task's data.
      fresh_batches: whether every batch comes from a new order of its own.
      recalibrated: whether the model's state is made anew for the parameters that are
        judged.
      options: of the task.
    """

    task: str
    protocol: str
    method: str
    hparams: tuple[tuple[str, Any], ...]
    seed: int
    steps: int
    horizon: int
    batch_size: int
    precision: str
    eval_every: int
    data: str
    fresh_batches: bool = False
    recalibrated: bool = False
    options: tuple[tuple[str, Any], ...] = ()
