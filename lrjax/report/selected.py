"""What races found: the answers of `--mode=select` as a section of the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lrjax.reading import reading, shown
from lrjax.report import drawing
from lrjax.report.desk import Desk
from lrjax.report.page import Section, interval

_ANSWER = "selection.json"
_NAMED = 6  # contenders that a panel tells apart
_NUMBERS = ("score", "cost", "budget")


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
        with reading(f"{path} is damaged", ""):
            answers += [_checked(each) for each in json.loads(path.read_bytes())]
    return answers


def _number(value: Any) -> float:
    """NaN is null in JSON, infinity a word."""
    if value is None:
        return math.nan
    if type(value) not in (int, float) and value not in ("inf", "-inf"):
        raise ValueError(f"{shown(value)} is no number")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"{shown(value)} is no count")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{shown(value)} is no text")
    return value


def _checked(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer whose numbers are numbers and whose names are text."""
    judged = [
        {
            "label": _text(each["label"]),
            "steps": _count(each["steps"]),
            "value": sum(map(_number, each["values"])) / len(each["values"]),
        }
        for each in answer["judged"]
    ]
    low, high = map(_number, answer["interval"])
    return {
        "task": _text(answer["task"]),
        "winner": _text(answer.get("label", answer["method"])),
        "metric": _text(answer["metric"]),
        **{name: _number(answer[name]) for name in _NUMBERS},
        **{name: _count(answer[name]) for name in ("horizon", "judged_at")},
        "low": low,
        "high": high,
        "seeds": len(answer["seeds"]),
        "runner_up": _text(answer["runner_up"]),
        "runner_up_better": _number(answer["runner_up_better"]),
        "judged": judged,
    }


def sentence(answer: Mapping[str, Any]) -> str:
    """What was found on a task."""
    found = (
        f"{answer['winner']} on {answer['task']}, validation {answer['metric']} "
        f"{answer['score']:.4g}{interval(answer['low'], answer['high'])}"
    )
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
            "metric": each["metric"],
            "score": each["score"],
            "low": each["low"],
            "high": each["high"],
            "seeds": each["seeds"],
            "runner_up": each["runner_up"],
            "runner_up_better": each["runner_up_better"],
            "full_runs": each["cost"],
            "budget": each["budget"],
            "contenders": len({one["label"] for one in each["judged"]}),
            "judged_at": each["judged_at"],
            "horizon": each["horizon"],
        }
        for each in answers
    )
    reads = (
        "Each line a contender, from rung to rung as far as it came, mean over seeds; "
        "schedules that fall towards the horizon were brought to rest before they were "
        "judged. Winners were chosen by these very numbers, which flatter them a "
        "little. The interval is Student's over seeds, and the probability that the "
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
    sign = 1 if answer["metric"] == "accuracy" else -1
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
