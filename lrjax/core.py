"""The nouns of lrjax: Method, Metric, Task, Run, Space."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lrjax.messages import Interrupted as Interrupted
from lrjax.messages import UsageError as UsageError
from lrjax.messages import counted as counted
from lrjax.messages import cut as cut
from lrjax.messages import nearest as nearest
from lrjax.messages import printable as printable
from lrjax.messages import shown as shown
from lrjax.messages import unknown as unknown
from lrjax.metrics import ACCURACY as ACCURACY
from lrjax.metrics import LOSS as LOSS
from lrjax.metrics import METRICS as METRICS
from lrjax.metrics import NONNEGATIVE_LOSS as NONNEGATIVE_LOSS
from lrjax.metrics import PERPLEXITY as PERPLEXITY
from lrjax.metrics import Metric as Metric
from lrjax.metrics import find_metric as find_metric
from lrjax.metrics import metrics_of

PyTree = Any
Batch = Mapping[str, Any]

# Raised by one whenever the same run gives other numbers than before; part of each
# run's identity, so that old results are never mixed with new ones.
NUMERICS_VERSION = 6


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
      adam_like: whether a protocol may set `b2`, the memory of Adam's second moment,
        as it does for all Adams; False for published settings.
      code: what `build` is called in Python that has imported `optim` from `lrjax` and
        `builders` from `lrjax.optim`; '' for what lies elsewhere.
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
    adam_like: bool = False
    code: str = ""


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
            object.__setattr__(self, "metrics", metrics_of(asked))
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
