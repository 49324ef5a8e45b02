"""A full run that a race asks for."""

from __future__ import annotations

import io
import math
import numbers
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lrjax.hpo.points import Scale
from lrjax.messages import UsageError, counted, cut, shown
from lrjax.race import lock, torch_forms
from lrjax.race import log as log_lib
from lrjax.race.contenders import Contender

_ROUNDING = 1e-3  # by which a mean of shares may pass its bounds


class Job:
    """A training to do: a method with its hyperparameters, from a step to another.

    It is this process's until it is told or has failed; if the process ends before, the
    race gives it out again. As a context manager it is given back at the end.

    Attributes:
      number: of the job, from 0.
      method: name of the method.
      hyperparameters: its hyperparameters by name.
      seed: of this run; the first of each contender is 0.
      fold: number of the division into training and validation rows, below the race's
        `folds`.
      start, stop: the steps to train; `start` is above 0 if an earlier attempt saved
        its state (`saved`) and `checkpoint` is still there.
      folder: a folder of this job's own, kept between attempts.
      checkpoint: a path in `folder` at which to save the state, file or folder.
      label: the contender's name: 'adam (learning_rate=0.01)'.
      metric: name of the value that the race ranks by.
      claim: the locked file that says that the job is taken. A process that inherits
        it (`pass_fds` of `subprocess`) keeps the job taken as long as it lives.
    """

    def __init__(
        self,
        number: int,
        contender: Contender,
        methods: Iterable[str],
        run: tuple[int, int],
        steps: tuple[int, int],
        metric: str,
        scale: Scale,
        log: log_lib.Log,
        claim: io.FileIO,
        done: Callable[[], Any],
    ):
        """Take a job; `Race.ask` makes them.

        Args:
          number: of the job.
          contender: who trains.
          methods: of all contenders of the race.
          run: seed and fold.
          steps: start and stop.
          metric, scale: name and bounds of what must be told.
          log: of the race.
          claim: the lock that says that the job is this process's.
          done: called when the job is over.
        """
        self.number = number
        self.method = contender.method
        self.hyperparameters = dict(contender.hyperparameters)
        self.seed, self.fold = run
        self.start, self.stop = steps
        self.folder = folder_of(log.folder, number)
        self.checkpoint = checkpoint_of(log.folder, number)
        self.label, self.metric, self.claim = contender.label, metric, claim
        self._scale, self._log, self._done = scale, log, done
        self._methods = tuple(methods)
        self._began, self._pid = time.monotonic(), os.getpid()

    def __repr__(self) -> str:
        steps = f"steps {self.start} to {self.stop}"
        return f"<job {self.number}: {self.label}, seed {self.seed}, {steps}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.give_back()

    @property
    def over(self) -> bool:
        """Whether the job was told, has failed or was given back."""
        return self.claim.closed

    @property
    def learning_rate(self) -> float:
        """The hyperparameter of that name.

        Raises:
          UsageError: if the method has none.
        """
        rate = self.hyperparameters.get("learning_rate")
        if rate is None:
            raise UsageError(f"{self.method} has no learning_rate")
        return float(rate)

    def tell(self, /, **values: float) -> None:
        """End the job with what the trained model reached on the validation rows.

        Args:
          values: by name, the race's metric among them. If that is NaN or infinite,
            the run counts as diverged; None is refused, since it comes from a function
            that returns nothing.

        Raises:
          UsageError: if the metric is missing, a value is not a number, or the job is
            over.
        """
        if values.get(self.metric, 0.0) is None:
            raise UsageError(
                f"job {self.number}: {self.metric} must be a number, not None; "
                "NaN says that the run diverged"
            )
        self._end(log_lib.TOLD, values=self.checked(values))

    def checked(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Check values as `tell` does, without ending the job.

        Args:
          values: as for `tell`.

        Raises:
          UsageError: if the metric is missing, or a value is not a number.
        """
        numbers = self._numbers(values)
        if self.metric not in numbers:
            names = ", ".join(numbers) or "nothing"
            raise UsageError(
                f"job {self.number}: the race ranks by '{self.metric}', but was told "
                f"{names}; tell it, or begin a race with metric='...'"
            )
        value, (_, low, high) = numbers[self.metric], self._scale
        if math.isfinite(value):
            bounded = min(max(value, low), high)
            if abs(value - bounded) > _ROUNDING:
                raise UsageError(
                    f"job {self.number}: {self.metric} is from {low:g} to {high:g}, "
                    f"not {value:g}; tell a share, not per cent"
                )
            numbers[self.metric] = bounded
        return numbers

    def failed(self, reason: str = "diverged") -> None:
        """End the job without a result; its contender counts as lost.

        Args:
          reason: for people.

        Raises:
          UsageError: if the job is over.
        """
        self._end(log_lib.FAILED, reason=str(reason))

    def report(self, step: int, /, **values: float) -> None:
        """Note what was measured on the way, for curves; decides nothing.

        Args:
          step: updates made.
          values: by name.

        Raises:
          UsageError: if a value is not a number, the step is not from 0 to `stop`, or
            the job is over.
        """
        self._note(log_lib.REACHED, step=self._step(step), values=self._numbers(values))

    def saved(self, step: int) -> None:
        """Note that the state after `step` updates is at `checkpoint`.

        If this process is killed, the next one gets the job with `start=step`.

        Raises:
          UsageError: if nothing is at `checkpoint`, the step is not from 0 to `stop`,
            or the job is over.
        """
        if not self.checkpoint.exists():
            raise UsageError(f"job {self.number}: there is no {self.checkpoint}")
        self._note(log_lib.SAVED, step=self._step(step))

    def give_back(self) -> None:
        """Leave the job to others, or to a later call, unless it is over.

        A process that was forked while the job was taken leaves it to the one that took
        it.
        """
        if os.getpid() == self._pid:
            self._release()
        else:
            self.claim.close()

    def _release(self) -> None:
        """Give the lock back, unless that was done."""
        if not self.over:
            lock.release(self.claim)
            self._done()

    def torch(self, params: Any) -> tuple[Any, Any]:
        """PyTorch's optimiser and schedule that the method means.

        Call `scheduler.step()` after every `optimizer.step()`. Schedule-free
        optimisers also need `optimizer.train()` before training and
        `optimizer.eval()` before evaluation.

        Args:
          params: as for `torch.optim.Optimizer`: tensors, or groups of them.

        Returns:
          the optimiser, and a `torch.optim.lr_scheduler.LambdaLR` for all `stop` steps
          that stands at step 0; load both from your checkpoint if `start` is above 0.

        Raises:
          UsageError: if the method has no form in PyTorch, or a package of any method
            of the race is missing.
        """
        torch_forms.check_packages(self._methods)
        return torch_forms.build(self.method, self.hyperparameters, params, self.stop)

    def _end(self, event: str, **fields: Any) -> None:
        """Note the end, and release the job."""
        self._note(event, **fields, seconds=round(time.monotonic() - self._began, 3))
        self._release()

    def _note(self, event: str, **fields: Any) -> None:
        """Append an event of this job."""
        if self.over:
            raise UsageError(f"job {self.number} is over, or was given back")
        with self._log.alone():
            self._log.append(event, job=self.number, **fields)

    def _step(self, step: int) -> int:
        """A step of this job."""
        whole = isinstance(step, numbers.Integral) and not isinstance(step, bool)
        if not whole or not 0 <= step <= self.stop:
            raise UsageError(
                f"job {self.number}: a step is a whole number from 0 to {self.stop}, "
                f"not {shown(step)}"
            )
        return int(step)

    def _numbers(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Values as Python's numbers, those of NumPy, JAX and PyTorch, too."""
        found = {}
        for name, value in values.items():
            try:
                found[name] = math.nan if value is None else _number(value)
            except (TypeError, ValueError, OverflowError):
                raise UsageError(
                    f"job {self.number}: {name} must be a number, not {shown(value)}"
                ) from None
        return found


def _number(value: Any) -> float:
    """A scalar as a float; text that `float` would read is none."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if isinstance(value, str | bytes | bytearray) or kind in ("S", "U", "T"):
        raise TypeError
    return float(value)


def folder_of(folder: Path, number: int) -> Path:
    """The folder of a job of the race in `folder`."""
    return folder / "jobs" / f"{number:04d}"


def checkpoint_of(folder: Path, number: int) -> Path:
    """Path at which a job of the race in `folder` saves its state."""
    return folder_of(folder, number) / "checkpoint"


def describe_lost(reasons: Mapping[int, str]) -> str:
    """Why jobs were lost, for a message: 'job 0 diverged, job 1 exit code 1, ...'."""
    shown = [f"job {number}: {cut(reason)}" for number, reason in reasons.items()][:3]
    more = len(reasons) - len(shown)
    return "; ".join(shown) + (f"; and {counted(more, 'other')}" if more else "")
