"""The modes of main.py: what each runs and prints."""

from __future__ import annotations

import contextlib
import importlib
import os
import textwrap
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from ml_collections import ConfigDict

from lrjax import config as config_lib
from lrjax import config_page, results, showing, track
from lrjax import launch as launch_lib
from lrjax.common import files, spans
from lrjax.core import UsageError, printable
from lrjax.launch import estimate as plan_lib
from lrjax.launch import experiment, hosts, process, startup
from lrjax.methods import METHODS, state_size
from lrjax.tables import parts
from lrjax.track.listeners import of_trackers

if TYPE_CHECKING:
    from lrjax.hpo import selection
    from lrjax.hpo.tune import Tuned

_MOST_SNIPPETS = 3  # printed after a tuning
_LONGEST_WAIT = 1.0  # seconds until modules are imported that only results need


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
    log: Sequence[str] = (),
    planned: str = "train",
) -> None:
    """Run a mode that trains, or the mode that estimates the cost of training.

    Args:
      mode: 'train', 'plan', 'tune', 'select' or 'advise'.
      launcher: a name of `lrjax.launch.LAUNCHERS`.
      config: the config, with the overrides of the command line applied.
      workdir: directory of the result tables; '' for 'plan' where there is none.
      data_dir: directory searched first for data files.
      overrides: name -> value of the fields set on the command line; recorded.
      log: names of trackers that get rows as they are measured.
      planned: the mode that 'plan' is of: 'train' or 'tune'.

    Raises:
      UsageError: if the config, the data or the machine do not allow it.
      Interrupted: on a signal that stops.
    """
    workdir = str(files.expanded(workdir)) if workdir else ""
    data_dir = str(files.expanded(data_dir)) if data_dir else data_dir
    settings = config_lib.check(config_lib.yielding(config, overrides))
    if settings.profile:
        spans.record(process.STARTED)
    given = (launcher, settings, workdir, data_dir, overrides, log)
    tuned = _run(mode, *given, planned, config.report.after)
    if launcher == "hosts" and not hosts.is_first():
        return
    if mode in ("train", "tune"):
        _show(workdir, config, tuned)
    if settings.profile and mode != "plan":
        _show_profile(workdir)


def _run(
    mode: str,
    launcher: str,
    settings: config_lib.Settings,
    workdir: str,
    data_dir: str | None,
    overrides: Mapping[str, Any],
    log: Sequence[str],
    planned: str,
    after: bool,
) -> Tuned | None:
    """Run a mode; leave the ranking and what follows it to `run`.

    Args:
      settings: the checked config.
      mode, launcher, workdir, data_dir, overrides, log, planned: as for `run`.
      after: whether a report follows.

    Returns:
      what a tuning leaves; None of other modes.
    """
    methods = tuple(m for task in settings.tasks for m in settings.on(task).methods)
    if mode in ("select", "advise"):
        from lrjax.hpo import race as race_lib

        methods = race_lib.named_methods(settings, overrides)
    launch = launch_lib.find(launcher)
    remote = launch_lib.LAUNCHERS[launcher].remote
    _warn(config_lib.unused_hparams(settings, methods))
    _warn(config_lib.unused_fields(overrides, mode, planned, after, remote))
    _check_sharding(settings, mode, remote)
    for name in log:
        track.find(name)  # unknown ones are refused on all hosts
    if launcher == "hosts":
        hosts.start()
    if mode != "train" or not remote:  # else only the workers need JAX
        startup.prepare(settings)
    if mode == "plan":
        workers = settings.cluster.workers if remote else None
        if planned == "tune":
            from lrjax.hpo import tune as tune_lib

            print(tune_lib.plan(settings, data_dir, workers))
        else:
            made = plan_lib.make(settings, workdir or None, data_dir, workers)
            print(plan_lib.show(made))
        return None
    heard = launcher != "hosts" or hosts.is_first()
    listeners = of_trackers(log, Path(workdir)) if heard else []
    given = (settings, workdir, data_dir, overrides, launch)
    if not showing.is_near():
        _import_ahead()
    if mode == "select":
        from lrjax.hpo import race as race_lib

        answers = race_lib.run(*given, listeners)
        _print_answers(answers, workdir)
        return None
    if mode == "advise":
        from lrjax.hpo import adviser

        for answer in adviser.run(*given, listeners):
            print(f"{answer}\n")
        print(f"advice: {_named([Path(workdir) / 'advice.json'])}")
        return None
    if mode == "tune":
        from lrjax.hpo import tune as tune_lib

        return tune_lib.run(*given, listeners)
    announce = plan_lib.announce if launcher == "local" else None
    experiment.run(*given, announce, listeners)
    return None


def _warn(lines: Iterable[str]) -> None:
    """Warn of each line."""
    for line in lines:
        warnings.warn(line, stacklevel=3)


@spans.span("report")
def _show(workdir: str, config: ConfigDict, tuned: Tuned | None) -> None:
    """Print the ranking, draw the curves, and write the report if it is asked for.

    Args:
      workdir: directory of the tables.
      config: its block `report` is used.
      tuned: what a tuning left; None if nothing was tuned.
    """
    texts = showing.of(workdir)
    with _shown_first(next(texts)):
        (picture,) = texts
        lines = [f"learning curves and rates: {_named([Path(picture)])}"]
        if tuned:
            lines[:0] = _code(tuned.snippets)
        if tuned and tuned.figures:
            lines.append(f"tuning: {_named(tuned.figures)}")
        if config.report.after:
            lines.append(_report(config, workdir))
    print("\n".join(lines))


def _code(snippets: Mapping[str, str]) -> list[str]:
    """Lines with the code that trains with what was tuned, unless that is a lot."""
    if len(snippets) > _MOST_SNIPPETS:
        return ["for code to train with: the same command with one method and task", ""]
    return [
        f"To train with {printable(name)}:\n\n{textwrap.indent(code, '    ')}"
        for name, code in snippets.items()
    ]


def _show_profile(workdir: str) -> None:
    """Print where the time went, and write a trace."""
    path = Path(workdir) / "profile.json"
    with files.writing(path):
        files.replace(path, spans.trace())
    print(f"\n{spans.table()}\ntrace for ui.perfetto.dev: {_named([path])}")


def _import_ahead() -> None:
    """Import what shows results, in a thread, while a program compiles and trains.

    Not while it is traced, `init` last: Python runs one thread at a time.
    """
    traced = threading.Event()

    def heard(event: str, duration_secs: float, **about: Any) -> None:
        del duration_secs
        if event == spans.LOWERED and "init" in str(about.get("fun_name")):
            traced.set()

    def load() -> None:
        traced.wait(_LONGEST_WAIT)
        with contextlib.suppress(Exception):  # whoever needs it imports it again
            from lrjax.reports import drawing

            drawing.import_matplotlib()
            importlib.import_module("matplotlib.figure")

    jax.monitoring.register_event_duration_secs_listener(heard)
    threading.Thread(target=load, daemon=True).start()


def _check_sharding(settings: config_lib.Settings, mode: str, remote: bool) -> None:
    """Refuse to shard a run over devices, except for training without workers."""
    if settings.shard == "runs" or mode == "plan":
        return
    if mode != "train":
        raise UsageError(f"config.shard={settings.shard} needs --mode=train")
    if remote:
        raise UsageError(f"config.shard={settings.shard} needs --launcher=local")


def _print_answers(answers: Iterable[selection.Selection], workdir: str) -> None:
    """Print the result of each task's race, and the files that have more."""
    from lrjax.hpo import selection

    for answer in answers:
        print(f"{answer}\n")
    names = [selection.ANSWER, selection.TABLE]
    names += [f"selection.{kind}" for kind in selection.FIGURES]
    print(f"selection: {_named(Path(workdir) / name for name in names)}")


def _named(paths: Iterable[Path]) -> str:
    """Paths for people, separated by commas."""
    return printable(", ".join(map(str, paths)))


@contextlib.contextmanager
def _shown_first(text: str) -> Iterator[None]:
    """Print an answer before work that takes longer, and do it even if nobody reads."""
    failure = None
    try:
        print(f"{text}\n", flush=True)
    except OSError as error:  # the reader of stdout is gone, or a disk is full
        failure = error
    yield
    if failure:
        raise failure


def report(
    config: ConfigDict,
    workdirs: str,
    elsewhere: Sequence[str] = (),
    overrides: Iterable[str] = (),
) -> None:
    """Write a page of figures and findings from the tables of several directories.

    Args:
      config: a config; only its block `report` is used.
      workdirs: paths, separated by commas; may be '' if there are runs from elsewhere.
      elsewhere: runs from elsewhere, as values of --from.
      overrides: names of the fields set on the command line.

    Raises:
      UsageError: if an option is invalid or a directory has no results.
    """
    _warn(config_lib.unused_fields(overrides, "report"))
    print(_report(config, workdirs, elsewhere))


def _report(config: ConfigDict, workdirs: str, elsewhere: Sequence[str] = ()) -> str:
    """Write the page as `report` does; return the findings as text."""
    from lrjax import elsewhere as elsewhere_lib
    from lrjax import reports

    chosen = config_lib.check_report(config.report)
    whole = os.path.lexists(files.expanded(workdirs))
    names = [workdirs] if whole else [name.strip() for name in workdirs.split(",")]
    names = list(dict.fromkeys(filter(None, names)))
    if not names and not elsewhere:
        raise UsageError(f"--workdir={workdirs} names no directory")
    options = reports.Options(
        metrics=chosen.metric or reports.Options.metrics,
        baseline=chosen.baseline,
        target=chosen.target,
        smooth=chosen.smooth,
        compare=chosen.compare,
        export=chosen.export,
        bootstrap=chosen.bootstrap,
    )
    sources = [name for value in elsewhere for name in elsewhere_lib.listed(value)]
    others = elsewhere_lib.read_all(sources)
    first = files.expanded(names[0]) if names else Path()
    if others and len(names) == 1 and not reports.has_results(first):
        text = f"{names[0]} has no runs of lrjax: the report is on those of --from"
        warnings.warn(text, stacklevel=2)
        names = []
    folder = Path(chosen.folder) if chosen.folder else first / "report"
    below = None if chosen.folder else first
    lines = reports.write(names, folder, options, below, others)
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
    """Print every method by family: source, advice, hyperparameters, search space."""
    probe = jax.ShapeDtypeStruct((1000,), "float32")

    def show(*cells: str) -> None:
        print("{:<28}{:<20}{}".format(*cells).rstrip())

    show("method", "family", "memory / parameters")
    print("  source; advice")
    show("  hyperparameter", "default", "search range")
    families = list(dict.fromkeys(method.family for method in METHODS.values()))
    for method in sorted(METHODS.values(), key=lambda m: families.index(m.family)):
        print()
        show(
            method.name, method.family, f"{state_size(method, probe) / probe.size:.0f}"
        )
        for text in filter(None, (method.source, method.advice)):
            print(textwrap.indent(textwrap.fill(text, 78), "  "))
        for hparam, default in method.defaults.items():
            limits = method.space.ranges.get(hparam)
            kind = "log" if limits and limits.log else "linear"
            span = f"{limits.low:g} to {limits.high:g}, {kind}" if limits else ""
            show(f"  {hparam}", str(default), span)
