"""A block of runs against single runs, and whether a program repeats its bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from benchmarks.accelerator import blocks, compare, networks
from benchmarks.accelerator.core import (
    AGAIN,
    ANEW,
    DEVICE,
    Numbers,
    Part,
    Row,
    check,
    under,
)
from lrjax.core import Task

SEEDS, RATES = (0, 1), (1e-4, 1e-3, 1e-2)
STEPS = {"libsvm": 40, "synthetic": 40}  # others: 4


def parts(miniature: bool) -> list[Part]:
    """Populations, and repetition in one process, another, and compiled anew."""
    small = blocks.tables()[:1]
    networks_ = ("digits/wrn", "bookwiki/roberta_tiny")
    names = small if miniature else (*small, *networks_)
    large = () if miniature else ("cifar10/wrn16_2",)
    repeated = (*names, *large)
    sides = (DEVICE, AGAIN, ANEW)
    return [
        Part("population", names, compute_population, judge_population),
        Part("determinism", repeated, compute_twice, judge_twice, sides),
    ]


def _task(name: str) -> Task:
    """A task with few rows a batch."""
    if name in blocks.tables():
        return blocks.small_task(name)
    return networks.make_task(name, "float32", 8)


def _block(
    task: Task, name: str, seeds: tuple[int, ...], rates: tuple[float, ...]
) -> blocks.Block:
    """A block of Adam's runs."""
    lanes = [{"learning_rate": rate} for rate in rates]
    return blocks.Block(
        task, "adam", lanes, seeds, STEPS.get(name.partition("/")[0], 4)
    )


def compute_population(item: str, folder: Path) -> dict[str, np.ndarray]:
    """A block's measurements and parameters, and those of its runs one by one.

    The runs are trained once more on data or, for images and text, at rates with noise
    of a millionth, to see how much rounding is amplified.
    """
    del folder
    task = _task(item)
    with jax.default_matmul_precision("highest"):
        together = _block(task, item, SEEDS, RATES).run()
        rows = [[_block(task, item, (s,), (r,)) for r in RATES] for s in SEEDS]
        alone = [[block.run() for block in row] for row in rows]
        other = tuple(rate * (1 + compare.NOISE) for rate in RATES)
        moved = _block(_noisy(task), item, SEEDS, other).run()
    numbers = {f"together/{k}": v for k, v in together.items()}
    numbers |= {f"moved/{k}": v for k, v in moved.items()}
    for name in together:
        axis = 0 if name.startswith("params") else 1  # of seeds
        lines = [np.concatenate([run[name] for run in row], axis + 1) for row in alone]
        numbers[f"alone/{name}"] = np.concatenate(lines, axis)
    return numbers


def _noisy(task: Task) -> Task:
    """The task with noise, where its data are no whole numbers."""
    whole = all(np.asarray(v).dtype.kind != "f" for v in task.train.values())
    return dataclasses.replace(task) if whole else blocks.noisy(task)


def judge_population(item: str, sides: Mapping[str, Numbers]) -> list[Row]:
    """Compare losses and parameters of the block with those of single runs."""
    found, own, moved = (
        {k: v for k, v in under(sides[DEVICE], name).items() if "accuracy" not in k}
        for name in ("together", "alone", "moved")
    )
    may = compare.allowed(compare.largest(moved, found))
    return [check(f"{item}, block and runs", compare.largest(found, own), may)]


def compute_twice(item: str, folder: Path) -> dict[str, np.ndarray]:
    """What a program gives when it is called twice."""
    del folder
    block = _block(_task(item), item, SEEDS, RATES)
    first, second = block.run(), block.run()
    return {f"first/{k}": v for k, v in first.items()} | {
        f"second/{k}": v for k, v in second.items()
    }


def judge_twice(item: str, sides: Mapping[str, Numbers]) -> list[Row]:
    """Compare bits: called twice, in a new process and, only to tell, compiled anew."""
    first, second = (under(sides[DEVICE], name) for name in ("first", "second"))
    again, anew = (under(sides[side], "first") for side in (AGAIN, ANEW))
    return [
        check(f"{item}, called twice", _differing(first, second), 0.0),
        check(f"{item}, new process", _differing(first, again), 0.0),
        check(f"{item}, compiled anew", _differing(first, anew), None),
    ]


def _differing(a: Numbers, b: Numbers) -> float:
    """Share of the values whose bits differ."""
    if a.keys() != b.keys() or any(a[k].shape != b[k].shape for k in a):
        return 1.0
    count = sum(int(np.sum(~((a[k] == b[k]) | _both_nan(a[k], b[k])))) for k in a)
    return count / sum(value.size for value in a.values())


def _both_nan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a != a) & (b != b)
