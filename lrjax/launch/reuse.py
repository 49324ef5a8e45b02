"""A few more runs by a program that is compiled already, in place of one of their own.

A search that goes on with some of the methods that it began with would compile a
program for each new set of them. On small tasks that takes longer than to train all
lanes of an earlier block again, some of which are then spare.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lrjax import machine
from lrjax.core import Run
from lrjax.launch import blocks as blocks_lib
from lrjax.launch.blocks import Block

# Blocks up to this cost, as of `blocks.cost`, lend their program: on a CPU about half a
# second of training; elsewhere lanes are nearly free.
_MOST_COST = {"cpu": 2**31}
_MOST_COST_ELSEWHERE = 2**40


def by_programs_of(
    earlier: Sequence[Block], wanted: Sequence[Block]
) -> list[Block] | None:
    """Train blocks by the programs of earlier ones.

    Args:
      earlier: blocks of whole runs, in the order in which they were trained.
      wanted: blocks of whole runs, of one method each.

    Returns:
      blocks with all runs of `wanted`; None where these need programs of their own.
    """
    most = _MOST_COST.get(machine.kind(), _MOST_COST_ELSEWHERE)
    lent = [block for block in earlier if blocks_lib.cost(block) <= most]
    lent.sort(key=blocks_lib.cost)
    left, found = list(wanted), list[Block]()
    while left:
        fits = [(_fitting(block, left), block) for block in lent]
        best = max(fits, key=lambda fit: len(fit[0]), default=None)  # the cheapest such
        if best is None or not best[0]:
            return None
        taken, lender = best
        found.append(_filled(lender, taken))
        done = {id(block) for block in taken.values()}
        left = [block for block in left if id(block) not in done]
    return found


def _fitting(lent: Block, wanted: Sequence[Block]) -> dict[int, Block]:
    """Number of a group of a block -> which of the wanted blocks it can train."""
    found: dict[int, Block] = {}
    shared: Any = None  # by all that train together
    for block in wanted:
        seeds = tuple(row[0].seed for row in block.runs), block.program.task.options
        if _alike(lent, block) and shared in (None, seeds):
            fits = (n for n in _groups_for(lent, block) if n not in found)
            if (number := next(fits, None)) is not None:
                found[number], shared = block, seeds
    return found


def _alike(lent: Block, block: Block) -> bool:
    """Whether two blocks have the same programs, but for their groups."""
    facts = []
    for each in (lent, block):
        run = each.example
        same = dataclasses.replace(each.program, task=None, groups=(), effort="")
        signature = blocks_lib.signature(each.program.task)
        facts.append((same, signature, run.steps, run.horizon, run.recalibrated))
    return facts[0] == facts[1] and not block.program.one_by_one


def _groups_for(lent: Block, block: Block) -> list[int]:
    """The groups of a block that have the method and the lanes that another needs."""
    own, found = block.program.group, []
    for number, (group, lanes) in enumerate(lent.grouped):
        same = (own.method, own.static) == (group.method, group.static)
        names = list(lanes[0]) == list(block.lanes[0])
        if same and names and own.num_hparams <= group.num_hparams:
            found.append(number)
    return found


def _filled(lent: Block, taken: Mapping[int, Block]) -> Block:
    """A block with the program of another.

    Args:
      lent: whose program it has, and whose hyperparameters in spare lanes.
      taken: number of a group -> the block that it trains.
    """
    first = next(iter(taken.values()))
    rows: list[list[Run]] = [[] for _ in first.runs]
    lanes, spare = list[Mapping[str, float]](), list[int]()
    for number, (group, its_lanes) in enumerate(lent.grouped):
        count, block = group.num_hparams, taken.get(number)
        if block is None:
            spare += range(len(lanes), len(lanes) + count)
            lanes += its_lanes
        else:
            lanes += _padded(block.lanes, count)
        for row, runs in zip(rows, (block or first).runs, strict=True):
            row += _padded(runs[: count if block else 1], count)
    program = dataclasses.replace(lent.program, task=first.program.task)
    return Block(program, tuple(map(tuple, rows)), tuple(lanes), frozenset(spare))


def _padded(items: Sequence[Any], count: int) -> list[Any]:
    """Items, the last of them repeated up to a number."""
    return [*items, *[items[-1]] * (count - len(items))]
