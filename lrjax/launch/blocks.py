"""The blocks of a config: runs that one compiled program trains together.

A block's shape follows from the config and the backend by the rule in `_blocks`. It
never depends on finished runs, the number of devices or measurements, because the last
bits of a result depend on it.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lrjax import (
    identity,
    machine,
    methods,
    protocol,
    results,
    tasks,
)
from lrjax.common import spans
from lrjax.config import Settings
from lrjax.core import Method, Run, Task, counted
from lrjax.engine import recalibration, strategy, train, xla_options
from lrjax.launch import checkpoint, rows
from lrjax.tasks.data import DataError

# Most lanes of a block along each axis (seeds, hparams). On a CPU larger blocks leave
# the cache, and more small ones keep more cores busy; an accelerator wants many lanes.
_MOST_LANES = {"cpu": (5, 32)}
_MOST_LANES_ELSEWHERE = (32, 64)
# Blocks of different methods are joined up to this cost, in the unit of `cost`. On a
# CPU that is about three seconds of training on a core: longer blocks are not joined,
# since they keep more cores busy. On an accelerator more lanes are nearly free.
_JOINED_COST = {"cpu": 2**34}
_JOINED_COST_ELSEWHERE = 2**42
# The largest cost of all blocks of a program -> how well it is optimised; above them
# fully. On a CPU 2**30 takes about a fifth of a second.
_WORTH = {2**27: xla_options.LEAST, 2**33: xla_options.LESS}
# Multiplications in whose time an update is done that has few of them.
_OVERHEAD = 2**14
_MAX_FLOATS = 2**26  # numbers in parameters, gradients and optimiser state of a block


@dataclasses.dataclass(frozen=True)
class Block:
    """Runs that are trained by one call of one compiled program.

    Attributes:
      program: static choices of the compiled programs.
      runs: [seeds][hparams]. A lane is one of the columns: runs with the same
        hyperparameters and different seeds. Lanes of padding repeat a run.
      lanes: traced hyperparameters, one dictionary per lane.
      spare: lanes that nobody asked for, whole groups of the program. Their runs stand
        for nothing.
    """

    program: train.Program
    runs: tuple[tuple[Run, ...], ...]
    lanes: tuple[Mapping[str, float], ...]
    spare: frozenset[int] = frozenset()

    @functools.cached_property
    def ids(self) -> list[list[str]]:
        """Identity of each run, [seeds][hparams]."""
        return [[identity.run_id(run) for run in row] for row in self.runs]

    @property
    def example(self) -> Run:
        """The first run; all runs share task, steps and horizon."""
        return self.runs[0][0]

    @property
    def grouped(self) -> list[tuple[train.Group, Sequence[Mapping[str, float]]]]:
        """The groups of the program, each with its lanes."""
        lanes = iter(self.lanes)
        return [
            (group, list(itertools.islice(lanes, group.num_hparams)))
            for group in self.program.groups
        ]

    @property
    def key(self) -> tuple[Any, ...]:
        """The key of the compiled programs: blocks with equal keys share them."""
        program = self.program
        groups = [
            (group.method.name, group.static, tuple(lanes[0]), group.num_hparams)
            for group, lanes in self.grouped
        ]
        return (
            signature(program.task),
            *groups,
            program.num_seeds,
            program.eval_every,
            program.fresh_batches,
            program.sums_losses,
            program.effort,
        )

    @functools.cached_property
    def ids_by_position(self) -> dict[tuple[int, int], str]:
        """Position (seed, hparams) of each distinct run -> its identity."""
        first: dict[str, tuple[int, int]] = {}
        for s, row in enumerate(self.ids):
            for h, run_id in enumerate(row):
                if h not in self.spare:
                    first.setdefault(run_id, (s, h))
        return {position: run_id for run_id, position in first.items()}

    @property
    def name(self) -> str:
        """16 hexadecimal digits that follow from the runs and their positions."""
        return identity.digest(self.ids)

    @property
    def title(self) -> str:
        """Task and method, for messages; the number of methods if there are several."""
        return f"{self.example.task} {named(self.methods)}"

    @property
    def methods(self) -> list[str]:
        """Names of the methods in the tables, in the order of the lanes."""
        return list(dict.fromkeys(run.method for run in self.runs[0]))

    @property
    def task_name(self) -> str:
        """The task's name in the tables."""
        return self.example.task

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Identities of the distinct runs."""
        return tuple(self.ids_by_position.values())

    @property
    def heads(self) -> list[dict[str, Any]]:
        """Fields of each distinct run that are known before it trains: `rows.head`."""
        metric = self.program.task.metric.name
        return [
            rows.head(self.runs[s][h], run_id, metric)
            for (s, h), run_id in self.ids_by_position.items()
        ]

    @property
    def updates(self) -> int:
        """Number of updates of all distinct runs together."""
        return self.example.steps * len(self.run_ids)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The task's metrics, as returned by `results.describe`."""
        return results.describe(self.program.task.metrics)

    def inputs(self) -> tuple[train.Seeds, train.Inputs]:
        """Compute the block's seeds and traced values on the device."""
        numbers = np.asarray([row[0].seed for row in self.runs], np.uint32)
        seeds = train.seed_runs(self.program.task.init, numbers)
        return seeds, train.inputs(
            self.program, seeds, self.lanes, self.example.horizon
        )


def named(methods: Sequence[str]) -> str:
    """Name a method, or count several."""
    return methods[0] if len(methods) == 1 else counted(len(methods), "method")


def signature(task: Task) -> tuple[Any, ...]:
    """Everything of a task that decides its compiled programs; its data is traced."""
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


@spans.span("data")
def make_tasks(settings: Settings, data_dir: str | None) -> list[Task]:
    """Load every task's data and place it on the device.

    Raises:
      UsageError: if a task's data is not available.
    """
    return [_make_task(name, settings, data_dir) for name in settings.tasks]


def _make_task(name: str, settings: Settings, data_dir: str | None) -> Task:
    """Load one task with the options of the settings."""
    options = tasks.TaskOptions(
        protocol=protocol.find(settings.protocol).data,
        data_dir=data_dir,
        batch_size=settings.on(name).batch_size,
        precision=tasks.precision_of(name, settings.precision),
        text=settings.text,
        micro_batches=settings.micro_batches,
        remat=settings.remat,
        scan_layers=settings.scan_layers,
        label_smoothing=settings.label_smoothing,
        stream=settings.stream,
    )
    return tasks.make_task(name, options)


@spans.span("data")
def load(settings: Settings, data_dir: str | None) -> tuple[Settings, list[Task]]:
    """Load a config's tasks, as `make_tasks`; warn of settings without effect.

    With `settings.skip_missing` tasks whose data is not available are left out.

    Returns:
      The settings with the tasks that are left, and these tasks.

    Raises:
      UsageError: if data is not available of a task that cannot be left out, or of all.
    """
    settings, loaded = _load(settings, data_dir)
    for text in _without_effect(settings, loaded):
        warnings.warn(text, stacklevel=2)
    return settings, loaded


def _without_effect(settings: Settings, loaded: Sequence[Task]) -> Iterator[str]:
    """Warnings about settings that cannot take effect on the loaded tasks."""
    small: dict[int, list[str]] = {}
    for name, task in zip(settings.tasks, loaded, strict=True):
        batch_size = settings.on(name).batch_size or 0
        if task.num_examples < batch_size:
            small.setdefault(batch_size, []).append(name)
    for batch_size, names in small.items():
        yield (
            f"batch_size={batch_size}: every batch is the whole training part "
            f"of {', '.join(names)}"
        )
    short = [
        name
        for name, task in zip(settings.tasks, loaded, strict=True)
        if settings.updates(name, task.steps_per_epoch) < (settings.eval_every or 0)
    ]
    if short:
        yield (
            f"config.eval_every={settings.eval_every} exceeds the length of runs on "
            f"{', '.join(short)}: these are measured only at their end"
        )


def _load(settings: Settings, data_dir: str | None) -> tuple[Settings, list[Task]]:
    """Load as `load` does, without the warnings about settings."""
    if not settings.skip_missing:
        return settings, make_tasks(settings, data_dir)
    loaded: dict[str, Task] = {}
    reasons: dict[str, str] = {}
    for name in settings.tasks:
        try:
            loaded[name] = _make_task(name, settings, data_dir)
        except DataError as error:
            if name == settings.tasks[-1] and not loaded:
                raise
            reasons[name] = str(error)
    if reasons:
        warnings.warn(left_out(reasons), stacklevel=2)
    return dataclasses.replace(settings, tasks=tuple(loaded)), list(loaded.values())


def left_out(reasons: Mapping[str, str]) -> str:
    """Describe in one line why tasks are left out.

    Args:
      reasons: task name -> why its data is not available; the first is quoted.
    """
    (_, first), *others = reasons.items()
    names = ", ".join(name for name, _ in others)
    return f"left out: {first}" + (f"; likewise {names}" if others else "")


def most_runs(task: Task, method: Method) -> int:
    """The largest number of runs of a method on a task in one block."""
    return max(1, _MAX_FLOATS // _floats_of_run(task.init, _Known(method)))


def most_lanes(task: Task, method: Method, count: int) -> int:
    """Lanes of one seed that a block of a method has, for `count` that are wanted."""
    _, most = _MOST_LANES.get(machine.kind(), _MOST_LANES_ELSEWHERE)
    return max(1, min(count, most, most_runs(task, method)))


def floats_of(block: Block) -> int:
    """Numbers in parameters, gradients, updates and optimiser states of a block.

    With the methods' defaults, whatever their options are: an estimate, and fast.
    """
    task, seeds = block.program.task, block.program.num_seeds
    return seeds * sum(
        group.num_hparams * _floats_of_run(task.init, _Known(group.method))
        for group in block.program.groups
    )


class _Known(NamedTuple):
    """A method as part of a cache's key; methods themselves hold dictionaries."""

    method: Method

    def __hash__(self) -> int:
        return hash((self.method.name, self.method.build))


@functools.lru_cache(128)
def _floats_of_run(init: Callable[..., Any], known: _Known) -> int:
    """Numbers in parameters, gradients, updates and optimiser state (cached)."""
    params, _ = strategy.model_shapes(init)
    size = 3 * sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    return size + methods.state_size(known.method, params)


@spans.span("plan")
def plan(settings: Settings, loaded: Sequence[Task]) -> list[Block]:
    """Plan all blocks, in the order of the settings' tasks and methods.

    Raises:
      UsageError: if parameters are to be saved and a task's cannot be.
    """
    blocks = []
    for name, task in zip(settings.tasks, loaded, strict=True):
        if settings.save_params:
            params, model_state = strategy.model_shapes(task.init)
            checkpoint.check_params(name, params, model_state)
        data, own = tasks.fingerprint(task), settings.on(name)
        for method in own.methods:
            blocks += _blocks(own, name, task, data, method)
    return arrange(blocks, settings)


def cost(block: Block) -> int:
    """Predicted training time of a block, in multiplications; from shapes alone."""
    lanes = block.program.num_seeds * block.program.num_hparams
    return cost_of(block.program.task, block.example.steps * lanes)


def cost_of(task: Task, updates: int) -> int:
    """Predicted time of updates on a task, as in `cost`."""
    work = strategy.work_of(task)
    return updates * (work.multiplied + work.convolved + _OVERHEAD)


def effort_for(cost: int) -> str:
    """Effort to compile a program with, for the cost of its blocks together."""
    fitting = (_WORTH[most] for most in sorted(_WORTH) if cost <= most)
    return next(fitting, xla_options.FULL)


def arrange(blocks: Sequence[Block], settings: Settings) -> list[Block]:
    """Join blocks, unless devices share them, and set how well each is optimised."""
    return _with_efforts(blocks if settings.shard != "runs" else join(blocks))


def join(blocks: Sequence[Block]) -> list[Block]:
    """Join blocks that train quickly, so that one program trains several methods.

    Lanes of different methods share the gradient, the order of the data and the
    evaluations, which are most of what is compiled. What is joined follows from the
    blocks alone: in their order, up to a limit of lanes and of predicted time, and only
    those of the same task and seeds, on which the same updates are done.

    Args:
      blocks: in any order.

    Returns:
      the joined blocks, and those that stay as they are, by their first.
    """
    backend = machine.kind()
    _, most = _MOST_LANES.get(backend, _MOST_LANES_ELSEWHERE)
    most_cost = _JOINED_COST.get(backend, _JOINED_COST_ELSEWHERE)
    found: list[list[Block]] = []
    growing: dict[Any, list[Block]] = {}
    for block in blocks:
        program, run = block.program, block.example
        alike = (
            *(run.task, run.steps, run.horizon, run.recalibrated, run.protocol),
            *(row[0].seed for row in block.runs),
            *(program.eval_every, program.fresh_batches, program.dtype),
            *(program.one_by_one, program.sums_losses),
        )
        together = growing.get(alike, [])
        lanes = sum(each.program.num_hparams for each in [*together, block])
        limit = min(most_runs(program.task, g.method) for g in program.groups)
        if (
            not together
            or program.one_by_one
            or lanes > most
            or lanes * program.num_seeds > limit
            or sum(map(cost, [*together, block])) > most_cost
        ):
            growing[alike] = together = []
            found.append(together)
        together.append(block)
    return [_joined(together) for together in found]


def _with_efforts(blocks: Sequence[Block]) -> list[Block]:
    """Set how well each program is optimised, by the cost of all blocks that use it."""
    totals = collections.Counter[Any]()
    for block in blocks:
        totals[block.key] += cost(block)

    return [
        dataclasses.replace(
            block,
            program=dataclasses.replace(
                block.program, effort=effort_for(totals[block.key])
            ),
        )
        for block in blocks
    ]


def _joined(blocks: Sequence[Block]) -> Block:
    """Put the lanes of blocks side by side."""
    if len(blocks) == 1:
        return blocks[0]
    groups = tuple(group for block in blocks for group in block.program.groups)
    return Block(
        dataclasses.replace(blocks[0].program, groups=groups),
        tuple(
            tuple(run for row in rows for run in row)
            for rows in zip(*(block.runs for block in blocks), strict=True)
        ),
        tuple(lane for block in blocks for lane in block.lanes),
    )


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
    """Build a run of a config with everything that its identity follows from.

    Args:
      settings: the config.
      name, task: the task and its name in the config.
      data: the fingerprint of its data.
      method: how the learning rate is controlled.
      hparams: a value for each of the method's hyperparameters.
      seed: seed of the run.
      steps: updates.
      horizon: updates over which schedules extend.
      eval_every: updates between two measurements.
      label: the method's name in the tables, if it differs.
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
        options=(*task.options, *methods.own_options(method)),
    )


def program_of(
    run: Run,
    task: Task,
    method: Method,
    static: tuple[tuple[str, Any], ...],
    num_seeds: int,
    num_hparams: int,
) -> train.Program:
    """Build the program of runs that differ only in seeds and traced values.

    Args:
      run: one of them.
      task, method: names of the run.
      static: hyperparameters that are compiled in, as returned by `methods.split`.
      num_seeds, num_hparams: lanes.
    """
    return train.single(
        task,
        method,
        static,
        run.eval_every,
        num_seeds,
        num_hparams,
        fresh_batches=run.fresh_batches,
        dtype=jnp.float64 if run.precision == "float64" else jnp.float32,
        one_by_one=strategy.one_by_one(task),
        sums_losses=protocol.find(run.protocol).sums_losses(run.task),
    )


def _blocks(
    settings: Settings, name: str, task: Task, data: str, method_name: str
) -> Iterator[Block]:
    """Plan the blocks of one task and method."""
    method = methods.find(method_name)
    epoch = task.steps_per_epoch
    steps = settings.updates(name, epoch)
    # A round's data order is held in memory as a whole, so limit the round's length.
    every = min(settings.eval_every or epoch, max(steps, epoch))
    most_seeds, most_hparams = _MOST_LANES.get(machine.kind(), _MOST_LANES_ELSEWHERE)
    if strategy.one_by_one(task):
        most_seeds = most_hparams = 1
    limit = most_runs(task, method)
    # Lanes that differ in static values or in traced names need different programs.
    groups: dict[Any, list[tuple[dict[str, Any], dict[str, float]]]] = {}
    for hparams in settings.hparams_grid(method_name, name):
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
    """Split a block into two of half the size; return [] for a single run.

    A block with spare lanes becomes one without them. Runs that padded the block are
    left out.

    For devices whose memory cannot hold the whole block. Last bits may differ.
    """
    program = block.program
    if block.spare:
        return [_without_spare(block)]
    if len(program.groups) > 1:
        middle = len(program.groups) // 2
        return [
            cut(block, program.groups[:middle], 0),
            cut(block, program.groups[middle:], middle),
        ]
    if program.num_hparams > 1:
        parts = _halved(zip(*block.ids, strict=True))
        groups = (program.group._replace(num_hparams=len(parts[0])),)
        return [
            Block(
                dataclasses.replace(program, groups=groups),
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
            for part in _halved(block.ids)
        ]
    return []


def _halved(items: Iterable[Iterable[str]]) -> list[list[int]]:
    """Positions of lanes or seeds in two halves, without those that repeat others.

    Args:
      items: identities of each one's runs.
    """
    first: dict[tuple[str, ...], int] = {}
    for position, ids in enumerate(items):
        first.setdefault(tuple(ids), position)
    return list(_chunks([*first.values()], -(-len(first) // 2)))


def _without_spare(block: Block) -> Block:
    """The runs of a block that somebody asked for, in a program of their own."""
    places = enumerate(block.program.places)
    groups = {number: None for h, (number, _) in places if h not in block.spare}
    lanes = [h for h in range(len(block.lanes)) if h not in block.spare]
    kept = tuple(block.program.groups[number] for number in groups)
    return Block(
        dataclasses.replace(block.program, groups=kept),
        tuple(tuple(row[h] for h in lanes) for row in block.runs),
        tuple(block.lanes[h] for h in lanes),
    )


def cut(block: Block, groups: tuple[train.Group, ...], before: int) -> Block:
    """Cut some groups out of a block, which follow on `before` other groups."""
    start = sum(group.num_hparams for group in block.program.groups[:before])
    stop = start + sum(group.num_hparams for group in groups)
    return Block(
        dataclasses.replace(block.program, groups=groups),
        tuple(row[start:stop] for row in block.runs),
        block.lanes[start:stop],
    )


def _chunks(items: Sequence[Any], most: int) -> Iterator[list[Any]]:
    """Split items into the fewest chunks of at most `most`, all of equal length.

    The last chunk is padded with its last item, so that all share one program.
    """
    count = -(-len(items) // most)
    length = -(-len(items) // count)
    for start in range(0, len(items), length):
        chunk = list(items[start : start + length])
        yield chunk + chunk[-1:] * (length - len(chunk))
