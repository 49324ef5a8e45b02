"""The types that all of lrjax shares: Method, Metric, Task, Run, Space."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from lrjax.domains import Domain as Domain
from lrjax.messages import Interrupted as Interrupted
from lrjax.messages import UsageError as UsageError
from lrjax.messages import counted as counted
from lrjax.messages import cut as cut
from lrjax.messages import encodable as encodable
from lrjax.messages import listed as listed
from lrjax.messages import nearest as nearest
from lrjax.messages import printable as printable
from lrjax.messages import raised as raised
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

if TYPE_CHECKING:  # one function imports it: tables are read and shown without JAX
    import jax
    import optax

PyTree = Any
Metrics = str | Metric | Iterable[str | Metric]
Batch = Mapping[str, Any]

# Incremented whenever the same run gives other numbers than before; part of each run's
# identity, so that old and new results never mix.
NUMERICS_VERSION = 9
SHARDED = ("runs", "batch", "params")  # values of config.shard


@dataclasses.dataclass(frozen=True)
class Range:
    """The search range of one hyperparameter, both ends included.

    Attributes:
      low: smallest value.
      high: largest value.
      log: whether values are drawn uniformly in the logarithm.
      integer: whether values are whole numbers.

    Example:
      >>> Range(1e-4, 1.0)  # of a learning rate
      Range(low=0.0001, high=1.0, log=True, integer=False)
    """

    low: float
    high: float
    log: bool = True
    integer: bool = False


@dataclasses.dataclass(frozen=True)
class Space:
    """A search space: hyperparameter name -> Range. Independent dimensions.

    Example:
      >>> space = Space({"learning_rate": Range(1e-4, 1.0), "b1": Range(0, 1, False)})
      >>> sorted(space.ranges)
      ['b1', 'learning_rate']
    """

    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)


def _never(hparams: Mapping[str, Any]) -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to control the learning rate: hyperparameters -> Optax transformation.

    Attributes:
      name: the name in `METHODS`, in tables and on the command line.
      build: `build(horizon, **hparams)` returns a transformation of Optax, where
        `horizon` is the number of updates that the schedule is laid out for and
        `hparams` are values for all keys of `defaults`. `horizon` and every number
        outside `static` may be traced.
      defaults: every hyperparameter with its default.
      space: the hyperparameters worth tuning and their ranges.
      static: hyperparameters that are compiled in although they are numbers; values
        other than numbers (names, flags, None) are always compiled in.
      required: hyperparameters that have no default (None) and must be set.
      domains: hyperparameter -> its valid numbers; 0 or more for those not listed.
      none: hyperparameter -> the number that trains the same as its default, None; a
        run stores None for it.
      family: one of 'fixed', 'schedule', 'learning-rate-free', 'statistics'.
      source: paper and official implementation.
      advice: the authors' advice on its use.
      needs_rate: whether it has a learning rate that must be tuned.
      horizon_bound: whether, with given hyperparameters, its rate falls towards the
        horizon, so that a run cut short looks worse than it is.
      adam_like: whether a protocol may set `b2`, the decay of Adam's second moment,
        as for all variants of Adam; False for published settings.
      code: Python expression for `build`, given `optim` from `lrjax` and `builders`
        from `lrjax.optim`; '' if there is none.

    Example:
      >>> import optax
      >>> own = Method(
      ...     name="own_sgd",
      ...     build=lambda horizon, learning_rate: optax.sgd(learning_rate),
      ...     defaults={"learning_rate": 0.1},
      ...     family="fixed",
      ...     source="one's own",
      ...     space=Space({"learning_rate": Range(1e-3, 1.0)}),
      ... )
      >>> tx = own.build(100, **own.defaults)
      >>> updates, opt_state = tx.update(2.0, tx.init(1.0))
      >>> round(updates, 6)
      -0.2
    """

    name: str
    build: Callable[..., optax.GradientTransformation]
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


class TaskSettings(TypedDict, total=False):
    """Options of `Task.from_flax` and its like.

    Attributes:
      name: the name in tables; default: that of the model.
      batch_size: rows of a batch; default: 64, or all rows if there are fewer.
      metrics: names or objects `Metric`, as for `Task`; runs are ranked by the first.
        Sums that the metrics of lrjax.metrics need come from outputs, as logits where
        there are classes, and targets. Targets in the outputs' shape are shares of the
        classes, of which the largest is right, with a softmax's loss or if all rows add
        up to 1; else each is yes, above a half, or no, and one row counts once.
        Default: the accuracy if targets are whole numbers and outputs have an axis of
        classes, or with a binary cross-entropy, and the loss.
      metric: the metric to rank by, if not the first.
      sums: name -> `function(outputs, targets, mask) -> sum`, for own metrics.
      targets: the entry of a dictionary that holds the targets; default: the first of
        targets, target, labels, label and y.
      inputs: the entry or entries of a dictionary that the model gets; default: all
        others.
      lengths: the input that says which items of a row count, such as tokens: the
        length of each row [rows], or 1 and 0 [rows, items]. The loss then has a value
        per item, and is a mean over items. The model gets this input only if it has an
        argument of this name.
      streamed: whether the training part stays on the host; default: if it is mapped
        from a file (numpy.load with mmap_mode='r'), or comes from an iterator and has
        more than 1 GiB.
      max_bytes: largest size of the batches that are collected from an iterator, on
        disk from 1 GiB on; default: 16 GiB.
      max_norm, measured_rows, micro_batches: as for `Task`.
    """

    name: str | None
    batch_size: int | None
    metrics: Metrics
    metric: str | Metric | None
    sums: Mapping[str, Callable[..., jax.Array]] | None
    targets: str | None
    inputs: str | Iterable[str] | None
    lengths: str | None
    streamed: bool | None
    max_bytes: int
    max_norm: float | None
    measured_rows: int | None
    micro_batches: int


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set and the pure functions that train and evaluate a model on it.

    `train`, `valid` and `test` are dictionaries of arrays with one row per example.
    A batch is the same dictionary with `batch_size` rows and one more entry,
    `mask` [batch_size], 1.0 for real rows and 0.0 for the padding of a short batch.

    Attributes:
      name: the name in tables.
      train, valid, test: training, validation and test data.
      init: `init(key) -> (params, state)`; `state` holds values other than parameters
        that training updates, such as batch-norm statistics; `()` if there are none.
      loss: `loss(params, state, key, batch) -> (loss, (state, metrics))`, the mean
        over the rows with mask 1, or over metrics['count'] items if it has that key
        (tokens, for example).
      evaluate: `evaluate(params, state, batch) -> sums`, a dictionary of scalars and
        arrays: 'loss' and the sums that the metrics need ('accuracy' for classifiers),
        each over the rows with mask 1; and 'count', the number of these rows, or of
        the items that the loss is a mean over.
      batch_size: rows of a batch.
      num_classes: number of classes; 0 for tasks without classes.
      metrics: names in `METRICS` or objects `Metric` ('accuracy': correct over 'count',
        'perplexity': exponential of the mean loss, 'loss'). Runs are ranked by the
        first, or by the one given as `metric=`; the loss is always measured. Default:
        the accuracy, if `evaluate` returns it, and the loss.
      max_norm: gradients are clipped to this global norm; None: never.
      measured_rows: number of training rows, from the first on, that the training loss
        is measured on; None: all.
      micro_batches: gradient accumulation: equal parts of a batch, computed one after
        the other to save memory.
      streamed: whether `train` holds NumPy arrays, in host memory or memory-mapped,
        whose batches are sent to the device during training.
      exchangeable: whether a random draw decided which rows train and which validate:
        a selection may then let them change places for its second runs.
      options: (name, value) of the options that change results and differ from their
        defaults.

    Example: a number near `x`, by the squared error.
      >>> import jax.numpy as jnp
      >>> def evaluate(params, state, batch):
      ...     errors = (batch["x"] - params) ** 2
      ...     return {"loss": errors @ batch["mask"], "count": batch["mask"].sum()}
      >>> def loss(params, state, key, batch):
      ...     sums = evaluate(params, state, batch)
      ...     return sums["loss"] / sums["count"], (state, {})
      >>> init = lambda key: (jnp.zeros(()), ())
      >>> train, valid, test = ({"x": jnp.arange(n, dtype=float)} for n in (8, 4, 4))
      >>> task = Task("near", train, valid, test, init, loss, evaluate, batch_size=4)
      >>> task.metric.name, task.steps_per_epoch
      ('loss', 2)
    """

    name: str
    train: Batch
    valid: Batch
    test: Batch
    init: Callable[[jax.Array], tuple[PyTree, PyTree]]
    loss: Callable[..., tuple[jax.Array, tuple[PyTree, Mapping[str, jax.Array]]]]
    evaluate: Callable[..., Mapping[str, jax.Array]]
    batch_size: int
    num_classes: int = 0
    metrics: tuple[Metric, ...] = ()
    max_norm: float | None = None
    measured_rows: int | None = None
    micro_batches: int = 1
    streamed: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    exchangeable: bool = False

    if TYPE_CHECKING:  # for checkers: metrics in all forms, and `metric` (_with_metric)

        def __init__(
            self,
            name: str,
            train: Batch,
            valid: Batch,
            test: Batch,
            init: Callable[[jax.Array], tuple[PyTree, PyTree]],
            loss: Callable[..., tuple[jax.Array, tuple[PyTree, Mapping[str, Any]]]],
            evaluate: Callable[..., Mapping[str, jax.Array]],
            batch_size: int,
            num_classes: int = 0,
            metrics: Metrics = (),
            max_norm: float | None = None,
            measured_rows: int | None = None,
            micro_batches: int = 1,
            streamed: bool = False,
            options: tuple[tuple[str, Any], ...] = (),
            exchangeable: bool = False,
            *,
            metric: str | Metric | None = None,
        ) -> None: ...

    def __post_init__(self):
        metrics = self.metrics if self.metrics != () else self._default_metric()
        try:
            object.__setattr__(self, "metrics", metrics_of(metrics))
        except UsageError as error:
            raise UsageError(f"task '{self.name}': {error}") from None

    def __repr__(self) -> str:
        """Name, sizes and metrics, without the arrays."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        rows = (f"{n} {len(next(iter(p.values()), ()))}" for n, p in parts.items())
        metrics = ", ".join(metric.name for metric in self.metrics)
        return (
            f"<task {printable(str(self.name))}: rows {', '.join(rows)}; batches of "
            f"{self.batch_size}; metrics {metrics}>"
        )

    def _default_metric(self) -> Metric:
        """Trace `evaluate`; return the accuracy if it has one, else the loss."""
        import jax
        import jax.numpy as jnp

        def sums() -> Any:
            """The sums of `evaluate` over one batch, at initial parameters."""
            rows = min(self.batch_size, self.num_examples)
            batch = {k: jnp.asarray(v[:rows]) for k, v in self.train.items()}
            batch["mask"] = jnp.ones(rows)
            bits = jnp.zeros(2, jnp.uint32)
            key = jax.random.wrap_key_data(bits, impl="threefry2x32")
            return self.evaluate(*self.init(key), batch)

        try:
            names = jax.eval_shape(sums)
        except Exception:  # `check_task` reports the errors of a task
            return ACCURACY
        return ACCURACY if ACCURACY.name in names else LOSS

    @classmethod
    def from_flax(
        cls,
        model: Any,
        loss: str | Callable[..., Any],
        train: Any,
        valid: Any = 0.2,
        test: Any = None,
        **options: Unpack[TaskSettings],
    ) -> Task:
        """Make a task of a Flax linen module.

        `train=`, `deterministic=` and the like are set if the model has such an
        argument; 'dropout' and other random streams get keys of the step; collections
        other than parameters, such as `batch_stats`, are the model's state.

        Args:
          model: a `flax.linen.Module`, called as `model(inputs)`; a tuple of inputs is
            several arguments, and so is a dictionary whose names the model knows.
          loss: `loss(outputs, targets) -> [rows, ...]`, a value per row, such as
            `optax.softmax_cross_entropy_with_integer_labels` (averaged over further
            axes); or 'cross_entropy', 'binary_cross_entropy' (both of logits),
            'squared_error', 'absolute_error' or 'huber'. A loss that returns one
            number is applied to each row alone, with a warning.
          train: (inputs, targets), each an array or a tuple or dictionary of arrays
            with a row per example; or a dictionary of both, a Hugging Face `Dataset`, a
            PyTorch `DataLoader` or another iterator of batches (docs/own_task.md).
          valid: the same, or a share of the rows of `train`.
          test: the same. None: a share as large as `valid`'s; if `valid` are data,
            these are used for testing, too.
          **options: see `TaskSettings`.

        Raises:
          UsageError: if model, loss or data do not fit, in one line.

        Example:
          >>> import numpy as np
          >>> from flax import linen as nn
          >>> x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
          >>> y = (x[:, 0] > 0).astype(int)
          >>> task = Task.from_flax(nn.Dense(2), "cross_entropy", train=(x, y))
          >>> task.num_examples, task.num_classes, task.metric.name
          (30, 2, 'accuracy')
        """
        return _adapters().from_flax(model, loss, (train, valid, test), options)

    @classmethod
    def from_nnx(
        cls,
        model: Any,
        loss: str | Callable[..., Any],
        train: Any,
        valid: Any = 0.2,
        test: Any = None,
        **options: Unpack[TaskSettings],
    ) -> Task:
        """Make a task of a Flax NNX module; see `from_flax`.

        `nnx.Param` are the parameters; random keys, such as those of dropout, are made
        from the step's; all other variables are the model's state. The module is in the
        mode of `train()` or `eval()`.

        Args:
          model: a function of `nnx.Rngs` that returns a module, or a class whose only
            argument is `rngs`. With a module itself all seeds begin at its parameters,
            with a warning.
          loss, train, valid, test, options: as for `from_flax`.

        Example:
          >>> import numpy as np
          >>> from flax import nnx
          >>> x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
          >>> model = lambda rngs: nnx.Linear(4, 1, rngs=rngs)
          >>> task = Task.from_nnx(model, "squared_error", train=(x, x[:, 0]))
          >>> task.num_examples, task.metric.name
          (30, 'loss')
        """
        return _adapters().from_nnx(model, loss, (train, valid, test), options)

    @classmethod
    def from_equinox(
        cls,
        model: Any,
        loss: str | Callable[..., Any],
        train: Any,
        valid: Any = 0.2,
        test: Any = None,
        batched: bool | None = None,
        **options: Unpack[TaskSettings],
    ) -> Task:
        """Make a task of an Equinox module; see `from_flax`.

        Its floating-point arrays are the parameters. `key=` is given in training if the
        model has it; `eqx.nn.inference_mode` is set for evaluation; `eqx.nn.State` is
        the model's state.

        Args:
          model: a function of a key that returns a module, or (module, state) as
            `eqx.nn.make_with_state` does. With a module itself all seeds begin at its
            parameters, with a warning.
          loss, train, valid, test, options: as for `from_flax`.
          batched: whether the model takes a batch. None: it takes one row and is
            vmapped, unless it fails on one.

        Example:
          >>> import equinox as eqx
          >>> import numpy as np
          >>> x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
          >>> y = (x[:, 0] > 0).astype(int)
          >>> model = lambda key: eqx.nn.MLP(4, 2, 8, depth=1, key=key)
          >>> task = Task.from_equinox(model, "cross_entropy", train=(x, y))
          >>> task.num_examples, task.num_classes, task.metric.name
          (30, 2, 'accuracy')
        """
        data = (train, valid, test)
        return _adapters().from_equinox(model, loss, data, batched, options)

    @classmethod
    def from_functions(
        cls,
        init: Callable[[jax.Array], Any],
        apply: Callable[..., Any],
        loss: str | Callable[..., Any],
        train: Any,
        valid: Any = 0.2,
        test: Any = None,
        **options: Unpack[TaskSettings],
    ) -> Task:
        """Make a task of plain functions; see `from_flax`.

        Args:
          init: `init(key) -> params`; or `(params, state)`, if `apply` has an argument
            `state`.
          apply: `apply(params, inputs) -> outputs`; with an argument `state` it returns
            (outputs, state). If it has `key` or `rng`, it gets the step's random key,
            None in evaluation; if it has `train`, `deterministic` or the like, it is
            told which of both it is.
          loss, train, valid, test, options: as for `from_flax`.

        Example:
          >>> import jax
          >>> import numpy as np
          >>> x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
          >>> init = lambda key: jax.random.normal(key, (4,)) / 2
          >>> apply = lambda params, x: x @ params
          >>> task = Task.from_functions(init, apply, "huber", train=(x, x[:, 0]))
          >>> task.num_examples, task.metric.name
          (30, 'loss')
        """
        data = (train, valid, test)
        return _adapters().from_functions(init, apply, loss, data, options)

    @property
    def metric(self) -> Metric:
        """The metric that runs are ranked by: the first of `metrics`."""
        return self.metrics[0]

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the metrics in the order of the tables, the loss first."""
        names = [metric.name for metric in self.metrics if metric.name != LOSS.name]
        return (LOSS.name, *names)

    @property
    def num_examples(self) -> int:
        """Rows of the training part."""
        return len(next(iter(self.train.values())))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch; the last may be short."""
        return -(-self.num_examples // self.batch_size)


def _adapters() -> Any:
    """The module behind `Task.from_flax` and its like, loaded when first used."""
    return importlib.import_module("lrjax.tasks.adapters")


def _with_metric(init: Callable[..., None]) -> Callable[..., None]:
    """Let `Task` and `dataclasses.replace` take `metric=`, the metric to rank by.

    If `metric` were a field, `replace(task, metrics=...)` would pass on the old value,
    which would then be put first again.
    """

    @functools.wraps(init)
    def with_metric(self: Task, *args: Any, metric: Any = None, **fields: Any) -> None:
        if metric is not None:
            others = fields.get("metrics", ())
            if isinstance(others, str | Metric) or not isinstance(others, Iterable):
                others = (others,)
            others = tuple(others)
            try:
                own = (other for other in others if isinstance(other, Metric))
                first = find_metric(metric, own)
            except UsageError as error:
                name = args[0] if args else fields.get("name")
                raise UsageError(f"task '{name}': {error}") from None
            rest = (other for other in others if str(other) != first.name)
            fields["metrics"] = (first, *rest)
        init(self, *args, **fields)

    return with_metric


Task.__init__ = _with_metric(Task.__init__)


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that determines the results of one training run.

    Attributes:
      task, protocol, method: names.
      hparams: a value for every hyperparameter of the method, sorted by name.
      seed: the only source of initialisation, data order and noise.
      steps: number of updates.
      horizon: updates that schedules span (`steps`, unless the run is cut short).
      batch_size: rows of a batch.
      precision: 'float32', 'float64' or 'bfloat16' (compute only).
      eval_every: steps between evaluations.
      data: fingerprint of the task's data.
      fresh_batches: whether every batch is the first of a new shuffle.
      recalibrated: whether the model's state (batch-norm statistics) is recomputed for
        the parameters that are evaluated.
      options: options of the task.
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
