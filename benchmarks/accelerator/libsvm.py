"""Every registered method on small tables, seeds and rates in a block, beside a CPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from benchmarks.accelerator import blocks, compare
from benchmarks.accelerator.core import CPU, DEVICE, Numbers, Part, Row, check, under
from lrjax import methods

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "optim"))

SEEDS, LANES, STEPS = (0, 1, 2), 3, 40
# Measured as means over hundreds of examples: an example on the border between two
# classes moves an accuracy by its whole share.
_EXAMPLES = ("accuracy", "error")


def parts(miniature: bool) -> list[Part]:
    """A part for each table; an item is a method."""
    names = ("prodigy",) if miniature else tuple(methods.METHODS)
    return [
        Part(
            f"libsvm-{table.partition('/')[2]}",
            tuple(f"{table}/{name}" for name in names),
            compute,
            judge,
            (DEVICE, CPU),
        )
        for table in blocks.tables()[: 1 if miniature else None]
    ]


def compute(item: str, folder: Path) -> dict[str, np.ndarray]:
    """Curves and parameters of a block, and of one whose data have some noise.

    Lanes are the defaults of a method and draws from its search space.
    """
    del folder
    import cases  # of tests/optim

    table, _, name = item.rpartition("/")
    (case,) = [case for case in cases.CASES if case.name == name]
    task = blocks.small_task(table)
    with jax.default_matmul_precision("highest"):
        lanes = [_whole(name, lane) for lane in case.candidates[:LANES]]
        block = blocks.Block(task, name, lanes, SEEDS, STEPS)
        found, moved = block.run(), block.run(blocks.noisy(task))
    return {f"found/{k}": v for k, v in found.items()} | {
        f"moved/{k}": v for k, v in moved.items()
    }


def _whole(name: str, lane: Mapping[str, float]) -> dict[str, float]:
    """A lane with what the method requires, which has no default."""
    ranges = methods.find(name).space.ranges
    needed = {key: float(ranges[key].low) for key in methods.find(name).required}
    return needed | dict(lane)


def judge(item: str, sides: Mapping[str, Numbers]) -> list[Row]:
    """Compare losses and parameters with the CPU's."""
    found, own = (_exact(under(sides[side], "found")) for side in (DEVICE, CPU))
    moved = compare.largest(_exact(under(sides[CPU], "moved")), own)
    far = compare.largest(found, own)
    return [check(f"{item}, CPU", far, compare.allowed(moved))]


def _exact(numbers: Numbers) -> dict[str, np.ndarray]:
    """What changes with each digit."""
    return {k: v for k, v in numbers.items() if not k.endswith(_EXAMPLES)}
