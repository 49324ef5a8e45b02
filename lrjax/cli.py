"""The modes of main.py: what each runs and prints."""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lrjax import config as config_lib
from lrjax import config_page, results
from lrjax import launch as launch_lib
from lrjax import reports as report_lib
from lrjax.common import files
from lrjax.core import UsageError, printable
from lrjax.hpo import race as race_lib
from lrjax.hpo import selection as selection_lib
from lrjax.hpo import tune as tune_lib
from lrjax.launch import estimate as plan_lib
from lrjax.launch import experiment, hosts, startup
from lrjax.methods import METHODS, state_size
from lrjax.tables import parts


def make_deterministic() -> None:
    """Let XLA use only deterministic GPU kernels, and choose none by timing.

    Call before JAX starts its backend, which reads the variable once.
    """
    options = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {options}".strip()


def run(
    mode: str,
    launcher: str,
    config: ConfigDict,
    workdir: str,
    data_dir: str | None,
    overrides: Mapping[str, Any],
) -> None:
    """Run a mode that trains, or the mode that estimates the cost of training.

    Args:
      mode: 'train', 'plan', 'tune' or 'select'.
      launcher: a name of `lrjax.launch.LAUNCHERS`.
      config: the config, with the overrides of the command line applied.
      workdir: directory of the result tables.
      data_dir: directory searched first for data files.
      overrides: name -> value of the fields set on the command line; recorded.

    Raises:
      UsageError: if the config, the data or the machine do not allow it.
      Interrupted: on a signal that stops.
    """
    workdir = str(files.expanded(workdir))
    data_dir = str(files.expanded(data_dir)) if data_dir else data_dir
    settings = config_lib.check(config)
    methods = settings.methods
    if mode == "select":
        methods = race_lib.named_methods(settings, overrides)
    for line in config_lib.unused_hparams(settings, methods):
        warnings.warn(line, stacklevel=2)
    launch = launch_lib.find(launcher)
    remote = launch_lib.LAUNCHERS[launcher].remote
    _check_sharding(settings, mode, remote)
    if launcher == "hosts":
        hosts.start()
    if mode != "train" or not remote:  # else only the workers need JAX
        startup.prepare(settings)
    if mode == "plan":
        workers = settings.cluster.workers if remote else None
        print(plan_lib.show(plan_lib.make(settings, workdir, data_dir, workers)))
        return
    figure_paths = []
    if mode == "select":
        answers = race_lib.run(settings, workdir, data_dir, overrides, launch)
        _print_answers(answers, workdir)
        return
    if mode == "tune":
        figure_paths = tune_lib.run(settings, workdir, data_dir, overrides, launch)
    else:
        announce = plan_lib.announce if launcher == "local" else None
        experiment.run(settings, workdir, data_dir, overrides, launch, announce)
    if launcher == "hosts" and not hosts.is_first():
        return
    # All files come first: the reader of stdout may be gone.
    lines = [_rank(workdir)]
    if figure_paths:
        lines.append(f"tuning: {_named(figure_paths)}")
    if config.report.after:
        lines.append(_report(config, workdir))
    print("\n".join(lines))


def _check_sharding(settings: config_lib.Settings, mode: str, remote: bool) -> None:
    """Refuse to shard a run over devices, except for training without workers."""
    if settings.shard == "runs" or mode == "plan":
        return
    if mode != "train":
        raise UsageError(f"config.shard={settings.shard} needs --mode=train")
    if remote:
        raise UsageError(f"config.shard={settings.shard} needs --launcher=local")


def _print_answers(answers: Iterable[selection_lib.Selection], workdir: str) -> None:
    """Print the result of each task's race, and the files that have more."""
    for answer in answers:
        print(f"{answer}\n")
    names = [selection_lib.ANSWER, selection_lib.TABLE]
    names += [f"selection.{kind}" for kind in selection_lib.FIGURES]
    print(f"selection: {_named(Path(workdir) / name for name in names)}")


def _named(paths: Iterable[Path]) -> str:
    """Paths for people, separated by commas."""
    return printable(", ".join(map(str, paths)))


def _rank(workdir: str) -> str:
    """Rank all runs in a working directory, as text, and draw their curves."""
    runs, curves = results.load(workdir)
    picture = Path(workdir) / "curves.png"
    metrics = results.load_metrics(workdir)
    report_lib.learning_curves(runs, curves, picture, metrics)
    ranking = report_lib.ranking(runs, metrics)
    return f"{ranking}\n\nlearning curves and rates: {_named([picture])}"


def report(config: ConfigDict, workdirs: str) -> None:
    """Write a page of figures and findings from the tables of several directories.

    Args:
      config: a config; only its block `report` is used.
      workdirs: paths, separated by commas.

    Raises:
      UsageError: if an option is invalid or a directory has no results.
    """
    print(_report(config, workdirs))


def _report(config: ConfigDict, workdirs: str) -> str:
    """Write the page as `report` does; return the findings as text."""
    chosen = config_lib.check_report(config.report)
    whole = os.path.lexists(files.expanded(workdirs))
    names = [workdirs] if whole else [name.strip() for name in workdirs.split(",")]
    names = list(dict.fromkeys(filter(None, names)))
    if not names:
        raise UsageError(f"--workdir={workdirs} names no directory")
    options = report_lib.Options(
        metrics=chosen.metric or report_lib.Options.metrics,
        baseline=chosen.baseline,
        target=chosen.target,
        smooth=chosen.smooth,
        compare=chosen.compare,
        export=chosen.export,
        bootstrap=chosen.bootstrap,
    )
    first = files.expanded(names[0])
    folder = Path(chosen.folder) if chosen.folder else first / "report"
    lines = report_lib.write(names, folder, options, None if chosen.folder else first)
    return "\n".join([*lines, f"\nreport: {_named([folder / 'index.html'])}"])


def compact(workdir: str) -> None:
    """Merge the published curves of a working directory into one part.

    Raises:
      UsageError: if it has no results, another process uses it, or it is damaged.
    """
    folder = files.expanded(workdir)
    if not (folder / results.RUNS).exists():
        raise UsageError(f"{workdir} holds no results: there is no {results.RUNS}")
    with results.Tables(folder):  # takes the lock, and publishes what is finished
        print(parts.compact(folder))


def config(config: ConfigDict) -> None:
    """Print every field of a config with its value and meaning."""
    print(config_page.show(config))


def methods() -> None:
    """Print every method with its source, advice, hyperparameters and search space."""
    probe = jax.ShapeDtypeStruct((1000,), "float32")

    def show(*cells: str) -> None:
        print("{:<26}{:<20}{}".format(*cells).rstrip())

    show("method", "family", "memory / parameters")
    print("  source; advice")
    show("  hyperparameter", "default", "search range")
    for name, method in METHODS.items():
        print()
        show(name, method.family, f"{state_size(method, probe) / probe.size:.0f}")
        for text in filter(None, (method.source, method.advice)):
            print(textwrap.indent(textwrap.fill(text, 78), "  "))
        for hparam, default in method.defaults.items():
            limits = method.space.ranges.get(hparam)
            kind = "log" if limits and limits.log else "linear"
            span = f"{limits.low:g} to {limits.high:g}, {kind}" if limits else ""
            show(f"  {hparam}", str(default), span)
