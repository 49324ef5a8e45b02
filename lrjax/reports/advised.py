"""The section of the page on advice, from the answers of `--mode=advise`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lrjax.reports import selected
from lrjax.reports.page import Section
from lrjax.reports.writer import ReportWriter

ANSWER = "advice.json"


def read(workdirs: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Read the advice in some directories, as the report uses it; there may be none.

    Returns:
      A dictionary per task: `task`, `metric`, `recipes`, `spend`, `cost`, `unlike`,
      `novelty` (NaN if nobody looked at the task), `updates` of the short runs and
      `horizon`.

    Raises:
      UsageError: if a file is damaged.
    """
    return selected.read(
        workdirs, lambda found: [_checked(each) for each in found], ANSWER
    )


def _checked(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Advice with its types checked."""
    recipes = [
        {
            "label": selected.as_text(each["label"]),
            "best": selected.as_number(each["best"]),
            "near": selected.as_number(each["near"]),
        }
        for each in answer["recipes"]
    ]
    if not recipes:
        raise ValueError("there are no recipes")
    return {
        "task": selected.as_text(answer["task"]),
        "metric": selected.as_text(answer["metric"]),
        "recipes": recipes,
        **{name: selected.as_number(answer[name]) for name in ("spend", "cost")},
        "novelty": math.nan
        if answer["described"] is None
        else selected.as_number(answer["novelty"]),
        "unlike": answer["unlike"] is True,
        "updates": selected.as_count(answer["updates"]),
        "horizon": selected.as_count(answer["horizon"]),
    }


def sentence(answer: Mapping[str, Any]) -> str:
    """The recipes and the cost of advice in a sentence.

    Args:
      answer: one of those that `read` returns.
    """
    first, *others = (each["label"] for each in answer["recipes"])
    text = f"{first} for a full run on {answer['task']}, by {answer['metric']}"
    if others:
        text += f", or {' or '.join(others)}"
    text += f"; it cost {100 * answer['cost']:.2g} % of one"
    if answer["unlike"]:
        text += ", and no known task is like this one"
    return text


def section(answers: Sequence[Mapping[str, Any]], writer: ReportWriter) -> Section:
    """The section on advice: a row per recipe, the one most is expected of first.

    Args:
      answers: as returned by `read`.
      writer: writes the section's files.
    """
    table = pd.DataFrame(
        {
            "task": answer["task"],
            "metric": answer["metric"],
            "recipe": number,
            "train_with": recipe["label"],
            "best": recipe["best"],
            "near": recipe["near"],
            "distance": answer["novelty"],
            "short_updates": answer["updates"],
            "horizon": answer["horizon"],
            "cost": answer["cost"],
            "spend": answer["spend"],
        }
        for answer in answers
        for number, recipe in enumerate(answer["recipes"], 1)
    )
    how_to_read = (
        "Methods come from full runs on known tasks; short runs only say at which "
        "rate. `best` is the probability of being the best recipe of the task, `near` "
        "that of being within half a point of the best of all methods; empty where "
        "such probabilities cannot be trusted. `distance` is 0 where many known tasks "
        "are alike, 1 where none is, and empty where nobody looked at the task; `cost` "
        "and `spend` are shares of a full run."
    )
    return writer.section(
        "advice",
        "Advice",
        "; ".join(map(sentence, answers)) + ".",
        how_to_read,
        table,
    )
