"""Functions to call from Python: compare, tune and find_rate, for tasks of one's own.

Each function trains as main.py does, with the same tables, checkpoints and reports:
with a `workdir`, the same call resumes and skips what is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from lrjax import config as config_lib
from lrjax import elsewhere, optim, own, plugins, results, tasks
from lrjax import launch as launch_lib
from lrjax import methods as methods_lib
from lrjax import reports as reports_lib
from lrjax.common import files
from lrjax.common.temporary import Temporary
from lrjax.config import Settings
from lrjax.core import LOSS, Method, Task, UsageError, cut, shown, unknown
from lrjax.hpo import tune as tune_lib
from lrjax.launch import experiment, startup
from lrjax.launch.turns import in_turn
from lrjax.own import MethodLike, Methods
from lrjax.rates import Rates, Transfer
from lrjax.track.listeners import OnRows, of_function

Seeds = int | Iterable[int]
_PER_DECADE = 4  # rates that find_rate tries
_REST = 0.2  # part of a run over which its rate falls to zero before it is judged


@dataclasses.dataclass(frozen=True)
class Results:
    """The runs of a working directory.

    `print(results)` shows the ranking.

    Attributes:
      workdir: directory of the tables.
      runs: a row per run, as `lrjax.results.load` returns them, with a column for each
        hyperparameter in place of `hparams`. The rate that a method used at the end is
        `measured_learning_rate`.
      curves: a row per run and measurement, with task, method and seed of the run.
      trials: a row per trial of a tuning, likewise; empty if nothing was tuned.
      best: hyperparameters of the last tuning's best trial; {} if nothing was tuned.
      snippet: Python that trains with `best` outside of lrjax; '' if nothing was tuned.
    """

    workdir: Path
    runs: pd.DataFrame
    curves: pd.DataFrame
    trials: pd.DataFrame
    best: Mapping[str, Any]
    snippet: str
    _text: str = dataclasses.field(repr=False)
    # Holds a temporary directory for as long as its results are in use.
    _kept: Any = dataclasses.field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return self._text

    def report(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Write a page with figures, statistics and findings.

        Args:
          folder: directory of the report; `report` in the working directory, or in the
            current directory for results without a `workdir`.

        Returns:
          path of the page.

        Raises:
          UsageError: if it cannot be written.
        """
        return reports_lib.write_page(self.workdir, folder, temporary=bool(self._kept))


def report(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str] = "report",
    **options: Any,
) -> Path:
    r"""Write a page with figures, statistics and findings on runs, also of others.

    Args:
      sources: a working directory, or runs that others trained: 'csv:FILE',
        'wandb:EXPORT.csv', 'wandb:FOLDER', 'tensorboard:FOLDER', 'race:FOLDER' or
        'optuna:sqlite:///FILE#STUDY'; or several, to be compared (docs/report.md).
      folder: directory of the page; made if it does not exist.
      **options: fields of `lrjax.reports.Options`, such as `baseline`.

    Returns:
      path of the page.

    Raises:
      UsageError: if a source cannot be read, an option does not fit, or the page
        cannot be written.

    Example:
      >>> import tempfile
      >>> import lrjax
      >>> rows = "optimizer,seed,val_loss\nadam,0,0.2\nadam,1,0.3\nsgd,0,0.4\nsgd,1,0.5"
      >>> with tempfile.TemporaryDirectory() as home:
      ...     size = Path(home, "mine.csv").write_text(rows)
      ...     page = lrjax.report(f"csv:{home}/mine.csv", folder=f"{home}/report")
      ...     page.name, page.exists()
      ('index.html', True)
    """
    known = [field.name for field in dataclasses.fields(reports_lib.Options)]
    for name in options:
        if name not in known:
            raise unknown("option of a report", name, known)
    chosen = reports_lib.Options(**options)
    given = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not given:
        raise UsageError("there is nothing to report")
    read = [s for s in given if isinstance(s, str) and elsewhere.is_source(s)]
    workdirs = [files.expanded(s) for s in given if s not in read]
    others = elsewhere.read_all(read)
    folder = files.expanded(folder)
    reports_lib.write(workdirs, folder, chosen, others=others)
    return folder / "index.html"


@in_turn
def compare(
    task: Task | str | Sequence[Task | str],
    methods: Methods,
    *,
    seeds: Seeds = 10,
    epochs: int | None = None,
    steps: int | None = None,
    grid: Mapping[str, Sequence[Any] | np.ndarray | jax.Array] | None = None,
    hparams: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int | None = None,
    workdir: str | os.PathLike[str] | None = None,
    data_dir: str | None = None,
    launcher: str = "local",
    on_rows: OnRows | None = None,
    **fields: Any,
) -> Results:
    """Train methods on a task with several seeds, and rank them.

    Args:
      task: a `lrjax.Task`, the name of one, or several.
      methods: names, objects `lrjax.core.Method`, or functions of hyperparameters that
        return an Optax transformation (`lrjax.register_method`).
      seeds: number of seeds, or which.
      epochs: passes over the training part; None: those of the protocol.
      steps: updates, in place of `epochs`.
      grid: hyperparameter -> values; a full product for each method that has it.
      hparams: method -> hyperparameter -> value.
      batch_size: rows of a batch; None: the task's own.
      workdir: directory of the tables; None: a temporary one.
      data_dir: directory searched first for the data files of a named task.
      launcher: 'local', 'dask' or a registered one. Workers of a cluster find tasks and
        methods by name or import path alone.
      on_rows: called with lists of rows as they are measured (docs/tracking.md).
      fields: other fields of a config, such as `protocol` or `eval_every`.

    Returns:
      The results.

    Raises:
      UsageError: one line that says what is wrong.

    Example:
      >>> import lrjax
      >>> study = lrjax.compare("libsvm/iris", ["adam", "momentum"], seeds=3, steps=50)
      >>> print(study)  # doctest: +ELLIPSIS
      Validation accuracy (%) and loss, mean [95 % interval] over seeds...
      >>> study.runs.groupby("method")["valid_accuracy"].count().to_dict()
      {'adam': 3, 'momentum': 3}
    """
    listeners = of_function(on_rows)
    with _known(task, methods, launcher) as (task_names, method_names):
        _warn_of_unused(fields, "compare", launcher)
        config = _config(
            task_names,
            method_names,
            seeds=seeds,
            epochs=epochs,
            steps=steps,
            grid=grid or {},
            hparams=hparams or {},
            batch_size=batch_size,
            **fields,
        )
        settings = _checked(config, launcher)
        with _folder(workdir) as (folder, kept):
            launch = launch_lib.find(launcher)
            experiment.run(
                settings, folder, data_dir, launch=launch, listeners=listeners
            )
            return _results(folder, kept)


@in_turn
def tune(
    task: Task | str,
    method: MethodLike,
    *,
    trials: int = 50,
    space: Mapping[str, Sequence[Any]] | None = None,
    tuner: str = "smac",
    seeds: Seeds = 10,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    workdir: str | os.PathLike[str] | None = None,
    data_dir: str | None = None,
    launcher: str = "local",
    on_rows: OnRows | None = None,
    **fields: Any,
) -> Results:
    """Tune a method's hyperparameters, then train the best ones with fresh seeds.

    Args:
      task, seeds, epochs, steps, batch_size, workdir, data_dir, launcher, on_rows: as
        in `compare`.
      method: what to tune: a name, a `Method` or a function.
      trials: number of trials.
      space: hyperparameter -> (low, high), optionally with 'log', 'linear' or
        'integer'; None: the method's own.
      tuner: 'smac', 'random', 'grid', 'asha' or one's own.
      fields: other fields of a config; those of its block `tune` begin with `tune_`,
        as in `tune_eta`.

    Returns:
      The results; `.best` has the best hyperparameters, `.snippet` code to train with
      them, `.trials` all trials.

    Raises:
      UsageError: one line that says what is wrong.

    Example:
      >>> import lrjax
      >>> space = {"learning_rate": (1e-3, 0.1, "log")}
      >>> tuned = lrjax.tune(
      ...     "libsvm/iris", "adam", tuner="random", trials=4, space=space, steps=50
      ... )
      >>> len(tuned.trials), 1e-3 <= tuned.best["learning_rate"] <= 0.1
      (4, True)
    """
    listeners = of_function(on_rows)
    with _known(task, method, launcher) as (task_names, method_names):
        _warn_of_unused(fields, "tune", launcher)
        config = _config(
            task_names,
            method_names,
            seeds=seeds,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            tune_trials=trials,
            tune_tuner=tuner,
            tune_space=_tuples(space or {}),
            **fields,
        )
        settings = _checked(config, launcher)
        with _folder(workdir) as (folder, kept):
            launch = launch_lib.find(launcher)
            tuned = tune_lib.run(
                settings, folder, data_dir, launch=launch, listeners=listeners
            )
            return _results(folder, kept, *[*tuned.snippets.values()][-1:])


@in_turn
def find_rate(
    task: Task | str,
    method: MethodLike,
    *,
    rates: Iterable[float] | None = None,
    seeds: Seeds = 3,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    workdir: str | os.PathLike[str] | None = None,
    data_dir: str | None = None,
    **fields: Any,
) -> Rates:
    """Find a method's learning rate by training all candidates at once.

    All rates and seeds are one population: one program is compiled, and they train
    together. Before a run is judged by its validation loss its rate falls to zero over
    the last fifth of its updates, unless the method lowers it anyway; a rate that is
    never lowered looks worse than it is.

    Args:
      task, seeds, epochs, steps, batch_size, workdir, data_dir, fields: as in
        `compare`. Give the length of the training that the rate is for, or a tenth of
        it, which is often enough.
      method: a method with a hyperparameter `learning_rate`.
      rates: candidates; None: four in each decade of the method's range.

    Returns:
      the best rate, the rates that are as good as far as the seeds can tell, and the
      rate from which runs diverge.

    Raises:
      UsageError: if the method has no learning rate, or all runs diverge.

    Example:
      >>> import lrjax
      >>> found = lrjax.find_rate("libsvm/iris", "adam", rates=[0.001, 0.1], steps=50)
      >>> found.rate
      0.1
    """
    with _known(task, method, "local") as (task_names, (name,)):
        _warn_of_unused(fields, "find_rate", "local")
        chosen = methods_lib.find(name)
        if "learning_rate" not in chosen.defaults:
            raise UsageError(f"find_rate: method '{name}' has no learning_rate")
        candidates = _candidates(chosen, rates)
        length: dict[str, Any] = {"epochs": epochs, "steps": steps}
        config = _config(task_names, (name,), **length, batch_size=batch_size, **fields)
        settings = _checked(config, "local")
        at_rest = _at_rest(chosen, settings.hparams_grid(name, task_names[0])[0])
        with _registered(methods_lib.METHODS, at_rest.name, at_rest):
            config = _config(
                task_names,
                (at_rest.name,),
                **length,
                seeds=seeds,
                grid={"learning_rate": candidates},
                batch_size=batch_size,
                **fields,
            )
            with _folder(workdir) as (folder, _):
                settings = _checked(config, "local")
                experiment.run(settings, folder, data_dir)
                runs, _ = results.load(folder)
                metrics = results.load_metrics(folder)[task_names[0]]
    loss = next((each for each in metrics if each.name == LOSS.name), LOSS)
    return Rates.of(runs[runs["method"] == at_rest.name], name, loss)


@in_turn
def rate_transfer(
    tasks: Mapping[float, Task | str],
    method: MethodLike,
    *,
    workdir: str | os.PathLike[str] | None = None,
    **given: Any,
) -> Transfer:
    """Find the best learning rate for models of several widths, to see if it transfers.

    A rate that was tuned on a narrow model serves a wide one only if the model is
    parametrised for that (Yang et al. 2021, Tensor Programs V).

    Args:
      tasks: width of the model -> task, as in `find_rate`; two widths or more.
      method: as in `find_rate`.
      workdir: results are kept in a directory of its own for each width below it.
      given: the other arguments of `find_rate`.

    Returns:
      the rates of each width, the rates that serve all, and the power of the width
      as which the best rate changes.

    Raises:
      UsageError: as `find_rate`, and if there are less than two widths above 0.

    Example:
      >>> import lrjax
      >>> widths = {1: "libsvm/iris", 2: "libsvm/iris"}
      >>> found = lrjax.rate_transfer(widths, "adam", rates=[0.001, 0.1], steps=50)
      >>> found.shared, f"{found.exponent:.1f}"
      ((0.1, 0.1), '0.0')
    """
    if len(tasks) < 2 or not all(
        isinstance(width, numbers.Real) and 0 < width < math.inf for width in tasks
    ):
        widths = ", ".join(map(str, tasks))
        raise UsageError(
            f"rate_transfer: tasks has the widths {cut(widths)}: give two or more, "
            "each above 0"
        )
    return Transfer(
        {
            width: find_rate(
                tasks[width],
                method,
                workdir=None if workdir is None else Path(workdir) / f"width_{width:g}",
                **given,
            )
            for width in sorted(tasks)
        }
    )


def _candidates(method: Method, rates: Iterable[float] | None) -> tuple[float, ...]:
    """Return the rates to try: those given, or four in each decade of the range."""
    if rates is not None:
        given = tuple(rates)
        for rate in given:
            if not isinstance(rate, numbers.Real) or isinstance(rate, bool):
                raise UsageError(f"find_rate: rates has {shown(rate)}, not a number")
        if len(set(given)) < 2:
            raise UsageError("find_rate: give at least two different rates, or None")
        return tuple(float(rate) for rate in given)
    span = method.space.ranges.get("learning_rate")
    low, high = (span.low, span.high) if span else (1e-4, 1.0)
    count = 1 + round(_PER_DECADE * math.log10(high / low))
    return tuple(float(f"{rate:.3g}") for rate in np.geomspace(low, high, count))


def _at_rest(method: Method, hparams: Mapping[str, Any]) -> Method:
    """Return a method whose updates fall to zero over the last fifth of a run.

    That is the method itself if its rate falls anyway, or if it is judged at an average
    of its iterates, which has the same effect.
    """
    if method.horizon_bound(hparams) or _averages(method, hparams):
        return method

    def build(horizon: Any, **hparams: Any) -> Any:
        inner = optax.with_extra_args_support(method.build(horizon, **hparams))
        return optim.cooldown(inner, (1 - _REST) * horizon, _REST * horizon)

    name = f"{method.name}+rest"
    return dataclasses.replace(method, name=name, build=build)


def _averages(method: Method, hparams: Mapping[str, Any]) -> bool:
    """Whether a method is judged at other parameters than those it updates."""
    params = {"a": jnp.zeros(2)}
    tx = method.build(100.0, **hparams)
    return optim.eval_params(tx.init(params), params)["a"] is not params["a"]


def _warn_of_unused(fields: Iterable[str], function: str, launcher: str) -> None:
    """Warn of fields of a config that a function of this module does not read."""
    for name in fields:
        block = name.partition("_" if name.startswith("tune_") else ".")[0]
        reason = ""
        if block in ("tune", "select", "advise", "report") and block != function:
            reason = f"it is for lrjax.{block}"
        elif block == "cluster" and not launch_lib.LAUNCHERS[launcher].remote:
            reason = "it is for launcher='dask'"
        if reason:
            warnings.warn(f"{name} changes nothing: {reason}", stacklevel=4)


def _config(
    task_names: Sequence[str], method_names: Sequence[str], **given: Any
) -> Any:
    """Make a config of what was given; None leaves a field as it is.

    Names that begin with 'tune_' are fields of the block `tune`.

    Raises:
      UsageError: if a field is unknown, or its value of the wrong type.
    """
    config = config_lib.base()
    config.tasks, config.methods = tuple(task_names), tuple(method_names)
    # Users who compute in double precision want it here, too.
    config.precision = "float64" if jax.config.values["jax_enable_x64"] else "auto"
    for name, value in given.items():
        if value is None:
            continue
        if name.startswith("tune_"):
            name = name.replace("_", ".", 1)
        if name == "seeds" and isinstance(value, Iterable):
            value = tuple(value)
        leaves = {".".join(p): (p, v) for p, v in _leaves((*name.split("."),), value)}
        error = config_lib.unknown_field([name, *leaves])
        if error:
            raise error
        for dotted, (path, item) in leaves.items():
            part: Any = config
            *blocks, last = path
            for block in blocks:
                part = part[block]
            if hasattr(part[last], "keys"):
                raise UsageError(
                    f"{dotted}={shown(item)}: must be a dictionary with some of "
                    f"{cut(', '.join(part[last]))}"
                )
            try:
                part[last] = item
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                mistyped = config_lib.mistyped(dotted, str(item))
                raise mistyped or UsageError(
                    f"{dotted}={shown(item)}: {cut(str(error))}"
                ) from error
    return config


def _tuples(space: Any) -> Any:
    """Make tuples of the ranges of a space; what is none is refused later."""
    if not isinstance(space, Mapping):
        return space
    return {k: tuple(v) if isinstance(v, Iterable) else v for k, v in space.items()}


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and value of each field of a nested dictionary."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves((*path, str(key)), item)
    else:
        yield path, value


def _checked(config: Any, launcher: str) -> Settings:
    """Check a config, and prepare JAX unless workers elsewhere train."""
    settings = config_lib.check(config)
    if not launch_lib.LAUNCHERS[launcher].remote:
        startup.begin(settings)
    return settings


@contextlib.contextmanager
def _known(
    task: Any, methods: Any, launcher: str
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Let the engine find a user's own tasks and methods by name, for a while.

    Yields:
      names of the tasks and methods.

    Raises:
      UsageError: if something is not a task or a method, or has a name of lrjax's own.
    """
    launch_lib.find(launcher)
    remote = launch_lib.LAUNCHERS[launcher].remote
    given = [task] if isinstance(task, Task | str) else task
    if not isinstance(given, Sequence) or not given:
        raise tasks.no_task(task)
    with contextlib.ExitStack() as stack:
        names = []
        for each in given:
            if isinstance(each, str):
                names.append(each)
                continue
            if not isinstance(each, Task):
                raise tasks.no_task(each)
            if remote:
                raise _not_sent("task", each.name, launcher)
            factory = tasks.factory_of(each.name, each)
            plugins.check_free("task", each.name, tasks.SHIPPED)
            stack.enter_context(_registered(tasks.TASKS, each.name, factory))
            names.append(each.name)
        chosen = []
        for method in own.methods_of(methods):
            if isinstance(method, str):
                chosen.append(methods_lib.find(method).name)
                continue
            if methods_lib.METHODS.get(method.name) is not method:
                if remote:
                    raise _not_sent("method", method.name, launcher)
                plugins.check_free("method", method.name, methods_lib.SHIPPED)
                methods_lib.own_options(method)  # tries a step
                stack.enter_context(
                    _registered(methods_lib.METHODS, method.name, method)
                )
            chosen.append(method.name)
        yield tuple(names), tuple(chosen)


def _not_sent(kind: str, name: str, launcher: str) -> UsageError:
    """The error for an object that workers of a cluster cannot find."""
    return UsageError(
        f"launcher='{launcher}': workers do not have the {kind} '{cut(name)}': put it "
        "into a module that they can import, and name it 'module:name'"
    )


@contextlib.contextmanager
def _registered(registry: dict[str, Any], name: str, part: Any) -> Iterator[None]:
    """Register a part under a name for a while; the others keep their order."""
    before = registry.get(name)
    registry[name] = part
    try:
        yield
    finally:
        if before is None:
            del registry[name]
        else:
            registry[name] = before


@contextlib.contextmanager
def _folder(workdir: str | os.PathLike[str] | None) -> Iterator[tuple[Path, Any]]:
    """Yield a working directory; a temporary one, with what keeps it, if None."""
    if workdir is None:
        kept = Temporary()
        yield kept.path, kept
    elif isinstance(workdir, str | os.PathLike):
        yield files.expanded(workdir), None
    else:
        raise UsageError(f"workdir must be a path, not {shown(workdir)}")


def _results(folder: Path, kept: Any, snippet: str = "") -> Results:
    """Read the tables of a working directory into tidy frames."""
    runs, curves = results.load(folder)
    text = reports_lib.ranking(runs, results.load_metrics(folder))
    rows = results.read_rows(folder, results.TRIALS)
    best = [row["hparams"] for row in rows if row["incumbent"]][-1:]
    best = best[0] if best else {}
    trials = _tidy(pd.DataFrame(rows))
    return Results(folder, _tidy(runs), curves, trials, best, snippet, text, kept)


def _tidy(rows: pd.DataFrame) -> pd.DataFrame:
    """Put each hyperparameter into a column of its own, in place of `hparams`."""
    if "hparams" not in rows:
        return rows
    values = pd.DataFrame(rows["hparams"].map(dict).tolist(), index=rows.index)
    rows = rows.drop(columns="hparams")
    measured = {name: f"measured_{name}" for name in rows if name in values}
    return pd.concat([rows.rename(columns=measured), values], axis=1)
