"""What races found: the answers of `--mode=select` as a section of the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lrjax import results
from lrjax.core import Metric, UsageError, find_metric
from lrjax.report import drawing
from lrjax.report.desk import Desk
from lrjax.report.page import Section

_ANSWER = "selection.json"
_NAMED = 6  # contenders that a panel tells apart
_NUMBERS = ("score", "cost", "budget", "horizon", "judged_at")


def read(workdirs: Sequence[str | Path]) -> list[dict[str, Any]]:
    """The answers of races in some working directories, in order; none is no error.

    Raises:
      UsageError: if a file is damaged.
    """
    answers = []
    for workdir in workdirs:
        path = Path(workdir) / _ANSWER
        if not path.exists():
            continue
        try:
            answers += [_checked(each) for each in json.loads(path.read_bytes())]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is damaged") from error
    return answers


def _checked(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with its numbers as such; NaN is null in JSON, infinity a word."""

    def number(value: Any) -> float:
        return math.nan if value is None else float(value)

    judged = [
        {
            "label": str(each["label"]),
            "steps": int(each["steps"]),
            "value": sum(map(number, each["values"])) / len(each["values"]),
        }
        for each in answer["judged"]
    ]
    low, high = map(number, answer["interval"])
    return {
        "task": str(answer["task"]),
        "winner": str(answer.get("label", answer["method"])),
        "metric": _metric(answer),
        **{name: number(answer[name]) for name in _NUMBERS},
        "low": low,
        "high": high,
        "seeds": len(answer["seeds"]),
        "runner_up": str(answer["runner_up"]),
        "runner_up_better": number(answer["runner_up_better"]),
        "judged": judged,
    }


def _metric(answer: Mapping[str, Any]) -> Metric:
    """What an answer is judged by; answers of earlier versions have its name alone."""
    if "scale" in answer:
        return results.metric_from(answer["scale"])
    return find_metric(answer["metric"])


def sentence(answer: Mapping[str, Any]) -> str:
    """What was found on a task."""
    metric, low, high = answer["metric"], answer["low"], answer["high"]
    found = (
        f"{answer['winner']} on {answer['task']}, validation {metric} "
        f"{metric.text(answer['score'])}"
    )
    if not math.isnan(low):
        found += f" ({metric.shown(low)} to {metric.shown(high)})"
    if answer["runner_up"]:
        found += f", before {answer['runner_up']}"
    if not math.isnan(answer["runner_up_better"]):
        found += f", better with probability {answer['runner_up_better']:.2f}"
    return f"{found}, for {answer['cost']:.1f} full runs"


def section(answers: Sequence[Mapping[str, Any]], desk: Desk) -> Section:
    """Winners with what selecting them has cost, and how contenders fell away."""
    table = pd.DataFrame(
        {
            "task": each["task"],
            "winner": each["winner"],
            "metric": each["metric"].name,
            "score": each["score"],
            "low": each["low"],
            "high": each["high"],
            "seeds": each["seeds"],
            "runner_up": each["runner_up"],
            "runner_up_better": each["runner_up_better"],
            "full_runs": each["cost"],
            "budget": each["budget"],
            "contenders": len({one["label"] for one in each["judged"]}),
            "judged_at": int(each["judged_at"]),
            "horizon": int(each["horizon"]),
        }
        for each in answers
    )
    reads = (
        "Each line a contender, from rung to rung as far as it came, mean over seeds; "
        "schedules that fall towards the horizon were brought to rest before they were "
        "judged. Winners were chosen by these very numbers, which flatter them a "
        "little. The interval is of the mean over seeds, and the probability that the "
        "runner-up is better comes from paired differences."
    )
    return desk.section(
        "selection",
        "Selection",
        "; ".join(map(sentence, answers)) + ".",
        reads,
        table,
        _draw(desk.plt, answers),
    )


def _draw(plt: Any, answers: Sequence[Mapping[str, Any]]) -> tuple[Any, list[Any]]:
    """A panel per task; no values under the mouse, contenders are no entries."""
    figure, axes = drawing.panels(plt, len(answers), 4.6, 2.6, columns=1)
    for axis, answer in zip(axes, answers, strict=True):
        _panel(axis, answer)
    return figure, []


def _panel(axis: Any, answer: Mapping[str, Any]) -> None:
    sign = answer["metric"].sign
    lines: dict[str, list[tuple[int, float]]] = {}
    for each in answer["judged"]:
        if math.isfinite(each["value"]):
            lines.setdefault(each["label"], []).append((each["steps"], each["value"]))

    def place(label: str) -> tuple[bool, int, float]:
        """The winner first, then who came furthest, then who was best there."""
        steps, value = lines[label][-1]
        return label != answer["winner"], -steps, -sign * value

    order = sorted(lines, key=place)
    for number, label in enumerate(order):
        named = number < _NAMED
        axis.plot(
            *zip(*lines[label], strict=True),
            marker="o",
            markersize=3 if named else 2,
            linewidth=1.6 if named else 0.8,
            color=list(drawing.COLOURS)[number] if named else drawing.FAINT,
            zorder=20 - number if named else 1,
            label=label if named else None,
        )
    if len(order) > _NAMED:
        rest = f"{len(order) - _NAMED} others"
        axis.plot([], [], color=drawing.FAINT, linewidth=0.8, label=rest)
    rungs = sorted({each["steps"] for each in answer["judged"]})
    axis.set_xscale("log")
    axis.set_xticks(rungs, [f"{steps:,}" for steps in rungs])
    axis.minorticks_off()
    axis.set(
        title=drawing.brief(answer["task"]),
        xlabel="updates",
        ylabel=f"validation {answer['metric']}",
    )
    # Room to the right: browsers have other fonts than the one that was measured.
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1.05), fontsize=7.5, borderpad=2)
