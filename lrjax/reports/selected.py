"""The section of the page on races, from the answers of `--mode=select`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lrjax import results
from lrjax.common import files
from lrjax.common.reading import reading
from lrjax.core import (
    Metric,
    UsageError,
    encodable,
    find_metric,
    shown,
)
from lrjax.reports import searches
from lrjax.reports.page import Section
from lrjax.reports.writer import ReportWriter

ANSWER, FIGURES = "selection.json", ("png", "svg")  # figures are named selection.*
_NUMBERS = ("score", "cost", "budget")


def read(workdirs: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Read the answers of races, as returned by `checked`; there may be none.

    Args:
      workdirs: directories that may contain a selection.json.

    Raises:
      UsageError: if a file is damaged.
    """
    answers = []
    for workdir in workdirs:
        path = Path(workdir) / ANSWER
        if not path.exists():
            continue
        with reading(f"{path} is damaged", ""):
            answers += checked(json.loads(files.read_own(path)))
    return answers


def checked(content: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The answers in the content of selection.json, as the report uses them.

    Args:
      content: the answers as written by `lrjax.hpo.selection`.

    Returns:
      A dictionary per task: `task`; `winner`, its method with the learning rate;
      `metric`, a `Metric`; `score`, `low` and `high`, the mean and its interval;
      `runner_up`, or '', and `runner_up_better`, a probability; `cost` and `budget`, in
      full runs; `horizon` and `judged_at`, in updates; `seeds`, their number; and
      `judged`, a list of `label`, `steps` and `value` of every contender on every rung.

    Raises:
      ValueError, KeyError, TypeError: if the content is damaged.
    """
    return [_checked(answer) for answer in content]


def _number(value: Any) -> float:
    """A float; NaN is null in JSON, infinity a string."""
    if value is None:
        return math.nan
    if type(value) not in (int, float) and value not in ("inf", "-inf"):
        raise ValueError(f"{shown(value)} is not a number")
    return float(value)


def _count(value: Any) -> int:
    """A whole number from 0."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"{shown(value)} is not a count")
    return value


def _text(value: Any) -> str:
    """A string that can be written."""
    if type(value) is not str:
        raise ValueError(f"{shown(value)} is not a text")
    return encodable(value)


def _checked(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as the report uses it, its types checked."""
    judged = [
        {
            "label": _text(result["label"]),
            "steps": _count(result["steps"]),
            "value": sum(map(_number, result["values"])) / len(result["values"]),
        }
        for result in answer["judged"]
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
    """The metric of an answer; answers of earlier versions hold only its name."""
    try:
        if "scale" in answer:
            return results.metric_from(answer["scale"])
        return find_metric(_text(answer["metric"]))
    except UsageError as error:  # the caller names the file
        raise ValueError(str(error)) from error


def sentence(answer: Mapping[str, Any]) -> str:
    """Winner, score, runner-up and cost of a race in a sentence.

    Args:
      answer: one of those that `checked` returns.
    """
    metric, low, high = answer["metric"], answer["low"], answer["high"]
    text = (
        f"{answer['winner']} on {answer['task']}, validation {metric} "
        f"{metric.text(answer['score'])}"
    )
    if not math.isnan(low):
        text += f" ({metric.shown(low)} to {metric.shown(high)})"
    if answer["runner_up"]:
        text += f", before {answer['runner_up']}"
    if not math.isnan(answer["runner_up_better"]):
        text += f", better with probability {answer['runner_up_better']:.2f}"
    return f"{text}, for {answer['cost']:.1f} full runs"


def section(answers: Sequence[Mapping[str, Any]], writer: ReportWriter) -> Section:
    """The section on races: winners, their cost, and a figure of the rungs.

    Args:
      answers: as returned by `checked`.
      writer: writes the section's files.
    """
    table = pd.DataFrame(
        {
            "task": answer["task"],
            "winner": answer["winner"],
            "metric": answer["metric"].name,
            "score": answer["score"],
            "low": answer["low"],
            "high": answer["high"],
            "seeds": answer["seeds"],
            "runner_up": answer["runner_up"],
            "runner_up_better": answer["runner_up_better"],
            "full_runs": answer["cost"],
            "budget": answer["budget"],
            "contenders": len({result["label"] for result in answer["judged"]}),
            "judged_at": answer["judged_at"],
            "horizon": answer["horizon"],
        }
        for answer in answers
    )
    how_to_read = (
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
        how_to_read,
        table,
        draw(writer.plt, answers),
    )


def draw(plt: Any, answers: Sequence[Mapping[str, Any]]) -> searches.Drawn:
    """Figure of the contenders' scores on each rung, a panel per task.

    Args:
      plt: as given by `drawing.style`.
      answers: as returned by `checked`.
    """
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
