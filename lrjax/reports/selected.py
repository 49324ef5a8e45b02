"""The section of the page on selections, from the answers of `--mode=select`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
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
    shown,
)
from lrjax.reports import searches
from lrjax.reports.page import Section
from lrjax.reports.writer import ReportWriter

ANSWER, FIGURES = "selection.json", ("png", "svg")  # figures are named selection.*
_NUMBERS = ("score", "cost", "budget", "best", "near", "runner_up_better")
_BELIEFS = ("expected", "expected_sd", "now", "now_sd", "best")


def read(
    workdirs: Sequence[str | Path],
    convert: Callable[[Sequence[Mapping[str, Any]]], list[Any]] | None = None,
    name: str = ANSWER,
) -> list[Any]:
    """Read the answers of selections, converted; there may be none.

    Args:
      workdirs: directories that may contain a file of answers.
      convert: called with the content of each file; None: `checked`.
      name: of the file.

    Raises:
      UsageError: if a file is damaged.
    """
    answers = []
    for workdir in workdirs:
        path = Path(workdir) / name
        if not path.exists():
            continue
        with reading(f"{path} is damaged", ""):
            answers += (convert or checked)(json.loads(files.read_own(path)))
    return answers


def checked(content: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The answers in the content of selection.json, as the report uses them.

    Args:
      content: the answers as written by `lrjax.hpo.selection`.

    Returns:
      A dictionary per task: `task`; `how`; `winner`, its method with the learning rate;
      `metric`, a `Metric`; `score`, `low` and `high`, the mean and its interval, NaN
      where nothing was trained; `best` and `near`, probabilities; `runner_up`, or '',
      and `runner_up_better`, a probability; `cost` and `budget`, in full runs;
      `horizon`, in updates; `runs` of the winner; and `judged`, of every contender
      `label`, what is believed (`selection.Judged`), and `behind`.

    Raises:
      ValueError, KeyError, TypeError: if the content is damaged.
    """
    return [_checked(answer) for answer in content]


def as_number(value: Any) -> float:
    """A float; NaN is null in JSON, infinity a string."""
    if value is None:
        return math.nan
    if type(value) not in (int, float) and value not in ("inf", "-inf"):
        raise ValueError(f"{shown(value)} is not a number")
    return float(value)


def as_count(value: Any) -> int:
    """A whole number from 0."""
    if type(value) is not int or not 0 <= value < 2**53:
        raise ValueError(f"{shown(value)} is not a count")
    return value


def as_text(value: Any) -> str:
    """A string that can be written."""
    if type(value) is not str:
        raise ValueError(f"{shown(value)} is not a text")
    return encodable(value)


def _checked(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as the report uses it, its types checked."""
    judged = [
        {
            "label": as_text(result["label"]),
            "behind": [as_number(value) for value in result["behind"]],
            **{name: as_number(result[name]) for name in _BELIEFS},
        }
        for result in answer["judged"]
    ]
    low, high = map(as_number, answer["interval"])
    return {
        "task": as_text(answer["task"]),
        "how": as_text(answer["how"]),
        "winner": as_text(answer["label"]),
        "metric": _metric(answer),
        **{name: as_number(answer[name]) for name in _NUMBERS},
        "horizon": as_count(answer["horizon"]),
        "low": low,
        "high": high,
        "runs": len(answer["values"]),
        "runner_up": as_text(answer["runner_up"]),
        "judged": judged,
    }


def _metric(answer: Mapping[str, Any]) -> Metric:
    """The metric of an answer."""
    try:
        return results.metric_from(answer["scale"])
    except UsageError as error:  # the caller names the file
        raise ValueError(str(error)) from error


def sentence(answer: Mapping[str, Any]) -> str:
    """Winner, score, probability and cost of a selection in a sentence.

    Args:
      answer: one of those that `checked` returns.
    """
    metric, low, high = answer["metric"], answer["low"], answer["high"]
    text = f"{answer['winner']} on {answer['task']}"
    if not math.isnan(answer["score"]):
        text += f", validation {metric} {metric.text(answer['score'])}"
    if not math.isnan(low):
        text += f" ({metric.shown(low)} to {metric.shown(high)})"
    text += f", the best with probability {answer['best']:.2f}"
    if answer["runner_up"]:
        text += f", before {answer['runner_up']}"
    return f"{text}, for {answer['cost']:.1f} full runs"


def section(answers: Sequence[Mapping[str, Any]], writer: ReportWriter) -> Section:
    """The section on selections: winners, their cost, and a figure of beliefs.

    Args:
      answers: as returned by `checked`.
      writer: writes the section's files.
    """
    table = pd.DataFrame(
        {
            "task": answer["task"],
            "winner": answer["winner"],
            "how": answer["how"],
            "metric": answer["metric"].name,
            "score": answer["score"],
            "low": answer["low"],
            "high": answer["high"],
            "runs": answer["runs"],
            "best": answer["best"],
            "near": answer["near"],
            "runner_up": answer["runner_up"],
            "runner_up_better": answer["runner_up_better"],
            "full_runs": answer["cost"],
            "budget": answer["budget"],
            "contenders": len(answer["judged"]),
            "horizon": answer["horizon"],
        }
        for answer in answers
    )
    how_to_read = (
        "Each row a contender, in points behind the best there is (of accuracy, one "
        "per cent of the rows; of a loss, two per cent of its value): grey what known "
        "tasks say of it, ticks its runs behind the best run on the same rows, a cross "
        "at the edge a run that was lost, and in colour what is believed now, each "
        "with a standard deviation; a star the winner. Scores of winners are a little "
        "too good, since they were chosen by these very numbers; beliefs are not."
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
    """Figure of what is believed of the leading contenders, a panel per task.

    Args:
      plt: as given by `drawing.style`.
      answers: as returned by `checked`.
    """
    return searches.beliefs(
        plt,
        [
            {"task": a["task"], "winner": a["winner"], "judged": a["judged"]}
            for a in answers
        ],
    )
