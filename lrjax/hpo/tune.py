"""Tunes methods: a tuner's stages trained as populations, then fresh runs of the best.

All tunings of a config advance in lockstep: each is asked for its next stage, all
these trials are trained together, and each tuner is told. `trials.jsonl` has a line per
trial; an interrupted tuning is replayed from it, and every configuration is checked.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lrjax import console, identity, reports, results, tasks
from lrjax.common import numerics
from lrjax.common.reading import reading
from lrjax.common.temporary import Temporary
from lrjax.config import Settings
from lrjax.core import UsageError, counted
from lrjax.hpo import method_code, smac, tuners
from lrjax.hpo.search import Search, plan_lines, planned
from lrjax.hpo.targets import TRIAL_SEED, Target, targets
from lrjax.hpo.trials import Job, Trainer, make_packs, unit_of
from lrjax.launch import blocks as blocks_lib
from lrjax.launch import estimate, experiment, local
from lrjax.launch.blocks import Block
from lrjax.launch.live import Listener
from lrjax.launch.session import Launch, Launcher, Session


class Tuned(NamedTuple):
    """Results of a tuning beside its tables.

    Attributes:
      figures: their paths.
      snippets: tuned method and task -> Python that trains with the best setting
        outside of lrjax; without those whose trials all diverged.
    """

    figures: list[Path]
    snippets: Mapping[str, str]


@numerics.settled
def run(
    settings: Settings,
    workdir: str | os.PathLike[str],
    data_dir: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    launch: Launch = local.launch,
    listeners: Iterable[Listener] = (),
) -> Tuned:
    """Tune every method of the settings on every task, then train the best settings.

    Args:
      settings: what to tune, and the seeds of the runs with the best setting.
      workdir: directory of the tables.
      data_dir: directory searched first for data files.
      overrides: name -> value of the fields set on the command line; recorded.
      launch: called with the first arguments; makes the launcher that trains.
      listeners: get rows as they are measured.

    Raises:
      UsageError: if the settings, data or workdir cannot be used; before any training.
      Interrupted: on a signal that stops.
    """
    check(settings)
    with launch(settings, workdir, data_dir, overrides) as launcher:
        launcher.session.live.listen(listeners)
        return _run(launcher)


def plan(
    settings: Settings, data_dir: str | None = None, workers: int | None = None
) -> str:
    """Say what `run` trains in an empty working directory, and what that costs.

    Args:
      settings, data_dir: as for `run`.
      workers: as in `estimate.Plan`.

    Raises:
      UsageError: as for `run`.
    """
    check(settings)
    lines, blocks = [], []
    tunings = targets(*blocks_lib.load(settings, data_dir))
    scratch = Temporary()  # for SMAC's files
    for search in [Search(t, make_tuner(t, scratch.path)) for t in tunings]:
        if search.ask():
            lines += [*plan_lines(search), ""]
            blocks += _expected_blocks(search, settings)
    costs = estimate.of_blocks(settings, blocks, set(), workers)
    return "\n".join([*lines, estimate.show(costs)])


def _expected_blocks(search: Search, settings: Settings) -> list[Block]:
    """Blocks like those of all stages and of the runs with the best setting.

    Which settings are promoted is not known yet; those of the first stage stand for
    them.
    """
    target, expected = search.target, []
    for number, (stage, _) in enumerate(planned(search)):
        updates = target.trained(stage.budget, stage.budget - stage.trained)
        runs = [
            dataclasses.replace(
                target.trial_run(dataclasses.replace(trial, budget=stage.budget)),
                steps=updates * target.unit_steps,
                seed=TRIAL_SEED - number,  # so that no stage repeats another's runs
            )
            for trial in search.trials[: stage.trials]
        ]
        expected += [
            _named(unit_of(pack).block, f"{target.label} trials")
            for pack in make_packs([Job(target, run) for run in runs])
        ]
    hparams = target.hparams(search.trials[0])
    return expected + _final_blocks(target, hparams, settings)


def _run(launcher: Launcher) -> Tuned:
    """Tune in the launcher's session, then train the best settings."""
    session = launcher.session
    settings = session.settings
    session.live.mode = "tune"
    tunings = targets(*blocks_lib.load(settings, session.data_dir))
    workdir = session.tables.workdir  # open: no other process tunes here
    known = _known(tunings, results.read_rows(workdir, results.TRIALS), workdir)
    session.record({t.run.task: results.describe(t.task.metrics) for t in tunings})
    searches = [
        Search(target, make_tuner(target, workdir), rows)
        for target, rows in zip(tunings, known, strict=True)
    ]
    _advance(searches, launcher)
    # The table may also hold rows of other tunings, which `_known` did not check.
    with reading(workdir / results.TRIALS, "cannot be drawn"):
        rows = results.read_rows(workdir, results.TRIALS)
        drawn = reports.tuning(rows, workdir, results.load_metrics(workdir))
    winners, snippets = [], {}
    for search in searches:
        console.say(search.summary())
        if search.best:
            target = search.target
            final = _final_blocks(target, search.best["hparams"], settings)
            best = final[0].example
            snippets[f"{target.label} on {best.task}"] = method_code.snippet(
                target.method, dict(best.hparams), best.horizon
            )
            winners += final
    experiment.train_missing(launcher, blocks_lib.arrange(winners, settings))
    return Tuned(drawn, snippets)


def check(settings: Settings) -> None:
    """Refuse settings that cannot be tuned.

    Raises:
      UsageError: names the field.
    """
    if settings.grid:
        name = next(iter(settings.grid))
        raise UsageError(
            f"config.grid.{name} is for --mode=train; set config.tune.space.{name} to "
            "(low, high), and config.tune.tuner=grid for a grid"
        )
    if any(TRIAL_SEED in settings.on(task).seeds for task in settings.tasks):
        raise UsageError(
            f"config.seeds: {TRIAL_SEED} is the seed of the trials; runs with the best "
            "setting need others"
        )


def make_tuner(target: Target, workdir: Path) -> tuners.Tuner:
    """The tuner of a target; SMAC keeps its files below `workdir`/smac."""
    if target.tuner == "smac":
        words = (target.run.task, target.run.method, str(target.seed))
        name = re.sub(r"[^\w.-]+", "-", " ".join(words)).strip("-.")
        if target.run.task not in tasks.TASKS:  # others may run into each other
            name = f"{name[:60]}-{identity.digest(words)}"
        wanted = smac.full_length(target.problem) if target.full_length else 0
        return smac.Smac(target.problem, workdir / "smac" / name, wanted)
    return tuners.find(target.tuner)(target.problem)


def _known(
    tunings: Sequence[Target], rows: Iterable[Mapping[str, Any]], workdir: Path
) -> list[dict[int, Mapping[str, Any]]]:
    """Rows of the table that belong to each tuning, by number of the trial.

    Args:
      tunings: what is tuned.
      rows: rows of trials.jsonl.
      workdir: directory of the table, for messages.

    Raises:
      UsageError: if a row is damaged, or of the same tuning with other settings.
    """
    names = ("task", "method", "tuner", "seed")
    places: dict[tuple[Any, ...], int] = {
        (t.run.task, t.run.method, t.tuner, t.seed): i for i, t in enumerate(tunings)
    }
    known: list[dict[int, Mapping[str, Any]]] = [{} for _ in tunings]
    for row in rows:
        key = tuple(row.get(name) for name in names)
        if key not in places:
            continue
        i = places[key]
        if row["tuning"] != tunings[i].identity():
            raise UsageError(
                f"{workdir / results.TRIALS} holds trials of {row['method']} on "
                f"{row['task']} with other settings; choose another --workdir"
            )
        numbers = (row.get("cost"), row.get("seconds"))
        if row.get("status") not in ("done", "crashed") or not all(
            isinstance(x, int | float) and math.isfinite(x) for x in numbers
        ):
            raise UsageError(
                f"{workdir / results.TRIALS}: trial {row['trial']} of {row['method']} "
                f"on {row['task']} is damaged; remove its line"
            )
        known[i][row["trial"]] = row
    return known


def _advance(searches: Sequence[Search], launcher: Launcher) -> None:
    """Tune to the end, all searches in lockstep."""
    active = [search for search in searches if search.ask()]
    for search in active:
        for line in plan_lines(search):
            console.say(line)
    bar = console.bar(
        total=sum(cost for search in active for _, cost in planned(search)),
        bar_format="{desc}{bar}| {n:.1f} of {total:.1f} full runs [{elapsed}, "
        "{remaining} left]",
    )
    session, trainer = launcher.session, Trainer(launcher, bar.update)
    _expect(active, session)
    with bar:
        while active:
            jobs = [job for search in active for job in search.jobs()]
            session.live.note(counted(len(jobs), "trial"))
            trained = trainer.train(jobs)
            for search in active:
                before = len(search.rows)
                search.tell(trained)
                session.tables.append(results.TRIALS, search.rows[before:])
                bar.set_description_str(f"{search.progress()} ")
                if bar.disable:
                    console.say(search.progress())
            trainer.forget()
            console.stop_if(session.signalled)
            active = [search for search in active if search.ask()]


def _expect(searches: Sequence[Search], session: Session) -> None:
    """Say how many trials are planned, and runs with the best settings after them."""
    stages = [(s.target, *stage) for s in searches for stage in planned(s)]
    session.live.expect(
        "trial",
        sum(stage.trials for _, stage, _ in stages),
        round(sum(cost * target.full_steps for target, _, cost in stages)),
    )
    runs = {(s.target.run.task, s.target.label): s.target.run for s in searches}
    seeds = {r.task: len(session.settings.on(r.task).seeds) for r in runs.values()}
    session.live.expect(
        "run",
        sum(seeds[run.task] for run in runs.values()),
        sum(seeds[run.task] * run.steps for run in runs.values()),
    )


def _final_blocks(
    target: Target, best: Mapping[str, Any], settings: Settings
) -> list[Block]:
    """Blocks of runs with fresh seeds, under the tuned name.

    Args:
      target: what was tuned.
      best: every hyperparameter of the best setting.
      settings: seeds and length of the runs, and what was not tuned.
    """
    tuned = {n: best[n] for n in target.problem.space.ranges}
    name, method = target.run.task, target.run.method
    hparams = {method: {**settings.hparams.get(method, {}), **tuned}}
    alone = dataclasses.replace(
        settings.on(name), tasks=(name,), methods=(method,), hparams=hparams
    )
    blocks = blocks_lib.plan(alone, [target.task])
    return [_named(block, target.label) for block in blocks]


def _named(block: Block, label: str) -> Block:
    """A block whose runs have another name of a method in the tables."""
    runs = tuple(
        tuple(dataclasses.replace(run, method=label) for run in row)
        for row in block.runs
    )
    return Block(block.program, runs, block.lanes)
