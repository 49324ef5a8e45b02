"""What races found: the answers of `--mode=select` as a section of the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lrjax import results
from lrjax.common.reading import reading
from lrjax.core import (
    Metric,
    UsageError,
    find_metric,
    shown,
)
from lrjax.reports import searches
from lrjax.reports.page import Section
from lrjax.reports.writer import ReportWriter

ANSWER, FIGURES = "selection.json", ("png", "svg")  # the answers, drawn as selection.*
_NUMBERS = ("score", "cost", "budget")


def read(workdirs: Sequence[str | Path]) -> list[dict[str, Any]]:
    """The answers of races in some working directories, in order; none is no error.

    Raises:
      UsageError: if a file is damaged.
    """
    answers = []
    for workdir in workdirs:
        path = Path(workdir) / ANSWER
        if not path.exists():
            continue
        with reading(f"{path} is damaged", ""):
            answers += checked(json.loads(path.read_bytes()))
    return answers


def checked(content: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The content of selection.json, its numbers as such."""
    return [_checked(each) for each in content]


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
        "metric": _metric(answer),
        **{name: _number(answer[name]) for name in _NUMBERS},
        **{name: _count(answer[name]) for name in ("horizon", "judged_at")},
        "low": low,
        "high": high,
        "seeds": len(answer["seeds"]),
        "runner_up": _text(answer["runner_up"]),
        "runner_up_better": _number(answer["runner_up_better"]),
        "judged": judged,
    }


def _metric(answer: Mapping[str, Any]) -> Metric:
    """What an answer is judged by; answers of earlier versions have its name alone."""
    try:
        if "scale" in answer:
            return results.metric_from(answer["scale"])
        return find_metric(_text(answer["metric"]))
    except UsageError as error:  # which file it is in is said by others
        raise ValueError(str(error)) from error


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


def section(answers: Sequence[Mapping[str, Any]], writer: ReportWriter) -> Section:
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
            "judged_at": each["judged_at"],
            "horizon": each["horizon"],
        }
        for each in answers
    )
    reads = (
        "Each line a contender, from rung to rung as far as it came, mean over seeds, "
        "a star the winner; "
        "schedules that fall towards the horizon were brought to rest before they were "
        "judged. Winners were chosen by these very numbers, which flatter them a "
        "little. The interval is of the mean over seeds, and the probability that the "
        "runner-up is better comes from paired differences."
    )
    return writer.section(
        "selection",
        "Selection",
        "; ".join(map(sentence, answers)) + ".",
        reads,
        table,
        draw(writer.plt, answers),
    )


def draw(plt: Any, answers: Sequence[Mapping[str, Any]]) -> searches.Drawn:
    """How contenders fell away, a panel per task."""
    return searches.races(
        plt,
        [
            {
                "task": answer["task"],
                "winner": answer["winner"],
                "label": f"validation {answer['metric']}",
                "better": answer["metric"].sign,
                "judged": answer["judged"],
            }
            for answer in answers
        ],
    )
