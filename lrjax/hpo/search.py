"""One tuning under way: asks its tuner for stages, tells it costs, keeps the rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lrjax import identity, results
from lrjax.core import UsageError, counted
from lrjax.hpo import tuners
from lrjax.hpo.targets import Target
from lrjax.hpo.trials import Job
from lrjax.launch.units import State, Trained


class Search:
    """A tuning under way.

    Attributes:
      target: what is tuned.
      tuner: proposes the trials.
      rows: rows of all finished trials, in order.
      trials: trials of the current stage.
      first: number of trials in the first stage.
      best: row of the best trial at the largest budget; None while all diverged.
    """

    def __init__(
        self,
        target: Target,
        tuner: tuners.Tuner,
        known: Mapping[int, Mapping[str, Any]] | None = None,
    ):
        """Begin a tuning.

        Args:
          target: what is tuned.
          tuner: proposes the trials.
          known: number of a trial -> its row in the table, from an earlier process.
        """
        self.target, self.tuner = target, tuner
        self.rows: list[Mapping[str, Any]] = []
        self.trials: list[tuners.Trial] = []
        self.first = 0
        self.best: Mapping[str, Any] | None = None
        self._known = known or {}
        self._identity = target.identity()
        self._stage = -1
        self._states: dict[int, State] = {}
        self._left_at: dict[int, float] = {}  # config_id -> budget of its last state

    def ask(self) -> bool:
        """Get the next stage from the tuner; False if there is none.

        Raises:
          UsageError: if the table has other trials in its place.
        """
        self.trials = self.tuner.ask()
        self._stage += 1
        if not self._stage:
            self.first = len(self.trials)
        for number, trial in enumerate(self.trials, len(self.rows)):
            row, head = self._known.get(number), self._head(number, trial)
            if row and any(
                identity.canonical(row.get(name)) != identity.canonical(value)
                for name, value in head.items()
            ):
                raise UsageError(
                    f"{results.TRIALS}: trial {number} of {self.target.name} is not "
                    f"what {self.target.tuner} asks for now; was it changed, or made "
                    "by another version? Choose another --workdir"
                )
        return bool(self.trials)

    def _head(self, number: int, trial: tuners.Trial) -> dict[str, Any]:
        """Fields of a trial's row that are known before training."""
        target = self.target
        return {
            "trial": number,
            "config_id": trial.config_id,
            "stage": self._stage,
            "task": target.run.task,
            "method": target.run.method,
            "hparams": target.hparams(trial),
            "budget": target.budget(trial),
        }

    def jobs(self) -> list[Job]:
        """Jobs of the current stage, those in the table included."""
        return [
            Job(
                self.target,
                self.target.trial_run(trial),
                state=self._states.get(trial.config_id)
                if self._before(trial)
                else None,
                known=number in self._known,
                keep=self._may_resume(trial),
            )
            for number, trial in enumerate(self.trials, len(self.rows))
        ]

    def _may_resume(self, trial: tuners.Trial) -> bool:
        """Whether a promotion of the trial would resume from its last state."""
        most = self.target.problem.max_budget
        return self.target.continuing and trial.budget < most

    def _before(self, trial: tuners.Trial) -> float:
        """The budget of the state that a trial resumes from; 0 where it starts anew."""
        before = self._left_at.get(trial.config_id, 0)
        return before if round(before) < round(trial.budget) else 0

    def tell(self, trained: Mapping[str, Trained]) -> None:
        """Tell the tuner the costs of the current stage.

        Args:
          trained: run_id -> result, of all trials that were not in the table.
        """
        measured = [
            self._measured(number, trial, trained)
            for number, trial in enumerate(self.trials, len(self.rows))
        ]
        finite = [row["cost"] for row in self.rows if row["status"] == "done"]
        finite += [outcome.cost for outcome in measured if not outcome.crashed]
        outcomes = []
        for number, (trial, outcome) in enumerate(
            zip(self.trials, measured, strict=True), len(self.rows)
        ):
            cost, crashed, seconds = outcome.cost, outcome.crashed, outcome.seconds
            if crashed:
                cost = _crash_cost(self.target.diverged, cost, finite)
            outcomes.append(tuners.Outcome(cost, crashed, seconds))
            row = self._row(number, trial, outcomes[-1])
            if row["incumbent"]:
                self.best = row
            self.rows.append(row)
        for trial in filter(self._may_resume, self.trials):
            self._left_at[trial.config_id] = trial.budget
        self.tuner.tell(outcomes)

    def _measured(
        self, number: int, trial: tuners.Trial, trained: Mapping[str, Trained]
    ) -> tuners.Outcome:
        """A trial's outcome as measured, from the table or from training.

        Args:
          number: the trial's number in the search.
          trial: what was asked for.
          trained: run_id -> result, of the trials that were trained now.
        """
        if row := self._known.get(number):
            crashed = row["status"] == "crashed"
            return tuners.Outcome(row["cost"], crashed, row["seconds"])
        result = trained[identity.run_id(self.target.trial_run(trial))]
        if result.state and self._may_resume(trial):
            self._states[trial.config_id] = result.state
        cost = self.target.cost_of(result.values)
        crashed = result.values["diverged_at"] > 0 or not math.isfinite(cost)
        crashed |= not self.target.is_valid(trial)
        return tuners.Outcome(cost, crashed, result.seconds)

    def _row(
        self, number: int, trial: tuners.Trial, outcome: tuners.Outcome
    ) -> dict[str, Any]:
        """A trial's row in the table.

        Args:
          number: the trial's number in the search.
          trial: what was asked for.
          outcome: what was measured.
        """
        target = self.target
        row = self._head(number, trial) | {
            "cost": outcome.cost,
            "status": "crashed" if outcome.crashed else "done",
            "seconds": outcome.seconds,
        }
        return row | {
            "incumbent": self._improves(row),
            "unit": target.unit,
            "max_budget": target.problem.max_budget,
            "trained": target.trained(trial.budget, self._before(trial)),
            "tuned_by": target.cost,
            "protocol": target.run.protocol,
            "tuner": target.tuner,
            "seed": target.seed,
            "tuning": self._identity,
        }

    def _improves(self, row: Mapping[str, Any]) -> bool:
        """Whether a trial is the best at the largest budget so far."""
        if row["status"] != "done":
            return False
        best = self.best
        return not best or (-row["budget"], row["cost"]) < (
            -best["budget"],
            best["cost"],
        )

    def _setting(self, row: Mapping[str, Any]) -> str:
        """A trial's tuned hyperparameters as text."""
        return ", ".join(
            f"{name} {row['hparams'][name]:.5g}"
            for name in self.target.problem.space.ranges
        )

    def progress(self) -> str:
        """A line on the trials done and the best so far."""
        best = "all diverged"
        if self.best:
            cost = self.target.cost_text(self.best["cost"])
            best = f"best {cost}, {self._setting(self.best)}"
        trials = f"trial {len(self.rows)} of {self.target.problem.trials}"
        return f"{self.target.name}: {trials}, {best}"

    def summary(self) -> str:
        """A line on the best setting of the whole search."""
        if not self.best:
            trials = counted(len(self.rows), "trial")
            return f"{self.target.name}: all of {trials} diverged"
        budget = counted(self.best["budget"], self.target.unit.removesuffix("s"))
        return (
            f"{self.target.label} on {self.target.run.task}: "
            f"{self._setting(self.best)} "
            f"({self.target.cost_text(self.best['cost'])} at {budget}), best of "
            f"{counted(len(self.rows), 'trial')}"
        )


def _crash_cost(rule: str | float, measured: float, finite: Sequence[float]) -> float:
    """Cost of a trial that diverged, by the rule of `protocol.Tuning.diverged`.

    Args:
      rule: 'twice the worst', 'as measured', or the cost itself.
      measured: the trial's own cost.
      finite: costs of the trials so far that did not diverge.
    """
    if rule == "twice the worst":
        return 2 * max([abs(cost) for cost in finite], default=1.0)
    return measured if rule == "as measured" else float(rule)


def planned(search: Search) -> list[tuple[tuners.Stage, float]]:
    """Planned stages of a search with their costs in full runs, after its first `ask`.

    Costs are those of `Target.trained`.
    """
    target = search.target
    return [
        (
            stage,
            stage.trials
            * target.trained(stage.budget, stage.budget - stage.trained)
            / target.problem.max_budget,
        )
        for stage in search.tuner.plan(search.first)
    ]


def plan_lines(search: Search) -> list[str]:
    """A search's plan as lines of text: stages, trials, budgets, cost in full runs."""
    target, problem = search.target, search.target.problem
    stages = planned(search)
    budgets = counted(problem.max_budget, target.unit.removesuffix("s"))
    least = min(round(stage.budget) for stage, _ in stages)
    if least < problem.max_budget:
        begin = "resume from their states" if target.continuing else "start anew"
        budgets = f"{least} to {budgets}; promoted ones {begin}"
    row = "{:>7}{:>8}{:>8}{:>11}".format
    return [
        f"{target.label} on {target.run.task}: {counted(problem.trials, 'trial')} "
        f"of {budgets}",
        row("stage", "trials", target.unit, "full runs"),
        *(
            row(number, stage.trials, round(stage.budget), f"{cost:.1f}")
            for number, (stage, cost) in enumerate(stages)
        ),
        row(
            "in all",
            sum(stage.trials for stage, _ in stages),
            "",
            f"{sum(cost for _, cost in stages):.1f}",
        ),
    ]
