"""Trains trials: whole runs, and runs that are stopped early and resumed.

A job is a run up to some update, from the start or from the state in which another job
ended. Jobs that share a program are grouped in packs, each of which trains as a block,
several at once on each device; states that may be resumed come back to the host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from lrjax import identity
from lrjax.config import Settings
from lrjax.core import Method, Run, Task
from lrjax.engine import strategy
from lrjax.launch import blocks, reuse
from lrjax.launch.blocks import Block
from lrjax.launch.session import Launcher
from lrjax.launch.units import (
    Begin,
    State,
    Trained,
    Unit,
)


class Trainable(Protocol):
    """The target of a job, as far as the trainer knows it: a tuning, or a contender."""

    @property
    def task(self) -> Task:
        """The task, with its data."""
        ...

    @property
    def method(self) -> Method:
        """The method that trains."""
        ...

    @property
    def full_steps(self) -> int:
        """Updates of a full run, the unit of progress."""
        ...

    @property
    def most_updates(self) -> int:
        """Updates of all jobs that share a program, at most."""
        ...

    def split(
        self, run: Run
    ) -> tuple[tuple[tuple[str, Any], ...], Mapping[str, float]]:
        """Return a run's static and traced hyperparameters, as `methods.split`."""
        ...

    def width(self, count: int) -> int:
        """Return the lanes of a block, for `count` settings that share a program."""
        ...


class Job(NamedTuple):
    """A trial to train.

    Attributes:
      target: the tuning or contender that it belongs to.
      run: the run; its `steps` is where the job ends.
      state: the state to resume from; None for the start.
      known: whether the result is in the table, so that the job is not trained again.
      keep: whether to return the last state.
      on_test: whether to measure the run on the test part, too.
    """

    target: Trainable
    run: Run
    state: State | None = None
    known: bool = False
    keep: bool = True
    on_test: bool = False


class Pack(NamedTuple):
    """Jobs that train as one block.

    Attributes:
      lanes: [lanes][seeds]; the jobs of a lane share their hyperparameters.
      width: lanes of the block; the last ones may be padding.
    """

    lanes: Sequence[Sequence[Job]]
    width: int

    @property
    def first(self) -> Job:
        """One of the jobs; all share task, method, first and last update."""
        return self.lanes[0][0]

    @property
    def count(self) -> int:
        """Number of jobs."""
        return sum(map(len, self.lanes))

    @property
    def begin(self) -> Begin:
        """Start of the block, and the states to keep."""
        first = self.first.state
        jobs = {identity.run_id(job.run): job for lane in self.lanes for job in lane}
        return Begin(
            first.steps if first else 0,
            {run_id: job.state.state for run_id, job in jobs.items() if job.state},
            frozenset(run_id for run_id, job in jobs.items() if job.keep),
            any(job.on_test for job in jobs.values()),
        )


def make_packs(jobs: Sequence[Job]) -> list[Pack]:
    """Group jobs that are not known into packs, the longest first.

    Known jobs count towards the width of blocks, which must not depend on what an
    earlier process has done.
    """
    groups: dict[Any, dict[str, Job]] = {}
    for job in jobs:
        static, traced = job.target.split(job.run)
        key = (job.run.task, job.run.method, static, tuple(traced))
        key += (job.run.steps, job.run.horizon, job.run.options)
        group, run_id = groups.setdefault(key, {}), identity.run_id(job.run)
        # Two tunings may ask for the same run.
        if run_id not in group or group[run_id].known:
            group[run_id] = job
    packs = []
    for group in groups.values():
        lanes: dict[Any, list[Job]] = {}  # hyperparameters -> a job per seed
        for job in group.values():
            alone = strategy.one_by_one(job.target.task)
            seed = job.run.seed if alone else None
            lanes.setdefault((job.run.hparams, seed), []).append(job)
        width = next(iter(group.values())).target.width(len(lanes))
        # A block's lanes start at the same update and have the same seeds.
        started: dict[Any, list[list[Job]]] = {}
        for lane in lanes.values():
            lane = [job for job in lane if not job.known]
            if lane:
                at = lane[0].state.steps if lane[0].state else 0
                seeds = tuple(job.run.seed for job in lane)
                started.setdefault((at, seeds), []).append(lane)
        for alike in started.values():
            for i in range(0, len(alike), width):
                packs.append(Pack(alike[i : i + width], width))
    # The longest first, so that no device waits for one that began last.
    return sorted(packs, key=lambda pack: -pack.first.run.steps)


def joined_units(
    jobs: Sequence[Job], settings: Settings, earlier: Sequence[Block] = ()
) -> list[Unit]:
    """Units that train whole runs, several methods in each where these train quickly.

    What is trained together follows from all jobs, those that are known, too.

    Args:
      jobs: whole runs.
      settings: the config.
      earlier: blocks of the jobs before, whose programs may serve again.
    """
    packs = make_packs([job._replace(known=False) for job in jobs])
    begin = Begin(on_test=any(job.on_test for job in jobs))
    alone = [unit_of(pack).block for pack in packs]
    again = reuse.by_programs_of(earlier, alone)
    return [
        Unit(block, begin, is_trial=True)
        for block in again or blocks.arrange(alone, settings)
    ]


def unit_of(pack: Pack) -> Unit:
    """The unit that trains a pack; its last lane is repeated up to the width."""
    target, run = pack.first.target, pack.first.run
    padding = [pack.lanes[-1]] * (pack.width - len(pack.lanes))
    lanes = [*pack.lanes, *padding]  # [lanes][seeds]
    hparams = [target.split(lane[0].run) for lane in lanes]  # (static, traced)
    num_seeds, static = len(pack.lanes[0]), hparams[0][0]
    program = blocks.program_of(
        run, target.task, target.method, static, num_seeds, pack.width
    )
    effort = blocks.effort_for(blocks.cost_of(target.task, target.most_updates))
    program = dataclasses.replace(program, effort=effort)
    # A block's runs are [seeds][lanes].
    runs = zip(*([job.run for job in lane] for lane in lanes), strict=True)
    block = Block(program, tuple(runs), tuple(traced for _, traced in hparams))
    return Unit(block, pack.begin, is_trial=True)


class Trainer:
    """Trains trials with a launcher."""

    def __init__(self, launcher: Launcher, progress: Callable[[float], Any]):
        """Make a trainer.

        Args:
          launcher: trains, in its session.
          progress: called after some updates with their number, in full runs.
        """
        self._launcher, self._progress = launcher, progress
        self._live = launcher.session.live
        self._trained: list[str] = []  # names of blocks, for `forget`
        self._whole: list[Block] = []  # blocks of whole runs so far

    def train(self, jobs: Sequence[Job]) -> dict[str, Trained]:
        """Train all jobs that are not known; return run_id -> result."""
        known = [job for job in jobs if job.known]
        self.note(known)
        updates = sum(job.run.steps for job in known)
        self._live.advance(updates, len(known), before=True)
        packs = make_packs(jobs)
        todo = [unit_of(pack) for pack in packs]
        full_steps = {
            run_id: pack.first.target.full_steps
            for pack, unit in zip(packs, todo, strict=True)
            for run_id in unit.block.run_ids
        }
        return self._launch(todo, full_steps)

    def train_whole(
        self, jobs: Sequence[Job], settings: Settings
    ) -> dict[str, Trained]:
        """Train whole runs that are not known, as `joined_units`; run_id -> result."""
        units = joined_units(jobs, settings, self._whole)
        self._whole += [unit.block for unit in units if not unit.block.spare]
        self._trained += [unit.block.name for unit in units]  # known ones, too
        known = {identity.run_id(job.run): job.run for job in jobs if job.known}
        updates = sum(run.steps for run in known.values())
        self._live.advance(updates, len(known), before=True)
        todo = [unit for unit in units if not {*known}.issuperset(unit.block.run_ids)]
        full_steps = {identity.run_id(job.run): job.target.full_steps for job in jobs}
        return self._launch(todo, full_steps)

    def _launch(
        self, todo: Sequence[Unit], full_steps: Mapping[str, int]
    ) -> dict[str, Trained]:
        """Train units; return run_id -> result.

        Args:
          todo: the units; there may be none.
          full_steps: run_id -> updates of a full run, the unit of progress.
        """
        trained: dict[str, Trained] = {}
        if not todo:
            return trained
        self._trained += [unit.block.name for unit in todo]

        def progress(unit: Unit, updates: int) -> None:
            self._live.advance(updates)
            self._progress(updates / full_steps[unit.block.run_ids[0]])

        for outcome in self._launcher.train(todo, progress):
            trained.update(outcome.trials)
            self._live.advance(0, len(outcome.trials))
            for run_id, result in outcome.trials.items():
                self._live.hear_trial(run_id, result.values, result.seconds)
            self._trained.append(outcome.unit.block.name)
        return trained

    def note(self, jobs: Sequence[Job]) -> None:
        """Note jobs of an earlier process, whose checkpoints `forget` will drop.

        They are left over if it was killed once the rows were in the table.
        """
        packs = make_packs([job._replace(known=False) for job in jobs])
        self._trained += [unit_of(pack).block.name for pack in packs]

    def forget(self) -> None:
        """Drop the checkpoints of trained blocks; call once their rows are saved."""
        self._launcher.forget(self._trained)
        self._trained.clear()
