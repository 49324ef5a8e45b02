"""The fields of a config, and their check before any work starts.

Each field is declared once, with its default, check and meaning, in one of the
dataclasses below (`lrjax.common.fields`). `base`, `check` and the page of
`--mode=config` are derived from them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import config_dict

import lrjax.hpo.tuners as tuners
from lrjax import hyperparameters
from lrjax import methods as methods_lib
from lrjax import protocol as protocol_lib
from lrjax.common import fields, files
from lrjax.common.fields import Config, block, field
from lrjax.core import (
    SHARDED,
    Domain,
    Range,
    UsageError,
    cut,
    nearest,
    shown,
    unknown,
)
from lrjax.identity import dtype_of, plain
from lrjax.methods import METHODS
from lrjax.tasks.options import Text

PRECISIONS = ("auto", "float32", "bfloat16", "float64")
UNITS = ("epochs", "steps")
FIDELITIES = ("truncate", "rescale")
SCALES = ("log", "linear", "integer")

_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False"}
_MOST_TRIALS = 10**5


# Checks and defaults of single fields


def _protocol(name: str, value: Any) -> str:
    return protocol_lib.find(fields.text(name, value)).name


def _precision(name: str, value: Any) -> str:
    """Check a precision."""
    value = plain(value)
    if value not in PRECISIONS:
        raise unknown(name, value, PRECISIONS)
    return value


def _trials(name: str, value: Any) -> int:
    """Check a number of trials."""
    trials = fields.positive(name, value)
    if trials > _MOST_TRIALS:
        raise UsageError(f"config.{name}={trials}: more than {_MOST_TRIALS}")
    return trials


def _tuner(name: str, value: Any) -> str:
    tuner = fields.text(name, value)
    if tuner != "smac":
        tuners.find(tuner)
    return tuner


def _eta(name: str, value: Any) -> int:
    """Check the ratio of two successive budgets."""
    eta = fields.positive(name, value)
    if eta < 2:
        raise UsageError(f"config.{name}={eta}: must be 2 or more")
    return eta


def _contenders(name: str, value: Any) -> tuple[str, ...]:
    """Check names of methods; drop repeated ones."""
    names = fields.some_names(name, value)
    for method in names:
        methods_lib.find(method)
    return tuple(dict.fromkeys(names))


def _address(name: str, value: Any) -> str:
    """Check the address of a Dask cluster."""
    address = fields.text(name, value)
    if address not in ("local", "slurm") and ":" not in address:
        raise UsageError(
            f"config.{name}={shown(address)}: must be local, slurm or an "
            "address as in tcp://HOST:PORT"
        )
    return address


def _path(name: str, value: Any) -> str:
    path = fields.text(name, value)
    try:
        return str(files.expanded(path)) if path else path
    except UsageError as error:
        raise UsageError(f"config.{name}: {error}") from error


def _gpus(name: str, value: Any) -> int:
    """Check a number of GPUs, from 0."""
    gpus = plain(value)
    if not fields.is_whole(gpus) or not 0 <= gpus < 2**31:
        raise UsageError(f"config.{name}={shown(gpus)}: must be a whole number")
    return gpus


def _seeds_or_none(name: str, value: Any) -> tuple[int, ...]:
    return () if value is None else fields.seeds(name, value)


def _hyperparameter_fields() -> Config:
    """Make a field for each hyperparameter of any method; () means unset."""
    names = {name for method in METHODS.values() for name in method.defaults}
    return Config(dict.fromkeys(sorted(names), ()))


def _method_blocks() -> Config:
    """Make a block per method with a field per hyperparameter; None means unset."""
    unset = functools.partial(config_dict.placeholder, object)
    return Config(
        {
            name: {hparam: unset() for hparam in method.defaults}
            for name, method in METHODS.items()
        },
        allow_dotted_keys=True,  # of import paths
    )


def _set_values(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `_hyperparameter_fields` that are set.

    Args:
      name: of the block, not used.
      config: hyperparameter -> value; () where it is unset.
    """
    del name
    return {
        k: v for k, v in config.items() if not (isinstance(v, tuple | list) and not v)
    }


def _grid(name: str, config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Check that every hyperparameter of a grid that is set has a tuple of values.

    Args:
      name: of the block, for messages.
      config: hyperparameter -> tuple of values; () where it is unset.
    """
    values = {k: plain(v) for k, v in _set_values(name, config).items()}
    for hparam, value in values.items():
        if not isinstance(value, tuple) or not value:
            raise UsageError(
                f"config.{name}.{hparam}={shown(value)}: must be a tuple of values"
            )
    return values


def _hparams(name: str, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the hyperparameters that are set, by method.

    Args:
      name: of the block, not used.
      config: method -> hyperparameter -> value; None where it is unset.
    """
    del name
    given = {
        method: {k: plain(v) for k, v in values.items() if v is not None}
        for method, values in config.items()
    }
    return {method: values for method, values in given.items() if values}


# Fields that may differ between tasks; `trials` is that of `tune`.
_OWN = ("methods", "seeds", "epochs", "steps", "batch_size", "trials")


def _per_task(name: str, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Check the settings of single tasks.

    Args:
      name: of the block, for messages.
      config: start of a task's name -> field of `_OWN` -> value.
    """
    declared = {**fields.declared(Settings), **fields.declared(Tune)}
    found: dict[str, dict[str, Any]] = {}
    for start, values in config.items():
        where = f"{name}[{shown(start)}]"
        if not isinstance(start, str):
            raise UsageError(f"config.{where}: the key must be the start of a name")
        if not isinstance(values, Mapping | config_dict.ConfigDict):
            raise UsageError(f"config.{where}: give fields and their values")
        found[start] = {}
        for key, value in values.items():
            if key not in _OWN:
                raise unknown(f"config.{where}", key, _OWN)
            part = declared[key]
            assert isinstance(part, fields.Field)
            found[start][key] = part.check(f"{where}.{key}", value)
        if {"epochs", "steps"} <= set(found[start]):
            raise UsageError(f"config.{where}: give epochs or steps, not both")
    return found


# Declarations


@fields.documented
@dataclasses.dataclass(frozen=True)
class Tune:
    """Settings of `--mode=tune`."""

    tuner: str = field(
        "smac",
        _tuner,
        f"Tuner: {', '.join(tuners.SHIPPED[:-1])} or {tuners.SHIPPED[-1]}, or the "
        "import path module:name of one's own.",
    )
    trials: int = field(50, _trials, "Trials of each tuning.")
    min_budget: int | None = field(
        None,
        fields.optional(fields.positive),
        "Smallest budget of a trial, in epochs or steps; None: the protocol's.",
        int,
    )
    max_budget: int | None = field(
        None,
        fields.optional(fields.positive),
        "Largest budget; None: the length of a full run.",
        int,
    )
    unit: str | None = field(
        None,
        fields.optional(fields.one_of(UNITS)),
        "Unit of budgets: epochs or steps; None: the protocol's.",
        str,
    )
    eta: int = field(3, _eta, "Hyperband and ASHA promote one of eta configurations.")
    fidelity: str | None = field(
        None,
        fields.optional(fields.one_of(FIDELITIES)),
        "How a budget below the full length shortens a schedule: truncate cuts it off, "
        "rescale fits it to the budget; None: the protocol's.",
        str,
    )
    continuing: bool = field(
        True,
        fields.flag,
        "Resume promoted trials from their state where the schedule allows it, instead "
        "of training from the start; changes no result.",
    )
    seeds: tuple[int, ...] = field(
        1, fields.seeds, "Number of tunings, or a tuple of their seeds.", object
    )
    space: Mapping[str, Range] = field(
        _hyperparameter_fields,
        _set_values,  # ranges need the precision: `check` makes them
        "Search range of a hyperparameter: (low, high), optionally with 'log', "
        "'linear', 'integer'. Setting any hyperparameter of a method replaces its "
        "whole search space; (): unset.",
    )
    cost: str = field(
        "",
        fields.text,
        "Column to minimise or maximise, such as valid_accuracy; '': the protocol's.",
    )


@fields.documented
@dataclasses.dataclass(frozen=True)
class Select:
    """Settings of `--mode=select`."""

    how: str = field(
        "auto",
        fields.one_of(("auto", "prior", "race", "bakeoff")),
        "prior: what known tasks say; race: train some contenders; bakeoff: train all; "
        "auto: by the budget, or by `seconds`.",
    )
    budget: float | None = field(
        None,
        fields.optional(fields.number(fields.POSITIVE, "above 0")),
        "Most training on each task, in full runs; None: as `how` needs.",
        object,
    )
    seconds: float = field(
        60.0,
        fields.number(fields.POSITIVE, "above 0"),
        "Without a budget, all contenders are trained where that is predicted to take "
        "at most so long.",
    )
    history: tuple[str, ...] = field(
        (),
        fields.some_names,
        "Working directories, or globs such as runs/*, whose finished bake-offs and "
        "runs add to what is known of tasks.",
    )
    methods: tuple[str, ...] = field(
        (),
        _contenders,
        "Methods to select from; (): those of the flag --config.methods, else those "
        "that known tasks were trained with.",
    )
    seeds: tuple[int, ...] = field(
        None,
        _seeds_or_none,
        "Number of seeds of every contender that is trained, or a tuple of seeds; "
        "None: the leading ones have more.",
        object,
    )


@fields.documented
@dataclasses.dataclass(frozen=True)
class Advise:
    """Settings of `--mode=advise`, which also uses `select.methods` and `.history`."""

    spend: float = field(
        0.01,
        fields.number(fields.PART, "above 0 and at most 1"),
        "Share of one full run that may be spent on short ones.",
    )


@fields.documented
@dataclasses.dataclass(frozen=True)
class Cluster:
    """Settings of the workers of `--launcher=dask`."""

    address: str = field(
        "local",
        _address,
        "local: start workers on this machine; slurm: start them as SLURM jobs; "
        "tcp://HOST:PORT or tls://HOST:PORT: use a running scheduler.",
    )
    workers: int = field(2, fields.positive, "Workers to start with local and slurm.")
    cores: int = field(4, fields.positive, "Cores of a SLURM job.")
    memory: str = field("8GB", fields.text, "Memory of a SLURM job.")
    gpus: int = field(0, _gpus, "GPUs of a SLURM job.")
    walltime: str = field("01:00:00", fields.text, "Time limit of a SLURM job.")
    queue: str = field("", fields.text, "Queue of SLURM jobs; '': SLURM's default.")
    account: str = field("", fields.text, "Account of SLURM jobs; '': the default.")
    extra: tuple[str, ...] = field(
        (), fields.some_names, "More #SBATCH options, such as --constraint=a100."
    )
    timeout: float = field(
        10.0,
        fields.number(fields.POSITIVE, "above 0"),
        "Seconds to wait for an answer from the scheduler.",
    )


@fields.documented
@dataclasses.dataclass(frozen=True)
class Report:
    """Settings of `--mode=report`."""

    after: bool = field(
        False, fields.flag, "Also write a report at the end of training and tuning."
    )
    metric: tuple[str, ...] = field(
        "",
        fields.some_names,
        "Columns to compare by, separated by commas; '': each task's first metric.",
    )
    baseline: str = field(
        "", fields.text, "Entry to compare with; '': the one with the best mean rank."
    )
    target: float | None = field(
        None,
        fields.optional(fields.number(Domain(-math.inf))),
        "Metric value for the time-to-target table; None: what half of the runs reach.",
        float,
    )
    smooth: float = field(
        0.0,
        fields.number(Domain(high=1.0)),
        "Weight of the newest value when smoothing curves, in [0, 1); 0: no smoothing.",
    )
    compare: str = field("", _path, "CSV file with published results.")
    export: tuple[str, ...] = field(
        "",
        fields.some_names,
        "Additional formats, separated by commas: csv, parquet, tensorboard.",
    )
    bootstrap: int = field(
        2000, fields.positive, "Bootstrap resamples for each interval."
    )
    folder: str = field(
        "", _path, "Output folder; '': the folder report of the first workdir."
    )


@fields.documented
@dataclasses.dataclass(frozen=True)
class Settings:
    """A checked config: names and seeds as tuples, hyperparameters only where set."""

    tasks: tuple[str, ...] = field(
        (), fields.names, "Tasks, separated by commas: libsvm/iris,digits/wrn."
    )
    methods: tuple[str, ...] = field(
        (), fields.names, "Methods, separated by commas; --mode=methods lists them."
    )
    protocol: str = field(
        "sound",
        _protocol,
        "Source of all choices the config leaves open: sound or study "
        "(docs/protocol.md).",
    )
    seeds: tuple[int, ...] = field(
        10, fields.seeds, "Number of seeds, or a tuple of seeds.", object
    )
    epochs: int | None = field(
        None,
        fields.optional(fields.positive),
        "Passes over the training data; None: the protocol's for the task.",
        int,
    )
    steps: int | None = field(
        None,
        fields.optional(fields.positive),
        "Updates of each run; overrides epochs.",
        int,
    )
    batch_size: int | None = field(
        None,
        fields.optional(fields.positive),
        "Rows of a batch; None: the task's default.",
        int,
    )
    per_task: Mapping[str, Mapping[str, Any]] = field(
        dict,
        _per_task,
        "Start of a task's name -> methods, seeds, epochs, steps, batch_size, trials "
        "(tuning) that it has in place of the config's; the longest start counts. For "
        "config files; a flag goes before it.",
    )
    precision: str = field(
        "auto",
        _precision,
        "float32, bfloat16 or float64; auto: bfloat16 for networks on GPUs and TPUs, "
        "else float32.",
    )
    eval_every: int | None = field(
        None,
        fields.optional(fields.positive),
        "Steps between evaluations; None: an epoch.",
        int,
    )
    hparams: Mapping[str, Mapping[str, Any]] = field(
        _method_blocks,
        _hparams,
        "Hyperparameter values that replace the method's and the protocol's defaults; "
        "None: unset.",
    )
    grid: Mapping[str, tuple[Any, ...]] = field(
        _hyperparameter_fields,
        _grid,
        "Values of a hyperparameter to try, in all combinations, for every method that "
        "has it; (): unset.",
    )
    tune: Tune = block(Tune, "settings of --mode=tune (docs/tuning.md)")
    select: Select = block(Select, "settings of --mode=select (docs/selection.md)")
    advise: Advise = block(Advise, "settings of --mode=advise (docs/advise.md)")
    cluster: Cluster = block(
        Cluster, "settings of the workers of --launcher=dask (docs/cluster.md)"
    )
    checkpoint_minutes: float = field(
        10.0,
        fields.number(Domain(closed=True), "0 or more"),
        "Minutes between checkpoints of a block.",
    )
    save_params: bool = field(
        False, fields.flag, "Keep the final parameters of each run."
    )
    curve_parts: bool = field(
        False,
        fields.flag,
        "Write the curve of each block to a Parquet file in WORKDIR/curves instead of "
        "curves.jsonl, for studies of 10^7 curve rows and more (docs/reliability.md).",
    )
    skip_missing: bool = field(
        False, fields.flag, "Skip tasks whose data is not available, with a warning."
    )
    text: Text = block(Text, "corpus and tokenizer of language tasks (docs/text.md)")
    micro_batches: int = field(
        1,
        fields.positive,
        "Gradient accumulation: equal parts of a batch, computed one after the other "
        "to save memory.",
    )
    remat: bool = field(
        False,
        fields.flag,
        "Rematerialise activations for the gradient, to save memory.",
    )
    scan_layers: bool = field(
        False,
        fields.flag,
        "Compile the equal layers of a language model once, as a loop.",
    )
    label_smoothing: float = field(
        0.0,
        fields.number(Domain(high=1.0)),
        "Label smoothing in the training loss of image tasks, in [0, 1).",
    )
    stream: bool | None = field(
        None,
        fields.optional(fields.flag),
        "Keep the training data on the host and send batches; None: only if the data "
        "would take more than half of the device's free memory.",
        bool,
    )
    profile: bool = field(
        False,
        fields.flag,
        "Print where the time went (imports, data, tracing, compiling, training, "
        "report), and write WORKDIR/profile.json, a trace that ui.perfetto.dev opens.",
    )
    shard: str = field(
        "runs",
        fields.one_of(SHARDED),
        "What is divided among devices: runs (each block on one device), batch (the "
        "rows of each batch), or params (rows and parameters).",
    )

    def on(self, task: str) -> Settings:
        """Return the settings of one task: those of `per_task` in place of others."""
        starts = [start for start in self.per_task if task.startswith(start)]
        if not starts:
            return self
        own = dict(self.per_task[max(starts, key=len)])
        if own.get("epochs"):
            own.setdefault("steps", None)  # which would go before epochs
        trials = own.pop("trials", self.tune.trials)
        tune = dataclasses.replace(self.tune, trials=trials)
        return dataclasses.replace(self, **own, tune=tune, per_task={})

    def length(self, task: str) -> tuple[int, str]:
        """Return the length of a run on a task: a number, and 'epochs' or 'steps'."""
        own = self.on(task)
        if own.steps:
            return own.steps, "steps"
        if own.epochs:
            return own.epochs, "epochs"
        return protocol_lib.find(self.protocol).length(task)

    def updates(self, task: str, steps_per_epoch: int) -> int:
        """Return the number of updates of a run on a task."""
        length, unit = self.length(task)
        return length * (steps_per_epoch if unit == "epochs" else 1)

    def hparams_grid(self, method: str, task: str) -> list[dict[str, Any]]:
        """Return every combination of hyperparameters of a method on a task.

        In increasing priority, values come from the method's defaults, the protocol,
        the config's `hparams` and its `grid`.

        Raises:
          UsageError: if a value is missing or out of range.
        """
        chosen = methods_lib.find(method)
        base = dict(chosen.defaults)
        base |= protocol_lib.find(self.protocol).overrides(method, task)
        base |= self.hparams.get(method, {})
        axes = {k: v for k, v in self.grid.items() if k in base}

        def combinations() -> Iterator[dict[str, Any]]:
            for values in itertools.product(*axes.values()):
                hparams = base | dict(zip(axes, values, strict=True))
                for name in chosen.required:
                    if hparams[name] is None:
                        raise UsageError(
                            f"method '{method}' needs {name}, but protocol "
                            f"'{self.protocol}' has no value for '{task}': set "
                            f"--config.hparams.{method}.{name}, or leave the method out"
                        )
                yield hparams

        distinct: dict[tuple[Any, ...], dict[str, Any]] = {}
        for hparams in hyperparameters.complete_all(
            chosen, combinations(), self.precision
        ):
            distinct.setdefault(tuple(hparams.values()), hparams)  # 0 and 0.0 are equal
        return list(distinct.values())


# The study's methods, except those that need its tuned values, and AdamW with a cosine.
COMPARED = ("adam", "adamw_cosine", "cawr", "dadapt_adam", "prodigy", "cocob", "dowg")


def schema() -> dict[str, fields.Field | fields.Block]:
    """Return all fields and blocks of a config: those of `Settings`, and `report`."""
    report = fields.Block(Report, "settings of --mode=report (docs/report.md)")
    return {**fields.declared(Settings), "report": report}


def base() -> config_dict.ConfigDict:
    """Return a config with every field at its default, for config files to fill in."""
    return fields.config_of(schema())


def check(config: config_dict.ConfigDict) -> Settings:
    """Check a config and turn it into settings.

    Raises:
      UsageError: names the first field that is unknown or has an invalid value.
    """
    check_names(config)
    settings = fields.checked(Settings, config)
    check_report(config.report)
    tune = settings.tune
    ranges = {k: _range(k, v, settings.precision) for k, v in tune.space.items()}
    settings = dataclasses.replace(
        settings, tune=dataclasses.replace(tune, space=ranges)
    )
    if tune.min_budget and tune.max_budget and tune.min_budget > tune.max_budget:
        raise UsageError(
            f"config.tune.min_budget={tune.min_budget} is above "
            f"config.tune.max_budget={tune.max_budget}"
        )
    for start in settings.per_task:
        if not _begins(start, settings.tasks):
            raise UsageError(
                f"config.per_task: no task's name starts with {shown(start)}; there "
                f"are {cut(', '.join(settings.tasks), 200)}"
            )
    pairs = [(t, m) for t in settings.tasks for m in settings.on(t).methods]
    methods = tuple(dict.fromkeys(method for _, method in pairs))
    for name in ranges:
        _check_tuned(name, methods)
    chosen = [methods_lib.find(name) for name in methods]
    for name in settings.grid:
        if not any(name in method.defaults for method in chosen):
            raise UsageError(
                f"grid.{name}: none of the methods {', '.join(methods)} has "
                f"a hyperparameter '{name}'"
            )
    for task, method in pairs:
        settings.hparams_grid(method, task)
    return settings


def yielding(
    config: config_dict.ConfigDict, overrides: Iterable[str]
) -> config_dict.ConfigDict:
    """Return a config in which flags go before the settings of single tasks.

    Args:
      config: with the flags applied.
      overrides: names of the fields set on the command line.
    """
    fixed = {name.removeprefix("tune.") for name in overrides}
    fixed |= {"epochs"} if "steps" in fixed else set()
    fixed |= {"steps"} if "epochs" in fixed else set()
    config = config.copy_and_resolve_references()
    chosen = fields.words(config.tasks) if "tasks" in fixed else None
    with config.unlocked():
        for start, own in [*config.per_task.items()]:
            if not isinstance(own, config_dict.ConfigDict):
                continue  # `check` says so
            if chosen is not None and not _begins(start, chosen):
                del config.per_task[start]  # for tasks of the file that were not chosen
                continue
            for key in fixed & {*own}:
                del own[key]
    return config


def _begins(start: Any, tasks: Iterable[str]) -> bool:
    """Whether the name of any task starts with a key of `per_task`."""
    return any(task.startswith(str(start)) for task in tasks)


def check_report(config: config_dict.ConfigDict) -> Report:
    """Check the block `report` of a config.

    Raises:
      UsageError: names the first field with an invalid value.
    """
    return fields.checked(Report, config, "report.")


def check_names(config: config_dict.ConfigDict) -> None:
    """Refuse a config whose fields are not those of `base`.

    Raises:
      UsageError: names the first field that is unknown or missing.
    """
    given, known = dict(fields.leaves(config)), _known()
    for name in given:
        if name.startswith("per_task."):
            continue
        if name not in known:
            raise _unknown(name)
    for name in known:
        if name not in given:
            raise UsageError(
                f"the config has no field '{name}': begin it with "
                "config = lrjax.config.base(), which has all"
            )


def unknown_field(names: Iterable[str]) -> UsageError | None:
    """Return the error for the first unknown field; None if all are known.

    Args:
      names: names of fields with dots, such as 'grid.learning_rate'.
    """
    known = _known()
    for name in names:
        if name.split(".")[0] == "per_task":
            return UsageError(f"config.{name}: per_task is set in a config file")
        if name not in known and not any(k.startswith(f"{name}.") for k in known):
            return _unknown(name)
    return None


def _unknown(name: str) -> UsageError:
    """Make the error for an unknown field, which may be a hyperparameter's name."""
    if name in ("metric", "metrics"):
        return UsageError(
            f"unknown config field '{name}': a task says what its runs are ranked by, "
            "a table with &metric=f1, one of your own with metrics=; a report compares "
            "by report.metric"
        )
    if hparam := hyperparameter_meant(name):
        return UsageError(
            f"unknown config field '{cut(name)}'; for the hyperparameter {hparam} set "
            f"hparams.METHOD.{hparam}, or grid.{hparam} to several values"
        )
    return unknown("config field", name, _known())


def hyperparameter_meant(name: str) -> str:
    """The hyperparameter that a name without a block may mean; '' if it is none."""
    near = nearest(name, _known()) or ""
    block, _, hparam = near.rpartition(".")
    alone = "." not in name and block.split(".")[0] in ("grid", "hparams")
    return hparam if alone else ""


def mistyped(name: str, text: str) -> UsageError | None:
    """Return the error for a flag whose text does not parse as its field's type.

    Args:
      name: name of the field, with dots.
      text: the flag's text.

    Returns:
      the error, or None for fields of other types than int, float and bool.
    """
    *path, last = name.split(".")
    part: Any = base()
    for step in path:
        part = part.get(step) if isinstance(part, config_dict.ConfigDict) else None
    if not isinstance(part, config_dict.ConfigDict) or last not in part:
        return None
    kind = part.get_type(last)
    if kind not in _TYPE_NAMES:
        return None
    return UsageError(f"config.{name}={shown(text)}: must be {_TYPE_NAMES[kind]}")


def unused_hparams(settings: Settings, methods: Iterable[str]) -> list[str]:
    """Return a warning for each method with `hparams` that does not run.

    Args:
      settings: the settings with the hyperparameters.
      methods: names of the methods that run.
    """
    idle = [name for name in settings.hparams if name not in set(methods)]
    return [
        f"config.hparams.{name} changes nothing: '{name}' does not run" for name in idle
    ]


# Fields and blocks of fields -> the modes that read them.
_READ = {
    **dict.fromkeys(("seeds", "eval_every"), ("train", "tune")),
    **dict.fromkeys(("tune", "advise", "select", "report")),
    **dict.fromkeys(("select.methods", "select.history"), ("select", "advise")),
}


def unused_fields(
    names: Iterable[str],
    mode: str,
    planned: str = "",
    after: bool = False,
    remote: bool = True,
) -> list[str]:
    """Return a warning for each field that was set and that a mode does not read.

    Args:
      names: names of the fields, with dots.
      mode: the mode.
      planned: the mode that 'plan' is of.
      after: whether a training or tuning ends with a report.
      remote: whether workers of `cluster` train.
    """
    found, plan = [], mode == "plan"
    mode = planned if plan else mode
    for name in names:
        block = name.partition(".")[0]
        modes = _READ.get(name) or _READ.get(block, ()) or (block,)
        if mode == "report":
            reason = "" if block == "report" else "a report reads config.report alone"
        elif block == "cluster":
            reason = "" if remote else "it is for --launcher=dask"
        elif block == "report" and mode in ("train", "tune"):
            reason = "" if after else "no report follows without config.report.after"
        elif block not in _READ or mode in modes:
            reason = ""
        elif plan and "tune" in modes:
            reason = "--of=tune plans a tuning"
        else:
            reason = f"it is for --mode={' and '.join(modes)}, not {mode}"
        if reason:
            found.append(f"config.{name} changes nothing: {reason}")
    return found


def _known() -> Mapping[str, Any]:
    """Return all fields of a config by name, with those of registered methods."""
    return _fields_of(tuple((name, *METHODS[name].defaults) for name in METHODS))


@functools.lru_cache(1)
def _fields_of(methods: tuple[tuple[str, ...], ...]) -> Mapping[str, Any]:
    """Return all fields of a config by name, made once for the methods there are."""
    del methods  # the cache's key: users may register their own at any time
    return dict(fields.leaves(base()))


def _range(name: str, value: Any, precision: str) -> Range:
    """Make a range from (low, high, *words), with all checks that need no method."""
    value = plain(value)
    where = f"config.tune.space.{name}={shown(value)}"
    if not isinstance(value, tuple) or len(value) < 2:
        raise UsageError(f"{where}: give (low, high), optionally 'log' or 'linear'")
    low, high, *words = value
    for word in words:
        if isinstance(word, int | float):
            raise UsageError(
                f"{where}: is a range, not a list of values: give (low, high)"
            )
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
    """Refuse to tune a hyperparameter that no method has, or that is not a number."""
    chosen = [methods_lib.find(method).defaults for method in methods]
    defaults = [values[name] for values in chosen if name in values]
    if not defaults:
        raise UsageError(
            f"tune.space.{name}: none of the methods {', '.join(methods)} has "
            f"a hyperparameter '{name}'"
        )
    for default in defaults:
        if isinstance(default, bool | str):
            raise UsageError(
                f"tune.space.{name}: cannot tune a boolean or text hyperparameter "
                f"(default {default!r})"
            )
