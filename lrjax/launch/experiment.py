"""Trains the runs of a config that are missing in the tables.

Blocks whose runs are all in the tables are skipped. Other blocks are trained whole, and
only missing rows are written.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lrjax.common import numerics, spans
from lrjax.config import Settings
from lrjax.console import bar as progress_bar
from lrjax.console import say
from lrjax.core import counted
from lrjax.launch import local
from lrjax.launch.live import Listener
from lrjax.launch.session import Launch, Launcher, Planned
from lrjax.launch.units import Unit


@numerics.settled
def run(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    launch: Launch = local.launch,
    announce: Callable[..., Iterable[str]] | None = None,
    listeners: Iterable[Listener] = (),
) -> None:
    """Train every run of the settings that is missing in the tables.

    Args:
      settings: what to train.
      workdir: directory of the tables.
      data_dir: directory searched first for data files.
      overrides: changes of the config on the command line, to be recorded.
      launch: called with the first arguments; makes the launcher that trains.
      announce: gives lines to print before training, as `estimate.announce` does.
      listeners: get rows as they are measured.

    Raises:
      UsageError: before any training, if data or workdir cannot be used.
      Interrupted: on a signal that stops, once running blocks are saved.
    """
    with launch(settings, workdir, data_dir, overrides) as launcher:
        launcher.session.live.listen(listeners)
        blocks = launcher.blocks(settings)
        if announce:
            with spans.span("plan"):
                lines = list(announce(settings, blocks, launcher.session.tables.runs))
            for line in lines:
                say(line)
        train_missing(launcher, blocks)


def train_missing(launcher: Launcher, blocks: Sequence[Planned]) -> None:
    """Train the blocks that have runs which are missing in the tables."""
    tables = launcher.session.tables
    wanted = {run_id for block in blocks for run_id in block.run_ids}
    missing = wanted - tables.runs
    todo, done = [], []
    for block in blocks:
        (done if tables.runs.issuperset(block.run_ids) else todo).append(block)
    # Checkpoints are left over if the process was killed after a block's last row.
    launcher.forget([block.name for block in done])
    say(
        f"{counted(len(missing), 'run')} to train in {counted(len(todo), 'block')} on "
        f"{launcher.where}; {len(wanted) - len(missing)} of {len(wanted)} are done"
    )

    def record() -> None:  # only once nothing is refused any more
        launcher.session.record({block.task_name: block.metrics for block in blocks})
        launcher.session.live.expect(
            "run",
            sum(len(block.run_ids) for block in blocks),
            sum(block.updates for block in blocks),
            done=(
                sum(len(block.run_ids) for block in done),
                sum(block.updates for block in done),
            ),
        )

    launcher.session.live.plan(blocks)
    if todo:
        _train(launcher, todo, record)
    else:
        record()
    tables.check()
    say(f"results are in {launcher.session.home}")


def _train(launcher: Launcher, todo: Sequence[Any], record: Callable[[], Any]) -> None:
    """Train blocks with a progress bar, and print what that took."""
    seconds = collections.defaultdict[str, float](float)  # task -> training time
    updates, ended, live = sum(b.updates for b in todo), 0, launcher.session.live
    bar = progress_bar(total=updates, unit=" updates", unit_scale=True)

    def progress(unit: Unit, count: int) -> None:
        bar.update(count)
        live.advance(count)

    live.note(todo[0].title)
    with bar:
        for outcome in launcher.train(
            [Unit(block) for block in todo], progress, record
        ):
            block, ended = outcome.unit.block, ended + 1
            launcher.forget([block.name])
            seconds[block.task_name] += outcome.seconds
            bar.set_description(block.title)
            live.advance(0, len(block.run_ids))
            live.note(block.title)
            if bar.disable:
                for line in outcome.summary:
                    say(f"[{ended}/{len(todo)}] {line}")
    # Parts of a split block have names of their own: remove the whole blocks', too.
    launcher.forget([block.name for block in todo])
    say(launcher.spent(sum(seconds.values())))
    if len(seconds) > 1:
        shares = (f"{task} {spent:.1f}" for task, spent in seconds.items())
        say(f"seconds of training: {', '.join(shares)}")
