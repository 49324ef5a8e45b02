"""What a user may set, and its check before any work starts."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import config_dict

from lrjax import hyperparameters, layout
from lrjax import methods as methods_lib
from lrjax import protocol as protocol_lib
from lrjax.core import Domain, Range, Text, UsageError, shown, unknown
from lrjax.identity import dtype_of, is_number, plain
from lrjax.methods import METHODS

PRECISIONS = ("auto", "float32", "bfloat16", "float64")
TUNERS = ("smac", "random", "grid", "asha")
UNITS = ("epochs", "steps")
FIDELITIES = ("truncate", "rescale")
SCALES = ("log", "linear", "integer")

_IN_WORDS = {int: "a whole number", float: "a number", bool: "True or False"}
_MOST_SEEDS = 10**6
_MOST_TRIALS = 10**5
_POSITIVE, _PART = Domain(5e-324), Domain(5e-324, 1.0, closed=True)


@dataclasses.dataclass(frozen=True)
class Tune:
    """What `config.tune` asks for; None is the protocol's choice.

    Attributes:
      tuner: one of `TUNERS`.
      trials: evaluations of each tuning.
      min_budget, max_budget: whole numbers of epochs or steps; the largest is the
        length of a full run where None.
      unit: 'epochs' or 'steps'.
      eta: Hyperband and ASHA promote one of so many configurations.
      fidelity: 'truncate' or 'rescale'.
      continuing: whether a promoted trial goes on from its state instead of from the
        start, where its schedule allows it; changes no number.
      seeds: of the tuner; one tuning each.
      space: hyperparameter -> range, in place of the method's space.
      cost: column to tune by; '' for the protocol's.
    """

    tuner: str
    trials: int
    min_budget: int | None
    max_budget: int | None
    unit: str | None
    eta: int
    fidelity: str | None
    continuing: bool
    seeds: tuple[int, ...]
    space: Mapping[str, Range]
    cost: str = ""


@dataclasses.dataclass(frozen=True)
class Select:
    """What `config.select` asks for.

    Attributes:
      budget: full runs that a race may take on each task.
      methods: names; none for those of a flag `--config.methods`, else for all that
        are registered.
      seeds: of every contender; none for as many as the budget bears.
    """

    budget: float
    methods: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Cluster:
    """What `config.cluster` asks for, with --launcher=dask.

    Attributes:
      address: of a scheduler that runs; 'local' for workers on this machine, 'slurm'
        for workers that are SLURM jobs.
      workers: to be started, for 'local' and 'slurm'.
      cores, memory, gpus, walltime, queue, account: of one SLURM job.
      extra: further #SBATCH options.
      timeout: seconds to wait for a scheduler's answer.
    """

    address: str
    workers: int
    cores: int
    memory: str
    gpus: int
    walltime: str
    queue: str
    account: str
    extra: tuple[str, ...]
    timeout: float


@dataclasses.dataclass(frozen=True)
class Settings:
    """A checked config.

    Attributes:
      tasks, methods: names.
      protocol: which choices apply where the config makes none.
      seeds: of the runs.
      epochs: passes over the training part, or None for the protocol's.
      steps: updates of every run, or None; stronger than `epochs`.
      batch_size: rows of a batch; None for the task's own.
      precision: one of `PRECISIONS`.
      micro_batches: parts that a batch is cut in, to save memory.
      remat: whether activations are computed again for gradients, to save memory.
      label_smoothing: share of each label that is spread over all classes.
      stream: whether the training part stays on the host; None where it has to.
      shard: what is dealt out to devices: whole blocks of 'runs', each 'batch', or
        batches and the 'params', too.
      eval_every: steps between measurements; None for an epoch.
      hparams: method -> hyperparameter -> value, where the config sets one.
      grid: hyperparameter -> values.
      checkpoint_minutes: time between two checkpoints of a block.
      save_params: whether to keep the parameters of finished runs.
      skip_missing: whether to leave out tasks whose data cannot be had.
      tune: how to tune.
      select: how to race.
      cluster: where --launcher=dask finds workers.
      text: what language tasks read.
    """

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    protocol: str
    seeds: tuple[int, ...]
    epochs: int | None
    steps: int | None
    batch_size: int | None
    precision: str
    eval_every: int | None
    hparams: Mapping[str, Mapping[str, Any]]
    grid: Mapping[str, tuple[Any, ...]]
    tune: Tune
    select: Select
    cluster: Cluster
    checkpoint_minutes: float = 10.0
    save_params: bool = False
    skip_missing: bool = False
    text: Text = dataclasses.field(default_factory=Text)
    micro_batches: int = 1
    remat: bool = False
    label_smoothing: float = 0.0
    stream: bool | None = None
    shard: str = "runs"

    def length(self, task: str) -> tuple[int, str]:
        """How long a run on a task is: a number, and 'epochs' or 'steps'."""
        if self.steps:
            return self.steps, "steps"
        if self.epochs:
            return self.epochs, "epochs"
        return protocol_lib.find(self.protocol).length(task)

    def updates(self, task: str, steps_per_epoch: int) -> int:
        """How many updates a run on a task makes."""
        length, unit = self.length(task)
        return length * (steps_per_epoch if unit == "epochs" else 1)

    def lanes(self, method: str, task: str) -> list[dict[str, Any]]:
        """Every combination of hyperparameters that a method runs with on a task.

        Values come, the later the stronger, from the method's defaults, the protocol,
        the config's `hparams` and its `grid`.

        Raises:
          UsageError: if a value is missing or out of range.
        """
        found = methods_lib.find(method)
        base = dict(found.defaults)
        base |= protocol_lib.find(self.protocol).overrides(method, task)
        base |= self.hparams.get(method, {})
        axes = {k: v for k, v in self.grid.items() if k in base}

        def asked() -> Iterator[dict[str, Any]]:
            for values in itertools.product(*axes.values()):
                lane = base | dict(zip(axes, values, strict=True))
                for name in found.required:
                    if lane[name] is None:
                        raise UsageError(
                            f"method '{method}' needs {name}, for which there is no "
                            f"value on '{task}' under protocol '{self.protocol}': set "
                            f"--config.hparams.{method}.{name}, or leave the method out"
                        )
                yield lane

        lanes: dict[tuple[Any, ...], dict[str, Any]] = {}
        for lane in hyperparameters.complete_all(found, asked(), self.precision):
            lanes.setdefault(tuple(lane.values()), lane)  # 0 and 0.0 are one lane
        return list(lanes.values())


# The study's methods that need no published value, and the everyday baseline.
COMPARED = ("adam", "adamw_cosine", "cawr", "dadapt_adam", "prodigy", "cocob", "dowg")


class Config(config_dict.ConfigDict):
    """A ConfigDict that takes NumPy's numbers and arrays, and ranges, as Python's."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, plain(value))


def base() -> config_dict.ConfigDict:
    """A config with every field, for the files in `configs/` to fill in."""
    config = Config()
    config.tasks = ()
    config.methods = ()
    config.protocol = "sound"
    config.seeds = config_dict.placeholder(object)  # how many, or a tuple of them
    config.epochs = config_dict.placeholder(int)  # None: the protocol's for the task
    config.steps = config_dict.placeholder(int)  # updates; overrides epochs
    config.batch_size = config_dict.placeholder(int)  # None: the task's own
    config.precision = "auto"  # float32; bfloat16 for networks on TPUs
    config.micro_batches = 1  # parts of a batch, one after the other, to save memory
    config.remat = False  # compute activations again for gradients, to save memory
    config.label_smoothing = 0.0  # of image tasks, in [0, 1)
    config.stream = config_dict.placeholder(bool)  # data on the host; None: if need be
    config.shard = "runs"  # over devices: runs, batch, or params (and batch)
    config.eval_every = config_dict.placeholder(int)  # steps; None: an epoch
    config.checkpoint_minutes = 10.0  # between two checkpoints of a block
    config.save_params = False  # keep the parameters of finished runs
    config.skip_missing = False  # leave out tasks whose data cannot be had, and say so
    # Values tried for a hyperparameter, in every combination, by each method that
    # has it; () is unset.
    names = sorted({name for method in METHODS.values() for name in method.defaults})
    config.grid = Config(dict.fromkeys(names, ()))
    # What to change of a method's defaults; None is unset.
    config.hparams = Config(
        {
            name: {hp: config_dict.placeholder(object) for hp in method.defaults}
            for name, method in METHODS.items()
        }
    )
    config.seeds = 10
    # What language tasks read; docs/text.md says more.
    config.text = Config()
    config.text.corpus = ""  # files, tfds:NAME, hf:NAME, pydoc; '': of the data_dir
    config.text.tokenizer = ""  # tokenizer.json or a folder; '': the task's own
    config.text.length = config_dict.placeholder(int)  # tokens of a row
    config.text.fraction = 1.0  # of the documents
    config.tune = _tune_base(names)
    # Where --launcher=dask finds workers (docs/cluster.md).
    config.cluster = Config()
    config.cluster.address = "local"  # or slurm, or tcp://HOST:PORT of a scheduler
    config.cluster.workers = 2  # to be started, for local and slurm
    config.cluster.cores = 4  # of one SLURM job, and so on
    config.cluster.memory = "8GB"
    config.cluster.gpus = 0
    config.cluster.walltime = "01:00:00"
    config.cluster.queue = ""
    config.cluster.account = ""
    config.cluster.extra = ()  # further #SBATCH options, as in ("--constraint=a100",)
    config.cluster.timeout = 10.0  # seconds to wait for a scheduler's answer
    # What --mode=select does (docs/selection.md).
    config.select = Config()
    config.select.budget = 16.0  # full runs for each task
    config.select.methods = ()  # (): those of a flag --config.methods, else all
    config.select.seeds = config_dict.placeholder(object)  # how many, or which
    # What --mode=report shows; docs/report.md says more.
    config.report = Config()
    config.report.after = False  # write it at the end of training and tuning, too
    config.report.metric = ""  # columns to judge by; '': what ranks each task
    config.report.baseline = ""  # '': the entry with the best mean rank
    config.report.target = config_dict.placeholder(float)  # None: what half reach
    config.report.smooth = 0.0  # weight of a new value in curves; 0: as they are
    config.report.compare = ""  # CSV file with published results
    config.report.export = ""  # other formats: csv, parquet, tensorboard
    config.report.bootstrap = 2000  # how often runs are drawn anew
    config.report.folder = ""  # '': the folder report of the first workdir
    return config


def _tune_base(names: Iterable[str]) -> config_dict.ConfigDict:
    """What `--mode=tune` does; None is the protocol's choice (docs/tuning.md)."""
    tune = Config()
    tune.tuner = "smac"  # or random, grid, asha
    tune.trials = 50
    tune.min_budget = config_dict.placeholder(int)
    tune.max_budget = config_dict.placeholder(int)  # None: the length of a full run
    tune.unit = config_dict.placeholder(str)  # of budgets: epochs or steps
    tune.eta = 3
    tune.fidelity = config_dict.placeholder(str)  # truncate or rescale schedules
    tune.continuing = True  # promoted trials go on from their state
    tune.seeds = config_dict.placeholder(object)  # how many tunings, or their seeds
    tune.seeds = 1
    tune.cost = ""  # column to tune by, such as valid_accuracy; '': the protocol's
    # (low, high), perhaps with 'log', 'linear', 'integer'; () is unset. What is set
    # here for any of a method's hyperparameters is its whole space.
    tune.space = Config(dict.fromkeys(names, ()))
    return tune


def check(config: config_dict.ConfigDict) -> Settings:
    """Turns a config into settings.

    Raises:
      UsageError: if a name is unknown or a value is of no use; says which.
    """
    found, known = _fields(config), _known(frozenset(METHODS))
    for field in found:
        if field not in known:
            raise unknown("config field", field, known)
    for field in known:
        if field not in found:
            raise UsageError(f"the config has no '{field}': start from config.base()")
    hparams = {
        method: {k: plain(v) for k, v in values.items() if v is not None}
        for method, values in config.hparams.items()
    }
    precision = plain(config.precision)
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    settings = Settings(
        tasks=_names("tasks", config.tasks),
        methods=_names("methods", config.methods),
        protocol=protocol_lib.find(_words("protocol", config.protocol)).name,
        seeds=_seeds(config.seeds),
        epochs=_optional("epochs", config.epochs),
        steps=_optional("steps", config.steps),
        batch_size=_optional("batch_size", config.batch_size),
        precision=precision,
        eval_every=_optional("eval_every", config.eval_every),
        hparams={method: values for method, values in hparams.items() if values},
        grid={k: _values(k, v) for k, v in config.grid.items() if not _unset(v)},
        tune=_tune(config.tune, precision),
        select=_select(config.select),
        cluster=_cluster(config.cluster),
        checkpoint_minutes=_number(
            "checkpoint_minutes",
            config.checkpoint_minutes,
            Domain(closed=True),
            "0 or more",
        ),
        save_params=_flag("save_params", config.save_params),
        skip_missing=_flag("skip_missing", config.skip_missing),
        text=_text(config.text),
        micro_batches=_positive("micro_batches", config.micro_batches),
        remat=_flag("remat", config.remat),
        label_smoothing=_number(
            "label_smoothing", config.label_smoothing, Domain(high=1.0)
        ),
        stream=None if config.stream is None else _flag("stream", config.stream),
        shard=_choice("shard", config.shard, layout.SHARDED),
    )
    check_report(config.report)
    for name in settings.tune.space:
        _check_tuned(name, settings.methods)
    chosen = [methods_lib.find(name) for name in settings.methods]
    for name in settings.grid:
        if not any(name in method.defaults for method in chosen):
            raise UsageError(
                f"grid.{name}: none of the methods {', '.join(settings.methods)} has "
                f"a hyperparameter '{name}'"
            )
    for task, method in itertools.product(settings.tasks, settings.methods):
        settings.lanes(method, task)
    return settings


def unknown_field(names: Iterable[str]) -> UsageError | None:
    """The error for the first of some names that no config has; None if all have.

    Args:
      names: of fields, with dots: 'grid.learning_rate'.
    """
    known = _known(frozenset(METHODS))
    for name in names:
        if name not in known and not any(k.startswith(f"{name}.") for k in known):
            return unknown("config field", name, known)
    return None


def mistyped(name: str, text: str) -> UsageError | None:
    """The error for a flag whose text is no value of its field's type.

    Args:
      name: of the field, with dots.
      text: that the flag gave.

    Returns:
      None where another check has the words: of text, tuples, what may be either.
    """
    *path, last = name.split(".")
    part: Any = base()
    for step in path:
        part = part.get(step) if isinstance(part, config_dict.ConfigDict) else None
    if not isinstance(part, config_dict.ConfigDict) or last not in part:
        return None
    kind = part.get_type(last)
    if kind not in _IN_WORDS:
        return None
    return UsageError(f"config.{name}={shown(text)}: must be {_IN_WORDS[kind]}")


def unasked(settings: Settings, methods: Iterable[str]) -> list[str]:
    """Lines on hyperparameters that are set for methods which do not run.

    Args:
      settings: with the hyperparameters.
      methods: names of those that run.
    """
    idle = [name for name in settings.hparams if name not in set(methods)]
    return [
        f"config.hparams.{name} changes nothing: '{name}' does not run" for name in idle
    ]


def check_report(config: config_dict.ConfigDict) -> None:
    """Refuses a block `report` with values of the wrong kinds.

    Raises:
      UsageError: says which.
    """
    _flag("report.after", config.after)
    for name in ("baseline", "compare", "folder"):
        _words(f"report.{name}", config[name])
    for name in ("metric", "export"):
        _list(f"report.{name}", config[name])
    if config.target is not None:
        _number("report.target", config.target, Domain(-math.inf))
    _number("report.smooth", config.smooth, Domain(high=1.0))
    _positive("report.bootstrap", config.bootstrap)


def words(text: Any) -> tuple[str, ...]:
    """Names from text with commas between, '' for none; or from a tuple of them."""
    parts = text.split(",") if isinstance(text, str) else map(str, text)
    return tuple(part.strip() for part in parts if part.strip())


def _fields(config: config_dict.ConfigDict, prefix: str = "") -> list[str]:
    """Names of all fields, with dots."""
    names = []
    for name, value in config.items():
        if isinstance(value, config_dict.ConfigDict):
            names += _fields(value, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names


@functools.cache
def _known(methods: frozenset[str]) -> list[str]:
    """Names of the fields of a config while there are these methods."""
    del methods
    return _fields(base())


def _unset(value: Any) -> bool:
    return isinstance(value, tuple | list) and not value


def _values(name: str, value: Any) -> tuple[Any, ...]:
    value = plain(value)
    if not isinstance(value, tuple) or not value:
        raise UsageError(
            f"config.grid.{name}={shown(value)}: must be a tuple of values"
        )
    return value


def _names(field: str, value: Any) -> tuple[str, ...]:
    """Names from a tuple, or from text with commas as people write it."""
    names = _list(field, value)
    if not names:
        raise UsageError(f"config.{field} is empty: name at least one")
    return tuple(dict.fromkeys(names))


def _list(field: str, value: Any) -> tuple[str, ...]:
    """As `_names`, perhaps of none."""
    value = plain(value)
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, str) for part in parts):
        raise UsageError(
            f"config.{field}={shown(value)}: give names with commas between"
        )
    return words(",".join(parts))


def _seeds(value: Any, field: str = "seeds") -> tuple[int, ...]:
    """Seeds 0 to n - 1 for a number n, else the tuple itself."""
    value = plain(value)
    if _whole(value):
        if value < 1:
            raise UsageError(
                f"config.{field}={shown(value)}: at least one seed is needed"
            )
        if value > _MOST_SEEDS:
            raise UsageError(
                f"config.{field}={shown(value)}: more than {_MOST_SEEDS} seeds"
            )
        return tuple(range(value))
    if not isinstance(value, tuple) or not all(_whole(v) for v in value):
        raise UsageError(
            f"config.{field}={shown(value)}: give a number or a tuple of them"
        )
    if not value:
        raise UsageError(f"config.{field} is empty: at least one seed is needed")
    for seed in value:
        if not 0 <= seed < 2**32:
            raise UsageError(
                f"config.{field}: {shown(seed)} is not between 0 and 2**32 - 1"
            )
    if len(set(value)) < len(value):
        raise UsageError(f"config.{field}={shown(value)}: a seed comes twice")
    return value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(field: str, value: Any) -> int:
    value = plain(value)
    if not _whole(value) or not 1 <= value < 2**31:
        raise UsageError(
            f"config.{field}={shown(value)}: must be a whole number from 1 up"
        )
    return value


def _optional(field: str, value: Any) -> int | None:
    return None if value is None else _positive(field, value)


def _flag(field: str, value: Any) -> bool:
    value = plain(value)
    if not isinstance(value, bool):
        raise UsageError(f"config.{field}={shown(value)}: must be True or False")
    return value


def _number(field: str, value: Any, domain: Domain, which: str = "") -> float:
    """A number of a domain; `which` says it in words."""
    value = plain(value)
    if not is_number(value):
        raise UsageError(f"config.{field}={shown(value)}: must be a number")
    if value not in domain:
        raise UsageError(f"config.{field}={shown(value)}: must be {which or domain}")
    return math.inf if value > sys.float_info.max else float(value)


def _words(field: str, value: Any) -> str:
    value = plain(value)
    if not isinstance(value, str):
        raise UsageError(f"config.{field}={shown(value)}: must be text")
    return value


def _text(config: config_dict.ConfigDict) -> Text:
    return Text(
        corpus=_words("text.corpus", config.corpus),
        tokenizer=_words("text.tokenizer", config.tokenizer),
        length=_optional("text.length", config.length),
        fraction=_number("text.fraction", config.fraction, _PART, "in (0, 1]"),
    )


def _tune(config: config_dict.ConfigDict, precision: str) -> Tune:
    tune = Tune(
        tuner=_choice("tune.tuner", config.tuner, TUNERS),
        trials=_positive("tune.trials", config.trials),
        min_budget=_optional("tune.min_budget", config.min_budget),
        max_budget=_optional("tune.max_budget", config.max_budget),
        unit=None if config.unit is None else _choice("tune.unit", config.unit, UNITS),
        eta=_positive("tune.eta", config.eta),
        fidelity=None
        if config.fidelity is None
        else _choice("tune.fidelity", config.fidelity, FIDELITIES),
        continuing=_flag("tune.continuing", config.continuing),
        seeds=_seeds(config.seeds, "tune.seeds"),
        space={
            k: _range(k, v, precision) for k, v in config.space.items() if not _unset(v)
        },
        cost=_words("tune.cost", config.cost),
    )
    if tune.eta < 2:
        raise UsageError(f"config.tune.eta={tune.eta}: must be 2 or more")
    if tune.trials > _MOST_TRIALS:
        raise UsageError(f"config.tune.trials={tune.trials}: more than {_MOST_TRIALS}")
    if tune.min_budget and tune.max_budget and tune.min_budget > tune.max_budget:
        raise UsageError(
            f"config.tune.min_budget={tune.min_budget} is above "
            f"config.tune.max_budget={tune.max_budget}"
        )
    return tune


def _cluster(config: config_dict.ConfigDict) -> Cluster:
    names = ("address", "memory", "walltime", "queue", "account")
    texts = {name: _words(f"cluster.{name}", config[name]) for name in names}
    address = texts["address"]
    if address not in ("local", "slurm") and ":" not in address:
        raise UsageError(
            f"config.cluster.address={shown(address)}: must be local, slurm or an "
            "address as in tcp://HOST:PORT"
        )
    gpus = plain(config.gpus)
    if not _whole(gpus) or not 0 <= gpus < 2**31:
        raise UsageError(f"config.cluster.gpus={shown(gpus)}: must be a whole number")
    return Cluster(
        **texts,
        workers=_positive("cluster.workers", config.workers),
        cores=_positive("cluster.cores", config.cores),
        gpus=gpus,
        extra=_list("cluster.extra", config.extra),
        timeout=_number("cluster.timeout", config.timeout, _POSITIVE, "above 0"),
    )


def _select(config: config_dict.ConfigDict) -> Select:
    names = _list("select.methods", config.methods)
    for name in names:
        methods_lib.find(name)
    return Select(
        budget=_number("select.budget", config.budget, _POSITIVE, "above 0"),
        methods=tuple(dict.fromkeys(names)),
        seeds=() if config.seeds is None else _seeds(config.seeds, "select.seeds"),
    )


def _choice(field: str, value: Any, valid: tuple[str, ...]) -> str:
    value = plain(value)
    if value not in valid:
        raise unknown(f"config.{field}", value, valid)
    return value


def _range(name: str, value: Any, precision: str) -> Range:
    """A range from (low, high) and words; checked as far as it can be alone."""
    value = plain(value)
    where = f"config.tune.space.{name}={shown(value)}"
    if not isinstance(value, tuple) or len(value) < 2:
        raise UsageError(f"{where}: give (low, high), perhaps with 'log' or 'linear'")
    low, high, *words = value
    for word in words:
        if word not in SCALES:
            raise unknown(f"word in config.tune.space.{name}", word, SCALES)
    domains = [m.domains[name] for m in METHODS.values() if name in m.domains]
    domain = domains[0] if domains else Domain()
    low, high = (
        hyperparameters.number(where, bound, domain, dtype_of(precision))
        for bound in (low, high)
    )
    if low > high:
        raise UsageError(f"{where}: the lower bound is above the upper one")
    if low == high:
        raise UsageError(f"{where}: there is one value only")
    if "log" in words and low <= 0:
        raise UsageError(f"{where}: a logarithmic range cannot start at {low:g}")
    if "log" in words and "linear" in words:
        raise UsageError(f"{where}: either 'log' or 'linear'")
    integer = "integer" in words
    if integer and (low % 1 or high % 1):
        raise UsageError(f"{where}: 'integer' needs whole bounds")
    return Range(float(low), float(high), "log" in words, integer or domain.whole)


def _check_tuned(name: str, methods: tuple[str, ...]) -> None:
    """Refuses to tune what no method has, or what is no number."""
    having = [METHODS[m].defaults[name] for m in methods if name in METHODS[m].defaults]
    if not having:
        raise UsageError(
            f"tune.space.{name}: none of the methods {', '.join(methods)} has "
            f"a hyperparameter '{name}'"
        )
    for default in having:
        if isinstance(default, bool | str):
            raise UsageError(f"tune.space.{name}: '{default}' is no number to tune")
