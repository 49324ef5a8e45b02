"""Trains trials: runs that are given up, gone on with, or branched from.

A job is a run up to some update, from the start or from where another job ended. Jobs
that share a program are laid out in packs, each of which trains as a block, several at
once on each device; states that are gone on from come back to the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from lrjax import blocks, results, strategy
from lrjax.blocks import Block
from lrjax.core import Method, Run, Task
from lrjax.session import Launcher
from lrjax.units import Begin, State, Trained, Unit


class Trainable(Protocol):
    """What the trainer must know of that which is tuned or selected from."""

    @property
    def task(self) -> Task:
        """With its data."""
        ...

    @property
    def method(self) -> Method:
        """How the learning rate is controlled."""
        ...

    @property
    def full_steps(self) -> int:
        """Updates of a full run, the unit of progress."""
        ...

    def split(
        self, run: Run
    ) -> tuple[tuple[tuple[str, Any], ...], Mapping[str, float]]:
        """The static and the traced hyperparameters of a run, as `methods.split`."""
        ...

    def width(self, count: int) -> int:
        """Lanes of the blocks for so many settings that are alike but for values."""
        ...


class Job(NamedTuple):
    """A trial to train.

    Attributes:
      target: whose.
      run: what.
      state: where to go on from; None for the start.
      known: whether its result is in the table, so that it is not to be trained.
      keep: whether the state that it ends in is wanted.
      judge: whether it is to be measured on the test part, too.
    """

    target: Trainable
    run: Run
    state: State | None = None
    known: bool = False
    keep: bool = True
    judge: bool = False


class Pack(NamedTuple):
    """Jobs that train as one block.

    Attributes:
      lanes: a setting each, with a job per seed.
      width: of the block.
    """

    lanes: Sequence[Sequence[Job]]
    width: int

    @property
    def first(self) -> Job:
        """One of the jobs; all share task, method, steps and where they start."""
        return self.lanes[0][0]

    @property
    def count(self) -> int:
        """How many jobs there are."""
        return sum(map(len, self.lanes))

    @property
    def begin(self) -> Begin:
        """Where its block starts, and whose states are kept."""
        first = self.first.state
        jobs = {results.run_id(job.run): job for lane in self.lanes for job in lane}
        return Begin(
            first.steps if first else 0,
            {run_id: job.state.state for run_id, job in jobs.items() if job.state},
            frozenset(run_id for run_id, job in jobs.items() if job.keep),
            any(job.judge for job in jobs.values()),
        )


def lay_out(jobs: Sequence[Job]) -> list[Pack]:
    """Packs of all jobs that are not known, the longest first.

    Known ones count towards the width of blocks: it must not depend on what is done
    already.
    """
    groups: dict[Any, dict[str, Job]] = {}
    for job in jobs:
        static, traced = job.target.split(job.run)
        key = (job.run.task, job.run.method, static, tuple(traced))
        key += (job.run.steps, job.run.horizon)
        group, run_id = groups.setdefault(key, {}), results.run_id(job.run)
        # Two tunings may ask for the same.
        if run_id not in group or group[run_id].known:
            group[run_id] = job
    packs = []
    for group in groups.values():
        lanes: dict[Any, list[Job]] = {}  # one setting each, a job per seed
        for job in group.values():
            alone = strategy.one_by_one(job.target.task)
            seed = job.run.seed if alone else None
            lanes.setdefault((job.run.hparams, seed), []).append(job)
        width = next(iter(group.values())).target.width(len(lanes))
        # From the same update on, with the same seeds.
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
    # So that no device waits for one of them in the end.
    return sorted(packs, key=lambda pack: -pack.first.run.steps)


def unit_of(pack: Pack) -> Unit:
    """A pack as it is trained, its last lane repeated up to the width of the block."""
    target, run = pack.first.target, pack.first.run
    filled = [*pack.lanes, *[pack.lanes[-1]] * (pack.width - len(pack.lanes))]
    split = [target.split(lane[0].run) for lane in filled]
    seeds, static = len(pack.lanes[0]), split[0][0]
    program = blocks.program_of(
        run, target.task, target.method, static, seeds, pack.width
    )
    runs = zip(*([job.run for job in lane] for lane in filled), strict=True)
    block = Block(program, tuple(runs), tuple(traced for _, traced in split))
    return Unit(block, pack.begin, is_trial=True)


class Trainer:
    """Trains trials with a launcher."""

    def __init__(self, launcher: Launcher, progress: Callable[[float], Any]):
        """Trains in the launcher's session.

        Args:
          launcher: who trains.
          progress: called with how many full runs' worth of updates are done.
        """
        self._launcher, self._progress = launcher, progress
        self._trained: list[str] = []  # names of blocks

    def train(self, jobs: Sequence[Job]) -> dict[str, Trained]:
        """Trains what is not known; the result of each by its run_id."""
        packs = lay_out(jobs)
        trained: dict[str, Trained] = {}
        if not packs:
            return trained
        todo = [unit_of(pack) for pack in packs]
        self._trained += [unit.block.name for unit in todo]
        full_steps = {
            run_id: pack.first.target.full_steps
            for pack, unit in zip(packs, todo, strict=True)
            for run_id in unit.block.run_ids
        }

        def progress(unit: Unit, updates: int) -> None:
            self._progress(updates / full_steps[unit.block.run_ids[0]])

        for outcome in self._launcher.train(todo, progress):
            trained.update(outcome.trials)
            self._trained.append(outcome.unit.block.name)
        return trained

    def forget(self) -> None:
        """Drops checkpoints of what is in the table by now."""
        self._launcher.forget(self._trained)
        self._trained.clear()
