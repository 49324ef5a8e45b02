"""Hands out the jobs of a race, and judges what they measured."""

from __future__ import annotations

import math
import operator
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

from lrjax.common import files
from lrjax.hpo import prior, proposals
from lrjax.hpo.course import Course
from lrjax.hpo.prior import Candidate, Prior
from lrjax.hpo.proposals import Wanted
from lrjax.messages import UsageError, counted, cut, printable, shown, unknown
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


class Done(NamedTuple):
    """A run that is over.

    Attributes:
      job: its number.
      contender: method and hyperparameters.
      seed: of the run.
      lost: why it has no result; '' if it has one.
      values: what was told, by name.
      curve: step -> what was reported of it, by name.
      seconds: from when its last attempt began.
    """

    job: int
    contender: Contender
    seed: int
    lost: str
    values: Mapping[str, float]
    curve: Mapping[int, Mapping[str, float]]
    seconds: float


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
      horizon: steps of a full run.
      metric, higher_is_better: what runs are ranked by.

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
            "higher_is_better": _higher_is_better(metric, higher_is_better),
            "how": how,
            "folds": _count("folds", folds),
            "valid_rows": _count("valid_rows", valid_rows),
        }
        _way(how, settings["budget"], len(found))
        self._start(log_lib.Log(files.expanded(folder)), settings)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Go on with the race in a folder, whatever its settings.

        Raises:
          UsageError: if the folder has none.
        """
        log = log_lib.Log(files.expanded(folder))
        if not files.is_there(log.folder / log_lib.NAME):
            raise UsageError(f"{log.folder} has no race: there is no {log_lib.NAME}")
        race = cls.__new__(cls)
        race._start(log, None)
        return race

    def _start(self, log: log_lib.Log, settings: Mapping[str, Any] | None) -> None:
        """Read the settings in the folder, or write them."""
        self._log = log
        self._guard = threading.RLock()  # several threads may ask one race
        events = log.new()
        if not events and settings is not None:
            with log.alone():
                events = log.new()
                if not events:
                    log.append(log_lib.SETTINGS, settings=settings)
                    events = log.new()
        if not events:
            raise log.damaged(1)
        there = events.pop(0)["settings"]
        _check_version(there, log)
        self.folder = log.folder
        self._settings: Mapping[str, Any] = there
        self._ended: dict[int, float] = {}  # job -> the metric; NaN if it was lost
        self._lost: dict[int, str] = {}
        self._saved: dict[int, int] = {}  # job -> steps
        self._told: dict[int, Mapping[str, float]] = {}  # by job
        self._curves: dict[int, dict[int, Mapping[str, float]]] = {}  # and step
        self._seconds: dict[int, float] = {}
        self._begun_by: dict[int, str] = {}  # job -> process and machine
        self._wanted: list[Wanted] | None = None  # None: not asked for yet
        self._mine: dict[int, int] = {}  # job of this object -> the thread that has it
        try:
            for name in ("budget", "horizon", "folds", "valid_rows"):
                _count(name, there[name])
            _text("metric", there["metric"])
            self.horizon, self.metric = there["horizon"], there["metric"]
            self.higher_is_better = bool(there["higher_is_better"])
            self._scale = scale_of(self.metric, self.higher_is_better)
            self.contenders = [Contender(*each) for each in there["methods"]]
            self._course = self._begin()
        except (LookupError, TypeError, ValueError, AttributeError):
            raise log.damaged(1) from None
        if settings is not None:
            _check_same(there, settings, log)
        self._take(events)

    def _begin(self) -> Course:
        """The selection, before its first run."""
        settings = self._settings
        known = prior.known(self._scale.kind)

        def believe(candidates: Any) -> Prior:
            return prior.believe(known, candidates)

        candidates: list[Candidate] = [each.candidate for each in self.contenders]
        believed = believe(candidates)
        judge = proposals.Judge(
            believed,
            settings["folds"],
            known.noise,
            settings["valid_rows"],
            known.near_odds,
        )
        first = proposals.first(
            [each.method for each in self.contenders],
            [i for i, each in enumerate(self.contenders) if each.own],
            believed,
            settings["named"],
        )
        how = _way(settings["how"], settings["budget"], len(candidates))
        plan = proposals.plan(how, believed, first, settings["budget"])
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
                self._look()  # a child of this process may have told it
                if not job.over and job.number not in self._ended:
                    raise UsageError(
                        f"job {job.number} was not told: call job.tell"
                        f"({self.metric}=...) or job.failed('why')"
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
        _check_rank()
        pause, said = _FIRST_WAIT, False
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
            if not said and pause == _LONGEST_WAIT:
                said = True
                self._say_who_is_awaited(needed)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_WAIT)

    def _say_who_is_awaited(self, needed: set[int]) -> None:
        """Print a line on the jobs that are awaited."""
        who = (f"job {n} ({self._begun_by.get(n, 'being taken')})" for n in needed)
        text = f"{self.folder}: waiting for {', '.join(sorted(who))}"
        print(printable(text), file=sys.stderr, flush=True)

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
        """The answer after the runs so far.

        Raises:
          UsageError: if all of them were lost.
        """
        with self._guard:
            self._look()
            over, course = not self._wanted, self._course
            begin = len(course.asked)
            some = {
                each: self._ended[begin + i]
                for i, each in enumerate(self._wanted or ())
                if begin + i in self._ended
            }
        course = course.with_some(some)
        found = course.answer()
        if found is None:
            count = len(course.asked)
            runs = f"all of {count} jobs were" if count > 1 else "the only job was"
            raise UsageError(
                f"{self.folder}: {runs} lost "
                f"({job_lib.describe_lost(self._lost)}); begin another race with "
                "smaller rates or other methods"
            )
        return conclude(
            course,
            found,
            tuple(self.contenders),
            self.metric,
            self._settings["budget"],
            over,
            self._lost,
        )

    def done(self) -> list[Done]:
        """The runs that are over, in the order in which they were asked for."""
        with self._guard:
            self._look()
            wanted = [*self._course.asked, *(self._wanted or ())]
            return [
                Done(
                    number,
                    self.contenders[wanted[number].who],
                    wanted[number].run,
                    self._lost.get(number, ""),
                    self._told.get(number, {}),
                    self._curves.get(number, {}),
                    self._seconds[number],
                )
                for number in sorted(self._ended)
            ]

    def __repr__(self) -> str:
        done, most = len(self._ended), self._settings["budget"]
        end = ", over" if not self._wanted else ""
        return f"<race in {self.folder}: {done} of at most {most} runs{end}>"

    def _look(self) -> None:
        """Take what was noted since the last look."""
        with self._guard:
            self._take(self._log.new())

    def _take(self, events: list[dict[str, Any]]) -> None:
        """Take what was noted since, and find out what is wanted next."""
        metric = self.metric
        for event in events:
            number, kind = event["job"], event["event"]
            if kind == log_lib.BEGUN:
                by = f"process {event.get('pid')} on {event.get('machine')}"
                self._begun_by[number] = by
            elif kind == log_lib.SAVED:
                self._saved[number] = event["step"]
            elif kind == log_lib.REACHED:
                self._curves.setdefault(number, {})[event["step"]] = event["values"]
            elif number not in self._ended:
                self._seconds[number] = event["seconds"]
                self._told[number] = event.get("values", {})
                value = self._told[number].get(metric, math.nan)
                self._ended[number] = value
                if not math.isfinite(value):
                    self._lost[number] = event.get("reason", "diverged")
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
                    self._log.append(
                        log_lib.BEGUN,
                        job=number,
                        pid=os.getpid(),
                        machine=platform.node(),
                    )
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
            [each.method for each in self.contenders],
            (wanted.run, wanted.run % self._settings["folds"]),
            (start, self.horizon),
            self.metric,
            self._scale,
            self._log,
            claim,
            lambda: self._mine.pop(number, None),
        )


def _check_version(there: Mapping[str, Any], log: log_lib.Log) -> None:
    """Refuse to go on with a race of another version.

    Args:
      there: the settings in the folder.
      log: for its folder.
    """
    if (there.get("version"), there.get("prior")) != (_VERSION, prior.digest()):
        raise UsageError(
            f"{log.folder} has a race of another version of lrjax; go on with that "
            "version, or begin one in another folder"
        )


def _check_same(
    there: Mapping[str, Any], settings: Mapping[str, Any], log: log_lib.Log
) -> None:
    """Refuse to go on with a race that has other settings.

    Args:
      there: the settings in the folder.
      settings: those of this call.
      log: for the folder.
    """
    given = {**settings, "methods": [list(each) for each in settings["methods"]]}
    other = [n for n in given if n != "named" and given[n] != there.get(n)]
    if "methods" in other and _same_ones(there["methods"], given["methods"]):
        other.remove("methods")  # begun by a version that kept the order of names
    if other:
        each = "; ".join(_difference(n, there.get(n), given[n]) for n in other)
        raise UsageError(
            f"{log.folder} has a race with other settings ({each}): choose another "
            "folder, or give the settings that it has (in Python lrjax.Race.open does)"
        )


def _difference(name: str, there: Any, given: Any) -> str:
    """Difference between a setting and that in the folder, for a message."""
    if name != "methods":
        return f"{name} is {shown(there)} there, {shown(given)} here"
    only = {
        where: ", ".join(Contender(*e).label for e in some if e not in others)
        for where, some, others in (("there", there, given), ("here", given, there))
    }
    parts = [f"{cut(labels)} only {where}" for where, labels in only.items() if labels]
    return f"methods: {' and '.join(parts)}"


def _same_ones(some: list[Any], others: list[Any]) -> bool:
    """Whether two lists without repetitions have the same elements, in any order."""
    return len(some) == len(others) and all(each in others for each in some)


def _way(how: str, budget: int, count: int) -> str:
    """Choose how to select, by the budget and the number of contenders."""
    if how not in ("auto", *proposals.WAYS):
        raise unknown("way", how, ("auto", *proposals.WAYS))
    if how == "auto":
        return proposals.by_budget(budget, count)
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


def _higher_is_better(metric: str, given: Any) -> bool:
    """The direction of a metric, as given or by its name."""
    given = given.item() if hasattr(given, "item") else given  # NumPy's truth values
    if given is not None and not isinstance(given, bool):
        raise UsageError(
            f"higher_is_better must be True, False or None, not {shown(given)}"
        )
    return scale_of(metric, given).sign > 0


def _check_rank() -> None:
    """Refuse to give each of the processes that train one model a job of its own.

    Raises:
      UsageError: if this process is one of several of `torchrun`, and not the first.
    """
    rank, together = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if rank != "0" and together != "1":
        raise UsageError(
            f"process {rank} of {together} that train together asks for a job of its "
            "own: let process 0 ask and tell, and send the others what the job says "
            "(docs/race.md, Several processes)"
        )


def _text(name: str, value: Any) -> str:
    """A name that can be a keyword."""
    if not isinstance(value, str) or not value.isidentifier():
        raise UsageError(f"{name} must be a name such as 'loss', not {shown(value)}")
    return value
