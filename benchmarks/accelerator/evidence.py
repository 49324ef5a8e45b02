"""How well methods train WRN-16-2 on CIFAR-10, through the configs of experiments.

Where CIFAR-10's files are not there, WRN-10-1 on the digits of scikit-learn is trained
instead, and named. Each item trains for more epochs than the one before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accelerator.core import DEVICE, NotRunError, Numbers, Part, Row

METHODS, SEEDS = ("adam", "dadapt_adam", "prodigy"), 4
EPOCHS = (1, 4, 15, 60, 150, 300)  # the last is the study's
SECONDS = 420.0  # what is expected to take longer is left out
_CIFAR, _DIGITS = "cifar10/wrn16_2", "digits/wrn"


def parts(miniature: bool) -> list[Part]:
    """A part whose items are numbers of epochs."""
    items = ("1/miniature",) if miniature else tuple(map(str, EPOCHS))
    return [Part("evidence", items, compute, judge, proves=False)]


def compute(item: str, folder: Path) -> dict[str, Any]:
    """Final scores of each method, and the task that was trained.

    Raises:
      NotRunError: if it would not fit into the time of a part.
    """
    from lrjax import config as config_lib
    from lrjax import results
    from lrjax.launch import experiment, startup

    epochs, *small = item.split("/")
    task, why = (_DIGITS, "miniature") if small else _task_here()
    before = folder.parent / "seconds.json"
    check_time(before, task, int(epochs))
    config = config_lib.base()
    config.tasks, config.methods = (task,), METHODS[:1] if small else METHODS
    config.seeds, config.epochs = 1 if small else SEEDS, int(epochs)
    config.protocol = "study"
    settings = config_lib.check(config)
    if not small:
        startup.prepare(settings)
    began = time.perf_counter()
    experiment.run(settings, folder)
    seconds = time.perf_counter() - began
    before.write_text(json.dumps({"epochs": int(epochs), "seconds": seconds}))
    runs, _ = results.load(folder)
    scores = {
        method: [float(value) for value in rows["test_accuracy"]]
        for method, rows in runs.groupby("method")
    }
    told = {"task": task, "why": why, "seconds": seconds, "scores": scores}
    return {"told": np.asarray(json.dumps(told))}


def _task_here() -> tuple[str, str]:
    """The task whose data are here, and why it is not the first choice, if so."""
    from lrjax.tasks import DataError, image_data

    try:
        image_data.load("cifar10", None)
    except (DataError, ImportError) as error:
        return _DIGITS, str(error)
    return _CIFAR, ""


def check_time(before: Path, task: str, epochs: int) -> None:
    """Refuse what takes too long, as far as the item before can tell."""
    if not before.exists():
        return
    last = json.loads(before.read_text())
    expected = last["seconds"] * epochs / last["epochs"]
    if expected > SECONDS:
        raise NotRunError(f"{epochs} epochs of {task} would take {expected:.0f} s")


def judge(item: str, sides: Mapping[str, Numbers]) -> list[Row]:
    """A row for each method."""
    told = json.loads(str(sides[DEVICE]["told"]))
    return [
        {
            "task": told["task"],
            "why": told["why"],
            "epochs": int(item.partition("/")[0]),
            "method": method,
            "seeds": len(values),
            "test_accuracy": float(np.mean(values)),
            "lowest": min(values),
            "highest": max(values),
            "seconds": told["seconds"],
        }
        for method, values in told["scores"].items()
    ]
