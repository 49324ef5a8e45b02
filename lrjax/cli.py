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

from lrjax import config as config_lib
from lrjax import config_page, results
from lrjax import launch as launch_lib
from lrjax import reports as report_lib
from lrjax.core import UsageError, cut
from lrjax.hpo import race as race_lib
from lrjax.hpo import selection as selection_lib
from lrjax.hpo import tune as tune_lib
from lrjax.launch import estimate as plan_lib
from lrjax.launch import (
    experiment,
    hosts,
    startup,
)
from lrjax.methods import METHODS, state_size

_LONGEST = 400  # characters of what others say of an error; values may be any length
_CONFIG_MODULE = "config_config"  # what ml_collections calls a config file's module


def make_deterministic() -> None:
    """Has XLA take no GPU kernel whose bits vary, and choose none by its speed.

    To be called before JAX starts its backend, which reads the variable once.
    """
    asked = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {asked}".strip()


def run(
    mode: str,
    launcher: str,
    config: ConfigDict,
    workdir: str,
    data_dir: str | None,
    overrides: Mapping[str, Any],
) -> None:
    """Does what a command asks for.

    Args:
      mode: 'train', 'plan', 'tune' or 'select'.
      launcher: who trains, of `lrjax.launch.LAUNCHERS`.
      config: with what the command line set.
      workdir: where results go.
      data_dir: where data files are looked for first.
      overrides: what the command line set.

    Raises:
      UsageError: if it cannot be done.
      Interrupted: on SIGINT and SIGTERM.
    """
    settings = config_lib.check(config)
    raced = race_lib.named_methods(settings, overrides)
    methods = raced if mode == "select" else settings.methods
    for line in config_lib.unasked(settings, methods):
        warnings.warn(line, stacklevel=2)
    _check_sharding(settings, mode, launcher)
    if launcher == "hosts":
        hosts.start()
    remote = launch_lib.LAUNCHERS[launcher].remote
    if mode != "train" or not remote:  # else workers alone start JAX
        startup.prepare(settings)
    if mode == "plan":
        workers = settings.cluster.workers if remote else None
        print(plan_lib.show(plan_lib.make(settings, workdir, data_dir, workers)))
        return
    launch, drawn = launch_lib.find(launcher), []
    if mode == "select":
        answers = race_lib.run(settings, workdir, data_dir, overrides, launch)
        _print_answers(answers, workdir)
        return
    if mode == "tune":
        drawn = tune_lib.run(settings, workdir, data_dir, overrides, launch)
    else:
        announce = plan_lib.announce if launcher == "local" else None
        experiment.run(settings, workdir, data_dir, overrides, launch, announce)
    if launcher == "hosts" and not hosts.is_first():
        return
    _rank(workdir)
    if drawn:
        print(f"tuning: {', '.join(map(str, drawn))}")
    if config.report.after:
        report(config, workdir)


def _check_sharding(settings: config_lib.Settings, mode: str, launcher: str) -> None:
    """Refuses to lay a run over several devices where only whole runs are trained."""
    if settings.shard == "runs" or mode == "plan":
        return
    for wanted, found in (("--mode=train", mode), ("--launcher=local", launcher)):
        if not wanted.endswith(found) and found != "hosts":
            raise UsageError(f"config.shard={settings.shard} is for {wanted} alone")


def _print_answers(answers: Iterable[selection_lib.Selection], workdir: str) -> None:
    for answer in answers:
        print(f"{answer}\n")
    names = [selection_lib.ANSWER, selection_lib.TABLE]
    names += [f"selection.{kind}" for kind in selection_lib.FIGURES]
    print(f"selection: {', '.join(str(Path(workdir) / name) for name in names)}")


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
    asked = config_lib.check_report(config.report)
    names = [workdirs] if Path(workdirs).exists() else workdirs.split(",")
    names = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not names:
        raise UsageError(f"--workdir={workdirs} names no directory")
    options = report_lib.Options(
        metrics=asked.metric or report_lib.Options.metrics,
        baseline=asked.baseline,
        target=asked.target,
        smooth=asked.smooth,
        compare=asked.compare,
        export=asked.export,
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
