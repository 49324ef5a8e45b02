"""Which runs are trained together: a config's runs in blocks of one shape.

A block's shape follows from the config and the backend by the rule in `_blocks`, never
from what is already done, how many devices there are or what is measured, because the
last bits of a result depend on it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import (
    checkpoint,
    methods,
    numerics,
    protocol,
    recalibration,
    results,
    strategy,
    tasks,
    train,
)
from lrjax.config import Settings
from lrjax.core import Method, Run, Task
from lrjax.tasks.data import DataError

# Lanes of a block along each axis. On a CPU larger blocks leave its cache, and more
# small ones keep more cores busy; an accelerator wants as many lanes as it gets.
_MOST_LANES = {"cpu": (5, 32)}
_MOST_LANES_ELSEWHERE = (32, 64)
_MAX_FLOATS = 2**26  # of parameters, gradients and optimiser state of a block


@dataclasses.dataclass(frozen=True)
class Block:
    """Runs that are trained by one call of one compiled program.

    Attributes:
      program: what is compiled.
      runs: [seeds][hparams]; the same run may stand in several lanes as padding.
      lanes: traced hyperparameters, one dictionary per lane.
    """

    program: train.Program
    runs: tuple[tuple[Run, ...], ...]
    lanes: tuple[Mapping[str, float], ...]

    @functools.cached_property
    def ids(self) -> list[list[str]]:
        """Identity of each run, [seeds][hparams]."""
        return [[results.run_id(run) for run in row] for row in self.runs]

    @property
    def example(self) -> Run:
        """One of the runs; all share task, method, steps and horizon."""
        return self.runs[0][0]

    @property
    def key(self) -> tuple[Any, ...]:
        """What decides the compiled program."""
        p = self.program
        names = tuple(self.lanes[0])
        shape = (p.num_seeds, p.num_hparams, p.eval_every)
        flags = (p.fresh_batches, p.sums_losses)
        return (_signature(p.task), p.method.name, p.static, names, *shape, *flags)

    @functools.cached_property
    def lanes_of(self) -> dict[tuple[int, int], str]:
        """Position of each distinct run in the block -> its identity."""
        first: dict[str, tuple[int, int]] = {}
        for s, row in enumerate(self.ids):
            for h, run_id in enumerate(row):
                first.setdefault(run_id, (s, h))
        return {position: run_id for run_id, position in first.items()}

    @property
    def name(self) -> str:
        """16 hexadecimal digits that follow from the runs and where they stand."""
        return results.digest(self.ids)

    @property
    def title(self) -> str:
        """Its task and method, for people."""
        return f"{self.example.task} {self.example.method}"

    @property
    def task_name(self) -> str:
        """The task's name in the tables."""
        return self.example.task

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Identities of the distinct runs."""
        return tuple(self.lanes_of.values())

    @property
    def updates(self) -> int:
        """Updates of all distinct runs together."""
        return self.example.steps * len(self.run_ids)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The task's metrics, as from `results.describe`."""
        return results.describe(self.program.task.metrics)

    def inputs(self) -> tuple[train.Seeds, train.Inputs]:
        """What tells the block's runs apart, on the device."""
        numbers = np.asarray([row[0].seed for row in self.runs], np.uint32)
        seeds = train.seed_runs(self.program.task.init, numbers)
        return seeds, train.inputs(
            self.program, seeds, self.lanes, self.example.horizon
        )


def _signature(task: Task) -> tuple[Any, ...]:
    """What decides a task's programs; its data is traced."""
    parts = {"train": task.train, "valid": task.valid}
    shapes = tuple(
        (part, name, array.shape, str(array.dtype))
        for part, arrays in parts.items()
        for name, array in arrays.items()
    )
    functions = (task.init, task.loss, task.evaluate, task.metrics)
    sizes = (task.batch_size, task.micro_batches, task.num_classes, task.measured_rows)
    rest = (task.max_norm, task.valid is task.train, task.streamed)
    return (*functions, *sizes, *rest, shapes)


def make_tasks(settings: Settings, data_dir: str | None) -> list[Task]:
    """Loads every task's data and places it on the device.

    Raises:
      UsageError: if one cannot be had.
    """
    return [_make_task(name, settings, data_dir) for name in settings.tasks]


def _make_task(name: str, settings: Settings, data_dir: str | None) -> Task:
    options = tasks.TaskOptions(
        protocol=protocol.find(settings.protocol).data,
        data_dir=data_dir,
        batch_size=settings.batch_size,
        precision=tasks.precision_of(name, settings.precision),
        text=settings.text,
        micro_batches=settings.micro_batches,
        remat=settings.remat,
        label_smoothing=settings.label_smoothing,
        stream=settings.stream,
    )
    return tasks.make_task(name, options)


def load(settings: Settings, data_dir: str | None) -> tuple[Settings, list[Task]]:
    """As `make_tasks`, without tasks that may be left out and cannot be had.

    Returns:
      The settings with the tasks that are left, and these.

    Raises:
      UsageError: if a task that may not be left out cannot be had, or if none can.
    """
    settings, loaded = _load(settings, data_dir)
    for text in _without_effect(settings, loaded):
        warnings.warn(text, stacklevel=2)
    return settings, loaded


def _without_effect(settings: Settings, loaded: Sequence[Task]) -> Iterator[str]:
    """Lines on what is asked for and cannot be as it was asked."""
    asked = settings.batch_size or 0
    small = [task.name for task in loaded if task.num_examples < asked]
    if small:
        yield (
            f"config.batch_size={asked}: every batch is the whole training part of "
            f"{', '.join(small)}"
        )
    short = [
        name
        for name, task in zip(settings.tasks, loaded, strict=True)
        if settings.updates(name, task.steps_per_epoch) < (settings.eval_every or 0)
    ]
    if short:
        yield (
            f"config.eval_every={settings.eval_every} is beyond the end of runs on "
            f"{', '.join(short)}: these are measured there alone"
        )


def _load(settings: Settings, data_dir: str | None) -> tuple[Settings, list[Task]]:
    if not settings.skip_missing:
        return settings, make_tasks(settings, data_dir)
    found: dict[str, Task] = {}
    reasons: dict[str, str] = {}
    for name in settings.tasks:
        try:
            found[name] = _make_task(name, settings, data_dir)
        except DataError as error:
            if name == settings.tasks[-1] and not found:
                raise
            reasons[name] = str(error)
    if reasons:
        warnings.warn(left_out(reasons), stacklevel=2)
    return dataclasses.replace(settings, tasks=tuple(found)), list(found.values())


def left_out(reasons: Mapping[str, str]) -> str:
    """One line on tasks that are left out, whose causes are mostly the same.

    Args:
      reasons: name of a task -> why its data is not available.
    """
    (_, first), *others = reasons.items()
    names = ", ".join(name for name, _ in others)
    return f"left out: {first}" + (f"; and alike {names}" if others else "")


def most_runs(task: Task, method: Method) -> int:
    """How many runs of a method on a task one block may hold."""
    params = jax.eval_shape(lambda: task.init(numerics.key(0))[0])
    size = 3 * sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    return max(1, _MAX_FLOATS // (size + methods.state_size(method, params)))


def plan(settings: Settings, loaded: Sequence[Task]) -> list[Block]:
    """All blocks, in the order of the settings' tasks and methods.

    Raises:
      UsageError: if parameters are to be kept and files cannot hold a task's.
    """
    blocks = []
    for name, task in zip(settings.tasks, loaded, strict=True):
        if settings.save_params:
            model = jax.eval_shape(task.init, numerics.key(0))
            checkpoint.check_params(name, *model)
        data = tasks.fingerprint(task)
        for method in settings.methods:
            blocks += _blocks(settings, name, task, data, method)
    return blocks


def run_of(
    settings: Settings,
    name: str,
    task: Task,
    data: str,
    method: Method,
    hparams: Mapping[str, Any],
    *,
    seed: int,
    steps: int,
    horizon: int,
    eval_every: int,
    label: str = "",
) -> Run:
    """A run of a config: everything that its identity follows from.

    Args:
      settings: the config.
      name, task: the task, by the name that it has there.
      data: its fingerprint.
      method: how the learning rate is controlled.
      hparams: a value for every hyperparameter of it.
      seed: of the run.
      steps: updates.
      horizon: updates that schedules are laid out for.
      eval_every: updates between two measurements.
      label: the method's name in the tables, if it is another one.
    """
    choices = protocol.find(settings.protocol)
    return Run(
        task=name,
        protocol=choices.name,
        method=label or method.name,
        hparams=tuple(sorted(hparams.items())),
        seed=seed,
        steps=steps,
        horizon=horizon,
        batch_size=task.batch_size,
        precision=tasks.precision_of(name, settings.precision),
        eval_every=eval_every,
        data=data,
        fresh_batches=choices.draws_afresh(method.name, name),
        recalibrated=recalibration.recalibrates(task, method, hparams),
        options=task.options,
    )


def program_of(
    run: Run,
    task: Task,
    method: Method,
    static: tuple[tuple[str, Any], ...],
    num_seeds: int,
    num_hparams: int,
) -> train.Program:
    """The program of runs that are like this one but for seeds and traced values.

    Args:
      run: one of them.
      task, method: its own.
      static: hyperparameters that are compiled in, as from `methods.split`.
      num_seeds, num_hparams: lanes.
    """
    return train.Program(
        task=task,
        method=method,
        static=static,
        eval_every=run.eval_every,
        num_seeds=num_seeds,
        num_hparams=num_hparams,
        fresh_batches=run.fresh_batches,
        dtype=jnp.float64 if run.precision == "float64" else jnp.float32,
        one_by_one=strategy.one_by_one(task),
        sums_losses=protocol.find(run.protocol).sums_losses(run.task),
    )


def _blocks(
    settings: Settings, name: str, task: Task, data: str, method_name: str
) -> Iterator[Block]:
    """The blocks of one task and method."""
    method = methods.find(method_name)
    epoch = task.steps_per_epoch
    steps = settings.updates(name, epoch)
    # The order of a whole round is held at once, so none is longer than it need be.
    every = min(settings.eval_every or epoch, max(steps, epoch))
    most_seeds, most_hparams = _MOST_LANES.get(
        jax.default_backend(), _MOST_LANES_ELSEWHERE
    )
    if strategy.one_by_one(task):
        most_seeds = most_hparams = 1
    limit = most_runs(task, method)
    # Lanes with other static values, or with other names traced, are other programs.
    groups: dict[Any, list[tuple[dict[str, Any], dict[str, float]]]] = {}
    for hparams in settings.lanes(method_name, name):
        static, traced = methods.split(method, hparams)
        groups.setdefault((static, tuple(traced)), []).append((hparams, traced))
    for (static, _), lanes in groups.items():
        example = run_of(
            settings,
            name,
            task,
            data,
            method,
            lanes[0][0],
            seed=settings.seeds[0],
            steps=steps,
            horizon=steps,
            eval_every=every,
        )
        for seeds in _chunks(settings.seeds, min(most_seeds, limit)):
            most = min(most_hparams, max(1, limit // len(seeds)))
            for chunk in _chunks(lanes, most):
                runs = tuple(
                    tuple(
                        dataclasses.replace(
                            example, hparams=tuple(sorted(hparams.items())), seed=seed
                        )
                        for hparams, _ in chunk
                    )
                    for seed in seeds
                )
                program = program_of(
                    runs[0][0], task, method, static, len(seeds), len(chunk)
                )
                yield Block(program, runs, tuple(traced for _, traced in chunk))


def halves(block: Block) -> list[Block]:
    """Two blocks of half the size with the same runs; none if it has one lane only.

    For a device whose memory does not hold the whole. Last bits may differ.
    """
    program = block.program
    if program.num_hparams > 1:
        parts = list(_chunks(range(program.num_hparams), -(-program.num_hparams // 2)))
        return [
            Block(
                dataclasses.replace(program, num_hparams=len(part)),
                tuple(tuple(row[h] for h in part) for row in block.runs),
                tuple(block.lanes[h] for h in part),
            )
            for part in parts
        ]
    if program.num_seeds > 1:
        return [
            Block(
                dataclasses.replace(program, num_seeds=len(part)),
                tuple(block.runs[s] for s in part),
                block.lanes,
            )
            for part in _chunks(range(program.num_seeds), -(-program.num_seeds // 2))
        ]
    return []


def _chunks(items: Sequence[Any], most: int) -> Iterator[list[Any]]:
    """Splits into the fewest chunks of at most `most`, all of the same length.

    The last is filled up with its last item, so that all share one program.
    """
    count = -(-len(items) // most)
    length = -(-len(items) // count)
    for start in range(0, len(items), length):
        chunk = list(items[start : start + length])
        yield chunk + chunk[-1:] * (length - len(chunk))
