"""Hands out the jobs of a race, and judges what they measured."""

from __future__ import annotations

import math
import operator
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

from lrjax.common import files
from lrjax.hpo import prior, proposals
from lrjax.hpo.course import Course
from lrjax.hpo.prior import Candidate, Prior
from lrjax.hpo.proposals import Wanted
from lrjax.messages import UsageError, counted, shown, unknown
from lrjax.race import contenders as contenders_lib
from lrjax.race import job as job_lib
from lrjax.race import lock
from lrjax.race import log as log_lib
from lrjax.race.answer import Answer, conclude
from lrjax.race.contenders import Contender, Methods
from lrjax.race.job import Job
from lrjax.race.metrics import scale_of

_VERSION = 1  # of the record
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0  # seconds between looks for a free job


class Race:
    """Selects the learning-rate control of a training that lrjax does not run.

    The race asks for full runs, one job each; whoever trains, in whatever framework,
    tells it what the model reached. Which runs it asks for, and what it answers, are
    those of `lrjax.select` (docs/selection.md), but nobody looks at the task: what is
    known of others counts on average. Its state is in a folder: after a kill the same
    call goes on, and several processes may iterate over the same race at once.

    Attributes:
      folder: of the race.
      contenders: who may be trained; a bake-off adds some.

    Example:
      >>> import tempfile
      >>> folder = tempfile.mkdtemp()
      >>> race = Race(["adam", "prodigy"], budget=4, horizon=100, folder=folder)
      >>> for job in race:  # train with job.method, job.hyperparameters, job.seed
      ...     job.tell(loss=0.5 if job.method == "prodigy" else 0.7)
      >>> answer = race.answer()
      >>> answer.method, answer.runs
      ('prodigy', 4)
    """

    def __init__(
        self,
        methods: Methods = None,
        *,
        budget: int = 8,
        horizon: int,
        folder: str | os.PathLike[str],
        metric: str = "loss",
        higher_is_better: bool | None = None,
        how: str = "auto",
        folds: int = 1,
        valid_rows: int = 1000,
    ):
        """Begin a race, or go on with the one in the folder.

        Args:
          methods: names of lrjax's methods (None: all of them), or a mapping from
            names to hyperparameters that differ from the defaults, where a list gives
            a contender for each value: {"adam": None, "mine": {"lr": [0.1, 0.01]}}.
            A method whose rate wants tuning enters at its default and at a rate per
            decade.
          budget: most full runs.
          horizon: steps of a full run.
          folder: of the race's state and the jobs' own folders.
          metric: name of the value to rank by, on validation rows.
          higher_is_better: its direction; None if the name says it.
          how: 'prior' (one run of what known tasks expect most of), 'race' or
            'bakeoff' (every contender once, then the leaders again); 'auto' follows
            from the budget.
          folds: number of divisions of the rows that `job.fold` counts.
          valid_rows: validation rows, which say how noisy an accuracy is.

        Raises:
          UsageError: if an argument is invalid, or the folder has another race.
        """
        found = contenders_lib.of(methods)
        settings = {
            "version": _VERSION,
            "prior": prior.digest(),
            "methods": [[e.method, dict(e.hyperparameters)] for e in found],
            "named": methods is not None,
            "budget": _count("budget", budget),
            "horizon": _count("horizon", horizon),
            "metric": _text("metric", metric),
            "higher_is_better": scale_of(metric, higher_is_better).sign > 0,
            "how": _way(how, budget, len(found)),
            "folds": _count("folds", folds),
            "valid_rows": _count("valid_rows", valid_rows),
        }
        self._start(log_lib.Log(files.expanded(folder)), settings)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Go on with the race in a folder, whatever its settings.

        Raises:
          UsageError: if the folder has none.
        """
        path = files.expanded(folder)
        if not (path / log_lib.NAME).exists():
            raise UsageError(f"{path} has no race: there is no {log_lib.NAME}")
        race = cls.__new__(cls)
        race._start(log_lib.Log(path), None)
        return race

    def _start(self, log: log_lib.Log, settings: Mapping[str, Any] | None) -> None:
        """Read the settings in the folder, or write them."""
        self._log = log
        self._guard = threading.RLock()  # several threads may ask one race
        with log.alone():
            events = log.new()
            if not events and settings is not None:
                log.append(log_lib.SETTINGS, settings=settings)
                events = log.new()
        if not events or events[0]["event"] != log_lib.SETTINGS:
            raise UsageError(f"{log.folder / log_lib.NAME} has no settings")
        there = events.pop(0)["settings"]
        _check_same(there, settings, log)
        self.folder = log.folder
        self._settings: Mapping[str, Any] = there
        self._ended: dict[int, float] = {}  # job -> the metric; NaN if it was lost
        self._lost: dict[int, str] = {}
        self._saved: dict[int, int] = {}  # job -> steps
        self._scale = scale_of(there["metric"], there["higher_is_better"])
        self.contenders = _from_settings(there)
        self._course = self._begun()
        self._wanted: list[Wanted] | None = None  # None: not asked for yet
        self._mine: dict[int, int] = {}  # job of this object -> the thread that has it
        self._take(events)

    def _begun(self) -> Course:
        """The selection, before its first run."""
        settings = self._settings
        known = prior.known(self._scale.kind)

        def believe(candidates: Any) -> Prior:
            return prior.believe(known, candidates)

        candidates: list[Candidate] = [each.candidate for each in self.contenders]
        believed = believe(candidates)
        judge = proposals.Judge(
            believed, settings["folds"], known.noise, settings["valid_rows"]
        )
        first = proposals.first(
            [each.method for each in self.contenders],
            [i for i, each in enumerate(self.contenders) if each.own],
            believed,
            settings["named"],
        )
        plan = proposals.plan(settings["how"], believed, first, settings["budget"])
        return Course(candidates, plan, judge, self._scale, believe)

    def __iter__(self) -> Iterator[Job]:
        """The jobs that are left, one after the other, until the race is over.

        Raises:
          UsageError: if a job was neither told nor has failed when the next is asked
            for.
        """
        while job := self.ask():
            with job:
                yield job
                if not job.over:
                    raise UsageError(
                        f"job {job.number} was not told: call job.tell"
                        f"({self._settings['metric']}=...) or job.failed('why')"
                    )

    def ask(self, wait: bool = True) -> Job | None:
        """The next job, this process's until it is told.

        Args:
          wait: whether to wait while all jobs that are needed now are others'.

        Returns:
          A job; None if the race is over or, without `wait`, all jobs are taken.

        Raises:
          UsageError: if all jobs are taken by this very thread, so that waiting would
            never end.
        """
        pause = _FIRST_WAIT
        while True:
            job = self._free()
            if job or self.over or not wait:
                return job
            thread = threading.get_ident()
            mine = {job for job, by in self._mine.copy().items() if by == thread}
            needed = set(self._open())
            if needed and needed <= mine:
                numbers = ", ".join(map(str, sorted(mine)))
                raise UsageError(
                    f"tell job {numbers} first: what the race asks for next follows "
                    "from it; ask(wait=False) returns None instead"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_WAIT)

    @property
    def any_told(self) -> bool:
        """Whether any job was told a result that counts."""
        self._look()
        return len(self._ended) > len(self._lost)

    @property
    def over(self) -> bool:
        """Whether nothing is left to train."""
        self._look()
        return not self._wanted

    def answer(self) -> Answer:
        """What the runs so far answer.

        Raises:
          UsageError: if all of them were lost.
        """
        over = self.over
        found = self._course.answer()
        if found is None:
            runs = counted(len(self._course.asked), "job")
            raise UsageError(
                f"{self.folder}: all of {runs} were lost "
                f"({job_lib.describe_lost(self._lost)}); begin another race with "
                "smaller rates or other methods"
            )
        return conclude(
            self._course,
            found,
            tuple(self.contenders),
            self._settings["metric"],
            self._settings["budget"],
            over,
            self._lost,
        )

    def __repr__(self) -> str:
        done = len(self._ended)
        return f"<race in {self.folder}: {done} of {self._settings['budget']} runs>"

    def _look(self) -> None:
        """Take what was noted since the last look."""
        with self._guard:
            self._take(self._log.new())

    def _take(self, events: list[dict[str, Any]]) -> None:
        """Take what was noted since, and find out what is wanted next."""
        metric = self._settings["metric"]
        for event in events:
            number, kind = event["job"], event["event"]
            if kind == log_lib.SAVED:
                self._saved[number] = event["step"]
            elif kind == log_lib.FAILED and number not in self._ended:
                self._ended[number] = math.nan
                self._lost[number] = str(event["reason"])
            elif kind == log_lib.TOLD and number not in self._ended:
                value = event["values"].get(metric, math.nan)
                self._ended[number] = value
                if not math.isfinite(value):
                    self._lost[number] = "diverged"
        while self._wanted is None or (self._wanted and not self._open()):
            if self._wanted:
                begin = len(self._course.asked)
                values = {
                    each: self._ended[begin + i] for i, each in enumerate(self._wanted)
                }
                self._course.tell(values)
                if not begin:
                    self.contenders += [
                        self.contenders[each.like].at(each.rate)
                        for each in self._course.fitted
                    ]
            self._wanted = self._course.wanted()

    def _open(self) -> list[int]:
        """Numbers of the jobs that are wanted now and not over."""
        begin = len(self._course.asked)
        wanted = range(begin, begin + len(self._wanted or ()))
        return [number for number in wanted if number not in self._ended]

    def _free(self) -> Job | None:
        """A job that nobody works on; None if there is none."""
        with self._guard, self._log.alone():
            self._look()
            for number in self._open():
                folder = files.make_folder(
                    job_lib.folder_of(self.folder, number), below=self.folder
                )
                if claim := lock.try_take(folder / ".lock"):
                    self._log.append(log_lib.BEGUN, job=number, pid=os.getpid())
                    return self._job(number, claim)
        return None

    def _job(self, number: int, claim: Any) -> Job:
        """The job of a number."""
        wanted = (self._wanted or [])[number - len(self._course.asked)]
        there = job_lib.checkpoint_of(self.folder, number).exists()
        start = self._saved.get(number, 0) if there else 0
        self._mine[number] = threading.get_ident()
        return Job(
            number,
            self.contenders[wanted.who],
            (wanted.run, wanted.run % self._settings["folds"]),
            (start, self._settings["horizon"]),
            self._settings["metric"],
            self._scale,
            self._log,
            claim,
            lambda: self._mine.pop(number, None),
        )


def _from_settings(settings: Mapping[str, Any]) -> list[Contender]:
    """The contenders in the settings of a race."""

    def read(value: Any) -> Any:
        return math.inf if value == "inf" else value

    return [
        Contender(method, {name: read(value) for name, value in given.items()})
        for method, given in settings["methods"]
    ]


def _check_same(
    there: Mapping[str, Any], settings: Mapping[str, Any] | None, log: log_lib.Log
) -> None:
    """Refuse to go on with a race that has other settings.

    Args:
      there: the settings in the folder.
      settings: those of this call; None if it has none.
      log: for its folder.
    """
    if there.get("version") != _VERSION or there.get("prior") != prior.digest():
        raise UsageError(
            f"{log.folder} has a race of another version of lrjax; go on with that "
            "version, or begin one in another folder"
        )
    if settings is None:
        return
    given = log_lib.plain(settings)
    other = [name for name in given if given[name] != there.get(name)]
    if other:
        raise UsageError(
            f"{log.folder} has a race with other {' and '.join(other)}: choose another "
            "folder, or go on with lrjax.Race.open(folder)"
        )


def _way(how: str, budget: int, count: int) -> str:
    """Which way to take with a budget and so many contenders."""
    if how not in ("auto", *proposals.WAYS):
        raise unknown("way", how, ("auto", *proposals.WAYS))
    if how == "auto":
        how = proposals.RACE if 2 <= budget < count else proposals.BAKEOFF
        return how if budget >= 2 else proposals.PRIOR
    least = {proposals.PRIOR: 1, proposals.RACE: 2, proposals.BAKEOFF: count}[how]
    if budget < least:
        raise UsageError(
            f"a {how} of {counted(count, 'contender')} needs a budget of {least} full "
            f"runs or more, not {budget}"
        )
    return how


def _count(name: str, value: Any) -> int:
    """A whole number above 0."""
    try:
        found = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = 0
    if not 0 < found < 2**53:
        raise UsageError(f"{name} must be a whole number above 0, not {shown(value)}")
    return found


def _text(name: str, value: Any) -> str:
    """A name that can be a keyword."""
    if not isinstance(value, str) or not value.isidentifier():
        raise UsageError(f"{name} must be a name such as 'loss', not {shown(value)}")
    return value
