"""Trains what a config asks for: what is done is skipped, what was cut goes on.

Blocks whose runs are all in the tables are skipped; others are trained whole, and only
missing rows written.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from lrjax import blocks as blocks_lib
from lrjax import checkpoint, crew, numerics, programs, results, rows, units
from lrjax import layout as layouts
from lrjax.blocks import Block
from lrjax.config import Settings
from lrjax.console import say, signals
from lrjax.core import counted
from lrjax.units import Engine, Place, Unit, title


@numerics.settled
def run(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    announce: Callable[..., Iterable[str]] | None = None,
) -> None:
    """Trains every run of the settings that the tables do not have yet.

    Blocks are dealt out to all devices, and each device trains several at once.

    Args:
      settings: what to train.
      workdir: where the tables are.
      data_dir: where data files are looked for first.
      overrides: what the command line changed of the config; for the record.
      announce: gives lines to say before training, as `plan.announce` does.

    Raises:
      UsageError: if data or workdir are of no use; before any training.
      Interrupted: on SIGINT and SIGTERM, once the blocks at hand are saved.
    """
    blocks = blocks_lib.plan(*blocks_lib.load(settings, data_dir))
    with results.Tables(workdir) as tables, signals() as signalled:

        def record() -> None:
            tables.write_config(
                dataclasses.asdict(settings),
                dict(overrides or {}),
                blocks_lib.metrics_of(blocks),
            )

        if announce:
            for line in announce(settings, blocks, tables.runs):
                say(line)
        train_missing(blocks, tables, settings, signalled, record)


def train_missing(
    blocks: Sequence[Block],
    tables: results.Tables,
    settings: Settings,
    signalled: Callable[[], int],
    record: Callable[[], Any],
) -> None:
    """Trains the blocks that have runs which are not in the tables.

    Args:
      blocks: what is wanted.
      tables: to append to.
      settings: how to save.
      signalled: as from `signals`.
      record: called once it is clear that training can start.
    """
    wanted = {i for block in blocks for row in block.ids for i in row}
    missing = wanted - tables.runs
    todo: list[Block] = []
    for block in blocks:
        if is_done(block, tables.runs):
            # Killed between its last row and this, it may have left some.
            checkpoint.discard(_checkpoints(tables, block))
        else:
            todo.append(block)
    devices = jax.local_devices()
    say(
        f"{counted(len(missing), 'run')} to train in {counted(len(todo), 'block')} on "
        f"{counted(len(devices), 'device')} ({devices[0].device_kind}); "
        f"{len(wanted) - len(missing)} of {len(wanted)} are done"
    )
    if todo:
        _train(todo, devices, tables, settings, signalled, record)
    else:
        record()
    say(f"results are in {tables.workdir}")


def is_done(block: Block, runs: set[str]) -> bool:
    """Whether all runs of a block are among those with these identities."""
    return runs.issuperset(block.lanes_of.values())


def _train(
    todo: Sequence[Block],
    devices: Sequence[crew.Device],
    tables: results.Tables,
    settings: Settings,
    signalled: Callable[[], int],
    record: Callable[[], Any],
) -> None:
    """Trains blocks on devices; calls `record` once it is clear that it can."""
    layout = layouts.choose(settings.shard, devices)
    if layout:
        for block in todo:
            layouts.check(layout, block.program.task)
    lock = threading.Lock()
    updates = sum(b.example.steps * len(b.lanes_of) for b in todo)
    bar = tqdm(
        total=updates, unit=" updates", unit_scale=True, disable=None, leave=False
    )
    trained: list[tuple[str, float]] = []  # task and seconds of each block

    def progress(count: int) -> None:
        with lock:
            bar.update(count)

    def ready(programs: int, at_once: int, blocks: float) -> None:
        where = f"{counted(at_once, 'block')} at once on each device"
        if layout:
            where = f"each block on all {len(layout.devices)} devices"
        on_cpu = devices[0].platform == "cpu"
        memory = units.expected_memory(programs, blocks if on_cpu else 0)
        say(f"{where}; about {_mib(memory)} MiB of memory")
        record()

    def train_it(unit: Unit, place: Place) -> None:
        summary, spent = train_block(unit, place, tables, settings, progress, lock)
        with lock:
            trained.append((unit.block.example.task, spent))
            bar.set_description(title(unit.block))
            if bar.disable:
                say(f"[{len(trained)}/{len(todo)}] {summary}")

    with bar, Engine(devices, signalled, layout) as engine:
        # Dealt out like this a device's blocks are the same however fast it is, and a
        # program is compiled for as few devices as possible.
        share = -(-len(todo) // len(engine.devices))
        jobs = [todo[i : i + share] for i in range(0, len(todo), share)]
        engine.train([[Unit(block) for block in job] for job in jobs], train_it, ready)
    seconds = collections.defaultdict[str, float](float)
    for task, spent in trained:
        seconds[task] += spent
    say(
        f"{counted(engine.pool.compiled, 'program')} traced and compiled (or found "
        f"compiled) in {engine.pool.seconds:.1f} s, blocks trained in "
        f"{sum(seconds.values()):.1f} s, each summed over threads; at most "
        f"{_mib(units.resident_memory())} MiB of memory"
    )
    if len(seconds) > 1:
        each = (f"{task} {spent:.1f}" for task, spent in seconds.items())
        say(f"seconds of training: {', '.join(each)}")


def _mib(count: float) -> str:
    return f"{count / 2**20:,.0f}"


def train_block(
    unit: Unit,
    place: Place,
    tables: results.Tables,
    settings: Settings,
    progress: Callable[[int], Any],
    lock: threading.Lock,
) -> tuple[str, float]:
    """Trains a block of runs from its last good checkpoint, and writes its rows.

    Args:
      unit: the block.
      place: where.
      tables: to append to.
      settings: how to save.
      progress: as in `units.checkpointed`.
      lock: of the tables.

    Returns:
      a line that sums it up, and the seconds that training took in all.
    """
    block, folder = unit.block, _checkpoints(tables, unit.block)
    program, lanes = block.program, block.lanes_of
    last: dict[str, np.ndarray] = {}
    state, seconds = None, 0.0
    for measured, spent in units.checkpointed(unit, place, folder, settings, progress):
        curves = rows.curve_rows(program, lanes, measured)
        with lock:
            tables.append_curves(curves)
        last = {k: v[-1] for k, v in measured.values.items()}
        state, seconds = measured.state, spent
    assert state is not None
    task = program.task
    if task.test is task.train:
        test = {k.removeprefix("train_"): v for k, v in last.items()}
    else:
        test = programs.judge(program, state, task.test)
    if settings.save_params:
        model = programs.final_model(program, state)
        checkpoint.save_params(tables.workdir / "params", *model, lanes)
    ended = [
        rows.run_row(
            block.runs[s][h],
            run_id,
            program,
            (s, h),
            last,
            test,
            seconds / len(lanes),
        )
        for (s, h), run_id in lanes.items()
    ]
    with lock:
        tables.append_runs(ended)
    checkpoint.discard(folder)
    diverged = sum(row["status"] == "diverged" for row in ended)
    metric = task.metric
    scores = [row[f"valid_{metric}"] for row in ended if row["status"] == "done"]
    score = f", validation {metric} {np.mean(scores):.5g}" if scores else ""
    dead = f", {diverged} diverged" if diverged else ""
    return f"{title(block)}: {counted(len(ended), 'run')}{score}{dead}", seconds


def _checkpoints(tables: results.Tables, block: Block) -> Path:
    """Where a block's checkpoints are."""
    return tables.workdir / "checkpoints" / block.name
