"""Blocks of runs as lrjax trains them, and all that they end with."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import noise
from benchmarks.accelerator import compare
from benchmarks.accelerator.core import NotRunError
from lrjax import methods, tasks
from lrjax.core import Task
from lrjax.engine import programs, train
from lrjax.tasks import TaskOptions, images


def tables() -> tuple[str, ...]:
    """Small tables that are here: scikit-learn's, or one that is made up."""
    if importlib.util.find_spec("sklearn"):
        return "libsvm/iris", "libsvm/wine"
    return ("synthetic/classification-7",)


def small_task(name: str, **options: Any) -> Task:
    """A task whose data comes with scikit-learn.

    Raises:
      NotRunError: if that is not installed.
    """
    try:
        return tasks.make_task(name, TaskOptions(**options))
    except ImportError as error:
        raise NotRunError(f"needs {error.name} for the data of {name}") from error


def noisy(task: Task) -> Task:
    """The task with noise of a millionth on its inputs."""
    train_part = {name: compare.noisy(values) for name, values in task.train.items()}
    return dataclasses.replace(task, train=jax.device_put(train_part))


class Block:
    """Runs of one method, compiled once: seeds times lanes of hyperparameters."""

    def __init__(
        self,
        task: Task,
        method: str,
        lanes: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        steps: int,
    ) -> None:
        found = methods.find(method)
        lanes = [dict(found.defaults) | dict(lane) for lane in lanes]
        static = methods.split(found, lanes[0])[0]
        traced = [methods.split(found, lane)[1] for lane in lanes]
        self._steps = steps
        self._program = train.single(
            task, found, static, max(steps // 4, 1), len(seeds), len(lanes)
        )
        self._seeds = train.seed_runs(task.init, np.asarray(seeds, np.uint32))
        self._inputs = train.inputs(self._program, self._seeds, traced, steps)
        self._compiled = programs.compile_program(
            self._program, self._seeds, self._inputs
        )

    def run(self, task: Task | None = None) -> dict[str, np.ndarray]:
        """Train; return measurements [rounds, seeds, lanes] and a sample of parameters.

        Args:
          task: other data of the same shapes, if not the block's own.
        """
        program = self._program
        if task is not None:
            program = dataclasses.replace(program, task=task)
        measured, state = [], None
        for each in programs.train(
            self._compiled, program, self._seeds, self._inputs, self._steps
        ):
            measured.append(each.values)
            state = each.state
        numbers = {
            name: np.concatenate([values[name] for values in measured])
            for name in measured[0]
        }
        assert state is not None  # the last measurements have it
        params = jax.tree.leaves(train.final_params(state))
        for number, leaf in enumerate(params):
            runs = np.asarray(leaf).reshape(*leaf.shape[:2], -1)
            numbers[f"params{number}"] = np.stack(
                [[compare.sample(lane) for lane in seed] for seed in runs]
            )
        return numbers


def make_task(name: str, precision: str, rows: int) -> Task:
    """A network's task, of noise unless its images come with scikit-learn."""
    if name in images.RECIPES and images.RECIPES[name].data != images.DIGITS:
        return noise.image_task(name, precision, rows)
    if name.startswith("bookwiki/"):
        return noise.text_task(name, precision, rows)
    return small_task(name, precision=precision, batch_size=rows)
