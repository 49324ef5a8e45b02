"""Estimates what a config trains and what that costs, without training it.

A short probe times the first updates of programs, at least one program of each task.
Programs compiled for the probe are in the compilation cache when training starts. The
directory of the tables is only read.
"""

from __future__ import annotations

import dataclasses
import heapq
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from lrjax import machine, results
from lrjax.config import Settings
from lrjax.core import Batch, Task, counted
from lrjax.engine import evaluation, programs, strategy, train
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import threads, units
from lrjax.launch.blocks import Block

if TYPE_CHECKING:
    import pandas as pd

_SECONDS = 20.0  # of probing, after which only tasks without a probe get one
_LONG = 0.1  # seconds that a timing should take
_TURNS = 2  # repetitions of a timing, of which the fastest counts
# Peak speeds that nothing attains, so they give a lower bound on the time.
_CORE_SPEED, _ACCELERATOR_SPEED = 5e10, 5e14  # operations per second
_WORTH_A_PROBE = 60.0  # seconds of training
_CURVE_BYTES, _RUN_BYTES = 180, 560  # approximate sizes of a table's lines


class Timing(NamedTuple):
    """Costs of a program, measured with as many in parallel as in training.

    Attributes:
      update, measurement: seconds, for the whole block.
      compilation: seconds.
      need: bytes of device memory without the data.
    """

    update: float
    measurement: float
    compilation: float
    need: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """The blocks that a config trains, and estimates of their cost.

    Attributes:
      lines: one row per task and method: `task method runs done blocks shape programs
        updates seconds memory`. `done` runs are skipped; the columns from `blocks` on
        describe the remaining ones: `seconds` of training in one thread, `memory` of a
        block in bytes.
      left_out: tasks whose data is not available.
      seconds: from start to end without compilation.
      compilation: seconds, summed over threads, with an empty compilation cache.
      measured: number of programs that were timed.
      memory: bytes on the host.
      disk: bytes of tables, parameters and checkpoints.
      at_once: number of parallel blocks.
      workers: machines like this one that train a block each; None: this one alone.
    """

    lines: pd.DataFrame
    left_out: tuple[str, ...]
    seconds: float
    compilation: float
    measured: int
    memory: float
    disk: float
    at_once: int
    workers: int | None = None

    @property
    def whole(self) -> float:
        """Seconds from start to end with an empty compilation cache."""
        count = max(int(self.lines["programs"].sum()), 1)
        parallel = min(machine.usable_cores(), count) * (self.workers or 1)
        return self.seconds + self.compilation / parallel


def make(
    settings: Settings,
    workdir: str | os.PathLike[str] | None,
    data_dir: str | None = None,
    workers: int | None = None,
) -> Plan:
    """Plan a config's blocks and estimate the cost of the missing runs.

    Args:
      settings: what to train.
      workdir: directory of the tables, which may not exist yet; None: nothing is done.
      data_dir: directory searched first for data files.
      workers: as in `Plan`.

    Raises:
      UsageError: if data or workdir cannot be used.
    """
    done = results.finished(workdir) if workdir else set()
    available, tasks = blocks_lib.load(settings, data_dir)
    plan = of_blocks(settings, blocks_lib.plan(available, tasks), done, workers)
    missing = tuple(name for name in settings.tasks if name not in available.tasks)
    return dataclasses.replace(plan, left_out=missing)


def of_blocks(
    settings: Settings,
    blocks: Sequence[Block],
    done: set[str],
    workers: int | None = None,
) -> Plan:
    """Make a plan for given blocks.

    Args:
      settings: what to train.
      blocks: blocks of all runs.
      done: identities of finished runs.
      workers: as in `Plan`.
    """
    import pandas as pd

    todo = [block for block in blocks if not done.issuperset(block.run_ids)]
    devices = jax.local_devices()[: 1 if workers else None]
    at_once = 1 if todo and workers else 0
    if todo and not workers:
        at_once = units.blocks_at_once(todo, devices[0])
    on_cpu = devices[0].platform == "cpu"
    together = at_once  # blocks that share cores and memory
    if on_cpu:
        together *= min(len(devices), len(todo))
    timed = min(together, machine.usable_cores()) if on_cpu else at_once
    timings = _measure(todo, timed)
    slower = max(together / timed, 1) if timed else 1
    times = [slower * _seconds(block, timings) for block in todo]
    lines = [
        _line(group, done, dict(zip(map(id, todo), times, strict=True)))
        for group in _groups(blocks)
    ]
    compilations = [p.compilation for p in timings.values()]
    count = len({block.key for block in todo})
    needs = [programs.least_need(block.program, block.lanes) for block in todo]
    measured_needs = [timing.need for timing in timings.values()]
    blocks_bytes = max([*needs, *measured_needs], default=0) * max(together, 1)
    parallel = at_once * (workers or len(devices))
    return Plan(
        lines=pd.DataFrame(lines),
        left_out=(),
        seconds=makespan(times, parallel),
        compilation=count * sum(compilations) / max(len(compilations), 1),
        measured=len(timings),
        memory=units.expected_memory(count, blocks_bytes if on_cpu else 0),
        disk=_disk(todo, done, settings, workers or together),
        at_once=parallel,
        workers=workers,
    )


def announce(
    settings: Settings, blocks: Sequence[Block], done: set[str]
) -> Iterator[str]:
    """Lines to print before training: a summary of the tasks, and the cost if long.

    Args:
      settings: what to train.
      blocks: blocks of all runs.
      done: identities of finished runs.
    """
    todo = [block for block in blocks if not done.issuperset(block.run_ids)]
    if not todo:
        return
    yield _summary(blocks, done)
    if _at_least(todo) > _WORTH_A_PROBE:
        yield "training will take a while; timing the first updates of each task"
        yield from _costs(of_blocks(settings, blocks, done))


def _summary(blocks: Sequence[Block], done: set[str]) -> str:
    """A table with one row per task."""
    rows: dict[str, dict[str, Any]] = {}
    for group in _groups(blocks):
        example = group[0].example
        runs = {run for block in group for run in block.ids_by_position.values()}
        row = rows.setdefault(
            example.task, {"methods": 0, "runs": 0, "done": 0, "updates": 0}
        )
        row["methods"] += len(group[0].methods)
        row["runs"] += len(runs)
        row["done"] += len(runs & done)
        row["updates"] += len(runs - done) * example.steps
    cells = [["task", *next(iter(rows.values()))]]
    cells += [[task, *(f"{n:,}" for n in row.values())] for task, row in rows.items()]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )


def _at_least(todo: Sequence[Block]) -> float:
    """Lower bound of the training time in seconds, from counted multiplications."""
    operations = 0
    for block in todo:
        work = strategy.work_of(block.program.task)
        updates = block.example.steps * len(block.ids_by_position)
        # The products of the loss, and as many for the derivatives of its weights.
        operations += updates * 4 * (work.multiplied + work.convolved)
    parallel = len(jax.local_devices())
    if machine.kind() == "cpu":
        parallel, speed = machine.usable_cores(), _CORE_SPEED
    else:
        speed = _ACCELERATOR_SPEED
    return operations / speed / parallel


def show(plan: Plan) -> str:
    """Format a plan as a table and its totals."""
    table = plan.lines
    shown = table.assign(
        updates=[f"{n:,}" for n in table["updates"]],
        seconds=[duration(s) if s else "-" for s in table["seconds"]],
        memory=[machine.size(b) if b else "-" for b in table["memory"]],
    ).rename(columns={"seconds": "time", "memory": "memory/block"})
    total = table[["runs", "done", "blocks", "programs", "updates"]].sum()
    lines = [shown.to_string(index=False), ""]
    if plan.left_out:
        lines.append(f"left out, data not available: {', '.join(plan.left_out)}")
    lines.append(
        f"{total['runs'] - total['done']:,} of {counted(total['runs'], 'run')} "
        f"to train in {counted(total['blocks'], 'block')}, "
        f"{total['done']:,} {'is' if total['done'] == 1 else 'are'} done and skipped"
    )
    if total["blocks"]:
        lines += _costs(plan)
    return "\n".join(lines)


def _costs(plan: Plan) -> list[str]:
    """Lines on the time, memory and disk space of a plan."""
    where, per_worker = f"with {counted(plan.at_once, 'block')} at once", ""
    if plan.workers:
        where = f"on {counted(plan.workers, 'worker')} like this machine, a block each"
        per_worker = " on each"
    return [
        f"about {duration(plan.whole)} in total: {duration(plan.compilation)} of one "
        f"core to compile, less if cached, and {duration(plan.seconds)} to train "
        f"{where}, estimated by timing {plan.measured} of "
        f"{counted(plan.lines['programs'].sum(), 'program')}",
        f"about {machine.size(plan.memory)} of memory{per_worker}, "
        f"{machine.size(plan.disk)} of disk",
    ]


def makespan(seconds: Sequence[float], parallel: int) -> float:
    """Time at which the last of some jobs ends.

    Args:
      seconds: duration of each job, in the order in which they start.
      parallel: number of jobs that run at the same time.
    """
    ends = [0.0] * max(parallel, 1)
    for job in seconds:
        heapq.heapreplace(ends, ends[0] + job)
    return max(ends)


def duration(seconds: float) -> str:
    """Format seconds in the unit that gives one to three digits."""
    for unit, most in (("s", 60), ("min", 60), ("h", 48)):
        if seconds < most:
            return f"{seconds:.1f} {unit}" if seconds < 10 else f"{seconds:.0f} {unit}"
        seconds /= 24 if unit == "h" else most
    return f"{seconds:.0f} days"


def _groups(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks grouped by task and methods."""
    groups: dict[Any, list[Block]] = {}
    for block in blocks:
        groups.setdefault((block.task_name, *block.methods), []).append(block)
    return list(groups.values())


def _line(
    blocks: Sequence[Block], done: set[str], times: Mapping[int, float]
) -> dict[str, Any]:
    """The plan's row for a task and the methods of its blocks.

    Args:
      blocks: blocks of these methods on the task.
      done: identities of finished runs.
      times: id of a block -> seconds of training, for the blocks to train.
    """
    example, program = blocks[0].example, blocks[0].program
    runs = {run for block in blocks for run in block.ids_by_position.values()}
    todo = [block for block in blocks if id(block) in times]
    needs = [programs.least_need(block.program, block.lanes) for block in todo]
    return {
        "task": example.task,
        "method": blocks_lib.named(blocks[0].methods),
        "runs": len(runs),
        "done": len(runs & done),
        "blocks": len(todo),
        "shape": f"{program.num_seeds}x{program.num_hparams}",
        "programs": len({block.key for block in todo}),
        "updates": sum(
            block.example.steps * sum(run not in done for run in block.run_ids)
            for block in todo
        ),
        "seconds": sum(times[id(block)] for block in todo),
        "memory": max(needs, default=0),
    }


def _measure(todo: Sequence[Block], at_once: int) -> dict[Any, Timing]:
    """Time programs by their key: one of each task, more while time is left."""
    began = time.perf_counter()
    programs = {block.key: block for block in todo}
    firsts = {block.example.task: key for key, block in reversed(programs.items())}
    timings: dict[Any, Timing] = {}
    for key in [*firsts.values(), *programs]:
        late = time.perf_counter() - began > _SECONDS
        if key not in timings and not (late and key not in firsts.values()):
            timings[key] = _probe(programs[key], at_once)
    return timings


def _probe(block: Block, at_once: int) -> Timing:
    """Compile a block's program and time it."""
    short, share = _shortened(block)
    began = time.perf_counter()
    seeds, inputs = short.inputs()
    compiled = programs.compile_program(short.program, seeds, inputs)
    compilation = time.perf_counter() - began
    step = programs.stepper(compiled, short.program, seeds, inputs)
    jobs = [step] * max(at_once, 1)
    step(1)

    def spent(steps: int) -> float:
        return min(threads.seconds(jobs, steps) for _ in range(_TURNS))

    every, most = short.program.eval_every, programs.MAX_ROUNDS
    first = spent(1)  # start-up, one update and one measurement
    count, whole = _long_enough(spent, first, every)
    if count < every or whole - first >= _LONG:
        update = max(whole - first, 0) / max(count - 1, 1)
        measurement = max(first - update, 0) / share
        return Timing(update, measurement, compilation, compiled.need)
    # The round is shorter than start-up: time several rounds instead.
    rounds, many = _long_enough(lambda n: spent(n * every), whole, most)
    per_round = max(many - whole, 0) / max(rounds - 1, 1)
    return Timing(per_round / every, 0.0, compilation, compiled.need)


def _long_enough(
    spent: Callable[[int], float], single: float, most: int
) -> tuple[int, float]:
    """Double a count until it takes `_LONG` seconds longer than a count of one.

    Args:
      spent: seconds for a count.
      single: seconds for a count of one.
      most: largest count.

    Returns:
      the count and its seconds.
    """
    count, seconds = 1, single
    while count < most and seconds - single < _LONG:
        count = min(2 * count, most)
        seconds = spent(count)
    return count, seconds


def _shortened(block: Block) -> tuple[Block, float]:
    """The block with fewer rows to measure, and the share of rows that is left.

    Measuring a network on a whole data set would take too long for a probe. Linear
    models are not shortened.
    """
    task = block.program.task
    if strategy.kind_of(task) == strategy.LINEAR:
        return block, 1.0
    num_runs = block.program.num_seeds * block.program.num_hparams
    rows = max(2 * evaluation.rows_at_once(task, num_runs), task.batch_size)
    cut: dict[int, Batch] = {
        id(part): {name: x[:rows] for name, x in part.items()}
        for part in (task.train, task.valid)
    }
    short = dataclasses.replace(task, train=cut[id(task.train)])
    short = dataclasses.replace(short, valid=cut[id(task.valid)])
    program = dataclasses.replace(block.program, task=short)
    return dataclasses.replace(block, program=program), _rows(short) / _rows(task)


def _rows(task: Task) -> int:
    """Number of rows evaluated at a measurement."""
    parts = {id(part): part for part in (task.train, task.valid)}
    return sum(train.num_rows(part) for part in parts.values())


def _seconds(block: Block, timings: Mapping[Any, Timing]) -> float:
    """Predicted training time of a block, in seconds.

    A program that was not timed gets the mean over the timed ones of its task.
    """
    if block.key in timings:
        similar = [timings[block.key]]
    else:
        similar = [timing for key, timing in timings.items() if key[0] == block.key[0]]
    steps = block.example.steps
    rounds = -(-steps // block.program.eval_every)
    seconds = [
        steps * timing.update + rounds * timing.measurement for timing in similar
    ]
    return sum(seconds) / len(seconds)


def _disk(
    todo: Sequence[Block], done: set[str], settings: Settings, at_once: int
) -> float:
    """Bytes that training will write: tables, parameters and checkpoints."""
    total = 0.0
    for block in todo:
        runs = len(set(block.ids_by_position.values()) - done)
        rounds = -(-block.example.steps // block.program.eval_every)
        total += runs * (rounds * _CURVE_BYTES + _RUN_BYTES)
        if settings.save_params:
            params, _ = strategy.model_shapes(block.program.task.init)
            total += runs * programs.tree_bytes(params)
    states = [programs.least_need(block.program, block.lanes) for block in todo]
    return total + 2 * at_once * max(states, default=0)
