"""Deal blocks out to hosts: by predicted time, each program to few hosts.

A pure function of all blocks and the number of hosts, finished or not: every host
computes the same shares, and after a restart the same as before.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence

from lrjax.launch import blocks as blocks_lib
from lrjax.launch.blocks import Block

_SLACK = 0.05  # of the longest share, for fewer compilations


def shares(blocks: Sequence[Block], count: int) -> list[list[int]]:
    """Deal blocks out to hosts; return the positions of each host's, ascending."""
    costs = list(map(blocks_lib.cost, blocks))
    return deal([block.key for block in blocks], costs, count)


def deal(
    programs: Sequence[Hashable], costs: Sequence[int], count: int
) -> list[list[int]]:
    """Divide items into shares of about equal cost, each program in few shares.

    The longest share is at most a twentieth longer than if each item, the longest
    first, went to the host with the least work. Among the ways to deal that keep this,
    the one with the fewest pairs of a program and a host is taken.

    Args:
      programs: program of each item.
      costs: predicted time of each item, above 0.
      count: number of shares.

    Returns:
      the positions of each share's items, ascending.
    """
    alone = _longest_first(programs, costs, count, 0)
    most = int(max(_loads(alone, costs)) * (1 + _SLACK))
    candidates = [
        _in_turn(programs, costs, count),
        _longest_first(programs, costs, count, most),
        alone,
    ]
    fitting = [each for each in candidates if max(_loads(each, costs)) <= most]
    best = min(fitting, key=lambda each: pairs(each, programs))
    return [sorted(share) for share in best]


def pairs(dealt: Sequence[Sequence[int]], programs: Sequence[Hashable]) -> int:
    """Number of programs that shares need, summed over shares."""
    return sum(len({programs[i] for i in share}) for share in dealt)


def _loads(dealt: Sequence[Sequence[int]], costs: Sequence[int]) -> list[int]:
    """The cost of each share."""
    return [sum(costs[i] for i in share) for share in dealt]


def _longest_first(
    programs: Sequence[Hashable], costs: Sequence[int], count: int, most: int
) -> list[list[int]]:
    """Give each item, the longest first, to the share with the least work.

    A share that has its program takes precedence as long as it stays within `most`.
    """
    dealt: list[list[int]] = [[] for _ in range(count)]
    loads, least = [0] * count, [(0, share) for share in range(count)]
    having: dict[Hashable, list[int]] = {}  # program -> shares, in order of need
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        its_shares = having.setdefault(programs[i], [])
        fitting = [s for s in its_shares if loads[s] + costs[i] <= most]
        if fitting:
            share = fitting[0]
        else:
            while least[0][0] != loads[least[0][1]]:  # an entry that is out of date
                heapq.heappop(least)
            share = least[0][1]
            if share not in its_shares:
                its_shares.append(share)
        dealt[share].append(i)
        loads[share] += costs[i]
        heapq.heappush(least, (loads[share], share))
    return dealt


def _in_turn(
    programs: Sequence[Hashable], costs: Sequence[int], count: int
) -> list[list[int]]:
    """Fill one share after the other, with the items of one program after the other."""
    totals: dict[Hashable, int] = {}
    for program, cost in zip(programs, costs, strict=True):
        totals[program] = totals.get(program, 0) + cost
    largest_first = sorted(totals, key=lambda program: -totals[program])
    place = {program: n for n, program in enumerate(largest_first)}
    order = sorted(range(len(costs)), key=lambda i: (place[programs[i]], -costs[i], i))
    dealt: list[list[int]] = [[] for _ in range(count)]
    whole, done = sum(costs), 0
    for i in order:
        # By the middle of the item, so that no share is off by more than half of one.
        dealt[(2 * done + costs[i]) * count // (2 * whole)].append(i)
        done += costs[i]
    return dealt
