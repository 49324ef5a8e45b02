"""The answer of a race: what won, how sure that is, and how to train with it."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from lrjax import results
from lrjax.core import Method, UsageError, counted

ANSWER, TABLE, FIGURES = "selection.json", "selection.csv", ("png", "svg")
_NAMED = 8  # contenders that a figure tells apart


@dataclasses.dataclass(frozen=True)
class Judged:
    """A contender on a rung.

    Attributes:
      rung: its number, from 0.
      steps: updates after which all were compared.
      label: method, and rate where it needs one.
      cooled: whether it was judged by a branch that came to rest.
      values: the metric on the validation part, one per seed; not finite where the
        run diverged.
      verdict: 'goes on', or why it was dropped.
    """

    rung: int
    steps: int
    label: str
    cooled: bool
    values: tuple[float, ...]
    verdict: str


@dataclasses.dataclass(frozen=True)
class Selection:
    """What a race found; print it.

    Attributes:
      task: name.
      method, hparams: what won, every hyperparameter.
      label: of what won, as in `judged`: method, and rate where it needs one.
      metric: what the task is judged by, 'accuracy' or 'loss', on its validation part.
      score: mean of the winner over seeds at `judged_at`.
      interval: 95 % Student's t interval of it; NaN with one seed. The winner was
        chosen by these very numbers, so they flatter it a little.
      runner_up: the best other contender on the last rung that had one; '' if none.
      runner_up_better: probability that it is better than the winner, from paired
        differences over seeds on that rung; NaN where two seeds say nothing.
      cost: spent, in full runs.
      budget: what might have been spent.
      seeds: of every contender.
      horizon: updates of a full run.
      judged_at: updates after which the winner was judged for the last time.
      snippet: Python that trains with the winner without lrjax's runs and tables.
      judged: every contender on every rung, the best first.
    """

    task: str
    method: str
    hparams: Mapping[str, Any]
    label: str
    metric: str
    score: float
    interval: tuple[float, float]
    runner_up: str
    runner_up_better: float
    cost: float
    budget: float
    seeds: tuple[int, ...]
    horizon: int
    judged_at: int
    snippet: str
    judged: tuple[Judged, ...]

    def __str__(self) -> str:
        low, high = self.interval
        sure = f"95 % interval {low:.4f} to {high:.4f}, " if low == low else ""
        at = "at the end of training"
        if self.judged_at < self.horizon:
            at = f"after {self.judged_at} of {self.horizon} updates, brought to rest"
        lines = [
            f"{self.task}: {self.label}",
            f"  hyperparameters  {_shown(self.hparams)}",
            f"  validation {self.metric}  {self.score:.4f} ({sure}"
            f"{counted(len(self.seeds), 'seed')}, {at})",
        ]
        if self.runner_up:
            chance = "unknown with so few seeds"
            if not math.isnan(self.runner_up_better):
                chance = f"{100 * self.runner_up_better:.0f} %"
            lines.append(
                f"  runner-up  {self.runner_up}; probability that it is better: "
                f"{chance}"
            )
        lines.append(
            f"  cost  {self.cost:.2f} full runs of {self.horizon} updates "
            f"(budget {self.budget:g})"
        )
        code = textwrap.indent(self.snippet, "    ")
        return "\n".join([*lines, "", "  To train with it:", "", code])


def _shown(hparams: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in hparams.items())


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % Student's t interval of a mean; NaN below two values."""
    if len(values) < 2:
        return math.nan, math.nan
    error = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(values.mean() - error), float(values.mean() + error)


def snippet(method: Method, hparams: Mapping[str, Any], horizon: int) -> str:
    """Python that trains with a method, given `params`, `loss_fn` and `batches`.

    In plain Optax where that is exact. Elsewhere it says that a folder is to be
    copied, which needs JAX and Optax alone.

    Args:
      method: to train with.
      hparams: a value for each of its hyperparameters.
      horizon: updates of a run.
    """
    plain = _plain(method, hparams, horizon)
    code = method.code(hparams, horizon)
    if not plain and not code:
        return (
            f"# {method.name} is your own method: build it with\n"
            f"# {method.name}.build({horizon}, {_arguments(hparams)})"
        )
    if plain:
        return plain + _LOOP
    return (
        f"{_COPY}tx = {code}\n{_LOOP}"
        "params = optim.eval_params(opt_state, params)  # to evaluate and to keep\n"
    )


_COPY = """\
# Optax has no such method, or another one of that name. Copy the folder lrjax/optim
# (with an empty lrjax/__init__.py beside it): it needs JAX and Optax alone.
import jax
import optax
from lrjax import optim
from lrjax.optim import schedules

"""

# `value`, `value_fn` and `grad_fn` are for methods that look at the loss.
_LOOP = """\
tx = optax.with_extra_args_support(tx)
opt_state = tx.init(params)


@jax.jit
def step(params, opt_state, batch):
    loss, grads = jax.value_and_grad(loss_fn)(params, batch)
    updates, opt_state = tx.update(
        grads,
        opt_state,
        params,
        value=loss,
        value_fn=lambda params: loss_fn(params, batch),
        grad_fn=lambda params: jax.grad(loss_fn)(params, batch),
    )
    return optax.apply_updates(params, updates), opt_state, loss


for batch in batches:
    params, opt_state, loss = step(params, opt_state, batch)
"""


def _plain(method: Method, hparams: Mapping[str, Any], horizon: int) -> str:
    """The transformation `tx` in plain Optax; '' where that is not exact."""
    schedule = hparams.get("schedule", "constant")
    if not method.optax or schedule not in ("constant", "cosine"):
        return ""
    peak = hparams["learning_rate"]
    warmup = hparams.get("warmup_fraction", 0.0) * horizon
    if schedule == "constant" and not warmup:
        rate = f"learning_rate = {peak!r}\n"
    else:
        fall = "1.0"
        if schedule == "cosine":
            part = f"jnp.clip((step - {warmup!r}) / {horizon - warmup!r}, 0, 1)"
            fall = f"(1 + jnp.cos(jnp.pi * {part})) / 2"
        rise = f"jnp.minimum(step / {warmup!r}, 1) * " if warmup else ""
        rate = f"\ndef learning_rate(step):\n    return {peak!r} * {rise}{fall}\n\n\n"
    built = method.optax.format(**{k: repr(v) for k, v in hparams.items()})
    head = "import jax\nimport jax.numpy as jnp\nimport optax\n\n"
    return f"{head}{rate}tx = {built}\n"


def _arguments(hparams: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in hparams.items())


def write(answers: Sequence[Selection], tables: results.Tables) -> None:
    """Writes answers as JSON, as a table of all contenders, and as a figure.

    Raises:
      UsageError: if they cannot be written.
    """
    content = [dataclasses.asdict(answer) for answer in answers]
    tables.replace(ANSWER, json.dumps(_finite(content), indent=1) + "\n")
    tables.replace(TABLE, _table(answers))
    _draw(answers, tables.workdir)


def _finite(value: Any) -> Any:
    """JSON has no numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def _table(answers: Sequence[Selection]) -> str:
    import pandas as pd

    return pd.DataFrame(
        {
            "task": answer.task,
            "rung": each.rung + 1,
            "updates": each.steps,
            "contender": each.label,
            "brought_to_rest": each.cooled,
            answer.metric: float(np.mean(each.values)),
            "low": interval(np.array(each.values))[0],
            "high": interval(np.array(each.values))[1],
            "verdict": each.verdict,
        }
        for answer in answers
        for each in answer.judged
    ).to_csv(index=False, float_format="%.6g")


def _draw(answers: Sequence[Selection], folder: Path) -> None:
    """Each contender's score over the rungs that it saw; a panel per task."""
    from matplotlib.figure import Figure

    figure = Figure((8.0, 4.2 * len(answers)), layout="constrained")
    axes = figure.subplots(len(answers), 1, squeeze=False)[:, 0]
    for ax, answer in zip(axes, answers, strict=True):
        _panel(ax, answer)
    for kind in FIGURES:
        path = folder / f"selection.{kind}"
        try:
            figure.savefig(path, dpi=120)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _panel(ax: Any, answer: Selection) -> None:
    lines: dict[str, list[tuple[int, float]]] = {}
    for each in answer.judged:
        value = float(np.mean(each.values))
        if math.isfinite(value):
            lines.setdefault(each.label, []).append((each.steps, value))
    # Who came furthest, and there was best, is drawn last and by name.
    sign = 1 if answer.metric == "accuracy" else -1
    order = sorted(
        lines,
        key=lambda n: (n == answer.label, lines[n][-1][0], sign * lines[n][-1][1]),
        reverse=True,
    )
    for place, label in enumerate(order):
        x, y = zip(*lines[label], strict=True)
        style: dict[str, Any] = {"lw": 0.8, "color": "0.75", "zorder": 1, "ms": 2.5}
        if place < _NAMED:
            style = {"lw": 1.6, "label": label, "zorder": 9 - place, "ms": 3.5}
        ax.plot(x, y, marker="o", **style)
    others = len(order) - _NAMED
    if others > 0:
        ax.plot([], [], color="0.75", lw=0.8, label=f"{others} others")
    ax.set_ylim(*_limits([[v for _, v in lines[n]] for n in order], sign))
    rungs = sorted({each.steps for each in answer.judged})
    ax.set_xscale("log")
    ax.set_xticks(rungs, [str(steps) for steps in rungs])
    ax.minorticks_off()
    ax.set_xlabel("updates at which contenders were compared")
    ax.set_ylabel(f"validation {answer.metric}")
    ax.set_title(f"{answer.task}: {answer.label}, {answer.cost:.1f} full runs")
    ax.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))


def _limits(lines: Sequence[Sequence[float]], sign: int) -> tuple[float, float]:
    """Of the axis: all but the worst of the rest, which would press the best together.

    Args:
      lines: values of contenders, those to be seen first.
      sign: -1 where lower is better.
    """
    named = [sign * v for line in lines[:_NAMED] for v in line]
    rest = sorted(sign * v for line in lines[_NAMED:] for v in line)
    low = min([*named, *rest[len(rest) // 3 :]])
    high = max([*named, *rest])
    margin = 0.05 * (high - low) or 0.01
    ends = sorted((sign * (low - margin), sign * (high + margin)))
    return ends[0], ends[1]
