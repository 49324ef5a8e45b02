"""Converts measurements to rows of the tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lrjax.core import Run, Task
from lrjax.engine.programs import Measurements
from lrjax.engine.train import Program

Values = Mapping[str, np.ndarray]  # name -> [seeds, hparams]


def curve_rows(
    program: Program,
    ids_by_position: Mapping[tuple[int, int], str],
    measured: Measurements,
) -> list[dict[str, Any]]:
    """Rows of curves.jsonl: one per run and measurement, until a run's divergence.

    Args:
      program: program of the block.
      ids_by_position: position in the block -> identity of the run.
      measured: measurements of one segment.
    """
    rows = []
    for i, step in enumerate(measured.steps.tolist()):
        values = {k: v[i] for k, v in measured.values.items()}
        before = step - (step % program.eval_every or program.eval_every)
        for (s, h), run_id in ids_by_position.items():
            if 0 < values["diverged_at"][s, h] <= before:
                continue  # the row of its divergence was written before
            epoch = round(step / program.task.steps_per_epoch, 6)
            row = {"run_id": run_id, "step": step, "epoch": epoch}
            rows.append(row | _scores(program, values, s, h))
    return rows


def head(run: Run, run_id: str, metric: str) -> dict[str, Any]:
    """Fields of a run that are known before it trains, named as in runs.jsonl.

    Args:
      run, run_id: the run.
      metric: name of the metric that ranks the task's runs.
    """
    return {**_fields(run, run_id), "metric": metric}


def run_row(
    run: Run,
    run_id: str,
    program: Program,
    position: tuple[int, int],
    last: Values,
    test: Values,
    seconds: float,
) -> dict[str, Any]:
    """The row of runs.jsonl of a finished run.

    Args:
      run, run_id: the run.
      program: program of its block.
      position: (seed, hparams) in its block.
      last: the block's last measurements.
      test: the block's metrics of the test part.
      seconds: training time of the run.
    """
    s, h = position
    diverged_at = int(last["diverged_at"][s, h])
    scores = _scores(program, last, s, h)
    judged = {
        f"test_{name}": math.nan if diverged_at else number(test[name][s, h])
        for name in program.task.measured
    }
    rate = scores.pop("learning_rate")
    return {
        **_fields(run, run_id),
        "status": "diverged" if diverged_at else "done",
        "diverged_at": diverged_at or None,
        **scores,
        **judged,
        "learning_rate": rate,
        "seconds": round(seconds, 6),
        "examples": _examples(program.task, run),
        "block": f"{program.num_seeds}x{program.num_hparams}",
    }


def _fields(run: Run, run_id: str) -> dict[str, Any]:
    """The first fields of a run's row: what the run is."""
    return {
        "run_id": run_id,
        "task": run.task,
        "protocol": run.protocol,
        "method": run.method,
        "hparams": dict(run.hparams),
        "seed": run.seed,
        "steps": run.steps,
        "horizon": run.horizon,
    }


def _scores(program: Program, values: Values, s: int, h: int) -> dict[str, float]:
    """Metrics of one run on the parts; NaN for a diverged run.

    Args:
      program: gives the task.
      values: 'PART_METRIC' -> [seeds, hparams].
      s, h: position of the run in the block.
    """
    task = program.task
    names = [f"{part}_{n}" for part in ("train", "valid") for n in task.measured]
    names.append("learning_rate")
    names += [name for name in ("mean_batch_loss",) if name in values]
    if task.valid is task.train:  # as under `study`
        names.append("last_batch_loss")
    dead = values["diverged_at"][s, h] > 0
    return {name: math.nan if dead else number(values[name][s, h]) for name in names}


def number(value: Any) -> float:
    """Round to the fewest digits that identify the float32; keep a float64 whole."""
    value = np.asarray(value)
    return float(value) if value.dtype == np.float64 else float(f"{float(value):.9g}")


def _examples(task: Task, run: Run) -> int:
    """Number of rows that a run's updates used."""
    n, batch = task.num_examples, run.batch_size
    if run.fresh_batches:
        return run.steps * min(batch, n)
    epochs, rest = divmod(run.steps, task.steps_per_epoch)
    return epochs * n + min(rest * batch, n)
