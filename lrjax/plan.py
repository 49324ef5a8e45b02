"""What a config asks for and what that will cost, without training it.

A short probe times the first updates of programs, one of each task at least; what is
compiled for it is found compiled when training starts. The directory of the tables is
only read.
"""

from __future__ import annotations

import dataclasses
import heapq
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pandas as pd

from lrjax import blocks as blocks_lib
from lrjax import (
    crew,
    evaluation,
    numerics,
    programs,
    results,
    strategy,
    units,
)
from lrjax.blocks import Block
from lrjax.config import Settings
from lrjax.core import Batch, Task, counted

_SECONDS = 20.0  # after which nothing more is compiled and timed
_LONG = 0.1  # seconds that a measurement of some updates should take
_TURNS = 2
# What is not reached: so what is predicted from it is too short, if anything.
_CORE_SPEED, _ACCELERATOR_SPEED = 5e10, 5e14  # operations per second
_WORTH_A_PROBE = 60.0  # seconds
_CURVE_BYTES, _RUN_BYTES = 180, 560  # of a table's line, about


class Pace(NamedTuple):
    """What a program takes, as many of them at once as will be in training.

    Attributes:
      update, measurement: seconds, for the whole block.
      compilation: seconds.
      need: bytes beside the data.
    """

    update: float
    measurement: float
    compilation: float
    need: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
      lines: a row per task and method: `task method runs done blocks shape programs
        updates seconds memory`; `done` runs are skipped, and from `blocks` on all is of
        what is left: `seconds` of one thread's training, `memory` in bytes of a block.
      left_out: tasks whose data cannot be had.
      seconds: predicted, from start to end but for compilation.
      compilation: seconds, summed over threads, if nothing were compiled yet.
      measured: how many programs were timed.
      memory: bytes on the host.
      disk: bytes of tables, parameters and checkpoints.
      at_once: blocks.
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
        """Seconds from start to end if nothing were compiled yet."""
        count = max(int(self.lines["programs"].sum()), 1)
        hands = min(crew.usable_cores(), count) * (self.workers or 1)
        return self.seconds + self.compilation / hands


def make(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    workers: int | None = None,
) -> Plan:
    """Looks at what is there, and times what is not.

    Args:
      settings: what to train.
      workdir: where the tables are, or will be.
      data_dir: where data files are looked for first.
      workers: as in `Plan`.

    Raises:
      UsageError: if data or workdir are of no use.
    """
    done = results.finished(workdir)
    found, tasks = blocks_lib.load(settings, data_dir)
    plan = of_blocks(settings, blocks_lib.plan(found, tasks), done, workers)
    missing = tuple(name for name in settings.tasks if name not in found.tasks)
    return dataclasses.replace(plan, left_out=missing)


def of_blocks(
    settings: Settings,
    blocks: Sequence[Block],
    done: set[str],
    workers: int | None = None,
) -> Plan:
    """As `make`, of blocks; what is done has these identities."""
    todo = [block for block in blocks if not done.issuperset(block.run_ids)]
    devices = jax.local_devices()[: 1 if workers else None]
    at_once = 1 if todo and workers else 0
    if todo and not workers:
        at_once = units.blocks_at_once(todo, devices[0])
    on_cpu = devices[0].platform == "cpu"
    together = at_once  # on what the devices share
    if on_cpu:
        together *= min(len(devices), len(todo))
    timed = min(together, crew.usable_cores()) if on_cpu else at_once
    paces = _measure(todo, timed)
    slower = max(together / timed, 1) if timed else 1
    times = [slower * _seconds(block, paces) for block in todo]
    lines = [
        _line(group, done, dict(zip(map(id, todo), times, strict=True)))
        for group in _groups(blocks)
    ]
    compilations = [p.compilation for p in paces.values()]
    count = len({block.key for block in todo})
    needs = [programs.least_need(block.program, block.lanes) for block in todo]
    measured_needs = [pace.need for pace in paces.values()]
    blocks_bytes = max([*needs, *measured_needs], default=0) * max(together, 1)
    hands = at_once * (workers or len(devices))
    return Plan(
        lines=pd.DataFrame(lines),
        left_out=(),
        seconds=makespan(times, hands),
        compilation=count * sum(compilations) / max(len(compilations), 1),
        measured=len(paces),
        memory=units.expected_memory(count, blocks_bytes if on_cpu else 0),
        disk=_disk(todo, done, settings, workers or together),
        at_once=hands,
        workers=workers,
    )


def announce(
    settings: Settings, blocks: Sequence[Block], done: set[str]
) -> Iterator[str]:
    """Lines to say before training: what there is of each task, and its cost if long.

    Args:
      settings: what to train.
      blocks: all of it.
      done: identities of runs that are done.
    """
    todo = [block for block in blocks if not done.issuperset(block.run_ids)]
    if not todo:
        return
    yield _summary(blocks, done)
    if _at_least(todo) > _WORTH_A_PROBE:
        yield "this will take a while; timing the first updates of each task"
        yield from _costs(of_blocks(settings, blocks, done))


def _summary(blocks: Sequence[Block], done: set[str]) -> str:
    """A row for each task."""
    rows: dict[str, dict[str, Any]] = {}
    for group in _groups(blocks):
        example = group[0].example
        runs = {run for block in group for run in block.lanes_of.values()}
        row = rows.setdefault(
            example.task, {"methods": 0, "runs": 0, "done": 0, "updates": 0}
        )
        row["methods"] += 1
        row["runs"] += len(runs)
        row["done"] += len(runs & done)
        row["updates"] += len(runs - done) * example.steps
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("task")
    table["updates"] = [f"{n:,}" for n in table["updates"]]
    return table.reset_index().to_string(index=False)


def _at_least(todo: Sequence[Block]) -> float:
    """Seconds that training takes at the very least, from counted operations."""
    operations: dict[str, float] = {}
    seconds = 0.0
    for block in todo:
        task = block.program.task
        if task.name not in operations:
            operations[task.name] = _operations(task)
        updates = block.example.steps * len(block.lanes_of)
        seconds += updates * operations[task.name]
    hands = len(jax.local_devices())
    if jax.default_backend() == "cpu":
        hands, speed = crew.usable_cores(), _CORE_SPEED
    else:
        speed = _ACCELERATOR_SPEED
    return seconds / speed / hands


def _operations(task: Task) -> float:
    """Floating-point operations of an update, as XLA counts them before it compiles."""
    batch = {
        k: jax.ShapeDtypeStruct((task.batch_size, *v.shape[1:]), v.dtype)
        for k, v in task.train.items()
    }
    batch["mask"] = jax.ShapeDtypeStruct((task.batch_size,), jnp.float32)
    key = jax.eval_shape(lambda: numerics.key(0))
    params, state = jax.eval_shape(task.init, key)
    gradient = jax.jit(jax.grad(task.loss, has_aux=True))
    found = gradient.lower(params, state, key, batch).cost_analysis() or {}
    return found.get("flops", 0.0)


def show(plan: Plan) -> str:
    """For people: a table and what it comes to."""
    table = plan.lines
    shown = table.assign(
        updates=[f"{n:,}" for n in table["updates"]],
        seconds=[duration(s) if s else "-" for s in table["seconds"]],
        memory=[crew.size(b) if b else "-" for b in table["memory"]],
    ).rename(columns={"seconds": "time", "memory": "memory/block"})
    total = table[["runs", "done", "blocks", "programs", "updates"]].sum()
    lines = [shown.to_string(index=False), ""]
    if plan.left_out:
        lines.append(f"left out, no data to be had: {', '.join(plan.left_out)}")
    lines.append(
        f"{total['runs'] - total['done']:,} of {counted(total['runs'], 'run')} "
        f"to train in {counted(total['blocks'], 'block')}, "
        f"{total['done']:,} {'is' if total['done'] == 1 else 'are'} done and skipped"
    )
    if total["blocks"]:
        lines += _costs(plan)
    return "\n".join(lines)


def _costs(plan: Plan) -> list[str]:
    where, each = f"with {counted(plan.at_once, 'block')} at once", ""
    if plan.workers:
        where = f"on {counted(plan.workers, 'worker')} like this machine, a block each"
        each = " on each"
    return [
        f"about {duration(plan.whole)} in all: {duration(plan.compilation)} of a core "
        f"to compile, unless that was done before, and {duration(plan.seconds)} to "
        f"train {where}, by a probe of {plan.measured} of "
        f"{counted(plan.lines['programs'].sum(), 'program')}",
        f"about {crew.size(plan.memory)} of memory{each}, "
        f"{crew.size(plan.disk)} of disk",
    ]


def makespan(seconds: Sequence[float], hands: int) -> float:
    """When the last job ends, if each free hand takes the next one."""
    ends = [0.0] * max(hands, 1)
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


def duration(seconds: float) -> str:
    """For people: in the unit that gives one to three digits."""
    for unit, most in (("s", 60), ("min", 60), ("h", 48)):
        if seconds < most:
            return f"{seconds:.1f} {unit}" if seconds < 10 else f"{seconds:.0f} {unit}"
        seconds /= 24 if unit == "h" else most
    return f"{seconds:.0f} days"


def _groups(blocks: Sequence[Block]) -> list[list[Block]]:
    found: dict[tuple[str, str], list[Block]] = {}
    for block in blocks:
        found.setdefault((block.example.task, block.example.method), []).append(block)
    return list(found.values())


def _line(
    blocks: Sequence[Block], done: set[str], times: Mapping[int, float]
) -> dict[str, Any]:
    """What the plan says of one method on one task."""
    example, program = blocks[0].example, blocks[0].program
    runs = {run for block in blocks for run in block.lanes_of.values()}
    todo = [block for block in blocks if id(block) in times]
    needs = [programs.least_need(block.program, block.lanes) for block in todo]
    return {
        "task": example.task,
        "method": example.method,
        "runs": len(runs),
        "done": len(runs & done),
        "blocks": len(todo),
        "shape": f"{program.num_seeds}x{program.num_hparams}",
        "programs": len({block.key for block in todo}),
        "updates": sum(b.example.steps * len(b.lanes_of) for b in todo),
        "seconds": sum(times[id(block)] for block in todo),
        "memory": max(needs, default=0),
    }


def _measure(todo: Sequence[Block], at_once: int) -> dict[Any, Pace]:
    """The pace of programs: one of each task, more while time is left."""
    began = time.perf_counter()
    programs = {block.key: block for block in todo}
    firsts = {block.example.task: key for key, block in reversed(programs.items())}
    paces: dict[Any, Pace] = {}
    for key in [*firsts.values(), *programs]:
        late = time.perf_counter() - began > _SECONDS
        if key not in paces and not (late and key not in firsts.values()):
            paces[key] = _probe(programs[key], at_once)
    return paces


def _probe(block: Block, at_once: int) -> Pace:
    short, share = _shortened(block)
    began = time.perf_counter()
    inputs = short.inputs()
    compiled = programs.compile_program(short.program, *inputs)
    compilation = time.perf_counter() - began
    jobs = [programs.stepper(compiled, short.program, *inputs)] * max(at_once, 1)
    jobs[0](1)

    def spent(steps: int) -> float:
        return min(crew.seconds(jobs, steps) for _ in range(_TURNS))

    every, most = short.program.eval_every, programs.MAX_ROUNDS
    one = spent(1)  # and a measurement, and the start
    count, whole = _long_enough(spent, one, every)
    if count < every or whole - one >= _LONG:
        update = max(whole - one, 0) / max(count - 1, 1)
        measurement = max(one - update, 0) / share
        return Pace(update, measurement, compilation, compiled.need)
    # So short that what the start takes would pass for a measurement.
    rounds, many = _long_enough(lambda n: spent(n * every), whole, most)
    each = max(many - whole, 0) / max(rounds - 1, 1)
    return Pace(each / every, 0.0, compilation, compiled.need)


def _long_enough(
    spent: Callable[[int], float], one: float, most: int
) -> tuple[int, float]:
    """A count whose time can be told from `one`'s, or `most`; and its time."""
    count, seconds = 1, one
    while count < most and seconds - one < _LONG:
        count = min(2 * count, most)
        seconds = spent(count)
    return count, seconds


def _shortened(block: Block) -> tuple[Block, float]:
    """The block with less to measure, and how much of it; linear models as they are.

    A measurement of a network over a whole data set would be no short probe.
    """
    task = block.program.task
    if strategy.kind_of(task) == strategy.LINEAR:
        return block, 1.0
    lanes = block.program.num_seeds * block.program.num_hparams
    rows = max(2 * evaluation.rows_at_once(task, lanes), task.batch_size)
    cut: dict[int, Batch] = {
        id(part): {name: x[:rows] for name, x in part.items()}
        for part in (task.train, task.valid)
    }
    short = dataclasses.replace(task, train=cut[id(task.train)])
    short = dataclasses.replace(short, valid=cut[id(task.valid)])
    program = dataclasses.replace(block.program, task=short)
    return dataclasses.replace(block, program=program), _rows(short) / _rows(task)


def _rows(task: Task) -> int:
    """That a measurement goes through."""
    parts = {id(part): part for part in (task.train, task.valid)}
    return sum(len(next(iter(part.values()))) for part in parts.values())


def _seconds(block: Block, paces: Mapping[Any, Pace]) -> float:
    """That a block takes; a program that was not timed is as its task's others."""
    if block.key in paces:
        found = [paces[block.key]]
    else:
        found = [pace for key, pace in paces.items() if key[0] == block.key[0]]
    steps = block.example.steps
    rounds = -(-steps // block.program.eval_every)
    each = [steps * pace.update + rounds * pace.measurement for pace in found]
    return sum(each) / len(each)


def _disk(
    todo: Sequence[Block], done: set[str], settings: Settings, at_once: int
) -> float:
    total = 0.0
    for block in todo:
        runs = len(set(block.lanes_of.values()) - done)
        rounds = -(-block.example.steps // block.program.eval_every)
        total += runs * (rounds * _CURVE_BYTES + _RUN_BYTES)
        if settings.save_params:
            init = block.program.task.init
            params = jax.eval_shape(init, numerics.key(0))[0]
            leaves = jax.tree.leaves(params)
            total += runs * sum(x.size * x.dtype.itemsize for x in leaves)
    states = [programs.least_need(block.program, block.lanes) for block in todo]
    return total + 2 * at_once * max(states, default=0)
