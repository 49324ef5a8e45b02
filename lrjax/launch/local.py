"""Training in this process, on all its devices."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lrjax import machine, results
from lrjax.common import spans
from lrjax.config import Settings
from lrjax.console import say
from lrjax.core import Task, counted
from lrjax.engine import programs, train
from lrjax.engine import sharding as layouts
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import checkpoint, rows
from lrjax.launch import units as units_lib
from lrjax.launch.blocks import Block
from lrjax.launch.session import Session
from lrjax.launch.units import (
    Engine,
    Outcome,
    Place,
    State,
    Trained,
    Unit,
)


@contextlib.contextmanager
def launch(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    home: Path | None = None,
) -> Iterator[Local]:
    """Open a session and make the launcher that trains in this process."""
    with Session(settings, workdir, data_dir, overrides, home) as session:
        local = Local(session)
        try:
            yield local
        finally:
            local.close()


class Local:
    """The `Launcher` of this process; `hosts.Hosts` wraps it on each host."""

    def __init__(self, session: Session):
        self.session = session
        self._training: Iterator[Outcome] | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """End all threads; first those that train, as they write to the tables."""
        if self._training:
            self._training.close()  # pyright: ignore[reportAttributeAccessIssue]
        if "_engine" in self.__dict__:
            self._engine.close()

    @functools.cached_property
    def _engine(self) -> Engine:
        """The engine on this process's devices, created when first used."""
        return Engine(jax.local_devices(), self.session.signalled, self._layout)

    @functools.cached_property
    def _layout(self) -> layouts.Layout | None:
        """The layout of sharded blocks; None if each device trains its own blocks."""
        return layouts.choose(self.session.settings.shard, jax.local_devices())

    @property
    def where(self) -> str:
        """Number and kind of the devices."""
        devices = jax.local_devices()
        return f"{counted(len(devices), 'device')} ({devices[0].device_kind})"

    def blocks(self, settings: Settings) -> list[Block]:
        """Load data and plan all blocks."""
        settings, loaded = blocks_lib.load(settings, self.session.data_dir)
        return blocks_lib.plan(settings, loaded)

    def train(
        self,
        units: Sequence[Unit],
        progress: Callable[[Unit, int], Any],
        ready: Callable[[], Any] = lambda: None,
    ) -> Iterator[Outcome]:
        """Train units, several in parallel on each device."""
        if self._layout:
            for unit in units:
                layouts.check(self._layout, unit.block.program.task)
        session = self.session
        tables, settings, home = session.tables, session.settings, session.home
        live = session.live
        told = functools.partial(live.hear, results.CURVES) if live.is_heard else None

        def train_here(unit: Unit, place: Place) -> Outcome:
            """Train a unit in one of the threads."""

            def advance(updates: int) -> None:
                with self._lock:
                    progress(unit, updates)

            live.begin(unit.block.heads, unit.is_trial)
            with spans.span("train", unit.block.title):
                return train_unit(unit, place, tables, settings, home, advance, told)

        def announce(programs: int, at_once: int, memory: float) -> None:
            if not units[0].is_trial:  # tuning would repeat it at every stage
                say(self._description(programs, at_once, memory))
            ready()

        jobs = _deal(units, len(self._engine.devices))
        self._training = self._engine.train(jobs, train_here, announce)
        yield from self._training

    def _description(self, programs: int, at_once: int, memory: float) -> str:
        """Describe in one line how units are trained."""
        blocks = f"{counted(at_once, 'block')} at once on each device"
        if self._layout:
            blocks = f"each block on all {len(self._layout.devices)} devices"
        on_cpu = self._engine.devices[0].platform == "cpu"
        whole = units_lib.expected_memory(programs, memory if on_cpu else 0)
        return f"{blocks}; about {_mib(whole)} MiB of memory"

    def forget(self, names: Sequence[str]) -> None:
        """Remove the checkpoints of blocks."""
        for name in names:
            checkpoint.discard(checkpoint.folder_of(self.session.home, name))

    def spent(self, seconds: float) -> str:
        """Describe in one line what compiling and training took."""
        pool, memory = self._engine.pool, _mib(machine.resident_memory())
        return (
            f"compiled {counted(pool.compiled, 'program')} in {pool.seconds:.1f} s "
            f"(cache hits included), trained blocks for {seconds:.1f} s, both summed "
            f"over threads; peak memory {memory} MiB"
        )


def _deal(units: Sequence[Unit], devices: int) -> list[Sequence[Unit]]:
    """Distribute units over devices."""
    if units[0].is_trial:  # dealt in turn, since the longest trials come first
        count = min(devices, len(units))
        return [units[i::count] for i in range(count)]
    # Contiguous shares: a program is compiled for as few devices as possible, and a
    # device's blocks do not depend on its speed.
    share = -(-len(units) // devices)
    return [units[i : i + share] for i in range(0, len(units), share)]


def _mib(count: float) -> str:
    """A number of bytes in MiB, for messages."""
    return f"{count / 2**20:,.0f}"


def train_unit(
    unit: Unit,
    place: Place,
    tables: results.Tables,
    settings: Settings,
    home: Path,
    progress: Callable[[int], Any],
    told: Callable[[list[dict[str, Any]]], Any] | None = None,
) -> Outcome:
    """Train a unit from its last valid checkpoint; write the rows of runs.

    Args:
      unit: what to train.
      place: device and programs.
      tables: to append to.
      settings: how to save.
      home: directory of checkpoints and parameters.
      progress: as in `units.checkpointed`.
      told: called with curve rows of trials, which no table gets; None: nobody asks.
    """
    block = unit.block

    def append(curve: list[dict[str, Any]]) -> None:
        tables.append(results.CURVES, curve, block.name)

    folder = checkpoint.folder_of(home, block.name)
    take = told if unit.is_trial else append
    last: dict[str, np.ndarray] = {}
    state, seconds, ended = None, 0.0, unit.begin.steps
    for measured, spent in units_lib.checkpointed(
        unit, place, folder, settings, progress
    ):
        if take:
            take(rows.curve_rows(block.program, block.ids_by_position, measured))
        last = {k: v[-1] for k, v in measured.values.items()}
        state, seconds, ended = measured.state, spent, int(measured.steps[-1])
    if unit.is_trial:
        return Outcome(unit, seconds, _trials(unit, last, state, seconds, ended))
    params = home / checkpoint.PARAMS if settings.save_params else None
    summary = _write_runs(block, last, state, seconds, tables, params)
    return Outcome(unit, seconds, summary=summary)


def _trials(
    unit: Unit,
    last: Mapping[str, np.ndarray],
    state: Any,
    seconds: float,
    ended: int,
) -> dict[str, Trained]:
    """Final results of a block of trials, by run_id.

    Args:
      unit: the trials.
      last: their last measurements, [seeds, hparams].
      state: state of all of them.
      seconds: duration of training.
      ended: updates done; fewer than requested if all have diverged.
    """
    steps, ids_by_position, keep = (
        unit.block.example.steps,
        unit.block.ids_by_position,
        unit.begin.keep,
    )
    if unit.begin.on_test:
        test = _judged(unit.block, last, state)
        last = {**last, **{f"test_{name}": value for name, value in test.items()}}
    if "mean_batch_loss" in last:
        mean = last["mean_batch_loss"] * (ended / steps)
        last = {**last, "mean_batch_loss": mean}
    host, program = jax.device_get(state) if keep else None, unit.block.program

    def state_of(s: int, h: int) -> Any:
        """The state of a run; None if it has not begun, since it ends at update 0."""
        return None if host is None else train.run_at(program, host, s, h)

    return {
        run_id: Trained(
            {k: rows.number(v[s, h]) for k, v in last.items()},
            round(seconds / len(ids_by_position), 6),
            State(steps, state_of(s, h)) if run_id in keep else None,
        )
        for (s, h), run_id in ids_by_position.items()
    }


def _judged(
    block: Block, last: Mapping[str, np.ndarray], state: Any
) -> Mapping[str, np.ndarray]:
    """Metrics of the test part, name -> [seeds, hparams].

    Args:
      block: the runs.
      last: their last measurements.
      state: state of all of them at the end.
    """
    task = block.program.task
    if task.test is task.train:
        return {k.removeprefix("train_"): v for k, v in last.items()}
    return programs.judge(block.program, state, task.test)


def _write_runs(
    block: Block,
    last: Mapping[str, np.ndarray],
    state: Any,
    seconds: float,
    tables: results.Tables,
    folder: Path | None,
) -> list[str]:
    """Measure the runs of a block on the test part and append their rows.

    Args:
      block: the block that the runs belong to.
      last: their last measurements, [seeds, hparams].
      state: state of all of them at the end.
      seconds: duration of training.
      tables: to append to.
      folder: where to save the parameters, too; None if they are not kept.

    Returns:
      a line for each method that sums up its runs.
    """
    program, ids_by_position = block.program, block.ids_by_position
    test = _judged(block, last, state)
    if folder:
        params, model_state = programs.final_model(program, state)
        checkpoint.save_params(folder, params, model_state, ids_by_position)
    share = seconds / len(ids_by_position)
    ended = [
        rows.run_row(block.runs[s][h], run_id, program, (s, h), last, test, share)
        for (s, h), run_id in ids_by_position.items()
    ]
    tables.append(results.RUNS, ended, block.name)
    return [
        f"{block.task_name} {method}: "
        + _summary([row for row in ended if row["method"] == method], program.task)
        for method in block.methods
    ]


def _summary(rows: Sequence[Mapping[str, Any]], task: Task) -> str:
    """Sum up the runs of a method on a task."""
    diverged = sum(row["status"] == "diverged" for row in rows)
    metric = task.metric
    scores = [row[f"valid_{metric}"] for row in rows if row["status"] == "done"]
    mean = metric.text(float(np.mean(scores))) if scores else ""
    score = f", validation {metric} {mean}" if mean else ""
    dead = f", {diverged} diverged" if diverged else ""
    return f"{counted(len(rows), 'run')}{score}{dead}"
