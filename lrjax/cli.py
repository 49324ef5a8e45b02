"""What the modes of main.py do, and what they show."""

from __future__ import annotations

import itertools
import os
import textwrap
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lrjax import backend, cluster, config_page, experiment, multihost, results
from lrjax import config as config_lib
from lrjax import plan as plan_lib
from lrjax import report as report_lib
from lrjax.core import UsageError, cut
from lrjax.hpo import cluster_trials, trials
from lrjax.hpo import race as race_lib
from lrjax.hpo import selection as selection_lib
from lrjax.hpo import tune as tune_lib
from lrjax.methods import METHODS, state_size

_LONGEST = 400  # characters of what others say of an error; values may be any length
_CONFIG_MODULE = "config_config"  # what ml_collections calls a config file's module


def make_deterministic() -> None:
    """Has XLA take no GPU kernel whose bits vary, and choose none by its speed.

    To be called before JAX starts its backend, which reads the variable once.
    """
    asked = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {asked}".strip()


def _checked(config: ConfigDict) -> config_lib.Settings:
    """The settings of a config; warns of what is set and changes nothing."""
    settings = config_lib.check(config)
    _warn_of_idle(settings, settings.methods)
    return settings


def _warn_of_idle(settings: config_lib.Settings, methods: Iterable[str]) -> None:
    for line in config_lib.unasked(settings, methods):
        warnings.warn(line, stacklevel=3)


def train(
    config: ConfigDict, workdir: str, data_dir: str | None, overrides: Mapping[str, Any]
) -> None:
    """Trains all runs of a config, then ranks the methods."""
    settings = _checked(config)
    backend.prepare(settings)
    experiment.run(settings, workdir, data_dir, overrides, plan_lib.announce)
    _conclude(config, workdir)


def train_on_hosts(
    config: ConfigDict, workdir: str, data_dir: str | None, overrides: Mapping[str, Any]
) -> None:
    """As `train`, by all hosts together; the first one has the tables."""
    settings = _checked(config)
    multihost.start()
    backend.prepare(settings)
    multihost.run(settings, workdir, data_dir, overrides)
    if multihost.is_first():
        _conclude(config, workdir)


def train_on_cluster(
    config: ConfigDict, workdir: str, data_dir: str | None, overrides: Mapping[str, Any]
) -> None:
    """As `train`, by the workers of a Dask cluster."""
    settings = _checked(config)
    _check_not_sharded(settings, "--launcher=local")
    cluster.run(settings, workdir, data_dir, overrides)
    _conclude(config, workdir)


def _check_not_sharded(settings: config_lib.Settings, instead: str) -> None:
    if settings.shard != "runs":
        raise UsageError(f"config.shard={settings.shard} is for {instead} alone")


def _conclude(config: ConfigDict, workdir: str) -> None:
    """Ranks the methods, and writes a report if one is wanted."""
    _rank(workdir)
    if config.report.after:
        report(config, workdir)


def plan(
    config: ConfigDict,
    workdir: str,
    data_dir: str | None,
    overrides: Mapping[str, Any],
    on_cluster: bool = False,
) -> None:
    """Prints what `train` would do and cost; writes nothing into `workdir`."""
    del overrides
    settings = _checked(config)
    backend.prepare(settings)
    workers = settings.cluster.workers if on_cluster else None
    print(plan_lib.show(plan_lib.make(settings, workdir, data_dir, workers)))


def plan_on_cluster(
    config: ConfigDict, workdir: str, data_dir: str | None, overrides: Mapping[str, Any]
) -> None:
    """As `plan`, for as many workers as the config names."""
    plan(config, workdir, data_dir, overrides, on_cluster=True)


def tune(
    config: ConfigDict,
    workdir: str,
    data_dir: str | None,
    overrides: Mapping[str, Any],
    launch: trials.Launch = trials.here,
) -> None:
    """Tunes the methods of a config, trains the best settings, ranks all methods."""
    settings = _checked(config)
    _check_not_sharded(settings, "--mode=train")
    backend.prepare(settings)
    drawn = tune_lib.run(settings, workdir, data_dir, overrides, launch)
    _rank(workdir)
    print(f"tuning: {', '.join(map(str, drawn))}")
    if config.report.after:
        report(config, workdir)


def tune_on_cluster(
    config: ConfigDict, workdir: str, data_dir: str | None, overrides: Mapping[str, Any]
) -> None:
    """As `tune`, trained by the workers of a Dask cluster."""
    tune(config, workdir, data_dir, overrides, cluster_trials.launch)


def select(
    config: ConfigDict,
    workdir: str,
    data_dir: str | None,
    overrides: Mapping[str, Any],
    launch: trials.Launch = trials.here,
) -> None:
    """Races methods and rates on each task of a config, and prints what won."""
    settings = config_lib.check(config)
    _warn_of_idle(settings, race_lib.named_methods(settings, overrides))
    _check_not_sharded(settings, "--mode=train")
    backend.prepare(settings)
    for answer in race_lib.run(settings, workdir, data_dir, overrides, launch):
        print(f"{answer}\n")
    names = [selection_lib.ANSWER, selection_lib.TABLE]
    names += [f"selection.{kind}" for kind in selection_lib.FIGURES]
    print(f"selection: {', '.join(str(Path(workdir) / name) for name in names)}")


def select_on_cluster(
    config: ConfigDict, workdir: str, data_dir: str | None, overrides: Mapping[str, Any]
) -> None:
    """As `select`, trained by the workers of a Dask cluster."""
    select(config, workdir, data_dir, overrides, cluster_trials.launch)


def _rank(workdir: str) -> None:
    """Prints a ranking of all runs in a working directory and draws their curves."""
    runs, curves = results.load(workdir)
    picture = Path(workdir) / "curves.png"
    metrics = results.load_metrics(workdir)
    print(report_lib.ranking(runs, metrics))
    try:
        report_lib.learning_curves(runs, curves, picture, metrics)
    except OSError as error:
        raise UsageError(f"cannot write {picture}: {error.strerror}") from error
    print(f"\nlearning curves and rates: {picture}")


def report(config: ConfigDict, workdirs: str) -> None:
    """Writes a page of figures and findings from the tables of some directories.

    Args:
      config: whose block `report` counts.
      workdirs: paths with commas between.
    """
    asked = config.report
    config_lib.check_report(asked)
    names = [workdirs] if Path(workdirs).exists() else workdirs.split(",")
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        raise UsageError(f"--workdir={workdirs} names no directory")
    options = report_lib.Options(
        metrics=config_lib.words(asked.metric) or report_lib.Options.metrics,
        baseline=asked.baseline,
        target=asked.target,
        smooth=asked.smooth,
        compare=asked.compare,
        export=config_lib.words(asked.export),
        bootstrap=asked.bootstrap,
    )
    folder = Path(asked.folder or Path(names[0]) / "report")
    for line in report_lib.write(names, folder, options):
        print(line)
    print(f"\nreport: {folder / 'index.html'}")


def config(config: ConfigDict) -> None:
    """Prints every field of a config with its value and meaning."""
    print(config_page.show(config))


def methods() -> None:
    """Prints every method with its hyperparameters."""
    probe = jax.ShapeDtypeStruct((1000,), "float32")

    def show(*cells: str) -> None:
        print("{:<26}{:<20}{}".format(*cells).rstrip())

    show("method", "family", "memory / parameters")
    print("  source; advice")
    show("  hyperparameter", "default", "range to tune in")
    for name, method in METHODS.items():
        print()
        show(name, method.family, f"{state_size(method, probe) / probe.size:.0f}")
        for text in filter(None, (method.source, method.advice)):
            print(textwrap.indent(textwrap.fill(text, 78), "  "))
        for hparam, default in method.defaults.items():
            found = method.space.ranges.get(hparam)
            kind = "log" if found and found.log else "linear"
            span = f"{found.low:g} to {found.high:g}, {kind}" if found else ""
            show(f"  {hparam}", str(default), span)


def check_config_file(argv: Sequence[str]) -> None:
    """Refuses a config file that may have no end: a pipe, a device.

    Args:
      argv: the command line.

    Raises:
      UsageError: if it names one.
    """
    file = _config_file(argv)
    if os.path.exists(file) and not os.path.isfile(file):
        raise UsageError(f"--config: {file} is not a regular file")


def explain(error: BaseException, argv: Sequence[str]) -> str | None:
    """What to say of an error in flags or in the config file; None if it is ours.

    Args:
      error: raised while flags were parsed, which runs the config file.
      argv: the command line.
    """
    said = _explain(error, argv)
    return None if said is None else cut(said, _LONGEST)


def _explain(error: BaseException, argv: Sequence[str]) -> str | None:
    file = _config_file(argv)
    chain = list(_causes(error))
    for each in reversed(chain):  # ml_collections wraps errors of the same type
        if isinstance(each, UsageError):
            return str(each)
    for each in chain:
        frames = list(traceback.walk_tb(each.__traceback__))
        modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
        if isinstance(each, SyntaxError) and each.filename in (file, None):
            line = f"line {each.lineno}: " if each.lineno else ""
            return f"{file}: {line}{each.msg}"
        if _CONFIG_MODULE in modules:
            if modules[-1].startswith("lrjax"):
                return None
            line = [line for _, line in frames][modules.index(_CONFIG_MODULE)]
            said = cut(str(each), _LONGEST // 2)
            return f"{file}: line {line}: {type(each).__name__}: {said}"
    root = chain[-1]
    if "parsing config file" in str(error) or getattr(root, "name", "") == "get_config":
        return f"{file}: {root}"
    names = [arg.lstrip("-").split("=")[0] for arg in argv if arg.startswith("-")]
    fields = [n.removeprefix("config.") for n in names if n.startswith("config.")]
    return str(config_lib.unknown_field(fields) or _mistyped(error) or error)


def _mistyped(error: BaseException) -> UsageError | None:
    """The error for a flag with a value that its field cannot be; None for others."""
    field, given, rest = str(error).removeprefix("flag --config.").partition("=")
    reason = f": {error.__cause__ or error.__context__}"
    if not (str(error).startswith("flag --config.") and given):
        return None
    return config_lib.mistyped(field, rest.removesuffix(reason))


def _config_file(argv: Sequence[str]) -> str:
    """The config file that a command line names, '' if it names none."""
    file = ""
    for arg, following in itertools.pairwise([*argv, ""]):
        name, given, value = arg.partition("=")
        if name in ("-config", "--config"):
            file = value if given else following
    return file.split(":")[0]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, what led to it, what led to that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
